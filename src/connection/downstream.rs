//! The client's stream, with or without TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    buffered::{Socket, Stream},
    tls::TlsStream,
};

/// A client's stream.
#[derive(Debug)]
pub(super) enum Downstream {
    /// A bare socket.
    Plain(Socket),
    /// TLS over one.
    Tls(Box<TlsStream<Socket>>),
}

/// Calls the same method on whichever stream it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Downstream::Plain($stream) => $call,
            Downstream::Tls($stream) => $call,
        }
    };
}

impl Downstream {
    /// The address that the client connected to; `None` on a unix socket, or when the client is gone.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        };
        match socket {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Stream for Downstream {
    fn reset_on_drop(&mut self) {
        either!(self, stream => stream.reset_on_drop());
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        either!(self, stream => stream.bound_unacknowledged(period));
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_last(cx, buf))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, stream => stream.poll_sent(cx))
    }

    fn was_truncated(&self) -> bool {
        either!(self, stream => stream.was_truncated())
    }

    fn unsent(&self) -> usize {
        either!(self, stream => stream.unsent())
    }

    fn plain(&self) -> Option<&Socket> {
        either!(self, stream => stream.plain())
    }
}
