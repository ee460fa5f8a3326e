//! The configuration as the rest of the program sees it.
//!
//! A [`Config`] exists only if the file is coherent: every name points somewhere, every certificate is
//! loaded and matches its key, every value lies within its bounds. `file` walks the TOML with its
//! spans, `check` turns it into a [`Config`] or into all of its problems at once, and `report` shows them.

mod address;
mod admin;
mod check;
mod file;
mod headers;
mod htpasswd;
mod identity;
mod keys;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod load;
mod mask;
mod named;
mod rate;
mod report;
mod sameness;
mod secret;
mod summary;
mod upstream;
mod values;
mod written;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap, fmt, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, thread,
    time::Duration,
};

use crate::{
    proto::{
        forward::{HeaderEdits, HostHeader, UnderscoreHeaders},
        network::{Networks, Peers},
        origin::OriginPattern,
    },
    route::{HostPattern, PathPattern, RouteKind},
};

pub use self::{
    admin::Admin,
    check::check_level,
    load::{LoadError, Loaded, Source},
    rate::Rate,
    report::{Problem, Problems, Severity},
    secret::Secret,
    summary::summary,
    upstream::{
        Balance, Check, HashKey, Health, OnRemoved, ProxyProtocol, SameSite, ServerAddress, Sticky, Trust,
        Upstream, UpstreamServer, UpstreamTls,
    },
    values::duration_of,
    written::Written,
};

/// Everything that one `proxy.toml` says, with the defaults filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[log]`.
    pub log: Log,
    /// `[admin]`; `None` where there is no admin listener.
    pub admin: Option<Admin>,
    /// `[[listener]]`, in the order of the file; at least one.
    pub listeners: Vec<Listener>,
    /// `[upstream.NAME]`, in the order of the file.
    pub upstreams: Vec<Upstream>,
    /// `[[route]]`, in the order of the file.
    pub routes: Vec<Route>,
    /// The whole file as it was written.
    pub tables: Written,
    /// The files that it names and that were read for it.
    files: Vec<PathBuf>,
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
    /// For so long after SIGTERM `/readyz` alone says no; then the drain begins.
    pub shutdown_delay: Duration,
    /// Time for tunnels and exchanges to end after SIGTERM; `None` waits without bound.
    pub shutdown_grace: Option<Duration>,
    /// The Close frames of one drain are spread at random over this time, though never over more than half of
    /// `shutdown_grace`; zero sends them at once.
    pub drain_spread: Duration,
    /// The unix socket over which a new process takes over the listening sockets.
    pub upgrade_socket: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_connections: 100_000,
            max_tls_handshakes: 1000,
            shutdown_delay: Duration::ZERO,
            shutdown_grace: Some(Duration::from_secs(20)),
            drain_spread: Duration::from_secs(10),
            upgrade_socket: None,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Who begins each connection with a PROXY header; `None` where nobody does.
    pub proxy_protocol: Option<Peers>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Peers,
    /// The header in which trusted proxies give the client's address.
    pub client_ip_header: Option<String>,
    /// Connections of one client at once.
    pub max_connections_per_ip: Option<NonZeroUsize>,
    /// WebSocket handshakes of one client.
    pub handshake_rate_per_ip: Option<Rate>,
    /// What happens to request headers with `_` in their names.
    pub underscore_headers: UnderscoreHeaders,
    /// Answer every request with 308 to https at this port.
    pub redirect_https: Option<u16>,
    /// Its table as it was written.
    pub table: Written,
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

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { request_head: 64 * 1024, header_count: 128, target: 16 * 1024, early_bytes: 64 * 1024 }
    }
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

impl Default for ListenerTimeouts {
    fn default() -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Self {
            tls_handshake: seconds(10),
            request_head: seconds(10),
            keep_alive: seconds(75),
            request_body: seconds(60),
            write: seconds(60),
        }
    }
}

/// `listener.tls`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Where the certificates come from.
    pub source: CertificateSource,
    /// The lowest version that is spoken.
    pub min_version: TlsVersion,
    /// `None` asks clients for no certificate.
    pub client_auth: Option<ClientAuth>,
    /// `max-age` of Strict-Transport-Security.
    pub hsts: Option<Duration>,
}

/// `listener.tls.client_ca` and `client_auth`.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// Who signs clients' certificates; never empty.
    pub ca: Arc<[rustls::pki_types::CertificateDer<'static>]>,
    /// A client without a certificate is refused. One with a certificate that does not verify always is.
    pub required: bool,
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

/// `[[route]]`: what host, path, subprotocol and kind select.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name in logs and metrics, unique.
    pub name: String,
    /// Hosts that match; never empty.
    pub hosts: Vec<HostPattern>,
    /// Paths that match; never empty.
    pub paths: Vec<PathPattern>,
    /// The subprotocol that a handshake must offer to match.
    pub subprotocol: Option<String>,
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
    /// If not empty, clients of these networks alone are let in.
    pub allow: Networks,
    /// Clients of these networks are not.
    pub deny: Networks,
    /// `None` lets everybody in.
    pub auth: Option<Auth>,
    /// Bytes of a request body; 413 past it.
    pub request_body: Option<u64>,
    /// Tunnels at once; 503 past it.
    pub max_tunnels: Option<NonZeroUsize>,
    /// Which Origins may open tunnels.
    pub origins: Origins,
    /// `[route.websocket]`.
    pub websocket: WebSocket,
    /// Its table as it was written.
    pub table: Written,
}

impl Route {
    /// Names of headers that come from the answer of a server that is asked about a request, and never from a client.
    pub fn copied_headers(&self) -> &[String] {
        self.auth.as_ref().map_or(&[], |auth| &auth.copy_headers)
    }
}

/// `[route.auth]`: at least one of `basic` and `forward`.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Users and their passwords.
    pub basic: Option<Htpasswd>,
    /// Who is asked about a request.
    pub forward: Option<ForwardAuth>,
    /// Headers of the answer that go into the request; a client's own never do.
    pub copy_headers: Vec<String>,
}

/// The users of an htpasswd file.
#[derive(Clone)]
pub struct Htpasswd {
    /// The file.
    pub path: PathBuf,
    /// The bcrypt hash of each user's password. Never empty.
    pub users: Arc<HashMap<String, String>>,
}

impl fmt::Debug for Htpasswd {
    /// Without the hashes, which can be searched for the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd").field("path", &self.path).field("users", &self.users.len()).finish()
    }
}

/// `route.auth.forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuth {
    /// The place in [`Config::upstreams`].
    pub upstream: usize,
    /// The path and query of the question; begins with `/`.
    pub path: String,
}

/// `route.websocket.origins` and `require_origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// A handshake needs an Origin that one of these allows.
    pub allowed: Vec<OriginPattern>,
    /// A handshake without an Origin is refused.
    pub require: bool,
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
    /// What becomes of its tunnels when a reload removes or changes the route.
    pub on_reload: OnRemoved,
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
            on_reload: OnRemoved::Keep,
            close_timeout: seconds(5),
        }
    }
}
