//! Whom a request comes from.

use std::net::IpAddr;

use super::Client;

/// The client of one request, as far as the listener believes what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// `None` on a unix listener.
    pub(super) ip: Option<IpAddr>,
    /// Whether it came by https, to wsgate or to a proxy that is trusted.
    pub(super) https: bool,
}

impl Sender {
    /// The sender of a request of this connection.
    pub(super) fn of(client: &Client) -> Self {
        Self { ip: client.address.map(|address| address.ip().to_canonical()), https: client.tls.is_some() }
    }
}
