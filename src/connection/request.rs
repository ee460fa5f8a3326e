//! One request: what it asks for, and who answers it.

use std::{borrow::Cow, ops::ControlFlow, sync::Arc};

use tokio::time::Instant;

use super::{
    Client, Listener, Taken,
    answer::Answer,
    caller,
    downstream::Downstream,
    h1::{Http1, Next},
    record::{ExchangeRecord, RequestId},
    sender::Sender,
    snapshot::{Route, Snapshot},
    upgrade,
};
use crate::{
    buffered::Stream,
    config::Action,
    ending::{Phase, Refusal, chain},
    exchange::{Exchange, Plan, Timeouts},
    lifecycle::Entrance,
    proto::{
        forward::{self, Copied, Kind, RequestContext, ResponseContext, TrailerRules, Values},
        framing::{self, BodyFraming, FramingError, request_framing},
        handshake::Offer,
        head::{HeadError, Headers, InvalidHeader, RequestHead, ResponseHead, Version},
        proxy_protocol::Addresses,
    },
    route::{Found, Target, TargetError, strip_prefix},
    telemetry::UpstreamMetrics,
    upstream::{Caller, ConnectFailure, Connected, Lease, Pool, Transport, Want},
};

/// A request whose head is complete.
pub(super) struct Request<'a> {
    pub(super) connection: &'a mut Http1,
    pub(super) head: RequestHead,
    pub(super) sender: Sender,
    pub(super) record: ExchangeRecord,
    /// What its body is delimited by; until that is known, nothing after the head can be read.
    pub(super) body: BodyFraming,
    pub(super) is_offer: bool,
    /// What the server that was asked about it says, for `copy_headers`.
    pub(super) permission: Option<Headers>,
    /// The places that it takes.
    pub(super) taken: Taken,
}

/// What the head says, proven.
pub(super) struct Ask {
    pub(super) target: Target,
    pub(super) offer: Option<Offer>,
}

/// What stays the same over all tries of a request.
pub(super) struct Way<'a> {
    pub(super) route: &'a Route,
    pub(super) pool: &'a Pool,
    /// What the request is about, as it came.
    pub(super) asked: &'a Target,
    /// What goes upstream.
    pub(super) target: Cow<'a, str>,
    pub(super) metrics: &'a UpstreamMetrics,
}

impl<'a> Request<'a> {
    pub(super) fn new(connection: &'a mut Http1, head: RequestHead) -> Self {
        let sender = connection.sender(&head);
        let record = connection.record(&head, &sender);
        Self {
            connection,
            head,
            sender,
            record,
            body: BodyFraming::UntilClose,
            is_offer: false,
            permission: None,
            taken: Taken::default(),
        }
    }

