//! What tells of a running gate and gives it orders, from any thread.

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::{
    BindError, ConfigSource,
    accept::Change,
    background::Background,
    ending::spread,
    handover::Sockets,
    metrics,
    pulse::Pulse,
    reload::{InForce, LastReload},
};
use crate::{
    config::{Config, ListenAddress, OnRemoved, Source},
    connection::{Gate, Snapshot},
    lifecycle::{Drain, DrainHandle, Permits},
    upstream::{Pool, PoolView},
};

/// A running gate, for who asks and orders. Clones are one.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    pub(super) permits: Permits,
    pub(super) order: Arc<DrainHandle>,
    pub(super) background: Background,
    pub(super) doors: Doors,
    /// Where a reload reads.
    pub(super) source: ConfigSource,
    /// Locked while a configuration is put in force.
    pub(super) in_force: Mutex<InForce>,
    pub(super) last_reload: Mutex<Option<LastReload>>,
    /// Tells who follows it of the configuration in force.
    pub(super) configs: watch::Sender<Arc<Config>>,
    /// Has a say in each configuration before it comes into force.
    follower: Mutex<Option<Weak<dyn Follower>>>,
    /// It was told to end, though it may still wait for `shutdown_delay`.
    is_leaving: AtomicBool,
    started: SystemTime,
}

/// The ways to the threads that serve.
#[derive(Debug)]
pub(super) struct Doors {
    /// Of the thread that looks after accepting.
    pub(super) accepting: Handle,
    /// What reloads change for it.
    pub(super) changes: mpsc::UnboundedSender<Change>,
    /// The first accepts.
    pub(super) workers: Vec<Handle>,
    /// What listens.
    pub(super) sockets: Arc<Sockets>,
}

/// Whoever needs sockets of its own for what a configuration says, such as the admin listener.
pub trait Follower: Debug + Send + Sync {
    /// Gets ready for a configuration. What is returned is called once it is in force, and dropped if it does not come to that.
    ///
    /// # Errors
    /// An address can't be had, and so the configuration does not come into force.
    fn prepare(self: Arc<Self>, config: &Config) -> Result<Box<dyn FnOnce() + Send>, BindError>;
}

/// Whether new connections should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Yes.
    Ready,
    /// It was told to end and waits for `shutdown_delay`; connections are still accepted.
    ShuttingDown,
    /// Nothing is accepted any more, and what is open has its time to end.
    Draining,
}

/// What an order to end has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is not ready any more, and drains in so long.
    Delayed(Duration),
    /// It drains.
    Drains,
    /// It drained already: what is still open is cut.
    Cuts,
}

/// What is taken of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Taken.
    pub in_use: usize,
    /// There are so many.
    pub max: usize,
}

/// How a gate is.
#[derive(Debug, Clone)]
pub struct Status {
    /// When it started.
    pub started: SystemTime,
    /// Whether new connections should be sent here.
    pub readiness: Readiness,
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// The last reload; `None` before the first.
    pub last_reload: Option<LastReload>,
    /// Connections that were open when the drain began, and that still are; `None` before it.
    pub drain: Option<(usize, usize)>,
    /// Downstream connections under `max_connections`.
    pub connections: Usage,
    /// TLS handshakes in flight under `max_tls_handshakes`.
    pub tls_handshakes: Usage,
    /// Worker threads.
    pub workers: usize,
}

