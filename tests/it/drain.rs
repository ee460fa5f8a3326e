//! The end of the process: what is open ends in order, and what is left is cut.

use std::time::Duration;

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup,
    frames::{self, BINARY, CLOSE, PING, TEXT, client, client_raw, server, server_raw},
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

/// A tunnel over ws or wss through a gate with these lines in its route.
async fn tunnel(tls: bool, route: &str) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let setup = Setup::to(backend.address()).route(route).listener("timeout.write = \"off\"").grace("1h");
    let gate = if tls { setup.tls(&Pki::new(), "") } else { setup }.start();
    let (client_end, server_end) = gate.tunnel(&backend).await;
    (backend, gate, client_end, server_end)
}

/// The client is told, and only when it has answered the backend is. Then both have their ends.
async fn expect_leave(client_end: &mut Peer, server_end: &mut Peer) {
    let close = frames::read(client_end).await;
    assert_eq!((close.close_code(), close.masked), (1012, false));
    assert!(close.payload.len() > 2, "with a reason");
    client_end.send([client(TEXT, "last words"), frames::client_close(1012, "")].concat()).await;
    server_end.expect(client(TEXT, "last words")).await;
    expect_answer(client_end, server_end).await;
}

/// The client has answered; what follows of both is this.
async fn expect_answer(client_end: &mut Peer, server_end: &mut Peer) {
    let close = frames::read(server_end).await;
    assert_eq!((close.close_code(), close.masked), (1001, true));
    server_end.send(frames::server_close(1001, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
}

#[tokio::test]
async fn t9_a_drain_within_frames_both_ways() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel(tls, "").await;
        let (up, down) = (client(BINARY, vec![1; 100_000]), server(BINARY, vec![2; 100_000]));
        tokio::join!(client_end.send(&up[..60_000]), server_end.expect(&up[..60_000]));
        tokio::join!(server_end.send(&down[..60_000]), client_end.expect(&down[..60_000]));
        gate.drain();
        tokio::join!(server_end.send(&down[60_000..]), client_end.expect(&down[60_000..]));
        tokio::join!(client_end.send(&up[60_000..]), server_end.expect(&up[60_000..]));
        expect_leave(&mut client_end, &mut server_end).await;
        drop((client_end, server_end));
        assert_eq!(gate.tunnel_end().await.ending, Some("drained"));
    }
}

#[tokio::test]
async fn t9_a_drain_within_fragmented_messages_both_ways() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel(tls, "").await;
        let fragment = server_raw(TEXT, "to be ");
        server_end.send(&fragment).await;
        client_end.expect(&fragment).await;
        client_end.send(client_raw(TEXT, "or not ")).await;
        server_end.expect(client_raw(TEXT, "or not ")).await;
        gate.drain();
        // The message goes on to its end, with a control frame in between.
        let rest = [server_raw(0, "or "), server(PING, "between"), server_raw(0x80, "not to be")].concat();
        server_end.send([rest.clone(), server(TEXT, "too late")].concat()).await;
        client_end.expect(&rest).await;
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
        // And so does the client's, which has seen the Close.
        let rest = [client_raw(0x80, "to be"), client(TEXT, "another")].concat();
        client_end.send([rest.clone(), frames::client_close(1012, "")].concat()).await;
        server_end.expect(&rest).await;
        expect_answer(&mut client_end, &mut server_end).await;
        drop((client_end, server_end));
        assert_eq!(gate.tunnel_end().await.ending, Some("drained"));
    }
}

#[tokio::test]
async fn t9_a_message_that_does_not_end_in_close_timeout_gets_the_close_between_its_fragments() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) =
            tunnel(tls, "websocket.close_timeout = \"2s\"").await;
        server_end.send(server_raw(TEXT, "to be ")).await;
        client_end.expect(server_raw(TEXT, "to be ")).await;
        gate.drain();
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
        assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
        client_end.send(frames::client_close(1012, "")).await;
        server_end.send(frames::server_close(1001, "")).await;
        client_end.expect_end().await;
        server_end.expect_end().await;
    }
}

#[tokio::test]
async fn t9_a_client_that_does_not_answer_has_close_timeout_and_then_the_backend_its_close() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) =
            tunnel(tls, "websocket.close_timeout = \"2s\"").await;
        gate.drain();
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
        client_end.send(client(TEXT, "still here")).await;
        server_end.expect(client(TEXT, "still here")).await;
        assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
        client_end.expect_gone().await;
        server_end.expect_gone().await;
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("drained"), Some("gate")));
    }
}

