//! The order to end.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::watch, task::coop, time::Instant};

use super::Tracker;

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
    /// What is drained leaves within this time.
    spread: Duration,
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
        let mut stage = self.order.stage.load(Ordering::Acquire);
        let mut part = &self.order;
        while let Some(whole) = &part.whole {
            stage = stage.max(whole.order.stage.load(Ordering::Acquire));
            part = &whole.order;
        }
        stage
    }

    /// The part was told to end before the whole was.
    pub fn is_removed(&self) -> bool {
        self.order.whole.as_ref().is_some_and(|whole| !whole.is_draining()) && self.is_draining()
    }

    /// Nothing new begins, and what is open ends in order.
    pub fn is_draining(&self) -> bool {
        self.stage() >= DRAINING
    }

    /// When a tunnel that drew `lot`, from 0 to 1, is to leave by the order to this part itself, or to the whole if this is no
    /// part; `None` before that order (rule T9).
    pub fn leaves_at(&self, lot: f64) -> Option<Instant> {
        let began = self.order.began.get()?;
        Some(began.at + began.spread.mul_f64(lot.clamp(0.0, 1.0)))
    }

    /// The signal of the whole; `None` if this is no part.
    pub fn whole(&self) -> Option<&Self> {
        self.order.whole.as_ref()
    }

    /// What is still open is cut.
    pub fn is_shutdown(&self) -> bool {
        self.stage() >= SHUTDOWN
    }

    /// Waits until the drain begins.
    pub async fn draining(&self) {
        self.reach(DRAINING).await;
    }

    /// [`Self::draining`] to be kept and polled again and again.
    pub fn until_draining(&self) -> Wait {
        Wait::new(self, DRAINING)
    }

    /// [`Self::shutdown`] to be kept and polled again and again.
    pub fn until_shutdown(&self) -> Wait {
        Wait::new(self, SHUTDOWN)
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

    /// Hears of each order to the part or to the whole: the whole hears of those to a part, so one wait is enough.
    fn subscribe(&self) -> watch::Receiver<()> {
        self.order.whole.as_ref().unwrap_or(self).order.changed.subscribe()
    }

    async fn reach(&self, stage: u8) {
        let mut changed = self.subscribe();
        while self.stage() < stage {
            // The sender lives as long as this signal, so it can't be closed.
            let _ = changed.changed().await;
        }
    }
}

/// A wait that goes on while what it is to end is polled, thousands of times perhaps: nothing but an order makes it look for more
/// than whether there was one. It may be polled on when it has ended.
pub struct Wait {
    drain: Drain,
    stage: u8,
    orders: watch::Receiver<()>,
    reached: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whom the next order wakes.
    wakes: Option<Waker>,
}

