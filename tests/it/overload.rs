//! Too much of one client, or on one route: rules S2 and W15.

use std::time::Duration;

use crate::harness::{
    AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup, frames, get, offer_with, ok, pki::Pki, soon,
};

/// Two addresses of clients, both of this host.
const ONE: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";

/// The answer to `client` is this refusal with a Retry-After within `seconds`, after which the connection ends.
#[track_caller]
fn expect_refusal(
    gate: &Gate,
    client: &mut Peer,
    expected: (u16, &'static str),
    seconds: std::ops::RangeInclusive<u64>,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let own = client.own_address().to_string();
    async move {
        let (status, label) = expected;
        let head = client.read_response().await.head;
        assert_eq!(head.status(), status, "{caller}");
        let retry_after: u64 = head.get("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!(seconds.contains(&retry_after), "{caller}: {retry_after}");
        client.expect_end().await;
        let record = gate.record(|record| *record.client == own && record.ending.is_some()).await;
        let tells = (record.ending, record.status, record.ended_by);
        assert_eq!(tells, (Some(label), Some(status), Some("gate")), "{caller}");
    }
}

/// Waits until so many places are taken.
async fn has_places(gate: &Gate, count: usize) {
    soon("places to be taken or given back", async {
        while gate.places() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A client at this address with an open tunnel, and the backend's end of it.
async fn tunnel(gate: &Gate, backend: &Backend, from: &str) -> (Peer, Peer) {
    let mut client = Peer::dial_from(from, gate.address()).await;
    client.send(OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    (client, server)
}

#[tokio::test]
async fn s2_per_ip_limit_counts_silent_idle_and_tunnelled_connections_of_each_address() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("max_connections_per_ip = 3").start();
    let (client, mut server) = tunnel(&gate, &backend, ONE).await;
    let silent = Peer::dial_from(ONE, gate.address()).await;
    let mut idle = Peer::dial_from(ONE, gate.address()).await;
    idle.send(get("/.", "")).await;
    assert_eq!(idle.read_response().await.status(), 400);
    idle.expect_end().await;
    drop(idle);
    has_places(&gate, 2).await;
    let begun = Peer::dial_from(ONE, gate.address()).await;
    has_places(&gate, 3).await;
    for ask in [get("/", ""), OFFER.to_owned()] {
        let mut excess = Peer::dial_from(ONE, gate.address()).await;
        excess.send(ask).await;
        expect_refusal(&gate, &mut excess, (429, "per_ip_limit"), 1..=10).await;
    }
    backend.expect_untouched();
    let others = tunnel(&gate, &backend, OTHER).await;
    drop(client);
    server.expect_gone().await;
    drop(server);
    has_places(&gate, 3).await;
    let again = tunnel(&gate, &backend, ONE).await;
    drop((again, others, silent, begun));
    gate.at_rest().await;
}

#[tokio::test]
async fn s2_per_ip_limit_is_told_over_tls_and_by_ipv6_prefix() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address())
        .listen("[::1]:0")
        .tls(&pki, "")
        .listener("max_connections_per_ip = 1")
        .start();
    let mut first = gate.ask(get("/", "")).await;
    assert_eq!(first.read_response().await.text(), "hello");
    let mut excess = gate.ask(get("/", "")).await;
    expect_refusal(&gate, &mut excess, (429, "per_ip_limit"), 1..=10).await;
    // A TLS handshake that fails gives its place back too.
    drop((first, excess));
    gate.at_rest().await;
    let mut broken = Peer::dial(gate.address()).await;
    broken.send("GET / HTTP/1.1\r\n\r\n").await;
    let _ = broken.read_to_any_end().await;
    drop(broken);
    gate.at_rest().await;
    let mut again = gate.ask(get("/", "")).await;
    assert_eq!(again.read_response().await.text(), "hello");
}

#[tokio::test]
async fn s2_far_past_per_ip_limit_connections_are_cut_without_an_answer() {
    const TOLD: usize = 8;
    let backend = HttpBackend::start().await;
    // Neither the permits of TLS handshakes nor those of connections are used up by one client's flood.
    let pki = Pki::new();
    let gate = Setup::to(backend.address())
        .tls(&pki, "")
        .server("max_connections = 14\nmax_tls_handshakes = 13")
        .listener("max_connections_per_ip = 4")
        .start();
    let mut flood = Vec::new();
    for _ in 0..4 + TOLD {
        let mut stalled = Peer::dial_from(ONE, gate.address()).await;
        stalled.send([0x16, 3, 1]).await;
        flood.push(stalled);
    }
    gate.has_tls_handshakes(4 + TOLD).await;
    for number in 1..=50 {
        // The reset may come before the connect has returned.
        if let Ok(mut cut) = Peer::try_dial_from(ONE, gate.address()).await {
            let _ = cut.offer_bytes([0x16, 3, 1]).await;
            assert_eq!(cut.read_to_any_end().await.0, b"");
        }
        assert_eq!(gate.cut_unanswered(), number);
    }
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.text(), "hello");
    assert_eq!(gate.places(), 4 + TOLD + 1);
    drop((flood, client));
    gate.at_rest().await;
}

/// A gate that believes [`ONE`], and lets each client have one request at a time and two handshakes an hour.
fn behind_a_proxy(backend: &Backend) -> Gate {
    Setup::to(backend.address())
        .listener(
            "trusted_proxies = [\"127.0.0.2\"]\nmax_connections_per_ip = 1\nhandshake_rate_per_ip = \"2/h\"",
        )
        .start()
}

/// The line by which a proxy names its client.
fn named(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

/// Has a plain request answered by the backend, over a connection that the gate may have kept.
async fn is_answered(client: &mut Peer, backend: &Backend, lines: &str) {
    client.send(get("/", lines)).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.read_response().await.text(), "ok");
}

#[tokio::test]
async fn s2_a_trusted_proxy_itself_is_not_counted() {
    let backend = Backend::listen().await;
    let gate = behind_a_proxy(&backend);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(tunnel(&gate, &backend, ONE).await);
    }
    assert_eq!(gate.places(), 0);
    let _stranger = tunnel(&gate, &backend, OTHER).await;
    assert_eq!(gate.places(), 1);
}

#[tokio::test]
async fn s2_requests_of_a_trusted_proxy_count_for_the_clients_that_they_name() {
    let backend = Backend::listen().await;
    let gate = behind_a_proxy(&backend);
    let open = async |client: &str| {
        let mut proxy = Peer::dial_from(ONE, gate.address()).await;
        proxy.send(offer_with(&named(client))).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(AGREED).await;
        assert_eq!(proxy.read_head().await.status(), 101);
        (proxy, server)
    };
    let ends = open("192.0.2.1").await;
    let mut proxy = Peer::dial_from(ONE, gate.address()).await;
    proxy.send(get("/", &named("192.0.2.1"))).await;
    assert_eq!(proxy.read_response().await.status(), 429);
    // The proxy's connection has the requests of others, and is kept for them.
    is_answered(&mut proxy, &backend, &named("192.0.2.2")).await;
    is_answered(&mut proxy, &backend, &named("192.0.2.2")).await;
    proxy.send(offer_with(&named("192.0.2.1"))).await;
    assert_eq!(proxy.read_response().await.status(), 429);
    proxy.expect_end().await;
    assert_eq!(gate.places(), 1);
    drop(ends);
    has_places(&gate, 0).await;
    // What was refused for the one limit does not count under the other.
    drop(open("192.0.2.1").await);
    has_places(&gate, 0).await;
    let mut third = Peer::dial_from(ONE, gate.address()).await;
    third.send(offer_with(&named("192.0.2.1"))).await;
    let head = third.read_response().await.head;
    assert_eq!(head.status(), 429);
    assert!(head.get("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
}

#[tokio::test]
async fn s2_per_ip_limit_counts_whom_the_proxy_header_names() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .listener("proxy_protocol = \"required\"\nproxy_protocol_from = [\"127.0.0.0/8\"]\nmax_connections_per_ip = 1")
        .start();
    let from = async |client: &str| {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send(format!("PROXY TCP4 {client} 203.0.113.1 5000 443\r\n")).await;
        peer
    };
    let mut first = from("192.0.2.1").await;
    is_answered(&mut first, &backend, "").await;
    let mut other = from("192.0.2.2").await;
    is_answered(&mut other, &backend, "").await;
    let mut refused = Vec::new();
    for _ in 0..8 {
        let mut excess = from("192.0.2.1").await;
        excess.send(get("/", "")).await;
        assert_eq!(excess.read_head().await.status(), 429);
        refused.push(excess);
    }
    // Those that were told have not left yet, so that there is no place to tell one more.
    let mut cut = from("192.0.2.1").await;
    assert_eq!(cut.read_to_any_end().await.0, b"");
    assert_eq!((gate.cut_unanswered(), gate.places()), (1, 10));
}

#[tokio::test]
async fn s2_h7_whom_the_proxy_header_leaves_unnamed_counts_under_the_balancers_address() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .listener("proxy_protocol = \"required\"\nproxy_protocol_from = [\"127.0.0.0/8\"]\nmax_connections_per_ip = 2")
        .listener("trusted_proxies = [\"127.0.0.0/8\"]\nhandshake_rate_per_ip = \"1/h\"")
        .more("[[route]]\npath = \"/inside\"\nallow = [\"127.0.0.0/8\"]\nrespond = { status = 200 }")
        .start();
    let unnamed = async |request: &str| {
        let mut peer = Peer::dial(gate.address()).await;
        peer.send(["PROXY UNKNOWN\r\n", request].concat()).await;
        peer
    };
    // Its balancer's address opens no list to it.
    let mut inside = unnamed(&get("/inside", "")).await;
    assert_eq!(inside.read_head().await.status(), 403);
    let mut first = unnamed(OFFER).await;
    backend.accept().await.send(AGREED).await;
    assert_eq!(first.read_head().await.status(), 101);
    drop(inside);
    gate.has_connections(1).await;
    let mut second = unnamed(OFFER).await;
    assert_eq!(second.read_head().await.status(), 429, "handshake_rate_per_ip");
    let mut third = unnamed(&get("/", "")).await;
    assert_eq!(third.read_head().await.status(), 429, "max_connections_per_ip");
}

#[tokio::test]
async fn w15_handshake_rate_of_each_address_and_requests_are_none() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("handshake_rate_per_ip = \"2/h\"").start();
    for from in [ONE, OTHER] {
        drop((tunnel(&gate, &backend, from).await, tunnel(&gate, &backend, from).await));
        let mut excess = Peer::dial_from(from, gate.address()).await;
        excess.send(OFFER).await;
        // One comes back every half hour.
        expect_refusal(&gate, &mut excess, (429, "handshake_rate"), 1790..=1802).await;
        backend.expect_untouched();
        let mut plain = Peer::dial_from(from, gate.address()).await;
        plain.send(get("/", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(ok("plain")).await;
        assert_eq!(plain.read_response().await.text(), "plain");
    }
}

#[tokio::test]
async fn w15_a_handshake_is_let_in_again_when_its_wait_is_over() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener("handshake_rate_per_ip = \"2/s\"").start();
    let mut let_in = 0;
    let mut refused = 0;
    let began = std::time::Instant::now();
    soon("handshakes to be let in", async {
        while let_in < 5 {
            let mut client = gate.ask(OFFER).await;
            tokio::select! {
                mut server = backend.accept() => {
                    server.read_head().await;
                    server.send(AGREED).await;
                    assert_eq!(client.read_head().await.status(), 101);
                    let_in += 1;
                }
                head = client.read_head() => {
                    assert_eq!(head.status(), 429);
                    refused += 1;
                }
            }
        }
    })
    .await;
    // Two at once, and three that came half a second after each other.
    assert!(began.elapsed() >= Duration::from_millis(1400) && refused > 0, "{:?}", began.elapsed());
}

/// A route with this many tunnels, and one without a bound.
fn with_max_tunnels(backend: &Backend, most: usize) -> Setup {
    Setup::to(backend.address())
        .more("[[route]]\nname = \"free\"\npath = \"/free/*\"\nupstream = \"main\"")
        .route(&format!("limits.max_tunnels = {most}"))
}

#[tokio::test]
async fn s2_route_limit_past_max_tunnels_is_503_and_other_routes_and_requests_go_on() {
    let backend = Backend::listen().await;
    let gate = with_max_tunnels(&backend, 2).start();
    let first = tunnel(&gate, &backend, ONE).await;
    let _second = tunnel(&gate, &backend, ONE).await;
    let mut excess = gate.ask(OFFER).await;
    expect_refusal(&gate, &mut excess, (503, "route_limit"), 1..=10).await;
    backend.expect_untouched();
    let mut free = gate.ask(OFFER.replacen("/ ", "/free/ ", 1)).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(free.read_head().await.status(), 101);
    let mut plain = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("plain")).await;
    assert_eq!(plain.read_response().await.text(), "plain");
    drop(first);
    has_places(&gate, 1).await;
    let _third = tunnel(&gate, &backend, ONE).await;
}

