//! Pools against sockets on this host.

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    runtime::Handle,
    task::yield_now,
    time::{Instant, advance, pause},
};

mod administrator;
pub(super) mod names;
mod reload;
mod sites;
mod view;

use super::*;
use crate::{
    buffered::{Buffered, Socket, enter_worker},
    config::{self, ServerAddress, UpstreamServer},
    lifecycle::Drain,
};

pub(super) fn upstream(servers: Vec<ServerAddress>) -> config::Upstream {
    config::Upstream {
        table: crate::config::Written::default(),
        name: "websocket".into(),
        servers: servers
            .into_iter()
            .map(|address| UpstreamServer { address, weight: 1, backup: false, max_connections: None })
            .collect(),
        balance: config::Balance::RoundRobin,
        connect_timeout: Some(Duration::from_secs(3)),
        handshake_timeout: None,
        response_timeout: None,
        response_body_timeout: None,
        retries: 2,
        retry_deadline: Some(Duration::from_secs(10)),
        keep_alive: 64,
        keep_alive_timeout: Some(Duration::from_secs(4)),
        sticky: None,
        source_addresses: Vec::new(),
        retry_handshakes: false,
        dns_refresh: Some(Duration::from_secs(30)),
        slow_start: None,
        max_fails: None,
        fail_timeout: Duration::from_secs(10),
        on_removed: config::OnRemoved::Keep,
        proxy_protocol: None,
        tls: None,
        health: None,
    }
}

pub(super) fn place() -> Surroundings {
    Surroundings { workers: 1, drain: Drain::new(Duration::ZERO).1, drain_spread: Duration::ZERO }
}

fn pool(servers: Vec<ServerAddress>) -> Pool {
    followed(&upstream(servers))
}

/// A pool whose names are asked for.
fn followed(config: &config::Upstream) -> Pool {
    let pool = Pool::new(config, &place()).unwrap();
    pool.follow_records().into_iter().for_each(|task| _ = tokio::spawn(task));
    pool
}

/// A server that accepts, with its address.
async fn server() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, ServerAddress::Inet(address))
}

/// An address that refuses. The socket is bound but does not listen, so nobody else gets the port.
pub(super) fn refusing() -> (socket2::Socket, ServerAddress) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, ServerAddress::Inet(address))
}

/// An address that does not answer: the queue of the listener is full, so the kernel drops what comes.
pub(super) fn silent() -> ((socket2::Socket, std::net::TcpStream), ServerAddress) {
    let (socket, address) = refusing();
    socket.listen(0).unwrap();
    let ServerAddress::Inet(inet) = address else { unreachable!() };
    let first = std::net::TcpStream::connect(inet).unwrap();
    ((socket, first), address)
}

async fn connect(pool: &Pool, want: Want) -> Result<Connected, ConnectFailure> {
    pool.connect(&mut pool.attempt(Caller::default(), Instant::now()), want).await
}

/// A connection that was used once and parked, with the server's end of it.
async fn park_one(pool: &Pool, listener: &TcpListener) -> TcpStream {
    let (connected, accepted) = tokio::join!(connect(pool, Want::Fresh), listener.accept());
    let Connected { stream, lease, .. } = connected.unwrap();
    lease.park(stream, None);
    accepted.unwrap().0
}

fn name_of(address: &ServerAddress) -> String {
    let ServerAddress::Inet(address) = address else { unreachable!() };
    address.to_string()
}

/// Lets the other tasks run until `what` holds, or fails when they had turns enough.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        yield_now().await;
    }
    panic!("it does not come to hold");
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn leases_count_while_they_last() {
    let (_listener, address) = server().await;
    let pool = pool(vec![address.clone()]);
    let first = connect(&pool, Want::Reuse).await.unwrap();
    let second = connect(&pool, Want::Reuse).await.unwrap();
    assert!(!first.reused && !second.reused);
    assert_eq!(&**first.lease.endpoint_name(), name_of(&address));
    assert_eq!((pool.open(), pool.idle()), (2, 0));
    drop((first, second));
    assert_eq!(pool.open(), 0);
}

