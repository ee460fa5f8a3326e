//! `[admin]` as the rest of the program sees it.

use super::{ListenAddress, Secret};

/// `[admin]`: the listener of operators and their programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: ListenAddress,
    /// The bearer token of `/api` and the dashboard; `None` only on a loopback address or a unix socket.
    pub token: Option<Secret>,
    /// The bearer token of `/metrics`; `None` leaves them open.
    pub metrics_token: Option<Secret>,
    /// Further names that it answers to (rule S8), in lower case.
    pub hosts: Vec<String>,
}
