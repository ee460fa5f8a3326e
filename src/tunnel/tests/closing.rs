use std::{io::ErrorKind, pin::pin};

use tokio::task::coop;

use super::*;

#[tokio::test(start_paused = true)]
async fn t2_a_half_close_of_the_client_is_passed_on_and_the_answer_still_comes() {
    let mut open = open();
    open.client.send(&says("all")).await;
    open.client.finish().await;
    open.backend.expect_end(&says("all")).await;
    assert!(open.backend.was_shut());
    open.backend.send(&tells("answer")).await;
    open.client.expect(&tells("answer")).await;
    open.backend.finish().await;
    let report = open.report().await;
    open.client.expect_end(b"").await;
    assert!(matches!(report.end, TunnelEnd::Eof(Side::Downstream)));
    assert_eq!((report.ended_by, report.end.label()), (Side::Downstream, "downstream_eof"));
    assert!(!open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t2_a_half_close_of_the_backend_is_passed_on_and_the_client_goes_on() {
    let mut open = open();
    open.backend.send(&tells("all")).await;
    open.backend.finish().await;
    open.client.expect_end(&tells("all")).await;
    open.client.send(&says("more")).await;
    open.backend.expect(&says("more")).await;
    open.client.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Upstream, "upstream_eof"));
}

#[tokio::test(start_paused = true)]
async fn t2_half_closed_it_stands_for_the_half_close_timeout_whatever_flows() {
    let mut open = open();
    open.client.finish().await;
    open.backend.expect_end(b"").await;
    for _ in 0..29 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        open.backend.send(&tells("tick")).await;
        open.client.expect(&tells("tick")).await;
    }
    let report = open.report().await;
    assert_eq!(open.age(), HALF_CLOSE_TIMEOUT);
    assert_eq!(report.end.label(), "downstream_eof");
    open.client.expect_end(b"").await;
    assert!(!open.client.was_reset(), "at a frame boundary it is no reset");
}

