//! Plain HTTP through the gate: rules H1 to H15.

use std::{fmt::Write, time::Duration};

use wsgate::telemetry::Kind;

use crate::harness::{Backend, Gate, Head, HttpBackend, Setup, get, ok, pki::Pki};

/// The head that the backend gets for this request.
async fn forwarded(setup: impl Fn(Setup) -> Setup, request: &str) -> (Head, Gate, HttpBackend) {
    let backend = HttpBackend::start().await;
    let gate = setup(Setup::to(backend.address())).start();
    let mut client = gate.ask(request).await;
    assert_eq!(client.read_response().await.status(), 200, "{request}");
    (backend.last(), gate, backend)
}

fn as_is(setup: Setup) -> Setup {
    setup
}

#[tokio::test]
async fn h3_h8_host_goes_upstream_as_the_route_says() {
    let request = "GET /a HTTP/1.1\r\nHost: Chat_1.Example.:8080\r\n\r\n";
    let (head, ..) = forwarded(as_is, request).await;
    assert!(head.has_line("Host", "Chat_1.Example.:8080"), "{head:?}");
    let (head, _, backend) = forwarded(|setup| setup.route("host_header = \"upstream\""), request).await;
    assert_eq!(head.get("host"), Some(backend.address().as_str()));
    let (head, ..) = forwarded(|setup| setup.route("host_header = \"app.internal\""), request).await;
    assert_eq!(head.get("host"), Some("app.internal"));
    // Absolute form agrees with Host, and goes on in origin form.
    let (head, ..) = forwarded(as_is, "GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert_eq!((head.target(), head.get("host")), ("/x?y", Some("a.example")));
    // HTTP/1.0 without Host.
    let (head, _, backend) = forwarded(as_is, "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(head.get("host"), Some(backend.address().as_str()));
    assert!(head.start.ends_with(" HTTP/1.1"));
    let (head, ..) = forwarded(as_is, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(head.target(), "*");
}

#[tokio::test]
async fn h5_hop_by_hop_headers_stay_and_cannot_take_others_along() {
    let lines = "Connection: keep-alive, X-Mine, X-Forwarded-For, Host, Cookie\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nTrailer: X\r\nProxy-Authorization: Basic x\r\n\
        Cookie: a=b\r\nX-Other: 2\r\n";
    let (head, ..) = forwarded(as_is, &get("/", lines)).await;
    for gone in
        ["x-mine", "keep-alive", "proxy-connection", "trailer", "proxy-authorization", "transfer-encoding"]
    {
        assert!(!head.has(gone), "{gone}: {head:?}");
    }
    assert_eq!((head.get("cookie"), head.get("x-other")), (Some("a=b"), Some("2")));
    assert_eq!((head.get("x-forwarded-for"), head.get("host")), (Some("127.0.0.1"), Some("test.example")));
    assert!(head.all("te").iter().all(|value| *value == "trailers"));
}

#[tokio::test]
async fn h5_hop_by_hop_headers_of_the_answer_stay_too() {
    let backend = Backend::listen().await.serve_http(|_, _| {
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=9\r\nServer: s\r\n\
         Upgrade: h2c\r\nX-Other: 2\r\nContent-Length: 0\r\n\r\n"
            .into()
    });
    let gate = Setup::to(backend.address()).start();
    let head = gate.ask(get("/", "")).await.read_response().await.head;
    for gone in ["x-mine", "keep-alive", "upgrade"] {
        assert!(!head.has(gone), "{gone}: {head:?}");
    }
    assert_eq!((head.get("server"), head.get("x-other")), (Some("s"), Some("2")));
}

#[tokio::test]
async fn h6_underscore_headers_are_dropped_or_pass_and_aliases_never() {
    let lines = "X_Custom: 1\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 5\r\nX-Custom: 2\r\n";
    let (head, ..) = forwarded(as_is, &get("/", lines)).await;
    assert!(head.lines.iter().all(|(name, _)| !name.contains('_')), "{head:?}");
    assert_eq!(head.get("x-custom"), Some("2"));
    let pass = |setup: Setup| setup.listener("underscore_headers = \"pass\"");
    let (head, ..) = forwarded(pass, &get("/", lines)).await;
    assert_eq!(head.get("x_custom"), Some("1"));
    assert!(!head.has("x_forwarded_for") && !head.has("content_length"), "{head:?}");
}

#[tokio::test]
async fn h7_forwarding_headers_are_rebuilt_and_nobody_is_believed() {
    let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
        X-Forwarded-Anything: x\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: mine\r\n";
    let (head, gate, _backend) = forwarded(as_is, &get("/", lines)).await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("test.example"));
    assert_eq!(head.get("x-forwarded-port"), Some(gate.address().port().to_string().as_str()));
    assert!(head.get("forwarded").unwrap().starts_with("for=127.0.0.1;proto=http;host=test.example"));
    assert!(!head.has("x-forwarded-anything"));
    let record = gate.record(|_| true).await;
    assert_eq!(head.get("x-request-id"), Some(&*record.request_id));

    let pki = Pki::new();
    let (head, ..) = forwarded(|setup| setup.tls(&pki, ""), &get("/", lines)).await;
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn h9_paths_arrive_byte_by_byte_and_strip_prefix_leaves_one_slash() {
    for path in ["/a%20b/%C3%A9?x=%2F&y=a+b&&z", "/a//b", "/a%2Fb/c", "/%7euser/;p=1?", "/?", "//x"] {
        let (head, ..) = forwarded(as_is, &get(path, "")).await;
        assert_eq!(head.target(), path);
    }
    let strip = |setup: Setup| setup.route("path = \"/api/*\"\nstrip_prefix = \"/api\"");
    for (path, expected) in [
        ("/api/x?y=/api/", "/x?y=/api/"),
        ("/api", "/"),
        ("/api?q", "/?q"),
        ("/api/", "/"),
        ("/%61pi//x%20", "/x%20"),
    ] {
        let (head, ..) = forwarded(strip, &get(path, "")).await;
        assert_eq!(head.target(), expected, "{path}");
    }
}

#[tokio::test]
async fn h10_answers_without_a_body_keep_their_length_and_the_connection() {
    let backend = Backend::listen().await.serve_http(|head, _| match head.target() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"a\"\r\n\r\n".into(),
        _ if head.start.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 123456\r\n\r\n".into(),
        _ => ok("body"),
    });
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("123456")),
        ("HEAD", "/chunks", 200, None),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("77")),
        ("GET", "/", 200, Some("4")),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.read_response_to(method).await;
        assert_eq!((answer.status(), answer.head.get("content-length")), (status, length), "{method} {path}");
    }
    assert_eq!(backend.accepted(), 1, "one connection for all of them");
}

