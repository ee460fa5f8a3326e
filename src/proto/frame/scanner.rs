//! Follows the frames of a stream, in any split.

use std::ops::Range;

use super::{
    CONTROL_PAYLOAD_MAX, CloseCode, FrameError, FrameHeader, MASK_BIT, Opcode, RSV1, apply_mask,
    parse_first_byte,
};
use crate::proto::handshake::Extensions;

/// The most bytes that [`FrameScanner::scan`] leaves over: a masked control frame but for its last byte.
pub const HELD_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_MAX - 1;

/// Who sends the frames that a scanner follows, hence whether they must be masked (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Every frame must be masked.
    FromClient,
    /// No frame may be masked.
    FromServer,
}

/// What a scanner met. Positions are offsets into the `input` of that call of [`FrameScanner::scan`].
///
/// The order is `Header`, then of a control frame its content, `FrameEnd`, and after the last fragment
/// `MessageEnd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame begins: its header is legal and complete, and so is a control frame's payload.
    Header {
        /// Where the header begins.
        at: usize,
        /// What it says.
        header: FrameHeader,
        /// Payload bytes of the open message with this frame; 0 for a control frame.
        message_length: u64,
    },
    /// The stream stands at a frame boundary.
    FrameEnd {
        /// One past the frame's last byte.
        at: usize,
    },
    /// The stream stands at a message boundary.
    MessageEnd {
        /// One past the message's last byte.
        at: usize,
        /// `Text` or `Binary`.
        opcode: Opcode,
        /// Payload bytes over all fragments, as on the wire.
        length: u64,
        /// Compressed with permessage-deflate.
        compressed: bool,
        /// It came in more than one frame.
        fragmented: bool,
    },
    /// A Close frame.
    Close {
        /// The whole frame.
        frame: Range<usize>,
        /// Absent if the payload is shorter than two bytes.
        code: Option<CloseCode>,
        /// At most 123 bytes, unmasked; not checked to be UTF-8.
        reason: &'a [u8],
    },
    /// A Ping frame.
    Ping {
        /// The whole frame.
        frame: Range<usize>,
        /// At most 125 bytes, unmasked.
        payload: &'a [u8],
    },
    /// A Pong frame.
    Pong {
        /// The whole frame.
        frame: Range<usize>,
        /// At most 125 bytes, unmasked.
        payload: &'a [u8],
    },
}

/// Why a frame that is legal may not pass (rule T7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Its payload is longer than a frame's may be.
    #[error("frame of {0} bytes")]
    Frame(u64),
    /// With it the payload of its message is longer than a message's may be.
    #[error("message of {0} bytes")]
    Message(u64),
    /// It comes too soon after those before it.
    #[error("frames come too fast")]
    Rate,
}

