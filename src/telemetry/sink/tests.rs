//! Files that are written, rotated and changed.

use std::{
    fs,
    io::{BufRead, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::mpsc::sync_channel,
};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use super::*;
use crate::telemetry::{Kind, dropped, writer::QUEUE};

fn record() -> AccessRecord {
    AccessRecord::new(Kind::Exchange, "127.0.0.1:80".into(), "unix".into())
}

fn numbered(number: usize) -> AccessRecord {
    AccessRecord { request_id: number.to_string().into(), ..record() }
}

fn log(access: AccessLog, format: LogFormat) -> Log {
    Log { level: "info".into(), format, access, redact: Vec::new() }
}

fn to(path: &Path) -> Log {
    log(AccessLog::File(path.to_owned()), LogFormat::Json)
}

fn numbers(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).expect("a file");
    let value = |line| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    text.lines()
        .map(|line| value(line)["request_id"].as_str().expect("an id").parse().expect("a number"))
        .collect()
}

#[test]
fn lines_reach_the_file_before_flush_returns() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let sink = AccessSink::open(&to(&path)).expect("a sink");
    for number in 0..100 {
        sink.record(&numbered(number));
    }
    sink.flush();
    assert_eq!(numbers(&path), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_file_that_was_renamed_is_reopened_and_no_record_is_lost_or_written_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let sink = AccessSink::open(&to(&path)).expect("a sink");
    let old: Vec<_> = (0..8).map(|turn| folder.path().join(format!("access.log.{turn}"))).collect();
    for (turn, old) in old.iter().enumerate() {
        (0..500).for_each(|each| sink.record(&numbered(turn * 1_000 + each)));
        fs::rename(&path, old).expect("renamed");
        (500..1_000).for_each(|each| sink.record(&numbered(turn * 1_000 + each)));
        sink.reopen();
        sink.flush();
        assert!(path.exists(), "turn {turn}");
    }
    sink.record(&numbered(8_000));
    sink.flush();
    let all: Vec<_> = old.iter().chain([&path]).flat_map(|file| numbers(file)).collect();
    assert_eq!(all, (0..=8_000).collect::<Vec<_>>());
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, old) = (folder.path().join("access.log"), folder.path().join("old.log"));
    let sink = AccessSink::open(&to(&path)).expect("a sink");
    sink.record(&numbered(1));
    sink.flush();
    fs::rename(&path, &old).expect("renamed");
    fs::create_dir(&path).expect("a folder in its place");
    sink.reopen();
    sink.record(&numbered(2));
    sink.flush();
    assert_eq!(numbers(&old), [1, 2]);
}

#[test]
fn a_changed_log_holds_when_it_is_committed_and_no_sooner() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one.log"), folder.path().join("two.log"));
    let sink = AccessSink::open(&to(&one)).expect("a sink");
    let change = sink.reconfigure(&log(AccessLog::File(two.clone()), LogFormat::Text)).expect("a change");
    sink.record(&numbered(1));
    change.commit();
    sink.record(&numbered(2));
    sink.reconfigure(&log(AccessLog::Off, LogFormat::Json)).expect("a change").commit();
    assert!(!sink.is_on());
    sink.record(&numbered(3));
    sink.reconfigure(&to(&one)).expect("a change").commit();
    assert!(sink.is_on());
    sink.record(&numbered(4));
    sink.flush();
    assert_eq!(numbers(&one), [1, 4]);
    let text = fs::read_to_string(&two).expect("a file");
    assert!(text.lines().count() == 1 && text.ends_with(" id=2\n"), "{text}");
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let sink = AccessSink::open(&to(&path)).expect("a sink");
    let nowhere = AccessLog::File(folder.path().join("none/access.log"));
    assert!(matches!(sink.reconfigure(&log(nowhere, LogFormat::Text)), Err(LogError::Open(_))));
    let no_level = Log { level: "a=b=c".into(), ..to(&folder.path().join("other.log")) };
    assert!(matches!(sink.reconfigure(&no_level), Err(LogError::Level(_))));
    assert!(!folder.path().join("other.log").exists());
    sink.record(&numbered(1));
    sink.flush();
    assert_eq!(numbers(&path), [1]);
}

/// Says that it is asked to write, and waits until it may.
struct Gated {
    asked: std::sync::mpsc::SyncSender<()>,
    may: std::sync::mpsc::Receiver<()>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Either side of it ends with the test.
        let _ = self.asked.try_send(());
        let _ = self.may.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_hangs_costs_records_and_no_time() {
    let (asked, is_asked) = sync_channel(1);
    let (release, may) = sync_channel::<()>(0);
    let output = Output::new(Gated { asked, may });
    let sink = AccessSink::start(output, &AccessLog::Stdout, LogFormat::Text).expect("a sink");
    sink.record(&record());
    is_asked.recv().expect("it hangs in the first record");
    let long = AccessRecord { method: "GET".into(), target: "/x".repeat(QUEUE / 32).into(), ..record() };
    let before = dropped();
    for _ in 0..64 {
        sink.record(&long);
    }
    let Target::Lines(lines) = &*sink.target else { panic!("a writer") };
    assert!(lines.writer.waiting() <= QUEUE);
    assert!(lines.writer.dropped() >= 48, "{}", lines.writer.dropped());
    assert!(dropped().access >= before.access + 48);
    lines.writer.flush_within(Duration::from_millis(1));
    drop(release);
}

/// Takes some bytes, then fails as often as it is told, in the middle of a line.
struct Failing {
    room: usize,
    failures: usize,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 && self.failures > 0 {
            self.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = if self.failures > 0 { bytes.len().min(self.room) } else { bytes.len() };
        self.room = self.room.saturating_sub(count);
        self.written.lock().expect("no panic").extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_costs_the_lines_that_did_not_fit_and_no_others() {
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let output = Output::new(Failing { room: 10, failures: 2, written: Arc::clone(&written) });
    let sink = AccessSink::start(output, &AccessLog::Stdout, LogFormat::Text).expect("a sink");
    for number in 1..=4 {
        sink.record(&numbered(number));
        sink.flush();
    }
    let Target::Lines(lines) = &*sink.target else { panic!("a writer") };
    assert_eq!(lines.writer.dropped(), 2);
    let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0].len()), (3, 10), "{text}");
    assert!(lines[1].ends_with(" id=3") && lines[2].ends_with(" id=4"), "{text}");
}

#[test]
fn a_pipe_is_written_if_somebody_reads_it_and_refused_at_once_if_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a pipe");
    let opened = || {
        let (tell, told) = sync_channel(1);
        let path = path.clone();
        std::thread::spawn(move || tell.send(AccessSink::open(&to(&path))));
        told.recv_timeout(Duration::from_secs(20)).expect("an answer at once")
    };
    let told = opened().expect_err("nobody reads").to_string();
    assert!(told.contains("nobody reads"), "{told}");
    let at_once = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
    let reader = fs::OpenOptions::new().read(true).custom_flags(at_once).open(&path).expect("a reader");
    let sink = opened().expect("somebody reads");
    sink.record(&numbered(1));
    sink.flush();
    let mut line = String::new();
    std::io::BufReader::new(reader).read_line(&mut line).expect("a line");
    assert!(line.contains("\"request_id\":\"1\""), "{line}");
}
