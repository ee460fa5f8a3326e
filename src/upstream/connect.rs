//! The one place where connections to upstreams are made.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream, UnixStream},
    time::{Instant, Sleep, sleep, timeout_at},
};

use super::{Transport, resolve::Name};
use crate::{
    buffered::Socket,
    config::{self, ProxyProtocol, Trust},
    proto::proxy_protocol::{self, Addresses},
    tls::{Connector, ConnectorError},
};

/// How long one address of a name has before the next is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How the servers of a pool are spoken to.
#[derive(Debug)]
pub(super) struct Dial {
    /// `None` speaks plain TCP.
    tls: Option<Tls>,
    proxy_protocol: Option<ProxyProtocol>,
    /// Empty leaves the choice to the system.
    sources: Vec<IpAddr>,
    /// Whose turn among them it is.
    turn: AtomicUsize,
}

/// A connect to one of several addresses.
type Try<'a> = Pin<Box<dyn Future<Output = Result<Begun, Fault>> + Send + 'a>>;

/// A socket that is connected, and until when TLS must stand on it.
type Begun = (Socket, Option<Instant>);

#[derive(Debug)]
struct Tls {
    connector: Connector,
    /// The name that each server must prove; `None` is its own.
    name: Option<rustls::pki_types::ServerName<'static>>,
}

impl Dial {
    /// As `config` says. Fails where its TLS can't be set up.
    pub(super) fn new(config: &config::Upstream) -> Result<Self, ConnectorError> {
        let tls = |tls: &config::UpstreamTls| {
            if matches!(tls.trust, Trust::Anybody) {
                tracing::warn!(upstream = %config.name, "verify = false: whoever answers is taken for the server");
            }
            Ok::<_, ConnectorError>(Tls { connector: Connector::new(tls)?, name: tls.server_name.clone() })
        };
        Ok(Self {
            tls: config.tls.as_ref().map(tls).transpose()?,
            proxy_protocol: config.proxy_protocol,
            sources: config.source_addresses.clone(),
            turn: AtomicUsize::new(0),
        })
    }

    /// A connection may serve requests of different clients one after the other.
    pub(super) fn may_be_shared(&self) -> bool {
        self.proxy_protocol.is_none()
    }

    /// Connects to `target`, and says there what stands before the first request. `addresses` is whom it is for; `None` for
    /// wsgate's own.
    pub(super) async fn connect(
        &self,
        target: &Target,
        bounds: Bounds,
        addresses: Option<&Addresses>,
    ) -> Result<Transport, Fault> {
        let (mut socket, end) = target.connect(self, bounds).await?;
        if let Some(version) = self.proxy_protocol {
            let mut header = Vec::new();
            match version {
                ProxyProtocol::V1 => proxy_protocol::encode_v1(addresses, &mut header),
                ProxyProtocol::V2 => proxy_protocol::encode_v2(addresses, &mut header),
            }
            within(end, socket.write_all(&header)).await?;
        }
        let Some(tls) = &self.tls else { return Ok(socket.into()) };
        let name = tls.name.clone().or_else(|| target.server_name());
        let name =
            name.ok_or_else(|| Fault::Failed(io::Error::other("the server has no name to be verified")))?;
        match within(end, tls.connector.connect(socket, name)).await {
            Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
            Err(Fault::Failed(error)) => Err(Fault::Tls(error)),
            Err(fault) => Err(fault),
        }
    }

