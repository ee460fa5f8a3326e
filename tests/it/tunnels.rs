//! Tunnels that are open: listed with their accounts, and closed by an administrator.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::time::Instant;
use wsgate::{
    config::{Config, ListenAddress, Source},
    connection::tunnels::{Page, TunnelFilter, close, list},
    ending::AdminClose,
    server::{ConfigSource, Server},
    telemetry::AccessSink,
};

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer,
    frames::{self, PING, TEXT, client, server},
    offer_with, soon,
};

/// Two workers, two listeners, two routes.
fn gate(backend: &Backend, more: &str) -> Gate {
    let address = backend.address();
    let text = format!(
        "[server]\nworkers = 2\nshutdown_grace = \"10s\"\ndrain_spread = \"0s\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"[::1]:0\"\n\
         [upstream.main]\nservers = [\"{address}\"]\n\
         [[route]]\nname = \"chat\"\npath = \"/chat\"\nupstream = \"main\"\n\
         [[route]]\nname = \"rest\"\nupstream = \"main\"\n{more}"
    );
    Gate::start(&text, None)
}

/// A tunnel through which a message went each way, so that it waits.
async fn open(gate: &Gate, listener: usize, backend: &Backend, target: &str) -> (Peer, Peer) {
    let mut downstream = Peer::dial(gate.address_of(listener)).await;
    downstream.send(OFFER.replacen("GET /", &format!("GET {target}"), 1)).await;
    let mut upstream = backend.accept().await;
    upstream.read_head().await;
    upstream.send(AGREED).await;
    assert_eq!(downstream.read_head().await.status(), 101);
    exchange(&mut downstream, &mut upstream, "hello").await;
    (downstream, upstream)
}

async fn exchange(downstream: &mut Peer, upstream: &mut Peer, text: &str) {
    downstream.send(client(TEXT, text)).await;
    upstream.expect(client(TEXT, text)).await;
    upstream.send(server(TEXT, text)).await;
    downstream.expect(server(TEXT, text)).await;
}

async fn all(gate: &Gate) -> Page {
    listed(gate, TunnelFilter::default()).await
}

async fn listed(gate: &Gate, filter: TunnelFilter) -> Page {
    soon("a list", list(&gate.workers(), filter, None, 1000)).await
}

async fn closes(gate: &Gate, filter: TunnelFilter, code: u16, reason: &str) -> usize {
    let with = AdminClose::new(code, reason).expect("legal");
    soon("tunnels to be told", close(&gate.workers(), filter, with)).await
}

#[tokio::test]
async fn t11_a_row_tells_of_the_tunnel_as_its_record_will() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let (mut downstream, mut upstream) = open(&gate, 0, &backend, "/chat?room=1&token=secret").await;
    exchange(&mut downstream, &mut upstream, "a longer message").await;
    let page = all(&gate).await;
    assert_eq!((page.total, page.unlisted, page.next, page.rows.len()), (1, 0, None, 1));
    let row = &page.rows[0];
    assert_eq!((row.route.as_deref(), row.endpoint.as_deref()), (Some("chat"), Some(&*backend.address())));
    assert_eq!((&*row.listener, &*row.host), ("127.0.0.1:0", "test.example"));
    assert!(row.client.starts_with("127.0.0.1:") && row.peer.is_none(), "{row:?}");
    assert_eq!((row.from_client.messages, row.from_client.longest_message), (2, 16));
    assert_eq!((row.from_backend.messages, row.from_backend.text), (2, 2));
    assert_eq!((row.closing, row.user.as_deref(), row.subprotocol.as_deref()), (None, None, None));
    assert!(row.age_ms >= row.idle_ms && row.opened.ends_with('Z'));
    let json = serde_json::to_value(row).expect("JSON");
    assert_eq!(json["id"], row.id);
    assert_eq!(json["from_client"]["messages"], 2);
    assert!(json.get("client_pings").is_none() && json.get("closing").is_none());

    downstream.send(frames::client_close(1000, "")).await;
    upstream.expect(frames::client_close(1000, "")).await;
    upstream.send(frames::server_close(1000, "")).await;
    downstream.expect(frames::server_close(1000, "")).await;
    drop((downstream, upstream));
    let record = gate.tunnel_end().await;
    assert_eq!(
        (&row.request_id, &row.target, &row.client),
        (&record.request_id, &record.target, &record.client)
    );
    assert!(!row.target.contains("secret"), "{}", row.target);
    gate.at_rest().await;
    assert_eq!(all(&gate).await.total, 0);
}

