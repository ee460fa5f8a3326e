//! A gate in process.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tempfile::TempDir;
use wsgate::{
    admin::{self, Keeper},
    config::{Config, ListenAddress},
    server::{ConfigSource, Inherited, Outcome, ReloadError, ReloadReport, Server, ServerHandle},
    telemetry::{AccessRecord, AccessSink, Kind, Records},
};

use super::{Metrics, PATIENCE, Peer, pki::Pki, soon, watchdog::Watchdog};

/// What the gate wrote about a request, a tunnel or a connection.
pub type Record = AccessRecord;

/// The parts of a `proxy.toml` with one listener, one upstream and one route, to which a test adds lines.
#[derive(Debug, Default)]
pub struct Setup {
    server: String,
    grace: Option<String>,
    listener: String,
    tls: Option<String>,
    address: Option<String>,
    servers: Vec<String>,
    upstream: String,
    route: String,
    more: String,
    pki: Option<Arc<Pki>>,
}

impl Setup {
    /// A gate before these servers.
    pub fn before<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self { servers: servers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// A gate before one server.
    pub fn to(server: impl Into<String>) -> Self {
        Self::before([server.into()])
    }

    /// Adds lines to `[server]`. A drain is not spread over time unless they say so.
    pub fn server(mut self, lines: &str) -> Self {
        self.server.extend([lines, "\n"]);
        self
    }

    /// The time of a drain.
    pub fn grace(mut self, grace: &str) -> Self {
        self.grace = Some(grace.to_owned());
        self
    }

    /// Adds lines to the listener.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener.extend([lines, "\n"]);
        self
    }

    /// Listens here instead of on a port of `127.0.0.1`.
    pub fn listen(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// Speaks TLS with the leaf `localhost` of `pki`, and as these further keys say.
    pub fn tls(mut self, pki: &Arc<Pki>, keys: &str) -> Self {
        let leaf = pki.leaf("localhost");
        let more = if keys.is_empty() { String::new() } else { format!(", {keys}") };
        self.tls =
            Some(format!("cert = \"{}\", key = \"{}\"{more}", leaf.cert.display(), leaf.key.display()));
        self.pki = Some(Arc::clone(pki));
        self
    }

    /// Speaks TLS as these keys say.
    pub fn tls_keys(mut self, keys: String, pki: &Arc<Pki>) -> Self {
        self.tls = Some(keys);
        self.pki = Some(Arc::clone(pki));
        self
    }

    /// Adds lines to the upstream.
    pub fn upstream(mut self, lines: &str) -> Self {
        self.upstream.extend([lines, "\n"]);
        self
    }

    /// Adds lines to the route.
    pub fn route(mut self, lines: &str) -> Self {
        self.route.extend([lines, "\n"]);
        self
    }

    /// Adds whole tables, before the route.
    pub fn more(mut self, text: &str) -> Self {
        self.more.extend([text, "\n"]);
        self
    }

    /// The text of its `proxy.toml`.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        let grace = self.grace.as_deref().unwrap_or("10s");
        let _ = writeln!(text, "[server]\nworkers = 1\nshutdown_grace = \"{grace}\"\n{}", self.server);
        if !self.server.contains("drain_spread") {
            let _ = writeln!(text, "drain_spread = \"0s\"");
        }
        let address = self.address.as_deref().unwrap_or("127.0.0.1:0");
        let _ = writeln!(text, "[[listener]]\naddress = \"{address}\"\n{}", self.listener);
        if let Some(tls) = &self.tls {
            let _ = writeln!(text, "tls = {{ {tls} }}");
        }
        let servers: Vec<_> = self.servers.iter().map(|server| format!("\"{server}\"")).collect();
        if !servers.is_empty() {
            let _ = writeln!(text, "[upstream.main]\nservers = [{}]\n{}", servers.join(", "), self.upstream);
        }
        let _ = writeln!(text, "{}", self.more);
        if !servers.is_empty() {
            let _ = writeln!(text, "[[route]]\nname = \"main\"\nupstream = \"main\"\n{}", self.route);
        }
        text
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Gate {
        Gate::start(&self.toml(), self.pki)
    }
}

/// A gate that runs. Its drop ends it and looks that nothing of it is left.
pub struct Gate {
    server: Option<Server>,
    handle: ServerHandle,
    keeper: Arc<Keeper>,
    records: Records,
    pki: Option<Arc<Pki>>,
    folder: TempDir,
    _watchdog: Watchdog,
}

impl Gate {
    /// The gate that this `proxy.toml` describes.
    #[track_caller]
    pub fn start(toml: &str, pki: Option<Arc<Pki>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, toml).expect("a file");
        let loaded = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let (sink, records) = AccessSink::memory();
        let admin = loaded.config.admin.as_ref();
        let admin = admin.map(|table| admin::bind(table, &Inherited::default()).expect("an admin address"));
        let server = Server::start(loaded, ConfigSource::File(path), sink).expect("a gate");
        let keeper = Keeper::open(admin, &server.handle()).expect("an admin listener");
        let watchdog = Watchdog::new();
        Self {
            keeper,
            handle: server.handle(),
            server: Some(server),
            records,
            pki,
            folder,
            _watchdog: watchdog,
        }
    }

