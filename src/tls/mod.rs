//! TLS: the downstream stream and its acceptor, and the certificates of a listener.

mod downstream;
mod store;

#[cfg(test)]
mod pki;

pub use downstream::{Accepted, Acceptor, TlsInfo, TlsStream};
pub use store::{Tickets, acceptor};
