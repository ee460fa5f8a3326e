//! The processes around the gate: who is started, killed and stopped when.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{
    Fallible, SERVERS, Scale,
    client::Kind,
    gate::{Gate, Rest},
    now,
};

/// Steady clients are in so many processes.
const STEADY_PROCESSES: usize = 4;
/// How long the last clients may take to finish.
const FINISHING: Duration = Duration::from_secs(120);

/// Something that was done to a process.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    /// When it was over, in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    /// Of the process.
    pub(crate) name: String,
}

/// What the crew did and said.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
    /// When servers were killed, in milliseconds since 1970, and where.
    pub(crate) fallen: Vec<(u64, SocketAddr)>,
    /// Client processes that were killed or stopped.
    pub(crate) deeds: Vec<Deed>,
    /// Processes that did not end as they should.
    pub(crate) failed: Vec<String>,
}

/// This program as a process in another role. It ends when this is dropped.
struct Member {
    process: Child,
    kind: Option<Kind>,
    name: String,
    said: Arc<Mutex<Vec<String>>>,
    hears: Option<JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Member {
    fn start(kind: Option<Kind>, name: String, arguments: &[String]) -> Fallible<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (writes, stdout) = (Arc::clone(&said), process.stdout.take().ok_or("no output")?);
        let hears = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writes.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { process, kind, name, said, hears: Some(hears) })
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn signal(&self, signal: Signal) -> Fallible<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    /// Ends it without a word. What it said before is heard to the end.
    fn kill(mut self) -> Fallible<Vec<String>> {
        self.process.kill()?;
        self.process.wait()?;
        self.hears.take().map(JoinHandle::join);
        Ok(self.said())
    }

    /// Waits for its end, which it knows of when its input is closed.
    async fn finish(mut self, due: Instant) -> Fallible<(Vec<String>, bool)> {
        drop(self.process.stdin.take());
        let mut status = self.process.try_wait()?;
        while status.is_none() && Instant::now() < due {
            sleep(Duration::from_millis(20)).await;
            status = self.process.try_wait()?;
        }
        if status.is_some() {
            self.hears.take().map(JoinHandle::join);
        }
        Ok((self.said(), status.is_some_and(|status| status.success())))
    }
}

/// A place for a server, whoever stands there.
struct Server {
    address: SocketAddr,
    generation: usize,
    member: Option<Member>,
}

/// All processes but the gate.
pub(crate) struct Crew {
    servers: Vec<Server>,
    clients: Vec<Member>,
    started: usize,
    told: Told,
}

