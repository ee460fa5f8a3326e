//! Names against a DNS server of the test's own.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle, time::sleep};

use super::*;
use crate::{
    config::OnRemoved,
    upstream::{resolve, status::tests::logged},
};

thread_local! {
    static SERVER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
    static SEARCH: RefCell<Vec<Name>> = const { RefCell::new(Vec::new()) };
}

/// The DNS server of this test, as resolv.conf would name it; `None` leaves it to the system.
pub(in crate::upstream) fn configuration() -> Option<(ResolverConfig, ResolverOpts)> {
    let server = SERVER.get()?;
    let mut udp = ConnectionConfig::udp();
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = (Duration::from_millis(500), 1);
    Some((ResolverConfig::from_parts(None, SEARCH.with_borrow(Vec::clone), vec![server]), options))
}

/// What the DNS server knows.
#[derive(Default)]
pub(super) struct Zone {
    pub(super) records: Vec<(&'static str, RData)>,
    /// It says nothing when it is asked for these.
    pub(super) silent: Option<RecordType>,
    /// It says nothing when it is asked for this name.
    pub(super) silent_at: Option<&'static str>,
    /// It fails when it is asked for these.
    pub(super) fails_for: Option<RecordType>,
    pub(super) fails_at: Option<&'static str>,
    pub(super) fails: bool,
    /// It takes its time.
    pub(super) delay: Duration,
    asked: usize,
}

pub(super) struct Dns {
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

impl Dns {
    pub(super) async fn serve(records: Vec<(&'static str, RData)>) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        SERVER.set(Some(socket.local_addr().unwrap()));
        SEARCH.take();
        let zone = Arc::new(Mutex::new(Zone { records, ..Zone::default() }));
        let known = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut packet).await.unwrap();
                let asked = Message::from_vec(&packet[..length]).unwrap();
                let answer = lock(&known).answer(&asked);
                let delay = lock(&known).delay;
                if let Some(answer) = answer {
                    let socket = Arc::clone(&socket);
                    let send = async move {
                        sleep(delay).await;
                        _ = socket.send_to(&answer.to_vec().unwrap(), client).await;
                    };
                    if delay.is_zero() { send.await } else { _ = tokio::spawn(send) }
                }
            }
        });
        Self { zone, task }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut lock(&self.zone));
    }

    pub(super) fn asked(&self) -> usize {
        lock(&self.zone).asked
    }

    /// Waits until it was asked for so much more that two look-ups have begun, of two families each: by then the answer to the
    /// first was heard.
    pub(super) async fn asked_again(&self) {
        let before = lock(&self.zone).asked;
        eventually(|| lock(&self.zone).asked >= before + 6).await;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    fn answer(&mut self, asked: &Message) -> Option<Message> {
        self.asked += 1;
        let query = asked.queries[0].clone();
        let is_about = |name: Option<&str>| {
            name.is_some_and(|name| Name::from_str_relaxed(name).unwrap() == *query.name())
        };
        if self.silent == Some(query.query_type()) || is_about(self.silent_at) {
            return None;
        }
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let named = |(name, data): &&(&str, RData)| {
            Name::from_str_relaxed(name).unwrap() == *query.name() && data.record_type() == query.query_type()
        };
        let record = |(_, data): &(&str, RData)| Record::from_rdata(query.name().clone(), 3600, data.clone());
        if self.fails || is_about(self.fails_at) || self.fails_for == Some(query.query_type()) {
            answer.metadata.response_code = ResponseCode::ServFail;
        } else {
            answer.add_answers(self.records.iter().filter(named).map(record));
        }
        Some(answer)
    }
}

/// Waits for what comes to hold over real sockets.
pub(super) async fn eventually(what: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if what() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not come to hold");
}

pub(super) fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

pub(super) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

pub(super) fn port(address: &ServerAddress) -> u16 {
    let ServerAddress::Inet(address) = address else { unreachable!() };
    address.port()
}

/// What is found for a name; or why nothing is.
async fn addresses(host: &str) -> Result<Vec<String>, String> {
    let found =
        resolve::look_up(host, Duration::from_millis(250)).await.map_err(|error| error.to_string())?;
    Ok(found.addresses(&[]).iter().map(ToString::to_string).collect())
}

#[track_caller]
fn is<const N: usize>(found: Result<Vec<String>, String>, expected: [&str; N]) {
    assert_eq!(found.unwrap(), expected);
}

