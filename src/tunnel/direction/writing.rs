//! What one way of a tunnel writes: what waits, changes to what is read, and frames of wsgate's own.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{Direction, Flow, Outlet, OwnClose, Step};
use crate::{
    buffered::{Pipe, Stream},
    proto::frame::{Role, encode_close, encode_ping},
    tunnel::{
        follow::Edit,
        moment::Moment,
        pulse::{Pulse, Tag},
        totals::Totals,
    },
};

/// Bytes that could not be passed on at once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Large frames on their way from socket to socket. They go first.
    pub(super) pipe: Option<Pipe>,
    /// Read, to be written, and not yet taken by the receiver.
    pub(super) spill: Vec<u8>,
    /// How much of `spill` has been written.
    written: usize,
    /// The beginning of a header or control frame, to be completed by the next read.
    pub(super) held: Vec<u8>,
}

impl Queue {
    /// What came with a head, and is yet to be looked at.
    pub(super) fn of_tail(held: Vec<u8>) -> Self {
        Self { held, ..Self::default() }
    }
}

impl Direction {
    /// Writes what waits, and sees it through to the kernel: a receiver that takes nothing stops its sender here
    /// (rule T1). What [`Self::poll_shut`] follows may wait for it.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) -> Poll<io::Result<()>> {
        if self.is_shut() {
            return Poll::Ready(Ok(()));
        }
        if let Some(Queue { pipe: Some(pipe), .. }) = self.queue.as_deref_mut() {
            ready!(pipe.poll_empty(cx, to, &mut self.given))?;
            self.drop_pipe();
        }
        let is_last = self.source_ended && !self.is_within_frame();
        while let Some(queue) = self.queue.as_mut().filter(|queue| !queue.spill.is_empty()) {
            let rest = &queue.spill[queue.written..];
            let written =
                if is_last { to.poll_write_last(cx, rest) } else { Pin::new(&mut *to).poll_write(cx, rest) };
            let count = ready!(written)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.written += count;
            self.given += count as u64;
            if queue.written == queue.spill.len() {
                self.drop_spill();
            }
        }
        if is_last { Poll::Ready(Ok(())) } else { Pin::new(to).poll_flush(cx) }
    }

    /// Passes the end on, when all before it has been written (rules T2, T3).
    pub(super) fn poll_shut(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) -> Poll<Step> {
        if self.is_within_frame() {
            // A reset takes along what the kernel has yet to send: whole messages, perhaps.
            ready!(to.poll_sent(cx));
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

    /// Puts the Ping that waits for its place where the stream stands, if that is one.
    pub(in crate::tunnel) fn put_ping(
        &mut self,
        receiver: &mut Pulse,
        tag: Tag,
        now: Moment,
        totals: &Totals,
    ) {
        if receiver.waits() && self.takes_pings() && self.scanner.at_frame_boundary() {
            let mask = self.mask();
            encode_ping(&receiver.send(tag, now, totals), mask, self.spill());
        }
    }

    /// Queues `bytes` with these changes made.
    pub(super) fn put_edited(&mut self, bytes: &[u8], edits: Vec<Edit>) {
        let mask = self.mask();
        let spill = self.spill();
        let mut from = 0;
        for Edit { at, put } in edits {
            // It is behind the place of a Close, where all is dropped.
            if at.end > bytes.len() {
                break;
            }
            spill.extend_from_slice(&bytes[from..at.start]);
            if let Some(ping) = put {
                encode_ping(&ping, mask, spill);
            }
            from = at.end;
        }
        spill.extend_from_slice(&bytes[from..]);
        // Nothing may be left, where all there was is left out.
        self.drop_empty_queue();
    }

    /// Writes at once what the receiver takes and keeps the rest.
    pub(super) fn write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut impl Stream,
    ) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.given += count as u64;
                    rest = &rest[count..];
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.spill().extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn put_close(&mut self, own: Option<OwnClose<'_>>) {
        let mask = self.mask();
        if let Some(OwnClose { code, reason }) = own {
            encode_close(code, reason, mask, self.spill());
            self.has_own_close = true;
        }
        self.flow = Flow::Closed;
    }

    /// What the client sends goes to the backend, and so does what wsgate puts into it: masked (rule T5).
    pub(super) fn mask(&self) -> Option<[u8; 4]> {
        match self.scanner.role() {
            Role::FromClient => Some(rand::random()),
            Role::FromServer => None,
        }
    }

    /// Bytes that wait to be written.
    pub(in crate::tunnel) fn waiting(&self) -> usize {
        self.queue
            .as_ref()
            .map_or(0, |queue| queue.pipe.as_ref().map_or(0, Pipe::len) + queue.spill.len() - queue.written)
    }

    fn drop_pipe(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.pipe = None;
        }
        self.drop_empty_queue();
    }

    pub(super) fn spill(&mut self) -> &mut Vec<u8> {
        &mut self.queue.get_or_insert_default().spill
    }

    pub(super) fn drop_spill(&mut self) {
        if let Some(queue) = &mut self.queue {
            (queue.pipe, queue.spill, queue.written) = (None, Vec::new(), 0);
        }
        self.drop_empty_queue();
    }

    pub(super) fn held(&self) -> &[u8] {
        self.queue.as_ref().map_or(&[], |queue| &queue.held)
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        let held = self.queue.as_mut().map(|queue| std::mem::take(&mut queue.held)).unwrap_or_default();
        self.drop_empty_queue();
        held
    }

    /// Keeps `bytes` for the next read, instead of what was held before.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.take_held();
        } else {
            let held = &mut self.queue.get_or_insert_default().held;
            held.clear();
            held.extend_from_slice(bytes);
        }
    }

    pub(super) fn drop_empty_queue(&mut self) {
        self.queue.take_if(|queue| queue.pipe.is_none() && queue.spill.is_empty() && queue.held.is_empty());
    }

    /// Bytes of heap that its buffers hold.
    #[cfg(test)]
    pub(in crate::tunnel) fn capacity(&self) -> usize {
        self.queue
            .as_ref()
            .map_or(0, |queue| size_of::<Queue>() + queue.spill.capacity() + queue.held.capacity())
    }
}
