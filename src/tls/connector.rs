//! TLS to servers: a connector and its stream, over tokio-rustls.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffered::{Socket, Stream};

/// Takes sockets through the TLS handshake, as a client. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

/// A stream to a server whose TLS handshake is complete.
#[derive(Debug)]
pub struct ClientStream {
    stream: tokio_rustls::client::TlsStream<Socket>,
    was_truncated: bool,
}

impl Connector {
    /// A connector that speaks as `config` says.
    pub fn new(config: ClientConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Takes `socket` through the TLS handshake with `name`.
    pub async fn connect(&self, socket: Socket, name: ServerName<'static>) -> io::Result<ClientStream> {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, socket).await?;
        Ok(ClientStream { stream, was_truncated: false })
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match read {
            // rustls tells of a FIN without close_notify as an error; here it is an end that was_truncated (rule T13).
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.was_truncated = true;
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for ClientStream {
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

impl Stream for ClientStream {
    fn reset_on_drop(&mut self) {
        self.stream.get_mut().0.reset_on_drop();
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        self.stream.get_mut().0.bound_unacknowledged(period);
    }

    fn was_truncated(&self) -> bool {
        self.was_truncated
    }
}
