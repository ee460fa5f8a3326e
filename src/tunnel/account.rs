//! What went one way of a tunnel (rule T11).

use crate::proto::frame::{CloseCode, FrameHeader, Opcode};

/// What went one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes read from the sender, frame headers included.
    pub bytes: u64,
    /// Frames by kind.
    pub frames: Frames,
    /// Messages that came to their end.
    pub messages: u64,
    /// Payload bytes of the longest message, as on the wire.
    pub longest_message: u64,
    /// Messages that came in more than one frame.
    pub fragmented: u64,
    /// Messages that were compressed with permessage-deflate.
    pub compressed: u64,
    /// Illegal frames that were passed on, where frames are observed only. What follows the first is not judged any more.
    pub illegal: u64,
    /// The sender's Close frame.
    pub close: Option<Box<Close>>,
}

/// Frames by their opcode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frames {
    /// Further fragments of a message.
    pub continuation: u64,
    /// Text messages, or their first fragments.
    pub text: u64,
    /// Binary messages, or their first fragments.
    pub binary: u64,
    /// Closes.
    pub close: u64,
    /// Pings.
    pub ping: u64,
    /// Pongs; those that answer wsgate's own Pings are among them.
    pub pong: u64,
}

impl Frames {
    /// Frames of any kind.
    pub fn total(&self) -> u64 {
        self.continuation + self.text + self.binary + self.close + self.ping + self.pong
    }

    /// Each with that of `more`.
    pub(super) fn plus(&self, more: &Self) -> Self {
        Self {
            continuation: self.continuation + more.continuation,
            text: self.text + more.text,
            binary: self.binary + more.binary,
            close: self.close + more.close,
            ping: self.ping + more.ping,
            pong: self.pong + more.pong,
        }
    }
}

/// A Close frame as its sender wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Absent when the frame was empty.
    pub code: Option<CloseCode>,
    /// As sent; not checked to be UTF-8.
    pub reason: Box<[u8]>,
}

/// An [`Account`] that is being kept, in half its size: what is not a message or a byte is counted up to 2^32 - 1, and Closes,
/// of which there is one, up to 255.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    text: u64,
    binary: u64,
    longest_message: u64,
    pub(super) close: Option<Box<Close>>,
    continuation: u32,
    ping: u32,
    pong: u32,
    fragmented: u32,
    compressed: u32,
    closes: u8,
    /// A message is open.
    is_within_message: bool,
    pub(super) has_illegal: bool,
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

impl Tally {
    /// A frame has begun.
    pub(super) fn frame(&mut self, header: &FrameHeader) {
        match header.opcode {
            Opcode::Text => self.text += 1,
            Opcode::Binary => self.binary += 1,
            Opcode::Continuation => count(&mut self.continuation),
            Opcode::Ping => count(&mut self.ping),
            Opcode::Pong => count(&mut self.pong),
            Opcode::Close => self.closes = self.closes.saturating_add(1),
        }
        if matches!(header.opcode, Opcode::Text | Opcode::Binary) {
            self.is_within_message = true;
        }
    }

    /// A message has come to its end.
    pub(super) fn message(&mut self, length: u64, fragmented: bool, compressed: bool) {
        self.is_within_message = false;
        self.longest_message = self.longest_message.max(length);
        if fragmented {
            count(&mut self.fragmented);
        }
        if compressed {
            count(&mut self.compressed);
        }
    }

    /// The account, as it stands.
    pub(super) fn account(&self) -> Account {
        Account {
            bytes: self.bytes,
            frames: Frames {
                continuation: self.continuation.into(),
                text: self.text,
                binary: self.binary,
                close: self.closes.into(),
                ping: self.ping.into(),
                pong: self.pong.into(),
            },
            messages: (self.text + self.binary).saturating_sub(self.is_within_message.into()),
            longest_message: self.longest_message,
            fragmented: self.fragmented.into(),
            compressed: self.compressed.into(),
            illegal: self.has_illegal.into(),
            close: self.close.clone(),
        }
    }
}
