//! Threads beside the workers, each there once there is something for it to do.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
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
    files: Option<JoinHandle<()>>,
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
            *files = Some(Builder::new().name("wsgate-files".into()).spawn(move || watch(&runtime))?);
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
        let threads =
            names.into_iter().chain(health).map(|thread| thread.thread).chain(verifiers).chain(files);
        threads.filter_map(|thread| thread.join().err()).count()
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
