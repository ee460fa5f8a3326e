//! Pings of the gate's own, over real sockets: rules T6 and T8.

use std::{ops::ControlFlow, time::Duration};

use futures_util::{SinkExt, StreamExt, future::join_all};
use tokio::time::interval;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::harness::{
    Backend, Gate, Peer, Setup,
    frames::{self, BINARY, CLOSE, PING, PONG, TEXT, client, client_raw, server},
    pki::Pki,
    soon,
    websocket::WebSocket,
};

const PING_OF_OURS: u8 = 0x80 | PING;

/// A gate with these lines in its route, over TLS or not.
fn gate(backend: &Backend, route: &str, tls: bool) -> Gate {
    let setup = Setup::to(backend.address()).route(route);
    if tls { setup.tls(&Pki::new(), "").start() } else { setup.start() }
}

async fn tunnel(route: &str, tls: bool) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let gate = gate(&backend, route, tls);
    let (client_end, server_end) = gate.tunnel(&backend).await;
    (backend, gate, client_end, server_end)
}

/// Reads the gate's Ping, and gives its payload.
async fn ping(peer: &mut Peer) -> Vec<u8> {
    let frame = frames::read(peer).await;
    assert_eq!(frame.first, PING_OF_OURS, "{frame:?}");
    frame.payload
}

/// What the application at one end saw.
#[derive(Debug, Default)]
struct Seen {
    texts: usize,
    pings_of_the_gate: usize,
    pongs: Vec<Vec<u8>>,
}

/// Listens until the gate has asked three times. What answers its Pings is the library.
async fn listen(socket: &mut WebSocket, seen: &mut Seen) -> ControlFlow<()> {
    match soon("a message", socket.next()).await.expect("a message, not the end").expect("a message") {
        Message::Text(text) => {
            assert_eq!(text.as_str(), "busy");
            seen.texts += 1;
        }
        Message::Ping(payload) => {
            assert!(payload.starts_with(b"wsgate-"), "{payload:?}");
            seen.pings_of_the_gate += 1;
        }
        Message::Pong(payload) => seen.pongs.push(payload.to_vec()),
        other => panic!("{other:?}"),
    }
    socket.flush().await.expect("the other side takes bytes");
    if seen.pings_of_the_gate == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// `quiet` only listens, while `busy` sends, and sees no Ping for that, nor `quiet`'s Pongs.
async fn one_is_busy(quiet: &mut WebSocket, busy: &mut WebSocket) {
    let (mut seen, mut of_busy) = (Seen::default(), Vec::new());
    let mut pace = interval(Duration::from_millis(15));
    loop {
        tokio::select! {
            flow = listen(quiet, &mut seen) => if flow.is_break() { break },
            _ = pace.tick() => busy.send(Message::text("busy")).await.expect("the other side takes bytes"),
            Some(message) = busy.next() => of_busy.push(message.expect("a message")),
        }
    }
    assert!(seen.texts > 0 && seen.pongs.is_empty(), "{seen:?}");
    // On a machine so slow that nothing was sent for a whole interval it may be asked too.
    let foreign =
        |message: &Message| !matches!(message, Message::Ping(payload) if payload.starts_with(b"wsgate-"));
    assert!(!of_busy.iter().any(foreign), "{of_busy:?}");
    // A Ping of its own is answered by the other application, and not by the gate.
    busy.send(Message::Ping("its own".into())).await.expect("the other side takes bytes");
    let answered = async {
        loop {
            tokio::select! {
                message = quiet.next() => {
                    message.expect("a message, not the end").expect("a message");
                    quiet.flush().await.expect("the other side takes bytes");
                }
                message = busy.next() => match message.expect("a message, not the end").expect("a message") {
                    Message::Pong(payload) => return payload,
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                },
            }
        }
    };
    assert_eq!(soon("a Pong", answered).await, "its own");
}

#[tokio::test]
async fn t6_each_side_is_asked_by_itself_and_its_pongs_stay_with_the_gate() {
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let gate = gate(&backend, "websocket.ping_interval = \"200ms\"", tls);
        let accept = async {
            let peer = backend.accept().await;
            tokio_tungstenite::accept_async(peer).await.expect("an offer")
        };
        let (mut client_end, mut server_end) =
            tokio::join!(crate::harness::websocket::connect(&gate), accept);
        one_is_busy(&mut client_end, &mut server_end).await;
        one_is_busy(&mut server_end, &mut client_end).await;
        client_end.close(None).await.expect("a Close");
        let end = async {
            loop {
                tokio::select! {
                    message = server_end.next() => if message.is_none_or(|message| message.is_err()) { return },
                    message = client_end.next() => if let Some(Err(error)) = message {
                        assert!(matches!(error, tungstenite::Error::ConnectionClosed), "{error}");
                    },
                }
            }
        };
        soon("the end", end).await;
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("closed"), Some("downstream")));
        for pings in [record.client_pings, record.backend_pings] {
            let pings = pings.expect("Pings");
            assert!(pings.sent >= 3 && pings.lost < pings.sent, "{pings:?}");
            let (last, longest) =
                (pings.round_trip.expect("an answer"), pings.longest_round_trip.expect("an answer"));
            assert!(last <= longest && longest < Duration::from_secs(20), "{pings:?}");
        }
        let mut line = Vec::new();
        record.write_json(&mut line);
        let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        for side in ["client_pings", "backend_pings"] {
            assert!(line[side]["rtt_ms"].is_f64() && line[side]["longest_rtt_ms"].is_f64(), "{line}");
            assert!(line[side]["sent"].is_u64() && line[side]["lost"].is_u64(), "{line}");
        }
    }
}

