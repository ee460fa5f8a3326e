//! One way of a tunnel: from one stream's reading side to the other's writing side.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use crate::{
    buffered::{Stream, with_scratch},
    proto::{
        frame::{CloseCode, Event, FrameError, FrameScanner, Illegal, Role, encode_close},
        handshake::Extensions,
    },
};

/// What went one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes read from the sender, frame headers included.
    pub bytes: u64,
    /// Frames of any kind.
    pub frames: u64,
    /// Messages that came to their end.
    pub messages: u64,
    /// Payload bytes of the longest message.
    pub longest_message: u64,
    /// Illegal frames that were passed on, where frames are observed only.
    pub illegal: u64,
    /// The sender's Close frame.
    pub close: Option<Box<Close>>,
}

/// A Close frame as its sender wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Absent when the frame was empty.
    pub code: Option<CloseCode>,
    /// As sent; not checked to be UTF-8.
    pub reason: Box<[u8]>,
}

/// What happened on one way that the tunnel must know of.
#[derive(Debug)]
pub(super) enum Step {
    /// The sender's stream has ended; what it sent may still be on its way.
    SourceEnded,
    /// Everything has been written, and the end was passed on.
    Shut,
    /// The sender's stream ended within a frame, and the receiver's will end as a reset.
    Broken,
    /// An illegal frame; what came before it is on its way, it and the rest are dropped.
    Illegal(FrameError),
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
    /// They pass to this place, where this Close goes out.
    CloseAt(Place, OwnClose),
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
pub(super) struct OwnClose {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// One way of a tunnel. While it is idle it holds no buffer.
#[derive(Debug)]
pub(super) struct Direction {
    scanner: FrameScanner,
    role: Role,
    flow: Flow,
    /// Read, to be written, and not yet taken by the receiver.
    spill: Vec<u8>,
    /// How much of `spill` has been written.
    written: usize,
    /// The beginning of a header or control frame, to be completed by the next read.
    held: Vec<u8>,
    sight: Sight,
    source_ended: bool,
    outlet: Outlet,
    /// Bytes that the receiver took.
    pub(super) given: u64,
    pub(super) account: Account,
}

impl Direction {
    /// A way at its first byte.
    pub(super) fn new(role: Role, extensions: Extensions, observe: bool) -> Self {
        // What an unknown extension does to frames can't be judged (rule T4).
        let observes = observe || extensions == Extensions::Unknown;
        Self {
            scanner: FrameScanner::new(role, extensions),
            role,
            flow: Flow::Relay,
            spill: Vec::new(),
            written: 0,
            held: Vec::new(),
            sight: if observes { Sight::Observed } else { Sight::Enforced },
            source_ended: false,
            outlet: Outlet::Open,
            given: 0,
            account: Account::default(),
        }
    }

    /// Moves what can be moved until one of the streams has to be waited for.
    pub(super) fn poll_relay(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Poll<Step> {
        loop {
            match self.poll_drain(cx, to) {
                Poll::Ready(Ok(())) if self.is_finishing() && !self.is_shut() => {
                    return self.poll_shut(cx, to);
                }
                // What is dropped needs no room: the sender's answer to a Close must not wait for the receiver.
                Poll::Pending if !self.drops() => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    self.abandon();
                    return Poll::Ready(Step::WriteFailed(error));
                }
            }
            if self.source_ended {
                return Poll::Pending;
            }
            if let Some(step) = ready!(self.poll_read(cx, from, to)) {
                return Poll::Ready(step);
            }
        }
    }

    /// Writes what waits, and sees it through to the kernel: a receiver that takes nothing stops its sender here
    /// (rule T1).
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) -> Poll<io::Result<()>> {
        if self.is_shut() {
            return Poll::Ready(Ok(()));
        }
        while !self.spill.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.spill[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.given += count as u64;
            if self.written == self.spill.len() {
                self.spill = Vec::new();
                self.written = 0;
            }
        }
        Pin::new(to).poll_flush(cx)
    }

