//! Log lines that would repeat without end.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

const PERIOD: Duration = Duration::from_secs(1);

/// Lets one line a second through and counts the others. One for each place that logs.
#[derive(Debug, Default)]
pub struct RateLimited {
    last: Mutex<(Option<Instant>, u64)>,
}

impl RateLimited {
    /// One that has let nothing through yet.
    pub const fn new() -> Self {
        Self { last: Mutex::new((None, 0)) }
    }

    /// Calls `log` with the number of lines that were left out since the last one, unless this one is left out too.
    pub fn warn(&self, log: impl FnOnce(u64)) {
        let Ok(mut last) = self.last.lock() else { return };
        let now = Instant::now();
        if last.0.is_some_and(|at| now < at + PERIOD) {
            last.1 += 1;
            return;
        }
        let (_, skipped) = std::mem::replace(&mut *last, (Some(now), 0));
        drop(last);
        log(skipped);
    }
}
