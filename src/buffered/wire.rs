//! A stream for tests: one end of a pipe in memory, whose pace and faults the test sets.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::Stream;

/// How the gate's end of a wire behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Bytes that the pipe holds each way.
    pub(crate) pipe: usize,
    /// Bytes that one read gives at most.
    pub(crate) read: usize,
    /// Bytes that one write takes at most.
    pub(crate) write: usize,
    /// Writes are taken whole and passed on later, as TLS does.
    pub(crate) seals: bool,
}

impl Pace {
    pub(crate) const FAST: Self = Self { pipe: 1 << 20, read: usize::MAX, write: usize::MAX, seals: false };
    /// A byte at a time, through a pipe that is nearly always full.
    pub(crate) const SLOW: Self = Self { pipe: 3, read: 1, write: 1, seals: false };

    pub(crate) const fn pipe(pipe: usize) -> Self {
        Self { pipe, ..Self::FAST }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Truncation,
    Error(io::ErrorKind),
}

#[derive(Debug, Default)]
struct State {
    resets: bool,
    shut: bool,
    /// Bytes that went out with the end.
    last: usize,
    dropped: bool,
    /// How the peer's stream ends, if not in order.
    loss: Option<Loss>,
    write_error: Option<io::ErrorKind>,
    writer: Option<Waker>,
}

/// The gate's end.
#[derive(Debug)]
pub(crate) struct Wire {
    pipe: DuplexStream,
    pace: Pace,
    sealed: Vec<u8>,
    state: Arc<Mutex<State>>,
}

/// The other end: a client or a backend.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) pipe: DuplexStream,
    state: Arc<Mutex<State>>,
}

/// What a peer knows of the gate's end, when its own is in use elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Mutex<State>>);

/// A wire and who is at its other end.
pub(crate) fn wire(pace: Pace) -> (Wire, Peer) {
    let (near, far) = duplex(pace.pipe);
    let state = Arc::default();
    let wire = Wire { pipe: near, pace, sealed: Vec::new(), state: Arc::clone(&state) };
    (wire, Peer { pipe: far, state })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// The gate's end was dropped, and that was a reset.
    pub(crate) fn was_reset(&self) -> bool {
        let state = lock(&self.0);
        state.dropped && state.resets
    }

    /// The gate ended its writing side in order.
    pub(crate) fn was_shut(&self) -> bool {
        lock(&self.0).shut
    }
}

impl Peer {
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.state))
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.watch().was_reset()
    }

    pub(crate) fn was_shut(&self) -> bool {
        self.watch().was_shut()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).await.expect("the gate reads");
    }

    /// Reads as many bytes, and compares them.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        let read = self.pipe.read_exact(&mut got).await.map(|_| got);
        assert_eq!(show(&read.expect("more bytes")), show(bytes));
    }

    /// How much of what came went out together with the end.
    pub(crate) fn came_with_end(&self) -> usize {
        lock(&self.state).last
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.pipe.read_to_end(&mut rest).await.expect("a pipe in memory ends well");
        rest
    }

    /// Reads to the end, and compares all that came.
    pub(crate) async fn expect_end(&mut self, bytes: &[u8]) {
        assert_eq!(show(&self.rest().await), show(bytes));
    }

    /// Ends the writing side.
    pub(crate) async fn finish(&mut self) {
        self.pipe.shutdown().await.expect("a pipe in memory ends well");
    }

    /// The end of this side's stream, when it is read, is a truncated one.
    pub(crate) fn truncate(&self) {
        lock(&self.state).loss = Some(Loss::Truncation);
    }

    /// Writes of the gate fail from now on; what this side sent can still be read.
    pub(crate) fn refuse_writes(&self, kind: io::ErrorKind) {
        let mut state = lock(&self.state);
        state.write_error = Some(kind);
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
    }

    /// Breaks the stream: the gate reads what was sent, then an error, and can't write.
    pub(crate) async fn reset(&mut self) {
        lock(&self.state).loss = Some(Loss::Error(io::ErrorKind::ConnectionReset));
        self.refuse_writes(io::ErrorKind::ConnectionReset);
        self.finish().await;
    }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Wire {
    fn poll_seal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            let count = self.pace.write.min(self.sealed.len());
            let count = ready!(Pin::new(&mut self.pipe).poll_write(cx, &self.sealed[..count]))?;
            self.sealed.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; buf.remaining().min(self.pace.read)];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut part))?;
        if part.filled().is_empty()
            && let Some(Loss::Error(kind)) = lock(&self.state).loss
        {
            return Poll::Ready(Err(kind.into()));
        }
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        {
            let mut state = lock(&this.state);
            if let Some(kind) = state.write_error {
                return Poll::Ready(Err(kind.into()));
            }
            state.writer = Some(cx.waker().clone());
        }
        ready!(this.poll_seal(cx))?;
        if this.pace.seals {
            this.sealed.extend_from_slice(buf);
            let _ = this.poll_seal(cx)?;
            return Poll::Ready(Ok(buf.len()));
        }
        let count = this.pace.write.min(buf.len());
        Pin::new(&mut this.pipe).poll_write(cx, &buf[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_seal(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_seal(cx))?;
        ready!(Pin::new(&mut self.pipe).poll_shutdown(cx))?;
        lock(&self.state).shut = true;
        Poll::Ready(Ok(()))
    }
}

impl Stream for Wire {
    /// Keeps what `poll_shutdown` has to follow: it gets lost where that does not come.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(kind) = lock(&self.state).write_error {
            return Poll::Ready(Err(kind.into()));
        }
        ready!(self.poll_seal(cx))?;
        let count = self.pace.write.min(buf.len());
        self.sealed.extend_from_slice(&buf[..count]);
        lock(&self.state).last += count;
        Poll::Ready(Ok(count))
    }

    fn reset_on_drop(&mut self) {
        lock(&self.state).resets = true;
    }

    fn was_truncated(&self) -> bool {
        lock(&self.state).loss == Some(Loss::Truncation)
    }

    fn unsent(&self) -> usize {
        self.sealed.len()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        lock(&self.state).dropped = true;
    }
}
