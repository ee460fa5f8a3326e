//! The tunnel: what a connection becomes after the verified 101.
//!
//! It knows no configuration, route, TLS or TCP: it takes two streams, the [`Agreed`] handshake that proves that they
//! belong together, the [`Terms`] of its kind and the drain signal of its server. Bytes pass through the scratch buffer of the worker, so a tunnel
//! that waits holds none; the frames are followed as they pass, and wsgate's own Close frames go in at their
//! boundaries.

mod account;
mod alarm;
mod attention;
mod closing;
mod direction;
mod follow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod limits;
mod moment;
mod pulse;
mod report;
mod terms;
#[cfg(test)]
mod tests;
mod totals;
mod visit;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{task::coop, time::Instant};

use self::{
    alarm::Alarm,
    attention::{Stall, is_due},
    closing::own_close,
    direction::{Direction, Step, Turn},
    limits::Throttle,
    moment::Moment,
    pulse::{Asked, Pulse, Tag},
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Side, TunnelEnd},
    lifecycle::Drain,
    proto::{frame::Role, handshake::Agreed},
};

pub use self::{
    account::{Account, Close, Frames},
    alarm::wake_all,
    limits::{Keepalive, Limits, Rate},
    pulse::Pings,
    report::{Report, View},
    terms::{Terms, Witness},
    totals::{Carried, Messages, Pinged, ROUND_TRIPS, Sum, Totals},
    visit::{Visit, visit},
};

/// What a client must take, in bytes, in each period of [`Limits::write`] (rule S1).
const MIN_PROGRESS: u64 = 16 * 1024;