/// Why a frame was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is illegal.
    #[error(transparent)]
    Illegal(#[from] FrameError),
    /// Whoever follows the stream did not admit it.
    #[error(transparent)]
    Excess(#[from] Excess),
}

/// A frame that was stopped: `input[..at]` may be relayed, the frame's header begins at `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame stopped")]
pub struct Stopped {
    /// Bytes of the input before the frame.
    pub at: usize,
    /// Why.
    #[source]
    pub fault: Fault,
}

/// Who follows a stream with a [`FrameScanner`], and may stop it.
pub trait Follow {
    /// Judges a legal frame before any of its bytes may be relayed: once if it is admitted, else perhaps again.
    /// `message_length` is the payload of the open message with this frame; 0 for a control frame.
    fn admit(&mut self, header: &FrameHeader, message_length: u64) -> Result<(), Excess>;

    /// Learns what the scanner met.
    fn meet(&mut self, event: Event<'_>);
}

/// Admits every legal frame.
pub(super) struct Watch<F>(pub(super) F);

impl<F: FnMut(Event<'_>)> Follow for Watch<F> {
    fn admit(&mut self, _: &FrameHeader, _: u64) -> Result<(), Excess> {
        Ok(())
    }

    fn meet(&mut self, event: Event<'_>) {
        self.0(event);
    }
}

/// The data message that is open: begun, and not yet at the end of its last fragment.
#[derive(Debug, Clone, Copy)]
struct Message {
    opcode: Opcode,
    compressed: bool,
    /// The frame at hand is the last one.
    fin: bool,
    fragmented: bool,
}

/// Follows the frames of one direction of a tunnel, in any split, without buffering (rule T4).
///
/// A header, and a control frame with its payload, count only when they are complete: until then they are not
/// among the bytes that may be relayed. So an illegal frame is found before any byte of it is passed on, a
/// control frame can be taken out of the stream, and the relayed stream never stands inside one.
#[derive(Debug)]
pub struct FrameScanner {
    /// Of the data frame at hand; 0 at a frame boundary.
    pub(super) payload_left: u64,
    pub(super) message_length: u64,
    message: Option<Message>,
    role: Role,
    extensions: Extensions,
}

impl FrameScanner {
    /// A scanner at the first byte after the opening handshake.
    pub fn new(role: Role, extensions: Extensions) -> Self {
        Self { payload_left: 0, message_length: 0, message: None, role, extensions }
    }

    /// [`Self::follow`] for who admits every legal frame.
    pub fn scan(&mut self, input: &[u8], on_event: impl FnMut(Event<'_>)) -> Result<usize, Stopped> {
        self.follow(input, &mut Watch(on_event))
    }

    /// Takes `input` and tells `follower` what it meets.
    ///
    /// Returns how many bytes of `input` may be relayed. The rest, at most [`HELD_MAX`] bytes, is the
    /// beginning of a header or control frame: the caller keeps it and presents it again with what follows.
    /// After an error the scanner stands at the boundary before the frame that was stopped.
    #[inline]
    pub fn follow(&mut self, input: &[u8], follower: &mut impl Follow) -> Result<usize, Stopped> {
        let mut at = 0;
        if self.payload_left > 0 {
            at = self.skip_payload(at, input.len(), follower);
        }
        while let Some((header, header_length)) =
            self.next_header(&input[at..]).map_err(|error| Stopped { at, fault: error.into() })?
        {
            let payload_at = at + header_length;
            let stopped = |excess: Excess| Stopped { at, fault: excess.into() };
            if header.opcode.is_control() {
                // At most 125, as the parser has seen to.
                let length = usize::try_from(header.length).unwrap_or(CONTROL_PAYLOAD_MAX);
                let end = payload_at + length;
                let Some(payload) = input.get(payload_at..end) else { break };
                follower.admit(&header, 0).map_err(stopped)?;
                follower.meet(Event::Header { at, header, message_length: 0 });
                emit_control(&header, at..end, payload, follower);
                follower.meet(Event::FrameEnd { at: end });
                at = end;
            } else {
                let message_length = self.message_length_with(&header);
                follower.admit(&header, message_length).map_err(stopped)?;
                self.begin_data_frame(&header, message_length);
                follower.meet(Event::Header { at, header, message_length });
                at = self.skip_payload(payload_at, input.len(), follower);
            }
        }
        Ok(at)
    }

    /// Who sends the frames.
    pub fn role(&self) -> Role {
        self.role
    }

    /// No frame is open: something may be put into the stream here (rule T5).
    pub fn at_frame_boundary(&self) -> bool {
        self.payload_left == 0
    }

    /// Neither a frame nor a fragmented message is open.
    pub fn at_message_boundary(&self) -> bool {
        self.message.is_none()
    }

    /// Bytes to the end of the frame at hand, 0 at a frame boundary.
    pub fn payload_left(&self) -> u64 {
        self.payload_left
    }

    /// Begins the data frame whose header is the start of `ahead`, at a frame boundary, if it is legal, is admitted and has `least` bytes
    /// of payload or more. Returns whether it did; else all is left to [`Self::follow`].
    ///
    /// None of `ahead` is taken: the header is among the bytes to the end of the frame now, which are stepped over alike.
    pub fn enter(&mut self, ahead: &[u8], least: u64, follower: &mut impl Follow) -> bool {
        debug_assert!(self.at_frame_boundary());
        let Ok(Some((header, header_length))) = self.next_header(ahead) else { return false };
        if header.opcode.is_control() || header.length < least {
            return false;
        }
        let message_length = self.message_length_with(&header);
        if follower.admit(&header, message_length).is_err() {
            return false;
        }
        self.begin_data_frame(&header, message_length);
        // A payload is shorter than 2^63 bytes.
        self.payload_left += header_length as u64;
        follower.meet(Event::Header { at: 0, header, message_length });
        true
    }

    /// Steps over `count` bytes of the frame at hand that nobody has to see, no more than there are to its end. Positions are 0.
    pub fn pass(&mut self, count: u64, follower: &mut impl Follow) {
        debug_assert!(count <= self.payload_left, "a frame ends before");
        self.step_over(count, 0, follower);
    }

    /// Parses and judges the next header, in the order of its bytes, so that every split gives the same
    /// verdict.
    #[inline]
    fn next_header(&self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        self.judge_first_byte(first)?;
        if let Some(second) = bytes.get(1)
            && (second & MASK_BIT != 0) != (self.role == Role::FromClient)
        {
            return Err(FrameError::WrongMask);
        }
        FrameHeader::parse(bytes)
    }

    #[inline]
    fn judge_first_byte(&self, first: u8) -> Result<(), FrameError> {
        let (_, rsv, opcode) = parse_first_byte(first)?;
        let begins_message = matches!(opcode, Opcode::Text | Opcode::Binary);
        let rsv_is_legal = match self.extensions {
            Extensions::None => rsv == 0,
            Extensions::PermessageDeflate => rsv == 0 || rsv == RSV1 && begins_message,
            Extensions::Unknown => true,
        };
        if !rsv_is_legal {
            return Err(FrameError::RsvBits);
        }
        if begins_message && self.message.is_some() {
            return Err(FrameError::DataWithinMessage);
        }
        if opcode == Opcode::Continuation && self.message.is_none() {
            return Err(FrameError::ContinuationWithoutMessage);
        }
        Ok(())
    }

    /// Payload of the open message with this frame. Three announced lengths can overflow; saturated, the sum is still over any
    /// limit.
    #[inline]
    fn message_length_with(&self, header: &FrameHeader) -> u64 {
        match self.message {
            Some(_) => self.message_length.saturating_add(header.length),
            None => header.length,
        }
    }

    #[inline]
    fn begin_data_frame(&mut self, header: &FrameHeader, message_length: u64) {
        self.payload_left = header.length;
        self.message_length = message_length;
        if let Some(message) = &mut self.message {
            message.fin = header.fin;
            message.fragmented = true;
        } else {
            let compressed = self.extensions == Extensions::PermessageDeflate && header.rsv & RSV1 != 0;
            self.message =
                Some(Message { opcode: header.opcode, compressed, fin: header.fin, fragmented: false });
        }
    }

    /// Steps over payload of the data frame at hand; if that is its end, says so. Returns the new position.
    #[inline]
    fn skip_payload(&mut self, at: usize, input_length: usize, follower: &mut impl Follow) -> usize {
        let available = input_length - at;
        let skipped = usize::try_from(self.payload_left).map_or(available, |left| left.min(available));
        let at = at + skipped;
        self.step_over(skipped as u64, at, follower);
        at
    }

    /// Steps over so many bytes of the data frame at hand, to the position `at`; if that is its end, says so.
    #[inline]
    fn step_over(&mut self, count: u64, at: usize, follower: &mut impl Follow) {
        self.payload_left = self.payload_left.saturating_sub(count);
        if self.payload_left > 0 {
            return;
        }
        follower.meet(Event::FrameEnd { at });
        if let Some(Message { opcode, compressed, fragmented, .. }) =
            self.message.take_if(|message| message.fin)
        {
            follower.meet(Event::MessageEnd {
                at,
                opcode,
                length: self.message_length,
                compressed,
                fragmented,
            });
        }
    }
}

/// Tells the content of a complete control frame, unmasked.
fn emit_control(header: &FrameHeader, frame: Range<usize>, payload: &[u8], follower: &mut impl Follow) {
    let mut unmasked = [0; CONTROL_PAYLOAD_MAX];
    let payload = match header.mask {
        None => payload,
        Some(mask) => {
            let unmasked = &mut unmasked[..payload.len()];
            unmasked.copy_from_slice(payload);
            apply_mask(unmasked, mask);
            unmasked
        }
    };
    match header.opcode {
        Opcode::Ping => follower.meet(Event::Ping { frame, payload }),
        Opcode::Pong => follower.meet(Event::Pong { frame, payload }),
        Opcode::Close => {
            let (code, reason) = match payload.split_first_chunk() {
                Some((code, reason)) => (Some(CloseCode(u16::from_be_bytes(*code))), reason),
                None => (None, &payload[..0]),
            };
            follower.meet(Event::Close { frame, code, reason });
        }
        Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
    }
}
