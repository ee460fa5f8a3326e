//! HTTP/1.1 with a client: one request head after the other, each with its answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

use super::{
    Client, Gate, Listener, OpenTunnel, Snapshot, answer::Answer, downstream::Downstream,
    record::ExchangeRecord, request::Request, sender::Sender,
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Phase, Refusal},
    exchange::Timer,
    lifecycle::{ClientPlace, Wait},
    proto::{
        framing::BodyFraming,
        head::{HeadError, HeadLimits, HeadProgress, Method, RequestHead, Version},
    },
};

/// How long a closing connection is read on, so that what the client still sends does not reset the answer away (rule T13).
const LINGER: Duration = Duration::from_secs(5);
/// How long the request of a connection that is turned away is awaited where request heads have no deadline.
const TURNED_AWAY: Duration = Duration::from_secs(10);
/// How long the first request of a connection is awaited when a drain has begun: it may be on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A client's connection between the TLS handshake and the tunnel.
pub(super) struct Http1 {
    pub(super) down: Buffered<Downstream>,
    pub(super) client: Arc<Client>,
    pub(super) listener: Arc<Listener>,
    pub(super) gate: Arc<Gate>,
    /// Of the snapshot by which it was served last.
    generation: u64,
    /// When the first byte of the request at hand came.
    pub(super) head_began: Instant,
    /// Requests so far.
    served: u64,
    /// Its place among those of its client; given back after the socket.
    pub(super) place: Option<ClientPlace>,
    /// Of all that is due on it, one after the other.
    pub(super) timer: Timer,
    /// The wait for the order to leave, which goes on from request to request. Listeners that succeed one another share the order.
    leaves: Wait,
    /// When the last answer was given.
    pub(super) quiet_since: Option<Instant>,
}

/// What follows a request.
pub(super) enum Next {
    /// The next one.
    Request,
    /// The end, after what was written has gone out.
    Close,
    /// The end at once: nothing can be said any more.
    Cut,
    /// The tunnel.
    Tunnel(Box<super::upgrade::Established>),
}

/// How the wait for a head ended.
enum Arrival {
    Head(RequestHead),
    Refused(Refusal),
    /// Between two requests: nobody has to be told.
    Quiet,
}

impl Http1 {
    pub(super) fn new(
        down: Buffered<Downstream>,
        client: Client,
        listener: Arc<Listener>,
        gate: Arc<Gate>,
        place: Option<ClientPlace>,
    ) -> Self {
        let leaves = listener.drain().until_draining();
        Self {
            timer: Timer::default(),
            leaves,
            quiet_since: None,
            down,
            client: Arc::new(client),
            listener,
            gate,
            generation: 0,
            head_began: Instant::now(),
            served: 0,
            place,
        }
    }

    /// Serves request after request until the connection closes or becomes a tunnel. One that is `turned_away` is told so in
    /// answer to its first request, and ends.
    pub(super) async fn serve(mut self, turned_away: Option<Refusal>) -> Option<OpenTunnel> {
        loop {
            let next = match self.next_head(turned_away.is_some()).await {
                Arrival::Quiet => {
                    self.end().await;
                    return None;
                }
                Arrival::Refused(refusal) => self.refuse_unparsed(refusal).await,
                Arrival::Head(head) => {
                    if let Some(refusal) = &turned_away {
                        let mut record = self.record(&head, &self.sender(&head));
                        self.refuse(refusal, &head, &mut record, BodyFraming::UntilClose).await
                    } else {
                        let snapshot = self.adopt();
                        Request::new(&mut self, head).answer(&snapshot).await
                    }
                }
            };
            match next {
                Next::Request => {}
                Next::Close => {
                    self.close().await;
                    return None;
                }
                Next::Cut => return None,
                Next::Tunnel(established) => return Some(established.open(self)),
            }
        }
    }

