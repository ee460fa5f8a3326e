//! What a connection is served by: all that a reload will swap, built whole from a [`Config`].

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    Gate,
    listener::{BoundAddress, Listener, TlsSetupError},
    metrics::RouteWitness,
};
use crate::{
    auth::Users,
    config::{self, Action, Config, Frames, ListenAddress, OnRemoved},
    ending::Refusal,
    lifecycle::{DrainHandle, Permit, Places},
    proto::forward::HeaderEdits,
    route::{Matcher, RouteKind, RouteTable},
    telemetry::{Metrics, Permitted, RouteGauges, RouteMetrics, UpstreamMetrics},
    tls,
    tunnel::{self, Terms, Totals},
    upstream::{Pool, Surroundings},
};

/// What all configurations of a process have in common.
#[derive(Debug)]
pub struct Setting<'a> {
    /// What pools and routes know of the process.
    pub place: Surroundings,
    /// What all tunnels carry.
    pub totals: &'a Arc<Totals>,
    /// What is counted.
    pub metrics: &'a Arc<Metrics>,
}

/// Routes, pools and listeners of one configuration. Immutable; what changes behind it counts for itself.
#[derive(Debug)]
pub struct Snapshot {
    /// How many there have been, this one included.
    pub generation: u64,
    /// What it was built from.
    pub config: Arc<Config>,
    /// In the order of the file.
    pub listeners: Vec<Arc<Listener>>,
    /// Query parameters whose values are masked in logs.
    pub(super) redact: Arc<[String]>,
    /// Finds the place in `routes`.
    pub(super) table: RouteTable,
    pub(super) routes: Vec<Route>,
    pub(super) pools: Vec<Pool>,
    /// What is counted of each pool, from its first request on.
    answering: Vec<OnceLock<Arc<UpstreamMetrics>>>,
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
    /// Orders its tunnels to leave.
    leave: Arc<DrainHandle>,
    /// Room for its tunnels, and for handshakes that may become one; `None` is without bound.
    tunnels: Option<Arc<Places>>,
    /// What is counted of it, from its first request on.
    counted: OnceLock<Arc<RouteMetrics>>,
}

impl Route {
    /// The route that `config` describes. Of one of the same name `before`, it takes over who has proven himself, the tunnels
    /// that count and, unless they are to leave, the order to leave.
    fn new(
        config: &config::Route,
        listeners: &[config::Listener],
        setting: &Setting<'_>,
        before: Option<&Self>,
    ) -> Self {
        let Setting { place, totals, metrics } = setting;
        let mut writes: Vec<_> = listeners.iter().map(|listener| listener.timeout.write).collect();
        writes.sort_unstable();
        writes.dedup();
        let stays = before.filter(|before| !ends_tunnels(&before.config, Some(config)));
        let leave = match stays {
            Some(before) => Arc::clone(&before.leave),
            None => Arc::new(place.drain.part(place.drain_spread)),
        };
        let terms = writes.into_iter().map(|write| Arc::new(terms(config, write, &leave, totals, metrics)));
        let users = config.auth.as_ref().and_then(|auth| auth.basic.as_ref());
        let known = before.filter(|before| config.has_same_users(&before.config));
        let known = known.and_then(|before| before.users.clone());
        let tunnels = before.and_then(|before| before.tunnels.clone());
        let mut trailers = config.request_headers.clone();
        trailers.remove.extend_from_slice(config.copied_headers());
        Self {
            name: config.name.as_str().into(),
            users: users.map(|file| known.unwrap_or_else(|| Arc::new(Users::new(file)))),
            about_request: config.request_headers.about_request(),
            trailers,
            terms: terms.collect(),
            leave,
            tunnels: config.max_tunnels.map(|most| tunnels.unwrap_or_else(|| Places::new(most.get()))),
            config: config.clone(),
            counted: OnceLock::new(),
        }
    }

    /// What is counted of it.
    pub(super) fn metrics(&self, all: &Metrics) -> &Arc<RouteMetrics> {
        self.counted.get_or_init(|| all.route(Some(&self.name)))
    }

    /// Gives way to the route of the same name in the configuration that is in force now; to none if there is none.
    fn retire(&self, now: Option<&Self>, place: &Surroundings) {
        if let Some((tunnels, most)) = now.and_then(|now| now.tunnels.as_ref().zip(now.config.max_tunnels)) {
            tunnels.resize(most.get());
        }
        if ends_tunnels(&self.config, now.map(|now| &now.config)) {
            let on_reload = now.unwrap_or(self).config.websocket.on_reload;
            let is_hurried = on_reload == OnRemoved::Close;
            self.leave.drain_over(if is_hurried { Duration::ZERO } else { place.drain_spread });
        }
    }

    /// A place for a tunnel; `None` where they are not counted.
    pub(super) fn take_place(&self) -> Result<Option<Permit>, Refusal> {
        let Some(tunnels) = &self.tunnels else { return Ok(None) };
        tunnels.try_take().map(Some).ok_or(Refusal::RouteLimit)
    }

    /// Its places for tunnels, and the pool of these that they lead to.
    pub(super) fn gauges(&self, pools: &[Pool]) -> RouteGauges {
        let places = self.tunnels.as_ref();
        let places = places.map(|places| Permitted { open: places.in_use(), most: places.total() });
        let upstream = match self.config.action {
            Action::Upstream(place) if self.config.kind != RouteKind::Http => pools.get(place),
            _ => None,
        };
        let upstream = upstream.map(|pool| pool.name().to_owned());
        RouteGauges { name: Arc::clone(&self.name), places, upstream }
    }

