//! Every refusal: its status, what the access record says of it, and the end of both connections.

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Refusing, Setup, Unreachable, frames, get, offer_with, ok, pki::Pki,
};

/// What a refusal must be.
struct Expected {
    /// `None` where nobody can be answered.
    status: Option<u16>,
    label: &'static str,
    by: &'static str,
    phase: &'static str,
    /// Whether the client's connection ends.
    closes: bool,
}

const fn by_gate(status: u16, label: &'static str, phase: &'static str) -> Expected {
    Expected { status: Some(status), label, by: "gate", phase, closes: true }
}

impl Expected {
    const fn kept(self) -> Self {
        Self { closes: false, ..self }
    }

    const fn by(self, by: &'static str) -> Self {
        Self { by, ..self }
    }
}

/// Reads the answer, looks at the record, and sees whether the connection goes on.
async fn expect_refusal(gate: &Gate, client: &mut Peer, expected: &Expected) {
    let record = if let Some(status) = expected.status {
        let answer = client.read_response().await;
        assert_eq!(answer.status(), status, "{}", expected.label);
        let reason = answer.head.start.splitn(3, ' ').nth(2).unwrap().to_owned();
        assert_eq!(answer.text(), format!("{status} {reason}\n"), "no more than the reason phrase");
        assert_eq!(answer.head.has_token("connection", "close"), expected.closes, "{}", expected.label);
        assert_eq!(answer.head.has("retry-after"), status == 503, "{}", expected.label);
        gate.record(|record| record.ending.is_some()).await
    } else {
        gate.record(|record| record.ending.is_some()).await
    };
    assert_eq!(record.ending, Some(expected.label));
    assert_eq!(record.status, expected.status, "{}", expected.label);
    assert_eq!(record.ended_by, Some(expected.by), "{}", expected.label);
    assert_eq!(record.phase, Some(expected.phase), "{}", expected.label);
    assert_eq!(record.kind, Kind::Exchange);
    if expected.status.is_some() && !expected.closes {
        client.send("GET /again\u{1} HTTP/1.1\r\n\r\n").await;
        assert_eq!(client.read_response().await.status(), 400, "{}: the connection goes on", expected.label);
    }
    if expected.status.is_some() {
        client.expect_end().await;
    }
}

/// Requests that never reach the backend.
async fn refuses_all(setup: impl Fn(Setup) -> Setup, expected: &Expected, requests: &[&str]) {
    for request in requests {
        let backend = Backend::listen().await;
        let gate = setup(Setup::to(backend.address())).start();
        let mut client = gate.ask(request).await;
        expect_refusal(&gate, &mut client, expected).await;
        backend.expect_untouched();
    }
}

fn as_is(setup: Setup) -> Setup {
    setup
}

#[tokio::test]
async fn h2_bad_head() {
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{0}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(: a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}",
    ];
    refuses_all(as_is, &by_gate(400, "bad_head", "head"), &requests).await;
}

#[tokio::test]
async fn h1_ambiguous_framing() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let lines = [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3a\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \r\n",
    ];
    let mut requests: Vec<String> = lines.iter().map(|lines| format!("{head}{lines}\r\nabc")).collect();
    requests.push("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into());
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    refuses_all(as_is, &by_gate(400, "ambiguous_framing", "head"), &requests).await;
}

#[tokio::test]
async fn h4_ambiguous_framing_of_chunks() {
    for chunks in
        ["x\r\n", "-1\r\na", "3 \r\nabc\r\n", "3\nabc\r\n", "3\r\nabcd\r\n", "fffffffffffffffff\r\n"]
    {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let mut client = gate.ask(request).await;
        let mut server = backend.accept().await;
        expect_refusal(&gate, &mut client, &by_gate(400, "ambiguous_framing", "exchange")).await;
        // Nothing that came upstream is a whole request.
        let (sent, _) = server.read_to_any_end().await;
        assert!(!sent.ends_with(b"0\r\n\r\n"), "{chunks:?}");
    }
}

#[tokio::test]
async fn h1_transfer_coding() {
    let requests = [
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    ];
    refuses_all(as_is, &by_gate(501, "transfer_coding", "head"), &requests).await;
}

#[tokio::test]
async fn h3_bad_host() {
    let requests = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    refuses_all(as_is, &by_gate(400, "bad_host", "head"), &requests).await;
}

