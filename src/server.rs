//! The process: listeners, the workers, drain and shutdown.
//!
//! A worker is a thread with a current-thread runtime. The first accepts for all listeners and hands each socket to the one with
//! the fewest open connections, where the connection stays to its end.

mod accept;
mod background;
mod bind;
mod ending;
mod files;
mod handle;
mod handover;
mod inherit;
mod metrics;
mod pulse;
mod reload;
mod worker;

use std::{io, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinSet,
};

use self::{
    accept::{Acceptor, Bound, Change},
    background::Background,
    worker::Worker,
};
pub use self::{
    bind::{BindError, Listening, UnixPath, bind_private},
    handle::{Ending, Follower, Readiness, ServerHandle, Status, Usage},
    handover::{HandoverError, Lent, Sockets, Succession, TookOver},
    inherit::Inherited,
    pulse::Pulse,
    reload::{Changes, LastReload, ReloadError, ReloadReport},
};
use crate::{
    auth::Verifier,
    config::{self, Config, ListenAddress, Loaded},
    connection::{Gate, SetUpError, Setting, Snapshot},
    lifecycle::{Drain, DrainHandle, Permits, TlsPermits, raise_fd_limit},
    telemetry::AccessSink,
    tunnel::Totals,
    upstream::Surroundings,
};

/// How long connections that were cut may take to be gone.
const CUT: Duration = Duration::from_secs(5);

/// A running gate.
#[derive(Debug)]
pub struct Server {
    handle: ServerHandle,
    acceptor: JoinHandle<io::Result<usize>>,
    workers: Vec<Worker>,
}

/// Where a configuration comes from, to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// This file.
    File(PathBuf),
    /// wsgate wrote it itself: nothing can be read again but the files that it names.
    Own,
}

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
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
    /// Binds every listener and starts the workers. Returns when connections are accepted. A reload reads the configuration from
    /// `source`.
    pub fn start(loaded: Loaded, source: ConfigSource, access: AccessSink) -> Result<Self, StartError> {
        Self::start_with(loaded, source, access, &Inherited::default())
    }

    /// [`Self::start`] with the sockets that were inherited, where they are those of listeners. If they are a predecessor's yet,
    /// nothing is accepted before it lets go.
    pub fn start_with(
        loaded: Loaded,
        source: ConfigSource,
        access: AccessSink,
        inherited: &Inherited,
    ) -> Result<Self, StartError> {
        let Loaded { config, source: text, .. } = loaded;
        let config = Arc::new(config);
        let accepting = runtime().map_err(StartError::Worker)?;
        let runtimes = (0..config.server.workers.get()).map(|_| runtime()).collect::<io::Result<Vec<_>>>();
        let runtimes = runtimes.map_err(StartError::Worker)?;
        let sockets = Arc::<Sockets>::default();
        if inherited.is_lent() {
            sockets.hold_back();
        }
        let bound = bind_all(&config, &runtimes[0], inherited, &sockets)?;
        let (gate, order) = set_up(&config, &bound, access)?;
        let permits = Permits::new(fitting(config.server.max_connections));
        let workers = (0..)
            .zip(runtimes)
            .map(|(id, runtime)| Worker::start(id, runtime, &gate, order.open()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Worker)?;
        let background = Background::default();
        background.prepare(&gate, &config).map_err(StartError::Worker)?;
        background.look_after(gate.current.load().pools());
        let acceptor = Acceptor {
            runtime: workers[0].runtime().clone(),
            gate: Arc::clone(&gate),
            permits: permits.clone(),
            workers: workers.iter().map(Worker::handle).collect(),
            sockets: Arc::clone(&sockets),
        };
        let (changes, ordered) = mpsc::unbounded_channel();
        let runtimes = workers.iter().map(|worker| worker.runtime().clone()).collect();
        let entrance = accepting.handle().clone();
        let doors = handle::Doors { accepting: entrance, changes, workers: runtimes, sockets };
        let order = Arc::new(order);
        let handle = ServerHandle::new(gate, permits, Arc::clone(&order), background, doors, (source, text));
        let acceptor = start_acceptor(accepting, acceptor, (bound, ordered), order)?;
        handle.watch_files().map_err(StartError::Worker)?;
        Ok(Self { handle, acceptor, workers })
    }

    /// What tells of this gate and gives it orders, from anywhere.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Where it listens, in the order of the file; a port that was 0 is the one that it got.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.handle.addresses()
    }

    /// Waits for the end, which [`ServerHandle::drain`] begins.
    pub fn wait(self) -> Outcome {
        let accepted = self.acceptor.join();
        let shared = &*self.handle.shared;
        // If accepting panicked, nobody else gives the order that the workers wait for.
        shared.order.shutdown();
        shared.doors.sockets.withdraw();
        let mut panicked = usize::from(accepted.is_err());
        for worker in self.workers {
            panicked += worker.join();
        }
        panicked += shared.background.join(&shared.gate.verifier);
        for pool in shared.gate.current.load().pools() {
            pool.close_idle();
        }
        shared.gate.access.flush();
        let cut = accepted.unwrap_or_else(|_| Err(io::Error::other("panicked")));
        Outcome { failed: cut.is_err(), cut: cut.unwrap_or(0), panicked }
    }
}

