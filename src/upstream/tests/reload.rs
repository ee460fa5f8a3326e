//! Pools whose configuration changes.

use std::sync::{
    Weak,
    atomic::{AtomicI64, Ordering},
};

mod answers;
mod checks;

use self::answers::recorded;
use super::{
    names::{eventually, name, port},
    sites::dns,
    *,
};
use crate::{
    config::{OnRemoved, ProxyProtocol, Trust},
    lifecycle::DrainHandle,
    upstream::{TunnelLease, endpoint::Endpoint},
};

/// The configuration after a change of the file.
pub(super) fn changed(
    before: &config::Upstream,
    change: impl FnOnce(&mut config::Upstream),
) -> config::Upstream {
    static EDITS: AtomicI64 = AtomicI64::new(0);
    let mut config = before.clone();
    let edit = toml::Value::Integer(EDITS.fetch_add(1, Ordering::Relaxed));
    config.table = toml::Table::from_iter([("edit".to_owned(), edit)]).into();
    change(&mut config);
    config
}

/// Puts `config` in force in place of the configuration of `pool`.
pub(super) fn reload(pool: &Pool, config: &config::Upstream) -> Pool {
    let next = pool.succeed(config, &place()).unwrap();
    pool.retire(Some(&next));
    next.follow_records().into_iter().for_each(|task| _ = tokio::spawn(task));
    next
}

/// Checks by TCP as often as can be.
pub(super) fn checked() -> config::Health {
    config::Health {
        check: config::Check::Tcp,
        path: "/".into(),
        host: None,
        headers: Vec::new(),
        subprotocol: None,
        expect_status: vec![200],
        ping: false,
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
    }
}

fn tls(trust: Trust) -> config::UpstreamTls {
    config::UpstreamTls { server_name: None, trust, identity: None }
}

/// A change of the file, and whether something outlives it.
type Change = (bool, fn(&mut config::Upstream));

async fn tunnel(pool: &Pool) -> TunnelLease {
    connect(pool, Want::Fresh).await.unwrap().lease.into_tunnel()
}

fn is_same(one: &Pool, other: &Pool) -> bool {
    Arc::ptr_eq(one.inner(), other.inner())
}

#[tokio::test]
async fn an_equal_table_is_the_same_pool_and_nothing_begins_twice() {
    let (listener, a) = server().await;
    let _dns = dns(&["127.0.0.1"]).await;
    let by_name = ServerAddress::Name { host: "web.test.".into(), port: port(&a) };
    let config = config::Upstream { health: Some(checked()), ..upstream(vec![a, by_name]) };
    let pool = followed(&config);
    pool.start_checks(&Handle::current());
    eventually(|| pool.view().endpoints.iter().all(|endpoint| endpoint.last_check.is_some())).await;
    let _idle = park_one(&pool, &listener).await;
    let (tunnel, before) = (tunnel(&pool).await, alive_tasks());
    for _ in 0..3 {
        let next = pool.succeed(&config.clone(), &place()).unwrap();
        assert!(is_same(&pool, &next));
        pool.retire(Some(&next));
        assert_eq!(next.follow_records().len(), 0);
        next.start_checks(&Handle::current());
    }
    assert_eq!((pool.open(), pool.idle(), alive_tasks()), (1, 1, before));
    assert!(!tunnel.drain().is_draining());
    let last = pool.clone();
    drop(pool);
    assert!(connect(&last, Want::Reuse).await.is_ok(), "the last clone is as good as the first");
}

#[tokio::test]
async fn another_drain_spread_holds_for_tunnels_that_are_open() {
    let (_listener, a) = server().await;
    let config = config::Upstream { on_removed: OnRemoved::Drain, ..upstream(vec![a]) };
    let pool = followed(&config);
    let tunnel = tunnel(&pool).await;
    let drain_spread = Duration::from_secs(100);
    let next = pool.succeed(&config, &Surroundings { drain_spread, ..place() }).unwrap();
    assert!(!is_same(&pool, &next));
    pool.retire(Some(&next));
    next.retire(None);
    let drain = tunnel.drain();
    assert!(drain.leaves_at(0.0).unwrap() + drain_spread == drain.leaves_at(1.0).unwrap());
}

