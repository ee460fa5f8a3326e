//! TLS in front: versions, names, protocols and failures. Rules S1, S2, S6, T13, B10.

use std::{sync::Arc, time::Duration};

use rustls::{
    NamedGroup,
    crypto::{SupportedKxGroup, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wsgate::telemetry::Kind;

use crate::harness::{Backend, Gate, HttpBackend, Peer, Setup, get, ok, pki::Pki, soon};

async fn gate(keys: &str) -> (Arc<Pki>, HttpBackend, Gate) {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, keys).start();
    (pki, backend, gate)
}

async fn expect_failure(gate: &Gate, label: &str, by: &str) {
    let record = gate.record_of(Kind::TlsFailure).await;
    assert_eq!((record.ending, record.ended_by), (Some(label), Some(by)));
    assert_eq!((record.phase, record.status), (Some("tls"), None));
    assert!(record.error.is_some());
}

#[tokio::test]
async fn s6_both_versions_are_spoken_and_recorded() {
    let (pki, _backend, gate) = gate("").await;
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let mut client = pki.client(gate.address(), "localhost", &pki.client_config_of(&[version])).await;
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.text(), "hello");
        let record = gate.record(|record| record.tls.as_ref().is_some_and(|tls| tls.version == name)).await;
        let tls = record.tls.unwrap();
        assert_eq!((tls.sni.as_deref(), tls.resumed), (Some("localhost"), false));
        assert!(tls.cipher.starts_with("TLS"));
    }
}

#[tokio::test]
async fn s6_min_version_1_3_refuses_1_2() {
    let (pki, _backend, gate) = gate("min_version = \"1.3\"").await;
    let old = pki.client_config_of(&[&TLS12]);
    let error = pki.try_client(gate.address(), "localhost", &old).await.expect_err("too old");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    expect_failure(&gate, "tls_protocol", "gate").await;
    let new = pki.client_config_of(&[&TLS13]);
    pki.client(gate.address(), "localhost", &new).await;
}

