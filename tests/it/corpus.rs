//! The corpus of malformed and ambiguous messages in tests/corpus, a file for each, sent through a gate of its own.

mod backend;
mod case;
mod message;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Semaphore;
use wsgate::telemetry::Kind;

use self::{
    backend::{ScriptedBackend, Seen},
    case::{Case, Then},
    message::Message,
};
use crate::harness::{Gate, Peer, frames};

const CONFIG: &str = include_str!("../corpus/wsgate.toml");
/// So many cases of a subject at a time.
const AT_ONCE: usize = 8;
/// Each case is sent at once, and again in so many pieces: what comes of it must not depend on the segments.
const PIECES: [usize; 2] = [1, 16];
/// Folders of tests/corpus, and the fewest cases that each must have, so that a wrong path can't pass.
const SUBJECTS: [(&str, usize); 9] = [
    ("answers", 70),
    ("chunks", 70),
    ("framing", 90),
    ("heads", 85),
    ("hosts", 70),
    ("paths", 75),
    ("responses", 95),
    ("start_lines", 55),
    ("upgrades", 100),
];
/// Sent where the connection must still be of use; it has a record and reaches the backend like any other.
const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n";
const PROBED: &str = "GET /probe";

#[tokio::test]
async fn h1_corpus_of_framing() {
    run_all("framing").await;
}

#[tokio::test]
async fn h4_corpus_of_chunks() {
    run_all("chunks").await;
}

#[tokio::test]
async fn h2_corpus_of_heads() {
    run_all("heads").await;
}

#[tokio::test]
async fn h3_corpus_of_hosts() {
    run_all("hosts").await;
}

#[tokio::test]
async fn h9_corpus_of_paths() {
    run_all("paths").await;
}

#[tokio::test]
async fn h3_corpus_of_start_lines() {
    run_all("start_lines").await;
}

#[tokio::test]
async fn w1_corpus_of_upgrades() {
    run_all("upgrades").await;
}

#[tokio::test]
async fn w8_corpus_of_answers_to_offers() {
    run_all("answers").await;
}

#[tokio::test]
async fn h1_corpus_of_responses() {
    run_all("responses").await;
}

#[test]
fn every_file_of_the_corpus_is_a_case_of_a_known_subject() {
    let names = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found: BTreeSet<String> = entries(&corpus()).iter().map(names).collect();
    let known = SUBJECTS.iter().map(|(subject, _)| *subject).chain(["README.md", "wsgate.toml"]);
    assert_eq!(found, known.map(str::to_owned).collect());
    let mut contents = BTreeSet::new();
    for (subject, _) in SUBJECTS {
        for (path, case) in cases(subject) {
            let differs = contents.insert((case.listener, case.client.bytes, case.client.ends, case.backend));
            assert!(differs, "{}: another case sends the same", path.display());
        }
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The cases of a subject, which all must be well written.
fn cases(subject: &str) -> Vec<(PathBuf, Case)> {
    let read = |path: PathBuf| {
        assert_eq!(path.extension().and_then(|end| end.to_str()), Some("txt"), "{}", path.display());
        let case = Case::parse(&fs::read_to_string(&path).unwrap());
        let case = case.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, case)
    };
    entries(&corpus().join(subject)).into_iter().map(read).collect()
}

/// Runs the cases of a subject, and then names all that failed.
async fn run_all(subject: &str) {
    let fewest = SUBJECTS.iter().find(|(name, _)| *name == subject).unwrap().1;
    let cases = cases(subject);
    assert!(cases.len() >= fewest, "only {} cases of {subject}", cases.len());
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let run = |(path, case): (PathBuf, Case)| {
        let permits = Arc::clone(&permits);
        let task = tokio::spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            for pieces in PIECES {
                run_case(&case, pieces).await;
            }
        });
        (path, task)
    };
    let mut failed = Vec::new();
    for (path, task) in cases.into_iter().map(run).collect::<Vec<_>>() {
        if let Err(error) = task.await {
            let why = error.into_panic();
            let text = why.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| why.downcast_ref::<&str>().copied()).unwrap_or_default();
            failed.push(format!("{}: {text}", path.display()));
        }
    }
    assert!(failed.is_empty(), "{} of {subject} failed:\n{}", failed.len(), failed.join("\n"));
}

async fn run_case(case: &Case, pieces: usize) {
    let backend = ScriptedBackend::start(case.backend.clone()).await;
    let gate = Gate::start(&CONFIG.replace("${BACKEND}", &backend.address()), None);
    let received = converse(case, pieces, &gate).await;
    gate.at_rest().await;
    check_records(case, &gate);
    gate.finish().await;
    // With the gate, all its connections to the backend have ended: nothing can come any more.
    let seen = backend.finish().await;
    check_backend(case, &seen);
    for text in &case.client_sees {
        assert!(contains(&received, text), "the client does not see {}: {}", shown(text), shown(&received));
    }
    for text in &case.client_never_sees {
        assert!(!contains(&received, text), "the client sees {}: {}", shown(text), shown(&received));
    }
}

