//! Handshakes that are tried at another server (`retry_handshakes`), and clients that leave meanwhile. Rules W7, B4 and B8.

use crate::harness::{AGREED, Backend, Gate, OFFER, Peer, Serving, Setup};

/// Two backends and a gate before them that tries handshakes again.
async fn two(upstream: &str) -> ([Backend; 2], Gate) {
    let backends = [Backend::listen().await, Backend::listen().await];
    let gate = Setup::before(backends.iter().map(Backend::address))
        .upstream("balance = \"round_robin\"\nretry_handshakes = true")
        .upstream(upstream)
        .start();
    (backends, gate)
}

/// The connection to whichever it is that was chosen, and the other.
async fn chosen(backends: &[Backend; 2]) -> (Peer, &Backend) {
    tokio::select! {
        peer = backends[0].accept() => (peer, &backends[1]),
        peer = backends[1].accept() => (peer, &backends[0]),
    }
}

const EARLY: &[u8] = b"\x81\x82\0\0\0\0hi";

#[derive(Debug, Clone, Copy)]
enum End {
    Eof,
    Reset,
    Silence,
}

#[tokio::test]
async fn b8_a_handshake_without_an_answer_goes_to_another_server_and_early_bytes_do_not() {
    for end in [End::Eof, End::Reset, End::Silence] {
        let (backends, gate) = two("handshake_timeout = \"300ms\"").await;
        let mut client = gate.ask([OFFER.as_bytes(), EARLY].concat()).await;
        let (mut first, other) = chosen(&backends).await;
        let offered = first.read_head().await;
        assert!(first.tail().is_empty());
        match end {
            End::Eof => drop(first),
            End::Reset => first.reset(),
            End::Silence => first.expect_gone().await,
        }
        let mut second = other.accept().await;
        let again = second.read_head().await;
        assert_eq!(again.get("sec-websocket-key"), offered.get("sec-websocket-key"), "{end:?}");
        assert!(second.tail().is_empty(), "{end:?}");
        second.send(AGREED).await;
        assert_eq!(client.read_head().await.status(), 101, "{end:?}");
        second.expect(EARLY).await;
        let record = gate.record(|_| true).await;
        assert_eq!(record.endpoint.as_deref(), Some(other.address().as_str()));
    }
}

#[tokio::test]
async fn b8_a_handshake_whose_answer_began_is_not_tried_again() {
    for begun in ["H", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let (backends, gate) = two("").await;
        let mut client = gate.ask(OFFER).await;
        let (mut first, other) = chosen(&backends).await;
        first.read_head().await;
        first.send(begun).await;
        first.shutdown().await;
        client.read_to_any_end().await.1.ok();
        other.expect_untouched();
    }
}

#[tokio::test]
async fn a_handshake_is_tried_once_unless_the_pool_says_otherwise() {
    let backends = [Backend::listen().await, Backend::listen().await];
    let gate = Setup::before(backends.iter().map(Backend::address)).start();
    let mut client = gate.ask(OFFER).await;
    let (mut first, other) = chosen(&backends).await;
    first.read_head().await;
    drop(first);
    assert_eq!(client.read_response().await.status(), 502);
    other.expect_untouched();
}

#[tokio::test]
async fn a_handshake_that_no_other_server_can_have_is_answered_by_what_happened() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .upstream("retry_handshakes = true\nhandshake_timeout = \"200ms\"")
        .start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    assert_eq!(client.read_response().await.status(), 504);
    backend.expect_untouched();
    let record = gate.record(|_| true).await;
    assert_eq!(record.endpoint.as_deref(), Some(backend.address().as_str()));
    assert_eq!(record.ending, Some("handshake_timeout"));
}

#[tokio::test]
async fn b8_retries_of_handshakes_are_bounded_over_all_requests() {
    let backends = [Backend::listen().await, Backend::listen().await];
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let ends = backends.map(|backend| {
        backend.serve(|mut peer| async move {
            peer.next_head().await;
        })
    });
    let gate = Setup::before(addresses)
        .upstream("retry_handshakes = true\nretries = 1\nmax_fails = \"off\"")
        .start();
    for _ in 0..50 {
        let mut client = gate.ask(OFFER).await;
        assert_eq!(client.read_response().await.status(), 502);
    }
    let tries: usize = ends.iter().map(Serving::accepted).sum();
    // Ten were saved up, and every fifth request brought one.
    assert!((65..=72).contains(&tries), "{tries}");
}

#[tokio::test]
async fn b4_a_client_that_vanishes_ends_the_tls_handshake_with_the_server() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .upstream("connect_timeout = \"1h\"")
        .more("[upstream.main.tls]\nverify = false")
        .start();
    let client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    // The ClientHello's record header; no answer comes to it.
    assert_eq!(server.read_exact(1).await, [22]);
    drop(client);
    let _ = server.read_to_any_end().await;
    gate.at_rest().await;
    assert_eq!(gate.record(|_| true).await.ending, Some("downstream_gone"));
}

#[tokio::test]
async fn s1_a_tls_handshake_with_the_server_is_within_connect_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .upstream("connect_timeout = \"200ms\"\nproxy_protocol = \"v1\"")
        .more("[upstream.main.tls]\nverify = false")
        .start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_exact(6).await, *b"PROXY ");
    assert_eq!(client.read_response().await.status(), 504);
    assert_eq!(gate.record(|_| true).await.ending, Some("connect_timeout"));
}
