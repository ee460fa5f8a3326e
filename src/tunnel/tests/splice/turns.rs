//! How much of a worker's turn large frames take.

use tokio::task::coop;

use super::*;

/// Polls the tunnel once, by a task that may do no more than so much in this turn.
async fn advance_by<D: Stream, U: Stream>(tunnel: &mut Tunnel<D, U>, budget: usize) {
    tokio::task::yield_now().await;
    let mut has_polled = false;
    let once = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_polled, true) {
            return Poll::Ready(());
        }
        // What a task may do in a turn is not told, but that it is spent.
        for _ in budget..TURN {
            assert!(pin!(coop::consume_budget()).poll(cx).is_ready());
        }
        assert!(Pin::new(&mut *tunnel).poll(cx).is_pending(), "it stands");
        assert!(!coop::has_budget_remaining(), "it would have gone on");
        Poll::Pending
    });
    timeout(LATE, once).await.expect("it is woken");
}

#[tokio::test]
async fn t1_large_frames_leave_their_worker_to_others() {
    let ((down, mut client), (up, mut backend)) = (unix(), unix());
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let first = from_server(SPLICED_AT_LEAST);
    backend.write_all(&first).await.expect("taken");
    let mut got = vec![0; first.len()];
    tokio::select! {
        read = client.read_exact(&mut got) => drop(read.expect("the frame")),
        report = end_of(&mut tunnel) => panic!("{report:?}"),
    }
    // All of it is there before the tunnel looks again.
    let told = from_server(SPLICED_AT_LEAST).repeat(3);
    backend.write_all(&told).await.expect("room");
    let mut turns = 0;
    while tunnel.backend.bytes() < (first.len() + told.len()) as u64 {
        advance_by(&mut tunnel, 2).await;
        turns += 1;
    }
    assert!(turns > 2, "{turns}");
    let mut got = vec![0; told.len()];
    tokio::select! {
        read = client.read_exact(&mut got) => drop(read.expect("the frames")),
        report = end_of(&mut tunnel) => panic!("{report:?}"),
    }
    assert!(got == told);
}

#[tokio::test]
async fn t1_a_way_of_large_frames_lets_the_other_way_go_on() {
    let ((down, mut client), (up, mut backend)) = (unix(), unix());
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = from_server(SPLICED_AT_LEAST);
    let mut got = vec![0; told.len()];
    for is_spliced in [false, true] {
        backend.write_all(&told).await.expect("taken");
        if is_spliced {
            let step = std::future::poll_fn(|cx| tunnel.relay_backend(cx, Moment::OPENED)).await;
            assert!(matches!(step, Step::Moved), "{step:?}");
        }
        tokio::select! {
            read = client.read_exact(&mut got) => drop(read.expect("the frame")),
            report = end_of(&mut tunnel) => panic!("{report:?}"),
        }
        assert!(got == told);
    }
}
