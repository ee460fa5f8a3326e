//! Servers that an administrator takes out.

use super::{
    names::eventually,
    reload::{changed, checked, reload},
    sites::{dns, goes, named, says, servers},
    *,
};
use crate::{
    config::{Balance, HashKey, OnRemoved, SameSite, Sticky},
    upstream::{TunnelLease, status::tests::logged},
};

async fn tunnel(pool: &Pool) -> TunnelLease {
    connect(pool, Want::Fresh).await.unwrap().lease.into_tunnel()
}

fn is_none<T>(connected: &Result<T, ConnectFailure>) -> bool {
    matches!(connected, Err(ConnectFailure::NoEndpoint))
}

#[tokio::test]
async fn a_server_that_was_taken_out_gets_nothing_new_by_whatever_way() {
    let ((listener, a), (_b, b)) = (server().await, server().await);
    for balance in [Balance::LeastConnections, Balance::RandomTwo, Balance::ConsistentHash(HashKey::Path)] {
        let sticky = Some(Sticky { cookie: "srv".into(), same_site: SameSite::Lax });
        let config = config::Upstream { balance, sticky, ..upstream(vec![a.clone(), b.clone()]) };
        let pool = followed(&config);
        let out = name_of(&a);
        let _idle = park_one_at(&pool, &listener, &out).await;
        assert!(pool.take_out(&out, OnRemoved::Keep));
        for key in 0..20_u8 {
            let caller = Caller {
                hash: Some(Caller::hash(&[key])),
                sticky: (key % 2 == 0).then(|| StickyId::of(&out)),
                addresses: None,
            };
            let mut attempt = pool.attempt(caller, Instant::now());
            let want = if key % 3 == 0 { Want::Reuse } else { Want::Fresh };
            let connected = pool.connect(&mut attempt, want).await.unwrap();
            assert_eq!(**connected.lease.endpoint_name(), name_of(&b));
        }
        assert!(pool.put_back(&out));
        let caller = Caller { sticky: Some(StickyId::of(&out)), ..Caller::default() };
        let back = pool.connect(&mut pool.attempt(caller, Instant::now()), Want::Fresh).await.unwrap();
        assert_eq!(**back.lease.endpoint_name(), out);
    }
}

/// A connection to the server with this name, parked, with the server's end of it.
async fn park_one_at(pool: &Pool, listener: &TcpListener, name: &str) -> TcpStream {
    let caller = Caller { sticky: Some(StickyId::of(name)), ..Caller::default() };
    let mut attempt = pool.attempt(caller, Instant::now());
    let (connected, accepted) = tokio::join!(pool.connect(&mut attempt, Want::Fresh), listener.accept());
    let Connected { stream, lease, .. } = connected.unwrap();
    lease.park(stream, None);
    accepted.unwrap().0
}

#[tokio::test]
async fn even_the_last_one_goes_out_and_neither_checks_nor_failures_bring_it_back() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = config::Upstream {
        max_fails: Some(1),
        health: Some(checked()),
        ..upstream(vec![a.clone(), b.clone()])
    };
    let pool = followed(&config);
    pool.start_checks(&Handle::current());
    for address in [&a, &b] {
        assert!(pool.take_out(&name_of(address), OnRemoved::Keep));
    }
    assert!(is_none(&connect(&pool, Want::Reuse).await));
    let passed = || pool.view().endpoints.iter().map(|endpoint| endpoint.counts.checks_passed).min();
    eventually(|| passed() > Some(3)).await;
    let endpoint = pool.endpoint(0);
    endpoint.checks_failed("refused");
    endpoint.checks_passed();
    pool.inner().server_failed(&endpoint, "refused");
    assert!(is_none(&connect(&pool, Want::Fresh).await));
    assert!(pool.put_back(&name_of(&b)));
    for _ in 0..4 {
        assert_eq!(**connect(&pool, Want::Fresh).await.unwrap().lease.endpoint_name(), name_of(&b));
    }
}

#[tokio::test]
async fn its_tunnels_stay_drain_or_close_and_those_after_its_return_do_not_hear_of_it() {
    let spread = Duration::from_secs(100);
    for (tunnels, leaves_within) in
        [(OnRemoved::Keep, None), (OnRemoved::Drain, Some(spread)), (OnRemoved::Close, Some(Duration::ZERO))]
    {
        let (_a, a) = server().await;
        // What the file says is for servers that leave.
        let config = config::Upstream { on_removed: OnRemoved::Close, ..upstream(vec![a.clone()]) };
        let pool = Pool::new(&config, &Surroundings { drain_spread: spread, ..place() }).unwrap();
        let (old, under_way) = (tunnel(&pool).await, connect(&pool, Want::Fresh).await.unwrap());
        assert!(pool.take_out(&name_of(&a), tunnels));
        // Checks that fail and pass meanwhile give an order of their own, and take no other one back.
        if tunnels != OnRemoved::Keep {
            pool.endpoint(0).checks_failed("refused");
            pool.endpoint(0).checks_passed();
        }
        for drain in [old.drain(), under_way.lease.into_tunnel().drain()] {
            let within = drain.leaves_at(1.0).zip(drain.leaves_at(0.0)).map(|(last, first)| last - first);
            assert_eq!((within, drain.is_removed()), (leaves_within, tunnels != OnRemoved::Keep));
        }
        let heard = old.drain();
        assert!(pool.put_back(&name_of(&a)));
        assert!(!tunnel(&pool).await.drain().is_draining());
        assert_eq!(heard.is_removed(), tunnels != OnRemoved::Keep, "that can't be taken back");
    }
}