/// What all connections share, and what gives them the order to end.
fn set_up(
    config: &Arc<Config>,
    bound: &[Bound],
    access: AccessSink,
) -> Result<(Arc<Gate>, DrainHandle), SetUpError> {
    let (order, drain) = Drain::new(ending::spread(&config.server));
    let (totals, metrics) = (Arc::new(Totals::new(config.server.workers.get())), Arc::default());
    let at = bound.iter().map(|bound| Arc::clone(&bound.at)).collect();
    let setting = Setting { place: surroundings(&drain, config), totals: &totals, metrics: &metrics };
    let snapshot = Snapshot::new(Arc::clone(config), at, &setting, None)?;
    let gate = Gate {
        current: ArcSwap::from_pointee(snapshot),
        drain,
        access,
        metrics,
        lists_tunnels: config.admin.is_some().into(),
        totals,
        tls_permits: TlsPermits::new(config.server.max_tls_handshakes),
        verifier: Verifier::default(),
    };
    Ok((Arc::new(gate), order))
}

/// What pools and routes know of this process.
fn surroundings(drain: &Drain, config: &Config) -> Surroundings {
    Surroundings {
        workers: config.server.workers.get(),
        drain: drain.clone(),
        drain_spread: ending::spread(&config.server),
    }
}

/// Binds every listener of `config`, watched by `runtime`, but for those that have their socket already.
fn bind_all(
    config: &Config,
    runtime: &Runtime,
    inherited: &Inherited,
    sockets: &Sockets,
) -> Result<Vec<Bound>, StartError> {
    let _entered = runtime.enter();
    let bind = |listener: &config::Listener| {
        bind::bind(&listener.address, inherited).and_then(|listening| Bound::new(listening, sockets))
    };
    Ok(config.listeners.iter().map(bind).collect::<Result<_, _>>()?)
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

/// Events that a runtime takes from the kernel at once: more than there are sockets on nearly every worker, so that behind its turn it
/// knows of all that had come (rule H14). Of the 768 KiB those pages alone are in memory that a turn has filled.
const EVENTS: usize = 64 * 1024;

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_io_events_per_tick(EVENTS).build()
}

