//! The end of a test that would go on for ever. A timeout around each wait does not see a loop of waits.

use std::{
    io::{Write, stderr},
    panic::Location,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// Longer than any test has a gate on a busy machine, and far shorter than CI waits.
const LONGEST: Duration = Duration::from_secs(300);

/// Ends the process if it is not dropped in time, and says where it was made.
pub struct Watchdog {
    _kept: Sender<()>,
}

impl Watchdog {
    #[track_caller]
    pub fn new() -> Self {
        let (kept, gone) = channel();
        let (caller, test) = (Location::caller(), thread::current());
        thread::spawn(move || {
            if gone.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
                let test = test.name().unwrap_or("a test").to_owned();
                // Past the capture of a test's output, which would go down with the process.
                let _ = writeln!(stderr(), "\nfailed: {test} goes on for ever with the gate of {caller}");
                std::process::exit(101);
            }
        });
        Self { _kept: kept }
    }
}
