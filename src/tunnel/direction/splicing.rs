//! Large frames that the kernel moves from one plain socket to the other.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{Direction, Flow, Passage, Step, Turn};
use crate::{
    buffered::{Pipe, SPLICED_AT_LEAST, Stream},
    proto::frame::HEADER_MAX,
};

impl Direction {
    /// What comes next is likely to be a large frame, or the rest of one, and nothing is kept that goes before it.
    pub(super) fn is_worth_splicing(&self, turn: &Turn<'_>) -> bool {
        self.passage == Passage::Spliced
            && turn.is_plain
            && self.queue.is_none()
            && self.is_followed()
            && !self.drops()
    }

    /// Moves large frames from one socket to the other through `pipe`, which waits with what the receiver does not take. Ready
    /// without having moved anything where something else comes than a large frame.
    pub(super) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        mut pipe: Pipe,
        from: &impl Stream,
        to: &impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Option<Step>> {
        let gathered = self.poll_gather(cx, &mut pipe, from, turn).map(Result::err);
        if pipe.is_empty() {
            return gathered;
        }
        if !matches!(gathered, Poll::Ready(Some(_))) {
            match pipe.poll_empty(cx, to, &mut self.given) {
                Poll::Ready(Ok(())) => return Poll::Ready(None),
                Poll::Ready(Err(error)) => {
                    self.abandon();
                    return Poll::Ready(Some(Step::WriteFailed(error)));
                }
                Poll::Pending => {}
            }
        }
        self.queue.get_or_insert_default().pipe = Some(pipe);
        // What has come does not wait for what has not.
        if gathered.is_pending() { Poll::Ready(None) } else { gathered }
    }

    /// Moves frame after frame, as long as they come at once and are large, and the pipe takes them.
    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        from: &impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Result<(), Step>> {
        loop {
            if self.scanner.at_frame_boundary() && !ready!(self.poll_enter(cx, from, turn))? {
                // It is copied, and may be large as to what follows it.
                self.passage = Passage::Copied;
                return Poll::Ready(Ok(()));
            }
            let most = usize::try_from(self.scanner.payload_left()).unwrap_or(usize::MAX).min(pipe.room());
            let count = match ready!(pipe.poll_fill(cx, from, most)) {
                Ok(None) => return Poll::Ready(Ok(())),
                Ok(Some(0)) => return Poll::Ready(Err(self.note_end(None))),
                Ok(Some(count)) => count,
                Err(error) => return Poll::Ready(Err(self.note_end(Some(error)))),
            };
            self.count(count, turn);
            self.pass_unseen(count, turn);
            // Nothing goes into a pipe when something waits behind it.
            if count < most || pipe.room() == 0 || self.queue.is_some() || self.drops() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Looks at the header that comes next, and judges it if it is that of a large frame. Returns whether it may pass.
    fn poll_enter(
        &mut self,
        cx: &mut Context<'_>,
        from: &impl Stream,
        turn: &mut Turn<'_>,
    ) -> Poll<Result<bool, Step>> {
        let Some(socket) = from.plain() else { return Poll::Ready(Ok(false)) };
        let mut ahead = [0; HEADER_MAX];
        let count = match ready!(socket.poll_peek(cx, &mut ahead)) {
            Ok(count) => count,
            Err(error) => return Poll::Ready(Err(self.note_end(Some(error)))),
        };
        let look = self.look(turn, |scanner, follower| {
            scanner.enter(&ahead[..count], SPLICED_AT_LEAST as u64, follower)
        });
        Poll::Ready(Ok(look.result))
    }

    /// Follows `count` bytes of a frame that went into a pipe. What is put in at its end goes behind them.
    fn pass_unseen(&mut self, count: usize, turn: &mut Turn<'_>) {
        let look = self.look(turn, |scanner, follower| scanner.pass(count as u64, follower));
        if !look.edits.is_empty() {
            self.put_edited(&[], look.edits);
        }
        if look.close_at.is_some() && matches!(self.flow, Flow::CloseAt(_)) {
            self.put_close(turn.close);
        }
    }

    fn note_end(&mut self, error: Option<io::Error>) -> Step {
        self.end();
        error.map_or(Step::SourceEnded, Step::ReadFailed)
    }

    /// Bytes in its pipe.
    #[cfg(test)]
    pub(in crate::tunnel) fn piped(&self) -> usize {
        self.queue.as_ref().and_then(|queue| queue.pipe.as_ref()).map_or(0, Pipe::len)
    }

    /// Bytes of its sender's to the end of the frame that was begun.
    #[cfg(test)]
    pub(in crate::tunnel) fn begun(&self) -> usize {
        usize::try_from(self.bytes() + self.scanner.payload_left()).unwrap_or(usize::MAX)
    }
}