/// What may not change while a successor is built and not put in force.
fn fingerprint(pool: &Pool) -> String {
    let mut view = pool.view();
    for endpoint in &mut view.endpoints {
        (endpoint.state_for_s, endpoint.back_in_s) = (None, None);
        if let Some(failure) = &mut endpoint.last_failure {
            failure.ago_s = 0.0;
        }
    }
    format!("{view:?} {} {} {}", pool.open(), pool.idle(), alive_tasks())
}

#[tokio::test]
async fn a_successor_that_is_never_put_in_force_changes_nothing() {
    let ((listener, a), (_b, b), (_c, c)) = (server().await, server().await, server().await);
    let dns = dns(&["127.0.0.1"]).await;
    let by_name = ServerAddress::Name { host: "web.test.".into(), port: port(&c) };
    let mut config = config::Upstream {
        on_removed: OnRemoved::Close,
        max_fails: Some(1),
        dns_refresh: None,
        ..upstream(vec![a.clone(), b.clone(), by_name])
    };
    config.servers[1].backup = true;
    let pool = followed(&config);
    eventually(|| pool.endpoint(2).knows_addresses()).await;
    assert!(pool.take_out(pool.endpoint(2).name(), OnRemoved::Drain));
    let _idle = park_one(&pool, &listener).await;
    let held = tunnel(&pool).await;
    pool.inner().server_failed(&pool.endpoint(1), "refused");
    // Its name has an answer for good, so that its task has ended.
    eventually(|| alive_tasks() == 2).await;
    let before = fingerprint(&pool);
    let changes: [fn(&mut config::Upstream); 7] = [
        |config| _ = config.servers.remove(0),
        |config| config.servers.truncate(1),
        |config| config.health = Some(checked()),
        |config| config.proxy_protocol = Some(ProxyProtocol::V2),
        |config| config.max_fails = None,
        |config| config.keep_alive = 0,
        |config| config.on_removed = OnRemoved::Drain,
    ];
    for change in changes {
        let next = pool.succeed(&changed(&config, change), &place()).unwrap();
        assert!(!is_same(&pool, &next));
        drop(next);
        assert_eq!(fingerprint(&pool), before);
    }
    assert!(!held.drain().is_draining());
    assert!(connect(&pool, Want::Reuse).await.unwrap().reused);
    drop(dns);
}

#[tokio::test]
async fn b8_what_is_open_counts_under_the_next_configuration() {
    let (_listener, a) = server().await;
    let mut config = upstream(vec![a]);
    config.servers[0].max_connections = Some(3);
    let first = followed(&config);
    let old = tunnel(&first).await;
    let second = reload(&first, &changed(&config, |config| config.servers[0].max_connections = Some(2)));
    // A request that still has the first configuration.
    let late = tunnel(&first).await;
    assert_eq!((first.open(), second.open()), (2, 2));
    let full = connect(&second, Want::Fresh).await;
    assert!(matches!(full, Err(ConnectFailure::NoEndpoint)), "{full:?}");
    drop((old, first));
    let _new = tunnel(&second).await;
    drop(late);
    assert_eq!(second.open(), 1);
}

/// Counts the orders to parts of the whole.
fn counted_orders() -> (DrainHandle, Surroundings, Arc<AtomicI64>) {
    let (handle, whole) = Drain::new(Duration::ZERO);
    let heard = Arc::new(AtomicI64::new(0));
    let (orders, count) = (whole.clone(), Arc::clone(&heard));
    tokio::spawn(async move { orders.orders(|| _ = count.fetch_add(1, Ordering::Relaxed)).await });
    (handle, Surroundings { drain: whole, ..place() }, heard)
}