#[tokio::test]
async fn h10_a_body_without_length_is_relayed_until_close() {
    let backend = Backend::listen().await.serve(|mut peer| async move {
        peer.read_head().await;
        peer.send("HTTP/1.1 200 OK\r\n\r\nall to the end").await;
    });
    let gate = Setup::to(backend.address()).start();
    for request in [get("/", ""), "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into()] {
        let mut client = gate.ask(request).await;
        let answer = client.read_response().await;
        assert!(!answer.head.has("transfer-encoding") && !answer.head.has("content-length"));
        assert!(answer.head.has_token("connection", "close"));
        assert_eq!(answer.text(), "all to the end");
    }
}

#[tokio::test]
async fn b6_a_body_without_length_that_breaks_is_a_reset() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\n\r\nhalf").await;
    client.read_head().await;
    client.expect("half").await;
    server.reset();
    assert!(client.expect_reset().await.is_empty());
}

#[tokio::test]
async fn b6_a_body_without_length_that_a_shutdown_cuts_is_a_reset() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client = gate.ask(get("/", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send("HTTP/1.1 200 OK\r\n\r\nhalf").await;
        client.read_head().await;
        client.expect("half").await;
        gate.shutdown();
        assert!(client.expect_reset().await.is_empty());
        let record = gate.record_of(Kind::Exchange).await;
        assert_eq!((record.ending, record.phase), (Some("drain_timeout"), Some("response")));
    }
}

