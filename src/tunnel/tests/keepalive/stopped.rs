//! A side, or the gate itself, that was away for a while.

use super::*;

#[tokio::test(start_paused = true)]
async fn t6_a_stream_that_times_out_is_a_dead_side() {
    for side in BOTH {
        let mut open = open_with(asked_alone(side));
        let (peer, _) = pair(&mut open, side);
        // The Ping itself finds it.
        peer.refuse_writes(io::ErrorKind::TimedOut);
        tokio::time::sleep(INTERVAL + SECOND).await;
        let (peer, other) = pair(&mut open, side);
        peer.finish().await;
        expect_end_soon(other, b"").await;
        other.finish().await;
        let report = open.report().await;
        assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "pong_timeout"));
        assert!(matches!(&report.end, TunnelEnd::Dead(dead, Death::Unreachable(_)) if *dead == side));
        assert!(!pair(&mut open, side).1.was_reset());
    }
}

#[tokio::test(start_paused = true)]
async fn t6_t8_answered_pings_keep_a_tunnel_from_idling() {
    let idle = INTERVAL * 10;
    for side in BOTH {
        let mut open = open_with(Limits { idle: Some(idle), ..asked_alone(side) });
        let (peer, _) = pair(&mut open, side);
        for _ in 0..200 {
            answers(peer, side).await;
        }
        let Open { client, backend, .. } = &mut open;
        for peer in [client, backend] {
            expect_silence(peer, SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_t8_unanswered_pings_do_not() {
    let idle = INTERVAL * 10;
    for side in BOTH {
        let mut open = open_with(Limits { idle: Some(idle), ..asked_alone(side) });
        let (peer, _) = pair(&mut open, side);
        for _ in 0..9 {
            asked(peer, side).await;
        }
        assert_eq!(open.report().await.end.label(), "idle");
        assert_eq!(open.age(), idle + CLOSE_TIMEOUT);
    }
}

/// Polls a tunnel as its worker would, once.
fn poll(tunnel: &mut Tunnel<Wire, Wire>) -> Poll<Report> {
    Pin::new(tunnel).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn t6_a_gate_that_was_stopped_reads_before_it_judges() {
    for side in BOTH {
        let (mut tunnel, mut client, mut backend, _drain) =
            SetUp { limits: asked_alone(side), ..SetUp::default() }.tunnel();
        let peer = if side == Side::Downstream { &mut client } else { &mut backend };
        assert!(poll(&mut tunnel).is_pending());
        for _ in 0..2 {
            tokio::time::advance(INTERVAL).await;
            assert!(poll(&mut tunnel).is_pending());
            answers(peer, side).await;
            assert!(poll(&mut tunnel).is_pending());
        }
        // It was asked, its answer lies in the kernel, and only much later the gate runs again.
        tokio::time::advance(INTERVAL).await;
        assert!(poll(&mut tunnel).is_pending());
        answers(peer, side).await;
        tokio::time::advance(HOUR).await;
        assert!(poll(&mut tunnel).is_pending());
        // It was not asked while the gate stood still, and has its time to answer.
        tokio::time::advance(HOUR).await;
        assert!(poll(&mut tunnel).is_pending());
        tokio::time::advance(PONG.saturating_sub(SECOND)).await;
        assert!(poll(&mut tunnel).is_pending());
        answers(peer, side).await;
        assert!(poll(&mut tunnel).is_pending());
        tokio::time::advance(SECOND * 2).await;
        assert!(poll(&mut tunnel).is_pending());
        let (peer, other) =
            if side == Side::Downstream { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
        peer.send(&text(side, "still here")).await;
        assert!(poll(&mut tunnel).is_pending());
        other.expect(&text(side, "still here")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t8_a_gate_that_was_stopped_reads_before_it_finds_a_tunnel_idle() {
    let limits = Limits { idle: Some(HOUR), ..LIMITS };
    let (mut tunnel, mut client, mut backend, _drain) = SetUp { limits, ..SetUp::default() }.tunnel();
    assert!(poll(&mut tunnel).is_pending());
    backend.send(&tells("in time")).await;
    tokio::time::advance(HOUR).await;
    assert!(poll(&mut tunnel).is_pending());
    client.expect(&tells("in time")).await;
    tokio::time::advance(HOUR.saturating_sub(SECOND)).await;
    assert!(poll(&mut tunnel).is_pending());
    tokio::time::advance(SECOND).await;
    assert!(poll(&mut tunnel).is_pending());
    client.expect(&server_close(1001, "idle")).await;
}

#[tokio::test(start_paused = true)]
async fn s1_a_gate_that_was_stopped_writes_before_it_finds_a_client_slow() {
    let set_up = SetUp { down: Pace::pipe(1024), ..SetUp::default() };
    let (mut tunnel, mut client, mut backend, _drain) = set_up.tunnel();
    let message = tells(&"m".repeat(1500));
    backend.send(&message).await;
    assert!(poll(&mut tunnel).is_pending());
    client.expect(&message[..1000]).await;
    tokio::time::advance(HOUR / 2).await;
    assert!(poll(&mut tunnel).is_pending(), "all that waits can be written");
    client.expect(&message[1000..]).await;
}

#[tokio::test(start_paused = true)]
async fn t10_a_pong_leaves_no_buffer_behind() {
    let (mut tunnel, mut client, mut backend, _drain) = SetUp { limits: PINGED, ..SetUp::default() }.tunnel();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut tunnel).poll(&mut cx).is_pending());
    tokio::time::advance(INTERVAL).await;
    assert!(Pin::new(&mut tunnel).poll(&mut cx).is_pending());
    answers(&mut client, Side::Downstream).await;
    answers(&mut backend, Side::Upstream).await;
    assert!(Pin::new(&mut tunnel).poll(&mut cx).is_pending());
    assert_eq!(tunnel.client.capacity() + tunnel.backend.capacity(), 0);
}
