use super::*;
use crate::proto::head::work;

#[tokio::test(start_paused = true)]
async fn w11_interim_responses_go_on_and_do_not_end_the_exchange() {
    let response =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for pace in [Pace::FAST, Pace::SLOW, Pace { seals: true, ..Pace::pipe(5) }] {
        let (over, got) = answer(SetUp { down: pace, up: pace, ..SetUp::default() }, response, false).await;
        assert_eq!(got, format!("{hints}{last}"));
        assert_eq!(over.traffic.received, got.len() as u64);
        assert!(over.answered().keeps_upstream);
    }
    let old = SetUp { client: Version::Http10, ..SetUp::default() };
    let (_, got) = answer(old, response, false).await;
    assert_eq!(
        got, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        "1.0 knows none"
    );
}

#[tokio::test(start_paused = true)]
async fn h11_a_100_continue_brings_the_body() {
    for seals in [false, true] {
        let down = Pace { seals, ..Pace::pipe(8) };
        let (over, ()) = SetUp { down, ..SetUp::post(BodyFraming::Length(4)) }
            .run(async |mut client, mut upstream| {
                upstream.expect(REQUEST).await;
                upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                client.expect(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                client.send(b"body").await;
                upstream.expect(b"body").await;
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                read_head(&mut client).await;
            })
            .await;
        assert_eq!(over.took, Duration::ZERO);
        assert!(over.answered().keeps_downstream);
    }
}

#[tokio::test(start_paused = true)]
async fn w11_too_many_interim_responses_are_a_fault() {
    let many = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    let (over, _) = answer(SetUp::default(), &many, false).await;
    assert!(matches!(over.refusal(), Refusal::BadResponse(UpstreamFault::Interim)));
    assert!(!over.may_send_again);
}

#[tokio::test(start_paused = true)]
async fn s2_malformed_and_oversized_heads_are_faults() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(5000));
    let cases = [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        &long,
    ];
    for response in cases {
        let response_limits = HeadLimits { bytes: 4096, ..HeadLimits::default() };
        let set_up = SetUp { response_limits, ..SetUp::default() };
        let (over, got) = answer(set_up, response.as_bytes(), false).await;
        assert_eq!((over.label(), over.status, got.as_str()), ("bad_response", None, ""), "{response}");
        assert!(!over.may_send_again);
    }
}

#[tokio::test(start_paused = true)]
async fn a_101_is_a_final_head_and_what_follows_it_is_left() {
    let set_up = SetUp { kind: Kind::Handshake, down_tail: b"early".to_vec(), ..SetUp::default() };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            client.send(b" frames").await;
            upstream.expect(REQUEST).await;
            upstream.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\nframe").await;
            // W7: nothing more came.
            upstream.expect_end(b"").await;
            client.expect_end(b"").await;
        })
        .await;
    assert_eq!(over.head.as_ref().map(|head| head.status), Some(101));
    assert_eq!(over.up_tail, b"frame");
    assert!(over.down_tail.starts_with(b"early"));
    assert!(matches!(over.result, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn w12_a_101_that_comes_early_does_not_lose_the_rest_of_the_offer() {
    let set_up = SetUp { kind: Kind::Handshake, up: Pace::pipe(3), ..SetUp::default() };
    let (over, ()) = set_up
        .run(async |client, mut upstream| {
            // The pipe back holds as little, so the answer goes out while the offer still waits.
            upstream.expect(&REQUEST[..1]).await;
            upstream.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
            upstream.expect(&REQUEST[1..]).await;
            upstream.expect_end(b"").await;
            drop(client);
        })
        .await;
    assert_eq!(over.head.as_ref().map(|head| head.status), Some(101));
    assert!(matches!(over.result, Ok(None)));
    assert_eq!(over.traffic.sent, REQUEST.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn w7_early_bytes_are_bounded_and_wait() {
    let set_up = SetUp { kind: Kind::Handshake, ..SetUp::default() };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            client.send(&b"f".repeat(10_000)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
            upstream.expect_end(b"").await;
            read_head(&mut client).await;
        })
        .await;
    assert_eq!(over.down_tail, b"f".repeat(EARLY));
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_by_the_rules() {
    // The answer's head, its body, whether the client wants to go on; and which connection is kept.
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let cases = [
        (plain.to_owned(), true, (true, true)),
        (plain.to_owned(), false, (false, true)),
        (plain.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), true, (true, false)),
        (plain.replace("1.1", "1.0"), true, (true, false)),
        (
            plain.replace("1.1", "1.0").replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"),
            true,
            (true, true),
        ),
        (format!("{plain}surplus"), true, (true, false)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n".to_owned(), true, (true, false)),
    ];
    for (response, keep_alive, kept) in cases {
        let (over, got) = answer(SetUp { keep_alive, ..SetUp::default() }, response.as_bytes(), false).await;
        assert_eq!(got.contains("Connection: close\r\n"), !kept.0, "{response}");
        let answered = over.answered();
        assert_eq!((answered.keeps_downstream, answered.keeps_upstream), kept, "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn h14_keep_alive_timeouts_are_read() {
    let cases = [
        ("timeout=5", Some(4)),
        ("max=100, Timeout = 30", Some(29)),
        ("timeout=0", Some(0)),
        ("timeout=1", Some(0)),
        ("timeout=x", None),
        ("timeout=-1", None),
        ("max=5", None),
        ("timeout", None),
        ("timeout=99999999999999999999999", None),
    ];
    for (value, seconds) in cases {
        let response = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\nContent-Length: 0\r\n\r\n");
        let (over, got) = answer(SetUp::default(), response.as_bytes(), false).await;
        assert!(!got.contains("Keep-Alive"));
        assert_eq!(over.answered().max_idle, seconds.map(Duration::from_secs), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn s1_a_response_head_byte_by_byte_is_no_more_work_than_at_once() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "a".repeat(30_000));
    let before = work::looked();
    let set_up = SetUp { up: Pace { read: 1, ..Pace::FAST }, ..SetUp::default() };
    let (over, _) = answer(set_up, head.as_bytes(), false).await;
    assert_eq!(over.answered().status, 200);
    let looked = work::looked() - before;
    assert!(looked <= work::bound(head.len()), "{looked}");
}
