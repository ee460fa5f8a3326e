//! What an administrator can see and order: the seam between this room and the process that it tells of.

use std::{future::Future, pin::Pin};

use serde::Serialize;

use crate::{
    config::OnRemoved,
    connection::tunnels::{Page, TunnelFilter},
    ending::AdminClose,
    server::{Readiness, ReloadError, ReloadReport, Usage},
    upstream::PoolView,
};

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

    /// The upstreams in force with their endpoints, in the order of the file.
    fn upstreams(&self) -> Vec<PoolView>;

    /// The open tunnels that `filter` lets through, in the order of their ids, from the first one after `after`, and no more
    /// than `limit`.
    fn tunnels(&self, filter: TunnelFilter, after: Option<u64>, limit: usize) -> Later<'_, Page>;

    /// Closes the open tunnels that `filter` lets through; how many were not closing already.
    fn close_tunnels(&self, filter: TunnelFilter, close: AdminClose) -> Later<'_, usize>;

    /// Gives an endpoint nothing new until it is restored, and deals with its tunnels. `false` if there is no such endpoint.
    fn drain_endpoint(&self, upstream: &str, endpoint: &str, tunnels: OnRemoved) -> bool;

    /// Takes [`Self::drain_endpoint`] back. `false` if there is no such endpoint.
    fn restore_endpoint(&self, upstream: &str, endpoint: &str) -> bool;

    /// The filter of the events that are logged.
    fn log_level(&self) -> String;

    /// Changes it until the next reload that changes `[log]`, or the end.
    ///
    /// # Errors
    /// What is wrong with the filter.
    fn set_log_level(&self, level: &str) -> Result<(), String>;

    /// Reads the configuration again and puts it in force. Blocks until that is done.
    ///
    /// # Errors
    /// Nothing has changed.
    fn reload(&self) -> Result<ReloadReport, ReloadError>;

    /// What `/metrics` tells, as `OpenMetrics` text.
    fn metrics(&self) -> String;
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
    pub tunnels: u64,
    /// Worker threads.
    pub workers: usize,
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