#[tokio::test]
async fn tunnels_are_found_by_what_is_known_of_them() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut ends = Vec::new();
    for (listener, target) in [(0, "/chat"), (0, "/other"), (1, "/chat"), (1, "/x"), (1, "/y")] {
        ends.push(open(&gate, listener, &backend, target).await);
    }
    let found = async |filter| listed(&gate, filter).await.total;
    let any = TunnelFilter::default;
    assert_eq!(found(any()).await, 5);
    assert_eq!(found(TunnelFilter { route: Some("chat".into()), ..any() }).await, 2);
    assert_eq!(found(TunnelFilter { route: Some("nobody's".into()), ..any() }).await, 0);
    assert_eq!(found(TunnelFilter { listener: Some("[::1]:0".into()), ..any() }).await, 3);
    assert_eq!(found(TunnelFilter { endpoint: Some(backend.address()), ..any() }).await, 5);
    assert_eq!(found(TunnelFilter { endpoint: Some("127.0.0.1:1".into()), ..any() }).await, 0);
    for (network, count) in [("127.0.0.0/8", 2), ("::1", 3), ("127.0.0.1", 2), ("10.0.0.0/8", 0), ("::/0", 3)]
    {
        let client = Some(network.parse().expect("a network"));
        assert_eq!(found(TunnelFilter { client, ..any() }).await, count, "{network}");
    }
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(found(TunnelFilter { min_age: hour, ..any() }).await, 0);
    assert_eq!(found(TunnelFilter { max_age: hour, ..any() }).await, 5);
    assert_eq!(found(TunnelFilter { max_age: Some(Duration::ZERO), ..any() }).await, 0);
    assert_eq!(found(TunnelFilter { min_idle: hour, ..any() }).await, 0);
    assert_eq!(found(TunnelFilter { min_idle: Some(Duration::ZERO), ..any() }).await, 5);
    let both = TunnelFilter { route: Some("chat".into()), listener: Some("[::1]:0".into()), ..any() };
    let page = listed(&gate, both).await;
    assert_eq!(page.total, 1);
    let id = Some(page.rows[0].id);
    assert_eq!(listed(&gate, TunnelFilter { id, ..any() }).await.rows[0].id, page.rows[0].id);
    assert_eq!(found(TunnelFilter { id: Some(u64::MAX), ..any() }).await, 0);
}

#[tokio::test]
async fn pages_hold_each_tunnel_once_in_order() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut ends = Vec::new();
    for _ in 0..11 {
        ends.push(open(&gate, 0, &backend, "/").await);
    }
    let (mut after, mut seen, mut sizes) = (None, Vec::new(), Vec::new());
    loop {
        let page = soon("a page", list(&gate.workers(), TunnelFilter::default(), after, 4)).await;
        assert_eq!(page.total, 11);
        sizes.push(page.rows.len());
        seen.extend(page.rows.iter().map(|row| row.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [4, 4, 3]);
    assert!(seen.is_sorted());
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 11);
}

#[tokio::test]
async fn t9_an_administrator_closes_one_and_the_others_live_on() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut closed = open(&gate, 0, &backend, "/chat").await;
    let mut kept = open(&gate, 0, &backend, "/other").await;
    let route = Some("chat".to_owned());
    let filter = TunnelFilter { route, ..TunnelFilter::default() };
    let id = Some(listed(&gate, filter).await.rows[0].id);
    let one = TunnelFilter { id, ..TunnelFilter::default() };
    assert_eq!(closes(&gate, one.clone(), 4001, "log in again").await, 1);
    closed.0.expect(frames::server_close(4001, "log in again")).await;
    assert_eq!(listed(&gate, one.clone()).await.rows[0].closing, Some("admin"));
    assert_eq!(closes(&gate, one.clone(), 4002, "once more").await, 0, "it is closing already");
    closed.0.send(frames::client_close(4001, "")).await;
    assert_eq!(frames::read(&mut closed.1).await.close_code(), 1001);
    closed.1.send(frames::server_close(1001, "")).await;
    closed.0.expect_end().await;
    drop(closed);
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("admin"), Some("gate")));
    let close = record.close.expect("a Close");
    assert_eq!((close.side, close.code, &*close.reason), ("gate", Some(4001), "log in again"));
    exchange(&mut kept.0, &mut kept.1, "still here").await;
    assert_eq!(all(&gate).await.total, 1);
}

#[tokio::test]
async fn t9_an_administrator_closes_all_of_them() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut ends = Vec::new();
    for _ in 0..20 {
        ends.push(open(&gate, 0, &backend, "/").await);
    }
    assert_eq!(closes(&gate, TunnelFilter::default(), 1012, "service restart").await, 20);
    for (mut downstream, mut upstream) in ends {
        downstream.expect(frames::server_close(1012, "service restart")).await;
        downstream.send(frames::client_close(1012, "")).await;
        assert_eq!(frames::read(&mut upstream).await.close_code(), 1001);
    }
    gate.at_rest().await;
}

