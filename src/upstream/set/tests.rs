use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Balance, HashKey, SameSite},
    upstream::tests::{place, upstream},
};

const PICKS: usize = 10_000;

fn server(host: u8) -> UpstreamServer {
    UpstreamServer {
        address: config::ServerAddress::Inet(([10, 0, 0, host], 80).into()),
        weight: 1,
        backup: false,
        max_connections: None,
    }
}

fn config(balance: Balance, servers: Vec<UpstreamServer>) -> config::Upstream {
    config::Upstream { servers, balance, ..upstream(Vec::new()) }
}

fn set_with(config: &config::Upstream, change: impl Fn(usize, &mut Endpoint)) -> Set {
    let member = |(index, server)| {
        let mut endpoint = Endpoint::new(server, config, &place());
        change(index, &mut endpoint);
        (Arc::new(endpoint), Rank::of(server))
    };
    Set::ranked(config.servers.iter().enumerate().map(member).collect(), config)
}

fn set(config: &config::Upstream) -> Set {
    set_with(config, |_, _| {})
}

impl Set {
    /// As a request that was at those of these places.
    fn pick_besides(&self, caller: &Caller, tried: &[usize]) -> Option<usize> {
        let tried: Vec<_> = tried.iter().map(|&index| Arc::clone(&self.endpoints[index])).collect();
        self.pick(caller, &tried)
    }
}

/// Picks and leases, one after the other; how many went to each.
fn fill(set: &Set, picks: usize) -> Vec<usize> {
    let before: Vec<_> = set.endpoints.iter().map(|endpoint| endpoint.open()).collect();
    for _ in 0..picks {
        let index = set.pick_besides(&Caller::default(), &[]).unwrap();
        assert!(set.endpoints[index].lease_begins());
    }
    set.endpoints.iter().zip(before).map(|(endpoint, before)| endpoint.open() - before).collect()
}

fn balances() -> [Balance; 4] {
    [
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::RandomTwo,
        Balance::ConsistentHash(HashKey::ClientIp),
    ]
}

fn caller(key: u64) -> Caller {
    Caller { hash: Some(Caller::hash(&key.to_be_bytes())), ..Caller::default() }
}

#[test]
fn b8_full_servers_are_passed_over_and_backups_come_last() {
    for balance in balances() {
        let mut servers = vec![server(1), server(2), server(3)];
        servers[0].max_connections = Some(10);
        servers[1].max_connections = Some(20);
        servers[2].max_connections = Some(5);
        servers[2].backup = true;
        let set = set(&config(balance, servers));
        assert_eq!(fill(&set, 30), [10, 20, 0]);
        assert_eq!(fill(&set, 5), [0, 0, 5]);
        assert_eq!(set.pick_besides(&caller(1), &[]), None, "all are full");
        set.endpoints[1].load.lease_ends();
        set.endpoints[2].load.lease_ends();
        assert_eq!(set.pick_besides(&caller(1), &[]), Some(1));
        assert_eq!(set.pick_besides(&caller(1), &[1]), Some(2), "the backup, where the other was tried");
    }
}

#[test]
fn tried_servers_are_passed_over() {
    for balance in balances() {
        let set = set(&config(balance, (1..=4).map(server).collect()));
        let mut tried = Vec::new();
        while let Some(index) = set.pick_besides(&caller(7), &tried) {
            assert!(!tried.contains(&index));
            tried.push(index);
        }
        assert_eq!(tried.len(), 4);
    }
}

#[test]
fn a_key_has_its_servers_in_one_order_on_every_replica() {
    let hashing = |servers| set(&config(Balance::ConsistentHash(HashKey::Path), servers));
    let one = hashing((1..=9).map(server).collect());
    let other = hashing((1..=9).rev().map(server).collect());
    for key in 0..1_000 {
        let order = |set: &Set| {
            let (mut tried, mut names) = (Vec::new(), Vec::new());
            while let Some(index) = set.pick_besides(&caller(key), &tried) {
                tried.push(index);
                names.push(Arc::clone(set.endpoints[index].name()));
            }
            names
        };
        assert_eq!(order(&one), order(&other));
    }
}

