//! The configuration as the rest of the program sees it.
//!
//! A [`Config`] exists only if the file is coherent: every name points somewhere, every certificate is
//! loaded and matches its key, every value lies within its bounds. `file` walks the TOML with its
//! spans, `check` turns it into a [`Config`] or into all of its problems at once, and `report` shows them.

mod address;
mod check;
mod file;
mod headers;
mod identity;
mod keys;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod load;
mod rate;
mod report;
mod summary;
mod values;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    proto::forward::{HeaderEdits, HostHeader, UnderscoreHeaders},
    route::{HostPattern, PathPattern, RouteKind},
};

pub use self::{
    load::{LoadError, Loaded, Source},
    rate::Rate,
    report::{Problem, Problems, Severity},
    summary::summary,
};

/// Everything that one `proxy.toml` says, with the defaults filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[log]`.
    pub log: Log,
    /// `[[listener]]`, in the order of the file; at least one.
    pub listeners: Vec<Listener>,
    /// `[upstream.NAME]`, in the order of the file.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`, in the order of the file.
    pub routes: Vec<Route>,
}

/// `[server]`: what holds for the whole process.
#[derive(Debug, Clone)]
pub struct Server {
    /// Worker threads; `auto` is already resolved to the CPUs that the process may use.
    pub workers: NonZeroUsize,
    /// Downstream connections at once.
    pub max_connections: usize,
    /// TLS handshakes in flight at once.
    pub max_tls_handshakes: usize,
    /// Time for tunnels and exchanges to end after SIGTERM; `None` waits without bound.
    pub shutdown_grace: Option<Duration>,
    /// The Close frames of one drain are spread at random over this time, though never over more than half of
    /// `shutdown_grace`; zero sends them at once.
    pub drain_spread: Duration,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Log {
    /// A tracing filter such as `info` or `wsgate::tunnel=debug`, already checked.
    pub level: String,
    /// How events and access records are written.
    pub format: LogFormat,
    /// Where access records go.
    pub access: AccessLog,
    /// Query parameters whose values are masked.
    pub redact: Vec<String>,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// `log.access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// None are written.
    Off,
    /// Appended to this file.
    File(PathBuf),
}

/// `[[listener]]`: a bound address with its TLS identity.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where it listens.
    pub address: ListenAddress,
    /// `None` speaks plain HTTP.
    pub tls: Option<Tls>,
    /// What happens to request headers with `_` in their names.
    pub underscore_headers: UnderscoreHeaders,
    /// Answer every request with 308 to https at this port.
    pub redirect_https: Option<u16>,
    /// Bounds of what a client may send.
    pub limits: ListenerLimits,
    /// Deadlines; `None` is "off".
    pub timeout: ListenerTimeouts,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IPv4 or IPv6 socket address.
    Inet(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

/// `[listener.limits]`, in bytes but for the count.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Bytes of a request head; 431 past it.
    pub request_head: usize,
    /// Headers of a request; 431 past it.
    pub header_count: usize,
    /// Bytes of a request target; 414 past it.
    pub target: usize,
    /// Bytes held back for a client that sends before the 101 (rule W7).
    pub early_bytes: usize,
}

/// `[listener.timeout]`; `None` is "off".
#[derive(Debug, Clone, Copy)]
pub struct ListenerTimeouts {
    /// For the whole TLS handshake.
    pub tls_handshake: Option<Duration>,
    /// From the first byte of a request to the end of its head.
    pub request_head: Option<Duration>,
    /// Idle between requests.
    pub keep_alive: Option<Duration>,
    /// The period in which a request body must make progress (rule S1).
    pub request_body: Option<Duration>,
    /// The period in which a client must take what waits for it (rule S1).
    pub write: Option<Duration>,
}

/// `listener.tls`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where the certificates come from.
    pub source: CertificateSource,
    /// The lowest version that is spoken.
    pub min_version: TlsVersion,
    /// `max-age` of Strict-Transport-Security.
    pub hsts: Option<Duration>,
}

/// Where a listener's certificates come from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// PEM files, loaded; the first answers an unknown or absent SNI. Never empty.
    Files(Vec<Identity>),
    /// Development: these names and addresses get a leaf of the local CA in `folder`.
    SelfSigned {
        /// DNS names and IP addresses of the leaf. Never empty.
        names: Vec<String>,
        /// The folder of `ca.crt`, `ca.key`, `server.crt` and `server.key`.
        folder: PathBuf,
    },
}

/// A certificate chain and its key, loaded and matching.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The chain's PEM file.
    pub cert: PathBuf,
    /// The key's PEM file.
    pub key: PathBuf,
    /// What rustls signs with.
    pub certified: Arc<rustls::sign::CertifiedKey>,
    /// DNS names and IP addresses of the leaf's subjectAltName.
    pub names: Vec<String>,
    /// The leaf's notAfter.
    pub not_after: time::OffsetDateTime,
}