#[tokio::test]
async fn h10_a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_if_it_asks() {
    let backend = Backend::listen().await.serve_http(|head, _| match head.target() {
        "/chunks" => {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".into()
        }
        _ => ok("hello"),
    });
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("GET /chunks HTTP/1.0\r\n\r\n").await;
    let answer = client.read_response().await;
    assert!(!answer.head.has("transfer-encoding"));
    assert_eq!(answer.text(), "abcde");

    let mut client = gate.client().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = client.read_response().await;
        assert!(answer.head.has_token("connection", "keep-alive"));
        assert_eq!(answer.text(), "hello");
    }
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "hello");
    client.expect_end().await;
}

#[tokio::test]
async fn h4_chunks_both_ways_without_extensions_and_with_the_trailers_that_may_pass() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let lines = "Transfer-Encoding: Chunked\r\nTE: trailers\r\n";
    let request = get("/", lines).replacen("GET", "POST", 1);
    let mut client = gate.ask(&request).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    assert_eq!((head.get("transfer-encoding"), head.get("content-length")), (Some("chunked"), None));
    client.send("4;ext=\"a\"\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n").await;
    assert_eq!(server.read_body(&head).await, b"wikipedia");
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    server.send("A;x\r\n0123456789\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n").await;
    let head = client.read_head().await;
    assert!(head.has_token("transfer-encoding", "chunked"));
    client.expect("a\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    // The connection is good for another one, without trailers for who does not ask.
    client.send(get("/", "")).await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    client.read_head().await;
    client.expect("1\r\na\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn h11_expect_100_continue_passes_both_ways() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let lines = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut client = gate.ask(get("/", lines).replacen("GET", "PUT", 1)).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_head().await.get("expect"), Some("100-continue"));
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.read_head().await.status(), 100);
    client.send("hello").await;
    server.expect("hello").await;
    server.send(ok("thanks")).await;
    assert_eq!(client.read_response().await.text(), "thanks");

    // Refused without the body: nothing more is read from either connection.
    client.send(get("/", lines).replacen("GET", "PUT", 1)).await;
    server.read_head().await;
    server.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 417);
    assert!(answer.head.has_token("connection", "close"));
    client.expect_end().await;
    server.expect_gone().await;
}

#[tokio::test]
async fn h11_b6_an_answer_before_the_end_of_the_body_arrives_whole() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop").await;
    drop(server);
    let answer = client.read_response().await;
    assert_eq!((answer.status(), answer.text()), (413, "stop"));
    assert!(answer.head.has_token("connection", "close"));
    client.expect_end().await;
}

#[tokio::test]
async fn h11_bodies_stream_and_are_not_gathered() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    for piece in ["first", "later", "final"] {
        client.send(piece).await;
        server.expect(piece).await;
    }
    // A backend that does not read stops the client.
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    let most = 24 * 1024 * 1024;
    let taken = client.fill(&vec![b'a'; 65_536], most).await;
    assert!(taken < most, "{taken} bytes are held");
}

