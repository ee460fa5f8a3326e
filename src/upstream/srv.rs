//! Servers that SRV records list: endpoints that come and go.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
};

use hickory_resolver::proto::rr::rdata::SRV;
use tokio::{sync::watch, time::sleep};

use super::{
    connect::Bounds,
    endpoint::Endpoint,
    lock,
    names::Named,
    pool::{Inner, Surroundings},
    resolve,
    set::{Rank, Set},
};
use crate::config::{self, ServerAddress, UpstreamServer};

/// So many groups are made of the priorities of a record; servers of further ones are in the last.
const MOST_GROUPS: u32 = 8;

/// The servers of a pool as its file lists them, some by records.
#[derive(Debug)]
pub(super) struct Servers {
    place: Surroundings,
    /// Locked while a list changes, and never on the way of a request.
    lists: Mutex<Vec<List>>,
    /// Endpoints that left the list at this place while there was still a use of them, or an attempt that knew them. One that
    /// comes back meanwhile is the same as before.
    left: Mutex<Vec<(usize, Listed)>>,
    /// The places of records that never had an answer and are being asked for.
    awaited: watch::Sender<BTreeSet<usize>>,
}

/// One entry of `servers`.
#[derive(Debug)]
struct List {
    entry: UpstreamServer,
    endpoints: Vec<Listed>,
}

#[derive(Debug, Clone)]
struct Listed {
    address: ServerAddress,
    endpoint: Arc<Endpoint>,
    rank: Rank,
}

/// What an answer has changed.
#[derive(Debug)]
struct Change {
    came: Vec<Arc<Endpoint>>,
    left: Vec<Listed>,
}

impl Servers {
    /// The servers of `config` before any answer.
    pub(super) fn new(config: &config::Upstream, place: &Surroundings) -> Self {
        let list = |entry: &UpstreamServer| List {
            endpoints: match &entry.address {
                ServerAddress::Srv(_) => Vec::new(),
                address => vec![Listed {
                    address: address.clone(),
                    endpoint: Arc::new(Endpoint::new(entry, config, place)),
                    rank: Rank::of(entry),
                }],
            },
            entry: entry.clone(),
        };
        let servers = Self {
            place: place.clone(),
            lists: Mutex::new(config.servers.iter().map(list).collect()),
            left: Mutex::default(),
            awaited: watch::Sender::default(),
        };
        servers.awaited.send_replace(servers.records().into_iter().map(|(place, _)| place).collect());
        servers
    }

    /// What requests choose from.
    pub(super) fn set(&self, config: &config::Upstream) -> Set {
        let members = |list: &List| list.endpoints.clone();
        let members =
            lock(&self.lists).iter().flat_map(members).map(|listed| (listed.endpoint, listed.rank)).collect();
        Set::ranked(members, config)
    }

    /// Leases on endpoints that are not in the pool any more.
    pub(super) fn open_elsewhere(&self) -> usize {
        lock(&self.left).iter().map(|(_, listed)| listed.endpoint.open()).sum()
    }

    /// The places and names of the records.
    fn records(&self) -> Vec<(usize, String)> {
        let record = |(place, list): (usize, &List)| match &list.entry.address {
            ServerAddress::Srv(name) => Some((place, name.clone())),
            _ => None,
        };
        lock(&self.lists).iter().enumerate().filter_map(record).collect()
    }

    /// Puts an answer in the place of the last one; `None` if nothing has changed.
    fn relist(&self, place: usize, records: Vec<SRV>, config: &config::Upstream) -> Option<Change> {
        let mut lists = lock(&self.lists);
        let List { entry, endpoints } = &mut lists[place];
        let is_first = endpoints.is_empty();
        let mut came = Vec::new();
        let mut fresh: Vec<Listed> = Vec::with_capacity(records.len());
        for (server, rank) in servers(records, entry) {
            let stays = endpoints.iter().find(|listed| listed.address == server.address);
            let stays = stays.map(|listed| Arc::clone(&listed.endpoint));
            let endpoint = stays.unwrap_or_else(|| {
                let known = self.left_from(place, &server.address);
                let endpoint = known.unwrap_or_else(|| Arc::new(Endpoint::new(&server, config, &self.place)));
                came.push(Arc::clone(&endpoint));
                endpoint
            });
            fresh.push(Listed { address: server.address, endpoint, rank });
        }
        let same = |(one, other): (&Listed, &Listed)| one.address == other.address && one.rank == other.rank;
        if fresh.len() == endpoints.len() && fresh.iter().zip(&*endpoints).all(same) {
            return None;
        }
        if !is_first {
            // For all that is known they were down until now.
            for endpoint in &came {
                endpoint.status.is_back();
            }
        }
        let mut left = std::mem::replace(endpoints, fresh);
        left.retain(|old| !endpoints.iter().any(|listed| listed.address == old.address));
        Some(Change { came, left })
    }

    /// The endpoint with this address that left the list at `place` and is still in use.
    fn left_from(&self, place: usize, address: &ServerAddress) -> Option<Arc<Endpoint>> {
        let left = lock(&self.left);
        let found = left.iter().find(|(from, listed)| *from == place && listed.address == *address);
        found.map(|(_, listed)| Arc::clone(&listed.endpoint))
    }
}

