//! Events: lines for people about what happens to wsgate as a whole, written by a thread.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::ParseError,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer as Text},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use super::{
    escape::escape_line,
    rate::{RateLimited, tell_what_was_left_out},
    writer::{Output, Stream, Writer},
};
use crate::config::{Log, LogFormat};

/// How long the last events may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(1);
/// The same for what led to a panic, which may not be the end.
const FLUSH_ON_PANIC: Duration = Duration::from_millis(100);

/// What is the same for all events of the process.
struct Events {
    writer: Writer,
    filter: reload::Handle<EnvFilter, Registry>,
    is_json: AtomicBool,
    /// Standard error is a terminal, where text has colours.
    has_colours: bool,
}

static EVENTS: OnceLock<Events> = OnceLock::new();
/// What [`set_level`] was given last.
static LEVEL: Mutex<String> = Mutex::new(String::new());

/// Why the log can't be as `[log]` says.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no tracing filter; the configuration check rules that out.
    #[error("log.level")]
    Level(#[from] ParseError),
    /// The file can't be opened, or the thread not started.
    #[error("cannot open the log")]
    Open(#[from] io::Error),
}

/// Writes events to standard error from now on, in the form and from the level that `log` says, and panics as events. A
/// second call changes nothing.
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = parse_level(&log.level)?;
    if EVENTS.get().is_some() {
        return Ok(());
    }
    let (filter, handle) = reload::Layer::new(filter);
    let events = Events {
        writer: Writer::start(Stream::Events, Output::new(io::stderr()))?,
        filter: handle,
        is_json: AtomicBool::new(log.format == LogFormat::Json),
        has_colours: io::stderr().is_terminal(),
    };
    let has_colours = events.has_colours;
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Form::new())
        .with_ansi(has_colours)
        .with_writer(|| Line);
    // Somebody may have set a subscriber before, as tests do: then that is who hears of events.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok()
        && EVENTS.set(events).is_ok()
    {
        remember_level(&log.level);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A filter may leave such events out, but a panic is told in any case.
            if tracing::enabled!(Level::ERROR) { tell_of_panic(panic) } else { usual(panic) }
        }));
    }
    Ok(())
}

/// Logs events from another level on; `level` is what `log.level` may be.
///
/// # Errors
/// It is no tracing filter. Nothing has changed then.
pub fn set_level(level: &str) -> Result<(), ParseError> {
    apply_level(level, parse_level(level)?);
    Ok(())
}

/// What [`set_level`] or the configuration said last.
pub fn level() -> String {
    LEVEL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(super) fn parse_level(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(level)
}

pub(super) fn apply_level(level: &str, filter: EnvFilter) {
    if let Some(events) = EVENTS.get() {
        // The subscriber stands as long as the process.
        let _ = events.filter.reload(filter);
    }
    remember_level(level);
}

fn remember_level(level: &str) {
    level.clone_into(&mut LEVEL.lock().unwrap_or_else(PoisonError::into_inner));
}

pub(super) fn apply_format(format: LogFormat) {
    if let Some(events) = EVENTS.get() {
        events.is_json.store(format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Waits until the events so far have been written, and how many were left out of them; for 2 s at most.
pub fn flush() {
    tell_what_was_left_out(true);
    if let Some(events) = EVENTS.get() {
        events.writer.flush_within(FLUSH);
        // What was dropped is told behind what was written.
        events.writer.flush_within(FLUSH);
    }
}

/// A panic is a line like others: in its form, and in its place among them.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    static PANICS: RateLimited = RateLimited::new(Level::ERROR, "panic");
    let literal = panic.payload().downcast_ref::<&str>().copied();
    let what = literal.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(tracing::field::display);
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(trace));
    let thread = thread::current();
    let thread = thread.name().unwrap_or_default();
    PANICS.warn(|skipped| tracing::error!(what, place, thread, backtrace = trace, skipped, "panic"));
    if let Some(events) = EVENTS.get() {
        // It may end the process.
        events.writer.flush_within(FLUSH_ON_PANIC);
    }
}

/// An event in the form that holds at the moment.
struct Form {
    text: Format<Full>,
    json: Format<Json>,
}

impl Form {
    fn new() -> Self {
        let json =
            Format::default().json().flatten_event(true).with_current_span(false).with_span_list(false);
        Self { text: Format::default(), json }
    }

    fn is_json() -> bool {
        EVENTS.get().is_some_and(|events| events.is_json.load(Ordering::Relaxed))
    }
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'fields> FormatFields<'fields> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, text: Text<'_>, event: &Event<'_>) -> fmt::Result {
        if Self::is_json() {
            self.json.format_event(cx, text, event)
        } else {
            self.text.format_event(cx, text, event)
        }
    }
}

/// Takes one line, which the formatter writes in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(events) = EVENTS.get() {
            let is_json = Form::is_json();
            // A line that is dropped is counted.
            events.writer.send(escape_line(line, is_json, events.has_colours && !is_json));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
