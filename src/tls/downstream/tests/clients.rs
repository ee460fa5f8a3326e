//! Clients' certificates over sessions that are resumed: rustls verifies them once.

use rustls::{
    AlertDescription, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerified,
    version::{TLS12, TLS13},
};

use super::*;
use crate::{config::ClientAuth, tls::ClientCertificate};

/// Another year, in which certificates of today have expired.
const LATER: Duration = Duration::from_secs(400 * 24 * 3600);

/// One place of a server, before and after a change, with the same keys of tickets.
struct Place {
    authority: Authority,
    identity: crate::config::Identity,
    tickets: Tickets,
}

impl Place {
    fn new() -> Self {
        let authority = Authority::new();
        Self { identity: authority.identity(&["localhost"]), authority, tickets: Tickets::new().unwrap() }
    }

    fn acceptor(&self, rule: Option<&ClientAuth>) -> Acceptor {
        acceptor(std::slice::from_ref(&self.identity), TlsVersion::Tls12, rule, &self.tickets).unwrap()
    }

    /// A client of whom a session of this version is known to `before`.
    async fn known(&self, before: &Acceptor, config: &ClientConfig) {
        visit(before, config).await.expect("a TLS handshake");
    }
}

/// Connects, and reads a byte so that the ticket arrives: what was agreed, or the failure and what the client was told.
async fn visit(acceptor: &Acceptor, config: &ClientConfig) -> Result<TlsInfo, (TlsFailure, Option<Error>)> {
    let (wire, client) = pipe(64 * 1024);
    let client = async {
        let mut client = connector(config.clone()).connect(name("localhost"), client).await?;
        client.read_u8().await
    };
    let gate = async {
        let mut accepted = acceptor.accept(wire, None).await?;
        accepted.stream.write_all(b"!").await.unwrap();
        Ok::<_, TlsFailure>(accepted.info)
    };
    match tokio::join!(gate, client) {
        (Ok(info), read) => read.map(|_| info).map_err(|error| panic!("{error}")),
        (Err(failure), told) => {
            let told = told.unwrap_err();
            Err((failure, told.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned()))
        }
    }
}

fn subject(info: &TlsInfo) -> Option<&str> {
    info.client.as_ref().map(|client| &*client.subject)
}

/// The failure is the client's certificate, and this is what the client was told.
fn assert_refused(visit: Result<TlsInfo, (TlsFailure, Option<Error>)>, alert: AlertDescription) {
    let (failure, told) = visit.expect_err("a refusal");
    assert_eq!(failure.label(), "tls_client_cert", "{failure:?}");
    assert_eq!(told, Some(Error::AlertReceived(alert)));
}

#[tokio::test]
async fn b11_a_certificate_is_known_in_a_resumed_session_as_in_a_new_one() {
    let place = Place::new();
    let acceptor = place.acceptor(Some(&place.authority.client_auth(true)));
    for version in [&TLS12, &TLS13] {
        let (chain, key) = place.authority.shown("alice", 4000);
        let leaf = chain[0].clone();
        let config = place.authority.client_showing((chain, key), &[version]);
        for resumed in [false, true, true] {
            let info = visit(&acceptor, &config).await.unwrap();
            assert_eq!(info.resumed, resumed, "{version:?}");
            assert_eq!(info.client.as_deref(), Some(&ClientCertificate::describe(&leaf)));
            assert_eq!(subject(&info), Some("CN=alice"));
        }
    }
}

#[tokio::test]
async fn s6_a_session_is_judged_by_the_authority_of_today() {
    let place = Place::new();
    let other = Authority::new();
    let before = place.acceptor(Some(&place.authority.client_auth(true)));
    for required in [true, false] {
        let after = place.acceptor(Some(&other.client_auth(required)));
        for version in [&TLS12, &TLS13] {
            let config = place.authority.client_showing(place.authority.shown("alice", 4000), &[version]);
            place.known(&before, &config).await;
            assert_refused(visit(&after, &config).await, AlertDescription::UnknownCA);
        }
    }
}

#[tokio::test]
async fn s6_a_session_without_a_certificate_does_not_pass_where_one_is_required() {
    let place = Place::new();
    let rule = |required| place.acceptor(Some(&place.authority.client_auth(required)));
    for before in [place.acceptor(None), rule(false)] {
        for version in [&TLS12, &TLS13] {
            let config = place.authority.client(&[version]);
            place.known(&before, &config).await;
            assert_refused(visit(&rule(true), &config).await, AlertDescription::CertificateRequired);
            let config = place.authority.client(&[version]);
            place.known(&before, &config).await;
            assert!(visit(&rule(false), &config).await.unwrap().resumed);
        }
    }
}

