//! One of a pool's servers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::pki_types::ServerName;
use tokio::sync::{oneshot, watch};

use super::{
    ConnectFailure, Transport,
    connect::{Bounds, Dial, Fault, Took},
    idle::Idle,
    lock,
    names::{self, Named},
    pool::Surroundings,
    resolve::{Found, Unresolved},
    site::{At, Load, Orders, Site},
    status::Status,
};
use crate::{
    config::{self, OnRemoved, ServerAddress, UpstreamServer},
    proto::proxy_protocol::Addresses,
};

/// A server of a pool, with its counts and its idle connections.
///
/// The pool of the next configuration has an endpoint of its own for it. What does not follow from the configuration is one
/// for both then: where it is, what is known of it and counted, and maybe its idle connections.
#[derive(Debug)]
pub(super) struct Endpoint {
    name: Arc<str>,
    authority: String,
    /// What its certificate is to prove, where the file says nothing else; a unix socket has no name.
    server_name: Option<ServerName<'static>>,
    /// `None` where its address stands in the file.
    named: Option<Named>,
    /// Whatever changes one of them, or gives an order to them, does so under its lock.
    sites: Arc<watch::Sender<Sites>>,
    orders: Orders,
    max_connections: Option<usize>,
    pub(super) load: Arc<Load>,
    pub(super) idle: Arc<Idle>,
    pub(super) status: Status,
    /// As long as it is there, a task asks for the name.
    followed: Mutex<Option<oneshot::Sender<()>>>,
    /// It has left, or its pool is retired, so that its checks have no say any more. Changed under the lock of `sites`.
    is_over: AtomicBool,
}

/// What an endpoint begins with.
struct Given {
    sites: Arc<watch::Sender<Sites>>,
    load: Arc<Load>,
    idle: Arc<Idle>,
    status: Status,
}

/// Where a server is.
#[derive(Debug)]
enum Sites {
    /// Its name never had an answer, and is being asked for.
    Awaited,
    /// There is at least one; in the resolver's order.
    Known(Arc<[Arc<Site>]>),
    /// Its name never had an answer, and is asked for later.
    Unknown(Unresolved),
}

impl Sites {
    fn known(&self) -> &[Arc<Site>] {
        match self {
            Self::Known(sites) => sites,
            Self::Awaited | Self::Unknown(_) => &[],
        }
    }
}

impl Endpoint {
    pub(super) fn new(server: &UpstreamServer, upstream: &config::Upstream, place: &Surroundings) -> Self {
        let name: Arc<str> = name(&server.address).into();
        let load = Arc::new(Load::new(&name));
        let status = Status::new(upstream, &name, &load);
        Self::at_new_sites(server, upstream, place, load, status)
    }

    /// A server that has left and comes back: what is open there counts, and what was known of it does.
    pub(super) fn come_back(
        &self,
        server: &UpstreamServer,
        upstream: &config::Upstream,
        place: &Surroundings,
    ) -> Self {
        Self::at_new_sites(server, upstream, place, Arc::clone(&self.load), self.status.under(upstream))
    }

    /// The same server under another configuration. Nothing changes for this one.
    pub(super) fn under(
        &self,
        server: &UpstreamServer,
        upstream: &config::Upstream,
        place: &Surroundings,
        keeps_idle: bool,
    ) -> Self {
        let idle = if keeps_idle { Arc::clone(&self.idle) } else { idle(upstream, place, &self.load) };
        let (sites, load) = (Arc::clone(&self.sites), Arc::clone(&self.load));
        Self::with(Given { sites, load, idle, status: self.status.under(upstream) }, server, upstream, place)
    }

    fn at_new_sites(
        server: &UpstreamServer,
        upstream: &config::Upstream,
        place: &Surroundings,
        load: Arc<Load>,
        status: Status,
    ) -> Self {
        let fixed = match &server.address {
            ServerAddress::Inet(address) => Some(At::Inet(*address)),
            ServerAddress::Unix(path) => Some(At::Unix(path.clone())),
            ServerAddress::Name { .. } | ServerAddress::Srv(_) => None,
        };
        let order = Orders::new(upstream, place).fresh(status.withdrawn());
        let site = |at| Sites::Known([Arc::new(Site::new(at, &load, order))].into());
        let sites = Arc::new(watch::Sender::new(fixed.map_or(Sites::Awaited, site)));
        let idle = idle(upstream, place, &load);
        Self::with(Given { sites, load, idle, status }, server, upstream, place)
    }

