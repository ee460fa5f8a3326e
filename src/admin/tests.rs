//! The listener with its endpoints, over a process that is none.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

mod documented;
mod fake;

use self::fake::{Fake, fake};
use super::*;
use crate::{
    config::{Admin, ListenAddress, LoadError, Secret},
    server::{Inherited, Readiness, ReloadError},
};

const TOKEN: &str = "a-token-of-some-length";
const PATIENCE: Duration = Duration::from_secs(20);

fn admin(address: ListenAddress, token: Option<&str>) -> Admin {
    Admin { address, token: token.map(Secret::new), metrics_token: None, hosts: Vec::new() }
}

/// An admin listener on a free port.
struct Room {
    fake: Arc<Fake>,
    serving: Option<Serving>,
}

impl Room {
    fn open(token: Option<&str>) -> Self {
        let fake = fake();
        let bound =
            bind(&admin(ListenAddress::Inet(([127, 0, 0, 1], 0).into()), token), &Inherited::default())
                .unwrap();
        let serving = bound.serve(Arc::clone(&fake) as Arc<dyn Control>, &Arc::default()).unwrap();
        Self { fake, serving: Some(serving) }
    }

    fn address(&self) -> SocketAddr {
        match self.serving.as_ref().unwrap().address() {
            ListenAddress::Inet(address) => *address,
            ListenAddress::Unix(path) => panic!("a unix socket: {}", path.display()),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_ref()).unwrap();
        Answer::read(stream)
    }

    /// Asks with the token, and `lines` further header lines.
    fn ask(&self, line: &str, lines: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.send(format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
            {lines}{length}\r\n{body}"
        ))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", "")
    }

    fn order(&self, line: &str, body: &str) -> Answer {
        self.ask(line, "Content-Type: application/json\r\n", body)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let closed = self.serving.take().is_none_or(Serving::close);
        assert!(closed || std::thread::panicking(), "the admin's thread panicked");
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        Self { head: head.to_owned(), body: body.to_owned() }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(told, _)| told.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    /// Its status and what it says was wrong.
    fn error(&self) -> (u16, String) {
        (self.status(), self.json()["error"].as_str().unwrap().to_owned())
    }
}

