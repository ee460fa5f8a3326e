//! TLS: the downstream stream and its acceptor, the certificates of a listener, and the local CA for development.

pub mod development;
mod downstream;
#[cfg(test)]
mod pki;
mod store;

pub use downstream::{Accepted, Acceptor, TlsInfo, TlsStream};
pub use store::{Tickets, acceptor};