/// The lowest TLS version of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// `[upstream.NAME]`: a pool of servers.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its name in routes, logs and metrics.
    pub name: String,
    /// Its servers, in the order of the file. Never empty.
    pub servers: Vec<UpstreamServer>,
    /// How one of them is picked.
    pub balance: Balance,
    /// For one connect.
    pub connect_timeout: Option<Duration>,
    /// From the request being sent to the end of the answer's head, for WebSocket handshakes.
    pub handshake_timeout: Option<Duration>,
    /// The same for plain requests.
    pub response_timeout: Option<Duration>,
    /// Between two reads of a response body; `text/event-stream` gets an hour where this is shorter.
    pub response_body_timeout: Option<Duration>,
    /// Other servers tried when a connect fails.
    pub retries: u32,
    /// Over all tries.
    pub retry_deadline: Option<Duration>,
    /// Idle connections kept per server.
    pub keep_alive: usize,
    /// How long an idle one is kept.
    pub keep_alive_timeout: Option<Duration>,
    /// The cookie that keeps a client at its server.
    pub sticky: Option<Sticky>,
    /// Local addresses to connect from, in turn; empty leaves it to the system.
    pub source_addresses: Vec<IpAddr>,
    /// A WebSocket handshake that was sent and got no answer is tried elsewhere.
    pub retry_handshakes: bool,
    /// How long an answer for a name is used; `None` asks once.
    pub dns_refresh: Option<Duration>,
    /// How long a server that came back takes to get its whole share.
    pub slow_start: Option<Duration>,
    /// Failures within `fail_timeout` that take a server out; `None` never does.
    pub max_fails: Option<u32>,
    /// The window of `max_fails`, and how long the server stays out.
    pub fail_timeout: Duration,
    /// What becomes of the tunnels of a server that left.
    pub on_removed: OnRemoved,
    /// The PROXY header that is sent to servers.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `None` speaks plain TCP.
    pub tls: Option<UpstreamTls>,
    /// `None` has passive checks alone.
    pub health: Option<Health>,
}

/// One entry of `upstream.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Where it is.
    pub address: ServerAddress,
    /// Its share of new connections relative to the others; at least 1.
    pub weight: u32,
    /// It gets connections only while none of the others can.
    pub backup: bool,
    /// Tunnels and exchanges at once; `None` is without bound.
    pub max_connections: Option<usize>,
}

/// Where a server of a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A literal IP address and port.
    Inet(SocketAddr),
    /// A DNS name and port.
    Name {
        /// The name as written.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A unix socket's path.
    Unix(PathBuf),
    /// The servers of a DNS SRV record, by its name: `_ws._tcp.example.com`.
    Srv(String),
}

/// `upstream.balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// The fewest open tunnels and exchanges for its weight.
    LeastConnections,
    /// In turn, smoothly weighted.
    RoundRobin,
    /// The less loaded of two drawn by weight.
    RandomTwo,
    /// By a hash of the request, the same on every replica with the same list.
    ConsistentHash(HashKey),
}

/// `upstream.hash_key`: what of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The path without the query.
    Path,
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// A query parameter's value.
    Query(String),
}

/// `upstream.sticky_cookie` and `sticky_same_site`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// Its `SameSite`.
    pub same_site: SameSite,
}

/// `upstream.sticky_same_site`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// `Lax`.
    Lax,
    /// `Strict`.
    Strict,
    /// `None`, which browsers take with `Secure` only.
    None,
}

/// `upstream.on_removed`: what becomes of the tunnels of a server that was removed or failed its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoved {
    /// They stay.
    Keep,
    /// They are drained, spread over `server.drain_spread`.
    Drain,
    /// They are drained at once.
    Close,
}

/// `upstream.proxy_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// `[upstream.NAME.tls]`.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// The name that is sent and checked; `None` is the server's host.
    pub server_name: Option<rustls::pki_types::ServerName<'static>>,
    /// Who is trusted.
    pub trust: Trust,
    /// The client certificate.
    pub identity: Option<Identity>,
}

/// Whom `[upstream.NAME.tls]` trusts.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The system's roots.
    System,
    /// The certificates of `ca`; never empty.
    Ca(Arc<[rustls::pki_types::CertificateDer<'static>]>),
    /// Anybody: `verify = false`.
    Anybody,
}

/// `[upstream.NAME.health]`.
#[derive(Clone)]
pub struct Health {
    /// How a server is checked.
    pub check: Check,
    /// The path of the request.
    pub path: String,
    /// Its Host; `None` is the server's.
    pub host: Option<String>,
    /// Its further headers.
    pub headers: Vec<(String, String)>,
    /// The subprotocol that the websocket check offers.
    pub subprotocol: Option<String>,
    /// For http the healthy answers; for websocket those other than 101 that count as healthy too.
    pub expect_status: Vec<u16>,
    /// The websocket check waits for a Pong as well.
    pub ping: bool,
    /// Between two checks of a server, give or take a tenth.
    pub interval: Duration,
    /// For one check in all.
    pub timeout: Duration,
    /// Good checks in a row that bring a server back; at least 1.
    pub rise: u32,
    /// Bad checks in a row that take it out; at least 1.
    pub fall: u32,
}

impl fmt::Debug for Health {
    /// Of the headers the names alone: what is sent is often a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            path,
            host,
            headers,
            subprotocol,
            expect_status,
            ping,
            interval,
            timeout,
            rise,
            fall,
        } = self;
        let headers: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Health")
            .field("check", check)
            .field("path", path)
            .field("host", host)
            .field("headers", &headers)
            .field("subprotocol", subprotocol)
            .field("expect_status", expect_status)
            .field("ping", ping)
            .field("interval", interval)
            .field("timeout", timeout)
            .field("rise", rise)
            .field("fall", fall)
            .finish()
    }
}

