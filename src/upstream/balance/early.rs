//! Tunnels that a server ended as soon as they stood.
//!
//! Such a server has few tunnels and would draw everybody to it. Its early ends are counted, and the count halves every
//! [`HALF_LIFE`], so that ten seconds later a tenth of it is left.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// An end before that is early.
const EARLY: Duration = Duration::from_secs(1);
const HALF_LIFE: Duration = Duration::from_secs(3);
/// The count is kept in 64ths, in the lower bits; above it stands when it was written, in milliseconds.
const ONE: u64 = 64;
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The early ends of one server.
#[derive(Debug)]
pub(in crate::upstream) struct EarlyEnds {
    since: Instant,
    state: AtomicU64,
}

impl EarlyEnds {
    pub(in crate::upstream) fn new() -> Self {
        Self { since: Instant::now(), state: AtomicU64::new(0) }
    }

    /// The server ended a tunnel that had stood for so long.
    pub(in crate::upstream) fn ended_after(&self, open: Duration) {
        if open >= EARLY {
            return;
        }
        let now = self.milliseconds();
        let more = |state| Some(now << COUNT_BITS | (count_at(state, now) + ONE).min(COUNT));
        // It always says what to write, so it can't fail.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// How many count yet.
    pub(in crate::upstream) fn count(&self) -> f64 {
        let state = self.state.load(Ordering::Relaxed);
        if state == 0 {
            return 0.0;
        }
        as_f64(count_at(state, self.milliseconds())) / as_f64(ONE)
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is left of a count.
fn count_at(state: u64, now: u64) -> u64 {
    let age = now.saturating_sub(state >> COUNT_BITS);
    #[expect(clippy::cast_precision_loss, reason = "a precise age matters only while it is short")]
    let halvings = age as f64 / 1000.0 / HALF_LIFE.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and at most COUNT; what is less than a 64th is nothing"
    )]
    let left = (as_f64(state & COUNT) * (-halvings).exp2()) as u64;
    left
}

#[expect(clippy::cast_precision_loss, reason = "24 bits at most")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn close_to(count: f64, expected: f64) -> bool {
        (count - expected).abs() < 0.1
    }

    #[tokio::test(start_paused = true)]
    async fn early_ends_count_for_some_ten_seconds() {
        let ends = EarlyEnds::new();
        assert!(close_to(ends.count(), 0.0));
        for _ in 0..8 {
            ends.ended_after(Duration::from_millis(999));
        }
        assert!(close_to(ends.count(), 8.0));
        advance(Duration::from_secs(3)).await;
        assert!(close_to(ends.count(), 4.0));
        ends.ended_after(Duration::ZERO);
        assert!(close_to(ends.count(), 5.0));
        advance(Duration::from_secs(10)).await;
        assert!(close_to(ends.count(), 0.5));
        advance(Duration::from_secs(60)).await;
        assert!(ends.count() == 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_stood_for_a_second_does_not_count() {
        let ends = EarlyEnds::new();
        ends.ended_after(EARLY);
        assert!(ends.count() == 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_count_stops_at_its_end_and_outlives_years() {
        let ends = EarlyEnds::new();
        for _ in 0..1_000_000 {
            ends.ended_after(Duration::ZERO);
        }
        assert!(ends.count() > 262_000.0);
        advance(Duration::from_secs(10 * 365 * 86_400)).await;
        assert!(ends.count() == 0.0);
        ends.ended_after(Duration::ZERO);
        assert!(close_to(ends.count(), 1.0));
    }
}