#[tokio::test]
async fn tunnels_draw_new_ones_to_the_other_endpoints() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let mut config = upstream(vec![a.clone(), b]);
    config.balance = config::Balance::LeastConnections;
    let pool = Pool::new(&config, &place()).unwrap();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connect(&pool, Want::Fresh).await.unwrap());
    }
    let at_a = held.iter().filter(|held| **held.lease.endpoint_name() == *name_of(&a)).count();
    assert_eq!(at_a, 10);
}

#[tokio::test]
async fn b8_failover_goes_to_endpoints_not_tried_yet() {
    let (_refusing, refused) = refusing();
    let (_listener, good) = server().await;
    let pool = pool(vec![refused, good.clone()]);
    for _ in 0..4 {
        let connected = connect(&pool, Want::Reuse).await.unwrap();
        assert_eq!(&**connected.lease.endpoint_name(), name_of(&good));
    }
    assert_eq!(pool.open(), 0);
}

#[tokio::test]
async fn retries_are_bounded() {
    let (_sockets, addresses): (Vec<_>, Vec<_>) = (0..4).map(|_| refusing()).unzip();
    let (_listener, good) = server().await;
    let mut servers = addresses.clone();
    servers.push(good);
    let pool = pool(servers);
    // In turn: the first, and two retries; the fifth, which is good, is not reached.
    match connect(&pool, Want::Fresh).await.unwrap_err() {
        ConnectFailure::Failed { endpoint, source } => {
            assert_eq!(endpoint, name_of(&addresses[2]));
            assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.open(), 0);
}

#[tokio::test]
async fn b8_retries_are_bounded_over_all_requests() {
    let (_refusing, refused) = refusing();
    let (_listener, good) = server().await;
    let pool = pool(vec![refused.clone(), good]);
    let mut failed = 0;
    for _ in 0..60 {
        // Accepted by the kernel's queue, and dropped.
        match connect(&pool, Want::Fresh).await {
            Ok(_) => {}
            Err(ConnectFailure::Failed { endpoint, .. }) => {
                assert_eq!(endpoint, name_of(&refused));
                failed += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    // Every second one needed a retry; ten were saved up, and every fifth request brought one.
    assert!((8..=10).contains(&failed), "{failed}");
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    while connect(&pool, Want::Fresh).await.is_ok() {}
    assert!(!attempt.may_retry(Instant::now()), "as if it had none left");
    drop(pool.connect(&mut attempt, Want::Fresh).await);
    assert_eq!(pool.open(), 0);
}

#[tokio::test]
async fn b8_a_try_elsewhere_never_goes_to_the_same_endpoint() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let pool = pool(vec![a, b]);
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    let first = pool.connect(&mut attempt, Want::Fresh).await.unwrap();
    let second = pool.connect(&mut attempt, Want::Elsewhere).await.unwrap();
    assert_ne!(first.lease.endpoint_name(), second.lease.endpoint_name());
    let third = pool.connect(&mut attempt, Want::Elsewhere).await;
    assert!(matches!(third, Err(ConnectFailure::NoEndpoint)));
}

#[tokio::test(start_paused = true)]
async fn s1_connect_timeout_covers_the_tls_handshake() {
    let (listener, address) = server().await;
    let mut config = upstream(vec![address.clone()]);
    config.tls =
        Some(config::UpstreamTls { server_name: None, trust: config::Trust::Anybody, identity: None });
    let pool = Pool::new(&config, &place()).unwrap();
    let begun = Instant::now();
    // Accepted by the kernel, and never answered.
    match connect(&pool, Want::Fresh).await.unwrap_err() {
        ConnectFailure::TimedOut { endpoint } => assert_eq!(endpoint, name_of(&address)),
        other => panic!("{other:?}"),
    }
    assert_eq!(begun.elapsed().as_secs(), 3);
    drop(listener);
}

#[tokio::test]
async fn one_endpoint_that_refuses_is_not_asked_again_at_once() {
    let (_socket, address) = refusing();
    let pool = pool(vec![address]);
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    pool.connect(&mut attempt, Want::Fresh).await.unwrap_err();
    assert!(attempt.may_retry(Instant::now()), "no retry was spent on it");
}

#[tokio::test]
async fn a_pool_without_endpoints_says_so() {
    assert!(matches!(connect(&pool(vec![]), Want::Fresh).await, Err(ConnectFailure::NoEndpoint)));
}

#[tokio::test]
async fn h14_the_second_send_prefers_another_endpoint_and_a_fresh_connection() {
    let ((a, a_address), (_b, b_address)) = (server().await, server().await);
    let one = pool(vec![a_address.clone()]);
    let _a = park_one(&one, &a).await;
    let mut attempt = one.attempt(Caller::default(), Instant::now());
    assert!(one.connect(&mut attempt, Want::Reuse).await.unwrap().reused);
    let second = one.connect(&mut attempt, Want::Fresh).await.unwrap();
    assert!(!second.reused, "the only endpoint may be tried again, on a new connection");

    let two = pool(vec![a_address, b_address]);
    let mut attempt = two.attempt(Caller::default(), Instant::now());
    let first = two.connect(&mut attempt, Want::Reuse).await.unwrap();
    let second = two.connect(&mut attempt, Want::Fresh).await.unwrap();
    assert_ne!(first.lease.endpoint_name(), second.lease.endpoint_name());
    assert!(attempt.may_retry(Instant::now()));
    two.connect(&mut attempt, Want::Fresh).await.unwrap();
    assert!(!attempt.may_retry(Instant::now()));
    let exhausted = two.connect(&mut attempt, Want::Fresh).await;
    assert!(matches!(exhausted, Err(ConnectFailure::NoEndpoint)));
}

#[tokio::test]
async fn h14_a_request_that_belongs_to_an_endpoint_stays_there_over_a_stale_connection() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let mut config = upstream(vec![a, b]);
    config.balance = config::Balance::ConsistentHash(config::HashKey::Path);
    let pool = || Pool::new(&config, &place()).unwrap();
    for key in 0..20_u64 {
        let pool = pool();
        let caller = Caller { hash: Some(Caller::hash(&key.to_be_bytes())), ..Caller::default() };
        let mut attempt = pool.attempt(caller, Instant::now());
        let name = |connected: Connected| connected.lease.endpoint_name().clone();
        let first = name(pool.connect(&mut attempt, Want::Reuse).await.unwrap());
        attempt.stay_if_bound();
        assert_eq!(name(pool.connect(&mut attempt, Want::Fresh).await.unwrap()), first);
        assert_ne!(name(pool.connect(&mut attempt, Want::Fresh).await.unwrap()), first);
        assert!(!attempt.may_retry(Instant::now()), "staying was a retry too");
    }
    let pool = pool();
    let mut unbound = pool.attempt(Caller::default(), Instant::now());
    let first = pool.connect(&mut unbound, Want::Reuse).await.unwrap();
    unbound.stay_if_bound();
    let second = pool.connect(&mut unbound, Want::Fresh).await.unwrap();
    assert_ne!(first.lease.endpoint_name(), second.lease.endpoint_name());
}

#[tokio::test(start_paused = true)]
async fn s1_a_connect_that_is_not_answered_times_out() {
    let (_silent, address) = silent();
    let pool = pool(vec![address.clone()]);
    let begun = Instant::now();
    match connect(&pool, Want::Fresh).await.unwrap_err() {
        ConnectFailure::TimedOut { endpoint } => assert_eq!(endpoint, name_of(&address)),
        other => panic!("{other:?}"),
    }
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(pool.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_retry_deadline_cuts_all_tries() {
    let (_silent, addresses): (Vec<_>, Vec<_>) = (0..8).map(|_| silent()).unzip();
    let mut config = upstream(addresses);
    config.retries = 7;
    let pool = Pool::new(&config, &place()).unwrap();
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    let begun = Instant::now();
    let failure = pool.connect(&mut attempt, Want::Fresh).await;
    assert!(matches!(failure, Err(ConnectFailure::TimedOut { .. })));
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(!attempt.may_retry(Instant::now()));
    let late = pool.connect(&mut attempt, Want::Fresh).await;
    assert!(matches!(late, Err(ConnectFailure::Deadline)));
}

#[tokio::test]
async fn a_connect_that_is_dropped_leaves_nothing() {
    let (_silent, address) = silent();
    let pool = pool(vec![address]);
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    {
        let mut connecting = pin!(pool.connect(&mut attempt, Want::Fresh));
        assert!(connecting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(pool.open(), 1);
    }
    assert_eq!((pool.open(), pool.idle()), (0, 0));
}

#[tokio::test]
async fn b7_a_parked_connection_is_used_again() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let mut accepted = park_one(&pool, &listener).await;
    assert_eq!((pool.open(), pool.idle()), (0, 1));
    let mut again = connect(&pool, Want::Reuse).await.unwrap();
    assert!(again.reused);
    assert_eq!((pool.open(), pool.idle()), (1, 0));
    again.stream.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn the_last_used_is_taken_first() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let (one, _first_end) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let (two, _second_end) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let (one, two) = (one.unwrap(), two.unwrap());
    let port = |stream: &Buffered<Transport>| match stream.get_ref() {
        Transport::Plain(Socket::Tcp(stream)) => stream.local_addr().unwrap().port(),
        _ => unreachable!(),
    };
    let last = port(&two.stream);
    one.lease.park(one.stream, None);
    two.lease.park(two.stream, None);
    assert_eq!(port(&connect(&pool, Want::Reuse).await.unwrap().stream), last);
}

#[tokio::test]
async fn a_handshake_never_gets_a_parked_connection() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let _accepted = park_one(&pool, &listener).await;
    assert!(!connect(&pool, Want::Fresh).await.unwrap().reused);
    assert_eq!(pool.idle(), 1);
}

#[tokio::test]
async fn h14_ended_or_surplus_connections_are_thrown_away() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    for surplus in [false, true] {
        let (connected, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
        let Connected { stream, lease, .. } = connected.unwrap();
        let mut accepted = accepted.unwrap().0;
        let _still_open = if surplus {
            accepted.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
            Some(accepted)
        } else {
            drop(accepted);
            None
        };
        let Transport::Plain(Socket::Tcp(socket)) = stream.get_ref() else { unreachable!() };
        socket.readable().await.unwrap();
        lease.park(stream, None);
        assert!(!connect(&pool, Want::Reuse).await.unwrap().reused);
        listener.accept().await.unwrap();
        assert_eq!((pool.open(), pool.idle()), (0, 0));
    }
}

#[tokio::test]
async fn b7_taking_one_parked_connection_leaves_the_others() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let mut connected = Vec::new();
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let (stream, peer) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
        connected.push(stream.unwrap());
        accepted.push(peer.unwrap().0);
    }
    for Connected { stream, lease, .. } in connected {
        lease.park(stream, None);
    }
    assert_eq!(pool.idle(), 3);
    let first = connect(&pool, Want::Reuse).await.unwrap();
    assert_eq!((first.reused, pool.idle()), (true, 2));
    let second = connect(&pool, Want::Reuse).await.unwrap();
    assert_eq!((second.reused, pool.idle()), (true, 1));
}

#[tokio::test]
async fn b7_a_stream_with_a_tail_is_not_kept() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let (connected, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let Connected { mut stream, lease, .. } = connected.unwrap();
    let mut accepted = accepted.unwrap().0;
    accepted.write_all(b"surplus").await.unwrap();
    stream.fill(1024).await.unwrap();
    lease.park(stream, None);
    assert_eq!((pool.open(), pool.idle()), (0, 0));
}

#[tokio::test]
async fn idle_connections_are_bounded_over_all_workers() {
    let (listener, address) = server().await;
    let mut config = upstream(vec![address]);
    config.keep_alive = 2;
    let pool = Pool::new(&config, &Surroundings { workers: 2, ..place() }).unwrap();
    let mut all = Vec::new();
    for _ in 0..4 {
        let (connected, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
        all.push((connected.unwrap(), accepted.unwrap()));
    }
    let mut ends = Vec::new();
    for (worker, (connected, end)) in all.into_iter().enumerate() {
        enter_worker(worker % 2);
        connected.lease.park(connected.stream, None);
        ends.push(end);
    }
    assert_eq!(pool.idle(), 2);
    for worker in [0, 1] {
        enter_worker(worker);
        let one = connect(&pool, Want::Reuse).await.unwrap();
        assert!(one.reused, "each worker has its own one");
        let other = connect(&pool, Want::Reuse).await.unwrap();
        assert!(!other.reused, "none takes another worker's");
    }
    enter_worker(0);
}

#[tokio::test]
async fn idle_connections_expire_and_their_task_ends() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let _accepted = park_one(&pool, &listener).await;
    assert_eq!(alive_tasks(), 1);
    pause();
    yield_now().await;
    advance(Duration::from_millis(3_900)).await;
    yield_now().await;
    assert_eq!(pool.idle(), 1);
    advance(Duration::from_millis(101)).await;
    until(|| pool.idle() == 0 && alive_tasks() == 0).await;
}

#[tokio::test]
async fn h14_the_servers_keep_alive_shortens_the_stay() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let (connected, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let Connected { stream, lease, .. } = connected.unwrap();
    let _accepted = accepted.unwrap();
    lease.park(stream, Some(Duration::from_secs(1)));
    pause();
    advance(Duration::from_secs(1)).await;
    assert!(!connect(&pool, Want::Reuse).await.unwrap().reused);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn an_ended_connection_without_expiry_is_closed_by_the_sweep() {
    let (listener, address) = server().await;
    let mut config = upstream(vec![address]);
    config.keep_alive_timeout = None;
    let pool = Pool::new(&config, &place()).unwrap();
    let accepted = park_one(&pool, &listener).await;
    pause();
    yield_now().await;
    advance(Duration::from_secs(60)).await;
    yield_now().await;
    assert_eq!(pool.idle(), 1);
    drop(accepted);
    advance(Duration::from_secs(11)).await;
    until(|| pool.idle() == 0 && alive_tasks() == 0).await;
}

#[tokio::test]
async fn a_closed_pool_keeps_nothing_and_no_task() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let mut parked_end = park_one(&pool, &listener).await;
    let (late, _late_end) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let late = late.unwrap();
    pool.close_idle();
    assert_eq!(pool.idle(), 0);
    assert_eq!(parked_end.read(&mut [0; 1]).await.unwrap(), 0);
    late.lease.park(late.stream, None);
    assert_eq!((pool.open(), pool.idle()), (0, 0));
    until(|| alive_tasks() == 0).await;
}

#[tokio::test]
async fn a_dropped_pool_leaves_its_leases_alone() {
    let (listener, address) = server().await;
    let pool = pool(vec![address]);
    let _parked_end = park_one(&pool, &listener).await;
    let (connected, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    drop(pool);
    until(|| alive_tasks() == 0).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap().0);
    connected.stream.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    connected.lease.park(connected.stream, None);
    assert_eq!(accepted.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn unix_sockets_are_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pool = pool(vec![ServerAddress::Unix(path)]);
    let connected = connect(&pool, Want::Reuse).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    assert_eq!(connected.lease.authority(), "localhost");
    connected.lease.park(connected.stream, None);
    assert!(connect(&pool, Want::Reuse).await.unwrap().reused);
    drop(accepted);
}

#[tokio::test]
async fn ipv6_addresses_are_endpoints() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pool = pool(vec![ServerAddress::Inet(address)]);
    let connected = connect(&pool, Want::Fresh).await.unwrap();
    assert_eq!(connected.lease.authority(), format!("[::1]:{}", address.port()));
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    // `localhost` is ::1 and 127.0.0.1 on most hosts, and this listens on the second alone.
    let (listener, address) = server().await;
    let ServerAddress::Inet(inet) = address else { unreachable!() };
    let pool = pool(vec![ServerAddress::Name { host: "localhost".into(), port: inet.port() }]);
    let connected = connect(&pool, Want::Fresh).await.unwrap();
    assert_eq!(&**connected.lease.endpoint_name(), format!("localhost:{}", inet.port()));
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails() {
    let pool = pool(vec![ServerAddress::Name { host: "nowhere.invalid".into(), port: 80 }]);
    let failure = connect(&pool, Want::Fresh).await.unwrap_err();
    assert_eq!(failure.to_string(), "cannot connect to nowhere.invalid:80");
    assert!(std::error::Error::source(&failure).is_some());
}

#[test]
fn connecting_can_move_to_a_worker() {
    fn assert_send<T: Send>(_: &T) {}
    let pool = pool(vec![]);
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    assert_send(&pool.connect(&mut attempt, Want::Fresh));
}
