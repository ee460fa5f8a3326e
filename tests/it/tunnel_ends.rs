//! Every ending of a tunnel: what each side gets, and what the access record says of it.

use std::time::Duration;

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Setup,
    frames::{self, BINARY, PING, PONG, TEXT, client, client_raw, server, server_raw},
    pki::Pki,
};

/// An open tunnel through a gate with these lines in its route.
async fn tunnel(route: &str) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route(route).start();
    let (client_end, server_end) = gate.tunnel(&backend).await;
    (backend, gate, client_end, server_end)
}

async fn expect_record(gate: &Gate, ending: &str, by: &str) {
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some(ending), Some(by)));
    assert_eq!((record.phase, record.status), (Some("tunnel"), Some(101)));
    assert!(record.duration.is_some() && record.from_client.is_some() && record.from_backend.is_some());
    gate.at_rest().await;
    let ends = gate.records().iter().filter(|record| record.from_client.is_some()).count();
    assert_eq!(ends, 1, "one record of one end");
    let opened = gate.record_of(Kind::TunnelOpen).await;
    assert_eq!(opened.request_id, record.request_id);
    assert_eq!((opened.status, opened.ending), (Some(101), None));
}

#[tokio::test]
async fn closed() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
    client_end.send(frames::client_close(1000, "")).await;
    server_end.expect(frames::client_close(1000, "")).await;
    server_end.send(frames::server_close(1000, "")).await;
    server_end.shutdown().await;
    client_end.expect(frames::server_close(1000, "")).await;
    client_end.expect_end().await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    expect_record(&gate, "closed", "downstream").await;
}

#[tokio::test]
async fn closed_and_then_broken_is_closed() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
    server_end.send(frames::server_close(1000, "")).await;
    client_end.expect(frames::server_close(1000, "")).await;
    client_end.send(frames::client_close(1000, "")).await;
    server_end.expect(frames::client_close(1000, "")).await;
    client_end.reset();
    server_end.expect_end().await;
    drop(server_end);
    expect_record(&gate, "closed", "upstream").await;
}

#[tokio::test]
async fn closed_and_then_held_open_is_cut_after_close_timeout() {
    let (_backend, gate, mut client_end, mut server_end) =
        tunnel("websocket.close_timeout = \"200ms\"").await;
    client_end.send(frames::client_close(1000, "")).await;
    server_end.expect(frames::client_close(1000, "")).await;
    server_end.send(frames::server_close(1000, "")).await;
    client_end.expect(frames::server_close(1000, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
    expect_record(&gate, "closed", "downstream").await;
}

#[tokio::test]
async fn downstream_eof_and_upstream_eof() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    server_end.shutdown().await;
    client_end.expect_end().await;
    expect_record(&gate, "downstream_eof", "downstream").await;

    let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
    server_end.shutdown().await;
    client_end.expect_end().await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    expect_record(&gate, "upstream_eof", "upstream").await;
}

#[tokio::test]
async fn downstream_reset_and_upstream_reset() {
    let (_backend, gate, client_end, mut server_end) = tunnel("").await;
    client_end.reset();
    server_end.expect_end().await;
    drop(server_end);
    expect_record(&gate, "downstream_reset", "downstream").await;

    let (_backend, gate, mut client_end, server_end) = tunnel("").await;
    server_end.reset();
    client_end.expect_end().await;
    drop(client_end);
    expect_record(&gate, "upstream_reset", "upstream").await;
}

#[tokio::test]
async fn ws_protocol() {
    for from_client in [true, false] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
        if from_client {
            client_end.send(client_raw(0x83, "x")).await;
        } else {
            server_end.send(server_raw(0x83, "x")).await;
        }
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1002);
        assert_eq!(frames::read(&mut server_end).await.close_code(), 1002);
        client_end.send(frames::client_close(1002, "")).await;
        server_end.send(frames::server_close(1002, "")).await;
        client_end.expect_end().await;
        server_end.expect_end().await;
        drop((client_end, server_end));
        expect_record(&gate, "ws_protocol", "gate").await;
    }
}

/// A tunnel over wss through a gate with these lines in its route.
async fn secure_tunnel(route: &str) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).tls(&Pki::new(), "").route(route).start();
    let (client_end, server_end) = gate.tunnel(&backend).await;
    (backend, gate, client_end, server_end)
}

