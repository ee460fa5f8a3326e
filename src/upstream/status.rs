//! Whether a server is in: what active checks and passive counts say of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{
    lock,
    site::Load,
    streak::Checks,
    view::{CheckView, EndpointState, FailureView, Standing},
};
use crate::config::{self, Health, OnRemoved};

/// Held while a server goes out by its failures, so that of the last two in one stays. Nobody else waits for it.
static GOING_OUT: Mutex<()> = Mutex::new(());

/// So much is kept of what was said of a failure, in bytes.
const MOST_REASON: usize = 200;

/// The health of one server. What a choice among servers reads of it takes no lock.
#[derive(Debug)]
pub(super) struct Status {
    upstream: Arc<str>,
    endpoint: Arc<str>,
    passive: Option<Passive>,
    known: Arc<Known>,
    load: Arc<Load>,
    asked: Option<Health>,
    pub(super) checks: Checks,
}

/// What is known of a server under all configurations that have it.
///
/// Of what keeps it out there stands since when; 0 is not at all.
#[derive(Debug)]
struct Known {
    /// The moments below count from it.
    epoch: Instant,
    failed_checks: AtomicU64,
    /// Its name has no answer, so that there is nowhere to go.
    unresolved: AtomicU64,
    /// An administrator took it out.
    withdrawn: AtomicU64,
    /// What was to become of its tunnels then.
    tunnels: Mutex<OnRemoved>,
    out_since: AtomicU64,
    /// Until then it is out by its failures; 0 if it is not.
    out_until: AtomicU64,
    /// 0 if it never was out.
    back_since: AtomicU64,
    /// The last failures, at most `max_fails` of them.
    failures: Mutex<VecDeque<Instant>>,
    /// What was said of it last: a server that is out for two reasons goes out, and comes back, once.
    told_out: Mutex<bool>,
    last_failure: ArcSwapOption<Failure>,
    last_check: ArcSwapOption<Check>,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    at: Instant,
}

#[derive(Debug)]
struct Check {
    passed: bool,
    took: Duration,
    at: Instant,
}

/// `max_fails` and `fail_timeout`.
#[derive(Debug)]
struct Passive {
    max_fails: usize,
    fail_timeout: Duration,
}

impl Status {
    /// In, until something else is found.
    pub(super) fn new(upstream: &config::Upstream, endpoint: &Arc<str>, load: &Arc<Load>) -> Self {
        let known = Known {
            epoch: Instant::now(),
            failed_checks: AtomicU64::new(0),
            unresolved: AtomicU64::new(0),
            withdrawn: AtomicU64::new(0),
            tunnels: Mutex::new(OnRemoved::Keep),
            out_since: AtomicU64::new(0),
            out_until: AtomicU64::new(0),
            back_since: AtomicU64::new(0),
            failures: Mutex::default(),
            told_out: Mutex::new(false),
            last_failure: ArcSwapOption::empty(),
            last_check: ArcSwapOption::empty(),
        };
        Self::with(Arc::new(known), Checks::default(), upstream, endpoint, load)
    }

    /// The same server's under another configuration: whatever the one finds, the other knows.
    pub(super) fn under(&self, upstream: &config::Upstream) -> Self {
        let is_alike = is_checked_alike(self.asked.as_ref(), upstream.health.as_ref());
        let checks = if is_alike { self.checks.clone() } else { Checks::default() };
        Self::with(Arc::clone(&self.known), checks, upstream, &self.endpoint, &self.load)
    }

    fn with(
        known: Arc<Known>,
        checks: Checks,
        upstream: &config::Upstream,
        endpoint: &Arc<str>,
        load: &Arc<Load>,
    ) -> Self {
        let passive = upstream.max_fails.map(|max_fails| Passive {
            max_fails: usize::try_from(max_fails).unwrap_or(usize::MAX),
            fail_timeout: upstream.fail_timeout,
        });
        Self {
            upstream: upstream.name.as_str().into(),
            endpoint: Arc::clone(endpoint),
            passive,
            known,
            load: Arc::clone(load),
            asked: upstream.health.clone(),
            checks,
        }
    }

    /// Whether nothing speaks against it.
    pub(super) fn is_in(&self) -> bool {
        !self.is_barred() && !self.is_unresolved() && !self.is_out_by_failures()
    }

    /// Whether nobody tries it, even if all others are out.
    pub(super) fn is_barred(&self) -> bool {
        self.has_failed_checks() || self.is_withdrawn()
    }

    /// Whether active checks took it out.
    pub(super) fn has_failed_checks(&self) -> bool {
        self.known.failed_checks.load(Ordering::Acquire) > 0
    }

