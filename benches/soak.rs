//! Five thousand mixed tunnels for some minutes, while servers fall and clients leave in every bad way.
//!
//! `cargo bench --bench soak` starts wsgate, servers and clients as processes of their own and lets them talk for 180 s;
//! `-- --seconds N` and `-- --tunnels N` change that, and `-- --wsgate PATH` tries another build. Meanwhile servers are killed and
//! started again, clients reset their tunnels, stop reading, are killed or stopped, and others send plain requests. Without `--bench`,
//! as `cargo test --bench soak` runs it, it is a check that all of this works, with 150 tunnels for some seconds.
//!
//! What must be true in the end: every message of a tunnel that nobody cut has arrived, once, in order and unaltered; what was cut
//! ended in time, and nothing else did; each tunnel has its two records; file descriptors and memory are back where they were, but for a few pipes
//! that workers keep; and
//! wsgate ends at once with nothing open. Else the program ends with 1.
//!
//! Client, server and gate are on this machine.

#[path = "soak/backend.rs"]
mod backend;
#[path = "soak/client.rs"]
mod client;
#[path = "soak/crew.rs"]
mod crew;
#[path = "soak/gate.rs"]
mod gate;
#[path = "soak/head.rs"]
mod head;
#[path = "soak/judge.rs"]
mod judge;
#[path = "soak/wire.rs"]
mod wire;

use std::{
    error::Error,
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use tokio::{runtime, time::sleep};
use wsgate::lifecycle::raise_fd_limit;

use self::{
    client::{Kind, Party},
    crew::Crew,
    gate::Gate,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Servers, of which one is down now and then.
const SERVERS: usize = 4;
/// Descriptors of the gate are 20,000 in most places, and each tunnel needs two.
const TUNNELS: usize = 5_000;
const SECONDS: u64 = 180;

/// Milliseconds since 1970, by which processes agree on what came first.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn main() -> ExitCode {
    match choose(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes what the arguments say. Returns whether all was as it must be.
fn choose(arguments: &[String]) -> Fallible<bool> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", address, name] => {
            raise_fd_limit();
            runtime.block_on(backend::run(address.parse()?, name.to_owned()))?;
        }
        ["clients", kind, name, count, source, ws, wss, certificate, beat] => {
            raise_fd_limit();
            runtime.block_on(client::run(Party {
                kind: kind.parse()?,
                name: name.to_owned(),
                count: count.parse()?,
                source: source.parse()?,
                ws: ws.parse()?,
                wss: wss.parse()?,
                certificate: fs::read(certificate)?,
                beat: Duration::from_millis(beat.parse()?),
            }))?;
        }
        _ => return runtime.block_on(soak(&Scale::parse(&arguments)?)),
    }
    Ok(true)
}

/// How much, how long, and at which pace.
pub(crate) struct Scale {
    pub(crate) tunnels: usize,
    pub(crate) lasts: Duration,
    /// Mean time between two messages of a client.
    pub(crate) beat: Duration,
    /// wsgate's `ping_interval`, `pong_timeout` and `write`, in seconds.
    pub(crate) ping: u64,
    pub(crate) pong: u64,
    pub(crate) write: u64,
    /// What a busy machine may add to a deadline.
    pub(crate) slack: Duration,
    pub(crate) wsgate: PathBuf,
}

impl Scale {
    fn parse(arguments: &[&str]) -> Fallible<Self> {
        let mut scale = Self {
            tunnels: 150,
            lasts: Duration::from_secs(20),
            beat: Duration::from_millis(1200),
            ping: 1,
            // Long for a client, and not for one that waits its turn on a busy machine.
            pong: 10,
            write: 2,
            slack: Duration::from_secs(10),
            wsgate: env!("CARGO_BIN_EXE_wsgate").into(),
        };
        let mut given = arguments.iter();
        while let Some(argument) = given.next() {
            match (*argument, &mut given) {
                // Cargo says this, and before all others that are given.
                ("--bench", _) => {
                    let lasts = Duration::from_secs(SECONDS);
                    let beat = Duration::from_secs(4);
                    scale = Self { tunnels: TUNNELS, lasts, beat, ping: 3, pong: 10, write: 5, ..scale };
                }
                ("--seconds", rest) => {
                    scale.lasts = Duration::from_secs(rest.next().ok_or("--seconds N")?.parse()?);
                }
                ("--tunnels", rest) => scale.tunnels = rest.next().ok_or("--tunnels N")?.parse()?,
                ("--wsgate", rest) => scale.wsgate = rest.next().ok_or("--wsgate PATH")?.into(),
                (other, _) => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(scale)
    }

    /// How many clients of a kind there are.
    fn clients(&self, kind: Kind) -> usize {
        let percent = match kind {
            Kind::Steady => 76,
            Kind::Rude => 10,
            Kind::Stuck => 2,
            Kind::Killed | Kind::Stopped => 6,
            // Beside the tunnels.
            Kind::Plain => 1,
        };
        (self.tunnels * percent / 100).max(2)
    }

    /// The time in which what was cut must have ended.
    fn deadline(&self, kind: Kind) -> Duration {
        let seconds = match kind {
            // Two periods at most, and before them what the kernel takes.
            Kind::Stuck => 3 * self.write + self.ping,
            Kind::Stopped => self.ping + self.pong + 2 * self.write,
            _ => 0,
        };
        Duration::from_secs(seconds) + self.slack
    }
}

async fn soak(scale: &Scale) -> Fallible<bool> {
    raise_fd_limit();
    let mut crew = Crew::start_servers().await?;
    let gate = Gate::start(scale, &crew.addresses()).await?;
    crew.warm_up(scale, &gate).await?;
    sleep(gate::GIVING_BACK).await;
    let start = gate.at_rest().await?;
    println!(
        "{} tunnels for {} s through {}, whose memory is {} KiB",
        scale.tunnels,
        scale.lasts.as_secs(),
        scale.wsgate.display(),
        start.memory / 1024
    );
    crew.start_clients(scale, &gate)?;
    let most = crew.disturb(scale, &gate).await?;
    let told = crew.finish().await?;
    let end = gate.empties(&start).await?;
    sleep(gate::GIVING_BACK).await;
    let end = gate::Rest { memory: gate.memory()?, ..end };
    let ended = gate.end().await?;
    judge::judge(scale, &told, &ended, &start, &most, &end)
}
