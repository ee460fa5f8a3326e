//! Listeners that require a PROXY header. Rules S5 and B13.

use std::sync::Arc;

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, Head, HttpBackend, OFFER, Peer, Setup,
    frames::{TEXT, client},
    get, ok,
    pki::Pki,
    soon, unix_address,
};

const FROM: &str = "proxy_protocol = \"required\"\nproxy_protocol_from = [\"127.0.0.0/8\", \"unix\"]";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 203.0.113.9 56324 4443\r\n";

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

/// A header of version 2 for the client of [`V1`], with these values behind.
fn v2_with(values: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 203, 0, 113, 9, 0xdc, 0x04, 0x11, 0x5b];
    v2(0x21, 0x11, &[&addresses, values].concat())
}

/// ALPN, no operation, TLS, and a checksum, which is right.
fn v2_checked() -> Vec<u8> {
    v2_with(b"\x01\0\x08http/1.1\x04\0\x02xx\x20\0\x05\x01\0\0\0\0\x03\0\x04\x3e\xd1\xb7\xc2")
}

/// The client that the backend hears of in a request behind `header`, and that of the record.
async fn client_of(gate: &Gate, backend: &HttpBackend, header: &[u8]) -> (String, String) {
    let mut peer = Peer::dial(gate.address()).await;
    peer.send([header, get("/", "").as_bytes()].concat()).await;
    assert_eq!(peer.read_response().await.status(), 200);
    let told = backend.last().get("x-forwarded-for").unwrap_or("none").to_owned();
    drop(peer);
    gate.at_rest().await;
    (told, gate.records().pop().unwrap().client.into())
}

#[tokio::test]
async fn b13_a_header_of_either_version_tells_the_client() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener(FROM).start();
    for header in [V1.to_vec(), v2_with(b""), v2_checked()] {
        let (told, logged) = client_of(&gate, &backend, &header).await;
        assert_eq!((&*told, &*logged), ("192.0.2.1", "192.0.2.1:56324"), "{}", header.escape_ascii());
        assert_eq!(backend.last().get("x-forwarded-port"), Some("4443"), "what the client connected to");
    }
    let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 5 443\r\n";
    assert_eq!(client_of(&gate, &backend, six).await, ("2001:db8::1".into(), "[2001:db8::1]:5".into()));
    let records = gate.records();
    assert!(records.iter().all(|record| record.peer.as_ref().unwrap().starts_with("127.0.0.1:")));
}

#[tokio::test]
async fn b13_a_header_that_names_nobody_leaves_the_peer() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener(FROM).start();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, b""), v2(0x20, 0x11, b"junk"), v2(0x21, 0, b"")]
    {
        let (told, logged) = client_of(&gate, &backend, &header).await;
        assert_eq!(told, "127.0.0.1", "{}", header.escape_ascii());
        assert!(logged.starts_with("127.0.0.1:"), "{logged}");
    }
    assert!(gate.records().iter().all(|record| record.peer.is_none()));
}

#[tokio::test]
async fn b13_a_header_goes_before_tls() {
    let pki = Arc::new(Pki::new());
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").listener(FROM).start();
    for header in [V1.to_vec(), v2_checked()] {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send(&header).await;
        let mut peer = pki.secure(peer).await;
        peer.send(get("/", "")).await;
        assert_eq!(peer.read_response().await.status(), 200);
        assert_eq!(backend.last().get("x-real-ip"), Some("192.0.2.1"));
        assert_eq!(backend.last().get("x-forwarded-proto"), Some("https"));
    }
}

