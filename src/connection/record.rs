//! The access records of a connection: begun with a request, written when it ends, however it ends.

mod tunnel;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Level;

pub(super) use self::tunnel::{TunnelRecord, direction, pings};
use super::{Client, Gate, Listener, client::name_of, sender::Sender, snapshot::Route};
use crate::{
    ending::{Phase, Refusal, Side, TlsFailure, chain},
    exchange::Traffic,
    proto::{
        forward::ForwardedRequest,
        head::{RequestHead, ResponseHead},
        numerals::write_hex,
        trace::Trace,
    },
    route::Target,
    telemetry::{
        AccessRecord, Ending, Exchanged, Handshake, Kind, RateLimited, RouteMetrics, TlsFields,
        mask_subprotocol, mask_target,
    },
    tls,
    upstream::ConnectFailure,
};

/// The record of one exchange. It is counted, and written if there is a log, by [`Self::finish`], or on drop if the connection
/// was cut before.
pub(super) struct ExchangeRecord {
    gate: Arc<Gate>,
    record: Option<Box<AccessRecord>>,
    route: Option<Arc<RouteMetrics>>,
    ending: Option<Ending>,
    status: Option<u16>,
    /// Bytes to the server.
    sent: Option<u64>,
    /// Bytes to the client.
    received: Option<u64>,
    is_offer: bool,
    is_finished: bool,
    request_id: RequestId,
    trace: Trace,
    began: Instant,
    phase: Phase,
    /// What goes wrong now does so at the server that is asked about the request.
    asks: bool,
}

impl ExchangeRecord {
    /// A record that begins now. Without a request, it is of bytes that were none.
    pub(super) fn new(
        gate: &Arc<Gate>,
        listener: &Listener,
        client: &Client,
        request: Option<(&RequestHead, &Sender)>,
        began: Instant,
    ) -> Self {
        let told = request.and_then(|(head, sender)| sender.request_id(head));
        let (id, trace_id, parent) = rand::random();
        let request_id = told.map_or_else(|| RequestId::fresh(id), |told| RequestId::Told(told.into()));
        let trace = request.and_then(|(head, _)| Trace::told(&head.headers));
        let trace = trace.unwrap_or_else(|| Trace::begin(trace_id, parent));
        let is_kept = gate.access.is_on() || gate.lists_tunnels.load(Ordering::Relaxed);
        let record = is_kept.then(|| {
            let name = request.map_or_else(|| name_of(client.address()), |(_, sender)| sender.name());
            let mut record = AccessRecord::new(Kind::Exchange, Arc::clone(&listener.label), name);
            record.peer = peer_beside(client, &record.client);
            if let Some((head, _)) = request {
                record.request_id = request_id.as_str().into();
                record.trace_id = Some(trace.id());
                record.method = head.method.as_str().into();
                record.target = mask_target(&head.target, &gate.redact()).into();
            }
            record.tls = tls_fields(client);
            Box::new(record)
        });
        let phase = if request.is_some() { Phase::Route } else { Phase::Head };
        Self {
            gate: Arc::clone(gate),
            record,
            route: None,
            ending: None,
            status: None,
            sent: None,
            received: None,
            is_offer: false,
            is_finished: false,
            request_id,
            trace,
            began,
            phase,
            asks: false,
        }
    }

    /// Where the exchange is, should it be cut there.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Which endpoint a failed connect was for.
    pub(super) fn tried(&mut self, failure: &ConnectFailure) {
        if let ConnectFailure::Failed { endpoint, .. } | ConnectFailure::TimedOut { endpoint } = failure {
            self.endpoint(&endpoint.as_str().into());
        }
    }

    /// What X-Request-Id says.
    pub(super) fn request_id(&self) -> RequestId {
        self.request_id.clone()
    }

    /// What `traceparent` says.
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What a peer wrote, without the secrets that an address can carry.
    pub(super) fn mask(&self, text: &str) -> String {
        mask_target(text, &self.gate.redact()).into_owned()
    }

    fn set(&mut self, set: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = &mut self.record {
            set(record);
        }
    }

    pub(super) fn target(&mut self, target: &Target) {
        let Some(record) = &mut self.record else { return };
        record.host = target.host().into();
        record.target = mask_target(target.origin_form(), &self.gate.redact()).into();
    }

    /// Who the client has proven to be.
    pub(super) fn user(&mut self, name: &str) {
        self.set(|record| record.user = Some(name.into()));
    }

    /// A server is asked about the request before anything else happens with it.
    pub(super) fn begin_to_ask(&mut self) {
        self.asks = true;
    }

