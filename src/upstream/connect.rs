//! The one place where connections to upstreams are made.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream, UnixStream},
    time::{Instant, Sleep, sleep, timeout_at},
};

use super::{
    Transport, is_own_lack,
    resolve::Unresolved,
    site::{At, Site},
};
use crate::{
    buffered::{Socket, prepare},
    config::{self, ProxyProtocol},
    proto::proxy_protocol::{self, Addresses},
    tls::{Connector, ConnectorError},
};

/// How long one address of a name has before the next is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a unix socket whose queue is full is left alone.
const FULL_QUEUE: Duration = Duration::from_millis(10);

/// How the servers of a pool are spoken to.
#[derive(Debug)]
pub(super) struct Dial {
    /// `None` speaks plain TCP.
    tls: Option<Tls>,
    proxy_protocol: Option<ProxyProtocol>,
    /// Empty leaves the choice to the system.
    sources: Vec<IpAddr>,
}

/// A connect to one of several addresses.
type Try<'a> = Pin<Box<dyn Future<Output = Result<Begun, Fault>> + Send + 'a>>;

/// A socket that is connected.
#[derive(Debug)]
struct Begun {
    socket: Socket,
    site: Arc<Site>,
    took: Duration,
    /// Until when all must stand that comes before the first request.
    end: Option<Instant>,
}

/// How long the parts of a connect took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// That of TCP, or of a unix socket: to the address that took it, without the head start of others.
    pub(super) connect: Duration,
    pub(super) tls_handshake: Option<Duration>,
}

#[derive(Debug)]
struct Tls {
    connector: Connector,
    /// The name that each server must prove; `None` is its own.
    name: Option<ServerName<'static>>,
}

impl Dial {
    /// As `config` says. Fails where its TLS can't be set up.
    pub(super) fn new(config: &config::Upstream) -> Result<Self, ConnectorError> {
        let tls = |tls: &config::UpstreamTls| {
            Ok::<_, ConnectorError>(Tls { connector: Connector::new(tls)?, name: tls.server_name.clone() })
        };
        Ok(Self {
            tls: config.tls.as_ref().map(tls).transpose()?,
            proxy_protocol: config.proxy_protocol,
            sources: config.source_addresses.clone(),
        })
    }

    /// A connection may serve requests of different clients one after the other.
    pub(super) fn may_be_shared(&self) -> bool {
        self.proxy_protocol.is_none()
    }

    /// Connects to the first of `sites` that takes it, and says there what stands before the first request. `server_name` is
    /// what its certificate is to prove if none is configured; `addresses` is whom it is for, `None` for wsgate's own. Dropping
    /// the future closes what was begun.
    pub(super) async fn connect(
        &self,
        sites: &[Arc<Site>],
        server_name: Option<&ServerName<'static>>,
        bounds: Bounds,
        addresses: Option<&Addresses>,
    ) -> Result<(Transport, Arc<Site>, Took), Fault> {
        let Begun { mut socket, site, took, end } = match sites {
            [site] => self.begin(site, bounds).await?,
            sites => self.first_of(sites, bounds).await?,
        };
        if let Some(version) = self.proxy_protocol {
            let mut header = Vec::new();
            match version {
                ProxyProtocol::V1 => proxy_protocol::encode_v1(addresses, &mut header),
                ProxyProtocol::V2 => proxy_protocol::encode_v2(addresses, &mut header),
            }
            within(end, socket.write_all(&header)).await?;
        }
        let mut took = Took { connect: took, tls_handshake: None };
        let Some(tls) = &self.tls else { return Ok((socket.into(), site, took)) };
        let name = tls.name.clone().or_else(|| server_name.cloned());
        let name =
            name.ok_or_else(|| Fault::Failed(io::Error::other("the server has no name to be verified")))?;
        let began = Instant::now();
        match within(end, tls.connector.connect(socket, name)).await {
            Ok(stream) => {
                took.tls_handshake = Some(began.elapsed());
                Ok((Transport::Tls(Box::new(stream)), site, took))
            }
            Err(Fault::Failed(error)) => Err(Fault::Tls(error)),
            Err(fault) => Err(fault),
        }
    }

