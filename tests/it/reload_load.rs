//! A reload under load: hundreds of tunnels with traffic and a stream of new connections, while the file changes again and
//! again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rand::RngExt;
use tokio::task::JoinSet;
use wsgate::{
    config::ListenAddress,
    server::{ReloadError, ReloadReport, ServerHandle},
    telemetry::{Direction, Kind},
};

use crate::harness::{
    AGREED, Backend, Gate, Peer, Serving, frames, get, offer_with, ok,
    pki::{Leaf, Pki},
    program::need_descriptors,
    soon,
};

const STEADY: usize = 500;
const RELOADS: usize = 50;
/// Tunnels of each route that changes.
const LEAVING: usize = 10;

/// Answers requests with `hello` and messages with themselves.
async fn backend() -> Serving {
    Backend::listen().await.serve(|mut peer| async move {
        while let Some(head) = peer.next_head().await {
            if head.get("upgrade").is_none() {
                peer.send(ok("hello")).await;
                continue;
            }
            peer.send(AGREED).await;
            while let Some(frame) = frames::whenever(&mut peer).await {
                let opcode = frame.first & 0x0f;
                peer.send(frames::server(opcode, &frame.payload)).await;
                if opcode == frames::CLOSE {
                    return;
                }
            }
            return;
        }
    })
}

/// What the file says at one time.
struct File {
    server: String,
    certificate: String,
    /// Rises with each change of the routes whose tunnels go by `on_reload`.
    version: usize,
    has_more: bool,
}

impl File {
    fn text(&self) -> String {
        let route = |name: &str, on_reload: &str, version: usize| {
            format!(
                "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"main\"\n\
                 response_headers = {{ set = {{ X-Version = \"{version}\" }} }}\nwebsocket = {{ on_reload = \"{on_reload}\" }}\n"
            )
        };
        let routes: String = ["keep", "drain", "close"].map(|word| route(word, word, self.version)).concat();
        let more = if self.has_more { "[[listener]]\naddress = \"127.0.0.3:0\"\n" } else { "" };
        format!(
            "[server]\nworkers = 2\nshutdown_grace = \"20s\"\ndrain_spread = \"0s\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ {} }}\n\
             [[listener]]\naddress = \"127.0.0.2:0\"\n{more}\
             [upstream.main]\nservers = [\"{}\"]\n{routes}{}",
            self.certificate,
            self.server,
            route("steady", "close", 0),
        )
    }
}

/// What one client sent and got, in bytes and messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    messages: u64,
}

impl Sum {
    fn add(&mut self, frame: &[u8], is_message: bool) {
        self.bytes += frame.len() as u64;
        self.messages += u64::from(is_message);
    }

    fn of(direction: &Direction) -> Self {
        Self { bytes: direction.bytes, messages: direction.messages }
    }
}

/// A message, and what the backend makes of it.
fn message(number: u64) -> (Vec<u8>, Vec<u8>) {
    let length = match rand::rng().random_range(0..100) {
        0..3 => 20_000,
        3..20 => 1_000,
        _ => 40,
    };
    let payload = format!("{number:0>length$}");
    (frames::client(frames::TEXT, &payload), frames::server(frames::TEXT, &payload))
}

/// Everything that the clients share.
struct Load {
    gate: Gate,
    pki: Arc<Pki>,
    is_over: AtomicBool,
    exchanges: AtomicU64,
    connections: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    async fn connect(&self, over_tls: bool) -> Peer {
        let peer = Peer::dial(self.gate.address_of(usize::from(!over_tls))).await;
        if over_tls { self.pki.secure(peer).await } else { peer }
    }

    async fn tunnel(&self, path: &str, over_tls: bool) -> Peer {
        let mut peer = self.connect(over_tls).await;
        open(&mut peer, path).await;
        peer
    }

    /// A tunnel that nothing may touch: what it sent and got.
    async fn steady(&self, over_tls: bool) -> Sum {
        let mut peer = self.tunnel("/steady", over_tls).await;
        let mut sum = Sum::default();
        let mut number = 0;
        while self.goes_on() {
            let (sent, answer) = message(number);
            number += 1;
            peer.send(&sent).await;
            peer.expect(answer).await;
            sum.add(&sent, true);
            // So that all take their turns.
            tokio::task::yield_now().await;
        }
        let close = frames::client_close(1000, "done");
        peer.send(&close).await;
        sum.add(&close, false);
        peer.expect(frames::server_close(1000, "done")).await;
        peer.expect_end().await;
        sum
    }

    /// New connections and tunnels, one after the other, of which none may fail.
    async fn newcomers(&self, over_tls: bool) {
        while self.goes_on() {
            let mut client = self.connect(over_tls).await;
            client.send(get("/steady", "Connection: close\r\n")).await;
            assert_eq!(client.read_response().await.text(), "hello");
            client.expect_end().await;
            let mut tunnel = self.tunnel("/steady", over_tls).await;
            let (sent, answer) = message(0);
            tunnel.send(sent).await;
            tunnel.expect(answer).await;
            self.connections.fetch_add(2, Ordering::Relaxed);
        }
    }

