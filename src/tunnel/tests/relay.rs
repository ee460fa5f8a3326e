use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::buffered::SCRATCH;

/// Every way that a wire can be slow.
fn paces() -> Vec<Pace> {
    let seals = Pace { seals: true, ..Pace::pipe(37) };
    vec![
        Pace::FAST,
        Pace::pipe(1),
        Pace::pipe(64),
        Pace { read: 1, ..Pace::FAST },
        Pace { write: 1, ..Pace::FAST },
        Pace { read: 7, write: 5, ..Pace::pipe(11) },
        seals,
        Pace { read: 1, ..seals },
    ]
}

async fn relays_both_ways(down: Pace, up: Pace) {
    let sent: Vec<u8> = ["", "a", &"b".repeat(125), &"c".repeat(126), &"d".repeat(70_000)]
        .iter()
        .flat_map(|text| says(text))
        .collect();
    let told: Vec<u8> =
        ["e", &"f".repeat(66_000), "", &"g".repeat(300)].iter().flat_map(|text| tells(text)).collect();
    let open = SetUp { down, up, ..SetUp::default() }.open();
    let (mut from_client, mut to_client) = tokio::io::split(open.client.pipe);
    let (mut from_backend, mut to_backend) = tokio::io::split(open.backend.pipe);
    let (mut got_client, mut got_backend) = (Vec::new(), Vec::new());
    let client_sends = async {
        to_client.write_all(&sent).await.expect("taken");
        to_client.shutdown().await.expect("taken");
    };
    let backend_sends = async {
        to_backend.write_all(&told).await.expect("taken");
        to_backend.shutdown().await.expect("taken");
    };
    let (client, backend, (), ()) = tokio::join!(
        from_client.read_to_end(&mut got_client),
        from_backend.read_to_end(&mut got_backend),
        client_sends,
        backend_sends,
    );
    client.and(backend).expect("pipes in memory");
    assert!(got_backend == sent, "client to backend, {down:?}, {up:?}");
    assert!(got_client == told, "backend to client, {down:?}, {up:?}");
    let report = open.tunnel.await.expect("no panic");
    assert_eq!((report.client.bytes, report.backend.bytes), (sent.len() as u64, told.len() as u64));
    assert_eq!((report.client.messages, report.backend.messages), (5, 4));
    assert_eq!((report.client.longest_message, report.backend.longest_message), (70_000, 66_000));
}

#[tokio::test(start_paused = true)]
async fn t1_any_pace_both_ways_at_once() {
    for down in paces() {
        relays_both_ways(down, Pace::FAST).await;
        relays_both_ways(Pace::FAST, down).await;
        relays_both_ways(down, down).await;
    }
}

#[tokio::test(start_paused = true)]
async fn t1_a_reader_that_takes_nothing_stops_its_sender_and_costs_one_scratch_buffer() {
    let limits = Limits { write: None, ..LIMITS };
    let (mut tunnel, _client, mut backend, _drain) =
        SetUp { limits, down: Pace::pipe(16), up: Pace::pipe(4096), ..SetUp::default() }.tunnel();
    let message = frame(Role::FromServer, true, Opcode::Binary, &noise(1 << 20));
    let sent = tokio::select! {
        _ = &mut tunnel => unreachable!("nobody ends it"),
        sent = async {
            let mut sent = 0;
            let wait = Duration::from_secs(1);
            while let Ok(count) = tokio::time::timeout(wait, backend.pipe.write(&message[sent..])).await {
                sent += count.expect("a pipe");
            }
            sent
        } => sent,
    };
    assert!(sent <= SCRATCH + 4096 + 16, "{sent} bytes were taken from the backend");
    let held = tunnel.client.capacity() + tunnel.backend.capacity();
    assert!(held <= SCRATCH, "{held} bytes are held");
}

#[tokio::test(start_paused = true)]
async fn t10_an_idle_tunnel_holds_no_buffer() {
    let (mut tunnel, mut client, mut backend, _drain) =
        SetUp { down: Pace::pipe(64), up: Pace::pipe(64), ..SetUp::default() }.tunnel();
    let (asked, told) = (says(&"x".repeat(5000)), tells(&"y".repeat(5000)));
    let talk = async {
        tokio::join!(
            async {
                let (mut read, mut write) = tokio::io::split(&mut client.pipe);
                let mut got = vec![0; told.len()];
                let (sent, read) = tokio::join!(write.write_all(&asked), read.read_exact(&mut got));
                sent.and(read).expect("pipes");
            },
            async {
                let (mut read, mut write) = tokio::io::split(&mut backend.pipe);
                let mut got = vec![0; asked.len()];
                let (sent, read) = tokio::join!(write.write_all(&told), read.read_exact(&mut got));
                sent.and(read).expect("pipes");
            },
        );
        // Long enough for the tunnel to have been asked again.
        tokio::time::advance(Duration::from_secs(1)).await;
    };
    tokio::select! {
        _ = &mut tunnel => unreachable!("nobody ends it"),
        () = talk => {}
    }
    assert_eq!(tunnel.client.capacity() + tunnel.backend.capacity(), 0);
}

#[test]
fn t10_a_tunnel_is_small() {
    let size = size_of::<Tunnel<Box<()>, Box<()>>>();
    println!("a tunnel without its streams: {} bytes, a direction: {}", size, size_of::<Direction>());
    assert!(size <= 800, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn w12_tails_are_relayed_first_and_once() {
    for pace in [Pace::FAST, Pace::SLOW] {
        let mut open = SetUp {
            down: pace,
            up: pace,
            down_tail: says("early"),
            up_tail: tells("first"),
            ..SetUp::default()
        }
        .open();
        let late = says("late");
        open.client.send(&late[..1]).await;
        open.client.expect(&tells("first")).await;
        open.backend.expect(&says("early")).await;
        tokio::join!(open.client.send(&late[1..]), open.backend.expect(&late));
        open.backend.finish().await;
        open.client.finish().await;
        tokio::join!(open.client.expect_end(b""), open.backend.expect_end(b""));
    }
}

#[tokio::test(start_paused = true)]
async fn t1_what_has_been_read_is_written_at_once() {
    let mut open = open();
    let message = frame(Role::FromServer, true, Opcode::Binary, &noise(300));
    open.backend.send(&message[..100]).await;
    open.client.expect(&message[..100]).await;
    assert_eq!(open.age(), Duration::ZERO);
    open.backend.send(&message[100..]).await;
    open.client.expect(&message[100..]).await;
}

#[tokio::test]
async fn t1_a_side_that_always_has_more_does_not_hold_the_other_one_up() {
    let trickle = Pace { read: 1, ..Pace::FAST };
    for (down, up) in [(trickle, Pace::FAST), (Pace::FAST, trickle)] {
        let (mut tunnel, mut client, mut backend, _orders) = SetUp { down, up, ..SetUp::default() }.tunnel();
        let length = |pace: Pace| if pace.read == 1 { 100_000 } else { 6 };
        client.send(&says(&"c".repeat(length(down)))).await;
        backend.send(&tells(&"b".repeat(length(up)))).await;
        let mut turns = 0;
        std::future::poll_fn(|cx| {
            turns += 1;
            assert!(Pin::new(&mut tunnel).poll(cx).is_pending());
            let heard = if down.read == 1 { tunnel.backend.bytes() } else { tunnel.client.bytes() };
            if heard > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(turns < 5, "{turns}");
    }
}
