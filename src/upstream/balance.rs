//! The choice of an endpoint.

mod early;
mod hash;
mod maglev;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, sync::Mutex};

use self::maglev::Table;
use super::lock;
use crate::config;

pub(super) use self::{early::EarlyEnds, hash::hash, maglev::Member};

/// So many early ends put as much load on a server as that has which has the most.
const EARLY_ENDS_TO_THE_TOP: f64 = 8.0;

/// An endpoint as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its place in the pool.
    pub(super) index: usize,
    /// Its share relative to the others; at least 1.
    pub(super) weight: u64,
    /// Its open leases.
    pub(super) open: usize,
    /// Tunnels that it ended early, see [`EarlyEnds`].
    pub(super) early_ends: f64,
}

/// How a pool chooses, with what it has to remember for that.
#[derive(Debug)]
pub(super) enum Balancer {
    /// The fewest open leases for its weight.
    LeastConnections,
    /// In turn: the credit of each endpoint, by its place in the pool.
    RoundRobin(Mutex<Vec<i64>>),
    /// The less loaded of two that are drawn by weight.
    RandomTwo,
    /// By what the request is hashed to, else the fewest open leases.
    ConsistentHash(Table),
}

impl Balancer {
    /// For a pool of `endpoints`, of which `members` are chosen from.
    pub(super) fn new<'a>(
        balance: &config::Balance,
        endpoints: usize,
        members: impl Iterator<Item = Member<'a>>,
    ) -> Self {
        match balance {
            config::Balance::LeastConnections => Self::LeastConnections,
            config::Balance::RoundRobin => Self::RoundRobin(Mutex::new(vec![0; endpoints])),
            config::Balance::RandomTwo => Self::RandomTwo,
            config::Balance::ConsistentHash(_) => Self::ConsistentHash(Table::new(members)),
        }
    }

    /// Chooses one of `candidates`; `None` when there is none.
    pub(super) fn pick(&self, hash: Option<u64>, candidates: &[Candidate]) -> Option<usize> {
        match self {
            Self::LeastConnections => least_loaded(candidates),
            Self::RoundRobin(credits) => next_in_turn(&mut lock(credits), candidates),
            Self::RandomTwo => less_loaded_of_two(candidates),
            Self::ConsistentHash(table) => match hash {
                Some(key) => table.pick(key, candidates),
                None => least_loaded(candidates),
            },
        }
    }
}

/// Where several are equal, as all are on a quiet pool, one is drawn by weight: without that the first of the
/// file would get every short exchange.
fn least_loaded(candidates: &[Candidate]) -> Option<usize> {
    let field = Field::of(candidates);
    let mut best: Option<(Candidate, f64)> = None;
    let mut equal_weight = 0;
    for &candidate in candidates {
        let load = candidate.load(field);
        match best.map_or(Ordering::Less, |(_, best)| load.total_cmp(&best)) {
            Ordering::Greater => {}
            Ordering::Less => {
                best = Some((candidate, load));
                equal_weight = candidate.weight;
            }
            Ordering::Equal => {
                equal_weight += candidate.weight;
                if rand::random_range(0..equal_weight) < candidate.weight {
                    best = Some((candidate, load));
                }
            }
        }
    }
    best.map(|(best, _)| best.index)
}

/// Two that differ are drawn by weight, and the less loaded is chosen. Gates that know nothing of each other do not all
/// run to the same one so.
fn less_loaded_of_two(candidates: &[Candidate]) -> Option<usize> {
    let first = draw(candidates, None)?;
    match draw(candidates, Some(first)) {
        Some(second) => least_loaded(&[candidates[first], candidates[second]]),
        None => Some(candidates[first].index),
    }
}

/// The place of one of `candidates`, by weight, but not of the one at `except`.
fn draw(candidates: &[Candidate], except: Option<usize>) -> Option<usize> {
    let left = || (0..candidates.len()).filter(|&place| Some(place) != except);
    let total: u64 = left().map(|place| candidates[place].weight).sum();
    let mut ticket = if total == 0 { return None } else { rand::random_range(0..total) };
    left().find(|&place| {
        let weight = candidates[place].weight;
        let wins = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        wins
    })
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
