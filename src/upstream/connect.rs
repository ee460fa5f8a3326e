//! The one place where connections to upstreams are made.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout_at},
};

use super::resolve::Name;
use crate::buffered::Socket;

/// Where an endpoint is reached.
#[derive(Debug)]
pub(super) enum Target {
    Inet(SocketAddr),
    Name(Name),
    Unix(PathBuf),
}

/// The time for connecting; `None` is without bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// For the look-up of the name, and for each of its addresses.
    pub(super) each: Option<Duration>,
    /// For all tries together.
    pub(super) deadline: Option<Instant>,
}

/// Why one endpoint gave no connection.
#[derive(Debug)]
pub(super) enum Fault {
    Failed(io::Error),
    TimedOut,
}

impl Target {
    /// Connects, trying all addresses of a name in turn. Dropping the future closes what was begun.
    pub(super) async fn connect(&self, bounds: Bounds) -> Result<Socket, Fault> {
        match self {
            Self::Inet(address) => bounds.apply(tcp(*address)).await,
            Self::Unix(path) => bounds.apply(unix(path)).await,
            Self::Name(name) => {
                let mut fault = Fault::TimedOut;
                for address in bounds.apply(name.addresses()).await?.iter() {
                    match bounds.apply(tcp(*address)).await {
                        Ok(socket) => return Ok(socket),
                        Err(its_fault) => fault = its_fault,
                    }
                    if bounds.have_passed() {
                        break;
                    }
                }
                Err(fault)
            }
        }
    }
}

impl Bounds {
    /// Whether the deadline leaves no time.
    pub(super) fn have_passed(self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    async fn apply<T>(self, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
        let own = self.each.and_then(|each| Instant::now().checked_add(each));
        let done = match own.into_iter().chain(self.deadline).min() {
            Some(end) => timeout_at(end, step).await.map_err(|_| Fault::TimedOut)?,
            None => step.await,
        };
        done.map_err(Fault::Failed)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place that sets deadline and options")]
async fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    // On the own host, the port chosen for a connection to a server that is down can be that server's, and
    // TCP's simultaneous open then connects the socket to itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Socket::tcp(stream)
}

async fn unix(path: &Path) -> io::Result<Socket> {
    UnixStream::connect(path).await.map(Socket::from)
}
