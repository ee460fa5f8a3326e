use std::cell::Cell;

use super::*;

const WEIGHTS: [u32; 4] = [1, 2, 3, 4];
const PICKS: usize = 10_000;

fn candidates(open: [usize; 4]) -> Vec<Candidate> {
    let weight = |index| u64::from(WEIGHTS[index]) * u64::from(WHOLE_SHARE);
    let candidate = |index| Candidate { index, weight: weight(index), open: open[index], early_ends: 0.0 };
    (0..4).map(candidate).collect()
}

impl Balancer {
    fn pick_of(&self, hash: Option<u64>, candidates: &[Candidate]) -> Option<usize> {
        let is_named = |index| move |candidate: &&Candidate| candidate.index == index;
        self.pick(hash, |index| candidates.iter().find(is_named(index)).copied())
    }
}

fn balancer(balance: &config::Balance) -> Balancer {
    let names = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
    let member = |index: usize| Member { index, name: names[index], weight: WEIGHTS[index] };
    Balancer::new(balance, 4, &[0, 1, 2, 3].map(member))
}

fn assert_shares(counts: [usize; 4], tolerance: usize) {
    for (count, share) in counts.into_iter().zip([1000, 2000, 3000, 4000]) {
        assert!(count.abs_diff(share) <= tolerance, "{counts:?}");
    }
}

#[test]
fn least_connections_fills_open_leases_by_weight() {
    let balancer = balancer(&config::Balance::LeastConnections);
    let mut open = [0; 4];
    for _ in 0..PICKS {
        open[balancer.pick_of(None, &candidates(open)).unwrap()] += 1;
    }
    assert_shares(open, 4);
}

#[test]
fn least_connections_draws_by_weight_on_a_quiet_pool() {
    let balancer = balancer(&config::Balance::LeastConnections);
    let mut counts = [0; 4];
    for _ in 0..PICKS {
        counts[balancer.pick_of(None, &candidates([0; 4])).unwrap()] += 1;
    }
    // Six standard deviations of the widest of the four.
    assert_shares(counts, 300);
}

#[test]
fn least_connections_prefers_who_lost_its_tunnels() {
    let balancer = balancer(&config::Balance::LeastConnections);
    assert_eq!(balancer.pick_of(None, &candidates([5, 0, 15, 20])), Some(1));
    assert_eq!(balancer.pick_of(None, &candidates([5, 9, 15, 20])), Some(1));
    assert_eq!(balancer.pick_of(None, &candidates([4, 10, 15, 20])), Some(0));
}

#[test]
fn early_ends_keep_least_connections_away_however_many_tunnels_the_others_have() {
    let balancer = balancer(&config::Balance::LeastConnections);
    for tunnels in [1, 10, 1_000, 1_000_000] {
        let mut candidates = candidates([tunnels, 0, 3 * tunnels, 4 * tunnels]);
        assert_eq!(balancer.pick_of(None, &candidates), Some(1));
        let ends = (0..20).find(|&ends| {
            candidates[1].early_ends = ends.into();
            balancer.pick_of(None, &candidates) != Some(1)
        });
        assert!(ends.is_some_and(|ends| ends <= 9), "{tunnels}: {ends:?}");
    }
}

#[test]
fn early_ends_at_all_servers_change_nothing() {
    let balancer = balancer(&config::Balance::LeastConnections);
    let mut open = [0; 4];
    for _ in 0..PICKS {
        let mut candidates = candidates(open);
        for candidate in &mut candidates {
            // Some have more than others, by chance.
            let more = if candidate.index % 2 == 0 { 1.0 } else { 1.8 };
            candidate.early_ends = 5.0 * more * as_f64(candidate.weight);
        }
        open[balancer.pick_of(None, &candidates).unwrap()] += 1;
    }
    assert_shares(open, 4);
}

#[test]
fn random_two_draws_by_weight_and_takes_the_less_loaded() {
    let balancer = balancer(&config::Balance::RandomTwo);
    let mut open = [0; 4];
    for _ in 0..PICKS {
        open[balancer.pick_of(None, &candidates(open)).unwrap()] += 1;
    }
    assert_shares(open, 100);
}