    /// Finds who answers by this configuration, and sees the answer through.
    pub(super) async fn answer(mut self, snapshot: &Snapshot) -> Next {
        match self.find_and_answer(snapshot).await {
            Ok(next) => next,
            Err(refusal) => self.refuse(&refusal).await,
        }
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Next {
        // Every refused offer closes: its client may already send frames (rule H12).
        let body = if self.is_offer { BodyFraming::UntilClose } else { self.body };
        self.connection.refuse(refusal, &self.head, &mut self.record, body).await
    }

    async fn find_and_answer(&mut self, snapshot: &Snapshot) -> Result<Next, Refusal> {
        let ask = self.parse()?;
        self.enter()?;
        if let Some(port) = self.connection.listener.config.redirect_https
            && !self.sender.https
        {
            let location = https_location(&ask.target, port)?;
            let answer = Answer::redirect(308, &location).map_err(bad_config)?;
            return Ok(self.send(answer).await);
        }
        let route =
            match snapshot.table.find(ask.target.host(), &ask.target.normal_path(), ask.offer.as_ref()) {
                Found::Route(place) => &snapshot.routes[place],
                Found::UpgradeRequired => return Err(Refusal::UpgradeRequired),
                Found::None => return Err(Refusal::NoRoute),
            };
        self.record.route(route);
        if let ControlFlow::Break(next) = self.admit(snapshot, route, &ask).await? {
            return Ok(next);
        }
        match &route.config.action {
            Action::Redirect { to, status } => {
                let mut answer =
                    Answer::redirect(*status, &location(to, &ask.target)?).map_err(bad_config)?;
                self.edit(&mut answer, route, &ask.target)?;
                Ok(self.send(answer).await)
            }
            Action::Respond { status, body } => {
                let mut answer = Answer::text(*status, body.clone()).map_err(bad_config)?;
                self.edit(&mut answer, route, &ask.target)?;
                Ok(self.send(answer).await)
            }
            Action::Upstream(place) => {
                self.check_length(route)?;
                let way = Way {
                    route,
                    pool: &snapshot.pools[*place],
                    asked: &ask.target,
                    target: upstream_target(&ask.target, route),
                    metrics: snapshot.answering(*place, &self.connection.gate.metrics),
                };
                match &ask.offer {
                    Some(offer) => upgrade::establish(self, &way, offer).await,
                    None => self.exchange(&way).await,
                }
            }
        }
    }

    /// Judges the head: framing, then target and Host, then the opening handshake.
    fn parse(&mut self) -> Result<Ask, Refusal> {
        self.body = request_framing(&self.head).map_err(|error| match error {
            FramingError::Ambiguous(_) => Refusal::AmbiguousFraming(error),
            FramingError::UnknownCoding => Refusal::TransferCoding,
        })?;
        let target = Target::parse(&self.head).map_err(refusal_of_target)?;
        self.record.target(&target);
        if self.head.version == Version::Http10
            && !self.head.headers.contains("host")
            && !target.authority().is_empty()
        {
            // An absolute-form target names the host that was routed by; the backend must hear of the same (rule H8).
            self.head.headers.append("Host", target.authority().as_bytes()).map_err(bad_request_header)?;
        }
        // Malformed or not: it was meant as an offer, and is refused as one.
        self.is_offer = true;
        let offer = Offer::from_head(&self.head).map_err(Refusal::Handshake)?;
        self.is_offer = offer.is_some();
        if self.is_offer {
            self.record.offers();
        }
        if self.is_offer && self.connection.listener.is_draining() {
            return Err(Refusal::Draining);
        }
        Ok(Ask { target, offer })
    }

    /// Counts it for its client. A connection counts by itself, but one of a trusted proxy has the requests of many clients.
    fn enter(&mut self) -> Result<(), Refusal> {
        let listener = &self.connection.listener;
        // What a proxy asks for itself, as for its health checks, is no client's.
        let is_of_proxy = |ip| self.sender.is_proxied() && listener.trusted_proxies().contains(Some(ip));
        let counted = self.sender.ip.filter(|&ip| !is_of_proxy(ip));
        if self.sender.is_proxied() {
            match listener.enter(counted) {
                Entrance::Open(place) => self.taken.client = place,
                Entrance::Refused(_) | Entrance::Cut => return Err(Refusal::PerIpLimit),
            }
        }
        if self.is_offer { listener.take_handshake(counted) } else { Ok(()) }
    }

    /// The places that stay taken when it becomes a tunnel, its connection's among them; a box only where there are some.
    pub(super) fn taken_by_tunnel(&mut self) -> Option<Box<Taken>> {
        let Taken { client, route } = std::mem::take(&mut self.taken);
        let client = client.or_else(|| self.connection.place.take());
        (client.is_some() || route.is_some()).then(|| Box::new(Taken { client, route }))
    }

    /// A body that says that it is too large is refused before an upstream hears of it.
    fn check_length(&self, route: &Route) -> Result<(), Refusal> {
        match (self.body, route.config.request_body) {
            (BodyFraming::Length(length), Some(limit)) if length > limit => Err(Refusal::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// What headers may tell of it.
    pub(super) fn facts(&self) -> Facts {
        let Http1 { listener, client, .. } = &*self.connection;
        Facts {
            listener: Arc::clone(listener),
            client: Arc::clone(client),
            request_id: self.record.request_id(),
            sender: self.sender,
        }
    }

    /// Makes the route's edits in an answer of wsgate's own.
    fn edit(&self, answer: &mut Answer, route: &Route, asked: &Target) -> Result<(), Refusal> {
        let (edits, facts) = (&route.config.response_headers, self.facts());
        let edited = edits.apply(&mut answer.head_mut().headers, &facts.values(route, asked));
        edited.map_err(bad_config)
    }

    async fn send(&mut self, answer: Answer) -> Next {
        let close = self.is_offer || !self.connection.may_keep(&self.head, self.body);
        self.connection
            .send(answer, Some(&self.head.method), self.head.version, close, &mut self.record)
            .await
    }

    /// A plain exchange with the pool.
    async fn exchange(&mut self, way: &Way<'_>) -> Result<Next, Refusal> {
        let mut now = Instant::now();
        let mut attempt = way.pool.attempt(self.caller(way), now);
        let secure = self.sender.https;
        let mut want = Want::Reuse;
        let mut stale = None;
        loop {
            let mut connected = match (self.connect(way, &mut attempt, want).await, stale.take()) {
                // The budget was spent just now: what happened is the answer.
                (Err(Refusal::NoEndpoint), Some(refusal)) => {
                    self.record.enter(Phase::Response);
                    return Err(refusal);
                }
                (connected, _) => connected?,
            };
            let kind = Kind::Plain { framing: self.body };
            let facts = self.facts();
            let values = facts.values(way.route, way.asked);
            let head = self.forwarded(way, &connected, kind, values)?;
            let set_cookie = attempt.set_cookie(secure);
            let plan = way.plan(&facts.listener, &self.head, kind, head, set_cookie.as_deref(), values);
            let persists = framing::persists(self.head.version, &self.head.headers);
            if !connected.reused {
                // It took a while.
                now = Instant::now();
            }
            let Http1 { down, timer, .. } = &mut *self.connection;
            let mut exchange = Exchange::new(down, &mut connected.stream, plan, timer, now);
            let answer = way.response_head(&mut exchange, kind).await;
            note_failure(&connected.lease, connected.reused, &answer);
            let result = match answer {
                Ok(head) if head.status == 101 => Err(Refusal::UnaskedUpgrade),
                // Asked when the answer comes: a drain that began meanwhile is announced in it.
                Ok(head) => exchange.relay(&head, persists && !facts.listener.is_draining()).await,
                Err(refusal)
                    if connected.reused
                        && exchange.may_send_again(&refusal)
                        && attempt.may_retry(Instant::now()) =>
                {
                    let trace_id = self.record.trace().id();
                    tracing::debug!(endpoint = %connected.lease.endpoint_name(), %trace_id, "idle connection was gone, trying again");
                    want = Want::Fresh;
                    attempt.stay_if_bound();
                    stale = Some(refusal);
                    continue;
                }
                Err(refusal) => Err(refusal),
            };
            let (status, may_answer) = (exchange.answered_status(), exchange.may_answer());
            self.record.traffic(exchange.traffic());
            drop(exchange);
            let answered = match result {
                Ok(answered) => answered,
                Err(refusal) if may_answer => return Err(refusal),
                Err(refusal) => return Ok(self.cut_short(status, &refusal)),
            };
            let now = self.record.answered(answered.status);
            if answered.keeps_upstream {
                connected.lease.park_at(connected.stream, answered.max_idle, now);
            }
            self.connection.quiet_since = Some(now);
            return Ok(if answered.keeps_downstream { Next::Request } else { Next::Close });
        }
    }

    /// Cuts an answer off that has begun: whatever followed now would be taken for a part of it.
    pub(super) fn cut_short(&mut self, status: Option<u16>, refusal: &Refusal) -> Next {
        self.record.cut_short(status, refusal);
        if matches!(refusal, Refusal::WriteTimeout) {
            // A client that takes no bytes must not hold the kernel's either.
            self.connection.down.reset_on_drop();
        }
        Next::Cut
    }

    /// What the choice of an endpoint may know of it.
    pub(super) fn caller(&self, way: &Way<'_>) -> Caller {
        let mut caller = caller::of(way.pool.config(), &self.head, way.asked, self.sender.ip);
        if way.pool.config().proxy_protocol.is_some() {
            let told = self.connection.client.destination();
            let destination = told.or_else(|| self.connection.down.get_ref().local_address());
            caller.addresses = self
                .sender
                .address()
                .zip(destination)
                .map(|(source, destination)| Addresses { source, destination });
        }
        caller
    }

    /// Connects, unless the client leaves meanwhile. What it sends waits in the tail, within bounds.
    pub(super) async fn connect(
        &mut self,
        way: &Way<'_>,
        attempt: &mut crate::upstream::Attempt,
        want: Want,
    ) -> Result<Connected, Refusal> {
        self.record.enter(Phase::Connect);
        let gone = self.connection.gone();
        let connected = tokio::select! {
            biased;
            connected = way.pool.connect(attempt, want) => match connected {
                Ok(connected) => connected,
                Err(failure) => {
                    self.record.tried(&failure);
                    return Err(refusal_of_connect(failure));
                }
            },
            source = gone => return Err(Refusal::DownstreamGone { phase: Phase::Connect, source }),
        };
        self.record.endpoint(connected.lease.endpoint_name());
        self.record.enter(Phase::Response);
        Ok(connected)
    }

    /// The head that goes upstream, encoded.
    pub(super) fn forwarded(
        &self,
        way: &Way<'_>,
        connected: &Connected,
        kind: Kind,
        values: Values<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        let cx = self.context(way, connected, values);
        let forwarded = forward::request(&self.head, kind, &cx).map_err(bad_request_header)?;
        self.record.dropped(&forwarded, self.connection.client.address());
        Ok(forwarded.head.into_encoded())
    }

    /// What the head that goes upstream depends on.
    pub(super) fn context<'c>(
        &'c self,
        way: &'c Way<'_>,
        connected: &'c Connected,
        values: Values<'c>,
    ) -> RequestContext<'c> {
        let Http1 { listener, client, .. } = &*self.connection;
        let route = &way.route.config;
        RequestContext {
            client_ip: self.sender.ip,
            https: self.sender.https,
            listener_port: values.listener_port,
            proxy: self.sender.proxy(client, &listener.config),
            client_ip_header: self.sender.client_ip_header(&listener.config),
            upstream_authority: connected.lease.authority(),
            host_header: &route.host_header,
            via: route.via.as_deref(),
            copied: Copied {
                names: route.copied_headers(),
                from: self.permission.as_ref(),
                is_asked_for: false,
            },
            edits: &route.request_headers,
            underscore_headers: listener.config.underscore_headers,
            request_id: values.request_id,
            trace: self.record.trace(),
            target: &way.target,
            values,
        }
    }
}

/// What headers may tell of a request, held apart from it: while an answer is relayed, the rest is in use.
pub(super) struct Facts {
    pub(super) listener: Arc<Listener>,
    client: Arc<Client>,
    request_id: RequestId,
    sender: Sender,
}

impl Facts {
    /// What the edits of this route may fill in.
    pub(super) fn values<'a>(&'a self, route: &'a Route, asked: &'a Target) -> Values<'a> {
        Values {
            client_ip: self.sender.ip,
            client_port: self.sender.port(),
            request_id: self.request_id.as_str(),
            host: asked.host(),
            https: self.sender.https,
            listener_port: self.client.destination().map(|to| to.port()).or(self.listener.port),
            route: &route.name,
            tls: self.client.tls_values(),
        }
    }
}

