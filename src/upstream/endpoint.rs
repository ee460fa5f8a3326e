//! One of a pool's servers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use rustls::pki_types::ServerName;
use tokio::sync::{oneshot, watch};

use super::{
    ConnectFailure, Transport,
    connect::{Bounds, Dial, Fault},
    idle::Idle,
    lock,
    names::{self, Named},
    pool::Surroundings,
    resolve::{Found, Unresolved},
    site::{At, Load, Orders, Site},
    status::Status,
};
use crate::{
    config::{self, ServerAddress, UpstreamServer},
    proto::proxy_protocol::Addresses,
};

/// A server of a pool, with its counts and its idle connections.
#[derive(Debug)]
pub(super) struct Endpoint {
    name: Arc<str>,
    authority: String,
    /// What its certificate is to prove, where the file says nothing else; a unix socket has no name.
    server_name: Option<ServerName<'static>>,
    /// `None` where its address stands in the file.
    named: Option<Named>,
    /// Whatever changes one of them does so under its lock.
    sites: watch::Sender<Sites>,
    orders: Orders,
    max_connections: Option<usize>,
    pub(super) load: Arc<Load>,
    pub(super) idle: Idle,
    pub(super) status: Status,
    /// As long as it is there, a task asks for the name.
    followed: Mutex<Option<oneshot::Sender<()>>>,
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
        let named = |host: &str, port| Named { host: host.into(), port, refresh: upstream.dns_refresh };
        let host_name = |host: &str| host.trim_end_matches('.').to_owned().try_into().ok();
        let (fixed, named, server_name) = match &server.address {
            ServerAddress::Inet(address) => (Some(At::Inet(*address)), None, Some(address.ip().into())),
            ServerAddress::Unix(path) => (Some(At::Unix(path.clone())), None, None),
            ServerAddress::Name { host, port } => (None, Some(named(host, *port)), host_name(host)),
            // What a list of servers holds are endpoints of their own.
            ServerAddress::Srv(record) => (None, Some(named(record, 0)), None),
        };
        let (orders, load) = (Orders::new(upstream, place), Arc::new(Load::new()));
        let site = |at| Sites::Known([Arc::new(Site::new(at, &load, orders.fresh()))].into());
        let name: Arc<str> = name(&server.address).into();
        Self {
            authority: authority(&server.address, if upstream.tls.is_some() { 443 } else { 80 }),
            server_name,
            named,
            sites: watch::Sender::new(fixed.map_or(Sites::Awaited, site)),
            orders,
            max_connections: server.max_connections,
            load,
            idle: Idle::new(upstream.keep_alive, place.workers),
            status: Status::new(upstream, &name),
            followed: Mutex::default(),
            name,
        }
    }

    /// Active checks take it out, and its tunnels with it if `on_removed` says so.
    pub(super) fn checks_failed(&self, reason: &str) {
        self.sites.send_if_modified(|sites| {
            self.status.checks_failed(reason);
            sites.known().iter().for_each(|site| site.removed(self.orders.on_removed));
            false
        });
    }

    /// Active checks bring it back.
    pub(super) fn checks_passed(&self) {
        self.sites.send_if_modified(|sites| {
            sites.known().iter().for_each(|site| site.renew(self.orders.fresh()));
            self.status.checks_passed();
            false
        });
    }

    /// A task that keeps its addresses fresh until it leaves or is dropped; `None` if they stand in the file.
    pub(super) fn follow(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let named = self.named.clone()?;
        let (stays, over) = oneshot::channel();
        *lock(&self.followed) = Some(stays);
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
        let site = Site::new(at, &self.load, self.orders.fresh());
        // As it is for those that were there when its checks failed.
        if self.status.has_failed_checks() {
            site.removed(self.orders.on_removed);
        }
        Arc::new(site)
    }

    /// Its name has no answer, and never had one.
    pub(super) fn name_failed(&self, error: Unresolved) {
        self.status.name_failed(&error);
        self.sites.send_replace(Sites::Unknown(error));
    }

    /// It is not in the pool any more: it keeps no connection, and its tunnels go by `on_removed`.
    pub(super) fn leave(&self) {
        drop(lock(&self.followed).take());
        let sites = self.sites.send_replace(Sites::Unknown(Unresolved::left()));
        self.empty(sites.known());
    }

    fn empty(&self, sites: &[Arc<Site>]) {
        for site in sites {
            site.leave(self.orders.on_removed);
        }
        self.idle.forget_left();
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
    ) -> Result<(Transport, Arc<Site>), Fault> {
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

    #[cfg(test)]
    pub(super) fn knows_addresses(&self) -> bool {
        !self.sites.borrow().known().is_empty()
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
