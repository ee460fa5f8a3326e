//! Permits: the right to exist, out of a bounded number.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// File descriptors kept for what is no connection: listeners, log files, DNS.
const RESERVED_FDS: u64 = 128;
/// Connections past the maximum that are told so with a 503, before accept pauses: one for so many, within these bounds. A
/// refusal takes some round trips, and clients that all come back at once are to have theirs in good time.
const FOR_EACH_REFUSAL: usize = 16;
const RESERVE: RangeInclusive<usize> = 64..=1024;

/// Bounds the downstream connections of the process (rule S2).
#[derive(Debug, Clone)]
pub struct Permits {
    served: Arc<Places>,
    reserve: Arc<Places>,
}

/// Room for a number of connections, tunnels or TLS handshakes.
#[derive(Debug)]
pub struct Places {
    free: Semaphore,
    total: AtomicUsize,
    /// Places that are still taken of what a reload took away: so many are not free again when they are given back.
    owed: AtomicUsize,
    is_reserve: bool,
}

/// The right of one connection or tunnel to exist; given back on drop. Every idle tunnel holds one, so it is a pointer and no more.
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
        self.places.give_back(1);
    }
}

impl Places {
    /// Room for `total`.
    pub fn new(total: usize) -> Arc<Self> {
        Self::with(total, false)
    }

    fn with(total: usize, is_reserve: bool) -> Arc<Self> {
        let total = total.min(Semaphore::MAX_PERMITS);
        let (free, owed) = (Semaphore::new(total), AtomicUsize::new(0));
        Arc::new(Self { free, total: AtomicUsize::new(total), owed, is_reserve })
    }

    /// Makes room for `total` from now on. Whoever has a place keeps it; if they are more, nobody gets one until they are fewer.
    /// To be called by one at a time.
    pub fn resize(&self, total: usize) {
        let total = total.min(Semaphore::MAX_PERMITS);
        let before = self.total.swap(total, Ordering::AcqRel);
        if total >= before {
            self.give_back(total - before);
        } else {
            self.owed.fetch_add(before - total, Ordering::AcqRel);
            let free = self.free.forget_permits(before - total);
            self.give_back(free);
        }
    }

    /// Frees so many places, but for those that are owed.
    fn give_back(&self, count: usize) {
        if count == 1 && self.owed.load(Ordering::Acquire) == 0 {
            self.free.add_permits(1);
            return;
        }
        let less = |owed: usize| Some(owed.saturating_sub(count));
        let owed = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).unwrap_or_default();
        self.free.add_permits(count.saturating_sub(owed));
    }

    /// Takes a place, if there is one.
    pub fn try_take(self: &Arc<Self>) -> Option<Permit> {
        self.free.try_acquire().ok().map(|taken| self.permit(taken))
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

    /// Places that are taken.
    pub fn in_use(&self) -> usize {
        let taken_or_free = self.total() + self.owed.load(Ordering::Acquire);
        taken_or_free.saturating_sub(self.free.available_permits())
    }

    /// Places that there are.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }
}

impl Permits {
    /// Permits for `total` connections, and a small reserve for refusals.
    pub fn new(total: usize) -> Self {
        Self { served: Places::with(total, false), reserve: Places::with(reserve(total), true) }
    }

    /// Permits for `total` connections from now on. Those that are out stay so. To be called by one at a time.
    pub fn resize(&self, total: usize) {
        self.served.resize(total);
        self.reserve.resize(reserve(total));
    }

    /// Connections that are served at once, at most.
    pub fn total(&self) -> usize {
        self.served.total()
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

/// Places for refusals beside so many others.
fn reserve(total: usize) -> usize {
    (total / FOR_EACH_REFUSAL).clamp(*RESERVE.start(), *RESERVE.end()).min(total)
}

/// Bounds the TLS handshakes in flight (rule S2), and tells those that take long when others wait for their places.
#[derive(Debug, Clone)]
pub struct TlsPermits {
    handshakes: Arc<Places>,
    crowd: Arc<Crowd>,
}

/// Who waits for a permit.
#[derive(Debug)]
struct Crowd {
    /// One for each that waits and for whom nobody has given way.
    waiting: Semaphore,
    /// Those who have given way for one that has not got the permit yet.
    gave_way: AtomicUsize,
}

/// One that waits; it does so until it is dropped.
struct Waits<'c> {
    crowd: &'c Crowd,
}

impl<'c> Waits<'c> {
    fn in_crowd(crowd: &'c Crowd) -> Self {
        crowd.waiting.add_permits(1);
        Self { crowd }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let one_less = |count: usize| count.checked_sub(1);
        if self.crowd.gave_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok() {
            return;
        }
        if let Ok(waiting) = self.crowd.waiting.try_acquire() {
            waiting.forget();
        }
    }
}

/// The right to one TLS handshake; given back on drop.
#[derive(Debug)]
pub struct TlsPermit {
    _permit: Permit,
}

impl TlsPermits {
    /// Permits for `total` TLS handshakes at once.
    pub fn new(total: usize) -> Self {
        let crowd = Crowd { waiting: Semaphore::new(0), gave_way: AtomicUsize::new(0) };
        Self { handshakes: Places::new(total), crowd: Arc::new(crowd) }
    }

