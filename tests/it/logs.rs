//! What is logged: whole, never in the way, without secrets, and as docs/logs.md says.

mod documented;
mod events;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tracing::Level;
use wsgate::{
    config::{AccessLog, Log, LogFormat},
    proto::trace::{Trace, parse},
    telemetry::{self, AccessSink, Kind, RateLimited},
};

use crate::harness::{
    AGREED, Backend, HttpBackend, OFFER, Peer, Serving, Setup, get, offer_with, ok, program::Program, soon,
};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traced() -> String {
    format!("traceparent: 00-{TRACE_ID}-00f067aa0ba902b7-01\r\n")
}

#[tokio::test]
async fn w13_a_trace_goes_upstream_and_into_the_records() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/", &(traced() + "tracestate: a=1\r\n"))).await;
    assert_eq!(client.read_response().await.status(), 200);
    let head = backend.last();
    let value = traced();
    assert_eq!(head.get("traceparent"), Some(value["traceparent: ".len()..].trim()));
    assert_eq!(head.get("tracestate"), Some("a=1"));
    let id = parse(head.get("traceparent").unwrap().as_bytes());
    assert_eq!(gate.record_of(Kind::Exchange).await.trace_id, id);
}

#[tokio::test]
async fn h7_a_trace_that_begins_here_is_the_same_in_all_that_tells_of_a_request() {
    let auth = Backend::listen().await.serve_http(|_, _| ok("yes"));
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .more(&format!("[upstream.auth]\nservers = [\"{}\"]\n", auth.address()))
        .route("auth.forward = \"auth/verify\"\nwebsocket.origins = \"*\"\n")
        .start();
    let mut client = gate.ask(offer_with("traceparent: 00-malformed\r\ntracestate: a=1\r\n")).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    let parent = head.get("traceparent").unwrap();
    assert!(parent.starts_with("00-") && parent.ends_with("-00"), "{parent}");
    assert!(!head.has("tracestate"));
    assert_eq!(auth.last().get("traceparent"), Some(parent));
    drop((client, server));
    let id = parse(parent.as_bytes());
    assert!(id.is_some());
    assert_eq!(gate.record_of(Kind::TunnelOpen).await.trace_id, id);
    assert_eq!(gate.tunnel_end().await.trace_id, id);
}

const SECRET: &str = "s3cr3t";
/// What configures the requests of [`hostile`].
const GUARDED: &str =
    "[[route]]\npath = \"/o\"\nupstream = \"main\"\nwebsocket.origins = [\"https://a.example\"]\n";

/// Requests that carry a secret wherever wsgate knows that there can be one. Some are served, and some refused, at each step.
fn hostile() -> Vec<String> {
    let lines = "Authorization: Bearer s3cr3t\r\nCookie: session=s3cr3t\r\nReferer: http://a/?x=s3cr3t\r\n\
        Proxy-Authorization: Basic s3cr3t\r\nX-Any: s3cr3t\r\nX_Any: s3cr3t\r\nX-Forwarded-For: s3cr3t\r\n";
    let targets = [
        "/a?token=s3cr3t",
        "/a?x=1&%74oken=s3cr3t&JWT=s3cr3t;y",
        "/a?x=1;access_token=s3cr3t",
        "/../a?token=s3cr3t",
        "http://user:s3cr3t@test.example/?token=s3cr3t",
        "user:s3cr3t@test.example:443",
        "s3cr3t@",
    ];
    let of = |target: &str| {
        let plain = get(target, lines);
        let method = plain.replacen("GET", "CONNECT", 1);
        let offer = offer_with(lines).replacen("GET / ", &format!("GET {target} "), 1);
        let double = plain.replacen("Host: ", "Host: s3cr3t:s3cr3t@x\r\nHost: ", 1);
        let framed = plain.replacen("Cookie", "Content-Length: s3cr3t\r\nCookie", 1);
        [plain, method, offer, double, framed]
    };
    let mut all: Vec<_> = targets.iter().flat_map(|target| of(target)).collect();
    let key = "Sec-WebSocket-Protocol: chat, eyJhbGciOi.s3cr3t.s3cr3t\r\n";
    all.push(offer_with(&format!("{lines}{key}")));
    let origin = format!("{lines}Origin: https://user:s3cr3t@b.example/?token=s3cr3t\r\n");
    all.push(offer_with(&origin).replacen("GET / ", "GET /o ", 1));
    all.push(offer_with(lines).replacen("dGhlIHNhbXBsZSBub25jZQ==", SECRET, 1));
    all
}

