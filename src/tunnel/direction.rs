//! One way of a tunnel: from one stream's reading side to the other's writing side.

mod splicing;
mod writing;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use self::writing::Queue;
use super::{
    account::{Account, Tally},
    follow::{Followed, Follower, Look},
    limits::Throttle,
    moment::Moment,
    pulse::{Pulse, Tag},
    terms::Terms,
    totals::Way,
};
use crate::{
    buffered::{Pipe, READS_IN_A_ROW, SPLICED_AT_LEAST, Stream, with_scratch},
    proto::{
        frame::{Fault, FrameScanner, Role, Stopped},
        handshake::Extensions,
    },
};

/// What happened on one way that the tunnel must know of.
#[derive(Debug)]
pub(super) enum Step {
    /// Much has been moved, and there may be more.
    Moved,
    /// The sender's stream has ended; what it sent may still be on its way.
    SourceEnded,
    /// Everything has been written, and the end was passed on.
    Shut,
    /// The sender's stream ended within a frame, and the receiver's will end as a reset.
    Broken,
    /// A frame that may not pass; what came before it is on its way, it and the rest are dropped.
    Stopped(Fault),
    /// Reading failed.
    ReadFailed(io::Error),
    /// Writing failed.
    WriteFailed(io::Error),
}

/// Where a way stands with its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// They pass.
    Relay,
    /// They pass to this place, where a Close of wsgate's goes out.
    CloseAt(Place),
    /// A Close of wsgate's was the last that passed; what comes is read and dropped.
    Closed,
    /// Nothing passes any more; what comes is read and dropped.
    Discard,
}

/// Where a Close of wsgate's own goes into a stream: never after one of the sender's, but in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the next frame boundary.
    Frame,
    /// At the next message boundary, or where the sender's Close would stand.
    Message,
    /// Where the sender's Close would stand.
    Close,
}

/// Whether the frames of a way are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// An illegal one ends the tunnel.
    Enforced,
    /// An illegal one passes.
    Observed,
    /// No more, after an illegal one that passed, as all does that follows.
    Lost,
    /// No more, after an illegal one that did not pass, as nothing does that follows.
    Refused,
}

/// How the payload of a data frame passes between two plain sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// Through the scratch buffer.
    Copied,
    /// Through a pipe, as there is enough of it.
    Spliced,
}

impl Passage {
    pub(super) fn of(payload: u64) -> Self {
        if payload >= SPLICED_AT_LEAST as u64 { Self::Spliced } else { Self::Copied }
    }
}

/// The end of a way at its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    Open,
    /// The receiver gets its end when the spill has drained, whatever the sender does.
    Finishing,
    /// The receiver has its end, or is gone.
    Shut,
}

/// A Close frame of wsgate's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnClose<'a> {
    pub(super) code: u16,
    pub(super) reason: &'a str,
}

/// What a way needs of its tunnel for a turn.
pub(super) struct Turn<'a> {
    pub(super) terms: &'a Terms,
    pub(super) now: Moment,
    pub(super) tag: Tag,
    /// The Close of wsgate's for the receiver, once the tunnel's end is decided.
    pub(super) close: Option<OwnClose<'a>>,
    pub(super) sender: &'a mut Pulse,
    pub(super) receiver: &'a mut Pulse,
    /// Both streams are plain sockets.
    pub(super) is_plain: bool,
    /// Of the sender, if its frames are counted in time.
    pub(super) throttle: Option<&'a mut Throttle>,
}

/// One way of a tunnel. While it is idle it holds no buffer.
#[derive(Debug)]
pub(super) struct Direction {
    scanner: FrameScanner,
    queue: Option<Box<Queue>>,
    /// Bytes that the receiver took.
    pub(super) given: u64,
    tally: Tally,
    flow: Flow,
    sight: Sight,
    outlet: Outlet,
    source_ended: bool,
    /// What is held is a tail, and has not been looked at.
    has_tail: bool,
    /// Of the last data frame, which the next one is likely to be like.
    passage: Passage,
    /// A Close of wsgate's went this way.
    pub(super) has_own_close: bool,
}

