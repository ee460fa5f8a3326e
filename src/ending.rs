//! How things end: three phases, three types.
//!
//! Before TLS stands an ending is a [`TlsFailure`] and has no answer.

mod tls;

pub use tls::TlsFailure;
