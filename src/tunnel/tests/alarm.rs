use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use tokio::runtime::Handle;

use super::*;

#[derive(Default)]
struct Rings(AtomicUsize);

impl Wake for Rings {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bell() -> (Arc<Rings>, Waker) {
    let rings = Arc::new(Rings::default());
    (Arc::clone(&rings), Waker::from(rings))
}

impl Rings {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Lets the other tasks run until they wait, and no clock move.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
    settle().await;
}

fn later(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn alarms_ring_in_the_order_of_their_times_from_one_task() {
    let bells: Vec<_> = (0..100).map(|_| bell()).collect();
    let mut alarms: Vec<_> = bells.iter().map(|(_, waker)| Alarm::new(waker)).collect();
    assert_eq!(tasks(), 0, "nothing is set");
    for (at, (alarm, (_, waker))) in alarms.iter_mut().zip(&bells).enumerate().rev() {
        // Each is earlier than all before it.
        alarm.set(later(10 + at as u64), waker);
    }
    assert_eq!(tasks(), 1);
    settle().await;
    pass(9).await;
    for at in 0..bells.len() {
        pass(1).await;
        let rung: Vec<_> = bells.iter().map(|(rings, _)| rings.count()).collect();
        assert!(
            rung[..=at].iter().all(|count| *count == 1) && rung[at + 1..].iter().all(|count| *count == 0)
        );
    }
    drop(alarms);
    settle().await;
    assert_eq!(tasks(), 0, "the driver ends with the last tunnel");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_is_pushed_back_rings_early_and_can_be_set_again() {
    let (rings, waker) = bell();
    let mut alarm = Alarm::new(&waker);
    alarm.set(later(10), &waker);
    settle().await;
    pass(5).await;
    let due = later(10);
    alarm.set(due, &waker);
    pass(5).await;
    assert_eq!(rings.count(), 1, "at the first time");
    alarm.set(due, &waker);
    settle().await;
    pass(4).await;
    assert_eq!(rings.count(), 1);
    pass(1).await;
    assert_eq!(rings.count(), 2, "at the second");
    pass(100).await;
    assert_eq!(rings.count(), 2, "once");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_alarm_goes_before_one_that_is_waited_for() {
    let ((late_rings, late), (soon_rings, soon)) = (bell(), bell());
    let (mut first, mut second) = (Alarm::new(&late), Alarm::new(&soon));
    first.set(later(100), &late);
    settle().await;
    second.set(later(1), &soon);
    settle().await;
    pass(1).await;
    assert_eq!((late_rings.count(), soon_rings.count()), (0, 1));
    first.set(later(1), &late);
    settle().await;
    pass(1).await;
    assert_eq!((late_rings.count(), soon_rings.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_alarm_does_not_ring_and_its_place_is_used_again() {
    let ((gone_rings, gone), (rings, waker)) = (bell(), bell());
    let mut dropped = Alarm::new(&gone);
    dropped.set(later(5), &gone);
    let mut kept = Alarm::new(&waker);
    kept.set(later(50), &waker);
    settle().await;
    drop(dropped);
    let (next_rings, next) = bell();
    let mut again = Alarm::new(&next);
    again.set(later(10), &next);
    settle().await;
    pass(5).await;
    assert_eq!((gone_rings.count(), next_rings.count(), rings.count()), (0, 0, 0));
    pass(5).await;
    assert_eq!((gone_rings.count(), next_rings.count(), rings.count()), (0, 1, 0));
    drop((kept, again));
    settle().await;
    assert_eq!(tasks(), 0);
    // A new one starts the driver again.
    let mut fresh = Alarm::new(&waker);
    fresh.set(later(1), &waker);
    assert_eq!(tasks(), 1);
    settle().await;
    pass(1).await;
    assert_eq!(rings.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn wake_all_wakes_every_tunnel_of_the_thread() {
    let bells: Vec<_> = (0..10).map(|_| bell()).collect();
    let alarms: Vec<_> = bells.iter().map(|(_, waker)| Alarm::new(waker)).collect();
    wake_all();
    assert!(bells.iter().all(|(rings, _)| rings.count() == 1));
    drop(alarms);
    wake_all();
    assert!(bells.iter().all(|(rings, _)| rings.count() == 1));
}

#[tokio::test(start_paused = true)]
async fn many_tunnels_end_at_their_own_deadlines() {
    let begun = Instant::now();
    let tunnels: Vec<_> = (0..200u64)
        .map(|at| {
            let idle = Duration::from_secs(10 + at % 50);
            let open = SetUp { limits: Limits { idle: Some(idle), ..LIMITS }, ..SetUp::default() }.open();
            async move {
                let mut open = open;
                open.client.expect(&server_close(1001, "idle")).await;
                assert_eq!(begun.elapsed(), idle);
                open.client.finish().await;
                open.backend.finish().await;
                open.report().await;
            }
        })
        .collect();
    assert_eq!(tasks(), 200);
    futures_util::future::join_all(tunnels).await;
    settle().await;
    assert_eq!(tasks(), 0, "no tunnel and no driver is left");
}
