use super::*;

const BOTH: [Side; 2] = [Side::Downstream, Side::Upstream];
const SIZES: [usize; 6] = [1, 2, 3, 7, 64, 10_000];
const MAX_FRAME: u64 = 200;
const MAX_MESSAGE: u64 = 300;
const RATE: Rate = Rate { count: 10, period: Duration::from_secs(1) };

const BOUNDED: Limits = Limits { max_frame: Some(MAX_FRAME), max_message: Some(MAX_MESSAGE), ..LIMITS };

fn open_with(limits: Limits) -> Open {
    SetUp { limits, ..SetUp::default() }.open()
}

fn part(side: Side, fin: bool, opcode: Opcode, length: u64) -> Vec<u8> {
    frame(role(side), fin, opcode, &noise(usize::try_from(length).expect("short")))
}

/// The header of a frame of this length, and nothing of its payload.
fn announces(side: Side, opcode: Opcode, length: u64) -> Vec<u8> {
    let mask = (side == Side::Downstream).then_some(KEY);
    let mut bytes = Vec::new();
    FrameHeader { fin: true, rsv: 0, opcode, mask, length }.encode(&mut bytes);
    bytes
}

/// What may pass, and the frame behind it that may not.
fn too_large(side: Side) -> Vec<(Vec<u8>, Vec<u8>)> {
    use Opcode::{Binary, Continuation, Ping, Pong, Text};
    let small = part(side, true, Text, 5);
    let begun = part(side, false, Binary, MAX_FRAME);
    let controls = [part(side, true, Ping, 125), part(side, true, Pong, 125)].concat();
    vec![
        (Vec::new(), part(side, true, Text, MAX_FRAME + 1)),
        (Vec::new(), part(side, false, Binary, MAX_FRAME + 1)),
        (small.clone(), part(side, true, Text, 70_000)),
        (small.repeat(50), announces(side, Binary, 1 << 32)),
        (small, announces(side, Binary, u64::MAX >> 1)),
        (begun.clone(), part(side, true, Continuation, MAX_MESSAGE - MAX_FRAME + 1)),
        (begun.clone(), announces(side, Continuation, u64::MAX >> 1)),
        ([begun, controls].concat(), part(side, false, Continuation, MAX_MESSAGE - MAX_FRAME + 1)),
        (
            // The sizes of messages that are over don't count.
            [
                part(side, false, Text, MAX_FRAME),
                part(side, true, Continuation, MAX_MESSAGE - MAX_FRAME),
                part(side, false, Text, MAX_MESSAGE - MAX_FRAME),
                part(side, false, Continuation, 0),
                part(side, false, Continuation, MAX_FRAME),
            ]
            .concat(),
            part(side, true, Continuation, 1),
        ),
    ]
}

/// `sender` sends these bytes in pieces; the other side gets `passes`, then a Close with this code, and so does the sender.
async fn ends_with(
    mut open: Open,
    sender: Side,
    size: usize,
    sent: &[u8],
    passes: &[u8],
    code: u16,
) -> Report {
    let from_client = sender == Side::Downstream;
    let Open { client, backend, .. } = &mut open;
    let client_side = async {
        if from_client {
            for piece in sent.chunks(size) {
                client.send(piece).await;
                tokio::task::yield_now().await;
            }
        } else {
            client.expect(passes).await;
        }
        let (header, payload) = read_frame(client).await;
        assert_eq!(
            (header.opcode, header.mask, &payload[..2]),
            (Opcode::Close, None, &code.to_be_bytes()[..])
        );
        client.send(&client_close(code, "")).await;
        client.expect_end(b"").await;
        client.finish().await;
    };
    let backend_side = async {
        if !from_client {
            for piece in sent.chunks(size) {
                backend.send(piece).await;
                tokio::task::yield_now().await;
            }
        }
        let got = backend.rest().await;
        backend.finish().await;
        got
    };
    let ((), got) = tokio::join!(client_side, backend_side);
    assert_closed_with(&got, if from_client { passes } else { b"" }, code);
    assert_eq!(open.age(), Duration::ZERO);
    let report = open.report().await;
    assert_eq!((report.ended_by, report.first_close), (Side::Gate, Some(Side::Gate)));
    assert!(!open.client.was_reset() && !open.backend.was_reset());
    report
}

