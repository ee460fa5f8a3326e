//! The opening handshake through to the tunnel (RFC 6455 §4, rules W7 to W13).

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    OpenTunnel, Taken,
    h1::{Http1, Next, within},
    record::TunnelRecord,
    request::{Request, Way, note_failure},
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Phase, Refusal, UpstreamFault},
    exchange::Exchange,
    proto::{
        forward::{self, Kind, ResponseKind},
        handshake::{Agreed, Offer},
        head::ResponseHead,
    },
    tunnel::{Terms, Tunnel},
    upstream::{Attempt, Connected, Lease, Transport, Want},
};

/// A handshake that was proven on both sides, the client's 101 written.
pub(super) struct Established {
    up: Buffered<Transport>,
    lease: Lease,
    agreed: Agreed,
    terms: Arc<Terms>,
    record: Option<Box<TunnelRecord>>,
    taken: Option<Box<Taken>>,
}

impl Established {
    /// Makes the tunnel of it.
    pub(super) fn open(self, connection: Http1) -> OpenTunnel {
        let lease = self.lease.into_tunnel();
        let drain = lease.drain();
        self.terms.witness.opened(lease.endpoint_name());
        OpenTunnel {
            tunnel: Tunnel::new(connection.down, self.up, &self.agreed, self.terms, drain),
            record: self.record,
            lease,
            _taken: self.taken,
        }
    }
}

/// Forwards an offer and proves the answer. Nothing that the client sends behind its offer goes upstream before that.
pub(super) async fn establish(
    request: &mut Request<'_>,
    way: &Way<'_>,
    offer: &Offer,
) -> Result<Next, Refusal> {
    request.taken.route = way.route.take_place()?;
    let mut attempt = way.pool.attempt(request.caller(way), Instant::now());
    let mut unanswered = None;
    loop {
        let want = if unanswered.is_some() { Want::Elsewhere } else { Want::Fresh };
        let connected = match (request.connect(way, &mut attempt, want).await, unanswered) {
            // There is no other endpoint, or no budget: what happened is the answer.
            (Err(Refusal::NoEndpoint), Some(refusal)) => {
                request.record.enter(Phase::Response);
                return Err(refusal);
            }
            (connected, _) => connected?,
        };
        match offer_to(request, way, offer, &attempt, connected).await? {
            Offered::Done(next) => return Ok(next),
            Offered::Unanswered(refusal) => unanswered = Some(refusal),
        }
    }
}

/// What came of one endpoint.
enum Offered {
    Done(Next),
    /// It gave no byte of an answer, and another may be tried.
    Unanswered(Refusal),
}

/// Forwards the offer to one endpoint and proves its answer.
async fn offer_to(
    request: &mut Request<'_>,
    way: &Way<'_>,
    offer: &Offer,
    attempt: &Attempt,
    mut connected: Connected,
) -> Result<Offered, Refusal> {
    let set_cookie = attempt.set_cookie(request.sender.https);
    let facts = request.facts();
    let values = facts.values(way.route, way.asked);
    let head = request.forwarded(way, &connected, Kind::Handshake, values)?;
    let plan = way.plan(&facts.listener, &request.head, Kind::Handshake, head, set_cookie.as_deref(), values);
    let response = plan.response;
    let Http1 { down, timer, .. } = &mut *request.connection;
    let mut exchange = Exchange::new(down, &mut connected.stream, plan, timer, Instant::now());
    let answer = way.response_head(&mut exchange, Kind::Handshake).await;
    note_failure(&connected.lease, connected.reused, &answer);
    let head = match answer {
        Ok(head) if head.status == 101 => head,
        Ok(head) => {
            request.record.enter(Phase::Exchange);
            let relayed = exchange.relay(&head, false).await;
            let (status, may_answer) = (exchange.answered_status(), exchange.may_answer());
            request.record.traffic(exchange.traffic());
            drop(exchange);
            return match relayed {
                Ok(_) => {
                    request.record.upgrade_refused(head.status);
                    Ok(Offered::Done(Next::Close))
                }
                Err(refusal) => refuse_or_cut(request, may_answer, status, refusal),
            };
        }
        Err(refusal) => {
            let (may_answer, got_no_answer) = (exchange.may_answer(), exchange.got_no_answer(&refusal));
            request.record.traffic(exchange.traffic());
            drop(exchange);
            if got_no_answer && way.pool.config().retry_handshakes && attempt.may_retry(Instant::now()) {
                let trace_id = request.record.trace().id();
                tracing::debug!(endpoint = %connected.lease.endpoint_name(), %trace_id, "no answer to the handshake, trying another");
                return Ok(Offered::Unanswered(refusal));
            }
            return refuse_or_cut(request, may_answer, None, refusal);
        }
    };
    let (may_answer, interim) = (exchange.may_answer(), exchange.take_interim());
    request.record.traffic(exchange.traffic());
    drop(exchange);
    let agreed = match offer.prove(&head, way.route.config.websocket.verify_accept) {
        Ok(agreed) => agreed,
        Err(error) => return refuse_or_cut(request, may_answer, None, Refusal::Disagreed(error)),
    };
    let passed = forward::response(&head, ResponseKind::Upgraded, &response)
        .map_err(|_| Refusal::BadResponse(UpstreamFault::Header))?;
    write_upgrade(request.connection, interim, &passed).await?;
    let terms = way.route.terms(&request.connection.listener.config, &request.connection.gate);
    let record = request.record.open_tunnel(&passed, &request.connection.client);
    let taken = request.taken_by_tunnel();
    Ok(Offered::Done(Next::Tunnel(Box::new(Established {
        up: connected.stream,
        lease: connected.lease,
        agreed,
        terms,
        record,
        taken,
    }))))
}

/// A refusal is an answer only as long as nothing else has begun to be one.
fn refuse_or_cut(
    request: &mut Request<'_>,
    may_answer: bool,
    status: Option<u16>,
    refusal: Refusal,
) -> Result<Offered, Refusal> {
    if may_answer { Err(refusal) } else { Ok(Offered::Done(request.cut_short(status, &refusal))) }
}

/// Writes the 101, behind what is left of interim responses: the last HTTP of this connection.
async fn write_upgrade(connection: &mut Http1, mut out: Vec<u8>, head: &ResponseHead) -> Result<(), Refusal> {
    out.reserve(head.headers.wire_len() + 64);
    head.encode(&mut out);
    let due = connection.listener.config.timeout.write.map(|period| Instant::now() + period);
    let write = async {
        connection.down.write_all(&out).await?;
        connection.down.flush().await
    };
    match within(due, write).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Refusal::DownstreamGone { phase: Phase::Response, source: Some(error) }),
        None => {
            connection.down.reset_on_drop();
            Err(Refusal::WriteTimeout)
        }
    }
}
