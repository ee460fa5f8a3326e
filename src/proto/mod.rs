//! Bytes to meaning and back: heads, body framing, forwarding, the opening handshake, frames.
//!
//! Everything here is a function or a small state machine over `&[u8]`. There is no socket, clock, log or
//! `async`, so each part is tested and fuzzed by itself and serves any transport.

pub mod cookie;
pub mod forward;
pub mod frame;
pub mod framing;
pub mod handshake;
pub mod head;
#[doc(hidden)]
pub mod laws;
pub mod network;
pub(crate) mod numerals;
pub mod origin;
pub mod proxy_protocol;
pub mod query;
pub mod trace;
