//! TLS to servers: a connector and its stream, over tokio-rustls.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

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

/// A stream to a server whose TLS handshake is complete.
#[derive(Debug)]
pub struct ClientStream {
    stream: tokio_rustls::client::TlsStream<Socket>,
    was_truncated: bool,
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
        let stream = connector.connect(name, socket).await?;
        Ok(ClientStream { stream, was_truncated: false })
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
