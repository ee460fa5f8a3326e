//! A listener's side of its connections, and what stays of it over reloads.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Accepted;
use crate::{
    config::{self, CertificateSource, ClientAuth, Identity, ListenAddress},
    ending::Refusal,
    lifecycle::{ClientRates, Clients, Drain, DrainHandle, Entrance},
    proto::{head::HeadLimits, network::Peers},
    telemetry::RateLimited,
    tls::{self, Acceptor, Tickets, development},
};

/// A bound address: what the listeners that configurations put there one after the other have in common.
#[derive(Debug)]
pub struct BoundAddress {
    /// Where it is; a port that was 0 is the one that it got.
    pub address: ListenAddress,
    cut: AtomicU64,
    cuts: RateLimited,
}

impl BoundAddress {
    /// A socket was bound here.
    pub fn new(address: ListenAddress) -> Arc<Self> {
        Arc::new(Self {
            address,
            cut: AtomicU64::new(0),
            cuts: RateLimited::new(tracing::Level::WARN, "far over max_connections_per_ip"),
        })
    }

    /// Connections that were cut without an answer so far.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

/// A listener as one configuration has it.
#[derive(Debug)]
pub struct Listener {
    /// Its address as configured, for logs.
    pub label: Arc<str>,
    /// What it says in the file.
    pub config: config::Listener,
    /// Where it is.
    pub bound: Arc<BoundAddress>,
    /// `None` speaks plain HTTP.
    pub(super) acceptor: Option<Acceptor>,
    /// The port that clients connect to; `None` on a unix socket.
    pub(super) port: Option<u16>,
    pub(super) head_limits: HeadLimits,
    /// The value of Strict-Transport-Security.
    pub(super) hsts: Option<String>,
    /// Of the acceptor. A successor with the same rules for clients' certificates has them too (rule S6).
    tickets: Option<Tickets>,
    /// Tells its connections to end. It is one with that of a successor by whose rules they could have been made as well.
    leave: Arc<DrainHandle>,
    /// `max_connections_per_ip`.
    clients: Option<Clients>,
    /// `handshake_rate_per_ip`.
    handshakes: Option<Arc<ClientRates>>,
}

/// Why a listener's TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The development certificate.
    #[error("development certificate")]
    Development(#[from] development::CertError),
    /// rustls.
    #[error("TLS")]
    Rustls(#[from] rustls::Error),
}

impl Listener {
    /// The listener that `config` describes, bound to `address`. Makes the development certificate where one is asked for.
    pub(super) fn new(
        config: &config::Listener,
        bound: Arc<BoundAddress>,
        drain: &Drain,
    ) -> Result<Self, TlsSetupError> {
        Self::with(config, bound, drain, None)
    }

    /// What `config` makes of this listener. Changes nothing of it: that is for [`Self::succeed`].
    pub(super) fn successor(
        self: &Arc<Self>,
        config: &config::Listener,
        drain: &Drain,
    ) -> Result<Arc<Self>, TlsSetupError> {
        if config.is_same(&self.config) {
            return Ok(Arc::clone(self));
        }
        Self::with(config, Arc::clone(&self.bound), drain, Some(self)).map(Arc::new)
    }

    fn with(
        config: &config::Listener,
        bound: Arc<BoundAddress>,
        drain: &Drain,
        before: Option<&Self>,
    ) -> Result<Self, TlsSetupError> {
        let limits = config.limits;
        let tickets = match before.filter(|before| asks_for_same_certificates(&before.config, config)) {
            _ if config.tls.is_none() => None,
            Some(Self { tickets: Some(tickets), .. }) => Some(tickets.clone()),
            _ => Some(Tickets::new()?),
        };
        let leave = before.filter(|before| serves_alike(&before.config, config));
        let clients = before.and_then(|before| before.clients.clone());
        let handshakes = before.and_then(|before| before.handshakes.clone());
        Ok(Self {
            label: config.address.to_string().into(),
            acceptor: config.tls.as_ref().zip(tickets.as_ref()).map(acceptor).transpose()?,
            port: port(&bound.address),
            head_limits: HeadLimits {
                bytes: limits.request_head,
                headers: limits.header_count,
                target: limits.target,
            },
            hsts: hsts(config),
            tickets,
            leave: leave
                .map_or_else(|| Arc::new(drain.part(Duration::ZERO)), |before| Arc::clone(&before.leave)),
            clients: config.max_connections_per_ip.map(|most| clients.unwrap_or_else(|| Clients::new(most))),
            handshakes: config.handshake_rate_per_ip.map(|rate| {
                handshakes.unwrap_or_else(|| Arc::new(ClientRates::new(rate.count, rate.period)))
            }),
            config: config.clone(),
            bound,
        })
    }

    /// Takes over from a listener at the same address, now that the configuration is in force.
    pub(super) fn succeed(&self, before: &Self) {
        if let Some((clients, most)) = self.clients.as_ref().zip(self.config.max_connections_per_ip) {
            clients.bound(most);
        }
        if let Some((handshakes, rate)) = self.handshakes.as_ref().zip(self.config.handshake_rate_per_ip) {
            handshakes.set(rate.count, rate.period, Instant::now());
        }
        if !self.may_serve_connections_of(before) {
            before.leave.drain();
        }
    }

    /// Whether both are at one address.
    pub(super) fn is_at(&self, bound: &BoundAddress) -> bool {
        std::ptr::eq(&raw const *self.bound, bound)
    }

    /// Whether connections that `before` accepted go on by the rules of this one.
    pub(super) fn may_serve_connections_of(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.leave, &before.leave)
    }

    /// Tells its connections to end, as the order to the whole process does.
    pub(super) fn drain(&self) -> Drain {
        self.leave.signal()
    }

    /// Whether its connections are to end after the request at hand.
    pub(super) fn is_draining(&self) -> bool {
        self.drain().is_draining()
    }

    /// The address by which one more is counted: a connection, or a request that a trusted proxy brings. Proxies that are
    /// believed are not counted, nor is who has no address.
    fn counted(&self, ip: Option<IpAddr>) -> Option<IpAddr> {
        ip.filter(|_| !self.config.trusted_proxies.contains(ip))
    }

    /// What becomes of one more that is counted by this address.
    pub(super) fn enter(&self, counted: Option<IpAddr>) -> Entrance {
        match (&self.clients, counted) {
            (Some(clients), Some(ip)) => clients.enter(ip),
            _ => Entrance::Open(None),
        }
    }

    /// How long a client may take for what stands before its first request.
    pub(super) fn patience(&self) -> Option<Duration> {
        let timeout = self.config.timeout;
        if self.speaks_tls() { timeout.tls_handshake } else { timeout.request_head }
    }

    /// [`Self::enter`] for a connection that was accepted just now; `None` where it has yet to say whose it is.
    pub(crate) fn enter_accepted(&self, socket: &Accepted) -> Option<Entrance> {
        self.config.proxy_protocol.is_none().then(|| self.enter(self.counted(socket.ip())))
    }

    /// Takes a handshake that is counted by this address out of what its rate allows (rule W15).
    pub(super) fn take_handshake(&self, counted: Option<IpAddr>) -> Result<(), Refusal> {
        match (&self.handshakes, counted) {
            (Some(rates), Some(ip)) => {
                rates.take(ip, Instant::now()).map_err(|wait| Refusal::HandshakeRate { wait })
            }
            _ => Ok(()),
        }
    }

    /// Whose forwarding headers are believed.
    pub(super) fn trusted_proxies(&self) -> &Peers {
        &self.config.trusted_proxies
    }

    /// Notes that a connection of this client is cut without an answer.
    pub(crate) fn note_cut(&self, ip: Option<IpAddr>) {
        self.bound.cut.fetch_add(1, Ordering::Relaxed);
        let address = &self.label;
        let client = ip.map(tracing::field::display);
        self.bound.cuts.warn(|skipped| {
            tracing::warn!(%address, client, skipped, "far over max_connections_per_ip: cut without an answer");
        });
    }

    /// Places of clients that are taken, those of refusals among them.
    pub fn client_places(&self) -> usize {
        self.clients.as_ref().map_or(0, Clients::in_use)
    }

    /// Whether a TLS handshake comes first.
    pub fn speaks_tls(&self) -> bool {
        self.acceptor.is_some()
    }
}

/// Whether a connection that was made by the one's rules could have been made by the other's.
fn serves_alike(one: &config::Listener, other: &config::Listener) -> bool {
    one.tls.is_some() == other.tls.is_some()
        && one.proxy_protocol == other.proxy_protocol
        && asks_for_same_certificates(one, other)
}

/// Whether clients show certificates by the same rules.
fn asks_for_same_certificates(one: &config::Listener, other: &config::Listener) -> bool {
    fn of(listener: &config::Listener) -> Option<&ClientAuth> {
        listener.tls.as_ref()?.client_auth.as_ref()
    }
    match (of(one), of(other)) {
        (Some(one), Some(other)) => one.required == other.required && one.ca == other.ca,
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn port(address: &ListenAddress) -> Option<u16> {
    match address {
        ListenAddress::Inet(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    }
}

fn hsts(config: &config::Listener) -> Option<String> {
    let max_age = config.tls.as_ref()?.hsts?;
    Some(format!("max-age={}", max_age.as_secs()))
}

fn acceptor((tls, tickets): (&config::Tls, &Tickets)) -> Result<Acceptor, TlsSetupError> {
    let made;
    let identities = match &tls.source {
        CertificateSource::Files(identities) => identities,
        CertificateSource::SelfSigned { names, folder } => {
            made = [development_identity(names, folder)?];
            made.as_slice()
        }
    };
    Ok(tls::acceptor(identities, tls.min_version, tls.client_auth.as_ref(), tickets)?)
}

fn development_identity(names: &[String], folder: &Path) -> Result<Identity, TlsSetupError> {
    let issued = development::for_listener(names, folder)?;
    tracing::warn!("{issued}");
    for key in &issued.exposed_keys {
        tracing::warn!("{} can be read by others", key.display());
    }
    Ok(issued.identity)
}
