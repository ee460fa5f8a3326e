//! What goes over the wire between client and backend: requests, answers and frames.

use memchr::memmem;
use wsgate::proto::frame::{FrameError, FrameHeader, Opcode};

/// The client's `Sec-WebSocket-Key`, and the `Sec-WebSocket-Accept` that answers it (RFC 6455 §1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Bytes of the body that answers a plain request.
pub(crate) const BODY: usize = 128;
/// The backend acknowledges an upload after each so many messages.
pub(crate) const ACKNOWLEDGED: u64 = 16;

/// An opening handshake.
pub(crate) fn offer(target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A plain request.
pub(crate) fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// The length of the head at the start of `bytes`, with the empty line behind it.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4)
}

/// The value of the field `name` of a head.
pub(crate) fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
        str::from_utf8(value).ok().map(str::trim)
    })
}

/// What client and backend fill messages and bodies with: neighbours differ, and no two blocks of 256 bytes are the same.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0_u32..).map(|index| (index ^ index >> 8).to_le_bytes()[0]).take(size).collect()
}

/// A whole message in one frame, masked if there is a key.
pub(crate) fn frame(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 16);
    FrameHeader { fin: true, rsv: 0, opcode, mask: key, length: payload.len() as u64 }.encode(&mut frame);
    let start = frame.len();
    frame.extend_from_slice(payload);
    mask(&mut frame[start..], key.unwrap_or_default());
    frame
}

/// Masks or unmasks bytes, of which the first one goes with the first one of the key (RFC 6455 §5.3).
pub(crate) fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(key)) * 0x1_0000_0001;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

/// A part of a stream of frames.
pub(crate) enum Piece<'a> {
    Header(FrameHeader),
    /// What has come of the payload. Each frame has a last one, be it empty.
    Payload {
        bytes: &'a [u8],
        is_last: bool,
    },
}

/// Where a stream of frames has got to.
#[derive(Default)]
pub(crate) struct Follower {
    /// The beginning of a header.
    held: Vec<u8>,
    /// Bytes that the payload still lacks, behind a header.
    left: Option<u64>,
}

impl Follower {
    /// Takes the next piece from the front of `input`, or `None` where more has to come.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        let Some(left) = self.left else {
            return Ok(self.header(input)?.map(Piece::Header));
        };
        if left > 0 && input.is_empty() {
            return Ok(None);
        }
        let here = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (bytes, rest) = input.split_at(here);
        *input = rest;
        let left = left - here as u64;
        self.left = (left > 0).then_some(left);
        Ok(Some(Piece::Payload { bytes, is_last: left == 0 }))
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, FrameError> {
        let found = if self.held.is_empty() {
            let found = FrameHeader::parse(input)?;
            *input = &input[found.map_or(0, |(_, length)| length)..];
            found
        } else {
            None
        };
        if let Some((header, _)) = found {
            self.left = Some(header.length);
            return Ok(Some(header));
        }
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.held.push(byte);
            if let Some((header, _)) = FrameHeader::parse(&self.held)? {
                self.held.clear();
                self.left = Some(header.length);
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}
