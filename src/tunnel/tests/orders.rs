//! Several orders to leave: of the whole, of the tunnel's server, and of its route (rule T9).

use super::*;

const SPREAD: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);

/// Ends a tunnel that has just been told to leave, and gives its label and when its client heard of it.
async fn leave(mut open: Open) -> (&'static str, Duration) {
    open.client.expect(&server_close(1012, "service restart")).await;
    let told = open.age();
    open.client.send(&client_close(1012, "")).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.first_close), (Side::Gate, Some(Side::Gate)));
    (report.end.label(), told)
}

fn spread() -> Open {
    SetUp { spread: SPREAD, ..SetUp::default() }.open()
}

#[tokio::test(start_paused = true)]
async fn t9_a_route_that_is_gone_ends_its_tunnels_by_reload() {
    let open = open();
    open.route.drain();
    wake_all();
    assert_eq!(leave(open).await, ("reload", Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn t9_each_order_has_its_own_name() {
    for (order, label) in [("whole", "drained"), ("server", "removed"), ("route", "reload")] {
        let open = open();
        match order {
            "whole" => open.drain.drain(),
            "server" => open.server.drain(),
            _ => open.route.drain(),
        }
        wake_all();
        assert_eq!(leave(open).await.0, label);
    }
    let limits = Limits { max_age: Some(SECOND), ..LIMITS };
    let (label, at) = leave(SetUp { limits, ..SetUp::default() }.open()).await;
    assert!(label == "max_age" && at <= SECOND * 11 / 10);
}

#[tokio::test(start_paused = true)]
async fn t9_of_two_orders_the_earlier_moment_counts() {
    type Order = fn(&Open) -> &DrainHandle;
    let orders: [(Order, &str); 3] =
        [(|open| &open.drain, "drained"), (|open| &open.server, "removed"), (|open| &open.route, "reload")];
    for first in 0..orders.len() {
        for second in (0..orders.len()).filter(|second| *second != first) {
            let open = spread();
            tokio::task::yield_now().await;
            orders[first].0(&open).drain();
            wake_all();
            tokio::task::yield_now().await;
            orders[second].0(&open).drain_over(Duration::ZERO);
            wake_all();
            assert_eq!(leave(open).await, (orders[second].1, Duration::ZERO));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t9_an_order_that_comes_later_with_more_time_changes_nothing() {
    let open = spread();
    open.route.drain_over(Duration::ZERO);
    open.drain.drain();
    wake_all();
    assert_eq!(leave(open).await, ("reload", Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn t9_age_before_the_moment_of_an_order_is_the_reason() {
    let limits = Limits { max_age: Some(SECOND), ..LIMITS };
    // One that drew a thousandth of the spread would leave before it is too old.
    for _ in 0..3 {
        let open = SetUp { limits, spread: SPREAD * 1000, ..SetUp::default() }.open();
        open.route.drain();
        wake_all();
        let (label, at) = leave(open).await;
        if at >= SECOND * 9 / 10 {
            assert_eq!(label, "max_age");
            return;
        }
    }
    panic!("three tunnels drew a millionth");
}

#[tokio::test(start_paused = true)]
async fn t9_the_tunnels_of_a_route_leave_spread_over_the_time() {
    let mut moments = Vec::new();
    for _ in 0..200 {
        let open = spread();
        open.route.drain();
        wake_all();
        let (label, at) = leave(open).await;
        assert_eq!(label, "reload");
        moments.push(at);
    }
    for quarter in 0..4 {
        let span = SPREAD * quarter / 4..=SPREAD * (quarter + 1) / 4;
        let here = moments.iter().filter(|moment| span.contains(*moment)).count();
        assert!((20..90).contains(&here), "{here} of 200 in the quarter {quarter}");
    }
}

#[tokio::test(start_paused = true)]
async fn t9_an_order_to_a_route_reaches_tunnels_as_one_to_all_does() {
    let open = open();
    // What a worker does.
    let whole = open.drain.signal();
    let listens = tokio::spawn(async move { whole.orders(wake_all).await });
    tokio::task::yield_now().await;
    open.route.drain();
    assert_eq!(leave(open).await, ("reload", Duration::ZERO));
    listens.abort();
}

#[tokio::test(start_paused = true)]
async fn t9_shutdown_cuts_a_tunnel_that_leaves_by_its_routes_order() {
    let mut open = open();
    open.route.drain();
    wake_all();
    open.client.expect(&server_close(1012, "service restart")).await;
    open.drain.shutdown();
    wake_all();
    let report = open.report().await;
    assert_eq!(report.end.label(), "drain_timeout");
    assert_eq!(report.own_close, Some((1012, "service restart".into())));
}
