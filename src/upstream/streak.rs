//! What the active checks of a server have found, one after the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

/// Checks of one server that ask the same, under all configurations that have them.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    streak: Arc<Mutex<Streak>>,
    are_over: Arc<AtomicBool>,
}

/// Held while a check is under way.
pub(super) type Checking = OwnedMutexGuard<Streak>;

/// Checks in a row.
#[derive(Debug, Default)]
pub(super) struct Streak {
    /// When the last check began, whatever came of it.
    pub(super) began: Option<Instant>,
    /// What the last one lacked here, so that it said nothing of the server.
    pub(super) lacks: bool,
    /// Why the last one failed.
    pub(super) reason: Option<String>,
    /// How many ended like the last one.
    in_a_row: u32,
}

/// A server goes out or comes back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    In,
    Out,
}

impl Checks {
    /// Waits for the check that is under way, if there is one.
    pub(super) async fn begin(&self) -> Checking {
        Arc::clone(&self.streak).lock_owned().await
    }

    /// What is found from now on says nothing any more.
    pub(super) fn end(&self) {
        self.are_over.store(true, Ordering::Release);
    }

    /// Whether something else is asked by now, or nothing.
    pub(super) fn are_over(&self) -> bool {
        self.are_over.load(Ordering::Acquire)
    }
}

impl Streak {
    /// Adds a check; `reason` says why it failed.
    pub(super) fn add(&mut self, reason: Option<String>) {
        let is_same = self.reason.is_some() == reason.is_some();
        self.in_a_row = if is_same { self.in_a_row.saturating_add(1) } else { 1 };
        self.reason = reason;
    }

    /// What becomes of the server that `is_out`, or is not.
    pub(super) fn turn(&self, rise: u32, fall: u32, is_out: bool) -> Option<Turn> {
        match (is_out, &self.reason) {
            (false, Some(_)) if self.in_a_row >= fall => Some(Turn::Out),
            (true, None) if self.in_a_row >= rise => Some(Turn::In),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_checks_in_a_row_turn_it() {
        let (mut streak, mut is_out) = (Streak::default(), false);
        let mut add = |checks: &str| {
            let mut turn = |check| {
                streak.add((check == '-').then(|| "refused".to_owned()));
                let turn = streak.turn(2, 3, is_out);
                is_out = turn.as_ref().map_or(is_out, |turn| *turn == Turn::Out);
                turn
            };
            checks.chars().map(&mut turn).collect::<Vec<_>>()
        };
        assert_eq!(add("++--+--"), [const { None }; 7]);
        assert_eq!(add("-"), [Some(Turn::Out)]);
        assert_eq!(add("--+-+"), [const { None }; 5]);
        assert_eq!(add("+"), [Some(Turn::In)]);
        assert_eq!(add("--"), [None, None]);
        assert_eq!(add("-"), [Some(Turn::Out)]);
    }
}