#[tokio::test]
async fn s6_b10_certificates_by_sni_and_the_first_for_an_unknown_name() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let leaves = [pki.leaf("a.example"), pki.leaf("b.example"), pki.leaf("*.wild.example")];
    let list: Vec<_> = leaves
        .iter()
        .map(|leaf| format!("{{ cert = \"{}\", key = \"{}\" }}", leaf.cert.display(), leaf.key.display()))
        .collect();
    let keys = format!("certificates = [{}]", list.join(", "));
    let gate = Setup::to(backend.address()).tls_keys(keys, &pki).start();
    for (name, leaf) in [("a.example", 0), ("b.example", 1), ("B.Example", 1), ("x.wild.example", 2)] {
        let mut client = pki.client(gate.address(), name, &pki.client_config()).await;
        assert_eq!(client.tls().peer_certificates().unwrap()[0], leaves[leaf].der, "{name}");
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.status(), 200);
    }
    // An address sends no SNI; an unknown name is answered all the same, and the client sees that it is another's.
    for name in ["127.0.0.1", "unknown.example", "x.y.wild.example"] {
        let error = pki.try_client(gate.address(), name, &pki.client_config()).await.expect_err("another's");
        assert!(
            error.to_string().contains("NotValidForName") || error.to_string().contains("not valid for name"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn s6_sessions_resume() {
    let (pki, _backend, gate) = gate("").await;
    let config = pki.client_config();
    for resumed in [false, true] {
        let mut client = pki.client(gate.address(), "localhost", &config).await;
        client.send(get("/", "Connection: close\r\n")).await;
        client.read_response().await;
        client.expect_end().await;
        gate.record(|record| record.tls.as_ref().is_some_and(|tls| tls.resumed == resumed)).await;
    }
}

#[tokio::test]
async fn s6_tickets_do_not_cross_listeners() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let leaf = pki.leaf("localhost");
    let listener = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n",
        leaf.cert.display(),
        leaf.key.display()
    );
    let toml = format!(
        "[server]\nworkers = 1\ndrain_spread = \"0s\"\n{listener}{listener}[upstream.main]\nservers = [\"{}\"]\n\
         [[route]]\nupstream = \"main\"\n",
        backend.address()
    );
    let gate = Gate::start(&toml, Some(Arc::clone(&pki)));
    let config = pki.client_config();
    for (listener, resumes) in [(0, false), (1, false), (0, true)] {
        let mut client = pki.client(gate.address_of(listener), "localhost", &config).await;
        client.send(get("/", "Connection: close\r\n")).await;
        client.read_response().await;
        client.expect_end().await;
        let resumed = gate.records().last().and_then(|record| record.tls.as_ref()).map(|tls| tls.resumed);
        // A ticket of the second listener replaces that of the first, so the last one may not resume either.
        assert!(resumed == Some(false) || resumes, "listener {listener}");
    }
}

#[tokio::test]
async fn s6_no_early_data_is_offered() {
    let (pki, _backend, gate) = gate("").await;
    let mut config = pki.client_config();
    config.enable_early_data = true;
    for _ in 0..2 {
        let mut client = pki.client(gate.address(), "localhost", &config).await;
        client.send(get("/", "Connection: close\r\n")).await;
        client.read_response().await;
        assert!(client.tls().negotiated_cipher_suite().is_some());
        client.expect_end().await;
    }
}

#[tokio::test]
async fn s6_x25519mlkem768_is_spoken_and_preferred() {
    let (pki, _backend, gate) = gate("").await;
    let preferred = pki.client(gate.address(), "localhost", &pki.client_config()).await;
    let group = |client: &Peer| client.tls().negotiated_key_exchange_group().map(SupportedKxGroup::name);
    assert_eq!(group(&preferred), Some(NamedGroup::X25519MLKEM768));
    // And to whoever speaks nothing else, or nothing of it.
    for only in [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1] {
        let client = pki.client(gate.address(), "localhost", &pki.client_config_of_group(only)).await;
        assert_eq!(group(&client), Some(only.name()));
    }
}

#[tokio::test]
async fn alpn_is_http_1_1_or_nothing() {
    let (pki, _backend, gate) = gate("").await;
    for (offered, agreed) in
        [(vec![], None), (vec!["h2", "http/1.1"], Some("http/1.1")), (vec!["http/1.1"], Some("http/1.1"))]
    {
        let mut config = pki.client_config();
        config.alpn_protocols = offered.iter().map(|name: &&str| name.as_bytes().to_vec()).collect();
        let client = pki.client(gate.address(), "localhost", &config).await;
        assert_eq!(client.tls().alpn_protocol(), agreed.map(str::as_bytes));
    }
    let mut config = pki.client_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = pki.try_client(gate.address(), "localhost", &config).await.expect_err("nothing in common");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    expect_failure(&gate, "tls_alpn", "gate").await;
}

#[tokio::test]
async fn s1_tls_timeout_however_the_handshake_trickles() {
    let pki = Pki::new();
    let backend = Backend::listen().await;
    let gate =
        Setup::to(backend.address()).tls(&pki, "").listener("timeout.tls_handshake = \"300ms\"").start();
    let mut silent = Peer::dial(gate.address()).await;
    let mut slow = Peer::dial(gate.address()).await;
    slow.send([0x16, 3, 1, 0, 200]).await;
    silent.expect_gone().await;
    // An alert, perhaps.
    let _ = slow.read_to_any_end().await;
    expect_failure(&gate, "tls_timeout", "gate").await;
    let timeouts = || gate.records().iter().filter(|record| record.ending == Some("tls_timeout")).count();
    soon("both records", async {
        while timeouts() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop((silent, slow));
    gate.at_rest().await;
}

#[tokio::test]
async fn tls_protocol_for_what_is_no_tls() {
    let (_pki, _backend, gate) = gate("").await;
    let mut client = Peer::dial(gate.address()).await;
    client.send(get("/", "")).await;
    let (alert, _) = client.read_to_any_end().await;
    assert_eq!(&alert[..3], [0x15, 3, 3], "an alert: {alert:02x?}");
    expect_failure(&gate, "tls_protocol", "gate").await;
}

#[tokio::test]
async fn tls_protocol_by_the_client_who_does_not_trust_us() {
    let (_pki, _backend, gate) = gate("").await;
    let stranger = Pki::new();
    stranger
        .try_client(gate.address(), "localhost", &stranger.client_config())
        .await
        .expect_err("another's CA");
    expect_failure(&gate, "tls_protocol", "downstream").await;
}

#[tokio::test]
async fn a_client_that_is_lost_within_the_tls_handshake_is_gone() {
    let (_pki, _backend, gate) = gate("").await;
    let mut client = Peer::dial(gate.address()).await;
    client.send([0x16, 3, 1]).await;
    drop(client);
    expect_failure(&gate, "downstream_gone", "downstream").await;
    gate.at_rest().await;
}

#[tokio::test]
async fn a_port_check_leaves_no_record() {
    let (_pki, _backend, gate) = gate("").await;
    drop(Peer::dial(gate.address()).await);
    // What came later has its record, so what came before would have one.
    let mut client = gate.ask(get("/", "")).await;
    client.read_response().await;
    gate.record_of(Kind::Exchange).await;
    assert_eq!(gate.records().len(), 1);
}

#[tokio::test]
async fn hsts_is_added_to_every_answer_over_tls() {
    let pki = Pki::new();
    let backend = Backend::listen().await.serve_http(|_, _| {
        "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 0\r\n\r\n".into()
    });
    let gate = Setup::to(backend.address()).tls(&pki, "hsts = \"365d\"").start();
    let mut client = gate.ask(get("/", "")).await;
    let head = client.read_response().await.head;
    assert_eq!(head.get("strict-transport-security"), Some("max-age=31536000"));
    // Refusals are answers too.
    client.send("GET /.. HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.read_response().await.head;
    assert_eq!((head.status(), head.get("strict-transport-security")), (400, Some("max-age=31536000")));
}

#[tokio::test]
async fn s2_tls_handshakes_past_their_limit_wait_and_silent_ones_keep_nobody_out() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").server("max_tls_handshakes = 1").start();
    let _silent = [Peer::dial(gate.address()).await, Peer::dial(gate.address()).await];
    let config = pki.client_config();
    pki.client(gate.address(), "localhost", &config).await;
    let mut begun = Peer::dial(gate.address()).await;
    begun.send([0x16, 3, 1]).await;
    gate.has_tls_handshakes(1).await;
    let waiting = pki.client(gate.address(), "localhost", &config);
    tokio::pin!(waiting);
    tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.map(drop).expect_err("no room yet");
    drop(begun);
    let mut client = waiting.await;
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.text(), "hello");
}

#[tokio::test]
async fn s2_a_tls_handshake_that_stalls_gives_way_to_whoever_waits() {
    let (pki, backend) = (Pki::new(), HttpBackend::start().await);
    let setup = Setup::to(backend.address()).server("max_tls_handshakes = 3");
    let gate = setup.listener("timeout.tls_handshake = \"1h\"").tls(&pki, "").start();
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send([0x16, 3, 1]).await;
        stalled.push(peer);
    }
    gate.has_tls_handshakes(3).await;
    // None of those leaves by itself.
    let mut client = pki.client(gate.address(), "localhost", &pki.client_config()).await;
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.text(), "hello");
    let record = gate.record_of(Kind::TlsFailure).await;
    assert_eq!((record.ending, record.ended_by), (Some("tls_timeout"), Some("gate")));
    // With room again, nobody has to go.
    gate.has_tls_handshakes(2).await;
    assert_eq!(gate.records().iter().filter(|record| record.kind == Kind::TlsFailure).count(), 1);
}

