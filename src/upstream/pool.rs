//! A pool, the tries of one request on it, and the leases it gives.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle, time::Instant};

use super::{
    ConnectFailure, Transport,
    budget::Budget,
    connect::{Bounds, Dial},
    endpoint::Endpoint,
    health,
    lease::{Claim, Lease},
    lock,
    set::{Caller, Set},
    srv::{self, Servers},
};
use crate::{
    buffered::{Buffered, worker},
    config::{self, OnRemoved},
    ending::chain,
    lifecycle::Drain,
    tls::ConnectorError,
};

/// `[upstream.NAME]`: the servers behind a route.
///
/// A clone is the same pool. When the last one is dropped, its idle connections are closed, unless another pool has taken them
/// over; leases that are out go on.
#[derive(Debug, Clone)]
pub struct Pool {
    held: Arc<Held>,
}

/// Is dropped with the last of a pool's clones, whatever its leases hold.
#[derive(Debug)]
struct Held {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: config::Upstream,
    pub(super) dial: Arc<Dial>,
    pub(super) servers: Servers,
    /// Swapped whole when `servers` change.
    pub(super) set: ArcSwap<Set>,
    pub(super) budget: Arc<Budget>,
    /// Its end is the end of the idle connections. That moves on to the pool of the next configuration.
    pub(super) keeps_idle: AtomicBool,
    /// The task of the active checks.
    checks: Mutex<Option<AbortHandle>>,
    /// As long as it is there, tasks ask for the records.
    followed: Mutex<Option<watch::Sender<()>>>,
}

/// Where a pool stands in its process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Worker threads.
    pub workers: usize,
    /// The drain of the whole process.
    pub drain: Drain,
    /// The window in which tunnels of a server that left are drained.
    pub drain_spread: Duration,
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A new one: for WebSocket handshakes, and for a request that is sent again because a reused one ended
    /// (rule H14).
    Fresh,
    /// An idle one if there is a good one: for plain requests.
    Reuse,
    /// A new one to an endpoint that this request did not have yet: for a handshake that got no answer.
    Elsewhere,
}

/// The tries of one request: which endpoints it had, how many are left and until when.
#[derive(Debug)]
pub struct Attempt {
    /// As it was at the last try.
    set: Arc<Set>,
    caller: Caller,
    retries_left: u32,
    deadline: Option<Instant>,
    budget: Arc<Budget>,
    /// The endpoint of the last try. It is not yet among `tried`, so that one try, as most requests need,
    /// allocates nothing.
    current: Option<usize>,
    /// The next try may go there again.
    stays: bool,
    tried: Vec<Arc<Endpoint>>,
    /// When it came, for the first try, which follows at once.
    came: Option<Instant>,
}

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connected {
    /// The stream; nothing has been read from it for this request.
    pub stream: Buffered<Transport>,
    /// What holds its place at the endpoint.
    pub lease: Lease,
    /// Whether it served another request before: then the server may have closed it just now.
    pub reused: bool,
}

impl Pool {
    /// The pool that `config` describes. Fails where its TLS can't be set up.
    pub fn new(config: &config::Upstream, place: &Surroundings) -> Result<Self, ConnectorError> {
        let (dial, servers) = (Arc::new(Dial::new(config)?), Servers::new(config, place, None));
        let pool = Self::with(config, dial, servers, Arc::default());
        pool.inner().keeps_idle.store(true, Ordering::Release);
        Ok(pool)
    }

    pub(super) fn with(
        config: &config::Upstream,
        dial: Arc<Dial>,
        servers: Servers,
        budget: Arc<Budget>,
    ) -> Self {
        let inner = Inner {
            dial,
            set: ArcSwap::from_pointee(servers.set(config)),
            servers,
            budget,
            keeps_idle: AtomicBool::new(false),
            checks: Mutex::default(),
            followed: Mutex::default(),
            config: config.clone(),
        };
        Self { held: Arc::new(Held { inner: Arc::new(inner) }) }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.held.inner
    }

    /// Its name in routes, logs and metrics.
    pub fn name(&self) -> &str {
        &self.inner().config.name
    }

    /// What the file says about it, timeouts among it.
    pub fn config(&self) -> &config::Upstream {
        &self.inner().config
    }

    /// Keeps the addresses of names, and the lists of servers that come from SRV records, fresh: a future for each, to be spawned
    /// on one runtime before the first request comes. They end by themselves after the pool has, or when it is retired. A
    /// further call gives none.
    pub fn follow_records(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let mut followed = lock(&self.inner().followed);
        if followed.is_some() {
            return Vec::new();
        }
        let (stays, over) = watch::channel(());
        *followed = Some(stays);
        srv::follow(self.inner(), &over)
    }