    fn is_withdrawn(&self) -> bool {
        self.known.withdrawn.load(Ordering::Acquire) > 0
    }

    /// What was to become of its tunnels when an administrator took it out; `None` if it is not taken out.
    pub(super) fn withdrawn(&self) -> Option<OnRemoved> {
        self.is_withdrawn().then(|| *lock(&self.known.tunnels))
    }

    fn is_unresolved(&self) -> bool {
        self.known.unresolved.load(Ordering::Acquire) > 0
    }

    fn is_out_by_failures(&self) -> bool {
        let until = self.known.out_until.load(Ordering::Acquire);
        if until == 0 || self.passive.is_none() {
            return false;
        }
        if self.moment(Instant::now()) < until {
            return true;
        }
        // Nobody watches the clock for it: whoever looks first brings it back.
        if self.known.out_until.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.known.back_since.store(until, Ordering::Release);
            self.tell("fail_timeout has passed");
        }
        false
    }

    /// When it last came back after it had been out; `None` if it never was.
    pub(super) fn back_since(&self) -> Option<Instant> {
        self.instant(self.known.back_since.load(Ordering::Acquire))
    }

    /// Active checks take it out.
    pub(super) fn checks_failed(&self, reason: &str) {
        self.known.failed_checks.store(self.moment(Instant::now()), Ordering::Release);
        self.tell(reason);
    }

    /// Active checks bring it back. What failed before counts no more.
    pub(super) fn checks_passed(&self) {
        self.forgive();
        self.known.failed_checks.store(0, Ordering::Release);
        self.tell("its checks pass again");
    }

    /// It is checked in another way from now on, or not at all: what was found before says nothing.
    pub(super) fn forget_checks(&self) {
        self.known.last_check.store(None);
        if self.has_failed_checks() {
            self.is_back();
            self.known.failed_checks.store(0, Ordering::Release);
        }
    }

    /// Says what another configuration may have changed.
    pub(super) fn is_reconfigured(&self) {
        self.tell("its configuration has changed");
    }

    /// An administrator takes it out.
    pub(super) fn withdraw(&self, tunnels: OnRemoved) {
        *lock(&self.known.tunnels) = tunnels;
        if !self.is_withdrawn() {
            self.known.withdrawn.store(self.moment(Instant::now()), Ordering::Release);
        }
        let tunnels = match tunnels {
            OnRemoved::Keep => "keep",
            OnRemoved::Drain => "drain",
            OnRemoved::Close => "close",
        };
        tracing::warn!(upstream = %self.upstream, endpoint = %self.endpoint, tunnels, "an administrator took a server out");
    }

    /// The administrator brings it back; what failed before counts no more, but for its checks.
    pub(super) fn restore(&self) {
        if self.is_withdrawn() {
            self.forgive();
            self.known.withdrawn.store(0, Ordering::Release);
            self.tell("an administrator brought it back");
            tracing::info!(upstream = %self.upstream, endpoint = %self.endpoint, "an administrator brought a server back");
        }
    }

    fn forgive(&self) {
        lock(&self.known.failures).clear();
        self.known.out_until.store(0, Ordering::Release);
        self.is_back();
    }

    /// Its name has no answer, and never had one.
    pub(super) fn name_failed(&self, reason: &impl std::fmt::Display) {
        let reason = format!("its name is not resolved: {reason}");
        self.note_failure(&reason);
        if !self.is_unresolved() {
            self.known.unresolved.store(self.moment(Instant::now()), Ordering::Release);
        }
        self.tell(&reason);
    }

    /// Its name has an answer.
    pub(super) fn name_resolved(&self) {
        if self.is_unresolved() {
            self.is_back();
            self.known.unresolved.store(0, Ordering::Release);
            self.tell("its name is resolved");
        }
    }

    /// It has just come, or come back.
    pub(super) fn is_back(&self) {
        self.known.back_since.store(self.moment(Instant::now()), Ordering::Release);
    }

    /// Counts a failure, and takes it out if that is one too many, and others are in.
    pub(super) fn failed(&self, reason: &str, others_are_in: impl FnOnce() -> bool) {
        self.note_failure(reason);
        let Some(passive) = &self.passive else { return };
        // What was under way to it when its checks took it out says nothing new.
        if self.has_failed_checks() {
            return;
        }
        let now = Instant::now();
        if self.is_out_by_failures() || !passive.is_one_too_many(&mut lock(&self.known.failures), now) {
            return;
        }
        let _alone = lock(&GOING_OUT);
        // Which two that failed at once may have found both.
        if self.is_out_by_failures() || !others_are_in() {
            return;
        }
        lock(&self.known.failures).clear();
        let now = Instant::now();
        self.known.out_since.store(self.moment(now), Ordering::Release);
        self.known.out_until.store(self.moment(now + passive.fail_timeout), Ordering::Release);
        self.tell(reason);
    }

    fn note_failure(&self, reason: &str) {
        let fits = (0..=MOST_REASON.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
        let reason = reason[..fits.unwrap_or(0)].to_owned();
        self.known.last_failure.store(Some(Arc::new(Failure { reason, at: Instant::now() })));
    }

    /// Notes an active check that took so long; `Err` says why the server did not pass.
    pub(super) fn note_check(&self, result: Result<(), &str>, took: Duration) {
        let counts = &self.load.counts;
        match result {
            Ok(()) => counts.checks_passed.add(1),
            Err(reason) => {
                counts.checks_failed.add(1);
                self.note_failure(reason);
            }
        }
        let check = Check { passed: result.is_ok(), took, at: Instant::now() };
        self.known.last_check.store(Some(Arc::new(check)));
    }

    pub(super) fn last_failure(&self) -> Option<FailureView> {
        let failure = self.known.last_failure.load_full()?;
        Some(FailureView { reason: failure.reason.clone(), ago_s: failure.at.elapsed().as_secs_f64() })
    }

    pub(super) fn last_check(&self) -> Option<CheckView> {
        let Check { passed, took, at } = *self.known.last_check.load_full()?;
        Some(CheckView { passed, took_s: took.as_secs_f64(), ago_s: at.elapsed().as_secs_f64() })
    }

    /// What it comes to.
    pub(super) fn state(&self) -> Standing {
        let Known { withdrawn, failed_checks, unresolved, out_since, out_until, back_since, .. } =
            &*self.known;
        let is_out_by_failures = self.is_out_by_failures();
        let (state, since) = if self.is_withdrawn() {
            (EndpointState::DrainedByAdmin, withdrawn)
        } else if self.has_failed_checks() {
            (EndpointState::OutByChecks, failed_checks)
        } else if self.is_unresolved() {
            (EndpointState::Unresolved, unresolved)
        } else if is_out_by_failures {
            (EndpointState::OutByFailures, out_since)
        } else {
            (EndpointState::In, back_since)
        };
        let until = self.instant(out_until.load(Ordering::Acquire));
        let back_in = until.map(|until| until.saturating_duration_since(Instant::now()));
        Standing {
            state,
            holds_for: self.instant(since.load(Ordering::Acquire)).map(|since| since.elapsed()),
            back_in: back_in.filter(|_| state == EndpointState::OutByFailures),
        }
    }

    /// In nanoseconds from the epoch; never 0.
    fn moment(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.known.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    fn instant(&self, moment: u64) -> Option<Instant> {
        (moment > 0).then(|| self.known.epoch + Duration::from_nanos(moment))
    }

    /// Logs whether it is in, if that is not what was said last. An administrator's doing is told of by itself.
    fn tell(&self, reason: &str) {
        let mut told_out = lock(&self.known.told_out);
        let until = self.known.out_until.load(Ordering::Acquire);
        let is_out = self.has_failed_checks()
            || self.is_unresolved()
            || self.passive.is_some() && self.moment(Instant::now()) < until;
        if std::mem::replace(&mut *told_out, is_out) == is_out {
            return;
        }
        if is_out {
            self.load.counts.times_out.add(1);
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
        let known = Arc::get_mut(&mut self.known).unwrap();
        known.epoch = now.checked_sub(ago + Duration::from_secs(1)).unwrap();
        self.known.back_since.store(self.moment(now.checked_sub(ago).unwrap()), Ordering::Release);
    }
}

/// Whether what checks have found still holds.
pub(super) fn is_checked_alike(one: Option<&Health>, other: Option<&Health>) -> bool {
    let what = |health: Option<&Health>| {
        let Health { check, path, host, headers, subprotocol, expect_status, ping, .. } = health?.clone();
        Some((check, path, host, headers, subprotocol, expect_status, ping))
    };
    what(one) == what(other)
}

impl Passive {
    /// Counts a failure; whether `max_fails` lie within `fail_timeout`.
    fn is_one_too_many(&self, failures: &mut VecDeque<Instant>, now: Instant) -> bool {
        failures.retain(|at| now.saturating_duration_since(*at) < self.fail_timeout);
        // More than one where `max_fails` was larger before.
        while !failures.is_empty() && failures.len() >= self.max_fails {
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
        Status::new(&config, &"server".into(), &Arc::new(Load::new(&"server".into())))
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
        let status =
            Status::new(&upstream(Vec::new()), &"server".into(), &Arc::new(Load::new(&"server".into())));
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
