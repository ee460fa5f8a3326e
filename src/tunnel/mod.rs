//! The tunnel: what a connection becomes after the verified 101.
//!
//! It knows no configuration, route, TLS or TCP: it takes two streams, the [`Agreed`] handshake that proves that they
//! belong together, [`Limits`] and the drain signal. Bytes pass through the scratch buffer of the worker, so a tunnel
//! that waits holds none; the frames are followed as they pass, and wsgate's own Close frames go in at their
//! boundaries.

mod account;
mod alarm;
mod direction;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod limits;
mod moment;
mod pulse;
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
    direction::{Direction, OwnClose, Place, Step, Turn},
    limits::Throttle,
    moment::Moment,
    pulse::{Asked, Pulse, Tag},
};
use crate::{
    buffered::{Buffered, Stream},
    ending::{Death, Side, TunnelEnd},
    lifecycle::Drain,
    proto::{
        frame::{Excess, Fault, Role},
        handshake::Agreed,
    },
};

pub use self::{
    account::{Account, Close, Frames},
    alarm::wake_all,
    limits::{Keepalive, Limits, Rate},
    pulse::Pings,
};

/// What a client must take, in bytes, in each period of [`Limits::write`] (rule S1).
const MIN_PROGRESS: u64 = 16 * 1024;

/// What a tunnel's record says when it has ended.
#[derive(Debug)]
pub struct Report {
    /// Why.
    pub end: TunnelEnd,
    /// Who.
    pub ended_by: Side,
    /// Whose Close frame came first; the gate, if it decided to send its own before a peer's came.
    pub first_close: Option<Side>,
    /// Code and reason of the Close that wsgate itself sent to the client.
    pub own_close: Option<(u16, &'static str)>,
    /// How long the tunnel stood.
    pub open: Duration,
    /// What the client sent.
    pub client: Account,
    /// What the backend sent.
    pub backend: Account,
    /// What wsgate's Pings to the client gave.
    pub client_pings: Pings,
    /// What wsgate's Pings to the backend gave.
    pub backend_pings: Pings,
    /// One side's TLS ended without `close_notify`.
    pub truncated: bool,
}

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
    limits: Arc<Limits>,
    drain: Drain,
    alarm: Option<Alarm>,
    opened: Instant,
    /// When the tunnel is cut, whatever is still open.
    deadline: Option<Moment>,
    /// When it is drained, unless it ends before.
    leaves_at: Option<Moment>,
    stall: Option<Box<Stall>>,
    end: Option<Box<TunnelEnd>>,
    tag: Tag,
    first_close: Option<Side>,
    first_eof: Option<Side>,
    /// A side has got its end as a reset, so nothing is waited for.
    is_broken: bool,
    /// The drain's moment for this tunnel is in `leaves_at`.
    has_lot: bool,
}

