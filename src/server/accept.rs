//! Accepting: sockets to the worker with the fewest open ones.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use tokio::{
    io::Interest,
    net::TcpStream,
    runtime::Handle,
    sync::oneshot,
    task::{JoinSet, coop},
    time::timeout,
};

use super::{
    bind::{BindError, Listening, UnixPath},
    handover::{Offered, Sockets},
    worker::WorkerHandle,
};
use crate::{
    buffered::{is_prepared, prepare},
    connection::{Accepted, BoundAddress, Connection, Gate, Listener},
    lifecycle::{Entrance, Permits},
    telemetry::RateLimited,
};

/// The first pause after `accept` failed; it doubles to the longest.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long connections that wait in the kernel's queue are taken out of it before a socket is closed.
const CLOSING: Duration = Duration::from_secs(1);
/// So many of them at most wait for permits at once.
const MOST_WAITING: usize = 256;
/// How long they wait when a reload has closed their socket. In a drain its grace bounds it.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// A listening socket and its place.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: Arc<Socket>,
    pub(super) at: Arc<BoundAddress>,
}

impl Bound {
    /// A socket that listens, to be watched by the runtime that has been entered; it is among `sockets` from now on.
    pub(super) fn new(socket: Listening, sockets: &Sockets) -> Result<Self, BindError> {
        let (address, owned) = (socket.address(), socket.owned());
        let socket =
            Socket::register(socket).map_err(|source| BindError { address: address.clone(), source })?;
        let socket = Arc::new(socket);
        let offered: Weak<Socket> = Arc::downgrade(&socket);
        sockets.offer(Offered { address: address.clone(), socket: offered, owned, outlasts_drain: false });
        Ok(Self { socket, at: BoundAddress::new(address) })
    }
}

/// What a reload changes for those who accept.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) added: Vec<Bound>,
    pub(super) removed: Vec<Arc<BoundAddress>>,
    /// Dropped when those that were removed are closed.
    pub(super) closing: mpsc::Sender<()>,
}

/// Accepts for all listeners.
#[derive(Debug)]
pub(super) struct Acceptor {
    /// Watches the listening sockets, and accepts.
    pub(super) runtime: Handle,
    pub(super) gate: Arc<Gate>,
    pub(super) permits: Permits,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) sockets: Arc<Sockets>,
}