#[tokio::test]
async fn h9_bad_path() {
    let requests: Vec<String> = ["/../a", "/a/%2e%2E/b", "/a/..;/b", "/a/.", "/a%00", "/a\\b", "/a%5cb"]
        .iter()
        .map(|path| get(path, ""))
        .collect();
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    refuses_all(as_is, &by_gate(400, "bad_path", "head"), &requests).await;
}

#[tokio::test]
async fn s2_head_too_large() {
    let small = |setup: Setup| setup.listener("limits.request_head = \"1KiB\"\nlimits.header_count = 8");
    let expected = by_gate(431, "head_too_large", "head");
    let long = get("/", &format!("X: {}\r\n", "a".repeat(1100)));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(1100));
    let many = get("/", &"X: a\r\n".repeat(9));
    refuses_all(small, &expected, &[&long, &endless, &many]).await;
}

#[tokio::test]
async fn s2_target_too_long() {
    let small = |setup: Setup| setup.listener("limits.target = \"1KiB\"");
    let long = get(&format!("/{}", "a".repeat(1024)), "");
    refuses_all(small, &by_gate(414, "target_too_long", "head"), &[&long]).await;
}

#[tokio::test]
async fn s2_body_too_large_by_its_length() {
    let small = |setup: Setup| setup.route("limits.request_body = 10");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890";
    refuses_all(small, &by_gate(413, "body_too_large", "exchange"), &[request]).await;
}

#[tokio::test]
async fn s2_body_too_large_by_its_chunks() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("limits.request_body = 10").start();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = gate.ask(format!("{head}6\r\n012345\r\n")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    client.send("6\r\n678901\r\n0\r\n\r\n").await;
    expect_refusal(&gate, &mut client, &by_gate(413, "body_too_large", "exchange")).await;
    let (sent, _) = server.read_to_any_end().await;
    assert!(!sent.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn t13_a_refused_body_of_any_size_does_not_reset_the_answer_away() {
    let pki = Pki::new();
    for tls in [false, true] {
        let setup = Setup::to(Refusing::new().address()).route("limits.request_body = 10");
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let length = 4 * 1024 * 1024;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let mut client = gate.ask(request).await;
        // More than the kernel takes for a reader that is not there, and all before a byte of the answer is read.
        client.send(vec![b'a'; length]).await;
        expect_refusal(&gate, &mut client, &by_gate(413, "body_too_large", "exchange")).await;
    }
}

#[tokio::test]
async fn s1_head_timeout_however_the_head_trickles() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("timeout.request_head = \"300ms\"").start();
    let mut client = gate.ask("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let expected = by_gate(408, "head_timeout", "head");
    // Each byte is one more, and moves nothing.
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let trickle = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
        while tokio::io::AsyncWriteExt::write_all(&mut writer, b"X: a\r\n").await.is_ok() {
            pace.tick().await;
        }
    };
    let answer = async {
        let mut start = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut reader, &mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 408");
    };
    tokio::select! {
        () = answer => {}
        () = trickle => panic!("a reset before the answer"),
    }
    let record = gate.record(|record| record.ending.is_some()).await;
    assert_eq!((record.ending, record.status), (Some(expected.label), Some(408)));
    assert_eq!((record.ended_by, record.phase), (Some("gate"), Some("head")));
    backend.expect_untouched();
}

#[tokio::test]
async fn s1_body_timeout_however_the_body_trickles() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("timeout.request_body = \"300ms\"").start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    expect_refusal(&gate, &mut client, &by_gate(408, "body_timeout", "exchange")).await;
    assert!(server.read_to_any_end().await.0.len() < 100);
}

#[tokio::test]
async fn s1_write_timeout_of_a_client_that_takes_no_bytes() {
    let pki = Pki::new();
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address()).listener("timeout.write = \"300ms\"");
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client = Peer::dial_narrow(gate.address()).await;
        if tls {
            client = pki.secure(client).await;
        }
        client.send(get("/", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        // More than all the buffers on the way; the gate ends it before.
        let taken = server.offer_bytes(vec![b'a'; 60_000_000]).await;
        assert!(taken.is_err(), "a stalled client's answer was taken");
        let record = gate.record(|record| record.ending.is_some()).await;
        assert_eq!((record.ending, record.phase), (Some("write_timeout"), Some("exchange")));
        assert_eq!((record.ended_by, record.status), (Some("gate"), Some(200)));
        // Cut: what is missing is seen to be missing.
        let (received, end) = client.read_to_any_end().await;
        assert!(end.is_err(), "an orderly end after {} bytes", received.len());
    }
}

