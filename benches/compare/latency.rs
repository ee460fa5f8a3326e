//! How long things took: a histogram whose buckets are less than 1 % wide.

use std::time::Duration;

/// Each power of two is cut into so many buckets.
const CUTS: u64 = 1 << CUT_BITS;
const CUT_BITS: u32 = 7;
/// Two minutes, in nanoseconds, and no connection of the client stands still for so long.
const LONGEST: u64 = 1 << 37;
const BUCKETS: usize = bucket(LONGEST) + 1;

/// Counts of durations, of a nanosecond to two minutes.
pub(crate) struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
        self.counts[bucket(nanoseconds.min(LONGEST))] += 1;
        self.total += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The microseconds that this share of all took at most, or `None` where nothing was recorded.
    #[expect(clippy::cast_precision_loss, reason = "durations and counts are far below 2^52")]
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = share * self.total as f64;
        let mut passed = 0;
        let found = self.counts.iter().position(|&count| {
            passed += u64::from(count);
            count > 0 && passed as f64 >= wanted
        })?;
        Some(upper_bound(found) as f64 / 1000.0)
    }
}

/// Numbers below [`CUTS`] have a bucket each; those above share one with all that have the same highest bits.
const fn bucket(nanoseconds: u64) -> usize {
    let shift = if nanoseconds < CUTS { 0 } else { nanoseconds.ilog2() - CUT_BITS };
    #[expect(clippy::cast_possible_truncation, reason = "there are some thousands of buckets")]
    let found = (shift as u64 * CUTS + (nanoseconds >> shift)) as usize;
    found
}

/// The largest number of a bucket.
const fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * CUTS {
        return bucket;
    }
    let shift = bucket / CUTS - 1;
    ((bucket - shift * CUTS + 1) << shift) - 1
}
