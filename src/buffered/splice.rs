//! Bytes that go from one socket to another by splice(2), without being copied.
//!
//! Between the two stands a pipe, which belongs to whoever has bytes in it and else to the pool of its thread.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::io::Interest;

use super::Stream;

/// Frames with less payload than this are copied: two calls for each one cost more than that.
pub const SPLICED_AT_LEAST: usize = 48 * 1024;

/// Bytes that one pipe takes at most.
pub(crate) const SPLICED_AT_ONCE: usize = 1024 * 1024;

/// Bytes of a pipe as the kernel counts them: a page for each piece of the socket's memory, however small that is. It is the most
/// that it gives without privileges.
const PIPE_SIZE: usize = 1024 * 1024;

/// Pipes of one thread, with two descriptors each; who finds none copies.
pub(crate) const MOST_PIPES: usize = 16;

/// Pipes that wait in a thread's pool.
const MOST_IDLE: usize = 4;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), lent: 0 }) };
}

struct Pool {
    idle: Vec<Ends>,
    lent: usize,
}

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user who has too many large pipes gets a small one.
        let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
        Ok(Self { reader, writer })
    }
}

/// A pipe that is lent by its thread's pool, to which an empty one returns on drop.
#[derive(Debug)]
pub struct Pipe {
    /// `None` in a drop alone.
    ends: Option<Ends>,
    length: usize,
}

impl Pipe {
    /// An empty pipe; `None` if this thread has lent all that it may have, or there are no descriptors.
    pub fn borrow() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.lent >= MOST_PIPES {
                return None;
            }
            let ends = pool.idle.pop().or_else(|| Ends::new().ok())?;
            pool.lent += 1;
            Some(Self { ends: Some(ends), length: 0 })
        })
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that it may take.
    pub fn room(&self) -> usize {
        SPLICED_AT_ONCE.saturating_sub(self.length)
    }

    /// Moves up to `most` bytes from a plain stream into the pipe; `Some(0)` is the end of the stream. `None` if nothing came behind
    /// what the pipe holds: the stream has nothing, or its bytes lie in more pieces than the pipe takes. Which one it was shows when
    /// the pipe is empty.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &impl Stream,
        most: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        let (Some(Ends { writer, .. }), Some(socket)) = (&self.ends, from.plain()) else { return unfit() };
        let count = ready!(socket.poll_io(cx, Interest::READABLE, || {
            match splice(socket, None, writer, None, most, SpliceFlags::NONBLOCK) {
                Err(Errno::AGAIN) if self.length > 0 => Ok(None),
                moved => Ok(Some(moved?)),
            }
        }))?;
        self.length += count.unwrap_or_default();
        Poll::Ready(Ok(count))
    }

    /// Moves all that is in it to a plain stream, and adds what that takes to `given`.
    pub fn poll_empty(
        &mut self,
        cx: &mut Context<'_>,
        to: &impl Stream,
        given: &mut u64,
    ) -> Poll<io::Result<()>> {
        let (Some(Ends { reader, .. }), Some(socket)) = (&self.ends, to.plain()) else { return unfit() };
        while self.length > 0 {
            let count = ready!(socket.poll_io(cx, Interest::WRITABLE, || {
                Ok(splice(reader, None, socket, None, self.length, SpliceFlags::NONBLOCK)?)
            }))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.length -= count;
            *given += count as u64;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
impl Pipe {
    /// How many pipes of this thread have bytes in them.
    pub(crate) fn lent() -> usize {
        POOL.with_borrow(|pool| pool.lent)
    }

    /// How many wait for some.
    pub(crate) fn idle() -> usize {
        POOL.with_borrow(|pool| pool.idle.len())
    }
}

/// Only plain streams are spliced.
fn unfit<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The thread may be at its end, and its pool gone.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent = pool.lent.saturating_sub(1);
            if self.is_empty() && pool.idle.len() < MOST_IDLE {
                pool.idle.extend(self.ends.take());
            }
        });
    }
}
