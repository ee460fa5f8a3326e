//! Visits to every tunnel, each in its own task.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::tunnel::visit;

/// The tunnels as they stand.
async fn views() -> Vec<View> {
    let guest = Guest::new(None);
    tokio::spawn(visit(guest.clone())).await.expect("no panic");
    assert_eq!(Arc::strong_count(&guest), 1, "nobody waits for it any more");
    std::mem::take(&mut *guest.views.lock().expect("no panic"))
}

/// Opens so many tunnels and lets each come to where it waits; the runtime looks after the test now and then only.
async fn crowd(count: usize) -> Vec<Open> {
    let open = (0..count).map(|_| open()).collect();
    settle(count).await;
    open
}

async fn settle(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_finds_each_of_many_tunnels_once_and_lets_others_run_meanwhile() {
    const TUNNELS: usize = 10_000;
    let open = crowd(TUNNELS).await;
    let turns = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    tokio::task::yield_now().await;
    let before = turns.load(Ordering::Relaxed);
    assert_eq!(views().await.len(), TUNNELS);
    let meanwhile = turns.load(Ordering::Relaxed) - before;
    assert!(meanwhile >= TUNNELS / 256, "{meanwhile}");
    // And again: nothing is left of the first.
    assert_eq!(views().await.len(), TUNNELS);
    other.abort();
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn a_visit_ends_though_tunnels_end_meanwhile() {
    let mut open = crowd(1000).await;
    let guest = Guest::new(None);
    let going = tokio::spawn(visit(guest.clone()));
    // Some end before they are told, some when they have been.
    for each in open.iter().step_by(2) {
        each.tunnel.abort();
    }
    tokio::task::yield_now().await;
    for each in open.iter().skip(1).step_by(4) {
        each.tunnel.abort();
    }
    going.await.expect("no panic");
    assert_eq!(Arc::strong_count(&guest), 1, "nobody waits for it any more");
    let told = guest.views.lock().expect("no panic").len();
    assert!((250..1000).contains(&told), "{told}");
    for each in open.iter_mut().step_by(2) {
        assert!((&mut each.tunnel).await.is_err_and(|end| end.is_cancelled()));
    }
    assert_eq!(views().await.len(), 250, "those that are left");
}

#[tokio::test(start_paused = true)]
async fn several_visits_at_once_come_to_every_tunnel() {
    let open = crowd(600).await;
    let guests: Vec<_> = (0..3).map(|_| Guest::new(None)).collect();
    let rounds: Vec<_> = guests.iter().map(|guest| tokio::spawn(visit(guest.clone()))).collect();
    for (round, guest) in rounds.into_iter().zip(guests) {
        round.await.expect("no panic");
        assert_eq!(guest.views.lock().expect("no panic").len(), open.len());
    }
}

#[tokio::test(start_paused = true)]
async fn t9_a_visit_in_a_drain_finds_who_leaves() {
    let mut open = crowd(300).await;
    for each in &open[..100] {
        each.drain.drain();
    }
    wake_all();
    settle(100).await;
    let views = views().await;
    let closing = views.iter().filter(|view| view.closing == Some("drained")).count();
    assert_eq!((views.len(), closing), (300, 100));
    for each in &mut open[..100] {
        each.client.expect(&server_close(1012, "service restart")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_tunnel_was_a_visit_is_over_at_once() {
    assert!(views().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn t11_a_view_is_the_account_so_far() {
    let interval = Some(Duration::from_secs(30));
    let keepalive = Keepalive { clients: true, backends: false, interval, pong: None };
    let limits = Limits { keepalive, ..LIMITS };
    let mut open = SetUp { limits, ..SetUp::default() }.open();
    open.client.send(&[says("a"), says("bcd")].concat()).await;
    open.backend.expect(&[says("a"), says("bcd")].concat()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    open.backend.send(&tells("answer")).await;
    open.client.expect(&tells("answer")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = views().await;
    let view = &all[0];
    let seconds = |time: Duration| time.as_secs();
    assert_eq!(
        (seconds(view.age), seconds(view.client_idle), seconds(view.backend_idle), seconds(view.idle())),
        (15, 15, 5, 5)
    );
    assert_eq!((view.client.messages, view.client.frames.text, view.client.longest_message), (2, 2, 3));
    assert_eq!((view.backend.messages, view.backend.bytes), (1, tells("answer").len() as u64));
    assert_eq!((view.closing, view.client_pings.sent), (None, 0));

    // A Ping is out, and a Close.
    let (header, _) = read_frame(&mut open.client).await;
    assert_eq!(header.opcode, Opcode::Ping);
    assert_eq!(views().await[0].client_pings.sent, 1);
    open.client.send(&client_close(4000, "done")).await;
    open.backend.expect(&client_close(4000, "done")).await;
    let view = views().await.remove(0);
    assert_eq!(view.closing, Some("closed"));
    assert_eq!(view.client.close.expect("a Close").code.map(|code| code.0), Some(4000));
    // Looking takes nothing away from the report.
    open.backend.send(&server_close(4000, "")).await;
    open.client.finish().await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.client.messages, report.client_pings.sent), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn t2_a_view_tells_of_a_half_closed_tunnel() {
    let mut open = open();
    open.backend.finish().await;
    open.client.expect_end(b"").await;
    assert_eq!(views().await[0].closing, Some("upstream_eof"));
}
