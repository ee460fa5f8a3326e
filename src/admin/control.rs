//! What an administrator can see and order: the seam between this room and the process that it tells of.

use std::{future::Future, pin::Pin, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::{config::OnRemoved, proto::network::Network};

/// An answer that needs the workers, and so some time.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A process that can be asked and ordered. Nothing but [`Self::reload`] blocks.
pub trait Control: Send + Sync + 'static {
    /// Whether new connections should be sent here.
    fn readiness(&self) -> Readiness;

    /// How the process is.
    fn status(&self) -> Status;

    /// The file in force, with its secrets masked (rule S7).
    fn configuration(&self) -> Configuration;

    /// The listeners in force, in the order of the file.
    fn listeners(&self) -> Vec<ListenerStatus>;

    /// The upstreams in force with their endpoints, in the order of the file; each has `name` and `endpoints`, and each of
    /// these `name`.
    fn upstreams(&self) -> Vec<Value>;

    /// The open tunnels that `filter` lets through, in the order of their ids, from the first one after `after`, and no more
    /// than `limit`.
    fn tunnels(&self, filter: TunnelFilter, after: Option<u64>, limit: usize) -> Later<'_, TunnelPage>;

    /// Closes the open tunnels that `filter` lets through; how many were not closing already.
    fn close_tunnels(&self, filter: TunnelFilter, close: Close) -> Later<'_, usize>;

    /// Gives an endpoint nothing new until it is restored, and deals with its tunnels. `false` if there is no such endpoint.
    fn drain_endpoint(&self, upstream: &str, endpoint: &str, tunnels: OnRemoved) -> bool;

    /// Takes [`Self::drain_endpoint`] back. `false` if there is no such endpoint.
    fn restore_endpoint(&self, upstream: &str, endpoint: &str) -> bool;

    /// The filter of the events that are logged.
    fn log_level(&self) -> String;

    /// Changes it until the next reload that changes `log.level`, or the end.
    ///
    /// # Errors
    /// What is wrong with the filter.
    fn set_log_level(&self, level: &str) -> Result<(), String>;

    /// Reads the configuration again and puts it in force. Blocks until that is done.
    ///
    /// # Errors
    /// Nothing has changed.
    fn reload(&self) -> Result<ReloadReport, ReloadRefused>;

    /// What `/metrics` tells, as OpenMetrics text.
    fn metrics(&self) -> String;
}

/// Whether new connections should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Yes.
    Ready,
    /// It was told to end and waits for `shutdown_delay`; connections are still accepted.
    ShuttingDown,
    /// Nothing is accepted any more, and what is open has its time to end.
    Draining,
}

impl Readiness {
    /// As `/readyz` says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::ShuttingDown => "shutting down",
            Self::Draining => "draining",
        }
    }
}

/// `GET /api/status`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The version of wsgate.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    /// How long ago that was, in seconds.
    pub uptime_s: u64,
    /// Whether new connections should be sent here.
    pub readiness: Readiness,
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// The last reload; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<LastReload>,
    /// How far the drain has come; absent before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainProgress>,
    /// Downstream connections under `max_connections`.
    pub connections: Usage,
    /// TLS handshakes in flight under `max_tls_handshakes`.
    pub tls_handshakes: Usage,
    /// Open tunnels.
    pub tunnels: usize,
    /// Worker threads.
    pub workers: usize,
}

/// What is taken of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Taken.
    pub in_use: usize,
    /// There are so many.
    pub max: usize,
}

/// How the last reload went.
#[derive(Debug, Clone, Serialize)]
pub struct LastReload {
    /// When, RFC 3339, UTC.
    pub at: String,
    /// Whether it was put in force.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DrainProgress {
    /// Connections that were open when it began.
    pub began_with: usize,
    /// Connections that still are.
    pub open: usize,
}

/// `GET /api/config`.
#[derive(Debug, Clone, Serialize)]
pub struct Configuration {
    /// The file; absent where there is none, as with `run --to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// The tables as they were written, secrets as `***`.
    pub config: toml::Table,
}

/// An element of `GET /api/listeners`.
#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    /// Where it listens; a port of 0 is the one that it got.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its certificates, the first of which answers an unknown SNI.
    pub certificates: Vec<CertificateStatus>,
    /// Connections that were cut unanswered for being far over `max_connections_per_ip`.
    pub cut_unanswered: u64,
}

/// A listener's certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateStatus {
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// When it expires, RFC 3339, UTC.
    pub not_after: String,
}

/// Which tunnels are meant: those that meet all that is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelFilter {
    /// This one.
    pub id: Option<u64>,
    /// Of this route.
    pub route: Option<String>,
    /// To this endpoint.
    pub endpoint: Option<String>,
    /// Of clients of this network.
    pub client: Option<Network>,
    /// Of this listener.
    pub listener: Option<String>,
    /// Open for so long or longer.
    pub min_age: Option<Duration>,
    /// Open for so long or shorter.
    pub max_age: Option<Duration>,
    /// No byte either way for so long or longer.
    pub min_idle: Option<Duration>,
}

/// `GET /api/tunnels`.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelPage {
    /// In the order of their ids.
    pub tunnels: Vec<Value>,
    /// How many the filter lets through.
    pub total: usize,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The Close that an administrator has sent to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// A code that may be sent (RFC 6455 §7.4).
    pub code: u16,
    /// At most 123 bytes.
    pub reason: String,
}

impl Close {
    /// The longest reason, in bytes: a Close is a control frame.
    const LONGEST: usize = 123;

    /// # Errors
    /// The code may not be sent, or the reason does not fit.
    pub fn new(code: u16, reason: String) -> Result<Self, String> {
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(format!(
                "{code} is no code that may be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999"
            ));
        }
        if reason.len() > Self::LONGEST {
            return Err(format!("a reason has at most {} bytes", Self::LONGEST));
        }
        Ok(Self { code, reason })
    }
}

/// What a reload did.
#[derive(Debug, Clone, Serialize)]
pub struct ReloadReport {
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// Addresses of listeners.
    pub listeners: Changes,
    /// Names of upstreams.
    pub upstreams: Changes,
    /// Names of routes.
    pub routes: Changes,
    /// What is hardly meant so in the file, a line each.
    pub warnings: Vec<String>,
}

/// How one kind of tables differs from before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// There were none of these names.
    pub added: Vec<String>,
    /// There are none of these names any more.
    pub removed: Vec<String>,
    /// These say something else.
    pub changed: Vec<String>,
    /// These say what they said.
    pub unchanged: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadRefused {
    /// The file, as `wsgate check` tells it, or what it asks for can't be had.
    Configuration(String),
    /// The process is going down, or was started without a file.
    State(String),
}
