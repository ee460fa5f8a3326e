//! The TLS handshake of a client with the gate, both ends of it, over pipes.

use std::{
    fs, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use divan::Bencher;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    runtime::{self, Runtime},
};
use tokio_rustls::TlsConnector;
use wsgate::{
    buffered::Stream,
    config::{CertificateSource, TlsVersion},
    tls::{Acceptor, Tickets, acceptor},
};

/// More than a handshake sends.
const PIPE: usize = 64 * 1024;

/// A pipe as the socket of a connection.
struct Wire(DuplexStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Stream for Wire {
    fn reset_on_drop(&mut self) {}
}

/// Both sides.
struct Sides {
    runtime: Runtime,
    acceptor: Acceptor,
    connector: TlsConnector,
}

impl Sides {
    fn new(algorithm: &'static SignatureAlgorithm, resumption: Resumption) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = certificate.self_signed(&key).expect("a certificate");
        fs::write(folder.path().join("gate.crt"), certificate.pem()).expect("a file");
        fs::write(folder.path().join("gate.key"), key.serialize_pem()).expect("a file");
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { cert = \"gate.crt\", key = \"gate.key\" }\n\
            [upstream.a]\nservers = [\"127.0.0.1:80\"]\n[[route]]\nupstream = \"a\"\n";
        let config = crate::balancing::config(text.to_owned(), folder.path());
        let tls = config.listeners[0].tls.as_ref().expect("TLS");
        let CertificateSource::Files(identities) = &tls.source else { panic!("files") };
        let tickets = Tickets::new().expect("keys");
        Self {
            runtime: runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
            acceptor: acceptor(identities, TlsVersion::Tls12, None, &tickets).expect("an acceptor"),
            connector: connector(certificate.der().clone(), resumption),
        }
    }

    /// A TLS handshake, and a byte from the gate, behind which its ticket stands.
    fn shake_hands(&self) {
        self.runtime.block_on(async {
            let (gate, client) = duplex(PIPE);
            let gate = async {
                let mut accepted = self.acceptor.accept(Wire(gate), None).await.expect("a TLS handshake");
                accepted.stream.write_all(b"x").await.expect("a client that reads");
                accepted.stream.flush().await.expect("a client that reads");
                accepted
            };
            let client = async {
                let name = ServerName::try_from("localhost").expect("a name");
                let mut stream = self.connector.connect(name, client).await.expect("a TLS handshake");
                stream.read_u8().await.expect("a byte");
                stream
            };
            tokio::join!(gate, client)
        });
    }
}

fn connector(root: CertificateDer<'static>, resumption: Resumption) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a certificate");
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = resumption;
    TlsConnector::from(Arc::new(config))
}

#[divan::bench]
fn ecdsa(bencher: Bencher<'_, '_>) {
    let sides = Sides::new(&PKCS_ECDSA_P256_SHA256, Resumption::disabled());
    bencher.bench_local(|| sides.shake_hands());
}

#[divan::bench]
fn rsa_2048(bencher: Bencher<'_, '_>) {
    let sides = Sides::new(&PKCS_RSA_SHA256, Resumption::disabled());
    bencher.bench_local(|| sides.shake_hands());
}

#[divan::bench]
fn resumed(bencher: Bencher<'_, '_>) {
    let sides = Sides::new(&PKCS_ECDSA_P256_SHA256, Resumption::in_memory_sessions(8));
    sides.shake_hands();
    bencher.bench_local(|| sides.shake_hands());
}
