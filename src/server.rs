//! The process: listeners, the thread that accepts, the workers, drain and shutdown.
//!
//! One thread accepts for all listeners and hands each socket to the worker with the fewest open connections; a worker is a
//! thread with a current-thread runtime, and a connection stays with its worker to the end.

mod accept;
mod bind;
mod metrics;
mod worker;

use std::{io, num::NonZeroUsize, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::runtime::{Builder, Runtime};

pub use self::bind::BindError;
use self::{accept::Bound, worker::Worker};
use crate::{
    auth::Verifier,
    config::{self, Config, ListenAddress},
    connection::{Gate, Listener, PoolError, Snapshot, TlsSetupError},
    lifecycle::{Drain, DrainHandle, Permits, TlsPermits, Tracker, raise_fd_limit},
    telemetry::{AccessSink, Metrics},
    tunnel::Totals,
    upstream::{Pool, Surroundings},
};

/// How long connections that were cut may take to be gone.
const CUT: Duration = Duration::from_secs(5);

/// How often a drain tells of its progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// A running gate.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<ListenAddress>,
    listeners: Vec<Arc<Listener>>,
    order: Arc<DrainHandle>,
    gate: Arc<Gate>,
    permits: Permits,
    acceptor: JoinHandle<io::Result<usize>>,
    workers: Vec<Worker>,
    /// Asks for the names and records of the pools, if there are any.
    names: Option<JoinHandle<()>>,
    /// `None` where no server is checked.
    health: Option<JoinHandle<()>>,
    /// Check passwords, where there are any.
    verifiers: Vec<JoinHandle<()>>,
}

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener's TLS.
    #[error("cannot set up the TLS of {address}")]
    Tls {
        /// The listener.
        address: String,
        /// Why.
        #[source]
        source: TlsSetupError,
    },
    /// A pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A thread or its runtime.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

/// How a gate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Connections that were still open when the grace had run out, and were cut.
    pub cut: usize,
    /// Connections that ended in a panic, which is a defect.
    pub panicked: usize,
    /// Accepting failed, and the gate ended for that.
    pub failed: bool,
}