    /// The configuration in force, whose listener is this connection's from now on: what a reload changed holds for the next
    /// request. A connection stays with the listener that it has where there is none any more, or one by whose rules it could not
    /// have been made.
    fn adopt(&mut self) -> Arc<Snapshot> {
        let current = self.gate.current.load_full();
        if current.generation != self.generation {
            self.generation = current.generation;
            if let Some(listener) = current.successor_of(&self.listener) {
                self.listener = Arc::clone(listener);
            }
        }
        current
    }

    /// The record of an exchange that begins now.
    pub(super) fn record(&self, head: &RequestHead, sender: &Sender) -> ExchangeRecord {
        ExchangeRecord::new(&self.gate, &self.listener, &self.client, Some((head, sender)), self.head_began)
    }

    /// Whom a request comes from.
    pub(super) fn sender(&self, head: &RequestHead) -> Sender {
        Sender::of(&self.client, head, &self.listener.config)
    }

    /// Waits for the next request, and reads its head.
    async fn next_head(&mut self, is_turned_away: bool) -> Arrival {
        if !self.begins(is_turned_away).await {
            return Arrival::Quiet;
        }
        self.adopt();
        self.head_began = Instant::now();
        let due = self.time_for_head(is_turned_away).map(|period| self.head_began + period);
        self.served += 1;
        let read = read_head(&mut self.down, &self.listener.head_limits);
        match self.timer.bound(due, read).await {
            Some(arrival) => arrival,
            None if is_blank(self.down.tail()) => Arrival::Quiet,
            None => Arrival::Refused(Refusal::HeadTimeout),
        }
    }

    /// How long a request head may take. Whoever is turned away has no time without end.
    fn time_for_head(&self, is_turned_away: bool) -> Option<Duration> {
        self.listener.config.timeout.request_head.or(is_turned_away.then_some(TURNED_AWAY))
    }

    /// Waits for the first byte of a request; `false` when there won't be one. Stray empty lines before it are none of it
    /// (RFC 9112 §2.2), and push nothing back.
    async fn begins(&mut self, is_turned_away: bool) -> bool {
        let keep_alive = self.listener.config.timeout.keep_alive;
        // Whoever is only to be told that there is no room must not keep the place for that long.
        let idle = if is_turned_away { self.time_for_head(true) } else { keep_alive };
        let since = self.quiet_since.take().unwrap_or_else(Instant::now);
        let idle_until = idle.map(|period| since + period);
        let patience = patience(&mut self.leaves, self.served == 0);
        let begins = async {
            loop {
                while self.down.tail().starts_with(b"\r\n") {
                    self.down.consume(2);
                }
                if !self.down.tail().is_empty() {
                    return true;
                }
                let Ok(1..) = self.down.fill(self.listener.head_limits.bytes).await else { return false };
            }
        };
        tokio::select! {
            biased;
            begins = self.timer.bound(idle_until, begins) => begins.unwrap_or(false),
            () = patience => false,
        }
    }

    /// Answers bytes that are no request head.
    async fn refuse_unparsed(&mut self, refusal: Refusal) -> Next {
        let mut record = ExchangeRecord::new(&self.gate, &self.listener, &self.client, None, self.head_began);
        record.refuse(&refusal);
        let Some(answer) = Answer::refusal(&refusal) else {
            record.finish();
            return Next::Cut;
        };
        self.send(answer, None, Version::Http11, true, &mut record).await
    }

    /// Answers a request with a refusal. The connection is kept where the refusal, the request and its body allow it.
    pub(super) async fn refuse(
        &mut self,
        refusal: &Refusal,
        head: &RequestHead,
        record: &mut ExchangeRecord,
        body: BodyFraming,
    ) -> Next {
        record.refuse(refusal);
        let Some(answer) = Answer::refusal(refusal) else {
            record.finish();
            return Next::Cut;
        };
        let close = refusal.closes() || !self.may_keep(head, body);
        self.send(answer, Some(&head.method), head.version, close, record).await
    }