    /// Leases that are out, over all endpoints, those that left the pool too.
    pub fn open(&self) -> usize {
        let set = self.inner().set.load();
        let here: usize = set.endpoints.iter().map(|endpoint| endpoint.open()).sum();
        here + self.inner().servers.open_elsewhere(&set)
    }

    /// Idle connections, over all endpoints and workers.
    pub fn idle(&self) -> usize {
        self.inner().set.load().endpoints.iter().map(|endpoint| endpoint.idle.count()).sum()
    }

    /// How many endpoints there are to choose from.
    #[cfg(test)]
    pub(super) fn endpoint_count(&self) -> usize {
        self.inner().set.load().endpoints.len()
    }

    #[cfg(test)]
    pub(super) fn endpoint(&self, place: usize) -> Arc<Endpoint> {
        Arc::clone(&self.inner().set.load().endpoints[place])
    }

    /// The place of the endpoint that a request would go to now, as far as it is told of by a benchmark: it takes no place there.
    #[doc(hidden)]
    pub fn choose(&self, caller: &Caller) -> Option<usize> {
        self.inner().set.load().pick(caller, &[])
    }

    /// The tries of a request that came at `now`.
    pub fn attempt(&self, caller: Caller, now: Instant) -> Attempt {
        let Inner { config, set, budget, .. } = &**self.inner();
        budget.request_came();
        Attempt {
            set: set.load_full(),
            caller,
            retries_left: config.retries,
            deadline: config.retry_deadline.and_then(|after| now.checked_add(after)),
            budget: Arc::clone(budget),
            current: None,
            stays: false,
            tried: Vec::new(),
            came: Some(now),
        }
    }

    /// Connects to an endpoint, and when that fails to others, as often and as long as `attempt` allows.
    ///
    /// Each further call with the same `attempt` is a retry too and prefers endpoints that it did not have
    /// yet; if it had them all, it goes to one of them again. Dropping the future gives everything back.
    pub async fn connect(&self, attempt: &mut Attempt, want: Want) -> Result<Connected, ConnectFailure> {
        let pool = self.inner();
        let bounds = Bounds { each: pool.config.connect_timeout, deadline: attempt.deadline };
        let mut came = attempt.came.take();
        let may_be_empty = came.is_none() || attempt.set.endpoints.is_empty();
        if may_be_empty && pool.set.load().endpoints.is_empty() {
            pool.await_servers(bounds).await;
            came = None;
        }
        let mut failure = None;
        loop {
            // The first try, which follows at once, is made with what was just read.
            let is_first = came.is_some();
            let now = came.take().unwrap_or_else(Instant::now);
            if bounds.have_passed_at(now) {
                return Err(failure.unwrap_or(ConnectFailure::Deadline));
            }
            let again = failure.is_none() && want != Want::Elsewhere;
            let Some(claim) = pool.next_try(attempt, is_first, again) else {
                return Err(failure.unwrap_or(ConnectFailure::NoEndpoint));
            };
            let endpoint = Arc::clone(claim.endpoint());
            let connected = |(stream, site), reused| Connected {
                stream: Buffered::new(stream),
                lease: claim.lease(pool, site),
                reused,
            };
            if want == Want::Reuse
                && let Some(idle) = endpoint.idle.take(worker(), now)
            {
                return Ok(connected(idle, true));
            }
            match endpoint.dial(&pool.dial, bounds, attempt.caller.addresses.as_ref()).await {
                Ok((stream, site, took)) => {
                    endpoint.load.counts.connected(took);
                    return Ok(connected((stream, site), false));
                }
                Err(fault) => {
                    endpoint.load.counts.connect_failed(&fault);
                    let is_servers = fault.speaks_against_server(bounds, attempt.tried.is_empty());
                    let its_failure = endpoint.failure(fault);
                    if is_servers {
                        pool.server_failed(&endpoint, &chain(&its_failure));
                    }
                    failure = Some(its_failure);
                }
            }
        }
    }

    /// Begins the active checks on `runtime`, if there are to be some and they have not begun; they end with the pool, or when it
    /// is retired.
    pub fn start_checks(&self, runtime: &Handle) {
        let Inner { config, dial, checks, .. } = &**self.inner();
        let (Some(health), mut checks) = (config.health.clone(), lock(checks)) else { return };
        if checks.is_none() {
            let pool = Arc::downgrade(self.inner());
            let servers = move || pool.upgrade().map(|pool| pool.set.load_full());
            let watch = runtime.spawn(health::watch(health, Arc::clone(dial), servers));
            *checks = Some(watch.abort_handle());
        }
    }