#[tokio::test]
async fn both_families_of_a_name_are_asked_for() {
    let dns = Dns::serve(vec![("two.test.", address("127.0.0.1")), ("two.test.", address("::1"))]).await;
    is(addresses("two.test").await, ["::1", "127.0.0.1"]);
    dns.change(|zone| zone.records.truncate(1));
    is(addresses("two.test").await, ["127.0.0.1"]);
    dns.change(|zone| zone.silent = Some(RecordType::AAAA));
    is(addresses("two.test").await, ["127.0.0.1"]);
    dns.change(|zone| (zone.silent, zone.fails_for) = (None, Some(RecordType::AAAA)));
    is(addresses("two.test").await, ["127.0.0.1"]);
    dns.change(|zone| zone.fails_for = Some(RecordType::A));
    assert!(addresses("two.test").await.is_err(), "nobody knows whether it has an IPv4 address");
}

fn search(domains: &[&str]) {
    SEARCH.set(domains.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect());
}

#[tokio::test]
async fn the_families_of_a_name_are_those_of_one_host() {
    let dns = Dns::serve(vec![
        ("web.b.test.", address("127.0.0.2")),
        ("web.c.test.", address("127.0.0.3")),
        ("web.c.test.", address("::3")),
    ])
    .await;
    search(&["a.test.", "b.test.", "c.test."]);
    is(addresses("web").await, ["127.0.0.2"]);
    dns.change(|zone| zone.fails_at = Some("web.a.test."));
    assert!(addresses("web").await.is_err(), "it may be that one");
    dns.change(|zone| (zone.fails_at, zone.silent_at) = (None, Some("web.a.test.")));
    assert!(addresses("web").await.is_err());
    dns.change(|zone| zone.silent_at = Some("web.c.test."));
    is(addresses("web").await, ["127.0.0.2"]);
    is(addresses("web.b.test.").await, ["127.0.0.2"]);
    assert!(addresses("web.").await.is_err());
}

#[tokio::test]
async fn the_search_list_is_walked_for_records_too() {
    let dns = Dns::serve(vec![
        ("_ws._tcp.b.test.", srv(0, 0, 1, "b.test.")),
        ("_ws._tcp.c.test.", srv(0, 0, 2, "c.test.")),
    ])
    .await;
    search(&["a.test.", "b.test.", "c.test."]);
    let ports = async || resolve::records("_ws._tcp").await.map(|found| found[0].port);
    assert_eq!(ports().await.unwrap(), 1);
    dns.change(|zone| zone.fails_at = Some("_ws._tcp.a.test."));
    assert!(ports().await.is_err());
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_dns() {
    let dns = Dns::serve(Vec::new()).await;
    assert!(!addresses("localhost").await.unwrap().is_empty());
    assert_eq!(lock(&dns.zone).asked, 0);
}

/// A pool whose servers a record lists, asked for all the time.
pub(super) fn listed(change: impl FnOnce(&mut config::Upstream)) -> Pool {
    let mut config = upstream(vec![ServerAddress::Srv("_ws._tcp.example.test".into())]);
    config.dns_refresh = Some(Duration::from_millis(10));
    change(&mut config);
    followed(&config)
}

/// Where the next request goes.
pub(super) async fn name(pool: &Pool) -> String {
    connect(pool, Want::Fresh).await.unwrap().lease.endpoint_name().to_string()
}

#[tokio::test]
async fn b8_the_servers_of_a_record_are_endpoints_and_those_of_a_higher_priority_backups() {
    let ((_a, a), (_b, b), (_c, c)) = (server().await, server().await, server().await);
    let service = "_ws._tcp.example.test.";
    let _dns = Dns::serve(vec![
        (service, srv(5, 1, port(&c), "c.test.")),
        (service, srv(1, 1, port(&b), "b.test.")),
        (service, srv(1, 3, port(&a), "A.test.")),
        ("a.test.", address("127.0.0.1")),
        ("b.test.", address("127.0.0.1")),
        ("c.test.", address("127.0.0.1")),
    ])
    .await;
    let pool = listed(|_| {});
    let [a, b, c] =
        [("a", a), ("b", b), ("c", c)].map(|(host, address)| format!("{host}.test:{}", port(&address)));
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(name(&pool).await);
    }
    let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    assert_eq!((count(&a), count(&b), count(&c)), (6, 2, 0), "{names:?}");
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    let mut tried = Vec::new();
    for _ in 0..3 {
        tried.push(pool.connect(&mut attempt, Want::Elsewhere).await.unwrap());
    }
    assert_eq!(**tried[2].lease.endpoint_name(), *c);
}

