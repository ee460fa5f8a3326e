//! Servers that SRV records list: endpoints that come and go.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use hickory_resolver::proto::rr::rdata::SRV;
use tokio::{sync::watch, time::sleep};

use super::{
    connect::Bounds,
    endpoint::Endpoint,
    lock,
    pool::{Attempt, Inner, Surroundings},
    resolve,
    set::{Rank, Set},
};
use crate::config::{self, ServerAddress, UpstreamServer};

/// How long after a failure a record that never had an answer is asked for again.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The servers of a pool as its file lists them, some by records.
#[derive(Debug)]
pub(super) struct Servers {
    place: Surroundings,
    /// Locked while a list changes, and never on the way of a request.
    lists: Mutex<Vec<List>>,
    /// Endpoints that left while there was still a use of them, or an attempt that knew them.
    left: Mutex<Vec<Arc<Endpoint>>>,
    changed: watch::Sender<()>,
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
        Self {
            place: place.clone(),
            lists: Mutex::new(config.servers.iter().map(list).collect()),
            left: Mutex::default(),
            changed: watch::Sender::new(()),
        }
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
        lock(&self.left).iter().map(|endpoint| endpoint.open()).sum()
    }

    /// The places and names of the records.
    fn records(&self) -> Vec<(usize, String)> {
        let record = |(place, list): (usize, &List)| match &list.entry.address {
            ServerAddress::Srv(name) => Some((place, name.clone())),
            _ => None,
        };
        lock(&self.lists).iter().enumerate().filter_map(record).collect()
    }

    /// Whether the list at this place never had an answer.
    fn is_unknown(&self, place: usize) -> bool {
        lock(&self.lists)[place].endpoints.is_empty()
    }

    /// Puts an answer in the place of the last one; returns the endpoints that left, or `None` if nothing has changed.
    fn relist(&self, place: usize, records: Vec<SRV>, config: &config::Upstream) -> Option<Vec<Listed>> {
        let mut lists = lock(&self.lists);
        let List { entry, endpoints } = &mut lists[place];
        let mut fresh: Vec<Listed> = Vec::with_capacity(records.len());
        for server in servers(records, entry) {
            let known = endpoints.iter().find(|listed| listed.address == server.address);
            let endpoint = known.map(|listed| Arc::clone(&listed.endpoint));
            fresh.push(Listed {
                endpoint: endpoint.unwrap_or_else(|| Arc::new(Endpoint::new(&server, config, &self.place))),
                rank: Rank::of(&server),
                address: server.address,
            });
        }
        let same = |(one, other): (&Listed, &Listed)| one.address == other.address && one.rank == other.rank;
        if fresh.len() == endpoints.len() && fresh.iter().zip(&*endpoints).all(same) {
            return None;
        }
        let mut left = std::mem::replace(endpoints, fresh);
        left.retain(|old| !endpoints.iter().any(|listed| listed.address == old.address));
        Some(left)
    }
}

/// The servers of an answer, those of the lowest priority first and the others as backups, always in the same order.
fn servers(mut records: Vec<SRV>, entry: &UpstreamServer) -> Vec<UpstreamServer> {
    records.sort_by(|one, other| {
        let order = (one.priority, one.port).cmp(&(other.priority, other.port));
        order.then_with(|| one.target.cmp(&other.target))
    });
    let lowest = records.first().map(|record| record.priority);
    let mut servers: Vec<UpstreamServer> = Vec::with_capacity(records.len());
    for record in records {
        // With its final dot, which keeps the search domains out.
        let host = record.target.to_lowercase().to_ascii();
        let address = ServerAddress::Name { host, port: record.port };
        if servers.iter().any(|server| server.address == address) {
            continue;
        }
        servers.push(UpstreamServer {
            address,
            // 0 is the least, not nothing (RFC 2782).
            weight: u32::from(record.weight).max(1),
            backup: entry.backup || Some(record.priority) != lowest,
            max_connections: entry.max_connections,
        });
    }
    servers
}

impl Inner {
    /// Gives the attempt the first servers of a pool that has none yet, if they come in time.
    pub(super) async fn await_servers(&self, attempt: &mut Attempt, bounds: Bounds) {
        let mut changed = self.servers.changed.subscribe();
        let listed = async {
            loop {
                let set = self.set.load_full();
                if !set.endpoints.is_empty() {
                    return Ok(set);
                }
                // The sender lives as long as the pool.
                let _ = changed.changed().await;
            }
        };
        if let Ok(set) = bounds.apply(listed).await {
            attempt.set = set;
        }
    }

    pub(super) fn has_records(&self) -> bool {
        self.config.servers.iter().any(|server| matches!(server.address, ServerAddress::Srv(_)))
    }

    fn relist(&self, place: usize, name: &str, records: Vec<SRV>) {
        let listed = records.len();
        let Some(left) = self.servers.relist(place, records, &self.config) else { return };
        tracing::info!(upstream = %self.config.name, record = name, listed, left = left.len(), "servers of the record have changed");
        // Counted here before they are not counted there.
        let gone = left.iter().map(|listed| Arc::clone(&listed.endpoint));
        lock(&self.servers.left).extend(gone);
        self.set.store(Arc::new(self.servers.set(&self.config)));
        self.servers.changed.send_replace(());
        for listed in left {
            listed.endpoint.leave(self.config.on_removed);
        }
        self.forget_left();
    }

    /// Lets go of endpoints that left and that nobody uses.
    fn forget_left(&self) {
        lock(&self.servers.left).retain(|endpoint| Arc::strong_count(endpoint) > 1);
    }
}

/// Keeps each list of `pool` that comes from a record fresh, for as long as there is the pool.
pub(super) fn follow(pool: &Arc<Inner>) -> Vec<impl Future<Output = ()> + Send + use<>> {
    let records = pool.servers.records();
    records.into_iter().map(|(place, name)| follow_one(Arc::downgrade(pool), place, name)).collect()
}

async fn follow_one(pool: Weak<Inner>, place: usize, name: String) {
    loop {
        let found = resolve::records(&name).await;
        let Some(pool) = pool.upgrade() else { return };
        let refresh = pool.config.dns_refresh;
        let next = match found {
            Ok(records) => {
                pool.relist(place, &name, records);
                refresh
            }
            Err(error) => {
                tracing::warn!(upstream = %pool.config.name, record = %name, %error, "record not resolved, its last servers stay in use");
                let is_unknown = pool.servers.is_unknown(place);
                if is_unknown {
                    Some(refresh.map_or(FIRST_ANSWER, |period| FIRST_ANSWER.min(period)))
                } else {
                    refresh
                }
            }
        };
        pool.forget_left();
        drop(pool);
        let Some(next) = next else { return };
        sleep(next).await;
    }
}