#[tokio::test]
async fn t9_a_drain_while_the_client_does_not_read() {
    for (tls, reads_again) in [(false, true), (true, true), (false, false), (true, false)] {
        let keys = if reads_again { "" } else { "websocket.close_timeout = \"300ms\"" };
        let (_backend, gate, mut client_end, mut server_end) = tunnel(tls, keys).await;
        let frame = server(BINARY, vec![3; 24 * 1024 * 1024]);
        let taken = server_end.fill(&frame, frame.len() - 1).await;
        assert!(taken < frame.len() - 1, "nothing is held up");
        gate.drain();
        if reads_again {
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
            let mut close = [0; 2];
            tokio::io::AsyncReadExt::read_exact(&mut reads, &mut close).await.unwrap();
            assert_eq!(close[0], 0x88, "a Close");
        } else {
            // No end of a frame in sight: the backend is told, and then the client is cut without a Close.
            assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
            let record = gate.tunnel_end().await;
            assert_eq!((record.ending, record.ended_by), (Some("drained"), Some("gate")));
            let received = client_end.expect_reset().await;
            assert!(frame.starts_with(&received), "something else within the frame");
        }
    }
}

#[tokio::test]
async fn t9_a_drain_while_the_backend_does_not_read() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) =
            tunnel(tls, "websocket.close_timeout = \"300ms\"").await;
        let frame = client(BINARY, vec![3; 24 * 1024 * 1024]);
        let taken = client_end.fill(&frame, frame.len() - 1).await;
        assert!(taken < frame.len() - 1, "nothing is held up");
        gate.drain();
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
        client_end.expect_gone().await;
        let received = server_end.expect_reset().await;
        assert!(frame.starts_with(&received), "something else within the frame");
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("drained"), Some("gate")));
    }
}

/// The frames up to the end, whatever it is.
async fn rest_of(peer: &mut Peer) -> Vec<frames::Read> {
    let (rest, _) = peer.read_to_any_end().await;
    let (frames, surplus) = frames::split(&rest);
    assert_eq!(surplus, 0, "part of a frame");
    frames
}

#[tokio::test]
async fn t5_where_a_side_has_sent_its_close_a_drain_adds_none_that_way() {
    for (tls, by_client) in [(false, true), (false, false), (true, true), (true, false)] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel(tls, "").await;
        if by_client {
            client_end.send(frames::client_close(1000, "done")).await;
            server_end.expect(frames::client_close(1000, "done")).await;
        } else {
            server_end.send(frames::server_close(1000, "done")).await;
            client_end.expect(frames::server_close(1000, "done")).await;
        }
        gate.drain();
        if by_client {
            server_end.send(frames::server_close(1000, "done")).await;
            assert_eq!(rest_of(&mut server_end).await, [], "after the Close of the client");
            let closes = rest_of(&mut client_end).await;
            assert!(closes.len() == 1 && closes[0].first == 0x80 | CLOSE, "{closes:?}");
        } else {
            client_end.send(frames::client_close(1000, "done")).await;
            assert_eq!(rest_of(&mut client_end).await, [], "after the Close of the backend");
            let closes = rest_of(&mut server_end).await;
            assert!(closes.len() == 1 && closes[0].first == 0x80 | CLOSE && closes[0].masked, "{closes:?}");
        }
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        let close = record.close.expect("a Close");
        let side = if by_client { "downstream" } else { "upstream" };
        assert_eq!((close.side, close.code), (side, Some(1000)), "the first Close was a peer's");
    }
}

#[tokio::test]
async fn t9_a_half_closed_tunnel_drains() {
    for (tls, by_client) in [(false, true), (false, false), (true, true), (true, false)] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel(tls, "").await;
        if by_client {
            client_end.shutdown().await;
            server_end.expect_end().await;
            gate.drain();
            assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
            client_end.expect_end().await;
            drop(server_end);
        } else {
            server_end.shutdown().await;
            client_end.expect_end().await;
            gate.drain();
            client_end.send([client(TEXT, "last words"), frames::client_close(1000, "")].concat()).await;
            server_end.expect(client(TEXT, "last words")).await;
            assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
            server_end.expect_end().await;
            drop(client_end);
        }
        gate.at_rest().await;
    }
}
