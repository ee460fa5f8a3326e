//! How a tunnel is brought to its end.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::{
    Tunnel,
    attention::is_due,
    direction::{Direction, OwnClose, Place},
    moment::Moment,
};
use crate::{
    buffered::Stream,
    ending::{AdminClose, Death, Side, TunnelEnd},
    lifecycle::Drain,
    proto::frame::{Excess, Fault},
};

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// What is left of the tunnel has so long to end by itself (rule T2).
    pub(super) fn end_within(&mut self, period: Option<Duration>, now: Moment) {
        if let Some(period) = period
            && self.end.is_none()
        {
            let deadline = now + period;
            self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        }
    }

    pub(super) fn end_stopped(&mut self, sender: Side, fault: Fault, now: Moment) {
        let end = match fault {
            Fault::Illegal(error) => TunnelEnd::Protocol(sender, error),
            Fault::Excess(Excess::Rate) => TunnelEnd::MessageRate(sender),
            Fault::Excess(excess) => TunnelEnd::TooLarge(sender, excess),
        };
        if self.end.is_none() {
            self.begin_close(end, now);
        }
    }

    pub(super) fn end_reset(&mut self, gone: Side, error: io::Error, now: Moment) {
        self.part(gone);
        self.end_broken(TunnelEnd::broken(gone, error), now);
    }

    /// A side that says nothing is cut.
    pub(super) fn end_dead(&mut self, dead: Side, now: Moment) {
        match dead {
            Side::Downstream => self.down.reset_on_drop(),
            Side::Upstream | Side::Gate => self.up.reset_on_drop(),
        }
        self.part(dead);
        self.end_broken(TunnelEnd::Dead(dead, Death::Silent), now);
    }

    /// One side is gone. The other gets what was read before, then its end, and no Close (rule T3).
    pub(super) fn part(&mut self, gone: Side) {
        let (from_gone, to_gone) = match gone {
            Side::Downstream => (&mut self.client, &mut self.backend),
            Side::Upstream | Side::Gate => (&mut self.backend, &mut self.client),
        };
        from_gone.end();
        to_gone.abandon();
    }

    /// One side takes nothing any more. What it sent before can still be read: its Close, perhaps.
    pub(super) fn end_unwritable(&mut self, gone: Side, error: io::Error, now: Moment) {
        self.end_broken(TunnelEnd::broken(gone, error), now);
    }

    pub(super) fn end_broken(&mut self, end: TunnelEnd, now: Moment) {
        if self.end.is_none() {
            // Without a side there is no conversation to be idle: it must not stand for ever.
            self.end_within(self.terms.limits.close.or(self.terms.limits.half_close), now);
            self.end = Some(Box::new(end));
        }
    }

    /// wsgate ends the tunnel: Close frames go to both sides, and their answers are awaited for the close time-out.
    pub(super) fn begin_close(&mut self, end: TunnelEnd, now: Moment) {
        self.decide(end, Place::Frame, Place::Frame, now);
    }

    /// The client is told between two messages; what it still sends is relayed until it has answered, and only then the
    /// backend is told (rule T9).
    pub(super) fn begin_leave(&mut self, end: TunnelEnd, now: Moment) {
        self.decide(end, Place::Message, Place::Close, now);
    }

    pub(super) fn decide(&mut self, end: TunnelEnd, to_client: Place, to_backend: Place, now: Moment) {
        // What the peers answer is not what closed the tunnel (rule T11).
        self.first_close.get_or_insert(Side::Gate);
        self.end = Some(Box::new(end));
        self.close_both(to_client, to_backend);
        self.await_answers(now);
    }

    pub(super) fn close_both(&mut self, to_client: Place, to_backend: Place) {
        if let Some(own) = own_close(self.end.as_deref(), Side::Downstream) {
            self.backend.close(to_client, own);
        }
        if let Some(own) = own_close(self.end.as_deref(), Side::Upstream) {
            self.client.close(to_backend, own);
        }
    }

    pub(super) fn await_answers(&mut self, now: Moment) {
        if let Some(period) = self.terms.limits.close {
            self.deadline = Some(now + period);
        }
    }

    /// How many ways still wait for the end of a message or for the client's answer.
    pub(super) fn patience(&self) -> usize {
        usize::from(self.client.is_patient()) + usize::from(self.backend.is_patient())
    }

    /// What a drain has waited for did not come in time: frame boundaries must do. Returns whether there was such a thing.
    pub(super) fn loses_patience(&mut self, now: Moment) -> bool {
        let was_patient = self.patience() > 0;
        if was_patient {
            self.close_both(Place::Frame, Place::Frame);
            self.await_answers(now);
        }
        was_patient
    }

    /// A side that got wsgate's Close and has answered gets its end. Returns whether there is one to be written.
    pub(super) fn finish_answered(&mut self) -> bool {
        if self.end.is_none() {
            return false;
        }
        let client = finish_if_answered(&mut self.backend, &self.client);
        let backend = finish_if_answered(&mut self.client, &self.backend);
        client || backend
    }

    /// Leaves, if that is due in a tunnel whose end is not decided yet.
    pub(super) fn leave(&mut self, now: Moment) {
        if self.end.is_none()
            && is_due(self.leaves_at(), now)
            && let Some((_, end)) = self.departure()
        {
            self.begin_leave(end, now);
        }
    }

    /// When it leaves.
    pub(super) fn leaves_at(&self) -> Option<Moment> {
        if self.drain.is_draining() || self.terms.route.is_draining() {
            self.departure().map(|(at, _)| at)
        } else {
            self.ages_at
        }
    }

    /// When it leaves, and why: the earliest of the orders that were given and its age. For each order it leaves at a moment of
    /// its own (rule T9).
    fn departure(&self) -> Option<(Moment, TunnelEnd)> {
        let (server, route) = (&self.drain, &self.terms.route);
        let age = self.ages_at.map(|at| (at, TunnelEnd::MaxAge));
        let at = |signal: &Drain| signal.leaves_at(self.tag.lot()).map(|at| Moment::new(at, self.opened));
        let (whole, server) = server.whole().map_or((at(server), None), |whole| (at(whole), at(server)));
        // Of orders for the same moment the first in this list is the reason.
        let orders =
            [(whole, TunnelEnd::Drained), (server, TunnelEnd::Removed), (at(route), TunnelEnd::Reload)];
        let orders = orders.into_iter().filter_map(|(at, end)| Some((at?, end)));
        orders.chain(age).min_by_key(|(at, _)| *at)
    }

    /// Ends the tunnel in order (rule T9) with this Close to its client; the backend's is 1001. Returns whether it does: one that
    /// is on its way to its end goes on as it was. Then it has to be polled.
    pub fn close_for_admin(&mut self, close: AdminClose) -> bool {
        let ends = self.end.is_some() || self.first_close.is_some() && self.deadline.is_some();
        if !ends {
            let now = Moment::new(Instant::now(), self.opened);
            self.begin_leave(TunnelEnd::Admin(close), now);
        }
        !ends
    }
}

pub(super) fn own_close(end: Option<&TunnelEnd>, receiver: Side) -> Option<OwnClose<'_>> {
    let (code, reason) = end?.close_to(receiver)?;
    Some(OwnClose { code, reason })
}

fn finish_if_answered(to: &mut Direction, from: &Direction) -> bool {
    let finishes = to.is_closed() && from.has_answered() && !to.is_finishing();
    if finishes {
        to.finish();
    }
    finishes
}
