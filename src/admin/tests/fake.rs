//! A process that is none.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    admin::{
        CertificateStatus, Configuration, Control, DrainProgress, LastReload, Later, ListenerStatus, Status,
    },
    config::OnRemoved,
    connection::tunnels::{Page, TunnelFilter, TunnelRow},
    ending::{AdminClose, Side, TunnelEnd},
    server::{Changes, Readiness, ReloadError, ReloadReport, Usage},
    telemetry::{Direction, Pings},
    upstream::{
        Bucket, CheckView, ConnectFailures, CountsView, EndpointState, EndpointView, FailureView,
        HistogramView, PoolView,
    },
};

/// A process that remembers what it was ordered.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) readiness: Mutex<Readiness>,
    orders: Mutex<Vec<String>>,
    level: Mutex<String>,
    /// What goes wrong with the next reload.
    pub(super) wrong: Mutex<Option<ReloadError>>,
}

impl Fake {
    fn note(&self, order: String) {
        self.orders.lock().unwrap().push(order);
    }

    pub(super) fn orders(&self) -> Vec<String> {
        std::mem::take(&mut *self.orders.lock().unwrap())
    }
}

const TIME: &str = "2026-01-01T00:00:00Z";

fn pings() -> Pings {
    let time = Some(Duration::from_millis(5));
    Pings { sent: 2, lost: 1, round_trip: time, longest_round_trip: time }
}

fn changes() -> Changes {
    let names = || vec!["a".to_owned()];
    Changes { added: names(), removed: names(), changed: names(), unchanged: names() }
}

fn report() -> ReloadReport {
    ReloadReport {
        generation: 2,
        listeners: changes(),
        upstreams: changes(),
        routes: changes(),
        warnings: vec!["hardly meant so".into()],
    }
}

pub(super) fn fake() -> Arc<Fake> {
    Arc::new(Fake {
        readiness: Mutex::new(Readiness::Ready),
        orders: Mutex::default(),
        level: Mutex::new("info".into()),
        wrong: Mutex::default(),
    })
}

fn endpoint() -> EndpointView {
    let buckets = vec![Bucket { up_to_s: Some(0.001), count: 1 }];
    let once = || HistogramView { count: 1, sum_s: 0.001, buckets: buckets.clone() };
    EndpointView {
        name: "unix:/run/chat.sock".into(),
        addresses: vec!["unix:/run/chat.sock".into()],
        weight: 1,
        group: 0,
        max_connections: None,
        open: 1,
        idle: 0,
        state: EndpointState::In,
        state_for_s: None,
        back_in_s: None,
        share: 1.0,
        last_failure: Some(FailureView { reason: "refused".into(), ago_s: 1.0 }),
        last_check: Some(CheckView { passed: true, took_s: 0.1, ago_s: 1.0 }),
        counts: CountsView {
            connects_failed: ConnectFailures { failed: 0, timed_out: 0, tls: 0, unresolved: 0 },
            connect: once(),
            tls_handshake: once(),
            reused: 0,
            stale: 0,
            checks_passed: 0,
            checks_failed: 0,
            times_out: 0,
        },
    }
}

fn tunnel(id: u64) -> TunnelRow {
    TunnelRow {
        id,
        request_id: "0123".into(),
        client: "192.0.2.1:50000".into(),
        peer: Some("198.51.100.1:4000".into()),
        listener: "127.0.0.1:443".into(),
        host: "chat.example".into(),
        target: "/".into(),
        subprotocol: Some("told".into()),
        user: Some("told".into()),
        route: Some("chat".into()),
        endpoint: Some("unix:/run/chat.sock".into()),
        opened: "2026-01-01T00:00:00.000Z".into(),
        age_ms: 1000,
        idle_ms: 10,
        from_client: Direction::default(),
        from_backend: Direction::default(),
        client_pings: Some(pings()),
        backend_pings: Some(pings()),
        closing: Some("admin"),
    }
}

impl Control for Fake {
    fn readiness(&self) -> Readiness {
        *self.readiness.lock().unwrap()
    }

    fn status(&self) -> Status {
        Status {
            version: "1.2.3".into(),
            pid: 7,
            started: TIME.into(),
            uptime_s: 60,
            readiness: self.readiness(),
            generation: 1,
            last_reload: Some(LastReload { at: TIME.into(), ok: false, error: Some("wrong".into()) }),
            drain: Some(DrainProgress { began_with: 3, open: 1 }),
            connections: Usage { in_use: 1, max: 10 },
            tls_handshakes: Usage { in_use: 0, max: 5 },
            tunnels: 1,
            workers: 2,
        }
    }

    fn configuration(&self) -> Configuration {
        let config = toml::from_str("[admin]\ntoken = \"***\"\n").unwrap();
        Configuration { file: Some("proxy.toml".into()), generation: 1, config }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let certificates = vec![CertificateStatus { names: vec!["a.test".into()], not_after: TIME.into() }];
        vec![ListenerStatus { address: "127.0.0.1:443".into(), tls: true, certificates, cut_unanswered: 0 }]
    }

    fn upstreams(&self) -> Vec<PoolView> {
        vec![PoolView { name: "chat".into(), retries: 0, endpoints: vec![endpoint()] }]
    }

    fn tunnels(&self, filter: TunnelFilter, after: Option<u64>, limit: usize) -> Later<'_, Page> {
        self.note(format!("list {filter:?} {after:?} {limit}"));
        let is_there = filter.id.is_none_or(|id| id == 42 || id == 43);
        let rows = if is_there { vec![tunnel(filter.id.unwrap_or(42))] } else { Vec::new() };
        Box::pin(async move { Page { total: rows.len(), rows, unlisted: 0, next: Some(43) } })
    }

    fn close_tunnels(&self, filter: TunnelFilter, close: AdminClose) -> Later<'_, usize> {
        let told = TunnelEnd::Admin(close);
        self.note(format!("close {:?} {:?}", filter.id, told.close_to(Side::Downstream)));
        let closed = match filter.id {
            None => 3,
            Some(id) => usize::from(id == 42),
        };
        Box::pin(async move { closed })
    }

    fn drain_endpoint(&self, upstream: &str, endpoint: &str, tunnels: OnRemoved) -> bool {
        self.note(format!("drain {upstream} {endpoint} {tunnels:?}"));
        endpoint == "unix:/run/chat.sock"
    }

    fn restore_endpoint(&self, upstream: &str, endpoint: &str) -> bool {
        self.note(format!("restore {upstream} {endpoint}"));
        endpoint == "unix:/run/chat.sock"
    }

    fn log_level(&self) -> String {
        self.level.lock().unwrap().clone()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if level == "loud" {
            return Err("`loud` is no level".into());
        }
        level.clone_into(&mut self.level.lock().unwrap());
        Ok(())
    }

    fn reload(&self) -> Result<ReloadReport, ReloadError> {
        self.note("reload".into());
        self.wrong.lock().unwrap().take().map_or_else(|| Ok(report()), Err)
    }

    fn metrics(&self) -> String {
        "# EOF\n".into()
    }
}