    /// A connected TCP socket, from the next of the own addresses that are of the server's family.
    async fn tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        let stream = self.stream(address).await?;
        // On the own host, the port chosen for a connection to a server that is down can be that server's, and
        // TCP's simultaneous open then connects the socket to itself.
        if stream.local_addr()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Socket::tcp(stream)
    }

    #[expect(clippy::disallowed_methods, reason = "called by the place that sets deadline and options")]
    async fn stream(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let fitting: Vec<_> =
            self.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4()).collect();
        let Some(first) = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(fitting.len()) else {
            return TcpStream::connect(address).await;
        };
        let mut lack = None;
        for source in fitting[first..].iter().chain(&fitting[..first]) {
            match stream_from(**source, address).await {
                // It has no port left for this server, or is no address of this host: another may do.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => lack = Some(error),
                made => return made,
            }
        }
        Err(lack.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }

    /// The first of `addresses` that takes a connection. Each has a head start before the next is tried beside it; one that
    /// fails hands over at once (RFC 8305).
    async fn first_of(&self, addresses: &[SocketAddr], bounds: Bounds) -> Result<Begun, Fault> {
        let mut waiting = interleaved(addresses);
        let mut tries: Vec<Try<'_>> = Vec::new();
        let mut head_start: Option<Pin<Box<Sleep>>> = None;
        let mut fault = Fault::TimedOut;
        std::future::poll_fn(|cx| {
            loop {
                let mut index = 0;
                while index < tries.len() {
                    match tries[index].as_mut().poll(cx) {
                        Poll::Ready(Ok(begun)) => return Poll::Ready(Ok(begun)),
                        Poll::Ready(Err(its_fault)) => {
                            fault = its_fault;
                            drop(tries.swap_remove(index));
                            head_start = None;
                        }
                        Poll::Pending => index += 1,
                    }
                }
                if let Some(running) = &mut head_start
                    && running.as_mut().poll(cx).is_pending()
                {
                    return Poll::Pending;
                }
                let next = waiting.pop_front().filter(|_| !bounds.have_passed());
                match next {
                    Some(address) => {
                        tries.push(Box::pin(bounds.begin(self.tcp(address))));
                        head_start = Some(Box::pin(sleep(HEAD_START)));
                    }
                    None if tries.is_empty() => {
                        return Poll::Ready(Err(std::mem::replace(&mut fault, Fault::TimedOut)));
                    }
                    None => return Poll::Pending,
                }
            }
        })
        .await
    }
}

async fn stream_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // The port is chosen at the connect, so that one port serves connections to several servers.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket
        .bind(SocketAddr::new(source, 0))
        .map_err(|error| io::Error::new(error.kind(), BadSource(source, error)))?;
    socket.connect(address).await
}

/// The resolver's order, but the families by turns (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut order = VecDeque::with_capacity(addresses.len());
    while let Some(address) = one.pop_front() {
        order.push_back(address);
        order.extend(other.pop_front());
    }
    order.append(&mut other);
    order
}

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
    /// For the look-up of the name, and for each of its addresses, TLS included.
    pub(super) each: Option<Duration>,
    /// For all tries together.
    pub(super) deadline: Option<Instant>,
}

/// An address of `source_addresses` that can't be connected from.
#[derive(Debug, thiserror::Error)]
#[error("source address {0}")]
struct BadSource(IpAddr, #[source] io::Error);

/// Why one endpoint gave no connection.
#[derive(Debug)]
pub(super) enum Fault {
    Failed(io::Error),
    /// The TLS handshake.
    Tls(io::Error),
    TimedOut,
}

impl Target {
    /// Connects; to a name at the first of its addresses that takes it. Dropping the future closes what was begun.
    async fn connect(&self, dial: &Dial, bounds: Bounds) -> Result<Begun, Fault> {
        match self {
            Self::Inet(address) => bounds.begin(dial.tcp(*address)).await,
            Self::Unix(path) => bounds.begin(unix(path)).await,
            Self::Name(name) => {
                let addresses = bounds.apply(name.addresses()).await?;
                dial.first_of(&addresses, bounds).await
            }
        }
    }

    /// The name that a server proves by its certificate, if none is configured; a unix socket has none.
    fn server_name(&self) -> Option<rustls::pki_types::ServerName<'static>> {
        match self {
            Self::Inet(address) => Some(address.ip().into()),
            Self::Name(name) => name.host().trim_end_matches('.').to_owned().try_into().ok(),
            Self::Unix(_) => None,
        }
    }
}

impl Bounds {
    /// Whether the deadline leaves no time.
    pub(super) fn have_passed(self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// When a try that begins now must have a connection.
    fn end(self) -> Option<Instant> {
        let own = self.each.and_then(|each| Instant::now().checked_add(each));
        own.into_iter().chain(self.deadline).min()
    }

    /// Does a step within them.
    pub(super) async fn apply<T>(self, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
        within(self.end(), step).await
    }

    /// A connect to one address; what is left of its time is for what stands before the first request.
    async fn begin(self, connect: impl Future<Output = io::Result<Socket>>) -> Result<Begun, Fault> {
        let end = self.end();
        Ok((within(end, connect).await?, end))
    }
}

async fn within<T>(end: Option<Instant>, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    let done = match end {
        Some(end) => timeout_at(end, step).await.map_err(|_| Fault::TimedOut)?,
        None => step.await,
    };
    done.map_err(Fault::Failed)
}

async fn unix(path: &Path) -> io::Result<Socket> {
    UnixStream::connect(path).await.map(Socket::from)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        config::ServerAddress,
        upstream::tests::{refusing, silent, upstream},
    };

