//! Payload of large frames that the kernel moves from one plain socket to the other.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{Direction, Passage, Step, Turn};
use crate::{
    buffered::{Pipe, Stream},
    proto::frame::HEADER_MAX,
};

impl Direction {
    /// So much of a read of `most` bytes had better be made: to the end of the next header, if payload follows that is likely to
    /// be spliced. Whatever is held is completed at once.
    pub(super) fn copied_at_once(&self, most: usize, turn: &Turn<'_>) -> usize {
        if self.passage == Passage::Copied || !turn.is_plain || !self.held().is_empty() {
            return most;
        }
        let left = usize::try_from(self.scanner.payload_left()).unwrap_or(most);
        left.saturating_add(HEADER_MAX).min(most)
    }

    /// What comes next is payload enough to be spliced.
    pub(super) fn is_worth_splicing(&self) -> bool {
        Passage::of(self.scanner.payload_left()) == Passage::Spliced && self.is_followed() && !self.drops()
    }

    /// Moves payload from the sender's socket into `pipe`. A frame's last byte is not spliced, so that the end of the frame is met
    /// like that of any other, and nothing goes into the stream behind what is in a pipe.
    pub(super) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        mut pipe: Pipe,
        from: &impl Stream,
        turn: &Turn<'_>,
    ) -> Poll<Option<Step>> {
        let filled = pipe.poll_fill(cx, from, self.scanner.payload_left() - 1);
        if !pipe.is_empty() {
            self.queue.get_or_insert_default().pipe = Some(pipe);
        }
        match ready!(filled) {
            Ok(0) => {
                self.end();
                Poll::Ready(Some(Step::SourceEnded))
            }
            Ok(count) => {
                self.scanner.skip(count as u64);
                self.count(count, turn);
                Poll::Ready(None)
            }
            Err(error) => {
                self.end();
                Poll::Ready(Some(Step::ReadFailed(error)))
            }
        }
    }

    /// Writes `bytes`, or lets a header wait for the payload that is spliced behind it: by itself it would be a packet.
    pub(super) fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut impl Stream,
        turn: &Turn<'_>,
    ) -> io::Result<()> {
        let is_header = bytes.len() <= 2 * HEADER_MAX && turn.is_plain && self.is_worth_splicing();
        match is_header.then(|| Pipe::holding(bytes)).flatten() {
            Some(pipe) => self.queue.get_or_insert_default().pipe = Some(pipe),
            None => self.write(cx, bytes, to)?,
        }
        Ok(())
    }

    pub(super) fn take_pipe(&mut self) -> Option<Pipe> {
        let pipe = self.queue.as_mut()?.pipe.take();
        self.drop_empty_queue();
        pipe
    }

    /// Bytes in its pipe.
    #[cfg(test)]
    pub(in crate::tunnel) fn piped(&self) -> usize {
        self.queue.as_ref().and_then(|queue| queue.pipe.as_ref()).map_or(0, Pipe::len)
    }
}