    fn with(
        given: Given,
        server: &UpstreamServer,
        upstream: &config::Upstream,
        place: &Surroundings,
    ) -> Self {
        let named = |host: &str, port| Named { host: host.into(), port, refresh: upstream.dns_refresh };
        let host_name = |host: &str| host.trim_end_matches('.').to_owned().try_into().ok();
        let (named, server_name) = match &server.address {
            ServerAddress::Inet(address) => (None, Some(address.ip().into())),
            ServerAddress::Unix(_) => (None, None),
            ServerAddress::Name { host, port } => (Some(named(host, *port)), host_name(host)),
            // What a list of servers holds are endpoints of their own.
            ServerAddress::Srv(record) => (Some(named(record, 0)), None),
        };
        let Given { sites, load, idle, status } = given;
        Self {
            authority: authority(&server.address, if upstream.tls.is_some() { 443 } else { 80 }),
            server_name,
            named,
            sites,
            orders: Orders::new(upstream, place),
            max_connections: server.max_connections,
            load,
            idle,
            status,
            followed: Mutex::default(),
            is_over: AtomicBool::new(false),
            name: name(&server.address).into(),
        }
    }

    /// Active checks take it out, and its tunnels with it if `on_removed` says so.
    pub(super) fn checks_failed(&self, reason: &str) {
        self.with_sites(|sites| {
            if !self.is_over.load(Ordering::Relaxed) {
                self.status.checks_failed(reason);
                self.order(sites, self.orders.on_removed);
            }
        });
    }

    /// Active checks bring it back.
    pub(super) fn checks_passed(&self) {
        self.with_sites(|sites| {
            if !self.is_over.load(Ordering::Relaxed) {
                // Before it is in, so that no new tunnel hears the old order.
                self.renew(sites, self.status.withdrawn());
                self.status.checks_passed();
            }
        });
    }

    /// An administrator takes it out; `tunnels` is what becomes of those that it has.
    pub(super) fn withdraw(&self, tunnels: OnRemoved) {
        self.with_sites(|sites| {
            self.status.withdraw(tunnels);
            self.order(sites, tunnels);
        });
    }

    /// The administrator brings it back.
    pub(super) fn restore(&self) {
        self.with_sites(|sites| {
            if self.status.withdrawn().is_some() {
                self.renew(sites, self.status.has_failed_checks().then_some(self.orders.on_removed));
                self.status.restore();
            }
        });
    }

    /// The checks that took it out are others from now on.
    pub(super) fn forget_checks(&self) {
        self.with_sites(|sites| {
            if self.status.has_failed_checks() {
                self.renew(sites, self.status.withdrawn());
            }
            self.status.forget_checks();
        });
    }

    fn with_sites(&self, change: impl FnOnce(&Sites)) {
        self.sites.send_if_modified(|sites| {
            change(sites);
            false
        });
    }

    fn order(&self, sites: &Sites, tunnels: OnRemoved) {
        sites.known().iter().for_each(|site| site.order(&self.orders, tunnels));
    }

    /// New tunnels hear of none but the orders that are `given`.
    fn renew(&self, sites: &Sites, given: Option<OnRemoved>) {
        sites.known().iter().for_each(|site| site.renew(self.orders.fresh(given)));
    }

    /// A task that keeps its addresses fresh until it leaves or is dropped; `None` if they stand in the file, or there is one.
    pub(super) fn follow(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let named = self.named.clone()?;
        let mut followed = lock(&self.followed);
        if followed.is_some() || self.is_over.load(Ordering::Relaxed) {
            return None;
        }
        let (stays, over) = oneshot::channel();
        *followed = Some(stays);
        self.asks_for_its_name();
        Some(names::follow(Arc::downgrade(self), named, over))
    }

    /// Its name is asked for, and who needs an address waits if there is none; returns whether there are some.
    pub(super) fn asks_for_its_name(&self) -> bool {
        let mut is_known = true;
        self.sites.send_if_modified(|sites| {
            if let Sites::Unknown(_) = sites {
                *sites = Sites::Awaited;
            }
            is_known = matches!(sites, Sites::Known(_));
            false
        });
        is_known
    }

