//! Idle connections of an endpoint, kept for reuse by plain requests.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    Transport, lock,
    site::{Load, Site},
};

/// The longest time between two looks at idle connections, so that one that never expires by itself does not
/// stay half-closed for good.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(10);

/// The idle connections of one endpoint: a list per worker, and one bound over all of them.
#[derive(Debug)]
pub(super) struct Idle {
    by_worker: Vec<Mutex<List>>,
    /// Of all lists together.
    count: AtomicUsize,
    bound: usize,
    closed: AtomicBool,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct List {
    parked: Vec<Parked>,
    /// The worker's task that closes expired ones, while there are some.
    reaper: Option<AbortHandle>,
}

#[derive(Debug)]
struct Parked {
    stream: Transport,
    /// Where it leads.
    site: Arc<Site>,
    /// `None` stays until the server closes it.
    expires: Option<Instant>,
    /// When it was put here.
    turn: Option<Turn>,
}

/// How often the runtime of this thread had waited for events. It is to be one that takes all there are at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn(u64);

impl Idle {
    /// At most `bound` connections over `workers` lists, at least one list.
    pub(super) fn new(bound: usize, workers: usize, load: &Arc<Load>) -> Self {
        Self {
            by_worker: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            bound,
            closed: AtomicBool::new(false),
            load: Arc::clone(load),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Keeps `stream`, or closes it if there are as many as may be, or the server is not there any more.
    pub(super) fn put(
        self: &Arc<Self>,
        worker: usize,
        stream: Transport,
        site: Arc<Site>,
        expires: Option<Instant>,
    ) {
        self.change(worker, |list| {
            let room = |count: usize| (count < self.bound).then_some(count + 1);
            // Both are read under the lock that `close` and `forget_left` take after they were set, so that nothing stays behind.
            let keeps = !self.closed.load(Ordering::Acquire)
                && !site.has_left()
                && self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
            if keeps {
                list.parked.push(Parked { stream, site, expires, turn: Turn::now() });
                if let (None, Ok(runtime)) = (&list.reaper, Handle::try_current()) {
                    list.reaper = Some(runtime.spawn(reap(Arc::downgrade(self), worker)).abort_handle());
                }
            }
            ((), 0)
        });
    }

    /// The one that was used last, as it is the least likely to be closed by the server next, and where it leads. Those that are
    /// found to be of no use are closed.
    pub(super) fn take(&self, worker: usize, now: Instant) -> Option<(Transport, Arc<Site>)> {
        let turn = Turn::now();
        self.change(worker, |List { parked, .. }| {
            let before = parked.len();
            let found = std::iter::from_fn(|| parked.pop()).find_map(|mut parked| {
                let may_stay = parked.may_stay(now);
                let is_usable = may_stay && parked.is_quiet(turn);
                self.load.counts.stale.add(u64::from(may_stay && !is_usable));
                is_usable.then_some(parked)
            });
            self.load.counts.reused.add(u64::from(found.is_some()));
            (found.map(|parked| (parked.stream, parked.site)), before - parked.len())
        })
    }

    /// Closes those of `worker` that have expired or that the server has ended, and says when to look again; `None` if none is
    /// left.
    fn sweep(&self, worker: usize) -> Option<Instant> {
        let (now, turn) = (Instant::now(), Turn::now());
        self.change(worker, |List { parked, reaper }| {
            let before = parked.len();
            parked.retain_mut(|parked| parked.may_stay(now) && parked.is_quiet(turn));
            let next_expiry = parked.iter().filter_map(|parked| parked.expires);
            let next = next_expiry.fold(now + SWEEP_AT_LEAST, Instant::min);
            if parked.is_empty() {
                // Whoever parks the next one begins anew.
                *reaper = None;
            }
            ((!parked.is_empty()).then_some(next), before - parked.len())
        })
    }

    /// Closes them all, and every one that is put later, and ends the tasks that watch them.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for worker in 0..self.by_worker.len() {
            self.change(worker, |List { parked, reaper }| {
                if let Some(reaper) = reaper.take() {
                    reaper.abort();
                }
                ((), parked.drain(..).count())
            });
        }
    }

