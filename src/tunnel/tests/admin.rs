//! An administrator's Close (rules T5, T9).

use std::sync::atomic::Ordering;

use super::*;
use crate::tunnel::visit;

/// Closes every tunnel of this thread with this code and reason. Returns how many began to close.
async fn close_all(code: u16, reason: &str) -> usize {
    let guest = Guest::new(AdminClose::new(code, reason).ok());
    visit(guest.clone()).await;
    guest.closed.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn t9_an_administrators_close_has_its_code_and_reason_for_the_client_and_1001_for_the_backend() {
    for (code, reason) in [(1012, "service restart"), (4001, "log in again"), (1000, "")] {
        let mut open = open();
        tokio::task::yield_now().await;
        assert_eq!(close_all(code, reason).await, 1);
        open.client.expect(&server_close(code, reason)).await;
        // What the client still sends is relayed until its answer.
        open.client.send(&[says("last words"), client_close(code, "")].concat()).await;
        open.client.expect_end(b"").await;
        open.client.finish().await;
        assert_closed_with(&open.backend.rest().await, &says("last words"), 1001);
        open.backend.finish().await;
        let report = open.report().await;
        assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "admin"));
        assert_eq!(report.own_close, Some((code, reason.into())));
        assert_eq!(report.first_close, Some(Side::Gate));
    }
}

#[tokio::test(start_paused = true)]
async fn t5_t9_it_stands_between_two_messages() {
    let mut open = open();
    let first = frame(Role::FromServer, false, Opcode::Text, b"one");
    let last = frame(Role::FromServer, true, Opcode::Continuation, b"two");
    open.backend.send(&first).await;
    open.client.expect(&first).await;
    assert_eq!(close_all(4000, "bye").await, 1);
    expect_silence(&mut open.client, Duration::from_secs(1)).await;
    open.backend.send(&[&last[..], &tells("too late")].concat()).await;
    open.client.expect(&[last, server_close(4000, "bye")].concat()).await;
    open.client.send(&client_close(4000, "")).await;
    open.client.expect_end(b"").await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);
}

#[tokio::test(start_paused = true)]
async fn t9_a_tunnel_on_its_way_to_its_end_is_not_closed_again() {
    // By wsgate.
    let mut drained = open();
    drained.begin_drain();
    drained.client.expect(&server_close(1012, "service restart")).await;
    assert_eq!(close_all(4000, "bye").await, 0);
    drained.client.send(&client_close(1012, "")).await;
    drained.client.expect_end(b"").await;
    drained.client.finish().await;
    drained.backend.finish().await;
    assert_eq!(drained.report().await.end.label(), "drained");
    // By a peer.
    let mut closed = open();
    closed.client.send(&client_close(1000, "done")).await;
    closed.backend.expect(&client_close(1000, "done")).await;
    assert_eq!(close_all(4000, "bye").await, 0);
    closed.backend.send(&server_close(1000, "")).await;
    closed.client.expect(&server_close(1000, "")).await;
    closed.client.finish().await;
    closed.backend.finish().await;
    assert_eq!(closed.report().await.end.label(), "closed");
    // Twice.
    let mut twice = open();
    tokio::task::yield_now().await;
    assert_eq!((close_all(4000, "bye").await, close_all(4001, "again").await), (1, 0));
    twice.client.expect(&server_close(4000, "bye")).await;
}

#[tokio::test(start_paused = true)]
async fn t2_t9_a_tunnel_that_may_stand_for_long_is_closed_though_one_side_has_ended() {
    let mut open = SetUp { limits: Limits::OFF, ..SetUp::default() }.open();
    open.backend.finish().await;
    open.client.expect_end(b"").await;
    assert_eq!(close_all(4000, "bye").await, 1);
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    assert_eq!(open.report().await.end.label(), "admin");

    // Its client's Close is never answered, and no time-out ends that.
    let mut open = SetUp { limits: Limits::OFF, ..SetUp::default() }.open();
    open.client.send(&client_close(1000, "")).await;
    open.backend.expect(&client_close(1000, "")).await;
    assert_eq!(close_all(4000, "bye").await, 1);
    open.client.expect(&server_close(4000, "bye")).await;
}

#[tokio::test(start_paused = true)]
async fn t9_a_close_that_nobody_answers_ends_like_a_drain() {
    let mut open = open();
    tokio::task::yield_now().await;
    assert_eq!(close_all(4000, "bye").await, 1);
    let report = open.report().await;
    assert_eq!((report.end.label(), open.age()), ("admin", CLOSE_TIMEOUT * 2));
    open.client.expect_end(&server_close(4000, "bye")).await;
    assert_closed_with(&open.backend.rest().await, b"", 1001);

    let mut open = super::open();
    tokio::task::yield_now().await;
    assert_eq!(close_all(4000, "bye").await, 1);
    open.drain.shutdown();
    wake_all();
    let report = open.report().await;
    assert_eq!((report.end.label(), report.own_close), ("drain_timeout", Some((4000, "bye".into()))));
}
