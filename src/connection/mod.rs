//! The life of a downstream connection, from the accepted socket to its last byte.
//!
//! One task owns it throughout: [`Connection`] is that task's future. It begins as a boxed set-up (the TLS handshake,
//! request heads, exchanges) and, if that ends in a verified 101, becomes the tunnel, in the same task and with the same
//! permit. So nothing escapes a limit, a count or the drain, and an idle tunnel keeps nothing of its set-up.

mod answer;
mod caller;
mod downstream;
mod h1;
mod record;
mod request;
mod snapshot;
mod upgrade;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;

use self::{downstream::Downstream, h1::Http1, record::TunnelRecord};
use crate::{
    buffered::{Buffered, Socket},
    ending::{Side, TlsFailure},
    lifecycle::{Drain, Permit, TlsPermit, TlsPermits},
    telemetry::AccessSink,
    tls::{self, Acceptor, TlsInfo},
    tunnel::Tunnel,
    upstream::{Transport, TunnelLease},
};

pub use self::snapshot::{Listener, PoolError, Snapshot, TlsSetupError};

/// What all connections share.
#[derive(Debug)]
pub struct Gate {
    /// Routes and pools.
    pub snapshot: Arc<Snapshot>,
    /// The drain signal.
    pub drain: Drain,
    /// Where access records go.
    pub access: AccessSink,
    /// Bounds the TLS handshakes in flight.
    pub tls_permits: TlsPermits,
    /// Query parameters whose values are masked in logs.
    pub redact: Arc<[String]>,
}

/// Who a client is.
#[derive(Debug)]
pub(crate) struct Client {
    /// `None` on a unix listener.
    address: Option<SocketAddr>,
    /// Boxed, as the record of a tunnel keeps a client for hours, and many have none.
    tls: Option<Box<TlsInfo>>,
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
}

impl Connection {
    /// The task for a socket that `listener` accepted. Must be polled on one worker's runtime.
    pub fn new(
        socket: Accepted,
        listener: Arc<Listener>,
        gate: Arc<Gate>,
        permit: Permit,
        tls_permit: Option<TlsPermit>,
    ) -> Self {
        let is_overload = permit.is_overload();
        let set_up = async move {
            let drain = gate.drain.clone();
            tokio::select! {
                biased;
                () = drain.shutdown() => None,
                tunnel = set_up(socket, listener, gate, tls_permit, is_overload) => tunnel,
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
                    let report = ready!(Pin::new(&mut open.tunnel).poll(cx));
                    if report.ended_by == Side::Upstream {
                        open.lease.server_ended_tunnel(report.open);
                    }
                    if let Some(record) = &mut open.record {
                        record.end(&report);
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// A socket as it was accepted, not yet known to a runtime.
#[derive(Debug)]
pub enum Accepted {
    /// TCP, with the client's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Registers the socket with the runtime of this thread.
    fn register(self) -> std::io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(stream, address) => {
                Ok((Socket::tcp(tokio::net::TcpStream::from_std(stream)?)?, Some(address)))
            }
            Self::Unix(stream) => Ok((tokio::net::UnixStream::from_std(stream)?.into(), None)),
        }
    }
}

/// The TLS handshake, within `timeout` in all. The permit that came with the socket goes back until the client says something:
/// those that are silent must not keep others out (rule S2).
async fn shake_hands(
    acceptor: &Acceptor,
    socket: Socket,
    permits: &TlsPermits,
    permit: Option<TlsPermit>,
    timeout: Option<Duration>,
) -> Result<tls::Accepted<Socket>, TlsFailure> {
    let due = timeout.map(|timeout| Instant::now() + timeout);
    drop(permit);
    let heard = async {
        socket.readable().await.map_err(TlsFailure::Io)?;
        Ok(permits.acquire().await)
    };
    let _permit = h1::within(due, heard).await.unwrap_or(Err(TlsFailure::Timeout))?;
    acceptor.accept(socket, due.map(|due| due.saturating_duration_since(Instant::now()))).await
}

async fn set_up(
    socket: Accepted,
    listener: Arc<Listener>,
    gate: Arc<Gate>,
    tls_permit: Option<TlsPermit>,
    is_overload: bool,
) -> Option<OpenTunnel> {
    // Only a client that is gone already, or a process without file descriptors, fails here.
    let (socket, address) =
        socket.register().inspect_err(|error| tracing::debug!(%error, "socket lost")).ok()?;
    let (stream, tls) = match &listener.acceptor {
        None => (Downstream::Plain(socket), None),
        Some(acceptor) => {
            let timeout = listener.config.timeout.tls_handshake;
            match shake_hands(acceptor, socket, &gate.tls_permits, tls_permit, timeout).await {
                Ok(accepted) => (Downstream::Tls(accepted.stream), Some(Box::new(accepted.info))),
                // A port check, which says nothing on a plain listener either.
                Err(TlsFailure::Silent) => return None,
                Err(failure) => {
                    record::tls_failure(&gate.access, &listener, address, &failure);
                    return None;
                }
            }
        }
    };
    let client = Client { address, tls };
    Http1::new(Buffered::new(stream), client, listener, gate).serve(is_overload).await
}