    /// Passes the end on, when all before it has been written (rules T2, T3).
    fn poll_shut(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) -> Poll<Step> {
        if self.is_within_frame() {
            to.reset_on_drop();
            self.outlet = Outlet::Shut;
            return Poll::Ready(Step::Broken);
        }
        let result = ready!(Pin::new(to).poll_shutdown(cx));
        self.outlet = Outlet::Shut;
        Poll::Ready(match result {
            Ok(()) => Step::Shut,
            Err(error) => Step::WriteFailed(error),
        })
    }

    /// Reads once and passes on what came. `None` when there is nothing to tell.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Poll<Option<Step>> {
        with_scratch(|scratch| {
            let held = self.held.len();
            scratch[..held].copy_from_slice(&self.held);
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
            self.account.bytes += count as u64;
            Poll::Ready(self.pass(cx, &scratch[..held + count], to))
        })
    }

    /// Takes `input` through the scanner and on to the receiver.
    fn pass(&mut self, cx: &mut Context<'_>, input: &[u8], to: &mut impl Stream) -> Option<Step> {
        let scanned = self.scan(input);
        if scanned.held > 0 {
            self.held.clear();
            self.held.extend_from_slice(&input[input.len() - scanned.held..]);
        } else if self.held.capacity() > 0 {
            self.held = Vec::new();
        }
        let written = match (self.flow, scanned.close_at) {
            (Flow::Closed | Flow::Discard, _) => Ok(()),
            (Flow::CloseAt(_, own), Some(at)) => {
                self.spill.extend_from_slice(&input[..at]);
                self.put_close(own);
                Ok(())
            }
            (Flow::Relay | Flow::CloseAt(..), _) => self.write(cx, &input[..scanned.legal], to),
        };
        if let Err(error) = written {
            self.abandon();
            return Some(Step::WriteFailed(error));
        }
        scanned.illegal.map(Step::Illegal)
    }

    fn scan(&mut self, input: &[u8]) -> Scanned {
        match self.sight {
            Sight::Enforced | Sight::Observed => {}
            Sight::Lost => return Scanned { legal: input.len(), held: 0, illegal: None, close_at: None },
            Sight::Refused => return Scanned { legal: 0, held: 0, illegal: None, close_at: None },
        }
        let account = &mut self.account;
        let place = match self.flow {
            Flow::CloseAt(place, _) => Some(place),
            Flow::Relay | Flow::Closed | Flow::Discard => None,
        };
        let mut close_at = None;
        let mut may_close = |at, places: &[Place]| {
            if close_at.is_none() && place.is_some_and(|place| places.contains(&place)) {
                close_at = Some(at);
            }
        };
        let result = self.scanner.scan(input, |event| match event {
            Event::Header { .. } => account.frames += 1,
            Event::FrameEnd { at } => may_close(at, &[Place::Frame]),
            Event::MessageEnd { at, length, .. } => {
                account.messages += 1;
                account.longest_message = account.longest_message.max(length);
                may_close(at, &[Place::Message]);
            }
            Event::Close { frame, code, reason } => {
                account.close.get_or_insert_with(|| Box::new(Close { code, reason: reason.into() }));
                may_close(frame.start, &[Place::Frame, Place::Message, Place::Close]);
            }
            Event::Ping { .. } | Event::Pong { .. } => {}
        });
        let (legal, illegal) = match result {
            Ok(legal) => return Scanned { legal, held: input.len() - legal, illegal: None, close_at },
            Err(Illegal { at, error }) => (at, error),
        };
        // Before an illegal frame is the last place there is.
        let close_at = close_at.or(place.map(|_| legal));
        if self.sight == Sight::Observed {
            account.illegal += 1;
            self.sight = Sight::Lost;
            return Scanned { legal: input.len(), held: 0, illegal: None, close_at };
        }
        self.sight = Sight::Refused;
        Scanned { legal, held: 0, illegal: Some(illegal), close_at }
    }

