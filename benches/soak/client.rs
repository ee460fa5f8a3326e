//! Clients as a process of their own. Each keeps one tunnel after the other open, in the way of its kind, until standard input
//! ends.

use std::{
    error::Error,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    pin::pin,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rand::RngExt;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    Fallible, head, now,
    wire::{Came, End, Order, Over},
};

/// Longest time to the 101, with the tries that were refused as servers fell.
const OPENING: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// Longest time from the last message to the end of the closing handshake.
const FINISHING: Duration = Duration::from_secs(60);
/// What a client that will stop reading has its kernel take at most.
const SMALL_BUFFER: u32 = 16 * 1024;

/// How clients behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Keeps its tunnel to the end.
    Steady,
    /// Resets its tunnel after a while.
    Rude,
    /// Asks for more and more, and stops reading.
    Stuck,
    /// Has its process killed.
    Killed,
    /// Has its process stopped, so that it is there and does nothing.
    Stopped,
    /// Sends plain requests.
    Plain,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Steady, Self::Rude, Self::Stuck, Self::Killed, Self::Stopped, Self::Plain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Rude => "rude",
            Self::Stuck => "stuck",
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::Plain => "plain",
        }
    }
}

impl FromStr for Kind {
    type Err = Box<dyn Error>;

    fn from_str(name: &str) -> Fallible<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("no kind {name}").into())
    }
}

/// What the clients of a process have in common.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) kind: Kind,
    /// Tells the process from others of its kind.
    pub(crate) name: String,
    pub(crate) count: usize,
    /// Where they come from.
    pub(crate) source: IpAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) wss: SocketAddr,
    /// PEM.
    pub(crate) certificate: Vec<u8>,
    /// Mean time between two messages of a client, and what other times are measured in.
    pub(crate) beat: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

type Tunnel = End<Box<dyn Stream>>;

/// What a process says at its end.
#[derive(Default)]
struct Sum {
    tunnels: u64,
    messages: u64,
    bytes: u64,
    fragmented: u64,
    pongs: u64,
    cut: u64,
    left: u64,
    refused: u64,
    plain: u64,
}

/// Runs the clients until standard input ends, and for as long as they need to finish.
pub(crate) async fn run(party: Party) -> Fallible<()> {
    let (finish, finished) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        finish.send_replace(true);
    });
    let connector = connector(&party.certificate)?;
    let clients = (0..party.count).map(|place| {
        let client = Client {
            party: party.clone(),
            connector: (place % 2 == 1).then(|| connector.clone()),
            finished: finished.clone(),
            sum: Sum::default(),
        };
        client.run()
    });
    let mut sum = Sum::default();
    for client in join_all(clients).await {
        sum.tunnels += client.tunnels;
        sum.messages += client.messages;
        sum.bytes += client.bytes;
        sum.fragmented += client.fragmented;
        sum.pongs += client.pongs;
        sum.cut += client.cut;
        sum.left += client.left;
        sum.refused += client.refused;
        sum.plain += client.plain;
    }
    let Sum { tunnels, messages, bytes, fragmented, pongs, cut, left, refused, plain } = sum;
    println!("sum {tunnels} {messages} {bytes} {fragmented} {pongs} {cut} {left} {refused} {plain}");
    Ok(())
}

fn connector(certificate: &[u8]) -> Fallible<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A random time around `mean`.
fn around(mean: Duration) -> Duration {
    mean.mul_f64(rand::rng().random_range(0.5..1.5))
}

struct Client {
    party: Party,
    connector: Option<TlsConnector>,
    finished: watch::Receiver<bool>,
    sum: Sum,
}

/// A tunnel that was opened, and its path.
struct Opened {
    tunnel: Tunnel,
    path: String,
}