    /// Waits until the client leaves, while nothing is read of it elsewhere. What it sends waits in the tail, within bounds.
    pub(super) async fn gone(&mut self) -> Option<std::io::Error> {
        let early_bytes = self.listener.config.limits.early_bytes;
        loop {
            let room = early_bytes.saturating_sub(self.down.tail().len());
            if room == 0 {
                std::future::pending::<()>().await;
            }
            match self.down.fill(room).await {
                Ok(1..) => {}
                Ok(0) => return None,
                Err(error) => return Some(error),
            }
        }
    }

    /// Whether another request may follow an answer that did not read the request's body.
    pub(super) fn may_keep(&self, head: &RequestHead, body: BodyFraming) -> bool {
        let has_no_body = matches!(body, BodyFraming::Empty | BodyFraming::Length(0));
        has_no_body && self.wants_more(head)
    }

    /// Whether the client and wsgate are willing to go on after this request.
    pub(super) fn wants_more(&self, head: &RequestHead) -> bool {
        crate::proto::framing::persists(head.version, &head.headers) && !self.listener.is_draining()
    }

    /// Writes an answer of wsgate's own.
    pub(super) async fn send(
        &mut self,
        mut answer: Answer,
        method: Option<&Method>,
        client: Version,
        close: bool,
        record: &mut ExchangeRecord,
    ) -> Next {
        record.status(answer.status());
        if let Some(hsts) = &self.listener.hsts {
            // A directive and digits, which are legal (rule H13).
            let set = answer.head_mut().headers.set("Strict-Transport-Security", hsts.as_bytes());
            debug_assert!(set.is_ok());
        }
        let bytes = answer.encode(method, client, close);
        let due = self.listener.config.timeout.write.map(|period| Instant::now() + period);
        let write = async {
            self.down.write_all(&bytes).await?;
            self.down.flush().await
        };
        let written = within(due, write).await;
        let next = match written {
            Some(Ok(())) => {
                record.received(bytes.len() as u64);
                if close { Next::Close } else { Next::Request }
            }
            Some(Err(error)) => {
                record.lost(&Refusal::DownstreamGone { phase: Phase::Exchange, source: Some(error) });
                Next::Cut
            }
            None => {
                record.lost(&Refusal::WriteTimeout);
                // A client that takes no bytes must not hold the kernel's either.
                self.down.reset_on_drop();
                Next::Cut
            }
        };
        record.finish();
        next
    }

    /// Ends a connection on which no answer is on its way.
    async fn end(&mut self) {
        // Whatever goes wrong now, the connection is over.
        let _ = within(Some(Instant::now() + LINGER), self.down.shutdown()).await;
    }

    /// Ends the connection after an answer.
    async fn close(&mut self) {
        linger(&mut self.down).await;
    }
}

/// Reads until a head is complete, or can't become one.
async fn read_head(down: &mut Buffered<impl Stream>, limits: &HeadLimits) -> Arrival {
    let mut progress = HeadProgress::default();
    loop {
        let tail = down.tail();
        if progress.is_worth_parsing(tail, limits) {
            match RequestHead::parse(tail, limits) {
                Ok(Some((head, length))) => {
                    down.consume(length);
                    return Arrival::Head(head);
                }
                Ok(None) => {}
                Err(error) => return Arrival::Refused(refusal_of_head(error)),
            }
        }
        // One byte past the limit tells a head that is too large from one that fits.
        let room = (limits.bytes + 1).saturating_sub(down.tail().len());
        match down.fill(room).await {
            Ok(1..) => {}
            Ok(0) => return gone(down.tail(), None),
            Err(error) => return gone(down.tail(), Some(error)),
        }
    }
}

/// Ends a stream: the client gets the end of it, and what it still sends is read for a while, however much that is, since
/// closing over unread input would reset the answer away.
async fn linger(down: &mut Buffered<impl Stream>) {
    let linger = async {
        down.shutdown().await?;
        down.consume(down.tail().len());
        while let count @ 1.. = down.fill(usize::MAX).await? {
            down.consume(count);
        }
        std::io::Result::Ok(())
    };
    // Whatever goes wrong now, the connection is over.
    let _ = within(Some(Instant::now() + LINGER), linger).await;
}

