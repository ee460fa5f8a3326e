//! Who is asked, when, and where the Pings stand in the streams.

use super::*;

#[tokio::test(start_paused = true)]
async fn t6_a_silent_side_is_asked_whatever_the_other_does() {
    for side in BOTH {
        let mut open = open_with(PINGED);
        tokio::time::sleep(SECOND / 2).await;
        let mut waits = Duration::ZERO;
        for _ in 0..3 {
            let said = text(another(side), "chatter");
            let (peer, other) = pair(&mut open, side);
            while waits + SECOND / 2 < INTERVAL {
                other.send(&said).await;
                peer.expect(&said).await;
                tokio::time::sleep(SECOND).await;
                waits += SECOND;
            }
            answers(peer, side).await;
            waits = Duration::ZERO;
            expect_silence(other, Duration::from_millis(1)).await;
            tokio::time::sleep(Duration::from_millis(499)).await;
        }
        let (peer, other) = pair(&mut open, side);
        peer.finish().await;
        other.finish().await;
        let report = open.report().await;
        assert_eq!((pings(&report, side).sent, pings(&report, another(side)).sent), (3, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_ping_goes_out_an_interval_after_the_last_byte() {
    for side in BOTH {
        let mut open = open_with(asked_alone(side));
        let (peer, other) = pair(&mut open, side);
        tokio::time::sleep(SECOND * 17).await;
        peer.send(&text(side, "x")).await;
        other.expect(&text(side, "x")).await;
        asked(peer, side).await;
        assert_eq!(open.age(), SECOND * 17 + INTERVAL);
        let (peer, _) = pair(&mut open, side);
        tokio::time::sleep(SECOND * 3).await;
        peer.send(&text(side, "not a Pong")).await;
        asked(peer, side).await;
        assert_eq!(open.age(), SECOND * 20 + INTERVAL * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_an_own_pong_is_taken_out_in_any_split() {
    for side in BOTH {
        for size in [1, 2, 3, 5, 7, 11, 23, 64, 1000] {
            for pace in [Pace::FAST, Pace { read: 3, ..Pace::pipe(5) }] {
                let mut open =
                    SetUp { limits: asked_alone(side), up: pace, down: pace, ..SetUp::default() }.open();
                let (peer, other) = pair(&mut open, side);
                let answer = pong(side, &asked(peer, side).await);
                let part = |fin, opcode, text: &str| frame(role(side), fin, opcode, text.as_bytes());
                let data = [
                    text(side, "before"),
                    part(false, Opcode::Binary, "one"),
                    part(false, Opcode::Continuation, ""),
                    part(true, Opcode::Continuation, &"two".repeat(100)),
                    text(side, "after"),
                ];
                // Twice in a row, between fragments, amid messages, and at the end.
                let sent = [&answer[..], &answer, &data.join(&answer[..]), &answer].concat();
                let sends = async {
                    for piece in sent.chunks(size) {
                        peer.send(piece).await;
                        tokio::task::yield_now().await;
                    }
                    peer.finish().await;
                };
                let data = data.concat();
                tokio::join!(sends, other.expect_end(&data));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_late_answers_in_any_order_are_taken_out() {
    for side in BOTH {
        let mut open = open_with(asked_alone(side));
        let (peer, other) = pair(&mut open, side);
        let (first, second) = (asked(peer, side).await, asked(peer, side).await);
        let third = asked(peer, side).await;
        assert!(first != second && second != third && first != third);
        for payload in [&second, &third, &first, &second, &first] {
            peer.send(&pong(side, payload)).await;
            tokio::time::sleep(SECOND).await;
        }
        // An interval later a fourth is due, and the first is still known.
        asked(peer, side).await;
        peer.send(&[pong(side, &first), text(side, "x")].concat()).await;
        peer.finish().await;
        other.expect_end(&text(side, "x")).await;
        other.finish().await;
        let report = open.report().await;
        let frames = if side == Side::Downstream { report.client.frames } else { report.backend.frames };
        assert_eq!((frames.pong, frames.text), (6, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn t6_every_other_ping_and_pong_passes_byte_for_byte() {
    for side in BOTH {
        let mut open = open_with(PINGED);
        let (peer, other) = pair(&mut open, side);
        let ours = asked(peer, side).await;
        let to_other = asked(other, another(side)).await;
        let mut payloads = vec![Vec::new(), b"x".to_vec(), noise(125), b"wsgate-".to_vec()];
        for at in 0..ours.len() {
            let mut almost = ours.clone();
            almost[at] ^= 1;
            payloads.push(almost);
        }
        payloads.push(ours[1..].to_vec());
        payloads.push(ours[..ours.len() - 1].to_vec());
        payloads.push([&ours[..], b"!"].concat());
        for payload in payloads.iter().chain([&to_other]) {
            peer.send(&pong(side, payload)).await;
            other.expect(&pong(side, payload)).await;
        }
        payloads.push(ours);
        payloads.retain(|payload| *payload != to_other);
        for payload in &payloads {
            peer.send(&ping(side, payload)).await;
            other.expect(&ping(side, payload)).await;
            other.send(&pong(another(side), payload)).await;
            peer.expect(&pong(another(side), payload)).await;
        }
    }
}

/// Answers every Ping, says `word` each 100 s, and gives what came that was no Ping.
async fn lives(mut peer: Peer, side: Side, word: &str, until: Instant) -> (Peer, Vec<(Opcode, Vec<u8>)>) {
    let mut got = Vec::new();
    let mut says = tokio::time::interval(SECOND * 100);
    loop {
        // Whole frames come at once over a pipe this wide, so none is lost between two rounds.
        tokio::select! {
            biased;
            (header, payload) = read_frame(&mut peer) => match header.opcode {
                Opcode::Ping => peer.send(&pong(side, &payload)).await,
                opcode => got.push((opcode, payload)),
            },
            () = tokio::time::sleep_until(until) => return (peer, got),
            _ = says.tick() => peer.send(&text(side, word)).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_of_two_gates_in_a_row_each_takes_its_own_pongs() {
    let near = Keepalive { interval: Some(SECOND * 17), ..KEEPALIVE };
    let outer = open_with(PINGED);
    let inner = open_with(Limits { keepalive: near, ..PINGED });
    let (mut left, mut right) = (outer.backend.pipe, inner.client.pipe);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut left, &mut right).await });
    let until = Instant::now() + HOUR;
    let ((mut client, to_client), (mut backend, to_backend)) = tokio::join!(
        lives(outer.client, Side::Downstream, "up", until),
        lives(inner.backend, Side::Upstream, "down", until),
    );
    assert_eq!(to_client, vec![(Opcode::Text, b"down".to_vec()); 36], "and no Pong");
    assert_eq!(to_backend, vec![(Opcode::Text, b"up".to_vec()); 36]);
    client.finish().await;
    backend.finish().await;
    for report in [outer.tunnel.await, inner.tunnel.await] {
        let report = report.expect("no panic");
        assert!(matches!(report.end, TunnelEnd::Eof(_)));
        for pings in [report.client_pings, report.backend_pings] {
            assert_eq!(pings.lost, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_no_own_ping_goes_out_while_a_relayed_one_is_unanswered() {
    for side in BOTH {
        // It came before ours was due, or after ours went out.
        for wait in [INTERVAL.saturating_sub(SECOND), INTERVAL + SECOND] {
            let mut open = open_with(asked_alone(side));
            let (peer, other) = pair(&mut open, side);
            tokio::time::sleep(wait).await;
            if wait > INTERVAL {
                asked(peer, side).await;
            }
            let (question, answer) = (ping(another(side), b"?"), pong(side, b"?"));
            other.send(&question).await;
            peer.expect(&question).await;
            expect_silence(peer, HOUR).await;
            // Sent again, it is another question; and a Pong to something else is no answer.
            other.send(&question).await;
            peer.expect(&question).await;
            peer.send(&pong(side, b"unasked")).await;
            expect_silence(peer, HOUR).await;
            peer.send(&answer).await;
            other.expect(&[pong(side, b"unasked"), answer].concat()).await;
            let answered_at = open.age();
            let (peer, _) = pair(&mut open, side);
            asked(peer, side).await;
            assert_eq!(open.age(), answered_at + INTERVAL);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_pong_to_a_later_relayed_ping_answers_ours_too() {
    for side in BOTH {
        let mut open = open_with(asked_alone(side));
        let (peer, other) = pair(&mut open, side);
        asked(peer, side).await;
        other.send(&ping(another(side), b"")).await;
        peer.expect(&ping(another(side), b"")).await;
        peer.send(&pong(side, b"")).await;
        other.expect(&pong(side, b"")).await;
        asked(peer, side).await;
        // It has answered once, so silence is death now.
        let report = expect_death(&mut open, side, b"").await;
        assert_eq!((pings(&report, side).sent, pings(&report, side).lost), (2, 1));
        assert_eq!(open.age(), INTERVAL * 2 + PONG);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_side_that_answers_neither_a_relayed_ping_is_dead() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let (peer, other) = pair(&mut open, side);
        tokio::time::sleep(SECOND).await;
        other.send(&ping(another(side), b"?")).await;
        peer.expect(&ping(another(side), b"?")).await;
        expect_death(&mut open, side, b"").await;
        assert_eq!(open.age(), INTERVAL * 2 + PONG, "counted from its last byte");
    }
}

#[tokio::test(start_paused = true)]
async fn t6_any_byte_is_life() {
    for side in BOTH {
        let mut open = answered_once(side, SetUp::default()).await;
        let message = text(side, "byte by byte");
        let (peer, other) = pair(&mut open, side);
        for byte in message.chunks(1) {
            tokio::time::sleep(INTERVAL.saturating_sub(SECOND)).await;
            peer.send(byte).await;
        }
        other.expect(&message).await;
        expect_silence(peer, INTERVAL.saturating_sub(SECOND)).await;
        asked(peer, side).await;
        // One byte of a header, in the last second.
        tokio::time::sleep(PONG.saturating_sub(SECOND)).await;
        peer.send(&message[..1]).await;
        asked(peer, side).await;
        peer.send(&message[1..]).await;
        other.expect(&message).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_ping_waits_for_the_frame_boundary() {
    for side in BOTH {
        for size in [1, 4, 1000] {
            let mut open = open_with(asked_alone(side));
            let (peer, other) = pair(&mut open, side);
            let (first, next) = (text(another(side), &"long".repeat(50)), text(another(side), "next"));
            other.send(&first[..100]).await;
            peer.expect(&first[..100]).await;
            expect_silence(peer, INTERVAL * 10).await;
            for piece in [&first[100..], &next].concat().chunks(size) {
                other.send(piece).await;
                tokio::task::yield_now().await;
            }
            peer.expect(&first[100..]).await;
            asked(peer, side).await;
            peer.expect(&next).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_ping_goes_before_a_frame_that_has_not_come_whole() {
    for side in BOTH {
        // A header, and a control frame.
        let long = text(another(side), &"long".repeat(50));
        for (begun, cut) in [(long, 3), (ping(another(side), b"question"), 9)] {
            let mut open = open_with(asked_alone(side));
            let (peer, other) = pair(&mut open, side);
            other.send(&begun[..cut]).await;
            asked(peer, side).await;
            assert_eq!(open.age(), INTERVAL);
            let (peer, other) = pair(&mut open, side);
            other.send(&begun[cut..]).await;
            peer.expect(&begun).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_a_ping_may_stand_between_fragments() {
    for side in BOTH {
        let mut open = open_with(asked_alone(side));
        let (peer, other) = pair(&mut open, side);
        let first = frame(role(another(side)), false, Opcode::Text, b"one");
        let last = frame(role(another(side)), true, Opcode::Continuation, b"two");
        other.send(&first).await;
        peer.expect(&first).await;
        answers(peer, side).await;
        assert_eq!(open.age(), INTERVAL);
        let (peer, other) = pair(&mut open, side);
        other.send(&last).await;
        peer.expect(&last).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t6_no_ping_follows_a_close() {
    for side in BOTH {
        for waits in [false, true] {
            let mut open = open_with(Limits { close: None, ..asked_alone(side) });
            let (peer, other) = pair(&mut open, side);
            let message = text(another(side), "message");
            let close = frame(role(another(side)), true, Opcode::Close, b"");
            if waits {
                // Its place would be behind the message.
                other.send(&message[..8]).await;
                peer.expect(&message[..8]).await;
                tokio::time::sleep(INTERVAL + SECOND).await;
                other.send(&[&message[8..], &close].concat()).await;
                peer.expect(&message[8..]).await;
                asked(peer, side).await;
            } else {
                other.send(&close).await;
            }
            peer.expect(&close).await;
            expect_silence(peer, HOUR).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_no_ping_follows_an_observed_illegal_frame() {
    for side in BOTH {
        for waits in [false, true] {
            let mut open = open_with(Limits { observe: true, ..asked_alone(side) });
            let (peer, other) = pair(&mut open, side);
            let illegal = [0x83, 0x85, b'?', b'?'];
            let message = text(another(side), "message");
            let begun = if waits { 8 } else { 0 };
            other.send(&message[..begun]).await;
            tokio::time::sleep(INTERVAL.saturating_sub(SECOND)).await;
            other.send(&[&message[begun..], &illegal].concat()).await;
            peer.expect(&[&message[..], &illegal].concat()).await;
            expect_silence(peer, HOUR).await;
            other.finish().await;
            peer.expect_end(b"").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_only_who_is_to_be_asked_is_asked() {
    for (clients, backends) in [(true, false), (false, true), (false, false)] {
        let keepalive = Keepalive { clients, backends, ..KEEPALIVE };
        let mut open = open_with(Limits { keepalive, ..PINGED });
        let Open { client, backend, .. } = &mut open;
        for _ in 0..200 {
            if clients {
                answers(client, Side::Downstream).await;
            }
            if backends {
                answers(backend, Side::Upstream).await;
            }
            let unasked = if clients { &mut *backend } else { &mut *client };
            expect_silence(unasked, INTERVAL / 2).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t6_without_an_interval_nothing_is_put_in_or_taken_out() {
    let keepalive = Keepalive { interval: None, ..KEEPALIVE };
    let mut open = open_with(Limits { keepalive, ..PINGED });
    let Open { client, backend, .. } = &mut open;
    for side in BOTH {
        let (peer, other) = if side == Side::Downstream {
            (&mut *client, &mut *backend)
        } else {
            (&mut *backend, &mut *client)
        };
        let words = [text(side, "x"), pong(side, b"wsgate-"), ping(side, b""), pong(side, b"")].concat();
        expect_silence(peer, HOUR).await;
        peer.send(&words).await;
        other.expect(&words).await;
        expect_silence(other, HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t6_without_a_pong_timeout_pings_go_on_and_nobody_is_dead() {
    for side in BOTH {
        let keepalive = Keepalive { pong: None, ..asked_alone(side).keepalive };
        let mut open = open_with(Limits { keepalive, ..PINGED });
        let (peer, _) = pair(&mut open, side);
        answers(peer, side).await;
        for _ in 0..300 {
            asked(peer, side).await;
        }
        assert_eq!(open.age(), INTERVAL * 301);
    }
}

#[tokio::test(start_paused = true)]
async fn t6_round_trips_are_measured() {
    for side in BOTH {
        let keepalive = Keepalive { pong: None, ..KEEPALIVE };
        let mut open = open_with(Limits { keepalive, ..PINGED });
        let (peer, other) = pair(&mut open, side);
        for millis in [80, 120, 90] {
            let payload = asked(peer, side).await;
            tokio::time::sleep(Duration::from_millis(millis)).await;
            peer.send(&pong(side, &payload)).await;
        }
        // One is answered too late to say anything, and twice.
        let late = asked(peer, side).await;
        asked(peer, side).await;
        peer.send(&pong(side, &late).repeat(2)).await;
        peer.finish().await;
        other.finish().await;
        let report = open.report().await;
        let Pings { sent, lost, round_trip, longest_round_trip } = pings(&report, side);
        assert_eq!((sent, lost), (5, 1));
        assert_eq!(round_trip, Some(Duration::from_millis(90)));
        assert_eq!(longest_round_trip, Some(Duration::from_millis(120)));
        assert_eq!(pings(&report, another(side)).round_trip, None);
    }
}
