//! Whether a server is in: what active checks and passive counts say of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::lock;
use crate::config;

/// Held while a server goes out by its failures, so that of the last two in one stays. Nobody else waits for it.
static GOING_OUT: Mutex<()> = Mutex::new(());

/// The health of one server. What a choice among servers reads of it takes no lock.
#[derive(Debug)]
pub(super) struct Status {
    upstream: Arc<str>,
    endpoint: Arc<str>,
    /// The moments below count from it.
    epoch: Instant,
    failed_checks: AtomicBool,
    /// Its name has no answer, so that there is nowhere to go.
    unresolved: AtomicBool,
    /// Until then it is out by its failures; 0 if it is not.
    out_until: AtomicU64,
    /// 0 if it never was out.
    back_since: AtomicU64,
    passive: Option<Passive>,
    /// What was said of it last: a server that is out for two reasons goes out, and comes back, once.
    told_out: Mutex<bool>,
}

/// `max_fails` and `fail_timeout`.
#[derive(Debug)]
struct Passive {
    max_fails: usize,
    fail_timeout: Duration,
    /// The last failures, at most `max_fails` of them.
    failures: Mutex<VecDeque<Instant>>,
}

impl Status {
    /// In, until something else is found.
    pub(super) fn new(upstream: &config::Upstream, endpoint: &Arc<str>) -> Self {
        let passive = upstream.max_fails.map(|max_fails| Passive {
            max_fails: usize::try_from(max_fails).unwrap_or(usize::MAX),
            fail_timeout: upstream.fail_timeout,
            failures: Mutex::default(),
        });
        Self {
            upstream: upstream.name.as_str().into(),
            endpoint: Arc::clone(endpoint),
            epoch: Instant::now(),
            failed_checks: AtomicBool::new(false),
            unresolved: AtomicBool::new(false),
            out_until: AtomicU64::new(0),
            back_since: AtomicU64::new(0),
            passive,
            told_out: Mutex::new(false),
        }
    }

    /// Whether nothing speaks against it.
    pub(super) fn is_in(&self) -> bool {
        !self.has_failed_checks() && !self.unresolved.load(Ordering::Acquire) && !self.is_out_by_failures()
    }

    /// Whether active checks took it out.
    pub(super) fn has_failed_checks(&self) -> bool {
        self.failed_checks.load(Ordering::Acquire)
    }

    fn is_out_by_failures(&self) -> bool {
        let until = self.out_until.load(Ordering::Acquire);
        if until == 0 {
            return false;
        }
        if self.moment(Instant::now()) < until {
            return true;
        }
        // Nobody watches the clock for it: whoever looks first brings it back.
        if self.out_until.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.back_since.store(until, Ordering::Release);
            self.tell("fail_timeout has passed");
        }
        false
    }

    /// When it last came back after it had been out; `None` if it never was.
    pub(super) fn back_since(&self) -> Option<Instant> {
        let since = self.back_since.load(Ordering::Acquire);
        (since > 0).then(|| self.epoch + Duration::from_nanos(since))
    }

    /// Active checks take it out.
    pub(super) fn checks_failed(&self, reason: &str) {
        self.failed_checks.store(true, Ordering::Release);
        self.tell(reason);
    }

    /// Active checks bring it back. What failed before counts no more.
    pub(super) fn checks_passed(&self) {
        if let Some(passive) = &self.passive {
            lock(&passive.failures).clear();
        }
        self.out_until.store(0, Ordering::Release);
        self.is_back();
        self.failed_checks.store(false, Ordering::Release);
        self.tell("its checks pass again");
    }

    /// Its name has no answer, and never had one.
    pub(super) fn name_failed(&self, reason: &impl std::fmt::Display) {
        self.unresolved.store(true, Ordering::Release);
        self.tell(&format!("its name is not resolved: {reason}"));
    }

    /// Its name has an answer.
    pub(super) fn name_resolved(&self) {
        if self.unresolved.load(Ordering::Acquire) {
            self.is_back();
            self.unresolved.store(false, Ordering::Release);
            self.tell("its name is resolved");
        }
    }

    /// It has just come, or come back.
    pub(super) fn is_back(&self) {
        self.back_since.store(self.moment(Instant::now()), Ordering::Release);
    }

    /// Counts a failure, and takes it out if that is one too many, and others are in.
    pub(super) fn failed(&self, reason: &str, others_are_in: impl FnOnce() -> bool) {
        let Some(passive) = &self.passive else { return };
        // What was under way to it when its checks took it out says nothing new.
        if self.failed_checks.load(Ordering::Acquire) {
            return;
        }
        if self.is_out_by_failures() || !passive.is_one_too_many(Instant::now()) {
            return;
        }
        let _alone = lock(&GOING_OUT);
        // Which two that failed at once may have found both.
        if self.is_out_by_failures() || !others_are_in() {
            return;
        }
        lock(&passive.failures).clear();
        let until = Instant::now() + passive.fail_timeout;
        self.out_until.store(self.moment(until), Ordering::Release);
        self.tell(reason);
    }

    /// In nanoseconds from the epoch; never 0.
    fn moment(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    /// Logs whether it is in, if that is not what was said last.
    fn tell(&self, reason: &str) {
        let mut told_out = lock(&self.told_out);
        let is_out = self.has_failed_checks()
            || self.unresolved.load(Ordering::Acquire)
            || self.moment(Instant::now()) < self.out_until.load(Ordering::Acquire);
        if std::mem::replace(&mut *told_out, is_out) == is_out {
            return;
        }
        if is_out {
            tracing::warn!(upstream = %self.upstream, endpoint = %self.endpoint, reason, "server is out");
        } else {
            tracing::info!(upstream = %self.upstream, endpoint = %self.endpoint, reason, "server is in again");
        }
    }
}