/// A backend that agrees with every offer, to its last subprotocol, and answers all else; then it ends the connection.
async fn agreeable() -> Serving {
    Backend::listen().await.serve(|mut peer| async move {
        let head = peer.read_head().await;
        let last = head.get("sec-websocket-protocol").and_then(|all| all.rsplit(", ").next());
        let protocol = last.map_or_else(String::new, |last| format!("Sec-WebSocket-Protocol: {last}\r\n"));
        let agreed = AGREED.replacen("\r\n\r\n", &format!("\r\n{protocol}\r\n"), 1);
        peer.send(if head.has("sec-websocket-key") { agreed } else { ok("hello") }).await;
    })
}

#[tokio::test]
async fn s7_no_secret_is_in_any_record_as_text_or_json() {
    let backend = agreeable().await;
    let gate = Setup::to(backend.address()).more(GUARDED).start();
    let requests = hostile();
    for request in &requests {
        let mut client = gate.ask(request).await;
        client.read_head().await;
    }
    gate.at_rest().await;
    let records = gate.records();
    assert!(records.len() >= requests.len(), "{} records", records.len());
    assert!(records.iter().any(|record| record.subprotocol.as_deref() == Some("***")));
    let endings: BTreeSet<_> = records.iter().filter_map(|record| record.ending).collect();
    for wanted in ["bad_path", "method", "bad_host", "origin_denied", "ambiguous_framing", "bad_handshake"] {
        assert!(endings.contains(wanted), "{wanted} in {endings:?}");
    }
    for record in records {
        let (mut text, mut json) = (String::new(), Vec::new());
        record.write_text(&mut text);
        record.write_json(&mut json);
        let json = String::from_utf8(json).unwrap();
        assert!(!text.contains(SECRET) && !json.contains(SECRET), "{text}\n{json}");
    }
}

#[tokio::test]
async fn s7_no_secret_is_in_any_event_at_any_level() {
    let (backend, folder) = (agreeable().await, tempfile::tempdir().unwrap());
    let toml = format!(
        "level = \"trace\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.main]\nservers = [\"{}\"]\n{GUARDED}\
         [[route]]\nupstream = \"main\"\nwebsocket.origins = \"*\"\n",
        backend.address()
    );
    let mut program = Program::start(folder.path(), &toml, None).await;
    for request in hostile() {
        let mut client = Peer::dial(program.address).await;
        client.send(request).await;
        client.read_head().await;
    }
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
    let said = program.said();
    assert!(said.iter().any(|event| event["message"] == "ended"), "all of them");
    for line in said.iter().map(Value::to_string).chain([program.access_log()]) {
        assert!(!line.contains(SECRET), "{line}");
    }
}

/// The id of each record in a file, which are all whole.
fn ids(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let id = |line| serde_json::from_str::<Value>(line).unwrap()["target"].as_str().unwrap().to_owned();
    text.lines().map(id).collect()
}