#[tokio::test]
async fn a_server_that_is_removed_leaves_by_the_newest_on_removed_once() {
    for (old, new) in [
        (OnRemoved::Keep, OnRemoved::Drain),
        (OnRemoved::Keep, OnRemoved::Close),
        (OnRemoved::Drain, OnRemoved::Keep),
        (OnRemoved::Close, OnRemoved::Drain),
    ] {
        let ((_stays, stays), (leaves, leaving)) = (server().await, server().await);
        let (_handle, mut place, heard) = counted_orders();
        place.drain_spread = Duration::from_secs(100);
        yield_now().await;
        let config = config::Upstream { on_removed: old, ..upstream(vec![leaving, stays]) };
        let first = Pool::new(&config, &place).unwrap();
        let mut idle_end = park_one(&first, &leaves).await;
        let (two, one) = (tunnel(&first).await, tunnel(&first).await);
        // Two reloads that have the server, and one that does not.
        let second = first.succeed(&changed(&config, |_| {}), &place).unwrap();
        first.retire(Some(&second));
        let third = changed(&config, |config| {
            config.on_removed = new;
            config.servers.remove(0);
        });
        let third = second.succeed(&third, &place).unwrap();
        assert_eq!(second.idle(), 1, "it is kept until it has left");
        second.retire(Some(&third));
        yield_now().await;
        let (left, stayed) = (one.drain(), two.drain());
        assert_eq!(left.is_removed(), new != OnRemoved::Keep, "{old:?} {new:?}");
        assert!(!stayed.is_draining());
        assert_eq!(heard.load(Ordering::Relaxed), i64::from(new != OnRemoved::Keep));
        let spread = left.leaves_at(1.0).zip(left.leaves_at(0.0)).map(|(last, first)| last - first);
        let spreads =
            [(OnRemoved::Drain, Some(place.drain_spread)), (OnRemoved::Close, Some(Duration::ZERO))];
        assert_eq!(spread, spreads.iter().find(|(how, _)| *how == new).and_then(|(_, spread)| *spread));
        assert_eq!(idle_end.read(&mut [0]).await.unwrap(), 0);
        assert_eq!((third.open(), third.idle()), (2, 0), "what is left there counts");
        third.retire(None);
        yield_now().await;
        assert_eq!(stayed.is_removed(), new != OnRemoved::Keep, "nor is the upstream there any more");
        drop((one, two));
        assert_eq!(third.open(), 0);
    }
}

#[tokio::test]
async fn b9_a_retired_pool_serves_the_requests_that_know_it() {
    let (listener, a) = server().await;
    let config = config::Upstream { on_removed: OnRemoved::Drain, ..upstream(vec![a]) };
    for has_successor in [false, true] {
        let pool = followed(&config);
        let mut attempt = pool.attempt(Caller::default(), Instant::now());
        let (_other, other) = server().await;
        let next = changed(&config, |config| config.servers = upstream(vec![other]).servers);
        let next = has_successor.then(|| pool.succeed(&next, &place()).unwrap());
        pool.retire(next.as_ref());
        let (connected, accepted) = tokio::join!(pool.connect(&mut attempt, Want::Reuse), listener.accept());
        let (connected, mut end) = (connected.unwrap(), accepted.unwrap().0);
        drop(pool);
        connected.lease.park(connected.stream, None);
        assert_eq!(end.read(&mut [0]).await.unwrap(), 0, "nobody would take it");
        assert_eq!(next.map_or(0, |next| next.open()), 0);
    }
    let pool = followed(&config);
    pool.retire(None);
    assert!(tunnel(&pool).await.drain().is_removed(), "it is told as soon as it is one");
}