#[tokio::test]
async fn http_version() {
    let requests = [
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    refuses_all(as_is, &by_gate(505, "http_version", "head"), &requests).await;
}

#[tokio::test]
async fn h3_method() {
    let requests = ["CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"];
    refuses_all(as_is, &by_gate(405, "method", "head"), &requests).await;
}

#[tokio::test]
async fn no_route() {
    let setup = |setup: Setup| setup.route("path = \"/chat\"");
    refuses_all(setup, &by_gate(404, "no_route", "route").kept(), &[&get("/", ""), &get("/chat/x", "")])
        .await;
    // Whatever refuses an offer closes (rule H12).
    refuses_all(setup, &by_gate(404, "no_route", "route"), &[OFFER]).await;
}

#[tokio::test]
async fn upgrade_required() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("kind = \"websocket\"").start();
    let mut client = gate.ask(get("/", "")).await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 426);
    assert!(answer.head.has_token("upgrade", "websocket") && answer.head.has_token("connection", "upgrade"));
    assert_eq!(answer.head.get("sec-websocket-version"), Some("13"));
    client.send(get("/again", "")).await;
    assert_eq!(client.read_response().await.status(), 426, "the connection goes on");
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((record.ending, record.ended_by), (Some("upgrade_required"), Some("gate")));
    assert_eq!((record.status, record.phase), (Some(426), Some("route")));
    backend.expect_untouched();
}

#[tokio::test]
async fn w2_w3_w4_bad_handshake() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let without = |line: &str| OFFER.replacen(line, "", 1);
    let requests = [
        without(key),
        offer_with(key),
        OFFER.replacen("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 1),
        OFFER.replacen("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE=", 1),
        OFFER.replacen("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j*Q==", 1),
        OFFER.replacen("dGhlIHNhbXBsZSBub25jZQ==", "", 1),
        without(version),
        offer_with(version),
        offer_with("Content-Length: 1\r\n"),
        offer_with("Transfer-Encoding: chunked\r\n"),
    ];
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    refuses_all(as_is, &by_gate(400, "bad_handshake", "route"), &requests).await;
}

#[tokio::test]
async fn w3_ws_version() {
    for version in ["8", "12", "14", "013", "13, 8"] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let mut client = gate.ask(OFFER.replacen("Version: 13", &format!("Version: {version}"), 1)).await;
        let answer = client.read_response().await;
        assert_eq!(answer.status(), 426, "{version}");
        assert_eq!(answer.head.get("sec-websocket-version"), Some("13"));
        assert_eq!(answer.head.get("upgrade"), Some("websocket"));
        assert!(
            answer.head.has_token("connection", "upgrade") && answer.head.has_token("connection", "close")
        );
        client.expect_end().await;
        let record = gate.record_of(Kind::Exchange).await;
        assert_eq!((record.ending, record.ended_by), (Some("ws_version"), Some("gate")));
        assert_eq!((record.status, record.phase), (Some(426), Some("route")));
        backend.expect_untouched();
    }
}

#[tokio::test]
async fn s2_overload_past_max_connections() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).server("max_connections = 1").start();
    let (first, mut server) = gate.tunnel(&backend).await;
    let mut second = gate.ask(get("/", "")).await;
    expect_refusal(&gate, &mut second, &by_gate(503, "overload", "head")).await;
    backend.expect_untouched();
    // A place that is free again is given away.
    drop((first, second));
    server.expect_gone().await;
    drop(server);
    gate.at_rest().await;
    let mut third = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("yes")).await;
    assert_eq!(third.read_response().await.text(), "yes");
}

#[tokio::test]
async fn draining_refuses_offers() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(&OFFER[..OFFER.len() - 2]).await;
    // That the request has begun is known by an answer to the one before it.
    let mut tunnel = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    gate.drain();
    server.read_head().await;
    server.send(ok("last")).await;
    assert!(tunnel.read_response().await.head.has_token("connection", "close"));
    client.send("\r\n").await;
    expect_refusal(&gate, &mut client, &by_gate(503, "draining", "route")).await;
    backend.expect_untouched();
}

