//! The opening handshake through the gate: rules W1 to W13.

use wsgate::telemetry::Kind;

use crate::harness::{AGREED, Backend, HttpBackend, OFFER, Setup, frames, get, offer_with, ok, pki::Pki};

/// An offer with these lines for Upgrade and Connection.
fn offer_saying(upgrade: &str) -> String {
    OFFER.replacen("Upgrade: websocket\r\nConnection: Upgrade\r\n", upgrade, 1)
}

#[tokio::test]
async fn w1_an_offer_in_every_spelling_becomes_a_tunnel() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for spelling in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "upgrade: WebSocket\r\nconnection: upgrade\r\n",
        "Upgrade: WEBSOCKET\r\nConnection: keep-alive, Upgrade\r\n",
        "Upgrade: h2c, websocket\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: UPGRADE\r\n",
        "Upgrade: ,websocket,\r\nConnection:\tUpgrade ,\r\n",
    ] {
        let mut client = gate.ask(offer_saying(spelling)).await;
        let mut server = backend.accept().await;
        let head = server.read_head().await;
        assert_eq!(head.get("upgrade"), Some("websocket"), "{spelling:?}");
        assert_eq!(head.get("connection"), Some("Upgrade"), "{spelling:?}");
        server.send(AGREED).await;
        let answer = client.read_head().await;
        assert_eq!(answer.status(), 101, "{spelling:?}");
        assert!(answer.has_line("Upgrade", "websocket") && answer.has_line("Connection", "Upgrade"));
        client.send(frames::client(frames::TEXT, "hello")).await;
        server.expect(frames::client(frames::TEXT, "hello")).await;
    }
}

#[tokio::test]
async fn w1_w5_w6_what_is_no_offer_goes_on_as_plain_http_without_its_upgrade() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let offer_of = |from: &str, to: &str| OFFER.replacen(from, to, 1);
    for request in [
        offer_saying("Upgrade: websocket\r\n"),
        offer_saying("Upgrade: websocket\r\nConnection: keep-alive\r\n"),
        offer_saying("Connection: Upgrade\r\n"),
        offer_saying(
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        offer_saying("Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"),
        offer_saying("Upgrade: websocket2\r\nConnection: Upgrade\r\n"),
        offer_of("GET", "POST").replacen("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi", 1),
        offer_of("GET", "HEAD"),
        offer_of("HTTP/1.1", "HTTP/1.0"),
    ] {
        let mut client = gate.ask(&request).await;
        let method = request.split(' ').next().unwrap();
        let answer = client.read_response_to(method).await;
        if method != "HEAD" {
            assert_eq!((answer.status(), answer.text()), (200, "hello"), "{request}");
        }
        let head = backend.last();
        assert!(!head.has("upgrade") && !head.has("http2-settings"), "{head:?}");
        assert!(!head.has_token("connection", "upgrade"), "{head:?}");
    }
}

#[tokio::test]
async fn w9_vectors_of_accept_through_the_gate() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for (key, accept) in [
        ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("w4v7O6xFTi36lq3RNcgctw==", "Oy4NRAQ13jhfONC7bP8dTKb4PTU="),
        ("MlRAR6bQZi07587UD4H8oA==", "iURIl3uIT+tsPMmZ0x1IVH7EL98="),
    ] {
        let mut client = gate.ask(OFFER.replacen("dGhlIHNhbXBsZSBub25jZQ==", key, 1)).await;
        let mut server = backend.accept().await;
        assert_eq!(server.read_head().await.get("sec-websocket-key"), Some(key));
        server.send(AGREED.replacen("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", accept, 1)).await;
        let answer = client.read_head().await;
        assert_eq!((answer.status(), answer.get("sec-websocket-accept")), (101, Some(accept)));
    }
}

#[tokio::test]
async fn w7_early_bytes_wait_for_the_101_and_arrive_once() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("limits.early_bytes = \"1KiB\"").start();
    // More than is held back: the rest waits in the kernel.
    let early: Vec<u8> = (0..200_u32)
        .flat_map(|number| frames::client(frames::BINARY, number.to_be_bytes().repeat(8)))
        .collect();
    let mut client = gate.client().await;
    client.send([OFFER.as_bytes(), &early].concat()).await;
    let mut server = backend.accept().await;
    // Had a byte of it gone upstream, it would stand behind the head, before what is sent now.
    server.read_head().await;
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    assert_eq!(client.read_head().await.status(), 103);
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    server.expect(&early).await;
    client.shutdown().await;
    server.expect_end().await;
}

#[tokio::test]
async fn w7_b2_early_bytes_never_reach_a_backend_that_refuses() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    client.send([OFFER.as_bytes(), &frames::client(frames::TEXT, "too early")].concat()).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.read_response().await;
    assert_eq!((answer.status(), answer.text()), (403, "no"));
    client.expect_end().await;
    server.expect_gone().await;
}

