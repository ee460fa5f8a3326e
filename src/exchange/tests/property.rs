use proptest::{collection::vec, prelude::*};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::proto::framing::{ChunkLimits, ChunkPart, ChunkScanner};

fn pace() -> impl Strategy<Value = Pace> {
    let some = |most: usize| prop_oneof![Just(usize::MAX), 1..most];
    (1..100_000usize, some(3000), some(3000), any::<bool>()).prop_map(|(pipe, read, write, seals)| Pace {
        pipe,
        read,
        write,
        seals,
    })
}

/// The chunks of a body; without `chunked` their data alone.
fn body() -> impl Strategy<Value = (bool, Vec<Vec<u8>>)> {
    let length = prop_oneof![4 => 1..30usize, 1 => 60_000..70_000usize];
    let chunk = (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    (any::<bool>(), vec(chunk, 0..8))
}

fn framing((chunked, chunks): &(bool, Vec<Vec<u8>>)) -> BodyFraming {
    if *chunked { BodyFraming::Chunked } else { BodyFraming::Length(chunks.concat().len() as u64) }
}

fn encode((chunked, chunks): &(bool, Vec<Vec<u8>>)) -> Vec<u8> {
    if !chunked {
        return chunks.concat();
    }
    let mut encoded = Vec::new();
    for chunk in chunks {
        encoded.extend(format!("{:X};a=b\r\n", chunk.len()).bytes());
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    encoded
}

fn decode(chunked: bool, encoded: &[u8]) -> Vec<u8> {
    if !chunked {
        return encoded.to_vec();
    }
    let (mut scanner, mut at, mut data) = (ChunkScanner::new(ChunkLimits::default()), 0, Vec::new());
    loop {
        let (used, part) = scanner.next(&encoded[at..]).expect("legal chunks");
        at += used;
        match part {
            ChunkPart::Data(bytes) => data.extend_from_slice(bytes),
            ChunkPart::More => panic!("the last chunk is missing"),
            ChunkPart::End(_) => {
                assert_eq!(at, encoded.len(), "nothing behind the last chunk");
                return data;
            }
        }
    }
}

async fn send(peer: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8], pieces: &[usize]) {
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.next().map_or(usize::MAX, |piece| *piece).min(rest.len()));
        peer.write_all(piece).await.expect("the gate takes all");
        rest = later;
    }
}

#[derive(Debug, Clone)]
struct Play {
    request: (bool, Vec<Vec<u8>>),
    response: (bool, Vec<Vec<u8>>),
    down: Pace,
    up: Pace,
    pieces: Vec<usize>,
}

fn play() -> impl Strategy<Value = Play> {
    let pieces = vec(prop_oneof![1..10usize, 1000..80_000usize], 1..5);
    (body(), body(), pace(), pace(), pieces).prop_map(|(request, response, down, up, pieces)| Play {
        request,
        response,
        down,
        up,
        pieces,
    })
}

async fn run(play: Play) {
    let set_up = SetUp { down: play.down, up: play.up, ..SetUp::post(framing(&play.request)) };
    let said = match framing(&play.response) {
        BodyFraming::Length(length) => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    };
    let (request, response) = (encode(&play.request), encode(&play.response));
    let (over, (got_client, got_upstream)) = set_up
        .run(async |client, upstream| {
            let (mut from_client, mut to_client) = tokio::io::split(client.pipe);
            let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream.pipe);
            let (mut got_client, mut got_upstream) = (Vec::new(), Vec::new());
            let answers = async {
                // It answers when it has the whole request.
                let whole = play.request.1.concat();
                let is_whole = |got: &[u8]| {
                    if play.request.0 {
                        got.ends_with(b"0\r\n\r\n")
                    } else {
                        got.len() >= REQUEST.len() + whole.len()
                    }
                };
                while !is_whole(&got_upstream) {
                    assert!(from_upstream.read_buf(&mut got_upstream).await.expect("a pipe") > 0);
                }
                send(&mut to_upstream, said.as_bytes(), &play.pieces).await;
                send(&mut to_upstream, &response, &play.pieces).await;
            };
            let sends = send(&mut to_client, &request, &play.pieces);
            let ((), (), read) = tokio::join!(answers, sends, from_client.read_to_end(&mut got_client));
            read.expect("a pipe");
            (got_client, got_upstream)
        })
        .await;
    let sent = got_upstream.strip_prefix(REQUEST).expect("the head first");
    assert!(decode(play.request.0, sent) == play.request.1.concat(), "the request's body");
    let told = got_client.strip_prefix(said.as_bytes()).expect("the head first");
    assert!(decode(play.response.0, told) == play.response.1.concat(), "the response's body");
    let counted = Traffic { sent: got_upstream.len() as u64, received: got_client.len() as u64 };
    assert_eq!(over.traffic, counted);
    let answered = over.answered();
    assert!(answered.keeps_downstream && answered.keeps_upstream);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn h4_h10_h11_bodies_arrive_whole_in_any_split_and_at_any_pace(play in play()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(run(play));
    }
}
