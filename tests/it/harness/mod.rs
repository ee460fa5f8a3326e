//! What the tests stand on: a gate in process, backends and clients that are driven byte by byte, and a PKI.
//!
//! Nothing here waits for a time to pass: each step waits for what it expects, and a deadline that is far longer than
//! anything takes fails the test.

mod backend;
pub mod frames;
mod gate;
mod head;
mod metrics;
pub mod namespace;
mod peer;
pub mod pki;
pub mod program;
mod watchdog;
pub mod websocket;

use std::{future::Future, time::Duration};

pub use self::{
    backend::{Backend, HttpBackend, Refusing, Serving, Unreachable},
    gate::{Gate, Record, Setup, unix_address},
    head::{Head, Response},
    metrics::Metrics,
    peer::Peer,
};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `future` to its end, which must come in good time.
#[track_caller]
pub fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let done = tokio::time::timeout(PATIENCE, future).await;
        done.unwrap_or_else(|_| panic!("{caller}: waited in vain: {what}"))
    }
}

/// An opening handshake for `/` with the key of RFC 6455 §1.3.
pub const OFFER: &str = "GET / HTTP/1.1\r\nHost: test.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The answer that proves [`OFFER`].
pub const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A plain request for `path`, with further header lines, each with its CRLF.
pub fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n{lines}\r\n")
}

/// [`OFFER`] with further header lines, each with its CRLF.
pub fn offer_with(lines: &str) -> String {
    OFFER.replacen("\r\n\r\n", &format!("\r\n{lines}\r\n"), 1)
}

/// A 200 with a body of this length and content.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