#[tokio::test]
async fn w7_no_byte_goes_upstream_while_the_answer_is_incomplete() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(&AGREED[..AGREED.len() - 2]).await;
    client.send(frames::client(frames::TEXT, "early")).await;
    drop(server);
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 502);
    client.expect_end().await;
}

#[tokio::test]
async fn w8_a_101_that_does_not_prove_the_offer_is_502() {
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let cases = [
        ("bad_accept", format!("{upgrade}Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n")),
        ("bad_accept", format!("{upgrade}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n")),
        ("bad_accept", upgrade.to_owned()),
        ("bad_accept", format!("{upgrade}{accept}{accept}")),
        ("bad_upgrade", format!("Connection: Upgrade\r\n{accept}")),
        ("bad_upgrade", format!("Upgrade: websocket\r\n{accept}")),
        ("bad_upgrade", format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{accept}")),
        ("bad_upgrade", format!("{upgrade}{accept}Sec-WebSocket-Protocol: never-offered\r\n")),
        ("bad_upgrade", format!("{upgrade}{accept}Sec-WebSocket-Protocol: Chat\r\n")),
        (
            "bad_upgrade",
            format!("{upgrade}{accept}Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n"),
        ),
        ("bad_upgrade", format!("{upgrade}{accept}Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\n")),
    ];
    for (label, lines) in cases {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let offer =
            offer_with("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n");
        let mut client = gate.ask(offer).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n")).await;
        let answer = client.read_response().await;
        assert_eq!(answer.status(), 502, "{lines}");
        assert!(!answer.head.has("upgrade"), "{lines}");
        client.expect_end().await;
        server.expect_gone().await;
        let record = gate.record_of(Kind::Exchange).await;
        assert_eq!((record.ending, record.status), (Some(label), Some(502)), "{lines}");
        assert!(record.error.is_some_and(|error| error.len() > 30), "{lines}");
    }
}

#[tokio::test]
async fn w8_verify_accept_false_skips_the_accept_alone() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.verify_accept = false").start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED.replacen("s3pP", "xxxx", 1)).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.send(frames::client(frames::TEXT, "a")).await;
    server.expect(frames::client(frames::TEXT, "a")).await;

    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED.replacen("Upgrade: websocket", "Upgrade: tcp", 1)).await;
    assert_eq!(client.read_response().await.status(), 502);
    server.expect_gone().await;
}

#[tokio::test]
async fn w10_b3_an_answer_other_than_101_goes_to_the_client_and_both_sides_close() {
    for (status, lines) in [
        ("200 OK", ""),
        ("200 OK", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        ("201 Created", ""),
        ("301 Moved Permanently", "Location: https://other.example/\r\n"),
        ("400 Bad Request", ""),
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"),
        ("403 Forbidden", "Set-Cookie: a=b\r\n"),
        ("426 Upgrade Required", "Sec-WebSocket-Version: 13, 8\r\n"),
        ("503 Service Unavailable", "Retry-After: 7\r\n"),
    ] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let mut client = gate.ask(OFFER).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(format!("HTTP/1.1 {status}\r\n{lines}Content-Length: 9\r\n\r\nbecause..")).await;
        let answer = client.read_response().await;
        assert_eq!(answer.head.start, format!("HTTP/1.1 {status}"));
        assert_eq!(answer.text(), "because..");
        assert!(answer.head.has_token("connection", "close"), "{:?}", answer.head);
        for line in lines.split_terminator("\r\n").filter(|line| !line.starts_with("Upgrade")) {
            let (name, value) = line.split_once(": ").unwrap();
            let kept = name == "Connection" || answer.head.has_line(name, value);
            assert!(kept, "{line}: {:?}", answer.head);
        }
        client.expect_end().await;
        server.expect_gone().await;
        let record = gate.record_of(Kind::Exchange).await;
        assert_eq!(record.ending, Some("upgrade_refused"));
        assert_eq!((record.ended_by, record.phase), (Some("upstream"), Some("response")));
        assert_eq!(record.status, Some(status[..3].parse().unwrap()));
        drop(client);
        gate.at_rest().await;
    }
}

#[tokio::test]
async fn w11_a_101_to_a_plain_request_is_502() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for request in [get("/", ""), offer_saying("Upgrade: websocket\r\n")] {
        let mut client = gate.ask(request).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(AGREED).await;
        assert_eq!(client.read_response().await.status(), 502);
        client.expect_end().await;
        server.expect_gone().await;
    }
}

#[tokio::test]
async fn w11_interim_responses_pass_and_end_nothing() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{hints}{AGREED}")).await;
    let statuses = [100, 103, 103, 101];
    for status in statuses {
        assert_eq!(client.read_head().await.status(), status);
    }
    drop((client, server));

    let mut client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(hints).await;
    let head = client.read_head().await;
    assert_eq!((head.status(), head.get("link")), (103, Some("</style.css>; rel=preload")));
    server.send(ok("done")).await;
    assert_eq!(client.read_response().await.text(), "done");

    // HTTP/1.0 knows no interim responses.
    let mut client = gate.ask("GET / HTTP/1.0\r\n\r\n").await;
    server.read_head().await;
    server.send(format!("{hints}{}", ok("done"))).await;
    assert_eq!(client.read_response().await.status(), 200);
}