#[tokio::test]
async fn sixteen_megabytes_both_ways_arrive_equal() {
    let mut body = String::with_capacity(16 * 1024 * 1024);
    for number in 0..2 * 1024 * 1024_u32 {
        write!(body, "{:08x}", number.wrapping_mul(2_654_435_761)).unwrap();
    }
    assert_eq!(body.len(), 16 * 1024 * 1024);
    let pki = Pki::new();
    for (tls, chunked) in [(false, false), (true, true)] {
        let backend = Backend::listen().await.serve_http(move |_, body| {
            let body = std::str::from_utf8(body).unwrap();
            if chunked {
                let half = body.len() / 2;
                let (one, two) = body.split_at(half);
                return format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{half:x}\r\n{one}\r\n{half:X}\r\n{two}\r\n0\r\n\r\n"
                );
            }
            ok(body)
        });
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client = gate.client().await;
        let request = if chunked {
            let length = body.len();
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            )
        } else {
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        client.send(request).await;
        let answer = client.read_response().await;
        assert!(answer.body == body.as_bytes(), "other bytes (chunked: {chunked})");
        let record = gate.record(|_| true).await;
        assert!(record.sent.unwrap() > 16_000_000 && record.received.unwrap() > 16_000_000);
    }
}

#[tokio::test]
async fn h12_pipelined_requests_are_answered_in_order() {
    let backend =
        Backend::listen().await.serve_http(|head, body| ok(&format!("{} {}", head.target(), body.len())));
    let gate = Setup::to(backend.address()).start();
    let post = "POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let all = [
        get("/one", ""),
        post.to_owned(),
        get("/three", ""),
        get("/four", "Connection: close\r\n"),
        get("/never", ""),
    ];
    let mut client = gate.ask(all.concat()).await;
    for expected in ["/one 0", "/two 3", "/three 0", "/four 0"] {
        assert_eq!(client.read_response().await.text(), expected);
    }
    client.expect_end().await;
    assert_eq!(backend.seen().len(), 4);
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn h12_five_hundred_requests_in_one_go() {
    let backend = Backend::listen().await.serve_http(|head, _| ok(head.target()));
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    let all: Vec<_> = (0..500).map(|number| get(&format!("/{number}"), "")).collect();
    client.send(all.concat()).await;
    for number in 0..500 {
        assert_eq!(client.read_response().await.text(), format!("/{number}"));
    }
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn keep_alive_downstream_is_a_choice_of_the_client_and_has_an_end() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener("timeout.keep_alive = \"200ms\"").start();
    let mut client = gate.ask(get("/", "")).await;
    assert!(!client.read_response().await.head.has_token("connection", "close"));
    // Quietly: there is nobody to be told.
    client.expect_end().await;
    assert_eq!(gate.records().len(), 1);
    let mut client = gate.ask(get("/", "Connection: close\r\n")).await;
    assert!(client.read_response().await.head.has_token("connection", "close"));
    client.expect_end().await;
}

#[tokio::test]
async fn h15_events_pass_at_once_and_a_quiet_stream_is_not_cut() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("response_body_timeout = \"300ms\"").start();
    let mut client = gate.ask(get("/events", "Accept: text/event-stream\r\n")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n").await;
    assert_eq!(client.read_head().await.get("content-type"), Some("text/event-stream; charset=utf-8"));
    for _ in 0..3 {
        server.send("data: 1\n\n").await;
        client.expect("data: 1\n\n").await;
    }
    // A plain answer that is quiet for as long is cut, which shows that the time has passed.
    let mut other = gate.ask(get("/", "")).await;
    let mut plain = backend.accept().await;
    plain.read_head().await;
    plain.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    other.read_head().await;
    other.expect("abc").await;
    other.expect_gone().await;
    let record = gate.record(|record| record.ending.is_some()).await;
    assert_eq!((record.ending, record.phase), (Some("response_timeout"), Some("exchange")));
    server.send("data: 2\n\n").await;
    client.expect("data: 2\n\n").await;
}

#[tokio::test]
async fn h15_b4_a_client_that_leaves_a_quiet_stream_is_noticed() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client = gate.ask(get("/events", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        client.read_head().await;
        client.expect("data: 1\n\n").await;
        drop(client);
        server.expect_gone().await;
        let record = gate.record(|record| record.ending.is_some()).await;
        assert_eq!((record.ending, record.ended_by), (Some("downstream_gone"), Some("downstream")));
        assert_eq!((record.status, record.phase), (Some(200), Some("exchange")));
        gate.at_rest().await;
    }
}

