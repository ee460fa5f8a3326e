//! How often the gate allocates for what it does most: an exchange, a TLS handshake, a tunnel and a message in it.
//!
//! The gate runs in a process of its own, this binary with `gate FOLDER`, whose global allocator counts; so what clients and
//! backends allocate does not. What aws-lc allocates in C is not counted either. Each kind of work is done many times after a
//! warm-up, and what it took must not exceed the figure that stands here for it; `cargo test --test allocations -- --nocapture`
//! shows all of them. A change that needs more says why, and raises it.

#![allow(unreachable_pub, reason = "a binary of tests has nobody outside")]

#[path = "it/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "it serves many tests")]
mod harness;

use std::{
    alloc::System,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use rustls::{ClientConfig, client::Resumption};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tempfile::TempDir;
use wsgate::{
    config::{Config, ListenAddress},
    server::{ConfigSource, Server},
    telemetry::AccessSink,
};

use self::harness::{AGREED, Backend, OFFER, PATIENCE, Peer, Serving, Setup, frames, get, ok, pki::Pki};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Times that each kind of work is done before it is counted, so that what is made once has been made.
const WARM_UP: usize = 20;
/// Times that it is done for a count.
const TIMES: usize = 50;
/// Counts, of which the least holds: threads of the gate that look at files or clocks allocate now and then.
const COUNTS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, folder] = &arguments[..]
        && first == "gate"
    {
        run_gate(folder.as_ref());
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rows = runtime.block_on(count_all());
    println!("{:<44} {:>11} {:>9} {:>8}", "allocations of the gate for", "allocations", "at most", "bytes");
    for Row { work, most, taken } in &rows {
        println!("{work:<44} {:>11} {most:>9} {:>8}", taken.allocations, taken.bytes);
    }
    let exceeded = rows.iter().filter(|row| row.taken.allocations > row.most).count();
    if exceeded > 0 {
        eprintln!("error: {exceeded} kinds of work take more allocations than they may");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What is known of one kind of work.
struct Row {
    work: &'static str,
    /// Allocations that it may take.
    most: u64,
    taken: Taken,
}

/// What was allocated, by the number of calls and in bytes; a growing buffer counts as one more, with what it grew by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    allocations: u64,
    bytes: u64,
}

async fn count_all() -> Vec<Row> {
    let backend = Backend::listen().await.serve(serve);
    let pki = Pki::new();
    let mut rows = Vec::new();
    let plain = Setup::to(backend.address());
    let mut gate = Gate::start(&plain, "off");
    rows.push(gate.row("http exchange, kept alive", 15, Exchanges::open(gate.address, None).await).await);
    rows.push(
        gate.row("ws message of 64 B, there and back", 0, Messages::open(gate.address, None, 64).await).await,
    );
    rows.push(
        gate.row("ws message of 64 KiB, there and back", 0, Messages::open(gate.address, None, 65_536).await)
            .await,
    );
    rows.push(gate.row("ws connection", 37, Tunnels { address: gate.address, tls: None }).await);
    drop(gate);

    let mut gate = Gate::start(&Setup::to(backend.address()), "access.log");
    rows.push(gate.row("http exchange, access log", 29, Exchanges::open(gate.address, None).await).await);
    rows.push(gate.row("ws connection, access log", 70, Tunnels { address: gate.address, tls: None }).await);
    drop(gate);
    rows.extend(count_tls(&backend, &pki).await);
    rows
}

async fn count_tls(backend: &Serving, pki: &Arc<Pki>) -> Vec<Row> {
    let mut gate = Gate::start(&Setup::to(backend.address()).tls(pki, ""), "off");
    let mut config = pki.client_config_of(&[&rustls::version::TLS13]);
    config.resumption = Resumption::disabled();
    let full = Tls { pki: Arc::clone(pki), config };
    let mut config = pki.client_config_of(&[&rustls::version::TLS13]);
    config.resumption = Resumption::in_memory_sessions(8);
    let resumed = Tls { pki: Arc::clone(pki), config };
    let address = gate.address;
    vec![
        gate.row("https exchange, kept alive", 17, Exchanges::open(address, Some(&full)).await).await,
        gate.row("wss message of 64 B, there and back", 2, Messages::open(address, Some(&full), 64).await)
            .await,
        gate.row(
            "wss message of 64 KiB, there and back",
            16,
            Messages::open(address, Some(&full), 65_536).await,
        )
        .await,
        gate.row("TLS handshake, connection without a request", 132, Connections { address, tls: &full })
            .await,
        gate.row("wss connection", 165, Tunnels { address, tls: Some(&full) }).await,
        gate.row("wss connection, resumed", 177, Tunnels { address, tls: Some(&resumed) }).await,
    ]
}

/// A backend that answers requests, and echoes what comes in a tunnel until the client leaves.
async fn serve(mut peer: Peer) {
    while let Some(head) = peer.next_head().await {
        if head.get("upgrade").is_none() {
            peer.send(ok("hello")).await;
            continue;
        }
        peer.send(AGREED).await;
        while let Some(frame) = frames::whenever(&mut peer).await {
            let is_over = frame.first == 0x80 | frames::CLOSE;
            peer.send(frames::server_raw(frame.first, frame.payload)).await;
            if is_over {
                return;
            }
        }
        return;
    }
}

/// What is done over and over.
trait Work {
    /// Does it once.
    async fn run(&mut self);

    /// Whether nothing is open when it has been done.
    const LEAVES: bool;
}

/// How a client speaks TLS.
struct Tls {
    pki: Arc<Pki>,
    config: ClientConfig,
}

async fn dial(address: SocketAddr, tls: Option<&Tls>) -> Peer {
    match tls {
        None => Peer::dial(address).await,
        Some(tls) => tls.pki.client(address, "localhost", &tls.config).await,
    }
}

/// Requests over one connection.
struct Exchanges(Peer);

impl Exchanges {
    async fn open(address: SocketAddr, tls: Option<&Tls>) -> Self {
        Self(dial(address, tls).await)
    }
}

impl Work for Exchanges {
    const LEAVES: bool = false;

    async fn run(&mut self) {
        self.0.send(get("/", "")).await;
        assert_eq!(self.0.read_response().await.body, b"hello");
    }
}

/// Messages in one tunnel.
struct Messages {
    peer: Peer,
    message: Vec<u8>,
    size: usize,
}

impl Messages {
    async fn open(address: SocketAddr, tls: Option<&Tls>, size: usize) -> Self {
        let peer = open_tunnel(address, tls).await;
        Self { peer, message: frames::client(frames::BINARY, vec![0x5a; size]), size }
    }
}

impl Work for Messages {
    const LEAVES: bool = false;

    async fn run(&mut self) {
        self.peer.send(&self.message).await;
        assert_eq!(frames::read(&mut self.peer).await.payload.len(), self.size);
    }
}

/// Connections with a TLS handshake and nothing else.
struct Connections<'a> {
    address: SocketAddr,
    tls: &'a Tls,
}