#[test]
fn random_two_never_takes_the_most_loaded_and_always_two_that_differ() {
    let balancer = balancer(&config::Balance::RandomTwo);
    let mut counts = [0_usize; 4];
    for _ in 0..PICKS {
        counts[balancer.pick_of(None, &candidates([10, 10, 0, 1000])).unwrap()] += 1;
    }
    // The last one is the heaviest, and loses to whoever is drawn with it.
    assert_eq!(counts[3], 0);
    assert!(counts[..3].iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn a_draw_goes_by_the_part_of_the_weight_that_counts() {
    let balancer = balancer(&config::Balance::RandomTwo);
    let Method::RandomTwo(ends) = &balancer.method else { panic!("it draws") };
    // The first is out, and half of the last one's share counts.
    let mut left = candidates([0; 4]);
    left[3].weight /= 2;
    let candidate = |index: usize| left[1..].iter().find(|candidate| candidate.index == index).copied();
    let mut counts = [0_usize; 4];
    for _ in 0..7_000 {
        counts[balancer.draw(ends, &candidate).unwrap().index] += 1;
    }
    // Six standard deviations of the widest.
    let expected = [0, 2_000, 3_000, 2_000];
    assert!((0..4).all(|index| counts[index].abs_diff(expected[index]) <= 250), "{counts:?}");
}

#[test]
fn of_a_thousand_servers_hashing_and_drawing_ask_for_few() {
    let members: Vec<_> = (0..1_000).map(|index| Member { index, name: "", weight: 1 }).collect();
    let asked = |balance: &config::Balance, hash: Option<u64>, is_in: fn(usize) -> bool| {
        let asked = Cell::new(0);
        let candidate = |index: usize| {
            asked.set(asked.get() + 1);
            let weight = u64::from(WHOLE_SHARE);
            is_in(index).then_some(Candidate { index, weight, open: 0, early_ends: 0.0 })
        };
        let picked = Balancer::new(balance, 1_000, &members).pick(hash, candidate);
        assert!(picked.is_some_and(is_in), "{balance:?}");
        asked.get()
    };
    let hashed = config::Balance::ConsistentHash(config::HashKey::ClientIp);
    for key in 0..20 {
        assert!(asked(&config::Balance::RandomTwo, None, |_| true) <= 2 * DRAWS);
        assert_eq!(asked(&hashed, Some(hash(&[key])), |_| true), 1);
        // One that is left is found all the same.
        assert!(asked(&config::Balance::RandomTwo, None, |index| index == 777) <= 2 * (DRAWS + 1_000));
        assert!(asked(&hashed, Some(hash(&[key])), |index| index == 777) <= 1_032);
    }
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let balancer = balancer(&config::Balance::RoundRobin);
    let mut counts = [0; 4];
    let mut order = Vec::new();
    for _ in 0..PICKS {
        let index = balancer.pick_of(None, &candidates([0; 4])).unwrap();
        counts[index] += 1;
        order.push(index);
    }
    assert_shares(counts, 0);
    assert!(order.windows(3).all(|run| run[0] != run[1] || run[1] != run[2]));
}

#[test]
fn round_robin_keeps_the_shares_of_those_that_are_left() {
    let balancer = balancer(&config::Balance::RoundRobin);
    let mut counts = [0_usize; 4];
    for _ in 0..6_000 {
        counts[balancer.pick_of(None, &candidates([0; 4])[..3]).unwrap()] += 1;
    }
    assert_eq!(counts, [1000, 2000, 3000, 0]);
}

fn all_balances() -> [config::Balance; 4] {
    [
        config::Balance::LeastConnections,
        config::Balance::RoundRobin,
        config::Balance::RandomTwo,
        config::Balance::ConsistentHash(config::HashKey::ClientIp),
    ]
}

#[test]
fn nothing_to_choose_from() {
    for balance in all_balances() {
        for hash in [None, Some(7)] {
            assert_eq!(balancer(&balance).pick_of(hash, &[]), None);
            assert_eq!(Balancer::new(&balance, 0, &[]).pick_of(hash, &[]), None);
        }
    }
}

#[test]
fn one_to_choose_from_is_chosen() {
    for balance in all_balances() {
        for hash in [None, Some(7)] {
            assert_eq!(balancer(&balance).pick_of(hash, &candidates([9; 4])[2..3]), Some(2));
        }
    }
}

#[test]
fn without_a_key_consistent_hash_goes_by_load() {
    let balancer = balancer(&config::Balance::ConsistentHash(config::HashKey::Path));
    assert_eq!(balancer.pick_of(None, &candidates([5, 0, 15, 20])), Some(1));
}

/// Tables, by names alone.
mod consistent_hash {
    use super::super::maglev::{Member, Table};
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|host| format!("10.0.0.{host}:8080")).collect()
    }

    fn table(names: &[String]) -> Table {
        let members = names.iter().enumerate().map(|(index, name)| Member { index, name, weight: 1 });
        Table::new(&members.collect::<Vec<_>>())
    }

    fn all(count: usize) -> Vec<Candidate> {
        (0..count).map(|index| Candidate { index, weight: 1, open: 0, early_ends: 0.0 }).collect()
    }

    fn pick(table: &Table, key: u64, candidates: &[Candidate]) -> Option<usize> {
        table.pick(key, |index| candidates.iter().any(|candidate| candidate.index == index))
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..PICKS as u64).map(|key| hash(format!("192.0.2.{key}").as_bytes()))
    }

    /// The name that each key belongs to.
    fn owners<'n>(names: &'n [String], candidates: &[Candidate]) -> Vec<&'n str> {
        let table = table(names);
        keys().map(|key| names[pick(&table, key, candidates).unwrap()].as_str()).collect()
    }

    #[test]
    fn shares_are_even() {
        let names = names(10);
        let owners = owners(&names, &all(10));
        for name in &names {
            let count = owners.iter().filter(|owner| *owner == name).count();
            // Six standard deviations of the keys; the slots themselves are even to one in 6,500.
            assert!(count.abs_diff(1_000) <= 180, "{name}: {count}");
        }
    }

    #[test]
    fn shares_go_by_weight() {
        let balancer = balancer(&config::Balance::ConsistentHash(config::HashKey::ClientIp));
        let mut counts = [0; 4];
        for key in keys() {
            counts[balancer.pick_of(Some(key), &candidates([0; 4])).unwrap()] += 1;
        }
        assert_shares(counts, 300);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let forward = names(10);
        let mut backward = forward.clone();
        backward.reverse();
        backward.swap(2, 7);
        assert_eq!(owners(&forward, &all(10)), owners(&backward, &all(10)));
    }

    #[test]
    fn the_same_key_belongs_to_the_same_server_in_every_version() {
        let names = names(10);
        let owners = owners(&names, &all(10));
        let digest = owners.iter().fold(0, |digest, owner| hash(format!("{digest}{owner}").as_bytes()));
        assert_eq!(
            digest, 4_026_540_626_467_959_329,
            "other replicas, of another version, will disagree with this one"
        );
    }

    /// How many in a thousand keys have moved that need not.
    fn moved(before: &[&str], after: &[&str], has_to: impl Fn(&str, &str) -> bool) -> usize {
        let pairs = || before.iter().zip(after).filter(|(before, after)| !has_to(before, after));
        pairs().filter(|(before, after)| before != after).count() * 1000 / pairs().count()
    }

    #[test]
    fn a_server_that_leaves_the_list_moves_few_keys_beside_its_own() {
        let ten = names(10);
        let before = owners(&ten, &all(10));
        for left in 0..10 {
            let mut nine = ten.clone();
            let left = nine.remove(left);
            let after = owners(&nine, &all(9));
            let moved = moved(&before, &after, |before, _| before == left);
            assert!(moved <= 150, "{left}: {moved}");
        }
    }

    #[test]
    fn a_server_that_comes_moves_few_keys_but_to_itself() {
        let (ten, eleven) = (names(10), names(11));
        let (before, after) = (owners(&ten, &all(10)), owners(&eleven, &all(11)));
        let moved = moved(&before, &after, |_, after| after == eleven[10]);
        assert!(moved <= 150, "{moved}");
        let gained = after.iter().filter(|owner| **owner == eleven[10]).count();
        assert!(gained.abs_diff(PICKS / 11) <= 200, "{gained}");
    }

    #[test]
    fn the_keys_of_a_server_that_is_out_go_to_all_others_and_no_others_move() {
        let names = names(10);
        let before = owners(&names, &all(10));
        let nine: Vec<_> = all(10).into_iter().filter(|candidate| candidate.index != 3).collect();
        let after = owners(&names, &nine);
        assert_eq!(after, owners(&names, &nine), "in the same order each time");
        let mut gained = [0_usize; 10];
        for (before, after) in before.iter().zip(&after) {
            if *before == names[3] {
                gained[names.iter().position(|name| name == after).unwrap()] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(gained[3], 0);
        // A ninth of some thousand, and six standard deviations.
        assert!(
            (0..10).filter(|&place| place != 3).all(|place| gained[place].abs_diff(111) <= 63),
            "{gained:?}"
        );
    }

    #[test]
    fn one_of_many_that_is_left_is_found() {
        let names = names(200);
        let table = table(&names);
        for key in keys().take(500) {
            assert_eq!(pick(&table, key, &all(200)[77..78]), Some(77));
        }
    }

    #[test]
    fn weights_of_any_size_fill_the_table() {
        let names = names(3);
        let weights = [1, u32::MAX, 7];
        let members = names.iter().zip(weights).enumerate();
        let members = members.map(|(index, (name, weight))| Member { index, name, weight });
        let table = Table::new(&members.collect::<Vec<_>>());
        assert!(keys().all(|key| pick(&table, key, &all(3)) == Some(1)));
    }
}

#[test]
fn the_only_member_is_chosen_while_it_is_a_candidate_however_it_is_done() {
    use config::{Balance, HashKey};
    let methods = [
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::RandomTwo,
        Balance::ConsistentHash(HashKey::ClientIp),
    ];
    for method in methods {
        let only = Balancer::new(&method, 4, &[Member { index: 2, name: "10.0.0.3:80", weight: 3 }]);
        for hash in [None, Some(7)] {
            assert_eq!(only.pick_of(hash, &candidates([5; 4])), Some(2));
            assert_eq!(only.pick_of(hash, &candidates([5; 4])[..2]), None);
        }
    }
}