    /// A connect to one site; what is left of its time is for what stands before the first request.
    async fn begin(&self, site: &Arc<Site>, bounds: Bounds) -> Result<Begun, Fault> {
        let (began, end) = (Instant::now(), bounds.end());
        let connect = async {
            match &site.at {
                At::Inet(address) => self.tcp(*address, &site.turn).await,
                At::Unix(path) => unix(path).await,
            }
        };
        let socket = within(end, connect).await?;
        Ok(Begun { socket, site: Arc::clone(site), took: began.elapsed(), end })
    }

    /// A connected TCP socket, from the own address whose `turn` it is among those of the server's family.
    async fn tcp(&self, address: SocketAddr, turn: &AtomicUsize) -> io::Result<Socket> {
        let stream = self.stream(address, turn).await?;
        // On the own host, the port chosen for a connection to a server that is down can be that server's, and
        // TCP's simultaneous open then connects the socket to itself.
        if stream.local_addr()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Socket::Tcp(stream))
    }

    async fn stream(&self, address: SocketAddr, turn: &AtomicUsize) -> io::Result<TcpStream> {
        let fitting = || self.sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4());
        let Some(first) = turn.fetch_add(1, Ordering::Relaxed).checked_rem(fitting().count()) else {
            return tcp_socket(address)?.connect(address).await;
        };
        let mut lack = None;
        for source in fitting().skip(first).chain(fitting().take(first)) {
            match stream_from(*source, address).await {
                // It has no port left for this server, or is no address of this host: another may do.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => lack = Some(error),
                made => return made,
            }
        }
        Err(lack.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }

    /// The first of `sites` that takes a connection. Each has a head start before the next is tried beside it; one that
    /// fails hands over at once (RFC 8305).
    async fn first_of(&self, sites: &[Arc<Site>], bounds: Bounds) -> Result<Begun, Fault> {
        let mut waiting = interleaved(sites);
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
                    Some(site) => {
                        tries.push(Box::pin(self.begin(site, bounds)));
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

/// A socket for a connection to `address`.
fn tcp_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    // The ACK that ends TCP's handshake goes with the first bytes, which are wsgate's in all that it speaks. Without any it goes
    // by itself a moment later.
    SockRef::from(&socket).set_tcp_quickack(false)?;
    Ok(socket)
}

async fn stream_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp_socket(address)?;
    // The port is chosen at the connect, so that one port serves connections to several servers.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket
        .bind(SocketAddr::new(source, 0))
        .map_err(|error| io::Error::new(error.kind(), BadSource(source, error)))?;
    socket.connect(address).await
}

/// The resolver's order, but the families by turns (RFC 8305 §4).
fn interleaved(sites: &[Arc<Site>]) -> VecDeque<&Arc<Site>> {
    let is_six = |site: &Arc<Site>| matches!(site.at, At::Inet(SocketAddr::V6(_)));
    let first_is_six = sites.first().is_some_and(is_six);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        sites.iter().partition(|site| is_six(site) == first_is_six);
    let mut order = VecDeque::with_capacity(sites.len());
    while let Some(site) = one.pop_front() {
        order.push_back(site);
        order.extend(other.pop_front());
    }
    order.append(&mut other);
    order
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
    /// Its name has no address.
    Unresolved(Unresolved),
    /// Nobody said in time whether it has one.
    ResolvedTooLate,
    Failed(io::Error),
    /// The TLS handshake.
    Tls(io::Error),
    TimedOut,
}

impl Fault {
    /// Whether it is the server's, and not a lack of the own host, of an answer to its name, or of time that earlier tries had
    /// used up.
    pub(super) fn speaks_against_server(&self, bounds: Bounds, is_first: bool) -> bool {
        match self {
            Self::Unresolved(_) | Self::ResolvedTooLate => false,
            Self::Failed(error) => !is_own_lack(error),
            Self::Tls(_) => true,
            Self::TimedOut => is_first || !bounds.have_passed(),
        }
    }
}

