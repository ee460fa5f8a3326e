//! A look at the frames of one read, on their way.

use std::ops::Range;

use super::{
    account::{Close, Tally},
    direction::{Passage, Place, Turn},
    pulse::PingPayload,
    totals::Way,
};
use crate::proto::frame::{Event, Excess, Fault, Follow, FrameHeader, Opcode};

/// What a look at the frames gave.
pub(super) struct Followed {
    /// So many bytes of the input may be relayed.
    pub(super) legal: usize,
    /// So many bytes at its end are the beginning of a header or control frame.
    pub(super) held: usize,
    /// Why the frame behind the legal ones may not pass.
    pub(super) fault: Option<Fault>,
    /// Here goes the Close that is to go out.
    pub(super) close_at: Option<usize>,
    /// In the order of their places.
    pub(super) edits: Vec<Edit>,
}

/// What came of a look at frames, beside its `result`.
pub(super) struct Look<R> {
    pub(super) result: R,
    pub(super) close_at: Option<usize>,
    pub(super) edits: Vec<Edit>,
}

/// A change to what is relayed.
pub(super) struct Edit {
    /// These bytes of the input are left out,
    pub(super) at: Range<usize>,
    /// and a Ping with this payload goes there.
    pub(super) put: Option<PingPayload>,
}

/// Looks at the frames of one read.
pub(super) struct Follower<'a, 'b> {
    pub(super) tally: &'a mut Tally,
    pub(super) way: &'a Way,
    pub(super) turn: &'a mut Turn<'b>,
    /// Where a Close is to go out.
    pub(super) place: Option<Place>,
    /// A Ping may go out.
    pub(super) takes_pings: bool,
    /// The frames go on to the receiver.
    pub(super) relays: bool,
    pub(super) close_at: Option<usize>,
    pub(super) edits: Vec<Edit>,
    /// Of the data frame at hand.
    pub(super) passage: &'a mut Passage,
}

impl Follower<'_, '_> {
    fn may_close(&mut self, at: usize, places: &[Place]) {
        if self.close_at.is_none() && self.place.is_some_and(|place| places.contains(&place)) {
            self.close_at = Some(at);
        }
    }

    fn may_ping(&mut self, at: usize) {
        let Turn { terms, receiver, tag, now, .. } = &mut *self.turn;
        if self.takes_pings && receiver.waits() && self.tally.close.is_none() {
            // All before it has been taken, or nothing would have been read: only now the receiver is asked.
            if !receiver.was_asked() {
                receiver.excuse(*now);
            }
            let put = Some(receiver.send(*tag, *now, &terms.totals));
            self.edits.push(Edit { at: at..at, put });
        }
    }
}

impl Follow for Follower<'_, '_> {
    #[inline]
    fn admit(&mut self, header: &FrameHeader, message_length: u64) -> Result<(), Excess> {
        let Turn { terms, now, sender, throttle, .. } = &mut *self.turn;
        terms.limits.admit(header, message_length)?;
        // What wsgate itself asked for is not counted against the sender.
        let was_asked_for = header.opcode == Opcode::Pong && sender.owes_answer();
        match throttle {
            Some(throttle) if !was_asked_for => throttle.admit(*now),
            Some(_) | None => Ok(()),
        }
    }

    /// The scanner says what it met as a value, which costs nothing where both are one piece of code.
    #[expect(clippy::inline_always, reason = "an event for each header and end of a frame")]
    #[inline(always)]
    fn meet(&mut self, event: Event<'_>) {
        match event {
            Event::Header { header, .. } => {
                self.tally.frame(&header);
                self.way.frame(&header);
                if !header.opcode.is_control() {
                    *self.passage = Passage::of(header.length);
                }
            }
            Event::FrameEnd { at } => {
                self.may_close(at, &[Place::Frame]);
                self.may_ping(at);
            }
            Event::MessageEnd { at, opcode, length, fragmented, compressed } => {
                self.tally.message(length, fragmented, compressed);
                self.way.message(opcode, length);
                self.may_close(at, &[Place::Message]);
            }
            Event::Close { frame, code, reason } => {
                self.tally.close.get_or_insert_with(|| Box::new(Close { code, reason: reason.into() }));
                self.may_close(frame.start, &[Place::Frame, Place::Message, Place::Close]);
            }
            Event::Ping { payload, .. } => {
                if self.relays && self.close_at.is_none() {
                    self.turn.receiver.relay(payload);
                }
            }
            Event::Pong { frame, payload } => {
                let Turn { terms, sender, tag, now, .. } = &mut *self.turn;
                if sender.answer(payload, *tag, *now, &terms.totals) {
                    self.edits.push(Edit { at: frame, put: None });
                }
            }
        }
    }
}
