//! What all tunnels carry, counted as it passes (rule T11).

use super::*;
use crate::{
    buffered::enter_worker,
    tunnel::{Messages, ROUND_TRIPS},
};

#[tokio::test(start_paused = true)]
async fn t11_totals_count_while_the_tunnel_stands() {
    let mut open = open();
    let said = [
        says("text"),
        frame(Role::FromClient, false, Opcode::Binary, b"bin"),
        frame(Role::FromClient, true, Opcode::Ping, b"?"),
        frame(Role::FromClient, true, Opcode::Continuation, b"ary"),
        frame(Role::FromClient, false, Opcode::Text, b"not over"),
    ]
    .concat();
    open.client.send(&said).await;
    open.backend.expect(&said).await;
    let sum = open.totals.sum();
    assert_eq!(sum.from_client.bytes, said.len() as u64);
    let frames = Frames { text: 2, binary: 1, continuation: 1, ping: 1, ..Frames::default() };
    assert_eq!(sum.from_client.frames, frames);
    assert_eq!(sum.from_client.text, Messages { count: 1, bytes: 4 });
    assert_eq!(sum.from_client.binary, Messages { count: 1, bytes: 6 });
    assert_eq!(sum.from_backend, crate::tunnel::Carried::default());
    open.backend.send(&tells("answer")).await;
    open.client.expect(&tells("answer")).await;
    assert_eq!(open.totals.sum().from_backend.text, Messages { count: 1, bytes: 6 });
}

#[tokio::test(start_paused = true)]
async fn t11_what_came_with_the_head_counts_too() {
    let set_up = SetUp { down_tail: says("early"), ..SetUp::default() };
    let mut open = set_up.open();
    open.backend.expect(&says("early")).await;
    let sum = open.totals.sum();
    assert_eq!((sum.from_client.bytes, sum.from_client.text.count), (says("early").len() as u64, 1));
}

#[tokio::test(start_paused = true)]
async fn t6_t11_round_trips_stand_in_their_classes() {
    let keepalive = Keepalive {
        clients: true,
        backends: true,
        interval: Some(Duration::from_secs(100)),
        pong: Some(Duration::from_secs(60)),
    };
    let mut open = SetUp { limits: Limits { keepalive, ..LIMITS }, ..SetUp::default() }.open();
    for wait in [Duration::ZERO, Duration::from_millis(30), Duration::from_secs(31)] {
        let (_, payload) = read_frame(&mut open.client).await;
        tokio::time::sleep(wait).await;
        open.client.send(&frame(Role::FromClient, true, Opcode::Pong, &payload)).await;
        open.backend.send(&tells("x")).await;
        open.client.expect(&tells("x")).await;
    }
    let pings = open.totals.sum().client_pings;
    assert_eq!((pings.sent, pings.lost), (3, 0));
    let class = |bound: Duration| ROUND_TRIPS.iter().position(|each| *each == bound).expect("a bound");
    let mut expected = [0; ROUND_TRIPS.len() + 1];
    expected[0] = 1;
    expected[class(Duration::from_millis(50))] = 1;
    expected[ROUND_TRIPS.len()] = 1;
    assert_eq!(pings.round_trips, expected);
    assert_eq!(pings.total.as_secs(), 31);
    // The next one is never answered, and costs the tunnel its life.
    let (_, _) = read_frame(&mut open.client).await;
    assert_eq!(open.report().await.end.label(), "pong_timeout");
    let pings = open.totals.sum().client_pings;
    assert_eq!((pings.sent, pings.lost), (4, 1));
}

#[test]
fn t11_each_worker_counts_for_itself_and_the_sum_has_all() {
    let totals = Arc::new(Totals::new(3));
    let workers = (0..3).map(|id| {
        let totals = Arc::clone(&totals);
        std::thread::spawn(move || {
            enter_worker(id);
            for _ in 0..10_000 {
                totals.here().way(Role::FromServer).read(id + 1);
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.join().expect("no panic");
    }
    assert_eq!(totals.sum().from_backend.bytes, 60_000);
    assert!(size_of_val(totals.here()).is_multiple_of(128), "no two share a line of the cache");
}
