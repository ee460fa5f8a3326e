//! The tunnel: rules T1 to T5, T8, T11 to T13.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    AGREED, Backend, Peer, Setup,
    frames::{self, BINARY, CLOSE, PING, PONG, TEXT, client, client_raw, server, server_raw},
    offer_with,
    pki::Pki,
    soon,
};

/// Frames of many sizes, written one behind the other.
fn many_frames(seed: u64, encode: fn(u8, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    for _ in 0..200 {
        let size = match random.random_range(0..10) {
            0..6 => random.random_range(0..300),
            6..9 => random.random_range(0..5_000),
            _ => random.random_range(0..100_000),
        };
        let mut payload = vec![0; size];
        random.fill_bytes(&mut payload);
        all.extend(encode(BINARY, payload));
    }
    all
}

/// Writes in pieces of any size while the other side is read from, and looks that all arrived.
async fn relay_in_pieces(from: &mut Peer, to: &mut Peer, bytes: &[u8], seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let write = async {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(random.random_range(1..=20_000).min(rest.len()));
            from.send(piece).await;
            rest = more;
        }
    };
    tokio::join!(write, to.expect(bytes));
}

#[tokio::test]
async fn t1_any_bytes_in_any_pieces_arrive_unchanged_both_ways_at_once() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (client_end, server_end) = gate.tunnel(&backend).await;
    let up = many_frames(1, client);
    let down = many_frames(2, server);
    let (mut client_reads, mut client_writes) = tokio::io::split(client_end);
    let (mut server_reads, mut server_writes) = tokio::io::split(server_end);
    let (mut up_read, mut down_read) = (vec![0; up.len()], vec![0; down.len()]);
    let all = async {
        tokio::try_join!(
            client_writes.write_all(&up),
            server_writes.write_all(&down),
            server_reads.read_exact(&mut up_read),
            client_reads.read_exact(&mut down_read),
        )
    };
    soon("both ways", all).await.unwrap();
    assert!(up_read == up && down_read == down, "other bytes");
}

#[tokio::test]
async fn t1_b1_pieces_of_any_size_over_tls() {
    let pki = Pki::new();
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let up = many_frames(3, client);
    relay_in_pieces(&mut client_end, &mut server_end, &up, 4).await;
    let down = many_frames(5, server);
    relay_in_pieces(&mut server_end, &mut client_end, &down, 6).await;
}

#[tokio::test]
async fn t4_headers_byte_by_byte_in_all_three_lengths() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    for size in [0, 1, 125, 126, 300] {
        let frame = client(TEXT, vec![b'a'; size]);
        tokio::join!(client_end.dribble(&frame), server_end.expect(&frame));
        let frame = server(BINARY, vec![b'b'; size]);
        tokio::join!(server_end.dribble(&frame), client_end.expect(&frame));
    }
    let large = server(BINARY, vec![7; 70_000]);
    server_end.dribble(&large[..14]).await;
    tokio::join!(server_end.send(&large[14..]), client_end.expect(&large));
    let record = {
        client_end.send(frames::client_close(1000, "")).await;
        server_end.expect(frames::client_close(1000, "")).await;
        server_end.send(frames::server_close(1000, "")).await;
        client_end.expect(frames::server_close(1000, "")).await;
        drop((client_end, server_end));
        gate.tunnel_end().await
    };
    let from_client = record.from_client.unwrap();
    assert_eq!((from_client.messages, from_client.frames, from_client.longest_message), (5, 6, 300));
    let from_backend = record.from_backend.unwrap();
    assert_eq!((from_backend.messages, from_backend.frames, from_backend.longest_message), (6, 7, 70_000));
}

#[tokio::test]
async fn t4_a_frame_of_a_terabyte_is_followed_and_not_held() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let beginning = [0x82, 0x7f, 0, 0, 1, 0, 0, 0, 0, 0, b'p', b'a', b'y'];
    server_end.send(beginning).await;
    client_end.expect(beginning).await;
    drop(server_end);
    client_end.expect_reset().await;
}

/// What one side takes until it stalls, when the other does not read.
const BOUND: usize = 24 * 1024 * 1024;

