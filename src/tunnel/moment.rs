//! Points in the life of a tunnel.

use std::{num::NonZeroU64, ops::Add, time::Duration};

use tokio::time::Instant;

/// Nanoseconds since the tunnel was opened, plus one: half of an optional `Instant`, of which a tunnel has many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(NonZeroU64);

impl Moment {
    /// The tunnel was opened.
    pub(super) const OPENED: Self = Self(NonZeroU64::MIN);

    /// The moment of `instant` in a tunnel that was opened at `opened`, or its beginning if that was earlier.
    pub(super) fn new(instant: Instant, opened: Instant) -> Self {
        Self::OPENED + instant.saturating_duration_since(opened)
    }

    /// The instant of this moment.
    pub(super) fn instant(self, opened: Instant) -> Instant {
        opened + self.since(Self::OPENED)
    }

    /// Time from `earlier` to this moment; zero if it was not earlier.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        // 584 years hold every deadline there is.
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}
