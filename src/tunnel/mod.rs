//! The tunnel: what a connection becomes after the verified 101.
//!
//! It knows no configuration, route, TLS or TCP: it takes two streams, the [`Agreed`] handshake that proves that they
//! belong together, [`Limits`] and the drain signal. Bytes pass through the scratch buffer of the worker, so a tunnel
//! that waits holds none; the frames are followed as they pass, and wsgate's own Close frames go in at their
//! boundaries.

mod alarm;
mod direction;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use self::{
    alarm::Alarm,
    direction::{Direction, OwnClose, Place, Step},
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Side, TunnelEnd},
    lifecycle::Drain,
    proto::{
        frame::{FrameError, Role},
        handshake::Agreed,
    },
};

pub use self::{
    alarm::wake_all,
    direction::{Account, Close},
};

/// What a client must take, in bytes, in each period of [`Limits::write`] (rule S1).
const MIN_PROGRESS: u64 = 16 * 1024;

/// What bounds a tunnel; `None` is "off".
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// An illegal frame is counted and passed instead of ending the tunnel.
    pub observe: bool,
    /// No byte either way for so long ends the tunnel.
    pub idle: Option<Duration>,
    /// How long a tunnel stands of which one direction has ended.
    pub half_close: Option<Duration>,
    /// How long the answer to a Close frame is awaited.
    pub close: Option<Duration>,
    /// The period in which the client must take 16 KiB or all that waits for it.
    pub write: Option<Duration>,
}

/// What a tunnel's record says when it has ended.
#[derive(Debug)]
pub struct Report {
    /// Why.
    pub end: TunnelEnd,
    /// Who.
    pub ended_by: Side,
    /// Whose Close frame came first; the gate, if it decided to send its own before a peer's came.
    pub first_close: Option<Side>,
    /// What the client sent.
    pub client: Account,
    /// What the backend sent.
    pub server: Account,
    /// One side's TLS ended without `close_notify`.
    pub truncated: bool,
}

/// Two streams and what passes between them. Its future ends when both are done.
#[derive(Debug)]
pub struct Tunnel<D, U> {
    down: Buffered<D>,
    up: Buffered<U>,
    /// From the client to the backend.
    client: Direction,
    /// From the backend to the client.
    server: Direction,
    limits: Arc<Limits>,
    drain: Drain,
    alarm: Option<Alarm>,
    last_byte: Instant,
    first_close: Option<Side>,
    first_eof: Option<Side>,
    end: Option<TunnelEnd>,
    /// When the tunnel is cut, whatever is still open.
    deadline: Option<Instant>,
    /// A side has got its end as a reset, so nothing is waited for.
    is_broken: bool,
    stall: Option<Stall>,
}