#[tokio::test]
async fn w12_first_frames_in_the_segments_of_the_heads_arrive_once_and_in_order() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    client.send([OFFER.as_bytes(), &frames::client(frames::TEXT, "from the client")].concat()).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send([AGREED.as_bytes(), &frames::server(frames::TEXT, "from the backend")].concat()).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.expect(frames::server(frames::TEXT, "from the backend")).await;
    server.expect(frames::client(frames::TEXT, "from the client")).await;
    client.send(frames::client(frames::TEXT, "second")).await;
    server.expect(frames::client(frames::TEXT, "second")).await;
    server.send(frames::server(frames::TEXT, "second")).await;
    client.expect(frames::server(frames::TEXT, "second")).await;
}

#[tokio::test]
async fn w12_a_backend_may_answer_before_it_has_read_the_request() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client = gate.ask(OFFER).await;
        let mut server = backend.accept().await;
        server.send([AGREED.as_bytes(), &frames::server(frames::TEXT, "at once")].concat()).await;
        assert_eq!(client.read_head().await.status(), 101);
        client.expect(frames::server(frames::TEXT, "at once")).await;
        client.send(frames::client(frames::TEXT, "then")).await;
        server.read_head().await;
        server.expect(frames::client(frames::TEXT, "then")).await;
    }
}

#[tokio::test]
async fn w12_an_offer_behind_plain_requests_in_one_segment() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let frame = frames::client(frames::TEXT, "first");
    client.send([get("/", "").as_bytes(), post.as_bytes(), OFFER.as_bytes(), &frame].concat()).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("one")).await;
    server.read_head().await;
    server.expect("abc").await;
    server.send(ok("two")).await;
    let mut tunnel = backend.accept().await;
    tunnel.read_head().await;
    tunnel.send(AGREED).await;
    assert_eq!(client.read_response().await.text(), "one");
    assert_eq!(client.read_response().await.text(), "two");
    assert_eq!(client.read_head().await.status(), 101);
    tunnel.expect(&frame).await;
}

#[tokio::test]
async fn w4_an_offer_with_a_content_length_of_0_has_no_body() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(offer_with("Content-Length: 0\r\n")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
}

#[tokio::test]
async fn w12_a_handshake_and_its_answer_byte_by_byte() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.client().await;
    client.dribble([OFFER.as_bytes(), &frames::client(frames::TEXT, "one")].concat()).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.dribble([AGREED.as_bytes(), &frames::server(frames::TEXT, "two")].concat()).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.expect(frames::server(frames::TEXT, "two")).await;
    server.expect(frames::client(frames::TEXT, "one")).await;
}

#[tokio::test]
async fn w13_b5_what_the_ends_agree_on_passes_unchanged_in_its_usual_case() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let lines = [
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Origin", "https://app.example"),
        ("Cookie", "a=b; c=\"d\""),
        ("Authorization", "Bearer abc.def"),
        ("User-Agent", "test/1.0 (x; y)"),
        ("X-Unknown", "\tvalue with  spaces"),
    ];
    let text = lines.map(|(name, value)| format!("{}: {value}\r\n", name.to_lowercase())).concat();
    let mut client = gate.ask(offer_with(&text)).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    for (name, value) in lines {
        assert_eq!(head.get(name), Some(value.trim()), "{head:?}");
    }
    assert!(head.has_line("Sec-WebSocket-Protocol", "chat, superchat"), "{head:?}");
    assert!(head.has_line("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), "{head:?}");
    assert!(head.has_line("Sec-WebSocket-Version", "13"), "{head:?}");

    let answer = "Sec-WebSocket-Protocol: superchat\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\nSet-Cookie: s=1\r\nSet-Cookie: t=2\r\n\
        X-Backend: seven\r\n";
    server.send(AGREED.replacen("\r\n\r\n", &format!("\r\n{answer}\r\n"), 1)).await;
    let head = client.read_head().await;
    for line in answer.split_terminator("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(head.has_line(name, value), "{line}: {head:?}");
    }
    let record = gate.record_of(Kind::TunnelOpen).await;
    assert_eq!(record.subprotocol.as_deref(), Some("superchat"));
    assert_eq!((record.status, record.route.as_deref()), (Some(101), Some("main")));
    assert_eq!(record.endpoint.as_deref(), Some(backend.address().as_str()));
}

#[tokio::test]
async fn b4_a_client_that_vanishes_before_the_101_takes_the_attempt_along() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    drop(client);
    server.expect_gone().await;
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((record.ending, record.status), (Some("downstream_gone"), None));
    assert_eq!((record.ended_by, record.phase), (Some("downstream"), Some("response")));
    gate.at_rest().await;
}
