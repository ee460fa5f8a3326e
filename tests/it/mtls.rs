//! Clients' certificates: who is let in, who is told what, and what is known of them. Rules B10, B11, S6.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{
    AlertDescription, ClientConfig, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use wsgate::telemetry::Kind;

use crate::harness::{AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup, get, pki::Pki, soon};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A gate that asks clients for a certificate of `clients`, by these further keys.
async fn gate(pki: &Arc<Pki>, clients: &Pki, keys: &str) -> (HttpBackend, Gate) {
    let backend = HttpBackend::start().await;
    let keys = format!("client_ca = \"{}\"{keys}", clients.ca_file().display());
    let gate = Setup::to(backend.address()).tls(pki, &keys).start();
    (backend, gate)
}

/// Whether a request of this client is answered; else what it was told. It speaks as soon as it may, which in TLS 1.3 is
/// before its certificate has been looked at.
async fn asks(address: SocketAddr, pki: &Pki, config: &ClientConfig) -> Result<(), String> {
    let mut client = pki.try_client(address, "localhost", config).await.map_err(|error| error.to_string())?;
    client.offer_bytes(get("/", "Connection: close\r\n")).await.map_err(|error| error.to_string())?;
    let (answer, end) = client.read_to_any_end().await;
    end.map_err(|error| error.to_string())?;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{answer:?}");
    Ok(())
}

/// The subject in each record of an exchange so far.
fn subjects(gate: &Gate) -> Vec<Option<Box<str>>> {
    let exchanges = gate.records().into_iter().filter(|record| record.kind == Kind::Exchange);
    exchanges.map(|record| record.tls.and_then(|tls| tls.client)).collect()
}

fn for_clients(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
}

#[tokio::test]
async fn b11_a_right_certificate_is_let_in_and_recorded_in_resumed_sessions_too() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let (_backend, gate) = gate(&pki, &clients, "").await;
    for version in BOTH {
        let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &[version]);
        for _ in 0..3 {
            asks(gate.address(), &pki, &config).await.expect("to be let in");
        }
    }
    gate.at_rest().await;
    let resumed: Vec<_> = gate.records().into_iter().map(|record| record.tls.unwrap().resumed).collect();
    assert_eq!(resumed, [false, true, true, false, true, true]);
    assert!(subjects(&gate).iter().all(|subject| subject.as_deref() == Some("CN=alice,O=Example")));
}

