//! Idle connections of an endpoint, kept for reuse by plain requests.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::time::Instant;

use super::{Transport, lock, site::Site};

/// The idle connections of one endpoint: a list per worker, and one bound over all of them.
#[derive(Debug)]
pub(super) struct Idle {
    by_worker: Vec<Mutex<Vec<Parked>>>,
    /// Of all lists together.
    count: AtomicUsize,
    bound: usize,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Parked {
    stream: Transport,
    /// Where it leads.
    site: Arc<Site>,
    /// `None` stays until the server closes it.
    expires: Option<Instant>,
}

/// What a sweep found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swept {
    /// Whether some are left.
    pub(super) any_left: bool,
    /// When the first of these expires.
    pub(super) next_expiry: Option<Instant>,
}

impl Idle {
    /// At most `bound` connections over `workers` lists, at least one list.
    pub(super) fn new(bound: usize, workers: usize) -> Self {
        Self {
            by_worker: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            bound,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Keeps `stream`; `false` if it was closed instead, for there are as many as may be, or the server is not there any more.
    pub(super) fn put(
        &self,
        worker: usize,
        stream: Transport,
        site: Arc<Site>,
        expires: Option<Instant>,
    ) -> bool {
        self.change(worker, |list| {
            let room = |count: usize| (count < self.bound).then_some(count + 1);
            // Both are read under the lock that `close` and `forget_left` take after they were set, so that nothing stays behind.
            let keeps = !self.closed.load(Ordering::Acquire)
                && !site.has_left()
                && self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
            if keeps {
                list.push(Parked { stream, site, expires });
            }
            (keeps, 0)
        })
    }

    /// The one that was used last, as it is the least likely to be closed by the server next, and where it leads. Those that are
    /// found to be of no use are closed.
    pub(super) fn take(&self, worker: usize) -> Option<(Transport, Arc<Site>)> {
        let now = Instant::now();
        self.change(worker, |list| {
            let before = list.len();
            let found = std::iter::from_fn(|| list.pop())
                .find_map(|mut parked| parked.is_usable(now).then_some(parked));
            (found.map(|parked| (parked.stream, parked.site)), before - list.len())
        })
    }

    /// Closes those of `worker` that have expired or that the server has ended.
    pub(super) fn sweep(&self, worker: usize) -> Swept {
        let now = Instant::now();
        self.change(worker, |list| {
            let before = list.len();
            list.retain_mut(|parked| parked.is_usable(now));
            let next_expiry = list.iter().filter_map(|parked| parked.expires).min();
            (Swept { any_left: !list.is_empty(), next_expiry }, before - list.len())
        })
    }

    /// Closes them all, and every one that is put later.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for worker in 0..self.by_worker.len() {
            self.change(worker, |list| ((), list.drain(..).count()));
        }
    }

    /// Closes those to sites that were left; none to them is kept from now on.
    pub(super) fn forget_left(&self) {
        for worker in 0..self.by_worker.len() {
            self.change(worker, |list| {
                let before = list.len();
                list.retain(|parked| !parked.site.has_left());
                ((), before - list.len())
            });
        }
    }

    /// Runs `change`, which says how many it took away, on a worker's list.
    fn change<R>(&self, worker: usize, change: impl FnOnce(&mut Vec<Parked>) -> (R, usize)) -> R {
        let mut list = lock(&self.by_worker[worker % self.by_worker.len()]);
        let (result, removed) = change(&mut list);
        self.count.fetch_sub(removed, Ordering::Relaxed);
        result
    }
}

impl Parked {
    /// To where the server is, not expired, not ended, and with nothing on it that was not asked for (rule H14).
    fn is_usable(&mut self, now: Instant) -> bool {
        !self.site.has_left()
            && self.expires.is_none_or(|expires| now < expires)
            && match &mut self.stream {
                Transport::Plain(socket) => is_quiet(socket.as_fd()),
                Transport::Tls(stream) => stream.is_quiet(),
            }
    }
}

/// Whether a read would have to wait. The kernel is asked, not the runtime, which knows of an end of stream
/// only after its next turn and would say "not ready" also when a task's budget is spent.
fn is_quiet(socket: BorrowedFd<'_>) -> bool {
    matches!(recv(socket, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
}
