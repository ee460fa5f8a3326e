//! Accepting: sockets to the worker with the fewest open ones.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use tokio::{io::unix::AsyncFd, task::JoinSet};

use super::{bind::Listening, worker::WorkerHandle};
use crate::{
    connection::{Accepted, Connection, Gate, Listener},
    lifecycle::{Permits, Tracker},
    telemetry::RateLimited,
};

/// The first pause after accept() failed; it doubles to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A bound socket and what is known of its listener.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: Listening,
    pub(super) listener: Arc<Listener>,
}

/// What accepting needs.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) bound: Vec<Bound>,
    pub(super) gate: Arc<Gate>,
    pub(super) permits: Permits,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) open: Tracker,
}

/// Listening sockets that a runtime watches.
pub(super) struct Ready {
    sockets: Vec<(AsyncFd<Listening>, Arc<Listener>)>,
    counter: Arc<Counter>,
}

/// Where an accepted socket goes.
struct Counter {
    gate: Arc<Gate>,
    permits: Permits,
    workers: Vec<WorkerHandle>,
    open: Tracker,
    failures: RateLimited,
}

impl AsFd for Listening {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl std::os::fd::AsRawFd for Listening {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Acceptor {
    /// Registers the sockets with the runtime that this is called in.
    pub(super) fn listen(self) -> io::Result<Ready> {
        let Self { bound, gate, permits, workers, open } = self;
        let sockets = bound
            .into_iter()
            .map(|Bound { socket, listener }| Ok((AsyncFd::new(socket)?, listener)))
            .collect::<io::Result<_>>()?;
        let counter = Counter { gate, permits, workers, open, failures: RateLimited::default() };
        Ok(Ready { sockets, counter: Arc::new(counter) })
    }
}

impl Ready {
    /// Accepts until the drain begins, then closes the listening sockets. Returns what counts the open connections.
    pub(super) async fn run(self) -> Tracker {
        let Self { sockets, counter } = self;
        let mut listeners = JoinSet::new();
        for (socket, listener) in sockets {
            let counter = Arc::clone(&counter);
            listeners.spawn(async move { counter.accept_all(&socket, &listener).await });
        }
        counter.gate.drain.draining().await;
        listeners.shutdown().await;
        counter.open.clone()
    }
}

impl Counter {
    /// Accepts for ever; no error of accept() ends it (rule S3).
    async fn accept_all(&self, socket: &AsyncFd<Listening>, listener: &Arc<Listener>) {
        let mut pause = PAUSE;
        loop {
            // Both are had before the socket is taken out of the kernel's queue, where the others wait (rule S2).
            let permit = self.permits.acquire().await;
            let tls_permit = match listener.speaks_tls() {
                true => Some(self.gate.tls_permits.acquire().await),
                false => None,
            };
            match accept(socket).await {
                Ok(accepted) => {
                    pause = PAUSE;
                    let (gate, listener) = (Arc::clone(&self.gate), Arc::clone(listener));
                    self.hand_over(Connection::new(accepted, listener, gate, permit, tls_permit));
                }
                Err(error) => {
                    let address = &listener.label;
                    self.failures.warn(|skipped| {
                        tracing::warn!(%address, %error, skipped, "accept failed");
                    });
                    if !is_of_one_connection(error) {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        }
    }

    fn hand_over(&self, connection: Connection) {
        let idlest = self.workers.iter().min_by_key(|worker| worker.load());
        if let Some(worker) = idlest {
            worker.spawn(connection, self.open.track());
        }
    }
}

async fn accept(socket: &AsyncFd<Listening>) -> Result<Accepted, Errno> {
    loop {
        let Ok(mut ready) = socket.readable().await else { return Err(Errno::BADF) };
        match acceptfrom_with(socket.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, address)) => {
                let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                return Ok(accepted(fd, address));
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn accepted(fd: OwnedFd, address: Option<SocketAddr>) -> Accepted {
    match address {
        Some(address) => Accepted::Tcp(fd.into(), address),
        None => Accepted::Unix(fd.into()),
    }
}

/// Errors that tell of the connection that was to be accepted; the next one may be fine.
fn is_of_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::PERM
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
    )
}