impl Direction {
    /// A way at its first byte. The `tail` of the sender's head is what comes first.
    pub(super) fn new(role: Role, extensions: Extensions, observe: bool, tail: Vec<u8>) -> Self {
        // What an unknown extension does to frames can't be judged (rule T4).
        let observes = observe || extensions == Extensions::Unknown;
        let has_tail = !tail.is_empty();
        Self {
            scanner: FrameScanner::new(role, extensions),
            queue: has_tail.then(|| Box::new(Queue::of_tail(tail))),
            given: 0,
            tally: Tally::default(),
            flow: Flow::Relay,
            sight: if observes { Sight::Observed } else { Sight::Enforced },
            outlet: Outlet::Open,
            source_ended: false,
            has_tail,
            passage: Passage::Copied,
            has_own_close: false,
        }
    }

    /// Moves what can be moved until one of the streams has to be waited for.
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Step> {
        let (mut reads, mut has_new_close) = (0, false);
        loop {
            // A Close that has just come waits for one read more: mostly the end stands behind it and goes with it.
            let looks_ahead = std::mem::take(&mut has_new_close);
            let drained = if looks_ahead { Poll::Pending } else { self.poll_drain(cx, to) };
            match drained {
                Poll::Ready(Ok(())) if self.is_finishing() && !self.is_shut() => {
                    return self.poll_shut(cx, to);
                }
                // What is dropped needs no room: the sender's answer to a Close must not wait for the receiver.
                Poll::Pending if !self.drops() && !looks_ahead => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    self.abandon();
                    return Poll::Ready(Step::WriteFailed(error));
                }
            }
            if self.source_ended {
                return Poll::Pending;
            }
            if reads >= READS_IN_A_ROW && !looks_ahead {
                return Poll::Ready(Step::Moved);
            }
            // What is gathered in a pipe takes a third of the budget.
            reads += if self.is_worth_splicing(turn) { READS_IN_A_ROW } else { 1 };
            let had_close = self.has_close();
            match self.poll_read(cx, from, to, turn) {
                Poll::Ready(Some(step)) => return Poll::Ready(step),
                Poll::Ready(None) => has_new_close = !had_close && self.has_close(),
                Poll::Pending if looks_ahead => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads once and passes on what came. `None` when there is nothing to tell.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Option<Step>> {
        if std::mem::take(&mut self.has_tail) {
            let tail = self.take_held();
            self.count(tail.len(), turn);
            return Poll::Ready(self.pass(cx, &tail, to, turn));
        }
        if self.is_worth_splicing(turn)
            && let Some(pipe) = Pipe::borrow()
        {
            return self.poll_splice(cx, pipe, from, to, turn);
        }
        self.poll_copy(cx, from, to, turn)
    }

    /// Reads once through the scratch buffer and passes on what came.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Option<Step>> {
        with_scratch(|scratch| {
            let held = self.held().len();
            if held > 0 {
                scratch[..held].copy_from_slice(self.held());
            }
            let mut buf = ReadBuf::new(&mut scratch[held..]);
            if let Err(error) = ready!(Pin::new(from).poll_read(cx, &mut buf)) {
                self.end();
                return Poll::Ready(Some(Step::ReadFailed(error)));
            }
            let count = buf.filled().len();
            if count == 0 {
                self.end();
                return Poll::Ready(Some(Step::SourceEnded));
            }
            self.count(count, turn);
            Poll::Ready(self.pass(cx, &scratch[..held + count], to, turn))
        })
    }

    fn count(&mut self, bytes: usize, turn: &Turn<'_>) {
        self.tally.bytes += bytes as u64;
        self.way(turn.terms).read(bytes);
    }

    /// Where this worker counts what goes this way.
    fn way<'a>(&self, terms: &'a Terms) -> &'a Way {
        terms.totals.here().way(self.scanner.role())
    }

    /// Takes `input` through the scanner and on to the receiver.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        to: &mut impl Stream,
        turn: &mut Turn<'_>,
    ) -> Option<Step> {
        let had_close = self.has_close();
        let followed = self.follow(input, turn);
        let waits = self.waiting() > 0 || !had_close && self.has_close();
        self.hold(&input[input.len() - followed.held..]);
        let written = match (self.flow, followed.close_at) {
            (Flow::Closed | Flow::Discard, _) => Ok(()),
            (Flow::CloseAt(_), Some(at)) => {
                self.put_edited(&input[..at], followed.edits);
                self.put_close(turn.close);
                Ok(())
            }
            (Flow::Relay | Flow::CloseAt(_), _) if followed.edits.is_empty() && !waits => {
                self.write(cx, &input[..followed.legal], to)
            }
            (Flow::Relay | Flow::CloseAt(_), _) => {
                self.put_edited(&input[..followed.legal], followed.edits);
                Ok(())
            }
        };
        if let Err(error) = written {
            self.abandon();
            return Some(Step::WriteFailed(error));
        }
        followed.fault.map(Step::Stopped)
    }

    fn follow(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Followed {
        let unseen = |legal| Followed { legal, held: 0, fault: None, close_at: None, edits: Vec::new() };
        match self.sight {
            Sight::Enforced | Sight::Observed => {}
            Sight::Lost => return unseen(input.len()),
            Sight::Refused => return unseen(0),
        }
        let place = self.close_place();
        let Look { result, close_at, edits } =
            self.look(turn, |scanner, follower| scanner.follow(input, follower));
        let (legal, fault) = match result {
            Ok(legal) => return Followed { legal, held: input.len() - legal, fault: None, close_at, edits },
            Err(Stopped { at, fault }) => (at, fault),
        };
        // Before a frame that may not pass is the last place there is.
        let close_at = close_at.or(place.map(|_| legal));
        if self.sight == Sight::Observed && matches!(fault, Fault::Illegal(_)) {
            self.tally.has_illegal = true;
            self.sight = Sight::Lost;
            return Followed { legal: input.len(), held: 0, fault: None, close_at, edits };
        }
        self.sight = Sight::Refused;
        Followed { legal, held: 0, fault: Some(fault), close_at, edits }
    }

    /// Has a follower look at frames with the scanner.
    #[inline]
    fn look<R>(
        &mut self,
        turn: &mut Turn<'_>,
        with: impl FnOnce(&mut FrameScanner, &mut Follower<'_, '_>) -> R,
    ) -> Look<R> {
        let (place, takes_pings, relays) = (self.close_place(), self.takes_pings(), !self.drops());
        let way = self.way(turn.terms);
        let mut follower = Follower {
            tally: &mut self.tally,
            way,
            turn,
            place,
            takes_pings,
            relays,
            close_at: None,
            edits: Vec::new(),
            passage: &mut self.passage,
        };
        let result = with(&mut self.scanner, &mut follower);
        let Follower { close_at, edits, .. } = follower;
        Look { result, close_at, edits }
    }

    /// Where a Close of wsgate's goes out, if one is to.
    fn close_place(&self) -> Option<Place> {
        match self.flow {
            Flow::CloseAt(place) => Some(place),
            Flow::Relay | Flow::Closed | Flow::Discard => None,
        }
    }

    /// A Ping may go this way, at a frame boundary (rule T5).
    fn takes_pings(&self) -> bool {
        self.flow == Flow::Relay
            && self.outlet == Outlet::Open
            && self.tally.close.is_none()
            && !self.tally.has_illegal
    }

    /// Its receiver can be asked for a sign of life.
    pub(super) fn can_ask(&self) -> bool {
        self.takes_pings() && !self.source_ended
    }

    /// What its sender answers would be seen.
    pub(super) fn can_answer(&self) -> bool {
        self.is_followed() && !self.source_ended && self.tally.close.is_none()
    }

    /// Ends this way with a Close frame of wsgate's own. Where the sender's Close went this way already, or the stream can't
    /// be followed, it ends without one (rule T5).
    pub(super) fn close(&mut self, place: Place, own: OwnClose<'_>) {
        if self.drops() || self.source_ended {
            return;
        }
        let may_insert = self.tally.close.is_none() && self.outlet == Outlet::Open && !self.tally.has_illegal;
        let is_there = match place {
            Place::Frame => self.scanner.at_frame_boundary(),
            Place::Message => self.scanner.at_frame_boundary() && self.scanner.at_message_boundary(),
            Place::Close => self.sight == Sight::Refused,
        };
        if !may_insert {
            self.flow = Flow::Discard;
        } else if is_there {
            self.put_close(Some(own));
        } else {
            self.flow = Flow::CloseAt(place);
        }
    }

    /// Waits for more than a frame boundary to close.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.flow, Flow::CloseAt(Place::Message | Place::Close)) && !self.source_ended
    }

    /// The receiver gets its end as soon as what waits for it has been written.
    pub(super) fn finish(&mut self) {
        if self.outlet == Outlet::Open {
            self.outlet = Outlet::Finishing;
        }
    }

    /// The receiver gets its end soon, or has it.
    pub(super) fn is_finishing(&self) -> bool {
        self.outlet != Outlet::Open || self.source_ended
    }

    /// The receiver is gone: nothing is written any more, and what comes is dropped.
    pub(super) fn abandon(&mut self) {
        self.flow = Flow::Discard;
        self.drop_spill();
        self.outlet = Outlet::Shut;
    }

    /// The sender is gone: what it sent is still written, then this way ends.
    pub(super) fn end(&mut self) {
        if self.source_ended {
            return;
        }
        self.source_ended = true;
        if self.drops() {
            self.take_held();
        } else if let Some(Queue { spill, held, .. }) = self.queue.as_deref_mut() {
            // A frame that was begun is passed as far as it came, so that its end is seen to be missing.
            spill.extend_from_slice(held);
        }
    }

    /// What the sender sends is dropped.
    fn drops(&self) -> bool {
        matches!(self.flow, Flow::Closed | Flow::Discard)
    }

    /// Nothing more comes, and the receiver knows.
    pub(super) fn is_done(&self) -> bool {
        self.source_ended && self.is_shut()
    }

    /// The sender will say nothing more that has to be waited for.
    pub(super) fn has_answered(&self) -> bool {
        self.source_ended || self.tally.close.is_some() || !self.is_followed()
    }

    /// The flow of bytes is over, and a Close of wsgate's own, if any, has been written.
    pub(super) fn is_closed(&self) -> bool {
        (self.drops() || self.source_ended) && self.waiting() == 0
    }

    /// The receiver's stream stands within a frame, as far as wsgate follows it.
    fn is_within_frame(&self) -> bool {
        let is_known = self.is_followed() && !self.drops();
        is_known && (!self.scanner.at_frame_boundary() || !self.held().is_empty())
    }

    fn is_followed(&self) -> bool {
        matches!(self.sight, Sight::Enforced | Sight::Observed)
    }

    /// What its sender sent.
    pub(super) fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// Its sender's Close has come.
    pub(super) fn has_close(&self) -> bool {
        self.tally.close.is_some()
    }

    /// What went this way.
    pub(super) fn account(&self) -> Account {
        self.tally.account()
    }

    /// The receiver has its end, or is gone.
    pub(super) fn is_shut(&self) -> bool {
        self.outlet == Outlet::Shut
    }

    /// Ends this way at once, as well as that can be done without waiting: with an end if the receiver's stream stands at
    /// a frame boundary and takes what waits for it, else with a reset (rule T3).
    pub(super) fn cut(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) {
        if self.is_shut() {
            return;
        }
        let has_written = matches!(self.poll_drain(cx, to), Poll::Ready(Ok(())));
        self.outlet = Outlet::Shut;
        if !has_written || self.is_within_frame() || Pin::new(&mut *to).poll_shutdown(cx).is_pending() {
            to.reset_on_drop();
        }
    }
}
