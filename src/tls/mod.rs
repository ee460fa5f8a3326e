//! TLS: the downstream stream and its acceptor, the certificates of a listener, and the local CA for development.

mod connector;
pub mod development;
mod downstream;
#[cfg(test)]
mod pki;
mod store;

pub use connector::{ClientStream, Connector, ConnectorError};
pub use downstream::{Accepted, Acceptor, TlsInfo, TlsStream};
pub use store::{Tickets, acceptor};
