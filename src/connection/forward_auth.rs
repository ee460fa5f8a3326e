//! A server that is asked about each request before anything is done about it (`route.auth.forward`).

use std::ops::ControlFlow;

use tokio::time::Instant;

use super::{
    h1::{Http1, Next},
    request::{Request, Way, bad_request_header, note_failure},
};
use crate::{
    ending::{Phase, Refusal},
    exchange::{Answered, Exchange, Plan},
    proto::{
        forward::{self, HostHeader, Kind, RequestContext, Values},
        framing::BodyFraming,
        head::Method,
    },
    upstream::{Connected, Want},
};

/// The question has no body; the request's stays in the tail for whoever it is meant for.
const QUESTION: Kind = Kind::Plain { framing: BodyFraming::Empty };
static GET: Method = Method::GET;

/// Asks the server that `way` leads to. With a 2xx the request may go on; any other answer goes to the client, and no answer is
/// none that lets it through.
pub(super) async fn ask(request: &mut Request<'_>, way: &Way<'_>) -> Result<ControlFlow<Next>, Refusal> {
    let mut attempt = way.pool.attempt(request.caller(way), Instant::now());
    let mut want = Want::Reuse;
    let mut stale = None;
    loop {
        let mut connected = match (request.connect(way, &mut attempt, want).await, stale.take()) {
            // The budget was spent just now: what happened is the answer.
            (Err(Refusal::NoEndpoint), Some(refusal)) => {
                request.record.enter(Phase::Response);
                return Err(refusal);
            }
            (connected, _) => connected?,
        };
        let facts = request.facts();
        let values = facts.values(way.route, way.asked);
        let head = question(request, way, &connected, values)?;
        let plan = Plan {
            method: &GET,
            about: Some(&request.head.method),
            body_limit: None,
            takes_trailers: false,
            expects_continue: false,
            ..way.plan(&facts.listener, &request.head, QUESTION, head, None, values)
        };
        // A body that is not read can't be told from another request.
        let keeps = !request.is_offer && request.connection.may_keep(&request.head, request.body);
        let Http1 { down, timer, .. } = &mut *request.connection;
        let mut exchange = Exchange::new(down, &mut connected.stream, plan, timer, Instant::now());
        let answer = way.response_head(&mut exchange, QUESTION).await;
        note_failure(&connected.lease, connected.reused, &answer);
        let head = match answer {
            Ok(head) if head.status == 101 => return Err(Refusal::UnaskedUpgrade),
            Ok(head) => head,
            Err(refusal)
                if connected.reused
                    && exchange.may_send_again(&refusal)
                    && attempt.may_retry(Instant::now()) =>
            {
                want = Want::Fresh;
                attempt.stay_if_bound();
                stale = Some(refusal);
                continue;
            }
            Err(refusal) => return Err(refusal),
        };
        if (200..300).contains(&head.status) {
            let answered = exchange.discard(&head).await?;
            drop(exchange);
            park(connected, &answered);
            request.permission = Some(head.headers);
            return Ok(ControlFlow::Continue(()));
        }
        request.record.enter(Phase::Exchange);
        let relayed = exchange.relay(&head, keeps && !facts.listener.is_draining()).await;
        let (status, may_answer) = (exchange.answered_status(), exchange.may_answer());
        request.record.traffic(exchange.traffic());
        drop(exchange);
        return match relayed {
            Ok(answered) => {
                park(connected, &answered);
                request.record.access_refused(answered.status);
                Ok(ControlFlow::Break(if answered.keeps_downstream { Next::Request } else { Next::Close }))
            }
            Err(refusal) if may_answer => Err(refusal),
            Err(refusal) => Ok(ControlFlow::Break(request.cut_short(status, &refusal))),
        };
    }
}

fn park(connected: Connected, answered: &Answered) {
    if answered.keeps_upstream {
        connected.lease.park(connected.stream, answered.max_idle);
    }
}

/// The head of the question. What a client sends under a name that the answer is to fill does not even reach the server that
/// is asked.
fn question(
    request: &Request<'_>,
    way: &Way<'_>,
    connected: &Connected,
    values: Values<'_>,
) -> Result<Vec<u8>, Refusal> {
    let cx = request.context(way, connected, values);
    let cx = RequestContext { host_header: &HostHeader::Upstream, edits: &way.route.about_request, ..cx };
    let asked = forward::question(&request.head, way.asked.origin_form(), &cx).map_err(bad_request_header)?;
    let mut head = Vec::new();
    asked.encode(&mut head);
    Ok(head)
}