    /// Closes the idle connections, ends the tasks that watch them, and keeps no connection from now on.
    pub fn close_idle(&self) {
        self.inner().close_idle();
    }

    /// Takes the endpoint with this name out for an administrator: it gets nothing new, even if it is the last one, until
    /// [`Self::put_back`]; `tunnels` is what becomes of those that it has. An order to drain that they had before stands as it was
    /// given. `false` if there is no such endpoint.
    pub fn take_out(&self, endpoint: &str, tunnels: OnRemoved) -> bool {
        self.for_each_named(endpoint, |endpoint| endpoint.withdraw(tunnels))
    }

    /// Takes [`Self::take_out`] back, as far as nothing else keeps the endpoint out; its share grows by `slow_start`. Tunnels that
    /// were told to leave still do. `false` if there is no such endpoint.
    pub fn put_back(&self, endpoint: &str) -> bool {
        self.for_each_named(endpoint, Endpoint::restore)
    }

    /// Several entries may list servers of the same name.
    fn for_each_named(&self, name: &str, change: impl Fn(&Endpoint)) -> bool {
        let set = self.inner().set.load();
        let named = set.endpoints.iter().filter(|endpoint| &**endpoint.name() == name);
        named.map(|endpoint| change(endpoint)).count() > 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.inner.keeps_idle.load(Ordering::Acquire) {
            self.inner.close_idle();
        }
        self.inner.end_tasks();
    }
}

impl Attempt {
    /// Whether another [`Pool::connect`] could still lead to a connection.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.retries_left > 0 && self.deadline.is_none_or(|deadline| now < deadline) && self.budget.has_one()
    }

    /// The Set-Cookie that makes the client come back to the endpoint of the last try; `None` if it does already, or nothing
    /// is sticky here. `secure` if the client speaks TLS.
    pub fn set_cookie(&self, secure: bool) -> Option<String> {
        self.set.set_cookie(&self.caller, self.current?, secure)
    }

    /// Notes that the idle connection of the last try had ended, and lets the next try go to the same endpoint if the request
    /// belongs there, by its cookie or its hash: that says nothing of the server, and must cost nobody his session.
    pub fn stay_if_bound(&mut self) {
        if let Some(current) = self.current {
            self.set.endpoints[current].load.counts.stale.add(1);
        }
        self.stays = self.current.is_some_and(|current| self.set.binds(&self.caller, current));
    }

    /// Counts the next try; `false` if it may not be.
    fn begin_try(&mut self) -> bool {
        let Some(last) = self.current.take() else { return self.tried.is_empty() };
        if !std::mem::take(&mut self.stays) {
            self.tried.push(Arc::clone(&self.set.endpoints[last]));
        }
        match self.retries_left.checked_sub(1) {
            Some(left) if self.budget.take() => {
                self.retries_left = left;
                true
            }
            _ => false,
        }
    }
}

impl Inner {
    /// A place at the endpoint to try next. With `again`, it may be one that was tried before, if all were.
    fn next_try(&self, attempt: &mut Attempt, is_first: bool, again: bool) -> Option<Claim> {
        if !attempt.begin_try() {
            return None;
        }
        if !is_first {
            // Servers may have come and gone since the last try.
            attempt.set = self.set.load_full();
        }
        loop {
            let mut picked = attempt.set.pick(&attempt.caller, &attempt.tried);
            if picked.is_none() && again {
                picked = attempt.set.pick(&attempt.caller, &[]);
            }
            // It may have become full just now; then it is seen to be.
            if let Some(claim) = Claim::on(&attempt.set.endpoints[picked?]) {
                attempt.current = picked;
                return Some(claim);
            }
        }
    }

    /// Counts a failure of `endpoint`, which may take it out.
    pub(super) fn server_failed(&self, endpoint: &Arc<Endpoint>, reason: &str) {
        self.set.load().failed(endpoint, reason);
    }

    fn close_idle(&self) {
        for endpoint in &self.set.load().endpoints {
            endpoint.idle.close();
        }
    }

    /// Nobody asks for records and checks servers any more.
    pub(super) fn end_tasks(&self) {
        drop(lock(&self.followed).take());
        if let Some(checks) = lock(&self.checks).take() {
            checks.abort();
        }
    }
}
