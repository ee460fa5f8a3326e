//! Pools as an administrator and metrics see them: plain data, taken without a lock that a request would wait for.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    endpoint::Endpoint,
    pool::{Inner, Pool},
    set::Rank,
};

/// A pool at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolView {
    /// `[upstream.NAME]`.
    pub name: String,
    /// Retries since the pool came, over all its servers and configurations.
    pub retries: u64,
    /// Its servers in the order of the file, those of an SRV record in the record's place; then those that left and whose
    /// tunnels or exchanges are still open.
    pub endpoints: Vec<EndpointView>,
}

/// A server of a pool at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointView {
    /// As logs name it: `10.0.0.2:80`, `backend:80`, `unix:/run/app.sock`.
    pub name: String,
    /// Where it is as far as is known now; empty while its name has no answer.
    pub addresses: Vec<String>,
    /// Its share relative to the others of its group.
    pub weight: u32,
    /// Servers of a higher group are used while none of a lower one can be: 0, and 1 for `backup`; more for priorities of an
    /// SRV record.
    pub group: u32,
    /// Tunnels and exchanges at once; `None` is without bound.
    pub max_connections: Option<usize>,
    /// Open tunnels and exchanges, those begun under earlier configurations too.
    pub open: usize,
    /// Idle connections kept for reuse.
    pub idle: usize,
    /// Whether it gets anything, and if not why.
    pub state: EndpointState,
    /// For how many seconds it has been in this state; `None` if it never was in another.
    pub state_for_s: Option<f64>,
    /// In how many seconds it is in again; for `out_by_failures` alone.
    pub back_in_s: Option<f64>,
    /// The part of its weight that counts, from 0.1 to 1: less than 1 while `slow_start` lasts.
    pub share: f64,
    /// What last spoke against it, if anything did.
    pub last_failure: Option<FailureView>,
    /// Its last active check; `None` before the first, and without `[upstream.NAME.health]`.
    pub last_check: Option<CheckView>,
    /// Events since it came.
    pub counts: CountsView,
}

/// Whether a server gets anything. If several hold, the first of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It is not in the pool any more.
    Left,
    /// An administrator took it out.
    DrainedByAdmin,
    /// Active checks took it out.
    OutByChecks,
    /// Its name has no answer.
    Unresolved,
    /// `max_fails` took it out for `fail_timeout`.
    OutByFailures,
    /// It is in.
    In,
}

/// What spoke against a server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureView {
    /// In words, 200 bytes at most. It may repeat what the server sent: whoever shows it escapes it (rule S10).
    pub reason: String,
    /// How many seconds ago.
    pub ago_s: f64,
}

/// An active check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckView {
    /// Whether the server passed.
    pub passed: bool,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// How many seconds ago it ended.
    pub ago_s: f64,
}

/// Events at a server since it came to the pool, kept over reloads as long as it stays. Active checks are in none but their
/// own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountsView {
    /// Connects for requests that gave no connection.
    pub connects_failed: ConnectFailures,
    /// Those that gave one: how long TCP, or the unix socket, took.
    pub connect: HistogramView,
    /// The TLS handshakes of these.
    pub tls_handshake: HistogramView,
    /// Requests that were given an idle connection.
    pub reused: u64,
    /// Idle connections that the server had ended, found when one was taken or by the request that was given it.
    pub stale: u64,
    /// Active checks that it passed.
    pub checks_passed: u64,
    /// Active checks that it did not pass.
    pub checks_failed: u64,
    /// How often it went out, whatever for, but for an administrator.
    pub times_out: u64,
}

/// Connects that gave no connection, by what was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConnectFailures {
    /// Refused, unreachable, reset, or for a lack of the own host.
    pub failed: u64,
    /// `connect_timeout`, or `retry_deadline`, had passed.
    pub timed_out: u64,
    /// The TLS handshake.
    pub tls: u64,
    /// The name had no answer, or none in time.
    pub unresolved: u64,
}

/// How long something took, each time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistogramView {
    /// How often.
    pub count: u64,
    /// All times together, in seconds.
    pub sum_s: f64,
    /// From the shortest times to the longest.
    pub buckets: Vec<Bucket>,
}

/// A part of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// The longest time that counts here, in seconds; `None` is without bound.
    pub up_to_s: Option<f64>,
    /// How many, without those of the buckets before.
    pub count: u64,
}

impl EndpointState {
    /// Its name in metrics, as in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::DrainedByAdmin => "drained_by_admin",
            Self::OutByChecks => "out_by_checks",
            Self::Unresolved => "unresolved",
            Self::OutByFailures => "out_by_failures",
            Self::In => "in",
        }
    }
}

impl Pool {
    /// The pool at this moment.
    pub fn view(&self) -> PoolView {
        let Inner { config, set, budget, servers, .. } = &**self.inner();
        let set = set.load();
        let here = set.members().map(|(endpoint, rank, share)| endpoint_view(endpoint, rank, share));
        let left = servers.left(&set).into_iter().filter(|(endpoint, _)| endpoint.open() > 0);
        let left = left.map(|(endpoint, rank)| EndpointView {
            state: EndpointState::Left,
            state_for_s: None,
            back_in_s: None,
            ..endpoint_view(&endpoint, rank, 1.0)
        });
        PoolView { name: config.name.clone(), retries: budget.spent(), endpoints: here.chain(left).collect() }
    }
}

fn endpoint_view(endpoint: &Arc<Endpoint>, rank: Rank, share: f64) -> EndpointView {
    let standing = endpoint.status.state();
    EndpointView {
        name: endpoint.name().to_string(),
        addresses: endpoint.addresses(),
        weight: rank.weight,
        group: rank.group,
        max_connections: endpoint.max_connections(),
        open: endpoint.open(),
        idle: endpoint.idle.count(),
        state: standing.state,
        state_for_s: standing.holds_for.map(|time| time.as_secs_f64()),
        back_in_s: standing.back_in.map(|time| time.as_secs_f64()),
        share,
        last_failure: endpoint.status.last_failure(),
        last_check: endpoint.status.last_check(),
        counts: endpoint.load.counts.view(),
    }
}

/// The state of a server, with its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: EndpointState,
    pub(super) holds_for: Option<Duration>,
    pub(super) back_in: Option<Duration>,
}
