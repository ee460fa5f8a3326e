//! Threads beside the workers, each there once there is something for it to do.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use tokio::runtime::{Handle, Runtime};

use super::{CUT, runtime};
use crate::{
    auth::Verifier,
    config::{Config, ServerAddress},
    connection::Gate,
    lifecycle::Drain,
    upstream::Pool,
};

/// The threads that look names up, check servers and check passwords. A configuration that needs one has it started; it then
/// stays until the gate ends.
#[derive(Debug, Default)]
pub(super) struct Background {
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    /// Asks for the names and records of the pools: the answers belong to no worker, and a busy one must not keep them from being
    /// asked for.
    names: Option<Thread>,
    /// Checks servers until the drain begins.
    health: Option<Thread>,
    /// Check passwords.
    verifiers: Vec<JoinHandle<()>>,
    /// Watches the files that the configuration names.
    files: Option<Watching>,
}

/// A thread that a disk or a socket may hold up, without a bound.
#[derive(Debug)]
struct Watching {
    thread: JoinHandle<()>,
    /// Nobody sends anything: it ends with the thread.
    ended: Receiver<()>,
}

impl Watching {
    fn start(watch: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (ends, ended) = channel::<()>();
        let run = move || {
            let _ends = ends;
            watch();
        };
        Ok(Self { thread: Builder::new().name("wsgate-files".into()).spawn(run)?, ended })
    }

    /// Waits for its end. One that does not come in time ends with the process. `true` if it panicked.
    fn join_within(self, patience: Duration) -> bool {
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("reading files hangs, and is not waited for");
            return false;
        }
        self.thread.join().is_err()
    }
}

/// A thread with a runtime.
#[derive(Debug)]
struct Thread {
    runtime: Handle,
    thread: JoinHandle<()>,
}

impl Thread {
    /// Starts it. It ends when `end` does.
    fn start(name: &str, end: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let run = move || {
            runtime.block_on(end);
            // The C library's look-up of a name, where it is used, can't be called off, and must not keep the process.
            runtime.shutdown_timeout(CUT);
        };
        let thread = Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { runtime: handle, thread })
    }
}

impl Background {
    /// Starts the threads that `config` needs and that are not there yet.
    pub(super) fn prepare(&self, gate: &Gate, config: &Config) -> io::Result<()> {
        let mut threads = self.lock();
        if threads.names.is_none() && has_names(config) {
            threads.names = Some(Thread::start("wsgate-names", shutdown(gate.drain.clone()))?);
        }
        if threads.health.is_none() && config.upstreams.iter().any(|upstream| upstream.health.is_some()) {
            threads.health = Some(Thread::start("wsgate-health", draining(gate.drain.clone()))?);
        }
        if threads.verifiers.is_empty() && has_users(config) {
            threads.verifiers = start_verifiers(&gate.verifier)?;
        }
        Ok(())
    }

    /// Starts the thread that watches files, if it is not there yet.
    pub(super) fn watch(&self, watch: impl FnOnce(&Runtime) + Send + 'static) -> io::Result<()> {
        let files = &mut self.lock().files;
        if files.is_none() {
            let runtime = runtime()?;
            *files = Some(Watching::start(move || watch(&runtime))?);
        }
        Ok(())
    }

    /// Begins to look after these pools, as far as that has not begun. [`Self::prepare`] comes first.
    pub(super) fn look_after(&self, pools: &[Pool]) {
        let threads = self.lock();
        for pool in pools {
            if let Some(names) = &threads.names {
                pool.follow_records().into_iter().for_each(|record| drop(names.runtime.spawn(record)));
            }
            if let Some(health) = &threads.health {
                pool.start_checks(&health.runtime);
            }
        }
    }

    /// Waits for the threads, after the gate was shut down. Returns how many panicked.
    pub(super) fn join(&self, verifier: &Verifier) -> usize {
        verifier.stop();
        let Threads { names, health, verifiers, files } = std::mem::take(&mut *self.lock());
        let threads = names.into_iter().chain(health).map(|thread| thread.thread).chain(verifiers);
        let panicked = threads.filter_map(|thread| thread.join().err()).count();
        panicked + usize::from(files.is_some_and(|files| files.join_within(CUT)))
    }

    /// Held while threads are started, and by nobody who serves.
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn shutdown(drain: Drain) {
    drain.shutdown().await;
}

async fn draining(drain: Drain) {
    drain.draining().await;
}

/// One for every two CPUs, so that guesses leave the others to those who are in.
fn start_verifiers(verifier: &Verifier) -> io::Result<Vec<JoinHandle<()>>> {
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    verifier.start((cpus / 2).max(1))
}

/// Whether there is something to ask a name server for.
fn has_names(config: &Config) -> bool {
    let mut servers = config.upstreams.iter().flat_map(|upstream| &upstream.servers);
    servers.any(|server| match &server.address {
        ServerAddress::Name { .. } | ServerAddress::Srv(_) => true,
        ServerAddress::Inet(_) | ServerAddress::Unix(_) => false,
    })
}

/// Whether passwords have to be checked.
fn has_users(config: &Config) -> bool {
    config.routes.iter().any(|route| route.auth.as_ref().is_some_and(|auth| auth.basic.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_a_disk_holds_up_does_not_hold_up_the_end() {
        let (release, held) = channel::<()>();
        let watching = Watching::start(move || assert!(held.recv().is_err(), "nobody sends")).unwrap();
        assert!(!watching.join_within(Duration::from_millis(1)));
        drop(release);
        let watching = Watching::start(|| panic!("a defect")).unwrap();
        assert!(watching.join_within(Duration::from_secs(20)));
    }
}