/// `upstream.health.check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// An opening handshake with a key of its own, then a Close.
    Websocket,
    /// A GET.
    Http,
    /// A connect.
    Tcp,
}

/// `[[route]]`: what host, path and kind select.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name in logs and metrics, unique.
    pub name: String,
    /// Hosts that match; never empty.
    pub hosts: Vec<HostPattern>,
    /// Paths that match; never empty.
    pub paths: Vec<PathPattern>,
    /// Which requests match.
    pub kind: RouteKind,
    /// What is done with a request.
    pub action: Action,
    /// Taken off the path before it goes upstream.
    pub strip_prefix: Option<String>,
    /// The Host that goes upstream.
    pub host_header: HostHeader,
    /// The pseudonym of a Via header.
    pub via: Option<String>,
    /// Edits of the request's headers.
    pub request_headers: HeaderEdits,
    /// Edits of the response's headers.
    pub response_headers: HeaderEdits,
    /// Bytes of a request body; 413 past it.
    pub request_body: Option<u64>,
    /// `[route.websocket]`.
    pub websocket: WebSocket,
}

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Forward it to the pool at this place of [`Config::upstreams`].
    Upstream(usize),
    /// Answer with a redirect. In `to`, `{path}` stands for the request's path and query as sent and
    /// `{host}` for its host without the port.
    Redirect {
        /// The Location, with its placeholders.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Answer with this.
    Respond {
        /// 200 to 599.
        status: u16,
        /// Sent as text/plain; charset=utf-8.
        body: String,
    },
}

/// `[route.websocket]`; `None` is "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocket {
    /// What an illegal frame does.
    pub frames: Frames,
    /// Whether Sec-WebSocket-Accept is compared.
    pub verify_accept: bool,
    /// No byte either way for so long ends a tunnel; an answered Ping of wsgate's counts as life.
    pub idle_timeout: Option<Duration>,
    /// Who is asked for a sign of life.
    pub ping: Ping,
    /// A side that sent no byte for so long is asked; `None` asks nobody.
    pub ping_interval: Option<Duration>,
    /// No byte by then from a side that has answered before: it is dead. Also `TCP_USER_TIMEOUT` of both sides;
    /// at most a day, so that it fits there in milliseconds.
    pub pong_timeout: Option<Duration>,
    /// How long a tunnel stands of which one direction has ended.
    pub half_close_timeout: Option<Duration>,
    /// Bytes of a frame's payload; Close 1009 past it. Never 0.
    pub max_frame: Option<u64>,
    /// Bytes of a message's payload over all its fragments; Close 1009 past it. Never 0.
    pub max_message: Option<u64>,
    /// Frames of any kind from the client; Close 1008 past it.
    pub message_rate: Option<Rate>,
    /// A tunnel older than this, by up to a tenth more or less, is drained.
    pub max_age: Option<Duration>,
    /// After a Close frame was sent: time for the peer's answer.
    pub close_timeout: Option<Duration>,
}

/// `route.websocket.frames`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// An illegal frame ends the tunnel with Close 1002.
    Enforce,
    /// It is counted and logged, and the bytes pass.
    Observe,
}

/// `route.websocket.ping`: which sides of a tunnel get Pings of wsgate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// Clients and servers.
    Both,
    /// Clients alone.
    Clients,
    /// Servers alone.
    Upstreams,
    /// Nobody: nothing is put into the streams for this.
    Off,
}

impl Ping {
    /// Whether clients get them.
    pub fn clients(self) -> bool {
        matches!(self, Self::Both | Self::Clients)
    }

    /// Whether servers get them.
    pub fn upstreams(self) -> bool {
        matches!(self, Self::Both | Self::Upstreams)
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Self {
            frames: Frames::Enforce,
            verify_accept: true,
            idle_timeout: seconds(3600),
            ping: Ping::Both,
            ping_interval: seconds(30),
            pong_timeout: seconds(20),
            half_close_timeout: seconds(30),
            max_frame: None,
            max_message: None,
            message_rate: None,
            max_age: None,
            close_timeout: seconds(5),
        }
    }
}
