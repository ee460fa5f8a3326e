//! The choice of an endpoint.

use std::{cmp::Ordering, sync::Mutex};

use super::lock;
use crate::config;

/// An endpoint as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its place in the pool.
    pub(super) index: usize,
    /// Its share relative to the others; at least 1.
    pub(super) weight: u32,
    /// Its open leases.
    pub(super) open: usize,
}

/// How a pool chooses, with what it has to remember for that.
#[derive(Debug)]
pub(super) enum Balancer {
    /// The fewest open leases for its weight.
    LeastConnections,
    /// In turn: the credit of each endpoint, by its place in the pool.
    RoundRobin(Mutex<Vec<i64>>),
}

impl Balancer {
    /// For a pool of `endpoints`.
    pub(super) fn new(balance: &config::Balance, endpoints: usize) -> Self {
        match balance {
            config::Balance::LeastConnections
            | config::Balance::RandomTwo
            | config::Balance::ConsistentHash(_) => Self::LeastConnections,
            config::Balance::RoundRobin => Self::RoundRobin(Mutex::new(vec![0; endpoints])),
        }
    }

    /// Chooses one of `candidates`; `None` when there is none.
    pub(super) fn pick(&self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        match self {
            Self::LeastConnections => fewest_open(candidates),
            Self::RoundRobin(credits) => next_in_turn(&mut lock(credits), candidates),
        }
    }
}

/// Where several are equal, as all are on a quiet pool, one is drawn by weight: without that the first of the
/// file would get every short exchange.
fn fewest_open(candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let mut best: Option<Candidate> = None;
    let mut equal_weight = 0;
    for candidate in candidates {
        let weight = u64::from(candidate.weight);
        match best.map_or(Ordering::Less, |best| compare_load(candidate, best)) {
            Ordering::Greater => {}
            Ordering::Less => {
                best = Some(candidate);
                equal_weight = weight;
            }
            Ordering::Equal => {
                equal_weight += weight;
                if rand::random_range(0..equal_weight) < weight {
                    best = Some(candidate);
                }
            }
        }
    }
    best.map(|best| best.index)
}

/// Compares open leases for each unit of weight, without a division.
fn compare_load(a: Candidate, b: Candidate) -> Ordering {
    let scaled = |open: usize, weight: u32| open as u128 * u128::from(weight);
    scaled(a.open, b.weight).cmp(&scaled(b.open, a.weight))
}

/// Every candidate earns its weight, the richest is chosen and pays what all have earned; so a heavy one is
/// spread over the round instead of being chosen several times in a row.
fn next_in_turn(credits: &mut [i64], candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let mut richest: Option<usize> = None;
    let mut earned = 0;
    for Candidate { index, weight, .. } in candidates {
        credits[index] += i64::from(weight);
        earned += i64::from(weight);
        if richest.is_none_or(|richest| credits[index] > credits[richest]) {
            richest = Some(index);
        }
    }
    if let Some(index) = richest {
        credits[index] -= earned;
    }
    richest
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [u32; 4] = [1, 2, 3, 4];
    const PICKS: usize = 10_000;

    fn candidates(open: [usize; 4]) -> impl Iterator<Item = Candidate> {
        (0..4).map(move |index| Candidate { index, weight: WEIGHTS[index], open: open[index] })
    }

    fn assert_shares(counts: [usize; 4], tolerance: usize) {
        for (count, share) in counts.into_iter().zip([1000, 2000, 3000, 4000]) {
            assert!(count.abs_diff(share) <= tolerance, "{counts:?}");
        }
    }

    #[test]
    fn least_connections_fills_open_leases_by_weight() {
        let balancer = Balancer::new(&config::Balance::LeastConnections, 4);
        let mut open = [0; 4];
        for _ in 0..PICKS {
            open[balancer.pick(candidates(open)).unwrap()] += 1;
        }
        assert_shares(open, 4);
    }

    #[test]
    fn least_connections_draws_by_weight_on_a_quiet_pool() {
        let balancer = Balancer::new(&config::Balance::LeastConnections, 4);
        let mut counts = [0; 4];
        for _ in 0..PICKS {
            counts[balancer.pick(candidates([0; 4])).unwrap()] += 1;
        }
        // Six standard deviations of the widest of the four.
        assert_shares(counts, 300);
    }

    #[test]
    fn least_connections_prefers_who_lost_its_tunnels() {
        let balancer = Balancer::new(&config::Balance::LeastConnections, 4);
        assert_eq!(balancer.pick(candidates([5, 0, 15, 20])), Some(1));
        assert_eq!(balancer.pick(candidates([5, 9, 15, 20])), Some(1));
        assert_eq!(balancer.pick(candidates([4, 10, 15, 20])), Some(0));
    }

    #[test]
    fn round_robin_is_exact_and_smooth() {
        let balancer = Balancer::new(&config::Balance::RoundRobin, 4);
        let mut counts = [0; 4];
        let mut order = Vec::new();
        for _ in 0..PICKS {
            let index = balancer.pick(candidates([0; 4])).unwrap();
            counts[index] += 1;
            order.push(index);
        }
        assert_shares(counts, 0);
        assert!(order.windows(3).all(|run| run[0] != run[1] || run[1] != run[2]));
    }

    #[test]
    fn round_robin_keeps_the_shares_of_those_that_are_left() {
        let balancer = Balancer::new(&config::Balance::RoundRobin, 4);
        let mut counts = [0_usize; 4];
        for _ in 0..6_000 {
            let left = candidates([0; 4]).filter(|candidate| candidate.index != 3);
            counts[balancer.pick(left).unwrap()] += 1;
        }
        assert_eq!(counts, [1000, 2000, 3000, 0]);
    }

    #[test]
    fn nothing_to_choose_from() {
        for balance in [config::Balance::LeastConnections, config::Balance::RoundRobin] {
            assert_eq!(Balancer::new(&balance, 0).pick(std::iter::empty()), None);
        }
    }
}
