//! Servers by name, whose addresses change.

use hickory_resolver::proto::rr::RecordType;

use super::{
    names::{Dns, address, eventually},
    reload::checked,
    *,
};
use crate::{config::OnRemoved, lifecycle::Drain, upstream::TunnelLease};

const NAME: &str = "web.test.";

/// Servers at these addresses, all at one port.
pub(super) async fn servers<const N: usize>(ips: [&str; N]) -> (u16, [TcpListener; N]) {
    'next: loop {
        let mut listeners = Vec::new();
        let mut port = 0;
        for ip in ips {
            let Ok(listener) = TcpListener::bind((ip, port)).await else { continue 'next };
            port = listener.local_addr().unwrap().port();
            listeners.push(listener);
        }
        return (port, listeners.try_into().unwrap());
    }
}

pub(super) fn named(port: u16) -> config::Upstream {
    let mut config = upstream(vec![ServerAddress::Name { host: NAME.into(), port }]);
    config.dns_refresh = Some(Duration::from_millis(10));
    config
}

/// A name with these addresses.
pub(super) async fn dns(ips: &[&str]) -> Dns {
    Dns::serve(ips.iter().map(|ip| (NAME, address(ip))).collect()).await
}

pub(super) fn says(dns: &Dns, ips: &[&str]) {
    dns.change(|zone| zone.records = ips.iter().map(|ip| (NAME, address(ip))).collect());
}

/// Where the next request that wants this goes, with what it holds.
pub(super) async fn goes(pool: &Pool, want: Want) -> (String, TunnelLease, Buffered<Transport>) {
    let Connected { stream, lease, .. } = connect(pool, want).await.unwrap();
    let Transport::Plain(Socket::Tcp(socket)) = stream.get_ref() else { unreachable!() };
    (socket.peer_addr().unwrap().ip().to_string(), lease.into_tunnel(), stream)
}

#[tokio::test]
async fn an_address_that_left_the_answer_gets_nothing_new_and_its_tunnels_go_by_on_removed() {
    for on_removed in [OnRemoved::Keep, OnRemoved::Drain, OnRemoved::Close] {
        let (port, [old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
        let dns = dns(&["127.0.0.2"]).await;
        let pool = followed(&config::Upstream { on_removed, ..named(port) });
        let mut idle_end = park_one(&pool, &old).await;
        let (at, tunnel, _stream) = goes(&pool, Want::Fresh).await;
        assert_eq!(at, "127.0.0.2");
        // One who stays beside it is no reason to leave.
        says(&dns, &["127.0.0.3", "127.0.0.2"]);
        dns.asked_again().await;
        assert_eq!((pool.open(), pool.idle(), tunnel.drain().is_draining()), (1, 1, false));
        says(&dns, &["127.0.0.3"]);
        assert_eq!(idle_end.read(&mut [0]).await.unwrap(), 0, "nobody asked for anything meanwhile");
        eventually(|| pool.idle() == 0).await;
        assert_eq!(tunnel.drain().is_removed(), on_removed != OnRemoved::Keep);
        for want in [Want::Fresh, Want::Reuse] {
            let (at, young, _stream) = goes(&pool, want).await;
            assert_eq!((at.as_str(), young.drain().is_draining()), ("127.0.0.3", false));
        }
        assert_eq!(pool.open(), 1, "what is left there counts");
        drop(tunnel);
        assert_eq!(pool.open(), 0);
    }
}

#[tokio::test]
async fn an_address_that_came_back_is_as_good_as_new() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let pool = followed(&config::Upstream { on_removed: OnRemoved::Drain, ..named(port) });
    let (_, before, _stream) = goes(&pool, Want::Fresh).await;
    let is_over = before.drain();
    says(&dns, &["127.0.0.3"]);
    eventually(|| is_over.is_removed()).await;
    says(&dns, &["127.0.0.2"]);
    dns.asked_again().await;
    let (at, after, _stream) = goes(&pool, Want::Fresh).await;
    assert_eq!(at, "127.0.0.2");
    assert!(!after.drain().is_draining() && before.drain().is_removed());
}

#[tokio::test]
async fn a_connection_to_an_address_that_left_meanwhile_is_not_kept() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let pool = followed(&config::Upstream { on_removed: OnRemoved::Drain, ..named(port) });
    let (_, hears, _stream) = goes(&pool, Want::Fresh).await;
    let exchange = connect(&pool, Want::Fresh).await.unwrap();
    let handshake = connect(&pool, Want::Fresh).await.unwrap();
    says(&dns, &["127.0.0.3"]);
    let drain: Drain = hears.drain();
    eventually(|| drain.is_removed()).await;
    exchange.lease.park(exchange.stream, None);
    assert_eq!(pool.idle(), 0);
    assert!(handshake.lease.into_tunnel().drain().is_removed(), "it is told as soon as it is one");
}