impl Client {
    async fn run(mut self) -> Sum {
        // They come one after the other, so that the machine is not busy with their opening alone.
        sleep(self.party.beat.mul_f64(rand::random())).await;
        while !self.is_finished() {
            if self.party.kind == Kind::Plain {
                self.ask().await;
                sleep(around(self.party.beat)).await;
                continue;
            }
            let Some(opened) = self.open().await else { continue };
            self.sum.tunnels += 1;
            self.keep(opened).await;
        }
        self.sum
    }

    fn is_finished(&self) -> bool {
        *self.finished.borrow()
    }

    /// Opens a tunnel; `None` when that took too long, or nobody wants one any more.
    async fn open(&mut self) -> Option<Opened> {
        let due = Instant::now() + OPENING;
        while !self.is_finished() {
            match timeout(OPENING, self.offer()).await {
                Ok(Ok(opened)) => return Some(opened),
                Ok(Err(_)) if Instant::now() < due => self.sum.refused += 1,
                Ok(Err(error)) => {
                    println!("violation {}: not opened: {error}", self.party.kind.name());
                    return None;
                }
                Err(_) => {
                    println!("violation {}: not opened in time", self.party.kind.name());
                    return None;
                }
            }
            sleep(around(BETWEEN_TRIES)).await;
        }
        None
    }