#[tokio::test]
async fn s5_a_header_may_come_byte_by_byte_and_in_one_segment_with_what_follows() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener(FROM).start();
    for header in [V1.to_vec(), v2_with(&[&b"\x04\x04\x00"[..], &[7; 1024]].concat())] {
        for in_pieces in [true, false] {
            let mut peer = Peer::dial(gate.address()).await;
            if in_pieces {
                peer.dribble(&header).await;
                peer.dribble(OFFER).await;
            } else {
                peer.send([&header, OFFER.as_bytes(), &client(TEXT, b"early")].concat()).await;
            }
            let mut server = backend.accept().await;
            assert_eq!(server.read_head().await.get("x-real-ip"), Some("192.0.2.1"));
            server.send(AGREED).await;
            assert_eq!(peer.read_head().await.status(), 101);
            if in_pieces {
                peer.send(client(TEXT, b"early")).await;
            }
            server.expect(client(TEXT, b"early")).await;
        }
    }
    let end = gate.tunnel_end().await;
    assert_eq!(&*end.client, "192.0.2.1:56324");
    assert!(end.peer.unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn s5_a_connection_without_the_header_is_cut_without_a_byte() {
    let pki = Arc::new(Pki::new());
    let mut bad_sum = v2_checked();
    *bad_sum.last_mut().unwrap() ^= 1;
    let cases = [
        (get("/", "").into_bytes(), "there is none"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "there is none"),
        (b"PROXY TCP4 192.0.2.1 203.0.113.9 1\r\n".to_vec(), "its line is malformed"),
        (format!("PROXY UNKNOWN {}", "x".repeat(200)).into_bytes(), "it is too long"),
        (v2_with(b"\x04\xff\xff"), "a value of it is cut short"),
        (v2(0x21, 0x41, b""), "it has another family or protocol"),
        (bad_sum, "its checksum is wrong"),
    ];
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address()).listener(FROM);
        let gate = if tls { setup.tls(&pki, "").start() } else { setup.start() };
        for (count, (bytes, reason)) in cases.iter().enumerate() {
            let mut peer = Peer::dial(gate.address()).await;
            // It may be cut before it has sent all.
            let _ = peer.offer_bytes(bytes).await;
            peer.expect_gone().await;
            gate.at_rest().await;
            let records = gate.records();
            assert_eq!(records.len(), count + 1, "one record each");
            let record = &records[count];
            assert_eq!((record.kind, record.ending), (Kind::TlsFailure, Some("proxy_protocol")));
            assert_eq!((record.ended_by, record.phase), (Some("gate"), Some("tls")));
            assert_eq!(record.error.as_deref(), Some(&*format!("PROXY header refused: {reason}")));
        }
        backend.expect_untouched();
    }
}

#[tokio::test]
async fn s5_a_stranger_is_cut_before_it_says_anything() {
    let backend = Backend::listen().await;
    let from = "proxy_protocol = \"required\"\nproxy_protocol_from = [\"192.0.2.0/24\", \"unix\"]";
    let gate = Setup::to(backend.address()).listener(from).start();
    let mut peer = Peer::dial(gate.address()).await;
    peer.expect_gone().await;
    let record = gate.record_of(Kind::TlsFailure).await;
    assert_eq!((record.ending, record.ended_by), (Some("proxy_protocol"), Some("gate")));
    let error = record.error.unwrap();
    assert_eq!(&*error, "PROXY header refused: the peer is not in proxy_protocol_from");
}

#[tokio::test]
async fn s5_a_header_that_stalls_is_cut_at_its_deadline() {
    let pki = Arc::new(Pki::new());
    for (tls, key) in [(false, "request_head"), (true, "tls_handshake")] {
        for bytes in [&b""[..], &V1[..20], &v2_checked()[..40]] {
            let setup = Setup::to("127.0.0.1:9").listener(FROM);
            let setup = setup.listener(&format!("timeout = {{ {key} = \"50ms\" }}"));
            let gate = if tls { setup.tls(&pki, "").start() } else { setup.start() };
            let mut peer = Peer::dial(gate.address()).await;
            peer.send(bytes).await;
            peer.expect_gone().await;
            let record = gate.record_of(Kind::TlsFailure).await;
            assert_eq!(record.ending, Some("proxy_protocol"));
            assert_eq!(record.error.as_deref(), Some("PROXY header refused: not complete in time"));
        }
    }
}

#[tokio::test]
async fn s5_header_and_tls_handshake_have_one_deadline() {
    let pki = Arc::new(Pki::new());
    let setup = Setup::to("127.0.0.1:9").listener(FROM).listener("timeout = { tls_handshake = \"50ms\" }");
    let gate = setup.tls(&pki, "").start();
    let mut peer = Peer::dial(gate.address()).await;
    peer.send(V1).await;
    peer.expect_gone().await;
    let record = gate.record_of(Kind::TlsFailure).await;
    assert_eq!((record.ending, &*record.client), (Some("tls_timeout"), "192.0.2.1:56324"));
}

