use std::cell::Cell;

use super::*;

const PACES: [Pace; 4] =
    [Pace::FAST, Pace::SLOW, Pace { read: 1, ..Pace::FAST }, Pace { seals: true, ..Pace::pipe(7) }];

fn every_pace() -> impl Iterator<Item = SetUp> {
    PACES.into_iter().flat_map(|down| PACES.map(|up| SetUp { down, up, ..SetUp::default() }))
}

#[tokio::test(start_paused = true)]
async fn h10_a_body_with_a_length_arrives_at_any_pace_and_both_connections_are_kept() {
    for set_up in every_pace() {
        let (over, got) =
            answer(set_up, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", false).await;
        assert_eq!(got, "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(over.traffic, Traffic { sent: REQUEST.len() as u64, received: got.len() as u64 });
        assert_eq!(over.status, Some(200));
        let answered = over.answered();
        assert!(answered.keeps_downstream && answered.keeps_upstream);
        assert_eq!((answered.status, answered.max_idle), (200, None));
    }
}

#[tokio::test(start_paused = true)]
async fn h4_chunks_are_rebuilt_without_extensions_and_with_the_trailers_that_may_pass() {
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\nhello\r\n6;z\r\n world\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n";
    for takes_trailers in [false, true] {
        for set_up in every_pace() {
            let (over, got) = answer(SetUp { takes_trailers, ..set_up }, response, false).await;
            let (_, body) = got.split_once("\r\n\r\n").expect("a head");
            assert_eq!(
                unchunk(body),
                ("hello world", if takes_trailers { "X-Sum: 1\r\n" } else { "" }).own()
            );
            assert!(over.answered().keeps_upstream);
        }
    }
}

trait Own {
    fn own(self) -> (String, String);
}

impl Own for (&str, &str) {
    fn own(self) -> (String, String) {
        (self.0.to_owned(), self.1.to_owned())
    }
}

/// The data and the trailers of a chunked body.
fn unchunk(mut body: &str) -> (String, String) {
    let mut data = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").expect("a size line");
        let size = usize::from_str_radix(size, 16).expect("no extension");
        if size == 0 {
            return (data, rest.strip_suffix("\r\n").expect("an end").to_owned());
        }
        data.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").expect("a CRLF");
    }
}

#[tokio::test(start_paused = true)]
async fn h10_a_client_of_1_0_gets_no_chunks() {
    let response =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n";
    let set_up = SetUp { client: Version::Http10, takes_trailers: true, ..SetUp::default() };
    let (over, got) = answer(set_up, response, false).await;
    assert_eq!(got, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde");
    let answered = over.answered();
    assert!(!answered.keeps_downstream && answered.keeps_upstream);
}

#[tokio::test(start_paused = true)]
async fn h10_a_body_without_a_length_is_relayed_until_its_end() {
    for set_up in every_pace() {
        let (over, got) = answer(set_up, b"HTTP/1.1 200 OK\r\n\r\nall there is", true).await;
        assert_eq!(got, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall there is");
        let answered = over.answered();
        assert!(!answered.keeps_downstream && !answered.keeps_upstream);
    }
}

#[tokio::test(start_paused = true)]
async fn h10_answers_without_a_body_end_with_their_head() {
    let cases = [
        (Method::HEAD, "200 OK", "Content-Length: 7\r\n", "Content-Length: 7\r\n"),
        (Method::HEAD, "200 OK", "Transfer-Encoding: chunked\r\n", ""),
        (Method::GET, "204 No Content", "", ""),
        (Method::GET, "304 Not Modified", "Content-Length: 7\r\n", "Content-Length: 7\r\n"),
        (Method::GET, "200 OK", "Content-Length: 0\r\n", "Content-Length: 0\r\n"),
    ];
    for (method, status, said, told) in cases {
        let response = format!("HTTP/1.1 {status}\r\n{said}\r\n");
        let (over, got) = answer(SetUp { method, ..SetUp::default() }, response.as_bytes(), false).await;
        assert_eq!(got, format!("HTTP/1.1 {status}\r\n{told}\r\n"));
        let answered = over.answered();
        assert!(answered.keeps_downstream && answered.keeps_upstream, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn h11_a_request_body_streams_upstream_as_it_comes() {
    for (framing, sent, arrives) in [
        (BodyFraming::Length(11), "hello world", "hello world"),
        (
            BodyFraming::Chunked,
            "5;x\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n",
            "5\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n",
        ),
    ] {
        let (over, ()) = SetUp::post(framing)
            .run(async |mut client, mut upstream| {
                upstream.expect(REQUEST).await;
                client.send(&sent.as_bytes()[..sent.len() - 4]).await;
                upstream.expect(&arrives.as_bytes()[..5]).await;
                client.send(&sent.as_bytes()[sent.len() - 4..]).await;
                upstream.expect(&arrives.as_bytes()[5..]).await;
                upstream.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
                client.expect_end(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
            })
            .await;
        assert_eq!(over.traffic.sent, (REQUEST.len() + arrives.len()) as u64);
        let answered = over.answered();
        assert!(answered.keeps_downstream && answered.keeps_upstream);
    }
}

#[tokio::test(start_paused = true)]
async fn h11_a_request_body_is_not_buffered() {
    let set_up =
        SetUp { up: Pace::pipe(100), down: Pace::pipe(1000), ..SetUp::post(BodyFraming::Length(1 << 20)) };
    set_up
        .run(async |mut client, mut upstream| {
            let body = vec![b'x'; 1 << 20];
            let mut sent = 0;
            let wait = Duration::from_secs(1);
            while let Ok(count) =
                tokio::time::timeout(wait, tokio::io::AsyncWriteExt::write(&mut client.pipe, &body[sent..]))
                    .await
            {
                sent += count.expect("a pipe");
            }
            assert!(sent <= 2 * crate::buffered::SCRATCH, "{sent} bytes were taken");
            upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
            let head = read_head(&mut client).await;
            assert!(head.contains("Connection: close\r\n"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn h11_a_body_in_one_segment_with_its_head_goes_first() {
    for pace in PACES {
        let set_up =
            SetUp { down_tail: b"hello wor".to_vec(), up: pace, ..SetUp::post(BodyFraming::Length(11)) };
        let (over, ()) = set_up
            .run(async |mut client, mut upstream| {
                client.send(b"ldGET /next").await;
                upstream.expect(&[REQUEST, b"hello world"].concat()).await;
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                read_head(&mut client).await;
            })
            .await;
        assert_eq!(over.down_tail, b"GET /next", "what follows is the next request's");
    }
}

#[tokio::test(start_paused = true)]
async fn h12_pipelined_requests_wait_in_the_tail() {
    let set_up = SetUp { down_tail: b"GET /2 HTTP/1.1\r\n".to_vec(), ..SetUp::default() };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            client.send(&b"x".repeat(1000)).await;
            upstream.expect(REQUEST).await;
            tokio::task::yield_now().await;
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            read_head(&mut client).await;
            upstream.expect_end(b"").await;
        })
        .await;
    assert!(over.down_tail.starts_with(b"GET /2 HTTP/1.1\r\nxxx"));
    assert!(over.down_tail.len() <= EARLY, "within bounds");
    assert!(over.answered().keeps_downstream);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_refused() {
    let set_up = SetUp { body_limit: Some(10), ..SetUp::post(BodyFraming::Chunked) };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            client.send(b"6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n").await;
            assert!(!upstream.rest().await.ends_with(b"0\r\n\r\n"), "it must not look whole");
        })
        .await;
    assert_eq!(over.label(), "body_too_large");

    for (framing, body) in [
        (BodyFraming::Length(10), &b"abcdefghij"[..]),
        (BodyFraming::Chunked, b"a\r\nabcdefghij\r\n0\r\n\r\n"),
    ] {
        let set_up = SetUp { body_limit: Some(10), ..SetUp::post(framing) };
        let (over, ()) = set_up
            .run(async |mut client, mut upstream| {
                client.send(body).await;
                upstream.expect(&[REQUEST, body].concat()).await;
                upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                read_head(&mut client).await;
            })
            .await;
        assert_eq!(over.answered().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn h4_malformed_request_chunks_end_the_request() {
    for body in ["x\r\n", "5\r\nhelloX", "ffffffffffffffffff\r\n", "0\r\nbad trailer\r\n\r\n"] {
        let (over, got) = SetUp::post(BodyFraming::Chunked)
            .run(async |mut client, mut upstream| {
                client.send(body.as_bytes()).await;
                upstream.rest().await
            })
            .await;
        assert_eq!(over.label(), "ambiguous_framing");
        assert_eq!((over.status, over.refusal().status()), (None, Some(400)));
        assert!(!got.ends_with(b"0\r\n\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn b6_a_response_that_is_cut_short_is_no_answer() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "hello", "upstream_closed"),
        (chunked, "5\r\nhello\r\n", "upstream_closed"),
        (chunked, "5\r\nhel", "upstream_closed"),
        (chunked, "hello\r\n", "bad_response"),
        (chunked, "5\r\nhelloworld", "bad_response"),
    ];
    for (head, body, label) in cases {
        let (over, got) = SetUp::default()
            .run(async |mut client, mut upstream| {
                upstream.send(head.as_bytes()).await;
                read_head(&mut client).await;
                upstream.send(body.as_bytes()).await;
                upstream.finish().await;
                client.rest().await
            })
            .await;
        assert_eq!((over.label(), over.status), (label, Some(200)), "{body}");
        assert!(!over.may_send_again && !got.ends_with(b"0\r\n\r\n"));
    }
    // Before a byte of the answer has gone out it can still be another one.
    let (over, got) = answer(SetUp::default(), format!("{chunked}hello\r\n").as_bytes(), true).await;
    assert_eq!((over.label(), over.status, got.as_str()), ("bad_response", None, ""));
}

#[tokio::test]
async fn h11_a_client_that_always_has_more_does_not_hold_an_early_answer_up() {
    let trickle = Pace { read: 1, ..Pace::FAST };
    let set_up = SetUp { down: trickle, ..SetUp::post(BodyFraming::Length(100_000)) };
    let (over, ()) = set_up
        .run(async |mut client, mut upstream| {
            client.send(&vec![b'x'; 100_000]).await;
            upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
            let (_client, _upstream) = tokio::join!(client.rest(), upstream.rest());
        })
        .await;
    assert_eq!(over.status, Some(413));
    assert!(over.traffic.sent < 1000, "{:?}", over.traffic);
}

#[tokio::test]
async fn h11_a_server_that_always_has_more_does_not_hold_the_rest_of_a_request_up() {
    let trickle = Pace { read: 1, ..Pace::FAST };
    let set_up = SetUp { up: trickle, ..SetUp::post(BodyFraming::Length(10)) };
    let read = Cell::new(0);
    let (over, read_before) = set_up
        .run(async |mut client, mut upstream| {
            client.send(b"begun").await;
            upstream.expect([REQUEST, b"begun"].concat().as_slice()).await;
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await;
            upstream.send(&vec![b'x'; 100_000]).await;
            let downloads = async {
                read_head(&mut client).await;
                client.send(b"ended").await;
                while let count @ 1.. = client.pipe.read(&mut [0; 1024]).await.expect("more") {
                    read.set(read.get() + count);
                }
            };
            let uploads = async {
                upstream.expect(b"ended").await;
                (read.get(), upstream)
            };
            let ((), (read_before, _upstream)) = tokio::join!(downloads, uploads);
            read_before
        })
        .await;
    assert_eq!((over.status, read.get()), (Some(200), 100_000));
    assert!(read_before < 10_000, "{read_before}");
}
