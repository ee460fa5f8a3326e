use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tunnel::visit;

#[tokio::test(start_paused = true)]
async fn t9_a_quiet_tunnel_is_closed_on_both_sides_and_answers_are_awaited() {
    let mut open = open();
    open.backend.send(&tells("hello")).await;
    open.client.expect(&tells("hello")).await;
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    open.backend.finish().await;
    assert_eq!(unmask_close(&open.backend.rest().await), (1001, "going away".to_owned()));
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "drained"));
    assert_eq!(open.age(), Duration::ZERO);
    assert!(!open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_what_the_client_still_sends_is_relayed_until_its_answer() {
    let mut open = open();
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    // Time passes, but less than the time-out.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (last, begun) = (says("one more thing"), frame(Role::FromClient, false, Opcode::Text, b"and"));
    open.client.send(&last).await;
    open.backend.expect(&last).await;
    open.backend.send(&tells("nobody hears this")).await;
    open.client.send(&[&begun[..], &client_close(1012, "service restart"), b"junk"].concat()).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    let mut close = vec![0; begun.len() + 2 + 4 + 2 + "going away".len()];
    open.backend.pipe.read_exact(&mut close).await.expect("a Close");
    assert_closed_with(&close, &begun, 1001);
    // The backend has its own time to answer.
    tokio::time::sleep(Duration::from_secs(4)).await;
    open.backend.send(&server_close(1001, "")).await;
    open.backend.expect_end(b"").await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!(report.end.label(), "drained");
    assert_eq!(report.client.close.expect("its answer").code.map(|code| code.0), Some(1012));
    assert!(!open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_the_client_is_told_between_two_messages() {
    let part = |fin, opcode, text: &str| frame(Role::FromServer, fin, opcode, text.as_bytes());
    let mut open = open();
    let first = part(false, Opcode::Text, "one");
    open.backend.send(&first).await;
    open.client.expect(&first).await;
    open.begin_drain();
    let rest = [
        part(false, Opcode::Continuation, "two"),
        part(true, Opcode::Ping, "?"),
        part(true, Opcode::Continuation, "three"),
    ]
    .concat();
    for byte in rest.chunks(1) {
        open.backend.send(byte).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    open.backend.send(&tells("the next message")).await;
    open.client.expect(&[rest, server_close(1012, "service restart")].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn t9_a_message_that_does_not_end_is_closed_between_two_frames() {
    let mut open = open();
    let part = frame(Role::FromServer, false, Opcode::Text, b"part");
    open.backend.send(&part).await;
    open.client.expect(&part).await;
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    assert_eq!(open.age(), CLOSE_TIMEOUT);
    assert_closed_with(&open.backend.rest().await, b"", 1001);
    open.client.expect_end(b"").await;
    assert!(!open.client.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_a_close_of_the_backends_within_a_message_gives_its_place_to_ours() {
    let mut open = open();
    let part = frame(Role::FromServer, false, Opcode::Text, b"part");
    open.backend.send(&part).await;
    open.client.expect(&part).await;
    open.begin_drain();
    open.backend.send(&server_close(1000, "done")).await;
    open.client.expect(&server_close(1012, "service restart")).await;
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
}

#[tokio::test(start_paused = true)]
async fn t9_an_illegal_frame_in_a_drain_is_the_clients_last() {
    let mut open = open();
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.client.send(&[&says("legal")[..], &[0x83, 0x80]].concat()).await;
    open.client.send(&says("not any more")).await;
    open.client.expect_end(b"").await;
    open.backend.finish().await;
    assert_closed_with(&open.backend.rest().await, &says("legal"), 1001);
}

#[tokio::test(start_paused = true)]
async fn t9_a_drain_before_the_first_byte_is_seen() {
    let (tunnel, mut client, mut backend, orders) = SetUp::default().tunnel();
    orders.drain.drain();
    let tunnel = tokio::spawn(tunnel);
    client.expect_end(&server_close(1012, "service restart")).await;
    assert_closed_with(&backend.rest().await, b"", 1001);
    assert_eq!(tunnel.await.expect("no panic").end.label(), "drained");
}

#[tokio::test(start_paused = true)]
async fn t9_silent_peers_have_the_close_timeout_one_after_the_other() {
    let mut open = open();
    open.begin_drain();
    let mut close = vec![0; 2 + 4 + 2 + "going away".len()];
    open.backend.pipe.read_exact(&mut close).await.expect("a Close");
    assert_eq!((unmask_close(&close).0, open.age()), (1001, CLOSE_TIMEOUT));
    assert_eq!(open.report().await.end.label(), "drained");
    assert_eq!(open.age(), CLOSE_TIMEOUT * 2);
    open.client.expect_end(&server_close(1012, "service restart")).await;
    assert!(open.client.was_shut() && !open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_within_frames_both_ways_the_closes_wait_for_their_boundaries() {
    let (asked, told) = (says(&"q".repeat(500)), tells(&"a".repeat(500)));
    let mut open = open();
    open.client.send(&asked[..100]).await;
    open.backend.send(&told[..30]).await;
    open.backend.expect(&asked[..100]).await;
    open.begin_drain();
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.client.send(&asked[100..]).await;
    open.backend.send(&told[30..]).await;
    open.client.expect(&[told, server_close(1012, "service restart")].concat()).await;
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    assert_closed_with(&open.backend.rest().await, &asked[100..], 1001);
}

#[tokio::test(start_paused = true)]
async fn t9_a_header_that_has_not_come_whole_begins_no_frame() {
    let mut open = open();
    open.backend.send(&tells(&"a".repeat(500))[..3]).await;
    tokio::task::yield_now().await;
    open.begin_drain();
    open.backend.send(&tells(&"a".repeat(500))[3..]).await;
    open.backend.send(&server_close(1001, "")).await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
    open.backend.finish().await;
    open.client.send(&client_close(1012, "")).await;
    open.client.finish().await;
    open.client.expect_end(&server_close(1012, "service restart")).await;
    assert_eq!(open.report().await.backend.messages, 1, "it came, and was dropped");
}

#[tokio::test(start_paused = true)]
async fn t9_a_frame_that_never_ends_is_cut_with_a_reset() {
    let mut open = open();
    open.backend.send(&tells("never whole")[..6]).await;
    open.client.expect(&tells("never whole")[..6]).await;
    open.begin_drain();
    let report = open.report().await;
    assert_eq!(report.end.label(), "drained");
    // Once for the message, once for the frame.
    assert_eq!(open.age(), CLOSE_TIMEOUT * 2);
    open.client.expect_end(b"").await;
    assert!(open.client.was_reset());
    // The other direction stood at a boundary.
    assert_closed_with(&open.backend.rest().await, b"", 1001);
    assert!(!open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_where_a_close_was_relayed_none_of_ours_follows() {
    let mut open = open();
    open.client.send(&client_close(1000, "done")).await;
    open.backend.expect(&client_close(1000, "done")).await;
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.client.finish().await;
    open.client.expect_end(b"").await;
    open.backend.send(&server_close(1000, "")).await;
    open.backend.expect_end(b"").await;
    open.backend.finish().await;
    assert_eq!(open.report().await.first_close, Some(Side::Downstream));

    let mut open = super::open();
    open.backend.send(&server_close(1000, "done")).await;
    open.client.expect(&server_close(1000, "done")).await;
    open.begin_drain();
    open.client.send(&client_close(1000, "")).await;
    open.client.expect_end(b"").await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
}

/// Both peers have sent their Close, and their streams still stand.
async fn close_by_peers(open: &mut Open) {
    open.client.send(&client_close(1000, "done")).await;
    open.backend.expect(&client_close(1000, "done")).await;
    open.backend.send(&server_close(1000, "")).await;
    open.client.expect(&server_close(1000, "")).await;
}

async fn expect_closed_by_peers(mut open: Open) {
    let guest = Guest::new(None);
    visit(guest.clone()).await;
    assert_eq!(guest.views.lock().expect("no panic")[0].closing, Some("closed"));
    open.client.expect_end(b"").await;
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.end.label(), report.ended_by), ("closed", Side::Downstream));
    assert_eq!((report.first_close, report.own_close), (Some(Side::Downstream), None));
}

#[tokio::test(start_paused = true)]
async fn t9_t11_what_the_peers_have_closed_is_not_drained() {
    let orders: [fn(&Open); 3] =
        [|open| open.drain.drain(), |open| open.server.drain(), |open| open.route.drain()];
    for order in orders {
        let mut open = open();
        close_by_peers(&mut open).await;
        order(&open);
        wake_all();
        expect_closed_by_peers(open).await;
    }
    let mut aged =
        SetUp { limits: Limits { max_age: Some(CLOSE_TIMEOUT / 2), ..LIMITS }, ..SetUp::default() }.open();
    close_by_peers(&mut aged).await;
    tokio::time::sleep(CLOSE_TIMEOUT * 3 / 4).await;
    expect_closed_by_peers(aged).await;
    let mut told = SetUp { limits: Limits::OFF, ..SetUp::default() }.open();
    close_by_peers(&mut told).await;
    visit(Guest::new(AdminClose::new(4000, "bye").ok())).await;
    expect_closed_by_peers(told).await;
}

#[tokio::test(start_paused = true)]
async fn t9_under_full_back_pressure_the_close_follows_what_was_read() {
    let limits = Limits { write: None, ..LIMITS };
    let mut open = SetUp { limits, down: Pace::pipe(64), up: Pace::pipe(64), ..SetUp::default() }.open();
    let message = tells(&"m".repeat(1000));
    let many = message.repeat(200);
    let Open { client, backend, drain, .. } = &mut open;
    let (mut backend_reads, mut backend_writes) = tokio::io::split(&mut backend.pipe);
    let sends = async {
        // Cut short when wsgate has its answer.
        let _ = backend_writes.write_all(&many).await;
    };
    let reads = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drain.drain();
        wake_all();
        client.rest().await
    };
    let mut got_backend = Vec::new();
    let (got, read, ()) = tokio::join!(reads, backend_reads.read_to_end(&mut got_backend), sends);
    read.expect("a pipe");
    let close = server_close(1012, "service restart");
    let frames = &got[..got.len() - close.len()];
    assert_eq!(frames.len() % message.len(), 0, "whole frames before the Close");
    assert!(got.ends_with(&close) && many.starts_with(frames) && !frames.is_empty());
    assert_closed_with(&got_backend, b"", 1001);
    assert!(!open.client.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_a_backend_that_answered_has_its_end_even_if_the_client_takes_nothing() {
    let mut open = SetUp { down: Pace::pipe(64), ..SetUp::default() }.open();
    let message = tells(&"m".repeat(1000));
    open.backend.send(&message).await;
    open.client.expect(&message[..1]).await;
    open.begin_drain();
    open.client.send(&client_close(1000, "")).await;
    let mut close = vec![0; 2 + 4 + 2 + "going away".len()];
    open.backend.pipe.read_exact(&mut close).await.expect("a Close");
    open.backend.send(&server_close(1001, "")).await;
    open.backend.expect_end(b"").await;
    assert_eq!(open.age(), Duration::ZERO);
    open.backend.finish().await;
    open.report().await;
    assert_eq!(open.age(), CLOSE_TIMEOUT);
    assert!(open.client.was_reset(), "its Close could not be written");
}

#[tokio::test(start_paused = true)]
async fn t9_a_half_closed_tunnel_drains() {
    let mut open = open();
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    open.begin_drain();
    open.client.expect_end(&server_close(1012, "service restart")).await;
    open.backend.finish().await;
    open.report().await;
    assert_eq!(open.age(), Duration::ZERO);
    assert!(!open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_a_stream_that_ended_within_a_frame_ends_as_a_reset_in_a_drain_too() {
    // Within the payload, and within a header that waits behind a full pipe.
    let (long, short) = (says(&"never whole".repeat(100)), says("ten bytes!"));
    for sent in [long[..600].to_vec(), [&short[..], &short[..3]].concat()] {
        let mut open = SetUp { up: Pace::pipe(16), ..SetUp::default() }.open();
        open.client.send(&sent).await;
        open.client.finish().await;
        tokio::task::yield_now().await;
        open.begin_drain();
        open.backend.expect_end(&sent).await;
        open.report().await;
        assert!(open.backend.was_reset());
    }
}

#[tokio::test(start_paused = true)]
async fn t9_a_client_that_ends_within_a_frame_is_waited_for_no_more() {
    let mut open = open();
    let (part, begun) = (frame(Role::FromServer, false, Opcode::Text, b"part"), says("never whole"));
    open.backend.send(&part).await;
    open.client.expect(&part).await;
    open.begin_drain();
    open.client.send(&begun[..8]).await;
    open.client.finish().await;
    open.backend.expect_end(&begun[..8]).await;
    open.report().await;
    assert!(open.backend.was_reset() && !open.client.was_reset());
    assert_eq!(open.age(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn t9_shutdown_cuts_at_once() {
    let mut open = open();
    open.backend.send(&tells("never whole")[..4]).await;
    open.client.expect(&tells("never whole")[..4]).await;
    open.begin_drain();
    open.drain.shutdown();
    wake_all();
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "drain_timeout"));
    assert_eq!(open.age(), Duration::ZERO);
    open.client.expect_end(b"").await;
    assert!(open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_shutdown_without_a_drain_cuts_at_once() {
    let mut open = open();
    open.client.send(&says("x")).await;
    open.backend.expect(&says("x")).await;
    open.drain.shutdown();
    wake_all();
    assert_eq!(open.report().await.end.label(), "drain_timeout");
    open.client.expect_end(b"").await;
    open.backend.expect_end(b"").await;
}

const INTERVAL: Duration = Duration::from_secs(30);

/// Both sides are asked after [`INTERVAL`].
const PINGED: Limits = Limits {
    keepalive: Keepalive { clients: true, backends: true, interval: Some(INTERVAL), pong: Some(INTERVAL) },
    ..LIMITS
};

/// A side is asked, and gives wsgate's Pong to that Ping.
async fn own_pong(peer: &mut Peer, side: Side) -> Vec<u8> {
    let (header, payload) = read_frame(peer).await;
    assert_eq!(header.opcode, Opcode::Ping);
    frame(role(side), true, Opcode::Pong, &payload)
}

#[tokio::test(start_paused = true)]
async fn t5_t9_an_own_pong_right_behind_the_place_of_a_close_is_dropped_with_the_rest() {
    for follows in [Vec::new(), tells("too late")] {
        let mut open = SetUp { limits: PINGED, ..SetUp::default() }.open();
        let answer = own_pong(&mut open.backend, Side::Upstream).await;
        own_pong(&mut open.client, Side::Downstream).await;
        let message = tells("a message");
        open.backend.send(&message[..4]).await;
        open.client.expect(&message[..4]).await;
        open.begin_drain();
        open.backend.send(&[&message[4..], &answer, &follows].concat()).await;
        open.client.expect(&[&message[4..], &server_close(1012, "service restart")].concat()).await;
        open.client.send(&client_close(1012, "")).await;
        open.client.expect_end(b"").await;
        assert_closed_with(&open.backend.rest().await, b"", 1001);
    }
}

#[tokio::test(start_paused = true)]
async fn t4_t5_an_own_pong_of_the_client_right_behind_the_place_of_a_close_is_dropped() {
    let mut open = SetUp { limits: PINGED, ..SetUp::default() }.open();
    let answer = own_pong(&mut open.client, Side::Downstream).await;
    own_pong(&mut open.backend, Side::Upstream).await;
    let message = says("a message");
    open.client.send(&message[..8]).await;
    open.backend.expect(&message[..8]).await;
    open.backend.send(&[0x83, 0]).await;
    open.client.expect(&server_close(1002, "protocol error")).await;
    open.client.send(&[&message[8..], &answer, &client_close(1002, "")].concat()).await;
    assert_closed_with(&open.backend.rest().await, &message[8..], 1002);
    open.client.expect_end(b"").await;
    assert_eq!(open.report().await.end.label(), "ws_protocol");
}

#[tokio::test(start_paused = true)]
async fn t11_a_close_that_went_out_is_told_also_of_a_tunnel_that_was_cut() {
    let mut open = open();
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.drain.shutdown();
    wake_all();
    let report = open.report().await;
    assert_eq!(report.end.label(), "drain_timeout");
    assert_eq!(report.own_close, Some((1012, "service restart".into())));

    // One that never found its place was not sent.
    let mut open = super::open();
    open.backend.send(&tells("never whole")[..6]).await;
    open.client.expect(&tells("never whole")[..6]).await;
    open.begin_drain();
    let report = open.report().await;
    assert_eq!((report.end.label(), report.own_close), ("drained", None));
}
