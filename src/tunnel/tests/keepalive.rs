use std::task::Waker;

use tokio::io::AsyncWriteExt as _;

use super::*;

const INTERVAL: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const BOTH: [Side; 2] = [Side::Downstream, Side::Upstream];

const KEEPALIVE: Keepalive =
    Keepalive { clients: true, backends: true, interval: Some(INTERVAL), pong: Some(PONG) };
/// Nothing but keepalive and the time-outs of closing.
const PINGED: Limits = Limits { idle: None, write: None, keepalive: KEEPALIVE, ..LIMITS };

/// Limits under which `side` alone is asked.
fn asked_alone(side: Side) -> Limits {
    let clients = side == Side::Downstream;
    Limits { keepalive: Keepalive { clients, backends: !clients, ..KEEPALIVE }, ..PINGED }
}

fn open_with(limits: Limits) -> Open {
    SetUp { limits, ..SetUp::default() }.open()
}

fn text(side: Side, text: &str) -> Vec<u8> {
    frame(role(side), true, Opcode::Text, text.as_bytes())
}

fn ping(side: Side, payload: &[u8]) -> Vec<u8> {
    frame(role(side), true, Opcode::Ping, payload)
}

fn pong(side: Side, payload: &[u8]) -> Vec<u8> {
    frame(role(side), true, Opcode::Pong, payload)
}

fn another(side: Side) -> Side {
    if side == Side::Downstream { Side::Upstream } else { Side::Downstream }
}

/// Waits for a Ping of wsgate's own to `side` and gives its payload.
async fn asked(peer: &mut Peer, side: Side) -> Vec<u8> {
    let (header, payload) = read_frame(peer).await;
    assert_eq!((header.opcode, header.fin, header.rsv), (Opcode::Ping, true, 0));
    assert_eq!(header.mask.is_some(), side == Side::Upstream, "masked towards the backend alone");
    assert!(payload.starts_with(b"wsgate-") && payload.len() <= 125, "{}", payload.escape_ascii());
    payload
}

/// Waits for a Ping of wsgate's own to `side` and answers it.
async fn answers(peer: &mut Peer, side: Side) -> Vec<u8> {
    let payload = asked(peer, side).await;
    peer.send(&pong(side, &payload)).await;
    payload
}

/// A tunnel in which only `side` is asked, and has answered once, at the age of one interval.
async fn answered_once(side: Side, set_up: SetUp) -> Open {
    let mut open = SetUp { limits: asked_alone(side), ..set_up }.open();
    let (peer, _) = pair(&mut open, side);
    answers(peer, side).await;
    assert_eq!(open.age(), INTERVAL);
    open
}

fn pings(report: &Report, side: Side) -> Pings {
    if side == Side::Downstream { report.client_pings } else { report.backend_pings }
}

/// Waits for the end of what `peer` gets, but not for ever, as Pings go on for ever.
async fn expect_end_soon(peer: &mut Peer, words: &[u8]) {
    tokio::time::timeout(HOUR, peer.expect_end(words)).await.expect("an end");
}

/// The tunnel ended as `dead` fell silent: it is cut with a reset, and the other side, which read `words` of it last, has its
/// end in order.
async fn expect_death(open: &mut Open, dead: Side, words: &[u8]) -> Report {
    let (_, other) = pair(open, dead);
    expect_end_soon(other, words).await;
    assert!(other.was_shut());
    let age = open.age();
    let (_, other) = pair(open, dead);
    other.finish().await;
    let report = open.report().await;
    assert_eq!(open.age(), age, "nothing is waited for");
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "pong_timeout"));
    assert!(matches!(&report.end, TunnelEnd::Dead(side, Death::Silent) if *side == dead));
    assert_eq!(report.first_close, None);
    let (peer, other) = pair(open, dead);
    assert!(peer.was_reset() && !other.was_reset());
    report
}

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

#[tokio::test(start_paused = true)]
async fn t2_a_dead_side_ends_the_tunnel_also_without_a_close_timeout() {
    let mut open = open_with(Limits { close: None, keepalive: KEEPALIVE, ..PINGED });
    answers(&mut open.client, Side::Downstream).await;
    answers(&mut open.backend, Side::Upstream).await;
    // The backend has its end, and keeps its own side open.
    assert_eq!(open.report().await.end.label(), "pong_timeout");
    assert_eq!(open.age(), INTERVAL * 2 + PONG + HALF_CLOSE_TIMEOUT);
}
