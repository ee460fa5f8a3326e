//! The program as a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;

use super::soon;

/// `wsgate run` in a folder, which it has to itself. Ended with its drop.
pub struct Program {
    child: Child,
    pub address: SocketAddr,
    folder: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
    /// Ends when it has said all that it will.
    hearing: JoinHandle<()>,
}

impl Program {
    /// Runs what `toml` describes, with events and access records as JSON, the latter in `access.log`, and with so many
    /// file descriptors. `toml` must not have `[log]`. Waits until it tells where it listens.
    pub async fn start(folder: &Path, toml: &str, descriptors: Option<u32>) -> Self {
        let mut this = Self::spawn(folder, toml, descriptors);
        let listening = this.says("where it listens", |event| event["message"] == "listening").await;
        this.address = listening["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        this
    }

    /// [`Self::start`] that waits for nothing, so that there is no address yet.
    pub fn spawn(folder: &Path, toml: &str, descriptors: Option<u32>) -> Self {
        let limit = descriptors.map_or_else(String::new, |count| format!("ulimit -n {count}; "));
        Self::spawn_by(folder, toml, &limit, |_| ())
    }

    /// [`Self::spawn`] after these words of the shell, which becomes the program, and with what `prepare` changes.
    pub fn spawn_by(folder: &Path, toml: &str, words: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let log = "[log]\nformat = \"json\"\naccess = \"access.log\"\n";
        fs::write(folder.join("proxy.toml"), [log, toml].concat()).expect("a file");
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{words}exec \"$0\" run"), env!("CARGO_BIN_EXE_wsgate")])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("a shell");
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (hears, stderr) = (Arc::clone(&said), child.stderr.take().expect("a pipe"));
        let hearing = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                hears.lock().expect("no panic").push(line);
            }
        });
        Self { child, address: ([0; 4], 0).into(), folder: folder.to_owned(), said, hearing }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The events so far.
    pub fn said(&self) -> Vec<Value> {
        let said = self.said.lock().expect("no panic");
        said.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| Value::from(&**line))).collect()
    }

    /// Waits for an event.
    #[track_caller]
    pub fn says(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        soon(what, async move {
            loop {
                if let Some(event) = self.said().into_iter().find(&wanted) {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it this.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running program");
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("a running program");
    }

    /// Waits for its end, and for all that it says before. Returns its exit code.
    #[track_caller]
    pub fn ended(&mut self) -> impl Future<Output = Option<i32>> {
        soon("the program to end", async move {
            loop {
                let status = self.child.try_wait().expect("a child");
                if let Some(status) = status.filter(|_| self.hearing.is_finished()) {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    /// The access records so far, as text.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.join("access.log")).expect("an access log")
    }

    /// The access records so far.
    pub fn records(&self) -> Vec<Value> {
        self.access_log().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // What a drain would wait for may be waiting for this thread.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Raises the limit of file descriptors of this process, which must allow so many.
#[track_caller]
pub fn need_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|most| most >= count),
        "this test needs {count} file descriptors: `ulimit -Hn` is {:?}",
        limit.maximum
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("a limit");
}