#[tokio::test]
async fn t6_off_leaves_the_stream_untouched_byte_for_byte() {
    for tls in [false, true] {
        let keys = "websocket.ping = \"off\"\nwebsocket.ping_interval = \"50ms\"\nwebsocket.pong_timeout = \"50ms\"\n\
            websocket.idle_timeout = \"2s\"";
        let (_backend, gate, mut client_end, mut server_end) = tunnel(keys, tls).await;
        let imitation = b"wsgate-\0\0\0\0c\0\0\0\x01";
        let up = [
            client(PONG, imitation),
            client(PING, "a"),
            client_raw(TEXT, "frag"),
            client(PONG, "nobody asked"),
            client_raw(0x80, "ment"),
        ]
        .concat();
        let down = [server(PONG, imitation), server(PING, imitation), server(BINARY, [0; 1000])].concat();
        client_end.send(&up).await;
        server_end.send(&down).await;
        server_end.expect(&up).await;
        client_end.expect(&down).await;
        // Two seconds go by, of twenty intervals each, and the next that comes is the Close of an idle tunnel.
        assert_eq!(frames::read(&mut client_end).await.close_code(), 1001);
        assert_eq!(frames::read(&mut server_end).await.close_code(), 1001);
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.client_pings, record.backend_pings), (Some("idle"), None, None));
    }
}

#[tokio::test]
async fn t6_clients_alone_or_backends_alone_are_asked() {
    for (who, asks_client) in [("clients", true), ("upstreams", false)] {
        let keys = format!("websocket.ping = \"{who}\"\nwebsocket.ping_interval = \"100ms\"");
        let (_backend, gate, mut client_end, mut server_end) = tunnel(&keys, true).await;
        for _ in 0..4 {
            if asks_client {
                let payload = ping(&mut client_end).await;
                client_end.send(client(PONG, payload)).await;
            } else {
                let payload = ping(&mut server_end).await;
                server_end.send(server(PONG, payload)).await;
            }
        }
        let (asked, other) =
            if asks_client { (&mut client_end, &mut server_end) } else { (&mut server_end, &mut client_end) };
        let close = |from_client| {
            if from_client { frames::client_close(1000, "") } else { frames::server_close(1000, "") }
        };
        asked.send(close(asks_client)).await;
        other.expect(close(asks_client)).await;
        other.send(close(!asks_client)).await;
        let mut next = frames::read(asked).await;
        while next.first == PING_OF_OURS {
            next = frames::read(asked).await;
        }
        assert_eq!(next.close_code(), 1000);
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        assert_eq!(record.ending, Some("closed"));
        assert_eq!(
            (record.client_pings.is_some(), record.backend_pings.is_some()),
            (asks_client, !asks_client)
        );
    }
}

#[tokio::test]
async fn t6_a_server_that_only_pushes_and_never_reads_lives_on() {
    for tls in [false, true] {
        let keys = "websocket.ping = \"upstreams\"\nwebsocket.ping_interval = \"100ms\"\nwebsocket.pong_timeout = \"200ms\"";
        let (_backend, gate, mut client_end, mut server_end) = tunnel(keys, tls).await;
        // Twice as long as a silent side that answers would have.
        let mut pace = interval(Duration::from_millis(600));
        for _ in 0..4 {
            pace.tick().await;
            server_end.send(server(TEXT, "news")).await;
            client_end.expect(server(TEXT, "news")).await;
        }
        // It has been asked, and is still there.
        let mut frame = frames::read(&mut server_end).await;
        assert_eq!(frame.first, PING_OF_OURS);
        client_end.send(client(TEXT, "thanks")).await;
        while frame.first == PING_OF_OURS {
            frame = frames::read(&mut server_end).await;
        }
        assert_eq!((frame.first, &frame.payload[..]), (0x81, &b"thanks"[..]));
        drop((client_end, server_end));
        let pings = gate.tunnel_end().await.backend_pings.expect("Pings");
        assert!(pings.sent > 1 && pings.round_trip.is_none(), "{pings:?}");
    }
}

