//! What is open, counted.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;

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

#[cfg(test)]
mod tests {
    use super::*;

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