#[tokio::test]
async fn sigusr1_reopens_the_log_under_load_and_loses_nothing() {
    const TURNS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let toml = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    let mut program = Program::start(folder.path(), toml, None).await;
    let (log, old) = (folder.path().join("access.log"), |turn| folder.path().join(format!("old.{turn}")));
    let mut asked = Vec::new();
    let mut client = Peer::dial(program.address).await;
    for turn in 0..TURNS {
        for part in ["before", "renamed", "after"] {
            match part {
                "renamed" => fs::rename(&log, old(turn)).unwrap(),
                "after" => program.signal(Signal::USR1),
                _ => {}
            }
            for number in 0..40 {
                let path = format!("/{turn}/{part}/{number}");
                client.send(get(&path, "")).await;
                assert_eq!(client.read_head().await.status(), 204);
                asked.push(path);
            }
        }
        let reopened =
            || program.said().iter().filter(|event| event["message"] == "access log reopened").count();
        soon("the new file", async {
            while reopened() <= turn {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
    let written: Vec<_> = (0..TURNS).map(old).chain([log]).flat_map(|file| ids(&file)).collect();
    assert_eq!(written, asked, "each once, in order");
}

#[tokio::test]
async fn a_reload_changes_where_records_go_and_how_they_look() {
    let folder = tempfile::tempdir().unwrap();
    let tables = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
    let mut program = Program::start(folder.path(), tables, None).await;
    let mut client = Peer::dial(program.address).await;
    let mut ask = async |path: &str| {
        client.send(get(path, "")).await;
        assert_eq!(client.read_head().await.status(), 204);
    };
    let reload = |access: &str, form: &str| {
        let log = format!("[log]\nformat = \"{form}\"\naccess = \"{access}\"\n");
        fs::write(folder.path().join("proxy.toml"), log + tables).unwrap();
        program.signal(Signal::HUP);
    };
    ask("/1").await;
    reload("none/access.log", "text");
    let failed =
        |event: &Value| event["message"].as_str().is_some_and(|text| text.starts_with("reload failed"));
    program.says("that it failed", failed).await;
    ask("/2").await;
    reload("other.log", "text");
    program.says("that it has", |event| event.as_str().is_some_and(|line| line.contains(" reloaded"))).await;
    ask("/3").await;
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
    assert_eq!(ids(&folder.path().join("access.log")), ["/1", "/2"]);
    let other = fs::read_to_string(folder.path().join("other.log")).unwrap();
    assert!(other.lines().count() == 1 && other.contains("GET test.example/3 "), "{other}");
}

#[tokio::test]
async fn sigusr1_does_not_end_a_program_that_has_just_begun() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fifo.toml");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_wsgate"))
        .args(["run", "-c", "fifo.toml"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = Pid::from_child(&child);
    let said = tokio::task::spawn_blocking(move || {
        // Opens when the program reads its configuration, which is the first that it does.
        let mut config = fs::OpenOptions::new().write(true).open(&file).unwrap();
        (0..20).for_each(|_| kill_process(id, Signal::USR1).unwrap());
        config.write_all(b"[[listener]]\nnonsense = 1\n").unwrap();
        drop(config);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap().code(), said)
    });
    let (code, said) = soon("its end", said).await.unwrap();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nonsense"), "errors before the start are told at once: {said}");
}

/// A program that is ended with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn events_that_nobody_reads_hold_no_tunnel_up_and_are_counted() {
    // Of some 300 bytes each in the log: more than a pipe and the queue take.
    const MESSAGES: usize = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_wsgate"))
        .args(["demo", "--tls", "0", "--plain", "0"])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env_remove("XDG_DATA_HOME")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (demo.stdout.take().unwrap(), demo.stderr.take().unwrap());
    let demo = Killed(demo);
    let port = soon("the welcome", tokio::task::spawn_blocking(move || plain_port(&mut out))).await.unwrap();
    let mut client = Peer::dial(([127, 0, 0, 1], port).into()).await;
    client.send(OFFER.replacen("GET / ", "GET /echo ", 1).replace("test.example", "localhost")).await;
    assert_eq!(client.read_head().await.status(), 101);
    let greeting = client.read_exact(2).await;
    client.read_exact(greeting[1].into()).await;
    let (message, echo) = ([&[0x81, 0xFE, 0, 200, 0, 0, 0, 0][..], &[b'x'; 200]].concat(), [b'x'; 200]);
    for _ in 0..MESSAGES / 100 {
        client.send(message.repeat(100)).await;
        for _ in 0..100 {
            let answer = client.read_exact(204).await;
            assert_eq!(answer[4..], echo);
        }
    }
    kill_process(Pid::from_child(&demo.0), Signal::TERM).unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        text
    });
    let text = soon("all that it has to say", text).await.unwrap();
    let received = text.lines().filter(|line| line.contains("demo: received")).count();
    let told = text.lines().find(|line| line.contains("events were dropped dropped="));
    let dropped: usize = told.and_then(|line| line.rsplit('=').next()?.parse().ok()).expect("a count");
    assert!(received < MESSAGES && dropped >= MESSAGES - received, "{received} written, {dropped} dropped");
}

