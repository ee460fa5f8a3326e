//! What answers for names and records have said, over a change of the configuration.

use super::{
    super::{
        names::{Dns, Zone, address, eventually, listed, name, port, srv},
        sites::{dns, goes, named, says, servers},
    },
    *,
};

#[tokio::test]
async fn the_addresses_of_a_name_are_known_at_once_and_followed_by_one_task() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let config = config::Upstream { on_removed: OnRemoved::Keep, ..named(port) };
    let mut pool = followed(&config);
    let (at, old, _stream) = goes(&pool, Want::Fresh).await;
    assert_eq!(at, "127.0.0.2");
    let before = alive_tasks();
    dns.change(|zone| zone.silent_at = Some("web.test."));
    for _ in 0..5 {
        pool = reload(&pool, &changed(&config, |config| config.on_removed = OnRemoved::Close));
        assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.2");
    }
    dns.change(|zone| zone.silent_at = None);
    says(&dns, &["127.0.0.3"]);
    let drain = old.drain();
    eventually(|| drain.is_removed()).await;
    assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.3");
    eventually(|| alive_tasks() == before).await;
}

/// A record with one server, and the host of another.
pub(super) async fn recorded(a: &ServerAddress, b: &ServerAddress) -> (Dns, impl Fn(&mut Zone)) {
    let service = "_ws._tcp.example.test.";
    let (of_a, of_b) = (srv(0, 0, port(a), "a.test."), srv(0, 0, port(b), "b.test."));
    let hosts = [("a.test.", address("127.0.0.1")), ("b.test.", address("127.0.0.1"))];
    let dns = Dns::serve([hosts.as_slice(), &[(service, of_a)]].concat()).await;
    (dns, move |zone| zone.records[2].1 = of_b.clone())
}

#[tokio::test]
async fn b8_the_servers_of_a_record_stay_over_a_reload() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let (dns, moves_on) = recorded(&a, &b).await;
    let first = listed(|config| config.on_removed = OnRemoved::Drain);
    let (config, old) = (first.config().clone(), tunnel(&first).await);
    dns.change(|zone| zone.fails = true);
    let before = alive_tasks();
    let second = reload(&first, &changed(&config, |config| config.servers[0].backup = true));
    drop(first);
    let view = second.view();
    assert_eq!((view.endpoints[0].open, view.endpoints[0].group), (1, 1));
    assert_eq!(view.endpoints[0].name, name(&second).await, "nobody had to be asked");
    dns.change(|zone| {
        zone.fails = false;
        moves_on(zone);
    });
    eventually(|| second.endpoint(0).name().starts_with("b.test")).await;
    eventually(|| old.drain().is_removed() && alive_tasks() == before).await;
    assert_eq!(second.open(), 1);
    // And what left it may come back to a third configuration.
    let third = reload(&second, &changed(&config, |config| config.servers[0].max_connections = Some(1)));
    drop(second);
    assert_eq!((third.open(), third.view().endpoints.len()), (1, 2));
    dns.change(|zone| zone.records[2].1 = srv(0, 0, port(&a), "a.test."));
    eventually(|| third.endpoint(0).name().starts_with("a.test")).await;
    assert!(matches!(connect(&third, Want::Fresh).await, Err(ConnectFailure::NoEndpoint)));
}

#[tokio::test]
async fn a_record_that_changes_while_a_successor_is_built_is_not_missed() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let (dns, moves_on) = recorded(&a, &b).await;
    let pool = listed(|config| config.on_removed = OnRemoved::Drain);
    let old = tunnel(&pool).await;
    let config = changed(pool.config(), |config| config.dns_refresh = None);
    let next = pool.succeed(&config, &place()).unwrap();
    dns.change(moves_on);
    eventually(|| pool.endpoint(0).name().starts_with("b.test") && old.drain().is_removed()).await;
    let young = tunnel(&pool).await;
    pool.retire(Some(&next));
    assert!(name(&next).await.starts_with("b.test"));
    assert_eq!((next.open(), next.endpoint(0).open()), (2, 1));
    assert!(!young.drain().is_draining());
}

#[tokio::test]
async fn look_ups_and_checks_may_begin_before_the_last_pool_is_retired() {
    for has_own_answer in [true, false] {
        let ((_a, a), (_b, b)) = (server().await, server().await);
        let (dns, moves_on) = recorded(&a, &b).await;
        // The DNS server's.
        eventually(|| alive_tasks() == 1).await;
        let pool = listed(|config| config.health = Some(checked()));
        pool.start_checks(&Handle::current());
        let old = tunnel(&pool).await;
        let next = pool.succeed(&changed(pool.config(), |_| {}), &place()).unwrap();
        dns.change(&moves_on);
        eventually(|| pool.endpoint(0).name().starts_with("b.test")).await;
        next.follow_records().into_iter().for_each(|task| _ = tokio::spawn(task));
        next.start_checks(&Handle::current());
        if has_own_answer {
            eventually(|| next.endpoint(0).name().starts_with("b.test")).await;
        }
        pool.retire(Some(&next));
        assert!(name(&next).await.starts_with("b.test"));
        assert_eq!((next.open(), next.endpoint(0).open()), (1, 0));
        let checks = || next.view().endpoints[0].counts.checks_passed;
        let before = checks();
        eventually(|| checks() > before + 2).await;
        // And a record, a name, the watch and a check.
        eventually(|| alive_tasks() == 5).await;
        drop(old);
        assert_eq!(next.open(), 0);
    }
}
