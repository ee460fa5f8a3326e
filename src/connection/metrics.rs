//! What listeners, routes and pools show of themselves at a scrape.

use std::{sync::Arc, time::Duration};

use super::{Gate, Listener, record::CUT};
use crate::{
    config::{CertificateSource, Identity},
    ending::{Phase, Side},
    telemetry::{
        Buckets, CertificateGauges, Connects, Ending, EndpointGauges, Gauges, ListenerGauges, Metrics,
        PingGauges, RouteMetrics, UpstreamGauges, WayGauges,
    },
    tunnel::{Account, Carried, Frames, Pinged, ROUND_TRIPS, Report, Witness},
    upstream::{ConnectFailures, EndpointState, EndpointView, HistogramView, PoolView},
};

impl Listener {
    /// Its certificates. Those that wsgate makes for development are not watched.
    fn gauges(&self) -> ListenerGauges {
        let identities = match self.config.tls.as_ref().map(|tls| &tls.source) {
            Some(CertificateSource::Files(identities)) => identities.as_slice(),
            Some(CertificateSource::SelfSigned { .. }) | None => &[],
        };
        let certificate = |identity: &Identity| CertificateGauges {
            // One without names is told by its file.
            name: identity.names.first().cloned().unwrap_or_else(|| identity.cert.display().to_string()),
            not_after: identity.not_after.unix_timestamp(),
        };
        let mut certificates: Vec<_> = identities.iter().map(certificate).collect();
        // Of two for one name, the one that ends first counts.
        certificates.sort_by_key(|certificate| certificate.not_after);
        ListenerGauges { name: Arc::clone(&self.label), certificates }
    }
}

impl Gate {
    /// What its routes, pools and tunnels show.
    pub(crate) fn gauges(&self) -> Gauges {
        let (sum, snapshot) = (self.totals.sum(), self.current.load());
        Gauges {
            listeners: snapshot.listeners.iter().map(|listener| listener.gauges()).collect(),
            routes: snapshot.routes.iter().map(|route| route.gauges(&snapshot.pools)).collect(),
            upstreams: snapshot.pools.iter().map(|pool| of_pool(pool.view())).collect(),
            from_clients: of_way(&sum.from_client),
            from_backends: of_way(&sum.from_backend),
            client_pings: of_pings(&sum.client_pings),
            backend_pings: of_pings(&sum.backend_pings),
            ..Gauges::default()
        }
    }
}

fn of_pool(pool: PoolView) -> UpstreamGauges {
    let endpoints = pool.endpoints.into_iter().map(of_endpoint).collect();
    UpstreamGauges { name: pool.name, retries: pool.retries, endpoints }
}

fn of_endpoint(endpoint: EndpointView) -> EndpointGauges {
    let counts = endpoint.counts;
    let ConnectFailures { failed, timed_out, tls, unresolved } = counts.connects_failed;
    EndpointGauges {
        name: endpoint.name,
        is_up: (endpoint.state != EndpointState::Left).then_some(endpoint.state == EndpointState::In),
        state: endpoint.state.label(),
        open: endpoint.open,
        most: endpoint.max_connections,
        idle: endpoint.idle,
        connects: Connects { made: counts.connect.count, failed, timed_out, tls_failed: tls, unresolved },
        connecting: of_histogram(&counts.connect),
        tls: of_histogram(&counts.tls_handshake),
        reused: counts.reused,
        stale: counts.stale,
        checks_passed: counts.checks_passed,
        checks_failed: counts.checks_failed,
        outages: counts.times_out,
    }
}

fn of_histogram(histogram: &HistogramView) -> Buckets {
    let counts = histogram.buckets.iter().map(|bucket| (bucket.up_to_s.unwrap_or(f64::MAX), bucket.count));
    Buckets { counts: counts.collect(), sum: histogram.sum_s }
}

fn of_way(carried: &Carried) -> WayGauges {
    let Frames { continuation, text, binary, close, ping, pong } = carried.frames;
    WayGauges {
        bytes: carried.bytes,
        text_messages: carried.text.count,
        binary_messages: carried.binary.count,
        text_bytes: carried.text.bytes,
        binary_bytes: carried.binary.bytes,
        continuation,
        text,
        binary,
        close,
        ping,
        pong,
    }
}

fn of_pings(pings: &Pinged) -> PingGauges {
    let bounds = ROUND_TRIPS.iter().map(Duration::as_secs_f64).chain([f64::MAX]);
    let round_trips =
        Buckets { counts: bounds.zip(pings.round_trips).collect(), sum: pings.total.as_secs_f64() };
    PingGauges { sent: pings.sent, lost: pings.lost, round_trips }
}

/// Counts the tunnels of a route.
#[derive(Debug)]
pub(super) struct RouteWitness {
    metrics: Arc<Metrics>,
    route: Arc<RouteMetrics>,
}

impl RouteWitness {
    pub(super) fn new(metrics: &Arc<Metrics>, route: &str) -> Self {
        Self { metrics: Arc::clone(metrics), route: metrics.route(Some(route)) }
    }
}

impl Witness for RouteWitness {
    fn opened(&self, endpoint: &Arc<str>) {
        self.metrics.tunnel_opened(&self.route, endpoint);
    }

    fn ended(&self, endpoint: &Arc<str>, report: &Report) {
        let ending = Ending { label: report.end.label(), side: report.ended_by, phase: Phase::Tunnel };
        self.metrics.tunnel_ended(&self.route, endpoint, ending, report.open);
        let of_peer = |account: &Account| account.close.as_ref().map(|close| close.code.map(|code| code.0));
        let code = report.first_close.and_then(|side| match side {
            Side::Downstream => of_peer(&report.client),
            Side::Upstream => of_peer(&report.backend),
            Side::Gate => report.own_close.as_ref().map(|(code, _)| Some(*code)),
        });
        if let Some((side, code)) = report.first_close.zip(code) {
            self.metrics.first_close(side, code);
        }
    }

    fn cut(&self, endpoint: &Arc<str>, open: Duration) {
        self.metrics.tunnel_ended(&self.route, endpoint, CUT, open);
    }
}
