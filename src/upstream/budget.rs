//! How many of a pool's requests may be retries.

use std::sync::atomic::{AtomicU32, Ordering};

use super::counts::Counter;

/// A retry costs what so many requests bring in: at most one request in five is a retry.
const PRICE: u32 = 5;
/// What is saved up at most, and there at the start: ten retries, so that a quiet pool has some.
const MOST: u32 = 10 * PRICE;

/// The retries that a pool may still make. When its servers fail, retries must not be what keeps them down.
#[derive(Debug)]
pub(super) struct Budget {
    saved: AtomicU32,
    spent: Counter,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: AtomicU32::new(MOST), spent: Counter::default() }
    }
}

impl Budget {
    /// Counts a request, which is no retry.
    pub(super) fn request_came(&self) {
        let more = |saved: u32| (saved < MOST).then_some(saved + 1);
        // Nothing is written while nothing is retried.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether a retry could be made now.
    pub(super) fn has_one(&self) -> bool {
        self.saved.load(Ordering::Relaxed) >= PRICE
    }

    /// Spends a retry; `false` if there is none.
    pub(super) fn take(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(PRICE);
        let had_one = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        self.spent.add(u64::from(had_one));
        had_one
    }

    /// Retries so far.
    pub(super) fn spent(&self) -> u64 {
        self.spent.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_at_most_one_request_in_five_is_a_retry() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10, "saved up at the start");
        assert!(!budget.has_one());
        let retries = (0..1000).filter(|_| {
            budget.request_came();
            budget.take()
        });
        assert_eq!(retries.count(), 200);
        (0..1000).for_each(|_| budget.request_came());
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10, "no more is ever saved");
    }
}
