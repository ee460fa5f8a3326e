mod peers;

use proptest::{collection::vec, prelude::*, sample::Index};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::*;
use crate::proto::{
    frame::{Event, FrameScanner},
    handshake::Extensions,
};

/// A message, or a control frame where it has no fragments.
#[derive(Debug, Clone)]
enum Item {
    Message(Vec<usize>),
    Ping(usize),
    Pong(usize),
}

fn item() -> impl Strategy<Value = Item> {
    let length = prop_oneof![4 => 0..20usize, 2 => 100..300usize, 1 => 60_000..70_000usize];
    prop_oneof![
        4 => vec(length, 1..4).prop_map(Item::Message),
        1 => (0..126usize).prop_map(Item::Ping),
        1 => (0..126usize).prop_map(Item::Pong),
    ]
}

fn frames(role: Role, items: &[Item]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for item in items {
        match item {
            Item::Ping(length) => frames.push(frame(role, true, Opcode::Ping, &noise(*length))),
            Item::Pong(length) => frames.push(frame(role, true, Opcode::Pong, &noise(*length))),
            Item::Message(fragments) => {
                for (at, length) in fragments.iter().enumerate() {
                    let opcode = if at == 0 { Opcode::Binary } else { Opcode::Continuation };
                    frames.push(frame(role, at + 1 == fragments.len(), opcode, &noise(*length)));
                }
            }
        }
    }
    frames
}

fn pace() -> impl Strategy<Value = Pace> {
    let some = |most: usize| prop_oneof![Just(usize::MAX), 1..most];
    (1..100_000usize, some(5000), some(5000), any::<bool>()).prop_map(|(pipe, read, write, seals)| Pace {
        pipe,
        read,
        write,
        seals,
    })
}

/// What ends the tunnel, if not its peers.
#[derive(Debug, Clone)]
enum Moment {
    Never,
    /// A drain, when the client has so much of what the backend sends.
    Drain(Index),
    /// Both fall silent when so much has been sent.
    Silence(Index, Index),
}

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        Just(Moment::Never),
        any::<Index>().prop_map(Moment::Drain),
        any::<(Index, Index)>().prop_map(|(client, backend)| Moment::Silence(client, backend)),
    ]
}

/// The frames of what a peer got, as far as they are whole, and whether that is all of it.
fn parse(role: Role, stream: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut scanner = FrameScanner::new(role, Extensions::None);
    let (mut frames, mut begun) = (Vec::new(), 0);
    let legal = scanner
        .scan(stream, |event| {
            if let Event::FrameEnd { at } = event {
                frames.push(stream[begun..at].to_vec());
                begun = at;
            }
        })
        .expect("legal frames alone");
    (frames, scanner.at_frame_boundary() && legal == stream.len())
}

/// Sends `bytes` in pieces, and ends the stream if asked to. What is left when the gate is gone is not sent.
async fn send(mut to: WriteHalf<&mut tokio::io::DuplexStream>, bytes: &[u8], pieces: &[usize], ends: bool) {
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.next().map_or(usize::MAX, |piece| *piece).min(rest.len()));
        if to.write_all(piece).await.is_err() {
            return;
        }
        rest = later;
    }
    if ends {
        // The gate may be gone already.
        let _ = to.shutdown().await;
    }
}

async fn receive(mut from: ReadHalf<&mut tokio::io::DuplexStream>, mut at: impl FnMut(usize)) -> Vec<u8> {
    let mut got = Vec::new();
    at(0);
    while from.read_buf(&mut got).await.expect("a pipe") > 0 {
        at(got.len());
    }
    got
}

#[derive(Debug, Clone)]
struct Play {
    sent: Vec<Item>,
    told: Vec<Item>,
    down: Pace,
    up: Pace,
    pieces: Vec<usize>,
    moment: Moment,
}