#[tokio::test]
async fn s6_the_listeners_order_of_cipher_suites_counts() {
    let (pki, _backend, gate) = gate("").await;
    for (version, expected) in
        [(&TLS13, "TLS13_AES_128_GCM_SHA256"), (&TLS12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    {
        // rustls' own order begins with AES-256, so the client prefers that.
        let client = pki.client(gate.address(), "localhost", &pki.client_config_of(&[version])).await;
        let suite = client.tls().negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite.as_str(), Some(expected));
    }
}

#[tokio::test]
async fn t13_close_notify_ends_every_answer_that_closes() {
    let pki = Pki::new();
    for version in [&TLS12, &TLS13] {
        let backend = Backend::listen().await.serve_http(|_, _| ok(&"x".repeat(500_000)));
        let gate = Setup::to(backend.address()).tls(&pki, "").start();
        let mut client = pki.client(gate.address(), "localhost", &pki.client_config_of(&[version])).await;
        client.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(client.read_response().await.body.len(), 500_000);
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_tls_handshake_and_a_request_byte_by_byte() {
    let (pki, _backend, gate) = gate("").await;
    // A pipe in between that passes on single bytes.
    let (near, far) = tokio::io::duplex(64 * 1024);
    let gate_end = Peer::dial(gate.address()).await.into_tcp();
    gate_end.set_nodelay(true).unwrap();
    let pump = tokio::spawn(async move {
        let (mut from_gate, mut to_gate) = gate_end.into_split();
        let (mut from_client, mut to_client) = tokio::io::split(far);
        let up = async {
            let mut byte = [0];
            while from_client.read_exact(&mut byte).await.is_ok() && to_gate.write_all(&byte).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(up, tokio::io::copy(&mut from_gate, &mut to_client)).1
    });
    let connector = tokio_rustls::TlsConnector::from(Arc::new(pki.client_config()));
    let name = "localhost".try_into().unwrap();
    let mut client = soon("a TLS handshake", connector.connect(name, near)).await.unwrap();
    client.write_all(get("/", "Connection: close\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    drop(client);
    pump.abort();
}