#[tokio::test]
async fn s2_who_has_not_begun_tls_holds_no_permit_for_it() {
    let pki = Arc::new(Pki::new());
    let backend = HttpBackend::start().await;
    let setup = Setup::to(backend.address()).server("max_tls_handshakes = 1").listener(FROM).tls(&pki, "");
    let gate = setup.start();
    let mut silent = Vec::new();
    for bytes in [&b""[..], &V1[..10], V1] {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send(bytes).await;
        silent.push(peer);
    }
    gate.has_connections(silent.len()).await;
    let mut peer = Peer::dial(gate.address()).await;
    peer.send(V1).await;
    let mut peer = pki.secure(peer).await;
    peer.send(get("/", "")).await;
    assert_eq!(peer.read_response().await.status(), 200);
}

#[tokio::test]
async fn s5_a_port_check_leaves_no_record() {
    let pki = Arc::new(Pki::new());
    for tls in [false, true] {
        let setup = Setup::to("127.0.0.1:9").listener(FROM);
        let gate = if tls { setup.tls(&pki, "").start() } else { setup.start() };
        for bytes in [b"".to_vec(), v2(0x20, 0, b""), V1.to_vec()] {
            let mut peer = Peer::dial(gate.address()).await;
            peer.send(&bytes).await;
            peer.shutdown().await;
            peer.expect_gone().await;
        }
        gate.at_rest().await;
        assert!(gate.records().is_empty(), "{:?}", gate.records());
        let mut peer = Peer::dial(gate.address()).await;
        peer.send(&V1[..10]).await;
        peer.shutdown().await;
        peer.expect_gone().await;
        let record = gate.record_of(Kind::TlsFailure).await;
        assert_eq!((record.ending, record.ended_by), (Some("proxy_protocol"), Some("downstream")));
    }
}

#[tokio::test]
async fn b13_a_balancer_may_come_by_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listen(&unix_address(folder.path())).listener(FROM).start();
    let mut peer = Peer::dial_unix(&gate.path()).await;
    peer.dribble(v2_checked()).await;
    peer.send(get("/", "")).await;
    assert_eq!(peer.read_response().await.status(), 200);
    assert_eq!(backend.last().get("x-real-ip"), Some("192.0.2.1"));
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((&*record.client, record.peer.as_deref()), ("192.0.2.1:56324", Some("unix")));
}

#[tokio::test]
async fn b13_what_came_in_goes_on_to_the_server() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener(FROM).upstream("proxy_protocol = \"v1\"").start();
    let mut peer = Peer::dial(gate.address()).await;
    peer.send([V1, get("/", "").as_bytes()].concat()).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_proxy_v1().await.as_bytes(), V1);
    server.read_head().await;
    server.send(ok("")).await;
    assert_eq!(peer.read_response().await.status(), 200);
}

#[tokio::test]
async fn h7_behind_a_proxy_header_the_peers_own_trust_counts_for_nothing() {
    let backend = Backend::listen().await.serve_http(|_: &Head, _| ok("hello"));
    let trusting = "trusted_proxies = [\"127.0.0.0/8\", \"198.51.100.0/24\"]";
    let gate = Setup::to(backend.address()).listener(FROM).listener(trusting).start();
    let request = get("/", "X-Forwarded-For: 6.6.6.6\r\n");
    let told = async |header: &[u8]| {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send([header, request.as_bytes()].concat()).await;
        soon("an answer", peer.read_response()).await;
        backend.last().get("x-forwarded-for").unwrap().to_owned()
    };
    assert_eq!(told(V1).await, "192.0.2.1");
    assert_eq!(told(b"PROXY UNKNOWN\r\n").await, "127.0.0.1");
    assert_eq!(told(b"PROXY TCP4 198.51.100.3 203.0.113.9 1 2\r\n").await, "6.6.6.6, 198.51.100.3");
}
