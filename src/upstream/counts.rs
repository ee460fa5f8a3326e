//! What is counted of a server since it came, for metrics and for the administrator.
//!
//! Each event is one addition, on the thread where it happens; none of them is on the path of bytes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    connect::{Fault, Took},
    view::{Bucket, ConnectFailures, CountsView, HistogramView},
};

/// The upper bounds of a histogram's buckets, in milliseconds; what took longer is in one more.
const BOUNDS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000];

/// Events at one server.
#[derive(Debug, Default)]
pub(super) struct Counts {
    connects: Histogram,
    tls_handshakes: Histogram,
    connects_failed: Counter,
    connects_timed_out: Counter,
    connects_tls: Counter,
    connects_unresolved: Counter,
    pub(super) reused: Counter,
    pub(super) stale: Counter,
    pub(super) checks_passed: Counter,
    pub(super) checks_failed: Counter,
    pub(super) times_out: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// How long something took, each time.
#[derive(Debug, Default)]
struct Histogram {
    /// By [`BOUNDS`], each without those before it.
    buckets: [Counter; BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    pub(super) fn connected(&self, took: Took) {
        self.connects.observe(took.connect);
        if let Some(tls_handshake) = took.tls_handshake {
            self.tls_handshakes.observe(tls_handshake);
        }
    }

    pub(super) fn connect_failed(&self, fault: &Fault) {
        let kind = match fault {
            Fault::Unresolved(_) | Fault::ResolvedTooLate => &self.connects_unresolved,
            Fault::Failed(_) => &self.connects_failed,
            Fault::Tls(_) => &self.connects_tls,
            Fault::TimedOut => &self.connects_timed_out,
        };
        kind.add(1);
    }

    pub(super) fn view(&self) -> CountsView {
        CountsView {
            connects_failed: ConnectFailures {
                failed: self.connects_failed.get(),
                timed_out: self.connects_timed_out.get(),
                tls: self.connects_tls.get(),
                unresolved: self.connects_unresolved.get(),
            },
            connect: self.connects.view(),
            tls_handshake: self.tls_handshakes.view(),
            reused: self.reused.get(),
            stale: self.stale.get(),
            checks_passed: self.checks_passed.get(),
            checks_failed: self.checks_failed.get(),
            times_out: self.times_out.get(),
        }
    }
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let fits = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BOUNDS.iter().position(fits).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn view(&self) -> HistogramView {
        let bounds =
            BOUNDS.iter().map(|bound| Some(Duration::from_millis(*bound).as_secs_f64())).chain([None]);
        let buckets: Vec<_> = bounds
            .zip(&self.buckets)
            .map(|(up_to_s, count)| Bucket { up_to_s, count: count.get() })
            .collect();
        HistogramView {
            count: buckets.iter().map(|bucket| bucket.count).sum(),
            sum_s: Duration::from_nanos(self.nanoseconds.get()).as_secs_f64(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_first_bucket_that_it_fits() {
        let histogram = Histogram::default();
        for micros in [0, 1000, 1001, 2_500_000, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let view = histogram.view();
        let filled: Vec<_> = view.buckets.iter().filter(|bucket| bucket.count > 0).collect();
        let filled: Vec<_> = filled.iter().map(|bucket| (bucket.up_to_s, bucket.count)).collect();
        assert_eq!(filled, [(Some(0.001), 2), (Some(0.002), 1), (Some(2.5), 1), (Some(10.0), 1), (None, 1)]);
        assert_eq!((view.count, view.buckets.len()), (6, 13));
        assert!((view.sum_s - 22.502_002).abs() < 1e-9, "{}", view.sum_s);
    }
}