#[tokio::test]
async fn an_order_that_comes_later_reaches_tunnels_that_were_to_stay() {
    let (_a, a) = server().await;
    let pool = pool(vec![a.clone()]);
    let tunnel = tunnel(&pool).await;
    assert!(pool.take_out(&name_of(&a), OnRemoved::Keep));
    assert!(!tunnel.drain().is_draining());
    assert!(pool.take_out(&name_of(&a), OnRemoved::Close));
    assert!(tunnel.drain().is_removed());
}

#[tokio::test(start_paused = true)]
async fn who_is_put_back_begins_slowly_unless_its_checks_keep_it_out() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = config::Upstream {
        slow_start: Some(Duration::from_secs(100)),
        max_fails: Some(1),
        on_removed: OnRemoved::Drain,
        ..upstream(vec![a.clone(), b])
    };
    let pool = followed(&config);
    pool.inner().server_failed(&pool.endpoint(0), "refused");
    assert!(!pool.endpoint(0).status.is_in());
    assert!(pool.take_out(&name_of(&a), OnRemoved::Keep));
    advance(Duration::from_secs(50)).await;
    assert!(pool.put_back(&name_of(&a)));
    let share = || pool.view().endpoints[0].share;
    assert!(pool.endpoint(0).status.is_in() && share() < 0.11, "{}", share());
    advance(Duration::from_secs(10)).await;
    let grown = share();
    assert!(pool.put_back(&name_of(&a)) && (share() - grown).abs() < 0.01, "it was not out");
    pool.inner().server_failed(&pool.endpoint(0), "refused");
    assert!(pool.take_out(&name_of(&a), OnRemoved::Keep) && pool.put_back(&name_of(&a)));
    assert!(pool.endpoint(0).status.is_in(), "what failed before counts no more");
    assert!(pool.take_out(&name_of(&a), OnRemoved::Keep));
    pool.endpoint(0).checks_failed("refused");
    assert!(pool.put_back(&name_of(&a)));
    assert!(!pool.endpoint(0).status.is_in());
    pool.endpoint(0).checks_passed();
    assert!(!tunnel(&pool).await.drain().is_draining() && pool.endpoint(0).status.is_in());
}

#[tokio::test]
async fn a_name_that_no_server_has_is_nobodys() {
    let (_a, a) = server().await;
    let pool = pool(vec![a.clone()]);
    assert!(!pool.take_out("10.0.0.1:80", OnRemoved::Close) && !pool.put_back(""));
    assert!(pool.put_back(&name_of(&a)), "it is in, and stays in");
    assert!(!tunnel(&pool).await.drain().is_draining());
}

#[tokio::test]
async fn the_administrators_word_outlives_reloads() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = upstream(vec![a.clone(), b.clone()]);
    let first = followed(&config);
    assert!(first.take_out(&name_of(&a), OnRemoved::Drain));
    let second = reload(&first, &config);
    let third = reload(
        &second,
        &changed(&config, |config| {
            config.max_fails = Some(1);
            config.health = Some(checked());
            config.servers.reverse();
        }),
    );
    drop((first, second));
    for _ in 0..4 {
        assert_eq!(**connect(&third, Want::Fresh).await.unwrap().lease.endpoint_name(), name_of(&b));
    }
    assert!(third.put_back(&name_of(&a)));
    assert!(!tunnel(&third).await.drain().is_draining() && !tunnel(&third).await.drain().is_draining());
    assert_eq!(third.endpoint(1).name().to_string(), name_of(&a));
    assert!(third.endpoint(1).status.is_in());
}

#[tokio::test]
async fn an_address_that_comes_while_its_server_is_out_hears_the_order_too() {
    let (port, [_old, _new]) = servers(["127.0.0.2", "127.0.0.3"]).await;
    let dns = dns(&["127.0.0.2"]).await;
    let pool = followed(&named(port));
    let (_, _tunnel, _stream) = goes(&pool, Want::Fresh).await;
    let name = pool.endpoint(0).name().to_string();
    // It has chosen the server, and has no address yet.
    let under_way = connect(&pool, Want::Fresh).await.unwrap();
    assert!(pool.take_out(&name, OnRemoved::Drain));
    assert!(under_way.lease.into_tunnel().drain().is_removed());
    says(&dns, &["127.0.0.3"]);
    dns.asked_again().await;
    let site = pool.endpoint(0).site(0);
    assert!(site.drain().is_removed() && site.at.to_string().starts_with("127.0.0.3"));
    assert!(pool.put_back(&name));
    assert!(!site.drain().is_draining());
    assert_eq!(goes(&pool, Want::Fresh).await.0, "127.0.0.3");
}

#[tokio::test]
async fn it_is_logged() {
    let log = logged(async {
        let (_a, a) = server().await;
        let pool = pool(vec![a.clone()]);
        for _ in 0..2 {
            pool.take_out(&name_of(&a), OnRemoved::Drain);
        }
        for _ in 0..2 {
            pool.put_back(&name_of(&a));
        }
        pool.take_out("stranger", OnRemoved::Drain);
    });
    let log = log.await;
    let lines: Vec<_> = log.lines().filter_map(|line| line.split("an administrator ").nth(1)).collect();
    assert_eq!(lines.len(), 3, "each order, and one return: {log}");
    assert!(lines[0].starts_with("took a server out") && lines[0].contains("tunnels=\"drain\""), "{log}");
    assert!(lines[2].starts_with("brought a server back"), "{log}");
}
