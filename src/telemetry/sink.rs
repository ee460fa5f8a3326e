//! Where access records go: a thread that writes them, so that a slow disk or terminal never holds a worker up.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tracing::Level;
use tracing_subscriber::EnvFilter;

use super::{
    AccessRecord, LogError, RateLimited, events,
    writer::{Output, Stream, Writer},
};
use crate::config::{AccessLog, Log, LogFormat};

/// How long the last records may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Takes access records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessSink {
    target: Arc<Target>,
}

#[derive(Debug)]
enum Target {
    Lines(Lines),
    Memory(Records),
}

#[derive(Debug)]
struct Lines {
    writer: Writer,
    is_on: AtomicBool,
    is_json: AtomicBool,
    /// What is open, by the configuration.
    access: Mutex<AccessLog>,
}

impl AccessSink {
    /// The sink that `log` describes.
    ///
    /// # Errors
    /// The file can't be opened, or the thread not started.
    pub fn open(log: &Log) -> io::Result<Self> {
        Self::start(output(&log.access)?, &log.access, log.format)
    }

    fn start(output: Output, access: &AccessLog, format: LogFormat) -> io::Result<Self> {
        let lines = Lines {
            writer: Writer::start(Stream::Access, output)?,
            is_on: AtomicBool::new(*access != AccessLog::Off),
            is_json: AtomicBool::new(format == LogFormat::Json),
            access: Mutex::new(access.clone()),
        };
        Ok(Self { target: Arc::new(Target::Lines(lines)) })
    }

    /// A sink that keeps the records, for tests.
    pub fn memory() -> (Self, Records) {
        let records = Records { kept: Arc::default(), changed: Arc::new(watch::Sender::new(())) };
        (Self { target: Arc::new(Target::Memory(records.clone())) }, records)
    }

    /// Whether records are written at all.
    pub fn is_on(&self) -> bool {
        match &*self.target {
            Target::Lines(lines) => lines.is_on.load(Ordering::Relaxed),
            Target::Memory(_) => true,
        }
    }

    /// Takes a record. Never blocks: past the bound of the queue it is dropped and counted.
    pub fn record(&self, record: &AccessRecord) {
        match &*self.target {
            Target::Lines(lines) if lines.is_on.load(Ordering::Relaxed) => lines.send(record),
            Target::Lines(_) => {}
            Target::Memory(records) => records.push(record.clone()),
        }
    }

    /// Waits until what was taken so far has been written, for 2 s at most.
    pub fn flush(&self) {
        if let Target::Lines(lines) = &*self.target {
            lines.writer.flush_within(FLUSH);
        }
    }

    /// Has the file opened anew, behind what was taken so far, so that it can be renamed before. Does not wait for it. If it
    /// can't be opened, the old one stays in use, and the log says so.
    pub fn reopen(&self) {
        if let Target::Lines(lines) = &*self.target {
            lines.writer.reopen();
        }
    }

    /// Prepares what `log` says of the access log and of events. Nothing changes before [`Reconfiguration::commit`].
    ///
    /// # Errors
    /// The level is no filter, or the file can't be opened.
    pub fn reconfigure(&self, log: &Log) -> Result<Reconfiguration, LogError> {
        let filter = events::parse_level(&log.level)?;
        let output = match &*self.target {
            Target::Lines(lines) if lines.access() != log.access => Some(output(&log.access)?),
            _ => None,
        };
        Ok(Reconfiguration { sink: self.clone(), output, filter, log: log.clone() })
    }
}

/// Where `access` goes.
fn output(access: &AccessLog) -> io::Result<Output> {
    Ok(match access {
        AccessLog::Off => Output::new(io::sink()),
        // Without the buffer of `io::stdout`, of which nobody knows what it has written.
        AccessLog::Stdout => Output::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        AccessLog::Stderr => Output::new(io::stderr()),
        AccessLog::File(path) => Output::file(path)?,
    })
}

/// What a changed `[log]` brings, opened and checked.
pub struct Reconfiguration {
    sink: AccessSink,
    /// `None` stays where it is.
    output: Option<Output>,
    filter: EnvFilter,
    log: Log,
}

impl Reconfiguration {
    /// Makes it hold: for events at once, for records behind those that were taken before.
    pub fn commit(self) {
        events::apply_level(&self.log.level, self.filter);
        events::apply_format(self.log.format);
        let Target::Lines(lines) = &*self.sink.target else { return };
        if let Some(output) = self.output {
            lines.writer.write_to(output);
            self.log.access.clone_into(&mut lines.access.lock().unwrap_or_else(PoisonError::into_inner));
        }
        lines.is_on.store(self.log.access != AccessLog::Off, Ordering::Relaxed);
        lines.is_json.store(self.log.format == LogFormat::Json, Ordering::Relaxed);
    }
}

impl Lines {
    fn access(&self) -> AccessLog {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, record: &AccessRecord) {
        static DROPPED: RateLimited = RateLimited::new(Level::WARN, "access records dropped");
        let line = if self.is_json.load(Ordering::Relaxed) {
            let mut line = Vec::with_capacity(512);
            record.write_json(&mut line);
            line.push(b'\n');
            line
        } else {
            let mut line = String::with_capacity(256);
            record.write_text(&mut line);
            line.push('\n');
            line.into_bytes()
        };
        if !self.writer.send(line) {
            let dropped = self.writer.dropped();
            DROPPED.warn(|_| {
                tracing::warn!(dropped, "access records dropped: the log can't be written fast enough");
            });
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
mod tests;
