use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A client that sends `bytes` of a body of a megabyte each second; returns the refusal and when it came.
async fn upload(bytes: usize) -> (&'static str, Duration) {
    let (over, ()) = SetUp::post(BodyFraming::Length(1 << 20))
        .run(async |mut client, mut upstream| {
            let sends = async {
                loop {
                    if tokio::io::AsyncWriteExt::write_all(&mut client.pipe, &vec![b'x'; bytes])
                        .await
                        .is_err()
                    {
                        return;
                    }
                    tokio::time::sleep(SECOND).await;
                }
            };
            tokio::join!(sends, upstream.rest());
        })
        .await;
    (over.label(), over.took)
}

#[tokio::test(start_paused = true)]
async fn s1_a_trickled_request_body_ends_the_request() {
    let (label, took) = upload(200).await;
    assert_eq!(label, "body_timeout");
    assert!(took <= PERIOD * 2, "{took:?}");
    // 18 KiB a minute are enough; then it is the upstream that does not answer.
    let (label, took) = upload(18 * 1024 / 60 + 1).await;
    assert_eq!(label, "response_timeout");
    assert!(took > PERIOD * 10);
}

#[tokio::test(start_paused = true)]
async fn s1_a_trickled_request_body_ends_the_request_after_an_early_answer_too() {
    let (over, ()) = SetUp::post(BodyFraming::Length(1000))
        .run(async |mut client, mut upstream| {
            upstream.send(b"HTTP/1.1 200 OK\r\n\r\n").await;
            read_head(&mut client).await;
            while tokio::io::AsyncWriteExt::write_all(&mut client.pipe, b"x").await.is_ok() {
                tokio::time::sleep(SECOND).await;
            }
        })
        .await;
    assert_eq!((over.label(), over.status), ("body_timeout", Some(200)));
    assert!(over.took <= PERIOD * 2);
}

#[tokio::test(start_paused = true)]
async fn s1_an_upstream_that_takes_no_body_does_not_answer_in_time() {
    let set_up = SetUp { up: Pace::pipe(64), ..SetUp::post(BodyFraming::Length(1 << 20)) };
    let (over, _peers) = set_up
        .run(async |mut client, upstream| {
            // More than is read ahead, so that the client is not what is waited for.
            client.send(&vec![b'x'; 200_000]).await;
            (client, upstream)
        })
        .await;
    assert_eq!((over.label(), over.took), ("response_timeout", RESPONSE));
}