#[test]
fn backups_have_a_table_of_their_own() {
    let mut servers: Vec<_> = (1..=4).map(server).collect();
    let without = set(&config(Balance::ConsistentHash(HashKey::Path), servers[..2].to_vec()));
    servers[2].backup = true;
    servers[3].backup = true;
    let with = set(&config(Balance::ConsistentHash(HashKey::Path), servers));
    let mut backups = [0_usize; 4];
    for key in 0..1_000 {
        assert_eq!(with.pick_besides(&caller(key), &[]), without.pick_besides(&caller(key), &[]));
        backups[with.pick_besides(&caller(key), &[0, 1]).unwrap()] += 1;
    }
    assert!(backups[2].abs_diff(500) <= 100, "{backups:?}");
}

#[test]
fn the_lowest_group_of_which_one_can_be_used_wins() {
    for balance in balances() {
        let config = config(balance, (1..=4).map(server).collect());
        let member =
            |(server, group)| (Arc::new(Endpoint::new(server, &config, &place())), Rank { weight: 1, group });
        let set = Set::ranked(config.servers.iter().zip([7, 0, 3, 3]).map(member).collect(), &config);
        assert_eq!(set.pick(&caller(1), &[]), Some(1));
        set.endpoints[1].checks_failed("refused");
        let picks = || (0..50).map(|key| set.pick(&caller(key), &[]).unwrap()).collect::<BTreeSet<_>>();
        assert_eq!(picks(), [2, 3].into());
        set.endpoints[2].checks_failed("refused");
        assert_eq!(picks(), [3].into());
        set.endpoints[3].checks_failed("refused");
        assert_eq!(picks(), [0].into());
        set.endpoints[1].checks_passed();
        assert_eq!(picks(), [1].into());
    }
}

fn sticky(balance: Balance, servers: Vec<UpstreamServer>) -> config::Upstream {
    let cookie = Sticky { cookie: "srv".into(), same_site: SameSite::Lax };
    config::Upstream { sticky: Some(cookie), ..config(balance, servers) }
}

/// A client with the cookie that it was given.
fn returning(set_cookie: &str) -> Caller {
    let value = set_cookie.strip_prefix("srv=").unwrap().split(';').next().unwrap();
    Caller { sticky: StickyId::parse(value.as_bytes()), ..Caller::default() }
}

#[test]
fn a_cookie_leads_back_whatever_the_balance() {
    for balance in balances() {
        let config = sticky(balance, (1..=5).map(server).collect());
        let set = set(&config);
        for used in 0..5 {
            let cookie = set.set_cookie(&Caller::default(), used, false).unwrap();
            let caller = returning(&cookie);
            for _ in 0..20 {
                assert_eq!(set.pick_besides(&caller, &[]), Some(used));
            }
            assert_eq!(set.set_cookie(&caller, used, false), None, "the client knows");
            assert!(set.set_cookie(&caller, (used + 1) % 5, false).is_some());
        }
    }
}

#[test]
fn a_cookie_is_good_after_a_restart_and_at_another_replica() {
    let config = sticky(Balance::RoundRobin, (1..=5).map(server).collect());
    let cookie = set(&config).set_cookie(&Caller::default(), 3, true).unwrap();
    assert!(!cookie.contains("10.0.0"));
    let other = sticky(Balance::RandomTwo, (3..=9).rev().map(server).collect());
    let other = set(&other);
    let found = other.pick_besides(&returning(&cookie), &[]).unwrap();
    assert_eq!(&**other.endpoints[found].name(), "10.0.0.4:80");
}

