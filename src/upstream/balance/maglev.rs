//! Consistent hashing by Maglev's table (Eisenbud et al., NSDI 2016, §3.4), with weights.
//!
//! Every server has an order of its own over all slots of the table, drawn from its name. In turn, as often as their
//! weights say, each takes the first slot of its order that is free. So the shares are almost exact, and a server that
//! comes or goes moves few keys beside its own. Nothing but the names and weights goes in: neither the order of the list
//! nor anything random, so that all replicas with the same list have the same table.

use super::hash::{hash, mix};

/// A prime, as every step through the table has to reach every slot. It is fixed: with another size each key would
/// move.
const SLOTS: u32 = 65_537;
/// Slots that are looked at for a key before its order goes on by names.
const PROBES: u64 = 32;
/// 2^64 over the golden ratio: it takes the probes of a key far from one another.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// A server as the table sees it.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) struct Member<'a> {
    /// Its place in the pool.
    pub(in crate::upstream) index: usize,
    pub(in crate::upstream) name: &'a str,
    /// At least 1.
    pub(in crate::upstream) weight: u32,
}

/// Which server a key belongs to.
#[derive(Debug)]
pub(in crate::upstream) struct Table {
    /// The place in `members` of each slot's server; empty where there is none.
    slots: Box<[u16]>,
    members: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    index: usize,
    name: u64,
}

/// A server while the table is built.
struct Filling {
    /// The slot that it looks at next.
    slot: u32,
    step: u32,
    weight: u64,
    credit: u64,
}

impl Table {
    pub(super) fn new(members: &[Member<'_>]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|member| (member.name, member.index));
        // More than 65,535 can't have slots of their own anyway.
        members.truncate(usize::from(u16::MAX));
        Self {
            slots: fill(&members),
            members: members
                .iter()
                .map(|member| Known { index: member.index, name: hash(member.name.as_bytes()) })
                .collect(),
        }
    }

    /// The first of the key's servers, in an order that every replica has, that is a candidate.
    pub(super) fn pick(&self, key: u64, is_candidate: impl Fn(usize) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        for probe in 0..PROBES {
            // The first is the key's own; the others go by weight as well, and lead the keys of one server to all others.
            let at = mix(key.wrapping_add(probe.wrapping_mul(STRIDE))) % u64::from(SLOTS);
            #[expect(clippy::cast_possible_truncation, reason = "below SLOTS")]
            let known = &self.members[usize::from(self.slots[at as usize])];
            if is_candidate(known.index) {
                return Some(known.index);
            }
        }
        let left = self.members.iter().filter(|known| is_candidate(known.index));
        left.max_by_key(|known| mix(key ^ known.name)).map(|known| known.index)
    }
}

fn fill(members: &[Member<'_>]) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    if members.is_empty() {
        return Box::default();
    }
    let mut slots = vec![FREE; SLOTS as usize].into_boxed_slice();
    let mut filling: Vec<_> = members.iter().map(Filling::new).collect();
    let heaviest = filling.iter().map(|member| member.weight).max().unwrap_or(1);
    let mut free = SLOTS;
    loop {
        for (place, member) in (0_u16..).zip(&mut filling) {
            // The heaviest has a turn in every round, the others as much more seldom as they are lighter.
            member.credit += member.weight;
            if member.credit < heaviest {
                continue;
            }
            member.credit -= heaviest;
            let slot = member.next_free(|slot| slots[slot as usize] == FREE);
            slots[slot as usize] = place;
            free -= 1;
            if free == 0 {
                return slots;
            }
        }
    }
}

impl Filling {
    fn new(member: &Member<'_>) -> Self {
        let name = hash(member.name.as_bytes());
        let [slot, step] = [(name, SLOTS), (mix(name.wrapping_add(STRIDE)), SLOTS - 1)];
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of 32 bits")]
        let below = |(hash, bound): (u64, u32)| (hash % u64::from(bound)) as u32;
        Self { slot: below(slot), step: below(step) + 1, weight: member.weight.into(), credit: 0 }
    }

    /// The first slot of its order that is free; there is one.
    fn next_free(&mut self, is_free: impl Fn(u32) -> bool) -> u32 {
        loop {
            let slot = self.slot;
            self.slot = (slot + self.step) % SLOTS;
            if is_free(slot) {
                return slot;
            }
        }
    }
}