#[tokio::test(start_paused = true)]
async fn t2_half_closed_and_cut_within_a_frame_is_a_reset() {
    let mut open = open();
    open.client.finish().await;
    open.backend.send(&tells("never whole")[..5]).await;
    open.report().await;
    open.client.expect_end(&tells("never whole")[..5]).await;
    assert!(open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t2_after_a_close_the_rest_has_the_close_timeout() {
    // The Close before the end of its stream, and without one, and in the other direction.
    for case in 0..4 {
        let mut open = open();
        match case {
            0 => {
                open.client.send(&client_close(1000, "bye")).await;
                open.client.finish().await;
            }
            1 => open.client.send(&client_close(1000, "bye")).await,
            2 => {
                open.client.finish().await;
                open.backend.send(&server_close(1000, "bye")).await;
            }
            _ => open.backend.send(&server_close(1000, "bye")).await,
        }
        let report = open.report().await;
        assert_eq!(open.age(), CLOSE_TIMEOUT, "case {case}");
        let closer = if case < 2 { Side::Downstream } else { Side::Upstream };
        assert_eq!(report.first_close, Some(closer));
        let first_eof = case == 0 || case == 2;
        assert_eq!(report.end.label(), if first_eof { "downstream_eof" } else { "closed" }, "case {case}");
        assert_eq!(report.ended_by, if first_eof { Side::Downstream } else { closer }, "case {case}");
    }
}

#[tokio::test(start_paused = true)]
async fn t11_closes_pass_unchanged_and_are_told() {
    let codes = [1000u16, 1001, 1005, 1011, 1012, 3000, 4999, 0, 65535];
    for code in codes {
        let mut open = open();
        let (question, answer) = (client_close(code, "Grüße"), server_close(code, ""));
        open.client.send(&question).await;
        open.backend.expect(&question).await;
        open.backend.send(&answer).await;
        open.client.expect(&answer).await;
        open.backend.finish().await;
        open.client.finish().await;
        let report = open.report().await;
        assert!(matches!(report.end, TunnelEnd::Closed));
        assert_eq!((report.ended_by, report.first_close), (Side::Downstream, Some(Side::Downstream)));
        let (client, server) =
            (report.client.close.expect("a Close"), report.backend.close.expect("a Close"));
        assert_eq!(client.code.map(|code| code.0), Some(code));
        assert_eq!(&*client.reason, "Grüße".as_bytes());
        assert_eq!((server.code.map(|code| code.0), &*server.reason), (Some(code), &b""[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn t11_the_backend_may_close_first_and_a_close_may_be_empty() {
    let mut open = open();
    let empty = frame(Role::FromServer, true, Opcode::Close, b"");
    open.backend.send(&empty).await;
    open.client.expect(&empty).await;
    let answer = frame(Role::FromClient, true, Opcode::Close, b"");
    open.client.send(&answer).await;
    open.backend.expect(&answer).await;
    open.client.finish().await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.first_close), (Side::Upstream, Some(Side::Upstream)));
    assert_eq!(report.backend.close.expect("a Close").code, None);
}

#[tokio::test(start_paused = true)]
async fn t12_a_browsers_reload_is_a_close_1001() {
    let mut open = open();
    let reload = [0x88, 0x82, 0x34, 0xb3, 0xe3, 0x25, 0x37, 0x5a];
    open.client.send(&reload).await;
    open.client.finish().await;
    open.backend.expect_end(&reload).await;
    open.backend.finish().await;
    let report = open.report().await;
    let close = report.client.close.expect("a Close");
    assert_eq!((close.code.map(|code| code.0), close.reason.len()), (Some(1001), 0));
    assert_eq!(report.first_close, Some(Side::Downstream));
}

#[tokio::test(start_paused = true)]
async fn t3_a_reset_client_gives_the_backend_what_was_read_and_an_end() {
    for pace in [Pace::FAST, Pace::SLOW] {
        let mut open = SetUp { up: pace, ..SetUp::default() }.open();
        open.client.send(&says("last words")).await;
        open.client.reset().await;
        open.backend.expect_end(&says("last words")).await;
        assert!(!open.backend.was_reset() && open.backend.was_shut());
        open.backend.finish().await;
        let report = open.report().await;
        assert_eq!((report.ended_by, report.end.label()), (Side::Downstream, "downstream_reset"));
        assert_eq!(report.first_close, None);
    }
}

#[tokio::test(start_paused = true)]
async fn t3_a_reset_backend_gives_the_client_what_was_read_and_an_end() {
    for pace in [Pace::FAST, Pace::SLOW] {
        let mut open = SetUp { down: pace, ..SetUp::default() }.open();
        open.backend.send(&tells("last words")).await;
        open.backend.reset().await;
        open.client.expect_end(&tells("last words")).await;
        assert!(!open.client.was_reset() && open.client.was_shut());
        open.client.send(&says("into the void")).await;
        open.client.finish().await;
        let report = open.report().await;
        assert_eq!((report.ended_by, report.end.label()), (Side::Upstream, "upstream_reset"));
    }
}

/// How a sender's stream ends without a Close.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    Eof,
    Reset,
}

#[tokio::test(start_paused = true)]
async fn t3_an_end_within_a_frame_is_a_reset_for_the_other_side_after_all_that_was_read() {
    let long = "long enough for a longer header: ".repeat(10);
    for (from_client, message) in [(true, says(&long)), (false, tells(&long))] {
        // Within the header, right behind it, within the payload, before the last byte.
        for cut in [1, 3, 8, message.len() - 1] {
            for loss in [Loss::Eof, Loss::Reset] {
                for pace in [Pace::FAST, Pace::SLOW] {
                    let mut open = SetUp { down: pace, up: pace, ..SetUp::default() }.open();
                    let Open { client, backend, .. } = &mut open;
                    let (sender, receiver) = if from_client { (client, backend) } else { (backend, client) };
                    let sends = async {
                        sender.send(&message[..cut]).await;
                        match loss {
                            Loss::Eof => sender.finish().await,
                            Loss::Reset => sender.reset().await,
                        }
                    };
                    tokio::join!(sends, receiver.expect_end(&message[..cut]));
                    let report = open.report().await;
                    let receiver = if from_client { &open.backend } else { &open.client };
                    assert!(receiver.was_reset(), "{cut} {loss:?} {pace:?} {from_client}");
                    let lost = if from_client { Side::Downstream } else { Side::Upstream };
                    assert_eq!(report.ended_by, lost);
                    assert_eq!(open.age(), Duration::ZERO, "nothing is waited for");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t3_what_a_backend_sent_before_it_refused_bytes_reaches_the_client() {
    let mut open = SetUp { down: Pace::pipe(8), ..SetUp::default() }.open();
    let words = [tells(&"more than one read ".repeat(10_000)), server_close(1011, "out of memory")].concat();
    open.backend.send(&words).await;
    open.backend.refuse_writes(ErrorKind::BrokenPipe);
    open.backend.finish().await;
    open.client.send(&says("still talking")).await;
    open.client.expect_end(&words).await;
    assert!(open.client.was_shut() && !open.client.was_reset());
    open.client.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Upstream, "upstream_reset"));
    assert_eq!(report.first_close, Some(Side::Upstream));
    assert_eq!(report.backend.close.expect("a Close").code.map(|code| code.0), Some(1011));
}

#[tokio::test(start_paused = true)]
async fn t3_what_a_client_sent_before_it_refused_bytes_reaches_the_backend() {
    let mut open = SetUp { up: Pace::pipe(8), ..SetUp::default() }.open();
    let words = [says(&"more than one read ".repeat(10_000)), client_close(1001, "")].concat();
    open.client.refuse_writes(ErrorKind::ConnectionReset);
    open.client.send(&words).await;
    open.client.finish().await;
    open.backend.send(&tells("nobody listens")).await;
    open.backend.expect_end(&words).await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Downstream, "downstream_reset"));
}

#[tokio::test(start_paused = true)]
async fn t3_a_broken_stream_after_the_closing_handshake_is_closed() {
    let mut open = open();
    open.client.send(&client_close(1000, "")).await;
    open.backend.expect(&client_close(1000, "")).await;
    open.backend.send(&server_close(1000, "")).await;
    open.client.expect(&server_close(1000, "")).await;
    open.client.reset().await;
    open.backend.finish().await;
    let report = open.report().await;
    assert_eq!((report.ended_by, report.end.label()), (Side::Downstream, "closed"));
    assert!(!open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t3_a_side_that_is_gone_leaves_the_other_the_close_timeout_at_most() {
    let mut open = open();
    open.backend.reset().await;
    open.client.expect_end(b"").await;
    open.report().await;
    assert_eq!(open.age(), CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn t13_a_truncated_stream_is_told() {
    for is_client in [true, false] {
        let mut open = open();
        if is_client {
            open.client.truncate();
        } else {
            open.backend.truncate();
        }
        open.client.finish().await;
        open.backend.finish().await;
        assert!(open.report().await.truncated);
    }
    let mut open = open();
    open.client.finish().await;
    open.backend.finish().await;
    assert!(!open.report().await.truncated);
}

#[tokio::test(start_paused = true)]
async fn t13_the_end_waits_for_what_a_stream_has_taken_and_not_sent() {
    let pace = Pace { seals: true, ..Pace::pipe(4) };
    let mut open = SetUp { down: pace, up: pace, ..SetUp::default() }.open();
    let close = server_close(1000, "a reason that does not fit");
    open.backend.send(&close).await;
    open.backend.finish().await;
    tokio::task::yield_now().await;
    open.client.expect_end(&close).await;
    assert!(open.client.was_shut() && !open.client.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t2_a_close_and_the_end_behind_it_go_out_together() {
    for pace in [Pace::FAST, Pace { seals: true, ..Pace::FAST }] {
        let mut open = SetUp { down: pace, up: pace, ..SetUp::default() }.open();
        open.client.send(&client_close(1000, "")).await;
        open.backend.expect(&client_close(1000, "")).await;
        let close = server_close(1000, "bye");
        // Neither waits for anything, so the tunnel finds both.
        open.backend.send(&close).await;
        open.backend.finish().await;
        open.client.expect_end(&close).await;
        open.client.finish().await;
        assert_eq!(open.report().await.end.label(), "closed");
        assert_eq!((open.client.came_with_end(), open.backend.came_with_end()), (close.len(), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn t2_a_close_does_not_wait_for_an_end_that_stays_away() {
    let mut open = open();
    open.backend.send(&[tells("last"), server_close(1000, "bye")].concat()).await;
    open.client.expect(&[tells("last"), server_close(1000, "bye")].concat()).await;
    assert_eq!(open.age(), Duration::ZERO);
    // What comes behind it, and should not, stays behind it.
    open.client.send(&client_close(1000, "bye")).await;
    open.backend.expect(&client_close(1000, "bye")).await;
    open.backend.finish().await;
    open.client.expect_end(b"").await;
    assert_eq!(open.client.came_with_end(), 0);
}

#[tokio::test(start_paused = true)]
async fn t3_what_was_read_reaches_the_other_side_though_the_budget_of_the_turn_is_spent() {
    for (budget, seals) in (1..12).flat_map(|budget| [(budget, false), (budget, true)]) {
        let set_up = SetUp { down: Pace { seals, ..Pace::FAST }, ..SetUp::default() };
        let (mut tunnel, mut client, mut backend, _orders) = set_up.tunnel();
        // The client breaks off, and an answer is on its way to it.
        client.send(&says("never whole")[..5]).await;
        client.finish().await;
        backend.send(&tells("answer")).await;
        // A turn that has all its budget yet.
        tokio::task::yield_now().await;
        let ended = std::future::poll_fn(|cx| {
            for _ in budget..TURN {
                assert!(pin!(coop::consume_budget()).poll(cx).is_ready());
            }
            Pin::new(&mut tunnel).poll(cx)
        });
        let report = ended.await;
        drop(tunnel);
        assert!(backend.was_reset(), "{budget}");
        let read = if report.backend.bytes == 0 { Vec::new() } else { tells("answer") };
        client.expect_end(&read).await;
        assert!(client.was_shut() && !client.was_reset(), "{budget} {seals}");
    }
}
