//! What is there at the moment of a scrape, as plain data, and how it is written.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{super::Dropped, open::Pair, process::Process, split_unit};

/// What whoever encodes has read off those who have it: connections, pools, tunnels, the drain.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Downstream connections that are open, and how many may be.
    pub connections: Permitted,
    /// TLS handshakes in flight, and how many may be.
    pub tls_handshakes: Permitted,
    /// Passwords that wait to be checked.
    pub passwords_waiting: usize,
    /// The drain has begun.
    pub draining: bool,
    /// Connections that were open when it began.
    pub drain_began_with: usize,
    /// The listeners.
    pub listeners: Vec<ListenerGauges>,
    /// The routes.
    pub routes: Vec<RouteGauges>,
    /// The pools.
    pub upstreams: Vec<UpstreamGauges>,
    /// What clients sent through tunnels.
    pub from_clients: WayGauges,
    /// What backends sent.
    pub from_backends: WayGauges,
    /// wsgate's own Pings to clients.
    pub client_pings: PingGauges,
    /// Those to backends.
    pub backend_pings: PingGauges,
}

/// Something that is bounded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permitted {
    /// So many are in use.
    pub open: usize,
    /// So many may be.
    pub most: usize,
}

/// A listener.
#[derive(Debug, Clone)]
pub struct ListenerGauges {
    /// Its address, as configured.
    pub name: Arc<str>,
    /// Its certificates.
    pub certificates: Vec<CertificateGauges>,
}

/// A certificate of a listener.
#[derive(Debug, Clone)]
pub struct CertificateGauges {
    /// The first name that it is for.
    pub name: String,
    /// In seconds since the epoch.
    pub not_after: i64,
}

/// A route.
#[derive(Debug, Clone)]
pub struct RouteGauges {
    /// Its name.
    pub name: Arc<str>,
    /// Its places for tunnels; `None` where they are not bounded.
    pub places: Option<Permitted>,
    /// The pool that its tunnels lead to; `None` where it can have none.
    pub upstream: Option<String>,
}

/// A pool.
#[derive(Debug, Clone, Default)]
pub struct UpstreamGauges {
    /// Its name.
    pub name: String,
    /// Tries after a first one so far.
    pub retries: u64,
    /// Its servers.
    pub endpoints: Vec<EndpointGauges>,
}

/// A server of a pool.
#[derive(Debug, Clone, Default)]
pub struct EndpointGauges {
    /// Its name.
    pub name: String,
    /// Whether it gets anything new; `None` if it is not in the pool any more.
    pub is_up: Option<bool>,
    /// Why, or why not: a name out of a fixed set.
    pub state: &'static str,
    /// Leases that are out.
    pub open: usize,
    /// `max_connections`; `None` is without bound.
    pub most: Option<usize>,
    /// Idle connections.
    pub idle: usize,
    /// Connects by their result.
    pub connects: Connects,
    /// The duration of connects that succeeded.
    pub connecting: Buckets,
    /// The same of TLS handshakes after them.
    pub tls: Buckets,
    /// Idle connections that served another request.
    pub reused: u64,
    /// Reused ones that turned out to be closed.
    pub stale: u64,
    /// Checks that passed.
    pub checks_passed: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// How often it went out.
    pub outages: u64,
}

/// Connects by their result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connects {
    /// A connection was made.
    pub made: u64,
    /// It was refused, or could not be made.
    pub failed: u64,
    /// It took too long.
    pub timed_out: u64,
    /// The TLS handshake failed.
    pub tls_failed: u64,
    /// Its name had no answer.
    pub unresolved: u64,
}

/// A histogram.
#[derive(Debug, Clone, Default)]
pub struct Buckets {
    /// Each bucket's upper bound in seconds and what fell into it and not into the one before; the last one's is infinite.
    pub counts: Vec<(f64, u64)>,
    /// The sum of all durations, in seconds.
    pub sum: f64,
}

/// What went one way through all tunnels.
#[derive(Debug, Clone, Copy, Default)]
pub struct WayGauges {
    /// Bytes, frame headers included.
    pub bytes: u64,
    /// Text messages that came to their end.
    pub text_messages: u64,
    /// The same of binary ones.
    pub binary_messages: u64,
    /// Payload bytes of text messages that came to their end, as on the wire.
    pub text_bytes: u64,
    /// The same of binary ones.
    pub binary_bytes: u64,
    /// Frames by opcode.
    pub continuation: u64,
    /// The same.
    pub text: u64,
    /// The same.
    pub binary: u64,
    /// The same.
    pub close: u64,
    /// The same.
    pub ping: u64,
    /// The same.
    pub pong: u64,
}

