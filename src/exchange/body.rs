//! A message body on its way from one side to the other.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    buffered::{Buffered, READS_IN_A_ROW, with_scratch},
    proto::{
        forward::{self, TrailerRules},
        framing::{
            BodyFraming, ChunkError, ChunkLimits, ChunkPart, ChunkScanner, encode_chunk_head,
            encode_last_chunk,
        },
        head::Headers,
    },
};

/// Why a body did not arrive.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The sender's stream broke.
    Read(io::Error),
    /// The sender's stream ended before the body did.
    Incomplete,
    /// The chunks are malformed.
    Malformed(ChunkError),
    /// More bytes than the limit.
    TooLarge,
    /// The receiver's stream broke.
    Write(io::Error),
}

/// How the body is delimited as it comes.
#[derive(Debug)]
enum Source {
    Length(u64),
    Chunked(Box<ChunkScanner>),
    UntilClose,
    Ended,
}

/// What a body that makes no progress waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitsFor {
    Sender,
    Receiver,
}

/// Relays one body. What stands in `out` goes first, so a head that is put there leaves with the first bytes of its
/// body.
#[derive(Debug)]
pub(super) struct Body<'a> {
    source: Source,
    chunked_out: bool,
    /// What decides about trailers, where they may pass.
    trailers: Option<TrailerRules<'a>>,
    limit: Option<u64>,
    out: Vec<u8>,
    written: usize,
    /// Payload bytes that came, without the framing.
    pub(super) payload: u64,
    /// Bytes read from the sender, with the framing.
    pub(super) taken: u64,
    /// Bytes that the receiver took, with the framing and the head.
    pub(super) given: u64,
    pub(super) waits_for: WaitsFor,
}

impl<'a> Body<'a> {
    /// A body that comes as `from` and goes out as `to`, behind `head`.
    pub(super) fn new(head: Vec<u8>, from: BodyFraming, to: BodyFraming) -> Self {
        let source = match from {
            BodyFraming::Empty | BodyFraming::Length(0) => Source::Ended,
            BodyFraming::Length(length) => Source::Length(length),
            BodyFraming::Chunked => Source::Chunked(Box::new(ChunkScanner::new(ChunkLimits::default()))),
            BodyFraming::UntilClose => Source::UntilClose,
        };
        Self {
            source,
            chunked_out: to == BodyFraming::Chunked,
            trailers: None,
            limit: None,
            out: head,
            written: 0,
            payload: 0,
            taken: 0,
            given: 0,
            waits_for: WaitsFor::Sender,
        }
    }

    /// Bounds the payload, in bytes.
    pub(super) fn limit(mut self, limit: Option<u64>) -> Self {
        self.limit = limit;
        self
    }

    /// Lets trailers pass as these rules say.
    pub(super) fn with_trailers(mut self, rules: TrailerRules<'a>) -> Self {
        self.trailers = Some(rules);
        self
    }

