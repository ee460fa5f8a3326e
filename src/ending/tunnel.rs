//! Endings after the 101.

use std::io;

use super::Side;
use crate::proto::frame::{CLOSE_REASON_MAX, CloseCode, Excess, FrameError};

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
    /// A reload changed or removed its route, and `on_reload` says so.
    #[error("ended by a reload")]
    Reload,
    /// Its server was removed or failed its checks, and `on_removed` says so.
    #[error("server removed")]
    Removed,
    /// An administrator asked for it.
    #[error("closed by an administrator")]
    Admin(AdminClose),
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

/// What an administrator tells a client: a code that may be sent, and a reason that fits into a Close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminClose {
    code: CloseCode,
    reason: Box<str>,
}

/// Why a code and a reason make no Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdminCloseError {
    /// The code is not one of those that may be sent (RFC 6455 §7.4).
    #[error("{0} is no code for a Close: 1000 to 1003, 1007 to 1014 and 3000 to 4999 are")]
    Code(u16),
    /// The reason has too many bytes (RFC 6455 §5.5).
    #[error("a reason of {0} bytes, where a Close has room for {CLOSE_REASON_MAX}")]
    Reason(usize),
}

impl AdminClose {
    /// A Close with this code and a reason of at most 123 bytes of UTF-8.
    pub fn new(code: u16, reason: &str) -> Result<Self, AdminCloseError> {
        if !CloseCode(code).is_legal_on_wire() {
            return Err(AdminCloseError::Code(code));
        }
        if reason.len() > CLOSE_REASON_MAX {
            return Err(AdminCloseError::Reason(reason.len()));
        }
        Ok(Self { code: CloseCode(code), reason: reason.into() })
    }

    /// The code that the client gets.
    pub fn code(&self) -> u16 {
        self.code.0
    }

    /// The reason that the client gets.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Default for AdminClose {
    /// What a client gets when it is asked to come back.
    fn default() -> Self {
        Self { code: CloseCode(1012), reason: "service restart".into() }
    }
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
            Self::Reload => "reload",
            Self::Removed => "removed",
            Self::Admin(_) => "admin",
            Self::Dead(..) => "pong_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::DrainTimeout => "drain_timeout",
        }
    }

    /// The close code and reason that wsgate itself sends to a side; `None` where it sends no Close.
    pub fn close_to(&self, side: Side) -> Option<(u16, &str)> {
        const GOODBYE: (u16, &str) = (1001, "going away");
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
            Self::MaxAge | Self::Drained | Self::Reload | Self::Removed => match side {
                Side::Downstream => Some((1012, "service restart")),
                Side::Upstream | Side::Gate => Some(GOODBYE),
            },
            Self::Admin(AdminClose { code, reason }) => match side {
                Side::Downstream => Some((code.0, reason)),
                Side::Upstream | Side::Gate => Some(GOODBYE),
            },
        }
    }

    /// The tunnel was asked to leave in order (rule T9): what is still there of it at the end of a drain's grace was cut.
    pub fn is_leave(&self) -> bool {
        match self {
            Self::MaxAge | Self::Drained | Self::Reload | Self::Removed | Self::Admin(_) => true,
            Self::Closed
            | Self::Eof(_)
            | Self::Reset(..)
            | Self::Protocol(..)
            | Self::TooLarge(..)
            | Self::MessageRate(_)
            | Self::Idle
            | Self::Dead(..)
            | Self::WriteTimeout
            | Self::DrainTimeout => false,
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
            | Self::Reload
            | Self::Removed
            | Self::Admin(_)
            | Self::Dead(..)
            | Self::WriteTimeout
            | Self::DrainTimeout => Side::Gate,
        }
    }
}