#[tokio::test]
async fn b7_idle_connections_go_on_where_they_are_made_and_kept_in_the_same_way() {
    let changes: [Change; 9] = [
        (true, |_| {}),
        (true, |config| config.servers[0].weight = 7),
        (true, |config| config.balance = config::Balance::RandomTwo),
        (false, |config| config.source_addresses = vec!["127.0.0.1".parse().unwrap()]),
        (false, |config| config.proxy_protocol = Some(ProxyProtocol::V1)),
        (false, |config| config.tls = Some(tls(Trust::Anybody))),
        (false, |config| config.servers[0].address = ServerAddress::Unix("/run/wsgate-test.sock".into())),
        (false, |config| config.keep_alive_timeout = Some(Duration::from_secs(1))),
        (false, |config| config.keep_alive = 1),
    ];
    for (index, (goes_on, change)) in changes.into_iter().enumerate() {
        let (listener, a) = server().await;
        let config = upstream(vec![a]);
        let pool = followed(&config);
        let mut end = park_one(&pool, &listener).await;
        let next = reload(&pool, &changed(&config, change));
        drop(pool);
        assert_eq!(next.idle(), usize::from(goes_on), "change {index}");
        if goes_on {
            assert!(connect(&next, Want::Reuse).await.unwrap().reused);
            continue;
        }
        assert_eq!(end.read(&mut [0]).await.unwrap(), 0);
    }
}

#[test]
fn b7_a_connection_is_made_in_the_same_way_as_long_as_its_tls_is_the_same() {
    let (_socket, address) = refusing();
    let with = |tls| config::Upstream { tls: Some(tls), ..upstream(vec![address.clone()]) };
    let named = |name: &'static str| config::UpstreamTls {
        server_name: Some(name.try_into().unwrap()),
        ..tls(Trust::Anybody)
    };
    let pool = Pool::new(&with(named("one.test")), &place()).unwrap();
    let goes_on = |next: &config::Upstream| {
        let next = pool.succeed(&changed(next, |config| config.retries = 0), &place()).unwrap();
        let has_same_list = Arc::ptr_eq(&pool.endpoint(0).idle, &next.endpoint(0).idle);
        assert_eq!(Arc::ptr_eq(&pool.inner().dial, &next.inner().dial), has_same_list);
        has_same_list
    };
    assert!(goes_on(&with(named("one.test"))));
    assert!(!goes_on(&with(named("other.test"))) && !goes_on(&with(tls(Trust::Anybody))));
    let made = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
    let ca = Trust::Ca([made.cert.der().clone()].into());
    assert!(!goes_on(&with(config::UpstreamTls { trust: ca, ..named("one.test") })));
    assert!(!goes_on(&upstream(vec![address.clone()])));
}

#[tokio::test]
async fn idle_connections_that_went_on_still_expire() {
    let (listener, a) = server().await;
    let config = upstream(vec![a]);
    let pool = followed(&config);
    let _end = park_one(&pool, &listener).await;
    let next = reload(&pool, &changed(&config, |_| {}));
    drop(pool);
    assert_eq!((next.idle(), alive_tasks()), (1, 1));
    pause();
    yield_now().await;
    advance(Duration::from_millis(4_001)).await;
    until(|| next.idle() == 0 && alive_tasks() == 0).await;
}

#[tokio::test]
async fn failed_checks_hold_as_long_as_the_checks_are_the_same() {
    let (_a, a) = server().await;
    let (_b, b) = server().await;
    let config =
        config::Upstream { health: Some(checked()), on_removed: OnRemoved::Drain, ..upstream(vec![a, b]) };
    let others: [Change; 5] = [
        (true, |config| config.retries = 7),
        (true, |config| config.health.as_mut().unwrap().interval = Duration::from_secs(9)),
        (true, |config| config.on_removed = OnRemoved::Keep),
        (false, |config| config.health.as_mut().unwrap().path = "/alive".into()),
        (false, |config| config.health = None),
    ];
    for (index, (holds, change)) in others.into_iter().enumerate() {
        let pool = followed(&config);
        let old = tunnel(&pool).await.drain();
        pool.endpoint(0).checks_failed("refused");
        assert!(old.is_removed());
        let next = reload(&pool, &changed(&config, change));
        assert_eq!(next.endpoint(0).status.is_in(), !holds, "change {index}");
        assert!(old.is_removed(), "that can't be taken back");
        let (one, other) = (tunnel(&next).await, tunnel(&next).await);
        assert!(!one.drain().is_draining() && !other.drain().is_draining());
        // What a check of the old pool finds while it is being called off.
        pool.endpoint(1).checks_failed("refused");
        assert!(
            next.endpoint(1).status.is_in() && !one.drain().is_draining() && !other.drain().is_draining()
        );
        next.endpoint(0).checks_passed();
        assert!(next.endpoint(0).status.is_in() && pool.endpoint(0).status.is_in());
    }
}

