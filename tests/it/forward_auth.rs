//! A server that is asked about each request: `route.auth.forward`.

use crate::harness::{
    AGREED, Backend, Gate, Head, HttpBackend, OFFER, Refusing, Setup, Unreachable, frames, get, offer_with,
    ok,
};

const YES: &str = "HTTP/1.1 200 OK\r\nX-User: ali\r\nX-Groups: a\r\nX-Groups: b\r\nX-Other: no\r\nContent-Length: 3\r\n\r\nyes";
const NO: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nno";

/// A gate whose route asks the server at `auth`.
fn asking(setup: Setup, auth: &str, upstream: &str, more: &str) -> Gate {
    setup
        .more(&format!("[upstream.auth]\nservers = [\"{auth}\"]\n{upstream}"))
        .route(&format!("auth.forward = \"auth/verify?x=1\"\nwebsocket.origins = \"*\"\n{more}"))
        .start()
}

/// An auth server that answers everything with this.
async fn says(answer: &str) -> HttpBackend {
    let answer = answer.to_owned();
    Backend::listen().await.serve_http(move |_, _| answer.clone())
}

/// What the auth server and the backend get of this request, which is let through.
async fn both(request: &str, more: &str) -> (Head, Head) {
    let (auth, backend) = (says(YES).await, HttpBackend::start().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", more);
    let mut client = gate.ask(request).await;
    assert_eq!(client.read_response().await.status(), 200, "{request}");
    (auth.last(), backend.last())
}

#[tokio::test]
async fn the_question_has_the_requests_headers_and_what_it_is_about() {
    let lines = "Cookie: s=1\r\nAuthorization: Bearer t\r\nOrigin: https://a.example\r\nUser-Agent: test\r\nX-Any: 1\r\n\
        Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\
        Expect: nothing-known\r\nIf-None-Match: \"x\"\r\nRange: bytes=0-1\r\n\
        X-Forwarded-Uri: /forged\r\nX-Forwarded-Method: GET\r\nX_Forwarded_Uri: /forged\r\nX-Forwarded-For: 6.6.6.6\r\n\
        X-Forwarded-Host: forged\r\nX-Forwarded-Proto: https\r\nX-Request-Id: forged\r\n";
    let request = format!("{}body", get("/some/path?q=%20", lines).replacen("GET", "PUT", 1));
    let (question, asked) = both(&request, "strip_prefix = \"/some\"\npath = \"/some/*\"").await;
    assert_eq!(question.start, "GET /verify?x=1 HTTP/1.1");
    for (name, value) in [
        ("cookie", "s=1"),
        ("authorization", "Bearer t"),
        ("origin", "https://a.example"),
        ("user-agent", "test"),
        ("x-any", "1"),
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-uri", "/some/path?q=%20"),
        ("x-forwarded-host", "test.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(question.get(name), Some(value), "{question:?}");
    }
    for gone in [
        "x-hop",
        "te",
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
        "expect",
        "range",
    ] {
        assert!(!question.has(gone), "{gone}: {question:?}");
    }
    assert!(!question.has("if-none-match") && !question.has("x_forwarded_uri"));
    assert_ne!(question.get("host"), Some("test.example"), "the server's own");
    // The backend gets the request as ever, and nothing of what was for the other.
    assert_eq!((asked.target(), asked.get("host")), ("/path?q=%20", Some("test.example")));
    assert!(!asked.has("x-forwarded-uri") && !asked.has("x-forwarded-method"));
    assert_eq!((asked.get("content-type"), asked.get("range")), (Some("text/plain"), Some("bytes=0-1")));
    assert_eq!(question.get("x-request-id"), asked.get("x-request-id"));
}

#[tokio::test]
async fn an_offer_is_asked_about_as_a_plain_get_and_then_becomes_a_tunnel() {
    let (auth, backend) = (says(YES).await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "auth.copy_headers = [\"X-User\"]");
    let mut client = gate.ask(offer_with("Sec-WebSocket-Protocol: chat\r\nX-User: root\r\n")).await;
    // What comes early is for the tunnel, not for the auth server (rule W7).
    client.send(frames::client(frames::TEXT, "early")).await;
    let mut server = backend.accept().await;
    let offer = server.read_head().await;
    assert_eq!((offer.get("x-user"), offer.get("sec-websocket-protocol")), (Some("ali"), Some("chat")));
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    server.expect(frames::client(frames::TEXT, "early")).await;
    let (question, body) = auth.seen().pop().unwrap();
    assert!(question.lines.iter().all(|(name, _)| !name.to_lowercase().starts_with("sec-websocket")));
    assert!(!question.has("upgrade") && !question.has("connection") && body.is_empty(), "{question:?}");
    assert_eq!(question.get("x-forwarded-method"), Some("GET"));
}

#[tokio::test]
async fn copied_headers_cannot_be_forged_in_any_spelling() {
    let copied = "auth.copy_headers = [\"X-User\", \"X-Groups\", \"X-Absent\", \"Remote_Name\"]";
    let forged = "X-User: root\r\nx-USER: root\r\nX_User: root\r\nx-groups: wheel\r\nX-Absent: root\r\nX_ABSENT: root\r\n\
        x-absent: root\r\nRemote-Name: root\r\nRemote_Name: root\r\nX-Kept: 1\r\n";
    for listener in ["", "underscore_headers = \"pass\""] {
        let (auth, backend) = (says(YES).await, HttpBackend::start().await);
        let setup = Setup::to(backend.address()).listener(listener);
        let gate = asking(setup, &auth.address(), "", copied);
        assert_eq!(gate.ask(get("/", forged)).await.read_response().await.status(), 200);
        let head = backend.last();
        assert_eq!((head.get("x-user"), head.all("x-groups")), (Some("ali"), vec!["a", "b"]));
        assert!(!format!("{head:?}").contains("root") && !format!("{head:?}").contains("wheel"), "{head:?}");
        assert!(head.has("x-kept") && !head.has("x-other"), "{head:?}");
        // The server that is asked might take them for its own words.
        assert!(!format!("{:?}", auth.last()).contains("root"), "{:?}", auth.last());
    }
}

#[tokio::test]
async fn copied_headers_cannot_be_forged_by_connection_or_trailers() {
    let (auth, backend) = (says(YES).await, Backend::listen().await);
    let gate = asking(
        Setup::to(backend.address()),
        &auth.address(),
        "",
        "auth.copy_headers = [\"X-User\", \"X-Absent\"]",
    );
    let lines =
        "Connection: X-User, X-Absent\r\nTransfer-Encoding: chunked\r\nTrailer: X-Absent\r\nTE: trailers\r\n";
    let request = get("/", lines).replacen("GET", "POST", 1);
    let body = "3\r\nabc\r\n0\r\nX-User: root\r\nx-absent: root\r\nX-Fine: 1\r\n\r\n";
    let _client = gate.ask(format!("{request}{body}")).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    assert_eq!(head.get("x-user"), Some("ali"), "Connection cannot take it out");
    server.expect("3\r\nabc\r\n0\r\nX-Fine: 1\r\n\r\n").await;
}

#[tokio::test]
async fn the_auth_server_hears_what_the_route_tells_of_the_client_and_not_what_it_tells_the_backend() {
    let edits = "request_headers.set = { Authorization = \"Bearer backend\", X-Who = \"<{client_ip}>\", X-Subject = \"{tls.client.subject}\" }\n\
        request_headers.remove = [\"X-Token\"]";
    let lines =
        "Authorization: Bearer client\r\nX-Who: root\r\nX_Who: root\r\nX-Subject: CN=root\r\nX-Token: t\r\n";
    let (question, head) = both(&get("/", lines), edits).await;
    assert_eq!((question.get("authorization"), question.get("x-token")), (Some("Bearer client"), Some("t")));
    assert_eq!((head.get("authorization"), head.get("x-token")), (Some("Bearer backend"), None));
    for head in [question, head] {
        assert_eq!((head.get("x-who"), head.get("x-subject")), (Some("<127.0.0.1>"), None), "{head:?}");
    }
}

#[tokio::test]
async fn the_routes_own_edits_come_after_what_was_copied() {
    let edits = "auth.copy_headers = [\"X-User\", \"X-Groups\", \"X-Forwarded-For\"]\n\
        request_headers.set = { X-User = \"fixed\" }\nrequest_headers.remove = [\"X-Groups\"]";
    let (question, head) = both(&get("/", ""), edits).await;
    assert_eq!((head.get("x-user"), head.has("x-groups")), (Some("fixed"), false));
    // What the answer does not have stays as wsgate writes it.
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert!(!question.has("x-user"), "{question:?}");
}

#[tokio::test]
async fn any_other_answer_goes_to_the_client_and_no_backend_hears_of_the_request() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n";
    let chunked =
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyou\r\n4\r\n not\r\n0\r\n\r\n";
    for (answer, status, text) in [(NO, 401, "no"), (moved, 302, ""), (chunked, 403, "you not")] {
        let (auth, backend) = (says(answer).await, Backend::listen().await);
        let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
        let mut client = gate.client().await;
        for _ in 0..2 {
            client.send(get("/", "")).await;
            let passed = client.read_response().await;
            assert_eq!((passed.status(), passed.text()), (status, text));
            let expected = Head::parse(answer.split_inclusive("\r\n\r\n").next().unwrap().as_bytes());
            for name in ["www-authenticate", "location", "set-cookie"] {
                assert_eq!(passed.head.all(name), expected.all(name), "{name}");
            }
            assert!(!passed.head.has_token("connection", "close"));
        }
        assert_eq!(auth.accepted(), 1, "the connection is used again");
        let record = gate.record(|record| record.status == Some(status)).await;
        assert_eq!((record.ending, record.ended_by), (Some("unauthorized"), Some("upstream")));
        assert_eq!(record.endpoint.as_deref(), Some(auth.address().as_str()));
        // An offer is closed after it, as its client may have sent frames (rule W10).
        client.send(OFFER).await;
        let passed = client.read_response().await;
        assert_eq!((passed.status(), passed.text()), (status, text));
        assert!(passed.head.has_token("connection", "close"));
        client.expect_end().await;
        backend.expect_untouched();
    }
}

#[tokio::test]
async fn a_body_is_left_for_the_backend_and_is_whole() {
    let (auth, backend) = (says(YES).await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let body = "x".repeat(300_000);
    for (lines, sent) in [
        (format!("Content-Length: {}\r\n", body.len()), body.clone()),
        ("Transfer-Encoding: chunked\r\n".into(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
    ] {
        let mut client = gate.ask(get("/", &lines).replacen("GET", "POST", 1)).await;
        let upload = async {
            client.send(&sent).await;
            client.read_response().await
        };
        let serve = async {
            let mut server = backend.accept().await;
            let head = server.read_head().await;
            assert_eq!(server.read_body(&head).await.len(), body.len());
            server.send(ok("got it").replacen("\r\n", "\r\nConnection: close\r\n", 1)).await;
        };
        let (answer, ()) = tokio::join!(upload, serve);
        assert_eq!(answer.text(), "got it");
        let (question, asked) = auth.seen().pop().unwrap();
        assert!(asked.is_empty() && !question.has("transfer-encoding") && !question.has("content-length"));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_a_100_gets_the_backends_alone() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let (auth, backend) = (says(&format!("{early}{YES}")).await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let lines = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    let mut client = gate.ask(get("/", lines).replacen("GET", "POST", 1)).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_head().await.get("expect"), Some("100-continue"));
    server.send("HTTP/1.1 100 Continue\r\nX-From: backend\r\n\r\n").await;
    let head = client.read_head().await;
    assert_eq!((head.status(), head.get("x-from")), (100, Some("backend")));
    client.send("abc").await;
    server.expect("abc").await;
    server.send(ok("thanks")).await;
    assert_eq!(client.read_response().await.text(), "thanks");
    assert!(!auth.last().has("expect"));
}

#[tokio::test]
async fn a_body_that_was_not_let_in_is_not_taken_for_another_request() {
    let (auth, backend) = (says(NO).await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let smuggled = get("/smuggled", "");
    let lines = format!("Content-Length: {}\r\n", smuggled.len());
    let mut client = gate.ask(format!("{}{smuggled}", get("/", &lines).replacen("GET", "POST", 1))).await;
    let answer = client.read_response().await;
    assert!(answer.status() == 401 && answer.head.has_token("connection", "close"));
    client.expect_end().await;
    assert_eq!(auth.seen().len(), 1);
    backend.expect_untouched();
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_the_question_got() {
    let (auth, backend) = (says(NO).await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let mut client = gate.client().await;
    for _ in 0..2 {
        client.send(get("/", "").replacen("GET", "HEAD", 1)).await;
        let answer = client.read_response_to("HEAD").await;
        assert_eq!((answer.status(), answer.head.get("content-length")), (401, Some("2")));
    }
    // Were the body on the connection, this would not be read as an answer.
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.text(), "no");
    assert_eq!(auth.last().get("x-forwarded-method"), Some("GET"));
    assert_eq!(auth.seen()[0].0.start, "GET /verify?x=1 HTTP/1.1");
}

#[tokio::test]
async fn connections_to_the_auth_server_are_used_again_unless_its_answer_was_too_long() {
    let (auth, backend) = (says(YES).await, HttpBackend::start().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let mut client = gate.client().await;
    for _ in 0..5 {
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.status(), 200);
    }
    assert_eq!((auth.accepted(), auth.seen().len(), backend.accepted()), (1, 5, 1));
    let record = gate.record(|record| record.status == Some(200)).await;
    assert_eq!(record.endpoint.as_deref(), Some(backend.address().as_str()));

    let auth = says(&ok(&"x".repeat(100_000))).await;
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let mut client = gate.client().await;
    for _ in 0..2 {
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.status(), 200);
    }
    assert_eq!(auth.accepted(), 2);
}

#[tokio::test]
async fn h14_a_question_on_an_idle_connection_that_ended_is_asked_again() {
    let (auth, backend) = (Backend::listen().await, HttpBackend::start().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let mut client = gate.ask(get("/", "")).await;
    let mut first = auth.accept().await;
    first.read_head().await;
    first.send(YES).await;
    assert_eq!(client.read_response().await.status(), 200);
    client.send(get("/", "")).await;
    // It ends after it has taken the question and before a byte of an answer.
    first.read_head().await;
    drop(first);
    let mut second = auth.accept().await;
    second.read_head().await;
    second.send(YES).await;
    assert_eq!(client.read_response().await.status(), 200);
}

#[tokio::test]
async fn an_auth_server_that_fails_lets_nobody_in_and_the_log_names_it() {
    let refusing = Refusing::new();
    let unreachable = Unreachable::new().await;
    let silent = Backend::listen().await.serve(|mut peer| async move {
        peer.read_head().await;
        let _ = peer.read_to_any_end().await;
    });
    let closing = Backend::listen().await.serve(|mut peer| async move {
        peer.read_head().await;
    });
    let malformed = says("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").await;
    let no_http = says("200 OK\r\n\r\n").await;
    let upgrading =
        says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
    for (address, status, label) in [
        (refusing.address(), 502, "connect_failed"),
        (unreachable.address(), 504, "connect_timeout"),
        (silent.address(), 504, "response_timeout"),
        (closing.address(), 502, "upstream_closed"),
        (malformed.address(), 502, "bad_response"),
        (no_http.address(), 502, "bad_response"),
        (upgrading.address(), 502, "unasked_upgrade"),
    ] {
        for request in [get("/", ""), OFFER.to_owned()] {
            let backend = Backend::listen().await;
            let bounds = "connect_timeout = \"200ms\"\nresponse_timeout = \"200ms\"\nretries = 0";
            let gate = asking(Setup::to(backend.address()), &address, bounds, "");
            let answer = gate.ask(request).await.read_response().await;
            assert_eq!(answer.status(), status, "{label}");
            backend.expect_untouched();
            let record = gate.record(|record| record.ending.is_some()).await;
            assert_eq!((record.ending, record.endpoint.as_deref()), (Some(label), Some(address.as_str())));
            assert!(record.error.as_deref().unwrap().starts_with("auth server: "), "{:?}", record.error);
        }
    }
}

#[tokio::test]
async fn max_fails_malformed_answers_take_an_auth_server_out() {
    let (malformed, sound) = (says("200 OK\r\n\r\n").await, says(YES).await);
    let backend = HttpBackend::start().await;
    let both = format!("{}\", \"{}", malformed.address(), sound.address());
    let keys = "balance = \"round_robin\"\nretries = 0\nmax_fails = 2\nfail_timeout = \"1h\"";
    let gate = asking(Setup::to(backend.address()), &both, keys, "");
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(gate.ask(get("/", "")).await.read_response().await.status());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
    assert_eq!((malformed.accepted(), sound.seen().len()), (2, 8));
}

#[tokio::test]
async fn b4_a_client_that_leaves_ends_the_question() {
    let (auth, backend) = (Backend::listen().await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    for request in [get("/", ""), OFFER.to_owned()] {
        let client = gate.ask(request).await;
        let mut server = auth.accept().await;
        server.read_head().await;
        drop(client);
        server.expect_gone().await;
        gate.at_rest().await;
    }
    let records = gate.records();
    assert!(records.iter().all(|record| record.ending == Some("downstream_gone")), "{records:?}");
    assert_eq!(records.len(), 2);
    backend.expect_untouched();
}

#[tokio::test]
async fn a_drain_ends_the_connection_after_the_auth_servers_refusal() {
    let (auth, backend) = (Backend::listen().await, Backend::listen().await);
    let gate = asking(Setup::to(backend.address()), &auth.address(), "", "");
    let mut client = gate.ask(get("/", "")).await;
    let mut server = auth.accept().await;
    server.read_head().await;
    gate.drain();
    server.send(NO).await;
    let answer = client.read_response().await;
    assert!(answer.status() == 401 && answer.head.has_token("connection", "close"));
    client.expect_end().await;
}

#[tokio::test]
async fn with_users_as_well_both_must_let_it_through() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "ali:$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n")
        .unwrap();
    let users = format!("auth.basic = \"{}\"", file.path().display());
    let right = "Authorization: Basic YWxpOm9wZW4gc2VzYW1l\r\n";
    for (answer, lines, status, asked) in [
        (YES, "", 401, 0),
        (YES, right, 200, 1),
        ("HTTP/1.1 403 F\r\nContent-Length: 0\r\n\r\n", right, 403, 1),
    ] {
        let (auth, backend) = (says(answer).await, HttpBackend::start().await);
        let gate = asking(Setup::to(backend.address()), &auth.address(), "", &users);
        assert_eq!(gate.ask(get("/", lines)).await.read_response().await.status(), status);
        assert_eq!(auth.seen().len(), asked, "passwords come first");
        assert_eq!(backend.seen().len(), usize::from(status == 200));
    }
}

#[tokio::test]
async fn fixed_answers_need_the_word_of_the_auth_server_too() {
    for (answer, status) in [(YES, 200), (NO, 401)] {
        let auth = says(answer).await;
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.auth]\nservers = [\"{}\"]\n\
             [[route]]\nrespond = {{ status = 200, body = \"in\" }}\nauth.forward = \"auth/\"\n",
            auth.address()
        );
        let gate = Gate::start(&toml, None);
        assert_eq!(gate.ask(get("/", "")).await.read_response().await.status(), status);
        let record = gate.record(|record| record.status == Some(status)).await;
        assert_eq!(record.endpoint.is_some(), status == 401, "the auth server is not who answered");
    }
}
