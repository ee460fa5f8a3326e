//! What is counted, for `/metrics`.
//!
//! What happens is counted here when it happens; what is there at a moment, such as open connections, is read off those who
//! have it at each scrape ([`Gauges`]). docs/metrics.md has every name with its labels, and a test compares them.

mod gauges;
mod open;
mod process;
mod series;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

use self::{
    gauges::Scrape,
    open::OpenTunnels,
    process::Process,
    series::{
        Answered, Answering, Counters, Ended, FirstClose, Histograms, OfListener, OfRoute, RefusedHandshake,
        Reload, Shaken, Status, TurnedAway,
    },
};
pub use self::{
    gauges::{
        Buckets, CertificateGauges, Connects, EndpointGauges, Gauges, ListenerGauges, Permitted, PingGauges,
        RouteGauges, UpstreamGauges, WayGauges,
    },
    series::Ending,
};
use super::dropped;
use crate::ending::Side;

/// Upper bounds in seconds: exchanges, and the time until a server's answer begins.
const OF_EXCHANGES: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The same for TLS handshakes.
const OF_TLS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The same for tunnels: a second to a week.
const OF_TUNNELS: [f64; 10] =
    [1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0];

/// The label of requests for which there is no route.
const NO_ROUTE: &str = "none";
/// The reasons for which connections are turned away.
const REASONS: [&str; 3] = ["overload", "per_ip_limit", "cut"];

/// Everything that is counted over the whole process. Shared by all workers; nothing in it is touched on the path of bytes.
///
/// Series are made for what a configuration names. They stay when a reload takes it away, since what was counted was.
pub struct Metrics {
    registry: Registry,
    /// Since the epoch. By the clock: the kernel's word on it is in files that a sandbox may hide.
    started: Duration,
    accepted: Counters<OfListener>,
    accept_errors: Counters<OfListener>,
    turned_away: Counters<TurnedAway>,
    closed: Counter,
    shaken: Counters<Shaken>,
    shaking: Histograms<OfListener>,
    answered: Counters<Answered>,
    refused_handshakes: Counters<RefusedHandshake>,
    endings: Counters<Ended>,
    first_closes: Counters<FirstClose>,
    answering: Histograms<Answering>,
    panics: Counter,
    generation: Gauge,
    reloads: Counters<Reload>,
    reloaded_well: Gauge,
    refreshes: Counters<Reload>,
    refreshed_well: Gauge,
    reloaded_at: Gauge,
    of_routes: OfRoutes,
    routes: Handles<RouteMetrics>,
    upstreams: Handles<UpstreamMetrics>,
    tunnels: OpenTunnels,
}

/// What is counted of each route.
struct OfRoutes {
    duration: Histograms<OfRoute>,
    request_bytes: Counters<OfRoute>,
    response_bytes: Counters<OfRoute>,
    tunnels_opened: Counters<OfRoute>,
    tunnel_duration: Histograms<OfRoute>,
}

/// What is counted of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Arc<str>,
    /// Its counters of answers by status, so far: few, and found sooner than by a hash.
    answered: RwLock<Vec<(Status, Counter)>>,
    duration: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
    tunnels_opened: Counter,
    tunnel_duration: Histogram,
}

/// How long a pool's servers take until their answer has begun.
#[derive(Debug)]
pub struct UpstreamMetrics {
    handshake: Histogram,
    plain: Histogram,
}

/// An exchange that has ended, or become a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Exchanged {
    /// The status of the answer; `None` if there was none.
    pub status: Option<u16>,
    /// What it ended with, if not with what the server said.
    pub ending: Option<Ending>,
    /// It began as an opening handshake.
    pub is_offer: bool,
    /// Bytes that went to the server.
    pub sent: u64,
    /// Bytes that went to the client.
    pub received: u64,
    /// From its first byte to its last.
    pub duration: Duration,
}