    #[tokio::test]
    async fn a_source_that_can_not_be_used_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let some = dial(&["192.0.2.77", "127.0.0.3"]);
        for _ in 0..4 {
            let Ok(Socket::Tcp(stream)) = some.tcp(address).await else { panic!("a connection") };
            assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        }
        let error = dial(&["192.0.2.77"]).tcp(address).await.unwrap_err();
        assert!(crate::upstream::is_own_lack(&error), "that is no fault of the server's: {error}");
        let refused: io::Error = io::ErrorKind::ConnectionRefused.into();
        assert!(!crate::upstream::is_own_lack(&refused));
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let addresses =
            ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse().unwrap());
        let order: Vec<_> = interleaved(&addresses).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]);
        assert!(interleaved(&[]).is_empty());
    }

    const BOUNDS: Bounds = Bounds { each: Some(Duration::from_secs(3)), deadline: None };

    fn dial(sources: &[&str]) -> Dial {
        let mut config = upstream(Vec::new());
        config.source_addresses = sources.iter().map(|source| source.parse().unwrap()).collect();
        Dial::new(&config).unwrap()
    }

    fn inet(address: &ServerAddress) -> SocketAddr {
        let ServerAddress::Inet(address) = address else { unreachable!() };
        *address
    }

    /// Which of `addresses` is connected to, and after how many milliseconds. The clock is to be paused.
    async fn first_of(addresses: &[SocketAddr], bounds: Bounds) -> (Result<SocketAddr, Fault>, u128) {
        let (dial, begun) = (dial(&[]), Instant::now());
        let found = dial.first_of(addresses, bounds).await.map(|(socket, end)| {
            // TLS has what is left of the time of this address, not of the first one.
            assert!(end.is_none_or(|end| end > Instant::now()));
            let Socket::Tcp(stream) = socket else { unreachable!() };
            stream.peer_addr().unwrap()
        });
        (found, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_has_a_head_start_alone() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = server.local_addr().unwrap();
        let (_silent, silent) = silent();
        let (found, after) = first_of(&[inet(&silent), good], BOUNDS).await;
        assert_eq!(found.unwrap(), good);
        assert!((250..260).contains(&after), "{after} ms");
        // One that answers has no need of the others.
        let (found, after) = first_of(&[good, inet(&silent)], BOUNDS).await;
        assert_eq!(found.unwrap(), good);
        assert!(after < 250, "{after} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_hands_over_at_once() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = server.local_addr().unwrap();
        let ((_one, one), (_other, other)) = (refusing(), refusing());
        let (found, after) = first_of(&[inet(&one), inet(&other), good], BOUNDS).await;
        assert_eq!(found.unwrap(), good);
        assert!(after < 250, "{after} ms");
        let (found, _) = first_of(&[inet(&one), inet(&other)], BOUNDS).await;
        assert!(
            matches!(found, Err(Fault::Failed(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_are_all_silent_time_out_each_by_itself_and_all_at_the_deadline() {
        let ((_one, one), (_other, other)) = (silent(), silent());
        let addresses = [inet(&one), inet(&other)];
        let (found, after) = first_of(&addresses, BOUNDS).await;
        assert!(matches!(found, Err(Fault::TimedOut)));
        assert!((3250..3260).contains(&after), "{after} ms");
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let (found, after) = first_of(&addresses, Bounds { deadline, ..BOUNDS }).await;
        assert!(matches!(found, Err(Fault::TimedOut)));
        assert!((1000..1010).contains(&after), "{after} ms");
        let (found, after) = first_of(&[], BOUNDS).await;
        assert!(matches!(found, Err(Fault::TimedOut)) && after == 0);
    }

    #[tokio::test]
    async fn a_source_address_takes_no_port_for_itself_alone() {
        let dial = dial(&["127.0.0.2", "::1"]);
        for (address, source) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "::1")] {
            let server = TcpListener::bind(address).await.unwrap();
            let Socket::Tcp(stream) = dial.tcp(server.local_addr().unwrap()).await.unwrap() else {
                unreachable!()
            };
            assert_eq!(stream.local_addr().unwrap().ip().to_string(), source);
            assert!(getsockopt(&stream, IpBindAddressNoPort).unwrap());
        }
    }
}
