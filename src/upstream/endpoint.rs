//! One of a pool's servers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    ConnectFailure, Transport,
    balance::EarlyEnds,
    connect::{Bounds, Dial, Fault, Target},
    idle::Idle,
    pool::Surroundings,
    resolve::Name,
    status::Status,
};
use crate::{
    config::{self, OnRemoved, ServerAddress, UpstreamServer},
    lifecycle::{Drain, DrainHandle},
    proto::proxy_protocol::Addresses,
};

/// A server of a pool, with its counts and its idle connections.
#[derive(Debug)]
pub(super) struct Endpoint {
    name: Arc<str>,
    authority: String,
    target: Target,
    max_connections: Option<usize>,
    open: AtomicUsize,
    pub(super) idle: Idle,
    pub(super) status: Status,
    pub(super) early_ends: EarlyEnds,
    /// Ends its tunnels.
    order: DrainHandle,
}

impl Endpoint {
    pub(super) fn new(server: &UpstreamServer, upstream: &config::Upstream, place: &Surroundings) -> Self {
        let spread =
            if upstream.on_removed == OnRemoved::Close { Duration::ZERO } else { place.drain_spread };
        Self {
            name: name(&server.address).into(),
            authority: authority(&server.address, if upstream.tls.is_some() { 443 } else { 80 }),
            target: match &server.address {
                ServerAddress::Inet(address) => Target::Inet(*address),
                ServerAddress::Name { host, port } => Target::Name(Name::new(host.clone(), *port, upstream)),
                ServerAddress::Unix(path) => Target::Unix(path.clone()),
                // What a list of servers holds are endpoints of their own.
                ServerAddress::Srv(name) => Target::Name(Name::new(name.clone(), 0, upstream)),
            },
            max_connections: server.max_connections,
            open: AtomicUsize::new(0),
            idle: Idle::new(upstream.keep_alive, place.workers),
            status: Status::new(),
            early_ends: EarlyEnds::new(),
            order: place.drain.part(spread),
        }
    }

    /// The signal to its tunnels.
    pub(super) fn drain(&self) -> Drain {
        self.order.signal()
    }

    /// It is not in the pool any more: it keeps no connection, and its tunnels go by `on_removed`.
    pub(super) fn leave(&self, on_removed: OnRemoved) {
        self.idle.close();
        match on_removed {
            OnRemoved::Keep => {}
            OnRemoved::Drain | OnRemoved::Close => self.order.drain(),
        }
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
        self.open.load(Ordering::Relaxed)
    }

    /// Whether it holds as many as it may (rule B8).
    pub(super) fn is_full(&self) -> bool {
        self.max_connections.is_some_and(|most| self.open() >= most)
    }

    /// Counts one more; `false` if it was full.
    pub(super) fn lease_begins(&self) -> bool {
        let most = self.max_connections.unwrap_or(usize::MAX);
        let more = |open: usize| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn lease_ends(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A new connection to it, for `addresses`.
    pub(super) async fn connect(
        &self,
        dial: &Dial,
        bounds: Bounds,
        addresses: Option<&Addresses>,
    ) -> Result<Transport, ConnectFailure> {
        dial.connect(&self.target, bounds, addresses).await.map_err(|fault| {
            let endpoint = self.name.to_string();
            match fault {
                Fault::Failed(source) => ConnectFailure::Failed { endpoint, source },
                Fault::Tls(source) => ConnectFailure::Tls { endpoint, source },
                Fault::TimedOut => ConnectFailure::TimedOut { endpoint },
            }
        })
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
