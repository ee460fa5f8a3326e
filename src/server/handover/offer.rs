//! The running process: it offers its listening sockets to a successor.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::geteuid;
use tokio::{
    net::UnixListener,
    sync::{Notify, watch},
};

use super::{
    super::{
        ServerHandle,
        bind::{Listening, Ownership, UnixPath},
        runtime,
    },
    channel::{Channel, Message, PORTION, PROTOCOL, Passed, Refused},
};
use tracing::Level;

use crate::{config::ListenAddress, lifecycle::Drain, telemetry::RateLimited};

/// How long a new process may take for a step that needs no work.
const STEP: Duration = Duration::from_secs(5);
/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long after the hand-over those that were accepted just before it still find everything as it was: an opening handshake
/// that comes in a drain is refused.
const LAST_ARRIVALS: Duration = Duration::from_secs(2);
/// Conversations at once; more are cut. Those that may have any are this user and root.
const CONVERSATIONS: usize = 16;
/// The pause after an error of accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The listening sockets of this process, as far as they are open: those that a successor would get.
#[derive(Debug, Default)]
pub struct Sockets {
    offered: Mutex<Vec<Offered>>,
    steady: Mutex<()>,
    successor: OnceLock<Successor>,
    handed_over: Notify,
    /// Whether they are a predecessor's yet.
    held_back: watch::Sender<bool>,
    /// Where successors find this process.
    post: Mutex<Option<UnixPath>>,
}

/// Who has the sockets now.
#[derive(Debug)]
struct Successor {
    pid: u32,
    /// Addresses of those that it did not want.
    unwanted: Vec<String>,
}

/// A copy of a listening socket, to be dropped when the socket is closed.
#[derive(Debug)]
pub struct Lent {
    _copy: Arc<OwnedFd>,
}

/// A listening socket, which is its owner's to close.
#[derive(Debug)]
pub(in crate::server) struct Offered {
    pub(in crate::server) address: ListenAddress,
    pub(in crate::server) socket: Weak<dyn Descriptor>,
    /// Of the file of a unix socket.
    pub(in crate::server) owned: Option<Ownership>,
    /// It is closed with the end of the process, and no listener's whose queue a drain takes.
    pub(in crate::server) outlasts_drain: bool,
}

/// Something with a descriptor that any thread can look at.
pub(in crate::server) trait Descriptor: AsFd + std::fmt::Debug + Send + Sync {}

impl<T: AsFd + std::fmt::Debug + Send + Sync> Descriptor for T {}

/// A copy of a descriptor with what is said of it.
type Duplicate = (OwnedFd, Passed);

impl Sockets {
    /// Adds a socket. It is offered for as long as its owner keeps it.
    pub(in crate::server) fn offer(&self, offered: Offered) {
        let mut sockets = self.lock();
        sockets.retain(|offered| offered.socket.strong_count() > 0);
        sockets.push(offered);
    }

    /// Adds a copy of a socket that somebody else accepts from, for as long as what is returned is kept.
    ///
    /// # Errors
    /// There is no descriptor left for the copy.
    pub fn lend(&self, listening: &Listening) -> io::Result<Lent> {
        let copy = Arc::new(listening.as_fd().try_clone_to_owned()?);
        let (address, owned) = (listening.address(), listening.owned());
        let socket: Weak<OwnedFd> = Arc::downgrade(&copy);
        self.offer(Offered { address, socket, owned, outlasts_drain: true });
        Ok(Lent { _copy: copy })
    }

    /// The process that has the sockets now, if they were handed over.
    pub fn successor(&self) -> Option<u32> {
        self.successor.get().map(|successor| successor.pid)
    }

    /// Whether it accepts from the socket of this address.
    pub(in crate::server) fn has_successor_for(&self, address: &ListenAddress) -> bool {
        let unwanted = self.successor.get().map(|successor| &successor.unwanted);
        unwanted.is_some_and(|unwanted| !unwanted.contains(&address.to_string()))
    }

