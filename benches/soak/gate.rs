//! wsgate as a process, and what the kernel knows of it.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rcgen::CertifiedKey;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{Fallible, Scale};

/// How long after the last tunnel memory may still be given back.
pub(crate) const GIVING_BACK: Duration = Duration::from_secs(5);
/// How long after the last client all descriptors must be back; idle upstream connections take 4 s of it.
const EMPTYING: Duration = Duration::from_secs(30);
/// How long a process with nothing open may take to end.
const ENDING: Duration = Duration::from_secs(10);
/// The memory is at rest when it has not changed in so many readings, this far apart.
const READINGS: usize = 10;
const BETWEEN_READINGS: Duration = Duration::from_millis(100);

/// What the process has.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rest {
    /// Its own memory and its share of what others have too (Pss), in bytes.
    pub(crate) memory: u64,
    /// Of files, sockets and the rest, but for pipes.
    pub(crate) descriptors: usize,
    /// Descriptors of pipes. A worker keeps some for large frames.
    pub(crate) pipes: usize,
}

/// What it left behind.
pub(crate) struct Ended {
    /// Access records.
    pub(crate) records: Vec<Value>,
    /// What it said.
    pub(crate) events: Vec<Value>,
    pub(crate) code: Option<i32>,
}

/// It ends when this is dropped.
pub(crate) struct Gate {
    process: Child,
    folder: TempDir,
    pub(crate) ws: SocketAddr,
    pub(crate) wss: SocketAddr,
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gate {
    pub(crate) async fn start(scale: &Scale, servers: &[SocketAddr]) -> Fallible<Self> {
        let folder = tempfile::tempdir()?;
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(folder.path().join("gate.crt"), cert.pem())?;
        fs::write(folder.path().join("gate.key"), signing_key.serialize_pem())?;
        let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        let Scale { ping, pong, write, .. } = scale;
        let text = format!(
            "[server]\nworkers = 2\n[log]\nformat = \"json\"\naccess = \"access.log\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntimeout.write = \"{write}s\"\n\
             [[listener]]\naddress = \"127.0.0.2:0\"\ntimeout.write = \"{write}s\"\n\
             tls = {{ cert = \"gate.crt\", key = \"gate.key\" }}\n\
             [upstream.a]\nservers = [{}]\nhealth = {{ check = \"tcp\", interval = \"1s\" }}\n\
             [[route]]\nupstream = \"a\"\n\
             websocket = {{ ping_interval = \"{ping}s\", pong_timeout = \"{pong}s\", half_close_timeout = \"5s\" }}\n",
            servers.join(", ")
        );
        fs::write(folder.path().join("proxy.toml"), text)?;
        let process = Command::new(fs::canonicalize(&scale.wsgate)?)
            .arg("run")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("gate.log"))?)
            .spawn()?;
        let anywhere = SocketAddr::from(([0; 4], 0));
        let mut gate = Self { process, folder, ws: anywhere, wss: anywhere };
        (gate.ws, gate.wss) = gate.listens().await?;
        Ok(gate)
    }

    /// The certificate's path.
    pub(crate) fn certificate(&self) -> String {
        self.folder.path().join("gate.crt").display().to_string()
    }

    async fn listens(&mut self) -> Fallible<(SocketAddr, SocketAddr)> {
        let due = Instant::now() + ENDING;
        loop {
            let events = self.events()?;
            let addresses = events.iter().filter(|event| event["message"] == "listening");
            let addresses: Vec<SocketAddr> =
                addresses.filter_map(|event| event["address"].as_str()?.parse().ok()).collect();
            if let [ws, wss] = addresses[..] {
                return Ok((ws, wss));
            }
            if self.process.try_wait()?.is_some() || Instant::now() > due {
                return Err(format!("wsgate does not listen: {events:?}").into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn lines(&self, name: &str) -> io::Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.path().join(name))?;
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        Ok(lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| Value::from(line))).collect())
    }

    fn events(&self) -> io::Result<Vec<Value>> {
        self.lines("gate.log")
    }

    pub(crate) fn memory(&self) -> Fallible<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
        let kib: u64 = pss.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kib * 1024)
    }

    /// What is open but for pipes, and the pipes.
    fn descriptors(&self) -> io::Result<(usize, usize)> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.process.id()))?;
        // One that was closed meanwhile was no pipe that is kept.
        let is_pipe =
            |path: &Path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
        let (pipes, others): (Vec<_>, Vec<_>) =
            open.filter_map(Result::ok).map(|entry| is_pipe(&entry.path())).partition(|is_pipe| *is_pipe);
        Ok((others.len(), pipes.len()))
    }

    pub(crate) fn reading(&self) -> Fallible<Rest> {
        let (descriptors, pipes) = self.descriptors()?;
        Ok(Rest { memory: self.memory()?, descriptors, pipes })
    }

    /// A reading, when nothing changes any more.
    pub(crate) async fn at_rest(&self) -> Fallible<Rest> {
        let due = Instant::now() + EMPTYING;
        let (mut last, mut same) = (self.reading()?, 0);
        while same < READINGS && Instant::now() < due {
            sleep(BETWEEN_READINGS).await;
            let now = self.reading()?;
            same =
                if (now.memory, now.descriptors) == (last.memory, last.descriptors) { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Waits until it has no more descriptors than at the start, or should have.
    pub(crate) async fn empties(&self, start: &Rest) -> Fallible<Rest> {
        let due = Instant::now() + EMPTYING;
        while self.descriptors()?.0 > start.descriptors && Instant::now() < due {
            sleep(BETWEEN_READINGS).await;
        }
        self.reading()
    }

    /// Tells it to end, and waits for that.
    pub(crate) async fn end(mut self) -> Fallible<Ended> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let due = Instant::now() + ENDING;
        let status = loop {
            match self.process.try_wait()? {
                None if Instant::now() < due => sleep(Duration::from_millis(10)).await,
                status => break status,
            }
        };
        let code = status.and_then(|status| status.code());
        Ok(Ended { records: self.lines("access.log")?, events: self.events()?, code })
    }
}