    /// The terms of its tunnels that came through a listener.
    pub(super) fn terms(&self, listener: &config::Listener, gate: &Gate) -> Arc<Terms> {
        let write = listener.timeout.write;
        let known = self.terms.iter().find(|terms| terms.limits.write == write);
        let made = || terms(&self.config, write, &self.leave, &gate.totals, &gate.metrics);
        known.cloned().unwrap_or_else(|| Arc::new(made()))
    }
}

/// Why a configuration can't be put in force here.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A listener's TLS.
    #[error("cannot set up the TLS of {address}")]
    Tls {
        /// The listener.
        address: ListenAddress,
        /// Why.
        #[source]
        source: TlsSetupError,
    },
    /// A pool's.
    #[error("cannot set up the TLS of upstream {name}")]
    Pool {
        /// The upstream.
        name: String,
        /// Why.
        #[source]
        source: tls::ConnectorError,
    },
}

impl Snapshot {
    /// The snapshot that `config` describes, at this place. Its listeners are at these addresses, one for each.
    ///
    /// What goes on of the snapshot `before` is taken over, and nothing of that is changed yet: that is for [`Self::succeed`].
    pub fn new(
        config: Arc<Config>,
        bound: Vec<Arc<BoundAddress>>,
        setting: &Setting<'_>,
        before: Option<&Self>,
    ) -> Result<Self, SetUpError> {
        let place = &setting.place;
        let matchers = config.routes.iter().map(|route| Matcher {
            hosts: route.hosts.clone(),
            paths: route.paths.clone(),
            subprotocol: route.subprotocol.clone(),
            kind: route.kind,
        });
        let listeners = config.listeners.iter().zip(bound);
        let listeners = listeners.map(|(listener, bound)| set_up_listener(listener, bound, place, before));
        let route = |route: &config::Route| {
            let before = before.and_then(|before| before.route(&route.name));
            Route::new(route, &config.listeners, setting, before)
        };
        let pools = config.upstreams.iter().map(|upstream| set_up_pool(upstream, place, before));
        Ok(Self {
            generation: before.map_or(1, |before| before.generation + 1),
            table: RouteTable::new(matchers.collect()),
            routes: config.routes.iter().map(route).collect(),
            answering: config.upstreams.iter().map(|_| OnceLock::new()).collect(),
            pools: pools.collect::<Result<_, _>>()?,
            listeners: listeners.collect::<Result<_, _>>()?,
            redact: config.log.redact.clone().into(),
            config,
        })
    }

    /// What is counted of the answers of the pool at this place.
    pub(super) fn answering(&self, place: usize, all: &Metrics) -> &UpstreamMetrics {
        self.answering[place].get_or_init(|| all.upstream(self.pools[place].name()))
    }

    /// Takes over from the snapshot `before`, now that this one is in force: bounds change, what left is told so, and tunnels go
    /// as their routes say.
    pub fn succeed(&self, before: &Self, place: &Surroundings) {
        for listener in &self.listeners {
            let same = before.listeners.iter().find(|before| before.is_at(&listener.bound));
            if let Some(before) = same.filter(|before| !Arc::ptr_eq(before, listener)) {
                listener.succeed(before);
            }
        }
        for route in &before.routes {
            route.retire(self.route(&route.name), place);
        }
        for pool in &before.pools {
            pool.retire(self.pool(pool.name()));
        }
    }

    /// The listener at this address; `None` where there is none any more.
    pub fn listener_at(&self, bound: &BoundAddress) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.is_at(bound))
    }

    /// The listener by whose rules a connection of `listener` goes on, if that is another one.
    pub(super) fn successor_of(&self, listener: &Arc<Listener>) -> Option<&Arc<Listener>> {
        let now = self.listener_at(&listener.bound)?;
        (!Arc::ptr_eq(now, listener) && now.may_serve_connections_of(listener)).then_some(now)
    }

    fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| *route.name == *name)
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name() == name)
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

/// Whether the tunnels of a route are to end, as this is what has become of it. What changed, or that it has gone, is no reason
/// by itself: the newest `on_reload` says what follows of it.
fn ends_tunnels(route: &config::Route, now: Option<&config::Route>) -> bool {
    let is_same = now.is_some_and(|now| now.is_same(route));
    !is_same && now.unwrap_or(route).websocket.on_reload != OnRemoved::Keep
}

fn set_up_listener(
    config: &config::Listener,
    bound: Arc<BoundAddress>,
    place: &Surroundings,
    before: Option<&Snapshot>,
) -> Result<Arc<Listener>, SetUpError> {
    let made = match before.and_then(|before| before.listener_at(&bound)) {
        Some(before) => before.successor(config, &place.drain),
        None => Listener::new(config, bound, &place.drain).map(Arc::new),
    };
    made.map_err(|source| SetUpError::Tls { address: config.address.clone(), source })
}

fn set_up_pool(
    config: &config::Upstream,
    place: &Surroundings,
    before: Option<&Snapshot>,
) -> Result<Pool, SetUpError> {
    let made = match before.and_then(|before| before.pool(&config.name)) {
        Some(before) => before.succeed(config, place),
        None => Pool::new(config, place),
    };
    made.map_err(|source| SetUpError::Pool { name: config.name.clone(), source })
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