    /// Its name has an answer. What left the answer keeps nothing, and its tunnels go by `on_removed`.
    pub(super) fn name_resolved(&self, found: &Found, port: u16) {
        let mut left = Vec::new();
        self.sites.send_if_modified(|sites| {
            let known = sites.known();
            let inet = |site: &Arc<Site>| match site.at {
                At::Inet(address) => Some(address.ip()),
                At::Unix(_) => None,
            };
            let addresses = found.addresses(&known.iter().filter_map(inet).collect::<Vec<_>>());
            let fresh: Arc<[_]> =
                addresses.into_iter().map(|address| self.site_at(known, address, port)).collect();
            left = known
                .iter()
                .filter(|old| !fresh.iter().any(|site| Arc::ptr_eq(site, old)))
                .cloned()
                .collect();
            *sites = Sites::Known(fresh);
            self.status.name_resolved();
            true
        });
        if left.is_empty() {
            return;
        }
        tracing::info!(endpoint = %self.name, left = left.len(), "addresses have left the answer to a name");
        self.empty(&left);
    }

    /// The one of `known` with this address, or a new one.
    fn site_at(&self, known: &[Arc<Site>], address: IpAddr, port: u16) -> Arc<Site> {
        let at = At::Inet(SocketAddr::new(address, port));
        if let Some(site) = known.iter().find(|site| site.at == at) {
            return Arc::clone(site);
        }
        // As it is for those that were there when it went out.
        let by_checks = self.status.has_failed_checks().then_some(self.orders.on_removed);
        let order = self.orders.fresh(by_checks.into_iter().chain(self.status.withdrawn()));
        Arc::new(Site::new(at, &self.load, order))
    }

    /// Its name has no answer, and never had one.
    pub(super) fn name_failed(&self, error: Unresolved) {
        self.status.name_failed(&error);
        self.sites.send_replace(Sites::Unknown(error));
    }

    /// It is not in the pool any more: it keeps no connection, and its tunnels go by `on_removed`.
    pub(super) fn leave(&self) {
        let mut sites = Sites::Unknown(Unresolved::left());
        self.end(|known| std::mem::swap(known, &mut sites));
        self.empty(sites.known());
    }

    /// Ends its look-ups, and takes its checks their say.
    fn end(&self, change: impl FnOnce(&mut Sites)) {
        self.sites.send_modify(|sites| {
            self.is_over.store(true, Ordering::Relaxed);
            change(sites);
        });
        drop(lock(&self.followed).take());
    }

    fn empty(&self, sites: &[Arc<Site>]) {
        for site in sites {
            site.leave(&self.orders);
        }
        self.idle.forget_left();
    }

    /// Its pool is retired, and it is in no other: it keeps no connection, and its tunnels go by the `on_removed` of `newest`,
    /// if there is such a configuration. Requests that know it yet may connect.
    pub(super) fn retire(&self, newest: Option<&Orders>) {
        self.end(|sites| {
            for site in sites.known() {
                site.leave(newest.unwrap_or(&self.orders));
            }
            if let Sites::Awaited = sites {
                *sites = Sites::Unknown(Unresolved::left());
            }
        });
        self.idle.close();
    }

    /// Its pool is retired, and `heir` is the same server in the next one.
    pub(super) fn give_way(&self, heir: &Self) {
        self.end(|_| {});
        if !Arc::ptr_eq(&self.idle, &heir.idle) {
            self.idle.close();
        }
    }