#[test]
fn a_cookie_for_a_server_that_is_full_tried_or_gone_falls_back_and_is_set_anew() {
    let mut servers = vec![server(1), server(2)];
    servers[0].max_connections = Some(1);
    let set = set(&sticky(Balance::LeastConnections, servers));
    let caller = returning(&set.set_cookie(&Caller::default(), 0, false).unwrap());
    assert_eq!(set.pick_besides(&caller, &[0]), Some(1));
    assert!(set.endpoints[0].lease_begins());
    assert_eq!(set.pick_besides(&caller, &[]), Some(1));
    let anew = set.set_cookie(&caller, 1, false).unwrap();
    assert_eq!(set.pick_besides(&returning(&anew), &[]), Some(1));
    let stranger = Caller { sticky: Some(StickyId::of("10.9.9.9:80")), ..Caller::default() };
    assert_eq!(set.pick_besides(&stranger, &[]), Some(1));
    assert_eq!(set.pick_besides(&stranger, &[1]), None, "nothing outside of the pool");
}

#[test]
fn a_session_on_a_backup_stays_there() {
    let mut servers = vec![server(1), server(2)];
    servers[1].backup = true;
    let set = set(&sticky(Balance::LeastConnections, servers));
    assert_eq!(set.pick_besides(&Caller::default(), &[]), Some(0));
    let caller = returning(&set.set_cookie(&Caller::default(), 1, false).unwrap());
    assert_eq!(set.pick_besides(&caller, &[]), Some(1));
}

#[test]
fn without_sticky_cookie_nobody_is_led_and_nothing_is_set() {
    let set = set(&config(Balance::LeastConnections, vec![server(1), server(2)]));
    let caller = Caller { sticky: Some(StickyId::of("10.0.0.1:80")), ..Caller::default() };
    assert!(set.endpoints[0].lease_begins());
    assert_eq!(set.pick_besides(&caller, &[]), Some(1));
    assert_eq!(set.set_cookie(&caller, 1, true), None);
}

/// Of four servers the first came back so many seconds ago, with a slow start of 100.
fn after_return(balance: Balance, seconds: u64) -> Set {
    let config = config::Upstream {
        slow_start: Some(Duration::from_secs(100)),
        ..config(balance, (1..=4).map(server).collect())
    };
    set_with(&config, |index, endpoint| {
        if index == 0 {
            endpoint.status.set_back(Duration::from_secs(seconds));
        }
    })
}

/// The first one's part of 10,000 new tunnels.
fn part_after_return(balance: Balance, seconds: u64) -> usize {
    fill(&after_return(balance, seconds), PICKS)[0]
}