/// A TLS handshake that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct Handshake {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// From the client's first byte on.
    pub duration: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut book = Book { registry: Registry::default() };
        let of_routes = OfRoutes {
            duration: book.histograms(
                "wsgate_exchange_duration_seconds",
                "From a request's first byte to the end of its answer, or to the 101",
                || Histogram::new(OF_EXCHANGES),
            ),
            request_bytes: book
                .add("wsgate_request_bytes", "Bytes of requests that went to servers, heads included"),
            response_bytes: book.add(
                "wsgate_response_bytes",
                "Bytes of answers that went to clients, heads included, but for a 101",
            ),
            tunnels_opened: book.add("wsgate_tunnels_opened", "Tunnels that were opened"),
            tunnel_duration: book.histograms(
                "wsgate_tunnel_duration_seconds",
                "How long tunnels that have ended stood",
                || Histogram::new(OF_TUNNELS),
            ),
        };
        Self {
            accepted: book.add("wsgate_connections_accepted", "Connections that were accepted"),
            accept_errors: book.add("wsgate_accept_errors", "Connections that could not be accepted"),
            turned_away: book.add("wsgate_connections_refused", "Connections that were too many"),
            closed: book.add("wsgate_connections_closed", "Accepted connections that have ended"),
            shaken: book.add("wsgate_tls_handshakes", "TLS handshakes of clients by what came of them"),
            shaking: book.histograms(
                "wsgate_tls_handshake_duration_seconds",
                "Duration of clients' TLS handshakes that succeeded, from the first byte",
                || Histogram::new(OF_TLS),
            ),
            answered: book.add("wsgate_exchanges", "Requests by the status of the answer; 101 is a tunnel"),
            refused_handshakes: book
                .add("wsgate_handshakes_refused", "Opening handshakes that did not become tunnels"),
            endings: book.add("wsgate_endings", "What ended other than as a server's answer to its request"),
            first_closes: book.add("wsgate_tunnel_close_codes", "Tunnels by the Close frame that came first"),
            answering: book.histograms(
                "wsgate_upstream_response_head_seconds",
                "From a connection to the head of the server's answer",
                || Histogram::new(OF_EXCHANGES),
            ),
            panics: book.add("wsgate_panics", "Connections that ended in a defect of wsgate"),
            generation: book
                .add("wsgate_config_generation", "The number of the configuration in force, from 1"),
            reloads: book.add("wsgate_config_reloads", "Reloads of the configuration"),
            reloaded_well: book.add(
                "wsgate_config_last_reload_successful",
                "1 if the last reload succeeded, or none was tried",
            ),
            reloaded_at: book.add(
                "wsgate_config_last_reload_success_timestamp_seconds",
                "When the start or a reload put the configuration in force, since the epoch",
            ),
            refreshes: book.add(
                "wsgate_file_refreshes",
                "Times that certificates and the like were read again by themselves",
            ),
            refreshed_well: book.add(
                "wsgate_file_last_refresh_successful",
                "1 if all changed files could be used the last time, or none has changed",
            ),
            of_routes,
            routes: Handles::default(),
            upstreams: Handles::default(),
            tunnels: OpenTunnels::default(),
            registry: book.registry,
            started: since_epoch(),
        }
        .begun()
    }
}

impl Metrics {
    /// What is there from the beginning, so that a rate can tell of the first one.
    fn begun(self) -> Self {
        for result in ["ok", "failed"] {
            drop(self.reloads.get_or_create(&Reload { result }));
            drop(self.refreshes.get_or_create(&Reload { result }));
        }
        self.in_force(1);
        self.put_in_force();
        self.refreshed_well.set(1);
        self
    }

    /// A connection was accepted.
    pub fn accepted(&self, listener: &Arc<str>) {
        self.accepted.get_or_create(&OfListener { listener: Arc::clone(listener) }).inc();
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self, listener: &Arc<str>) {
        self.accept_errors.get_or_create(&OfListener { listener: Arc::clone(listener) }).inc();
    }

    /// A connection was one too many: it was told so with the refusal of this label, or cut without an answer.
    pub fn turned_away(&self, listener: &Arc<str>, refusal: Option<&'static str>) {
        let reason = refusal.unwrap_or("cut");
        self.turned_away.get_or_create(&TurnedAway { listener: Arc::clone(listener), reason }).inc();
    }

