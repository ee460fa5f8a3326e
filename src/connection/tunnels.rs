//! The tunnels that are open: listed, and closed by an administrator.
//!
//! Each is asked in its own task ([`tunnel::visit`]); nothing about it is shared while nobody asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::{runtime::Handle, time::Instant};

use super::{
    OpenTunnel,
    record::{TunnelRecord, direction, pings},
};
use crate::{
    ending::AdminClose,
    proto::network::Network,
    telemetry::{Direction, Pings, format_time},
    tunnel::{self, View},
};

/// Which tunnels are meant: those for which all of this is true. The default means every tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelFilter {
    /// The one with this number.
    pub id: Option<u64>,
    /// Those of the route with this name.
    pub route: Option<String>,
    /// Those at the endpoint with this name.
    pub endpoint: Option<String>,
    /// Those of clients with an address in this network.
    pub client: Option<Network>,
    /// Those that came through the listener with this address, as configured.
    pub listener: Option<String>,
    /// Those that have stood for so long.
    pub min_age: Option<Duration>,
    /// Those that have stood for no longer.
    pub max_age: Option<Duration>,
    /// Those in which neither side has sent a byte for so long.
    pub min_idle: Option<Duration>,
}

impl TunnelFilter {
    /// Whether a tunnel is meant that keeps this record, or none.
    fn names(&self, record: Option<&TunnelRecord>) -> bool {
        let Self { id, route, endpoint, client, listener, min_age: _, max_age: _, min_idle: _ } = self;
        let Some(record) = record else {
            return id.is_none()
                && route.is_none()
                && endpoint.is_none()
                && client.is_none()
                && listener.is_none();
        };
        id.is_none_or(|id| id == record.id())
            && route.as_deref().is_none_or(|route| record.route() == Some(route))
            && endpoint.as_deref().is_none_or(|endpoint| record.endpoint() == Some(endpoint))
            && listener.as_deref().is_none_or(|listener| record.listener() == listener)
            && client.is_none_or(|network| record.client_ip().is_some_and(|ip| network.contains(ip)))
    }

    /// Whether a tunnel is meant that stands like this.
    fn fits(&self, view: &View) -> bool {
        self.min_age.is_none_or(|least| view.age >= least)
            && self.max_age.is_none_or(|most| view.age <= most)
            && self.min_idle.is_none_or(|least| view.idle() >= least)
    }
}

/// One tunnel of a list. What does not apply is absent.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelRow {
    /// Its number; they are counted from 1 since the process began, and none is used twice.
    pub id: u64,
    /// That of its handshake, as in the access log.
    pub request_id: Box<str>,
    /// The client's address, with the port where it is known, or `unix`.
    pub client: Box<str>,
    /// Who connected, where that is another: a proxy's address and port, or `unix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Box<str>>,
    /// The listener's address as configured.
    pub listener: Arc<str>,
    /// The handshake's host without the port.
    pub host: Box<str>,
    /// The handshake's target, with secrets masked.
    pub target: Box<str>,
    /// The subprotocol that was agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<Box<str>>,
    /// Who has proven to be whom, by a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
    /// The route that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The server that it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    /// When it was opened, UTC (RFC 3339).
    pub opened: String,
    /// Milliseconds since then.
    pub age_ms: u64,
    /// Milliseconds since the last byte of either side.
    pub idle_ms: u64,
    /// What the client sent so far.
    pub from_client: Direction,
    /// What the backend sent so far.
    pub from_backend: Direction,
    /// wsgate's Pings to the client, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_pings: Option<Pings>,
    /// wsgate's Pings to the backend, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_pings: Option<Pings>,
    /// The label of its end, if that has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing: Option<&'static str>,
}