#[tokio::test]
async fn h11_a_body_goes_on_while_its_answer_comes() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(client.read_head().await.has_token("connection", "close"));
    for _ in 0..3 {
        client.send("4\r\nping\r\n").await;
        server.expect("4\r\nping\r\n").await;
        server.send("4\r\npong\r\n").await;
        client.expect("4\r\npong\r\n").await;
    }
    client.send("0\r\n\r\n").await;
    server.expect("0\r\n\r\n").await;
    server.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn h10_a_refusal_of_head_has_no_body_and_keeps_the_connection() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).route("path = \"/chat\"").start();
    let mut client = gate.client().await;
    for _ in 0..2 {
        client.send("HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.read_response_to("HEAD").await;
        assert_eq!((answer.status(), answer.head.get("content-length")), (404, Some("14")));
    }
    client.send(get("/chat", "")).await;
    assert_eq!(client.read_response().await.text(), "hello");
}

#[tokio::test]
async fn h12_a_chunked_request_and_the_next_one_in_one_segment() {
    let backend =
        Backend::listen().await.serve_http(|head, body| ok(&format!("{} {}", head.target(), body.len())));
    let gate = Setup::to(backend.address()).start();
    let chunked = "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for byte_by_byte in [false, true] {
        let mut client = gate.client().await;
        let both = [chunked, &get("/two", "")].concat();
        if byte_by_byte {
            client.dribble(both).await;
        } else {
            client.send(both).await;
        }
        assert_eq!(client.read_response().await.text(), "/one 3");
        assert_eq!(client.read_response().await.text(), "/two 0");
    }
}

#[tokio::test]
async fn h15_a_long_poll_is_answered_whenever_it_is() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/poll", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    tokio::time::timeout(Duration::from_millis(50), client.next_head()).await.expect_err("no answer yet");
    server.send(ok("now")).await;
    assert_eq!(client.read_response().await.text(), "now");
}

#[tokio::test]
async fn header_edits_via_and_what_a_route_may_change() {
    let edits = |setup: Setup| {
        setup.route(
            "via = \"edge\"\nrequest_headers = { set = { X-Api = \"1\" }, remove = [\"X-Secret\"] }\n\
             response_headers = { set = { X-Frame-Options = \"DENY\" }, remove = [\"Server\"] }",
        )
    };
    let backend = Backend::listen().await.serve_http(|_, _| {
        "HTTP/1.1 200 OK\r\nServer: x/1\r\nX-Frame-Options: ALLOW\r\nContent-Length: 0\r\n\r\n".into()
    });
    let gate = edits(Setup::to(backend.address())).start();
    let mut client = gate.ask(get("/", "X-Api: 2\r\nX_Api: 3\r\nX-Secret: s\r\n")).await;
    let answer = client.read_response().await.head;
    assert_eq!((answer.get("x-frame-options"), answer.has("server")), (Some("DENY"), false));
    assert_eq!(answer.get("via"), Some("1.1 edge"));
    let head = backend.last();
    assert_eq!((head.get("x-api"), head.has("x-secret"), head.has("x_api")), (Some("1"), false, false));
    assert_eq!(head.get("via"), Some("1.1 edge"));
}