/// Plays the client. Returns all that it got.
async fn converse(case: &Case, pieces: usize, gate: &Gate) -> Vec<u8> {
    let mut client = Client { peer: Peer::dial(gate.address_of(case.listener)).await, received: Vec::new() };
    for piece in case.client.bytes.chunks(case.client.bytes.len().div_ceil(pieces)) {
        client.peer.send(piece).await;
        tokio::task::yield_now().await;
    }
    if case.client.ends {
        client.peer.shutdown().await;
    }
    let mut is_head = case.client.bytes.starts_with(b"HEAD ");
    let cut = usize::from(case.then == Then::Cut);
    let statuses: Vec<u16> = case.answers.iter().filter_map(|answer| answer.status).collect();
    for status in &statuses[..statuses.len() - cut] {
        let answer = client.next(is_head).await;
        assert_eq!(answer.head.status(), *status, "{answer:?}");
        is_head &= *status < 200;
    }
    match case.then {
        Then::Closed if statuses.is_empty() => client.peer.expect_gone().await,
        Then::Closed => client.peer.expect_end().await,
        Then::Cut => client.expect_cut(*statuses.last().unwrap()).await,
        Then::Open => {
            client.peer.send(PROBE).await;
            assert_eq!(client.next(false).await.head.status(), 200, "the connection goes on");
            client.peer.expect_end().await;
        }
        Then::Tunnel => client.speak_through_tunnel().await,
        Then::TunnelEnds(code) => client.expect_close(code).await,
    }
    client.received
}

/// A client with all that it received.
struct Client {
    peer: Peer,
    received: Vec<u8>,
}

impl Client {
    /// The next answer, with its body.
    async fn next(&mut self, is_head: bool) -> Message {
        let read = self.peer.read_until(|bytes| Some(Message::response(bytes, is_head, false)?.length));
        let bytes = crate::harness::soon("an answer", read).await.expect("an answer, not a reset");
        // The end of the stream may be the end of a body.
        let (bytes, ended) = match bytes {
            Some(bytes) => (bytes, false),
            None => (self.peer.read_to_end().await, true),
        };
        self.received.extend_from_slice(&bytes);
        Message::response(&bytes, is_head, ended)
            .unwrap_or_else(|| panic!("no whole answer: {}", shown(&bytes)))
    }

    /// An answer of this status that visibly does not come to its end.
    async fn expect_cut(&mut self, status: u16) {
        let (bytes, end) = self.peer.read_to_any_end().await;
        self.received.extend_from_slice(&bytes);
        let start = format!("HTTP/1.1 {status} ");
        assert!(bytes.starts_with(start.as_bytes()), "no {status}: {}", shown(&bytes));
        assert!(Message::response(&bytes, false, end.is_ok()).is_none(), "a whole answer: {}", shown(&bytes));
    }

    /// A frame each way.
    async fn speak_through_tunnel(&mut self) {
        self.peer.send(backend::question()).await;
        let answer = backend::reply();
        let read = self.peer.read_until(|bytes| bytes.ends_with(&answer).then_some(bytes.len()));
        let read = crate::harness::soon("a frame", read).await.expect("a tunnel, not a reset");
        self.received.extend(read.expect("a frame, not the end of the tunnel"));
    }

    async fn expect_close(&mut self, code: u16) {
        loop {
            let frame = frames::read(&mut self.peer).await;
            if frame.first == 0x80 | frames::CLOSE {
                assert_eq!(frame.close_code(), code);
                return;
            }
        }
    }
}

/// Each answer but interim ones has its record, in order, with its status and its label.
fn check_records(case: &Case, gate: &Gate) {
    let records = gate.records();
    let written: Vec<_> = records
        .iter()
        .filter(|record| matches!(record.kind, Kind::Exchange | Kind::TunnelOpen))
        .map(|record| (record.status, record.ending))
        .collect();
    let mut expected: Vec<_> = case
        .answers
        .iter()
        .filter(|answer| answer.has_record())
        .map(|answer| (answer.status, answer.label.as_deref()))
        .collect();
    if case.then == Then::Open {
        expected.push((Some(200), None));
    }
    assert_eq!(written, expected, "status and label in the access records: {records:?}");
}

/// The backend saw these requests, and nothing else.
fn check_backend(case: &Case, seen: &Seen) {
    let mut expected = case.requests.clone();
    if case.then == Then::Open {
        expected.push(PROBED.to_owned());
    }
    assert_eq!(seen.requests, expected, "requests at the backend: {}", shown(&seen.bytes));
    if case.requests.is_empty() && !case.part && case.then != Then::Open {
        assert!(seen.bytes.is_empty(), "bytes at the backend: {}", shown(&seen.bytes));
    }
    if !case.part {
        assert!(seen.rest.is_empty(), "a part of a request at the backend: {}", shown(&seen.rest));
    }
    if !matches!(case.then, Then::Tunnel | Then::TunnelEnds(_)) {
        assert!(seen.tunnel.is_empty(), "bytes for a tunnel: {}", shown(&seen.tunnel));
    }
    if case.then == Then::Tunnel {
        let mut sent = early_bytes(&case.client.bytes).to_vec();
        sent.extend(backend::question());
        assert_eq!(shown(&seen.tunnel), shown(&sent), "bytes through the tunnel");
    }
    for text in &case.backend_sees {
        assert!(contains(&seen.bytes, text), "no {} at the backend: {}", shown(text), shown(&seen.bytes));
    }
    for text in &case.backend_never_sees {
        assert!(!contains(&seen.bytes, text), "{} at the backend: {}", shown(text), shown(&seen.bytes));
    }
}

/// What a client sent behind its first head.
fn early_bytes(sent: &[u8]) -> &[u8] {
    let end = sent.windows(4).position(|four| four == b"\r\n\r\n").map_or(sent.len(), |at| at + 4);
    &sent[end..]
}

/// Whether `text` stands in `bytes`; the case of letters is ignored, as it is in names.
fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text))
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(1500)].escape_ascii().to_string()
}
