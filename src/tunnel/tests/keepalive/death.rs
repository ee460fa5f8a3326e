//! Who is dead, and who only seems to be.

use super::*;

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_answered_and_falls_silent_is_dead() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let (peer, _) = pair(&mut open, side);
        tokio::time::sleep(SECOND * 7).await;
        peer.send(&text(side, "last words")).await;
        let report = expect_death(&mut open, side, &text(side, "last words")).await;
        assert_eq!(open.age(), INTERVAL + SECOND * 7 + INTERVAL + PONG);
        assert_eq!((pings(&report, side).sent, pings(&report, side).lost), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_silent_side_is_dead_even_if_the_other_keeps_sending() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let message = text(another(side), "chatter");
        let (_, other) = pair(&mut open, side);
        let dies = tokio::time::sleep(INTERVAL + PONG);
        tokio::pin!(dies);
        loop {
            tokio::select! {
                biased;
                () = &mut dies => break,
                () = tokio::time::sleep(Duration::from_millis(300)) => other.send(&message).await,
            }
        }
        expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), INTERVAL * 2 + PONG);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_pings_that_go_on_do_not_put_death_off() {
    for side in BOTH {
        // Three more Pings go out before its time is over.
        let keepalive = Keepalive { pong: Some(INTERVAL * 3 + SECOND), ..asked_alone(side).keepalive };
        let mut open = open_with(Limits { keepalive, ..PINGED });
        let (peer, _) = pair(&mut open, side);
        answers(peer, side).await;
        let report = expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), INTERVAL * 5 + SECOND);
        assert_eq!((pings(&report, side).sent, pings(&report, side).lost), (5, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_dies_within_a_frame_is_a_reset_for_the_other() {
    for side in BOTH {
        // Within the payload, and within the header.
        for cut in [9, 1] {
            let mut open = answered_once(side, SetUp::default()).await;
            let begun = text(side, "never whole");
            let (peer, other) = pair(&mut open, side);
            peer.send(&begun[..cut]).await;
            expect_end_soon(other, &begun[..cut]).await;
            let report = open.report().await;
            assert_eq!((open.age(), report.end.label()), (INTERVAL * 2 + PONG, "pong_timeout"));
            let (peer, other) = pair(&mut open, side);
            assert!(peer.was_reset() && other.was_reset());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_what_a_dead_side_sent_is_still_delivered() {
    for side in BOTH {
        let pace = Pace::pipe(64);
        let set_up = SetUp { down: pace, up: pace, ..SetUp::default() };
        let mut open = answered_once(side, set_up).await;
        let words = text(side, &"last words ".repeat(5000));
        let (peer, other) = pair(&mut open, side);
        let reads = async {
            let mut got = vec![0; words.len() - 70];
            other.pipe.read_exact(&mut got).await.expect("most of it");
            got
        };
        let ((), got) = tokio::join!(peer.send(&words), reads);
        // The last bytes wait, some for their reader and some for their writer.
        tokio::time::sleep(INTERVAL + PONG + SECOND).await;
        let (_, other) = pair(&mut open, side);
        expect_end_soon(other, &words[got.len()..]).await;
        assert!(words.starts_with(&got));
        let report = open.report().await;
        let (peer, other) = pair(&mut open, side);
        assert!(peer.was_reset() && !other.was_reset());
        assert_eq!(report.end.label(), "pong_timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_takes_nothing_is_dead_when_its_ping_could_not_go_out() {
    for side in BOTH {
        // The Ping waits within a frame, or behind whole frames.
        for length in [100_000, 500] {
            let pace = Pace::pipe(300);
            let set_up = SetUp { down: pace, up: pace, ..SetUp::default() };
            let mut open = answered_once(side, set_up).await;
            let message = text(another(side), &"m".repeat(length));
            let (_, other) = pair(&mut open, side);
            let floods = async {
                loop {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(INTERVAL + PONG) => break,
                        () = other.send(&message) => {}
                    }
                }
            };
            floods.await;
            let (_, other) = pair(&mut open, side);
            // It still has bytes in its pipe that nobody reads any more.
            expect_end_soon(other, b"").await;
            assert_eq!(open.age(), INTERVAL * 2 + PONG, "{side} {length}");
            let report = open.report().await;
            assert_eq!(report.end.label(), "pong_timeout");
            let (peer, other) = pair(&mut open, side);
            assert!(peer.was_reset() && !other.was_reset());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_slow_reader_that_gets_on_is_not_dead() {
    for side in BOTH {
        let pace = Pace::pipe(300);
        let mut open = answered_once(side, SetUp { down: pace, up: pace, ..SetUp::default() }).await;
        let message = text(another(side), &"m".repeat(500));
        let (peer, other) = pair(&mut open, side);
        let reads = async {
            let mut got = [0; 100];
            for _ in 0..400 {
                tokio::time::sleep(PONG.saturating_sub(SECOND)).await;
                peer.pipe.read_exact(&mut got).await.expect("more");
            }
        };
        let floods = async {
            loop {
                other.send(&message).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = reads => {}
            () = floods => {}
        }
        assert!(!open.tunnel.is_finished());
        // Then it takes no more.
        let age = open.age();
        let (_, other) = pair(&mut open, side);
        let _ = tokio::time::timeout(PONG * 10, async { while other.pipe.read_u8().await.is_ok() {} }).await;
        assert_eq!(open.age(), age + PONG);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_could_not_be_asked_is_not_dead_until_it_was() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let message = text(another(side), &"m".repeat(500));
        let (peer, other) = pair(&mut open, side);
        let (begun, rest) = message.split_at(200);
        other.send(begun).await;
        peer.expect(begun).await;
        tokio::time::sleep(HOUR).await;
        let (most, last) = rest.split_at(100);
        other.send(most).await;
        peer.expect(most).await;
        tokio::time::sleep(HOUR).await;
        other.send(last).await;
        peer.expect(last).await;
        answers(peer, side).await;
        assert_eq!(open.age(), INTERVAL + HOUR * 2, "at once");
        let (peer, other) = pair(&mut open, side);
        other.send(begun).await;
        peer.expect(begun).await;
        tokio::time::sleep(HOUR).await;
        other.send(rest).await;
        peer.expect(rest).await;
        asked(peer, side).await;
        expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), INTERVAL + HOUR * 3 + PONG);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_is_not_read_is_not_dead() {
    for side in BOTH {
        let (near, far) = (Pace::FAST, Pace::pipe(300));
        let (down, up) = if side == Side::Downstream { (near, far) } else { (far, near) };
        let mut open = answered_once(side, SetUp { down, up, ..SetUp::default() }).await;
        let (peer, other) = pair(&mut open, side);
        let (first, last) = (text(side, &"m".repeat(2000)), text(side, "still there"));
        // The other side takes nothing, so this one's answers wait before the gate.
        peer.send(&first).await;
        for _ in 0..20 {
            answers(peer, side).await;
        }
        peer.send(&last).await;
        other.expect(&[&first[..], &last].concat()).await;
        // Once it is read again its time counts again.
        asked(peer, side).await;
        let asked_at = open.age();
        expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), asked_at + PONG);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_who_never_answered_lives_on_and_is_asked_every_interval() {
    for side in BOTH {
        let mut open = open_with(PINGED);
        let (peer, other) = pair(&mut open, side);
        for count in 1..=600_u32 {
            asked(peer, side).await;
            asked(other, another(side)).await;
            // One speaks now and then and never reads; the other not at all.
            if count % 100 == 0 {
                peer.send(&text(side, "pushed")).await;
                other.expect(&text(side, "pushed")).await;
            }
        }
        assert_eq!(open.age(), INTERVAL * 600);
        let (peer, other) = pair(&mut open, side);
        peer.finish().await;
        other.expect_end(b"").await;
        other.finish().await;
        let report = open.report().await;
        assert_eq!(report.end.label(), TunnelEnd::Eof(side).label());
        for side in BOTH {
            let Pings { sent, lost, round_trip, longest_round_trip } = pings(&report, side);
            assert_eq!((sent, lost, round_trip, longest_round_trip), (600, 599, None, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_half_closed_side_is_not_asked_and_not_dead() {
    for side in BOTH {
        let limits = Limits { half_close: None, ..PINGED };
        let mut open = open_with(limits);
        let (peer, other) = pair(&mut open, side);
        tokio::join!(answers(peer, side), answers(other, another(side)));
        peer.finish().await;
        other.expect_end(b"").await;
        expect_silence(peer, HOUR).await;
        other.send(&text(another(side), "at last")).await;
        peer.expect(&text(another(side), "at last")).await;
        other.finish().await;
        peer.expect_end(b"").await;
        assert_eq!(open.report().await.end.label(), TunnelEnd::Eof(side).label());
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_half_closes_when_it_was_asked_is_not_dead() {
    for side in BOTH {
        let mut open = open_with(Limits { half_close: None, ..asked_alone(side) });
        let (peer, other) = pair(&mut open, side);
        answers(peer, side).await;
        asked(peer, side).await;
        peer.finish().await;
        other.expect_end(b"").await;
        tokio::time::sleep(HOUR).await;
        assert!(!open.tunnel.is_finished());
    }
}

/// Asked more often than a side is given time to answer.
const OFTEN: Keepalive =
    Keepalive { interval: Some(Duration::from_secs(10)), pong: Some(Duration::from_secs(30)), ..KEEPALIVE };

#[tokio::test(start_paused = true)]
async fn t6_a_further_ping_does_not_begin_the_time_again() {
    for side in BOTH {
        let limits = Limits {
            keepalive: Keepalive {
                interval: OFTEN.interval,
                pong: OFTEN.pong,
                ..asked_alone(side).keepalive
            },
            ..PINGED
        };
        let mut open = open_with(limits);
        let (peer, _) = pair(&mut open, side);
        answers(peer, side).await;
        let answered_at = open.age();
        let (peer, _) = pair(&mut open, side);
        for _ in 0..3 {
            asked(peer, side).await;
        }
        assert_eq!(open.age(), answered_at + Duration::from_secs(30));
        expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), answered_at + Duration::from_secs(10 + 30));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_further_ping_that_waits_within_a_frame_excuses_nobody() {
    let limits = Limits { keepalive: Keepalive { backends: false, ..OFTEN }, ..PINGED };
    let mut open = open_with(limits);
    answers(&mut open.client, Side::Downstream).await;
    let answered_at = open.age();
    asked(&mut open.client, Side::Downstream).await;
    // A frame that comes slowly: no Ping has a place in it, and the client hears of nothing else.
    let slow = frame(Role::FromServer, true, Opcode::Binary, &noise(300));
    for byte in slow.chunks(10) {
        if open.tunnel.is_finished() || open.backend.pipe.write_all(byte).await.is_err() {
            break;
        }
        tokio::time::sleep(SECOND).await;
    }
    let report = open.report().await;
    assert_eq!(report.end.label(), "pong_timeout");
    let latest = answered_at + Duration::from_secs(10 + 30) + CLOSE_TIMEOUT;
    assert!(open.age() <= latest, "{:?}", open.age());
}

#[tokio::test(start_paused = true)]
async fn t6_a_relayed_ping_that_was_ignored_kills_nobody() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let (peer, other) = pair(&mut open, side);
        other.send(&ping(another(side), b"ignored")).await;
        peer.expect(&ping(another(side), b"ignored")).await;
        peer.send(&text(side, "something else")).await;
        other.expect(&text(side, "something else")).await;
        expect_silence(peer, HOUR).await;
        assert!(!open.tunnel.is_finished(), "nobody asked it in this silence");
    }
}

#[tokio::test(start_paused = true)]
async fn t2_a_dead_side_ends_the_tunnel_also_without_a_close_timeout() {
    let mut open = open_with(Limits { close: None, keepalive: KEEPALIVE, ..PINGED });
    answers(&mut open.client, Side::Downstream).await;
    answers(&mut open.backend, Side::Upstream).await;
    // The backend has its end, and keeps its own side open.
    assert_eq!(open.report().await.end.label(), "pong_timeout");
    assert_eq!(open.age(), INTERVAL * 2 + PONG + HALF_CLOSE_TIMEOUT);
}
