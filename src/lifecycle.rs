//! Who may exist, and until when: permits for connections and TLS handshakes, and the drain signal.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

/// Connections past the maximum that are told so with a 503, before accept pauses.
const RESERVE: usize = 64;
/// File descriptors kept for what is no connection: listeners, log files, DNS.
const RESERVED_FDS: u64 = 128;

/// Bounds the downstream connections of the process (rule S2).
#[derive(Debug, Clone)]
pub struct Permits {
    served: Arc<Places>,
    reserve: Arc<Places>,
}

/// Room for a number of connections.
#[derive(Debug)]
struct Places {
    free: Semaphore,
    total: usize,
    is_reserve: bool,
}

/// The right of one connection to exist; given back on drop. Every idle tunnel holds one, so it is a pointer and no more.
#[derive(Debug)]
pub struct Permit {
    places: Arc<Places>,
}

impl Permit {
    /// There were too many connections already: this one is answered with 503.
    pub fn is_overload(&self) -> bool {
        self.places.is_reserve
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.free.add_permits(1);
    }
}

impl Places {
    fn new(total: usize, is_reserve: bool) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(total), total, is_reserve })
    }

    /// Waits for a place.
    async fn take(self: &Arc<Self>) -> Permit {
        match self.free.acquire().await {
            Ok(taken) => self.permit(taken),
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// A permit that gives back by itself what was taken.
    fn permit(self: &Arc<Self>, taken: tokio::sync::SemaphorePermit<'_>) -> Permit {
        taken.forget();
        Permit { places: Arc::clone(self) }
    }

    fn in_use(&self) -> usize {
        self.total - self.free.available_permits()
    }
}

impl Permits {
    /// Permits for `total` connections, and a small reserve for refusals.
    pub fn new(total: usize) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self { served: Places::new(total, false), reserve: Places::new(RESERVE.min(total), true) }
    }

    /// A permit; out of the reserve when all are taken. Waits when the reserve is used up as well.
    pub async fn acquire(&self) -> Permit {
        tokio::select! {
            biased;
            permit = self.served.take() => permit,
            permit = self.reserve.take() => permit,
        }
    }

    /// Permits that are out.
    pub fn in_use(&self) -> usize {
        self.served.in_use() + self.reserve.in_use()
    }
}

/// Bounds the TLS handshakes in flight (rule S2).
#[derive(Debug, Clone)]
pub struct TlsPermits {
    handshakes: Arc<Semaphore>,
    total: usize,
}

/// The right to one TLS handshake; given back on drop.
#[derive(Debug)]
pub struct TlsPermit {
    _permit: OwnedSemaphorePermit,
}

