//! WebSocket frames and the messages in them, which are numbered, checksummed and of mixed sizes.

use std::{collections::VecDeque, io};

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const LENGTH_16: u8 = 0x7e;
const LENGTH_64: u8 = 0x7f;
const MASK: u8 = 0x80;
/// Bytes of a message before its filling: tunnel, number, order, checksum.
const HEAD: usize = 32;
/// The longest filling of a message.
const LONGEST: usize = 200_000;

/// What a message asks of its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// To answer with one message.
    Answer,
    /// Nothing.
    Nothing,
    /// To say how many messages have come, as it was the last one.
    Finish,
    /// To send without end.
    Flood,
    /// So many messages have come.
    Count(u64),
}

impl Order {
    fn to_number(self) -> u64 {
        match self {
            Self::Answer => 0,
            Self::Nothing => 1,
            Self::Finish => 2,
            Self::Flood => 3,
            Self::Count(count) => 4 + count,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Answer,
            1 => Self::Nothing,
            2 => Self::Finish,
            3 => Self::Flood,
            count => Self::Count(count - 4),
        }
    }
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Came {
    /// A message that is what it should be.
    Message(Order),
    /// The peer's Close.
    Close,
}

/// Why a tunnel is over.
#[derive(Debug)]
pub(crate) enum Over {
    /// Its stream ended or broke.
    Cut(io::Error),
    /// Something came that was not sent so: what.
    Wrong(String),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Cut(error)
    }
}

/// One end of a tunnel. Reading, writing and waiting go on beside each other in [`Self::moves`].
pub(crate) struct End<S> {
    from: ReadHalf<S>,
    to: WriteHalf<S>,
    is_client: bool,
    tunnel: u64,
    came: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// The message of which only fragments have come.
    open: Option<Vec<u8>>,
    /// Payloads of its Pings that are unanswered.
    pings: VecDeque<Vec<u8>>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) bytes: u64,
    pub(crate) pongs: u64,
    pub(crate) fragmented: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> End<S> {
    /// An end of the tunnel with this number, behind the heads; `tail` came with the head.
    pub(crate) fn new(stream: S, is_client: bool, tunnel: u64, tail: Vec<u8>) -> Self {
        let (from, to) = split(stream);
        Self {
            from,
            to,
            is_client,
            tunnel,
            came: tail,
            out: Vec::new(),
            written: 0,
            open: None,
            pings: VecDeque::new(),
            sent: 0,
            received: 0,
            bytes: 0,
            pongs: 0,
            fragmented: 0,
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Its Pings that have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.pings.len()
    }

    /// Reads or writes once. Loses nothing when it is dropped.
    pub(crate) async fn moves(&mut self, reads: bool) -> Result<(), Over> {
        let Self { from, to, came, out, written, .. } = self;
        tokio::select! {
            read = from.read_buf(came), if reads => match read? {
                0 => Err(Over::Cut(io::ErrorKind::UnexpectedEof.into())),
                _ => Ok(()),
            },
            wrote = to.write(&out[*written..]), if *written < out.len() => {
                *written += wrote?;
                if *written == out.len() {
                    (*out, *written) = (Vec::new(), 0);
                    to.flush().await?;
                }
                Ok(())
            }
        }
    }

    /// Ends its stream, and waits for the other's end.
    pub(crate) async fn end(mut self) -> Result<(), Over> {
        while self.waiting() > 0 {
            self.moves(false).await?;
        }
        self.to.shutdown().await?;
        match self.from.read_buf(&mut self.came).await? {
            0 => Ok(()),
            _ => Err(Over::Wrong("bytes after the Close".to_owned())),
        }
    }

    /// Queues a message of a random size, perhaps in fragments, perhaps with a Ping.
    pub(crate) fn say(&mut self, order: Order) {
        let rng = &mut rand::rng();
        let filling = match rng.random_range(0..100) {
            0..60 => rng.random_range(0..200),
            60..90 => rng.random_range(200..4000),
            90..99 => rng.random_range(4000..40_000),
            _ => rng.random_range(40_000..LONGEST),
        };
        let message = message(self.tunnel, self.sent, order, filling);
        self.sent += 1;
        self.bytes += message.len() as u64;
        let fragments = if rng.random_ratio(1, 4) { rng.random_range(2..6) } else { 1 };
        let size = message.len().div_ceil(fragments);
        let last = message.chunks(size).count() - 1;
        for (at, fragment) in message.chunks(size).enumerate() {
            let opcode = if at == 0 { BINARY } else { CONTINUATION };
            let fin = if at == last { FIN } else { 0 };
            self.frame(fin | opcode, fragment);
            if rng.random_ratio(1, 20) {
                self.ping();
            }
        }
    }

    /// Queues a Ping.
    pub(crate) fn ping(&mut self) {
        let payload = rand::random::<[u8; 12]>().to_vec();
        self.frame(FIN | PING, &payload);
        self.pings.push_back(payload);
    }

    /// Queues a Close.
    pub(crate) fn close(&mut self) {
        self.frame(FIN | CLOSE, &1000_u16.to_be_bytes());
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mask_bit = if self.is_client { MASK } else { 0 };
        self.out.push(first);
        match payload.len() {
            short @ 0..126 => self.out.push(mask_bit | u8::try_from(short).expect("below 126")),
            medium @ 126..65_536 => {
                self.out.push(mask_bit | LENGTH_16);
                self.out.extend(u16::try_from(medium).expect("below 65,536").to_be_bytes());
            }
            long => {
                self.out.push(mask_bit | LENGTH_64);
                self.out.extend((long as u64).to_be_bytes());
            }
        }
        let mask: [u8; 4] = if self.is_client { rand::random() } else { [0; 4] };
        if self.is_client {
            self.out.extend(mask);
        }
        self.out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    /// The next thing that has come whole. Pings are answered.
    pub(crate) fn next(&mut self) -> Result<Option<Came>, Over> {
        while let Some((first, payload)) = self.take_frame()? {
            match (first & 0x0f, &mut self.open) {
                (PING, _) => self.frame(FIN | PONG, &payload),
                (PONG, _) if self.pings.pop_front().is_some_and(|ping| ping == payload) => self.pongs += 1,
                (PONG, _) => {
                    return Err(Over::Wrong("a Pong that answers nothing, or another Ping".to_owned()));
                }
                (CLOSE, _) => return Ok(Some(Came::Close)),
                (BINARY, open @ None) => *open = Some(payload),
                (CONTINUATION, Some(open)) => {
                    open.extend_from_slice(&payload);
                    self.fragmented += u64::from(first & FIN != 0);
                }
                (opcode, _) => return Err(Over::Wrong(format!("opcode {opcode} in its place"))),
            }
            let is_data = matches!(first & 0x0f, BINARY | CONTINUATION);
            if let Some(message) = self.open.take_if(|_| is_data && first & FIN != 0) {
                let order = judge(&message, self.tunnel, self.received).map_err(Over::Wrong)?;
                self.received += 1;
                self.bytes += message.len() as u64;
                return Ok(Some(Came::Message(order)));
            }
        }
        Ok(None)
    }

    /// Takes a whole frame off what came: its first byte, and its payload unmasked.
    fn take_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Over> {
        let [first, second, rest @ ..] = &self.came[..] else { return Ok(None) };
        if (second & MASK != 0) == self.is_client {
            return Err(Over::Wrong("the wrong mask bit".to_owned()));
        }
        let (length, rest) = match second & 0x7f {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX), rest)
            }
            short => (usize::from(short), rest),
        };
        if length > LONGEST + HEAD {
            return Err(Over::Wrong(format!("a frame of {length} bytes")));
        }
        let (mask, rest) = if self.is_client {
            ([0; 4], rest)
        } else {
            let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (*mask, rest)
        };
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let frame = Some((*first, payload));
        let taken = self.came.len() - rest.len() + length;
        self.came.drain(..taken);
        if self.came.is_empty() {
            self.came = Vec::new();
        }
        Ok(frame)
    }
}

