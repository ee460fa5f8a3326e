//! Endings after the 101.

use std::io;

use super::Side;
use crate::proto::frame::FrameError;

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
    /// Nothing came from either side for `idle_timeout` (rule T8).
    #[error("idle")]
    Idle,
    /// wsgate is going down.
    #[error("drained")]
    Drained,
    /// The client took too little of what waited for it (rule S1).
    #[error("client takes no bytes")]
    WriteTimeout,
    /// The tunnel was still open when the grace of a drain had run out.
    #[error("cut at the end of the drain")]
    DrainTimeout,
}

impl TunnelEnd {
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
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::WriteTimeout => "write_timeout",
            Self::DrainTimeout => "drain_timeout",
        }
    }

    /// The close code and reason that wsgate itself sends to a side; `None` where it sends no Close.
    pub fn close_to(&self, side: Side) -> Option<(u16, &'static str)> {
        match self {
            Self::Closed | Self::Eof(_) | Self::Reset(..) | Self::WriteTimeout | Self::DrainTimeout => None,
            Self::Protocol(..) => Some((1002, "protocol error")),
            Self::Idle => Some((1001, "idle")),
            Self::Drained => match side {
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
            Self::Protocol(..) | Self::Idle | Self::Drained | Self::WriteTimeout | Self::DrainTimeout => {
                Side::Gate
            }
        }
    }
}
