//! The life of a downstream connection, from the accepted socket to its last byte.
//!
//! One task owns it throughout: [`Connection`] is that task's future. It begins as a boxed set-up (the TLS handshake,
//! request heads, exchanges) and, if that ends in a verified 101, becomes the tunnel, in the same task and with the same
//! permit. So nothing escapes a limit, a count or the drain, and an idle tunnel keeps nothing of its set-up.

mod admission;
mod answer;
mod caller;
mod client;
mod downstream;
mod forward_auth;
mod h1;
mod introduction;
mod listener;
mod metrics;
mod record;
mod request;
mod sender;
mod snapshot;
pub mod tunnels;
mod upgrade;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::time::Instant;

use self::{client::Client, downstream::Downstream, h1::Http1, record::TunnelRecord};
use crate::{
    auth::Verifier,
    buffered::{Buffered, Socket, Stream},
    ending::{Refusal, Side, TlsFailure},
    lifecycle::{ClientPlace, Drain, Entrance, Permit, TlsPermits},
    telemetry::{AccessSink, Metrics},
    tls::{self, Acceptor},
    tunnel::{Totals, Tunnel},
    upstream::{Transport, TunnelLease},
};

pub use self::{
    listener::{BoundAddress, Listener, TlsSetupError},
    snapshot::{SetUpError, Setting, Snapshot},
};

/// What all connections share.
#[derive(Debug)]
pub struct Gate {
    /// The configuration in force.
    pub current: ArcSwap<Snapshot>,
    /// The drain signal.
    pub drain: Drain,
    /// Where access records go.
    pub access: AccessSink,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bounds the TLS handshakes in flight.
    pub tls_permits: TlsPermits,
    /// Checks passwords.
    pub verifier: Verifier,
    /// What all tunnels carry.
    pub totals: Arc<Totals>,
    /// Tunnels are listed, so that each keeps what is told of it.
    pub lists_tunnels: AtomicBool,
}

impl Gate {
    /// Query parameters whose values are masked in logs.
    fn redact(&self) -> Arc<[String]> {
        Arc::clone(&self.current.load().redact)
    }
}

/// The task of one downstream connection.
pub struct Connection {
    state: State,
    _permit: Permit,
}

#[expect(clippy::large_enum_variant, reason = "the tunnel, which stands for hours, must not cost a box more")]
enum State {
    SetUp(Pin<Box<dyn Future<Output = Option<OpenTunnel>> + Send>>),
    Tunnel(OpenTunnel),
}

/// A tunnel, what it holds at its upstream, and what its record will say.
struct OpenTunnel {
    tunnel: Tunnel<Downstream, Transport>,
    /// `None` where no records are written.
    record: Option<Box<TunnelRecord>>,
    lease: TunnelLease,
    /// Last, so that what was taken is given back after the sockets; `None` where nothing is bounded.
    _taken: Option<Box<Taken>>,
}

impl Drop for OpenTunnel {
    /// Counts a tunnel that was dropped with its task.
    fn drop(&mut self) {
        if !self.tunnel.has_ended() {
            self.tunnel.terms().witness.cut(self.lease.endpoint_name(), self.tunnel.age());
        }
    }
}

impl OpenTunnel {
    /// Does what visits to all tunnels want of this one.
    fn receive_visits(&mut self) {
        while let Some(visit) = self.tunnel.take_visit() {
            tunnels::receive(&visit, self);
        }
    }
}

/// Places that a request takes, and its tunnel then for as long as it stands: 32 bytes.
#[derive(Debug, Default)]
struct Taken {
    client: Option<ClientPlace>,
    route: Option<Permit>,
}

