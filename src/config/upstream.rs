//! `[upstream.NAME]` as the rest of the program sees it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{Identity, Written};

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
    /// Its table as it was written.
    pub table: Written,
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

/// `upstream.on_removed` and `route.websocket.on_reload`: what becomes of the tunnels of a server or a route that is no more.
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
