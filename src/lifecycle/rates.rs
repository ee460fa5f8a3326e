//! How fast each client may ask.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::proto::network::ClientKey;

/// Clients that are known of one period; of two periods they take some 26 MB. A power of two, less what a map leaves free.
const MOST: usize = (1 << 19) / 8 * 7;

/// A bucket of tokens for each client (rule W15): so many at once, and as many again in each period.
///
/// A bucket is one moment, when it will be full again, and one that is full is forgotten. Of more clients in a period than
/// are known, those that come last are let in without being counted: it takes as many addresses to get there, and whoever has
/// them is not held by what each may do.
#[derive(Debug)]
pub struct ClientRates {
    most: usize,
    buckets: Mutex<Buckets>,
}

/// What a client may do.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// In which a token comes back.
    gap: Duration,
    /// In which an empty bucket is full.
    period: Duration,
}

impl Pace {
    fn new(count: NonZeroU32, period: Duration) -> Self {
        // Rounded up, so that a period never has more than `count`.
        let gap = (period + Duration::from_nanos(u64::from(count.get()) - 1)) / count.get();
        Self { gap, period: gap * count.get() }
    }
}

/// When each client's bucket is full again. No moment lies further ahead than a period, so whoever was last seen before the one
/// that went before this has a full one.
#[derive(Debug)]
struct Buckets {
    /// A reload may change it.
    pace: Pace,
    now: HashMap<ClientKey, Instant>,
    before: HashMap<ClientKey, Instant>,
    began: Instant,
    told_of_excess: bool,
}

impl ClientRates {
    /// `count` in each `period`.
    pub fn new(count: NonZeroU32, period: Duration) -> Self {
        Self::with_most(count, period, MOST)
    }

    fn with_most(count: NonZeroU32, period: Duration, most: usize) -> Self {
        let buckets = Buckets {
            pace: Pace::new(count, period),
            now: HashMap::new(),
            before: HashMap::new(),
            began: Instant::now(),
            told_of_excess: false,
        };
        Self { most, buckets: Mutex::new(buckets) }
    }

    /// Changes the rate. What clients have used up stays used up, though no bucket is more than empty.
    pub fn set(&self, count: NonZeroU32, period: Duration, now: Instant) {
        let mut buckets = self.lock();
        let Buckets { pace, now: known, before, .. } = &mut *buckets;
        let changed = Pace::new(count, period);
        if changed.period < pace.period {
            let empty = now + changed.period;
            known.values_mut().chain(before.values_mut()).for_each(|full_at| *full_at = empty.min(*full_at));
        }
        *pace = changed;
    }