impl Way<'_> {
    /// The head of the answer, which is waited for, and how long is counted.
    pub(super) async fn response_head(
        &self,
        exchange: &mut Exchange<'_, Downstream, Transport>,
        kind: Kind,
    ) -> Result<ResponseHead, Refusal> {
        let head = exchange.response_head().await?;
        self.metrics.answered(kind == Kind::Handshake, exchange.heard_after());
        Ok(head)
    }

    /// By which rules the answer to `request` comes back, when `head` is what goes upstream.
    pub(super) fn plan<'p>(
        &'p self,
        listener: &'p Listener,
        request: &'p RequestHead,
        kind: Kind,
        head: Vec<u8>,
        set_cookie: Option<&'p str>,
        values: Values<'p>,
    ) -> Plan<'p> {
        let route = &self.route.config;
        let config = self.pool.config();
        Plan {
            head,
            method: &request.method,
            about: None,
            client: request.version,
            kind,
            body_limit: route.request_body,
            request_trailers: TrailerRules {
                edits: &self.route.trailers,
                client_ip_header: listener.config.client_ip_header.as_deref(),
            },
            takes_trailers: request.headers.has_token("te", "trailers"),
            response: ResponseContext {
                edits: &route.response_headers,
                via: route.via.as_deref(),
                hsts: listener.hsts.as_deref(),
                set_cookie,
                values,
            },
            expects_continue: request.headers.has_token("expect", "100-continue"),
            early_bytes: listener.config.limits.early_bytes,
            response_limits: listener.head_limits,
            timeouts: Timeouts {
                request_body: listener.config.timeout.request_body,
                write: listener.config.timeout.write,
                response: match kind {
                    Kind::Handshake => config.handshake_timeout,
                    Kind::Plain { .. } => config.response_timeout,
                },
                response_body: config.response_body_timeout,
            },
        }
    }
}