impl ServerHandle {
    pub(super) fn new(
        gate: Arc<Gate>,
        permits: Permits,
        order: Arc<DrainHandle>,
        background: Background,
        doors: Doors,
        (source, text): (ConfigSource, Source),
    ) -> Self {
        let config = Arc::clone(&gate.current.load().config);
        let shared = Shared {
            gate,
            permits,
            order,
            background,
            doors,
            source,
            in_force: Mutex::new(InForce { text, unusable: None }),
            last_reload: Mutex::default(),
            configs: watch::Sender::new(config),
            follower: Mutex::new(None),
            is_leaving: AtomicBool::new(false),
            started: SystemTime::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether new connections should be sent here.
    pub fn readiness(&self) -> Readiness {
        if self.shared.gate.drain.is_draining() || self.sockets().successor().is_some() {
            Readiness::Draining
        } else if self.shared.is_leaving.load(Ordering::Acquire) {
            Readiness::ShuttingDown
        } else {
            Readiness::Ready
        }
    }

    /// Tells it to end: it drains after `shutdown_delay`; told again it drains at once, and then cuts what is open.
    pub fn end(&self) -> Ending {
        if self.shared.gate.drain.is_draining() {
            self.shared.order.hurry();
            return Ending::Cuts;
        }
        let delay = self.config().server.shutdown_delay;
        let was_told = self.shared.is_leaving.swap(true, Ordering::AcqRel);
        if was_told || delay.is_zero() {
            self.drain();
            return Ending::Drains;
        }
        let (this, drain) = (self.clone(), self.shared.gate.drain.clone());
        self.shared.doors.accepting.spawn(async move {
            tokio::select! {
                () = drain.draining() => {}
                () = tokio::time::sleep(delay) => this.drain(),
            }
        });
        Ending::Delayed(delay)
    }

    /// Begins the drain.
    pub fn drain(&self) {
        self.shared.order.drain_over(spread(&self.config().server));
    }

    /// Cuts what is open.
    pub fn shutdown(&self) {
        self.shared.order.shutdown();
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let Shared { gate, permits, order, .. } = &*self.shared;
        let drain = gate.drain.is_draining().then(|| (order.began_with(), order.open().count()));
        let last_reload = self.shared.last_reload.lock();
        Status {
            started: self.shared.started,
            readiness: self.readiness(),
            generation: self.snapshot().generation,
            last_reload: last_reload
                .map_or_else(|poisoned| poisoned.into_inner().clone(), |last| last.clone()),
            drain,
            connections: Usage { in_use: permits.in_use(), max: permits.total() },
            tls_handshakes: Usage { in_use: gate.tls_permits.in_use(), max: gate.tls_permits.total() },
            workers: self.shared.doors.workers.len(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.snapshot().config)
    }

    /// Tells of each configuration that comes into force.
    pub fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.shared.configs.subscribe()
    }

    /// Gives somebody a say in each further configuration, for as long as it is there. There is room for one.
    pub fn follow<F: Follower + 'static>(&self, follower: &Arc<F>) {
        let follower: Weak<F> = Arc::downgrade(follower);
        *self.shared.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
    }

    /// Who has a say.
    pub(super) fn follower(&self) -> Option<Arc<dyn Follower>> {
        self.shared.follower.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    /// Where the configuration comes from.
    pub fn source(&self) -> &ConfigSource {
        &self.shared.source
    }

    /// Routes, pools and listeners in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.gate.current.load_full()
    }

    /// What all connections share.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.shared.gate
    }

    /// The runtimes of the workers.
    pub fn workers(&self) -> &[Handle] {
        &self.shared.doors.workers
    }

    /// Its listening sockets, as a successor would get them.
    pub fn sockets(&self) -> &Arc<Sockets> {
        &self.shared.doors.sockets
    }

    /// Tells whether its threads go on.
    pub fn pulse(&self) -> Pulse {
        let Doors { accepting, workers, .. } = &self.shared.doors;
        let runtimes = workers.iter().chain([accepting]).cloned().collect();
        Pulse::new(runtimes, self.shared.gate.drain.clone())
    }

    /// The order to end, as whoever waits for it hears it.
    pub fn drain_signal(&self) -> Drain {
        self.shared.gate.drain.clone()
    }

    /// Where it listens, in the order of the file; a port that was 0 is the one that it got.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.snapshot().listeners.iter().map(|listener| listener.bound.address.clone()).collect()
    }

    /// The pools in force, in the order of the file.
    pub fn pools(&self) -> Vec<PoolView> {
        self.snapshot().pools().iter().map(Pool::view).collect()
    }

    /// Gives an endpoint nothing new until [`Self::put_back`], and deals with its tunnels. `false` if there is no such endpoint.
    pub fn take_out(&self, upstream: &str, endpoint: &str, tunnels: OnRemoved) -> bool {
        self.snapshot().pool(upstream).is_some_and(|pool| pool.take_out(endpoint, tunnels))
    }

    /// Takes [`Self::take_out`] back. `false` if there is no such endpoint.
    pub fn put_back(&self, upstream: &str, endpoint: &str) -> bool {
        self.snapshot().pool(upstream).is_some_and(|pool| pool.put_back(endpoint))
    }

    /// What is counted and what is there now, as `OpenMetrics` text.
    pub fn metrics(&self) -> String {
        let Shared { gate, permits, order, .. } = &*self.shared;
        metrics::encode(gate, permits, order)
    }

    /// Downstream connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.permits.in_use()
    }

    /// TLS handshakes in flight.
    pub fn tls_handshakes(&self) -> usize {
        self.shared.gate.tls_permits.in_use()
    }

    /// Leases that are out at the upstreams in force.
    pub fn leases(&self) -> usize {
        self.snapshot().pools().iter().map(Pool::open).sum()
    }

    /// Places that are taken under `max_connections_per_ip` and `max_tunnels`.
    pub fn places(&self) -> usize {
        let snapshot = self.snapshot();
        let clients: usize = snapshot.listeners.iter().map(|listener| listener.client_places()).sum();
        clients + snapshot.route_places()
    }

    /// Connections far over `max_connections_per_ip`, which were cut without an answer, so far.
    pub fn cut_unanswered(&self) -> u64 {
        self.snapshot().listeners.iter().map(|listener| listener.bound.cut()).sum()
    }
}