#[tokio::test]
async fn s6_a_certificate_of_a_session_is_forgotten_where_nobody_is_asked() {
    let place = Place::new();
    let before = place.acceptor(Some(&place.authority.client_auth(true)));
    let config = place.authority.client_showing(place.authority.shown("alice", 4000), &[&TLS13]);
    place.known(&before, &config).await;
    let info = visit(&place.acceptor(None), &config).await.unwrap();
    assert_eq!((info.resumed, subject(&info)), (true, None));
}

/// Judges as it will be done in another year.
#[derive(Debug)]
struct InAnotherYear(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for InAnotherYear {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let later = Duration::from_secs(now.as_secs()) + LATER;
        self.0.verify_client_cert(leaf, issuers, UnixTime::since_unix_epoch(later))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[tokio::test]
async fn s6_b11_a_session_does_not_outlive_its_certificate() {
    let place = Place::new();
    let now = place.acceptor(Some(&place.authority.client_auth(true)));
    let later = Acceptor {
        config: Arc::clone(&now.config),
        clients: now.clients.clone().map(|clients| Arc::new(InAnotherYear(clients)) as _),
    };
    let year = time::OffsetDateTime::now_utc().year() + 1;
    for version in [&TLS12, &TLS13] {
        let config = place.authority.client_showing(place.authority.shown("alice", year), &[version]);
        place.known(&now, &config).await;
        assert!(visit(&now, &config).await.unwrap().resumed);
        assert_refused(visit(&later, &config).await, AlertDescription::CertificateExpired);
        let lasting = place.authority.client_showing(place.authority.shown("bob", 4000), &[version]);
        place.known(&now, &lasting).await;
        assert!(visit(&later, &lasting).await.unwrap().resumed);
    }
}

#[tokio::test]
async fn s6_a_session_that_is_refused_is_not_tried_again() {
    let place = Place::new();
    let before = place.acceptor(None);
    let after = place.acceptor(Some(&place.authority.client_auth(true)));
    // The client of one session has a certificate since.
    let mut config = place.authority.client(&[&TLS13]);
    place.known(&before, &config).await;
    assert_refused(visit(&after, &config).await, AlertDescription::CertificateRequired);
    let store = config.resumption.clone();
    config = place.authority.client_showing(place.authority.shown("alice", 4000), &[&TLS13]);
    config.resumption = store;
    let info = visit(&after, &config).await.unwrap();
    assert_eq!((info.resumed, subject(&info)), (false, Some("CN=alice")));
}

#[tokio::test]
async fn s6_a_session_behind_a_hello_retry_is_judged_too() {
    let place = Place::new();
    let other = Authority::new();
    let before = place.acceptor(Some(&place.authority.client_auth(true)));
    let after = place.acceptor(Some(&other.client_auth(true)));
    let config = place.authority.client_showing(place.authority.shown("alice", 4000), &[&TLS13]);
    place.known(&before, &config).await;
    // The client's first key share is of no use to this one, so it has to say hello twice.
    let mut provider = crate::tls::store::provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let clients = after.clients.clone().unwrap();
    let mut narrow = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::clone(&clients))
        .with_cert_resolver(Arc::clone(&after.config.cert_resolver));
    narrow.ticketer = Arc::clone(&after.config.ticketer);
    narrow.ignore_client_order = true;
    let narrow = Acceptor::new(narrow, Some(clients));
    assert_refused(visit(&narrow, &config).await, AlertDescription::UnknownCA);
}

#[tokio::test]
async fn b11_more_authorities_than_tls_can_name_are_not_named() {
    let place = Place::new();
    let names = (0..700).map(|place| format!("{place:0200}"));
    let mut ca: Vec<_> =
        names.flat_map(|name| Authority::named(&name).client_auth(true).ca.to_vec()).collect();
    ca.extend(place.authority.client_auth(true).ca.iter().cloned());
    assert!(ca.len() * 200 > 64 * 1024);
    let acceptor = place.acceptor(Some(&ClientAuth { ca: ca.into(), required: true }));
    for version in [&TLS12, &TLS13] {
        let config = place.authority.client_showing(place.authority.shown("alice", 4000), &[version]);
        assert_eq!(subject(&visit(&acceptor, &config).await.unwrap()), Some("CN=alice"));
    }
}
