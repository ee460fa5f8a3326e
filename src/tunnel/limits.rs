//! What bounds a tunnel.

use std::time::Duration;

use super::moment::Moment;
use crate::proto::frame::{Excess, FrameHeader};

/// What bounds a tunnel; `None` is "off".
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// An illegal frame is counted and passed instead of ending the tunnel.
    pub observe: bool,
    /// No byte either way for so long ends the tunnel (rule T8).
    pub idle: Option<Duration>,
    /// How long a tunnel stands of which one direction has ended (rule T2).
    pub half_close: Option<Duration>,
    /// How long the answer to a Close frame is awaited.
    pub close: Option<Duration>,
    /// The period in which the client must take 16 KiB or all that waits for it (rule S1).
    pub write: Option<Duration>,
    /// Who is asked for a sign of life, and when it is dead (rule T6).
    pub keepalive: Keepalive,
    /// Payload bytes of a frame (rule T7).
    pub max_frame: Option<u64>,
    /// Payload bytes of a message over all its fragments, as on the wire (rule T7).
    pub max_message: Option<u64>,
    /// Frames of any kind from the client (rule T7).
    pub message_rate: Option<Rate>,
    /// A tunnel leaves at this age, give or take a tenth (rule T9).
    pub max_age: Option<Duration>,
}

impl Limits {
    /// No limit at all, and no keepalive.
    pub const OFF: Self = Self {
        observe: false,
        idle: None,
        half_close: None,
        close: None,
        write: None,
        keepalive: Keepalive { clients: false, backends: false, interval: None, pong: None },
        max_frame: None,
        max_message: None,
        message_rate: None,
        max_age: None,
    };

    /// Judges the size of a frame and of the message that it belongs to.
    pub(super) fn admit(&self, header: &FrameHeader, message_length: u64) -> Result<(), Excess> {
        if self.max_frame.is_some_and(|most| header.length > most) {
            return Err(Excess::Frame(header.length));
        }
        if self.max_message.is_some_and(|most| message_length > most) {
            return Err(Excess::Message(message_length));
        }
        Ok(())
    }
}

/// Signs of life (rule T6).
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Clients are asked.
    pub clients: bool,
    /// Backends are asked.
    pub backends: bool,
    /// A side that sent no byte for so long gets a Ping.
    pub interval: Option<Duration>,
    /// A side that sends no byte for so long after a Ping was due is dead, if it has answered one before; and so is one that
    /// acknowledges nothing.
    pub pong: Option<Duration>,
}

/// Frames in a time, in any distribution over it.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// So many frames may come at once.
    pub count: u32,
    /// And as many again in each such period.
    pub period: Duration,
}

/// How far a sender is ahead of its [`Rate`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Throttle {
    rate: Rate,
    /// When the frames so far would have come, had they come evenly.
    even: Moment,
    /// Since then the sender was not read, as the receiver took nothing.
    held_up: Option<Moment>,
}

impl Throttle {
    /// Of a sender that has sent nothing yet.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, even: Moment::OPENED, held_up: None }
    }

    /// Counts one frame. One that waited in the kernel counts as if it had come when the waiting began: it was not the sender
    /// that held it up.
    pub(super) fn admit(&mut self, now: Moment) -> Result<(), Excess> {
        let Rate { count, period } = self.rate;
        let even = self.even.max(self.held_up.unwrap_or(now)) + period / count.max(1);
        if even.since(now) > period {
            return Err(Excess::Rate);
        }
        self.even = even;
        Ok(())
    }

    /// Takes note of whether the sender is read.
    pub(super) fn note(&mut self, is_held_up: bool, now: Moment) {
        self.held_up = is_held_up.then(|| self.held_up.unwrap_or(now));
    }
}