    /// It said yes, and the request goes on as if nobody had been asked.
    pub(super) fn has_asked(&mut self) {
        self.asks = false;
        self.phase = Phase::Route;
        self.set(|record| record.endpoint = None);
    }

    pub(super) fn route(&mut self, route: &Route) {
        self.route = Some(Arc::clone(route.metrics(&self.gate.metrics)));
        self.set(|record| record.route = Some(Arc::clone(&route.name)));
    }

    /// It is about a tunnel.
    pub(super) fn offers(&mut self) {
        self.is_offer = true;
    }

    pub(super) fn endpoint(&mut self, name: &Arc<str>) {
        self.set(|record| record.endpoint = Some(Arc::clone(name)));
    }

    pub(super) fn status(&mut self, status: u16) {
        self.status = Some(status);
    }

    pub(super) fn received(&mut self, bytes: u64) {
        *self.received.get_or_insert(0) += bytes;
    }

    pub(super) fn traffic(&mut self, traffic: Traffic) {
        self.sent = Some(traffic.sent);
        self.received = Some(traffic.received);
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        let side = refusal.ended_by();
        let is_of_auth = self.asks && side != Side::Downstream;
        self.is_offer |= matches!(refusal, Refusal::Handshake(_));
        self.ending = Some(Ending { label: refusal.label(), side, phase: refusal.phase() });
        self.set(|record| {
            record.error = Some(
                if is_of_auth { format!("auth server: {}", chain(refusal)) } else { chain(refusal) }.into(),
            );
        });
    }

    /// An answer of wsgate's own did not reach the client: what it was about is told all the same, if it was a refusal.
    pub(super) fn lost(&mut self, why: &Refusal) {
        if self.ending.is_none() {
            self.refuse(why);
        }
        self.status = None;
    }

    /// The answer had begun and did not come to its end.
    pub(super) fn cut_short(&mut self, status: Option<u16>, refusal: &Refusal) {
        self.refuse(refusal);
        self.status = status;
        if let Some(ending) = &mut self.ending {
            ending.phase = Phase::Exchange;
        }
        self.finish();
    }

    /// The upstream's own answer went through, at the moment that is returned.
    pub(super) fn answered(&mut self, status: u16) -> Instant {
        let now = Instant::now();
        self.status(status);
        self.finish_at(now);
        now
    }

    /// An offer was answered by something else than a 101 (rule W10).
    pub(super) fn upgrade_refused(&mut self, status: u16) {
        self.refused_by_answer("upgrade_refused", status);
    }

    /// The server that was asked about the request did not let it through, and its answer was passed.
    pub(super) fn access_refused(&mut self, status: u16) {
        self.refused_by_answer("unauthorized", status);
    }

    fn refused_by_answer(&mut self, label: &'static str, status: u16) {
        self.ending = Some(Ending { label, side: Side::Upstream, phase: Phase::Response });
        self.answered(status);
    }

    /// Notes in the log what was dropped from the request's head (rules H6, H7).
    pub(super) fn dropped(&self, forwarded: &ForwardedRequest, client: Option<SocketAddr>) {
        static UNDERSCORES: RateLimited = RateLimited::new(Level::INFO, "headers with `_` dropped");
        static FORWARDED: RateLimited =
            RateLimited::new(Level::INFO, "X-Forwarded-*/Forwarded of a private address dropped");
        if forwarded.dropped_underscore > 0 {
            let headers = forwarded.dropped_underscore;
            let trace_id = self.trace.id();
            UNDERSCORES.warn(|skipped| {
                tracing::info!(
                    headers,
                    %trace_id,
                    skipped,
                    "dropped request headers with `_` in their names (underscore_headers)"
                );
            });
        }
        if forwarded.dropped_forwarded > 0 && client.is_some_and(|client| is_private(&client)) {
            let trace_id = self.trace.id();
            FORWARDED.warn(|skipped| {
                tracing::info!(
                    client = %name_of(client),
                    %trace_id,
                    skipped,
                    "dropped X-Forwarded-*/Forwarded of a private address, which is not in trusted_proxies"
                );
            });
        }
    }

    /// Counts it and writes the record, once.
    pub(super) fn finish(&mut self) {
        self.finish_at(Instant::now());
    }

    fn finish_at(&mut self, now: Instant) {
        if let Some(record) = self.close(now) {
            self.gate.access.record(&record);
        }
    }