/// A client that has not taken all that waits for it.
#[derive(Debug)]
struct Stall {
    since: Instant,
    /// What it had taken by then, in bytes.
    taken: u64,
}

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// A tunnel between a client and a backend that agreed. Tails of the heads are relayed first.
    pub fn new(
        down: Buffered<D>,
        up: Buffered<U>,
        agreed: &Agreed,
        limits: Arc<Limits>,
        drain: Drain,
    ) -> Self {
        let extensions = agreed.extensions();
        Self {
            client: Direction::new(Role::FromClient, extensions, limits.observe),
            server: Direction::new(Role::FromServer, extensions, limits.observe),
            down,
            up,
            limits,
            drain,
            alarm: None,
            last_byte: Instant::now(),
            first_close: None,
            first_eof: None,
            end: None,
            deadline: None,
            is_broken: false,
            stall: None,
        }
    }

    /// Relays until both ways wait. Whatever one way learns may be news for the other, so both are asked again after
    /// each step.
    fn relay(&mut self, cx: &mut Context<'_>, now: Instant) {
        loop {
            let client = self.client.poll_relay(cx, &mut self.down, &mut self.up);
            self.note_close(Side::Downstream, now);
            let server = self.server.poll_relay(cx, &mut self.up, &mut self.down);
            self.note_close(Side::Upstream, now);
            let waits = client.is_pending() && server.is_pending();
            if let Poll::Ready(step) = client {
                self.take(step, Side::Downstream, now);
            }
            if let Poll::Ready(step) = server {
                self.take(step, Side::Upstream, now);
            }
            let finishes = self.finish_answered();
            if self.is_over() || waits && !finishes {
                return;
            }
        }
    }

    fn note_close(&mut self, sender: Side, now: Instant) {
        let account = match sender {
            Side::Downstream => &self.client.account,
            Side::Upstream | Side::Gate => &self.server.account,
        };
        if self.first_close.is_none() && account.close.is_some() {
            self.first_close = Some(sender);
            self.end_within(self.limits.close, now);
        }
    }

    /// Takes note of what happened on the way that begins at `sender`.
    fn take(&mut self, step: Step, sender: Side, now: Instant) {
        match step {
            Step::Shut => {}
            Step::SourceEnded => {
                self.first_eof.get_or_insert(sender);
                self.end_within(self.limits.half_close, now);
            }
            Step::Broken => {
                self.end.get_or_insert(TunnelEnd::Eof(sender));
                self.is_broken = true;
            }
            Step::Illegal(error) => self.end_illegal(sender, error, now),
            Step::ReadFailed(error) => self.end_reset(sender, error, now),
            Step::WriteFailed(error) => self.end_unwritable(other(sender), error, now),
        }
    }

    fn has_both_closes(&self) -> bool {
        self.client.account.close.is_some() && self.server.account.close.is_some()
    }

    /// What is left of the tunnel has so long to end by itself (rule T2).
    fn end_within(&mut self, period: Option<Duration>, now: Instant) {
        if let Some(period) = period
            && self.end.is_none()
        {
            let deadline = now + period;
            self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        }
    }

    fn end_illegal(&mut self, sender: Side, error: FrameError, now: Instant) {
        if self.end.is_none() {
            self.begin_close(TunnelEnd::Protocol(sender, error), now);
        }
    }

    /// One side is gone. The other gets what was read before, then its end, and no Close (rule T3).
    fn end_reset(&mut self, gone: Side, error: io::Error, now: Instant) {
        let (from_gone, to_gone) = match gone {
            Side::Downstream => (&mut self.client, &mut self.server),
            Side::Upstream | Side::Gate => (&mut self.server, &mut self.client),
        };
        from_gone.end();
        to_gone.abandon();
        self.end_unwritable(gone, error, now);
    }

    /// One side takes nothing any more. What it sent before can still be read: its Close, perhaps.
    fn end_unwritable(&mut self, gone: Side, error: io::Error, now: Instant) {
        if self.end.is_none() {
            self.end_within(self.limits.close, now);
            self.end = Some(TunnelEnd::Reset(gone, error));
        }
    }

    /// wsgate ends the tunnel: Close frames go to both sides, and their answers are awaited for the close time-out.
    fn begin_close(&mut self, end: TunnelEnd, now: Instant) {
        self.close_both(&end, Place::Frame, Place::Frame);
        self.end = Some(end);
        self.await_answers(now);
    }

    /// The client is told between two messages; what it still sends is relayed until it has answered, and only then the
    /// backend is told (rule T9).
    fn begin_drain(&mut self, now: Instant) {
        self.close_both(&TunnelEnd::Drained, Place::Message, Place::Close);
        self.end = Some(TunnelEnd::Drained);
        self.await_answers(now);
    }

    fn close_both(&mut self, end: &TunnelEnd, to_client: Place, to_backend: Place) {
        // What the peers answer is not what closed the tunnel (rule T11).
        self.first_close.get_or_insert(Side::Gate);
        for (direction, place, receiver) in
            [(&mut self.server, to_client, Side::Downstream), (&mut self.client, to_backend, Side::Upstream)]
        {
            if let Some((code, reason)) = end.close_to(receiver) {
                direction.close(place, OwnClose { code, reason });
            }
        }
    }

    fn await_answers(&mut self, now: Instant) {
        if let Some(period) = self.limits.close {
            self.deadline = Some(now + period);
        }
    }

    /// How many ways still wait for the end of a message or for the client's answer.
    fn patience(&self) -> usize {
        usize::from(self.client.is_patient()) + usize::from(self.server.is_patient())
    }

    /// What a drain has waited for did not come in time: frame boundaries must do. Returns whether there was such a thing.
    fn loses_patience(&mut self, now: Instant) -> bool {
        let was_patient = self.patience() > 0;
        if was_patient {
            self.close_both(&TunnelEnd::Drained, Place::Frame, Place::Frame);
            self.await_answers(now);
        }
        was_patient
    }

    /// A side that got wsgate's Close and has answered gets its end. Returns whether there is one to be written.
    fn finish_answered(&mut self) -> bool {
        if self.end.is_none() {
            return false;
        }
        let client = finish_if_answered(&mut self.server, &self.client);
        let server = finish_if_answered(&mut self.client, &self.server);
        client || server
    }

    fn is_over(&self) -> bool {
        self.client.is_done() && self.server.is_done()
    }

    /// Looks at the drain signal and at what is due. Returns whether the tunnel must be cut now.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.drain.is_shutdown() {
            if matches!(self.end, None | Some(TunnelEnd::Drained)) {
                self.end = Some(TunnelEnd::DrainTimeout);
            }
            return true;
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        if self.is_broken || is_late && !self.loses_patience(now) {
            return true;
        }
        if self.stalls(now) {
            self.end.get_or_insert(TunnelEnd::WriteTimeout);
            self.down.reset_on_drop();
            return true;
        }
        if self.end.is_none() {
            if self.drain.is_draining() {
                self.begin_drain(now);
            } else if self.limits.idle.is_some_and(|idle| self.last_byte + idle <= now) {
                self.begin_close(TunnelEnd::Idle, now);
            }
        }
        false
    }

    /// Whether the client has taken too little for a whole period (rule S1).
    fn stalls(&mut self, now: Instant) -> bool {
        let Some(period) = self.limits.write else { return false };
        let waiting = self.server.waiting() + self.down.unsent();
        if waiting == 0 || self.server.is_shut() {
            self.stall = None;
            return false;
        }
        let taken = self.server.given.saturating_sub(self.down.unsent() as u64);
        let stall = self.stall.get_or_insert(Stall { since: now, taken });
        if stall.since + period > now {
            return false;
        }
        let is_too_slow = taken < stall.taken + MIN_PROGRESS;
        *stall = Stall { since: now, taken };
        is_too_slow
    }

    /// When the tunnel has to be looked at even if no byte comes.
    fn next_due(&self) -> Option<Instant> {
        let idle = self.limits.idle.filter(|_| self.end.is_none()).map(|idle| self.last_byte + idle);
        let stall = self.stall.as_ref().zip(self.limits.write).map(|(stall, period)| stall.since + period);
        [self.deadline, idle, stall].into_iter().flatten().min()
    }

    /// Ends whatever is still open.
    fn cut(&mut self, cx: &mut Context<'_>) {
        self.server.cut(cx, &mut self.down);
        self.client.cut(cx, &mut self.up);
    }

    fn report(&mut self) -> Report {
        let end = match self.end.take() {
            // After the closing handshake nobody misses the streams.
            Some(TunnelEnd::Reset(..)) | None if self.has_both_closes() => TunnelEnd::Closed,
            Some(end) => end,
            None => self.first_eof.map_or(TunnelEnd::Closed, TunnelEnd::Eof),
        };
        Report {
            ended_by: end.ended_by(self.first_close),
            end,
            first_close: self.first_close,
            client: std::mem::take(&mut self.client.account),
            server: std::mem::take(&mut self.server.account),
            truncated: self.down.was_truncated() || self.up.was_truncated(),
        }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Downstream => Side::Upstream,
        Side::Upstream | Side::Gate => Side::Downstream,
    }
}

fn finish_if_answered(to: &mut Direction, from: &Direction) -> bool {
    let finishes = to.is_closed() && from.has_answered() && !to.is_finishing();
    if finishes {
        to.finish();
    }
    finishes
}

impl<D: Stream, U: Stream> Future for Tunnel<D, U> {
    type Output = Report;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = self.get_mut();
        let now = Instant::now();
        if this.is_due(now) {
            this.cut(cx);
            return Poll::Ready(this.report());
        }
        let bytes = this.client.account.bytes + this.server.account.bytes;
        let patience = this.patience();
        this.relay(cx, now);
        if this.patience() < patience {
            this.await_answers(now);
        }
        if this.client.account.bytes + this.server.account.bytes != bytes {
            this.last_byte = now;
        }
        if this.is_over() {
            return Poll::Ready(this.report());
        }
        if this.is_due(now) {
            this.cut(cx);
            return Poll::Ready(this.report());
        }
        let due = this.next_due();
        let alarm = this.alarm.get_or_insert_with(|| Alarm::new(cx.waker()));
        if let Some(due) = due {
            alarm.set(due, cx.waker());
        }
        Poll::Pending
    }
}