#[tokio::test]
async fn t1_a_reader_that_stops_stops_its_sender() {
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let mut setup = Setup::to(backend.address()).listener("timeout.write = \"off\"");
        let pki = Pki::new();
        if tls {
            setup = setup.tls(&pki, "");
        }
        let gate = setup.start();
        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        let frame = server(BINARY, vec![1; 64 * 1024]);
        let taken = server_end.fill(&frame, BOUND).await;
        assert!(taken < BOUND, "the gate and the kernel hold {taken} bytes for a client that does not read");
        // The other way is not held up, and nothing is lost once it reads.
        client_end.send(client(TEXT, "still here")).await;
        server_end.expect(client(TEXT, "still here")).await;
        let mut left = taken;
        while left > 0 {
            let count = left.min(64 * 1024);
            client_end.read_exact(count).await;
            left -= count;
        }
    }
}

#[tokio::test]
async fn t1_a_backend_that_stops_reading_stops_its_client() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let frame = client(BINARY, vec![1; 64 * 1024]);
    let taken = client_end.fill(&frame, BOUND).await;
    assert!(taken < BOUND, "the gate and the kernel hold {taken} bytes");
    server_end.send(server(TEXT, "still here")).await;
    client_end.expect(server(TEXT, "still here")).await;
}

#[tokio::test]
async fn t2_an_end_is_passed_on_and_the_other_way_goes_on() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        client_end.send(client(TEXT, "last words")).await;
        client_end.shutdown().await;
        server_end.expect(client(TEXT, "last words")).await;
        server_end.expect_end().await;
        for _ in 0..3 {
            server_end.send(server(TEXT, "still")).await;
            client_end.expect(server(TEXT, "still")).await;
        }
        server_end.shutdown().await;
        client_end.expect_end().await;
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("downstream_eof"), Some("downstream")));
        assert!(!record.truncated);

        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        server_end.send(server(TEXT, "last words")).await;
        server_end.shutdown().await;
        client_end.expect(server(TEXT, "last words")).await;
        client_end.expect_end().await;
        client_end.send(client(TEXT, "still")).await;
        server_end.expect(client(TEXT, "still")).await;
        client_end.shutdown().await;
        server_end.expect_end().await;
        let record = gate.record(|record| record.ending == Some("upstream_eof")).await;
        assert_eq!(record.ended_by, Some("upstream"));
    }
}

#[tokio::test]
async fn t2_an_end_comes_after_all_that_was_sent_before_it() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        let down = server(BINARY, vec![5; 6_000_000]);
        let up = client(BINARY, vec![6; 6_000_000]);
        let (mut reads, mut writes) = tokio::io::split(&mut server_end);
        let write = async {
            writes.write_all(&down).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let read = async {
            client_end.expect(&down).await;
            client_end.expect_end().await;
            client_end.send(&up).await;
            client_end.shutdown().await;
        };
        let mut received = Vec::new();
        let other = async {
            reads.read_to_end(&mut received).await.unwrap();
        };
        soon("both ends", async { tokio::join!(write, read, other) }).await;
        assert!(received == up);
        assert_eq!(gate.tunnel_end().await.ending, Some("upstream_eof"));
    }
}

#[tokio::test]
async fn t2_what_was_sent_before_the_end_is_not_cut_by_a_time_out_of_the_other_way() {
    for last in [frames::server_close(1000, "bye"), server(TEXT, "bye")] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address())
            .route("websocket.half_close_timeout = \"200ms\"\nwebsocket.close_timeout = \"200ms\"")
            .start();
        let mut client_end = Peer::dial_narrow(gate.address()).await;
        client_end.send(crate::harness::OFFER).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send(AGREED).await;
        client_end.read_head().await;
        let frame = server(BINARY, vec![8; 400_000]);
        server_end.send([frame.clone(), last.clone()].concat()).await;
        server_end.shutdown().await;
        // It takes its time: four times as long as either time-out, and far shorter than the time to write.
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
        let mut left = frame.len();
        for _ in 0..8 {
            pace.tick().await;
            client_end.read_exact(1000).await;
            left -= 1000;
        }
        client_end.read_exact(left).await;
        client_end.expect(&last).await;
        client_end.expect_end().await;
    }
}