    /// Requests on one connection, which nothing may end.
    async fn regular(&self, over_tls: bool) {
        let mut client = self.connect(over_tls).await;
        while self.goes_on() {
            client.send(get("/keep", "")).await;
            let response = client.read_response().await;
            assert_eq!(response.text(), "hello");
            assert_eq!(response.head.get("connection"), None, "the connection stays");
            self.exchanges.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn open(peer: &mut Peer, path: &str) {
    let offer = offer_with("").replacen("GET / ", &format!("GET {path} "), 1);
    peer.send(offer).await;
    assert_eq!(peer.read_head().await.status(), 101);
}

/// Puts a text in force, away from the tasks of the test.
async fn reload(handle: &ServerHandle, file: &Path, text: String) -> Result<ReloadReport, ReloadError> {
    fs::write(file, text).expect("a file");
    let handle = handle.clone();
    tokio::task::spawn_blocking(move || handle.reload()).await.expect("no panic")
}

/// Tunnels of the routes that change, which end as `on_reload` says.
struct Leaving {
    tunnels: Vec<(&'static str, Peer)>,
    /// By route: how many got a Close of wsgate's.
    ended: BTreeMap<&'static str, usize>,
}

impl Leaving {
    async fn open(load: &Load) -> Self {
        let mut tunnels = Vec::new();
        for number in 0..LEAVING {
            for route in ["keep", "drain", "close"] {
                tunnels.push((route, load.tunnel(&format!("/{route}"), number % 2 == 0).await));
            }
        }
        Self { tunnels, ended: BTreeMap::new() }
    }

    /// All of the routes `drain` and `close` are told to leave, and come back; those of `keep` are not.
    async fn expect_told(&mut self, load: &Load) {
        for (number, (route, peer)) in self.tunnels.iter_mut().enumerate() {
            if *route == "keep" {
                let (sent, answer) = message(number as u64);
                peer.send(sent).await;
                peer.expect(answer).await;
                continue;
            }
            let close = frames::read(peer).await;
            assert_eq!(close.close_code(), 1012);
            peer.send(frames::client(frames::CLOSE, &close.payload)).await;
            peer.expect_end().await;
            *peer = load.tunnel(&format!("/{route}"), number % 2 == 0).await;
            *self.ended.entry(route).or_default() += 1;
        }
    }

    /// None was told anything.
    async fn expect_left_alone(&mut self) {
        for (_, peer) in &mut self.tunnels {
            let (sent, answer) = message(7);
            peer.send(sent).await;
            peer.expect(answer).await;
        }
    }
}

/// A listener that comes and goes, and what is connected to it stays.
async fn add_and_remove(load: &Load, file: &mut File, path: &Path) -> Peer {
    let handle = load.gate.handle();
    file.has_more = true;
    reload(handle, path, file.text()).await.expect("a reload");
    let Some(ListenAddress::Inet(address)) = handle.addresses().get(2).cloned() else { panic!("a listener") };
    let mut tunnel = Peer::dial(address).await;
    open(&mut tunnel, "/steady").await;
    let mut client = Peer::dial(address).await;
    client.send(get("/keep", "")).await;
    client.read_response().await;
    file.has_more = false;
    reload(handle, path, file.text()).await.expect("a reload");
    assert!(Peer::try_dial(address).await.is_err(), "nobody listens there any more");
    client.send(get("/keep", "Connection: close\r\n")).await;
    assert_eq!(client.read_response().await.text(), "hello", "its connections live on");
    tunnel
}

fn replace(certificate: &Leaf, by: &Leaf) {
    fs::copy(&by.cert, &certificate.cert).expect("a certificate");
    fs::copy(&by.key, &certificate.key).expect("a key");
}

/// What changes the file, one reload after the other.
struct Operator {
    load: Arc<Load>,
    leaf: Leaf,
    path: PathBuf,
    file: File,
    leaving: Leaving,
    /// Tunnels of listeners that are no more.
    of_removed: Vec<Peer>,
}

impl Operator {
    async fn reload(&self) -> ReloadReport {
        reload(self.load.gate.handle(), &self.path, self.file.text()).await.expect("a reload")
    }

    /// Nothing changes.
    async fn touch(&mut self) {
        let report = self.reload().await;
        assert!(report.is_unchanged(), "{report:?}");
        self.leaving.expect_left_alone().await;
    }

    async fn change_routes(&mut self) {
        self.file.version += 1;
        let report = self.reload().await;
        assert_eq!(report.routes.changed.len(), 3, "{report:?}");
        self.leaving.expect_told(&self.load).await;
    }

    async fn change_certificate(&mut self) {
        let fresh = self.load.pki.leaf("localhost");
        replace(&self.leaf, &fresh);
        self.reload().await;
        let client = self.load.connect(true).await;
        let shown = client.tls().peer_certificates().expect("a certificate")[0].clone();
        assert_eq!(shown, fresh.der, "the new certificate is shown");
        self.leaving.expect_left_alone().await;
    }

    async fn break_file(&mut self) {
        let broken = format!("{}\n[[route]]\nupstrem = \"main\"\n", self.file.text());
        let error = reload(self.load.gate.handle(), &self.path, broken).await.expect_err("a broken file");
        assert!(error.to_string().contains("did you mean `upstream`?"), "{error}");
        self.leaving.expect_left_alone().await;
    }

    /// Two reloads.
    async fn add_and_remove_listener(&mut self) {
        self.of_removed.push(add_and_remove(&self.load, &mut self.file, &self.path).await);
    }

    /// All kinds, until there have been [`RELOADS`].
    async fn work(&mut self) {
        for turn in 0..RELOADS / 6 {
            self.touch().await;
            self.change_routes().await;
            self.change_certificate().await;
            self.break_file().await;
            self.add_and_remove_listener().await;
            println!("{} reloads", 6 * (turn + 1));
        }
        for _ in 0..RELOADS % 6 {
            self.change_routes().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_500_tunnels_and_a_stream_of_connections_do_not_notice_50_reloads() {
    need_descriptors(4 * STEADY as u64);
    let pki = Pki::new();
    let leaf = pki.leaf("localhost");
    let server = backend().await;
    let file = File {
        server: server.address(),
        certificate: format!("cert = \"{}\", key = \"{}\"", leaf.cert.display(), leaf.key.display()),
        version: 0,
        has_more: false,
    };
    let load = Arc::new(Load {
        gate: Gate::start(&file.text(), None),
        pki,
        is_over: AtomicBool::new(false),
        exchanges: AtomicU64::new(0),
        connections: AtomicU64::new(0),
    });
    let (mut steady, mut others) = (JoinSet::new(), JoinSet::new());
    for number in 0..STEADY {
        let load = Arc::clone(&load);
        steady.spawn(async move { load.steady(number % 2 == 0).await });
    }
    for number in 0..4 {
        let (coming, staying) = (Arc::clone(&load), Arc::clone(&load));
        others.spawn(async move { coming.newcomers(number % 2 == 0).await });
        others.spawn(async move { staying.regular(number % 2 == 0).await });
    }
    let (path, leaving) = (load.gate.file(), Leaving::open(&load).await);
    let mut operator =
        Operator { load: Arc::clone(&load), leaf, path, file, leaving, of_removed: Vec::new() };
    operator.work().await;

    // Each kind of client has done something meanwhile.
    assert!(load.exchanges.load(Ordering::Relaxed) > 100 && load.connections.load(Ordering::Relaxed) > 50);
    load.is_over.store(true, Ordering::Relaxed);
    let mut sums = soon("the steady tunnels to end", steady.join_all()).await;
    soon("the others to end", others.join_all()).await;
    for tunnel in &mut operator.of_removed {
        tunnel.send(frames::client(frames::TEXT, "still here")).await;
        tunnel.expect(frames::server(frames::TEXT, "still here")).await;
    }
    let versions = operator.file.version;
    assert_eq!(operator.leaving.ended.values().sum::<usize>(), 2 * LEAVING * versions);
    drop(operator);
    load.gate.at_rest().await;
    let load = Arc::into_inner(load).expect("nobody else has it");
    check_records(&load.gate, &mut sums, versions);
    println!(
        "{} exchanges on lasting connections, {} new connections, {} messages",
        load.exchanges.into_inner(),
        load.connections.into_inner(),
        sums.iter().map(|sum| sum.messages).sum::<u64>()
    );
}

/// What the records say is what the clients saw, to the byte.
fn check_records(gate: &Gate, sums: &mut [Sum], versions: usize) {
    let records = gate.records();
    let ends: Vec<_> = records.iter().filter(|record| record.kind == Kind::TunnelEnd).collect();
    let reloaded = ends.iter().filter(|record| record.ending == Some("reload")).count();
    assert_eq!(reloaded, 2 * LEAVING * versions);
    assert!(
        ends.iter()
            .all(|record| record.ending != Some("reload") || record.route.as_deref() != Some("steady"))
    );
    let mut recorded: Vec<_> = ends
        .iter()
        .filter(|record| record.ending == Some("closed") && record.route.as_deref() == Some("steady"))
        .map(|record| Sum::of(record.from_client.as_ref().expect("an account")))
        .collect();
    let key = |sum: &Sum| (sum.bytes, sum.messages);
    recorded.sort_by_key(key);
    sums.sort_by_key(key);
    assert_eq!(recorded, sums);
    let failed: Vec<_> = records
        .iter()
        .filter(|record| record.kind == Kind::Exchange && record.status != Some(200))
        .map(|record| (record.status, record.ending))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}