/// wsgate's own Pings to one side of all tunnels.
#[derive(Debug, Clone, Default)]
pub struct PingGauges {
    /// So many went out.
    pub sent: u64,
    /// So many of them were not answered.
    pub lost: u64,
    /// From Ping to Pong.
    pub round_trips: Buckets,
}

impl Gauges {
    /// Every route with each server that its tunnels can lead to.
    pub(super) fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.routes.iter().flat_map(|route| {
            let is_its = |pool: &&UpstreamGauges| route.upstream.as_deref() == Some(&*pool.name);
            let endpoints = self.upstreams.iter().find(is_its).map_or(&[][..], |pool| &pool.endpoints);
            let here = endpoints.iter().filter(|endpoint| endpoint.is_up.is_some());
            here.map(|endpoint| (Arc::clone(&route.name), endpoint.name.as_str().into()))
        })
    }
}

/// Gauges with what the kernel and the open tunnels add to them.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) gauges: Gauges,
    pub(super) tunnels: HashMap<Pair, u64>,
    /// Since the epoch.
    pub(super) started: Duration,
    pub(super) process: Process,
    pub(super) dropped: Dropped,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet { encoder };
        self.write_whole(&mut sheet)?;
        self.write_limits(&mut sheet)?;
        self.write_tunnels(&mut sheet)?;
        self.write_endpoints(&mut sheet)?;
        self.write_connects(&mut sheet)?;
        self.write_process(&mut sheet)
    }
}

/// What a row of one value without labels looks like.
fn alone<V>(value: V) -> [([(&'static str, &'static str); 0], V); 1] {
    [([], value)]
}

