use std::io::ErrorKind;

use super::*;

const LENGTH: BodyFraming = BodyFraming::Length(1000);

#[tokio::test(start_paused = true)]
async fn h14_what_may_be_sent_again() {
    let body = Kind::Plain { framing: LENGTH };
    // The method, the kind of request, how much of its body comes; and what is allowed.
    let cases = [
        (Method::GET, PLAIN, 0, true),
        (Method::PUT, PLAIN, 0, true),
        (Method::DELETE, PLAIN, 0, true),
        (Method::POST, PLAIN, 0, false),
        (Method::PATCH, PLAIN, 0, false),
        (Method::GET, Kind::Handshake, 0, false),
        (Method::PUT, body, 0, true),
        (Method::PUT, body, 10, false),
        (Method::POST, body, 0, false),
    ];
    for (method, kind, comes, allowed) in cases {
        let set_up = SetUp { method: method.clone(), kind, ..SetUp::default() };
        let (over, _client) = set_up
            .run(async |mut client, mut upstream| {
                client.send(&vec![b'x'; comes]).await;
                let mut got = vec![0; REQUEST.len() + comes];
                upstream.pipe.read_exact(&mut got).await.expect("the request");
                drop(upstream);
                client
            })
            .await;
        assert_eq!(over.label(), "upstream_closed");
        assert_eq!(over.may_send_again, allowed, "{method:?} {kind:?} {comes}");
    }
}

#[tokio::test(start_paused = true)]
async fn h14_where_nothing_was_sent_any_method_may_be_sent_again() {
    for (method, kind) in [(Method::POST, PLAIN), (Method::GET, Kind::Handshake), (Method::GET, PLAIN)] {
        let set_up = SetUp { method, kind, ..SetUp::default() };
        let (over, _client) = set_up
            .run(async |client, mut upstream| {
                upstream.refuse_writes(ErrorKind::BrokenPipe);
                upstream.finish().await;
                client
            })
            .await;
        assert_eq!((over.label(), over.traffic.sent), ("upstream_closed", 0));
        assert!(over.may_send_again);
    }
}

#[tokio::test(start_paused = true)]
async fn h14_after_the_first_answer_byte_nothing_is_sent_again() {
    for (said, label) in [
        ("H", "bad_response"),
        ("HTTP/1.1 200 OK\r\n", "bad_response"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "upstream_closed"),
    ] {
        let (over, _) = answer(SetUp::default(), said.as_bytes(), true).await;
        assert_eq!((over.label(), over.may_send_again, over.status), (label, false, None), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_resets_is_closed_early() {
    let (over, _client) = SetUp::default()
        .run(async |client, mut upstream| {
            upstream.expect(REQUEST).await;
            upstream.reset().await;
            client
        })
        .await;
    assert!(matches!(over.refusal(), Refusal::UpstreamClosed(Some(_))));
    assert!(over.may_send_again);
}

#[tokio::test(start_paused = true)]
async fn h11_an_early_answer_closes_the_connection_after_it() {
    for more in [0, 100] {
        let (over, ()) = SetUp::post(LENGTH)
            .run(async |mut client, mut upstream| {
                client.send(&vec![b'x'; more]).await;
                upstream.expect(REQUEST).await;
                upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
                let head = read_head(&mut client).await;
                assert!(head.contains("Connection: close\r\n"));
                client.expect_end(b"no").await;
            })
            .await;
        let answered = over.answered();
        assert!(!answered.keeps_downstream && !answered.keeps_upstream);
    }
}

#[tokio::test(start_paused = true)]
async fn h11_the_body_goes_on_while_an_early_answer_is_relayed() {
    let (over, ()) = SetUp::post(BodyFraming::Length(10))
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
            read_head(&mut client).await;
            for _ in 0..10 {
                client.send(b"x").await;
                upstream.expect(b"x").await;
                upstream.send(b"y").await;
                client.expect(b"y").await;
            }
        })
        .await;
    let answered = over.answered();
    assert!(!answered.keeps_downstream, "the head said so");
    assert!(answered.keeps_upstream, "it was read to its end");
}

#[tokio::test(start_paused = true)]
async fn b6_an_upstream_that_takes_no_body_may_have_answered() {
    let (over, ()) = SetUp::post(LENGTH)
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
            upstream.refuse_writes(ErrorKind::ConnectionReset);
            upstream.finish().await;
            client.send(&[b'x'; 500]).await;
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 413 ") && head.contains("Connection: close\r\n"));
            client.expect_end(b"no").await;
        })
        .await;
    let answered = over.answered();
    assert!(!answered.keeps_downstream && !answered.keeps_upstream);
}

#[tokio::test(start_paused = true)]
async fn b4_a_client_that_leaves_before_the_answer_ends_the_exchange() {
    for kind in [PLAIN, Kind::Handshake] {
        let (over, ()) = SetUp { kind, ..SetUp::default() }
            .run(async |client, mut upstream| {
                upstream.expect(REQUEST).await;
                drop(client);
                upstream.expect_end(b"").await;
            })
            .await;
        assert!(matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Response, source: None }));
        assert_eq!(over.took, Duration::ZERO);
    }
    let (over, ()) = SetUp::default()
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            client.reset().await;
            upstream.expect_end(b"").await;
        })
        .await;
    assert!(matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Response, source: Some(_) }));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_within_its_body_ends_the_exchange() {
    for (framing, part) in
        [(LENGTH, &b"xxx"[..]), (BodyFraming::Chunked, b"5\r\nhe"), (BodyFraming::Chunked, b"1\r\na\r\n")]
    {
        for resets in [false, true] {
            let (over, got) = SetUp::post(framing)
                .run(async |mut client, mut upstream| {
                    client.send(part).await;
                    if resets {
                        client.reset().await;
                    } else {
                        client.finish().await;
                    }
                    upstream.rest().await
                })
                .await;
            assert_eq!(over.label(), "downstream_gone");
            assert!(
                matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Exchange, source } if source.is_some() == resets)
            );
            assert!(!got.ends_with(b"0\r\n\r\n"), "it must not look whole");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_refuses_the_answer_is_gone() {
    let (over, ()) = SetUp::default()
        .run(async |client, mut upstream| {
            upstream.expect(REQUEST).await;
            client.refuse_writes(ErrorKind::ConnectionReset);
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            upstream.expect_end(b"").await;
        })
        .await;
    assert!(matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Exchange, source: Some(_) }));

    let (over, ()) = SetUp::default()
        .run(async |client, mut upstream| {
            upstream.expect(REQUEST).await;
            client.refuse_writes(ErrorKind::ConnectionReset);
            upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n").await;
            upstream.expect_end(b"").await;
        })
        .await;
    assert!(matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Response, source: Some(_) }));
}

#[tokio::test(start_paused = true)]
async fn h15_a_client_that_leaves_a_quiet_stream_is_noticed_at_once() {
    let (over, ()) = SetUp::default()
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
            read_head(&mut client).await;
            client.expect(b"data: 1\n\n").await;
            drop(client);
            upstream.expect_end(b"").await;
        })
        .await;
    assert!(matches!(over.refusal(), Refusal::DownstreamGone { phase: Phase::Exchange, source: None }));
    assert_eq!(over.took, Duration::ZERO);
}
