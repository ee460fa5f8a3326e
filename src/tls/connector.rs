//! TLS to servers: a connector and its stream, over tokio-rustls.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::store::ALPN;
use crate::{
    buffered::{Socket, Stream},
    config::{Trust, UpstreamTls},
};

/// Takes sockets through the TLS handshake, as a client. It is cheap to clone, and its clones share the sessions that they
/// resume.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The system has no certificates of authorities, or none that can be read.
    #[error("the system has no roots to trust (Debian: ca-certificates); `ca` names some")]
    NoRoots,
    /// rustls does not take the certificates.
    #[error("TLS")]
    Rustls(#[from] Error),
    /// The certificates of `ca` can't be verified against.
    #[error("`ca`")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// A stream to a server whose TLS handshake is complete. Its drop says goodbye by `close_notify`, unless it is to be a reset.
#[derive(Debug)]
pub struct ClientStream {
    stream: tokio_rustls::client::TlsStream<Counted>,
    was_truncated: bool,
    resets: bool,
    /// Bytes taken since all that was sealed had been written.
    given: usize,
}

/// A socket that counts what it is given.
#[derive(Debug)]
struct Counted {
    socket: Socket,
    written: usize,
}

impl Connector {
    /// A connector that speaks TLS 1.2 and 1.3 and http/1.1 by ALPN, trusts whom `tls` says, and shows its certificate, if it
    /// names one.
    pub fn new(tls: &UpstreamTls) -> Result<Self, ConnectorError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &tls.trust {
            Trust::System => verifier(system_roots()?, &provider)?,
            Trust::Ca(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates.iter() {
                    roots.add(certificate.clone())?;
                }
                verifier(roots, &provider)?
            }
            Trust::Anybody => Arc::new(TrustsAnybody(Arc::clone(&provider))),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                rustls::sign::CertifiedKey::clone(&identity.certified),
            ))),
        };
        config.alpn_protocols = vec![ALPN.into()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Takes `socket` through the TLS handshake with the server that must prove to be `name`.
    pub async fn connect(&self, socket: Socket, name: ServerName<'static>) -> io::Result<ClientStream> {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, Counted { socket, written: 0 }).await?;
        Ok(ClientStream { stream, was_truncated: false, resets: false, given: 0 })
    }
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, ConnectorError> {
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?)
}

fn system_roots() -> Result<RootCertStore, ConnectorError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read some of the system's roots");
    }
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that webpki does not read; the others do.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(ConnectorError::NoRoots) } else { Ok(roots) }
}

/// `verify = false`: whoever answers is taken for the server. What it signs is verified all the same, or TLS would be broken.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientStream {
    /// Whether a session was resumed.
    pub fn was_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Whether a read would have to wait. What TLS itself says, such as a session ticket, is no data and is taken in.
    ///
    /// The kernel is asked, not the runtime, which knows of what came only after its next turn and would say "not ready" also
    /// when a task's budget is spent.
    pub fn is_quiet(&mut self) -> bool {
        let (counted, session) = self.stream.get_mut();
        let mut arrived = Arrived(counted.socket.as_fd());
        loop {
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                Ok(_) | Err(_) => return false,
            }
            match session.read_tls(&mut arrived) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// What the kernel has received by now.
struct Arrived<'a>(BorrowedFd<'a>);