/// Ends when a drain need not wait for a request any more: at once where the client had its answers, a little later where it
/// has only just come.
async fn patience(leaves: &mut Wait, is_first: bool) {
    leaves.await;
    if is_first {
        tokio::time::sleep(FIRST_REQUEST).await;
    }
}

/// Stray empty lines between requests are no request (RFC 9112 §2.2).
fn is_blank(tail: &[u8]) -> bool {
    tail.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

fn gone(tail: &[u8], source: Option<std::io::Error>) -> Arrival {
    if is_blank(tail) {
        return Arrival::Quiet;
    }
    Arrival::Refused(Refusal::DownstreamGone { phase: Phase::Head, source })
}

fn refusal_of_head(error: HeadError) -> Refusal {
    match error {
        HeadError::Malformed(_) => Refusal::BadHead(error),
        HeadError::TooLarge | HeadError::TooManyHeaders => Refusal::HeadTooLarge,
        HeadError::TargetTooLong => Refusal::TargetTooLong,
        HeadError::Version => Refusal::HttpVersion,
    }
}

/// Runs `future` until `due`; `None` when that has come first.
pub(super) async fn within<T>(due: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match due {
        Some(due) => timeout_at(due, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{
        buffered::wire::{Pace, wire},
        proto::head::work,
    };

    /// Lingers before a client that sends `chunk` every tenth of a second, ten seconds long at most. Returns how long that
    /// took, and how much was read.
    async fn lingers(chunk: &[u8]) -> (Duration, usize) {
        let (stream, mut client) = wire(Pace::pipe(64 * 1024));
        let mut down = Buffered::new(stream);
        down.put_back(b"GET / HTTP/1.1\r\n");
        let since = Instant::now();
        let gate = async {
            linger(&mut down).await;
            drop(down);
            since.elapsed()
        };
        let sends = async move {
            client.expect_end(b"").await;
            assert!(client.was_shut());
            let mut sent = 0;
            for _ in 0..100 {
                if client.pipe.write_all(chunk).await.is_err() {
                    break;
                }
                sent += chunk.len();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            sent
        };
        tokio::join!(gate, sends)
    }

    #[tokio::test(start_paused = true)]
    async fn t13_a_closing_connection_is_read_on_for_a_time_however_much_comes() {
        let (took, _) = lingers(b"").await;
        assert_eq!(took, LINGER);
        let (took, read) = lingers(b"x").await;
        assert_eq!(took, LINGER);
        assert!((49..=51).contains(&read), "{read}");
        let (took, read) = lingers(&vec![b'x'; 1 << 20]).await;
        assert_eq!(took, LINGER);
        assert!(((49 << 20)..=(51 << 20)).contains(&read), "{read}");
    }

    #[tokio::test(start_paused = true)]
    async fn t13_a_client_that_ends_is_waited_for_no_longer() {
        let (stream, mut client) = wire(Pace::FAST);
        let mut down = Buffered::new(stream);
        client.send(&vec![b'x'; 100_000]).await;
        client.finish().await;
        let since = Instant::now();
        linger(&mut down).await;
        assert_eq!(since.elapsed(), Duration::ZERO);
        assert!(client.was_shut() && down.tail().is_empty());
    }

    #[tokio::test]
    async fn s1_a_request_head_byte_by_byte_is_no_more_work_than_at_once() {
        let (stream, mut client) = wire(Pace { read: 1, ..Pace::FAST });
        let mut down = Buffered::new(stream);
        let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(30_000));
        client.send(head.as_bytes()).await;
        client.finish().await;
        let before = work::looked();
        let arrival = read_head(&mut down, &HeadLimits::default()).await;
        assert!(matches!(arrival, Arrival::Head(_)) && down.tail().is_empty());
        assert!(work::looked() - before <= work::bound(head.len()), "{}", work::looked() - before);
    }
}
