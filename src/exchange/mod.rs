//! One HTTP request and its response, with their bodies, between a client and an upstream connection.
//!
//! [`Exchange::response_head`] sends the request and waits for the final response head while the request's body is on its
//! way; what follows depends on the answer: [`Exchange::relay`] for a response, or the tunnel after a 101. Everything
//! runs in the task of the downstream connection, so dropping the future ends it on both sides.

mod body;
mod deadline;
mod refusal;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    time::{Instant, timeout},
};

use self::{
    body::{Body, BodyError, WaitsFor},
    deadline::{Now, Progress},
    refusal::{bad_header, refusal_of_request, refusal_of_response},
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Phase, Refusal, UpstreamFault},
    proto::{
        forward::{self, Kind, ResponseContext, ResponseKind, TrailerRules},
        framing::{BodyFraming, response_framing, response_persists},
        head::{HeadLimits, HeadProgress, Method, ResponseHead, Version},
    },
};

pub use self::deadline::Timer;

/// Interim responses that are passed on before the final one.
const MAX_INTERIM: usize = 16;
/// Bytes of a body that nobody wants that are read for the sake of the connection, and for how long.
const MOST_DISCARDED: u64 = 64 * 1024;
const LONGEST_DISCARDED: Duration = Duration::from_secs(1);
/// Quiet time of a server-sent event stream, where the ordinary time-out is shorter (rule H15).
const EVENT_STREAM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Deadlines of an exchange; `None` is "off".
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The period in which the request's body must bring 16 KiB or its end.
    pub request_body: Option<Duration>,
    /// The period in which the client must take 16 KiB or all that waits.
    pub write: Option<Duration>,
    /// From the request being sent to the end of the response head.
    pub response: Option<Duration>,
    /// Between two reads of the response's body.
    pub response_body: Option<Duration>,
}

/// What is sent, and by which rules.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The request head as it goes upstream, encoded.
    pub head: Vec<u8>,
    /// The request's method, which decides about the response's framing.
    pub method: &'a Method,
    /// The method of the client's request, where the one that is sent is not that, but is about it. Interim responses to such a
    /// one are not the client's business.
    pub about: Option<&'a Method>,
    /// What the client speaks.
    pub client: Version,
    /// The request, with the framing of its body on both sides. Behind an opening handshake, bytes wait for the 101 (rule W7).
    pub kind: Kind,
    /// Bytes of the request's body, counted as they come; a length over it is refused before there is an exchange.
    pub body_limit: Option<u64>,
    /// Which trailers of the request pass.
    pub request_trailers: TrailerRules<'a>,
    /// Whether the client takes trailers (`TE: trailers`).
    pub takes_trailers: bool,
    /// What the response heads depend on.
    pub response: ResponseContext<'a>,
    /// The client sends the body only when it has got a 100 (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Bytes that a client may send before its answer, held back in the tail.
    pub early_bytes: usize,
    /// Bounds of the response heads.
    pub response_limits: HeadLimits,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// Bytes of an exchange that went each way, heads and framing included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the upstream.
    pub sent: u64,
    /// To the client.
    pub received: u64,
}

/// A response that reached the client whole.
#[derive(Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// The client's connection may carry another request.
    pub keeps_downstream: bool,
    /// The upstream's connection may carry another request.
    pub keeps_upstream: bool,
    /// How long the server keeps the connection, by its `Keep-Alive: timeout=N`, less a second.
    pub max_idle: Option<Duration>,
}

/// The request side of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Sending,
    Sent(Instant),
    /// The upstream takes no more of it; it may have answered all the same.
    Refused,
}

/// One request on its way.
#[derive(Debug)]
pub struct Exchange<'a, D: Stream, U: Stream> {
    down: &'a mut Buffered<D>,
    up: &'a mut Buffered<U>,
    plan: Plan<'a>,
    body: Body<'a>,
    request: Request,
    /// Interim heads on their way to the client.
    interim: Vec<u8>,
    interims: usize,
    /// Part of `interim` has gone out.
    interim_begun: bool,
    /// How far the response head was looked at.
    progress: HeadProgress,
    upload: Progress,
    download: Progress,
    timer: &'a mut Timer,
    /// Known when the first poll comes.
    now: Now,
    began: Instant,
    /// When the final head came.
    heard: Option<Instant>,
    /// When the upstream last took or gave something.
    upstream_moved: Instant,
    upstream_given: u64,
    /// What arrived of the response, in bytes.
    answered: u64,
    received: u64,
    status: Option<u16>,
    /// The end of the client's stream would be the end of a response that has not come to its end.
    until_close: bool,
}

