//! How things end: three phases, three types.
//!
//! Before TLS stands an ending is a [`TlsFailure`] and has no answer; before the 101 it is a [`Refusal`] and
//! has an HTTP status; after it, it is a [`TunnelEnd`] and has a close code. Each is mapped to its answer and
//! to its label in one place, here, by a `match` without a `_` arm.

mod refusal;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

use std::fmt;

pub use refusal::{Refusal, UpstreamFault};
pub use tls::{Introduction, TlsFailure};
pub use tunnel::{AdminClose, AdminCloseError, Death, TunnelEnd};

/// A side of the gate, or the gate itself, as the one who ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's side.
    Downstream,
    /// The service's side.
    Upstream,
    /// wsgate, by a rule, a limit or an order.
    Gate,
}

impl Side {
    /// The peers' other side; the gate's is the client's.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream | Self::Gate => Self::Downstream,
        }
    }

    /// Its stable name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Gate => "gate",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The part of a connection's life in which something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The TLS handshake.
    Tls,
    /// Waiting for or reading a request head.
    Head,
    /// Finding the route.
    Route,
    /// Getting a connection to an upstream.
    Connect,
    /// Waiting for the upstream's response head.
    Response,
    /// Bodies on the way.
    Exchange,
    /// After the verified 101.
    Tunnel,
}

impl Phase {
    /// Its stable name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Head => "head",
            Self::Route => "route",
            Self::Connect => "connect",
            Self::Response => "response",
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An error and all of its sources in one line; each level's `Display` is its own alone.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        line.push_str(": ");
        line.push_str(&source.to_string());
        next = source.source();
    }
    line
}

/// An error as the program tells people of it: everything that caused it in its first line, help in further ones.
pub fn report(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let (first, help) = text.split_at(text.find('\n').unwrap_or(text.len()));
    let causes = error.source().map_or_else(String::new, |cause| format!(": {}", chain(cause)));
    // The configuration's problems begin with this word already.
    let word = if first.starts_with("error") { "" } else { "error: " };
    format!("{word}{first}{causes}{help}")
}
