//! What the demo answers over plain HTTP: one line of text for programs, and a few pages for browsers.
//!
//! The pages stand in the executable and load nothing from another host; their policy holds browsers to that.

use axum::{
    Router,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// What a program that asks for `/` gets, to the byte.
const HELLO: &str = "Http Message: Hello World";

/// `'self'` includes a WebSocket to the page's own host and port.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The line for programs. It says that it depends on Accept, so that a cache keeps it apart from the index page.
pub(super) fn hello() -> Response {
    ([(header::CONTENT_TYPE, PLAIN), (header::VARY, "accept")], HELLO).into_response()
}

pub(super) fn index() -> Response {
    let page = framed("/", "wsgate demo", "", include_str!("pages/index.html"));
    ([(header::VARY, "accept")], file(HTML, page)).into_response()
}

/// What is a demo's own in its page.
struct Demo {
    path: &'static str,
    name: &'static str,
    lead: &'static str,
    card: &'static str,
}

impl Demo {
    fn page(&self) -> Response {
        let Self { path, name, lead, card } = self;
        let script = format!("  <script type=\"module\" src=\"/demo{path}.js\"></script>\n");
        let main =
            fill(include_str!("pages/demo.html"), &[("{name}", name), ("{lead}", lead), ("{card}", card)]);
        file(HTML, framed(path, &format!("{name} · wsgate demo"), &script, &main))
    }
}

pub(super) fn echo() -> Response {
    let lead = "What you send comes back, and the log says how long it took.";
    Demo { path: "/echo", name: "Echo", lead, card: include_str!("pages/echo.html") }.page()
}

pub(super) fn stocks() -> Response {
    let lead = "Prices are made up by the demo and move each second.";
    Demo { path: "/stocks", name: "Stock ticker", lead, card: include_str!("pages/stocks.html") }.page()
}

pub(super) fn chat() -> Response {
    let lead = "Open this page in a second window and talk to yourself.";
    Demo { path: "/chat", name: "Chat", lead, card: include_str!("pages/chat.html") }.page()
}

/// The page at `path`: what all pages have around what is its own, with the links to itself marked as such.
fn framed(path: &str, title: &str, script: &str, main: &str) -> String {
    let link = format!("href=\"{path}\">");
    let current = format!("href=\"{path}\" aria-current=\"page\">");
    let frame = include_str!("pages/frame.html");
    fill(frame, &[(&link, &current), ("{title}", title), ("{script}", script), ("{main}", main)])
}

/// Puts values, which are all wsgate's own, into their places.
fn fill(text: &str, places: &[(&str, &str)]) -> String {
    places.iter().fold(text.to_owned(), |text, (place, value)| text.replace(place, value))
}

pub(super) async fn not_found() -> Response {
    let text = "Nothing is here. Try /, /echo, /stocks or /chat.\n";
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, PLAIN)], text).into_response()
}

/// What the pages load.
pub(super) fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let files = [
        ("/demo/style.css", CSS, include_str!("pages/style.css")),
        ("/demo/icon.svg", "image/svg+xml", include_str!("pages/icon.svg")),
        ("/demo/connection.js", SCRIPT, include_str!("pages/connection.js")),
        ("/demo/echo.js", SCRIPT, include_str!("pages/echo.js")),
        ("/demo/stocks.js", SCRIPT, include_str!("pages/stocks.js")),
        ("/demo/chat.js", SCRIPT, include_str!("pages/chat.js")),
    ];
    files.into_iter().fold(Router::new(), |router, (path, media_type, text)| {
        router.route(path, get(async move || file(media_type, text)))
    })
}

fn file(media_type: &'static str, text: impl IntoResponse) -> Response {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// Whether a client names HTML itself, as browsers do. `*/*` is what programs say.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(names_html)
}

fn names_html(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case("text/html"))
        && !parts.any(is_zero_weight)
}

/// Whether a parameter is a weight of zero, which means "anything but this" (RFC 9110 §12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    name.eq_ignore_ascii_case("q") && value.parse::<f32>().is_ok_and(|weight| weight == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_names_html_gets_html() {
        let wants = |accept: &str| {
            wants_html(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a header value"))]))
        };
        assert!(wants("text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(wants("application/xml; q=0.2, TEXT/HTML; q=0.1"));
        assert!(!wants("*/*"));
        assert!(!wants("text/*"));
        assert!(!wants("text/html;q=0, text/plain"));
        assert!(!wants("text/html; q=0.000"));
        assert!(!wants("text/htmlx"));
        assert!(!wants(""));
        assert!(!wants_html(&HeaderMap::new()));
    }
}