/// The target that goes upstream: as it came, without the route's prefix (rule H9).
fn upstream_target<'t>(target: &'t Target, route: &Route) -> Cow<'t, str> {
    let stripped =
        route.config.strip_prefix.as_deref().and_then(|prefix| strip_prefix(target.origin_form(), prefix));
    stripped.map_or(Cow::Borrowed(target.origin_form()), Cow::Owned)
}

/// Where the same resource is over https.
fn https_location(target: &Target, port: u16) -> Result<String, Refusal> {
    let host = redirect_host(target)?;
    let path = redirect_path(target);
    Ok(if port == 443 { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") })
}

/// A route's redirect with its placeholders filled in. The host goes first: a client can write braces into its path, but
/// not into its host.
fn location(to: &str, target: &Target) -> Result<String, Refusal> {
    let host = if to.contains("{host}") { redirect_host(target)? } else { "" };
    Ok(to.replace("{host}", host).replace("{path}", redirect_path(target)))
}

/// The host of a redirect; an IPv6 literal keeps its brackets. Without one, `https:///path` would lead wherever the path says.
fn redirect_host(target: &Target) -> Result<&str, Refusal> {
    if target.host().is_empty() { Err(Refusal::BadHost("none, to redirect to")) } else { Ok(target.host()) }
}

/// The path and query of a redirect, with one leading slash: two would begin another host.
fn redirect_path(target: &Target) -> &str {
    match target.origin_form() {
        "*" => "/",
        path => {
            let slashes = path.bytes().take_while(|&byte| byte == b'/').count();
            &path[slashes.saturating_sub(1)..]
        }
    }
}

/// What the configuration check let through can't be written: a defect of wsgate's, and no fault of the client's.
fn bad_config(_: InvalidHeader) -> Refusal {
    debug_assert!(false, "the configuration check lets no unwritable header through");
    Refusal::NoRoute
}

/// Only Connection can make a head that was parsed unfit to be forwarded.
pub(super) fn bad_request_header(_: InvalidHeader) -> Refusal {
    Refusal::BadHead(HeadError::Malformed("Connection names too many headers"))
}

fn refusal_of_target(error: TargetError) -> Refusal {
    match error {
        TargetError::BadHost(what) => Refusal::BadHost(what),
        TargetError::BadPath(what) => Refusal::BadPath(what),
        TargetError::Malformed(what) => Refusal::BadHead(HeadError::Malformed(what)),
        TargetError::Method => Refusal::Method,
    }
}

/// Tells the pool of an answer that speaks against the server. That an idle connection had ended does not.
pub(super) fn note_failure(lease: &Lease, reused: bool, answer: &Result<ResponseHead, Refusal>) {
    match answer {
        Err(Refusal::UpstreamClosed(_)) if reused => {}
        Err(refusal @ (Refusal::UpstreamClosed(_) | Refusal::BadResponse(_))) => {
            lease.server_failed(&chain(refusal));
        }
        _ => {}
    }
}

fn refusal_of_connect(failure: ConnectFailure) -> Refusal {
    match failure {
        ConnectFailure::Failed { endpoint, source } => Refusal::ConnectFailed { endpoint, source },
        ConnectFailure::Tls { endpoint, source } => Refusal::UpstreamTls { endpoint, source },
        ConnectFailure::TimedOut { endpoint } => Refusal::ConnectTimeout { endpoint },
        ConnectFailure::Deadline => Refusal::ConnectTimeout { endpoint: "any endpoint".to_owned() },
        ConnectFailure::NoEndpoint => Refusal::NoEndpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::HeadLimits;

    fn target(text: &str) -> Target {
        let head = RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0;
        Target::parse(&head).unwrap()
    }

    #[test]
    fn h3_a_redirect_to_the_requests_host_needs_one() {
        let nameless = target("GET /evil.example/ HTTP/1.0\r\n\r\n");
        assert!(matches!(https_location(&nameless, 443), Err(Refusal::BadHost(_))));
        assert!(matches!(location("https://{host}{path}", &nameless), Err(Refusal::BadHost(_))));
        assert_eq!(location("https://a{path}", &nameless).unwrap(), "https://a/evil.example/");
    }

    #[test]
    fn h9_a_redirect_leads_nowhere_that_the_path_says() {
        let of = |line: &str| target(&format!("{line} HTTP/1.1\r\nHost: A.example:80\r\n\r\n"));
        assert_eq!(location("{path}", &of("GET //evil.example/")).unwrap(), "/evil.example/");
        assert_eq!(
            location("https://{host}{path}", &of("GET /{host}?q")).unwrap(),
            "https://a.example/{host}?q"
        );
        assert_eq!(https_location(&of("OPTIONS *"), 443).unwrap(), "https://a.example/");
        assert_eq!(https_location(&of("GET /x?y=z"), 8443).unwrap(), "https://a.example:8443/x?y=z");
    }
}
