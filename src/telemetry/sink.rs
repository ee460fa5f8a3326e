//! Where access records go: a thread that writes them, so that a slow disk or terminal never holds a worker up.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{AccessRecord, RateLimited};
use crate::config::{AccessLog, Log, LogFormat};

/// Bytes of lines that wait for the writer; more are dropped and counted. Clients choose how long a line is, so lines
/// themselves are no measure.
const QUEUE: usize = 4 * 1024 * 1024;
/// Lines that one write takes at most.
const BATCH: usize = 1_024;
/// How long the last records may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Takes access records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessSink {
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Off,
    Writer(Arc<Writer>),
    Memory(Records),
}

#[derive(Debug)]
struct Writer {
    /// Without a bound of its own, so that an order to flush never waits behind lines that nobody writes.
    queue: Sender<Order>,
    /// Bytes of the lines in it.
    waiting: Arc<AtomicUsize>,
    format: LogFormat,
    dropped: AtomicU64,
    warning: RateLimited,
}

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl AccessSink {
    /// The sink that `log` describes.
    ///
    /// # Errors
    /// The file can't be opened, or the thread not started.
    pub fn open(log: &Log) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match &log.access {
            AccessLog::Off => return Ok(Self { target: Target::Off }),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::Stderr => Box::new(io::stderr()),
            // Not for everybody: records name clients and what they asked for.
            AccessLog::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).mode(0o640).open(path)?)
            }
        };
        Self::start(output, log.format)
    }

    fn start(output: Box<dyn Write + Send>, format: LogFormat) -> io::Result<Self> {
        let (queue, orders) = channel();
        let waiting = Arc::<AtomicUsize>::default();
        thread::Builder::new().name("wsgate-access".into()).spawn({
            let waiting = Arc::clone(&waiting);
            move || write_all(&orders, &waiting, output)
        })?;
        let (dropped, warning) = (AtomicU64::new(0), RateLimited::new());
        let writer = Writer { queue, waiting, format, dropped, warning };
        Ok(Self { target: Target::Writer(Arc::new(writer)) })
    }

    /// A sink that keeps the records, for tests.
    pub fn memory() -> (Self, Records) {
        let records = Records { kept: Arc::default(), changed: Arc::new(watch::Sender::new(())) };
        (Self { target: Target::Memory(records.clone()) }, records)
    }

    /// Whether records are written at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.target, Target::Off)
    }

    /// Records that were dropped so far, as they came faster than they were written.
    pub fn dropped(&self) -> u64 {
        match &self.target {
            Target::Writer(writer) => writer.dropped.load(Ordering::Relaxed),
            Target::Off | Target::Memory(_) => 0,
        }
    }

    /// Takes a record. Never blocks: past the bound of the queue it is dropped and counted.
    pub fn record(&self, record: &AccessRecord) {
        match &self.target {
            Target::Off => {}
            Target::Memory(records) => records.push(record.clone()),
            Target::Writer(writer) => writer.send(record),
        }
    }

    /// Waits until what was taken so far has been written, for 2 s at most.
    pub fn flush(&self) {
        self.flush_within(FLUSH);
    }

    fn flush_within(&self, patience: Duration) {
        if let Target::Writer(writer) = &self.target {
            let (done, written) = sync_channel(1);
            if writer.queue.send(Order::Flush(done)).is_ok() {
                // A writer that hangs must not keep the process from ending.
                let _ = written.recv_timeout(patience);
            }
        }
    }
}

impl Writer {
    fn send(&self, record: &AccessRecord) {
        let line = match self.format {
            LogFormat::Text => {
                let mut line = String::with_capacity(256);
                record.write_text(&mut line);
                line.push('\n');
                line.into_bytes()
            }
            LogFormat::Json => {
                let mut line = Vec::with_capacity(512);
                record.write_json(&mut line);
                line.push(b'\n');
                line
            }
        };
        let length = line.len();
        let fits = self.waiting.fetch_add(length, Ordering::Relaxed) + length <= QUEUE;
        if !fits || self.queue.send(Order::Line(line)).is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            self.warning.warn(|_| {
                tracing::warn!(dropped, "access records dropped: the log can't be written fast enough");
            });
        }
    }
}

/// Writes lines until every sink is gone: one write for all that wait.
fn write_all(orders: &Receiver<Order>, waiting: &AtomicUsize, mut output: Box<dyn Write + Send>) {
    let warning = RateLimited::new();
    let mut lines = Vec::new();
    let mut flushed = Vec::new();
    while let Ok(first) = orders.recv() {
        for order in std::iter::once(first).chain(orders.try_iter().take(BATCH)) {
            match order {
                Order::Line(line) => {
                    waiting.fetch_sub(line.len(), Ordering::Relaxed);
                    lines.extend_from_slice(&line);
                }
                Order::Flush(done) => flushed.push(done),
            }
        }
        if let Err(error) = output.write_all(&lines).and_then(|()| output.flush()) {
            warning.warn(|_| tracing::warn!(%error, "cannot write access records"));
        }
        lines.clear();
        for done in flushed.drain(..) {
            // Whoever waited may have given up.
            let _ = done.try_send(());
        }
    }
}

/// Records that were kept in memory.
#[derive(Debug, Clone)]
pub struct Records {
    kept: Arc<Mutex<Vec<AccessRecord>>>,
    changed: Arc<watch::Sender<()>>,
}

impl Records {
    fn push(&self, record: AccessRecord) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        self.changed.send_replace(());
    }

    /// All so far.
    pub fn all(&self) -> Vec<AccessRecord> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first record that `wanted` is true of. The caller bounds the time.
    pub async fn find(&self, wanted: impl Fn(&AccessRecord) -> bool) -> AccessRecord {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(record) = self.all().into_iter().find(&wanted) {
                return record;
            }
            // `self` holds the sender, so it can't be closed.
            let _ = changed.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Kind;

    fn record() -> AccessRecord {
        AccessRecord::new(Kind::Exchange, "127.0.0.1:80".into(), "unix".into())
    }

    #[test]
    fn lines_reach_the_file_before_flush_returns() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let log = Log {
            level: "info".into(),
            format: LogFormat::Json,
            access: AccessLog::File(path.clone()),
            redact: Vec::new(),
        };
        let sink = AccessSink::open(&log).expect("a sink");
        for _ in 0..100 {
            sink.record(&record());
        }
        sink.flush();
        let text = std::fs::read_to_string(path).expect("a file");
        assert_eq!(text.lines().count(), 100);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn a_writer_that_hangs_costs_records_and_no_time() {
        struct Hanging(std::sync::mpsc::Receiver<()>);
        impl Write for Hanging {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Returns when the test is over.
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, hang) = sync_channel(0);
        let sink = AccessSink::start(Box::new(Hanging(hang)), LogFormat::Text).expect("a sink");
        let long = AccessRecord { method: "GET".into(), target: "/x".repeat(QUEUE / 32).into(), ..record() };
        for _ in 0..64 {
            sink.record(&long);
        }
        let Target::Writer(writer) = &sink.target else { panic!("a writer") };
        assert!(writer.waiting.load(Ordering::Relaxed) <= QUEUE);
        assert!(writer.dropped.load(Ordering::Relaxed) >= 16);
        sink.flush_within(Duration::from_millis(1));
        drop(release);
    }
}
