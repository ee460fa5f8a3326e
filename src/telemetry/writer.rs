//! A thread that writes lines, so that a slow disk, terminal or pipe never holds up who has something to say.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use super::rate::{RateLimited, TELL_AFTER};

/// Bytes of lines that wait for a writer; more are dropped and counted. Peers choose how long a line is, so lines
/// themselves are no measure.
pub(super) const QUEUE: usize = 4 * 1024 * 1024;
/// Lines that one write takes at most.
const BATCH: usize = 1_024;
/// How long to wait where a terminal or pipe that is not to block has no room.
const PAUSE: Duration = Duration::from_millis(10);

/// Which lines a thread writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Access,
    Events,
}

/// Takes lines for a thread that writes them.
#[derive(Debug)]
pub(super) struct Writer {
    stream: Stream,
    /// Without a bound of its own, so that an order never waits behind lines that nobody writes.
    queue: Sender<Order>,
    backlog: Arc<Backlog>,
}

/// What waits for a thread, and what never will.
#[derive(Debug, Default)]
struct Backlog {
    /// Bytes of the lines in the queue.
    waiting: AtomicUsize,
    /// Lines that were not written.
    dropped: AtomicU64,
}

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
    Write(Output),
    Reopen,
}

/// Where lines go.
pub(super) struct Output {
    to: Box<dyn Write + Send>,
    /// Of a file that can be opened anew.
    path: Option<PathBuf>,
}

impl Output {
    pub(super) fn new(to: impl Write + Send + 'static) -> Self {
        Self { to: Box::new(to), path: None }
    }

    /// The file of this path, to append to.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self { to: Box::new(open(path)?), path: Some(path.to_owned()) })
    }
}

/// Not for everybody: records name clients and what they asked for.
///
/// Waits for nobody: of a pipe that nobody reads, opening alone would have no end.
fn open(path: &Path) -> io::Result<File> {
    let at_once = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let opened = OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(at_once).open(path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NXIO) => io::Error::new(error.kind(), "it is a pipe or a socket that nobody reads"),
        _ => error,
    })?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Lines that were not written since the process began.
static DROPPED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Lines that were not written, as they came faster than they could be written, or could not be written at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Access records.
    pub access: u64,
    /// Events.
    pub events: u64,
}

/// What was dropped since the process began.
pub fn dropped() -> Dropped {
    let count = |stream: Stream| DROPPED[stream as usize].load(Ordering::Relaxed);
    Dropped { access: count(Stream::Access), events: count(Stream::Events) }
}

impl Writer {
    pub(super) fn start(stream: Stream, output: Output) -> io::Result<Self> {
        let (queue, orders) = channel();
        let backlog = Arc::<Backlog>::default();
        let name = match stream {
            Stream::Access => "wsgate-access",
            Stream::Events => "wsgate-events",
        };
        let lines = Lines { stream, output, backlog: Arc::clone(&backlog), torn: false, told: 0 };
        thread::Builder::new().name(name.into()).spawn(move || lines.write_all(&orders))?;
        Ok(Self { stream, queue, backlog })
    }

    /// Takes a line with its end. Never blocks: past the bound of the queue it is dropped and counted, and this is false.
    pub(super) fn send(&self, line: Vec<u8>) -> bool {
        let length = line.len();
        let fits = self.backlog.waiting.fetch_add(length, Ordering::Relaxed) + length <= QUEUE;
        let is_taken = fits && self.queue.send(Order::Line(line)).is_ok();
        if !is_taken {
            self.backlog.waiting.fetch_sub(length, Ordering::Relaxed);
            self.backlog.drop_lines(self.stream, 1);
        }
        is_taken
    }

    /// Has lines that come from now on written there.
    pub(super) fn write_to(&self, output: Output) {
        // The thread ends after the last of its writers alone.
        let _ = self.queue.send(Order::Write(output));
    }

    /// Has a file opened anew, behind the lines that were taken so far. By the thread, since that may block as well.
    pub(super) fn reopen(&self) {
        let _ = self.queue.send(Order::Reopen);
    }