#[tokio::test]
async fn a_list_is_whole_while_tunnels_come_and_go() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut kept = Vec::new();
    for _ in 0..10 {
        kept.push(open(&gate, 0, &backend, "/chat").await);
    }
    let comes_and_goes = async {
        for _ in 0..40 {
            drop(open(&gate, 0, &backend, "/other").await);
        }
    };
    let lists = async {
        let until = Instant::now() + Duration::from_secs(20);
        let mut rounds = 0;
        while rounds < 100 && Instant::now() < until {
            let filter = TunnelFilter { route: Some("chat".into()), ..TunnelFilter::default() };
            assert_eq!(listed(&gate, filter).await.total, 10);
            rounds += 1;
        }
        assert_eq!(rounds, 100);
    };
    tokio::join!(comes_and_goes, lists);
}

#[tokio::test]
async fn t11_what_is_carried_shows_while_tunnels_stand() {
    let backend = Backend::listen().await;
    let gate = gate(&backend, "");
    let mut ends = Vec::new();
    for _ in 0..6 {
        ends.push(open(&gate, 0, &backend, "/").await);
    }
    for (downstream, upstream) in &mut ends {
        downstream.send(client(PING, "?")).await;
        upstream.expect(client(PING, "?")).await;
    }
    let sum = gate.carried();
    assert_eq!((sum.from_client.text.count, sum.from_client.text.bytes), (6, 30));
    assert_eq!((sum.from_backend.text.count, sum.from_backend.frames.total()), (6, 6));
    assert_eq!((sum.from_client.frames.ping, sum.from_client.frames.total()), (6, 12));
    assert_eq!(sum.from_backend.bytes, 6 * server(TEXT, "hello").len() as u64);
}

#[tokio::test]
async fn h7_a_tunnel_is_found_by_the_client_that_a_trusted_proxy_names() {
    let backend = Backend::listen().await;
    let text = format!(
        "[server]\nworkers = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.main]\nservers = [\"{}\"]\n[[route]]\nname = \"main\"\nupstream = \"main\"\n",
        backend.address()
    );
    let gate = Gate::start(&text, None);
    let mut downstream = gate.ask(offer_with("X-Forwarded-For: 198.51.100.7\r\n")).await;
    let mut upstream = backend.accept().await;
    upstream.read_head().await;
    upstream.send(AGREED).await;
    assert_eq!(downstream.read_head().await.status(), 101);
    exchange(&mut downstream, &mut upstream, "hello").await;
    let of = |network: &str| TunnelFilter {
        client: Some(network.parse().expect("a network")),
        ..TunnelFilter::default()
    };
    let page = listed(&gate, of("198.51.100.0/24")).await;
    assert_eq!((page.total, &*page.rows[0].client), (1, "198.51.100.7"));
    assert!(page.rows[0].peer.as_deref().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
    assert_eq!(listed(&gate, of("127.0.0.1")).await.total, 0);
}

/// A gate that writes no access log.
fn silent(backend: &Backend, more: &str) -> (Server, SocketAddr) {
    let text = format!(
        "[server]\nworkers = 1\n[log]\naccess = \"off\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [upstream.main]\nservers = [\"{}\"]\n[[route]]\nname = \"main\"\nupstream = \"main\"\n{more}",
        backend.address()
    );
    let source = Source { name: "proxy.toml".into(), text, folder: ".".into() };
    let loaded = Config::parse(&source, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let access = AccessSink::open(&loaded.config.log).expect("a sink");
    let server = Server::start(loaded, ConfigSource::Own, access).expect("a gate");
    let ListenAddress::Inet(address) = server.addresses()[0] else { panic!("TCP") };
    (server, address)
}

#[tokio::test]
async fn without_an_access_log_tunnels_are_listed_where_there_is_an_admin_listener_and_closed_anyway() {
    for (more, listed, unlisted) in [("[admin]\naddress = \"127.0.0.1:0\"\n", 1, 0), ("", 0, 1)] {
        let backend = Backend::listen().await;
        let (gate, address) = silent(&backend, more);
        let mut downstream = Peer::dial(address).await;
        downstream.send(OFFER).await;
        let mut upstream = backend.accept().await;
        upstream.read_head().await;
        upstream.send(AGREED).await;
        assert_eq!(downstream.read_head().await.status(), 101);
        exchange(&mut downstream, &mut upstream, "hello").await;
        let page = soon("a list", list(gate.handle().workers(), TunnelFilter::default(), None, 10)).await;
        assert_eq!((page.rows.len(), page.total, page.unlisted), (listed, listed, unlisted));
        let of_route = TunnelFilter { route: Some("main".into()), ..TunnelFilter::default() };
        let page = soon("a list", list(gate.handle().workers(), of_route, None, 10)).await;
        assert_eq!((page.rows.len(), page.unlisted), (listed, 0), "nothing is known of the others");
        let with = AdminClose::default();
        assert_eq!(soon("a close", close(gate.handle().workers(), TunnelFilter::default(), with)).await, 1);
        downstream.expect(frames::server_close(1012, "service restart")).await;
        gate.handle().shutdown();
        let outcome = tokio::task::spawn_blocking(move || gate.wait()).await.expect("no panic");
        assert_eq!(outcome.panicked, 0);
    }
}