    /// Whether both are the same server, at the same places.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sites, &other.sites)
    }

    /// As logs name it.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// As a Host header names it.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Leases on it.
    pub(super) fn open(&self) -> usize {
        self.load.open()
    }

    /// Whether it holds as many as it may (rule B8).
    pub(super) fn is_full(&self) -> bool {
        self.max_connections.is_some_and(|most| self.open() >= most)
    }

    /// Counts one more; `false` if it was full.
    pub(super) fn lease_begins(&self) -> bool {
        self.load.lease_begins(self.max_connections.unwrap_or(usize::MAX))
    }

    /// A new connection to it, for `addresses`, with where it leads; `None` for wsgate's own. What its name takes to be resolved
    /// for the first time is within `bounds`.
    pub(super) async fn dial(
        &self,
        dial: &Dial,
        bounds: Bounds,
        addresses: Option<&Addresses>,
    ) -> Result<(Transport, Arc<Site>, Took), Fault> {
        let sites = match bounds.apply(self.known_sites()).await {
            Some(sites) => sites.map_err(Fault::Unresolved)?,
            None => return Err(Fault::ResolvedTooLate),
        };
        dial.connect(&sites, self.server_name.as_ref(), bounds, addresses).await
    }

    async fn known_sites(&self) -> Result<Arc<[Arc<Site>]>, Unresolved> {
        let mut changed = self.sites.subscribe();
        loop {
            match &*changed.borrow_and_update() {
                Sites::Known(sites) => return Ok(Arc::clone(sites)),
                Sites::Unknown(error) => return Err(error.clone()),
                Sites::Awaited => {}
            }
            // The sender lives as long as this endpoint.
            let _ = changed.changed().await;
        }
    }

    /// Where it is as far as is known.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.sites.borrow().known().iter().map(|site| site.at.to_string()).collect()
    }

    /// Leases on it at once; `None` is without bound.
    pub(super) fn max_connections(&self) -> Option<usize> {
        self.max_connections
    }

    #[cfg(test)]
    pub(super) fn knows_addresses(&self) -> bool {
        !self.sites.borrow().known().is_empty()
    }

    #[cfg(test)]
    pub(super) fn site(&self, place: usize) -> Arc<Site> {
        Arc::clone(&self.sites.borrow().known()[place])
    }

    /// What a failed [`Self::dial`] is for a request.
    pub(super) fn failure(&self, fault: Fault) -> ConnectFailure {
        let endpoint = self.name.to_string();
        match fault {
            Fault::Failed(source) => ConnectFailure::Failed { endpoint, source },
            Fault::Unresolved(error) => {
                ConnectFailure::Failed { endpoint, source: std::io::Error::other(error) }
            }
            Fault::Tls(source) => ConnectFailure::Tls { endpoint, source },
            Fault::TimedOut | Fault::ResolvedTooLate => ConnectFailure::TimedOut { endpoint },
        }
    }
}

fn idle(upstream: &config::Upstream, place: &Surroundings, load: &Arc<Load>) -> Arc<Idle> {
    Arc::new(Idle::new(upstream.keep_alive, place.workers, load))
}

fn name(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Inet(address) => address.to_string(),
        ServerAddress::Name { host, port } => format!("{}:{port}", host.trim_end_matches('.')),
        ServerAddress::Unix(path) => format!("unix:{}", path.display()),
        ServerAddress::Srv(name) => format!("dns+srv://{name}"),
    }
}

/// Without the port where it is the scheme's own, as browsers write it; a unix socket has no name to give.
fn authority(address: &ServerAddress, scheme_port: u16) -> String {
    match address {
        ServerAddress::Inet(address) if address.port() == scheme_port => match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        },
        ServerAddress::Name { host, port } if *port == scheme_port => host.trim_end_matches('.').to_owned(),
        ServerAddress::Inet(_) | ServerAddress::Name { .. } | ServerAddress::Srv(_) => name(address),
        ServerAddress::Unix(_) => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_authorities() {
        let inet = |text: &str| ServerAddress::Inet(text.parse().unwrap());
        let host = |port| ServerAddress::Name { host: "backend".into(), port };
        for (address, its_name, over_tcp, over_tls) in [
            (inet("10.0.0.2:80"), "10.0.0.2:80", "10.0.0.2", "10.0.0.2:80"),
            (inet("10.0.0.2:443"), "10.0.0.2:443", "10.0.0.2:443", "10.0.0.2"),
            (inet("10.0.0.2:9000"), "10.0.0.2:9000", "10.0.0.2:9000", "10.0.0.2:9000"),
            (inet("[::1]:80"), "[::1]:80", "[::1]", "[::1]:80"),
            (inet("[::1]:443"), "[::1]:443", "[::1]:443", "[::1]"),
            (inet("[::1]:9000"), "[::1]:9000", "[::1]:9000", "[::1]:9000"),
            (host(80), "backend:80", "backend", "backend:80"),
            (host(443), "backend:443", "backend:443", "backend"),
            (host(9000), "backend:9000", "backend:9000", "backend:9000"),
            (ServerAddress::Unix("/run/app.sock".into()), "unix:/run/app.sock", "localhost", "localhost"),
        ] {
            assert_eq!(name(&address), its_name);
            assert_eq!(authority(&address, 80), over_tcp);
            assert_eq!(authority(&address, 443), over_tls);
        }
    }
}
