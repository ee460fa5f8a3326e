//! What is counted: exactly, and once, whether there is a log or not.

use std::time::Duration;

use wsgate::{
    config::{Config, ListenAddress, Source},
    server::{ConfigSource, Server},
    telemetry::{AccessSink, Kind},
};

use crate::harness::{
    AGREED, Backend, Gate, HttpBackend, Metrics, OFFER, Peer, Refusing, Setup,
    frames::{self, BINARY, PING, PONG, TEXT},
    get, offer_with, ok,
    pki::Pki,
    soon,
};

/// What `look` sees as soon as `is_true` of it.
async fn when(look: impl Fn() -> Metrics, is_true: impl Fn(&Metrics) -> bool) -> Metrics {
    soon("metrics", async {
        loop {
            let metrics = look();
            if is_true(&metrics) {
                return metrics;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

/// The metrics when nothing is open any more, which must agree with each other and with the records.
async fn at_rest(gate: &Gate) -> Metrics {
    gate.at_rest().await;
    let all_closed = |metrics: &Metrics| {
        let closed = metrics.sum("wsgate_connections_closed_total", &[]);
        exactly(closed, metrics.sum("wsgate_connections_accepted_total", &[]))
    };
    let metrics = when(|| gate.metrics(), all_closed).await;
    expect_conserved(&metrics, gate);
    metrics
}

/// Counts are whole numbers, which are exact.
fn exactly(one: f64, other: f64) -> bool {
    (one - other).abs() < 0.5
}

/// Of nothing that has ended anything is open, and what was counted was recorded.
#[track_caller]
fn expect_conserved(metrics: &Metrics, gate: &Gate) {
    let sum = |name| metrics.sum(name, &[]);
    for open in ["connections_open", "tls_handshakes_open", "tunnels_open", "endpoint_leases_open"] {
        assert_counts(metrics, &format!("wsgate_{open}"), &[], 0);
    }
    let records = gate.records();
    let of = |kind| records.iter().filter(|record| record.kind == kind).count();
    assert_counts(metrics, "wsgate_exchanges_total", &[], of(Kind::Exchange) + of(Kind::TunnelOpen));
    assert_counts(metrics, "wsgate_exchanges_total", &[("status", "101")], of(Kind::TunnelOpen));
    assert_counts(metrics, "wsgate_tunnels_opened_total", &[], of(Kind::TunnelOpen));
    assert!(exactly(sum("wsgate_tunnel_duration_seconds_count"), sum("wsgate_tunnels_opened_total")));
    assert!(exactly(sum("wsgate_exchange_duration_seconds_count"), sum("wsgate_exchanges_total")));
    let endings = records.iter().filter(|record| record.ending.is_some());
    assert_counts(metrics, "wsgate_endings_total", &[], endings.count());
    for record in records {
        let (Some(ending), Some(side), Some(phase)) = (record.ending, record.ended_by, record.phase) else {
            continue;
        };
        let same = |other: &&wsgate::telemetry::AccessRecord| {
            (other.ending, other.ended_by, other.phase) == (record.ending, record.ended_by, record.phase)
        };
        let labels = [("ending", ending), ("side", side), ("phase", phase)];
        assert_counts(metrics, "wsgate_endings_total", &labels, gate.records().iter().filter(same).count());
    }
}

#[track_caller]
fn assert_counts(metrics: &Metrics, name: &str, labels: &[(&str, &str)], expected: usize) {
    let count = metrics.sum(name, labels);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let expected = expected as f64;
    assert!(exactly(count, expected), "{name}{labels:?}: {count}, not {expected}: {:#?}", metrics.samples);
}

#[tokio::test]
async fn every_exchange_is_counted_once_by_route_and_status() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).route("path = \"/a\"").start();
    let mut client = gate.client().await;
    for (path, status) in [("/a", 200), ("/a", 200), ("/b", 404), ("/a", 200)] {
        client.send(get(path, "")).await;
        assert_eq!(client.read_response().await.status(), status);
    }
    client.send("GET /\u{1} HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 400);
    client.expect_end().await;
    drop(client);
    let metrics = at_rest(&gate).await;
    for (route, status, count) in [("main", "200", 3), ("none", "404", 1), ("none", "400", 1)] {
        let labels = [("route", route), ("status", status)];
        assert_counts(&metrics, "wsgate_exchanges_total", &labels, count);
    }
    assert_counts(&metrics, "wsgate_exchanges_total", &[], 5);
    assert_counts(&metrics, "wsgate_connections_accepted_total", &[("listener", "127.0.0.1:0")], 1);
    let records = gate.records();
    let received: u64 = records.iter().filter_map(|record| record.received).sum();
    assert_counts(&metrics, "wsgate_response_bytes_total", &[], usize::try_from(received).unwrap());
    let sent: u64 = records.iter().filter_map(|record| record.sent).sum();
    assert_counts(
        &metrics,
        "wsgate_request_bytes_total",
        &[("route", "main")],
        usize::try_from(sent).unwrap(),
    );
    let plain = [("upstream", "main"), ("kind", "plain")];
    assert_counts(&metrics, "wsgate_upstream_response_head_seconds_count", &plain, 3);
    let endpoint = backend.address();
    let labels = [("upstream", "main"), ("endpoint", endpoint.as_str())];
    assert_counts(&metrics, "wsgate_endpoint_up", &labels, 1);
    assert_counts(&metrics, "wsgate_endpoint_connects_total", &[("result", "ok")], 1);
    assert_counts(&metrics, "wsgate_endpoint_connect_duration_seconds_count", &labels, 1);
    assert_counts(&metrics, "wsgate_endpoint_reused_connections_total", &labels, 2);
}

#[tokio::test]
async fn every_refused_handshake_is_counted_with_its_reason() {
    let nobody = Refusing::new();
    let gate = Setup::to(nobody.address()).route("path = \"/a\"").start();
    let offer = OFFER.replace("GET / ", "GET /a ");
    let version = offer_with("").replace("Version: 13", "Version: 8");
    for (ask, status) in [(&*offer, 502), (OFFER, 404), (&*version, 426), (&*get("/a", ""), 502)] {
        let mut client = gate.ask(ask).await;
        assert_eq!(client.read_response().await.status(), status);
    }
    let metrics = at_rest(&gate).await;
    for (route, ending) in [("main", "connect_failed"), ("none", "no_route"), ("none", "ws_version")] {
        let labels = [("route", route), ("ending", ending)];
        assert_counts(&metrics, "wsgate_handshakes_refused_total", &labels, 1);
    }
    assert_counts(&metrics, "wsgate_handshakes_refused_total", &[], 3);
    assert_counts(&metrics, "wsgate_endings_total", &[("ending", "connect_failed")], 2);
    assert!(metrics.sum("wsgate_endpoint_connects_total", &[("result", "failed")]) > 1.5);
}

#[tokio::test]
async fn a_tunnel_is_counted_while_it_is_open_and_when_it_has_ended() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let endpoint = backend.address();
    let labels = [("route", "main"), ("endpoint", endpoint.as_str())];
    let is_there_with_none = |metrics: &Metrics| {
        let mut open = metrics.samples.iter().filter(|sample| sample.name == "wsgate_tunnels_open");
        let only = open.next().filter(|_| open.next().is_none()).expect("one series");
        only.value < 0.5 && labels.iter().all(|(key, value)| only.labels[*key] == *value)
    };
    assert!(is_there_with_none(&gate.metrics()), "an autoscaler wants to see 0");
    let (mut client, mut server) = gate.tunnel(&backend).await;
    // The client may have its 101 before.
    when(|| gate.metrics(), |metrics| exactly(metrics.sum("wsgate_tunnels_open", &labels), 1.0)).await;
    let frame = frames::client(BINARY, [1; 300]);
    client.send(&frame).await;
    server.expect(&frame).await;
    for _ in 0..2 {
        server.send(frames::server(TEXT, "hello")).await;
        client.expect(frames::server(TEXT, "hello")).await;
    }
    let way = |direction, opcode| [("direction", direction), ("opcode", opcode)];
    let has_both = |metrics: &Metrics| exactly(metrics.sum("wsgate_tunnel_messages_total", &[]), 3.0);
    let live = when(|| gate.metrics(), has_both).await;
    assert_counts(&live, "wsgate_tunnel_bytes_total", &[("direction", "from_client")], frame.len());
    assert_counts(&live, "wsgate_tunnel_frames_total", &way("from_client", "binary"), 1);
    assert_counts(&live, "wsgate_tunnel_messages_total", &way("from_client", "binary"), 1);
    assert_counts(&live, "wsgate_tunnel_message_bytes_total", &way("from_client", "binary"), 300);
    assert_counts(&live, "wsgate_tunnel_messages_total", &way("from_backend", "text"), 2);
    assert_counts(&live, "wsgate_tunnel_message_bytes_total", &way("from_backend", "text"), 10);
    assert_counts(&live, "wsgate_tunnel_frames_total", &[("opcode", "close")], 0);
    client.send(frames::client_close(4321, "bye")).await;
    server.expect(frames::client_close(4321, "bye")).await;
    server.send(frames::server_close(4321, "bye")).await;
    server.shutdown().await;
    client.expect(frames::server_close(4321, "bye")).await;
    client.expect_end().await;
    drop((client, server));
    let metrics = at_rest(&gate).await;
    assert!(is_there_with_none(&metrics));
    assert_counts(&metrics, "wsgate_tunnel_frames_total", &[("opcode", "close")], 2);
    let labels = [("ending", "closed"), ("side", "downstream"), ("phase", "tunnel")];
    assert_counts(&metrics, "wsgate_endings_total", &labels, 1);
    let close = [("side", "downstream"), ("code", "private")];
    assert_counts(&metrics, "wsgate_tunnel_close_codes_total", &close, 1);
    assert_counts(&metrics, "wsgate_tunnel_close_codes_total", &[], 1);
    let kind = [("upstream", "main"), ("kind", "handshake")];
    assert_counts(&metrics, "wsgate_upstream_response_head_seconds_count", &kind, 1);
}

#[tokio::test]
async fn close_codes_are_sorted_and_a_tunnel_without_one_has_none() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let close = |code: Option<u16>| match code {
        Some(code) => frames::server_close(code, ""),
        None => frames::server(frames::CLOSE, ""),
    };
    for (code, label) in [
        (Some(1000), "1000"),
        (Some(1013), "1013"),
        (Some(3999), "registered"),
        (Some(4000), "private"),
        (None, "none"),
    ] {
        let (mut client, mut server) = gate.tunnel(&backend).await;
        server.send(close(code)).await;
        client.expect(close(code)).await;
        drop((client, server));
        let labels = [("side", "upstream"), ("code", label)];
        let is_there = |metrics: &Metrics| metrics.sum("wsgate_tunnel_close_codes_total", &labels) > 0.5;
        when(|| gate.metrics(), is_there).await;
    }
    let (client, server) = gate.tunnel(&backend).await;
    server.reset();
    drop(client);
    let metrics = at_rest(&gate).await;
    assert_counts(&metrics, "wsgate_tunnel_close_codes_total", &[], 5);
    assert_counts(&metrics, "wsgate_tunnels_opened_total", &[], 6);
}

#[tokio::test]
async fn what_is_cut_is_counted_once() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let tunnel = gate.tunnel(&backend).await;
    let waits = gate.ask(get("/", "")).await;
    let mut asked = backend.accept().await;
    asked.read_head().await;
    gate.shutdown();
    let metrics = at_rest(&gate).await;
    for phase in ["tunnel", "response"] {
        let labels = [("ending", "drain_timeout"), ("side", "gate"), ("phase", phase)];
        assert_counts(&metrics, "wsgate_endings_total", &labels, 1);
    }
    assert_counts(&metrics, "wsgate_exchanges_total", &[("route", "main"), ("status", "none")], 1);
    assert_counts(&metrics, "wsgate_tunnel_duration_seconds_count", &[("route", "main")], 1);
    assert_counts(&metrics, "wsgate_draining", &[], 1);
    assert_counts(&metrics, "wsgate_drain_connections_at_start", &[], 2);
    drop((tunnel, waits, asked));
}

#[tokio::test]
async fn tls_handshakes_are_counted_by_version_resumption_and_failure() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").start();
    let config = pki.client_config();
    for _ in 0..3 {
        let mut client = pki.client(gate.address(), "localhost", &config).await;
        client.send(get("/", "Connection: close\r\n")).await;
        client.read_response().await;
        client.expect_end().await;
    }
    let old = pki.client_config_of(&[&rustls::version::TLS12]);
    drop(pki.client(gate.address(), "localhost", &old).await);
    let mut broken = Peer::dial(gate.address()).await;
    broken.send("GET / HTTP/1.1\r\n\r\n").await;
    broken.read_to_any_end().await.1.ok();
    // A port check is none.
    drop(Peer::dial(gate.address()).await);
    drop(broken);
    let metrics = at_rest(&gate).await;
    let count = |result, version, resumed, count| {
        let labels = [("result", result), ("version", version), ("resumed", resumed)];
        assert_counts(&metrics, "wsgate_tls_handshakes_total", &labels, count);
    };
    count("ok", "TLSv1.3", "false", 1);
    count("ok", "TLSv1.3", "true", 2);
    count("ok", "TLSv1.2", "false", 1);
    count("tls_protocol", "none", "false", 1);
    assert_counts(&metrics, "wsgate_tls_handshakes_total", &[], 5);
    assert_counts(&metrics, "wsgate_tls_handshake_duration_seconds_count", &[], 4);
    assert_counts(&metrics, "wsgate_endings_total", &[("phase", "tls")], 1);
    let expires = metrics.sum("wsgate_certificate_not_after_timestamp_seconds", &[("name", "localhost")]);
    assert!(expires > 1.7e9, "{expires}");
}