    /// Writes at once what the receiver takes and keeps the rest.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8], to: &mut impl Stream) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.given += count as u64;
                    rest = &rest[count..];
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.spill.extend_from_slice(rest);
        Ok(())
    }

    /// Ends this way with a Close frame of wsgate's own. Where the sender's Close went this way already, or the stream can't
    /// be followed, it ends without one (rule T5).
    pub(super) fn close(&mut self, place: Place, own: OwnClose) {
        if self.drops() || self.source_ended {
            return;
        }
        let may_insert =
            self.account.close.is_none() && self.outlet == Outlet::Open && self.account.illegal == 0;
        let is_there = match place {
            Place::Frame => self.scanner.at_frame_boundary(),
            Place::Message => self.scanner.at_frame_boundary() && self.scanner.at_message_boundary(),
            Place::Close => self.sight == Sight::Refused,
        };
        if !may_insert {
            self.flow = Flow::Discard;
        } else if is_there {
            self.put_close(own);
        } else {
            self.flow = Flow::CloseAt(place, own);
        }
    }

    /// Waits for more than a frame boundary to close.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.flow, Flow::CloseAt(Place::Message | Place::Close, _)) && !self.source_ended
    }

    fn put_close(&mut self, own: OwnClose) {
        // What the client sends goes to the backend, and so does the Close on its way: masked (rule T5).
        let mask = match self.role {
            Role::FromClient => Some(rand::random()),
            Role::FromServer => None,
        };
        encode_close(own.code, own.reason, mask, &mut self.spill);
        self.flow = Flow::Closed;
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
        self.spill = Vec::new();
        self.written = 0;
        self.outlet = Outlet::Shut;
    }

    /// The sender is gone: what it sent is still written, then this way ends.
    pub(super) fn end(&mut self) {
        if self.source_ended {
            return;
        }
        self.source_ended = true;
        if self.drops() {
            self.held = Vec::new();
        }
        // A frame that was begun is passed as far as it came, so that its end is seen to be missing.
        self.spill.extend_from_slice(&self.held);
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
        self.source_ended || self.account.close.is_some() || !self.is_followed()
    }

    /// The flow of bytes is over, and a Close of wsgate's own, if any, has been written.
    pub(super) fn is_closed(&self) -> bool {
        (self.drops() || self.source_ended) && self.spill.is_empty()
    }

    /// The receiver's stream stands within a frame, as far as wsgate follows it.
    fn is_within_frame(&self) -> bool {
        let is_known = self.is_followed() && !self.drops();
        is_known && (!self.scanner.at_frame_boundary() || !self.held.is_empty())
    }

    fn is_followed(&self) -> bool {
        matches!(self.sight, Sight::Enforced | Sight::Observed)
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.spill.len() - self.written
    }

    /// The receiver has its end, or is gone.
    pub(super) fn is_shut(&self) -> bool {
        self.outlet == Outlet::Shut
    }

    /// Bytes of heap that its buffers hold.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.spill.capacity() + self.held.capacity()
    }

    /// Ends this way at once, as well as that can be done without waiting: with an end if the receiver's stream stands at
    /// a frame boundary and nothing waits for it, else with a reset (rule T3).
    pub(super) fn cut(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) {
        if self.is_shut() {
            return;
        }
        self.outlet = Outlet::Shut;
        if self.waiting() > 0 || self.is_within_frame() || Pin::new(&mut *to).poll_shutdown(cx).is_pending() {
            to.reset_on_drop();
        }
    }
}

/// What a look at the frames gave.
struct Scanned {
    /// So many bytes of the input may be relayed.
    legal: usize,
    /// So many bytes at its end are the beginning of a header or control frame.
    held: usize,
    illegal: Option<FrameError>,
    /// Here goes the Close that is to go out.
    close_at: Option<usize>,
}
