//! Streams: what a connection reads from and writes to, the bytes read past a head, and the scratch
//! buffers of a worker.

mod socket;
mod splice;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), expect(dead_code, reason = "a fuzz target needs less of it than the tests"))]
pub(crate) mod wire;
mod worker;

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use socket::{Socket, is_prepared, prepare};
#[cfg(test)]
pub(crate) use splice::{MOST_PIPES, SPLICED_AT_ONCE};
pub use splice::{Pipe, SPLICED_AT_LEAST};
pub use worker::{enter_worker, worker};

/// A two-way stream of bytes under a connection: a bare socket, or TLS over one.
///
/// `poll_flush` returns `Ready` only when everything that `poll_write` took has been given to the kernel;
/// a TLS stream takes plaintext before its records are on the way.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes the drop of this stream a reset instead of a FIN, so that an end within a frame is seen as one.
    fn reset_on_drop(&mut self);

    /// Breaks the stream with [`io::ErrorKind::TimedOut`] when what was sent is not acknowledged for `period` (rule T6). A
    /// stream that has no such bound ignores it.
    fn bound_unacknowledged(&mut self, period: Duration) {
        let _ = period;
    }

    /// [`AsyncWrite::poll_write`] of the last bytes before `poll_shutdown`, which has to follow as soon as they are taken. What is
    /// taken may wait for it, so that one segment has them and the end: each one costs the sender as much as a TLS record of 64 KiB.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, buf)
    }

    /// Ready when nothing waits in the kernel to be sent, so that a reset takes along no more than what is on the wire. Only
    /// for a stream to which nothing more will be written.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// Whether the end of the stream, once read, was a truncation: TLS without its `close_notify`.
    fn was_truncated(&self) -> bool {
        false
    }

    /// Bytes that `poll_write` took and the kernel has not.
    fn unsent(&self) -> usize {
        0
    }

    /// The socket whose bytes are those of this stream, as they are, so that the kernel can move them by itself; `None` where
    /// anything stands between.
    fn plain(&self) -> Option<&Socket> {
        None
    }
}

/// Bytes of the scratch buffers that each worker thread has, and so what a receiver that takes nothing has waiting for it at most. What
/// a megabyte costs falls up to here, as calls, packets and wake-ups cost more than copies.
pub const SCRATCH: usize = 256 * 1024;

/// Reads of one way of a connection before the other one has its turn: a fraction of what tokio lets a task do in one of its own.
pub const READS_IN_A_ROW: usize = 16;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Runs `with` on this thread's scratch buffer of [`SCRATCH`] bytes, so that a stream that waits holds none.
///
/// A nested call gets a buffer of its own; there is none on the path of bytes.
pub fn with_scratch<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH_BUFFER.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => with(&mut scratch),
        Err(_) => with(&mut vec![0; SCRATCH]),
    })
}

/// A stream with its tail: the bytes that were read past the last head.
///
/// Whoever reads from it gets the tail first, so bytes that came in one segment with a head are data like
/// all others.
#[derive(Debug)]
pub struct Buffered<S> {
    stream: S,
    tail: Vec<u8>,
    /// How much of `tail` has been taken.
    taken: usize,
}

impl<S> Buffered<S> {
    /// A stream without a tail.
    pub fn new(stream: S) -> Self {
        Self { stream, tail: Vec::new(), taken: 0 }
    }

    /// The bytes that were read and not yet taken.
    pub fn tail(&self) -> &[u8] {
        &self.tail[self.taken..]
    }

    /// Takes `count` bytes of the tail away. An empty tail holds no memory.
    pub fn consume(&mut self, count: usize) {
        self.taken += count;
        debug_assert!(self.taken <= self.tail.len());
        if self.taken >= self.tail.len() {
            self.tail = Vec::new();
            self.taken = 0;
        }
    }

    /// Puts bytes that were read from the stream into the tail, behind what is there.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// The stream below, for its own properties; reading from it skips the tail.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream and its tail.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.tail.drain(..self.taken);
        (self.stream, self.tail)
    }
}

impl<S: AsyncRead + Unpin> Buffered<S> {
    /// Reads once from the stream, at most `limit` bytes, and adds them to the tail. `Ok(0)` is the end of the
    /// stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        let Self { stream, tail, taken } = self;
        with_scratch(|scratch| {
            let limit = limit.clamp(1, scratch.len());
            let mut buf = ReadBuf::new(&mut scratch[..limit]);
            ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
            tail.drain(..*taken);
            *taken = 0;
            tail.extend_from_slice(buf.filled());
            Poll::Ready(Ok(buf.filled().len()))
        })
    }

    /// [`Self::poll_fill`] as a future.
    pub async fn fill(&mut self, limit: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, limit)).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tail().is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.tail().len().min(buf.remaining());
        buf.put_slice(&self.tail()[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Stream> Stream for Buffered<S> {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        self.stream.bound_unacknowledged(period);
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write_last(cx, buf)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_sent(cx)
    }

    fn was_truncated(&self) -> bool {
        self.stream.was_truncated()
    }

    fn unsent(&self) -> usize {
        self.stream.unsent()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::{
        wire::{Pace, wire},
        *,
    };

    #[tokio::test]
    async fn t10_a_tail_that_was_taken_holds_no_memory() {
        let (stream, mut peer) = wire(Pace::FAST);
        let mut stream = Buffered::new(stream);
        peer.send(&[b'x'; 10_000]).await;
        assert_eq!(stream.fill(usize::MAX).await.unwrap(), 10_000);
        stream.consume(9_999);
        assert_eq!(stream.tail(), b"x");
        stream.consume(1);
        assert_eq!(stream.tail.capacity(), 0);

        stream.put_back(&[b'y'; 10_000]);
        let mut part = [0; 4_000];
        for count in [4_000, 4_000, 2_000] {
            assert!(!stream.tail().is_empty());
            assert_eq!(stream.read(&mut part).await.unwrap(), count);
        }
        assert_eq!(stream.tail.capacity(), 0);
    }

    #[tokio::test]
    async fn s2_a_tail_of_which_a_part_is_always_left_does_not_grow() {
        let (stream, mut peer) = wire(Pace::FAST);
        let mut stream = Buffered::new(stream);
        stream.put_back(b"ab");
        for _ in 0..10_000 {
            peer.send(b"abcdefgh").await;
            stream.fill(usize::MAX).await.unwrap();
            stream.consume(8);
            assert_eq!(stream.tail().len(), 2);
        }
        assert!(stream.tail.capacity() < 100, "{}", stream.tail.capacity());
        let (_, tail) = stream.into_parts();
        assert_eq!(tail, b"gh");
    }
}
