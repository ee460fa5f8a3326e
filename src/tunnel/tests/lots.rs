//! Drains that are spread over a time (rule T9), and keepalive in a drain (rule T6).

use super::*;

const SPREAD: Duration = Duration::from_secs(1000);
const INTERVAL: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// Both sides are asked after [`INTERVAL`].
const PINGED: Limits = Limits {
    keepalive: Keepalive { clients: true, backends: true, interval: Some(INTERVAL), pong: Some(INTERVAL) },
    ..LIMITS
};

fn restart() -> Vec<u8> {
    server_close(1012, "service restart")
}

/// A tunnel under a drain signal that it shares with others.
fn open_under(drain: &DrainHandle) -> (Peer, Peer, JoinHandle<Report>) {
    let ((down, client), (up, backend)) = (wire(Pace::FAST), wire(Pace::FAST));
    let (down, up) = (Buffered::new(down), Buffered::new(up));
    let tunnel = Tunnel::new(
        down,
        up,
        &agreed(""),
        terms(LIMITS, drain.signal().part(SPREAD).signal()),
        drain.signal(),
    );
    (client, backend, tokio::spawn(tunnel))
}

/// When the clients of `count` tunnels get their Close, from now on.
async fn leaves(drain: &DrainHandle, count: usize) -> Vec<Duration> {
    let began = Instant::now();
    let mut moments = Vec::new();
    let open: Vec<_> = (0..count).map(|_| open_under(drain)).collect();
    tokio::task::yield_now().await;
    drain.drain();
    wake_all();
    let mut waits = tokio::task::JoinSet::new();
    for (mut client, backend, tunnel) in open {
        waits.spawn(async move {
            client.expect(&restart()).await;
            let moment = began.elapsed();
            client.send(&client_close(1012, "")).await;
            client.finish().await;
            drop(backend);
            assert_eq!(tunnel.await.expect("no panic").end.label(), "drained");
            moment
        });
    }
    while let Some(moment) = waits.join_next().await {
        moments.push(moment.expect("no panic"));
    }
    moments.sort();
    moments
}

#[tokio::test(start_paused = true)]
async fn t9_tunnels_leave_spread_over_the_time() {
    let (drain, _) = Drain::new(SPREAD);
    let moments = leaves(&drain, 400).await;
    assert!(moments[399] <= SPREAD, "{:?}", moments[399]);
    for tenth in 0..10 {
        let span = SPREAD * tenth / 10..SPREAD * (tenth + 1) / 10;
        let here = moments.iter().filter(|moment| span.contains(*moment)).count();
        assert!((10..90).contains(&here), "{here} of 400 in the tenth {tenth}");
    }
}

#[tokio::test(start_paused = true)]
async fn t9_without_a_spread_all_leave_at_once() {
    let (drain, _) = Drain::new(Duration::ZERO);
    assert_eq!(leaves(&drain, 50).await, vec![Duration::ZERO; 50]);
}

#[tokio::test(start_paused = true)]
async fn t9_what_opens_in_a_drain_leaves_within_what_is_left_of_it() {
    let (drain, _) = Drain::new(SPREAD);
    drain.drain();
    tokio::time::sleep(SPREAD * 3 / 4).await;
    let moments = leaves(&drain, 300).await;
    assert!(moments[299] <= SPREAD / 4 && moments[299] > SPREAD / 8);
    tokio::time::sleep(SPREAD).await;
    assert_eq!(leaves(&drain, 10).await, vec![Duration::ZERO; 10], "when it is over");
}

/// A tunnel in a spread drain, before its moment, which is no sooner than in ten seconds.
async fn draining(limits: Limits) -> Open {
    for _ in 0..20 {
        let mut open = SetUp { limits, spread: SPREAD, ..SetUp::default() }.open();
        tokio::task::yield_now().await;
        open.begin_drain();
        let soon = tokio::time::timeout(SECOND * 10, open.client.pipe.read_u8()).await;
        if soon.is_err() {
            return open;
        }
    }
    panic!("twenty tunnels left in the first hundredth of the spread");
}

#[tokio::test(start_paused = true)]
async fn t9_until_its_moment_a_tunnel_relays_as_before() {
    let limits = Limits { keepalive: Keepalive { pong: None, ..PINGED.keepalive }, ..PINGED };
    let mut open = draining(limits).await;
    let mut asked = 0;
    loop {
        let (header, payload) = read_frame(&mut open.client).await;
        match header.opcode {
            Opcode::Ping => {
                asked += 1;
                let answer = frame(Role::FromClient, true, Opcode::Pong, &payload);
                open.client.send(&[&answer[..], &says("x")].concat()).await;
                while read_frame(&mut open.backend).await.0.opcode != Opcode::Text {}
                open.backend.send(&tells("y")).await;
                open.client.expect(&tells("y")).await;
            }
            opcode => {
                assert_eq!((opcode, &payload[..2]), (Opcode::Close, &1012_u16.to_be_bytes()[..]));
                break;
            }
        }
    }
    assert_eq!(open.age().as_secs() / INTERVAL.as_secs(), asked);
    open.client.send(&client_close(1012, "")).await;
    open.client.finish().await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "drained"));
}