#[tokio::test]
async fn a_server_that_left_its_record_gets_nothing_new_and_its_tunnels_go_by_on_removed() {
    for on_removed in [OnRemoved::Keep, OnRemoved::Drain, OnRemoved::Close] {
        let ((a, a_address), (_b, b_address)) = (server().await, server().await);
        let service = "_ws._tcp.example.test.";
        let dns = Dns::serve(vec![
            (service, srv(0, 0, port(&a_address), "a.test.")),
            ("a.test.", address("127.0.0.1")),
        ])
        .await;
        let pool = listed(|config| config.on_removed = on_removed);
        let mut idle = park_one(&pool, &a).await;
        let staying = connect(&pool, Want::Fresh).await.unwrap();
        let known = staying.lease.endpoint_name().clone();
        dns.change(|zone| {
            zone.records.push((service, srv(0, 0, port(&b_address), "b.test.")));
            zone.records.push(("b.test.", address("127.0.0.1")));
        });
        eventually(|| pool.endpoint_count() == 2).await;
        assert_eq!((pool.open(), pool.idle()), (1, 1), "who stays keeps what it has");
        dns.change(|zone| _ = zone.records.remove(0));
        eventually(|| pool.endpoint_count() == 1).await;
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        for _ in 0..4 {
            assert_ne!(name(&pool).await, *known);
        }
        assert_eq!((pool.open(), pool.idle()), (1, 0));
        let staying = staying.lease.into_tunnel();
        assert_eq!(staying.drain().is_removed(), on_removed != OnRemoved::Keep);
        drop(staying);
        assert_eq!(pool.open(), 0);
    }
}

#[tokio::test]
async fn b8_a_server_that_comes_back_to_its_record_is_the_one_that_it_was() {
    let ((_a, a_address), (_b, b_address)) = (server().await, server().await);
    let service = "_ws._tcp.example.test.";
    let [a, b] =
        [("a.test.", &a_address), ("b.test.", &b_address)].map(|(name, at)| srv(0, 0, port(at), name));
    let hosts = [("a.test.", address("127.0.0.1")), ("b.test.", address("127.0.0.1"))];
    let dns = Dns::serve([hosts.as_slice(), &[(service, a.clone())]].concat()).await;
    let pool = listed(|config| {
        config.on_removed = OnRemoved::Drain;
        config.servers[0].max_connections = Some(1);
        config.max_fails = Some(1);
    });
    let before = connect(&pool, Want::Fresh).await.unwrap();
    let name = before.lease.endpoint_name().clone();
    assert_eq!(pool.endpoint(0).status.back_since(), None);
    let before = before.lease.into_tunnel();
    dns.change(|zone| zone.records[2].1 = b);
    eventually(|| pool.endpoint(0).name() != &name).await;
    assert!(pool.endpoint(0).status.back_since().is_some(), "who joins begins slowly");
    dns.change(|zone| zone.records[2].1 = a);
    eventually(|| pool.endpoint(0).name() == &name).await;
    assert_eq!((pool.open(), pool.endpoint(0).open()), (1, 1), "counted once");
    let full = connect(&pool, Want::Fresh).await;
    assert!(matches!(full, Err(ConnectFailure::NoEndpoint)), "its old tunnel counts: {full:?}");
    assert!(before.drain().is_removed() && pool.endpoint(0).status.back_since().is_some());
    drop(before);
    let after = connect(&pool, Want::Fresh).await.unwrap();
    assert_eq!(after.lease.endpoint_name(), &name);
    assert!(!after.lease.into_tunnel().drain().is_draining());
    assert_eq!(pool.open(), 0);
}

#[tokio::test]
async fn b8_a_retry_knows_the_servers_that_came_since() {
    let ((_a, a_address), (_b, b_address)) = (server().await, server().await);
    let service = "_ws._tcp.example.test.";
    let [a, b] =
        [("a.test.", &a_address), ("b.test.", &b_address)].map(|(name, at)| srv(0, 0, port(at), name));
    let hosts = [("a.test.", address("127.0.0.1")), ("b.test.", address("127.0.0.1"))];
    let dns = Dns::serve([hosts.as_slice(), &[(service, b)]].concat()).await;
    let pool = listed(|_| {});
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    let first = pool.connect(&mut attempt, Want::Fresh).await.unwrap();
    // It stands before the other one now, so that places have changed.
    dns.change(|zone| zone.records.push((service, a)));
    eventually(|| pool.endpoint_count() == 2).await;
    let second = pool.connect(&mut attempt, Want::Elsewhere).await.unwrap();
    assert_ne!(first.lease.endpoint_name(), second.lease.endpoint_name());
    let third = pool.connect(&mut attempt, Want::Elsewhere).await;
    assert!(matches!(third, Err(ConnectFailure::NoEndpoint)), "it had both: {third:?}");
}