    /// An accepted connection has ended.
    pub fn closed(&self) {
        self.closed.inc();
    }

    /// A connection ended in a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A TLS handshake succeeded, or failed with this label.
    pub fn tls_handshake(&self, listener: &Arc<str>, outcome: Result<Handshake, &'static str>) {
        let listener = Arc::clone(listener);
        let shaken = match outcome {
            Ok(Handshake { version, resumed, duration }) => {
                let shaking = OfListener { listener: Arc::clone(&listener) };
                self.shaking.get_or_create(&shaking).observe(duration.as_secs_f64());
                Shaken { listener, result: "ok", version, resumed }
            }
            Err(result) => Shaken { listener, result, version: "none", resumed: false },
        };
        self.shaken.get_or_create(&shaken).inc();
    }

    /// Something ended.
    pub fn ended(&self, ending: Ending) {
        self.endings.get_or_create(&ending.into()).inc();
    }

    /// What is counted of the route with this name; `None` is for requests without one.
    pub fn route(&self, name: Option<&str>) -> Arc<RouteMetrics> {
        self.routes.get(name.unwrap_or(NO_ROUTE), |name| self.of_routes.of(name))
    }

    /// What is counted of the pool with this name.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(name, |name| {
            let of =
                |kind| self.answering.get_or_create_owned(&Answering { upstream: Arc::clone(&name), kind });
            UpstreamMetrics { handshake: of("handshake"), plain: of("plain") }
        })
    }

    /// An exchange has ended, or become a tunnel.
    pub fn exchanged(&self, route: &RouteMetrics, exchanged: &Exchanged) {
        let Exchanged { status, ending, is_offer, sent, received, duration } = *exchanged;
        route.answered(status.into(), &self.answered);
        route.duration.observe(duration.as_secs_f64());
        route.request_bytes.inc_by(sent);
        route.response_bytes.inc_by(received);
        let Some(ending) = ending else { return };
        self.ended(ending);
        if is_offer {
            let refused = RefusedHandshake { route: Arc::clone(&route.name), ending: ending.label };
            self.refused_handshakes.get_or_create(&refused).inc();
        }
    }

    /// A tunnel was opened.
    pub fn tunnel_opened(&self, route: &RouteMetrics, endpoint: &Arc<str>) {
        route.tunnels_opened.inc();
        self.tunnels.opens(&route.name, endpoint);
    }

    /// That tunnel has ended, after so long.
    pub fn tunnel_ended(&self, route: &RouteMetrics, endpoint: &Arc<str>, ending: Ending, open: Duration) {
        self.tunnels.ends(&route.name, endpoint);
        route.tunnel_duration.observe(open.as_secs_f64());
        self.ended(ending);
    }

    /// Tunnels that are open.
    pub fn open_tunnels(&self) -> u64 {
        self.tunnels.sum()
    }

    /// The first Close frame of a tunnel came from this side, with this code if it was not empty.
    pub fn first_close(&self, side: Side, code: Option<u16>) {
        self.first_closes.get_or_create(&FirstClose { side: side.label(), code: code.into() }).inc();
    }

    /// The configuration of this number is in force. The one of the start is 1.
    pub fn in_force(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// A reload succeeded.
    pub fn reloaded(&self) {
        self.reloads.get_or_create(&Reload { result: "ok" }).inc();
        self.put_in_force();
    }

    /// A reload failed, and the configuration is what it was.
    pub fn reload_failed(&self) {
        self.reloads.get_or_create(&Reload { result: "failed" }).inc();
        self.reloaded_well.set(0);
    }

    /// Files were read again by themselves; whether all of them can be used.
    pub fn refreshed(&self, is_whole: bool) {
        self.refreshes.get_or_create(&Reload { result: if is_whole { "ok" } else { "failed" } }).inc();
        self.refreshed_well.set(is_whole.into());
    }

    fn put_in_force(&self) {
        self.reloaded_at.set(i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX));
        self.reloaded_well.set(1);
    }

    /// All of it as `OpenMetrics` text, whose type is `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub fn encode(&self, gauges: Gauges) -> String {
        self.know(&gauges);
        let scrape = Scrape {
            tunnels: self.tunnels.all(gauges.pairs()),
            gauges,
            started: self.started,
            process: Process::now(),
            dropped: dropped(),
        };
        let mut now = Registry::default();
        now.register_collector(Box::new(scrape));
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string does not fail.
        let _ = text::encode_registry(&mut text, &self.registry);
        let _ = text::encode(&mut text, &now);
        text
    }

    /// What is configured has its series before anything happens to it.
    fn know(&self, gauges: &Gauges) {
        for listener in &gauges.listeners {
            let of = OfListener { listener: Arc::clone(&listener.name) };
            drop(self.accepted.get_or_create(&of));
            drop(self.accept_errors.get_or_create(&of));
            for reason in REASONS {
                let listener = Arc::clone(&listener.name);
                drop(self.turned_away.get_or_create(&TurnedAway { listener, reason }));
            }
        }
        for route in &gauges.routes {
            drop(self.route(Some(&route.name)));
        }
        for upstream in &gauges.upstreams {
            drop(self.upstream(&upstream.name));
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl RouteMetrics {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts an answer among `all`.
    fn answered(&self, status: Status, all: &Counters<Answered>) {
        let known = self.answered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == status) {
            counter.inc();
            return;
        }
        drop(known);
        let counter = all.get_or_create_owned(&Answered { route: Arc::clone(&self.name), status });
        counter.inc();
        self.answered.write().unwrap_or_else(PoisonError::into_inner).push((status, counter));
    }
}

impl UpstreamMetrics {
    /// The head of an answer came after so long.
    pub fn answered(&self, is_handshake: bool, after: Duration) {
        let histogram = if is_handshake { &self.handshake } else { &self.plain };
        histogram.observe(after.as_secs_f64());
    }
}

impl OfRoutes {
    fn of(&self, name: Arc<str>) -> RouteMetrics {
        let of = OfRoute { route: Arc::clone(&name) };
        RouteMetrics {
            name,
            answered: RwLock::default(),
            duration: self.duration.get_or_create_owned(&of),
            request_bytes: self.request_bytes.get_or_create_owned(&of),
            response_bytes: self.response_bytes.get_or_create_owned(&of),
            tunnels_opened: self.tunnels_opened.get_or_create_owned(&of),
            tunnel_duration: self.tunnel_duration.get_or_create_owned(&of),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What belongs to a name, found once for each use.
struct Handles<T> {
    by_name: RwLock<HashMap<Arc<str>, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { by_name: RwLock::default() }
    }
}

impl<T> Handles<T> {
    fn get(&self, name: &str, make: impl FnOnce(Arc<str>) -> T) -> Arc<T> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.unwrap_or_else(|| {
            let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
            let name: Arc<str> = name.into();
            Arc::clone(by_name.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(make(name))))
        })
    }
}

/// A registry that is being filled.
struct Book {
    registry: Registry,
}

impl Book {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.enter(name, help, M::default())
    }

    fn histograms<L>(&mut self, name: &str, help: &str, make: fn() -> Histogram) -> Histograms<L>
    where
        L: Clone + std::hash::Hash + Eq,
        Histograms<L>: Metric,
    {
        self.enter(name, help, Histograms::new_with_constructor(make))
    }

    fn enter<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        match split_unit(name) {
            (name, Some(unit)) => self.registry.register_with_unit(name, help, unit, metric.clone()),
            (name, None) => self.registry.register(name, help, metric.clone()),
        }
        metric
    }
}

/// The name without its unit, and this.
fn split_unit(name: &str) -> (&str, Option<Unit>) {
    if let Some(name) = name.strip_suffix("_seconds") {
        return (name, Some(Unit::Seconds));
    }
    match name.strip_suffix("_bytes") {
        Some(name) => (name, Some(Unit::Bytes)),
        None => (name, None),
    }
}