#[cfg(test)]
impl Status {
    /// As if it had come back so long ago, and had been made before that.
    pub(super) fn set_back(&mut self, ago: Duration) {
        let now = Instant::now();
        self.epoch = now.checked_sub(ago + Duration::from_secs(1)).unwrap();
        *self.back_since.get_mut() = self.moment(now.checked_sub(ago).unwrap());
    }
}

impl Passive {
    /// Counts a failure; whether `max_fails` lie within `fail_timeout`.
    fn is_one_too_many(&self, now: Instant) -> bool {
        let mut failures = lock(&self.failures);
        failures.retain(|at| now.saturating_duration_since(*at) < self.fail_timeout);
        if failures.len() >= self.max_fails {
            failures.pop_front();
        }
        failures.push_back(now);
        failures.len() >= self.max_fails
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::upstream::tests::upstream;

    fn status(max_fails: u32) -> Status {
        let config = config::Upstream { max_fails: Some(max_fails), ..upstream(Vec::new()) };
        Status::new(&config, &"server".into())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn so_many_failures_within_the_time_take_it_out_for_the_time() {
        let status = status(3);
        for _ in 0..2 {
            status.failed("refused", || true);
            assert!(status.is_in());
            advance(SECOND).await;
        }
        status.failed("refused", || true);
        assert!(!status.is_in() && !status.has_failed_checks());
        assert_eq!(status.back_since(), None);
        advance(Duration::from_millis(9999)).await;
        status.failed("tried all the same", || true);
        assert!(!status.is_in());
        let back = Instant::now() + Duration::from_millis(1);
        advance(SECOND * 2).await;
        assert!(status.is_in());
        assert_eq!(status.back_since(), Some(back));
        status.failed("refused", || true);
        status.failed("refused", || true);
        assert!(status.is_in(), "it counts anew");
        status.failed("refused", || true);
        assert!(!status.is_in());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_count_for_nothing() {
        let status = status(2);
        for _ in 0..10 {
            status.failed("refused", || true);
            advance(SECOND * 10).await;
            assert!(status.is_in());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_stays_until_others_are_in() {
        let status = status(2);
        for _ in 0..5 {
            status.failed("refused", || false);
            assert!(status.is_in());
        }
        status.failed("refused", || true);
        assert!(!status.is_in());
    }

    #[tokio::test(start_paused = true)]
    async fn max_fails_off_takes_none_out() {
        let status = Status::new(&upstream(Vec::new()), &"server".into());
        for _ in 0..1000 {
            status.failed("refused", || true);
        }
        assert!(status.is_in());
    }

    #[tokio::test(start_paused = true)]
    async fn checks_take_it_out_for_good_and_bring_it_back_with_a_clean_slate() {
        let status = status(1);
        status.failed("refused", || true);
        status.checks_failed("refused");
        advance(SECOND * 100).await;
        assert!(!status.is_in() && status.has_failed_checks());
        status.failed("refused", || true);
        status.checks_passed();
        assert!(status.is_in());
        assert_eq!(status.back_since(), Some(Instant::now()));
    }

    /// What is logged meanwhile: the reasons, each with whether it was out by then.
    async fn told(happens: impl Future<Output = ()>) -> Vec<String> {
        let text = logged(happens).await;
        let line = |line: &str| line.split(" server is ").nth(1).map(|told| told[..3].trim().to_owned());
        text.lines().filter_map(line).collect()
    }

    /// The lines that this thread logs meanwhile.
    pub(in crate::upstream) async fn logged(happens: impl Future<Output = ()>) -> String {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Lines(Arc::clone(&lines)))
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        happens.await;
        String::from_utf8(lock(&log).clone()).unwrap()
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_out_for_several_reasons_is_told_of_once() {
        let told = told(async {
            let status = status(1);
            status.failed("refused", || true);
            status.checks_failed("refused");
            status.name_failed(&"no answer");
            advance(SECOND * 100).await;
            assert!(!status.is_in());
            status.name_failed(&"no answer");
            status.name_resolved();
            assert!(!status.is_in());
            status.checks_passed();
            assert!(status.is_in());
            status.checks_passed();
            status.name_resolved();
        });
        assert_eq!(told.await, ["out", "in"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_time_is_over_is_told_of_when_it_is_in() {
        let told = told(async {
            let status = status(1);
            for _ in 0..2 {
                status.failed("refused", || true);
                advance(SECOND * 10).await;
                assert!(status.is_in());
            }
            status.checks_failed("refused");
            status.checks_passed();
        });
        assert_eq!(told.await, ["out", "in", "out", "in", "out", "in"]);
    }

    #[test]
    fn of_two_that_fail_at_once_one_stays() {
        for _ in 0..200 {
            let servers = [status(1), status(1)];
            std::thread::scope(|scope| {
                for [one, other] in [[0, 1], [1, 0]] {
                    let servers = &servers;
                    scope.spawn(move || servers[one].failed("refused", || servers[other].is_in()));
                }
            });
            assert_eq!(servers.iter().filter(|status| status.is_in()).count(), 1);
        }
    }
}
