//! Listening sockets that this process did not open itself.

use std::{
    env, io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::{Mutex, MutexGuard, PoisonError},
};

use listenfd::ListenFd;
use socket2::{Socket, Type};

use super::bind::{Listening, Ownership, UnixPath};
use crate::config::ListenAddress;

/// Sockets from systemd (`sd_listen_fds(3)`) or from a predecessor, until listeners take them by their addresses.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Mutex<Vec<Heirloom>>,
    /// What was passed and is no listening socket.
    unusable: Vec<String>,
    follows_another: bool,
    is_lent: bool,
}

/// A listening stream socket, non-blocking.
#[derive(Debug)]
struct Heirloom {
    address: ListenAddress,
    socket: OwnedFd,
    /// Of the file of a unix socket.
    owned: Ownership,
}

impl Inherited {
    /// The sockets that systemd, or who does as it does, passed to this process; none elsewhere. The variables that name them
    /// are removed, so no other thread may run yet that reads the environment. Called again it finds nothing.
    pub fn from_environment() -> Self {
        let mut this = Self::default();
        // The descriptors of a process that began this one are not for it.
        if env::var_os("LISTEN_PID").is_none() {
            return this;
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut passed = ListenFd::from_env();
        for index in 0..passed.len() {
            let name = names.get(index).copied().unwrap_or_default();
            // The service manager owns the files of its unix sockets.
            let kept =
                take_passed(&mut passed, index).and_then(|socket| this.add(socket, &Ownership::new(false)));
            if let Err(error) = kept {
                this.unusable.push(format!("descriptor {index} `{name}`: {error}"));
            }
        }
        this
    }

    /// Another process may be letting go of the addresses.
    pub(super) fn expect_another(&mut self) {
        self.follows_another = true;
    }

    pub(super) fn follows_another(&self) -> bool {
        self.follows_another
    }

    /// The sockets are a predecessor's until it lets go.
    pub(super) fn lend(&mut self) {
        self.is_lent = true;
    }

    pub(super) fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Adds a listening stream socket.
    ///
    /// # Errors
    /// It is none, or has no address that a listener can have.
    pub(super) fn add(&mut self, socket: OwnedFd, owned: &Ownership) -> io::Result<()> {
        let socket = Socket::from(socket);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::other("not a listening stream socket"));
        }
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let inet = address.as_socket().map(ListenAddress::Inet);
        let unix = || address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()));
        let address =
            inet.or_else(unix).ok_or_else(|| io::Error::other("neither IP nor a unix socket's path"))?;
        let mut sockets = self.lock();
        // The same one by two ways: passed by the service manager, and by a predecessor that has it from there.
        if sockets.iter().all(|heirloom| heirloom.address != address) {
            sockets.push(Heirloom { address, socket: socket.into(), owned: owned.clone() });
        }
        drop(sockets);
        Ok(())
    }

    /// The socket that listens on exactly this address, which is then no longer here.
    pub fn take(&self, address: &ListenAddress) -> Option<Listening> {
        let mut sockets = self.lock();
        let index = sockets.iter().position(|heirloom| heirloom.address == *address)?;
        let Heirloom { socket, owned, .. } = sockets.swap_remove(index);
        Some(match address {
            ListenAddress::Inet(_) => Listening::Tcp(socket.into()),
            ListenAddress::Unix(path) => {
                Listening::Unix(UnixListener::from(socket), UnixPath { path: path.clone(), owned })
            }
        })
    }

    /// Of the sockets that nobody took.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.lock().iter().map(|heirloom| heirloom.address.to_string()).collect()
    }

    /// Closes what nobody took, and says so: clients who connect there would wait for nothing. Files that are this process' own
    /// by now go too.
    pub fn close_rest(&self) {
        for unusable in &self.unusable {
            tracing::warn!("passed to this process and of no use: {unusable}");
        }
        for heirloom in self.lock().drain(..) {
            tracing::warn!(address = %heirloom.address, "no listener has the address of this inherited socket: closed");
            if let ListenAddress::Unix(path) = heirloom.address {
                drop(UnixPath { path, owned: heirloom.owned });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Heirloom>> {
        // Nothing panics while it is held.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_passed(passed: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    let inet = passed.take_tcp_listener(index).map(|socket| socket.map(OwnedFd::from));
    let taken = inet.or_else(|_| passed.take_unix_listener(index).map(|socket| socket.map(OwnedFd::from)))?;
    taken.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn inet(listener: &TcpListener) -> ListenAddress {
        ListenAddress::Inet(listener.local_addr().unwrap())
    }

    fn add(inherited: &mut Inherited, socket: impl Into<OwnedFd>) -> io::Result<()> {
        inherited.add(socket.into(), &Ownership::new(false))
    }

    #[test]
    fn a_socket_goes_to_the_listener_of_its_exact_address_once() {
        let every = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = inet(&every);
        let ListenAddress::Inet(bound) = address else { panic!("an IP address") };
        let mut inherited = Inherited::default();
        add(&mut inherited, every).unwrap();
        let others = ["127.0.0.1", "::"]
            .map(|ip| ListenAddress::Inet((ip.parse::<std::net::IpAddr>().unwrap(), bound.port()).into()));
        for other in others {
            assert!(inherited.take(&other).is_none(), "{other}");
        }
        assert!(inherited.take(&ListenAddress::Inet(([0; 4], 0).into())).is_none());
        let Some(Listening::Tcp(taken)) = inherited.take(&address) else { panic!("the socket") };
        // It does not block, though it did before.
        assert_eq!(taken.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(inherited.take(&address).is_none());
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut inherited = Inherited::default();
        for socket in [OwnedFd::from(stream), UdpSocket::bind("127.0.0.1:0").unwrap().into()] {
            let error = add(&mut inherited, socket).unwrap_err();
            assert_eq!(error.to_string(), "not a listening stream socket");
        }
        assert_eq!(inherited.lock().len(), 0);
    }

    #[test]
    fn a_socket_that_nobody_took_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut inherited = Inherited::default();
        add(&mut inherited, listener).unwrap();
        drop(TcpStream::connect(address).unwrap());
        inherited.close_rest();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_file_of_a_unix_socket_is_removed_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        for owned in [false, true] {
            let path = folder.path().join("a.sock");
            let mut inherited = Inherited::default();
            let (listener, owner) = (UnixListener::bind(&path).unwrap(), Ownership::new(false));
            inherited.add(listener.into(), &owner).unwrap();
            let taken = inherited.take(&ListenAddress::Unix(path.clone())).expect("the socket");
            owner.set(owned);
            drop(taken);
            assert_eq!(path.exists(), !owned);
            let _ = std::fs::remove_file(path);
        }
    }
}
