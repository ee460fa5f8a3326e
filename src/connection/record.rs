//! The access records of a connection: begun with a request, written when it ends, however it ends.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::Level;

use super::{Client, Gate, Listener, client::name_of, sender::Sender};
use crate::{
    ending::{Phase, Refusal, Side, TlsFailure, chain},
    exchange::Traffic,
    proto::{
        forward::ForwardedRequest,
        head::{Method, RequestHead, ResponseHead},
        trace::{Trace, TraceId},
    },
    route::Target,
    telemetry::{
        AccessRecord, AccessSink, ClosedBy, Direction, Ending, Exchanged, Handshake, Kind, Metrics, Pings,
        RateLimited, RouteMetrics, TlsFields, mask_subprotocol, mask_target,
    },
    tls,
    tunnel::{self, Account, Frames, Report},
    upstream::ConnectFailure,
};

/// The record of one exchange. It is counted, and written if there is a log, by [`Self::finish`], or on drop if the connection
/// was cut before.
pub(super) struct ExchangeRecord {
    access: AccessSink,
    record: Option<Box<AccessRecord>>,
    metrics: Arc<Metrics>,
    route: Option<Arc<RouteMetrics>>,
    ending: Option<Ending>,
    status: Option<u16>,
    /// Bytes to the server.
    sent: Option<u64>,
    /// Bytes to the client.
    received: Option<u64>,
    is_offer: bool,
    is_finished: bool,
    request_id: Arc<str>,
    trace: Trace,
    redact: Arc<[String]>,
    began: Instant,
    phase: Phase,
    /// What goes wrong now does so at the server that is asked about the request.
    asks: bool,
}