#[tokio::test]
async fn a_family_that_is_not_answered_for_stays() {
    let (port, [_four]) = servers(["127.0.0.2"]).await;
    let dns = dns(&["127.0.0.2", "::1"]).await;
    let pool = followed(&config::Upstream { on_removed: OnRemoved::Close, ..named(port) });
    let (at, tunnel, _stream) = goes(&pool, Want::Fresh).await;
    assert_eq!(at, "127.0.0.2");
    dns.change(|zone| zone.fails_for = Some(RecordType::A));
    dns.asked_again().await;
    dns.change(|zone| (zone.fails_for, zone.fails) = (None, true));
    dns.asked_again().await;
    assert!(!tunnel.drain().is_draining());
    dns.change(|zone| zone.fails = false);
    says(&dns, &["::1"]);
    let drain = tunnel.drain();
    eventually(|| drain.is_removed()).await;
}

#[tokio::test]
async fn b8_tunnels_at_an_address_that_left_count_against_max_connections() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let mut config = named(port);
    config.servers[0].max_connections = Some(2);
    let pool = followed(&config);
    let one = goes(&pool, Want::Fresh).await;
    says(&dns, &["127.0.0.3"]);
    dns.asked_again().await;
    let two = goes(&pool, Want::Fresh).await;
    assert_eq!((one.0.as_str(), two.0.as_str()), ("127.0.0.2", "127.0.0.3"));
    assert!(matches!(connect(&pool, Want::Fresh).await, Err(ConnectFailure::NoEndpoint)));
    drop(one);
    goes(&pool, Want::Fresh).await;
}

#[tokio::test]
async fn an_address_that_comes_while_checks_fail_takes_no_tunnel_until_they_pass() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let pool = followed(&config::Upstream { on_removed: OnRemoved::Drain, ..named(port) });
    let (_, tunnel, _stream) = goes(&pool, Want::Fresh).await;
    let under_way = connect(&pool, Want::Fresh).await.unwrap();
    let endpoint = pool.endpoint(0);
    endpoint.checks_failed("refused");
    assert!(tunnel.drain().is_removed());
    assert!(under_way.lease.into_tunnel().drain().is_removed());
    says(&dns, &["127.0.0.3"]);
    dns.asked_again().await;
    endpoint.checks_passed();
    let (at, young, _stream) = goes(&pool, Want::Fresh).await;
    assert_eq!(at, "127.0.0.3");
    assert!(!young.drain().is_draining());
}