impl Wait {
    fn new(drain: &Drain, stage: u8) -> Self {
        let signal = drain.clone();
        Self {
            drain: drain.clone(),
            stage,
            orders: drain.subscribe(),
            reached: Box::pin(async move { signal.reach(stage).await }),
            wakes: None,
        }
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.stage() >= self.stage {
            return Poll::Ready(());
        }
        let waits = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker()));
        if waits && self.orders.has_changed().is_ok_and(|was_order| !was_order) {
            return Poll::Pending;
        }
        // Before the look at the stage: an order in between is found by the next poll.
        self.orders.mark_unchanged();
        self.wakes = Some(cx.waker().clone());
        // Without a budget it would not wait for an order, and it is not asked again before there is one.
        pin!(coop::unconstrained(self.reached.as_mut())).poll(cx)
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
        self.drain_over(self.order.spread);
    }

    /// Begins the drain with another spread than it was made for; none lets all leave at once. Only the first order counts.
    pub fn drain_over(&self, spread: Duration) {
        self.begin(spread);
        self.advance(DRAINING);
    }

    /// Leaves it no more time. Whoever watches over it counts what is still open before that is cut.
    pub fn hurry(&self) {
        self.begin(self.order.spread);
        self.advance(HURRIED);
    }

    /// Ends it: what is still open is cut.
    pub fn shutdown(&self) {
        self.begin(self.order.spread);
        self.advance(SHUTDOWN);
    }

    fn begin(&self, spread: Duration) {
        let open = self.order.open.count();
        self.order.began.get_or_init(|| Began { at: Instant::now(), open, spread });
    }

    fn advance(&self, to: u8) {
        if self.order.stage.fetch_max(to, Ordering::AcqRel) < to {
            self.order.changed.send_replace(());
            if let Some(whole) = &self.order.whole {
                whole.order.changed.send_replace(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn who_gives_the_order_says_over_what_time() {
        let part = Drain::new(Duration::ZERO).1.part(Duration::from_secs(4));
        part.drain_over(Duration::from_secs(10));
        let last = Some(Instant::now() + Duration::from_secs(10));
        assert_eq!(part.signal().leaves_at(1.0), last);
        part.drain_over(Duration::ZERO);
        part.drain();
        assert_eq!(part.signal().leaves_at(1.0), last, "the first order stands");
    }

    #[tokio::test]
    async fn who_waits_for_an_order_to_a_part_hears_it_and_that_to_the_whole() {
        let (handle, whole) = Drain::new(Duration::ZERO);
        let (part, other) = (whole.part(Duration::ZERO), whole.part(Duration::ZERO));
        let waits = |signal: Drain| tokio::spawn(async move { signal.draining().await });
        let (of_part, of_other) = (waits(part.signal()), waits(other.signal()));
        tokio::task::yield_now().await;
        part.drain();
        of_part.await.expect("no panic");
        tokio::task::yield_now().await;
        assert!(!of_other.is_finished());
        handle.drain();
        of_other.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_wait_that_is_kept_hears_the_order_that_it_is_for() {
        let (handle, whole) = Drain::new(Duration::ZERO);
        let (part, other) = (whole.part(Duration::ZERO), whole.part(Duration::ZERO));
        let (mut drains, mut ends) = (part.signal().until_draining(), part.signal().until_shutdown());
        let waits = tokio::spawn(async move {
            let polled_before = poll_fn(|cx| Poll::Ready(Pin::new(&mut drains).poll(cx).is_pending()));
            assert!(polled_before.await);
            (&mut drains).await;
            (&mut drains).await;
            drains.drain.stage()
        });
        let ended = tokio::spawn(async move {
            poll_fn(|cx| Pin::new(&mut ends).poll(cx)).await;
            ends.drain.stage()
        });
        tokio::task::yield_now().await;
        other.drain();
        tokio::task::yield_now().await;
        assert!(!waits.is_finished() && !ended.is_finished());
        part.drain();
        assert_eq!(waits.await.expect("no panic"), DRAINING);
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        handle.shutdown();
        assert_eq!(ended.await.expect("no panic"), SHUTDOWN);
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
        assert!(other.signal().leaves_at(0.5).is_none(), "the order was not to the part");
        assert!(other.signal().whole().and_then(|whole| whole.leaves_at(0.5)).is_some());
        handle.shutdown();
        assert!(part.signal().is_shutdown());
        listener.await.expect("no panic");
    }

    #[test]
    fn t9_an_order_may_have_a_spread_of_its_own_and_the_first_one_counts() {
        let (_, whole) = Drain::new(Duration::ZERO);
        let part = whole.part(Duration::from_secs(100));
        part.drain_over(Duration::ZERO);
        part.drain();
        let signal = part.signal();
        assert_eq!(signal.leaves_at(1.0), signal.leaves_at(0.0));
        assert!(signal.is_draining() && signal.leaves_at(1.0).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn t9_a_wait_that_was_polled_when_the_budget_of_a_turn_was_spent_hears_the_order() {
        let (order, signal) = Drain::new(Duration::ZERO);
        let (mut waits, mut is_spent) = (signal.until_draining(), false);
        let heard = poll_fn(|cx| {
            while !is_spent && coop::has_budget_remaining() {
                let _ = pin!(coop::consume_budget()).poll(cx);
            }
            is_spent = true;
            Pin::new(&mut waits).poll(cx)
        });
        let orders = async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            order.drain();
            std::future::pending::<()>().await;
        };
        tokio::spawn(orders);
        let began = Instant::now();
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("an order");
        assert_eq!(began.elapsed(), Duration::from_secs(1), "woken by the order");
    }
}