#[tokio::test]
async fn an_answer_that_fails_keeps_the_last_list() {
    let (_a, a) = server().await;
    let service = "_ws._tcp.example.test.";
    let dns =
        Dns::serve(vec![("a.test.", address("127.0.0.1")), (service, srv(0, 0, port(&a), "a.test."))]).await;
    let pool = listed(|_| {});
    let held = connect(&pool, Want::Fresh).await.unwrap();
    for change in [
        |zone: &mut Zone| zone.fails = true,
        |zone: &mut Zone| {
            zone.fails = false;
            zone.records.truncate(1);
        },
    ] {
        dns.change(change);
        dns.asked_again().await;
        assert_eq!(name(&pool).await, **held.lease.endpoint_name());
    }
}

#[tokio::test]
async fn the_first_list_is_waited_for_within_connect_timeout() {
    let (_a, a) = server().await;
    let service = "_ws._tcp.example.test.";
    let dns =
        Dns::serve(vec![("a.test.", address("127.0.0.1")), (service, srv(0, 0, port(&a), "a.test."))]).await;
    dns.change(|zone| zone.delay = Duration::from_millis(100));
    let pool = listed(|config| config.connect_timeout = Some(Duration::from_millis(1)));
    let none = connect(&pool, Want::Fresh).await;
    assert!(matches!(none, Err(ConnectFailure::NoEndpoint)), "{none:?}");
    let pool = listed(|_| {});
    assert_eq!(name(&pool).await, format!("a.test:{}", port(&a)));
}

#[tokio::test]
async fn a_record_that_was_not_found_is_not_waited_for_until_it_is_asked_for_again() {
    let (_a, a) = server().await;
    let dns = Dns::serve(vec![("a.test.", address("127.0.0.1"))]).await;
    let pool = listed(|config| {
        config.dns_refresh = None;
        config.connect_timeout = Some(Duration::from_secs(3600));
    });
    let none = connect(&pool, Want::Fresh).await;
    assert!(matches!(none, Err(ConnectFailure::NoEndpoint)), "{none:?}");
    let at_once = pin!(connect(&pool, Want::Fresh)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(at_once, Poll::Ready(Err(ConnectFailure::NoEndpoint))), "{at_once:?}");
    // Before the answer that is on its way.
    dns.change(|zone| {
        zone.records.push(("_ws._tcp.example.test.", srv(0, 0, port(&a), "a.test.")));
        zone.delay = Duration::from_millis(100);
    });
    let before = dns.asked();
    eventually(|| dns.asked() > before).await;
    assert_eq!(name(&pool).await, format!("a.test:{}", port(&a)));
}

#[tokio::test]
async fn the_log_tells_a_record_without_servers_from_one_that_keeps_its_last() {
    let (_a, a) = server().await;
    let dns = Dns::serve(Vec::new()).await;
    let log = logged(async {
        let pool = listed(|_| {});
        connect(&pool, Want::Fresh).await.unwrap_err();
        // A name of the hosts file, so that DNS is asked for the record alone.
        let record = srv(0, 0, port(&a), "localhost.");
        dns.change(|zone| zone.records.push(("_ws._tcp.example.test.", record)));
        eventually(|| pool.endpoint_count() == 1).await;
        dns.change(|zone| zone.fails = true);
        // However often one look-up asks.
        for _ in 0..3 {
            dns.asked_again().await;
        }
    });
    let log = log.await;
    let outcomes: Vec<_> =
        log.lines().filter_map(|line| line.split("record not resolved, ").nth(1)).collect();
    assert_eq!(outcomes.len(), 2, "each once: {log}");
    assert!(outcomes[0].starts_with("it has no servers yet"), "{log}");
    assert!(outcomes[1].starts_with("its last servers stay in use"), "{log}");
}

#[tokio::test]
async fn a_record_is_followed_no_longer_than_its_pool() {
    let _dns = Dns::serve(Vec::new()).await;
    let before = alive_tasks();
    let pool = listed(|_| {});
    assert_eq!(alive_tasks(), before + 1);
    drop(pool);
    eventually(|| alive_tasks() == before).await;
}
