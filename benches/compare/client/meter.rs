//! What the client counts.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{latency::Histogram, scenario::Scenario};

/// Counts of all connections together.
pub(super) struct Meter {
    /// Connections that have come to their traffic.
    pub(super) opened: u64,
    /// Units, or bytes where the unit is a megabyte.
    pub(super) count: u64,
    /// Connections that ended, those of them that had been resumed, and those that the server left open after its Close.
    pub(super) ended: u64,
    pub(super) resumed: u64,
    pub(super) late: u64,
    pub(super) latency: Histogram,
}

/// The counts of a moment.
pub(super) struct Snapshot {
    at: Instant,
    cpu: Duration,
    count: u64,
    ended: u64,
    resumed: u64,
    late: u64,
}

impl Snapshot {
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { opened: 0, count: 0, ended: 0, resumed: 0, late: 0, latency: Histogram::new() }
    }

    /// Begins to measure.
    pub(super) fn begin(&mut self) -> Snapshot {
        self.latency.clear();
        self.snapshot()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: Instant::now(),
            cpu: cpu(),
            count: self.count,
            ended: self.ended,
            resumed: self.resumed,
            late: self.late,
        }
    }

    /// What was counted since.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(super) fn report(&self, from: &Snapshot, scenario: Scenario) -> Value {
        let now = self.snapshot();
        let is_bulk = matches!(scenario, Scenario::Download { .. } | Scenario::Upload { .. });
        let ended = now.ended - from.ended;
        let resumed = (ended > 0).then(|| (now.resumed - from.resumed) as f64 / ended as f64);
        json!({
            "units": (now.count - from.count) as f64 / if is_bulk { 1e6 } else { 1.0 },
            "seconds": (now.at - from.at).as_secs_f64(),
            "cpu_seconds": now.cpu.saturating_sub(from.cpu).as_secs_f64(),
            "p50_us": self.latency.quantile(0.5),
            "p99_us": self.latency.quantile(0.99),
            "p999_us": self.latency.quantile(0.999),
            "resumed": resumed,
            "late": now.late - from.late,
        })
    }
}

/// The processor time that this process has had.
fn cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}
