//! What a tunnel has to be looked at for: silence, and a client that takes nothing.

use super::{MIN_PROGRESS, Tunnel, direction::Direction, moment::Moment, pulse::Pulse};
use crate::{
    buffered::Stream,
    ending::{Side, TunnelEnd},
};

/// A client that has not taken all that waits for it.
#[derive(Debug)]
pub(super) struct Stall {
    since: Moment,
    /// What it had taken by then, in bytes.
    taken: u64,
}

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// Ends a tunnel that is silent, or asks its peers whether they live, where its end is not decided yet. Returns whether there
    /// was anything to be done.
    pub(super) fn attend(&mut self, now: Moment) -> bool {
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

    /// When a side has to be asked for a sign of life; `None` if it can't be, or its answer would not be seen.
    pub(super) fn asked_at(&self, side: Side) -> Option<Moment> {
        self.watched(side)?.asked_at(&self.terms.limits.keepalive)
    }

    /// When a side is dead, unless it is excused by then.
    pub(super) fn dies_at(&self, side: Side) -> Option<Moment> {
        self.watched(side)?.dies_at(&self.terms.limits.keepalive)
    }

    /// The pulse of a side, if it can be asked for a sign of life and its answer would be seen.
    fn watched(&self, side: Side) -> Option<&Pulse> {
        let (pulse, from, to) = self.around(side);
        (from.can_answer() && to.can_ask()).then_some(pulse)
    }

    /// Asks a side for a sign of life, if that is due (rule T6). Returns whether it was.
    pub(super) fn ask(&mut self, side: Side, now: Moment) -> bool {
        let is_due = is_due(self.asked_at(side), now);
        if is_due {
            let (pulse, to) = match side {
                Side::Downstream => (&mut self.client_pulse, &mut self.backend),
                Side::Upstream | Side::Gate => (&mut self.backend_pulse, &mut self.client),
            };
            pulse.ask(now);
            to.put_ping(pulse, self.tag, now, &self.terms.totals);
        }
        is_due
    }

    /// The pulse of a side, the way that begins at it, and the way that leads to it.
    pub(super) fn around(&self, side: Side) -> (&Pulse, &Direction, &Direction) {
        match side {
            Side::Downstream => (&self.client_pulse, &self.client, &self.backend),
            Side::Upstream | Side::Gate => (&self.backend_pulse, &self.backend, &self.client),
        }
    }

    pub(super) fn idle_at(&self) -> Option<Moment> {
        let heard = self.client_pulse.heard().max(self.backend_pulse.heard());
        self.terms.limits.idle.map(|idle| heard + idle)
    }

    /// Whether the client has taken too little for a whole period (rule S1).
    pub(super) fn stalls(&mut self, now: Moment) -> bool {
        let Some(period) = self.terms.limits.write else { return false };
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

    /// When [`Self::attend`] has something to do if no byte comes; `None` once the end is decided.
    pub(super) fn silence_due(&self) -> Option<Moment> {
        if self.end.is_some() {
            return None;
        }
        let mut due = self.idle_at();
        for side in [Side::Downstream, Side::Upstream] {
            if let Some(pulse) = self.watched(side) {
                let keepalive = &self.terms.limits.keepalive;
                due = earlier(due, earlier(pulse.asked_at(keepalive), pulse.dies_at(keepalive)));
            }
        }
        due
    }

    /// When the tunnel has to be looked at even if no byte comes. `silence` is [`Self::silence_due`].
    pub(super) fn next_due(&self, silence: Option<Moment>) -> Option<Moment> {
        let stall =
            self.stall.as_ref().zip(self.terms.limits.write).map(|(stall, period)| stall.since + period);
        let cut = earlier(self.deadline, stall);
        if self.end.is_some() { cut } else { earlier(cut, earlier(silence, self.leaves_at())) }
    }

    /// Takes note of who has given a sign of life since `before`. Returns what has passed by now.
    pub(super) fn note_life(&mut self, before: &Progress, now: Moment) -> Progress {
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

    pub(super) fn progress(&self) -> Progress {
        Progress {
            from_client: self.client.bytes(),
            from_backend: self.backend.bytes(),
            to_client: self.delivery(Side::Downstream),
            to_backend: self.delivery(Side::Upstream),
        }
    }

    pub(super) fn delivery(&self, receiver: Side) -> Delivery {
        let (_, _, to) = self.around(receiver);
        let unsent = match receiver {
            Side::Downstream => self.down.unsent(),
            Side::Upstream | Side::Gate => self.up.unsent(),
        };
        Delivery { taken: to.given.saturating_sub(unsent as u64), waiting: to.waiting() + unsent }
    }
}

/// What has passed, to tell what passes in a poll.
pub(super) struct Progress {
    from_client: u64,
    from_backend: u64,
    to_client: Delivery,
    to_backend: Delivery,
}

/// What a side has been given, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Delivery {
    taken: u64,
    /// What it has not taken.
    waiting: usize,
}

fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

pub(super) fn is_due(at: Option<Moment>, now: Moment) -> bool {
    at.is_some_and(|at| at <= now)
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