    /// Waits until the sockets have been handed over. Whoever accepts from one of them stops then: what comes is the
    /// successor's.
    pub async fn handed_over(&self) {
        let mut told = std::pin::pin!(self.handed_over.notified());
        told.as_mut().enable();
        if self.successor().is_none() {
            told.await;
        }
    }

    /// They are a predecessor's yet: nobody accepts from them before [`Self::open`].
    pub(in crate::server) fn hold_back(&self) {
        self.held_back.send_replace(true);
    }

    /// They are this process' own.
    pub(in crate::server) fn open(&self) {
        self.held_back.send_replace(false);
    }

    /// Waits until they are this process' own. Whoever accepts from one of them begins then.
    pub async fn opened(&self) {
        // The sender is here, so it is not closed.
        let _ = self.held_back.subscribe().wait_for(|held_back| !held_back).await;
    }

    /// Held while copies are on their way to a successor, and while a reload adds and removes sockets: what it adds in between
    /// would be lost.
    pub(in crate::server) fn keep_steady(&self) -> MutexGuard<'_, ()> {
        self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether they are kept so.
    #[cfg(test)]
    pub(super) fn is_steady(&self) -> bool {
        self.steady.try_lock().is_err()
    }

    /// Removes the file by which successors find this process, unless one has taken its place.
    pub(in crate::server) fn withdraw(&self) {
        drop(self.post.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Whether there is something that a successor can have of a process that drains.
    fn outlast_drain(&self) -> bool {
        self.lock().iter().any(|offered| offered.outlasts_drain && offered.socket.strong_count() > 0)
    }

    /// Copies of the descriptors of all that are open; in a drain, of those that outlast it.
    fn copies(&self, drains: bool) -> io::Result<Vec<Duplicate>> {
        let mut copies = Vec::new();
        for Offered { address, socket, owned, .. } in
            self.lock().iter().filter(|offered| offered.outlasts_drain || !drains)
        {
            if let Some(socket) = socket.upgrade() {
                let removes_file = owned.as_ref().is_some_and(Ownership::get);
                let copy = socket.as_fd().try_clone_to_owned()?;
                copies.push((copy, Passed { address: address.to_string(), removes_file }));
            }
        }
        Ok(copies)
    }

    /// Leaves the files of all that are open to a successor that may have the sockets already: even if this process is told to end
    /// before it knows.
    fn leave_files(&self) -> Files<'_> {
        let owned = self.lock().iter().filter_map(|offered| offered.owned.clone()).collect::<Vec<_>>();
        Files { left: owned.into_iter().filter(|owned| owned.set(false)).collect(), sockets: self }
    }

    /// The sockets are somebody else's now.
    fn give_up(&self, pid: u32, unwanted: Vec<String>) {
        // There is one successor at most, as only one conversation gets here.
        let _ = self.successor.set(Successor { pid, unwanted });
        self.handed_over.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Offered>> {
        // Nothing panics while it is held.
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files of unix sockets that were left to a successor. They come back with the drop of this if there is none.
struct Files<'a> {
    left: Vec<Ownership>,
    sockets: &'a Sockets,
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        if self.sockets.successor().is_none() {
            for owned in &self.left {
                owned.set(true);
            }
        }
    }
}

/// The upgrade socket, bound at a name beside its own, which may still be the predecessor's.
#[derive(Debug)]
pub(super) struct Post {
    listener: std::os::unix::net::UnixListener,
    beside: UnixPath,
    path: PathBuf,
}

impl Post {
    /// Binds it, for this user alone.
    pub(super) fn prepare(path: &Path) -> io::Result<Self> {
        let beside = path.with_file_name(format!(".wsgate-{}", process::id()));
        // Left by a process that had this number.
        let _ = fs::remove_file(&beside);
        let listener = std::os::unix::net::UnixListener::bind(&beside)?;
        let beside = UnixPath { path: beside, owned: Ownership::new(true) };
        fs::set_permissions(&beside.path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, beside, path: path.to_owned() })
    }

    /// Puts it where successors look for it, and serves them until they have got what there is.
    pub(super) fn open(self, server: &ServerHandle) -> io::Result<()> {
        fs::rename(&self.beside.path, &self.path)?;
        self.beside.owned.set(false);
        let owned = Ownership::new(true);
        let path = UnixPath { path: self.path, owned: owned.clone() };
        *server.sockets().post.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        let runtime = runtime()?;
        let drain = {
            let server = server.clone();
            move || server.drain()
        };
        let old = Arc::new(Old::new(Arc::clone(server.sockets()), server.drain_signal(), drain, owned));
        let run = move || {
            runtime.block_on(async {
                match UnixListener::from_std(self.listener) {
                    Ok(listener) => {
                        tokio::select! {
                            () = accept_all(&listener, &old) => {}
                            () = old.sockets.handed_over() => {}
                            () = old.has_nothing_left() => {}
                            () = old.signal.shutdown() => {}
                        }
                        // The file goes first: once nobody listens on it, another process may take its place.
                        old.sockets.withdraw();
                    }
                    Err(error) => {
                        tracing::error!(%error, "the upgrade socket is of no use");
                        old.sockets.withdraw();
                    }
                }
            });
        };
        thread::Builder::new().name("wsgate-upgrade".into()).spawn(run).map(drop)
    }
}

/// Accepts for ever. A stranger is gone before it has cost anything.
async fn accept_all(listener: &UnixListener, old: &Arc<Old>) {
    let strangers = RateLimited::new(Level::WARN, "a stranger at the upgrade socket");
    let failures = RateLimited::new(Level::WARN, "the upgrade socket failed");
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let who = stream.peer_cred()?;
            Ok((stream.into_std()?, who))
        });
        match accepted {
            Ok((_, who)) if !may_take(who.uid()) => strangers.warn(|skipped| {
                tracing::warn!(uid = who.uid(), skipped, "a stranger at the upgrade socket");
            }),
            Ok((stream, _)) => Old::meet(old, stream),
            Err(error) => {
                failures.warn(|skipped| tracing::warn!(%error, skipped, "the upgrade socket failed"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// This user may take the sockets over, and root, who could anyway.
pub(super) fn may_take(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// The process that has the sockets.
pub(super) struct Old {
    sockets: Arc<Sockets>,
    signal: Drain,
    /// Begins the drain.
    drain: Box<dyn Fn() + Send + Sync>,
    /// Of the upgrade socket's file.
    owned: Ownership,
    /// How long a new process may take to be ready.
    pub(super) patience: Duration,
    /// One successor at a time.
    turn: Mutex<()>,
    open: AtomicUsize,
}

impl Old {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        signal: Drain,
        drain: impl Fn() + Send + Sync + 'static,
        owned: Ownership,
    ) -> Self {
        let (turn, open) = (Mutex::default(), AtomicUsize::default());
        Self { sockets, signal, drain: Box::new(drain), owned, patience: READY, turn, open }
    }

    /// Talks to who came, on a thread of its own: its steps may wait long.
    fn meet(old: &Arc<Self>, stream: UnixStream) {
        let meeting = Meeting::new(old);
        if meeting.is_one_too_many() {
            return;
        }
        let talk = move || {
            if let Err(error) = meeting.old.talk(stream) {
                tracing::warn!(%error, "a hand-over came to nothing: going on");
            }
        };
        if let Err(error) = thread::Builder::new().name("wsgate-handover".into()).spawn(talk) {
            tracing::warn!(%error, "no thread for a hand-over");
        }
    }

    /// Waits until a drain has begun that closes all there is.
    async fn has_nothing_left(&self) {
        self.signal.draining().await;
        if self.sockets.outlast_drain() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands the sockets over, and drains when that is done.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own, which has nothing else to do")]
    pub(super) fn talk(&self, stream: UnixStream) -> io::Result<()> {
        let mut channel = Channel::new(stream)?;
        // Whoever looks whether somebody is here says nothing.
        let Some(hello) = channel.receive(STEP)? else { return Ok(()) };
        let Message::Hello { protocol, version, pid } = hello else {
            return refuse(&mut channel, Refused::Protocol);
        };
        if protocol != PROTOCOL {
            return refuse(&mut channel, Refused::Protocol);
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return refuse(&mut channel, Refused::Busy),
        };
        let drains = self.signal.is_draining();
        if self.sockets.successor().is_some() || drains && !self.sockets.outlast_drain() {
            // Who is told so puts its own file there.
            self.sockets.withdraw();
            return refuse(&mut channel, Refused::Draining);
        }
        tracing::info!(pid, version, "a new process asks for the listening sockets");
        let steady = self.sockets.keep_steady();
        let copies = self.sockets.copies(drains)?;
        let _files = self.sockets.leave_files();
        pass(copies, &mut channel)?;
        self.let_go(&mut channel, pid)?;
        drop(steady);
        thread::sleep(LAST_ARRIVALS);
        (self.drain)();
        Ok(())
    }

    /// Waits until the new process is ready, and gives the sockets up when it has taken this one's place.
    pub(super) fn let_go(&self, channel: &mut Channel, pid: u32) -> io::Result<()> {
        let unwanted = match channel.receive(self.patience) {
            Ok(Some(Message::Ready { unwanted })) => unwanted,
            Ok(_) => return Err(io::Error::other(format!("process {pid} ended before it was ready"))),
            Err(error) => {
                // Which tells it to end, should it be ready later.
                refuse(channel, Refused::TooLate)?;
                return Err(error);
            }
        };
        // It is going to put its own file in place of this one's.
        self.owned.set(false);
        let told = channel.send(&Message::Take, &[], STEP);
        // What it said before it left counts, whether or not it could still be told.
        match channel.receive(STEP) {
            Ok(Some(Message::Taken)) => {}
            // It is there, and was told that the sockets are its own.
            Err(error) if told.is_ok() && error.kind() == io::ErrorKind::TimedOut => {}
            _ => {
                self.owned.set(true);
                return Err(io::Error::other(format!("process {pid} ended when it was ready")));
            }
        }
        tracing::info!(pid, "the listening sockets were handed over: this process ends when it has drained");
        self.sockets.give_up(pid, unwanted);
        Ok(())
    }
}

/// Passes copies of the sockets, in portions.
fn pass(mut copies: Vec<Duplicate>, channel: &mut Channel) -> io::Result<()> {
    loop {
        let rest = copies.split_off(copies.len().min(PORTION));
        let (descriptors, sockets): (Vec<_>, Vec<_>) = copies.into_iter().unzip();
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let more = !rest.is_empty();
        channel.send(&Message::Sockets { pid: process::id(), sockets, more }, &descriptors, STEP)?;
        if !more {
            return Ok(());
        }
        copies = rest;
    }
}

fn refuse(channel: &mut Channel, why: Refused) -> io::Result<()> {
    tracing::info!(why = why.label(), "a hand-over was refused");
    channel.send(&Message::Refused { why }, &[], STEP)
}

/// A conversation, counted while it lasts.
struct Meeting {
    old: Arc<Old>,
    before: usize,
}

impl Meeting {
    fn new(old: &Arc<Old>) -> Self {
        Self { before: old.open.fetch_add(1, Ordering::Relaxed), old: Arc::clone(old) }
    }

    fn is_one_too_many(&self) -> bool {
        self.before >= CONVERSATIONS
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.old.open.fetch_sub(1, Ordering::Relaxed);
    }
}