impl Connection {
    /// The task for a socket that `listener` accepted, and what has become of it there, if that is known yet. Must be polled on
    /// one worker's runtime.
    pub fn new(
        socket: Accepted,
        listener: Arc<Listener>,
        gate: Arc<Gate>,
        permit: Permit,
        entrance: Option<Entrance>,
    ) -> Self {
        let is_overload = permit.is_overload();
        let set_up = async move {
            let cut = gate.drain.until_shutdown();
            tokio::select! {
                biased;
                () = cut => None,
                tunnel = set_up(socket, listener, gate, is_overload, entrance) => tunnel,
            }
        };
        Self { state: State::SetUp(Box::pin(set_up)), _permit: permit }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::SetUp(set_up) => match ready!(set_up.as_mut().poll(cx)) {
                    Some(open) => this.state = State::Tunnel(open),
                    None => return Poll::Ready(()),
                },
                State::Tunnel(open) => {
                    open.receive_visits();
                    let report = ready!(Pin::new(&mut open.tunnel).poll(cx));
                    if report.ended_by == Side::Upstream {
                        open.lease.server_ended_tunnel(report.open);
                    }
                    if let Some(record) = &mut open.record {
                        record.end(&report);
                    }
                    open.tunnel.terms().witness.ended(open.lease.endpoint_name(), &report);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// A socket as it was accepted, not yet known to a runtime.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, with the client's address; [prepared](crate::buffered::prepare).
    Tcp(std::net::TcpStream, SocketAddr),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// The address of its peer; `None` on a unix socket.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Ends it by a reset, which leaves nothing of it behind in the kernel.
    pub(crate) fn cut(self) {
        if let Self::Tcp(stream, _) = &self {
            // It ends either way.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Registers the socket with the runtime of this thread.
    fn register(self) -> std::io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(stream, address) => {
                Ok((Socket::Tcp(tokio::net::TcpStream::from_std(stream)?), Some(address)))
            }
            Self::Unix(stream) => Ok((tokio::net::UnixStream::from_std(stream)?.into(), None)),
        }
    }
}

/// How long a TLS handshake may take in any case. One that takes longer gives way where others wait.
const UNHURRIED: Duration = Duration::from_secs(2);

/// The TLS handshake, until `due`. A permit for it is taken only when the client says something, and is given up for others when
/// it says no more: neither those that are silent nor those that stall must keep others out (rule S2). Says how long it took.
async fn shake_hands(
    acceptor: &Acceptor,
    socket: Socket,
    permits: &TlsPermits,
    due: Option<Instant>,
) -> Result<(tls::Accepted<Socket>, Duration), TlsFailure> {
    let heard = async {
        // Whatever ends the wait, the TLS handshake finds it again.
        let _ = socket.readable().await;
        let began = Instant::now();
        (permits.acquire().await, began)
    };
    let (_permit, began) = h1::within(due, heard).await.ok_or(TlsFailure::Timeout)?;
    let crowded_out = async {
        tokio::time::sleep(UNHURRIED).await;
        permits.wanted().await;
    };
    tokio::select! {
        biased;
        shaken = acceptor.accept(socket, due.map(|due| due.saturating_duration_since(Instant::now()))) => {
            shaken.map(|accepted| (accepted, began.elapsed()))
        }
        () = crowded_out => Err(TlsFailure::Timeout),
    }
}

/// The PROXY header, where the listener expects one.
async fn introduce(
    socket: &mut Socket,
    client: &mut Client,
    listener: &Listener,
    due: Option<Instant>,
) -> Result<(), TlsFailure> {
    match &listener.config.proxy_protocol {
        Some(from) => introduction::read(socket, client, from, due).await,
        None => Ok(()),
    }
}

/// The TLS handshake, where the listener speaks TLS.
async fn secure(
    socket: Socket,
    client: &mut Client,
    listener: &Listener,
    gate: &Gate,
    due: Option<Instant>,
) -> Result<Downstream, TlsFailure> {
    let Some(acceptor) = &listener.acceptor else { return Ok(Downstream::Plain(socket)) };
    let shaken = shake_hands(acceptor, socket, &gate.tls_permits, due).await;
    record::tls_handshake(gate, listener, &shaken);
    let (accepted, _) = shaken?;
    client.tls = Some(Box::new(accepted.info));
    Ok(Downstream::Tls(accepted.stream))
}

async fn set_up(
    socket: Accepted,
    listener: Arc<Listener>,
    gate: Arc<Gate>,
    is_overload: bool,
    entrance: Option<Entrance>,
) -> Option<OpenTunnel> {
    // Only a client that is gone already, or a process without file descriptors, fails here.
    let (mut socket, peer) =
        socket.register().inspect_err(|error| tracing::debug!(%error, "socket lost")).ok()?;
    let mut client = Client::new(peer);
    // One deadline for all that stands before the first request.
    let due = listener.patience().map(|patience| Instant::now() + patience);
    if let Err(failure) = introduce(&mut socket, &mut client, &listener, due).await {
        record::tls_failure(&gate, &listener, &client, &failure);
        return None;
    }
    let counted = client.ip().filter(|_| !client.is_among(listener.trusted_proxies()));
    let (place, turned_away) = match entrance.unwrap_or_else(|| listener.enter(counted)) {
        Entrance::Open(place) => (place, is_overload.then_some(Refusal::Overload)),
        Entrance::Refused(place) => (Some(place), Some(Refusal::PerIpLimit)),
        Entrance::Cut => {
            gate.metrics.turned_away(&listener.label, None);
            listener.note_cut(client.ip());
            socket.reset_on_drop();
            return None;
        }
    };
    if let Some(refusal) = &turned_away {
        gate.metrics.turned_away(&listener.label, Some(refusal.label()));
    }
    match secure(socket, &mut client, &listener, &gate, due).await {
        Ok(stream) => {
            Http1::new(Buffered::new(stream), client, listener, gate, place).serve(turned_away).await
        }
        Err(failure) => {
            record::tls_failure(&gate, &listener, &client, &failure);
            None
        }
    }
}
