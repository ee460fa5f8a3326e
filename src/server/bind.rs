//! Listening sockets.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::FileTypeExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, chmod, fchmod};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::inherit::Inherited;
use crate::{buffered::prepare, config::ListenAddress};

/// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// How long an address may still be held by a process that is just letting go of it, and how often it is tried.
const RELEASE: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(20);

/// A listener's address can't be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: ListenAddress,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A bound and listening socket, non-blocking.
#[derive(Debug)]
pub enum Listening {
    /// Over TCP.
    Tcp(TcpListener),
    /// A unix socket and its file.
    Unix(UnixListener, UnixPath),
}

/// The file of a unix socket; removed on drop by the process that owns it.
#[derive(Debug)]
pub struct UnixPath {
    pub(super) path: PathBuf,
    pub(super) owned: Ownership,
}

/// Whether a file is this process' to remove. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Ownership(Arc<AtomicBool>);

impl Ownership {
    pub(super) fn new(owned: bool) -> Self {
        Self(Arc::new(AtomicBool::new(owned)))
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Returns what it was.
    pub(super) fn set(&self, owned: bool) -> bool {
        self.0.swap(owned, Ordering::AcqRel)
    }
}

impl UnixPath {
    /// Removes the file, once: another socket may have one at this path by then.
    pub(super) fn remove(&self) {
        if self.owned.set(false) {
            // If somebody else removed it, it is gone, which is what was wanted.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        self.remove();
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Listening {
    /// Of its file, if it has one.
    pub(super) fn owned(&self) -> Option<Ownership> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, path) => Some(path.owned.clone()),
        }
    }

    /// The address it got.
    pub fn address(&self) -> ListenAddress {
        match self {
            Self::Tcp(listener) => {
                ListenAddress::Inet(listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0))))
            }
            Self::Unix(_, path) => ListenAddress::Unix(path.path.clone()),
        }
    }
}

/// The listening socket of `address`: the inherited one if there is one, else a new one. If another process may be letting go
/// of the address just now, that is waited for.
pub(super) fn bind(address: &ListenAddress, inherited: &Inherited) -> Result<Listening, BindError> {
    if let Some(listening) = inherited.take(address) {
        return Ok(listening);
    }
    when_free(inherited, || bind_new(address))
        .map_err(|source| BindError { address: address.clone(), source })
}

/// Binds, and again while the address is held by another process that may be letting go of it.
#[expect(clippy::disallowed_methods, reason = "no worker: it starts or reloads, off the runtimes")]
fn when_free<T>(inherited: &Inherited, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let until = inherited.follows_another().then(|| Instant::now() + RELEASE);
    loop {
        match bind() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && until.is_some_and(|until| Instant::now() < until) =>
            {
                thread::sleep(RETRY);
            }
            bound => return bound,
        }
    }
}

fn bind_new(address: &ListenAddress) -> io::Result<Listening> {
    match address {
        ListenAddress::Inet(address) => bind_tcp(*address).map(Listening::Tcp),
        ListenAddress::Unix(path) => {
            let owned = Ownership::new(true);
            bind_unix(path).map(|listener| Listening::Unix(listener, UnixPath { path: path.clone(), owned }))
        }
    }
}

/// The same, with the file of a unix socket for nobody but its owner.
pub fn bind_private(address: &ListenAddress, inherited: &Inherited) -> Result<Listening, BindError> {
    let ListenAddress::Unix(path) = address else { return bind(address, inherited) };
    if let Some(listening) = inherited.take(address) {
        return Ok(listening);
    }
    let bound = when_free(inherited, || bind_private_unix(path));
    let owned = Ownership::new(true);
    let listening = bound.map(|listener| Listening::Unix(listener, UnixPath { path: path.clone(), owned }));
    listening.map_err(|source| BindError { address: address.clone(), source })
}

/// The file gets the mode that the socket has when it is bound, so that at no moment it has another.
fn bind_private_unix(path: &Path) -> io::Result<UnixListener> {
    let private = Mode::RUSR | Mode::WUSR;
    remove_stale(path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where the system has no modes of sockets this fails; the file is seen to below.
    let _ = fchmod(&socket, private);
    socket.bind(&SockAddr::unix(path)?)?;
    chmod(path, private)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // IPv6 alone: who wants both names both.
        socket.set_only_v6(true)?;
    }
    // Connections of a predecessor that linger in TIME_WAIT don't keep the address.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path);
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket's file that nobody listens on any more.
fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && knock(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        // If it can't be removed, bind says so.
        let _ = fs::remove_file(path);
    }
}

/// Connects without waiting: one who hangs, with a full queue, listens all the same.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, sync::mpsc};

    use super::*;
    use crate::buffered::is_prepared;

    #[test]
    fn what_a_new_socket_accepts_is_prepared() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = bind_tcp(address.parse().unwrap()).unwrap();
            assert!(is_prepared(&listener).unwrap());
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            assert!(is_prepared(&listener.accept().unwrap().0).unwrap());
            assert!(!is_prepared(&client).unwrap());
        }
    }

    #[test]
    fn a_socket_whose_owner_hangs_is_in_use_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hangs.sock");
        let owner = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = SockAddr::unix(&path).unwrap();
        owner.bind(&address).unwrap();
        owner.listen(0).unwrap();
        let waiting = std::iter::from_fn(|| {
            let next = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            next.set_nonblocking(true).unwrap();
            next.connect(&address).ok().map(|()| next)
        });
        let _waiting: Vec<_> = waiting.collect();
        for bind in [bind_unix, bind_private_unix] {
            let (tell, told) = mpsc::channel();
            let path = path.clone();
            thread::spawn(move || tell.send(bind(&path).map(drop)));
            let bound = told.recv_timeout(Duration::from_secs(20)).expect("an answer at once");
            assert_eq!(bound.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        assert!(path.exists());
        drop(owner);
        bind_unix(&path).expect("nobody listens any more");
    }
}