#[tokio::test(start_paused = true)]
async fn s1_an_answer_that_does_not_come_is_a_timeout() {
    for (kind, label) in [(PLAIN, "response_timeout"), (Kind::Handshake, "handshake_timeout")] {
        // Nothing, and a head that does not end.
        for said in ["", "HTTP/1.1 200 OK\r\nX: y"] {
            let (over, _peers) = SetUp { kind, ..SetUp::default() }
                .run(async |client, mut upstream| {
                    for byte in said.as_bytes().chunks(1) {
                        upstream.send(byte).await;
                        tokio::time::sleep(SECOND).await;
                    }
                    (client, upstream)
                })
                .await;
            assert_eq!((over.label(), over.took, over.status), (label, RESPONSE, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn h11_who_waits_for_100_continue_waits_as_long_as_for_an_answer() {
    let expects = || SetUp { expects_continue: true, ..SetUp::post(BodyFraming::Length(10)) };
    let (over, _peers) = expects().run(async |client, upstream| (client, upstream)).await;
    assert_eq!((over.label(), over.took), ("response_timeout", RESPONSE));
    // Its body is a body like any other once it has begun.
    let (over, _peers) = expects()
        .run(async |mut client, mut upstream| {
            tokio::time::sleep(PERIOD + SECOND).await;
            upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            read_head(&mut client).await;
            client.send(b"x").await;
            (client, upstream)
        })
        .await;
    assert_eq!((over.label(), over.took), ("body_timeout", PERIOD + SECOND + PERIOD));
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_takes_no_answer_is_cut() {
    for seals in [false, true] {
        let set_up = SetUp { down: Pace { seals, ..Pace::pipe(64) }, ..SetUp::default() };
        let (over, _peers) = set_up
            .run(async |client, mut upstream| {
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n").await;
                upstream.send(&[b'x'; 5000]).await;
                (client, upstream)
            })
            .await;
        assert_eq!((over.label(), over.took, over.status), ("write_timeout", PERIOD, Some(200)));
    }
}

/// A client that takes `bytes` of an endless answer each second, over a stream that seals as TLS does or does not; returns
/// the refusal, if one comes in ten periods.
async fn download(bytes: usize, seals: bool) -> Option<&'static str> {
    let down = Pace { seals, ..Pace::pipe(1024) };
    // What is read at once is more than has to be taken in a period.
    let set_up = SetUp { down, up: Pace::pipe(64 * 1024), ..SetUp::default() };
    let run = set_up.run(async |mut client, mut upstream| {
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let sends = async {
            while tokio::io::AsyncWriteExt::write_all(&mut upstream.pipe, &[b'x'; 4096]).await.is_ok() {}
        };
        let takes = async {
            let mut got = vec![0; bytes];
            while client.pipe.read_exact(&mut got).await.is_ok() {
                tokio::time::sleep(SECOND).await;
            }
        };
        tokio::join!(sends, takes);
    });
    let (over, ()) = tokio::time::timeout(PERIOD * 10, run).await.ok()?;
    Some(over.label())
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_takes_a_trickle_is_cut() {
    for seals in [false, true] {
        assert_eq!(download(200, seals).await, Some("write_timeout"));
        // What was sealed is not what was taken: that comes in leaps of which a period may have none.
        assert_eq!(download(300, seals).await, None);
    }
}

/// An upstream that says this head and then nothing; returns how long it took to give up.
async fn quiet(head: &str) -> Duration {
    let (over, _peers) = SetUp::default()
        .run(async |client, mut upstream| {
            // A slow head does not count.
            tokio::time::sleep(RESPONSE * 8 / 9).await;
            upstream.send(head.as_bytes()).await;
            (client, upstream)
        })
        .await;
    assert_eq!((over.label(), over.status), ("response_timeout", Some(200)));
    over.took.saturating_sub(RESPONSE * 8 / 9)
}

#[tokio::test(start_paused = true)]
async fn h15_a_quiet_answer_is_cut_and_an_event_stream_much_later() {
    assert_eq!(quiet("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await, QUIET);
    let hour = Duration::from_secs(3600);
    assert_eq!(
        quiet("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n").await,
        hour
    );
    assert_eq!(quiet("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n").await, QUIET);
}

#[tokio::test(start_paused = true)]
async fn h15_each_event_is_written_at_once_and_counts_as_life() {
    let (over, ()) = SetUp::default()
        .run(async |mut client, mut upstream| {
            upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            read_head(&mut client).await;
            for _ in 0..20 {
                tokio::time::sleep(QUIET * 8 / 9).await;
                let before = Instant::now();
                upstream.send(b"3\r\nabc\r\n").await;
                client.expect(b"3\r\nabc\r\n").await;
                assert_eq!(before.elapsed(), Duration::ZERO);
            }
            upstream.send(b"0\r\n\r\n").await;
            client.expect(b"0\r\n\r\n").await;
        })
        .await;
    assert!(over.answered().keeps_downstream);
}

#[tokio::test(start_paused = true)]
async fn off_is_off() {
    let timeouts = Timeouts { request_body: None, write: None, response: None, response_body: None };
    let set_up = SetUp { timeouts, down: Pace::pipe(64), ..SetUp::post(BodyFraming::Length(2)) };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            let long = Duration::from_secs(1_000_000);
            client.send(b"x").await;
            tokio::time::sleep(long).await;
            client.send(b"y").await;
            tokio::time::sleep(long).await;
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
            tokio::time::sleep(long).await;
            upstream.send(&[b'z'; 1000]).await;
            tokio::time::sleep(long).await;
            read_head(&mut client).await;
            client.expect(&[b'z'; 1000]).await;
        })
        .await;
    assert!(over.answered().keeps_downstream);
}