/// Starts the thread that has connections accepted until the drain begins, and then watches over the drain's time.
fn start_acceptor(
    runtime: Runtime,
    acceptor: Acceptor,
    (bound, changed): (Vec<Bound>, mpsc::UnboundedReceiver<Change>),
    order: Arc<DrainHandle>,
) -> Result<JoinHandle<io::Result<usize>>, StartError> {
    let run = move || {
        runtime.block_on(async {
            let gate = Arc::clone(&acceptor.gate);
            let accepted = acceptor.run(bound, changed).await;
            if let Err(error) = &accepted {
                tracing::error!(%error, "accepting has ended");
                order.drain();
            }
            let (waiting, failed) =
                accepted.map_or_else(|error| (JoinSet::new(), Some(error)), |it| (it, None));
            let grace = gate.current.load().config.server.shutdown_grace;
            let cut = ending::watch_over(&order, grace, waiting).await;
            failed.map_or(Ok(cut), Err)
        })
    };
    std::thread::Builder::new().name("wsgate-accept".into()).spawn(run).map_err(StartError::Worker)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write, os::unix::net::UnixStream, task::Poll};

    use tokio::io::Interest;

    use super::*;
    use crate::config::Source;

    pub(super) fn loaded() -> Loaded {
        parse("[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 200, body = \"\" }\n")
    }

    fn parse(text: &str) -> Loaded {
        let source = Source { name: "test".into(), text: text.into(), folder: ".".into() };
        Config::parse(&source, &|_| None).unwrap()
    }

    /// A gate that nobody accepts for.
    pub(super) fn gate() -> (Arc<Gate>, DrainHandle) {
        let config = Arc::new(loaded().config);
        let runtime = runtime().unwrap();
        let bound = bind_all(&config, &runtime, &Inherited::default(), &Sockets::default()).unwrap();
        set_up(&config, &bound, AccessSink::memory().0).unwrap()
    }

    /// A gate of this configuration, whose listeners `runtime` watches.
    pub(super) fn gate_of(text: &str, runtime: &Runtime) -> (Arc<Gate>, Vec<Bound>) {
        let config = Arc::new(parse(text).config);
        let bound = bind_all(&config, runtime, &Inherited::default(), &Sockets::default()).unwrap();
        (set_up(&config, &bound, AccessSink::memory().0).unwrap().0, bound)
    }

    /// So many sockets that can be read at once.
    fn readable(count: usize) -> (UnixStream, Vec<tokio::net::UnixStream>) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let watched = |_| tokio::net::UnixStream::from_std(near.try_clone().unwrap()).unwrap();
        (far, (0..count).map(watched).collect())
    }

    #[test]
    fn h14_after_its_turn_a_runtime_knows_of_all_that_came_to_a_thousand_sockets() {
        const COUNT: usize = 1100;
        raise_fd_limit();
        let known = runtime().unwrap().block_on(async {
            let (mut far, sockets) = readable(COUNT);
            for socket in &sockets {
                socket.writable().await.unwrap();
            }
            far.write_all(b"x").unwrap();
            let is_ready =
                |socket: &&tokio::net::UnixStream| socket.try_io(Interest::READABLE, || Ok(())).is_ok();
            poll_fn(|cx| {
                let known = sockets.iter().filter(is_ready).count();
                if known > 0 {
                    return Poll::Ready(known);
                }
                let is_waiting = |socket: &tokio::net::UnixStream| socket.poll_read_ready(cx).is_pending();
                assert!(sockets.iter().all(is_waiting));
                Poll::Pending
            })
            .await
        });
        assert_eq!(known, COUNT);
    }

    /// Waits for the end of a gate to which nobody gives an order.
    fn outcome(server: Server) -> Outcome {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(server.wait()));
        told.recv_timeout(Duration::from_secs(20)).expect("the gate ends by itself")
    }

    #[test]
    fn a_gate_whose_listeners_have_ended_ends_as_failed() {
        let mut loaded = loaded();
        // To whoever awaits them, listeners that are gone are as if there had been none.
        loaded.config.listeners.clear();
        let server = Server::start(loaded, ConfigSource::Own, AccessSink::memory().0).unwrap();
        assert_eq!(outcome(server), Outcome { cut: 0, panicked: 0, failed: true });
    }

    #[test]
    fn a_gate_whose_accepting_thread_panicked_ends_as_failed() {
        let mut server = Server::start(loaded(), ConfigSource::Own, AccessSink::memory().0).unwrap();
        let accepts = std::mem::replace(&mut server.acceptor, std::thread::spawn(|| panic!("a defect")));
        assert_eq!(outcome(server), Outcome { cut: 0, panicked: 1, failed: true });
        accepts.join().unwrap().unwrap();
    }
}