    /// Permits for `total` TLS handshakes from now on. Those that are out stay so. To be called by one at a time.
    pub fn resize(&self, total: usize) {
        self.handshakes.resize(total);
    }

    /// TLS handshakes in flight at once, at most.
    pub fn total(&self) -> usize {
        self.handshakes.total()
    }

    /// Waits for a permit.
    pub async fn acquire(&self) -> TlsPermit {
        if let Some(permit) = self.handshakes.try_take() {
            return TlsPermit { _permit: permit };
        }
        let _waits = Waits::in_crowd(&self.crowd);
        TlsPermit { _permit: self.handshakes.take().await }
    }

    /// Waits until there is one to be had.
    pub async fn available(&self) {
        drop(self.acquire().await);
    }

    /// Waits until a permit is wanted for which nobody else gives way. Whoever called this then gives its own back.
    pub async fn wanted(&self) {
        match self.crowd.waiting.acquire().await {
            Ok(waiting) => {
                waiting.forget();
                self.crowd.gave_way.fetch_add(1, Ordering::AcqRel);
            }
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// TLS handshakes in flight.
    pub fn in_use(&self) -> usize {
        self.handshakes.in_use()
    }
}

/// Raises the soft limit of file descriptors to the hard one, and returns how many connections fit: each needs one
/// descriptor downstream and one upstream, and each refusal one.
pub fn raise_fd_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let Some(current) = current else { return usize::MAX };
    let left = usize::try_from(current.saturating_sub(RESERVED_FDS)).unwrap_or(usize::MAX);
    (left / (2 * FOR_EACH_REFUSAL + 1)).saturating_mul(FOR_EACH_REFUSAL).max(1)
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

    #[test]
    fn s2_places_that_were_taken_away_are_given_back_to_nobody() {
        let places = Places::new(4);
        let mut taken: Vec<_> = (0..4).map_while(|_| places.try_take()).collect();
        places.resize(2);
        assert_eq!((taken.len(), places.in_use(), places.total()), (4, 4, 2));
        for left in [3, 2] {
            taken.pop();
            assert!(places.try_take().is_none(), "{left}");
            assert_eq!(places.in_use(), left);
        }
        taken.pop();
        taken.extend(places.try_take());
        assert!(taken.len() == 2 && places.try_take().is_none());
        // More again, while some are owed and while none are.
        places.resize(1);
        places.resize(3);
        taken.extend(places.try_take());
        assert!(taken.len() == 3 && places.try_take().is_none());
        places.resize(5);
        assert_eq!(std::iter::from_fn(|| places.try_take()).take(9).collect::<Vec<_>>().len(), 2);
        drop(taken);
        assert_eq!(places.in_use(), 0);
        assert_eq!(places.free.available_permits(), 5);
    }

    #[test]
    fn s2_places_are_exact_after_they_came_and_went_while_their_number_changed() {
        let places = Places::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        drop(places.try_take());
                    }
                });
            }
            for total in (0..500).flat_map(|_| [1, 5, 2, 3]) {
                places.resize(total);
            }
        });
        assert_eq!((places.in_use(), places.total(), places.free.available_permits()), (0, 3, 3));
        assert_eq!(places.owed.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn s2_fewer_permits_turn_away_until_those_that_are_out_are_fewer() {
        let permits = Permits::new(3);
        let mut out = vec![permits.acquire().await, permits.acquire().await, permits.acquire().await];
        permits.resize(1);
        assert_eq!((permits.in_use(), permits.total()), (3, 1));
        assert!(permits.acquire().await.is_overload());
        out.truncate(1);
        assert!(permits.acquire().await.is_overload());
        out.clear();
        assert!(!permits.acquire().await.is_overload());
        assert_eq!(permits.in_use(), 0);
    }

    /// Whether somebody is to give way now.
    async fn is_wanted(permits: &TlsPermits) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, permits.wanted()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn s2_one_gives_way_for_each_that_waits_for_a_tls_handshake() {
        let permits = TlsPermits::new(2);
        let (first, second) = (permits.acquire().await, permits.acquire().await);
        assert!(!is_wanted(&permits).await);
        let wait = || {
            let permits = permits.clone();
            tokio::spawn(async move { permits.acquire().await })
        };
        let (one, other) = (wait(), wait());
        tokio::task::yield_now().await;
        assert!(is_wanted(&permits).await, "for the one");
        drop(first);
        let third = one.await.unwrap();
        assert!(is_wanted(&permits).await, "for the other");
        assert!(!is_wanted(&permits).await);
        drop(second);
        let fourth = other.await.unwrap();
        // Nobody gives way to one that left, or that found a place by itself.
        let leaves = wait();
        tokio::task::yield_now().await;
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
        assert!(!is_wanted(&permits).await);
        let finds = wait();
        tokio::task::yield_now().await;
        drop(third);
        let fifth = finds.await.unwrap();
        assert!(!is_wanted(&permits).await);
        drop((fourth, fifth));
        assert_eq!(permits.in_use(), 0);
    }
}