/// Two streams and what passes between them. Its future ends when both are done.
#[derive(Debug)]
pub struct Tunnel<D, U> {
    down: D,
    up: U,
    /// From the client to the backend.
    client: Direction,
    /// From the backend to the client.
    backend: Direction,
    client_pulse: Pulse,
    backend_pulse: Pulse,
    client_throttle: Option<Box<Throttle>>,
    terms: Arc<Terms>,
    /// The order of its server.
    drain: Drain,
    alarm: Option<Alarm>,
    opened: Instant,
    /// When the tunnel is cut, whatever is still open.
    deadline: Option<Moment>,
    /// When it is too old.
    ages_at: Option<Moment>,
    stall: Option<Box<Stall>>,
    end: Option<Box<TunnelEnd>>,
    tag: Tag,
    first_close: Option<Side>,
    first_eof: Option<Side>,
    /// A side has got its end as a reset, so nothing is waited for.
    is_broken: bool,
    /// The report of it was given.
    has_ended: bool,
}

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// A tunnel between a client and a backend that agreed. Tails of the heads are relayed first. `drain` is the order of its
    /// server; that of its route stands in `terms`.
    pub fn new(down: Buffered<D>, up: Buffered<U>, agreed: &Agreed, terms: Arc<Terms>, drain: Drain) -> Self {
        let limits = terms.limits;
        let extensions = agreed.extensions();
        let ((mut down, down_tail), (mut up, up_tail)) = (down.into_parts(), up.into_parts());
        if let Some(period) = limits.keepalive.pong {
            down.bound_unacknowledged(period);
            up.bound_unacknowledged(period);
        }
        // Tunnels that were opened together do not leave together.
        let age = limits.max_age.map(|age| age.mul_f64(0.9 + 0.2 * rand::random::<f64>()));
        Self {
            client: Direction::new(Role::FromClient, extensions, limits.observe, down_tail),
            backend: Direction::new(Role::FromServer, extensions, limits.observe, up_tail),
            down,
            up,
            client_pulse: Pulse::new(Asked::Client),
            backend_pulse: Pulse::new(Asked::Backend),
            client_throttle: limits.message_rate.map(|rate| Box::new(Throttle::new(rate))),
            drain,
            alarm: None,
            opened: Instant::now(),
            deadline: None,
            ages_at: age.map(|age| Moment::OPENED + age),
            stall: None,
            end: None,
            tag: Tag(rand::random()),
            first_close: None,
            first_eof: None,
            is_broken: false,
            has_ended: false,
            terms,
        }
    }

    /// Relays until both ways wait. Whatever one way learns may be news for the other, so both are asked again after
    /// each step; and one that has always more to move leaves some of the turn's budget to the other.
    fn relay(&mut self, cx: &mut Context<'_>, now: Moment) {
        loop {
            let client = self.relay_client(cx, now);
            self.note_close(Side::Downstream, now);
            let backend = self.relay_backend(cx, now);
            self.note_close(Side::Upstream, now);
            let waits = client.is_pending() && backend.is_pending();
            if let Poll::Ready(step) = client {
                self.take(step, Side::Downstream, now);
            }
            if let Poll::Ready(step) = backend {
                self.take(step, Side::Upstream, now);
            }
            let finishes = self.finish_answered();
            if self.is_over() || waits && !finishes {
                return;
            }
        }
    }

    fn relay_client(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Step> {
        let mut turn = Turn {
            close: own_close(self.end.as_deref(), Side::Upstream),
            terms: &self.terms,
            now,
            tag: self.tag,
            sender: &mut self.client_pulse,
            receiver: &mut self.backend_pulse,
            is_plain: self.down.plain().is_some() && self.up.plain().is_some(),
            throttle: self.client_throttle.as_deref_mut(),
        };
        self.client.poll_relay(cx, &mut self.down, &mut self.up, &mut turn)
    }

    fn relay_backend(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Step> {
        let mut turn = Turn {
            close: own_close(self.end.as_deref(), Side::Downstream),
            terms: &self.terms,
            now,
            tag: self.tag,
            sender: &mut self.backend_pulse,
            receiver: &mut self.client_pulse,
            is_plain: self.down.plain().is_some() && self.up.plain().is_some(),
            throttle: None,
        };
        self.backend.poll_relay(cx, &mut self.up, &mut self.down, &mut turn)
    }

    fn note_close(&mut self, sender: Side, now: Moment) {
        let has_close = match sender {
            Side::Downstream => self.client.has_close(),
            Side::Upstream | Side::Gate => self.backend.has_close(),
        };
        if self.first_close.is_none() && has_close {
            self.first_close = Some(sender);
            self.end_within(self.terms.limits.close, now);
        }
    }

    /// Takes note of what happened on the way that begins at `sender`.
    fn take(&mut self, step: Step, sender: Side, now: Moment) {
        match step {
            Step::Moved | Step::Shut => {}
            Step::SourceEnded => {
                self.first_eof.get_or_insert(sender);
                self.end_within(self.terms.limits.half_close, now);
            }
            Step::Broken => {
                self.end.get_or_insert_with(|| Box::new(TunnelEnd::Eof(sender)));
                self.is_broken = true;
            }
            Step::Stopped(fault) => self.end_stopped(sender, fault, now),
            Step::ReadFailed(error) => self.end_reset(sender, error, now),
            Step::WriteFailed(error) => self.end_unwritable(sender.other(), error, now),
        }
    }

    fn has_both_closes(&self) -> bool {
        self.client.has_close() && self.backend.has_close()
    }

    fn is_over(&self) -> bool {
        self.client.is_done() && self.backend.is_done()
    }

    /// Whether the tunnel must be cut now.
    fn must_end(&mut self, now: Moment) -> bool {
        if self.drain.is_shutdown() {
            return true;
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= now);
        self.is_broken || is_late && !self.loses_patience(now)
    }

    /// Whether the client is cut, as it takes too little.
    fn gives_up(&mut self, now: Moment) -> bool {
        let stalls = self.stalls(now);
        if stalls {
            self.end.get_or_insert_with(|| Box::new(TunnelEnd::WriteTimeout));
            self.down.reset_on_drop();
        }
        stalls
    }

    /// Relays, and does what is due. All that has come is read before a side is found silent: the gate itself may have been
    /// stopped for a while. Returns when silence is to be judged next.
    fn advance(&mut self, cx: &mut Context<'_>, now: Moment) -> Option<Moment> {
        let before = self.progress();
        self.leave(now);
        self.relay_patiently(cx, now);
        let before = self.note_life(&before, now);
        let silence = self.silence_due();
        if !is_due(silence, now) || self.is_over() || self.is_broken {
            return silence;
        }
        if self.attend(now) {
            self.relay_patiently(cx, now);
            self.note_life(&before, now);
        }
        self.silence_due()
    }

    /// Relays; when something has come that a drain waited for, what follows it has its own time.
    fn relay_patiently(&mut self, cx: &mut Context<'_>, now: Moment) {
        let patience = self.patience();
        self.relay(cx, now);
        if let Some(throttle) = &mut self.client_throttle {
            throttle.note(self.client.waiting() > 0, now);
        }
        if self.patience() < patience {
            self.await_answers(now);
        }
    }

    /// Ends whatever is still open. There is no turn after this one, so its budget does not count: without it the runtime says of
    /// every stream that it takes nothing.
    fn cut(&mut self, cx: &mut Context<'_>) {
        let cut = poll_fn(|cx| {
            self.backend.cut(cx, &mut self.down);
            self.client.cut(cx, &mut self.up);
            Poll::Ready(())
        });
        let _ = pin!(coop::unconstrained(cut)).poll(cx);
    }
}

impl<D: Stream, U: Stream> Future for Tunnel<D, U> {
    type Output = Report;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = self.get_mut();
        let now = Moment::new(Instant::now(), this.opened);
        if this.must_end(now) {
            this.cut(cx);
            return Poll::Ready(this.report(true, now));
        }
        let silence = this.advance(cx, now);
        if this.is_over() {
            return Poll::Ready(this.report(false, now));
        }
        if this.must_end(now) || this.gives_up(now) {
            this.cut(cx);
            return Poll::Ready(this.report(true, now));
        }
        let due = this.next_due(silence).map(|due| due.instant(this.opened));
        let alarm = this.alarm.get_or_insert_with(|| Alarm::new(cx.waker()));
        if let Some(due) = due {
            alarm.set(due, cx.waker());
        }
        Poll::Pending
    }
}