    /// Closes those to sites that were left; none to them is kept from now on.
    pub(super) fn forget_left(&self) {
        for worker in 0..self.by_worker.len() {
            self.change(worker, |List { parked, .. }| {
                let before = parked.len();
                parked.retain(|parked| !parked.site.has_left());
                ((), before - parked.len())
            });
        }
    }

    /// Runs `change`, which says how many it took away, on a worker's list.
    fn change<R>(&self, worker: usize, change: impl FnOnce(&mut List) -> (R, usize)) -> R {
        let mut list = lock(&self.by_worker[worker % self.by_worker.len()]);
        let (result, removed) = change(&mut list);
        self.count.fetch_sub(removed, Ordering::Relaxed);
        result
    }
}

async fn reap(idle: Weak<Idle>, worker: usize) {
    while let Some(next) = idle.upgrade().and_then(|idle| idle.sweep(worker)) {
        sleep_until(next).await;
    }
}

impl Parked {
    /// To where the server is, and not expired.
    fn may_stay(&self, now: Instant) -> bool {
        !self.site.has_left() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Not ended, and with nothing on it that was not asked for (rule H14).
    fn is_quiet(&mut self, turn: Option<Turn>) -> bool {
        match &mut self.stream {
            Transport::Plain(socket) => {
                // If the runtime has asked for events since it was put here, it knows what had come by then.
                let runtime_knows = self.turn.zip(turn).is_some_and(|(put, now)| put != now);
                if runtime_knows { socket.was_quiet() } else { socket.is_quiet() }
            }
            Transport::Tls(stream) => stream.is_quiet(),
        }
    }
}

impl Turn {
    /// `None` where threads share a runtime, and each may wait without asking for events.
    fn now() -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let is_alone = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        is_alone.then(|| Self(runtime.metrics().worker_park_count(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;
    use crate::{lifecycle::Drain, upstream::site::At};

    /// Waits until the runtime has asked for events once more.
    async fn next_turn() {
        let turn = Turn::now().expect("one thread");
        while Turn::now() == Some(turn) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What is kept, and its other end.
    fn kept() -> (Arc<Idle>, UnixStream) {
        let load = Arc::new(Load::new(&"server".into()));
        let idle = Arc::new(Idle::new(1, 1, &load));
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::UnixStream::from_std(ours).expect("a runtime");
        let order = Drain::new(Duration::ZERO).1.part(Duration::ZERO);
        let site = Site::new(At::Unix("/".into()), &load, order);
        idle.put(0, Transport::Plain(stream.into()), Arc::new(site), None);
        (idle, theirs)
    }

    /// Otherwise it was closed, here or by the task that sweeps.
    fn is_taken(idle: &Idle) -> bool {
        let found = idle.take(0, Instant::now()).is_some();
        assert_eq!(idle.count(), 0);
        found
    }

    #[tokio::test]
    async fn h14_what_came_on_a_kept_connection_is_found_before_the_next_turn_and_behind_it() {
        for (waits_before, waits_behind) in [(false, false), (true, true), (false, true)] {
            for says in ["", "HTTP/1.1 200 OK\r\n"] {
                let (idle, mut server) = kept();
                if waits_before {
                    next_turn().await;
                }
                server.write_all(says.as_bytes()).expect("room");
                if says.is_empty() {
                    drop(server);
                }
                if waits_behind {
                    next_turn().await;
                }
                assert!(!is_taken(&idle), "{waits_before} {waits_behind} {says:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_kept_connection_on_which_nothing_came_is_taken_in_the_same_turn_and_in_later_ones() {
        for turns in 0..3 {
            let (idle, _server) = kept();
            for _ in 0..turns {
                next_turn().await;
            }
            assert!(is_taken(&idle), "{turns}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn h14_where_threads_share_a_runtime_the_kernel_is_asked() {
        assert_eq!(Turn::now(), None);
        let (idle, server) = kept();
        drop(server);
        assert!(!is_taken(&idle));
    }
}
