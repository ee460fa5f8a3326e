//! A pool over a reload: the pool of the next configuration knows what this one does.
//!
//! [`Pool::succeed`] builds it and changes nothing. What the two have in common from then on is what does not follow from the
//! configuration: where the servers are, what is known of them and counted. [`Pool::retire`] ends the old one once the new
//! configuration is in force.

use std::sync::{Arc, atomic::Ordering};

use super::{
    connect::Dial,
    endpoint::Endpoint,
    pool::{Inner, Pool, Surroundings},
    site::Orders,
    srv::{Before, Servers},
    status::is_checked_alike,
};
use crate::{config, tls::ConnectorError};

impl Pool {
    /// The pool that `config` describes, which is the next configuration of this one; the same pool if that changes nothing.
    ///
    /// Until this one is retired nothing changes for it, so the new one may be dropped as well. Fails where its TLS can't be
    /// set up.
    pub fn succeed(&self, config: &config::Upstream, place: &Surroundings) -> Result<Self, ConnectorError> {
        let old = self.inner();
        if config.is_same(&old.config) && old.servers.place().drain_spread == place.drain_spread {
            return Ok(self.clone());
        }
        let dial = if is_dialled_alike(&old.config, config) {
            Arc::clone(&old.dial)
        } else {
            Arc::new(Dial::new(config)?)
        };
        let before = Before { servers: &old.servers, keeps_idle: keeps_idle(&old.config, config) };
        let servers = Servers::new(config, place, Some(&before));
        Ok(Self::with(config, dial, servers, Arc::clone(&old.budget)))
    }

    /// Ends this pool: `successor` has taken its place, or nothing has.
    ///
    /// Its checks and look-ups end. Servers that are not in the successor leave: their idle connections are closed, and their
    /// tunnels go by the newest `on_removed`. Requests that know this pool yet are served by it all the same, and what they hold
    /// counts for the successor too. Does nothing if the successor is this pool.
    pub fn retire(&self, successor: Option<&Self>) {
        let old = self.inner();
        let next = successor.map(Self::inner);
        if next.is_some_and(|next| Arc::ptr_eq(next, old)) {
            return;
        }
        old.end_tasks();
        old.servers.settle();
        if let Some(next) = next {
            next.catch_up(old);
        }
        let heirs = next.map(|next| next.set.load_full());
        let heir_of = |endpoint: &Endpoint| {
            let mut heirs = heirs.iter().flat_map(|set| &set.endpoints);
            heirs.find(|heir| heir.is_same_server(endpoint))
        };
        let orders = next.map(|next| Orders::new(&next.config, next.servers.place()));
        let set = old.set.load();
        for endpoint in &set.endpoints {
            match heir_of(endpoint) {
                Some(heir) => endpoint.give_way(heir),
                None => endpoint.retire(orders.as_ref()),
            }
        }
        if let Some(next) = next {
            next.servers.remember(&old.servers, |endpoint| heir_of(endpoint).is_none());
            next.come_into_force(old);
        }
    }
}

impl Inner {
    /// Takes over what answers to records have changed since this pool was built.
    fn catch_up(&self, old: &Self) {
        let _held = self.servers.hold();
        let keeps_idle = keeps_idle(&old.config, &self.config);
        if self.servers.catch_up(&Before { servers: &old.servers, keeps_idle }, &self.config) {
            self.set.store(Arc::new(self.servers.set(&self.config)));
        }
    }

    fn come_into_force(&self, old: &Self) {
        let set = self.set.load();
        if !is_checked_alike(old.config.health.as_ref(), self.config.health.as_ref()) {
            old.set.load().endpoints.iter().for_each(|endpoint| endpoint.status.checks.end());
            let left = self.servers.left(&set);
            let left = left.iter().map(|(endpoint, _)| endpoint);
            set.endpoints.iter().chain(left).for_each(|endpoint| endpoint.forget_checks());
        }
        set.endpoints.iter().for_each(|endpoint| endpoint.status.is_reconfigured());
        self.keeps_idle.store(true, Ordering::Release);
        old.keeps_idle.store(false, Ordering::Release);
        self.forget_left();
    }
}

/// Whether an idle connection is as good, and would be kept as long, under both.
fn keeps_idle(one: &config::Upstream, other: &config::Upstream) -> bool {
    let how_kept = |config: &config::Upstream| (config.keep_alive, config.keep_alive_timeout);
    is_dialled_alike(one, other) && how_kept(one) == how_kept(other)
}

/// Whether a connection is made in the same way.
fn is_dialled_alike(one: &config::Upstream, other: &config::Upstream) -> bool {
    let is_tls_same = match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some(one), Some(other)) => one.server_name == other.server_name && one.is_same(other),
        _ => false,
    };
    is_tls_same
        && one.source_addresses == other.source_addresses
        && one.proxy_protocol == other.proxy_protocol
}