/// The port of the welcome's `http://localhost:PORT/`.
fn plain_port(out: &mut impl Read) -> u16 {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
        let port = text.split_once("http://localhost:").and_then(|(_, rest)| rest.split_once('/'));
        if let Some((port, _)) = port {
            return port.parse().unwrap();
        }
    }
}

/// Runs a test of this file that is ignored, as a process of its own, and lets it go on when it has said this. Returns all that
/// it said.
fn child(name: &str, goes_on_after: &str) -> String {
    let name = format!("logs::{name}");
    let tests = std::env::current_exe().unwrap();
    let mut child = Command::new(tests)
        .args([&*name, "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !said.contains(goes_on_after) {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    drop(child.stdin.take());
    lines.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    said
}

fn log(level: &str, format: LogFormat) -> Log {
    Log { level: level.to_owned(), format, access: AccessLog::Off, redact: Vec::new() }
}

#[test]
#[ignore = "run as a process of its own by the next one"]
fn says_what_it_is_told_to() {
    static REPEATED: RateLimited = RateLimited::new(Level::WARN, "repeated");
    telemetry::init(&log("info", LogFormat::Text)).unwrap();
    let access = AccessSink::open(&log("info", LogFormat::Text)).unwrap();
    tracing::info!(peer = "a\nb\u{202e}", "one");
    tracing::debug!("hidden");
    assert!(telemetry::set_level("no=level=at=all").is_err());
    assert_eq!(telemetry::level(), "info");
    telemetry::set_level("debug").unwrap();
    assert_eq!(telemetry::level(), "debug");
    tracing::debug!("two");
    access.reconfigure(&log("warn", LogFormat::Json)).unwrap().commit();
    assert_eq!(telemetry::level(), "warn");
    tracing::info!("hidden");
    tracing::warn!(number = 3, "three");
    for _ in 0..5 {
        REPEATED.warn(|skipped| tracing::warn!(skipped, "repeated"));
    }
    // Until that is told of, by nobody's doing.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let _ = std::panic::catch_unwind(|| panic!("on purpose"));
    telemetry::set_level("wsgate::tunnel=debug").unwrap();
    let _ = std::panic::catch_unwind(|| panic!("though nobody asked"));
    // Without a word to the log.
    std::process::exit(0);
}

#[test]
fn events_follow_the_level_and_the_form_and_a_panic_is_one() {
    let text = child("says_what_it_is_told_to", "lines left out");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() > 6 && lines[6..].contains(&"though nobody asked"), "{text}");
    assert!(lines[0].ends_with(" INFO it::logs: one peer=\"a\\nb\\u{202e}\""), "{text}");
    assert!(lines[1].ends_with("DEBUG it::logs: two"), "{text}");
    let json: Vec<Value> = lines[2..6].iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&json[0]["message"], &json[0]["number"], &json[0]["level"]),
        (&"three".into(), &3.into(), &"WARN".into())
    );
    assert_eq!((&json[1]["message"], &json[1]["skipped"]), (&"repeated".into(), &0.into()));
    assert_eq!(
        (&json[2]["message"], &json[2]["line"], &json[2]["skipped"]),
        (&"lines left out".into(), &"repeated".into(), &4.into())
    );
    assert_eq!((&json[3]["message"], &json[3]["what"]), (&"panic".into(), &"on purpose".into()));
    assert!(json[3]["place"].as_str().unwrap().contains("logs.rs"));
}

/// A trace, for a record.
fn trace() -> Trace {
    Trace::begin(1, 2)
}