impl Server {
    /// Binds every listener and starts the workers. Returns when connections are accepted.
    pub fn start(config: &Config, access: AccessSink) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for listener in &config.listeners {
            let socket = bind::bind(&listener.address)?;
            let listener = Listener::new(listener, socket.port())
                .map_err(|source| StartError::Tls { address: listener.address.to_string(), source })?;
            bound.push(Bound { socket, listener: Arc::new(listener) });
        }
        let drain_spread = spread(&config.server);
        let (order, drain) = Drain::new(drain_spread);
        let place = Surroundings { workers: config.server.workers.get(), drain: drain.clone(), drain_spread };
        let totals = Arc::new(Totals::new(place.workers));
        let metrics = Arc::<Metrics>::default();
        let gate = Arc::new(Gate {
            snapshot: Arc::new(Snapshot::new(config, &place, &totals, &metrics)?),
            drain,
            access,
            metrics,
            lists_tunnels: config.admin.is_some().into(),
            totals,
            tls_permits: TlsPermits::new(config.server.max_tls_handshakes),
            verifier: Verifier::default(),
            redact: config.log.redact.clone().into(),
        });
        let open = order.open().clone();
        let workers = (0..config.server.workers.get())
            .map(|id| Worker::start(id, &gate, &open))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Worker)?;
        let names = start_names(&gate).map_err(StartError::Worker)?;
        let permits = Permits::new(fitting(config.server.max_connections));
        let order = Arc::new(order);
        let addresses = bound.iter().map(|bound| bound.socket.address()).collect();
        let listeners = bound.iter().map(|bound| Arc::clone(&bound.listener)).collect();
        let acceptor = accept::Acceptor {
            gate: Arc::clone(&gate),
            permits: permits.clone(),
            workers: workers.iter().map(Worker::handle).collect(),
            open,
        };
        let health = start_checks(&gate).map_err(StartError::Worker)?;
        let verifiers = start_verifiers(&gate).map_err(StartError::Worker)?;
        let acceptor = start_acceptor(acceptor, bound, Arc::clone(&order), config.server.shutdown_grace)?;
        Ok(Self { addresses, listeners, order, gate, permits, acceptor, workers, names, health, verifiers })
    }

    /// Where it listens; a port that was 0 is the one that it got.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// Gives orders to this gate from elsewhere.
    pub fn order(&self) -> Arc<DrainHandle> {
        Arc::clone(&self.order)
    }

    /// Downstream connections that are open.
    pub fn connections(&self) -> usize {
        self.permits.in_use()
    }

    /// TLS handshakes in flight.
    pub fn tls_handshakes(&self) -> usize {
        self.gate.tls_permits.in_use()
    }

    /// Leases that are out at the upstreams.
    pub fn leases(&self) -> usize {
        self.gate.snapshot.pools().iter().map(Pool::open).sum()
    }

    /// Places that are taken under `max_connections_per_ip` and `max_tunnels`.
    pub fn places(&self) -> usize {
        let clients: usize = self.listeners.iter().map(|listener| listener.client_places()).sum();
        clients + self.gate.snapshot.route_places()
    }

    /// Connections far over `max_connections_per_ip`, which were cut without an answer, so far.
    pub fn cut_unanswered(&self) -> u64 {
        self.listeners.iter().map(|listener| listener.cut()).sum()
    }

    /// What is counted and what is there now, as `OpenMetrics` text.
    pub fn metrics(&self) -> String {
        metrics::encode(&self.gate, &self.permits, &self.listeners, &self.order)
    }

    /// Waits for the end, which [`Self::order`] begins.
    pub fn wait(self) -> Outcome {
        let accepted = self.acceptor.join();
        // If accepting panicked, nobody else gives the order that the workers wait for.
        self.order.shutdown();
        let mut panicked = usize::from(accepted.is_err());
        for worker in self.workers {
            panicked += worker.join();
        }
        panicked += usize::from(self.names.is_some_and(|names| names.join().is_err()));
        panicked += self.health.map_or(0, |health| usize::from(health.join().is_err()));
        self.gate.verifier.stop();
        panicked += self.verifiers.into_iter().filter_map(|verifier| verifier.join().err()).count();
        for pool in self.gate.snapshot.pools() {
            pool.close_idle();
        }
        self.gate.access.flush();
        let cut = accepted.unwrap_or_else(|_| Err(io::Error::other("panicked")));
        Outcome { failed: cut.is_err(), cut: cut.unwrap_or(0), panicked }
    }
}