#[test]
fn what_is_asked_is_told() {
    let room = Room::open(Some(TOKEN));
    let told = |path: &str| {
        let answer = room.get(path);
        assert_eq!(answer.status(), 200, "{path}: {}", answer.body);
        answer.json()
    };
    assert_eq!(told("/api/status")["connections"], json!({ "in_use": 1, "max": 10 }));
    assert_eq!(told("/api/config")["config"]["admin"]["token"], "***");
    assert_eq!(told("/api/listeners")["listeners"][0]["address"], "127.0.0.1:443");
    assert_eq!(told("/api/upstreams")["upstreams"][0]["name"], "chat");
    assert_eq!(told("/api/upstreams/chat")["endpoints"][0]["name"], "unix:/run/chat.sock");
    assert_eq!(told("/api/tunnels?route=a%20b&limit=5")["total"], 1);
    assert!(room.fake.orders()[0].contains("route: Some(\"a b\")"));
    assert_eq!(told("/api/tunnels/42")["id"], 42);
    assert_eq!(told("/api/log"), json!({ "level": "info" }));
    assert!(told("/api")["endpoints"].as_array().unwrap().contains(&json!("PUT /api/log")));
    let metrics = room.get("/metrics");
    assert_eq!((metrics.status(), &*metrics.body), (200, "# EOF\n"));
    let media_type = metrics.header("content-type").unwrap();
    assert_eq!(media_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

#[test]
fn what_is_ordered_is_done() {
    let room = Room::open(Some(TOKEN));
    let done = |line: &str, body: &str| {
        let answer = room.order(line, body);
        assert_eq!(answer.status(), 200, "{line}: {}", answer.body);
        (answer.json(), room.fake.orders().into_iter().find(|order| !order.starts_with("list")))
    };
    let (told, order) = done("POST /api/tunnels/42/close", "{\"code\":4001,\"reason\":\"off\"}");
    assert_eq!(
        (told, order.as_deref()),
        (json!({ "closed": 1 }), Some("close Some(42) Some((4001, \"off\"))"))
    );
    let (told, order) = done("POST /api/tunnels/42/close", "");
    let usual = "close Some(42) Some((1012, \"closed by an administrator\"))";
    assert_eq!((told, order.as_deref()), (json!({ "closed": 1 }), Some(usual)));
    assert_eq!(done("POST /api/tunnels/close", "{\"all\":true}").0, json!({ "closed": 3 }));
    let endpoint = "/api/upstreams/chat/endpoints/unix:%2Frun%2Fchat.sock";
    let (told, order) = done(&format!("POST {endpoint}/drain"), "{\"tunnels\":\"close\"}");
    assert_eq!(
        (&told["name"], order.as_deref()),
        (&json!("chat"), Some("drain chat unix:/run/chat.sock Close"))
    );
    let (_, order) = done(&format!("POST {endpoint}/restore"), "");
    assert_eq!(order.as_deref(), Some("restore chat unix:/run/chat.sock"));
    assert_eq!(done("PUT /api/log", "{\"level\":\"debug\"}").0, json!({ "level": "debug" }));
    let (told, order) = done("POST /api/reload", "");
    assert_eq!((&told["generation"], order.as_deref()), (&json!(2), Some("reload")));
    assert_eq!(told["listeners"]["unchanged"], json!(["a"]));
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_done() {
    let room = Room::open(Some(TOKEN));
    let close = "POST /api/tunnels/42/close";
    let drain = "POST /api/upstreams/chat/endpoints/unix:%2Frun%2Fchat.sock/drain";
    for (line, body, status, error) in [
        ("GET /api/unknown", "", 404, "GET /api lists"),
        ("GET /api/status/", "", 404, "GET /api lists"),
        ("POST /api/status", "", 405, "POST is not for this"),
        ("OPTIONS /api/reload", "", 405, "OPTIONS is not for this"),
        ("GET /api/status?x=1", "", 400, "unknown parameter `x`: this takes none"),
        ("GET /api/tunnels?rout=x", "", 400, "unknown parameter `rout`: known are route, endpoint,"),
        ("GET /api/tunnels/x", "", 404, "no tunnel with this id"),
        ("GET /api/tunnels/44", "", 404, "no tunnel with this id"),
        ("GET /api/tunnels/%ff", "", 400, "UTF-8"),
        ("POST /api/tunnels/44/close", "", 404, "no tunnel with this id"),
        ("POST /api/tunnels/43/close", "", 409, "closing already"),
        (close, "{", 400, "no JSON"),
        (close, "{}{}", 400, "no JSON"),
        (close, "[1]", 422, ""),
        (close, "{\"cod\":1}", 422, "unknown field `cod`, expected `code` or `reason`"),
        (close, "{\"code\":1000,\"code\":1001}", 422, "duplicate field `code`"),
        (close, "{\"code\":70000}", 422, "70000"),
        ("POST /api/tunnels/close", "", 400, "needs a JSON object"),
        ("POST /api/tunnels/close", "{}", 422, "say which tunnels"),
        ("POST /api/tunnels/close", "{\"id\":1}", 422, "unknown field `id`, expected one of `route`, "),
        (close, "{\"code\":1006}", 422, "1006 is no code"),
        ("POST /api/tunnels/close", "{\"min_age\":\"5\"}", 422, "`min_age` is a duration"),
        (drain, "", 400, "needs a JSON object"),
        (drain, "{}", 422, "missing field `tunnels`"),
        (drain, "{\"tunnels\":\"kill\"}", 422, "expected one of `keep`, `drain`, `close`"),
        ("POST /api/upstreams/x/endpoints/y/restore", "", 404, "no such upstream"),
        ("POST /api/upstreams/chat/endpoints/y/restore", "", 404, "no such endpoint"),
        ("GET /api/upstreams/x", "", 404, "no such upstream"),
        ("POST /api/reload", "{\"file\":\"x\"}", 422, "unknown field `file`"),
        ("PUT /api/log", "{\"level\":\"loud\"}", 422, "`loud` is no level"),
        ("PUT /api/log", "{\"level\":1}", 422, "expected a string"),
    ] {
        let (told, said) = room.order(line, body).error();
        assert!(told == status && said.contains(error), "{line} {body}: {told} {said}");
    }
    let done = room.fake.orders();
    let unseen = |order: &&String| !order.starts_with("list") && !order.ends_with(" y");
    let missed: Vec<_> = done.iter().filter(unseen).filter(|order| !order.contains("Some(4")).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert_eq!(room.ask("POST /api/reload", "", "").status(), 200);
    assert_eq!(room.order("PATCH /api/log", "").header("allow"), Some("GET,HEAD,PUT"));
}

#[test]
fn a_body_is_json_of_at_most_64_kib() {
    let room = Room::open(Some(TOKEN));
    let close = "POST /api/tunnels/close";
    for media_type in
        ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
    {
        let (status, error) = room.ask(close, media_type, "{\"all\":true}").error();
        assert_eq!((status, &*error), (415, "a body needs `Content-Type: application/json`"));
    }
    let media_type = "Content-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(room.ask(close, media_type, "{\"all\":true}").status(), 200);
    let padded = |length: usize| format!("{{\"all\":true{}}}", " ".repeat(length - 12));
    assert_eq!(room.order(close, &padded(64 * 1024)).status(), 200);
    assert_eq!(room.order(close, &padded(64 * 1024 + 1)).status(), 413);
}

#[test]
fn a_reload_that_is_refused_says_why() {
    let room = Room::open(Some(TOKEN));
    let refused = |why| {
        *room.fake.wrong.lock().unwrap() = Some(why);
        room.order("POST /api/reload", "").error()
    };
    let wrong = || LoadError::NotText { path: "proxy.toml".into(), at: 7 };
    let text = ReloadError::Config(wrong()).to_string();
    assert!(text.contains("byte 7"), "{text}");
    assert_eq!(refused(ReloadError::Config(wrong())), (422, text));
    for error in [ReloadError::Draining, ReloadError::NoFile] {
        let text = error.to_string();
        assert_eq!(refused(error), (409, text));
    }
}

#[test]
fn probes_tell_in_a_word_whether_it_is_ready() {
    let room = Room::open(Some(TOKEN));
    let probe = |path: &str| {
        let answer =
            room.send(format!("GET {path} HTTP/1.1\r\nHost: probe.example\r\nConnection: close\r\n\r\n"));
        (answer.status(), answer.body)
    };
    for (readiness, status, word) in [
        (Readiness::Ready, 200, "ready\n"),
        (Readiness::ShuttingDown, 503, "shutting down\n"),
        (Readiness::Draining, 503, "draining\n"),
    ] {
        *room.fake.readiness.lock().unwrap() = readiness;
        assert_eq!(probe("/readyz"), (status, word.to_owned()));
        assert_eq!(probe("/healthz"), (200, "ok\n".to_owned()));
    }
}

#[test]
fn s8_every_answer_holds_browsers_to_this_host() {
    let room = Room::open(Some(TOKEN));
    let answers = [
        room.get("/"),
        room.get("/api/status"),
        room.get("/unknown"),
        room.get("/healthz"),
        room.ask("PATCH /api/log", "", ""),
        room.send("GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        room.send("GET / HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n"),
    ];
    for answer in &answers {
        let policy = answer.header("content-security-policy").unwrap_or_else(|| panic!("{}", answer.head));
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.head.to_lowercase().contains("access-control-"), "{}", answer.head);
    }
    let statuses: Vec<_> = answers.iter().map(Answer::status).collect();
    assert_eq!(statuses, [200, 200, 404, 200, 405, 401, 421]);
    assert_eq!(answers[5].header("www-authenticate"), Some("Bearer realm=\"wsgate\""));
}

#[test]
fn s10_the_dashboard_has_no_inline_code_and_shows_text_alone() {
    let room = Room::open(Some(TOKEN));
    let page = room.get("/").body;
    assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("javascript:"));
    let handlers = ["onclick=", "onload=", "onerror=", "onsubmit="];
    assert!(handlers.iter().all(|handler| !page.contains(handler)));
    for script in page.split("<script").skip(1) {
        assert!(script.starts_with(" type=\"module\" src=\"/") && script.contains("></script>"), "{script}");
    }
    let mut loaded = 0;
    for link in page.split(['"']).filter(|text| text.starts_with('/')) {
        assert_eq!(room.get(link).status(), 200, "{link}");
        loaded += 1;
    }
    assert!(loaded >= 3 && !page.contains("://"));
    let code = room.get("/dashboard.js");
    assert_eq!(code.header("content-type"), Some("text/javascript; charset=utf-8"));
    let ways_to_markup =
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"];
    assert!(ways_to_markup.iter().all(|way| !code.body.contains(way)));
    assert!(
        !code.body.contains("localStorage") && !code.body.contains("cookie") && !code.body.contains("://")
    );
}

#[test]
fn s8_a_unix_socket_is_its_owners_and_needs_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let fake = fake();
    let bound = bind(&admin(ListenAddress::Unix(path.clone()), None), &Inherited::default()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let serving = bound.serve(Arc::clone(&fake) as Arc<dyn Control>, &Arc::default()).unwrap();
    let ask = |host: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("POST /api/reload HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(stream).status()
    };
    assert_eq!((ask("localhost"), ask("attacker.example")), (200, 421));
    assert!(serving.close() && !path.exists());
}

#[test]
fn a_new_token_is_in_force_for_the_next_request() {
    let room = Room::open(Some(TOKEN));
    let mut stream = room.connect();
    let request = format!("GET /api/log HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    let mut first = [0; 12];
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let serving = room.serving.as_ref().unwrap();
    serving.configure(admin(serving.configuration().address.clone(), Some("another-token")));
    stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 401"), "{rest}");
}

#[test]
fn s1_clients_that_send_nothing_keep_nobody_out() {
    let room = Room::open(Some(TOKEN));
    let mut silent: Vec<_> = (0..100).map(|_| room.connect()).collect();
    for stream in &mut silent {
        // Those that were cut already can't be written to.
        let _ = stream.write_all(b"GET / HTT");
    }
    for _ in 0..3 {
        assert_eq!(room.get("/healthz").status(), 200);
    }
    let mut oldest = Vec::new();
    // Cut, which is an end or a reset, for who came first.
    let _ = silent[0].read_to_end(&mut oldest);
    assert!(oldest.is_empty());
}

#[test]
fn s1_clients_that_read_nothing_keep_nobody_out() {
    let room = Room::open(Some(TOKEN));
    let request = "GET /dashboard.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
    let greedy: Vec<_> = (0..70)
        .map(|_| {
            let mut stream = room.connect();
            stream.set_nonblocking(true).unwrap();
            // As much as goes: the answers that nobody reads hold the rest up.
            let _ = stream.write(request.as_bytes());
            stream
        })
        .collect();
    assert_eq!(room.get("/healthz").status(), 200);
    drop(greedy);
}

#[test]
fn a_connection_that_asks_again_is_not_the_one_that_is_cut() {
    let room = Room::open(Some(TOKEN));
    let mut kept = room.connect();
    let mut ask = |last: &str| {
        kept.write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{last}\r\n").as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\nok\n") {
            kept.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
    };
    let mut others = Vec::new();
    for _ in 0..4 {
        ask("");
        others.extend((0..40).map(|_| room.connect()));
        assert_eq!(room.get("/healthz").status(), 200);
    }
    ask("Connection: close\r\n");
}

#[test]
fn what_is_no_request_ends_its_own_connection() {
    let room = Room::open(Some(TOKEN));
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"\r\n\r\n\0\0\0\0", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = room.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(!told.starts_with(b"HTTP/1.1 200"), "{bytes:?}");
    }
    assert_eq!(room.get("/healthz").status(), 200);
}