    async fn connect(&self) -> Fallible<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let options = SockRef::from(&socket);
        if matches!(self.party.kind, Kind::Rude | Kind::Stuck) {
            // Its close is a reset.
            options.set_linger(Some(Duration::ZERO))?;
        }
        if self.party.kind == Kind::Stuck {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        socket.bind((self.party.source, 0).into())?;
        let to = if self.connector.is_some() { self.party.wss } else { self.party.ws };
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn enter(&self) -> Fallible<Box<dyn Stream>> {
        let socket = self.connect().await?;
        Ok(match &self.connector {
            Some(connector) => Box::new(connector.connect(ServerName::try_from("localhost")?, socket).await?),
            None => Box::new(socket),
        })
    }

    async fn offer(&self) -> Fallible<Opened> {
        let number: u64 = rand::random();
        let path = format!("/{}/{}/{number:016x}", self.party.kind.name(), self.party.name);
        let mut stream = self.enter().await?;
        let offer = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(offer.as_bytes()).await?;
        stream.flush().await?;
        let mut tail = Vec::new();
        let head = head::read(&mut stream, &mut tail).await?;
        if head::status(&head) != 101 {
            return Err(head.lines().next().unwrap_or_default().into());
        }
        Ok(Opened { tunnel: End::new(stream, true, number, tail), path })
    }

    /// Keeps a tunnel open for as long as its kind does.
    async fn keep(&mut self, opened: Opened) {
        let Opened { mut tunnel, path } = opened;
        let over = self.talk(&mut tunnel, &path).await;
        self.sum.messages += tunnel.sent + tunnel.received;
        self.sum.bytes += tunnel.bytes;
        self.sum.fragmented += tunnel.fragmented;
        let over = match over {
            Ok(true) => self.finish(tunnel).await,
            Ok(false) => Ok(()),
            Err(over) => Err(over),
        };
        match over {
            Ok(()) => {}
            Err(Over::Wrong(what)) => println!("violation {path}: {what}"),
            Err(Over::Cut(error)) => {
                self.sum.cut += 1;
                println!("cut {} {path} {error}", now());
            }
        }
    }

    /// Sends messages and checks those that come. Returns whether the tunnel is still there to be finished.
    async fn talk(&mut self, tunnel: &mut Tunnel, path: &str) -> Result<bool, Over> {
        let beat = self.party.beat;
        let leaves = match self.party.kind {
            Kind::Rude => Instant::now() + around(beat * 4),
            Kind::Stuck => Instant::now() + around(beat * 2),
            _ => Instant::now() + Duration::from_secs(86_400),
        };
        let mut order = self.finished.clone();
        let mut finishes = pin!(order.wait_for(|finished| *finished));
        let mut due = Instant::now() + around(beat);
        loop {
            while let Some(came) = tunnel.next()? {
                if let Came::Close = came {
                    return Err(Over::Cut(io::Error::other("a Close")));
                }
            }
            tokio::select! {
                moved = tunnel.moves(true) => moved?,
                () = sleep_until(due) => {
                    tunnel.say(Order::Answer);
                    due = Instant::now() + around(beat);
                }
                () = sleep_until(leaves) => {
                    self.sum.left += 1;
                    println!("left {} {path}", now());
                    if self.party.kind == Kind::Stuck {
                        self.stick(tunnel).await;
                    }
                    return Ok(false);
                }
                _ = &mut finishes => return Ok(true),
            }
        }
    }

    /// Asks for a flood, and reads none of it. The end shows when writing fails.
    async fn stick(&mut self, tunnel: &mut Tunnel) {
        tunnel.say(Order::Flood);
        let cut = async {
            loop {
                while tunnel.waiting() > 0 {
                    if tunnel.moves(false).await.is_err() {
                        return;
                    }
                }
                sleep(self.party.beat / 4).await;
                tunnel.ping();
            }
        };
        let mut finished = self.finished.clone();
        tokio::select! {
            () = cut => {}
            _ = finished.wait_for(|finished| *finished) => {}
        }
    }

    /// Says the last message, hears how many have come, and takes the tunnel through the closing handshake.
    async fn finish(&mut self, mut tunnel: Tunnel) -> Result<(), Over> {
        let before = (tunnel.sent + tunnel.received, tunnel.bytes);
        let farewell = async {
            tunnel.say(Order::Finish);
            let mut is_told = false;
            loop {
                match tunnel.next()? {
                    // The last Ping may stand behind the last message.
                    Some(Came::Message(Order::Count(_))) if tunnel.unanswered() > 1 => {
                        return Err(Over::Wrong(format!("{} Pings are unanswered", tunnel.unanswered())));
                    }
                    Some(Came::Message(Order::Count(count))) if count == tunnel.sent => {
                        is_told = true;
                        tunnel.close();
                    }
                    Some(Came::Message(Order::Count(count))) => {
                        return Err(Over::Wrong(format!("{count} of {} messages came", tunnel.sent)));
                    }
                    Some(Came::Close) if is_told => return Ok(()),
                    Some(Came::Close) => return Err(Over::Cut(io::Error::other("a Close"))),
                    Some(Came::Message(_)) => {}
                    None => tunnel.moves(true).await?,
                }
            }
        };
        let late = || Over::Wrong("not finished in time".to_owned());
        timeout(FINISHING, farewell).await.map_err(|_| late())??;
        self.sum.messages += tunnel.sent + tunnel.received - before.0;
        self.sum.bytes += tunnel.bytes - before.1;
        self.sum.pongs += tunnel.pongs;
        timeout(FINISHING, tunnel.end()).await.map_err(|_| late())?
    }

    /// Sends a plain request, and compares the answer with its body.
    async fn ask(&mut self) {
        let body: Vec<u8> = (0..rand::rng().random_range(0..20_000)).map(|_| rand::random()).collect();
        match timeout(OPENING, self.post(&body)).await {
            Ok(Ok(200)) => self.sum.plain += 1,
            // Its server has fallen.
            Ok(Ok(502..=504) | Err(_)) => self.sum.refused += 1,
            Ok(Ok(other)) => println!("violation plain: status {other}"),
            Err(_) => println!("violation plain: no answer"),
        }
    }

    async fn post(&self, body: &[u8]) -> Fallible<u16> {
        let mut stream = self.enter().await?;
        let head = format!(
            "POST /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        stream.flush().await?;
        let mut came = Vec::new();
        let status = head::status(&head::read(&mut stream, &mut came).await?);
        if status != 200 {
            return Ok(status);
        }
        stream.read_to_end(&mut came).await?;
        if came == body {
            Ok(status)
        } else if came.len() < body.len() && body.starts_with(&came) {
            Err("cut short".into())
        } else {
            println!("violation plain: another body than was sent");
            Ok(status)
        }
    }
}
