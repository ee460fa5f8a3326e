//! The servers of a pool at one time, and the choice among them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    balance::{self, Balancer, Candidate, Member, WHOLE_SHARE},
    endpoint::Endpoint,
    sticky::StickyId,
};
use crate::{
    config::{self, Sticky, UpstreamServer},
    proto::proxy_protocol::Addresses,
};

/// The part of its weight that a server has at once when it came back, in thousandths.
const FIRST_SHARE: u32 = 100;

/// The endpoints of a pool at one time. Places in it are stable.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Of each endpoint, by its place.
    ranks: Vec<Rank>,
    /// How one of each group is chosen, the group that comes first at the front.
    groups: Vec<Balancer>,
    sticky: Option<Stickiness>,
    slow_start: Option<Duration>,
}

/// What a server's entry, or its record, says of its share. It may change while the endpoint stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) weight: u32,
    /// Servers of a higher one are used while none of a lower one can be.
    pub(super) group: u32,
}

impl Rank {
    /// What the file says of it.
    pub(super) fn of(server: &UpstreamServer) -> Self {
        Self { weight: server.weight, group: u32::from(server.backup) }
    }
}

#[derive(Debug)]
struct Stickiness {
    config: Sticky,
    /// Of each endpoint, by its place.
    ids: Vec<StickyId>,
}

/// What the choice knows of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caller {
    /// What `hash_key` gave, see [`Caller::hash`]; `None` where nothing is hashed, or the request has no such thing.
    pub hash: Option<u64>,
    /// What its sticky cookie says.
    pub sticky: Option<StickyId>,
    /// Whom a PROXY header names.
    pub addresses: Option<Addresses>,
}

impl Caller {
    /// The hash of a key. It is the same in every process.
    pub fn hash(key: &[u8]) -> u64 {
        balance::hash(key)
    }
}

impl Set {
    /// A set of endpoints, each with its rank.
    pub(super) fn ranked(members: Vec<(Arc<Endpoint>, Rank)>, config: &config::Upstream) -> Self {
        let (endpoints, ranks): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let group = |number| {
            let members = endpoints.iter().zip(&ranks).enumerate();
            let members = members.filter(|(_, (_, rank))| rank.group == number);
            let members = members.map(|(index, (endpoint, rank))| Member {
                index,
                name: endpoint.name(),
                weight: rank.weight,
            });
            Balancer::new(&config.balance, endpoints.len(), &members.collect::<Vec<_>>())
        };
        let numbers: BTreeSet<_> = ranks.iter().map(|rank| rank.group).collect();
        let groups = numbers.into_iter().map(group).collect();
        let sticky = config.sticky.as_ref().map(|sticky| Stickiness {
            config: sticky.clone(),
            ids: endpoints.iter().map(|endpoint| StickyId::of(endpoint.name())).collect(),
        });
        Self { endpoints, ranks, groups, sticky, slow_start: config.slow_start }
    }

    /// The place of the endpoint for a request that was at `tried` already; `None` if none is left.
    ///
    /// The server of its sticky cookie comes first, also if it is a backup: a session that began there lives there.
    /// Else a backup is chosen only while no other can take it.
    pub(super) fn pick(&self, caller: &Caller, tried: &[Arc<Endpoint>]) -> Option<usize> {
        // If all are out, what failed passively is tried all the same; what failed its checks, or was taken out, is not.
        let any_is_in = self.endpoints.iter().any(|endpoint| endpoint.status.is_in());
        let usable = |&index: &usize| {
            let endpoint = &self.endpoints[index];
            let status = &endpoint.status;
            let is_eligible = if any_is_in { status.is_in() } else { !status.is_barred() };
            is_eligible && !endpoint.is_full() && !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
        };
        if let Some(index) = self.stuck_to(caller).filter(usable) {
            return Some(index);
        }
        let candidate = |index| usable(&index).then(|| self.candidate(index));
        self.groups.iter().find_map(|group| group.pick(caller.hash, candidate))
    }

    /// Counts a failure of `endpoint`, which may take it out while others are in.
    pub(super) fn failed(&self, endpoint: &Arc<Endpoint>, reason: &str) {
        let others = || self.endpoints.iter().filter(|other| !Arc::ptr_eq(other, endpoint));
        endpoint.status.failed(reason, || others().any(|other| other.status.is_in()));
    }

    /// Whether the request belongs to the endpoint at `used`, and is there not by chance.
    pub(super) fn binds(&self, caller: &Caller, used: usize) -> bool {
        caller.hash.is_some() || self.stuck_to(caller) == Some(used)
    }

    /// The Set-Cookie for an answer of the endpoint at `used`; `None` if the client knows already.
    pub(super) fn set_cookie(&self, caller: &Caller, used: usize, secure: bool) -> Option<String> {
        let Stickiness { config, ids } = self.sticky.as_ref()?;
        (caller.sticky != Some(ids[used])).then(|| ids[used].set_cookie(config, secure))
    }

    fn stuck_to(&self, caller: &Caller) -> Option<usize> {
        let (sticky, wanted) = (self.sticky.as_ref()?, caller.sticky?);
        sticky.ids.iter().position(|id| *id == wanted)
    }

    /// Each endpoint with its rank, and the part of its weight that counts now.
    pub(super) fn members(&self) -> impl Iterator<Item = (&Arc<Endpoint>, Rank, f64)> {
        let share = |endpoint: &Arc<Endpoint>| f64::from(self.share_of(endpoint)) / f64::from(WHOLE_SHARE);
        self.endpoints.iter().zip(&self.ranks).map(move |(endpoint, rank)| (endpoint, *rank, share(endpoint)))
    }

    /// The part of its weight that counts now, in thousandths.
    fn share_of(&self, endpoint: &Endpoint) -> u32 {
        match (self.slow_start, endpoint.status.back_since()) {
            (Some(slow_start), Some(back_since)) => share(back_since.elapsed(), slow_start),
            _ => WHOLE_SHARE,
        }
    }

    fn candidate(&self, index: usize) -> Candidate {
        let endpoint = &self.endpoints[index];
        Candidate {
            index,
            weight: u64::from(self.ranks[index].weight) * u64::from(self.share_of(endpoint)),
            open: endpoint.open(),
            early_ends: endpoint.load.early_ends.count(),
        }
    }
}

/// The share, in thousandths, of a server that came back so long ago. Its weight is scaled by it, and so is the number of
/// tunnels up to which it is the least loaded.
fn share(back: Duration, slow_start: Duration) -> u32 {
    let grown = u128::from(WHOLE_SHARE - FIRST_SHARE) * back.as_nanos() / slow_start.as_nanos().max(1);
    u32::try_from(grown).map_or(WHOLE_SHARE, |grown| (FIRST_SHARE + grown).min(WHOLE_SHARE))
}

#[cfg(test)]
mod tests;