#[tokio::test]
async fn t2_half_a_tunnel_ends_after_half_close_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.half_close_timeout = \"200ms\"").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    client_end.expect_end().await;
    let record = gate.tunnel_end().await;
    assert_eq!(record.ending, Some("downstream_eof"));
    gate.at_rest().await;
}

#[tokio::test]
async fn t2_after_a_close_the_other_end_has_close_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.close_timeout = \"200ms\"").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    client_end.send(frames::client_close(1000, "bye")).await;
    server_end.expect(frames::client_close(1000, "bye")).await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    // The backend says nothing more: its side is ended for it.
    client_end.expect_end().await;
    gate.at_rest().await;
    let record = gate.tunnel_end().await;
    assert_eq!(record.ending, Some("downstream_eof"));
    assert_eq!(record.close.unwrap().side, "downstream");
}

#[tokio::test]
async fn t3_an_end_without_close_stays_one() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    // After a reset the other side gets what was sent before, then the bare end.
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    server_end.send(server(TEXT, "before")).await;
    client_end.expect(server(TEXT, "before")).await;
    server_end.reset();
    client_end.expect_end().await;
    drop(client_end);
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("upstream_reset"), Some("upstream")));
    assert!(record.close.is_none());

    let (client_end, mut server_end) = gate.tunnel(&backend).await;
    client_end.reset();
    server_end.expect_end().await;
    drop(server_end);
    let record = gate.record(|record| record.ending == Some("downstream_reset")).await;
    assert_eq!(record.ended_by, Some("downstream"));
}

#[tokio::test]
async fn t3_a_reset_within_a_frame_is_a_reset() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let frame = client(BINARY, vec![1; 1000]);
    client_end.send(&frame[..500]).await;
    server_end.expect(&frame[..500]).await;
    client_end.reset();
    server_end.expect_reset().await;
    assert_eq!(gate.tunnel_end().await.ending, Some("downstream_reset"));
}

#[tokio::test]
async fn t3_an_end_within_a_frame_is_a_reset() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let frame = client(BINARY, vec![1; 1000]);
    client_end.send(&frame[..500]).await;
    server_end.expect(&frame[..500]).await;
    client_end.shutdown().await;
    assert!(server_end.expect_reset().await.is_empty());
    let record = gate.tunnel_end().await;
    assert_eq!(record.ending, Some("downstream_eof"));

    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    server_end.send(&server(BINARY, vec![1; 1000])[..500]).await;
    client_end.expect(&server(BINARY, vec![1; 1000])[..500]).await;
    drop(server_end);
    assert!(client_end.expect_reset().await.is_empty());
}

/// An illegal frame, and why.
fn illegal_frames() -> Vec<(&'static str, bool, Vec<u8>)> {
    let text = |masked: bool| if masked { client(TEXT, "ok") } else { server(TEXT, "ok") };
    let mut all = Vec::new();
    for from_client in [true, false] {
        let raw = |first, payload: &[u8]| {
            if from_client { client_raw(first, payload) } else { server_raw(first, payload) }
        };
        let mask_bit = if from_client { 0x80 } else { 0 };
        for opcode in (0x3..=0x7).chain(0xB..=0xF) {
            all.push(("a reserved opcode", from_client, raw(0x80 | opcode, b"a")));
        }
        all.push(("a fragmented Ping", from_client, raw(PING, b"a")));
        all.push(("a fragmented Close", from_client, raw(CLOSE, b"")));
        all.push(("a fragmented Pong", from_client, raw(PONG, b"a")));
        for opcode in [PING, PONG, CLOSE] {
            all.push(("a control frame of 126 bytes", from_client, raw(0x80 | opcode, &[0; 126])));
        }
        all.push(("the wrong mask direction", from_client, text(!from_client)));
        all.push(("a continuation of nothing", from_client, raw(0x80, b"a")));
        all.push(("a message within one", from_client, [raw(TEXT, b"a"), raw(0x80 | TEXT, b"b")].concat()));
        for bits in [0x40, 0x20, 0x10] {
            all.push(("a reserved bit", from_client, raw(0x80 | bits | TEXT, b"a")));
            all.push(("a reserved bit", from_client, raw(0x80 | bits | PING, b"a")));
        }
        let top_bit = [0x82, mask_bit | 127, 0x80, 0, 0, 0, 0, 0, 0, 1];
        all.push(("a length with its top bit", from_client, top_bit.to_vec()));
    }
    all
}

