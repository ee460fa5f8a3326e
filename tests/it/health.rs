//! Which servers are in: active checks, passive counts, and what becomes of the tunnels of a server that is out.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, Head, OFFER, Peer, Refusing, Response, Setup, frames, get, ok, pki::Pki, soon,
};

/// What a server does with a check.
type Script = Arc<dyn Fn(&Head) -> Vec<u8> + Send + Sync>;

fn script(answer: impl Fn(&Head) -> Vec<u8> + Send + Sync + 'static) -> Script {
    Arc::new(answer)
}

/// A 101 that proves this offer.
fn agreed(head: &Head) -> Vec<u8> {
    let accept = derive_accept_key(head.get("sec-websocket-key").unwrap().as_bytes());
    AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept).into_bytes()
}

/// A server that takes checks at `/check` by a script, ends the connection then, and says its name to all else. Its tunnels send
/// back what they get, the Close too.
struct Server {
    address: String,
    passes: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
    _serving: Box<dyn std::any::Any>,
}

impl Server {
    /// It passes by `good` and fails by `bad`, and begins so.
    async fn with(name: &'static str, passes: bool, good: Script, bad: Script) -> Self {
        let backend = Backend::listen().await;
        let passes = Arc::new(AtomicBool::new(passes));
        let (checks, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let state = (Arc::clone(&passes), Arc::clone(&checks), Arc::clone(&others));
        let address = backend.address();
        let serving = backend.serve(move |mut peer| {
            let ((passes, checks, others), good, bad) = (state.clone(), Arc::clone(&good), Arc::clone(&bad));
            async move {
                while let Some(head) = peer.next_head().await {
                    if head.target() == "/check" {
                        checks.fetch_add(1, Ordering::SeqCst);
                        let script = if passes.load(Ordering::SeqCst) { good } else { bad };
                        let _ = peer.offer_bytes(script(&head)).await;
                        return;
                    }
                    others.fetch_add(1, Ordering::SeqCst);
                    if !head.has("upgrade") {
                        peer.send(ok(name)).await;
                        continue;
                    }
                    peer.send(AGREED).await;
                    while let Some(frame) = frames::next(&mut peer).await {
                        peer.send(frames::server_raw(frame.first, &frame.payload)).await;
                        if frame.first == 0x80 | frames::CLOSE {
                            return;
                        }
                    }
                    return;
                }
            }
        });
        Self { address, passes, checks, others, _serving: Box::new(serving) }
    }

    /// One that a check by http finds well.
    async fn sound(name: &'static str) -> Self {
        let status = |status: &'static str| {
            script(move |_| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes())
        };
        Self::with(name, true, status("200 OK"), status("503 Service Unavailable")).await
    }

    fn turn(&self, passes: bool) {
        self.passes.store(passes, Ordering::SeqCst);
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }

    /// Requests that were no checks.
    fn others(&self) -> usize {
        self.others.load(Ordering::SeqCst)
    }

