//! A client or a backend that does one thing at a time.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, split};

use super::frame;
use crate::{
    buffered::wire::Peer,
    ending::Side,
    proto::{
        frame::{FrameHeader, Opcode, Role, apply_mask},
        laws::choices::Choices,
    },
};

const LENGTHS: [usize; 8] = [0, 1, 5, 125, 126, 300, 301, 2000];
/// Of a frame with a length in 64 bits, which comes rarely, as it is slow byte by byte.
const LONG: usize = 70_000;
const CODES: [&[u8]; 5] = [&[], &[3, 232], &[15, 160, b'b', b'y', b'e'], &[3], &[0, 0]];
const SPECIAL: [u8; 8] = [0, 0x80, 0x7f, 0xff, 0x40, 0x83, 0x09, 0x0a];

/// One peer of a tunnel: what it means to send, has sent, and has got.
pub(super) struct Player {
    pub(super) side: Side,
    pub(super) peer: Peer,
    queue: Vec<u8>,
    pub(super) said: Vec<u8>,
    pub(super) got: Vec<u8>,
    /// So much of what it got has been looked at for Pings.
    heard: usize,
    /// Payloads of wsgate's own Pings that it has answered, or is about to.
    pub(super) answered: Vec<Vec<u8>>,
    within_message: bool,
    /// It broke its stream, so that what it gets may end anywhere.
    pub(super) broke: bool,
    ended: bool,
}

impl Player {
    pub(super) fn new(side: Side, peer: Peer) -> Self {
        Self {
            side,
            peer,
            queue: Vec::new(),
            said: Vec::new(),
            got: Vec::new(),
            heard: 0,
            answered: Vec::new(),
            within_message: false,
            broke: false,
            ended: false,
        }
    }

    pub(super) fn role(&self) -> Role {
        if self.side == Side::Downstream { Role::FromClient } else { Role::FromServer }
    }

    /// What came together with the head.
    pub(super) fn tail(&mut self, choices: &mut Choices<'_>) -> Vec<u8> {
        self.think(choices);
        let count = choices.below(256).min(self.queue.len());
        let tail: Vec<u8> = self.queue.drain(..count).collect();
        self.said.extend_from_slice(&tail);
        tail
    }

    /// Thinks of a frame, which is legal where nothing else is chosen.
    pub(super) fn think(&mut self, choices: &mut Choices<'_>) {
        let opcode = match choices.below(16) {
            0..=8 if self.within_message => Opcode::Continuation,
            0..=4 => Opcode::Text,
            5..=8 => Opcode::Binary,
            9 | 10 => Opcode::Ping,
            11 | 12 => Opcode::Pong,
            13 => Opcode::Close,
            14 => Opcode::Continuation,
            _ => Opcode::Text,
        };
        let fin = opcode.is_control() || !choices.once_in(3);
        let payload = match opcode {
            Opcode::Close => choices.pick(&CODES).to_vec(),
            Opcode::Ping | Opcode::Pong => vec![b'p'; choices.pick(&LENGTHS[..4])],
            _ if choices.once_in(100) => vec![b'd'; LONG],
            _ => vec![b'd'; choices.pick(&LENGTHS)],
        };
        if !opcode.is_control() {
            self.within_message = !fin;
        }
        let mut bytes = frame(self.role(), fin, opcode, &payload);
        if choices.once_in(24) {
            let at = choices.below(bytes.len().min(16));
            bytes[at] ^= choices.pick(&SPECIAL);
        }
        self.queue.extend_from_slice(&bytes);
    }

    /// Answers the Pings that have come since the last time.
    pub(super) fn answer(&mut self) {
        while let Ok(Some((header, length))) = FrameHeader::parse(&self.got[self.heard..]) {
            let begin = self.heard + length;
            let Some(end) = usize::try_from(header.length).ok().and_then(|length| begin.checked_add(length))
            else {
                return;
            };
            let Some(payload) = self.got.get(begin..end) else { return };
            let mut payload = payload.to_vec();
            self.heard = end;
            if header.opcode == Opcode::Ping {
                apply_mask(&mut payload, header.mask.unwrap_or_default());
                self.queue.extend_from_slice(&frame(self.role(), true, Opcode::Pong, &payload));
                if payload.starts_with(b"wsgate-") {
                    self.answered.push(payload);
                }
            }
        }
    }

    /// Writes what the gate takes at once of the next `most` bytes.
    pub(super) async fn write(&mut self, most: usize) {
        let most = most.min(self.queue.len());
        if most == 0 || self.ended {
            return;
        }
        let (pipe, bytes) = (&mut self.peer.pipe, &self.queue[..most]);
        let wrote = at_once(|cx| Pin::new(&mut *pipe).poll_write(cx, bytes)).await;
        // If the gate is gone, it stays so.
        let count = wrote.and_then(Result::ok).unwrap_or(0);
        self.said.extend(self.queue.drain(..count));
    }

    /// Takes up to `most` bytes of what has come.
    pub(super) async fn read(&mut self, most: usize) {
        let mut bytes = vec![0; most.min(1 << 16)];
        let mut part = ReadBuf::new(&mut bytes);
        let pipe = &mut self.peer.pipe;
        let read: Option<io::Result<()>> = at_once(|cx| Pin::new(&mut *pipe).poll_read(cx, &mut part)).await;
        if let Some(Ok(())) = read {
            self.got.extend_from_slice(part.filled());
        }
    }

    /// Ends its stream in one way or another.
    pub(super) async fn leave(&mut self, choices: &mut Choices<'_>) {
        match choices.below(4) {
            0 | 1 => self.peer.finish().await,
            2 => {
                self.peer.reset().await;
                self.broke = true;
            }
            _ => {
                self.peer.refuse_writes(io::ErrorKind::BrokenPipe);
                self.broke = true;
                return;
            }
        }
        self.ended = true;
    }

    /// Writes all that is left, ends, and reads to the end.
    pub(super) async fn finish(&mut self) {
        let (mut from, mut to) = split(&mut self.peer.pipe);
        let (queue, said, ended) = (&self.queue, &mut self.said, self.ended);
        let says = async {
            let mut rest = if ended { &[][..] } else { &queue[..] };
            while !rest.is_empty() {
                let Ok(count) = to.write(rest).await else { break };
                said.extend_from_slice(&rest[..count]);
                rest = &rest[count..];
            }
            // The gate may be gone already.
            let _ = to.shutdown().await;
        };
        let got = &mut self.got;
        let ((), read) = tokio::join!(says, from.read_to_end(got));
        read.expect("a pipe in memory ends well");
    }
}

/// What a poll gives without waiting.
async fn at_once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| match poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