#[tokio::test(start_paused = true)]
async fn slow_start_grows_from_a_tenth_to_the_whole_share() {
    tokio::time::advance(Duration::from_secs(1_000)).await;
    for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::RandomTwo] {
        // A share s beside three whole ones: s / (s + 3).
        for (seconds, part) in [(0, 323), (50, 1_549), (100, 2_500), (900, 2_500)] {
            let got = part_after_return(balance.clone(), seconds);
            let tolerance = if balance == Balance::RandomTwo { 10 } else { 2 };
            assert!(got.abs_diff(part) <= tolerance, "{balance:?} after {seconds} s: {got}, not {part}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_start_counts_in_open_tunnels() {
    tokio::time::advance(Duration::from_secs(1_000)).await;
    // It came back to three that have 1,000 tunnels each, and would draw the next 1,000 alone.
    let set = after_return(Balance::LeastConnections, 0);
    for _ in 0..1_000 {
        assert!(set.endpoints[1..].iter().all(|endpoint| endpoint.lease_begins()));
    }
    let gained = fill(&set, 1_000);
    assert!(gained[0].abs_diff(129) <= 2, "{gained:?}");
    tokio::time::advance(Duration::from_secs(50)).await;
    let open: usize = set.endpoints.iter().map(|endpoint| endpoint.open()).sum();
    fill(&set, 1_000);
    // Its share is 0.55 by now, of which the other three have 3.
    let expected = (open + 1_000) * 55 / 355;
    assert!(set.endpoints[0].open().abs_diff(expected) <= 2, "{}", set.endpoints[0].open());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_was_out_has_its_whole_share() {
    let config = config::Upstream {
        slow_start: Some(Duration::from_secs(100)),
        ..config(Balance::LeastConnections, (1..=4).map(server).collect())
    };
    assert_eq!(fill(&set(&config), 400), [100; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_its_tunnels_at_once_does_not_draw_everybody() {
    let set = set(&config(Balance::LeastConnections, (1..=4).map(server).collect()));
    for _ in 0..1_000 {
        assert!(set.endpoints[1..].iter().all(|endpoint| endpoint.lease_begins()));
    }
    // A hundred new tunnels a second for ten seconds.
    let mut drawn = 0_usize;
    for _ in 0..1_000 {
        let index = set.pick_besides(&Caller::default(), &[]).unwrap();
        if index == 0 {
            drawn += 1;
            set.endpoints[0].load.early_ends.ended_after(Duration::from_millis(5));
        } else {
            assert!(set.endpoints[index].lease_begins());
        }
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert!(drawn <= 40, "{drawn}");
    // It has recovered: its next tunnels stand, and after a while it is the least loaded again.
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(fill(&set, 100), [100, 0, 0, 0]);
}

proptest! {
    /// Rule B8, whatever opens and ends in whatever order.
    #[test]
    fn b8_only_who_has_room_is_picked_and_somebody_is_while_somebody_has(
        rooms in proptest::collection::vec((0_usize..5, any::<bool>()), 1..6),
        steps in proptest::collection::vec((any::<bool>(), any::<u64>(), 0_usize..6), 0..200),
    ) {
        for balance in balances() {
            let hosts = (1..).zip(&rooms);
            let servers = hosts.map(|(host, &(room, backup))| {
                UpstreamServer { backup, max_connections: Some(room), ..server(host) }
            });
            let set = set(&sticky(balance, servers.collect()));
            for &(opens, key, named) in &steps {
                let named = set.endpoints.get(named);
                if !opens {
                    named.filter(|endpoint| endpoint.open() > 0).inspect(|endpoint| endpoint.load.lease_ends());
                    continue;
                }
                let id = named.map(|endpoint| StickyId::of(endpoint.name()));
                let caller = Caller { sticky: id.filter(|_| key % 3 == 0), ..caller(key) };
                let has_room = |backup| {
                    set.endpoints.iter().zip(&set.ranks).any(|(endpoint, rank)| (rank.group > 0) == backup && !endpoint.is_full())
                };
                let Some(index) = set.pick_besides(&caller, &[]) else {
                    prop_assert!(!has_room(false) && !has_room(true));
                    continue;
                };
                let endpoint = &set.endpoints[index];
                prop_assert!(!endpoint.is_full());
                let is_named = caller.sticky == Some(StickyId::of(endpoint.name()));
                prop_assert!(set.ranks[index].group == 0 || is_named || !has_room(false));
                if caller.sticky.is_some() && named.is_some_and(|named| !named.is_full()) {
                    prop_assert!(is_named);
                }
                prop_assert!(endpoint.lease_begins());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_pick_goes_to_a_server_that_is_out_while_others_are_in() {
    for balance in balances() {
        let mut servers = vec![server(1), server(2), server(3)];
        servers[2].backup = true;
        let config = config::Upstream { max_fails: Some(1), ..config(balance, servers) };
        let set = set(&config);
        let picks = || {
            (0..50).map(|key| set.pick_besides(&caller(key), &[])).collect::<std::collections::BTreeSet<_>>()
        };
        let [one, two, backup] = &set.endpoints[..] else { panic!("three") };
        assert_eq!(picks(), [Some(0), Some(1)].into());
        set.failed(one, "refused");
        assert_eq!(picks(), [Some(1)].into());
        set.failed(two, "refused");
        assert_eq!(picks(), [Some(2)].into(), "the backup");
        assert_eq!(set.pick_besides(&caller(1), &[2]), None, "those that are out are known to be");
        set.failed(backup, "refused");
        assert_eq!(picks(), [Some(2)].into(), "it is the last one");
        backup.checks_failed("refused");
        assert_eq!(picks(), [Some(0), Some(1)].into(), "out by counts, all the same");
        one.checks_failed("refused");
        assert_eq!(picks(), [Some(1)].into());
        two.checks_failed("refused");
        assert_eq!(picks(), [None].into());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(picks(), [None].into());
        one.checks_passed();
        assert_eq!(picks(), [Some(0)].into());
        assert!(one.status.back_since().is_some());
    }
}