    /// Nothing of the body is to come any more; it may still have to be written.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Relays until the whole body has been written and given to the kernel. After some reads it lets the other way go on first: a
    /// sender that has always more would leave that none of the turn's budget.
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered<impl AsyncRead + Unpin>,
        to: &mut Buffered<impl AsyncWrite + Unpin>,
    ) -> Poll<Result<(), BodyError>> {
        if self.given == 0 {
            self.take_tail(from)?;
        }
        let mut reads = 0;
        loop {
            self.waits_for = WaitsFor::Receiver;
            ready!(self.poll_write_out(cx, to)).map_err(BodyError::Write)?;
            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(BodyError::Write)?;
            if self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            self.waits_for = WaitsFor::Sender;
            if reads == READS_IN_A_ROW {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            if from.tail().is_empty() {
                let read = self.poll_read(cx, from, to);
                if read.is_pending() {
                    // A quiet stream of events must not hold a buffer for hours.
                    self.out = Vec::new();
                }
                ready!(read)?;
            } else {
                self.take_tail(from)?;
            }
        }
    }

    fn poll_write_out(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Buffered<impl AsyncWrite + Unpin>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.out[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.given += count as u64;
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered<impl AsyncRead + Unpin>,
        to: &mut Buffered<impl AsyncWrite + Unpin>,
    ) -> Poll<Result<(), BodyError>> {
        with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(from.get_mut()).poll_read(cx, &mut buf)).map_err(BodyError::Read)?;
            let input = buf.filled();
            if input.is_empty() {
                return Poll::Ready(self.end_of_stream());
            }
            let consumed = self.pass(input, |bytes| try_write(cx, to, bytes))?;
            from.put_back(&input[consumed..]);
            Poll::Ready(Ok(()))
        })
    }

    fn end_of_stream(&mut self) -> Result<(), BodyError> {
        if !matches!(self.source, Source::UntilClose) {
            return Err(BodyError::Incomplete);
        }
        self.source = Source::Ended;
        if self.chunked_out {
            encode_last_chunk(&Headers::new(), &mut self.out);
        }
        Ok(())
    }

    fn take_tail(&mut self, from: &mut Buffered<impl AsyncRead + Unpin>) -> Result<(), BodyError> {
        if self.has_ended() || from.tail().is_empty() {
            return Ok(());
        }
        let consumed = self.pass(from.tail(), |_| Ok(0))?;
        from.consume(consumed);
        Ok(())
    }

    /// Takes what belongs to the body off the front of `input`, as it goes out. `write` may take bytes that need no new
    /// framing past the copy into `out`, if nothing stands there before them.
    fn pass(
        &mut self,
        input: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Result<usize, BodyError> {
        let consumed = match &mut self.source {
            Source::Chunked(_) => self.pass_chunks(input)?,
            Source::Ended => 0,
            Source::UntilClose => self.pass_data(input, write)?,
            Source::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= count as u64;
                let is_last = *left == 0;
                self.pass_data(&input[..count], write)?;
                if is_last {
                    self.source = Source::Ended;
                    if self.chunked_out {
                        encode_last_chunk(&Headers::new(), &mut self.out);
                    }
                }
                count
            }
        };
        self.taken += consumed as u64;
        Ok(consumed)
    }

    fn pass_data(
        &mut self,
        data: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Result<usize, BodyError> {
        self.count(data.len())?;
        let mut written = 0;
        if self.chunked_out {
            encode_chunk_head(data.len(), &mut self.out);
        } else if self.out.is_empty() {
            written = write(data).map_err(BodyError::Write)?;
            self.given += written as u64;
        }
        self.out.extend_from_slice(&data[written..]);
        if self.chunked_out {
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(data.len())
    }

    fn pass_chunks(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let Source::Chunked(mut scanner) = std::mem::replace(&mut self.source, Source::Ended) else {
            return Ok(0);
        };
        let mut at = 0;
        while at < input.len() {
            let (consumed, part) = scanner.next(&input[at..]).map_err(BodyError::Malformed)?;
            at += consumed;
            match part {
                ChunkPart::Data(data) => {
                    self.pass_data(data, |_| Ok(0))?;
                }
                ChunkPart::More => break,
                ChunkPart::End(trailers) => {
                    if self.chunked_out {
                        let passed = self.trailers.map(|rules| forward::trailers(&trailers, rules));
                        encode_last_chunk(&passed.unwrap_or_default(), &mut self.out);
                    }
                    return Ok(at);
                }
            }
        }
        self.source = Source::Chunked(scanner);
        Ok(at)
    }

    fn count(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.payload += bytes as u64;
        if self.limit.is_some_and(|limit| self.payload > limit) { Err(BodyError::TooLarge) } else { Ok(()) }
    }
}

/// Writes what the receiver takes at once.
fn try_write(
    cx: &mut Context<'_>,
    to: &mut Buffered<impl AsyncWrite + Unpin>,
    bytes: &[u8],
) -> io::Result<usize> {
    match Pin::new(to).poll_write(cx, bytes) {
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(result) => result,
        Poll::Pending => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffered::wire::{Pace, wire};

    #[tokio::test]
    async fn t10_a_quiet_body_holds_no_buffer() {
        for to in [BodyFraming::UntilClose, BodyFraming::Chunked] {
            let ((from, mut sender), (to_client, mut receiver)) = (wire(Pace::FAST), wire(Pace::FAST));
            let (mut from, mut to_client) = (Buffered::new(from), Buffered::new(to_client));
            let mut body = Body::new(b"head".to_vec(), BodyFraming::UntilClose, to);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut is_quiet = |from: &mut _, expected: usize| {
                assert!(body.poll_relay(&mut cx, from, &mut to_client).is_pending());
                assert_eq!((body.out.capacity(), body.payload), (0, expected as u64));
            };
            is_quiet(&mut from, 0);
            receiver.expect(b"head").await;
            for events in 1..=3 {
                // More than one read gives.
                sender.send(&vec![b'x'; 100_000]).await;
                is_quiet(&mut from, events * 100_000);
            }
        }
    }
}
