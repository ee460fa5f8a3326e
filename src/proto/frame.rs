//! WebSocket frames (RFC 6455 §5): headers, control frames to send, and the scanner that follows a stream.
//!
//! [`FrameScanner`] is on the path of every byte of a tunnel. It reads frame headers and steps over payload;
//! it copies nothing but the payload of a masked control frame, 125 bytes at most, and holds no heap memory.

mod scanner;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::scanner::{Event, Excess, Fault, Follow, FrameScanner, HELD_MAX, Role, Stopped};

/// The longest frame header: two bytes, a 64-bit length and a masking key.
pub const HEADER_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// The longest reason of a Close, in bytes: its code stands before it.
pub const CLOSE_REASON_MAX: usize = CONTROL_PAYLOAD_MAX - 2;
/// RSV1 in [`FrameHeader::rsv`]: "this message is compressed", where permessage-deflate was agreed.
pub const RSV1: u8 = 0b100;

const FIN_BIT: u8 = 0x80;
const MASK_BIT: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the message that is open.
    Continuation = 0x0,
    /// The first, perhaps only, frame of a text message.
    Text = 0x1,
    /// The first, perhaps only, frame of a binary message.
    Binary = 0x2,
    /// The last frame of its direction.
    Close = 0x8,
    /// A question that a Pong with the same payload answers.
    Ping = 0x9,
    /// The answer to a Ping, or a sign of life that nobody asked for.
    Pong = 0xA,
}

impl Opcode {
    /// Close, Ping and Pong; they may stand between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    fn from_bits(bits: u8) -> Result<Self, FrameError> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            reserved => return Err(FrameError::ReservedOpcode(reserved)),
        })
    }
}

/// Why a frame is illegal. Each of these ends a tunnel with Close 1002 (rule T4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An opcode that RFC 6455 leaves undefined.
    #[error("reserved opcode {0:#x}")]
    ReservedOpcode(u8),
    /// A payload of 2^63 bytes or more.
    #[error("64-bit length with its top bit set")]
    LengthTopBit,
    /// A control frame whose length is not in its first two bytes.
    #[error("control frame over 125 bytes")]
    ControlTooLong,
    /// A control frame without FIN.
    #[error("fragmented control frame")]
    ControlFragmented,
    /// Unmasked from a client, or masked from a server.
    #[error("masked in the wrong direction")]
    WrongMask,
    /// A continuation where no message is open.
    #[error("continuation without a message")]
    ContinuationWithoutMessage,
    /// A new text or binary frame before the last fragment of a message.
    #[error("new message within a fragmented one")]
    DataWithinMessage,
    /// RSV bits that no agreed extension gave a meaning to.
    #[error("RSV bits without an extension")]
    RsvBits,
}

/// A status code of a Close frame, as received: any 16-bit number (RFC 6455 §7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// Whether an endpoint may send it: defined in RFC 6455 or registered with IANA for use on the wire, or
    /// from the ranges of libraries and applications. 1005, 1006 and 1015 only ever stand in logs and
    /// programs.
    pub fn is_legal_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The frame is the last of its message.
    pub fin: bool,
    /// The three reserved bits; RSV1 is the highest, [`RSV1`].
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, of frames from a client.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes, below 2^63.
    pub length: u64,
}

impl FrameHeader {
    /// Parses the header at the start of `bytes`; `None` if it needs more of them, else the header and its
    /// length.
    ///
    /// Errors are what no state of the connection could make legal, found in the order of the bytes and as
    /// soon as the byte is there. A length in more bytes than it needs is taken for data frames: RFC 6455
    /// §5.2 forbids it to senders, yet it is unambiguous, and some small devices do it.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, rsv, opcode) = parse_first_byte(first)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short_length = second & !MASK_BIT;
        if opcode.is_control() && short_length >= LENGTH_16 {
            return Err(FrameError::ControlTooLong);
        }
        let Some((length, rest)) = parse_length(short_length, &bytes[2..])? else { return Ok(None) };
        let (mask, rest) = if second & MASK_BIT == 0 {
            (None, rest)
        } else {
            let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (Some(*mask), rest)
        };
        Ok(Some((Self { fin, rsv, opcode, mask, length }, bytes.len() - rest.len())))
    }

    /// Appends the header with its length in as few bytes as it fits in. Of `rsv` the low three bits count,
    /// and `length` must be below 2^63.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.length >> 63 == 0, "the top bit of a length is never set");
        let fin_bit = if self.fin { FIN_BIT } else { 0 };
        out.push(fin_bit | (self.rsv & 0b111) << 4 | self.opcode as u8);
        let mask_bit = if self.mask.is_some() { MASK_BIT } else { 0 };
        if let Ok(short) = u8::try_from(self.length)
            && short < LENGTH_16
        {
            out.push(mask_bit | short);
        } else if let Ok(medium) = u16::try_from(self.length) {
            out.push(mask_bit | LENGTH_16);
            out.extend_from_slice(&medium.to_be_bytes());
        } else {
            out.push(mask_bit | LENGTH_64);
            out.extend_from_slice(&self.length.to_be_bytes());
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    }
}

/// FIN, the reserved bits and the opcode.
#[inline]
fn parse_first_byte(first: u8) -> Result<(bool, u8, Opcode), FrameError> {
    let opcode = Opcode::from_bits(first & 0x0F)?;
    let fin = first & FIN_BIT != 0;
    if opcode.is_control() && !fin {
        return Err(FrameError::ControlFragmented);
    }
    Ok((fin, first >> 4 & 0b111, opcode))
}

/// The payload length, and what follows it, where `bytes` begin after the first two of a header.
#[inline]
fn parse_length(short_length: u8, bytes: &[u8]) -> Result<Option<(u64, &[u8])>, FrameError> {
    match short_length {
        LENGTH_16 => {
            Ok(bytes.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest)))
        }
        LENGTH_64 if bytes.first().is_some_and(|byte| byte & 0x80 != 0) => Err(FrameError::LengthTopBit),
        LENGTH_64 => Ok(bytes.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))),
        short => Ok(Some((short.into(), bytes))),
    }
}

/// Masks or unmasks `payload`, the beginning of a frame's, in place (RFC 6455 §5.3).
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends a Close frame. A `reason` over 123 bytes is cut at the last character that fits.
pub fn encode_close(code: u16, reason: &str, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let mut fits = reason.len().min(CLOSE_REASON_MAX);
    while !reason.is_char_boundary(fits) {
        fits -= 1;
    }
    let reason = &reason[..fits];
    encode_control(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()], mask, out);
}

/// Appends a Ping frame. `payload` is at most 125 bytes; what is over is left out.
pub fn encode_ping(payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    encode_control(Opcode::Ping, &[payload], mask, out);
}

/// Appends a Pong frame. `payload` is at most 125 bytes; what is over is left out.
pub fn encode_pong(payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    encode_control(Opcode::Pong, &[payload], mask, out);
}

fn encode_control(opcode: Opcode, parts: &[&[u8]], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>().min(CONTROL_PAYLOAD_MAX);
    FrameHeader { fin: true, rsv: 0, opcode, mask, length: length as u64 }.encode(out);
    let payload_start = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    out.truncate(payload_start + length);
    if let Some(mask) = mask {
        apply_mask(&mut out[payload_start..], mask);
    }
}
