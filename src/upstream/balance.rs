//! The choice of an endpoint.

mod early;
mod hash;
mod maglev;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, cmp::Ordering, sync::Mutex};

use self::maglev::Table;
use super::lock;
use crate::config;

pub(super) use self::{early::EarlyEnds, hash::hash, maglev::Member};

/// So many early ends put as much load on a server as that has which has the most.
const EARLY_ENDS_TO_THE_TOP: f64 = 8.0;

/// What a weight is multiplied by, so that a part of it can count.
pub(super) const WHOLE_SHARE: u32 = 1000;

/// Draws by weight after which all are looked at: by then most are out, or one has nearly all the weight.
const DRAWS: usize = 8;

thread_local! {
    /// Those of the choice that is being made, so that none allocates.
    static CANDIDATES: RefCell<Vec<Candidate>> = const { RefCell::new(Vec::new()) };
}

/// An endpoint as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its place in the pool.
    pub(super) index: usize,
    /// Its share relative to the others; at least 1, and at most [`WHOLE_SHARE`] times its member's weight.
    pub(super) weight: u64,
    /// Its open leases.
    pub(super) open: usize,
    /// Tunnels that it ended early, see [`EarlyEnds`].
    pub(super) early_ends: f64,
}

/// How one of the members of a pool is chosen, with what has to be remembered for that.
#[derive(Debug)]
pub(super) struct Balancer {
    /// Their places in the pool.
    members: Vec<usize>,
    method: Method,
}

#[derive(Debug)]
enum Method {
    /// The fewest open leases for its weight.
    LeastConnections,
    /// In turn: the credit of each endpoint, by its place in the pool.
    RoundRobin(Mutex<Vec<i64>>),
    /// The less loaded of two that are drawn by weight: where the whole share of each member ends, one after the other.
    RandomTwo(Vec<u64>),
    /// By what the request is hashed to, else the fewest open leases.
    ConsistentHash(Table),
}