#[tokio::test]
async fn checks_go_on_under_the_next_configuration_alone() {
    let (_refuses, refusing) = refusing();
    let (_b, b) = server().await;
    let config = config::Upstream { health: Some(checked()), ..upstream(vec![refusing, b]) };
    let mut pool = followed(&config);
    pool.start_checks(&Handle::current());
    eventually(|| !pool.endpoint(0).status.is_in()).await;
    // One that watches, and one for each server.
    eventually(|| alive_tasks() == 3).await;
    for _ in 0..5 {
        let next = reload(&pool, &changed(&config, |_| {}));
        assert!(!next.endpoint(0).status.is_in());
        next.start_checks(&Handle::current());
        pool = next;
    }
    let checks = pool.view().endpoints[1].counts.checks_passed;
    eventually(|| pool.view().endpoints[1].counts.checks_passed > checks + 3 && alive_tasks() == 3).await;
    assert_eq!(pool.view().endpoints[0].counts.times_out, 1);
    let last = reload(&pool, &changed(&config, |config| config.health = None));
    last.start_checks(&Handle::current());
    eventually(|| alive_tasks() == 0).await;
    assert!(last.endpoint(0).status.is_in());
}

#[tokio::test(start_paused = true)]
async fn who_is_out_by_failures_stays_out_while_max_fails_is_set() {
    let (_a, a) = server().await;
    let (_b, b) = server().await;
    let config = config::Upstream { max_fails: Some(2), ..upstream(vec![a, b]) };
    let pool = followed(&config);
    pool.inner().server_failed(&pool.endpoint(1), "refused");
    for _ in 0..2 {
        pool.inner().server_failed(&pool.endpoint(0), "refused");
    }
    let next = reload(&pool, &changed(&config, |config| config.fail_timeout = Duration::from_secs(60)));
    assert!(!next.endpoint(0).status.is_in());
    // The first failure was counted before, and what is under way in the old pool counts.
    pool.inner().server_failed(&pool.endpoint(1), "refused");
    assert!(next.endpoint(1).status.is_in(), "the last one stays");
    advance(Duration::from_secs(10)).await;
    assert!(next.endpoint(0).status.is_in());
    // Within the time that holds now.
    next.inner().server_failed(&next.endpoint(1), "refused");
    assert!(!next.endpoint(1).status.is_in());
    let last = reload(&next, &changed(&config, |config| config.max_fails = None));
    assert!(last.endpoint(1).status.is_in());
}

#[tokio::test]
async fn b8_retries_are_bounded_over_reloads() {
    let (_refuses, address) = refusing();
    let config = config::Upstream { retries: 100, ..upstream(vec![address]) };
    let mut pool = followed(&config);
    for _ in 0..50 {
        connect(&pool, Want::Fresh).await.unwrap_err();
        pool = reload(&pool, &changed(&config, |_| {}));
    }
    let retries = pool.view().retries;
    assert!((10..=20).contains(&retries), "what was saved up, and one in five: {retries}");
}

#[tokio::test]
async fn a_server_that_joins_begins_slowly_and_those_that_stay_do_not() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = config::Upstream { slow_start: Some(Duration::from_secs(3600)), ..upstream(vec![a]) };
    let pool = followed(&config);
    let next = reload(&pool, &changed(&config, |config| config.servers.extend(upstream(vec![b]).servers)));
    let shares: Vec<_> = next.view().endpoints.iter().map(|endpoint| endpoint.share).collect();
    assert!(shares[0] > 0.99 && shares[1] < 0.2, "{shares:?}");
}