impl io::Read for Arrived<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(self.0, buf, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.resets {
            return;
        }
        // As far as the kernel takes it at once: nobody waits for a stream that is no longer needed.
        let farewell = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        let farewell = pin!(tokio::task::unconstrained(farewell));
        let _ = farewell.poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
        self.written += count;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs))?;
        self.written += count;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
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
            // A FIN without close_notify: an end, and known to be a truncation (rule T13).
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
        let (counted, session) = self.stream.get_mut();
        if !session.wants_write() {
            counted.written = 0;
            self.given = 0;
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.given += count;
        Poll::Ready(Ok(count))
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
        self.resets = true;
        self.stream.get_mut().0.socket.reset_on_drop();
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        self.stream.get_mut().0.socket.bound_unacknowledged(period);
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Of a stream that is broken there is nothing to be sent.
        let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.stream.get_mut().0.socket.poll_sent(cx)
    }

    fn was_truncated(&self) -> bool {
        self.was_truncated
    }

    /// In sealed bytes, which are a few more than the plain ones: what is left of these is as good, and not nothing while
    /// anything is left.
    fn unsent(&self) -> usize {
        let (counted, session) = self.stream.get_ref();
        if !session.wants_write() {
            return 0;
        }
        self.given.saturating_sub(counted.written).max(1).min(self.given)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

    /// Both ends of a connection.
    #[expect(clippy::disallowed_methods, reason = "both ends are the test's")]
    async fn connected() -> (ClientStream, ServerStream) {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let trusting = UpstreamTls { server_name: None, trust: Trust::Anybody, identity: None };
        let connector = Connector::new(&trusting).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async {
            let socket = Socket::Tcp(TcpStream::connect(address).await.unwrap());
            connector.connect(socket, "localhost".try_into().unwrap()).await.unwrap()
        };
        let accept = async {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let (stream, _) = listener.accept().await.unwrap();
            // Or what it writes behind its tickets waits for their acknowledgement.
            stream.set_nodelay(true).unwrap();
            acceptor.accept(stream).await.unwrap()
        };
        tokio::join!(connect, accept)
    }

    /// Polls once, for nobody.
    fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn t1_what_waits_for_the_kernel_is_counted_bounded_and_flushed() {
        let (mut stream, mut server) = connected().await;
        assert_eq!(stream.unsent(), 0);
        let piece = [7; 16 * 1024];
        let mut given = 0;
        // The runtime is let in between, or it would not know what the kernel takes.
        while let Poll::Ready(count) = poll_once(|cx| Pin::new(&mut stream).poll_write(cx, &piece)) {
            given += count.unwrap();
            tokio::task::yield_now().await;
        }
        let unsent = stream.unsent();
        assert!((1..=128 * 1024).contains(&unsent), "{unsent} bytes");
        assert!(poll_once(|cx| Pin::new(&mut stream).poll_flush(cx)).is_pending());
        assert!(poll_once(|cx| stream.poll_sent(cx)).is_pending());
        let read = async {
            let mut all = vec![0; given];
            server.read_exact(&mut all).await.unwrap();
            assert!(all.iter().all(|byte| *byte == 7));
        };
        let flush = async {
            stream.flush().await.unwrap();
            assert_eq!(stream.unsent(), 0);
            std::future::poll_fn(|cx| stream.poll_sent(cx)).await;
        };
        tokio::join!(read, flush);
    }

    #[tokio::test]
    async fn t13_a_drop_is_a_close_notify_or_a_reset() {
        let (mut stream, mut server) = connected().await;
        stream.write_all(b"last").await.unwrap();
        drop(stream);
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.expect("a close_notify");
        assert_eq!(all, b"last");

        let (mut stream, mut server) = connected().await;
        stream.reset_on_drop();
        drop(stream);
        let error = server.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn h14_tickets_leave_it_quiet_and_a_byte_or_an_end_does_not() {
        let (mut stream, mut server) = connected().await;
        // The tickets of version 1.3 have come by now, behind the end of the handshake.
        assert!(stream.is_quiet());
        server.write_all(b"?").await.unwrap();
        assert!(!stream.is_quiet());
        // Asking does not eat it.
        assert_eq!(stream.read_u8().await.unwrap(), b'?');
        assert!(stream.is_quiet());
        server.shutdown().await.unwrap();
        assert!(!stream.is_quiet());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(!stream.was_truncated());

        let (mut stream, server) = connected().await;
        drop(server.into_inner());
        assert!(!stream.is_quiet());
    }
}