impl Crew {
    pub(crate) async fn start_servers() -> Fallible<Self> {
        let mut crew = Self { servers: Vec::new(), clients: Vec::new(), started: 0, told: Told::default() };
        for place in 0..SERVERS {
            crew.servers.push(Server {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                generation: 0,
                member: None,
            });
            crew.raise(place).await?;
        }
        Ok(crew)
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Starts the server at a place, and waits until it listens.
    async fn raise(&mut self, place: usize) -> Fallible<()> {
        let server = &mut self.servers[place];
        server.generation += 1;
        let name = format!("{place}.{}", server.generation);
        let arguments = ["server".to_owned(), server.address.to_string(), name.clone()];
        let member = Member::start(None, name, &arguments)?;
        let due = Instant::now() + Duration::from_secs(10);
        server.address = loop {
            let said = member.said();
            if let Some(address) = said.iter().find_map(|line| line.strip_prefix("address ")) {
                break address.parse()?;
            }
            if Instant::now() > due {
                return Err(format!("a server does not listen at {}", server.address).into());
            }
            sleep(Duration::from_millis(10)).await;
        };
        server.member = Some(member);
        Ok(())
    }

    fn fell(&mut self, place: usize) -> Fallible<()> {
        if let Some(member) = self.servers[place].member.take() {
            self.told.fallen.push((now(), self.servers[place].address));
            self.told.lines.extend(member.kill()?);
        }
        Ok(())
    }

    fn start(&mut self, scale: &Scale, gate: &Gate, kind: Kind, count: usize) -> Fallible<()> {
        self.started += 1;
        let name = self.started.to_string();
        let arguments = [
            "clients".to_owned(),
            kind.name().to_owned(),
            name.clone(),
            count.to_string(),
            // An address of its own, with all of its ports.
            format!("127.1.{}.{}", self.started / 200, self.started % 200 + 1),
            gate.ws.to_string(),
            gate.wss.to_string(),
            gate.certificate(),
            scale.beat.as_millis().to_string(),
        ];
        self.clients.push(Member::start(Some(kind), name, &arguments)?);
        Ok(())
    }

    /// Some tunnels come and go, so that code and scratch buffers are in memory.
    pub(crate) async fn warm_up(&mut self, scale: &Scale, gate: &Gate) -> Fallible<()> {
        self.start(scale, gate, Kind::Steady, 50)?;
        self.start(scale, gate, Kind::Plain, 4)?;
        sleep(scale.beat * 3).await;
        let clients = std::mem::take(&mut self.clients);
        for member in clients {
            self.dismiss(member).await?;
        }
        Ok(())
    }

    pub(crate) fn start_clients(&mut self, scale: &Scale, gate: &Gate) -> Fallible<()> {
        for kind in Kind::ALL {
            let processes = if kind == Kind::Steady { STEADY_PROCESSES } else { 1 };
            for _ in 0..processes {
                self.start(scale, gate, kind, scale.clients(kind) / processes)?;
            }
        }
        Ok(())
    }

    /// Lets them talk, and goes through all kinds of trouble in turn. Returns the most that the gate had.
    pub(crate) async fn disturb(&mut self, scale: &Scale, gate: &Gate) -> Fallible<Rest> {
        let began = Instant::now();
        let mut most = Rest::default();
        let mut turn = 0;
        // Each round has four parts, and the last ends with the time.
        let part = (scale.lasts / 24).max(scale.lasts.min(Duration::from_secs(20)) / 4);
        while began.elapsed() + part / 2 < scale.lasts {
            let until = began + part * (turn + 1);
            while Instant::now() < until {
                sleep((until - Instant::now()).min(Duration::from_secs(1))).await;
                let now = gate.reading()?;
                most.memory = most.memory.max(now.memory);
                most.descriptors = most.descriptors.max(now.descriptors);
            }
            self.trouble(scale, gate, turn).await?;
            turn += 1;
        }
        Ok(most)
    }

    async fn trouble(&mut self, scale: &Scale, gate: &Gate, turn: u32) -> Fallible<()> {
        let place = turn as usize / 4 % SERVERS;
        match turn % 4 {
            0 => self.stop(Kind::Stopped)?,
            1 => self.fell(place)?,
            2 => {
                self.raise(place).await?;
                self.replace(scale, gate, Kind::Killed)?;
            }
            _ => self.replace(scale, gate, Kind::Stopped)?,
        }
        Ok(())
    }

    /// Stops the clients of a kind: they stay connected, and do nothing.
    fn stop(&mut self, kind: Kind) -> Fallible<()> {
        for member in self.clients.iter().filter(|member| member.kind == Some(kind)) {
            member.signal(Signal::STOP)?;
            self.told.deeds.push(Deed { at: now(), kind, name: member.name.clone() });
        }
        Ok(())
    }

    /// Kills the clients of a kind, and starts others.
    fn replace(&mut self, scale: &Scale, gate: &Gate, kind: Kind) -> Fallible<()> {
        let (gone, stay) =
            std::mem::take(&mut self.clients).into_iter().partition(|member| member.kind == Some(kind));
        self.clients = stay;
        let gone: Vec<Member> = gone;
        for member in gone {
            let name = member.name.clone();
            self.told.lines.extend(member.kill()?);
            self.told.deeds.push(Deed { at: now(), kind: Kind::Killed, name });
        }
        self.start(scale, gate, kind, scale.clients(kind))
    }

    async fn dismiss(&mut self, member: Member) -> Fallible<()> {
        let name = format!("{} {}", member.kind.map_or("server", Kind::name), member.name);
        let (lines, is_well) = member.finish(Instant::now() + FINISHING).await?;
        self.told.lines.extend(lines);
        if !is_well {
            self.told.failed.push(name);
        }
        Ok(())
    }

    /// Has all clients finish, then ends the servers. Returns all that was done and said.
    pub(crate) async fn finish(mut self) -> Fallible<Told> {
        let clients = std::mem::take(&mut self.clients);
        for member in &clients {
            if member.kind == Some(Kind::Stopped) {
                member.signal(Signal::CONT)?;
            }
        }
        let mut clients = clients;
        for member in &mut clients {
            drop(member.process.stdin.take());
        }
        for member in clients {
            self.dismiss(member).await?;
        }
        for place in 0..SERVERS {
            let killed = self.told.fallen.len();
            self.fell(place)?;
            self.told.fallen.truncate(killed);
        }
        Ok(self.told)
    }
}
