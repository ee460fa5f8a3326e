//! The page for people, which stands in the executable and loads nothing from another host.
//!
//! It is static: what it shows it asks the API for, with the token that is typed into it and that it keeps in memory alone. What
//! peers wrote is put in as text (rule S10).

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    media_type: &'static str,
    text: &'static str,
}

impl IntoResponse for File {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.media_type)], self.text).into_response()
    }
}

/// The paths and files of the page.
pub(super) fn files() -> impl Iterator<Item = (&'static str, File)> {
    let file = |path, media_type, text| (path, File { media_type, text });
    [
        file("/", "text/html; charset=utf-8", include_str!("dashboard/index.html")),
        file("/dashboard.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
        file("/dashboard.js", "text/javascript; charset=utf-8", include_str!("dashboard/page.js")),
        file("/icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
    ]
    .into_iter()
}
