//! What a connection is served by: all that a reload will swap, built whole from a [`Config`].

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Accepted, Gate, metrics::RouteWitness};
use crate::{
    auth::Users,
    config::{self, CertificateSource, Config, Frames, Identity, ListenAddress},
    ending::Refusal,
    lifecycle::{ClientRates, Clients, DrainHandle, Entrance, Permit, Places},
    proto::{forward::HeaderEdits, head::HeadLimits},
    route::{Matcher, RouteTable},
    telemetry::{Metrics, Permitted, RateLimited, RouteGauges},
    tls::{self, Acceptor, development},
    tunnel::{self, Terms, Totals},
    upstream::{Pool, Surroundings},
};

/// Routes, pools and listeners of one configuration. Immutable; what changes behind it counts for itself.
#[derive(Debug)]
pub struct Snapshot {
    /// Finds the place in `routes`.
    pub(super) table: RouteTable,
    pub(super) routes: Vec<Route>,
    pub(super) pools: Vec<Pool>,
}

/// A route with what is worked out once.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) name: Arc<str>,
    pub(super) config: config::Route,
    /// Whose passwords let a request through, if that is asked for.
    pub(super) users: Option<Arc<Users>>,
    /// Those of its edits of requests that tell of the client, for a server that is asked about it.
    pub(super) about_request: HeaderEdits,
    /// What trailers of requests are judged by: the route's edits, and what no client may say.
    pub(super) trailers: HeaderEdits,
    /// One for all its tunnels, in the few forms that the listeners' `timeout.write` gives it.
    terms: Vec<Arc<Terms>>,
    /// Orders its tunnels to leave, when it is changed or removed.
    pub(super) leave: DrainHandle,
    /// Room for its tunnels, and for handshakes that may become one; `None` is without bound.
    tunnels: Option<Arc<Places>>,
}

impl Route {
    fn new(
        config: &config::Route,
        listeners: &[config::Listener],
        place: &Surroundings,
        totals: &Arc<Totals>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut writes: Vec<_> = listeners.iter().map(|listener| listener.timeout.write).collect();
        writes.sort_unstable();
        writes.dedup();
        let leave = place.drain.part(place.drain_spread);
        let terms = writes.into_iter().map(|write| Arc::new(terms(config, write, &leave, totals, metrics)));
        let users = config.auth.as_ref().and_then(|auth| auth.basic.as_ref());
        let mut trailers = config.request_headers.clone();
        trailers.remove.extend_from_slice(config.copied_headers());
        Self {
            name: config.name.as_str().into(),
            users: users.map(|file| Arc::new(Users::new(file))),
            about_request: config.request_headers.about_request(),
            trailers,
            terms: terms.collect(),
            leave,
            tunnels: config.max_tunnels.map(|most| Places::new(most.get())),
            config: config.clone(),
        }
    }

    /// A place for a tunnel; `None` where they are not counted.
    pub(super) fn take_place(&self) -> Result<Option<Permit>, Refusal> {
        let Some(tunnels) = &self.tunnels else { return Ok(None) };
        tunnels.try_take().map(Some).ok_or(Refusal::RouteLimit)
    }

    /// Its places for tunnels.
    pub(super) fn gauges(&self) -> RouteGauges {
        let places = self.tunnels.as_ref();
        let places = places.map(|places| Permitted { open: places.in_use(), most: places.total() });
        RouteGauges { name: Arc::clone(&self.name), places }
    }

    /// The terms of its tunnels that came through a listener.
    pub(super) fn terms(&self, listener: &config::Listener, gate: &Gate) -> Arc<Terms> {
        let write = listener.timeout.write;
        let known = self.terms.iter().find(|terms| terms.limits.write == write);
        let made = || terms(&self.config, write, &self.leave, &gate.totals, &gate.metrics);
        known.cloned().unwrap_or_else(|| Arc::new(made()))
    }
}