#[tokio::test]
async fn t4_an_illegal_frame_ends_the_tunnel_with_1002_on_both_sides() {
    illegal_frames_end_with_1002(|backend| Setup::to(backend.address())).await;
}

#[tokio::test]
async fn t4_an_illegal_frame_over_tls_ends_the_tunnel_with_1002_on_both_sides() {
    let pki = Pki::new();
    illegal_frames_end_with_1002(|backend| Setup::to(backend.address()).tls(&pki, "")).await;
}

async fn illegal_frames_end_with_1002(setup: impl Fn(&Backend) -> Setup) {
    let backend = Backend::listen().await;
    for (what, from_client, bytes) in illegal_frames() {
        let gate = setup(&backend).start();
        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        // What came before it is still delivered.
        let (before, sender, receiver) = if from_client {
            (client(TEXT, "before"), &mut client_end, &mut server_end)
        } else {
            (server(TEXT, "before"), &mut server_end, &mut client_end)
        };
        sender.send([before.clone(), bytes].concat()).await;
        receiver.expect(&before).await;
        let mut close = frames::read(receiver).await;
        if what == "a message within one" {
            assert_eq!(close.payload, b"a", "the first fragment is legal");
            close = frames::read(receiver).await;
        }
        assert_eq!((close.close_code(), close.masked), (1002, from_client), "{what}");
        let close = frames::read(sender).await;
        assert_eq!((close.close_code(), close.masked), (1002, !from_client), "{what}");
        let answer = |from_client| {
            if from_client { frames::client_close(1002, "") } else { frames::server_close(1002, "") }
        };
        receiver.send(answer(!from_client)).await;
        receiver.expect_end().await;
        sender.expect_gone().await;
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("ws_protocol"), Some("gate")), "{what}");
        assert_eq!(record.phase, Some("tunnel"));
        assert!(
            record.error.unwrap().contains(if from_client { "downstream" } else { "upstream" }),
            "{what}"
        );
    }
}

#[tokio::test]
async fn t4_what_the_peer_of_an_illegal_frame_sent_still_arrives() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let message = server(BINARY, vec![9; 300_000]);
    // Under way, within a frame, when the client breaks the rules.
    server_end.send(&message[..200_000]).await;
    client_end.send(client_raw(0x83, "x")).await;
    assert_eq!(frames::read(&mut server_end).await.close_code(), 1002);
    server_end.send(&message[200_000..]).await;
    client_end.expect(&message).await;
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1002);
}

#[tokio::test]
async fn t4_reserved_bits_go_by_the_agreed_extension() {
    let backend = Backend::listen().await;
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    for (bytes, legal) in [
        (client_raw(0xC1, "a"), true),
        ([client_raw(0x41, "a"), client_raw(0x80, "b")].concat(), true),
        ([client_raw(0x41, "a"), client_raw(0xC0, "b")].concat(), false),
        (client_raw(0xA1, "a"), false),
        (client_raw(0xC9, "a"), false),
    ] {
        let gate = Setup::to(backend.address()).start();
        let mut client_end = gate.ask(offer_with(extension)).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send(AGREED.replacen("\r\n\r\n", &format!("\r\n{extension}\r\n"), 1)).await;
        client_end.read_head().await;
        client_end.send(&bytes).await;
        if legal {
            server_end.expect(&bytes).await;
        } else {
            assert_eq!(frames::read(&mut client_end).await.close_code(), 1002, "{bytes:02x?}");
        }
    }
}

