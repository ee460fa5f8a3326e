//! Whether a side is alive (rule T6).

use std::{num::NonZeroU32, time::Duration};

use super::{limits::Keepalive, moment::Moment, totals::Totals};
use crate::proto::frame::CONTROL_PAYLOAD_MAX;

/// Begins the payload of every Ping of wsgate's own.
const NAME: &[u8] = b"wsgate-";
/// Bytes of that payload: the name, the tunnel's tag, the side that is asked, and the number of the Ping.
const PAYLOAD: usize = NAME.len() + 4 + 1 + 4;
/// The payload of a Ping of wsgate's own.
pub(super) type PingPayload = [u8; PAYLOAD];

const _: () = assert!(PAYLOAD <= CONTROL_PAYLOAD_MAX);

/// What the Pings to one side gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pings {
    /// Pings of wsgate's own that went out.
    pub sent: u32,
    /// Of these, those that were not answered before the next one went out or the side was given up; up to 65,536.
    pub lost: u32,
    /// From the last Ping that was answered to its Pong.
    pub round_trip: Option<Duration>,
    /// The longest time from a Ping to its Pong.
    pub longest_round_trip: Option<Duration>,
}

/// A tunnel's mark in its Pings, so that those of another gate on the way, or of another tunnel, are not taken for its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag(pub(super) u32);

impl Tag {
    /// The tunnel's lot in every drain, from 0 to 1: at random, as the tag is.
    pub(super) fn lot(self) -> f64 {
        f64::from(self.0) / f64::from(u32::MAX)
    }
}

/// Who is asked, as the payload of its Pings tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Asked {
    Client = b'c',
    Backend = b'b',
}

/// What is known of the life of one side.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four facts, in every combination")]
pub(super) struct Pulse {
    /// Its last byte.
    heard: Moment,
    /// It has said nothing since it was asked; its time runs from here.
    asked: Option<Moment>,
    /// The last Ping of wsgate's own went out.
    sent: Option<Moment>,
    /// Number of that Ping; they are counted from 1.
    serial: u32,
    /// Microseconds, plus one.
    round_trip: Option<NonZeroU32>,
    longest_round_trip: Option<NonZeroU32>,
    /// A Ping of the other side's went to it and is unanswered: the fingerprint of its payload.
    relayed: Option<NonZeroU32>,
    /// Counted up to 65,535.
    lost: u16,
    side: Asked,
    /// A Ping of wsgate's own waits for its place in the stream.
    waits: bool,
    /// The last one is unanswered.
    is_unanswered: bool,
    /// It has answered a Ping, of whomever, so it will answer others.
    answers: bool,
    /// It has said something since the Ping in `relayed`, but no Pong.
    ignores_relayed: bool,
}

impl Pulse {
    pub(super) fn new(side: Asked) -> Self {
        Self {
            heard: Moment::OPENED,
            asked: None,
            sent: None,
            serial: 0,
            lost: 0,
            round_trip: None,
            longest_round_trip: None,
            relayed: None,
            side,
            waits: false,
            is_unanswered: false,
            answers: false,
            ignores_relayed: false,
        }
    }

    /// Who it is that lives.
    pub(super) fn side(&self) -> Asked {
        self.side
    }

    /// Its last byte.
    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    /// A byte came from it: it lives, and needs no question.
    pub(super) fn hear(&mut self, now: Moment) {
        self.heard = now;
        self.asked = None;
        self.waits = false;
        self.ignores_relayed = self.relayed.is_some();
    }

    /// When it has to be asked.
    pub(super) fn asked_at(&self, keepalive: &Keepalive) -> Option<Moment> {
        let is_watched = match self.side {
            Asked::Client => keepalive.clients,
            Asked::Backend => keepalive.backends,
        };
        // A Ping of the other side's is as good a question, and asks once (rule T6). One that was ignored asks nothing any more,
        // but keeps wsgate's own back.
        let is_relayed = self.relayed.is_some() && (self.asked.is_some() || self.ignores_relayed);
        let is_under_way = self.waits || is_relayed;
        let interval = keepalive.interval.filter(|_| is_watched && !is_under_way)?;
        Some(self.sent.map_or(self.heard, |sent| sent.max(self.heard)) + interval)
    }

    /// It has to be asked. Its time runs, and where no Ping of the other side's asks already, one of wsgate's own waits for
    /// its place in the stream.
    pub(super) fn ask(&mut self, now: Moment) {
        self.asked.get_or_insert(now);
        self.waits = self.relayed.is_none();
    }