#[tokio::test]
async fn b11_the_subject_is_in_both_records_of_a_tunnel() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let backend = Backend::listen().await;
    let keys = format!("client_ca = \"{}\"", clients.ca_file().display());
    let gate = Setup::to(backend.address()).tls(&pki, &keys).start();
    let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &BOTH);
    let mut client = pki.client(gate.address(), "localhost", &config).await;
    client.send(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    client.read_head().await;
    drop(client);
    drop(server);
    for kind in [Kind::TunnelOpen, Kind::TunnelEnd] {
        let record = gate.record_of(kind).await;
        assert_eq!(record.tls.as_ref().unwrap().client.as_deref(), Some("CN=alice,O=Example"));
        let (mut text, mut json) = (String::new(), Vec::new());
        record.write_text(&mut text);
        record.write_json(&mut json);
        assert!(text.contains("/localhost/client:\"CN=alice,O=Example\" "), "{text}");
        let json = String::from_utf8(json).unwrap();
        assert!(json.contains(r#""resumed":false,"client":"CN=alice,O=Example"}"#), "{json}");
    }
}

/// Certificates that are refused, with the alert and a word of the error for each.
fn wrong_ones(
    clients: &Pki,
    others: &Pki,
) -> Vec<(&'static str, crate::harness::pki::Leaf, AlertDescription, &'static str)> {
    let with = |change: fn(&mut CertificateParams)| clients.leaf_with("alice", change);
    vec![
        ("another CA's", others.leaf("alice"), AlertDescription::DecryptError, "BadSignature"),
        ("expired", clients.leaf_until("alice", 2001), AlertDescription::CertificateExpired, "expired"),
        (
            "not yet valid",
            with(|params| params.not_before = date_time_ymd(3000, 1, 1)),
            AlertDescription::CertificateExpired,
            "not valid yet",
        ),
        (
            "a server's",
            with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            AlertDescription::UnsupportedCertificate,
            "extended key usage",
        ),
        (
            "a CA's own",
            with(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            AlertDescription::CertificateUnknown,
            "CaUsedAsEndEntity",
        ),
    ]
}

#[tokio::test]
async fn b11_a_wrong_certificate_is_refused_with_its_alert_and_a_record() {
    for keys in ["", ", client_auth = \"optional\""] {
        let (pki, clients, others) = (Pki::new(), Pki::new(), Pki::new());
        for (what, leaf, alert, word) in wrong_ones(&clients, &others) {
            for version in BOTH {
                let (_backend, gate) = gate(&pki, &clients, keys).await;
                let told = asks(gate.address(), &pki, &pki.client_config_with(&leaf, &[], &[version])).await;
                let told = told.expect_err(what);
                assert!(told.contains(&format!("{alert:?}")), "{what}, {version:?}: {told}");
                let record = gate.record_of(Kind::TlsFailure).await;
                let expected = (Some("tls_client_cert"), Some("gate"), Some("tls"));
                assert_eq!((record.ending, record.ended_by, record.phase), expected, "{what}");
                let error = record.error.unwrap();
                assert!(error.starts_with("client certificate refused: ") && error.contains(word), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn b11_a_certificate_without_its_key_is_refused() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let stolen = clients.leaf("alice");
    let thief = crate::harness::pki::Leaf { key: clients.leaf("bob").key, ..stolen };
    for version in BOTH {
        let (_backend, gate) = gate(&pki, &clients, "").await;
        asks(gate.address(), &pki, &pki.client_config_with(&thief, &[], &[version]))
            .await
            .expect_err("a thief");
        let record = gate.record_of(Kind::TlsFailure).await;
        assert_eq!(record.ending, Some("tls_client_cert"), "{:?}", record.error);
    }
}

#[tokio::test]
async fn b11_a_chain_leads_to_the_ca_through_what_the_client_sends_along() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let (office, others) = (clients.intermediate(), Pki::new());
    let leaf = office.leaf_with("alice", for_clients);
    for version in BOTH {
        let (_backend, gate) = gate(&pki, &clients, "").await;
        let whole = pki.client_config_with(&leaf, &[office.ca_der()], &[version]);
        for _ in 0..2 {
            asks(gate.address(), &pki, &whole).await.expect("to be let in");
        }
        let told = asks(gate.address(), &pki, &pki.client_config_with(&leaf, &[], &[version])).await;
        assert!(told.expect_err("half a chain").contains("UnknownCA"));
        // Its own authority is not one of those that the file names.
        let other = pki.client_config_with(&others.leaf("alice"), &[office.ca_der()], &[version]);
        asks(gate.address(), &pki, &other).await.expect_err("another's leaf");
        gate.at_rest().await;
        let alice = Some("CN=alice,O=Example".into());
        assert_eq!(subjects(&gate), [alice.clone(), alice]);
    }
}

#[tokio::test]
async fn b11_an_absent_certificate_is_refused_where_one_is_required() {
    let (pki, clients) = (Pki::new(), Pki::new());
    for version in BOTH {
        let (_backend, gate) = gate(&pki, &clients, "").await;
        let told =
            asks(gate.address(), &pki, &pki.client_config_of(&[version])).await.expect_err("no certificate");
        assert!(told.contains("CertificateRequired"), "{version:?}: {told}");
        let record = gate.record_of(Kind::TlsFailure).await;
        assert_eq!((record.ending, record.ended_by), (Some("tls_client_cert"), Some("gate")));
    }
}

#[tokio::test]
async fn b11_optional_lets_in_who_shows_none_and_names_who_shows_one() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let (_backend, gate) = gate(&pki, &clients, ", client_auth = \"optional\"").await;
    for version in BOTH {
        asks(gate.address(), &pki, &pki.client_config_of(&[version])).await.expect("to be let in");
        let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &[version]);
        asks(gate.address(), &pki, &config).await.expect("to be let in");
    }
    gate.at_rest().await;
    let alice = Some("CN=alice,O=Example".into());
    assert_eq!(subjects(&gate), [None, alice.clone(), None, alice]);
}

#[tokio::test]
async fn b11_nobody_is_asked_where_there_is_no_client_ca() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let config = pki.client_config_with(&clients.leaf("alice"), &[], &BOTH);
    asks(gate.address(), &pki, &config).await.expect("to be let in");
    assert_eq!(subjects(&gate), [None]);
}

/// A gate of two workers with a listener for each of these keys of `tls`.
fn listeners(pki: &Arc<Pki>, backend: &HttpBackend, keys: &[String]) -> Gate {
    let leaf = pki.leaf("localhost");
    let mut toml = "[server]\nworkers = 2\ndrain_spread = \"0s\"\n".to_owned();
    for keys in keys {
        let (cert, key) = (leaf.cert.display(), leaf.key.display());
        let tls = format!("cert = \"{cert}\", key = \"{key}\"{keys}");
        let _ = writeln!(toml, "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ {tls} }}");
    }
    let _ = writeln!(
        toml,
        "[upstream.main]\nservers = [\"{}\"]\n[[route]]\nupstream = \"main\"",
        backend.address()
    );
    Gate::start(&toml, Some(Arc::clone(pki)))
}

#[tokio::test]
async fn s6_b10_tickets_do_not_cross_listeners_with_different_rules() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let backend = HttpBackend::start().await;
    let ca = format!(", client_ca = \"{}\"", clients.ca_file().display());
    let keys = [String::new(), format!("{ca}, client_auth = \"optional\""), ca];
    let gate = listeners(&pki, &backend, &keys);
    let [open, optional, required] = [0, 1, 2].map(|listener| gate.address_of(listener));
    for version in BOTH {
        for from in [open, optional] {
            let config = pki.client_config_of(&[version]);
            asks(from, &pki, &config).await.expect("to be let in");
            let told = asks(required, &pki, &config).await.expect_err("no certificate");
            assert!(told.contains("CertificateRequired"), "{told}");
        }
        let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &[version]);
        for from in [required, optional, open, required] {
            asks(from, &pki, &config).await.expect("to be let in");
        }
    }
    gate.at_rest().await;
    let resumed = |record: &crate::harness::Record| record.tls.as_ref().is_some_and(|tls| tls.resumed);
    assert_eq!(gate.records().iter().filter(|record| resumed(record)).count(), 0);
    let alice = subjects(&gate).into_iter().flatten().count();
    assert_eq!(alice, 2 * 3, "where somebody asks");
}

#[tokio::test]
async fn s6_b10_a_session_resumes_on_every_worker() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let backend = HttpBackend::start().await;
    let gate = listeners(&pki, &backend, &[format!(", client_ca = \"{}\"", clients.ca_file().display())]);
    for version in BOTH {
        let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &[version]);
        // What stays open makes the next go to the other worker.
        let mut open: Vec<Peer> = Vec::new();
        for _ in 0..6 {
            let mut client = pki.client(gate.address(), "localhost", &config).await;
            client.send(get("/", "")).await;
            soon("an answer", client.read_response()).await;
            let resumes = client.tls().handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            assert_eq!(resumes, !open.is_empty(), "{version:?}, connection {}", open.len());
            open.push(client);
        }
    }
    assert!(subjects(&gate).iter().all(|subject| subject.as_deref() == Some("CN=alice,O=Example")));
}

#[tokio::test]
async fn b10_a_host_that_is_not_the_sni_is_served_since_a_listener_has_one_rule() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let (_backend, gate) = gate(&pki, &clients, "").await;
    let config = pki.client_config_with(&clients.leaf_with("alice", for_clients), &[], &BOTH);
    let mut client = pki.client(gate.address(), "localhost", &config).await;
    client.send("GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 200);
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((&*record.host, record.tls.unwrap().sni.as_deref()), ("elsewhere.example", Some("localhost")));
}
