//! Accepting: sockets to the worker with the fewest open ones.

use std::{io, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

use super::{
    bind::{Listening, UnixPath},
    worker::WorkerHandle,
};
use crate::{
    connection::{Accepted, Connection, Gate, Listener},
    lifecycle::{Entrance, Permits, Tracker},
    telemetry::RateLimited,
};

/// The first pause after `accept` failed; it doubles to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A bound socket and what is known of its listener.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: Listening,
    pub(super) listener: Arc<Listener>,
}

/// Accepts for all listeners.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) gate: Arc<Gate>,
    pub(super) permits: Permits,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) open: Tracker,
}

/// A listening socket that a runtime watches.
enum Socket {
    Tcp(TcpListener),
    /// The file goes first: once nobody listens on it, a successor may take its place.
    Unix(#[expect(dead_code, reason = "its drop removes the file")] UnixPath, UnixListener),
}

impl Socket {
    fn register(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener, path) => Self::Unix(path, UnixListener::from_std(listener)?),
        })
    }

    /// Takes the next connection out of the kernel's queue.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, address))
            }
            Self::Unix(_, listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }
}

impl Acceptor {
    /// Accepts until the drain begins, then closes the listening sockets.
    pub(super) async fn run(self, bound: Vec<Bound>) -> io::Result<()> {
        let acceptor = Arc::new(self);
        let mut listeners = JoinSet::new();
        for Bound { socket, listener } in bound {
            let (acceptor, socket) = (Arc::clone(&acceptor), Socket::register(socket)?);
            listeners.spawn(async move { acceptor.accept_all(&socket, &listener).await });
        }
        tokio::select! {
            () = acceptor.gate.drain.draining() => {}
            // A listener never ends by itself: it panicked, which is a defect.
            _ = listeners.join_next() => {
                return Err(io::Error::other("a listener ended"));
            }
        }
        listeners.shutdown().await;
        Ok(())
    }

    /// Accepts for ever; no error of `accept` ends it (rule S3).
    async fn accept_all(&self, socket: &Socket, listener: &Arc<Listener>) {
        let failures = RateLimited::new(tracing::Level::WARN, "accept failed");
        let mut pause = PAUSE;
        loop {
            match socket.accept().await {
                Ok(accepted) => {
                    pause = PAUSE;
                    self.admit(accepted, listener).await;
                }
                Err(error) => {
                    let address = &listener.label;
                    self.gate.metrics.accept_failed(address);
                    failures.warn(|skipped| tracing::warn!(%address, %error, skipped, "accept failed"));
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        }
    }

    /// Waits for the permits of a connection, while those behind it wait in the kernel's queue (rule S2), and hands it to the
    /// worker with the fewest. A flood of one client's does not get so far.
    async fn admit(&self, accepted: Accepted, listener: &Arc<Listener>) {
        let entrance = listener.enter_accepted(&accepted);
        if let Some(Entrance::Cut) = entrance {
            let metrics = &self.gate.metrics;
            metrics.accepted(&listener.label);
            metrics.turned_away(&listener.label, None);
            metrics.closed();
            listener.note_cut(accepted.ip());
            accepted.cut();
            return;
        }
        let permit = self.permits.acquire().await;
        let tls_permit =
            if listener.speaks_tls() { Some(self.gate.tls_permits.acquire().await) } else { None };
        self.gate.metrics.accepted(&listener.label);
        let (gate, listener) = (Arc::clone(&self.gate), Arc::clone(listener));
        let connection = Connection::new(accepted, listener, gate, permit, tls_permit, entrance);
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            worker.spawn(connection);
        }
    }
}

/// Errors that tell of the connection that was to be accepted; the next one may be fine (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    const OF_ONE: [Errno; 10] = [
        Errno::CONNABORTED,
        Errno::PERM,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|error| OF_ONE.contains(&error))
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::{
        auth::Verifier,
        connection::Snapshot,
        lifecycle::{Drain, DrainHandle, TlsPermits},
        telemetry::AccessSink,
    };

    fn acceptor() -> (Acceptor, DrainHandle, Arc<Listener>) {
        let config = crate::server::tests::config();
        let (order, drain) = Drain::new(Duration::ZERO);
        let place = crate::upstream::Surroundings {
            workers: 1,
            drain: drain.clone(),
            drain_spread: std::time::Duration::ZERO,
        };
        let totals = Arc::new(Totals::new(1));
        let gate = Arc::new(Gate {
            snapshot: Arc::new(Snapshot::new(&config, &place, &totals, &Arc::default()).unwrap()),
            drain,
            access: AccessSink::memory().0,
            metrics: Arc::default(),
            lists_tunnels: false.into(),
            totals,
            tls_permits: TlsPermits::new(1),
            verifier: Verifier::default(),
            redact: Arc::new([]),
        });
        let acceptor = Acceptor { gate, permits: Permits::new(1), workers: Vec::new(), open: Tracker::new() };
        (acceptor, order, Arc::new(Listener::new(&config.listeners[0], None).unwrap()))
    }

    /// A socket of which nothing can be accepted, as it does not listen.
    fn deaf() -> Listening {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        Listening::Tcp(socket.into())
    }

    #[test]
    fn s3_a_listener_that_panics_ends_the_accepting_with_an_error() {
        let (acceptor, _order, listener) = acceptor();
        // Without a clock, the pause after a failed accept panics.
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        let ended = runtime.block_on(acceptor.run(vec![Bound { socket: deaf(), listener }]));
        assert_eq!(ended.unwrap_err().to_string(), "a listener ended");
    }
}