    /// A Ping of wsgate's own has gone out since its last byte.
    pub(super) fn was_asked(&self) -> bool {
        self.sent.is_some_and(|sent| sent > self.heard)
    }

    /// A Pong of it may answer a Ping of wsgate's own.
    pub(super) fn owes_answer(&self) -> bool {
        self.is_unanswered
    }

    /// A Ping of wsgate's own waits for its place.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// It took bytes that it could not have taken if it were gone, or it was not what kept it from being asked or heard: its
    /// time begins again.
    pub(super) fn excuse(&mut self, now: Moment) {
        if self.asked.is_some() {
            self.asked = Some(now);
        }
    }

    /// The Ping that waits goes out now. Returns its payload.
    pub(super) fn send(&mut self, tag: Tag, now: Moment, totals: &Totals) -> PingPayload {
        let pings = totals.here().pings(self.side);
        pings.send();
        if self.is_unanswered {
            self.lost = self.lost.saturating_add(1);
            pings.lose();
        }
        self.waits = false;
        self.is_unanswered = true;
        self.sent = Some(now);
        self.serial = self.serial.wrapping_add(1);
        self.payload(tag, self.serial)
    }

    /// A Ping of the other side's goes to it.
    pub(super) fn relay(&mut self, payload: &[u8]) {
        self.relayed = Some(fingerprint(payload));
        self.ignores_relayed = false;
        self.waits = false;
    }

    /// It sent a Pong. Returns whether that answers a Ping of wsgate's own, and so concerns nobody else.
    pub(super) fn answer(&mut self, payload: &[u8], tag: Tag, now: Moment, totals: &Totals) -> bool {
        if let Some(serial) = self.serial_in(payload, tag) {
            self.answers = true;
            if serial == self.serial && std::mem::take(&mut self.is_unanswered) {
                self.measure(now, totals);
            }
            return true;
        }
        if self.relayed.is_some_and(|relayed| relayed == fingerprint(payload)) {
            self.relayed = None;
            self.answers = true;
            // A peer may answer the latest of several Pings alone (RFC 6455 §5.5.3), and that one was later than ours.
            self.is_unanswered = false;
        }
        false
    }

    /// When it is dead, if it says nothing before.
    pub(super) fn dies_at(&self, keepalive: &Keepalive) -> Option<Moment> {
        let pong = keepalive.pong.filter(|_| self.answers)?;
        self.asked.map(|asked| asked + pong)
    }

    /// What its Pings gave.
    pub(super) fn report(&self, is_dead: bool) -> Pings {
        let time = |micros: NonZeroU32| Duration::from_micros((micros.get() - 1).into());
        Pings {
            sent: self.serial,
            lost: u32::from(self.lost) + u32::from(is_dead && self.is_unanswered),
            round_trip: self.round_trip.map(time),
            longest_round_trip: self.longest_round_trip.map(time),
        }
    }

    fn measure(&mut self, now: Moment, totals: &Totals) {
        let Some(sent) = self.sent else { return };
        let round_trip = now.since(sent);
        totals.here().pings(self.side).answer(round_trip);
        let micros = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
        self.round_trip = NonZeroU32::MIN.checked_add(micros).or(Some(NonZeroU32::MAX));
        self.longest_round_trip = self.longest_round_trip.max(self.round_trip);
    }

    fn payload(&self, tag: Tag, serial: u32) -> PingPayload {
        let mut payload = [0; PAYLOAD];
        let parts = [NAME, &tag.0.to_be_bytes(), &[self.side as u8], &serial.to_be_bytes()];
        for (byte, part) in payload.iter_mut().zip(parts.into_iter().flatten()) {
            *byte = *part;
        }
        payload
    }

    /// The number of the Ping of wsgate's own that has this payload.
    fn serial_in(&self, payload: &[u8], tag: Tag) -> Option<u32> {
        let serial = u32::from_be_bytes(*payload.last_chunk()?);
        let was_sent = (1..=self.serial).contains(&serial);
        (was_sent && payload == self.payload(tag, serial)).then_some(serial)
    }
}

/// FNV-1a: enough to tell the payloads of two Pings apart.
fn fingerprint(payload: &[u8]) -> NonZeroU32 {
    let hash = payload
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    NonZeroU32::new(hash).unwrap_or(NonZeroU32::MIN)
}