#[tokio::test]
async fn t6_a_side_that_answered_once_and_then_says_nothing_is_cut_and_the_other_ends_bare() {
    for (tls, is_client) in [(false, false), (false, true), (true, false), (true, true)] {
        let asked = if is_client { "clients" } else { "upstreams" };
        let keys = format!(
            "websocket.ping = \"{asked}\"\nwebsocket.ping_interval = \"300ms\"\nwebsocket.pong_timeout = \"300ms\""
        );
        let (_backend, gate, mut client_end, mut server_end) = tunnel(&keys, tls).await;
        let (dead, stays) =
            if is_client { (&mut client_end, &mut server_end) } else { (&mut server_end, &mut client_end) };
        let of_dead = |opcode, payload: &[u8]| {
            if is_client { client(opcode, payload) } else { server(opcode, payload) }
        };
        let of_other = |opcode, payload: &[u8]| {
            if is_client { server(opcode, payload) } else { client(opcode, payload) }
        };
        let payload = ping(dead).await;
        dead.send(of_dead(PONG, &payload)).await;
        dead.send(of_dead(TEXT, b"last words")).await;
        let mut pace = interval(Duration::from_millis(50));
        let mut said = Vec::new();
        loop {
            // The other side goes on sending, which is no sign of life of this one.
            tokio::select! {
                _ = pace.tick() => {
                    let _ = stays.offer_bytes(of_other(BINARY, b"and you?")).await;
                }
                frame = frames::next(stays) => match frame {
                    Some(frame) => said.push(frame.payload),
                    None => break,
                },
            }
        }
        assert_eq!(said, [b"last words"]);
        stays.shutdown().await;
        // What was sent to the dead side may still come, but no Close, and then it is cut.
        let (rest, end) = dead.read_to_any_end().await;
        assert!(end.is_err(), "an orderly end for the dead");
        let (rest, _) = frames::split(&rest);
        assert!(rest.iter().all(|frame| frame.first != 0x80 | CLOSE), "{rest:?}");
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("pong_timeout"), Some("gate")));
        let (side, pings) =
            if is_client { ("downstream", record.client_pings) } else { ("upstream", record.backend_pings) };
        assert!(record.error.as_deref().is_some_and(|error| error.starts_with(side)), "{:?}", record.error);
        assert!(pings.is_some_and(|pings| pings.lost >= 1), "{pings:?}");
        assert_eq!(record.close, None);
    }
}

#[tokio::test]
async fn t6_pings_go_between_fragments_and_never_into_a_frame() {
    let (_backend, _gate, mut client_end, mut server_end) =
        tunnel("websocket.ping_interval = \"150ms\"", true).await;
    let (first, last) = (client_raw(TEXT, "to be "), client_raw(0x80, "or not to be"));
    client_end.send(&first).await;
    server_end.expect(&first).await;
    let payload = ping(&mut server_end).await;
    server_end.send(server(PONG, payload)).await;
    let (one, rest) = last.split_at(8);
    client_end.send(one).await;
    let mut frame = vec![0x89];
    while frame[0] == 0x89 {
        frame = server_end.read_exact(2).await;
        let length = if frame[0] == 0x89 { usize::from(frame[1] & 0x7f) + 4 } else { one.len() - 2 };
        frame.extend(server_end.read_exact(length).await);
    }
    assert_eq!(frame, one);
    // The client's Pings tell that several intervals have gone by, of which the backend must see nothing.
    for _ in 0..5 {
        ping(&mut client_end).await;
    }
    client_end.send(rest).await;
    server_end.expect(rest).await;
    ping(&mut server_end).await;
}

async fn keeps_its_window_closed(tls: bool, is_client: bool) {
    let backend = Backend::listen().await;
    let keys = "websocket.ping = \"off\"\nwebsocket.pong_timeout = \"1s\"";
    let setup = Setup::to(backend.address()).route(keys).listener("timeout.write = \"off\"");
    let gate = if tls { setup.tls(&Pki::new(), "").start() } else { setup.start() };
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let (closed, stays) =
        if is_client { (&mut client_end, &mut server_end) } else { (&mut server_end, &mut client_end) };
    let frame = if is_client { server(BINARY, vec![1; 60_000]) } else { client(BINARY, vec![1; 60_000]) };
    // Until this side is told.
    while stays.offer_bytes(&frame).await.is_ok() {}
    assert!(stays.read_to_any_end().await.0.is_empty(), "something of the gate's own");
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("pong_timeout"), Some("gate")), "{record:?}");
    let side = if is_client { "downstream" } else { "upstream" };
    assert!(record.error.as_deref().is_some_and(|error| error.starts_with(side)), "{:?}", record.error);
    let (received, _) = closed.read_to_any_end().await;
    assert!(!received.is_empty());
}

#[tokio::test]
async fn t6_a_side_that_keeps_its_window_closed_for_pong_timeout_counts_as_gone() {
    let cases = [(false, false), (false, true), (true, false), (true, true)];
    join_all(cases.map(|(tls, is_client)| keeps_its_window_closed(tls, is_client))).await;
}