impl Balancer {
    /// For a pool of `endpoints`, of which `members` are chosen from.
    pub(super) fn new(balance: &config::Balance, endpoints: usize, members: &[Member<'_>]) -> Self {
        let method = match balance {
            config::Balance::LeastConnections => Method::LeastConnections,
            config::Balance::RoundRobin => Method::RoundRobin(Mutex::new(vec![0; endpoints])),
            config::Balance::RandomTwo => Method::RandomTwo(ends_of_shares(members)),
            config::Balance::ConsistentHash(_) => Method::ConsistentHash(Table::new(members)),
        };
        Self { members: members.iter().map(|member| member.index).collect(), method }
    }

    /// Chooses a member that is a candidate, by its place; `None` when none is. Hashing and drawing ask for few of them.
    pub(super) fn pick(
        &self,
        hash: Option<u64>,
        candidate: impl Fn(usize) -> Option<Candidate>,
    ) -> Option<usize> {
        // However it would be chosen.
        if let [only] = self.members[..] {
            return candidate(only).map(|only| only.index);
        }
        match (&self.method, hash) {
            (Method::RandomTwo(ends), _) => self.less_loaded_of_two(ends, &candidate),
            (Method::ConsistentHash(table), Some(key)) => table.pick(key, |index| candidate(index).is_some()),
            (Method::RoundRobin(credits), _) => {
                self.with_all(&candidate, |all| next_in_turn(&mut lock(credits), all))
            }
            (Method::LeastConnections | Method::ConsistentHash(_), _) => {
                self.with_all(&candidate, least_loaded)
            }
        }
    }

    fn with_all<R>(
        &self,
        candidate: &impl Fn(usize) -> Option<Candidate>,
        with: impl FnOnce(&[Candidate]) -> R,
    ) -> R {
        CANDIDATES.with_borrow_mut(|all| {
            all.clear();
            all.extend(self.members.iter().filter_map(|&index| candidate(index)));
            with(all)
        })
    }

    /// Two that differ are drawn by weight, and the less loaded is chosen. Gates that know nothing of each other do not all
    /// run to the same one so.
    fn less_loaded_of_two(
        &self,
        ends: &[u64],
        candidate: &impl Fn(usize) -> Option<Candidate>,
    ) -> Option<usize> {
        let first = self.draw(ends, candidate)?;
        let other = |index| candidate(index).filter(|_| index != first.index);
        match self.draw(ends, &other) {
            Some(second) => least_loaded(&[first, second]),
            None => Some(first.index),
        }
    }

    /// A candidate, drawn by weight. A draw that meets none, or that part of a member's share which does not count now, is
    /// one in vain.
    fn draw(&self, ends: &[u64], candidate: &impl Fn(usize) -> Option<Candidate>) -> Option<Candidate> {
        let total = *ends.last()?;
        let meets = |_| {
            let ticket = rand::random_range(0..total);
            let place = ends.partition_point(|&end| end <= ticket);
            candidate(self.members[place]).filter(|candidate| ends[place] - ticket <= candidate.weight)
        };
        let drawn = (0..DRAWS).find_map(meets);
        drawn.or_else(|| self.with_all(candidate, draw_among))
    }
}

fn ends_of_shares(members: &[Member<'_>]) -> Vec<u64> {
    let shares = members.iter().map(|member| u64::from(member.weight) * u64::from(WHOLE_SHARE));
    shares
        .scan(0, |end, share| {
            *end += share;
            Some(*end)
        })
        .collect()
}

/// Where several are equal, as all are on a quiet pool, one is drawn by weight: without that the first of the
/// file would get every short exchange.
fn least_loaded(candidates: &[Candidate]) -> Option<usize> {
    let field = Field::of(candidates);
    let (mut least, mut equal_weight) = (f64::INFINITY, 0);
    for candidate in candidates {
        let load = candidate.load(field);
        match load.total_cmp(&least) {
            Ordering::Greater => {}
            Ordering::Less => (least, equal_weight) = (load, candidate.weight),
            Ordering::Equal => equal_weight += candidate.weight,
        }
    }
    let equal = candidates.iter().filter(|candidate| candidate.load(field).total_cmp(&least).is_eq());
    draw_among_all(equal, equal_weight).map(|drawn| drawn.index)
}

fn draw_among(candidates: &[Candidate]) -> Option<Candidate> {
    draw_among_all(candidates.iter(), candidates.iter().map(|candidate| candidate.weight).sum())
}

/// One of `candidates`, whose weights are `total` in all, by weight.
fn draw_among_all<'c>(mut candidates: impl Iterator<Item = &'c Candidate>, total: u64) -> Option<Candidate> {
    let mut ticket = if total == 0 { return None } else { rand::random_range(0..total) };
    let wins = |candidate: &&Candidate| {
        let wins = ticket < candidate.weight;
        ticket = ticket.saturating_sub(candidate.weight);
        wins
    };
    candidates.find(wins).copied()
}

/// Every candidate earns its weight, the richest is chosen and pays what all have earned; so a heavy one is
/// spread over the round instead of being chosen several times in a row.
fn next_in_turn(credits: &mut [i64], candidates: &[Candidate]) -> Option<usize> {
    let mut richest: Option<usize> = None;
    let mut earned = 0;
    for &Candidate { index, weight, .. } in candidates {
        let weight = i64::try_from(weight).unwrap_or(i64::MAX);
        credits[index] += weight;
        earned += weight;
        if richest.is_none_or(|richest| credits[index] > credits[richest]) {
            richest = Some(index);
        }
    }
    if let Some(index) = richest {
        credits[index] -= earned;
    }
    richest
}

/// What the load of one candidate is measured by.
#[derive(Debug, Clone, Copy)]
struct Field {
    /// The most open leases that one has.
    most_open: f64,
    /// Early ends, for each unit of weight, that are nothing special: twice what the one with the fewest has. What happens at
    /// all servers is the clients' doing.
    usual_ends: f64,
}

impl Field {
    fn of(candidates: &[Candidate]) -> Self {
        let most_open = candidates.iter().map(|candidate| candidate.open).max().unwrap_or(0);
        let ends = candidates.iter().map(Candidate::early_ends_by_weight);
        Self { most_open: as_f64(most_open as u64), usual_ends: 2.0 * ends.fold(f64::INFINITY, f64::min) }
    }
}

impl Candidate {
    /// Open leases for each unit of weight; equal fractions give equal quotients. An early end that is not usual counts as a
    /// lease more, and as an eighth of the most that anybody has besides: beside servers with thousands of tunnels, one
    /// lease each would keep nobody away.
    fn load(&self, field: Field) -> f64 {
        let unusual = (self.early_ends_by_weight() - field.usual_ends).max(0.0);
        let open = as_f64(self.open as u64) / as_f64(self.weight);
        open + unusual * (1.0 + field.most_open / EARLY_ENDS_TO_THE_TOP)
    }

    fn early_ends_by_weight(&self) -> f64 {
        self.early_ends / as_f64(self.weight)
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and a load beyond that need not be")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
