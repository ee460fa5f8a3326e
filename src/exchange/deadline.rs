//! Deadlines of an exchange: one timer, and progress that has to be made in each period (rule S1).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

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

/// One timer, set to whatever is due first.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Wakes the task at `due`. Returns `Ready` if that has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, due: Option<Instant>) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }
}
