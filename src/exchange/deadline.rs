//! Deadlines of an exchange: one timer, and progress that has to be made in each period (rule S1).

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Instant, Sleep, sleep_until},
};

/// What must move in each period, in bytes, to be more than a trickle.
const MIN_PROGRESS: u64 = 16 * 1024;

/// Watches a count of bytes that has to grow by 16 KiB in each period.
#[derive(Debug)]
pub(super) struct Progress {
    period: Option<Duration>,
    window: Option<(Instant, u64)>,
}

impl Progress {
    pub(super) fn new(period: Option<Duration>) -> Self {
        Self { period, window: None }
    }

    /// Nobody is waited for now.
    pub(super) fn pause(&mut self) {
        self.window = None;
    }

    /// Progress is waited for and `count` bytes have come so far. Returns when the period ends, or that it has ended with
    /// too little.
    pub(super) fn watch(&mut self, count: u64, now: Instant) -> Result<Option<Instant>, TooSlow> {
        let Some(period) = self.period else { return Ok(None) };
        let (since, before) = *self.window.get_or_insert((now, count));
        if now < since + period {
            return Ok(Some(since + period));
        }
        if count < before + MIN_PROGRESS {
            return Err(TooSlow);
        }
        self.window = Some((now, count));
        Ok(Some(now + period))
    }
}

/// Less than 16 KiB in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow;

/// One timer of a connection, set to whatever is due first.
///
/// Nearly all that is due never happens: the answer comes, and something else is due, later. So what is put off costs nothing:
/// the timer rings when it first would have, and is set anew then.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes, once it has been set.
    wakes: Option<Waker>,
}

impl Timer {
    /// Wakes the task at `due`. Returns `Ready` if that has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Option<Instant>) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        let is_early = sleep.deadline() <= due && !sleep.is_elapsed();
        if is_early && self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        loop {
            if sleep.deadline() > due || sleep.is_elapsed() && sleep.deadline() < due {
                sleep.as_mut().reset(due);
            }
            self.wakes = Some(cx.waker().clone());
            // Without a budget the runtime would not hear of it, and it is not asked for the same again.
            ready!(pin!(coop::unconstrained(sleep.as_mut())).poll(cx));
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
        }
    }

    /// Runs `future` until `due`; `None` when that has come first.
    pub async fn bound<T>(&mut self, due: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll(cx, due).map(|()| None),
        })
        .await
    }
}

/// The time of one poll: looked up when it is first asked for, as most polls need not know.
#[derive(Debug, Default)]
pub(super) struct Now(pub(super) Option<Instant>);

impl Now {
    pub(super) fn get(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Waits for each of these moments from now on in turn, with a timer that was set to `first` before.
    async fn rings(first: u64, then: &[u64]) {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = Timer::default();
        let set = poll_fn(|cx| Poll::Ready(timer.poll(cx, Some(at(first)))));
        assert!(set.await.is_pending());
        for &seconds in then {
            poll_fn(|cx| timer.poll(cx, Some(at(seconds)))).await;
            assert_eq!(Instant::now(), at(seconds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s1_a_timer_that_is_put_off_or_brought_forward_rings_in_time() {
        rings(10, &[20]).await;
        rings(10, &[5]).await;
        rings(10, &[10, 10, 30, 31]).await;
        rings(10, &[20, 20, 25]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn s1_a_timer_wakes_whoever_polled_it_last() {
        let due = Instant::now() + Duration::from_secs(10);
        let mut timer = Timer::default();
        let mut other = Context::from_waker(std::task::Waker::noop());
        assert!(timer.poll(&mut other, Some(due)).is_pending());
        assert_eq!(timer.bound(Some(due), std::future::pending::<()>()).await, None);
        assert_eq!(Instant::now(), due);
        assert!(timer.poll(&mut other, Some(due)).is_ready());
        assert_eq!(timer.bound(None, async { 1 }).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn s1_a_timer_rings_that_was_set_when_the_budget_of_a_turn_was_spent() {
        let start = Instant::now();
        let mut timer = Timer::default();
        // It is new, and then it has rung.
        for seconds in [10, 20] {
            let due = start + Duration::from_secs(seconds);
            let mut is_spent = false;
            let busy = poll_fn(|cx| {
                while !is_spent && coop::has_budget_remaining() {
                    let _ = pin!(coop::consume_budget()).poll(cx);
                }
                is_spent = true;
                Poll::<()>::Pending
            });
            let rung = timeout(Duration::from_secs(60), timer.bound(Some(due), busy)).await;
            assert_eq!((rung, Instant::now()), (Ok(None), due));
        }
    }
}