#[tokio::test(start_paused = true)]
async fn t9_shutdown_cuts_a_tunnel_whose_moment_has_not_come() {
    let mut open = draining(LIMITS).await;
    open.drain.shutdown();
    wake_all();
    let age = open.age();
    assert_eq!(open.report().await.end.label(), "drain_timeout");
    assert_eq!(open.age(), age);
    open.client.expect_end(b"").await;
    open.backend.expect_end(b"").await;
    assert!(!open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t9_a_tunnel_that_ends_before_its_moment_was_not_drained() {
    let mut open = draining(LIMITS).await;
    let (question, answer) = (client_close(1000, "done"), server_close(1000, ""));
    open.client.send(&question).await;
    open.backend.expect(&question).await;
    open.backend.send(&answer).await;
    open.client.expect(&answer).await;
    open.client.finish().await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Downstream, "closed"));
}

#[tokio::test(start_paused = true)]
async fn t9_age_may_come_before_the_moment_in_a_drain() {
    let open = draining(Limits { max_age: Some(SECOND * 11), ..LIMITS }).await;
    let Open { mut client, since, .. } = open;
    client.expect(&restart()).await;
    assert!(since.elapsed() <= SECOND * 13);
}

/// Waits for a Ping of wsgate's and gives the Pong that answers it.
async fn own_pong(peer: &mut Peer, side: Side) -> Vec<u8> {
    let (header, payload) = read_frame(peer).await;
    assert_eq!(header.opcode, Opcode::Ping);
    frame(role(side), true, Opcode::Pong, &payload)
}

#[tokio::test(start_paused = true)]
async fn t6_t9_own_pongs_are_taken_out_in_a_drain() {
    for size in [1, 3, 1000] {
        let mut open = SetUp { limits: PINGED, ..SetUp::default() }.open();
        let answer = own_pong(&mut open.client, Side::Downstream).await;
        let from_backend = own_pong(&mut open.backend, Side::Upstream).await;
        // The backend is amid a message, so bytes go both ways in the drain.
        let first = frame(Role::FromServer, false, Opcode::Text, b"one");
        let last = frame(Role::FromServer, true, Opcode::Continuation, b"two");
        open.backend.send(&first).await;
        open.client.expect(&first).await;
        open.begin_drain();
        let told = [&from_backend[..], &last].concat();
        for piece in told.chunks(size) {
            open.backend.send(piece).await;
            tokio::task::yield_now().await;
        }
        open.client.expect(&[last, restart()].concat()).await;
        let said = [&says("a")[..], &answer, &says("b"), &answer, &client_close(1012, "")].concat();
        for piece in said.chunks(size) {
            open.client.send(piece).await;
            tokio::task::yield_now().await;
        }
        open.client.finish().await;
        open.client.expect_end(b"").await;
        open.backend.finish().await;
        assert_closed_with(&open.backend.rest().await, &[says("a"), says("b")].concat(), 1001);
        let report = open.report().await;
        assert_eq!((report.client_pings.sent, report.client_pings.lost), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_t9_a_ping_that_waits_gives_way_to_the_close() {
    let mut open = SetUp { limits: PINGED, ..SetUp::default() }.open();
    let message = tells("a message");
    open.backend.send(&message[..4]).await;
    open.client.expect(&message[..4]).await;
    // It waits, and the other side is asked meanwhile.
    own_pong(&mut open.backend, Side::Upstream).await;
    open.begin_drain();
    open.backend.send(&message[4..]).await;
    open.client.expect(&[&message[4..], &restart()].concat()).await;
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
}

#[tokio::test(start_paused = true)]
async fn t6_t9_nobody_is_asked_or_dead_or_idle_in_a_drain() {
    let limits = Limits { close: Some(INTERVAL * 10), idle: Some(INTERVAL * 5), ..PINGED };
    let mut open = SetUp { limits, ..SetUp::default() }.open();
    for side in [Side::Downstream, Side::Upstream] {
        let (peer, _) = pair(&mut open, side);
        let answer = own_pong(peer, side).await;
        peer.send(&answer).await;
    }
    for side in [Side::Downstream, Side::Upstream] {
        own_pong(pair(&mut open, side).0, side).await;
    }
    open.begin_drain();
    open.client.expect(&restart()).await;
    expect_silence(&mut open.backend, INTERVAL * 8).await;
    // Whatever else wakes it.
    wake_all();
    expect_silence(&mut open.backend, INTERVAL).await;
    open.client.send(&says("still here")).await;
    open.backend.expect(&says("still here")).await;
    open.client.send(&client_close(1012, "")).await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
    open.client.expect_end(b"").await;
    assert_eq!(open.report().await.end.label(), "drained");
}