impl<D: Stream, U: Stream> Drop for Exchange<'_, D, U> {
    /// Whatever cuts such a response short, the client must not take it for whole (rule B6).
    fn drop(&mut self) {
        if self.until_close {
            self.down.reset_on_drop();
        }
    }
}

impl<'a, D: Stream, U: Stream> Exchange<'a, D, U> {
    /// An exchange of which nothing has been sent, at `now`. `timer` is the connection's.
    pub fn new(
        down: &'a mut Buffered<D>,
        up: &'a mut Buffered<U>,
        mut plan: Plan<'a>,
        timer: &'a mut Timer,
        now: Instant,
    ) -> Self {
        let (head, framing) = (std::mem::take(&mut plan.head), plan.kind.framing());
        let body =
            Body::new(head, framing, framing).limit(plan.body_limit).with_trailers(plan.request_trailers);
        Self {
            upload: Progress::new(plan.timeouts.request_body),
            download: Progress::new(plan.timeouts.write),
            down,
            up,
            plan,
            body,
            request: Request::Sending,
            interim: Vec::new(),
            interims: 0,
            interim_begun: false,
            progress: HeadProgress::default(),
            timer,
            now: Now(Some(now)),
            began: now,
            heard: None,
            upstream_moved: now,
            upstream_given: 0,
            answered: 0,
            received: 0,
            status: None,
            until_close: false,
        }
    }

    /// Bytes so far.
    pub fn traffic(&self) -> Traffic {
        Traffic { sent: self.body.given, received: self.received }
    }

    /// The status of the final response head that was passed to the client, if it came to that.
    pub fn answered_status(&self) -> Option<u16> {
        self.status
    }

    /// Whether something else can still be answered: no final head has gone out, nor part of an interim one.
    pub fn may_answer(&self) -> bool {
        self.status.is_none() && !self.interim_begun
    }

    /// Whether the same request may be sent on another connection (rule H14): this one ended before its first answer byte,
    /// nothing of the body was taken, and the request is idempotent or nothing of it was sent.
    pub fn may_send_again(&self, refusal: &Refusal) -> bool {
        matches!(refusal, Refusal::UpstreamClosed(_))
            && self.answered == 0
            && self.body.taken == 0
            && (self.plan.method.is_idempotent() && self.plan.kind != Kind::Handshake || self.body.given == 0)
    }

    /// Whether the upstream ended, or its time passed, before the first byte of an answer.
    pub fn got_no_answer(&self, refusal: &Refusal) -> bool {
        matches!(refusal, Refusal::UpstreamClosed(_) | Refusal::HandshakeTimeout) && self.answered == 0
    }

