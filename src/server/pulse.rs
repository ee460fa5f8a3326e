//! Whether the threads that serve go on.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::lifecycle::Drain;

/// Asks the workers, of which one accepts, and the thread that looks after accepting for a sign of life. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulse {
    runtimes: Vec<Handle>,
    drain: Drain,
}

impl Pulse {
    pub(super) fn new(runtimes: Vec<Handle>, drain: Drain) -> Self {
        Self { runtimes, drain }
    }

    /// Whether each of them does something that it is given within `patience`; blocks until then. A thread that has ended does
    /// not, unless a drain has begun.
    pub fn beats(&self, patience: Duration) -> bool {
        let (answer, answers) = channel();
        for runtime in &self.runtimes {
            let answer = answer.clone();
            // Where the runtime has ended, this drops the task.
            runtime.spawn(async move { answer.send(()) });
        }
        drop(answer);
        let until = Instant::now() + patience;
        let mut count = 0;
        loop {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => count += 1,
                Err(RecvTimeoutError::Disconnected) => {
                    return count == self.runtimes.len() || self.drain.is_draining();
                }
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::{
        server::{ConfigSource, Server},
        telemetry::AccessSink,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_worker_that_is_stuck_takes_the_pulse_away() {
        let loaded = crate::server::tests::loaded();
        let server = Server::start(loaded, ConfigSource::Own, AccessSink::memory().0).unwrap();
        let pulse = server.handle().pulse();
        assert!(pulse.beats(PATIENCE));
        for runtime in &pulse.runtimes {
            let (stuck, is_stuck) = sync_channel(0);
            let (release, hang) = sync_channel::<()>(0);
            runtime.spawn(async move {
                stuck.send(()).unwrap();
                hang.recv()
            });
            is_stuck.recv().unwrap();
            assert!(!pulse.beats(Duration::from_millis(50)));
            drop(release);
            assert!(pulse.beats(PATIENCE));
        }
        server.handle().shutdown();
        server.wait();
        assert!(pulse.beats(PATIENCE), "what has ended in a drain is not stuck");
    }

    #[test]
    fn a_worker_that_has_ended_too_early_takes_the_pulse_away() {
        let (order, drain) = Drain::new(Duration::ZERO);
        let runtime = crate::server::runtime().unwrap();
        let pulse = Pulse::new(vec![runtime.handle().clone()], drain);
        drop(runtime);
        assert!(!pulse.beats(PATIENCE));
        order.drain();
        assert!(pulse.beats(PATIENCE));
    }
}