/// What of `max_connections` fits the limit of file descriptors, which is raised first.
fn fitting(max_connections: usize) -> usize {
    let fits = raise_fd_limit();
    if fits < max_connections {
        tracing::info!(
            max_connections,
            lowered_to = fits,
            "max_connections does not fit the limit of file descriptors"
        );
    }
    max_connections.min(fits)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Starts the thread that asks for the names and SRV records of all pools, where there are some: the answers belong to no worker,
/// and a busy one must not keep them from being asked for. It ends with the gate.
fn start_names(gate: &Gate) -> io::Result<Option<JoinHandle<()>>> {
    let records: Vec<_> = gate.snapshot.pools().iter().flat_map(Pool::follow_records).collect();
    if records.is_empty() {
        return Ok(None);
    }
    let (runtime, drain) = (runtime()?, gate.drain.clone());
    let run = move || {
        runtime.block_on(async {
            for record in records {
                tokio::spawn(record);
            }
            drain.shutdown().await;
        });
        // The C library's look-up of a name, where it is used, can't be called off, and must not keep the process.
        runtime.shutdown_timeout(CUT);
    };
    std::thread::Builder::new().name("wsgate-names".into()).spawn(run).map(Some)
}

/// Starts the thread that accepts until the drain begins, and then watches over the drain's time.
fn start_acceptor(
    acceptor: accept::Acceptor,
    bound: Vec<Bound>,
    order: Arc<DrainHandle>,
    grace: Option<Duration>,
) -> Result<JoinHandle<io::Result<usize>>, StartError> {
    let runtime = runtime().map_err(StartError::Worker)?;
    let run = move || {
        runtime.block_on(async {
            let open = acceptor.open.clone();
            let accepted = acceptor.run(bound).await;
            if let Err(error) = &accepted {
                tracing::error!(%error, "accepting has ended");
                order.drain();
            }
            let cut = drain(&open, &order, grace).await;
            accepted.map(|()| cut)
        })
    };
    std::thread::Builder::new().name("wsgate-accept".into()).spawn(run).map_err(StartError::Worker)
}

/// Starts the thread that checks servers until the drain begins, if there are some to check.
fn start_checks(gate: &Gate) -> io::Result<Option<JoinHandle<()>>> {
    if gate.snapshot.pools().iter().all(|pool| pool.config().health.is_none()) {
        return Ok(None);
    }
    let runtime = runtime()?;
    for pool in gate.snapshot.pools() {
        pool.start_checks(runtime.handle());
    }
    let drain = gate.drain.clone();
    let run = move || {
        runtime.block_on(drain.draining());
        // A look-up of a name can't be called off, and must not keep the process.
        runtime.shutdown_timeout(CUT);
    };
    std::thread::Builder::new().name("wsgate-health".into()).spawn(run).map(Some)
}

/// Starts the threads that check passwords, if there are some to check: one for every two CPUs, so that guesses leave the
/// others to those who are in.
fn start_verifiers(gate: &Gate) -> io::Result<Vec<JoinHandle<()>>> {
    if !gate.snapshot.has_users() {
        return Ok(Vec::new());
    }
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    gate.verifier.start((cpus / 2).max(1))
}

/// The window of a drain's Close frames: within the grace there must be time left for their answers.
fn spread(server: &config::Server) -> Duration {
    server.shutdown_grace.map_or(server.drain_spread, |grace| server.drain_spread.min(grace / 2))
}

/// Waits until nothing is open any more, the grace is over, or somebody cuts it short; then cuts. Returns how many it cut.
async fn drain(open: &Tracker, order: &DrainHandle, grace: Option<Duration>) -> usize {
    let began = order.began_with();
    tracing::info!(open = began, "draining");
    let signal = order.signal();
    let expired = async {
        match grace {
            Some(grace) => tokio::time::sleep(grace).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = open.empty() => {}
        () = expired => {}
        () = signal.hurried() => {}
        () = report_progress(open, began) => {}
    }
    let cut = open.count();
    let drained = began.saturating_sub(cut);
    if cut > 0 {
        tracing::warn!(drained, cut, "cutting what is still open");
    } else if began > 0 {
        tracing::info!(drained, cut, "drained");
    }
    order.shutdown();
    cut
}

/// Tells now and then how far the drain has come. Never ends.
async fn report_progress(open: &Tracker, began: usize) {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let open = open.count();
        tracing::info!(open, drained = began.saturating_sub(open), "draining");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::config::Source;

    pub(super) fn config() -> Config {
        let text =
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 200, body = \"\" }\n";
        let source = Source { name: "test".into(), text: text.into(), folder: ".".into() };
        Config::parse(&source, &|_| None).unwrap().config
    }

    /// Waits for the end of a gate to which nobody gives an order.
    fn outcome(server: Server) -> Outcome {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(server.wait()));
        told.recv_timeout(Duration::from_secs(20)).expect("the gate ends by itself")
    }

    #[test]
    fn a_gate_whose_listeners_have_ended_ends_as_failed() {
        let mut config = config();
        // To whoever awaits them, listeners that are gone are as if there had been none.
        config.listeners.clear();
        let server = Server::start(&config, AccessSink::memory().0).unwrap();
        assert_eq!(outcome(server), Outcome { cut: 0, panicked: 0, failed: true });
    }

    #[test]
    fn a_gate_whose_accepting_thread_panicked_ends_as_failed() {
        let mut server = Server::start(&config(), AccessSink::memory().0).unwrap();
        let accepts = std::mem::replace(&mut server.acceptor, std::thread::spawn(|| panic!("a defect")));
        assert_eq!(outcome(server), Outcome { cut: 0, panicked: 1, failed: true });
        accepts.join().unwrap().unwrap();
    }
}
