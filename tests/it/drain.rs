//! The end of the process: what is open ends in order, and what is left is cut.

use std::time::Duration;

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, HttpBackend, OFFER, Setup,
    frames::{self, BINARY, TEXT, server},
    get, ok,
    pki::Pki,
};

#[tokio::test]
async fn idle_keep_alive_connections_are_closed_at_once() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = HttpBackend::start().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut used = gate.ask(get("/", "")).await;
        used.read_response().await;
        let mut fresh = gate.client().await;
        gate.has_connections(2).await;
        gate.drain();
        used.expect_end().await;
        fresh.expect_end().await;
        drop((used, fresh));
        assert_eq!(gate.finish().await.cut, 0);
    }
}

#[tokio::test]
async fn a_running_exchange_finishes_and_says_connection_close() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    gate.drain();
    client.send("56789").await;
    server.expect("0123456789").await;
    server.send(ok("done")).await;
    let answer = client.read_response().await;
    assert_eq!(answer.text(), "done");
    assert!(answer.head.has_token("connection", "close"), "{:?}", answer.head);
    client.expect_end().await;
    drop(client);
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((record.status, record.ending), (Some(200), None));
    assert_eq!(gate.finish().await.cut, 0);
}

#[tokio::test]
async fn the_listening_sockets_are_closed() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let address = gate.address();
    let (mut client_end, _server_end) = gate.tunnel(&backend).await;
    gate.drain();
    frames::read(&mut client_end).await;
    // Somebody else may have the address now.
    crate::harness::soon("the address to be free", async {
        while tokio::net::TcpListener::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn many_tunnels_get_1012_and_1001_and_are_gone() {
    let pki = Pki::new();
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(gate.tunnel(&backend).await);
    }
    gate.drain();
    for (client_end, server_end) in &mut open {
        let close = frames::read(client_end).await;
        assert_eq!((close.close_code(), close.masked), (1012, false));
        client_end.send(frames::client_close(1012, "")).await;
        let close = frames::read(server_end).await;
        assert_eq!((close.close_code(), close.masked), (1001, true));
        server_end.send(frames::server_close(1001, "")).await;
        client_end.expect_end().await;
        server_end.expect_end().await;
    }
    drop(open);
    assert_eq!(gate.finish().await.cut, 0);
}

#[tokio::test]
async fn a_drain_within_a_fragmented_message_and_under_back_pressure() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    // The client's message is in fragments, with none of its frames open.
    let fragment = frames::client_raw(TEXT, "to be ");
    client_end.send(&fragment).await;
    server_end.expect(&fragment).await;
    // The backend's fills every buffer on the way.
    let frame = server(BINARY, vec![3; 24 * 1024 * 1024]);
    let taken = server_end.fill(&frame, frame.len() - 1).await;
    assert!(taken < frame.len() - 1, "nothing is held up");
    gate.drain();
    let (mut reads, mut writes) = tokio::io::split(&mut server_end);
    let write = async {
        tokio::io::AsyncWriteExt::write_all(&mut writes, &frame[taken..]).await.unwrap();
    };
    let read = async {
        client_end.expect(&frame).await;
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
        client_end.send(frames::client_close(1012, "")).await;
    };
    tokio::join!(write, read);
    let mut close = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut reads, &mut close[..2]).await.unwrap();
    assert_eq!(close[0], 0x88, "a Close");
}

#[tokio::test]
async fn shutdown_grace_cuts_what_is_left() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).grace("300ms").route("websocket.close_timeout = \"1h\"").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let mut waiting = gate.ask(get("/", "")).await;
    let mut never_answers = backend.accept().await;
    never_answers.read_head().await;
    // Closes go out, nobody answers.
    let (outcome, took, records) = gate.drain_and_wait().await;
    assert_eq!(outcome.cut, 2);
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    let ends: Vec<_> = records.iter().filter(|record| record.ending.is_some()).collect();
    assert_eq!(ends.len(), 2);
    for end in ends {
        assert_eq!((end.ending, end.ended_by), (Some("drain_timeout"), Some("gate")));
        assert!(end.phase == Some("tunnel") || end.phase == Some("response"), "{:?}", end.phase);
    }
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
    client_end.expect_gone().await;
    let _ = server_end.read_to_any_end().await;
    waiting.expect_gone().await;
    never_answers.expect_gone().await;
}

#[tokio::test]
async fn a_handshake_under_way_becomes_a_tunnel_that_is_drained() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client_end = gate.ask(OFFER).await;
    let mut server_end = backend.accept().await;
    server_end.read_head().await;
    gate.drain();
    server_end.send([AGREED.as_bytes(), &server(TEXT, "hello")].concat()).await;
    assert_eq!(client_end.read_head().await.status(), 101);
    let mut frame = frames::read(&mut client_end).await;
    if frame.first == 0x81 {
        frame = frames::read(&mut client_end).await;
    }
    assert_eq!(frame.close_code(), 1012);
    client_end.send(frames::client_close(1012, "")).await;
    assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
    drop((client_end, server_end));
    assert_eq!(gate.tunnel_end().await.ending, Some("drained"));
}

#[tokio::test]
async fn a_drain_with_nothing_open_ends_at_once() {
    let gate = Setup::to("127.0.0.1:9").grace("1h").start();
    assert_eq!(gate.finish().await.cut, 0);
}

#[tokio::test]
async fn a_client_in_its_tls_handshake_or_head_is_served_to_the_end() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let mut client = gate.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    // Its bytes are read before the drain, for they were sent before these.
    let mut other = gate.ask(get("/", "")).await;
    other.read_response().await;
    gate.drain();
    other.expect_end().await;
    client.send("\r\n").await;
    let answer = client.read_response().await;
    assert_eq!(answer.text(), "hello");
    assert!(answer.head.has_token("connection", "close"));
    client.expect_end().await;
}
