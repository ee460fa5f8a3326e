use super::*;

const BOTH: [Side; 2] = [Side::Downstream, Side::Upstream];

/// Both sides end their streams, and what was sent is told: by `side`, and by the other.
async fn accounts(mut open: Open, side: Side) -> (Account, Account, Report) {
    let (peer, other) = pair(&mut open, side);
    peer.finish().await;
    other.rest().await;
    other.finish().await;
    let mut report = open.report().await;
    let (client, backend) = (std::mem::take(&mut report.client), std::mem::take(&mut report.backend));
    if side == Side::Downstream { (client, backend, report) } else { (backend, client, report) }
}

#[tokio::test(start_paused = true)]
async fn t11_frames_are_told_by_their_kind_and_messages_by_their_shape() {
    use Opcode::{Binary, Continuation, Ping, Pong, Text};
    let frames = [
        (true, Text, 7),
        (true, Ping, 125),
        (false, Binary, 100),
        (true, Pong, 3),
        (false, Continuation, 0),
        (true, Continuation, 101),
        (true, Binary, 200),
        (true, Pong, 0),
        (true, Text, 0),
        (false, Text, 1),
        (true, Continuation, 1),
        // This one is never finished, however long.
        (false, Text, 500),
        (false, Continuation, 500),
        (true, Opcode::Close, 0),
    ];
    for side in BOTH {
        for size in [1, 13, 100_000] {
            let mut open = open();
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(fin, opcode, length)| frame(role(side), *fin, *opcode, &noise(*length)))
                .collect();
            let (peer, other) = pair(&mut open, side);
            for piece in bytes.chunks(size) {
                peer.send(piece).await;
            }
            other.expect(&bytes).await;
            let (account, unsaid, report) = accounts(open, side).await;
            assert_eq!(unsaid, Account::default());
            assert_eq!(
                account,
                Account {
                    bytes: bytes.len() as u64,
                    frames: Frames { continuation: 4, text: 4, binary: 2, close: 1, ping: 1, pong: 2 },
                    messages: 5,
                    longest_message: 201,
                    fragmented: 2,
                    compressed: 0,
                    illegal: 0,
                    close: Some(Box::new(Close { code: None, reason: Box::default() })),
                }
            );
            assert_eq!(account.frames.total(), frames.len() as u64);
            assert_eq!(report.first_close, Some(side));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t11_compressed_messages_are_told() {
    for side in BOTH {
        let compressed = |mut frame: Vec<u8>| {
            frame[0] |= 0x40;
            frame
        };
        let sent = [
            compressed(frame(role(side), true, Opcode::Text, b"123")),
            compressed(frame(role(side), false, Opcode::Binary, b"1234")),
            frame(role(side), true, Opcode::Continuation, b"56"),
            frame(role(side), true, Opcode::Text, b"plain"),
            // Not at its end.
            compressed(frame(role(side), false, Opcode::Text, b"")),
        ]
        .concat();
        let mut open = SetUp { extensions: "permessage-deflate", ..SetUp::default() }.open();
        let (peer, other) = pair(&mut open, side);
        peer.send(&sent).await;
        other.expect(&sent).await;
        let (account, ..) = accounts(open, side).await;
        assert_eq!((account.messages, account.compressed, account.fragmented), (3, 2, 1));
        assert_eq!(account.longest_message, 6, "as on the wire");
    }
}

#[tokio::test(start_paused = true)]
async fn t11_a_message_is_told_when_its_last_byte_has_come() {
    for side in BOTH {
        let message = frame(role(side), true, Opcode::Text, &noise(300));
        for (sent, messages) in [(&message[..message.len() - 1], 0), (&message[..], 1)] {
            let mut open = open();
            let (peer, other) = pair(&mut open, side);
            peer.send(sent).await;
            other.expect(sent).await;
            let (account, ..) = accounts(open, side).await;
            assert_eq!((account.frames.text, account.messages), (1, messages));
            assert_eq!(account.longest_message, if messages == 1 { 300 } else { 0 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t11_answers_to_wsgates_own_pings_are_frames_of_who_sent_them() {
    for side in BOTH {
        let keepalive =
            Keepalive { clients: true, backends: true, interval: Some(Duration::from_secs(30)), pong: None };
        let mut open = SetUp { limits: Limits { keepalive, ..LIMITS }, ..SetUp::default() }.open();
        let (peer, other) = pair(&mut open, side);
        let mut sent = 0;
        for _ in 0..3 {
            let (_, payload) = read_frame(peer).await;
            let pong = frame(role(side), true, Opcode::Pong, &payload);
            peer.send(&pong).await;
            sent += pong.len() as u64;
        }
        let text = frame(role(side), true, Opcode::Text, b"x");
        peer.send(&text).await;
        while read_frame(other).await.0.opcode == Opcode::Ping {}
        let (account, unsaid, _) = accounts(open, side).await;
        assert_eq!(account.frames, Frames { text: 1, pong: 3, ..Frames::default() });
        assert_eq!(account.bytes, sent + text.len() as u64);
        assert_eq!(unsaid, Account::default(), "Pings of wsgate's own are nobody's");
    }
}

#[tokio::test(start_paused = true)]
async fn t11_what_was_stopped_is_no_frame_and_the_tail_is() {
    for side in BOTH {
        let first = frame(role(side), true, Opcode::Text, b"in the segment of the head");
        let mut set_up = SetUp::default();
        if side == Side::Downstream {
            set_up.down_tail = first.clone();
        } else {
            set_up.up_tail = first.clone();
        }
        let mut open = set_up.open();
        let (peer, _) = pair(&mut open, side);
        let illegal = [0x83, 0x80];
        peer.send(&illegal).await;
        let (account, _, report) = accounts(open, side).await;
        assert_eq!(report.end.label(), "ws_protocol");
        assert_eq!((account.frames.total(), account.messages, account.illegal), (1, 1, 0));
        assert_eq!(account.bytes, (first.len() + illegal.len()) as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn t11_how_long_it_stood_is_told() {
    for wait in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(3000)] {
        let mut open = open();
        tokio::time::sleep(wait).await;
        open.client.finish().await;
        open.backend.finish().await;
        assert_eq!(open.report().await.open, wait);
    }
}
