//! Exchanges between a scripted client and a scripted upstream, over pipes in memory and the paused clock.

mod bodies;
mod endings;
mod heads;
mod progress;
mod property;
mod questions;

use tokio::io::AsyncReadExt;

use super::*;
use crate::{
    buffered::wire::{Pace, Peer, wire},
    proto::forward::{HeaderEdits, Values},
};

pub(super) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const PERIOD: Duration = Duration::from_secs(60);
pub(super) const RESPONSE: Duration = Duration::from_secs(90);
pub(super) const QUIET: Duration = Duration::from_secs(300);
pub(super) const EARLY: usize = 64;
pub(super) const PLAIN: Kind = Kind::Plain { framing: BodyFraming::Empty };

pub(super) const TIMEOUTS: Timeouts = Timeouts {
    request_body: Some(PERIOD),
    write: Some(PERIOD),
    response: Some(RESPONSE),
    response_body: Some(QUIET),
};

/// What is exchanged, and over which wires.
pub(super) struct SetUp {
    pub(super) method: Method,
    /// Then a 2xx is not relayed.
    pub(super) about: Option<Method>,
    pub(super) client: Version,
    pub(super) kind: Kind,
    pub(super) body_limit: Option<u64>,
    pub(super) takes_trailers: bool,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
    pub(super) timeouts: Timeouts,
    pub(super) response_limits: HeadLimits,
    pub(super) edits: HeaderEdits,
    pub(super) down: Pace,
    pub(super) up: Pace,
    pub(super) down_tail: Vec<u8>,
}

impl Default for SetUp {
    fn default() -> Self {
        Self {
            method: Method::GET,
            about: None,
            client: Version::Http11,
            kind: PLAIN,
            body_limit: None,
            takes_trailers: false,
            expects_continue: false,
            keep_alive: true,
            timeouts: TIMEOUTS,
            response_limits: HeadLimits::default(),
            edits: HeaderEdits::default(),
            down: Pace::FAST,
            up: Pace::FAST,
            down_tail: Vec::new(),
        }
    }
}

/// What is known when it is over.
#[derive(Debug)]
pub(super) struct Over {
    /// The final head, as it came.
    pub(super) head: Option<ResponseHead>,
    /// `Ok(None)` after a 101, which is not relayed here.
    pub(super) result: Result<Option<Answered>, Refusal>,
    pub(super) status: Option<u16>,
    pub(super) traffic: Traffic,
    pub(super) may_send_again: bool,
    pub(super) down_tail: Vec<u8>,
    pub(super) up_tail: Vec<u8>,
    pub(super) took: Duration,
}

impl Over {
    pub(super) fn answered(self) -> Answered {
        self.result.expect("an answer").expect("no 101")
    }

    pub(super) fn refusal(&self) -> &Refusal {
        self.result.as_ref().expect_err("a refusal")
    }

    pub(super) fn label(&self) -> &'static str {
        self.refusal().label()
    }
}

impl SetUp {
    pub(super) fn post(body: BodyFraming) -> Self {
        Self { method: Method::POST, kind: Kind::Plain { framing: body }, ..Self::default() }
    }

    /// Runs the exchange beside its peers. When it is over both wires are dropped.
    pub(super) async fn run<T>(self, peers: impl AsyncFnOnce(Peer, Peer) -> T) -> (Over, T) {
        let (down, client) = wire(self.down);
        let (up, upstream) = wire(self.up);
        let gate = async {
            let (mut down, mut up) = (Buffered::new(down), Buffered::new(up));
            down.put_back(&self.down_tail);
            self.exchange(&mut down, &mut up).await
        };
        let (told, over) = tokio::join!(peers(client, upstream), gate);
        (over, told)
    }

    async fn exchange<D: Stream, U: Stream>(&self, down: &mut Buffered<D>, up: &mut Buffered<U>) -> Over {
        let since = Instant::now();
        let plan = Plan {
            expects_continue: self.expects_continue,
            head: REQUEST.to_vec(),
            method: &self.method,
            about: self.about.as_ref(),
            client: self.client,
            kind: self.kind,
            body_limit: self.body_limit,
            request_trailers: TrailerRules { edits: &self.edits, client_ip_header: None },
            takes_trailers: self.takes_trailers,
            response: ResponseContext {
                edits: &self.edits,
                via: None,
                hsts: None,
                set_cookie: None,
                values: Values::default(),
            },
            early_bytes: EARLY,
            response_limits: self.response_limits,
            timeouts: self.timeouts,
        };
        let mut timer = Timer::default();
        let mut exchange = Exchange::new(down, up, plan, &mut timer, Instant::now());
        let (head, result) = match exchange.response_head().await {
            Ok(head) if head.status == 101 => (Some(head), Ok(None)),
            Ok(head) if self.about.is_some() && head.status < 300 => {
                let result = exchange.discard(&head).await.map(Some);
                (Some(head), result)
            }
            Ok(head) => {
                let result = exchange.relay(&head, self.keep_alive).await.map(Some);
                (Some(head), result)
            }
            Err(refusal) => (None, Err(refusal)),
        };
        let (status, traffic) = (exchange.answered_status(), exchange.traffic());
        let may_send_again = result.as_ref().is_err_and(|refusal| exchange.may_send_again(refusal));
        drop(exchange);
        Over {
            status,
            traffic,
            may_send_again,
            head,
            result,
            down_tail: down.tail().to_vec(),
            up_tail: up.tail().to_vec(),
            took: since.elapsed(),
        }
    }
}

/// Reads a head up to its empty line.
pub(super) async fn read_head(peer: &mut Peer) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.pipe.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("text")
}

/// Runs an exchange without a request body in which the upstream says `response` and, if asked to, ends; returns what
/// the client got.
pub(super) async fn answer(set_up: SetUp, response: &[u8], ends: bool) -> (Over, String) {
    let (over, got) = set_up
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            let says = async {
                upstream.send(response).await;
                if ends {
                    upstream.finish().await;
                }
                upstream
            };
            let (got, _upstream) = tokio::join!(client.rest(), says);
            got
        })
        .await;
    (over, String::from_utf8(got).expect("text"))
}