    /// Interim heads that the client has not taken yet. They go out before the final one, which [`Self::relay`] sees to.
    pub fn take_interim(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.interim)
    }

    /// From the beginning to the final response head; nothing before that has come.
    pub fn heard_after(&self) -> Duration {
        self.heard.map_or(Duration::ZERO, |heard| heard.saturating_duration_since(self.began))
    }

    /// Sends the request and waits for the final response head. A 101 counts as one.
    pub async fn response_head(&mut self) -> Result<ResponseHead, Refusal> {
        let head = poll_fn(|cx| self.poll_response_head(cx)).await?;
        self.heard = Some(Instant::now());
        if head.status == 101 {
            // The backend may answer before it has read the whole head (rule W12); it must get the rest before any frame.
            poll_fn(|cx| self.poll_finish_request(cx)).await?;
        }
        Ok(head)
    }

    fn poll_finish_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let mut now = Now::default();
        loop {
            self.poll_request(cx, &mut now)?;
            match self.request {
                Request::Sent(_) => return Poll::Ready(Ok(())),
                Request::Refused => return Poll::Ready(Err(Refusal::UpstreamClosed(None))),
                Request::Sending => {
                    let due = self.due_before_response(now.get())?;
                    ready!(self.timer.poll(cx, due));
                    now = Now::default();
                }
            }
        }
    }

    fn poll_response_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Refusal>> {
        let mut now = std::mem::take(&mut self.now);
        loop {
            self.poll_request(cx, &mut now)?;
            self.poll_downstream_gone(cx, Phase::Response)?;
            self.poll_interim(cx)?;
            // An interim response that the client does not take holds the next one back.
            let answer =
                if self.interim.is_empty() { self.up.poll_fill(cx, usize::MAX) } else { Poll::Pending };
            match answer {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.upstream_closed(None))),
                Poll::Ready(Ok(count)) => {
                    self.answered += count as u64;
                    if let Some(head) = self.take_response_head()? {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.upstream_closed(Some(error)))),
                Poll::Pending => {
                    let due = self.due_before_response(now.get())?;
                    ready!(self.timer.poll(cx, due));
                    now = Now::default();
                }
            }
        }
    }

    fn upstream_closed(&self, error: Option<io::Error>) -> Refusal {
        if self.up.tail().is_empty() {
            Refusal::UpstreamClosed(error)
        } else {
            // Part of a head came; what is missing can't come any more.
            Refusal::BadResponse(UpstreamFault::Cut)
        }
    }

    /// Moves the request's body on; when it is through, watches for a client that leaves.
    fn poll_request(&mut self, cx: &mut Context<'_>, now: &mut Now) -> Result<(), Refusal> {
        if self.request == Request::Sending {
            let result = self.body.poll_relay(cx, self.down, self.up);
            if self.body.given != self.upstream_given {
                self.upstream_given = self.body.given;
                self.upstream_moved = now.get();
            }
            match result {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.request = Request::Sent(now.get()),
                Poll::Ready(Err(BodyError::Write(_))) => self.request = Request::Refused,
                Poll::Ready(Err(error)) => return Err(refusal_of_request(error)),
            }
        }
        Ok(())
    }

    /// When the request is through, reads ahead, within bounds, to notice that the client has left. What comes waits in
    /// the tail.
    fn poll_downstream_gone(&mut self, cx: &mut Context<'_>, phase: Phase) -> Result<(), Refusal> {
        if self.request == Request::Sending || !self.body.has_ended() {
            return Ok(());
        }
        let gone = |source| Err(Refusal::DownstreamGone { phase, source });
        loop {
            let room = self.plan.early_bytes.saturating_sub(self.down.tail().len());
            if room == 0 {
                return Ok(());
            }
            match self.down.poll_fill(cx, room) {
                Poll::Ready(Ok(0)) => return gone(None),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return gone(Some(error)),
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        if self.interims == 0 {
            return Ok(());
        }
        let waiting = self.interim.len();
        let written = poll_write_all(cx, self.down, &mut self.interim, &mut self.received);
        self.interim_begun = !self.interim.is_empty() && (self.interim_begun || self.interim.len() < waiting);
        match written {
            Poll::Ready(Err(error)) => {
                Err(Refusal::DownstreamGone { phase: Phase::Response, source: Some(error) })
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Takes response heads off the tail: interim ones go to the client, the final one is returned.
    fn take_response_head(&mut self) -> Result<Option<ResponseHead>, Refusal> {
        while self.progress.is_worth_parsing(self.up.tail(), &self.plan.response_limits) {
            let parsed = ResponseHead::parse(self.up.tail(), &self.plan.response_limits);
            let Some((head, length)) =
                parsed.map_err(|error| Refusal::BadResponse(UpstreamFault::Head(error)))?
            else {
                return Ok(None);
            };
            self.up.consume(length);
            self.progress = HeadProgress::default();
            if head.status >= 200 || head.status == 101 {
                return Ok(Some(head));
            }
            self.pass_interim(&head)?;
        }
        Ok(None)
    }

    fn pass_interim(&mut self, head: &ResponseHead) -> Result<(), Refusal> {
        self.interims += 1;
        if self.interims > MAX_INTERIM {
            return Err(Refusal::BadResponse(UpstreamFault::Interim));
        }
        if self.plan.client == Version::Http11 && self.plan.about.is_none() {
            forward::response(head, ResponseKind::Interim, &self.plan.response)
                .map_err(bad_header)?
                .encode(&mut self.interim);
        }
        Ok(())
    }

    /// When something is due before the response head has come; `Err` if it is now.
    fn due_before_response(&mut self, now: Instant) -> Result<Option<Instant>, Refusal> {
        if !self.interim.is_empty() {
            return self.download.watch(self.received, now).map_err(|_| Refusal::WriteTimeout);
        }
        self.download.pause();
        let due = self.due_in_request(now)?;
        if self.waits_for_request() {
            return Ok(due);
        }
        let since = match self.request {
            Request::Sent(at) => at,
            Request::Sending | Request::Refused => self.upstream_moved,
        };
        let Some(due) = self.plan.timeouts.response.map(|period| since + period) else { return Ok(None) };
        if due > now {
            return Ok(Some(due));
        }
        Err(match self.plan.kind {
            Kind::Handshake => Refusal::HandshakeTimeout,
            Kind::Plain { .. } => Refusal::ResponseTimeout,
        })
    }

    fn waits_for_request(&self) -> bool {
        // A client that waits for a 100 is waiting for the upstream, and so is everybody else.
        let expects = self.plan.expects_continue && self.body.taken == 0;
        self.request == Request::Sending && self.body.waits_for == WaitsFor::Sender && !expects
    }

    /// When the client must have brought more of its request; `Err` if it is now.
    fn due_in_request(&mut self, now: Instant) -> Result<Option<Instant>, Refusal> {
        if !self.waits_for_request() {
            self.upload.pause();
            return Ok(None);
        }
        self.upload.watch(self.body.taken, now).map_err(|_| Refusal::BodyTimeout)
    }

    /// Passes the final response to the client, its body and all, while the rest of the request's body goes on.
    ///
    /// `keep_alive` says whether the client's connection may be kept as far as the client and wsgate are concerned.
    pub async fn relay(&mut self, head: &ResponseHead, keep_alive: bool) -> Result<Answered, Refusal> {
        let framing = response_framing(head, self.plan.method)
            .map_err(|error| Refusal::BadResponse(UpstreamFault::Framing(error)))?;
        // The client takes an answer for one to its own method: a body that HEAD has none of would be read as the next answer.
        let passes_body = !self.plan.about.is_some_and(Method::is_head);
        let passed_framing = if passes_body { framing } else { BodyFraming::Empty };
        let to_client = passed_framing.for_client(self.plan.client);
        // An answer before the end of the request leaves a body on the connection that nobody will read (rule H11).
        let close = !keep_alive || self.request == Request::Refused || !self.body.has_ended();
        let close = close || to_client == BodyFraming::UntilClose;
        let kind = ResponseKind::Plain { body: to_client, close, client: self.plan.client };
        let passed = forward::response(head, kind, &self.plan.response).map_err(bad_header)?;
        let begun = std::mem::take(&mut self.interim_begun);
        let interim = self.take_interim();
        let mut out = passed.into_encoded();
        if !interim.is_empty() {
            out.splice(..0, interim);
        }
        // What came of the body with the head goes out with it.
        out.reserve(self.up.tail().len());
        let mut body = Body::new(out, passed_framing, to_client);
        if self.plan.takes_trailers {
            let rules = TrailerRules { edits: self.plan.response.edits, client_ip_header: None };
            body = body.with_trailers(rules);
        }
        let quiet = body_timeout(head, self.plan.timeouts.response_body);
        let before = self.received;
        self.until_close = to_client == BodyFraming::UntilClose;
        self.upstream_moved = self.heard.unwrap_or_else(Instant::now);
        let result = poll_fn(|cx| self.poll_response_body(cx, &mut body, quiet)).await;
        self.received = before + body.given;
        // A body that fails before a byte of its head has gone out can still be refused.
        self.status = (body.given > 0 || begun).then_some(head.status);
        self.until_close &= result.is_err() && self.status.is_some();
        result?;
        Ok(Answered {
            status: head.status,
            keeps_downstream: !close,
            keeps_upstream: passed_framing == framing && self.keeps_upstream(head, framing),
            max_idle: keep_alive_timeout(head),
        })
    }

    /// Whether the upstream's connection is free for another request, after the whole response.
    fn keeps_upstream(&self, head: &ResponseHead, framing: BodyFraming) -> bool {
        let is_through = matches!(self.request, Request::Sent(_));
        is_through && self.up.tail().is_empty() && response_persists(head, framing)
    }

    /// Drops the body of the final response, whose head was all that it was about. Whether it comes to its end matters to the
    /// upstream's connection alone.
    pub async fn discard(&mut self, head: &ResponseHead) -> Result<Answered, Refusal> {
        let framing = response_framing(head, self.plan.method)
            .map_err(|error| Refusal::BadResponse(UpstreamFault::Framing(error)))?;
        let mut body = Body::new(Vec::new(), framing, BodyFraming::UntilClose).limit(Some(MOST_DISCARDED));
        let mut nowhere = Buffered::new(tokio::io::sink());
        let read = poll_fn(|cx| body.poll_relay(cx, self.up, &mut nowhere));
        // One that is closed anyway is not waited for.
        let is_read =
            response_persists(head, framing) && matches!(timeout(LONGEST_DISCARDED, read).await, Ok(Ok(())));
        Ok(Answered {
            status: head.status,
            keeps_downstream: true,
            keeps_upstream: is_read && self.keeps_upstream(head, framing),
            max_idle: keep_alive_timeout(head),
        })
    }

    fn poll_response_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body<'_>,
        quiet: Option<Duration>,
    ) -> Poll<Result<(), Refusal>> {
        let mut now = Now::default();
        loop {
            let taken = body.taken;
            if let Poll::Ready(result) = body.poll_relay(cx, self.up, self.down) {
                return Poll::Ready(result.map_err(refusal_of_response));
            }
            if body.taken != taken {
                self.upstream_moved = now.get();
            }
            self.poll_request(cx, &mut now)?;
            if body.waits_for == WaitsFor::Sender {
                self.poll_downstream_gone(cx, Phase::Exchange)?;
            }
            let at = now.get();
            let due = [self.due_in_request(at)?, self.due_in_response(body, quiet, at)?];
            let due = due.into_iter().flatten().min();
            ready!(self.timer.poll(cx, due));
            now = Now::default();
        }
    }

    /// When something is due while the response's body is on its way; `Err` if it is now.
    fn due_in_response(
        &mut self,
        body: &Body<'_>,
        quiet: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Instant>, Refusal> {
        if body.waits_for == WaitsFor::Receiver {
            self.upstream_moved = now;
            // What TLS has sealed and the kernel has not taken, the client has not taken either.
            let taken = body.given.saturating_sub(self.down.unsent() as u64);
            return self.download.watch(taken, now).map_err(|_| Refusal::WriteTimeout);
        }
        self.download.pause();
        let Some(due) = quiet.map(|period| self.upstream_moved + period) else { return Ok(None) };
        if due > now { Ok(Some(due)) } else { Err(Refusal::ResponseTimeout) }
    }
}

fn body_timeout(head: &ResponseHead, ordinary: Option<Duration>) -> Option<Duration> {
    let media_type = head.headers.get("content-type").unwrap_or_default();
    let is_event_stream = media_type
        .get(..b"text/event-stream".len())
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"));
    if is_event_stream { ordinary.map(|period| period.max(EVENT_STREAM_TIMEOUT)) } else { ordinary }
}

/// A second less than what the server says that it keeps the connection for, so that it does not close it under a
/// request (rule H14).
fn keep_alive_timeout(head: &ResponseHead) -> Option<Duration> {
    let parameter = head.headers.tokens("keep-alive").find_map(|element| {
        let (name, value) = std::str::from_utf8(element).ok()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u64>().ok())?
    })?;
    Some(Duration::from_secs(parameter.saturating_sub(1)))
}

/// Writes all of `out`, and empties it.
fn poll_write_all(
    cx: &mut Context<'_>,
    to: &mut Buffered<impl AsyncWrite + Unpin>,
    out: &mut Vec<u8>,
    written: &mut u64,
) -> Poll<io::Result<()>> {
    while !out.is_empty() {
        let count = ready!(Pin::new(&mut *to).poll_write(cx, out))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.drain(..count);
        *written += count as u64;
    }
    Pin::new(to).poll_flush(cx)
}
