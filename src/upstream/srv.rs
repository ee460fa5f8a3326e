//! Servers that SRV records list: endpoints that come and go.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
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
    /// Endpoints that left the list of an entry with this address, or the configuration with that entry, while there was still a
    /// use of them, or an attempt that knew them. What is known of one that comes back meanwhile goes on to be true.
    left: Mutex<Vec<(ServerAddress, Listed)>>,
    /// The places of records that never had an answer and are being asked for.
    awaited: watch::Sender<BTreeSet<usize>>,
    /// Locked while a list and the pool's set change together; whether that is over, as the pool is retired.
    is_settled: Mutex<bool>,
}

/// One entry of `servers`.
#[derive(Debug)]
struct List {
    entry: UpstreamServer,
    endpoints: Vec<Listed>,
    /// Its record has had an answer under this configuration.
    is_answered: bool,
}

#[derive(Debug, Clone)]
struct Listed {
    address: ServerAddress,
    endpoint: Arc<Endpoint>,
    rank: Rank,
}

impl Servers {
    /// The servers of `config` before any answer; those that `before` knows as it knows them.
    pub(super) fn new(config: &config::Upstream, place: &Surroundings, before: Option<&Before<'_>>) -> Self {
        let list = |(index, entry): (usize, &UpstreamServer)| {
            let known = before.map_or_else(Vec::new, |before| before.listed(index, config, place));
            let is_new = known.is_empty() && !matches!(entry.address, ServerAddress::Srv(_));
            List {
                endpoints: if is_new { vec![newcomer(entry, config, place, before)] } else { known },
                entry: entry.clone(),
                is_answered: false,
            }
        };
        let servers = Self {
            place: place.clone(),
            lists: Mutex::new(config.servers.iter().enumerate().map(list).collect()),
            left: Mutex::default(),
            awaited: watch::Sender::default(),
            is_settled: Mutex::default(),
        };
        let awaited = servers.records().into_iter().filter(|(place, _)| !servers.is_listed(*place));
        servers.awaited.send_replace(awaited.map(|(place, _)| place).collect());
        servers
    }

    /// Whether the record at this place has had an answer.
    fn is_listed(&self, place: usize) -> bool {
        !lock(&self.lists)[place].endpoints.is_empty()
    }

    pub(super) fn place(&self) -> &Surroundings {
        &self.place
    }

    /// Lets no list change any more. One that changes now is waited for.
    pub(super) fn settle(&self) {
        *lock(&self.is_settled) = true;
    }