impl Work for Connections<'_> {
    const LEAVES: bool = true;

    async fn run(&mut self) {
        dial(self.address, Some(self.tls)).await;
    }
}

/// Connections that become tunnels, and are closed by a Close.
struct Tunnels<'a> {
    address: SocketAddr,
    tls: Option<&'a Tls>,
}

impl Work for Tunnels<'_> {
    const LEAVES: bool = true;

    async fn run(&mut self) {
        let mut peer = open_tunnel(self.address, self.tls).await;
        peer.send(frames::client_close(1000, "")).await;
        assert_eq!(frames::read(&mut peer).await.close_code(), 1000);
        peer.expect_gone().await;
    }
}

async fn open_tunnel(address: SocketAddr, tls: Option<&Tls>) -> Peer {
    let mut peer = dial(address, tls).await;
    peer.send(OFFER).await;
    assert_eq!(peer.read_head().await.status(), 101);
    peer
}

/// The gate in its process, which ends when this is dropped.
struct Gate {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
    _folder: TempDir,
}

impl Gate {
    fn start(setup: &Setup, access: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let toml = format!("[log]\naccess = \"{access}\"\n{}", setup.toml());
        std::fs::write(folder.path().join("proxy.toml"), toml).expect("a file");
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .arg("gate")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let orders = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("an address");
        let address = line.trim().parse().unwrap_or_else(|_| panic!("no address: {line:?}"));
        Self { process, orders, answers, address, _folder: folder }
    }

    /// What it has allocated so far; when nothing is open, if so it `rests`.
    fn taken(&mut self, rests: bool) -> Taken {
        let orders = self.orders.as_mut().expect("a running gate");
        orders.write_all(if rests { b"r" } else { b"n" }).expect("a running gate");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a running gate");
        let mut numbers = line.split_whitespace().map(|number| number.parse().expect("a number"));
        let mut number = || numbers.next().expect("two numbers");
        Taken { allocations: number(), bytes: number() }
    }

    async fn row<W: Work>(&mut self, work: &'static str, most: u64, mut of: W) -> Row {
        for _ in 0..WARM_UP {
            of.run().await;
        }
        let mut least = None;
        for _ in 0..COUNTS {
            let before = self.taken(W::LEAVES);
            for _ in 0..TIMES {
                of.run().await;
            }
            let after = self.taken(W::LEAVES);
            let each = |after: u64, before: u64| (after - before).div_ceil(TIMES as u64);
            let taken = Taken {
                allocations: each(after.allocations, before.allocations),
                bytes: each(after.bytes, before.bytes),
            };
            least = least.into_iter().chain([taken]).min();
        }
        Row { work, most, taken: least.expect("several counts") }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The end of its orders ends it.
        self.orders = None;
        let _ = self.process.wait();
    }
}

/// The other process: a gate that says what it has allocated whenever it is asked.
fn run_gate(folder: &Path) {
    let path = folder.join("proxy.toml");
    let loaded = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let sink = AccessSink::open(&loaded.config.log).expect("an access log");
    let server = Server::start(loaded, ConfigSource::File(path), sink).expect("a gate");
    let handle = server.handle();
    let ListenAddress::Inet(address) = handle.addresses()[0] else { panic!("no unix socket") };
    let mut out = std::io::stdout();
    writeln!(out, "{address}").expect("somebody who asks");
    let mut order = [0];
    while std::io::stdin().read_exact(&mut order).is_ok() {
        let began = Instant::now();
        while order == *b"r" && handle.connections() > 0 {
            assert!(began.elapsed() < PATIENCE, "connections stay open");
            thread::yield_now();
        }
        let stats = ALLOCATOR.stats();
        let allocations = stats.allocations + stats.reallocations;
        writeln!(out, "{allocations} {}", stats.bytes_allocated).expect("somebody who asks");
    }
    handle.shutdown();
    server.wait();
}