#[tokio::test]
async fn s2_connections_that_are_too_many_are_counted() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener("max_connections_per_ip = 1").start();
    let first = Peer::dial(gate.address()).await;
    gate.has_connections(1).await;
    let mut told = gate.ask(get("/", "")).await;
    assert_eq!(told.read_response().await.status(), 429);
    drop((first, told));
    let metrics = at_rest(&gate).await;
    assert_counts(&metrics, "wsgate_connections_refused_total", &[("reason", "per_ip_limit")], 1);
    assert_counts(&metrics, "wsgate_connections_refused_total", &[], 1);
}

#[tokio::test]
async fn t6_pings_and_their_round_trips_are_counted() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .route("websocket.ping = \"clients\"\nwebsocket.ping_interval = \"50ms\"")
        .start();
    let (mut client, server) = gate.tunnel(&backend).await;
    let ping = frames::read(&mut client).await;
    assert_eq!(ping.first, 0x80 | PING);
    client.send(frames::client(PONG, &ping.payload)).await;
    let clients = [("side", "downstream")];
    let is_answered = |metrics: &Metrics| metrics.sum("wsgate_ping_round_trip_seconds_count", &clients) > 0.5;
    let metrics = when(|| gate.metrics(), is_answered).await;
    assert!(metrics.sum("wsgate_pings_sent_total", &clients) > 0.5);
    assert_counts(&metrics, "wsgate_pings_sent_total", &[("side", "upstream")], 0);
    drop((client, server));
    at_rest(&gate).await;
}