    /// Puts this `proxy.toml` in force.
    #[track_caller]
    pub fn reload(&self, toml: &str) -> ReloadReport {
        self.try_reload(toml).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Self::reload`] that may fail.
    pub fn try_reload(&self, toml: &str) -> Result<ReloadReport, ReloadError> {
        std::fs::write(self.file(), toml).expect("a file");
        self.handle.reload()
    }

    /// Its `proxy.toml`.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }

    /// What tells of it and orders it.
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Where its admin listener is, if there is one.
    pub fn admin(&self) -> Option<ListenAddress> {
        self.keeper.address()
    }

    /// The socket address of the listener at this place of the file.
    #[track_caller]
    pub fn address_of(&self, listener: usize) -> SocketAddr {
        match &self.handle.addresses()[listener] {
            ListenAddress::Inet(address) => *address,
            ListenAddress::Unix(path) => panic!("a unix socket: {}", path.display()),
        }
    }

    /// The socket address of the first listener.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// The path of the first listener.
    pub fn path(&self) -> PathBuf {
        match &self.handle.addresses()[0] {
            ListenAddress::Unix(path) => path.clone(),
            ListenAddress::Inet(address) => panic!("no unix socket: {address}"),
        }
    }

    /// A client of the first listener, over TLS if it speaks that.
    pub async fn client(&self) -> Peer {
        match &self.pki {
            None => Peer::dial(self.address()).await,
            Some(pki) => pki.client(self.address(), "localhost", &pki.client_config()).await,
        }
    }

    /// A client that has asked this.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Peer {
        let mut client = self.client().await;
        client.send(request).await;
        client
    }

    /// A client with an open tunnel, and the backend's end of it.
    pub async fn tunnel(&self, backend: &super::Backend) -> (Peer, Peer) {
        let mut client = self.ask(super::OFFER).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(super::AGREED).await;
        assert_eq!(client.read_head().await.status(), 101);
        (client, server)
    }

    /// The first record that `wanted` is true of.
    #[track_caller]
    pub fn record(&self, wanted: impl Fn(&Record) -> bool) -> impl Future<Output = Record> {
        soon("an access record", self.records.find(wanted))
    }

    /// The first record of this kind.
    #[track_caller]
    pub fn record_of(&self, kind: Kind) -> impl Future<Output = Record> {
        self.record(move |record| record.kind == kind)
    }

    /// The record of a tunnel's end.
    #[track_caller]
    pub fn tunnel_end(&self) -> impl Future<Output = Record> {
        self.record_of(Kind::TunnelEnd)
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.all()
    }

    /// Gives the order to drain.
    pub fn drain(&self) {
        self.handle.drain();
    }

    /// Gives the order to cut what is open, as a second signal does.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Waits until the gate holds nothing any more: no connection, no lease, no place.
    pub async fn at_rest(&self) {
        soon("the gate to be at rest", async {
            while self.is_busy() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    fn is_busy(&self) -> bool {
        open(&self.handle) > 0
    }

    /// Waits until so many connections have been accepted and are open.
    pub async fn has_connections(&self, count: usize) {
        soon("connections to be accepted", async {
            while self.handle.connections() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until so many TLS handshakes are in flight.
    pub async fn has_tls_handshakes(&self, count: usize) {
        soon("TLS handshakes to begin", async {
            while self.handle.tls_handshakes() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// The workers' runtimes.
    pub fn workers(&self) -> Vec<tokio::runtime::Handle> {
        self.handle.workers().to_vec()
    }

    /// What all tunnels have carried so far.
    pub fn carried(&self) -> wsgate::tunnel::Sum {
        self.handle.gate().totals.sum()
    }

    /// Waits until no more leases than this are out.
    pub async fn leases_fall_to(&self, most: usize) {
        soon("leases to be given back", async {
            while self.leases() > most {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Leases that are out.
    pub fn leases(&self) -> usize {
        self.handle.leases()
    }

    /// Places that are taken under `max_connections_per_ip` and `max_tunnels`.
    pub fn places(&self) -> usize {
        self.handle.places()
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.handle.metrics())
    }

    /// Connections that were cut without an answer.
    pub fn cut_unanswered(&self) -> u64 {
        self.handle.cut_unanswered()
    }

    /// Drains, waits for the end and tells how long that took, and what was recorded until then.
    pub async fn drain_and_wait(self) -> (Outcome, std::time::Duration, Vec<Record>) {
        let (began, records) = (Instant::now(), self.records.clone());
        let outcome = self.finish().await;
        (outcome, began.elapsed(), records.all())
    }

    /// Drains, and waits for the end.
    pub async fn finish(mut self) -> Outcome {
        self.drain();
        let server = self.server.take().expect("a running gate");
        let end = tokio::task::spawn_blocking(move || server.wait());
        let outcome = soon("the gate to end", end).await.expect("no panic");
        assert!(!outcome.failed && outcome.panicked == 0, "{outcome:?}");
        outcome
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Which implies a drain. Given before it, the order to drain would reach some tunnels as one.
        self.handle.shutdown();
        let Some(server) = self.server.take() else { return };
        if std::thread::panicking() {
            return;
        }
        let began = Instant::now();
        let handle = &self.handle;
        while open(handle) > 0 {
            assert!(
                began.elapsed() < PATIENCE,
                "left behind: {} connections, {} leases, {} TLS handshakes, {} places",
                handle.connections(),
                handle.leases(),
                handle.tls_handshakes(),
                handle.places()
            );
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        let outcome = server.wait();
        assert!(!outcome.failed && outcome.panicked == 0, "{outcome:?}");
        assert!(self.keeper.close(), "the admin listener panicked");
    }
}

/// All that a gate counts and that ends.
fn open(handle: &ServerHandle) -> usize {
    handle.connections() + handle.leases() + handle.tls_handshakes() + handle.places()
}

/// A path for a unix listener in `folder`, as `address` has it.
pub fn unix_address(folder: &Path) -> String {
    format!("unix:{}", folder.join("gate.sock").display())
}