#[tokio::test(start_paused = true)]
async fn t7_what_is_too_large_ends_the_tunnel_with_1009_and_no_byte_of_it_passes() {
    for side in BOTH {
        for (passes, excess) in too_large(side) {
            for size in SIZES {
                for (observe, extensions) in [(false, ""), (true, ""), (false, "x-unheard-of")] {
                    let open =
                        SetUp { limits: Limits { observe, ..BOUNDED }, extensions, ..SetUp::default() }
                            .open();
                    // Of what is large the beginning will do.
                    let excess = &excess[..excess.len().min(400)];
                    let sent = [&passes[..], excess].concat();
                    let report = ends_with(open, side, size, &sent, &passes, 1009).await;
                    assert_eq!(report.end.label(), "too_large");
                    assert!(matches!(report.end, TunnelEnd::TooLarge(who, _) if who == side));
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t7_what_is_as_large_as_may_be_passes() {
    use Opcode::{Binary, Continuation, Ping, Text};
    for side in BOTH {
        for size in SIZES {
            let mut open = open_with(BOUNDED);
            let sent = [
                part(side, true, Text, MAX_FRAME),
                part(side, false, Binary, MAX_FRAME),
                part(side, true, Ping, 125),
                part(side, false, Continuation, 0),
                part(side, false, Continuation, MAX_MESSAGE - MAX_FRAME - 1),
                part(side, true, Ping, 125),
                part(side, true, Continuation, 1),
                part(side, true, Binary, MAX_FRAME),
            ]
            .concat();
            let (peer, other) = pair(&mut open, side);
            for piece in sent.chunks(size) {
                peer.send(piece).await;
            }
            peer.finish().await;
            other.expect_end(&sent).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t7_each_limit_holds_without_the_other() {
    for side in BOTH {
        let frame_alone = Limits { max_message: None, ..BOUNDED };
        let many = [part(side, false, Opcode::Text, MAX_FRAME)]
            .into_iter()
            .chain((0..50).map(|_| part(side, false, Opcode::Continuation, MAX_FRAME)))
            .collect::<Vec<_>>()
            .concat();
        let excess = part(side, true, Opcode::Continuation, MAX_FRAME + 1);
        ends_with(open_with(frame_alone), side, 1000, &[&many[..], &excess].concat(), &many, 1009).await;

        let message_alone = Limits { max_frame: None, ..BOUNDED };
        let whole = part(side, true, Opcode::Text, MAX_MESSAGE);
        let excess = part(side, true, Opcode::Text, MAX_MESSAGE + 1);
        ends_with(open_with(message_alone), side, 1000, &[&whole[..], &excess].concat(), &whole, 1009).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t7_t9_what_is_too_large_is_the_clients_last_in_a_drain() {
    let mut open = open_with(BOUNDED);
    open.begin_drain();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.client.send(&[says("legal"), says(&"x".repeat(201)), says("not any more")].concat()).await;
    open.client.expect_end(b"").await;
    open.backend.finish().await;
    assert_closed_with(&open.backend.rest().await, &says("legal"), 1001);
    assert_eq!(open.report().await.end.label(), "drained");
}

/// One frame of each kind, each legal where it stands.
fn kinds() -> Vec<Vec<u8>> {
    use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    [
        (true, Text),
        (false, Binary),
        (true, Ping),
        (false, Continuation),
        (true, Pong),
        (true, Continuation),
        (true, Close),
    ]
    .map(|(fin, opcode)| part(Side::Downstream, fin, opcode, 0))
    .to_vec()
}

#[tokio::test(start_paused = true)]
async fn t7_frames_of_any_kind_over_the_rate_end_the_tunnel_with_1008() {
    let limits = Limits { message_rate: Some(RATE), ..LIMITS };
    for (at, excess) in kinds().into_iter().enumerate() {
        for size in SIZES {
            for observe in [false, true] {
                // What the kinds before it leave of the rate is used up before them.
                let passes = [says("x").repeat(10 - at), kinds()[..at].concat()].concat();
                let sent = [&passes[..], &excess].concat();
                let open = open_with(Limits { observe, ..limits });
                let report = ends_with(open, Side::Downstream, size, &sent, &passes, 1008).await;
                assert_eq!(report.end.label(), "message_rate");
                assert!(matches!(report.end, TunnelEnd::MessageRate(Side::Downstream)));
                assert_eq!(report.client.frames.total() - report.client.frames.close, 10);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t7_the_rate_itself_may_be_sustained() {
    let limits = Limits { message_rate: Some(RATE), ..LIMITS };
    for burst in [1, 5, 10] {
        let mut open = open_with(limits);
        // So many at once, again and again, for minutes.
        for _ in 0..3000 / burst {
            let sent = says("tick").repeat(burst);
            open.client.send(&sent).await;
            open.backend.expect(&sent).await;
            tokio::time::sleep(RATE.period * u32::try_from(burst).expect("small") / RATE.count).await;
        }
        // And at any time all at once after a pause.
        tokio::time::sleep(RATE.period).await;
        let most = says("burst").repeat(10);
        open.client.send(&most).await;
        open.backend.expect(&most).await;
        // But no more than that until time has passed.
        tokio::time::sleep(Duration::from_millis(99)).await;
        open.client.send(&says("excess")).await;
        open.client.expect(&server_close(1008, "too many frames")).await;
        assert_eq!(open.report().await.end.label(), "message_rate");
    }
}

#[tokio::test(start_paused = true)]
async fn t7_a_rate_that_is_hardly_exceeded_ends_too() {
    let mut open = open_with(Limits { message_rate: Some(RATE), ..LIMITS });
    let mut sent = 0;
    while !open.tunnel.is_finished() && sent < 1000 {
        open.client.send(&says("tick")).await;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(95)).await;
        if open.client.was_shut() || open.backend.was_shut() {
            break;
        }
        let closed = tokio::time::timeout(Duration::ZERO, read_frame(&mut open.client)).await;
        if closed.is_ok() {
            break;
        }
    }
    // It gains 5 ms on each 100 ms, and has a second of advance.
    assert!((150..=210).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn t7_the_backends_frames_are_not_counted_in_time() {
    let mut open = open_with(Limits { message_rate: Some(RATE), ..LIMITS });
    let many = [tells("x"), frame(Role::FromServer, true, Opcode::Pong, b"")].concat().repeat(1000);
    open.backend.send(&many).await;
    open.client.expect(&many).await;
    let ten = says("x").repeat(10);
    open.client.send(&ten).await;
    open.backend.expect(&ten).await;
}

#[tokio::test(start_paused = true)]
async fn t9_tunnels_leave_at_their_age_give_or_take_a_tenth() {
    let age = Duration::from_secs(10_000);
    let mut ages = Vec::new();
    for _ in 0..100 {
        let mut open = open_with(Limits { max_age: Some(age), idle: None, ..LIMITS });
        // Whatever they have to say.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(2000)).await;
            open.client.send(&says("x")).await;
        }
        open.client.expect(&server_close(1012, "service restart")).await;
        ages.push(open.age());
    }
    let (least, most) = (ages.iter().min().expect("some"), ages.iter().max().expect("some"));
    assert!(*least >= age * 9 / 10 && *most <= age * 11 / 10, "{least:?} {most:?}");
    assert!(*least < age * 95 / 100 && *most > age * 105 / 100, "{least:?} {most:?}");
    let early = ages.iter().filter(|at| **at < age).count();
    assert!((20..80).contains(&early), "{early} of 100 before their age");
}

#[tokio::test(start_paused = true)]
async fn t9_an_old_tunnel_leaves_in_the_order_of_a_drain() {
    let seconds = Duration::from_secs;
    let limits = Limits { max_age: Some(seconds(100)), close: Some(seconds(60)), ..LIMITS };
    let mut open = open_with(limits);
    let part = |fin, opcode, text: &str| frame(Role::FromServer, fin, opcode, text.as_bytes());
    let (first, last) = (part(false, Opcode::Text, "one"), part(true, Opcode::Continuation, "two"));
    tokio::time::sleep(seconds(89)).await;
    open.backend.send(&first).await;
    open.client.expect(&first).await;
    // Its time comes within the message.
    expect_silence(&mut open.client, seconds(22)).await;
    open.backend.send(&last).await;
    open.client.expect(&[last, server_close(1012, "service restart")].concat()).await;
    open.client.send(&says("one more thing")).await;
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    open.backend.finish().await;
    assert_closed_with(&open.backend.rest().await, &says("one more thing"), 1001);
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "max_age"));
}

#[tokio::test(start_paused = true)]
async fn t7_answers_to_wsgates_own_pings_are_not_counted() {
    let second = Duration::from_secs(1);
    let keepalive = Keepalive { clients: true, backends: false, interval: Some(second), pong: Some(second) };
    let rate = Rate { count: 2, period: Duration::from_secs(3600) };
    let mut open = open_with(Limits { message_rate: Some(rate), keepalive, ..LIMITS });
    for _ in 0..100 {
        let (header, payload) = read_frame(&mut open.client).await;
        assert_eq!(header.opcode, Opcode::Ping);
        open.client.send(&frame(Role::FromClient, true, Opcode::Pong, &payload)).await;
    }
    for _ in 0..2 {
        open.client.send(&says("hello")).await;
        open.backend.expect(&says("hello")).await;
    }
    open.client.send(&says("hello")).await;
    assert_closed_with(&open.backend.rest().await, b"", 1008);
}

#[tokio::test(start_paused = true)]
async fn t7_what_back_pressure_held_up_did_not_come_too_fast() {
    let limits = Limits { message_rate: Some(RATE), ..LIMITS };
    let mut open = SetUp { limits, up: Pace::pipe(16), ..SetUp::default() }.open();
    let Open { client, backend, .. } = &mut open;
    let message = says("0123456789");
    let sends = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(125)).await;
            client.send(&message).await;
        }
    };
    let reads = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        backend.expect(&message.repeat(100)).await;
    };
    tokio::join!(sends, reads);
    // It has no credit for more than that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.client.send(&message.repeat(11)).await;
    assert_closed_with(&open.backend.rest().await, &message.repeat(10), 1008);
}
