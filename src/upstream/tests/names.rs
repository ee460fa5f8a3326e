//! Names against a DNS server of the test's own.

use std::{
    cell::Cell,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle, time::sleep};

use super::*;
use crate::{config::OnRemoved, upstream::resolve};

thread_local! {
    static SERVER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
}

/// The DNS server of this test; `None` leaves it to the system.
pub(in crate::upstream) fn config() -> Option<ResolverConfig> {
    let server = SERVER.get()?;
    let mut udp = ConnectionConfig::udp();
    udp.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![udp]);
    Some(ResolverConfig::from_name_servers(vec![server]))
}

/// What the DNS server knows.
#[derive(Default)]
struct Zone {
    records: Vec<(&'static str, RData)>,
    /// It says nothing when it is asked for these.
    silent: Option<RecordType>,
    fails: bool,
    asked: usize,
}

struct Dns {
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

impl Dns {
    async fn serve(records: Vec<(&'static str, RData)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        SERVER.set(Some(socket.local_addr().unwrap()));
        let zone = Arc::new(Mutex::new(Zone { records, ..Zone::default() }));
        let known = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut packet).await.unwrap();
                let asked = Message::from_vec(&packet[..length]).unwrap();
                let answer = lock(&known).answer(&asked);
                if let Some(answer) = answer {
                    socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        Self { zone, task }
    }

    fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut lock(&self.zone));
    }

    /// Waits until it was asked twice more: by then the answer to the first was heard.
    async fn asked_again(&self) {
        let before = lock(&self.zone).asked;
        eventually(|| lock(&self.zone).asked >= before + 2).await;
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
        if self.silent == Some(query.query_type()) {
            return None;
        }
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let named = |(name, data): &&(&str, RData)| {
            Name::from_str_relaxed(name).unwrap() == *query.name() && data.record_type() == query.query_type()
        };
        let record = |(_, data): &(&str, RData)| Record::from_rdata(query.name().clone(), 3600, data.clone());
        if self.fails {
            answer.metadata.response_code = ResponseCode::ServFail;
        } else {
            answer.add_answers(self.records.iter().filter(named).map(record));
        }
        Some(answer)
    }
}

/// Waits for what comes to hold over real sockets.
async fn eventually(what: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if what() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not come to hold");
}

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

fn port(address: &ServerAddress) -> u16 {
    let ServerAddress::Inet(address) = address else { unreachable!() };
    address.port()
}

async fn addresses(host: &str) -> Vec<String> {
    let name = resolve::Name::new(host.into(), 80, &upstream(Vec::new()));
    name.addresses().await.unwrap().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn both_families_of_a_name_are_asked_for() {
    let dns = Dns::serve(vec![("two.test.", address("127.0.0.1")), ("two.test.", address("::1"))]).await;
    assert_eq!(addresses("two.test").await, ["[::1]:80", "127.0.0.1:80"]);
    dns.change(|zone| zone.records.truncate(1));
    assert_eq!(addresses("two.test").await, ["127.0.0.1:80"], "nothing is kept but by the name");
    dns.change(|zone| zone.silent = Some(RecordType::AAAA));
    assert_eq!(addresses("two.test").await, ["127.0.0.1:80"], "the other family is not waited for");
}

#[tokio::test]
async fn names_of_the_hosts_file_need_no_dns() {
    let dns = Dns::serve(Vec::new()).await;
    assert!(!addresses("localhost").await.is_empty());
    assert_eq!(lock(&dns.zone).asked, 0);
}

/// A pool whose servers a record lists, asked for all the time.
fn listed(change: impl FnOnce(&mut config::Upstream)) -> Pool {
    let mut config = upstream(vec![ServerAddress::Srv("_ws._tcp.example.test".into())]);
    config.dns_refresh = Some(Duration::from_millis(10));
    change(&mut config);
    let pool = Pool::new(&config, &place()).unwrap();
    pool.follow_records().into_iter().for_each(|record| _ = tokio::spawn(record));
    pool
}

async fn name(pool: &Pool) -> String {
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
    let dns = Dns::serve(vec![("a.test.", address("127.0.0.1"))]).await;
    let pool = listed(|config| config.connect_timeout = Some(Duration::from_millis(50)));
    let none = connect(&pool, Want::Fresh).await;
    assert!(matches!(none, Err(ConnectFailure::NoEndpoint)), "{none:?}");
    let pool = listed(|_| {});
    let (found, ()) = tokio::join!(connect(&pool, Want::Fresh), async {
        dns.asked_again().await;
        dns.change(|zone| zone.records.push(("_ws._tcp.example.test.", srv(0, 0, port(&a), "a.test."))));
    });
    assert_eq!(&**found.unwrap().lease.endpoint_name(), format!("a.test:{}", port(&a)));
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
