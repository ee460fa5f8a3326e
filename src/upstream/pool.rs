//! A pool, the tries of one request on it, and the leases it gives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

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
    config,
    ending::chain,
    lifecycle::Drain,
    tls::ConnectorError,
};

/// The longest time between two looks at idle connections, so that one that never expires by itself does not
/// stay half-closed for good.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(10);

/// `[upstream.NAME]`: the servers behind a route.
///
/// Dropping it closes its idle connections; leases that are out go on.
#[derive(Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: config::Upstream,
    pub(super) dial: Arc<Dial>,
    pub(super) servers: Servers,
    /// Swapped whole when `servers` change.
    pub(super) set: ArcSwap<Set>,
    budget: Arc<Budget>,
    /// The task of each worker that closes expired connections, while it has some.
    reapers: Vec<Mutex<Option<AbortHandle>>>,
    /// The task of the active checks.
    checks: Mutex<Option<AbortHandle>>,
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
        let servers = Servers::new(config, place);
        let inner = Inner {
            dial: Arc::new(Dial::new(config)?),
            set: ArcSwap::from_pointee(servers.set(config)),
            servers,
            budget: Arc::default(),
            reapers: (0..place.workers.max(1)).map(|_| Mutex::default()).collect(),
            checks: Mutex::default(),
            config: config.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name in routes, logs and metrics.
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// What the file says about it, timeouts among it.
    pub fn config(&self) -> &config::Upstream {
        &self.inner.config
    }

    /// Keeps the addresses of names, and the lists of servers that come from SRV records, fresh: a future for each, to be spawned
    /// on one runtime before the first request comes. They end by themselves after the pool has.
    pub fn follow_records(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        srv::follow(&self.inner)
    }

    /// Leases that are out, over all endpoints, those that left the pool too.
    pub fn open(&self) -> usize {
        let here: usize = self.inner.set.load().endpoints.iter().map(|endpoint| endpoint.open()).sum();
        here + self.inner.servers.open_elsewhere()
    }

    /// Idle connections, over all endpoints and workers.
    pub fn idle(&self) -> usize {
        self.inner.set.load().endpoints.iter().map(|endpoint| endpoint.idle.count()).sum()
    }

    /// How many endpoints there are to choose from.
    #[cfg(test)]
    pub(super) fn endpoint_count(&self) -> usize {
        self.inner.set.load().endpoints.len()
    }

    #[cfg(test)]
    pub(super) fn endpoint(&self, place: usize) -> Arc<Endpoint> {
        Arc::clone(&self.inner.set.load().endpoints[place])
    }

    /// The tries of a request that came at `now`.
    pub fn attempt(&self, caller: Caller, now: Instant) -> Attempt {
        let Inner { config, set, budget, .. } = &*self.inner;
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
        }
    }

    /// Connects to an endpoint, and when that fails to others, as often and as long as `attempt` allows.
    ///
    /// Each further call with the same `attempt` is a retry too and prefers endpoints that it did not have
    /// yet; if it had them all, it goes to one of them again. Dropping the future gives everything back.
    pub async fn connect(&self, attempt: &mut Attempt, want: Want) -> Result<Connected, ConnectFailure> {
        let pool = &self.inner;
        let bounds = Bounds { each: pool.config.connect_timeout, deadline: attempt.deadline };
        if pool.set.load().endpoints.is_empty() {
            pool.await_servers(bounds).await;
        }
        let mut failure = None;
        loop {
            if bounds.have_passed() {
                return Err(failure.unwrap_or(ConnectFailure::Deadline));
            }
            let Some(claim) = pool.next_try(attempt, failure.is_none() && want != Want::Elsewhere) else {
                return Err(failure.unwrap_or(ConnectFailure::NoEndpoint));
            };
            let endpoint = Arc::clone(claim.endpoint());
            let connected = |(stream, site), reused| Connected {
                stream: Buffered::new(stream),
                lease: claim.lease(pool, site),
                reused,
            };
            if want == Want::Reuse
                && let Some(idle) = endpoint.idle.take(worker())
            {
                return Ok(connected(idle, true));
            }
            match endpoint.dial(&pool.dial, bounds, attempt.caller.addresses.as_ref()).await {
                Ok(made) => return Ok(connected(made, false)),
                Err(fault) => {
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

    /// Begins the active checks on `runtime`, if there are to be some; they end with the pool.
    pub fn start_checks(&self, runtime: &Handle) {
        let Inner { config, dial, checks, .. } = &*self.inner;
        let Some(health) = config.health.clone() else { return };
        let pool = Arc::downgrade(&self.inner);
        let servers = move || pool.upgrade().map(|pool| pool.set.load_full());
        let watch = runtime.spawn(health::watch(health, Arc::clone(dial), servers));
        if let Some(before) = lock(checks).replace(watch.abort_handle()) {
            before.abort();
        }
    }

    /// Closes the idle connections, ends the tasks that watch them, and keeps no connection from now on.
    pub fn close_idle(&self) {
        for endpoint in &self.inner.set.load().endpoints {
            endpoint.idle.close();
        }
        for reaper in &self.inner.reapers {
            if let Some(task) = lock(reaper).take() {
                task.abort();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close_idle();
        if let Some(checks) = lock(&self.inner.checks).take() {
            checks.abort();
        }
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

    /// Lets the next try go to the endpoint of the last one again if the request belongs there, by its cookie or its hash: that
    /// an idle connection had ended says nothing of the server, and must cost nobody his session.
    pub fn stay_if_bound(&mut self) {
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
    fn next_try(&self, attempt: &mut Attempt, again: bool) -> Option<Claim> {
        if !attempt.begin_try() {
            return None;
        }
        // Servers may have come and gone since the last try.
        attempt.set = self.set.load_full();
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

    /// Sees to it that a task of this worker closes what expires.
    pub(super) fn watch_idle(self: &Arc<Self>, worker: usize) {
        let mut reaper = lock(&self.reapers[worker % self.reapers.len()]);
        if let (None, Ok(runtime)) = (&*reaper, Handle::try_current()) {
            *reaper = Some(runtime.spawn(reap(Arc::clone(self), worker)).abort_handle());
        }
    }

    /// Closes the useless idle connections of a worker and says when to look again; `None` when there is
    /// nothing left to look after, and then the next [`Self::watch_idle`] begins anew.
    fn sweep(&self, worker: usize) -> Option<Instant> {
        // Held throughout: whoever parks meanwhile is either seen by the sweep or finds that there is no task.
        let mut reaper = lock(&self.reapers[worker % self.reapers.len()]);
        let set = self.set.load();
        let swept: Vec<_> = set.endpoints.iter().map(|endpoint| endpoint.idle.sweep(worker)).collect();
        if !swept.iter().any(|swept| swept.any_left) {
            *reaper = None;
            return None;
        }
        let latest = Instant::now() + SWEEP_AT_LEAST;
        Some(swept.iter().filter_map(|swept| swept.next_expiry).fold(latest, Instant::min))
    }
}

async fn reap(pool: Arc<Inner>, worker: usize) {
    while let Some(next) = pool.sweep(worker) {
        sleep_until(next).await;
    }
}
