//! The opening handshake through to the tunnel (RFC 6455 §4, rules W7 to W13).

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    OpenTunnel,
    h1::{Http1, Next, within},
    record::TunnelRecord,
    request::{Request, Way},
    snapshot::tunnel_limits,
};
use crate::{
    buffered::{Buffered, Socket, Stream},
    ending::{Phase, Refusal, UpstreamFault},
    exchange::Exchange,
    proto::{
        forward::{self, Kind, ResponseKind},
        handshake::{Agreed, Offer},
        head::ResponseHead,
    },
    tunnel::{Limits, Tunnel},
    upstream::{Lease, Want},
};

/// A handshake that was proven on both sides, the client's 101 written.
pub(super) struct Established {
    up: Buffered<Socket>,
    lease: Lease,
    agreed: Agreed,
    limits: Limits,
    record: Option<Box<TunnelRecord>>,
}

impl Established {
    /// Makes the tunnel of it.
    pub(super) fn open(self, connection: Http1) -> OpenTunnel {
        let drain = connection.gate.drain.clone();
        OpenTunnel {
            tunnel: Tunnel::new(connection.down, self.up, &self.agreed, Arc::new(self.limits), drain),
            record: self.record,
            _lease: self.lease,
        }
    }
}

/// Forwards an offer and proves the answer. Nothing that the client sends behind its offer goes upstream before that.
pub(super) async fn establish(
    request: &mut Request<'_>,
    way: &Way<'_>,
    offer: &Offer,
) -> Result<Next, Refusal> {
    let mut attempt = way.pool.attempt(Instant::now());
    let mut connected = request.connect(way, &mut attempt, Want::Fresh).await?;
    let listener = Arc::clone(&request.connection.listener);
    let head = request.forwarded(way, &connected, Kind::Handshake)?;
    let plan = way.plan(&listener, &request.head, request.body, head, true);
    let response = plan.response;
    let mut exchange = Exchange::new(&mut request.connection.down, &mut connected.stream, plan);
    let answer = match exchange.response_head().await {
        // Relayed as it is, then both connections end (rule W10).
        Ok(head) if head.status != 101 => {
            request.record.enter(Phase::Exchange);
            exchange.relay(&head, false).await.map(|_| head)
        }
        answer => answer,
    };
    let status = exchange.answered_status();
    request.record.traffic(exchange.traffic());
    request.connection.interim = exchange.take_interim();
    drop(exchange);
    let head = match answer {
        Ok(head) if head.status == 101 => head,
        Ok(head) => {
            request.record.upgrade_refused(head.status);
            return Ok(Next::Close);
        }
        Err(refusal) if status.is_none() => return Err(refusal),
        Err(refusal) => return Ok(request.cut_short(status, &refusal)),
    };
    let agreed = offer.prove(&head, way.route.config.websocket.verify_accept).map_err(Refusal::Disagreed)?;
    let passed = forward::response(&head, ResponseKind::Upgraded, &response)
        .map_err(|_| Refusal::BadResponse(UpstreamFault::Header))?;
    write_upgrade(request.connection, &passed).await?;
    let limits = tunnel_limits(&way.route.config.websocket, &request.connection.listener.config);
    let record = request.record.open_tunnel(&passed);
    Ok(Next::Tunnel(Box::new(Established {
        up: connected.stream,
        lease: connected.lease,
        agreed,
        limits,
        record,
    })))
}

/// Writes the 101, behind what is left of interim responses: the last HTTP of this connection.
async fn write_upgrade(connection: &mut Http1, head: &ResponseHead) -> Result<(), Refusal> {
    let mut out = std::mem::take(&mut connection.interim);
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