/// Both sides get a Close of the gate's with this code, each with a reason, and then their ends.
async fn expect_closes(code: u16, client_end: &mut Peer, server_end: &mut Peer) {
    for (peer, masked) in [(&mut *client_end, false), (&mut *server_end, true)] {
        let close = frames::read(peer).await;
        assert_eq!((close.close_code(), close.masked), (code, masked));
        assert!(close.payload.len() > 2, "with a reason");
    }
    client_end.send(frames::client_close(code, "")).await;
    server_end.send(frames::server_close(code, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
}

/// The record of a Close of the gate's, and of whom it tells.
async fn expect_closed_by_gate(gate: &Gate, code: u16, what: &str) {
    let record = gate.tunnel_end().await;
    let close = record.close.expect("a Close");
    assert_eq!((close.side, close.code), ("gate", Some(code)));
    let error = record.error.unwrap_or_default();
    assert!(error.contains(what), "{error}");
}

#[tokio::test]
async fn t7_too_large() {
    let of_client = |first: u8, length: usize| client_raw(first, vec![1; length]);
    let of_server = |first: u8, length: usize| server_raw(first, vec![1; length]);
    for from_client in [true, false] {
        let raw =
            |first, length| if from_client { of_client(first, length) } else { of_server(first, length) };
        let control = if from_client { client(PING, [1; 125]) } else { server(PING, [1; 125]) };
        let as_much = [raw(0x82, 200), control.clone()].concat();
        let fragments = [raw(0x02, 120), control, raw(0x00, 120), raw(0x80, 60)].concat();
        for (keys, fits, excess) in [
            ("websocket.max_frame = 200", as_much, raw(0x82, 201)),
            ("websocket.max_message = 300", raw(0x82, 300), raw(0x82, 301)),
            ("websocket.max_message = 300", fragments.clone(), raw(0x82, 301)),
            ("websocket.max_message = 300", [fragments, raw(0x02, 300)].concat(), raw(0x80, 1)),
            ("websocket.max_frame = \"64KiB\"", raw(0x82, 65_536), raw(0x82, 65_537)),
        ] {
            for tls in [false, true] {
                let (_backend, gate, mut client_end, mut server_end) =
                    if tls { secure_tunnel(keys).await } else { tunnel(keys).await };
                let (sender, receiver) = if from_client {
                    (&mut client_end, &mut server_end)
                } else {
                    (&mut server_end, &mut client_end)
                };
                sender.send([fits.clone(), excess.clone()].concat()).await;
                // Not a byte of the frame that is too much goes on.
                receiver.expect(&fits).await;
                expect_closes(1009, &mut client_end, &mut server_end).await;
                drop((client_end, server_end));
                expect_record(&gate, "too_large", "gate").await;
                expect_closed_by_gate(&gate, 1009, if from_client { "downstream" } else { "upstream" }).await;
            }
        }
    }
}

#[tokio::test]
async fn t7_too_large_before_its_payload_has_come() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("websocket.max_message = \"1MiB\"").await;
    // Four gigabytes announced, and none of them sent.
    client_end.send([0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4]).await;
    expect_closes(1009, &mut client_end, &mut server_end).await;
    drop((client_end, server_end));
    expect_record(&gate, "too_large", "gate").await;
}

#[tokio::test]
async fn t7_message_rate() {
    for tls in [false, true] {
        let keys = "websocket.message_rate = \"5/h\"";
        let (_backend, gate, mut client_end, mut server_end) =
            if tls { secure_tunnel(keys).await } else { tunnel(keys).await };
        // The backend may send as it likes.
        let down = server(TEXT, "news").repeat(50);
        server_end.send(&down).await;
        client_end.expect(&down).await;
        // Frames of any kind count, and five may come at once.
        let five = [
            client_raw(TEXT, "a"),
            client(PING, "b"),
            client_raw(0x80, "c"),
            client(PONG, ""),
            client(TEXT, "d"),
        ];
        client_end.send(five.concat()).await;
        server_end.expect(five.concat()).await;
        client_end.send(client(TEXT, "one more")).await;
        expect_closes(1008, &mut client_end, &mut server_end).await;
        drop((client_end, server_end));
        expect_record(&gate, "message_rate", "gate").await;
        expect_closed_by_gate(&gate, 1008, "").await;
    }
}

#[tokio::test]
async fn t9_max_age() {
    for tls in [false, true] {
        let keys = "websocket.max_age = \"1s\"";
        let (_backend, gate, mut client_end, mut server_end) =
            if tls { secure_tunnel(keys).await } else { tunnel(keys).await };
        let close = frames::read(&mut client_end).await;
        assert_eq!((close.close_code(), close.masked), (1012, false));
        // What the client still says goes on, and only its answer ends the backend's side.
        client_end.send([client(TEXT, "last words"), frames::client_close(1012, "")].concat()).await;
        server_end.expect(client(TEXT, "last words")).await;
        let close = frames::read(&mut server_end).await;
        assert_eq!((close.close_code(), close.masked), (1001, true));
        server_end.send(frames::server_close(1001, "")).await;
        client_end.expect_end().await;
        server_end.expect_end().await;
        drop((client_end, server_end));
        expect_record(&gate, "max_age", "gate").await;
        expect_closed_by_gate(&gate, 1012, "").await;
        let stood = gate.tunnel_end().await.duration.unwrap_or_default();
        assert!(stood >= Duration::from_millis(900), "a tenth sooner at most: {stood:?}");
    }
}

#[tokio::test]
async fn t8_idle_over_tls() {
    let (_backend, gate, mut client_end, mut server_end) =
        secure_tunnel("websocket.idle_timeout = \"100ms\"").await;
    expect_closes(1001, &mut client_end, &mut server_end).await;
    drop((client_end, server_end));
    expect_record(&gate, "idle", "gate").await;
    expect_closed_by_gate(&gate, 1001, "").await;
}

#[tokio::test]
async fn idle() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("websocket.idle_timeout = \"100ms\"").await;
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1001);
    assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
    client_end.send(frames::client_close(1001, "")).await;
    server_end.send(frames::server_close(1001, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
    drop((client_end, server_end));
    expect_record(&gate, "idle", "gate").await;
}

#[tokio::test]
async fn idle_sides_that_do_not_answer_are_cut() {
    let keys = "websocket.idle_timeout = \"100ms\"\nwebsocket.close_timeout = \"200ms\"";
    let (_backend, gate, mut client_end, mut server_end) = tunnel(keys).await;
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1001);
    assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
    client_end.expect_gone().await;
    server_end.expect_gone().await;
    expect_record(&gate, "idle", "gate").await;
}