    /// Lets no list change meanwhile.
    pub(super) fn hold(&self) -> MutexGuard<'_, bool> {
        lock(&self.is_settled)
    }

    /// Takes over what answers to records have changed since [`Self::new`], where none has come here; whether they did.
    pub(super) fn catch_up(&self, before: &Before<'_>, config: &config::Upstream) -> bool {
        let mut has_changed = false;
        for (index, List { entry, endpoints, is_answered }) in lock(&self.lists).iter_mut().enumerate() {
            if *is_answered || !matches!(entry.address, ServerAddress::Srv(_)) {
                continue;
            }
            let mut newest = before.listed(index, config, &self.place);
            for listed in &mut newest {
                let same = |own: &&Listed| own.endpoint.is_same_server(&listed.endpoint);
                if let Some(own) = endpoints.iter().find(same) {
                    listed.endpoint = Arc::clone(&own.endpoint);
                }
            }
            let same = |(one, other): (&Listed, &Listed)| {
                one.rank == other.rank && Arc::ptr_eq(&one.endpoint, &other.endpoint)
            };
            if newest.len() != endpoints.len() || !newest.iter().zip(&*endpoints).all(same) {
                *endpoints = newest;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Takes over those that had left `before`, and its endpoints that are `gone` now.
    pub(super) fn remember(&self, before: &Self, gone: impl Fn(&Endpoint) -> bool) {
        let mut left = std::mem::take(&mut *lock(&before.left));
        for List { entry, endpoints, .. } in &*lock(&before.lists) {
            let gone = endpoints.iter().filter(|listed| gone(&listed.endpoint));
            left.extend(gone.map(|listed| (entry.address.clone(), listed.clone())));
        }
        lock(&self.left).extend(left);
    }

    /// What requests choose from.
    pub(super) fn set(&self, config: &config::Upstream) -> Set {
        let members = |list: &List| list.endpoints.clone();
        let members =
            lock(&self.lists).iter().flat_map(members).map(|listed| (listed.endpoint, listed.rank)).collect();
        Set::ranked(members, config)
    }

    /// Leases on endpoints that are not in the pool any more, which has those of `set` now.
    pub(super) fn open_elsewhere(&self, set: &Set) -> usize {
        self.left(set).iter().map(|(endpoint, _)| endpoint.open()).sum()
    }

    /// Endpoints that are not in the pool any more, which has those of `set` now. Each server is named once, however often it
    /// has left.
    pub(super) fn left(&self, set: &Set) -> Vec<(Arc<Endpoint>, Rank)> {
        let mut all: Vec<(Arc<Endpoint>, Rank)> = Vec::new();
        for (_, Listed { endpoint, rank, .. }) in &*lock(&self.left) {
            let is_it = |other: &Arc<Endpoint>| Arc::ptr_eq(&other.load, &endpoint.load);
            if !set.endpoints.iter().chain(all.iter().map(|(endpoint, _)| endpoint)).any(is_it) {
                all.push((Arc::clone(endpoint), *rank));
            }
        }
        all
    }

    /// The places and names of the records.
    fn records(&self) -> Vec<(usize, String)> {
        let record = |(place, list): (usize, &List)| match &list.entry.address {
            ServerAddress::Srv(name) => Some((place, name.clone())),
            _ => None,
        };
        lock(&self.lists).iter().enumerate().filter_map(record).collect()
    }

    /// Puts an answer in the place of the last one, and says who has left; `None` if nothing has changed.
    fn relist(&self, place: usize, records: Vec<SRV>, config: &config::Upstream) -> Option<Vec<Listed>> {
        let mut lists = lock(&self.lists);
        let List { entry, endpoints, is_answered } = &mut lists[place];
        *is_answered = true;
        let is_first = endpoints.is_empty();
        let mut came = Vec::new();
        let mut fresh: Vec<Listed> = Vec::with_capacity(records.len());
        for (server, rank) in servers(records, entry) {
            let stays = endpoints.iter().find(|listed| listed.address == server.address);
            let stays = stays.map(|listed| Arc::clone(&listed.endpoint));
            let endpoint = stays.unwrap_or_else(|| {
                let endpoint = Arc::new(match self.left_from(&entry.address, &server.address) {
                    Some(left) => left.come_back(&server, config, &self.place),
                    None => Endpoint::new(&server, config, &self.place),
                });
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
        Some(left)
    }

    fn have_left(&self, place: usize, left: &[Listed]) {
        let entry = lock(&self.lists)[place].entry.address.clone();
        lock(&self.left).extend(left.iter().map(|listed| (entry.clone(), listed.clone())));
    }

    /// The endpoint with this address that left the list of `entry` and is still in use.
    fn left_from(&self, entry: &ServerAddress, address: &ServerAddress) -> Option<Arc<Endpoint>> {
        let left = lock(&self.left);
        let found = left.iter().find(|(from, listed)| from == entry && listed.address == *address);
        found.map(|(_, listed)| Arc::clone(&listed.endpoint))
    }
}

/// The servers of a pool's last configuration.
#[derive(Debug)]
pub(super) struct Before<'a> {
    pub(super) servers: &'a Servers,
    /// Whether its idle connections are as good under the next one.
    pub(super) keeps_idle: bool,
}

impl Before<'_> {
    /// The servers that an entry with the same address had, under the next configuration, where the entry is at `index`.
    fn listed(&self, index: usize, config: &config::Upstream, place: &Surroundings) -> Vec<Listed> {
        let entry = &config.servers[index];
        // One that stands there twice is two.
        let nth = config.servers[..index].iter().filter(|other| other.address == entry.address).count();
        let lists = lock(&self.servers.lists);
        let Some(list) = lists.iter().filter(|list| list.entry.address == entry.address).nth(nth) else {
            return Vec::new();
        };
        let listed = |Listed { address, endpoint, rank }: &Listed| {
            let rank = if let ServerAddress::Srv(_) = entry.address {
                let group = rank.group - u32::from(list.entry.backup) + u32::from(entry.backup);
                Rank { group, ..*rank }
            } else {
                Rank::of(entry)
            };
            let server = UpstreamServer { address: address.clone(), weight: rank.weight, ..entry.clone() };
            let endpoint = Arc::new(endpoint.under(&server, config, place, self.keeps_idle));
            Listed { address: server.address, endpoint, rank }
        };
        list.endpoints.iter().map(listed).collect()
    }
}

/// A server that was not in the list, though it may have been once.
fn newcomer(
    entry: &UpstreamServer,
    config: &config::Upstream,
    place: &Surroundings,
    before: Option<&Before<'_>>,
) -> Listed {
    let left = before.and_then(|before| before.servers.left_from(&entry.address, &entry.address));
    let endpoint = match left {
        Some(left) => left.come_back(entry, config, place),
        None => Endpoint::new(entry, config, place),
    };
    if before.is_some() {
        // For all that is known it was down until now.
        endpoint.status.is_back();
    }
    Listed { address: entry.address.clone(), endpoint: Arc::new(endpoint), rank: Rank::of(entry) }
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
        let is_settled = lock(&self.servers.is_settled);
        if *is_settled {
            return;
        }
        let listed = records.len();
        let Some(left) = self.servers.relist(place, records, &self.config) else { return };
        tracing::info!(upstream = %self.config.name, record = name, listed, left = left.len(), "servers of the record have changed");
        // Counted here before they are not counted there.
        self.servers.have_left(place, &left);
        self.set.store(Arc::new(self.servers.set(&self.config)));
        for listed in left {
            listed.endpoint.leave();
        }
        self.forget_left();
    }

    /// Lets go of endpoints that left and that nobody uses, and of those that came back.
    pub(super) fn forget_left(&self) {
        let set = self.set.load();
        lock(&self.servers.left).retain(|(_, Listed { endpoint, .. })| {
            let is_back = set.endpoints.iter().any(|other| Arc::ptr_eq(&other.load, &endpoint.load));
            !is_back && (endpoint.open() > 0 || Arc::strong_count(endpoint) > 1)
        });
    }
}

/// Keeps each list of `pool` that comes from a record, and the addresses of each name, fresh for as long as there is the pool
/// and the other end of `over`.
pub(super) fn follow(
    pool: &Arc<Inner>,
    over: &watch::Receiver<()>,
) -> Vec<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let records = pool.servers.records().into_iter();
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for (place, name) in records {
        let (pool, mut over) = (Arc::downgrade(pool), over.clone());
        tasks.push(Box::pin(async move {
            tokio::select! {
                biased;
                _ = over.changed() => {}
                () = follow_one(pool, place, name) => {}
            }
        }));
    }
    for name in pool.set.load().endpoints.iter().filter_map(Endpoint::follow) {
        tasks.push(Box::pin(name));
    }
    tasks
}

async fn follow_one(pool: Weak<Inner>, place: usize, name: String) {
    let Some(mut is_known) = pool.upgrade().map(|pool| pool.servers.is_listed(place)) else { return };
    let mut fails = false;
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
                pool.set
                    .load()
                    .endpoints
                    .iter()
                    .filter_map(Endpoint::follow)
                    .for_each(|name| _ = tokio::spawn(name));
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