/// A gate that writes no access records.
struct Unlogged {
    server: Option<Server>,
}

impl Unlogged {
    fn start(toml: &str) -> Self {
        let source = Source { name: "proxy.toml".into(), text: toml.into(), folder: ".".into() };
        let loaded = Config::parse(&source, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        let access = AccessSink::open(&loaded.config.log).unwrap();
        let server = Server::start(loaded, ConfigSource::Own, access).unwrap();
        Self { server: Some(server) }
    }

    fn metrics(&self) -> Metrics {
        Metrics::parse(&self.server.as_ref().unwrap().handle().metrics())
    }

    async fn ask(&self, request: impl AsRef<[u8]>) -> Peer {
        let ListenAddress::Inet(address) = self.server.as_ref().unwrap().addresses()[0] else { panic!() };
        let mut client = Peer::dial(address).await;
        client.send(request).await;
        client
    }
}

impl Drop for Unlogged {
    fn drop(&mut self) {
        let server = self.server.take().unwrap();
        server.handle().shutdown();
        assert_eq!(server.wait().panicked, 0);
    }
}

#[tokio::test]
async fn everything_is_counted_without_a_log_too() {
    let backend = Backend::listen().await;
    let gate = Unlogged::start(&format!(
        "[log]\naccess = \"off\"\n[server]\nworkers = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [upstream.main]\nservers = [\"{}\"]\n[[route]]\nname = \"main\"\nupstream = \"main\"\npath = \"/\"\n\
         kind = \"websocket\"\n",
        backend.address()
    ));
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 426);
    let (mut client, mut server) = (gate.ask(OFFER).await, backend.accept().await);
    server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.reset();
    server.read_to_any_end().await.1.ok();
    let mut client = gate.ask(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("no")).await;
    assert_eq!(client.read_response().await.status(), 200);
    let has_ended = |metrics: &Metrics| metrics.sum("wsgate_endings_total", &[]) > 2.5;
    let metrics = when(|| gate.metrics(), has_ended).await;
    for (ending, side, phase) in [
        ("upgrade_required", "gate", "route"),
        ("downstream_reset", "downstream", "tunnel"),
        ("upgrade_refused", "upstream", "response"),
    ] {
        let labels = [("ending", ending), ("side", side), ("phase", phase)];
        assert_counts(&metrics, "wsgate_endings_total", &labels, 1);
    }
    let statuses = [("none", "426"), ("main", "101"), ("main", "200")];
    for (route, status) in statuses {
        let labels = [("route", route), ("status", status)];
        assert_counts(&metrics, "wsgate_exchanges_total", &labels, 1);
    }
}