impl Bounds {
    /// Whether the deadline leaves no time.
    pub(super) fn have_passed(self) -> bool {
        self.have_passed_at(Instant::now())
    }

    pub(super) fn have_passed_at(self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When a try that begins now must have a connection.
    fn end(self) -> Option<Instant> {
        let own = self.each.and_then(|each| Instant::now().checked_add(each));
        own.into_iter().chain(self.deadline).min()
    }

    /// Does a step within them; `None` if it takes longer.
    pub(super) async fn apply<T>(self, step: impl Future<Output = T>) -> Option<T> {
        match self.end() {
            Some(end) => timeout_at(end, step).await.ok(),
            None => Some(step.await),
        }
    }
}

async fn within<T>(end: Option<Instant>, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    let done = match end {
        Some(end) => timeout_at(end, step).await.map_err(|_| Fault::TimedOut)?,
        None => step.await,
    };
    done.map_err(Fault::Failed)
}

/// A queue that is full is waited for as TCP does: here the kernel does not.
async fn unix(path: &Path) -> io::Result<Socket> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_QUEUE).await,
            made => return made.map(Socket::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        config::ServerAddress,
        upstream::{
            site::Load,
            tests::{place, refusing, silent, upstream},
        },
    };

    fn sites(addresses: impl IntoIterator<Item = At>) -> Vec<Arc<Site>> {
        let site = |at| {
            let order = place().drain.part(Duration::ZERO);
            Arc::new(Site::new(at, &Arc::new(Load::new(&"server".into())), order))
        };
        addresses.into_iter().map(site).collect()
    }

    fn turn() -> AtomicUsize {
        AtomicUsize::new(0)
    }

    #[tokio::test]
    async fn a_source_that_can_not_be_used_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (some, turn) = (dial(&["192.0.2.77", "127.0.0.3"]), turn());
        for _ in 0..4 {
            let Ok(Socket::Tcp(stream)) = some.tcp(address, &turn).await else { panic!("a connection") };
            assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        }
        let error = dial(&["192.0.2.77"]).tcp(address, &turn).await.unwrap_err();
        assert!(crate::upstream::is_own_lack(&error), "that is no fault of the server's: {error}");
        let refused: io::Error = io::ErrorKind::ConnectionRefused.into();
        assert!(!crate::upstream::is_own_lack(&refused));
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let at = |text: &str| At::Inet(text.parse().unwrap());
        let given = sites(["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(at));
        let order: Vec<_> = interleaved(&given).into_iter().map(|site| &site.at).collect();
        let expected = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"].map(at);
        assert_eq!(order, expected.iter().collect::<Vec<_>>());
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
        let sites = sites(addresses.iter().copied().map(At::Inet));
        let found = dial.first_of(&sites, bounds).await.map(|Begun { socket, site, end, .. }| {
            // TLS has what is left of the time of this address, not of the first one.
            assert!(end.is_none_or(|end| end > Instant::now()));
            let Socket::Tcp(stream) = socket else { unreachable!() };
            let peer = stream.peer_addr().unwrap();
            assert_eq!(site.at, At::Inet(peer));
            peer
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
            let Socket::Tcp(stream) = dial.tcp(server.local_addr().unwrap(), &turn()).await.unwrap() else {
                unreachable!()
            };
            assert_eq!(stream.local_addr().unwrap().ip().to_string(), source);
            assert!(getsockopt(&stream, IpBindAddressNoPort).unwrap());
        }
    }

    #[tokio::test]
    async fn a_unix_socket_whose_queue_is_full_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend.sock");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let sites = sites([At::Unix(path)]);
        let dial = dial(&[]);
        let connect = |each| dial.connect(&sites, None, Bounds { each: Some(each), deadline: None }, None);
        let _first = connect(Duration::from_secs(3)).await.unwrap();
        let full = connect(Duration::from_millis(50)).await;
        assert!(matches!(full, Err(Fault::TimedOut)), "{full:?}");
        let waits = connect(Duration::from_secs(20));
        let (second, ()) = tokio::join!(waits, async {
            sleep(FULL_QUEUE * 3).await;
            socket.accept().unwrap();
        });
        second.unwrap();
    }
}
