use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test(start_paused = true)]
async fn t8_an_idle_tunnel_is_closed_with_1001_on_both_sides() {
    let mut open = open();
    open.client.expect(&server_close(1001, "idle")).await;
    assert_eq!(open.age(), IDLE_TIMEOUT);
    open.client.send(&client_close(1001, "")).await;
    open.client.expect_end(b"").await;
    open.client.finish().await;
    open.backend.finish().await;
    assert_eq!(unmask_close(&open.backend.rest().await), (1001, "idle".to_owned()));
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "idle"));
}

#[tokio::test(start_paused = true)]
async fn t8_any_byte_of_either_side_pushes_it_back() {
    let mut open = open();
    let wait = IDLE_TIMEOUT.saturating_sub(Duration::from_secs(1));
    let message = tells("slowly");
    for byte in message.chunks(1) {
        tokio::time::sleep(wait).await;
        open.backend.send(byte).await;
    }
    open.client.expect(&message).await;
    tokio::time::sleep(wait).await;
    open.client.send(&says("?")).await;
    open.backend.expect(&says("?")).await;
    let spoken = open.age();
    open.client.expect(&server_close(1001, "idle")).await;
    assert_eq!(open.age(), spoken + IDLE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn t8_off_is_off() {
    let limits = Limits::OFF;
    let mut open = SetUp { limits, ..SetUp::default() }.open();
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    open.backend.send(&tells("still here")).await;
    open.client.expect(&tells("still here")).await;
    open.backend.finish().await;
    assert_eq!(open.report().await.end.label(), "downstream_eof");
}

#[tokio::test(start_paused = true)]
async fn t8_a_half_closed_tunnel_without_a_timeout_of_its_own_still_ends_idle() {
    let limits = Limits { half_close: None, ..LIMITS };
    let mut open = SetUp { limits, ..SetUp::default() }.open();
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    open.client.expect_end(&server_close(1001, "idle")).await;
    open.report().await;
    assert_eq!(open.age(), IDLE_TIMEOUT + CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_takes_nothing_is_cut() {
    for seals in [false, true] {
        let down = Pace { seals, ..Pace::pipe(1024) };
        let mut open = SetUp { down, ..SetUp::default() }.open();
        open.backend.send(&tells(&"x".repeat(50_000))).await;
        let report = open.report().await;
        assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "write_timeout"));
        assert_eq!(open.age(), WRITE_TIMEOUT);
        assert!(open.client.was_reset());
        open.backend.expect_end(b"").await;
        assert!(!open.backend.was_reset());
    }
}

/// A client that reads `bytes` each second from a backend that never ends. Returns whether it was kept for ten periods.
async fn is_kept(bytes: usize, seals: bool) -> bool {
    let down = Pace { seals, ..Pace::pipe(1024) };
    let limits = Limits { idle: None, ..LIMITS };
    let mut open = SetUp { limits, down, up: Pace::pipe(4096), ..SetUp::default() }.open();
    let message = frame(Role::FromServer, true, Opcode::Binary, &noise(100_000));
    let (client, backend) = (&mut open.client.pipe, &mut open.backend.pipe);
    let reads = async {
        let mut got = vec![0; bytes];
        while client.read_exact(&mut got).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let writes = async { while backend.write_all(&message).await.is_ok() {} };
    tokio::select! {
        biased;
        () = tokio::time::sleep(WRITE_TIMEOUT * 10) => true,
        report = &mut open.tunnel => {
            assert_eq!(report.expect("no panic").end.label(), "write_timeout");
            false
        }
        () = reads => unreachable!("the client reads until the tunnel ends"),
        () = writes => unreachable!("the backend writes until the tunnel ends"),
    }
}

#[tokio::test(start_paused = true)]
async fn s1_a_trickle_is_no_progress() {
    for seals in [false, true] {
        assert!(!is_kept(200, seals).await, "12 KiB a minute");
        assert!(is_kept(300, seals).await, "18 KiB a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_takes_all_of_little_is_kept() {
    let mut open = SetUp { down: Pace::pipe(16), ..SetUp::default() }.open();
    for _ in 0..10 {
        let message = tells(&"y".repeat(100));
        open.backend.send(&message).await;
        tokio::time::sleep(WRITE_TIMEOUT * 59 / 60).await;
        open.client.expect(&message).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    open.client.finish().await;
    open.backend.finish().await;
    assert_eq!(open.report().await.end.label(), "downstream_eof");
}

#[tokio::test(start_paused = true)]
async fn t1_a_backend_that_takes_nothing_slows_the_client_and_ends_idle() {
    let mut open = SetUp { up: Pace::pipe(16), ..SetUp::default() }.open();
    open.client.send(&says(&"z".repeat(1000))).await;
    let report = open.report().await;
    assert_eq!(report.end.label(), "idle");
    assert_eq!(open.age(), IDLE_TIMEOUT + CLOSE_TIMEOUT);
    open.client.expect_end(&server_close(1001, "idle")).await;
    assert!(open.backend.was_reset() && !open.client.was_reset());
}