    /// Waits until what was taken so far has been written.
    pub(super) fn flush_within(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.send(Order::Flush(done)).is_ok() {
            // A writer that hangs must not keep the process from ending.
            let _ = written.recv_timeout(patience);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.backlog.dropped.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.backlog.waiting.load(Ordering::Relaxed)
    }
}

impl Backlog {
    fn drop_lines(&self, stream: Stream, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        DROPPED[stream as usize].fetch_add(count, Ordering::Relaxed);
    }
}

/// The thread's side.
struct Lines {
    stream: Stream,
    output: Output,
    backlog: Arc<Backlog>,
    /// A line was written in half.
    torn: bool,
    /// Of the lines that were dropped, so many were told of.
    told: u64,
}

impl Lines {
    /// Writes lines until every writer is gone: one write for all that wait.
    fn write_all(mut self, orders: &Receiver<Order>) {
        let mut batch = Vec::new();
        let mut is_idle = false;
        loop {
            let first = if is_idle {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(TELL_AFTER)
            };
            match first {
                Ok(first) => {
                    let orders = std::iter::once(first).chain(orders.try_iter().take(BATCH));
                    orders.for_each(|order| self.follow(order, &mut batch));
                    self.write(&mut batch);
                    is_idle = false;
                }
                // After that much silence there is nothing left to tell of, until the next line.
                Err(RecvTimeoutError::Timeout) => is_idle = true,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tell();
        }
    }

    fn follow(&mut self, order: Order, batch: &mut Vec<u8>) {
        match order {
            Order::Line(line) => {
                self.backlog.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                batch.extend_from_slice(&line);
            }
            Order::Flush(done) => {
                self.write(batch);
                // Whoever waited may have given up.
                let _ = done.try_send(());
            }
            Order::Write(output) => {
                self.write(batch);
                self.output = output;
                self.torn = false;
            }
            Order::Reopen => {
                self.write(batch);
                self.reopen();
            }
        }
    }

    fn reopen(&mut self) {
        let Some(path) = &self.output.path else { return };
        match Output::file(path) {
            Ok(output) => {
                tracing::info!(path = %path.display(), "access log reopened");
                self.output = output;
                self.torn = false;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot reopen the access log, the old file stays in use");
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>) {
        static FAILED: RateLimited = RateLimited::new(tracing::Level::ERROR, "cannot write the access log");
        if batch.is_empty() {
            return;
        }
        let whole = write_whole(&mut *self.output.to, batch, &mut self.torn);
        if let Err((error, written)) = whole {
            let lost = memchr::memchr_iter(b'\n', &batch[written..]).count();
            self.backlog.drop_lines(self.stream, lost as u64);
            // To say on standard error that standard error can't be written helps nobody.
            if self.stream == Stream::Access {
                FAILED.warn(|skipped| tracing::error!(%error, skipped, "cannot write the access log"));
            }
        }
        batch.clear();
    }

    /// Tells of what was dropped, now that there is room again.
    fn tell(&mut self) {
        let dropped = self.backlog.dropped.load(Ordering::Relaxed);
        let is_new = dropped - self.told;
        if is_new > 0 && self.backlog.waiting.load(Ordering::Relaxed) < QUEUE / 2 {
            self.told = dropped;
            match self.stream {
                Stream::Access => tracing::warn!(dropped = is_new, "access records were dropped"),
                Stream::Events => tracing::warn!(dropped = is_new, "events were dropped"),
            }
        }
        if self.stream == Stream::Events {
            super::rate::tell_what_was_left_out(false);
        }
    }
}

/// Writes all of `bytes`, or says how many of them it has written. A line that was `torn` before is ended first.
fn write_whole(to: &mut dyn Write, bytes: &[u8], torn: &mut bool) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        let rest: &[u8] = if *torn { b"\n" } else { &bytes[written..] };
        match to.write(rest) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
            Ok(_) if *torn => *torn = false,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(PAUSE),
            Err(error) => {
                *torn |= written > 0 && bytes[written - 1] != b'\n';
                return Err((error, written));
            }
        }
    }
    to.flush().map_err(|error| (error, written))
}
