//! Whether a server is in: what active checks and passive counts say of it.

/// The health of one server.
#[derive(Debug)]
pub(super) struct Status {}

impl Status {
    /// In, until something else is found.
    pub(super) fn new() -> Self {
        Self {}
    }
}