    /// Counts it, once. Returns its record as it stands now, if there is to be one.
    fn close(&mut self, now: Instant) -> Option<Box<AccessRecord>> {
        if std::mem::replace(&mut self.is_finished, true) {
            return None;
        }
        let duration = now.saturating_duration_since(self.began);
        let route = self.route.take().unwrap_or_else(|| self.gate.metrics.route(None));
        let exchanged = Exchanged {
            status: self.status,
            ending: self.ending,
            is_offer: self.is_offer,
            sent: self.sent.unwrap_or(0),
            received: self.received.unwrap_or(0),
            duration,
        };
        self.gate.metrics.exchanged(&route, &exchanged);
        let mut record = self.record.take()?;
        record.time = OffsetDateTime::now_utc();
        record.duration = Some(duration);
        record.status = self.status;
        (record.sent, record.received) = (self.sent, self.received);
        if let Some(ending) = self.ending {
            end(&mut record, ending);
        }
        Some(record)
    }

    /// The exchange became a tunnel: writes the record of its opening, and returns what will be that of its end.
    pub(super) fn open_tunnel(
        &mut self,
        answer: &ResponseHead,
        client: &Arc<Client>,
    ) -> Option<Box<TunnelRecord>> {
        self.status(answer.status);
        let mut record = self.close(Instant::now())?;
        record.kind = Kind::TunnelOpen;
        let subprotocol = answer.headers.get("sec-websocket-protocol").map(String::from_utf8_lossy);
        record.subprotocol = subprotocol.map(|name| mask_subprotocol(&name).into());
        self.gate.access.record(&record);
        Some(Box::new(TunnelRecord::new(self.gate.access.clone(), client, *record, self.trace.id())))
    }
}

/// The value of X-Request-Id.
#[derive(Clone)]
pub(super) enum RequestId {
    /// By a proxy that is trusted.
    Told(Arc<str>),
    /// Hex digits.
    Fresh([u8; 32]),
}

impl RequestId {
    /// One that is made here, of a number drawn at random.
    fn fresh(number: u128) -> Self {
        let mut digits = [0; 32];
        write_hex(&mut digits, &number.to_be_bytes());
        Self::Fresh(digits)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Told(told) => told,
            Self::Fresh(digits) => str::from_utf8(digits).unwrap_or_default(),
        }
    }
}

impl Drop for ExchangeRecord {
    fn drop(&mut self) {
        if !self.is_finished {
            self.ending = Some(Ending { phase: self.phase, ..CUT });
            self.finish();
        }
    }
}

/// How what is cut ends.
pub(super) const CUT: Ending = Ending { label: "drain_timeout", side: Side::Gate, phase: Phase::Tunnel };

fn end(record: &mut AccessRecord, ending: Ending) {
    record.ending = Some(ending.label);
    record.ended_by = Some(ending.side.label());
    record.phase = Some(ending.phase.label());
}

fn tls_fields(client: &Client) -> Option<TlsFields> {
    client.tls.as_ref().map(|tls| TlsFields {
        version: tls.version,
        cipher: tls.cipher_suite,
        sni: tls.sni.clone(),
        resumed: tls.resumed,
        client: tls.client.as_ref().map(|client| client.subject.clone()),
    })
}

/// Counts a TLS handshake; none of a port check that said nothing.
pub(super) fn tls_handshake<S>(
    gate: &Gate,
    listener: &Listener,
    shaken: &Result<(tls::Accepted<S>, Duration), TlsFailure>,
) {
    let outcome = match shaken {
        Ok((tls::Accepted { info, .. }, duration)) => {
            Ok(Handshake { version: info.version, resumed: info.resumed, duration: *duration })
        }
        Err(TlsFailure::Silent) => return,
        Err(failure) => Err(failure.label()),
    };
    gate.metrics.tls_handshake(&listener.label, outcome);
}

/// Counts a connection that failed before its first request, and writes its record; none of this for a port check that said
/// nothing, which leaves nothing on a plain listener either.
pub(super) fn tls_failure(gate: &Gate, listener: &Listener, client: &Client, failure: &TlsFailure) {
    if matches!(failure, TlsFailure::Silent) {
        return;
    }
    let ending = Ending { label: failure.label(), side: failure.ended_by(), phase: Phase::Tls };
    gate.metrics.ended(ending);
    let name = name_of(client.address());
    let mut record = AccessRecord::new(Kind::TlsFailure, Arc::clone(&listener.label), name);
    record.peer = peer_beside(client, &record.client);
    end(&mut record, ending);
    record.error = Some(chain(failure).into());
    gate.access.record(&record);
}

/// Who connected, where that is another than the client.
fn peer_beside(connection: &Client, client: &str) -> Option<Box<str>> {
    Some(name_of(connection.peer())).filter(|peer| **peer != *client)
}

fn is_private(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        std::net::IpAddr::V4(address) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        std::net::IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}