#[tokio::test]
async fn redirect_and_respond_answer_by_themselves() {
    let gate = Gate::start(
        "[server]\nworkers = 1\ndrain_spread = \"0s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"r\"\npath = \"/old/*\"\nredirect = { to = \"https://{host}/new{path}\", status = 302 }\n\
         [[route]]\nname = \"gone\"\nrespond = { status = 410, body = \"not here\" }\n",
        None,
    );
    let mut client = gate.ask(get("/old/a?b=c", "")).await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.head.get("location"), Some("https://test.example/new/old/a?b=c"));
    client.send(get("/other", "")).await;
    let answer = client.read_response().await;
    assert_eq!((answer.status(), answer.text()), (410, "not here"));
    assert_eq!(answer.head.get("content-type"), Some("text/plain; charset=utf-8"));
    client.send("HEAD /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.read_response_to("HEAD").await;
    assert_eq!((answer.status(), answer.head.get("content-length")), (410, Some("8")));
    client.send(get("/last", "")).await;
    assert_eq!(client.read_response().await.status(), 410);
    // An offer is closed after whatever answers it.
    client.send(crate::harness::OFFER).await;
    assert_eq!(client.read_response().await.status(), 410);
    client.expect_end().await;
}

#[tokio::test]
async fn redirect_https_answers_every_request() {
    for (port, expected) in [(443, "https://test.example/a?b"), (8443, "https://test.example:8443/a?b")] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).listener(&format!("redirect_https = {port}")).start();
        let mut client = gate.ask("GET /a?b HTTP/1.1\r\nHost: test.example:80\r\n\r\n").await;
        let answer = client.read_response().await;
        assert_eq!((answer.status(), answer.head.get("location")), (308, Some(expected)));
        client.send(crate::harness::OFFER).await;
        assert_eq!(client.read_response().await.status(), 308);
        client.expect_end().await;
        backend.expect_untouched();
    }
}

#[tokio::test]
async fn routes_by_host_path_and_kind() {
    let one = Backend::listen().await.serve_http(|_, _| ok("one"));
    let two = Backend::listen().await.serve_http(|_, _| ok("two"));
    let gate = Setup::to(one.address())
        .more(&format!(
            "[upstream.other]\nservers = [\"{}\"]\n\
             [[route]]\nname = \"chat\"\nhost = [\"chat.example\", \"*.chat.example\"]\npath = [\"/exact\", \"/tree/*\"]\n\
             upstream = \"other\"\n",
            two.address()
        ))
        .start();
    let mut client = gate.client().await;
    for (host, path, expected) in [
        ("chat.example", "/exact", "two"),
        ("CHAT.example.:80", "/tree/x", "two"),
        ("a.chat.example", "/tree", "two"),
        ("a.chat.example", "//tree//x", "two"),
        ("chat.example", "/%65xact", "two"),
        ("chat.example", "/tree%2Fx", "one"),
        ("chat.example", "/exact/x", "one"),
        ("chat.example", "/treex", "one"),
        ("chat.example.com", "/exact", "one"),
        ("xchat.example", "/exact", "one"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.read_response().await.text(), expected, "{host} {path}");
    }
    let names: Vec<_> = gate.records().iter().filter_map(|record| record.route.clone()).collect();
    assert_eq!(names.iter().filter(|name| &***name == "chat").count(), 5);
}

#[tokio::test]
async fn s7_secrets_are_masked_in_access_records() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/ws?token=abc&room=1&jwt=x.y.z", "")).await;
    client.read_response().await;
    assert_eq!(backend.last().target(), "/ws?token=abc&room=1&jwt=x.y.z");
    let record = gate.record(|_| true).await;
    assert_eq!(&*record.target, "/ws?token=***&room=1&jwt=***");
}

#[tokio::test]
async fn access_records_of_good_exchanges_tell_what_was_done() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST /x HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 2\r\n\r\nhi").await;
    client.read_response().await;
    let record = gate.record(|_| true).await;
    assert_eq!((&*record.method, &*record.host, &*record.target), ("POST", "a.example", "/x"));
    assert_eq!((record.status, record.ending, record.ended_by), (Some(200), None, None));
    assert_eq!(record.endpoint.as_deref(), Some(backend.address().as_str()));
    assert_eq!(record.route.as_deref(), Some("main"));
    assert!(record.client.starts_with("127.0.0.1:") && record.duration.is_some());
    assert!(record.sent.unwrap() > 50 && record.received.unwrap() > 20);
}