#[tokio::test]
async fn t4_an_unknown_extension_is_observed_alone() {
    let backend = Backend::listen().await;
    let extension = "Sec-WebSocket-Extensions: x-unheard-of\r\n";
    let gate = Setup::to(backend.address()).start();
    let mut client_end = gate.ask(offer_with(extension)).await;
    let mut server_end = backend.accept().await;
    server_end.read_head().await;
    server_end.send(AGREED.replacen("\r\n\r\n", &format!("\r\n{extension}\r\n"), 1)).await;
    client_end.read_head().await;
    for bytes in [client_raw(0xF1, "all bits"), client_raw(0x83, "reserved"), b"no frame at all".to_vec()] {
        client_end.send(&bytes).await;
        server_end.expect(&bytes).await;
    }
}

#[tokio::test]
async fn t4_observed_frames_pass_and_nothing_of_the_gates_own_follows() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .route("websocket.frames = \"observe\"\nwebsocket.idle_timeout = \"300ms\"\nwebsocket.close_timeout = \"300ms\"")
        .start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let illegal = client_raw(0x83, "x");
    client_end.send(&illegal).await;
    server_end.expect(&illegal).await;
    // Idle: the client's side still gets a Close, the other stream is left alone and only ends.
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1001);
    server_end.expect_gone().await;
    let record = gate.tunnel_end().await;
    assert_eq!(record.from_client.unwrap().illegal_frames, 1);
    assert_eq!(record.ending, Some("idle"));
}

#[tokio::test]
async fn t5_a_close_of_the_gate_waits_for_the_frame_boundary() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let (up, down) = (client(BINARY, vec![1; 1000]), server(BINARY, vec![2; 1000]));
    client_end.send(&up[..600]).await;
    server_end.expect(&up[..600]).await;
    server_end.send(&down[..600]).await;
    client_end.expect(&down[..600]).await;
    gate.drain();
    client_end.send([&up[600..], &client(TEXT, "relayed or not")].concat()).await;
    server_end.send(&down[600..]).await;
    client_end.expect(&down[600..]).await;
    assert_eq!(frames::read(&mut client_end).await.close_code(), 1012);
    server_end.expect(&up[600..]).await;
    let mut frame = frames::read(&mut server_end).await;
    if frame.first == 0x81 {
        assert_eq!(frame.payload, b"relayed or not");
        frame = frames::read(&mut server_end).await;
    }
    assert_eq!((frame.close_code(), frame.masked), (1001, true));
}

#[tokio::test]
async fn t8_an_idle_tunnel_gets_1001_on_both_sides_and_a_busy_one_none() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.idle_timeout = \"400ms\"").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let began = std::time::Instant::now();
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
    // Any byte either way is life.
    for turn in 0..20 {
        pace.tick().await;
        if turn % 2 == 0 {
            client_end.send(client(PING, "a")).await;
            server_end.expect(client(PING, "a")).await;
        } else {
            server_end.send(server(TEXT, "b")).await;
            client_end.expect(server(TEXT, "b")).await;
        }
    }
    assert!(began.elapsed() > std::time::Duration::from_millis(900));
    let close = frames::read(&mut client_end).await;
    assert_eq!((close.close_code(), close.masked), (1001, false));
    let close = frames::read(&mut server_end).await;
    assert_eq!((close.close_code(), close.masked), (1001, true));
    client_end.send(frames::client_close(1001, "")).await;
    server_end.send(frames::server_close(1001, "")).await;
    client_end.expect_end().await;
    server_end.expect_end().await;
    drop((client_end, server_end));
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("idle"), Some("gate")));
}

