//! Whether a server is in: what active checks and passive counts say of it.

use tokio::time::Instant;

/// The health of one server.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) back_since: Option<Instant>,
}

impl Status {
    /// In, until something else is found.
    pub(super) fn new() -> Self {
        Self { back_since: None }
    }

    /// When it last came back after it had been out; `None` if it never was.
    pub(super) fn back_since(&self) -> Option<Instant> {
        self.back_since
    }
}
