//! What is told of a tunnel.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Terms, Tunnel, account::Account, closing::own_close, direction::OwnClose, moment::Moment, pulse::Pings,
};
use crate::{
    buffered::Stream,
    ending::{Death, Side, TunnelEnd},
};

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
    pub own_close: Option<(u16, Box<str>)>,
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

/// A tunnel as it stands.
#[derive(Debug, Clone)]
pub struct View {
    /// Since it was opened.
    pub age: Duration,
    /// Since the client's last byte.
    pub client_idle: Duration,
    /// Since the backend's last byte.
    pub backend_idle: Duration,
    /// What the client sent so far.
    pub client: Account,
    /// What the backend sent so far.
    pub backend: Account,
    /// What wsgate's Pings to the client gave so far.
    pub client_pings: Pings,
    /// What wsgate's Pings to the backend gave so far.
    pub backend_pings: Pings,
    /// The label of its end, if that has begun.
    pub closing: Option<&'static str>,
}

impl View {
    /// Since the last byte of either side.
    pub fn idle(&self) -> Duration {
        self.client_idle.min(self.backend_idle)
    }
}

impl<D, U> Tunnel<D, U> {
    /// What it has in common with others.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Its report was given.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Since it was opened.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }
}

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// How it stands at `now`.
    pub fn view(&self, now: Instant) -> View {
        let now = Moment::new(now, self.opened);
        View {
            age: now.since(Moment::OPENED),
            client_idle: now.since(self.client_pulse.heard()),
            backend_idle: now.since(self.backend_pulse.heard()),
            client: self.client.account(),
            backend: self.backend.account(),
            client_pings: self.client_pulse.report(false),
            backend_pings: self.backend_pulse.report(false),
            closing: self.closing(),
        }
    }

    fn closing(&self) -> Option<&'static str> {
        let end = self.end.as_deref().filter(|_| !self.left_closed()).map(TunnelEnd::label);
        let closed = || self.first_close.map(|_| TunnelEnd::Closed.label());
        end.or_else(closed).or_else(|| self.first_eof.map(|side| TunnelEnd::Eof(side).label()))
    }

    /// It was to leave when its peers had closed it already, and nobody got a Close of wsgate's own.
    fn left_closed(&self) -> bool {
        let by_peer = self.first_close.is_some_and(|side| side != Side::Gate);
        let has_own_close = self.client.has_own_close || self.backend.has_own_close;
        let leaves = self.end.as_deref().is_some_and(TunnelEnd::is_leave);
        leaves && by_peer && self.has_both_closes() && !has_own_close
    }

    /// The report of a tunnel that has ended by itself, or was cut.
    pub(super) fn report(&mut self, was_cut: bool, now: Moment) -> Report {
        let has_run_out = was_cut && self.drain.is_shutdown();
        let own_close =
            own_close(self.end.as_deref(), Side::Downstream).filter(|_| self.backend.has_own_close);
        let own_close = own_close.map(|OwnClose { code, reason }| (code, reason.into()));
        let left_closed = self.left_closed();
        let end = match self.end.take().map(|end| *end) {
            None if has_run_out => TunnelEnd::DrainTimeout,
            Some(end) if has_run_out && end.is_leave() => TunnelEnd::DrainTimeout,
            Some(_) if left_closed => TunnelEnd::Closed,
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
        for (side, pulse) in [(Side::Downstream, &self.client_pulse), (Side::Upstream, &self.backend_pulse)] {
            if is_dead(side) && pulse.owes_answer() {
                self.terms.totals.here().pings(pulse.side()).lose();
            }
        }
        self.has_ended = true;
        Report {
            ended_by: end.ended_by(self.first_close),
            first_close: self.first_close,
            own_close,
            open: now.since(Moment::OPENED),
            client: self.client.account(),
            backend: self.backend.account(),
            client_pings: self.client_pulse.report(is_dead(Side::Downstream)),
            backend_pings: self.backend_pulse.report(is_dead(Side::Upstream)),
            truncated: self.down.was_truncated() || self.up.was_truncated(),
            end,
        }
    }
}