impl Scrape {
    fn write_whole(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let all = &self.gauges;
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1_u64)];
        sheet.gauges("wsgate_build_info", "The version that runs, as a label", version)?;
        let draining = u64::from(all.draining);
        sheet.gauges("wsgate_draining", "1 while the process ends in order", alone(draining))?;
        let help = "Connections that were open when the drain began";
        sheet.gauges("wsgate_drain_connections_at_start", help, alone(all.drain_began_with))?;
        let dropped =
            [([("stream", "access")], self.dropped.access), ([("stream", "events")], self.dropped.events)];
        sheet.counters(
            "wsgate_log_records_dropped",
            "Log lines that were dropped, as nobody wrote them",
            dropped,
        )?;
        let certificates = all.listeners.iter().flat_map(|listener| {
            listener.certificates.iter().map(|certificate| {
                ([("listener", &*listener.name), ("name", certificate.name.as_str())], certificate.not_after)
            })
        });
        let help = "When the certificate expires, since the epoch";
        sheet.gauges("wsgate_certificate_not_after_timestamp_seconds", help, certificates)
    }

    fn write_limits(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let all = &self.gauges;
        sheet.gauges(
            "wsgate_connections_open",
            "Open connections of clients",
            alone(all.connections.open),
        )?;
        sheet.gauges(
            "wsgate_connections_max",
            "So many connections may be open",
            alone(all.connections.most),
        )?;
        sheet.gauges(
            "wsgate_tls_handshakes_open",
            "TLS handshakes in flight",
            alone(all.tls_handshakes.open),
        )?;
        let help = "So many TLS handshakes may be in flight";
        sheet.gauges("wsgate_tls_handshakes_max", help, alone(all.tls_handshakes.most))?;
        let help = "Passwords that wait to be checked";
        sheet.gauges("wsgate_passwords_waiting", help, alone(all.passwords_waiting))?;
        let places =
            || all.routes.iter().filter_map(|route| Some(([("route", &*route.name)], route.places?)));
        let help = "Places of max_tunnels that tunnels and handshakes take";
        sheet.gauges(
            "wsgate_route_places_in_use",
            help,
            places().map(|(route, places)| (route, places.open)),
        )?;
        sheet.gauges(
            "wsgate_route_places_max",
            "max_tunnels",
            places().map(|(route, places)| (route, places.most)),
        )
    }

    fn write_tunnels(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let all = &self.gauges;
        let open = self
            .tunnels
            .iter()
            .map(|((route, endpoint), count)| ([("route", &**route), ("endpoint", &**endpoint)], *count));
        sheet.gauges("wsgate_tunnels_open", "Open tunnels", open)?;
        let ways = [("from_client", all.from_clients), ("from_backend", all.from_backends)];
        let of_ways =
            |count: fn(WayGauges) -> u64| ways.map(|(name, way)| ([("direction", name)], count(way)));
        let help = "Bytes of frames that came through tunnels, their headers included";
        sheet.counters("wsgate_tunnel_bytes", help, of_ways(|way| way.bytes))?;
        let messages = |text: fn(WayGauges) -> u64, binary: fn(WayGauges) -> u64| {
            ways.into_iter().flat_map(move |(name, way)| {
                let of = |opcode, count| ([("direction", name), ("opcode", opcode)], count);
                [of("text", text(way)), of("binary", binary(way))]
            })
        };
        let help = "Messages that came through tunnels to their end";
        let counts = messages(|way| way.text_messages, |way| way.binary_messages);
        sheet.counters("wsgate_tunnel_messages", help, counts)?;
        let help = "Payload of these messages, as on the wire";
        let bytes = messages(|way| way.text_bytes, |way| way.binary_bytes);
        sheet.counters("wsgate_tunnel_message_bytes", help, bytes)?;
        let frames = ways.into_iter().flat_map(|(name, way)| {
            let WayGauges { continuation, text, binary, close, ping, pong, .. } = way;
            let opcodes = [
                ("continuation", continuation),
                ("text", text),
                ("binary", binary),
                ("close", close),
                ("ping", ping),
                ("pong", pong),
            ];
            opcodes.map(|(opcode, count)| ([("direction", name), ("opcode", opcode)], count))
        });
        sheet.counters("wsgate_tunnel_frames", "Frames that came through tunnels", frames)?;
        let sides = [("downstream", &all.client_pings), ("upstream", &all.backend_pings)];
        let sent = sides.map(|(side, pings)| ([("side", side)], pings.sent));
        sheet.counters("wsgate_pings_sent", "Pings of wsgate's own", sent)?;
        let lost = sides.map(|(side, pings)| ([("side", side)], pings.lost));
        sheet.counters("wsgate_pings_lost", "Of these, those that were not answered", lost)?;
        let trips = sides.map(|(side, pings)| ([("side", side)], &pings.round_trips));
        sheet.histograms("wsgate_ping_round_trip_seconds", "From a Ping to its Pong", trips)
    }

    /// Every server with the labels that name it.
    fn endpoints(&self) -> impl Iterator<Item = ([(&str, &str); 2], &EndpointGauges)> {
        self.gauges.upstreams.iter().flat_map(|upstream| {
            upstream.endpoints.iter().map(|endpoint| {
                ([("upstream", upstream.name.as_str()), ("endpoint", endpoint.name.as_str())], endpoint)
            })
        })
    }

    fn write_endpoints(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let rows = || self.endpoints();
        let up = rows().filter_map(|(labels, it)| Some((labels, u64::from(it.is_up?))));
        sheet.gauges("wsgate_endpoint_up", "1 if the server gets anything new", up)?;
        let states =
            rows().map(|([upstream, endpoint], it)| ([upstream, endpoint, ("state", it.state)], 1_u64));
        sheet.gauges("wsgate_endpoint_state", "Why the server is up or not; the state is a label", states)?;
        let open = rows().map(|(labels, it)| (labels, it.open));
        sheet.gauges("wsgate_endpoint_leases_open", "Exchanges and tunnels at the server", open)?;
        let most = rows().filter_map(|(labels, it)| Some((labels, it.most?)));
        sheet.gauges("wsgate_endpoint_leases_max", "max_connections of the server", most)?;
        let idle = rows().map(|(labels, it)| (labels, it.idle));
        sheet.gauges("wsgate_endpoint_idle_connections", "Idle connections to the server", idle)?;
        let outages = rows().map(|(labels, it)| (labels, it.outages));
        sheet.counters("wsgate_endpoint_outages", "How often the server went out", outages)?;
        let checks = rows().flat_map(|([upstream, endpoint], it)| {
            [("passed", it.checks_passed), ("failed", it.checks_failed)]
                .map(|(result, count)| ([upstream, endpoint, ("result", result)], count))
        });
        sheet.counters("wsgate_endpoint_checks", "Active checks of the server", checks)?;
        let retries = self
            .gauges
            .upstreams
            .iter()
            .map(|upstream| ([("upstream", upstream.name.as_str())], upstream.retries));
        sheet.counters("wsgate_upstream_retries", "Tries after a request's first one", retries)
    }

    fn write_connects(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let rows = || self.endpoints();
        let connects = rows().flat_map(|([upstream, endpoint], it)| {
            let Connects { made, failed, timed_out, tls_failed, unresolved } = it.connects;
            [
                ("ok", made),
                ("failed", failed),
                ("timed_out", timed_out),
                ("tls_failed", tls_failed),
                ("unresolved", unresolved),
            ]
            .map(|(result, count)| ([upstream, endpoint, ("result", result)], count))
        });
        sheet.counters("wsgate_endpoint_connects", "Connections to the server that were begun", connects)?;
        let reused = rows().map(|(labels, it)| (labels, it.reused));
        let help = "Requests over a connection to the server that was idle";
        sheet.counters("wsgate_endpoint_reused_connections", help, reused)?;
        let stale = rows().map(|(labels, it)| (labels, it.stale));
        let help = "Of these, those whose connection had ended";
        sheet.counters("wsgate_endpoint_stale_connections", help, stale)?;
        let connecting = rows().map(|(labels, it)| (labels, &it.connecting));
        let help = "Duration of connects to the server that succeeded, without TLS";
        sheet.histograms("wsgate_endpoint_connect_duration_seconds", help, connecting)?;
        let tls = rows().map(|(labels, it)| (labels, &it.tls));
        let help = "Duration of TLS handshakes with the server that succeeded";
        sheet.histograms("wsgate_endpoint_tls_handshake_duration_seconds", help, tls)
    }

    fn write_process(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Process { cpu, resident, virtual_memory, threads, open_fds, max_fds } = &self.process;
        let seconds = |time: &Option<Duration>| time.map(|time| ([], time.as_secs_f64()));
        let whole = |count: &Option<u64>| count.map(|count| ([], count));
        let started = alone(self.started.as_secs_f64());
        sheet.gauges("process_start_time_seconds", "When the process started, since the epoch", started)?;
        sheet.counters::<0, _>("process_cpu_seconds", "Time on the CPU, user and system", seconds(cpu))?;
        sheet.gauges::<0, _>("process_resident_memory_bytes", "Memory in RAM", whole(resident))?;
        sheet.gauges::<0, _>("process_virtual_memory_bytes", "Address space", whole(virtual_memory))?;
        sheet.gauges::<0, _>("process_threads", "Threads", whole(threads))?;
        let open_fds = open_fds.map(|count| ([], count));
        sheet.gauges::<0, _>("process_open_fds", "Open file descriptors", open_fds)?;
        sheet.gauges::<0, _>("process_max_fds", "So many may be open", whole(max_fds))
    }
}

/// Writes metrics with their rows: labels and value. One without rows is left out.
struct Sheet<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Sheet<'_> {
    fn gauges<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) -> fmt::Result {
        self.rows(name, help, MetricType::Gauge, rows, |mut encoder, value| encoder.encode_gauge(&value))
    }

    fn counters<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) -> fmt::Result {
        self.rows(name, help, MetricType::Counter, rows, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], &'l Buckets)>,
    ) -> fmt::Result {
        let rows = rows.into_iter().filter(|(_, buckets)| !buckets.counts.is_empty());
        self.rows(name, help, MetricType::Histogram, rows, |mut encoder, buckets| {
            let count = buckets.counts.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(buckets.sum, count, &buckets.counts, None)
        })
    }

    fn rows<'l, const N: usize, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let (name, unit) = split_unit(name);
        let help = format!("{help}.");
        let mut family = self.encoder.encode_descriptor(name, &help, unit.as_ref(), kind)?;
        let mut written = HashSet::new();
        for (labels, value) in rows {
            // Two rows of one series, as of two certificates for one name, would make all of it unreadable.
            if !written.insert(labels) {
                continue;
            }
            if N == 0 {
                // An empty set of labels would be written as such.
                return write(family, value);
            }
            write(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}