/// A listening socket that a runtime watches.
#[derive(Debug)]
pub(super) struct Socket {
    /// Of a unix socket. The file goes first: once nobody listens on it, a successor may take its place.
    path: Option<UnixPath>,
    /// The runtime takes it for a stream, which it lets be watched alone: what its listeners accept they register too, with the
    /// runtime that watches them, and that is mostly another one than the connection's.
    watched: TcpStream,
    /// What it accepts has to be prepared one by one.
    prepares: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl Socket {
    /// Has the runtime watch it that has been entered.
    fn register(listening: Listening) -> io::Result<Self> {
        let (socket, path, prepares) = match listening {
            // One that was bound by somebody else may have established connections without.
            Listening::Tcp(listener) => {
                let prepares = !is_prepared(&listener)?;
                (OwnedFd::from(listener), None, prepares)
            }
            Listening::Unix(listener, path) => (listener.into(), Some(path), false),
        };
        Ok(Self { path, watched: TcpStream::from_std(socket.into())?, prepares })
    }

    /// Takes the next connection out of the kernel's queue.
    async fn accept(&self) -> io::Result<Accepted> {
        // One that is cut waits for nothing else, and may be followed by the next one for ever.
        coop::consume_budget().await;
        loop {
            self.watched.readable().await?;
            match self.watched.try_io(Interest::READABLE, || self.accept_queued()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return accepted,
            }
        }
    }

    /// [`Self::accept`] that waits for nothing: an empty queue is `WouldBlock`. It asks the kernel, as the runtime may not have
    /// heard yet of who came just now.
    fn accept_queued(&self) -> io::Result<Accepted> {
        let (socket, address) = acceptfrom_with(&self.watched, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
        if self.prepares {
            // Only a connection that is gone already refuses it.
            let _ = prepare(&socket);
        }
        Ok(match address.map(SocketAddr::try_from) {
            Some(Ok(address)) => Accepted::Tcp(socket.into(), address),
            _ => Accepted::Unix(socket.into()),
        })
    }

    /// Sees to it that nobody new finds it, where that is possible before it is closed.
    fn hide(&self) {
        if let Some(path) = &self.path {
            path.remove();
        }
    }
}

/// The tasks that accept, one for each socket.
#[derive(Debug)]
struct Accepting {
    acceptor: Arc<Acceptor>,
    tasks: JoinSet<()>,
    /// What tells each of them to end.
    ends: Vec<(Arc<BoundAddress>, oneshot::Sender<mpsc::Sender<()>>)>,
}

impl Acceptor {
    /// Accepts until the drain begins, then takes what waits and closes the listening sockets (rule B9). If somebody else has
    /// the sockets before that, what waits is theirs. Returns when the drain has begun, with the tasks of those who wait for
    /// permits yet.
    pub(super) async fn run(
        self,
        bound: Vec<Bound>,
        mut changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
    ) -> io::Result<JoinSet<()>> {
        let (drain, sockets) = (self.gate.drain.clone(), Arc::clone(&self.sockets));
        tokio::select! {
            biased;
            () = sockets.opened() => {}
            // They are a predecessor's, and so is what waits there.
            () = drain.draining() => return Ok(JoinSet::new()),
        }
        let mut accepting = Accepting { acceptor: Arc::new(self), tasks: JoinSet::new(), ends: Vec::new() };
        accepting.begin(bound);
        loop {
            tokio::select! {
                biased;
                () = drain.draining() => break,
                () = sockets.handed_over() => break,
                Some(change) = changes.recv() => {
                    accepting.begin(change.added);
                    accepting.end(|at| change.removed.iter().any(|removed| Arc::ptr_eq(removed, at)), &change.closing);
                }
                ended = accepting.tasks.join_next() => match ended {
                    Some(Ok(())) => {}
                    // The first worker has heard of the end first, and took them along.
                    Some(Err(_)) if drain.is_draining() => break,
                    // None ends but those that were told to: it panicked, which is a defect.
                    _ => return Err(io::Error::other("a listener ended")),
                }
            }
        }
        accepting.end(|_| true, &mpsc::channel().0);
        drain.draining().await;
        Ok(accepting.tasks)
    }

    /// Accepts until it is told to end, whoever waits for permits then; no error of `accept` ends it before (rule S3).
    async fn accept_all(
        &self,
        socket: Arc<Socket>,
        at: &BoundAddress,
        mut listener: Arc<Listener>,
        end: Ended,
    ) {
        let failures = RateLimited::new(tracing::Level::WARN, "accept failed");
        let mut pause = PAUSE;
        let mut end = std::pin::pin!(end);
        let mut waiting = VecDeque::new();
        let closing = loop {
            let accepted = tokio::select! {
                biased;
                closing = &mut end => break closing,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    pause = PAUSE;
                    waiting.extend(self.enter(accepted, at, &mut listener));
                    tokio::select! {
                        biased;
                        () = self.admit(&mut waiting) => {}
                        closing = &mut end => break closing,
                    }
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
        };
        if !self.sockets.has_successor_for(&at.address) {
            socket.hide();
            // There may be no permits for all of them.
            let _ = timeout(CLOSING, self.accept_rest(&socket, at, &mut listener, &mut waiting)).await;
        }
        // Before whoever waits for that is told.
        drop(socket);
        drop(closing);
        let ends = self.gate.drain.is_draining() || self.sockets.successor().is_some();
        let admitted = self.admit(&mut waiting);
        if ends {
            admitted.await;
        } else {
            let _ = timeout(LAST_WAIT, admitted).await;
        }
    }

    /// Accepts what the kernel has established already. To close over it would reset it.
    async fn accept_rest(
        &self,
        socket: &Socket,
        at: &BoundAddress,
        listener: &mut Arc<Listener>,
        waiting: &mut VecDeque<Comer>,
    ) {
        loop {
            if waiting.len() >= MOST_WAITING {
                self.admit(waiting).await;
            }
            coop::consume_budget().await;
            match socket.accept_queued() {
                Ok(accepted) => waiting.extend(self.enter(accepted, at, listener)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_of_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Lets a connection wait for its permits; one of a client's flood is cut. It goes by the newest rules for its address,
    /// which are kept in `listener` for when there are none any more.
    fn enter(&self, accepted: Accepted, at: &BoundAddress, listener: &mut Arc<Listener>) -> Option<Comer> {
        if let Some(newest) = self.gate.current.load().listener_at(at) {
            listener.clone_from(newest);
        }
        let entrance = listener.enter_accepted(&accepted);
        if let Some(Entrance::Cut) = entrance {
            let metrics = &self.gate.metrics;
            metrics.accepted(&listener.label);
            metrics.turned_away(&listener.label, None);
            metrics.closed();
            listener.note_cut(accepted.ip());
            accepted.cut();
            return None;
        }
        Some(Comer { accepted, listener: Arc::clone(listener), entrance })
    }

    /// Waits for the permits of these connections, while those behind them wait in the kernel's queue (rule S2), and hands each
    /// to the worker with the fewest. Those that it does not come to stay in `waiting`.
    async fn admit(&self, waiting: &mut VecDeque<Comer>) {
        while let Some(first) = waiting.front() {
            let permit = self.permits.acquire().await;
            if first.listener.speaks_tls() {
                self.gate.tls_permits.available().await;
            }
            let Some(Comer { accepted, listener, entrance }) = waiting.pop_front() else { return };
            self.gate.metrics.accepted(&listener.label);
            let connection = Connection::new(accepted, listener, Arc::clone(&self.gate), permit, entrance);
            if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
                worker.spawn(connection);
            }
        }
    }
}

/// An accepted connection that has no permits yet.
struct Comer {
    accepted: Accepted,
    listener: Arc<Listener>,
    entrance: Option<Entrance>,
}

/// Told to a task that is to end.
type Ended = oneshot::Receiver<mpsc::Sender<()>>;

impl Accepting {
    /// Accepts from these too, as far as the configuration in force knows them.
    fn begin(&mut self, bound: Vec<Bound>) {
        for Bound { socket, at } in bound {
            let snapshot = self.acceptor.gate.current.load();
            let Some(listener) = snapshot.listener_at(&at).cloned() else { continue };
            let (end, ended) = oneshot::channel();
            self.ends.push((Arc::clone(&at), end));
            let acceptor = Arc::clone(&self.acceptor);
            let runtime = acceptor.runtime.clone();
            let accept = async move { acceptor.accept_all(socket, &at, listener, ended).await };
            self.tasks.spawn_on(accept, &runtime);
        }
    }

    /// Has those end that are meant. Each drops its `closing` when its socket is closed.
    fn end(&mut self, is_meant: impl Fn(&Arc<BoundAddress>) -> bool, closing: &mpsc::Sender<()>) {
        for (_, end) in self.ends.extract_if(.., |(at, _)| is_meant(at)) {
            // One that panicked has ended.
            let _ = end.send(closing.clone());
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
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::config::ListenAddress;

    /// Accepts for a gate that has no workers.
    fn acceptor(gate: &Arc<Gate>, runtime: &Runtime) -> Acceptor {
        Acceptor {
            runtime: runtime.handle().clone(),
            permits: Permits::new(1),
            workers: Vec::new(),
            gate: Arc::clone(gate),
            sockets: Arc::default(),
        }
    }

    /// A socket of which nothing can be accepted, as it does not listen.
    fn deaf() -> Arc<Socket> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        Arc::new(Socket { path: None, watched: TcpStream::from_std(socket.into()).unwrap(), prepares: false })
    }

    #[tokio::test]
    async fn what_a_socket_of_somebody_else_accepts_is_prepared_too() {
        for waits in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let connect = || std::net::TcpStream::connect(address).unwrap();
            let early = waits.then(connect);
            let socket = Socket::register(Listening::Tcp(listener)).unwrap();
            let client = early.unwrap_or_else(connect);
            let Accepted::Tcp(accepted, peer) = socket.accept().await.unwrap() else { panic!("TCP") };
            assert!(is_prepared(&accepted).unwrap());
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }

    #[test]
    fn s3_a_listener_that_panics_ends_the_accepting_with_an_error() {
        let (gate, _order) = crate::server::tests::gate();
        // Without a clock, the pause after a failed accept panics.
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        let acceptor = acceptor(&gate, &runtime);
        let ended = runtime.block_on(async {
            let at = Arc::clone(&gate.current.load().listeners[0].bound);
            let (_changes, changed) = tokio::sync::mpsc::unbounded_channel();
            acceptor.run(vec![Bound { socket: deaf(), at }], changed).await
        });
        assert_eq!(ended.unwrap_err().to_string(), "a listener ended");
    }

    /// A gate of a listener that lets a client have one connection, and has told this one so often enough that it is cut now.
    fn crowded(runtime: &Runtime) -> (Acceptor, Bound, Vec<Entrance>) {
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections_per_ip = 1\n\
                    [[route]]\nrespond = { status = 200, body = \"\" }\n";
        let (gate, mut bound) = crate::server::tests::gate_of(text, runtime);
        let bound = bound.remove(0);
        let acceptor = acceptor(&gate, runtime);
        let (near, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let client = Accepted::Tcp(OwnedFd::from(near).into(), ([127, 0, 0, 1], 1).into());
        let listener = Arc::clone(gate.current.load().listener_at(&bound.at).unwrap());
        let enter = || listener.enter_accepted(&client).filter(|entrance| !matches!(entrance, Entrance::Cut));
        (acceptor, bound, std::iter::from_fn(enter).collect())
    }

    #[test]
    fn s2_a_flood_that_is_cut_leaves_the_first_worker_to_others() {
        for ends in [false, true] {
            let runtime = crate::server::runtime().unwrap();
            let (acceptor, Bound { socket, at }, _places) = crowded(&runtime);
            let ListenAddress::Inet(address) = at.address else { panic!("TCP") };
            let flood: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            let mut listener = Arc::clone(acceptor.gate.current.load().listener_at(&at).unwrap());
            let (_end, ended) = oneshot::channel();
            let counted = Arc::clone(&at);
            let turns = runtime.block_on(async move {
                let accepting = tokio::spawn(async move {
                    if ends {
                        acceptor.accept_rest(&socket, &at, &mut listener, &mut VecDeque::new()).await;
                    } else {
                        acceptor.accept_all(socket, &at, listener, ended).await;
                    }
                });
                let mut turns = 0;
                while counted.cut() < flood.len() as u64 {
                    tokio::task::yield_now().await;
                    turns += u64::from(counted.cut() > 0);
                }
                accepting.abort();
                turns
            });
            assert!(turns > 1, "they were all cut in one turn: {ends}");
        }
    }
}
