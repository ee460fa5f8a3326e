//! Endings after the 101.

use std::io;

use super::Side;
use crate::proto::frame::{Excess, FrameError};

/// Why a tunnel ended.
#[derive(Debug, thiserror::Error)]
pub enum TunnelEnd {
    /// Close frames went both ways, or the answer to one was awaited in vain.
    #[error("closed")]
    Closed,
    /// One side's stream ended without the closing handshake.
    #[error("{0} ended its stream")]
    Eof(Side),
    /// One side's stream broke.
    #[error("{0} broke its stream")]
    Reset(Side, #[source] io::Error),
    /// One side sent an illegal frame (RFC 6455 §5, rule T4).
    #[error("{0} sent an illegal frame")]
    Protocol(Side, #[source] FrameError),
    /// One side sent a frame or a message that is too large (rule T7).
    #[error("{0} sent too much at once")]
    TooLarge(Side, #[source] Excess),
    /// One side sent too many frames in too short a time (rule T7).
    #[error("{0} sent too much in too short a time")]
    MessageRate(Side),
    /// Nothing came from either side for `idle_timeout` (rule T8).
    #[error("idle")]
    Idle,
    /// The tunnel was older than `max_age`.
    #[error("too old")]
    MaxAge,
    /// wsgate is going down.
    #[error("drained")]
    Drained,
    /// Its server was removed or failed its checks, and `on_removed` says so.
    #[error("server removed")]
    Removed,
    /// One side has vanished (rule T6).
    #[error("{0} is dead")]
    Dead(Side, #[source] Death),
    /// The client took too little of what waited for it (rule S1).
    #[error("client takes no bytes")]
    WriteTimeout,
    /// The tunnel was still open when the grace of a drain had run out.
    #[error("cut at the end of the drain")]
    DrainTimeout,
}

/// How it was found out that a peer is dead.
#[derive(Debug, thiserror::Error)]
pub enum Death {
    /// It answered a Ping before, and now sent no byte for `pong_timeout` after one was due.
    #[error("no byte within pong_timeout of a Ping")]
    Silent,
    /// It acknowledged no byte for `pong_timeout`.
    #[error("nothing acknowledged")]
    Unreachable(#[source] io::Error),
}

impl TunnelEnd {
    /// What the failure of a side's stream means: that it is gone, or that it was given up.
    pub fn broken(side: Side, error: io::Error) -> Self {
        match error.kind() {
            // What an ICMP message said meanwhile is what Linux gives in place of the time-out (tcp(7)).
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::ConnectionRefused => Self::Dead(side, Death::Unreachable(error)),
            _ => Self::Reset(side, error),
        }
    }

    /// The stable name in logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Eof(side) => match side {
                Side::Upstream => "upstream_eof",
                Side::Downstream | Side::Gate => "downstream_eof",
            },
            Self::Reset(side, _) => match side {
                Side::Upstream => "upstream_reset",
                Side::Downstream | Side::Gate => "downstream_reset",
            },
            Self::Protocol(..) => "ws_protocol",
            Self::TooLarge(..) => "too_large",
            Self::MessageRate(_) => "message_rate",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::Drained => "drained",
            Self::Removed => "removed",
            Self::Dead(..) => "pong_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::DrainTimeout => "drain_timeout",
        }
    }

    /// The close code and reason that wsgate itself sends to a side; `None` where it sends no Close.
    pub fn close_to(&self, side: Side) -> Option<(u16, &'static str)> {
        match self {
            Self::Closed
            | Self::Eof(_)
            | Self::Reset(..)
            | Self::Dead(..)
            | Self::WriteTimeout
            | Self::DrainTimeout => None,
            Self::Protocol(..) => Some((1002, "protocol error")),
            Self::TooLarge(_, Excess::Frame(_)) => Some((1009, "frame too large")),
            Self::TooLarge(..) => Some((1009, "message too large")),
            Self::MessageRate(_) => Some((1008, "too many frames")),
            Self::Idle => Some((1001, "idle")),
            Self::MaxAge | Self::Drained | Self::Removed => match side {
                Side::Downstream => Some((1012, "service restart")),
                Side::Upstream | Side::Gate => Some((1001, "going away")),
            },
        }
    }

    /// Who ended the tunnel; `first_close` is the side whose Close frame came first.
    pub fn ended_by(&self, first_close: Option<Side>) -> Side {
        match self {
            Self::Closed => first_close.unwrap_or(Side::Gate),
            Self::Eof(side) | Self::Reset(side, _) => *side,
            Self::Protocol(..)
            | Self::TooLarge(..)
            | Self::MessageRate(_)
            | Self::Idle
            | Self::MaxAge
            | Self::Drained
            | Self::Removed
            | Self::Dead(..)
            | Self::WriteTimeout
            | Self::DrainTimeout => Side::Gate,
        }
    }
}
