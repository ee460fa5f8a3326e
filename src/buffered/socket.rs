//! A connected stream socket, TCP or unix.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::Stream;

/// Bytes that the kernel takes for a receiver beyond what is in flight. Without this bound it takes megabytes, and says that it
/// takes more only when a third of them is gone: a slow client would seem to take nothing for minutes (rule S1).
const UNSENT: u32 = 128 * 1024;

/// A connected stream socket; writes go straight to the kernel.
#[derive(Debug)]
pub enum Socket {
    /// TCP over IPv4 or IPv6, to which [`prepare`] was applied, or to the listening socket before it was accepted there.
    Tcp(TcpStream),
    /// A unix stream socket.
    Unix(UnixStream),
}

/// Has a TCP socket send small writes at once, as a relay that waits for an ACK before each small frame falls to a tenth of its
/// rate, and hold little back. A listening one hands that on to all that it establishes from then on.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

/// Whether [`prepare`] was applied to this socket, or to the listening one that it was accepted from.
pub fn is_prepared(socket: &impl AsFd) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    Ok(socket.tcp_nodelay()? && socket.tcp_notsent_lowat()? == UNSENT)
}

impl Socket {
    /// Waits until there is something to read: bytes, the end or an error.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Waits until there is something to read, and shows as much of it as fits without taking it. `Ok(0)` is the end of the
    /// stream. An error is told once: no read will tell it again.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_peek(cx, buf)).await
    }

    /// [`Self::peek`] for who polls.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Interest::READABLE, || glance(self, buf))
    }

    /// Whether there is nothing to read, as the kernel has it: no bytes, no end and no error.
    pub fn is_quiet(&self) -> bool {
        would_block(&glance(self, &mut [0]))
    }

    /// [`Self::is_quiet`], as the runtime has it: it knows what had come when it last asked for events.
    pub fn was_quiet(&self) -> bool {
        would_block(&self.try_io(Interest::READABLE, || glance(self, &mut [0])))
    }

    /// Does `io` on the socket when it can be done without waiting. `interest` is either reading or writing.
    pub(super) fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut io: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            ready!(self.poll_ready(cx, interest))?;
            match self.try_io(interest, &mut io) {
                done if would_block(&done) => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Socket {
    /// Reads once. `Ok(0)` is the end of the stream.
    ///
    /// The system is called itself: the C library's functions are points where a thread can be cancelled, for which each changes the
    /// thread's state twice.
    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_some(cx, Interest::READABLE, buf.len(), || Ok(recv(self, &mut *buf, RecvFlags::empty())?.0))
    }

    /// Writes once, as much as the kernel takes.
    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8], flags: SendFlags) -> Poll<io::Result<usize>> {
        self.poll_some(cx, Interest::WRITABLE, buf.len(), || {
            Ok(send(self, buf, flags | SendFlags::NOSIGNAL)?)
        })
    }

    /// [`Self::poll_io`] that moves at most `whole` bytes. If it is not all of them, there is no more now, and the next call waits
    /// without trying.
    fn poll_some(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        whole: usize,
        mut io: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx, interest))?;
            let mut part = None;
            let done = self.try_io(interest, || {
                let count = io()?;
                if (1..whole).contains(&count) {
                    part = Some(count);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(count)
            });
            match (part, done) {
                (Some(part), _) => return Poll::Ready(Ok(part)),
                (None, done) if would_block(&done) => {}
                (None, done) => return Poll::Ready(done),
            }
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) if interest.is_readable() => stream.poll_read_ready(cx),
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) if interest.is_readable() => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Does `io` if the runtime takes the socket to be ready, and has it wait anew after [`io::ErrorKind::WouldBlock`].
    fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, io),
            Self::Unix(stream) => stream.try_io(interest, io),
        }
    }
}

fn would_block<R>(done: &io::Result<R>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn glance(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket, buf, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// Calls the same method on whichever socket it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(self.poll_recv(cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf, SendFlags::empty())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Stream for Socket {
    fn plain(&self) -> Option<&Socket> {
        Some(self)
    }

    fn reset_on_drop(&mut self) {
        // A unix socket has no reset; its drop with unread input is the nearest thing.
        if let Self::Tcp(stream) = self {
            // Only a socket that is already gone refuses this, and then there is nothing left to reset.
            let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        if let Self::Tcp(stream) = self {
            // TCP_USER_TIMEOUT. Only a socket that is already gone refuses it, and its next read says so.
            let _ = SockRef::from(&*stream).set_tcp_user_timeout(Some(period));
        }
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let flags = if matches!(self, Self::Tcp(_)) { SendFlags::MORE } else { SendFlags::empty() };
        self.poll_send(cx, buf, flags)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What a unix socket took is with its receiver.
        let Self::Tcp(stream) = self else { return Poll::Ready(()) };
        // From now on it is writable only if there is nothing that it has not sent.
        if SockRef::from(&*stream).set_tcp_notsent_lowat(1).is_err() {
            return Poll::Ready(());
        }
        loop {
            // Of a socket that is broken there is nothing to be sent.
            let is_broken = ready!(stream.poll_write_ready(cx)).is_err();
            let sent = stream.try_io(Interest::WRITABLE, || expect_writable(stream));
            if is_broken || !would_block(&sent) {
                return Poll::Ready(());
            }
        }
    }
}

/// Whether it is writable now, whatever it was when that was last told.
fn expect_writable(stream: &TcpStream) -> io::Result<()> {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    match poll(&mut polled, Some(&Timespec::default()))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}