fn message(tunnel: u64, number: u64, order: Order, filling: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEAD + filling);
    for part in [tunnel, number, order.to_number(), 0] {
        message.extend(part.to_be_bytes());
    }
    let mut state = tunnel ^ number.rotate_left(32) | 1;
    while message.len() < HEAD + filling {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        message.extend(state.to_be_bytes());
    }
    message.truncate(HEAD + filling);
    let sum = checksum(&message).to_be_bytes();
    message[HEAD - 8..HEAD].copy_from_slice(&sum);
    message
}

/// FNV-1a over all but the place of the checksum itself.
fn checksum(message: &[u8]) -> u64 {
    let parts = message[..HEAD - 8].iter().chain(&message[HEAD..]);
    parts.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether a message is the next one of its tunnel, and unaltered; what it asks.
fn judge(message: &[u8], tunnel: u64, number: u64) -> Result<Order, String> {
    let part = |at: usize| {
        message.get(at..).and_then(|rest| rest.first_chunk()).map(|part| u64::from_be_bytes(*part))
    };
    let [Some(its_tunnel), Some(its_number), Some(order), Some(sum)] = [part(0), part(8), part(16), part(24)]
    else {
        return Err(format!("a message of {} bytes", message.len()));
    };
    if (its_tunnel, its_number) != (tunnel, number) {
        return Err(format!("message {its_number} of {its_tunnel:x} in place of {number} of {tunnel:x}"));
    }
    if sum != checksum(message) {
        return Err(format!("message {number} was altered"));
    }
    Ok(Order::from_number(order))
}