#[tokio::test]
async fn connect_failed() {
    let expected = Expected {
        status: Some(502),
        label: "connect_failed",
        by: "upstream",
        phase: "connect",
        closes: false,
    };
    let nobody = Refusing::new();
    let gate = Setup::to(nobody.address()).start();
    expect_refusal(&gate, &mut gate.ask(get("/", "")).await, &expected).await;

    let gate = Setup::to(nobody.address()).start();
    let expected = Expected { closes: true, ..expected };
    expect_refusal(&gate, &mut gate.ask(OFFER).await, &expected).await;

    let gate = Setup::to("unix:/nowhere/at/all.sock").start();
    expect_refusal(&gate, &mut gate.ask(OFFER).await, &expected).await;
}

#[tokio::test]
async fn connect_timeout() {
    let silent = Unreachable::new().await;
    let gate = Setup::to(silent.address()).upstream("connect_timeout = \"200ms\"").start();
    let expected = by_gate(504, "connect_timeout", "connect");
    expect_refusal(&gate, &mut gate.ask(OFFER).await, &expected).await;

    let gate = Setup::to(silent.address()).upstream("connect_timeout = \"200ms\"").start();
    expect_refusal(&gate, &mut gate.ask(get("/", "")).await, &expected.kept()).await;
}

/// What a backend does with a request, and the refusal of it. The client's connection stays after a plain request.
async fn answers(offer: bool, answer: &str, expected: &Expected) {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let request = if offer { OFFER.to_owned() } else { get("/", "") };
    let mut client = gate.ask(request).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(answer).await;
    server.shutdown().await;
    expect_refusal(&gate, &mut client, expected).await;
    server.expect_gone().await;
    assert_eq!(gate.leases(), 0, "{answer:?}");
}

#[tokio::test]
async fn upstream_closed() {
    let expected = by_gate(502, "upstream_closed", "response").by("upstream");
    answers(true, "", &expected).await;
    answers(false, "", &expected.kept()).await;
    // An interim response is no answer.
    answers(false, "HTTP/1.1 100 Continue\r\n", &by_gate(502, "bad_response", "response").kept()).await;
}

#[tokio::test]
async fn upstream_closed_by_reset() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.reset();
    expect_refusal(&gate, &mut client, &by_gate(502, "upstream_closed", "response").by("upstream")).await;
}

#[tokio::test]
async fn h1_h2_bad_response() {
    let expected = by_gate(502, "bad_response", "response");
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(1000));
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    for answer in [
        "HTTP/1.1 101 Switching",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\nX: a\n\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        &large,
        &many,
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        answers(true, answer, &expected).await;
    }
    answers(false, "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", &by_gate(502, "bad_response", "response").kept())
        .await;

    // Interim responses without an end: those that were passed before are no answer.
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(endless).await;
    let mut status = 103;
    while status == 103 {
        status = client.read_head().await.status();
    }
    assert_eq!(status, 502);
    assert_eq!(gate.record(|_| true).await.ending, Some("bad_response"));
    server.expect_gone().await;
}

#[tokio::test]
async fn w11_a_refusal_does_not_go_into_an_interim_response() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .listener("timeout.write = \"300ms\"")
        .upstream("response_timeout = \"300ms\"\nhandshake_timeout = \"300ms\"")
        .start();
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(60_000));
    for request in [get("/", "Connection: close\r\n"), OFFER.to_owned()] {
        let mut client = Peer::dial_narrow(gate.address()).await;
        client.send(request).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        // More than the client has room for: whichever time is over first is so within one of them.
        server.send(hints.repeat(8)).await;
        server.expect_gone().await;
        let (received, _) = client.read_to_any_end().await;
        let whole = hints.repeat(8).into_bytes();
        let hints_alone = whole.starts_with(&received);
        assert!(hints_alone || received.starts_with(&whole), "an answer within another one");
        let record = gate.record(|record| record.ending.is_some()).await;
        assert_eq!((record.ending, record.status), (Some("write_timeout"), None));
    }
}

#[tokio::test]
async fn response_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("response_timeout = \"200ms\"").start();
    let mut client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    expect_refusal(&gate, &mut client, &by_gate(504, "response_timeout", "response").kept()).await;
    server.expect_gone().await;
}

#[tokio::test]
async fn h11_a_body_that_waits_for_100_continue_waits_for_the_upstream() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .upstream("response_timeout = \"200ms\"")
        .listener("timeout.request_body = \"1h\"")
        .start();
    let lines = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut client = gate.ask(get("/", lines).replacen("GET", "PUT", 1)).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    expect_refusal(&gate, &mut client, &by_gate(504, "response_timeout", "response")).await;
    server.expect_gone().await;
}