impl TlsPermits {
    /// Permits for `total` TLS handshakes at once.
    pub fn new(total: usize) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self { handshakes: Arc::new(Semaphore::new(total)), total }
    }

    /// Waits for a permit.
    pub async fn acquire(&self) -> TlsPermit {
        match Arc::clone(&self.handshakes).acquire_owned().await {
            Ok(permit) => TlsPermit { _permit: permit },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// TLS handshakes in flight.
    pub fn in_use(&self) -> usize {
        self.total - self.handshakes.available_permits()
    }
}

/// How far the end of the process has come.
const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const HURRIED: u8 = 2;
const SHUTDOWN: u8 = 3;

/// The order to end; all that lives long listens to it.
#[derive(Debug, Clone)]
pub struct Drain {
    order: Arc<Order>,
}

/// Gives the order to end.
#[derive(Debug)]
pub struct DrainHandle {
    order: Arc<Order>,
}

#[derive(Debug)]
struct Order {
    /// Read on the path of bytes, hence no lock.
    stage: AtomicU8,
    /// Set before the stage is.
    began: OnceLock<Began>,
    open: Tracker,
    spread: Duration,
    /// The order of the whole, which holds for the part as well.
    whole: Option<Drain>,
    changed: watch::Sender<()>,
}

/// How a drain began.
#[derive(Debug)]
struct Began {
    at: Instant,
    /// So many were open.
    open: usize,
}

impl Drain {
    /// A signal, and who gives it. What is drained leaves spread over `spread`.
    pub fn new(spread: Duration) -> (DrainHandle, Self) {
        Self::with(spread, None)
    }

    /// A signal to a part, which hears of the whole's end too.
    pub fn part(&self, spread: Duration) -> DrainHandle {
        Self::with(spread, Some(self.clone())).0
    }

    fn with(spread: Duration, whole: Option<Self>) -> (DrainHandle, Self) {
        let order = Arc::new(Order {
            stage: AtomicU8::new(RUNNING),
            began: OnceLock::new(),
            open: Tracker::new(),
            spread,
            whole,
            changed: watch::Sender::new(()),
        });
        (DrainHandle { order: Arc::clone(&order) }, Self { order })
    }

    /// Of the part alone or of the whole.
    fn stage(&self) -> u8 {
        let own = self.order.stage.load(Ordering::Acquire);
        self.order.whole.as_ref().map_or(own, |whole| own.max(whole.stage()))
    }

    /// The part was told to end before the whole was.
    pub fn is_removed(&self) -> bool {
        self.order.whole.as_ref().is_some_and(|whole| !whole.is_draining()) && self.is_draining()
    }

    /// Nothing new begins, and what is open ends in order.
    pub fn is_draining(&self) -> bool {
        self.stage() >= DRAINING
    }

    /// When a tunnel that drew `lot`, from 0 to 1, is to leave; `None` before the drain (rule T9).
    pub fn leaves_at(&self, lot: f64) -> Option<Instant> {
        let own = self.order.began.get();
        let own = own.map(|began| began.at + self.order.spread.mul_f64(lot.clamp(0.0, 1.0)));
        let whole = self.order.whole.as_ref().and_then(|whole| whole.leaves_at(lot));
        own.into_iter().chain(whole).min()
    }

    /// What is still open is cut.
    pub fn is_shutdown(&self) -> bool {
        self.stage() >= SHUTDOWN
    }

    /// Waits until the drain begins.
    pub async fn draining(&self) {
        self.reach(DRAINING).await;
    }

    /// Waits until the drain is to be cut short, or is over.
    pub async fn hurried(&self) {
        self.reach(HURRIED).await;
    }

    /// Waits until the time of the drain is over.
    pub async fn shutdown(&self) {
        self.reach(SHUTDOWN).await;
    }

    /// Tells `on_order` of every order to the whole or to a part of it, until the whole is to be cut.
    pub async fn orders(&self, mut on_order: impl FnMut()) {
        let mut changed = self.order.changed.subscribe();
        while !self.is_shutdown() {
            // The sender lives as long as this signal, so it can't be closed.
            let _ = changed.changed().await;
            on_order();
        }
    }

    async fn reach(&self, stage: u8) {
        let mut changed = self.order.changed.subscribe();
        while self.order.stage.load(Ordering::Acquire) < stage {
            // The sender lives as long as this signal, so it can't be closed.
            let _ = changed.changed().await;
        }
    }
}

impl DrainHandle {
    /// The signal that it gives.
    pub fn signal(&self) -> Drain {
        Drain { order: Arc::clone(&self.order) }
    }

    /// Counts what it drains.
    pub fn open(&self) -> &Tracker {
        &self.order.open
    }

    /// How many were open when the drain began, before any of them knew; how many are, if it has not.
    pub fn began_with(&self) -> usize {
        self.order.began.get().map_or_else(|| self.order.open.count(), |began| began.open)
    }

    /// Begins the drain.
    pub fn drain(&self) {
        self.advance(DRAINING);
    }

    /// Leaves it no more time. Whoever watches over it counts what is still open before that is cut.
    pub fn hurry(&self) {
        self.advance(HURRIED);
    }

    /// Ends it: what is still open is cut.
    pub fn shutdown(&self) {
        self.advance(SHUTDOWN);
    }

    fn advance(&self, to: u8) {
        self.order.began.get_or_init(|| Began { at: Instant::now(), open: self.order.open.count() });
        if self.order.stage.fetch_max(to, Ordering::AcqRel) < to {
            self.order.changed.send_replace(());
            if let Some(whole) = &self.order.whole {
                whole.order.changed.send_replace(());
            }
        }
    }
}

/// Counts what is open, and lets others wait for the end of it.
#[derive(Debug, Clone)]
pub struct Tracker {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    count: AtomicUsize,
    changed: watch::Sender<()>,
}

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub struct Tracked {
    tracker: Tracker,
}

impl Tracker {
    /// A tracker of nothing.
    pub fn new() -> Self {
        Self { open: Arc::new(Open { count: AtomicUsize::new(0), changed: watch::Sender::new(()) }) }
    }

    /// Counts one more.
    pub fn track(&self) -> Tracked {
        self.enter();
        Tracked { tracker: self.clone() }
    }

    /// Counts one more, until [`Self::leave`]: for who has a drop of its own.
    pub fn enter(&self) {
        self.open.count.fetch_add(1, Ordering::Relaxed);
    }

    /// One that entered is gone.
    pub fn leave(&self) {
        if self.open.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.open.changed.send_replace(());
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.count.load(Ordering::Acquire)
    }

    /// Waits until none is open.
    pub async fn empty(&self) {
        let mut changed = self.open.changed.subscribe();
        while self.count() > 0 {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.tracker.leave();
    }
}

/// Raises the soft limit of file descriptors to the hard one, and returns how many connections fit: each needs one
/// descriptor downstream and one upstream.
pub fn raise_fd_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let Some(current) = current else { return usize::MAX };
    usize::try_from(current.saturating_sub(RESERVED_FDS) / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s2_past_the_maximum_the_reserve_serves_refusals() {
        let permits = Permits::new(2);
        let first = permits.acquire().await;
        let second = permits.acquire().await;
        let third = permits.acquire().await;
        assert!(!first.is_overload() && !second.is_overload() && third.is_overload());
        let fourth = permits.acquire().await;
        assert!(fourth.is_overload());
        assert_eq!(permits.in_use(), 4);
        let waits = tokio::spawn({
            let permits = permits.clone();
            async move { permits.acquire().await }
        });
        drop(first);
        assert!(!waits.await.expect("a permit").is_overload());
        drop((second, third, fourth));
        assert_eq!(permits.in_use(), 0);
    }

    #[tokio::test]
    async fn a_drain_advances_and_never_goes_back() {
        let (handle, drain) = Drain::new(Duration::from_secs(10));
        let open = handle.open().track();
        assert!(!drain.is_draining() && drain.leaves_at(0.5).is_none());
        let before = Instant::now();
        handle.drain();
        drain.draining().await;
        drop(open);
        assert_eq!((handle.began_with(), handle.open().count()), (1, 0));
        let leaves = drain.leaves_at(0.5).expect("a moment");
        assert!((before..=Instant::now()).contains(&(leaves - Duration::from_secs(5))));
        assert!(drain.is_draining() && !drain.is_shutdown());
        handle.hurry();
        drain.hurried().await;
        assert!(!drain.is_shutdown(), "that is for whoever counts");
        handle.shutdown();
        handle.drain();
        drain.shutdown().await;
        assert!(drain.is_shutdown() && drain.is_draining());
    }

    #[tokio::test]
    async fn an_order_to_a_part_is_the_parts_alone_and_one_to_the_whole_is_everybodys() {
        let (handle, whole) = Drain::new(Duration::ZERO);
        let (part, other) = (whole.part(Duration::from_secs(4)), whole.part(Duration::ZERO));
        let heard = Arc::new(AtomicUsize::new(0));
        let listener = tokio::spawn({
            let (whole, heard) = (whole.clone(), Arc::clone(&heard));
            async move { whole.orders(|| _ = heard.fetch_add(1, Ordering::Relaxed)).await }
        });
        tokio::task::yield_now().await;
        part.drain();
        assert!(part.signal().is_draining() && part.signal().is_removed());
        assert!(part.signal().leaves_at(1.0) > part.signal().leaves_at(0.0));
        assert!(!whole.is_draining() && !other.signal().is_draining());
        tokio::task::yield_now().await;
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        handle.drain();
        assert!(other.signal().is_draining() && !other.signal().is_removed());
        assert!(other.signal().leaves_at(0.5).is_some());
        handle.shutdown();
        assert!(part.signal().is_shutdown());
        listener.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_tracker_tells_when_the_last_one_is_gone() {
        let tracker = Tracker::new();
        tracker.empty().await;
        let (one, two) = (tracker.track(), tracker.track());
        let waits = tokio::spawn({
            let tracker = tracker.clone();
            async move { tracker.empty().await }
        });
        drop(one);
        assert_eq!(tracker.count(), 1);
        drop(two);
        waits.await.expect("no panic");
        assert_eq!(tracker.count(), 0);
    }
}