impl TunnelRow {
    fn new(record: &TunnelRecord, view: &View) -> Self {
        let told = record.record();
        Self {
            id: record.id(),
            request_id: told.request_id,
            client: told.client,
            peer: told.peer,
            listener: told.listener,
            host: told.host,
            target: told.target,
            subprotocol: told.subprotocol,
            user: told.user,
            route: told.route,
            endpoint: told.endpoint,
            opened: format_time(OffsetDateTime::now_utc() - view.age),
            age_ms: millis(view.age),
            idle_ms: millis(view.idle()),
            from_client: direction(&view.client),
            from_backend: direction(&view.backend),
            client_pings: pings(&view.client_pings),
            backend_pings: pings(&view.backend_pings),
            closing: view.closing,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A part of a list of tunnels, in the order of their numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Page {
    /// The tunnels.
    #[serde(rename = "tunnels")]
    pub rows: Vec<TunnelRow>,
    /// How many are meant, over all pages.
    pub total: usize,
    /// How many more are meant of which nothing is known: they were opened while there was neither an access log nor a list.
    pub unlisted: usize,
    /// Behind which number the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// What a visit is for.
#[derive(Debug)]
enum Wish {
    List(Arc<List>),
    Close(AdminClose, Arc<AtomicUsize>),
}

/// A list that is being made: no more rows than one page has.
#[derive(Debug)]
struct List {
    after: u64,
    limit: usize,
    rows: Mutex<BTreeMap<u64, TunnelRow>>,
    /// Those that are meant, on this page and behind it.
    behind: AtomicUsize,
    total: AtomicUsize,
    unlisted: AtomicUsize,
}

impl List {
    fn add(&self, record: Option<&TunnelRecord>, view: &View) {
        let Some(record) = record else {
            self.unlisted.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.total.fetch_add(1, Ordering::Relaxed);
        if record.id() <= self.after {
            return;
        }
        self.behind.fetch_add(1, Ordering::Relaxed);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = rows.len() >= self.limit;
        if is_full && rows.last_key_value().is_some_and(|(last, _)| *last < record.id()) {
            return;
        }
        rows.insert(record.id(), TunnelRow::new(record, view));
        if is_full {
            rows.pop_last();
        }
    }

    fn page(&self) -> Page {
        let rows = std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner));
        let is_last = self.behind.load(Ordering::Relaxed) <= rows.len();
        Page {
            next: rows.last_key_value().map(|(last, _)| *last).filter(|_| !is_last),
            rows: rows.into_values().collect(),
            total: self.total.load(Ordering::Relaxed),
            unlisted: self.unlisted.load(Ordering::Relaxed),
        }
    }
}

/// What comes to each tunnel.
#[derive(Debug)]
struct Visit {
    filter: TunnelFilter,
    wish: Wish,
}

/// Does what a visit wants of this tunnel.
pub(super) fn receive(visit: &tunnel::Visit, open: &mut OpenTunnel) {
    let Some(Visit { filter, wish }) = visit.downcast_ref() else { return };
    let record = open.record.as_deref();
    if !filter.names(record) {
        return;
    }
    let view = open.tunnel.view(Instant::now());
    if !filter.fits(&view) {
        return;
    }
    match wish {
        Wish::List(list) => list.add(record, &view),
        Wish::Close(close, closed) => {
            let has_begun = open.tunnel.close_for_admin(close.clone());
            closed.fetch_add(has_begun.into(), Ordering::Relaxed);
        }
    }
}

/// Visits every tunnel of these workers, and waits until each has had the visit or has ended.
async fn visit_all(workers: &[Handle], filter: TunnelFilter, wish: Wish) {
    let visit: tunnel::Visit = Arc::new(Visit { filter, wish });
    let rounds: Vec<_> =
        workers.iter().map(|worker| worker.spawn(tunnel::visit(Arc::clone(&visit)))).collect();
    for round in rounds {
        // A worker that has ended has no tunnels.
        let _ = round.await;
    }
}

/// The tunnels of these workers' runtimes that `filter` means, at most `limit` of them (at least one) with numbers over `after`. In
/// memory it holds no more.
pub async fn list(workers: &[Handle], filter: TunnelFilter, after: Option<u64>, limit: usize) -> Page {
    let list = Arc::new(List {
        after: after.unwrap_or(0),
        limit: limit.max(1),
        rows: Mutex::default(),
        behind: AtomicUsize::new(0),
        total: AtomicUsize::new(0),
        unlisted: AtomicUsize::new(0),
    });
    visit_all(workers, filter, Wish::List(Arc::clone(&list))).await;
    list.page()
}

/// Closes the tunnels that `filter` means, each at its next message boundary (rule T9). Returns how many began to close; those that
/// did already are not among them.
pub async fn close(workers: &[Handle], filter: TunnelFilter, close: AdminClose) -> usize {
    let closed = Arc::new(AtomicUsize::new(0));
    visit_all(workers, filter, Wish::Close(close, Arc::clone(&closed))).await;
    closed.load(Ordering::Relaxed)
}