/// How a handshake ends that takes a place and becomes no tunnel, or a tunnel that stands.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Unproven,
    Refused,
    ServerGone,
    ClientGone,
    ServerSilent,
    BothClose,
    IllegalFrame,
    Reset,
    Drain,
    Shutdown,
}

#[tokio::test]
async fn s2_every_ending_gives_the_places_back() {
    use Ending as E;
    for ending in [
        E::Unproven,
        E::Refused,
        E::ServerGone,
        E::ClientGone,
        E::ServerSilent,
        E::BothClose,
        E::IllegalFrame,
        E::Reset,
        E::Drain,
        E::Shutdown,
    ] {
        let backend = Backend::listen().await;
        let gate = with_max_tunnels(&backend, 1)
            .listener("max_connections_per_ip = 1")
            .upstream("handshake_timeout = \"300ms\"")
            .route("websocket.close_timeout = \"200ms\"")
            .start();
        let mut client = Peer::dial_from(ONE, gate.address()).await;
        client.send(offer_with("Sec-WebSocket-Protocol: chat\r\n")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        assert_eq!(gate.places(), 2, "{ending:?}: its connection's, and the route's");
        if ending.is_of_a_tunnel() {
            server.send(AGREED).await;
            client.read_head().await;
            assert_eq!(gate.places(), 2, "{ending:?}: its connection's, and the route's");
        }
        play(ending, &gate, client, server).await;
        gate.at_rest().await;
        if !matches!(ending, E::Drain | E::Shutdown) {
            drop(tunnel(&gate, &backend, ONE).await);
        }
    }
}

impl Ending {
    fn is_of_a_tunnel(self) -> bool {
        matches!(self, Self::BothClose | Self::IllegalFrame | Self::Reset | Self::Drain | Self::Shutdown)
    }
}

async fn play(ending: Ending, gate: &Gate, mut client: Peer, mut server: Peer) {
    match ending {
        Ending::Unproven => server.send(AGREED.replace("s3pP", "aaaa")).await,
        Ending::Refused => server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await,
        Ending::ServerGone => return drop(server),
        Ending::ClientGone | Ending::Reset => return client.reset(),
        // Nobody says anything: a deadline ends it.
        Ending::ServerSilent => {}
        Ending::BothClose => {
            client.send(frames::client_close(1000, "")).await;
            server.send(frames::server_close(1000, "")).await;
        }
        Ending::IllegalFrame => client.send(frames::client_raw(0x83, "")).await,
        Ending::Drain => gate.drain(),
        Ending::Shutdown => gate.shutdown(),
    }
    let _ = client.read_to_any_end().await;
    drop((client, server));
}