    /// Waits for so many more checks.
    async fn checked(&self, more: usize) {
        let before = self.checks();
        soon("checks", async {
            while self.checks() < before + more {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

const HTTP: &str =
    "health = { check = \"http\", path = \"/check\", interval = \"20ms\", rise = 2, fall = 2 }";

fn before(servers: &[&Server], keys: &str) -> Gate {
    let keys = format!("balance = \"round_robin\"\nkeep_alive = 0\nretries = 0\n{keys}");
    Setup::before(servers.iter().map(|server| server.address.clone())).upstream(&keys).start()
}

async fn answer(gate: &Gate, lines: &str) -> Response {
    gate.ask(get("/", lines)).await.read_response().await
}

/// Asks until so many answers in a row are by this server; in turn, that is not by chance.
async fn only(gate: &Gate, name: &str) {
    soon("answers of one server alone", async {
        let mut in_a_row = 0;
        while in_a_row < 6 {
            in_a_row = if answer(gate, "").await.text() == name { in_a_row + 1 } else { 0 };
        }
    })
    .await;
}

async fn until(gate: &Gate, wanted: impl Fn(&Response) -> bool) -> Response {
    soon("an answer", async {
        loop {
            let answer = answer(gate, "").await;
            if wanted(&answer) {
                return answer;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_nothing_until_it_passes_again() {
    let (one, two) = (Server::sound("one").await, Server::sound("two").await);
    let gate = before(&[&one, &two], HTTP);
    until(&gate, |answer| answer.text() == "one").await;
    one.turn(false);
    only(&gate, "two").await;
    let others = one.others();
    one.checked(3).await;
    for _ in 0..20 {
        assert_eq!(answer(&gate, "").await.text(), "two");
    }
    assert_eq!(one.others(), others);
    let failed = one.checks();
    one.turn(true);
    until(&gate, |answer| answer.text() == "one").await;
    assert!(one.checks() >= failed + 2, "rise");
}

#[tokio::test]
async fn one_bad_check_takes_nobody_out() {
    let bad = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bad);
    let turns = script(move |_| {
        let status =
            if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { "500 Bad" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let server = Server::with("one", true, Arc::clone(&turns), turns).await;
    let gate = before(&[&server], HTTP);
    for _ in 0..10 {
        server.checked(1).await;
        assert_eq!(answer(&gate, "").await.text(), "one");
    }
}

/// A server under test beside one that is sound, checked by these keys with `fall = 1`. Whether it stays in.
async fn stays_in(keys: &str, answer_to_check: Script, sound: Script) -> bool {
    let subject = Server::with("subject", true, Arc::clone(&answer_to_check), answer_to_check).await;
    let other = Server::with("other", true, Arc::clone(&sound), sound).await;
    let keys = format!("health = {{ path = \"/check\", interval = \"10ms\", fall = 1, {keys} }}");
    let gate = before(&[&subject, &other], &keys);
    subject.checked(3).await;
    other.checked(3).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(answer(&gate, "").await.text().to_owned());
    }
    assert!(seen.iter().any(|name| name == "other"), "{seen:?}");
    seen.iter().any(|name| name == "subject")
}

fn text(text: &'static str) -> Script {
    script(move |_| text.into())
}

#[tokio::test]
async fn a_websocket_check_asks_for_a_proof() {
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let denied = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let unoffered = |head: &Head| {
        [&agreed(head)[..agreed(head).len() - 2], b"Sec-WebSocket-Protocol: x\r\n\r\n"].concat()
    };
    for (keys, answer, expected) in [
        ("expect_status = []", script(agreed), true),
        ("expect_status = []", text(AGREED), false),
        ("expect_status = [101]", text(AGREED), false),
        ("expect_status = []", script(unoffered), false),
        ("expect_status = []", text(empty), false),
        ("expect_status = [200]", text(empty), true),
        ("expect_status = [401]", text(empty), false),
        ("expect_status = [401]", text(denied), true),
        ("expect_status = []", text(denied), false),
        ("expect_status = []", text("SSH-2.0-OpenSSH_9.6\r\n"), false),
        ("expect_status = []", text(""), false),
        ("expect_status = [401]", text("HTTP/1.1 401"), false),
        ("expect_status = [401]", text("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 No\r\n\r\n"), true),
    ] {
        let shown = String::from_utf8_lossy(&answer(&Head::parse(OFFER.as_bytes()))).into_owned();
        assert_eq!(stays_in(keys, answer, script(agreed)).await, expected, "{keys}: {shown}");
    }
}

#[tokio::test]
async fn an_http_check_goes_by_the_status() {
    let good = "HTTP/1.1 204 No Content\r\n\r\n";
    for (answer, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\n\r\nok", true),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", false),
        ("HTTP/1.1 500 Internal Server Error\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        ("HTTP/9.9 200 OK\r\n\r\n", false),
        ("", false),
    ] {
        let keys = "check = \"http\", expect_status = [200, 204]";
        assert_eq!(stays_in(keys, text(answer), text(good)).await, expected, "{answer}");
    }
}

#[tokio::test]
async fn a_websocket_check_is_a_handshake_with_a_ping_and_a_close() {
    let backend = Backend::listen().await;
    let keys = "health = { path = \"/chat?x=1\", headers = { Authorization = \"Bearer t\" }, \
        subprotocol = \"chat.v2\", ping = true, interval = \"1ms\", timeout = \"20s\" }";
    let _gate = Setup::to(backend.address()).upstream(keys).start();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut server = backend.accept().await;
        let head = server.read_head().await;
        assert_eq!(head.start, "GET /chat?x=1 HTTP/1.1");
        let key = head.get("sec-websocket-key").unwrap().to_owned();
        let address = backend.address();
        let expected = [
            ("Host", address.as_str()),
            ("User-Agent", "wsgate-health"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", &key),
            ("Sec-WebSocket-Version", "13"),
            ("Authorization", "Bearer t"),
            ("Sec-WebSocket-Protocol", "chat.v2"),
        ];
        let lines: Vec<_> = head.lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(lines, expected);
        assert_eq!(key.len(), 24);
        // The first frame comes in the segment of the 101.
        server.send([agreed(&head), frames::server(frames::TEXT, "welcome")].concat()).await;
        let ping = frames::read(&mut server).await;
        assert_eq!((ping.first, ping.masked, ping.payload.len()), (0x80 | frames::PING, true, 8));
        server.send(frames::server(frames::PONG, "unasked")).await;
        server.send(frames::server(frames::BINARY, vec![0; 70_000])).await;
        server.dribble(frames::server(frames::PONG, &ping.payload)).await;
        let close = frames::read(&mut server).await;
        assert_eq!((close.close_code(), close.masked, close.payload.len()), (1000, true, 2));
        server.send(frames::server_close(1000, "")).await;
        server.expect_end().await;
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
}

/// The only server, with checks of which one bad one takes it out.
fn before_one(backend: &Backend, keys: &str) -> Gate {
    let keys = format!("max_fails = \"off\"\nhealth = {{ fall = 1, interval = \"1ms\", {keys} }}");
    Setup::to(backend.address()).upstream(&keys).start()
}

#[tokio::test]
async fn a_ping_without_its_pong_fails() {
    for answer in [
        frames::server(frames::CLOSE, ""),
        frames::client(frames::PONG, "masked"),
        frames::server_raw(0x83, ""),
        vec![0x89, 0xfe, 0xff, 0xff],
        Vec::new(),
    ] {
        let backend = Backend::listen().await;
        let gate = before_one(&backend, "ping = true, timeout = \"20s\"");
        let mut server = backend.accept().await;
        let head = server.read_head().await;
        server.send(agreed(&head)).await;
        frames::read(&mut server).await;
        server.send(answer).await;
        drop(server);
        // From the second check on it is known.
        let _second = backend.accept().await;
        assert_eq!(answer_status(&gate).await, 503);
    }
}

async fn answer_status(gate: &Gate) -> u16 {
    answer(gate, "").await.status()
}

#[tokio::test]
async fn a_check_that_gets_no_answer_times_out() {
    let backend = Backend::listen().await;
    let gate = before_one(&backend, "timeout = \"50ms\"");
    let _silent = backend.accept().await;
    let _second = backend.accept().await;
    assert_eq!(answer_status(&gate).await, 503);
}

#[tokio::test]
async fn when_all_are_out_the_answer_is_503_at_once() {
    let servers = [Refusing::new(), Refusing::new()];
    let keys = "retries = 0\nmax_fails = \"off\"\n\
        health = { check = \"tcp\", interval = \"10ms\", fall = 1 }";
    let gate = Setup::before(servers.iter().map(Refusing::address)).upstream(keys).start();
    let refused = until(&gate, |answer| answer.status() == 503).await;
    assert!(refused.head.has("retry-after"));
    let refused = gate.ask(OFFER).await.read_response().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.head.has("retry-after"));
    gate.record(|record| record.ending == Some("no_endpoint")).await;
}

#[tokio::test]
async fn a_tcp_check_connects_and_says_only_whose_it_is() {
    let backend = Backend::listen().await;
    let keys = "proxy_protocol = \"v1\"\nhealth = { check = \"tcp\", interval = \"1ms\" }";
    let gate = Setup::to(backend.address()).upstream(keys).start();
    for _ in 0..3 {
        let mut server = backend.accept().await;
        server.expect("PROXY UNKNOWN\r\n").await;
        server.expect_end().await;
    }
    drop(gate);
}

#[tokio::test]
async fn a_check_speaks_tls_as_requests_do() {
    let (pki, stranger, backend) = (Pki::new(), Pki::new(), Backend::listen().await);
    let keys = format!(
        "max_fails = \"off\"\ntls = {{ ca = \"{}\", server_name = \"localhost\" }}\n\
         health = {{ path = \"/check\", interval = \"10ms\", timeout = \"20s\", rise = 1, fall = 1 }}",
        pki.ca().display()
    );
    let gate = Setup::to(backend.address()).upstream(&keys).start();
    let (theirs, own) = (stranger.leaf("localhost"), pki.leaf("localhost"));
    assert!(Pki::serve(&theirs, backend.accept().await).await.is_err());
    let mut server = Pki::serve(&own, backend.accept().await).await.unwrap();
    assert_eq!(answer_status(&gate).await, 503);
    let head = server.read_head().await;
    server.send(agreed(&head)).await;
    assert_eq!(frames::read(&mut server).await.close_code(), 1000);
    let own = Arc::new(own);
    let _serving = backend.serve(move |peer| {
        let own = Arc::clone(&own);
        async move {
            let mut server = Pki::serve(&own, peer).await.unwrap();
            let head = server.read_head().await;
            let answer = if head.target() == "/" { ok("secret").into() } else { agreed(&head) };
            server.send(answer).await;
        }
    });
    // A check takes its leave while its verdict is still under way to those who choose a server.
    let first = until(&gate, |answer| answer.status() != 503).await;
    assert_eq!(first.text(), "secret");
}

#[tokio::test]
async fn a_sticky_cookie_of_a_server_that_is_out_leads_elsewhere() {
    let (one, two) = (Server::sound("one").await, Server::sound("two").await);
    let gate = before(&[&one, &two], &format!("sticky_cookie = \"srv\"\n{HTTP}"));
    let first = until(&gate, |answer| answer.text() == "one").await;
    let cookie = first.head.get("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let cookie = format!("Cookie: {cookie}\r\n");
    assert_eq!(answer(&gate, &cookie).await.text(), "one");
    one.turn(false);
    only(&gate, "two").await;
    let elsewhere = answer(&gate, &cookie).await;
    assert_eq!(elsewhere.text(), "two");
    assert!(elsewhere.head.has("set-cookie"));
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connections to the first of two servers, the second of which is sound, in twenty requests.
async fn drawn(keys: &str, serve: fn(Peer) -> Served) -> usize {
    let faulty = Backend::listen().await.serve(serve);
    let sound = Server::sound("sound").await;
    let keys = format!("balance = \"round_robin\"\nretries = 0\nkeep_alive = 0\n{keys}");
    let gate = Setup::before([faulty.address(), sound.address.clone()]).upstream(&keys).start();
    for turn in 0..20 {
        // Handshakes and plain requests count alike.
        let request = if turn % 4 < 2 { OFFER.to_owned() } else { get("/", "") };
        gate.ask(request).await.read_head().await;
    }
    faulty.accepted()
}

#[tokio::test]
async fn max_fails_bad_answers_take_a_server_out() {
    let keys = "max_fails = 3\nfail_timeout = \"1h\"";
    let ends = |mut peer: Peer| -> Served {
        Box::pin(async move {
            peer.next_head().await;
        })
    };
    assert_eq!(drawn(keys, ends).await, 3);
    assert_eq!(drawn("max_fails = \"off\"", ends).await, 10);
    let resets = |mut peer: Peer| -> Served {
        Box::pin(async move {
            peer.next_head().await;
            peer.reset();
        })
    };
    assert_eq!(drawn(keys, resets).await, 3);
    let garbage = |mut peer: Peer| -> Served {
        Box::pin(async move {
            peer.next_head().await;
            peer.send("SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
        })
    };
    assert_eq!(drawn(keys, garbage).await, 3);
    let status = |mut peer: Peer| -> Served {
        Box::pin(async move {
            peer.next_head().await;
            peer.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        })
    };
    assert_eq!(drawn(keys, status).await, 10, "a status takes nobody out");
}

#[tokio::test]
async fn max_fails_refused_connects_take_a_server_out_and_never_the_last() {
    let (refusing, sound) = (Refusing::new(), Server::sound("sound").await);
    let keys = "balance = \"round_robin\"\nretries = 0\nmax_fails = 3\nfail_timeout = \"1h\"";
    let gate = Setup::before([refusing.address(), sound.address.clone()]).upstream(keys).start();
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(answer_status(&gate).await);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    let alone = Setup::to(refusing.address()).upstream(keys).start();
    for _ in 0..10 {
        assert_eq!(answer_status(&alone).await, 502, "it is tried");
    }
}

#[tokio::test]
async fn a_client_that_left_speaks_against_nobody() {
    let (slow, sound) = (Backend::listen().await, Server::sound("sound").await);
    let keys = "balance = \"round_robin\"\nretries = 0\nmax_fails = 1\nfail_timeout = \"1h\"";
    let gate = Setup::before([slow.address(), sound.address.clone()]).upstream(keys).start();
    for _ in 0..3 {
        let client = gate.ask(get("/", "")).await;
        let mut server = slow.accept().await;
        server.read_head().await;
        drop(client);
        server.expect_gone().await;
        gate.at_rest().await;
        assert_eq!(answer(&gate, "").await.text(), "sound");
    }
}

/// The tunnels of a server that goes out: the gate, the client with its tunnel, and the server.
async fn tunnel_of_a_failed_server(on_removed: &str) -> (Gate, Peer, Server) {
    let server = Server::sound("one").await;
    let gate = before(&[&server], &format!("on_removed = \"{on_removed}\"\n{HTTP}"));
    let mut client = gate.ask(OFFER).await;
    assert_eq!(client.read_head().await.status(), 101);
    server.turn(false);
    until(&gate, |answer| answer.status() == 503).await;
    (gate, client, server)
}

async fn echoes(client: &mut Peer) {
    client.send(frames::client(frames::TEXT, "hello")).await;
    assert_eq!(frames::read(client).await.payload, b"hello");
}

#[tokio::test]
async fn on_removed_drain_and_close_end_the_tunnels_of_a_server_that_failed() {
    for on_removed in ["drain", "close"] {
        let (gate, mut client, server) = tunnel_of_a_failed_server(on_removed).await;
        assert_eq!(frames::read(&mut client).await.close_code(), 1012);
        client.send(frames::client_close(1012, "")).await;
        client.expect_end().await;
        drop(client);
        let record = gate.record_of(Kind::TunnelEnd).await;
        assert_eq!(record.ending, Some("removed"));
        // The order was to those tunnels alone.
        server.turn(true);
        until(&gate, |answer| answer.status() == 200).await;
        let mut client = gate.ask(OFFER).await;
        assert_eq!(client.read_head().await.status(), 101);
        server.checked(3).await;
        echoes(&mut client).await;
    }
}

#[tokio::test]
async fn on_removed_keep_leaves_tunnels_alone() {
    let (gate, mut client, server) = tunnel_of_a_failed_server("keep").await;
    server.checked(3).await;
    echoes(&mut client).await;
    server.turn(true);
    until(&gate, |answer| answer.status() == 200).await;
    echoes(&mut client).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_checks() {
    let backend = Backend::listen().await;
    let keys = "health = { interval = \"1h\", timeout = \"1h\" }";
    let gate = Setup::to(backend.address()).upstream(keys).start();
    let mut server = backend.accept().await;
    server.read_head().await;
    gate.finish().await;
    server.expect_gone().await;
}