/// A client that has not taken all that waits for it.
#[derive(Debug)]
struct Stall {
    since: Moment,
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
            leaves_at: age.map(|age| Moment::OPENED + age),
            stall: None,
            end: None,
            tag: Tag(rand::random()),
            first_close: None,
            first_eof: None,
            is_broken: false,
            has_lot: false,
            limits,
        }
    }

    /// Relays until both ways wait. Whatever one way learns may be news for the other, so both are asked again after
    /// each step.
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
            limits: &self.limits,
            now,
            tag: self.tag,
            sender: &mut self.client_pulse,
            receiver: &mut self.backend_pulse,
            throttle: self.client_throttle.as_deref_mut(),
        };
        self.client.poll_relay(cx, &mut self.down, &mut self.up, &mut turn)
    }

    fn relay_backend(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<Step> {
        let mut turn = Turn {
            close: own_close(self.end.as_deref(), Side::Downstream),
            limits: &self.limits,
            now,
            tag: self.tag,
            sender: &mut self.backend_pulse,
            receiver: &mut self.client_pulse,
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
            self.end_within(self.limits.close, now);
        }
    }

    /// Takes note of what happened on the way that begins at `sender`.
    fn take(&mut self, step: Step, sender: Side, now: Moment) {
        match step {
            Step::Shut => {}
            Step::SourceEnded => {
                self.first_eof.get_or_insert(sender);
                self.end_within(self.limits.half_close, now);
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

    /// What is left of the tunnel has so long to end by itself (rule T2).
    fn end_within(&mut self, period: Option<Duration>, now: Moment) {
        if let Some(period) = period
            && self.end.is_none()
        {
            let deadline = now + period;
            self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        }
    }

    fn end_stopped(&mut self, sender: Side, fault: Fault, now: Moment) {
        let end = match fault {
            Fault::Illegal(error) => TunnelEnd::Protocol(sender, error),
            Fault::Excess(Excess::Rate) => TunnelEnd::MessageRate(sender),
            Fault::Excess(excess) => TunnelEnd::TooLarge(sender, excess),
        };
        if self.end.is_none() {
            self.begin_close(end, now);
        }
    }

    fn end_reset(&mut self, gone: Side, error: io::Error, now: Moment) {
        self.part(gone);
        self.end_broken(TunnelEnd::broken(gone, error), now);
    }

    /// A side that says nothing is cut.
    fn end_dead(&mut self, dead: Side, now: Moment) {
        match dead {
            Side::Downstream => self.down.reset_on_drop(),
            Side::Upstream | Side::Gate => self.up.reset_on_drop(),
        }
        self.part(dead);
        self.end_broken(TunnelEnd::Dead(dead, Death::Silent), now);
    }

    /// One side is gone. The other gets what was read before, then its end, and no Close (rule T3).
    fn part(&mut self, gone: Side) {
        let (from_gone, to_gone) = match gone {
            Side::Downstream => (&mut self.client, &mut self.backend),
            Side::Upstream | Side::Gate => (&mut self.backend, &mut self.client),
        };
        from_gone.end();
        to_gone.abandon();
    }

    /// One side takes nothing any more. What it sent before can still be read: its Close, perhaps.
    fn end_unwritable(&mut self, gone: Side, error: io::Error, now: Moment) {
        self.end_broken(TunnelEnd::broken(gone, error), now);
    }

    fn end_broken(&mut self, end: TunnelEnd, now: Moment) {
        if self.end.is_none() {
            // Without a side there is no conversation to be idle: it must not stand for ever.
            self.end_within(self.limits.close.or(self.limits.half_close), now);
            self.end = Some(Box::new(end));
        }
    }

    /// wsgate ends the tunnel: Close frames go to both sides, and their answers are awaited for the close time-out.
    fn begin_close(&mut self, end: TunnelEnd, now: Moment) {
        self.decide(end, Place::Frame, Place::Frame, now);
    }

    /// The client is told between two messages; what it still sends is relayed until it has answered, and only then the
    /// backend is told (rule T9).
    fn begin_leave(&mut self, end: TunnelEnd, now: Moment) {
        self.decide(end, Place::Message, Place::Close, now);
    }

    fn decide(&mut self, end: TunnelEnd, to_client: Place, to_backend: Place, now: Moment) {
        // What the peers answer is not what closed the tunnel (rule T11).
        self.first_close.get_or_insert(Side::Gate);
        self.end = Some(Box::new(end));
        self.close_both(to_client, to_backend);
        self.await_answers(now);
    }

    fn close_both(&mut self, to_client: Place, to_backend: Place) {
        if let Some(own) = own_close(self.end.as_deref(), Side::Downstream) {
            self.backend.close(to_client, own);
        }
        if let Some(own) = own_close(self.end.as_deref(), Side::Upstream) {
            self.client.close(to_backend, own);
        }
    }

    fn await_answers(&mut self, now: Moment) {
        if let Some(period) = self.limits.close {
            self.deadline = Some(now + period);
        }
    }

    /// How many ways still wait for the end of a message or for the client's answer.
    fn patience(&self) -> usize {
        usize::from(self.client.is_patient()) + usize::from(self.backend.is_patient())
    }

    /// What a drain has waited for did not come in time: frame boundaries must do. Returns whether there was such a thing.
    fn loses_patience(&mut self, now: Moment) -> bool {
        let was_patient = self.patience() > 0;
        if was_patient {
            self.close_both(Place::Frame, Place::Frame);
            self.await_answers(now);
        }
        was_patient
    }

    /// A side that got wsgate's Close and has answered gets its end. Returns whether there is one to be written.
    fn finish_answered(&mut self) -> bool {
        if self.end.is_none() {
            return false;
        }
        let client = finish_if_answered(&mut self.backend, &self.client);
        let backend = finish_if_answered(&mut self.client, &self.backend);
        client || backend
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
    /// stopped for a while.
    fn advance(&mut self, cx: &mut Context<'_>, now: Moment) {
        let before = self.progress();
        self.leave(now);
        self.relay_patiently(cx, now);
        let before = self.note_life(&before, now);
        if !self.is_over() && !self.is_broken && self.attend(now) {
            self.relay_patiently(cx, now);
            self.note_life(&before, now);
        }
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

    /// Leaves, if that is due in a tunnel whose end is not decided yet.
    fn leave(&mut self, now: Moment) {
        if self.end.is_some() {
            return;
        }
        self.draw_lot();
        if is_due(self.leaves_at, now) {
            self.begin_leave(self.reason_to_leave(), now);
        }
    }

    /// Ends a tunnel that is silent, or asks its peers whether they live. Returns whether there was anything to be done.
    fn attend(&mut self, now: Moment) -> bool {
        if self.end.is_some() {
            return false;
        }
        if is_due(self.idle_at(), now) {
            self.begin_close(TunnelEnd::Idle, now);
        } else if is_due(self.dies_at(Side::Downstream), now) {
            self.end_dead(Side::Downstream, now);
        } else if is_due(self.dies_at(Side::Upstream), now) {
            self.end_dead(Side::Upstream, now);
        } else {
            let asks_client = self.ask(Side::Downstream, now);
            return self.ask(Side::Upstream, now) || asks_client;
        }
        true
    }

    fn reason_to_leave(&self) -> TunnelEnd {
        if self.drain.is_removed() {
            TunnelEnd::Removed
        } else if self.drain.is_draining() {
            TunnelEnd::Drained
        } else {
            TunnelEnd::MaxAge
        }
    }

    /// When a side has to be asked for a sign of life; `None` if it can't be, or its answer would not be seen.
    fn asked_at(&self, side: Side) -> Option<Moment> {
        let (pulse, from, to) = self.around(side);
        pulse.asked_at(&self.limits.keepalive).filter(|_| from.can_answer() && to.can_ask())
    }

    /// When a side is dead, unless it is excused by then.
    fn dies_at(&self, side: Side) -> Option<Moment> {
        let (pulse, from, to) = self.around(side);
        pulse.dies_at(&self.limits.keepalive).filter(|_| from.can_answer() && to.can_ask())
    }

    /// Asks a side for a sign of life, if that is due (rule T6). Returns whether it was.
    fn ask(&mut self, side: Side, now: Moment) -> bool {
        let is_due = is_due(self.asked_at(side), now);
        if is_due {
            let (pulse, to) = match side {
                Side::Downstream => (&mut self.client_pulse, &mut self.backend),
                Side::Upstream | Side::Gate => (&mut self.backend_pulse, &mut self.client),
            };
            pulse.ask(now);
            to.put_ping(pulse, self.tag, now);
        }
        is_due
    }

    /// The pulse of a side, the way that begins at it, and the way that leads to it.
    fn around(&self, side: Side) -> (&Pulse, &Direction, &Direction) {
        match side {
            Side::Downstream => (&self.client_pulse, &self.client, &self.backend),
            Side::Upstream | Side::Gate => (&self.backend_pulse, &self.backend, &self.client),
        }
    }

    /// In a drain every tunnel leaves at a moment of its own (rule T9).
    fn draw_lot(&mut self) {
        if self.has_lot || !self.drain.is_draining() {
            return;
        }
        self.has_lot = true;
        if let Some(at) = self.drain.leaves_at(rand::random()) {
            let drained_at = Moment::new(at, self.opened);
            self.leaves_at = Some(self.leaves_at.map_or(drained_at, |earlier| earlier.min(drained_at)));
        }
    }

    fn idle_at(&self) -> Option<Moment> {
        let heard = self.client_pulse.heard().max(self.backend_pulse.heard());
        self.limits.idle.map(|idle| heard + idle)
    }

    /// Whether the client has taken too little for a whole period (rule S1).
    fn stalls(&mut self, now: Moment) -> bool {
        let Some(period) = self.limits.write else { return false };
        let Delivery { taken, waiting } = self.delivery(Side::Downstream);
        if waiting == 0 || self.backend.is_shut() {
            self.stall = None;
            return false;
        }
        let stall = self.stall.get_or_insert_with(|| Box::new(Stall { since: now, taken }));
        if stall.since + period > now {
            return false;
        }
        let is_too_slow = taken < stall.taken + MIN_PROGRESS;
        **stall = Stall { since: now, taken };
        is_too_slow
    }

    /// When the tunnel has to be looked at even if no byte comes.
    fn next_due(&self) -> Option<Moment> {
        let stall = self.stall.as_ref().zip(self.limits.write).map(|(stall, period)| stall.since + period);
        let cut = [self.deadline, stall].into_iter().flatten().min();
        if self.end.is_some() {
            return cut;
        }
        let pulses = [Side::Downstream, Side::Upstream]
            .into_iter()
            .flat_map(|side| [self.asked_at(side), self.dies_at(side)]);
        [cut, self.leaves_at, self.idle_at()].into_iter().chain(pulses).flatten().min()
    }

    /// Takes note of who has given a sign of life since `before`. Returns what has passed by now.
    fn note_life(&mut self, before: &Progress, now: Moment) -> Progress {
        let after = self.progress();
        if after.from_client != before.from_client {
            self.client_pulse.hear(now);
        }
        if after.from_backend != before.from_backend {
            self.backend_pulse.hear(now);
        }
        let to_client = (before.to_client, after.to_client);
        let to_backend = (before.to_backend, after.to_backend);
        excuse(&mut self.client_pulse, to_client, to_backend, now);
        excuse(&mut self.backend_pulse, to_backend, to_client, now);
        after
    }

    fn progress(&self) -> Progress {
        Progress {
            from_client: self.client.bytes(),
            from_backend: self.backend.bytes(),
            to_client: self.delivery(Side::Downstream),
            to_backend: self.delivery(Side::Upstream),
        }
    }

    fn delivery(&self, receiver: Side) -> Delivery {
        let (_, _, to) = self.around(receiver);
        let unsent = match receiver {
            Side::Downstream => self.down.unsent(),
            Side::Upstream | Side::Gate => self.up.unsent(),
        };
        Delivery { taken: to.given.saturating_sub(unsent as u64), waiting: to.waiting() + unsent }
    }

    /// Ends whatever is still open.
    fn cut(&mut self, cx: &mut Context<'_>) {
        self.backend.cut(cx, &mut self.down);
        self.client.cut(cx, &mut self.up);
    }

    /// The report of a tunnel that has ended by itself, or was cut.
    fn report(&mut self, was_cut: bool, now: Moment) -> Report {
        let has_run_out = was_cut && self.drain.is_shutdown();
        let own_close =
            own_close(self.end.as_deref(), Side::Downstream).filter(|_| self.backend.has_own_close);
        let end = match self.end.take().map(|end| *end) {
            None | Some(TunnelEnd::Drained | TunnelEnd::MaxAge | TunnelEnd::Removed) if has_run_out => {
                TunnelEnd::DrainTimeout
            }
            // After the closing handshake nobody misses the streams.
            None | Some(TunnelEnd::Reset(..) | TunnelEnd::Dead(_, Death::Unreachable(_)))
                if self.has_both_closes() =>
            {
                TunnelEnd::Closed
            }
            Some(end) => end,
            None => self.first_eof.map_or(TunnelEnd::Closed, TunnelEnd::Eof),
        };
        let is_dead = |side| matches!(&end, TunnelEnd::Dead(dead, _) if *dead == side);
        Report {
            ended_by: end.ended_by(self.first_close),
            first_close: self.first_close,
            own_close: own_close.map(|OwnClose { code, reason }| (code, reason)),
            open: now.since(Moment::OPENED),
            client: self.client.take_account(),
            backend: self.backend.take_account(),
            client_pings: self.client_pulse.report(is_dead(Side::Downstream)),
            backend_pings: self.backend_pulse.report(is_dead(Side::Upstream)),
            truncated: self.down.was_truncated() || self.up.was_truncated(),
            end,
        }
    }
}

/// What has passed, to tell what passes in a poll.
struct Progress {
    from_client: u64,
    from_backend: u64,
    to_client: Delivery,
    to_backend: Delivery,
}

/// What a side has been given, in bytes.
#[derive(Clone, Copy)]
struct Delivery {
    taken: u64,
    /// What it has not taken.
    waiting: usize,
}

fn is_due(at: Option<Moment>, now: Moment) -> bool {
    at.is_some_and(|at| at <= now)
}

fn own_close(end: Option<&TunnelEnd>, receiver: Side) -> Option<OwnClose> {
    let (code, reason) = end?.close_to(receiver)?;
    Some(OwnClose { code, reason })
}

/// A side that takes what waited for it is not gone; and one that could not be asked, as the other side is within a frame,
/// or not be heard, as the other side takes nothing, is not late (rule T6).
fn excuse(pulse: &mut Pulse, to: (Delivery, Delivery), to_other: (Delivery, Delivery), now: Moment) {
    let (before, after) = to;
    let takes = before.waiting > 0 && after.taken > before.taken;
    let is_not_asked = pulse.waits() && !pulse.was_asked() && (before.waiting == 0 || after.waiting == 0);
    let is_not_read = to_other.0.waiting > 0;
    if takes || is_not_asked || is_not_read {
        pulse.excuse(now);
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
        let now = Moment::new(Instant::now(), this.opened);
        if this.must_end(now) {
            this.cut(cx);
            return Poll::Ready(this.report(true, now));
        }
        this.advance(cx, now);
        if this.is_over() {
            return Poll::Ready(this.report(false, now));
        }
        if this.must_end(now) || this.gives_up(now) {
            this.cut(cx);
            return Poll::Ready(this.report(true, now));
        }
        let due = this.next_due().map(|due| due.instant(this.opened));
        let alarm = this.alarm.get_or_insert_with(|| Alarm::new(cx.waker()));
        if let Some(due) = due {
            alarm.set(due, cx.waker());
        }
        Poll::Pending
    }
}