    /// Takes a token of the client with this address. If there is none, it says how long the next one takes.
    pub fn take(&self, ip: IpAddr, now: Instant) -> Result<(), Duration> {
        let key = ClientKey::from(ip);
        let mut buckets = self.lock();
        let Pace { gap, period } = buckets.pace;
        let forgotten = buckets.turn(period, now);
        let full_at = buckets.full_at(key).map_or(now, |full_at| full_at.max(now)) + gap;
        let wait = full_at.saturating_duration_since(now + period);
        if wait.is_zero() {
            buckets.set(key, full_at, self.most);
        }
        drop(buckets);
        // Which may take a while, of as many as there can be.
        drop(forgotten);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Held for no longer than it takes to count, and nothing in there panics.
    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    /// Begins a new period when it is time to. Returns what is forgotten.
    fn turn(&mut self, period: Duration, now: Instant) -> Option<HashMap<ClientKey, Instant>> {
        if now.saturating_duration_since(self.began) < period {
            return None;
        }
        self.began = now;
        self.told_of_excess = false;
        let ended = std::mem::take(&mut self.now);
        Some(std::mem::replace(&mut self.before, ended))
    }

    fn full_at(&self, key: ClientKey) -> Option<Instant> {
        self.now.get(&key).or_else(|| self.before.get(&key)).copied()
    }

    fn set(&mut self, key: ClientKey, full_at: Instant, most: usize) {
        if self.now.len() < most || self.now.contains_key(&key) {
            self.now.insert(key, full_at);
        } else if let Some(known) = self.before.get_mut(&key) {
            *known = full_at;
        } else if !std::mem::replace(&mut self.told_of_excess, true) {
            tracing::warn!(
                clients = most,
                "handshake_rate_per_ip: too many clients, the others are not counted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn rates(count: u32, period: Duration, most: usize) -> ClientRates {
        ClientRates::with_most(NonZeroU32::new(count).unwrap(), period, most)
    }

    fn known(rates: &ClientRates) -> usize {
        let buckets = rates.buckets.lock().unwrap();
        buckets.now.len() + buckets.before.len()
    }

    #[test]
    fn w15_a_burst_then_the_rate_and_the_wait_is_what_it_takes() {
        let rates = rates(3, Duration::from_secs(1), 10);
        let mut now = Instant::now();
        assert_eq!([0; 4].map(|_| rates.take(ONE, now).is_ok()), [true, true, true, false]);
        for _ in 0..20 {
            let wait = rates.take(ONE, now).unwrap_err();
            assert!(wait <= Duration::from_secs(1) / 3 + Duration::from_nanos(1), "{wait:?}");
            assert!(rates.take(ONE, now + wait.saturating_sub(Duration::from_nanos(1))).is_err());
            now += wait;
            assert_eq!([0; 2].map(|_| rates.take(ONE, now).is_ok()), [true, false]);
        }
        // Rounding up the time of a token makes a burst three nanoseconds longer, at most, than the period.
        now += Duration::from_secs(1) + Duration::from_nanos(3);
        assert_eq!([0; 4].map(|_| rates.take(ONE, now).is_ok()), [true, true, true, false]);
        assert_eq!(rates.take("192.0.2.2".parse().unwrap(), now), Ok(()));
    }

    #[test]
    fn w15_no_period_has_more_than_twice_the_count_and_no_long_run_more_than_the_rate() {
        for (count, period) in [(1, 60), (7, 1), (600, 60), (1000, 3600)] {
            let rates = rates(count, Duration::from_secs(period), 10);
            let began = Instant::now();
            let steps = 50 * count;
            let step = Duration::from_secs(period) / count / 5;
            let let_in = (0..steps).filter(|&number| rates.take(ONE, began + step * number).is_ok());
            // Ten periods, and the first burst.
            let let_in = let_in.count();
            assert!(
                (10 * count as usize..=11 * count as usize).contains(&let_in),
                "{count}/{period}: {let_in}"
            );
        }
    }

    #[test]
    fn w15_clients_whose_buckets_are_full_are_forgotten_and_no_others() {
        let period = Duration::from_secs(1);
        let rates = rates(2, period, 1 << 20);
        let began = Instant::now();
        let ip = |number: u32| IpAddr::from(number.to_be_bytes());
        // A thousand new ones each period, each with its bucket empty.
        for number in 0..10_000_u32 {
            let now = began + period * number / 1000;
            assert_eq!([0; 3].map(|_| rates.take(ip(number), now).is_ok()), [true, true, false]);
            if let Some(earlier) = number.checked_sub(499) {
                assert!(rates.take(ip(earlier), now).is_err(), "{number}: less than half a period ago");
            }
        }
        assert!(known(&rates) <= 2001, "{}", known(&rates));
    }

    #[test]
    fn w15_past_as_many_clients_as_are_known_the_others_are_let_in_and_memory_stays() {
        let rates = rates(1, Duration::from_secs(60), 100);
        let now = Instant::now();
        let ip = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..1000 {
            assert_eq!(rates.take(ip(number), now), Ok(()));
        }
        assert_eq!(known(&rates), 100);
        assert!(rates.take(ip(99), now).is_err() && rates.take(ip(100), now).is_ok());
        // With a new period there is room again, and those of the last one are still known.
        let later = now + Duration::from_secs(60);
        assert_eq!(rates.take(ip(500), later), Ok(()));
        assert!(rates.take(ip(500), later).is_err());
        assert_eq!(known(&rates), 101);
    }

    #[test]
    fn w15_a_rate_that_changed_gives_no_new_burst_and_holds_nobody_longer_than_its_period() {
        let rates = rates(2, Duration::from_secs(60), 10);
        let now = Instant::now();
        assert_eq!([0; 3].map(|_| rates.take(ONE, now).is_ok()), [true, true, false]);
        rates.set(NonZeroU32::new(10).unwrap(), Duration::from_secs(10), now);
        assert_eq!(rates.take(ONE, now).unwrap_err(), Duration::from_secs(1));
        let later = now + Duration::from_secs(1);
        assert_eq!([0; 2].map(|_| rates.take(ONE, later).is_ok()), [true, false]);
        rates.set(NonZeroU32::new(1).unwrap(), Duration::from_secs(3600), later);
        assert_eq!(
            rates.take(ONE, later).unwrap_err(),
            Duration::from_secs(10),
            "used up by what is in the bucket"
        );
        assert!(rates.take("192.0.2.2".parse().unwrap(), later).is_ok());
    }

    #[test]
    fn w15_the_fastest_rate_that_can_be_written_is_one() {
        let rates = rates(u32::MAX, Duration::from_secs(1), 10);
        assert_eq!(rates.take(ONE, Instant::now()), Ok(()));
    }
}