/// The servers of an answer, a group for each priority, always in the same order.
fn servers(mut records: Vec<SRV>, entry: &UpstreamServer) -> Vec<(UpstreamServer, Rank)> {
    records.sort_by(|one, other| {
        let order = (one.priority, one.port).cmp(&(other.priority, other.port));
        order.then_with(|| one.target.cmp(&other.target))
    });
    let first = u32::from(entry.backup);
    let (mut group, mut priority) = (first, None);
    let mut servers: Vec<(UpstreamServer, Rank)> = Vec::with_capacity(records.len());
    for record in records {
        if priority.replace(record.priority).is_some_and(|last| last != record.priority) {
            group = (group + 1).min(first + MOST_GROUPS - 1);
        }
        // With its final dot, which keeps the search domains out.
        let host = record.target.to_lowercase().to_ascii();
        let address = ServerAddress::Name { host, port: record.port };
        if servers.iter().any(|(server, _)| server.address == address) {
            continue;
        }
        // 0 is the least, not nothing (RFC 2782).
        let weight = u32::from(record.weight).max(1);
        servers.push((UpstreamServer { address, weight, ..entry.clone() }, Rank { weight, group }));
    }
    servers
}

impl Inner {
    /// Waits for the first servers of a pool that has none yet, as long as a record is asked for and they come in time.
    pub(super) async fn await_servers(&self, bounds: Bounds) {
        let mut awaited = self.servers.awaited.subscribe();
        let listed = awaited.wait_for(|awaited| awaited.is_empty() || !self.set.load().endpoints.is_empty());
        // If they don't, there is nobody to choose.
        let _ = bounds.apply(listed).await;
    }

    fn relist(&self, place: usize, name: &str, records: Vec<SRV>) {
        let listed = records.len();
        let Some(Change { came, left }) = self.servers.relist(place, records, &self.config) else { return };
        tracing::info!(upstream = %self.config.name, record = name, listed, left = left.len(), "servers of the record have changed");
        for endpoint in came {
            endpoint.follow().map(tokio::spawn);
        }
        // Counted here before they are not counted there.
        lock(&self.servers.left).extend(left.iter().cloned().map(|listed| (place, listed)));
        self.set.store(Arc::new(self.servers.set(&self.config)));
        for listed in left {
            listed.endpoint.leave();
        }
        self.forget_left();
    }

    /// Lets go of endpoints that left and that nobody uses, and of those that came back.
    fn forget_left(&self) {
        let set = self.set.load();
        lock(&self.servers.left).retain(|(_, Listed { endpoint, .. })| {
            let is_back = set.endpoints.iter().any(|other| Arc::ptr_eq(other, endpoint));
            !is_back && (endpoint.open() > 0 || Arc::strong_count(endpoint) > 1)
        });
    }
}

/// Keeps each list of `pool` that comes from a record, and the addresses of each name, fresh for as long as there is the pool.
pub(super) fn follow(pool: &Arc<Inner>) -> Vec<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let records = pool.servers.records().into_iter();
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for (place, name) in records {
        tasks.push(Box::pin(follow_one(Arc::downgrade(pool), place, name)));
    }
    for name in pool.set.load().endpoints.iter().filter_map(Endpoint::follow) {
        tasks.push(Box::pin(name));
    }
    tasks
}

async fn follow_one(pool: Weak<Inner>, place: usize, name: String) {
    let (mut is_known, mut fails) = (false, false);
    loop {
        if !is_known {
            let Some(pool) = pool.upgrade() else { return };
            pool.servers.awaited.send_modify(|awaited| _ = awaited.insert(place));
        }
        let found = resolve::records(&name).await;
        let Some(pool) = pool.upgrade() else { return };
        let refresh = pool.config.dns_refresh;
        let next = match found {
            Ok(records) => {
                (is_known, fails) = (true, false);
                pool.relist(place, &name, records);
                refresh
            }
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    let until =
                        if is_known { "its last servers stay in use" } else { "it has no servers yet" };
                    tracing::warn!(upstream = %pool.config.name, record = %name, %error, "record not resolved, {until}");
                }
                if is_known { refresh } else { Some(Named::soon(refresh)) }
            }
        };
        // Behind the new list, so that who waited finds it.
        pool.servers.awaited.send_modify(|awaited| _ = awaited.remove(&place));
        pool.forget_left();
        drop(pool);
        let Some(next) = next else { return };
        sleep(next).await;
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    fn groups(backup: bool, priorities: impl IntoIterator<Item = u16>) -> Vec<u32> {
        let address = ServerAddress::Srv("_ws._tcp.example.test".into());
        let entry = UpstreamServer { address, weight: 1, backup, max_connections: None };
        let target = |index| Name::from_ascii(format!("s{index}.test.")).unwrap();
        let record = |(index, priority)| SRV::new(priority, 1, 80, target(index));
        let records = priorities.into_iter().enumerate().map(record).collect();
        servers(records, &entry).into_iter().map(|(_, rank)| rank.group).collect()
    }

    #[test]
    fn each_priority_of_a_record_is_a_group_up_to_a_bound() {
        assert_eq!(groups(false, [10, 3, 3, 700]), [0, 0, 1, 2]);
        assert_eq!(groups(true, [5, 4]), [1, 2], "behind the servers of other entries");
        let many = groups(false, 0..1000);
        assert_eq!((many[6], many[7], many[999]), (6, 7, 7));
    }
}
