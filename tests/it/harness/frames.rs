//! WebSocket frames, written without the code under test.

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame with these first four bits and opcode. From a client it is masked.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut out = vec![first];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => out.push(mask_bit | u8::try_from(length).expect("7 bits")),
        length @ 126..=0xffff => {
            out.push(mask_bit | 0x7e);
            out.extend(u16::try_from(length).expect("16 bits").to_be_bytes());
        }
        length => {
            out.push(mask_bit | 0x7f);
            out.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend(MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        out.extend(payload);
    }
    out
}

/// A whole message, or a control frame, of a client.
pub fn client(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x80 | opcode, payload.as_ref(), true)
}

/// A whole message, or a control frame, of a backend.
pub fn server(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x80 | opcode, payload.as_ref(), false)
}

/// A client's frame with this first byte: FIN, the reserved bits and the opcode.
pub fn client_raw(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), true)
}

/// A backend's frame with this first byte.
pub fn server_raw(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload.as_ref(), false)
}

fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes());
    payload
}

/// A client's Close.
pub fn client_close(code: u16, reason: &str) -> Vec<u8> {
    client(CLOSE, close_payload(code, reason))
}

/// A backend's Close.
pub fn server_close(code: u16, reason: &str) -> Vec<u8> {
    server(CLOSE, close_payload(code, reason))
}

/// A short frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub first: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Read {
    /// The code of a Close.
    #[track_caller]
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.first, 0x80 | CLOSE, "a Close: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// Reads one frame, unmasked.
pub async fn read(peer: &mut super::Peer) -> Read {
    next(peer).await.expect("a frame, not the end of the stream")
}

/// Reads one frame, unmasked, or the end of the stream. If this is dropped before its end, nothing is lost.
pub async fn next(peer: &mut super::Peer) -> Option<Read> {
    super::soon("a frame", whenever(peer)).await
}

/// [`next`] for who may have to wait for as long as a test takes.
pub async fn whenever(peer: &mut super::Peer) -> Option<Read> {
    let bytes = peer.read_until(length).await.expect("a frame, not a reset");
    if bytes.is_none() {
        assert!(peer.tail().is_empty(), "the stream ended within a frame");
    }
    Some(parse(&bytes?))
}

/// The length on the wire of the frame that begins here; `None` until all of it is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let (length, head): (u64, usize) = match second & 0x7f {
        126 => (u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        length => (length.into(), 2),
    };
    let head = if second & 0x80 == 0 { head } else { head + 4 };
    let end = head.checked_add(usize::try_from(length).ok()?)?;
    (bytes.len() >= end).then_some(end)
}

/// A frame that is there as a whole.
fn parse(bytes: &[u8]) -> Read {
    let masked = bytes[1] & 0x80 != 0;
    let head = match bytes[1] & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (mask, payload) = if masked { bytes[head..].split_at(4) } else { (&[0; 4][..], &bytes[head..]) };
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Read { first: bytes[0], masked, payload }
}

/// The frames, unmasked, that stand whole in `bytes`, and how many bytes follow them.
pub fn split(mut bytes: &[u8]) -> (Vec<Read>, usize) {
    let mut frames = Vec::new();
    while let Some(length) = length(bytes) {
        frames.push(parse(&bytes[..length]));
        bytes = &bytes[length..];
    }
    (frames, bytes.len())
}