#[tokio::test]
async fn an_answer_that_comes_later_than_connect_timeout_is_heard() {
    let (port, [_server]) = servers(["127.0.0.2"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    dns.change(|zone| zone.delay = Duration::from_millis(200));
    let mut config = named(port);
    (config.connect_timeout, config.max_fails) = (Some(Duration::from_millis(50)), Some(1));
    // One beside it, as the last one would not go out in any case.
    let beside = ServerAddress::Inet(SocketAddr::from(([127, 0, 0, 2], port)));
    config.servers.push(UpstreamServer { address: beside, ..config.servers[0].clone() });
    config.retries = 0;
    let pool = followed(&config);
    let early = connect(&pool, Want::Fresh).await;
    assert!(matches!(early, Err(ConnectFailure::TimedOut { .. })), "{early:?}");
    assert!(pool.endpoint(0).status.is_in(), "that is no fault of the server's");
    eventually(|| pool.endpoint(0).knows_addresses()).await;
    assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.2");
    // Nor is an answer waited for while there is a last one.
    dns.change(|zone| zone.silent_at = Some(NAME));
    dns.asked_again().await;
    assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.2");
}

#[tokio::test]
async fn a_name_that_fails_is_not_asked_for_by_every_request_and_draws_none() {
    let (port, [_server]) = servers(["127.0.0.2"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    dns.change(|zone| zone.fails_at = Some("bad.test."));
    let mut config = named(port);
    config.servers.push(UpstreamServer {
        address: ServerAddress::Name { host: "bad.test.".into(), port },
        ..config.servers[0].clone()
    });
    (config.dns_refresh, config.max_fails, config.retries) = (Some(Duration::from_secs(30)), Some(1), 0);
    let pool = followed(&config);
    eventually(|| !pool.endpoint(1).status.is_in()).await;
    let asked = dns.asked();
    for _ in 0..20 {
        goes(&pool, Want::Fresh).await;
    }
    config.servers.remove(0);
    let alone = followed(&config);
    for _ in 0..20 {
        let failure = connect(&alone, Want::Fresh).await.unwrap_err();
        assert!(matches!(failure, ConnectFailure::Failed { .. }), "{failure:?}");
    }
    assert!(dns.asked() <= asked + 8, "{} after {asked}", dns.asked());
    // It is asked again after a while, and is back with its whole name.
    dns.change(|zone| {
        zone.fails_at = None;
        zone.records.push(("bad.test.", address("127.0.0.2")));
    });
    eventually(|| pool.endpoint(1).status.is_in() && alone.endpoint(0).status.is_in()).await;
    goes(&alone, Want::Fresh).await;
}

#[tokio::test]
async fn without_dns_refresh_a_name_is_asked_for_until_it_has_an_answer() {
    let (port, [_server]) = servers(["127.0.0.2"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    dns.change(|zone| zone.fails = true);
    let pool = followed(&config::Upstream { dns_refresh: None, ..named(port) });
    let before = alive_tasks();
    assert!(connect(&pool, Want::Fresh).await.is_err());
    dns.change(|zone| zone.fails = false);
    eventually(|| pool.endpoint(0).knows_addresses() && alive_tasks() == before - 1).await;
    assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.2");
}

#[tokio::test]
async fn a_name_is_followed_no_longer_than_its_pool_and_a_tunnel_outlives_both() {
    let (port, [_server]) = servers(["127.0.0.2"]).await;
    let _dns = dns(&["127.0.0.2"]).await;
    let before = alive_tasks();
    let pool = followed(&config::Upstream { dns_refresh: Some(Duration::from_secs(3600)), ..named(port) });
    let (_, tunnel, _stream) = goes(&pool, Want::Fresh).await;
    assert_eq!(alive_tasks(), before + 1);
    drop(pool);
    eventually(|| alive_tasks() == before).await;
    assert!(!tunnel.drain().is_draining());
}

#[tokio::test]
async fn source_addresses_take_turns_for_each_server() {
    let ((a, a_address), (b, b_address)) = (server().await, server().await);
    let mut config = upstream(vec![a_address, b_address]);
    config.source_addresses = ["127.0.0.2", "127.0.0.3"].map(|source| source.parse().unwrap()).to_vec();
    let pool = followed(&config);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(connect(&pool, Want::Fresh).await.unwrap());
    }
    for listener in [a, b] {
        let mut sources = Vec::new();
        for _ in 0..2 {
            sources.push(listener.accept().await.unwrap().1.ip().to_string());
        }
        sources.sort();
        assert_eq!(sources, ["127.0.0.2", "127.0.0.3"], "not one of them alone");
    }
}

#[tokio::test]
async fn a_server_that_was_out_when_it_left_is_checked_back_in() {
    let (_listener, address) = server().await;
    let config = config::Upstream { health: Some(checked()), ..upstream(vec![address]) };
    let pool = followed(&config);
    let endpoint = pool.endpoint(0);
    endpoint.checks_failed("refused");
    pool.start_checks(&Handle::current());
    eventually(|| endpoint.status.is_in()).await;
}