#[tokio::test]
async fn s1_handshake_timeout_however_the_answer_trickles() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("handshake_timeout = \"200ms\"").start();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(&AGREED[..30]).await;
    expect_refusal(&gate, &mut client, &by_gate(504, "handshake_timeout", "response")).await;
    server.expect_gone().await;
}

#[tokio::test]
async fn w8_bad_accept_and_bad_upgrade() {
    answers(true, &AGREED.replacen("s3pP", "S3pP", 1), &by_gate(502, "bad_accept", "response")).await;
    answers(
        true,
        &AGREED.replacen("Upgrade: websocket", "Upgrade: h2c", 1),
        &by_gate(502, "bad_upgrade", "response"),
    )
    .await;
}

#[tokio::test]
async fn w11_unasked_upgrade() {
    answers(false, AGREED, &by_gate(502, "unasked_upgrade", "response")).await;
}

#[tokio::test]
async fn downstream_gone_in_every_phase() {
    // Within the head.
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("GET / HT").await;
    let gone =
        |phase| Expected { status: None, label: "downstream_gone", by: "downstream", phase, closes: true };
    client.shutdown().await;
    expect_refusal(&gate, &mut client, &gone("head")).await;
    client.expect_gone().await;
    backend.expect_untouched();

    // While the backend is being connected to.
    let silent = Unreachable::new().await;
    let gate =
        Setup::to(silent.address()).upstream("connect_timeout = \"1h\"\nretry_deadline = \"off\"").start();
    let mut client = gate.ask(OFFER).await;
    client.shutdown().await;
    expect_refusal(&gate, &mut client, &gone("connect")).await;
    client.expect_gone().await;

    // Within its body.
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    client.shutdown().await;
    expect_refusal(&gate, &mut client, &gone("exchange")).await;
    client.expect_gone().await;
    assert_eq!(server.read_to_any_end().await.0, b"abc");

    // While the answer is awaited.
    let gate = Setup::to(backend.address()).start();
    let client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    client.reset();
    let record = gate.record(|record| record.ending.is_some()).await;
    assert_eq!((record.ending, record.phase), (Some("downstream_gone"), Some("response")));
    assert_eq!((record.ended_by, record.status), (Some("downstream"), None));
    server.expect_gone().await;
}

#[tokio::test]
async fn b6_an_answer_cut_short_is_seen_to_be_cut_short() {
    for (answer, label, by) in [
        (["Content-Length: 10", "abc"], "upstream_closed", "upstream"),
        (["Transfer-Encoding: chunked", "3\r\nabc\r\n"], "upstream_closed", "upstream"),
        (["Transfer-Encoding: chunked", "3\r\nabc\r\nx\r\n"], "bad_response", "gate"),
    ] {
        let [framing, body] = answer;
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let mut client = gate.ask(get("/", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
        assert_eq!(client.read_head().await.status(), 200);
        server.send(body).await;
        server.shutdown().await;
        let (received, _) = client.read_to_any_end().await;
        assert!(!received.ends_with(b"0\r\n\r\n"), "{answer:?}");
        let record = gate.record(|record| record.ending.is_some()).await;
        assert_eq!((record.ending, record.ended_by), (Some(label), Some(by)), "{answer:?}");
        assert_eq!((record.status, record.phase), (Some(200), Some("exchange")), "{answer:?}");
        server.expect_gone().await;
    }
}

#[tokio::test]
async fn h4_malformed_chunks_that_come_with_the_head_are_a_bad_response() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    answers(false, answer, &by_gate(502, "bad_response", "response").kept()).await;
}

#[tokio::test]
async fn h12_after_a_refusal_that_closes_no_further_request_is_read() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let mut client = gate.ask(format!("{bad}{}", get("/smuggled", ""))).await;
    expect_refusal(&gate, &mut client, &by_gate(400, "bad_host", "head")).await;
    backend.expect_untouched();
    assert_eq!(gate.records().len(), 1);

    let gate = Setup::to(Refusing::new().address()).start();
    let offer = [OFFER.as_bytes(), &frames::client(frames::TEXT, "GET / HTTP/1.1\r\n\r\n")].concat();
    let mut client = gate.ask(offer).await;
    assert_eq!(client.read_response().await.status(), 502);
    client.expect_end().await;
    assert_eq!(gate.records().len(), 1);
}
