//! TLS: the downstream stream and its acceptor, the certificates of a listener, and the local CA for development.

mod client_certificate;
mod connector;
pub mod development;
mod downstream;
mod info;
#[cfg(test)]
mod pki;
mod store;

pub use client_certificate::ClientCertificate;
pub use connector::{ClientStream, Connector, ConnectorError};
pub use downstream::{Accepted, Acceptor, TlsStream};
pub use info::TlsInfo;
pub use store::{Tickets, acceptor};