/// A listener's side of its connections.
#[derive(Debug)]
pub struct Listener {
    /// Its address as configured, for logs.
    pub label: Arc<str>,
    /// `None` speaks plain HTTP.
    pub(super) acceptor: Option<Acceptor>,
    pub(super) config: config::Listener,
    /// The port that clients connect to; `None` on a unix socket.
    pub(super) port: Option<u16>,
    pub(super) head_limits: HeadLimits,
    /// The value of Strict-Transport-Security.
    pub(super) hsts: Option<String>,
    /// `max_connections_per_ip`.
    clients: Option<Clients>,
    /// `handshake_rate_per_ip`.
    handshakes: Option<ClientRates>,
    cut: AtomicU64,
    cuts: RateLimited,
}

/// Why a listener's TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The development certificate.
    #[error("development certificate")]
    Development(#[from] development::CertError),
    /// rustls.
    #[error("TLS")]
    Rustls(#[from] rustls::Error),
}

/// Why a pool can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the TLS of upstream {name}")]
pub struct PoolError {
    name: String,
    source: tls::ConnectorError,
}

fn pool(config: &config::Upstream, place: &Surroundings) -> Result<Pool, PoolError> {
    Pool::new(config, place).map_err(|source| PoolError { name: config.name.clone(), source })
}

impl Snapshot {
    /// The snapshot that `config` describes, at this place. What its tunnels carry is counted in `totals`, and they themselves in
    /// `metrics`.
    pub fn new(
        config: &Config,
        place: &Surroundings,
        totals: &Arc<Totals>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, PoolError> {
        let matchers = config.routes.iter().map(|route| Matcher {
            hosts: route.hosts.clone(),
            paths: route.paths.clone(),
            subprotocol: route.subprotocol.clone(),
            kind: route.kind,
        });
        let listeners = &config.listeners;
        let routes = config.routes.iter().map(|route| Route::new(route, listeners, place, totals, metrics));
        Ok(Self {
            table: RouteTable::new(matchers.collect()),
            routes: routes.collect(),
            pools: config.upstreams.iter().map(|upstream| pool(upstream, place)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether passwords have to be checked.
    pub fn has_users(&self) -> bool {
        self.routes.iter().any(|route| route.users.is_some())
    }

    /// The pools, for their counts.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Places for tunnels that are taken, on the routes that bound them.
    pub fn route_places(&self) -> usize {
        let bounded = self.routes.iter().filter_map(|route| route.tunnels.as_ref());
        bounded.map(|tunnels| tunnels.in_use()).sum()
    }
}

impl Listener {
    /// The listener that `config` describes, bound to `port`. Makes the development certificate where one is asked for.
    pub fn new(config: &config::Listener, port: Option<u16>) -> Result<Self, TlsSetupError> {
        let label = match &config.address {
            ListenAddress::Inet(address) => address.to_string(),
            ListenAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        let limits = config.limits;
        Ok(Self {
            label: label.into(),
            acceptor: config.tls.as_ref().map(acceptor).transpose()?,
            config: config.clone(),
            port,
            head_limits: HeadLimits {
                bytes: limits.request_head,
                headers: limits.header_count,
                target: limits.target,
            },
            hsts: config
                .tls
                .as_ref()
                .and_then(|tls| tls.hsts)
                .map(|max_age| format!("max-age={}", max_age.as_secs())),
            clients: config.max_connections_per_ip.map(Clients::new),
            handshakes: config.handshake_rate_per_ip.map(|rate| ClientRates::new(rate.count, rate.period)),
            cut: AtomicU64::new(0),
            cuts: RateLimited::new(tracing::Level::WARN, "far over max_connections_per_ip"),
        })
    }
}

impl Listener {
    /// What becomes of one more of the client with this address: a connection, or a request that a trusted proxy brings.
    /// Proxies that are believed are not counted, nor is who has no address.
    pub(super) fn enter(&self, ip: Option<IpAddr>, is_proxy: bool) -> Entrance {
        match (&self.clients, ip) {
            (Some(clients), Some(ip)) if !is_proxy => clients.enter(ip),
            _ => Entrance::Open(None),
        }
    }

    /// How long a client may take for what stands before its first request.
    pub(super) fn patience(&self) -> Option<Duration> {
        let timeout = self.config.timeout;
        if self.speaks_tls() { timeout.tls_handshake } else { timeout.request_head }
    }

    /// [`Self::enter`] for a connection that was accepted just now; `None` where it has yet to say whose it is.
    pub(crate) fn enter_accepted(&self, socket: &Accepted) -> Option<Entrance> {
        let ip = socket.ip();
        self.config.proxy_protocol.is_none().then(|| self.enter(ip, self.config.trusted_proxies.contains(ip)))
    }

    /// Takes a handshake of the client with this address out of what its rate allows (rule W15).
    pub(super) fn take_handshake(&self, ip: Option<IpAddr>, is_proxy: bool) -> Result<(), Refusal> {
        match (&self.handshakes, ip) {
            (Some(rates), Some(ip)) if !is_proxy => {
                rates.take(ip, Instant::now()).map_err(|wait| Refusal::HandshakeRate { wait })
            }
            _ => Ok(()),
        }
    }

    /// Notes that a connection of this client is cut without an answer.
    pub(crate) fn note_cut(&self, ip: Option<IpAddr>) {
        self.cut.fetch_add(1, Ordering::Relaxed);
        let address = &self.label;
        let client = ip.map(tracing::field::display);
        self.cuts.warn(|skipped| {
            tracing::warn!(%address, client, skipped, "far over max_connections_per_ip: cut without an answer");
        });
    }

    /// Connections that were cut without an answer so far.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Places of clients that are taken, those of refusals among them.
    pub fn client_places(&self) -> usize {
        self.clients.as_ref().map_or(0, Clients::in_use)
    }

    /// Whether a TLS handshake comes first.
    pub fn speaks_tls(&self) -> bool {
        self.acceptor.is_some()
    }
}

fn acceptor(tls: &config::Tls) -> Result<Acceptor, TlsSetupError> {
    let made;
    let identities = match &tls.source {
        CertificateSource::Files(identities) => identities,
        CertificateSource::SelfSigned { names, folder } => {
            made = [development_identity(names, folder)?];
            made.as_slice()
        }
    };
    Ok(tls::acceptor(identities, tls.min_version, tls.client_auth.as_ref(), &tls::Tickets::new()?)?)
}

fn development_identity(names: &[String], folder: &Path) -> Result<Identity, TlsSetupError> {
    let issued = development::for_listener(names, folder)?;
    tracing::warn!("{issued}");
    for key in &issued.exposed_keys {
        tracing::warn!("{} can be read by others", key.display());
    }
    Ok(issued.identity)
}

fn terms(
    route: &config::Route,
    write: Option<Duration>,
    leave: &DrainHandle,
    totals: &Arc<Totals>,
    metrics: &Arc<Metrics>,
) -> Terms {
    let limits = tunnel_limits(&route.websocket, write);
    let witness = Arc::new(RouteWitness::new(metrics, &route.name));
    Terms { limits, route: leave.signal(), totals: Arc::clone(totals), witness }
}

fn tunnel_limits(route: &config::WebSocket, write: Option<Duration>) -> tunnel::Limits {
    let rate = |rate: config::Rate| tunnel::Rate { count: rate.count.get(), period: rate.period };
    tunnel::Limits {
        observe: route.frames == Frames::Observe,
        idle: route.idle_timeout,
        half_close: route.half_close_timeout,
        close: route.close_timeout,
        write,
        keepalive: tunnel::Keepalive {
            clients: route.ping.clients(),
            backends: route.ping.upstreams(),
            interval: route.ping_interval,
            pong: route.pong_timeout,
        },
        max_frame: route.max_frame,
        max_message: route.max_message,
        message_rate: route.message_rate.map(rate),
        max_age: route.max_age,
    }
}