#[tokio::test]
async fn b8_a_server_that_was_removed_and_comes_back_has_its_old_tunnels() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let mut config = config::Upstream { on_removed: OnRemoved::Drain, ..upstream(vec![a, b]) };
    config.servers[0].max_connections = Some(1);
    let first = followed(&config);
    let old = tunnel(&first).await;
    assert_eq!(first.endpoint(0).open(), 1);
    let second = reload(&first, &changed(&config, |config| _ = config.servers.remove(0)));
    let third = reload(&second, &changed(&config, |_| {}));
    drop((first, second));
    assert_eq!((third.open(), third.endpoint(0).open()), (1, 1), "counted once");
    for _ in 0..4 {
        assert_ne!(name(&third).await, **third.endpoint(0).name(), "it is full");
    }
    assert!(old.drain().is_removed());
    drop(old);
    let names = [name(&third).await, name(&third).await];
    assert!(names.contains(&third.endpoint(0).name().to_string()), "{names:?}");
    assert!(!tunnel(&third).await.drain().is_draining() && !tunnel(&third).await.drain().is_draining());
}

#[tokio::test]
async fn a_server_that_stands_twice_is_two_over_a_reload() {
    let (_a, a) = server().await;
    let mut config = config::Upstream { on_removed: OnRemoved::Close, ..upstream(vec![a.clone(), a]) };
    config.servers.iter_mut().for_each(|server| server.max_connections = Some(1));
    let first = followed(&config);
    let held = [tunnel(&first).await, tunnel(&first).await];
    let second = reload(&first, &changed(&config, |_| {}));
    assert_eq!(second.view().endpoints.iter().map(|endpoint| endpoint.open).collect::<Vec<_>>(), [1, 1]);
    assert!(held.iter().all(|tunnel| !tunnel.drain().is_draining()));
    reload(&second, &changed(&config, |config| _ = config.servers.pop()));
    assert_eq!(held.iter().filter(|tunnel| tunnel.drain().is_removed()).count(), 1);
}

#[tokio::test]
async fn a_hundred_reloads_leave_nothing_behind() {
    let ((_a, a), (_b, b), (_c, c)) = (server().await, server().await, server().await);
    let (_dns, _) = recorded(&a, &b).await;
    let host = ServerAddress::Name { host: "b.test.".into(), port: port(&c) };
    let record = ServerAddress::Srv("_ws._tcp.example.test".into());
    let mut config = upstream(vec![a.clone(), record, host]);
    config.dns_refresh = Some(Duration::from_secs(3600));
    config.health = Some(checked());
    let mut pool = followed(&config);
    pool.start_checks(&Handle::current());
    eventually(|| pool.endpoint_count() == 3).await;
    let held = tunnel(&pool).await;
    // The watch, three checks, a record and two names. The DNS server is one more.
    let tasks = alive_tasks;
    eventually(|| tasks() == 8).await;
    let (mut gone, mut lists): (Vec<Weak<Endpoint>>, Vec<Weak<_>>) = Default::default();
    for turn in 0..100 {
        let next = changed(&config, |config| match turn % 4 {
            0 => config.servers.extend(upstream(vec![b.clone()]).servers),
            1 => config.keep_alive = 3,
            2 => _ = config.servers.remove(0),
            _ => config.retries = 0,
        });
        drop(pool.succeed(&next, &place()).unwrap());
        if turn % 4 == 1 {
            let Connected { stream, lease, .. } = connect(&pool, Want::Fresh).await.unwrap();
            lease.park(stream, None);
        }
        let next = reload(&pool, &next);
        next.start_checks(&Handle::current());
        for endpoint in (0..pool.endpoint_count()).map(|place| pool.endpoint(place)) {
            gone.push(Arc::downgrade(&endpoint));
            lists.push(Arc::downgrade(&endpoint.idle));
        }
        pool = next;
    }
    eventually(|| gone.iter().all(|endpoint| endpoint.strong_count() == 0)).await;
    eventually(|| tasks() == 8 + pool.idle()).await;
    assert_eq!((pool.open(), pool.view().endpoints.len()), (1, 3));
    drop((held, pool));
    eventually(|| tasks() == 1).await;
    assert!(lists.iter().all(|idle| idle.strong_count() == 0), "nor is there a connection");
}