impl ExchangeRecord {
    /// A record that begins now. Without a request, it is of bytes that were none.
    pub(super) fn new(
        gate: &Gate,
        listener: &Listener,
        client: &Client,
        request: Option<(&RequestHead, &Sender)>,
        began: Instant,
    ) -> Self {
        let told = request.and_then(|(head, sender)| sender.request_id(head));
        let request_id: Arc<str> =
            told.map_or_else(|| format!("{:032x}", rand::random::<u128>()).into(), Into::into);
        let redact = gate.redact();
        let trace = request.and_then(|(head, _)| Trace::told(&head.headers));
        let trace = trace.unwrap_or_else(|| Trace::begin(rand::random(), rand::random()));
        let is_kept = gate.access.is_on() || gate.lists_tunnels.load(Ordering::Relaxed);
        let record = is_kept.then(|| {
            let name = request.map_or_else(|| name_of(client.address()), |(_, sender)| sender.name());
            let mut record = AccessRecord::new(Kind::Exchange, Arc::clone(&listener.label), name);
            record.peer = peer_beside(client, &record.client);
            if let Some((head, _)) = request {
                record.request_id = (&*request_id).into();
                record.trace_id = Some(trace.id());
                record.method = head.method.as_str().into();
                record.target = mask_target(&head.target, &redact).into();
            }
            record.tls = tls_fields(client);
            Box::new(record)
        });
        let phase = if request.is_some() { Phase::Route } else { Phase::Head };
        Self {
            access: gate.access.clone(),
            record,
            metrics: Arc::clone(&gate.metrics),
            route: None,
            ending: None,
            status: None,
            sent: None,
            received: None,
            is_offer: false,
            is_finished: false,
            request_id,
            trace,
            redact,
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
    pub(super) fn request_id(&self) -> Arc<str> {
        Arc::clone(&self.request_id)
    }

    /// What `traceparent` says.
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What a peer wrote, without the secrets that an address can carry.
    pub(super) fn mask(&self, text: &str) -> String {
        mask_target(text, &self.redact).into_owned()
    }

    fn set(&mut self, set: impl FnOnce(&mut AccessRecord)) {
        if let Some(record) = &mut self.record {
            set(record);
        }
    }

    pub(super) fn target(&mut self, target: &Target) {
        let Some(record) = &mut self.record else { return };
        record.host = target.host().into();
        record.target = mask_target(target.origin_form(), &self.redact).into();
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

    pub(super) fn route(&mut self, name: &Arc<str>) {
        self.route = Some(self.metrics.route(Some(name)));
        self.set(|record| record.route = Some(Arc::clone(name)));
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

    /// The upstream's own answer went through.
    pub(super) fn answered(&mut self, status: u16) {
        self.status(status);
        self.finish();
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
        if let Some(record) = self.close() {
            self.access.record(&record);
        }
    }

    /// Counts it, once. Returns its record as it stands now, if there is to be one.
    fn close(&mut self) -> Option<Box<AccessRecord>> {
        if std::mem::replace(&mut self.is_finished, true) {
            return None;
        }
        let duration = self.began.elapsed();
        let route = self.route.take().unwrap_or_else(|| self.metrics.route(None));
        let exchanged = Exchanged {
            status: self.status,
            ending: self.ending,
            is_offer: self.is_offer,
            sent: self.sent.unwrap_or(0),
            received: self.received.unwrap_or(0),
            duration,
        };
        self.metrics.exchanged(&route, &exchanged);
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
        let mut record = self.close()?;
        record.kind = Kind::TunnelOpen;
        let subprotocol = answer.headers.get("sec-websocket-protocol").map(String::from_utf8_lossy);
        record.subprotocol = subprotocol.map(|name| mask_subprotocol(&name).into());
        self.access.record(&record);
        Some(Box::new(TunnelRecord {
            id: TunnelRecord::next_id(),
            access: self.access.clone(),
            client: Arc::clone(client),
            words: [
                // The connection's own is kept already.
                if record.client == name_of(client.address()) { "" } else { &*record.client },
                &*record.host,
                &record.target,
                record.subprotocol.as_deref().unwrap_or_default(),
                &record.request_id,
                record.user.as_deref().unwrap_or_default(),
            ]
            .join(TunnelRecord::BETWEEN)
            .into(),
            listener: record.listener,
            route: record.route,
            endpoint: record.endpoint,
            trace_id: self.trace.id(),
            opened: Instant::now(),
            ended: false,
        }))
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

/// What a tunnel's record will say at its end. It stands as long as the tunnel, so it keeps no more than can't be had
/// elsewhere.
pub(super) struct TunnelRecord {
    /// Unique in this process.
    id: u64,
    access: AccessSink,
    listener: Arc<str>,
    client: Arc<Client>,
    route: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    /// Client, if it is not the connection's, host, target, subprotocol, request id and user.
    words: Box<str>,
    trace_id: TraceId,
    opened: Instant,
    ended: bool,
}

impl Drop for TunnelRecord {
    /// Writes the record of a tunnel that was dropped with its task.
    fn drop(&mut self) {
        if !self.ended {
            let mut record = self.record();
            end(&mut record, CUT);
            self.access.record(&record);
        }
    }
}

impl TunnelRecord {
    /// Can stand in neither a head's line nor what was parsed out of one.
    const BETWEEN: &str = "\n";

    /// The number of the next tunnel.
    fn next_id() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The tunnel's number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Its route's name.
    pub(super) fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Its endpoint's name.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Its listener's address as configured.
    pub(super) fn listener(&self) -> &str {
        &self.listener
    }

    /// Its client's address; `None` on a unix socket.
    pub(super) fn client_ip(&self) -> Option<IpAddr> {
        match self.words.split(Self::BETWEEN).next().unwrap_or_default() {
            "" => self.client.ip(),
            name => name.parse().or_else(|_| name.parse().map(|client: SocketAddr| client.ip())).ok(),
        }
    }

    /// Writes the record.
    pub(super) fn end(&mut self, report: &Report) {
        let mut record = self.record();
        record.ending = Some(report.end.label());
        record.ended_by = Some(report.ended_by.label());
        record.error = std::error::Error::source(&report.end).map(|_| chain(&report.end).into());
        record.duration = Some(report.open);
        record.client_pings = pings(&report.client_pings);
        record.backend_pings = pings(&report.backend_pings);
        record.from_client = Some(direction(&report.client));
        record.from_backend = Some(direction(&report.backend));
        record.close = report.first_close.and_then(|side| closed_by(side, report));
        record.truncated = report.truncated;
        self.access.record(&record);
        self.ended = true;
    }

    /// The record as far as it does not depend on the end.
    pub(super) fn record(&self) -> AccessRecord {
        let mut words = self.words.split(Self::BETWEEN);
        let mut word = || words.next().unwrap_or_default();
        let client = match word() {
            "" => name_of(self.client.address()),
            client => client.into(),
        };
        let mut record = AccessRecord::new(Kind::TunnelEnd, Arc::clone(&self.listener), client);
        record.peer = peer_beside(&self.client, &record.client);
        record.method = Method::GET.as_str().into();
        record.host = word().into();
        record.target = word().into();
        record.subprotocol = Some(word()).filter(|name| !name.is_empty()).map(Into::into);
        record.request_id = word().into();
        record.trace_id = Some(self.trace_id);
        record.user = Some(word()).filter(|name| !name.is_empty()).map(Into::into);
        record.route.clone_from(&self.route);
        record.endpoint.clone_from(&self.endpoint);
        record.status = Some(101);
        record.duration = Some(self.opened.elapsed());
        record.phase = Some(Phase::Tunnel.label());
        record.tls = tls_fields(&self.client);
        record
    }
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

pub(super) fn direction(account: &Account) -> Direction {
    let Frames { continuation, text, binary, close, ping, pong } = account.frames;
    Direction {
        bytes: account.bytes,
        frames: account.frames.total(),
        text,
        binary,
        continuation,
        close,
        ping,
        pong,
        messages: account.messages,
        fragmented: account.fragmented,
        compressed: account.compressed,
        longest_message: account.longest_message,
        illegal_frames: account.illegal,
    }
}

pub(super) fn pings(pings: &tunnel::Pings) -> Option<Pings> {
    let &tunnel::Pings { sent, lost, round_trip, longest_round_trip } = pings;
    (sent > 0).then_some(Pings { sent, lost, round_trip, longest_round_trip })
}

fn closed_by(side: Side, report: &Report) -> Option<ClosedBy> {
    let (code, reason) = match side {
        Side::Downstream => of_peer(&report.client)?,
        Side::Upstream => of_peer(&report.backend)?,
        Side::Gate => {
            let (code, reason) = report.own_close.as_ref()?;
            (Some(*code), reason.clone())
        }
    };
    Some(ClosedBy { side: side.label(), code, reason })
}

fn of_peer(account: &Account) -> Option<(Option<u16>, Box<str>)> {
    let close = account.close.as_ref()?;
    Some((close.code.map(|code| code.0), String::from_utf8_lossy(&close.reason).into()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ending::TunnelEnd;

    fn open(access: &AccessSink, client: &str) -> TunnelRecord {
        TunnelRecord {
            id: 1,
            access: access.clone(),
            listener: "127.0.0.1:443".into(),
            client: Arc::new(Client::new(Some(SocketAddr::from(([192, 0, 2, 1], 5))))),
            route: Some("main".into()),
            endpoint: Some("127.0.0.1:9000".into()),
            words: [client, "a.example", "/chat", "graphql", "id", "ali"].join(TunnelRecord::BETWEEN).into(),
            trace_id: Trace::begin(7, 7).id(),
            opened: Instant::now(),
            ended: false,
        }
    }

    #[test]
    fn t11_a_tunnel_that_is_dropped_with_its_task_leaves_its_record() {
        let (access, records) = AccessSink::memory();
        drop(open(&access, ""));
        let all = records.all();
        assert_eq!(all.len(), 1);
        let record = &all[0];
        assert_eq!((record.kind, record.ending), (Kind::TunnelEnd, Some("drain_timeout")));
        assert_eq!((record.ended_by, record.phase), (Some("gate"), Some("tunnel")));
        assert_eq!((&*record.host, &*record.target), ("a.example", "/chat"));
        assert_eq!((&*record.request_id, record.subprotocol.as_deref()), ("id", Some("graphql")));
        assert_eq!(record.user.as_deref(), Some("ali"));
        assert_eq!(record.trace_id, Some(Trace::begin(7, 1).id()));
        assert_eq!((&*record.client, record.status), ("192.0.2.1:5", Some(101)));
        assert_eq!(record.peer, None);
        assert_eq!(
            (record.route.as_deref(), record.endpoint.as_deref()),
            (Some("main"), Some("127.0.0.1:9000"))
        );
        assert!(record.duration.is_some());
    }

    #[test]
    fn h7_a_tunnels_record_names_its_client_and_the_proxy() {
        let (access, records) = AccessSink::memory();
        drop(open(&access, "198.51.100.7"));
        let all = records.all();
        assert_eq!((&*all[0].client, all[0].peer.as_deref()), ("198.51.100.7", Some("192.0.2.1:5")));
        assert_eq!((&*all[0].host, &*all[0].request_id), ("a.example", "id"));
    }

    #[test]
    fn t11_a_tunnel_that_has_ended_has_one_record() {
        let (access, records) = AccessSink::memory();
        let mut open = open(&access, "");
        open.end(&Report {
            own_close: None,
            end: TunnelEnd::Idle,
            ended_by: Side::Gate,
            first_close: None,
            open: Duration::from_secs(60),
            client: Account::default(),
            backend: Account::default(),
            client_pings: tunnel::Pings::default(),
            backend_pings: tunnel::Pings::default(),
            truncated: false,
        });
        drop(open);
        let endings: Vec<_> = records.all().iter().map(|record| record.ending).collect();
        assert_eq!(endings, [Some("idle")]);
    }
}
