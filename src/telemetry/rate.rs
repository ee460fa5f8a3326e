//! Log lines that would repeat without end.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tracing::Level;

const PERIOD: Duration = Duration::from_secs(1);
/// Behind a line, the next one has so long to say what was left out between them.
pub(super) const TELL_AFTER: Duration = Duration::from_secs(2);

/// Lets one line a second through and counts the others. One for each place that logs.
///
/// The next line says how many were left out before it; where none comes within two seconds, a line of its own does.
#[derive(Debug)]
pub struct RateLimited {
    level: Level,
    line: &'static str,
    state: OnceLock<Arc<State>>,
}

/// What the thread that writes events can look at when nobody else does any more.
#[derive(Debug)]
struct State {
    level: Level,
    line: &'static str,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    last: Option<Instant>,
    left_out: u64,
}

/// Those that have left out lines of which nobody knows yet.
static UNTOLD: Mutex<Vec<Arc<State>>> = Mutex::new(Vec::new());

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RateLimited {
    /// One for a line of this level that begins so; it has let nothing through yet.
    pub const fn new(level: Level, line: &'static str) -> Self {
        Self { level, line, state: OnceLock::new() }
    }

    /// Calls `log` with the number of lines that were left out since the last one, unless this one is left out too.
    pub fn warn(&self, log: impl FnOnce(u64)) {
        let new = || Arc::new(State { level: self.level, line: self.line, counts: Mutex::default() });
        let state = self.state.get_or_init(new);
        let now = Instant::now();
        let mut counts = lock(&state.counts);
        if counts.last.is_some_and(|last| now < last + PERIOD) {
            counts.left_out += 1;
            let is_first = counts.left_out == 1;
            drop(counts);
            if is_first {
                lock(&UNTOLD).push(Arc::clone(state));
            }
            return;
        }
        counts.last = Some(now);
        let left_out = std::mem::take(&mut counts.left_out);
        drop(counts);
        log(left_out);
    }
}

impl State {
    /// What it left out, if its last line was long enough ago, or `at_once`.
    fn take(&self, at_once: bool) -> u64 {
        let mut counts = lock(&self.counts);
        let is_due = at_once || counts.last.is_none_or(|last| last + TELL_AFTER <= Instant::now());
        if is_due { std::mem::take(&mut counts.left_out) } else { 0 }
    }

    fn has_left_out(&self) -> bool {
        lock(&self.counts).left_out > 0
    }
}

/// Logs how many lines were left out where no further line has said so.
pub(super) fn tell_what_was_left_out(at_once: bool) {
    let mut told = Vec::new();
    lock(&UNTOLD).retain(|state| {
        let left_out = state.take(at_once);
        if left_out > 0 {
            told.push((Arc::clone(state), left_out));
        }
        state.has_left_out()
    });
    for (state, skipped) in told {
        let line = state.line;
        match state.level {
            Level::ERROR => tracing::error!(line, skipped, "lines left out"),
            Level::WARN => tracing::warn!(line, skipped, "lines left out"),
            _ => tracing::info!(line, skipped, "lines left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    static LINE: RateLimited = RateLimited::new(Level::WARN, "a line of this test");

    /// What this thread logs meanwhile.
    fn logged(happens: impl FnOnce()) -> String {
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                lock(&self.0).extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Lines(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(subscriber, happens);
        String::from_utf8(lock(&lines).clone()).expect("text")
    }

    #[test]
    fn s3_what_is_left_out_is_told_though_no_further_line_comes() {
        let mut let_through = Vec::new();
        for _ in 0..5 {
            LINE.warn(|skipped| let_through.push(skipped));
        }
        assert_eq!(let_through, [0]);
        let told = logged(|| tell_what_was_left_out(true));
        let line = "lines left out line=\"a line of this test\" skipped=4\n";
        assert!(told.contains("WARN") && told.contains(line), "{told}");
        let told = logged(|| tell_what_was_left_out(true));
        assert!(!told.contains("a line of this test"), "once: {told}");
    }
}
