use rustls::{
    ClientConfig, DigitallySignedStruct,
    SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PKCS1_SHA256, RSA_PSS_SHA256},
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    buffered::Socket,
    tls::{
        TlsInfo,
        pki::{Authority, name},
    },
};

/// Takes any certificate, and understands these signatures.
#[derive(Debug)]
struct Understands(&'static [SignatureScheme]);

const BOTH: &[SignatureScheme] = &[RSA_PSS_SHA256, RSA_PKCS1_SHA256, ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[RSA_PSS_SHA256, RSA_PKCS1_SHA256];
const ECDSA: &[SignatureScheme] = &[ECDSA_NISTP256_SHA256];

impl ServerCertVerifier for Understands {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.to_vec()
    }
}

/// A listener with identities that are known by their place.
struct Listener {
    identities: Vec<Identity>,
    acceptor: Acceptor,
}

impl Listener {
    fn new(identities: Vec<Identity>) -> Self {
        let acceptor = acceptor(&identities, TlsVersion::Tls12, None, &Tickets::new().unwrap()).unwrap();
        Self { identities, acceptor }
    }

    /// Which identity answers a client of TLS 1.3 that asks for `target`.
    async fn answers(&self, target: &str, schemes: &'static [SignatureScheme]) -> usize {
        self.answers_in(&TLS13, target, schemes).await.0
    }

    async fn answers_in(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
        target: &str,
        schemes: &'static [SignatureScheme],
    ) -> (usize, TlsInfo) {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Understands(schemes)))
            .with_no_client_auth();
        let (gate, client) = UnixStream::pair().unwrap();
        let (client, accepted) = tokio::join!(
            TlsConnector::from(Arc::new(config)).connect(name(target), client),
            self.acceptor.accept(Socket::from(gate), None)
        );
        let client = client.unwrap();
        let leaf = &client.get_ref().1.peer_certificates().unwrap()[0];
        let place = self.identities.iter().position(|identity| identity.certified.cert[0] == *leaf);
        (place.unwrap(), accepted.unwrap().info)
    }
}

#[tokio::test]
async fn s6_sni_chooses_the_certificate_exact_before_wildcard() {
    let authority = Authority::new();
    let listener = Listener::new(vec![
        authority.identity(&["first.example.com", "other.net"]),
        authority.identity(&["*.Example.com"]),
        authority.identity(&["Special.example.com", "*.deep.example.com"]),
    ]);
    for (target, place) in [
        ("first.example.com", 0),
        ("OTHER.net", 0),
        ("any.example.com", 1),
        ("ANY.EXAMPLE.COM", 1),
        ("special.example.com", 2),
        ("a.deep.example.com", 2),
    ] {
        assert_eq!(listener.answers(target, BOTH).await, place, "{target}");
    }
}

#[tokio::test]
async fn s6_unknown_or_absent_sni_gets_the_first_certificate() {
    let authority = Authority::new();
    let listener = Listener::new(vec![
        authority.identity(&["first.example"]),
        authority.identity(&["example.com", "*.example.com"]),
    ]);
    // A wildcard stands for one label, and no less than one.
    for target in ["unknown.net", "com", "a.b.example.com", "127.0.0.1", "::1"] {
        assert_eq!(listener.answers(target, BOTH).await, 0, "{target}");
    }
    let (_, info) = listener.answers_in(&TLS13, "127.0.0.1", BOTH).await;
    assert_eq!(info.sni, None);
    let (_, info) = listener.answers_in(&TLS13, "A.Example.com", BOTH).await;
    assert_eq!(info.sni.as_deref(), Some("a.example.com"));
}

#[tokio::test]
async fn b10_rsa_and_ecdsa_for_one_name_by_what_the_client_understands() {
    let authority = Authority::new();
    let listener = Listener::new(vec![
        authority.rsa_identity(&["example.com"]),
        authority.identity(&["example.com", "www.example.com"]),
        authority.identity(&["www.example.com"]),
    ]);
    for version in [&TLS12, &TLS13] {
        // ECDSA costs a fraction of RSA, so it goes to whoever takes both; also without a known SNI.
        for target in ["example.com", "unknown.net"] {
            for (schemes, place) in [(BOTH, 1), (ECDSA, 1), (RSA, 0)] {
                let (got, _) = listener.answers_in(version, target, schemes).await;
                assert_eq!(got, place, "{version:?} {target} {schemes:?}");
            }
        }
        // Among equals the order of the file decides.
        assert_eq!(listener.answers_in(version, "www.example.com", BOTH).await.0, 1);
    }
}

#[tokio::test]
async fn a_client_without_a_fitting_signature_is_refused() {
    let listener = Listener::new(vec![Authority::new().rsa_identity(&["example.com"])]);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Understands(ECDSA)))
        .with_no_client_auth();
    let (gate, client) = UnixStream::pair().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let (client, failure) = tokio::join!(
        async { connector.connect(name("example.com"), client).await.map(drop) },
        listener.acceptor.accept(Socket::from(gate), None)
    );
    assert!(client.is_err());
    assert_eq!(failure.unwrap_err().label(), "tls_protocol");
}

#[test]
fn a_listener_needs_a_certificate() {
    assert!(acceptor(&[], TlsVersion::Tls13, None, &Tickets::new().unwrap()).is_err());
}

#[test]
fn s7_debug_shows_no_private_key() {
    let authority = Authority::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let identities = [authority.identity_with(&["localhost"], &key)];
    let rule = authority.client_auth(true);
    let acceptor = acceptor(&identities, TlsVersion::Tls12, Some(&rule), &Tickets::new().unwrap()).unwrap();
    let shown = format!("{acceptor:?} {acceptor:#?} {identities:?}").replace([' ', '\n'], "").to_lowercase();
    assert!(shown.contains("certifiedkey"), "the key's own Debug is among it");
    // In PKCS #8 the scalar of a P-256 key is here.
    for part in key.serialize_der()[36..68].windows(6) {
        let decimal: Vec<_> = part.iter().map(ToString::to_string).collect();
        let hex: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!shown.contains(&decimal.join(",")) && !shown.contains(&hex.concat()), "{part:?}");
    }
}
