//! The client's side of TLS: version 1.3, one cipher suite and one group, and rustls without buffers of its own.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        UnbufferedClientConnection, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256, kx_group::X25519},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    unbuffered::{ConnectionState, UnbufferedStatus},
    version::TLS13,
};

use super::stream::Output;
use crate::Fallible;

/// The longest message of a TLS handshake that is sent.
const HANDSHAKE: usize = 4096;
/// The most that a record has of plaintext, and what it has besides (RFC 8446 §5.2).
const RECORD: usize = 16 * 1024;
const AROUND: usize = 32;
/// Tickets that are kept.
const TICKETS: usize = 64;

/// What the connections of a client have in common.
pub(super) struct Identity {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Trusts the certificates in the file `ca`.
pub(super) fn identity(ca: &Path, is_resumed: bool) -> Fallible<Identity> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let whole = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { whole, known: OnceLock::new() }))
        .with_no_client_auth();
    config.resumption =
        if is_resumed { Resumption::store(Arc::new(Tickets::default())) } else { Resumption::disabled() };
    Ok(Identity { config: Arc::new(config), name: ServerName::try_from("localhost")? })
}

impl Identity {
    pub(super) fn session(&self) -> Fallible<Session> {
        let connection = UnbufferedClientConnection::new(self.config.clone(), self.name.clone())?;
        Ok(Session { connection, held: Vec::new(), is_ready: false })
    }
}

/// One connection's TLS.
pub(super) struct Session {
    connection: UnbufferedClientConnection,
    /// The beginning of a record.
    held: Vec<u8>,
    is_ready: bool,
}

impl Session {
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What has to stand before the bytes that come next.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes what was held and what came behind it. Holds a record that is not whole, gives plaintext to `take`, and
    /// puts answers of the TLS handshake into the output.
    pub(super) fn take(
        &mut self,
        mut input: &mut [u8],
        output: &mut Output,
        take: &mut impl FnMut(&[u8]) -> Fallible<()>,
    ) -> Fallible<()> {
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(input);
            let mut is_last = false;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        take(record.payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(mut encoder) => {
                    let count = encoder.encode(output.room(HANDSHAKE))?;
                    output.fill(count);
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::WriteTraffic(_) => {
                    self.is_ready = true;
                    is_last = true;
                }
                // The other side sends nothing any more; the end of TCP follows.
                ConnectionState::BlockedHandshake | ConnectionState::PeerClosed | ConnectionState::Closed => {
                    is_last = true;
                }
                other => return Err(format!("TLS is in the state {other:?}").into()),
            }
            input = &mut input[discard..];
            if is_last {
                self.held.clear();
                self.held.extend_from_slice(input);
                return Ok(());
            }
        }
    }

    /// Puts these bytes into the output, encrypted.
    pub(super) fn send(&mut self, bytes: &[u8], output: &mut Output) -> Fallible<()> {
        loop {
            match self.connection.process_tls_records(&mut []).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let room = output.room(bytes.len() + (bytes.len() / RECORD + 1) * AROUND);
                    let count = traffic.encrypt(bytes, room)?;
                    output.fill(count);
                    return Ok(());
                }
                ConnectionState::EncodeTlsData(mut encoder) => {
                    let count = encoder.encode(output.room(HANDSHAKE))?;
                    output.fill(count);
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                other => return Err(format!("TLS is in the state {other:?}").into()),
            }
        }
    }
}

/// Verifies a certificate the first time that it is shown, so that clients cost less than the gate.
#[derive(Debug)]
struct Verifier {
    whole: Arc<WebPkiServerVerifier>,
    known: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.known.get().is_some_and(|known| known == shown) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.whole.verify_server_cert(shown, others, name, ocsp, now)?;
        self.known.get_or_init(|| shown.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.whole.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.whole.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.whole.supported_verify_schemes()
    }
}

/// The tickets of all connections, of which the latest is used first, and each once.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == TICKETS {
            kept.remove(0);
        }
        kept.push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