#[tokio::test]
async fn drained() {
    let (_backend, gate, mut client_end, mut server_end) = tunnel("").await;
    gate.drain();
    let close = frames::read(&mut client_end).await;
    assert_eq!((close.close_code(), close.masked), (1012, false));
    assert!(close.payload.len() > 2, "with a reason");
    client_end.send(frames::client_close(1012, "")).await;
    let close = frames::read(&mut server_end).await;
    assert_eq!((close.close_code(), close.masked), (1001, true));
    server_end.send(frames::server_close(1001, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
    drop((client_end, server_end));
    expect_record(&gate, "drained", "gate").await;
    let outcome = gate.finish().await;
    assert_eq!(outcome.cut, 0);
}

/// A tunnel whose client has a small buffer, over TLS or not.
async fn narrow_tunnel(tls: bool, write: &str) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let setup = Setup::to(backend.address()).listener(&format!("timeout.write = \"{write}\""));
    let pki = Pki::new();
    let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
    let mut client_end = Peer::dial_narrow(gate.address()).await;
    if tls {
        client_end = pki.secure(client_end).await;
    }
    client_end.send(OFFER).await;
    let mut server_end = backend.accept().await;
    server_end.read_head().await;
    server_end.send(AGREED).await;
    client_end.read_head().await;
    (backend, gate, client_end, server_end)
}

#[tokio::test]
async fn write_timeout() {
    for tls in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) = narrow_tunnel(tls, "300ms").await;
        let frame = server(BINARY, vec![0; 40_000_000]);
        assert!(server_end.offer_bytes(&frame).await.is_err(), "the backend could write it all");
        let (received, end) = client_end.read_to_any_end().await;
        assert!(end.is_err(), "an orderly end after {} bytes", received.len());
        drop(server_end);
        expect_record(&gate, "write_timeout", "gate").await;
    }
}

#[tokio::test]
async fn a_message_that_fits_the_gate_alone_is_cut_all_the_same() {
    // Small enough to be read whole from the backend, and too large for the client's buffers.
    for tls in [false, true] {
        let (_backend, gate, _client_end, mut server_end) = narrow_tunnel(tls, "300ms").await;
        server_end.send(server(BINARY, vec![0; 250_000])).await;
        server_end.expect_gone().await;
        drop(server_end);
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("write_timeout"), Some("gate")));
    }
}

#[tokio::test]
async fn a_client_that_takes_bytes_slowly_but_surely_is_not_cut() {
    for tls in [false, true] {
        let (_backend, _gate, mut client_end, mut server_end) = narrow_tunnel(tls, "500ms").await;
        let frame = server(BINARY, vec![0; 6_000_000]);
        let read = async {
            // Three periods long it takes a little more than it must.
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            for _ in 0..15 {
                pace.tick().await;
                client_end.read_exact(64 * 1024).await;
            }
            client_end.read_exact(frame.len() - 15 * 64 * 1024).await;
        };
        tokio::join!(server_end.send(&frame), read);
    }
}

#[tokio::test]
async fn drain_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).grace("300ms").route("websocket.close_timeout = \"1h\"").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    // In the middle of a frame each way, so no Close can go in.
    client_end.send(&client(TEXT, "half a frame")[..9]).await;
    server_end.expect(&client(TEXT, "half a frame")[..9]).await;
    server_end.send(&server(TEXT, "half a frame")[..9]).await;
    client_end.expect(&server(TEXT, "half a frame")[..9]).await;
    gate.drain();
    client_end.expect_reset().await;
    server_end.expect_reset().await;
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("drain_timeout"), Some("gate")));
    let outcome = gate.finish().await;
    assert_eq!(outcome.cut, 1);
}