#[tokio::test]
async fn t11_close_codes_and_reasons_pass_and_are_recorded() {
    let backend = Backend::listen().await;
    for (code, reason, by_client) in
        [(1000, "done", true), (4321, "grüß\u{1b}[31m", true), (1011, "", false), (3000, "x", false)]
    {
        let gate = Setup::to(backend.address()).start();
        let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
        client_end
            .send(
                [
                    client(TEXT, "hello"),
                    client_raw(TEXT, "frag"),
                    client(PING, "p"),
                    client_raw(0x80, "ment"),
                ]
                .concat(),
            )
            .await;
        server_end
            .expect(
                [
                    client(TEXT, "hello"),
                    client_raw(TEXT, "frag"),
                    client(PING, "p"),
                    client_raw(0x80, "ment"),
                ]
                .concat(),
            )
            .await;
        server_end.send(server(PONG, "p")).await;
        client_end.expect(server(PONG, "p")).await;
        let (of_client, of_server) = (frames::client_close(code, reason), frames::server_close(code, reason));
        if by_client {
            client_end.send(&of_client).await;
            server_end.expect(&of_client).await;
            server_end.send(&of_server).await;
            client_end.expect(&of_server).await;
        } else {
            server_end.send(&of_server).await;
            client_end.expect(&of_server).await;
            client_end.send(&of_client).await;
            server_end.expect(&of_client).await;
        }
        server_end.shutdown().await;
        client_end.expect_end().await;
        drop(client_end);
        let record = gate.tunnel_end().await;
        let side = if by_client { "downstream" } else { "upstream" };
        assert_eq!((record.ending, record.ended_by), (Some("closed"), Some(side)));
        let close = record.close.clone().unwrap();
        assert_eq!((close.side, close.code, &*close.reason), (side, Some(code), reason));
        let from_client = record.from_client.unwrap();
        assert_eq!((from_client.messages, from_client.frames, from_client.longest_message), (2, 5, 8));
        assert!(record.duration.is_some());
        // Rule S10: what a peer wrote can't reach a terminal as it is.
        let mut line = String::new();
        record.write_text(&mut line);
        assert!(!line.contains('\u{1b}') && line.contains(&code.to_string()), "{line}");
    }
}

#[tokio::test]
async fn t12_a_browsers_reload_is_logged_as_its_1001() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    let reload = [0x88, 0x82, 0x34, 0xb3, 0xe3, 0x25, 0x37, 0x5a];
    client_end.send(reload).await;
    server_end.expect(reload).await;
    drop(client_end);
    server_end.send(frames::server_close(1001, "")).await;
    drop(server_end);
    let record = gate.tunnel_end().await;
    let close = record.close.unwrap();
    assert_eq!((close.side, close.code, &*close.reason), ("downstream", Some(1001), ""));
}

#[tokio::test]
async fn t13_close_notify_is_an_end_and_a_bare_fin_a_truncation() {
    let pki = Pki::new();
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    client_end.send(client(TEXT, "a")).await;
    client_end.shutdown().await;
    server_end.expect(client(TEXT, "a")).await;
    server_end.expect_end().await;
    server_end.shutdown().await;
    // An end without the gate's close_notify would be an error here.
    client_end.expect_end().await;
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.truncated), (Some("downstream_eof"), false));

    let (client_end, mut server_end) = gate.tunnel(&backend).await;
    let mut bare = client_end.into_tcp();
    tokio::io::AsyncWriteExt::shutdown(&mut bare).await.unwrap();
    server_end.expect_end().await;
    drop(server_end);
    let record = gate.record(|record| record.truncated).await;
    assert_eq!(record.ending, Some("downstream_eof"));
    drop(bare);
}

#[tokio::test]
async fn t13_a_queued_answer_is_not_cut_by_input_that_nobody_reads() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    let body = vec![b'a'; 300_000];
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(&request).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n";
    server.send([answer.as_bytes(), &vec![b'n'; 200_000]].concat()).await;
    // The body goes on after the answer has come; closing over it must not take the answer along.
    client.send(&body).await;
    let answer = client.read_response().await;
    assert_eq!((answer.status(), answer.body.len()), (403, 200_000));
    client.expect_end().await;
}

#[tokio::test]
async fn b4_a_client_or_backend_that_vanishes_is_noticed_by_the_other() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (client_end, mut server_end) = gate.tunnel(&backend).await;
    drop(client_end);
    server_end.expect_gone().await;
    drop(server_end);
    let (mut client_end, server_end) = gate.tunnel(&backend).await;
    drop(server_end);
    client_end.expect_gone().await;
    drop(client_end);
    gate.at_rest().await;
}