fn play() -> impl Strategy<Value = Play> {
    let items = || vec(item(), 0..6);
    let pieces = vec(prop_oneof![1..10usize, 1000..80_000usize], 1..5);
    (items(), items(), pace(), pace(), pieces, moment())
        .prop_map(|(sent, told, down, up, pieces, moment)| Play { sent, told, down, up, pieces, moment })
}

fn part(bytes: &[u8], index: Index) -> &[u8] {
    &bytes[..index.index(bytes.len() + 1)]
}

/// What a receiver got must be whole frames that were sent, in order, then at most one Close of wsgate's with one of
/// `codes`.
fn judge(role: Role, got: &[u8], sent: &[Vec<u8>], codes: &[u16], was_reset: bool) {
    let (mut frames, is_whole) = parse(role, got);
    assert!(is_whole || was_reset, "an end within a frame is a reset");
    if !is_whole {
        assert!(sent.concat().starts_with(got), "a part of what was sent");
        return;
    }
    if let Some(close) = frames.pop_if(|last| last[0] == 0x88) {
        let (header, length) = FrameHeader::parse(&close).expect("legal").expect("whole");
        let mut payload = close[length..].to_vec();
        apply_mask(&mut payload, header.mask.unwrap_or_default());
        assert!(codes.contains(&u16::from_be_bytes([payload[0], payload[1]])));
        assert_eq!(header.mask.is_some(), role == Role::FromClient);
    }
    assert!(sent.starts_with(&frames), "frames as they were sent");
}

async fn run(play: Play) {
    let (sent, told) = (frames(Role::FromClient, &play.sent), frames(Role::FromServer, &play.told));
    let (sent_bytes, told_bytes) = (sent.concat(), told.concat());
    let mut open = SetUp { down: play.down, up: play.up, ..SetUp::default() }.open();
    let drain_at = match &play.moment {
        Moment::Drain(index) => Some(index.index(told_bytes.len() + 1)),
        Moment::Never | Moment::Silence(..) => None,
    };
    // Its answer, if the drain has come by then, else a Close of its own.
    let closing = [&sent_bytes[..], &client_close(4000, "")].concat();
    let (client_says, backend_says, ends) = match &play.moment {
        Moment::Silence(client, backend) => (part(&sent_bytes, *client), part(&told_bytes, *backend), false),
        Moment::Never => (&sent_bytes[..], &told_bytes[..], true),
        Moment::Drain(_) => (&closing[..], &told_bytes[..], false),
    };
    let (got_client, got_backend) = {
        let Open { client, backend, drain, .. } = &mut open;
        let (from_client, to_client) = split(&mut client.pipe);
        let (from_backend, to_backend) = split(&mut backend.pipe);
        let (got_client, got_backend, (), ()) = tokio::join!(
            receive(from_client, |length| if drain_at.is_some_and(|at| length >= at) {
                drain.drain();
                wake_all();
            }),
            receive(from_backend, |_| {}),
            send(to_client, client_says, &play.pieces, ends),
            send(to_backend, backend_says, &play.pieces, ends),
        );
        (got_client, got_backend)
    };
    let report = open.report().await;
    let (client_reset, backend_reset) = (open.client.was_reset(), open.backend.was_reset());
    judge(Role::FromServer, &got_client, &told, &[1001, 1012], client_reset);
    judge(Role::FromClient, &got_backend, &sent, &[1001, 4000], backend_reset);
    match play.moment {
        Moment::Never => {
            assert!(got_client == told_bytes && got_backend == sent_bytes, "all where nothing was cut");
            assert!(!client_reset && !backend_reset);
        }
        Moment::Drain(_) => {
            assert_eq!(report.end.label(), "drained");
            assert!(got_backend.starts_with(&sent_bytes), "all that the client sent before its answer");
        }
        Moment::Silence(..) => assert_eq!(report.end.label(), "idle"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn t1_t5_t9_what_arrives_is_legal_and_was_sent(play in play()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(run(play));
    }
}
