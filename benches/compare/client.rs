//! The clients of a gate: they put one scenario's load on it, in a closed loop, from one thread.
//!
//! `compare client SCENARIO --address A [--ca PEM] [--connections N] [--warm-up S] [--seconds S] [--source-addresses K]` opens its
//! connections, lets them go for half a second, unless told otherwise, and says `begin`. At a line on standard input it begins to
//! count, and after S seconds it says `end` with what it has counted, as JSON. All the while the load goes on, until another line or
//! the end of standard input. Idle tunnels are opened, then `begin` is said, and a line closes them.

mod arguments;
mod connection;
mod meter;
mod stream;
mod tls;
mod traffic;

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};
use slab::Slab;
use wsgate::lifecycle::raise_fd_limit;

use self::{
    arguments::Arguments,
    connection::{Connection, Next},
    meter::{Meter, Snapshot},
    stream::{Door, Scratch},
    traffic::Kit,
};
use crate::{Fallible, scenario::Scenario};

const ORDERS: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
/// Connections that are opened at once, and tunnels that are closed at once.
const AT_ONCE: u64 = 32;
const CLOSED_AT_ONCE: usize = 32;
/// How often all connections are looked at.
const SWEEP: Duration = Duration::from_millis(100);

/// Puts one scenario's load on a gate. The arguments are those after the role.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Fallible<()> {
    let arguments = Arguments::parse(arguments)?;
    raise_fd_limit();
    let mut client = Client::new(&arguments)?;
    let mut events = Events::with_capacity(EVENTS);
    while !matches!(client.stage, Stage::Over) {
        client.turn(&mut events)?;
    }
    Ok(())
}

enum Stage {
    /// Not all connections stand.
    Opening,
    Warming {
        until: Instant,
    },
    /// `begin` is said.
    Begun,
    Measuring {
        until: Instant,
        from: Snapshot,
    },
    /// Idle tunnels are being closed.
    Closing,
    /// `end` is said.
    Ended,
    Over,
}

struct Client {
    scenario: Scenario,
    wanted: usize,
    warm_up: Duration,
    length: Duration,
    poll: Poll,
    orders: Receiver<()>,
    /// Lines that have come and were not needed yet.
    lines: usize,
    door: Door,
    kit: Kit,
    connections: Slab<Connection>,
    /// Connections that were begun.
    begun: u64,
    /// Idle tunnels that are still to be closed.
    to_close: Vec<usize>,
    scratch: Scratch,
    meter: Meter,
    stage: Stage,
    next_sweep: Instant,
}

impl Client {
    fn new(arguments: &Arguments) -> Fallible<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), ORDERS)?;
        Ok(Self {
            scenario: arguments.scenario,
            wanted: arguments.connections,
            warm_up: arguments.warm_up,
            length: arguments.length,
            orders: hear(waker),
            lines: 0,
            door: Door::new(arguments, poll.registry().try_clone()?)?,
            poll,
            kit: Kit::new(arguments.scenario),
            connections: Slab::with_capacity(arguments.connections),
            begun: 0,
            to_close: Vec::new(),
            scratch: Scratch::new(),
            meter: Meter::new(),
            stage: Stage::Opening,
            next_sweep: Instant::now(),
        })
    }

    fn turn(&mut self, events: &mut Events) -> Fallible<()> {
        if matches!(self.stage, Stage::Opening) {
            self.open()?;
        }
        match self.poll.poll(events, Some(self.pause())) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let now = Instant::now();
        for event in events.iter() {
            let index = event.token().0;
            // One that has ended may still have an event; one that has come in its place takes no harm from it.
            if let Some(connection) = self.connections.get_mut(index)
                && connection.progress(event, now, &mut self.scratch, &mut self.meter)? == Next::Done
            {
                self.replace(index)?;
            }
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep(now)?;
        }
        self.listen();
        self.direct(now)
    }

    fn pause(&self) -> Duration {
        match self.stage {
            Stage::Measuring { until, .. } | Stage::Warming { until } => {
                until.saturating_duration_since(Instant::now()).min(SWEEP)
            }
            _ => SWEEP,
        }
    }

    /// Opens connections until all are there, a few at once.
    fn open(&mut self) -> Fallible<()> {
        while self.begun < self.meter.opened + AT_ONCE && self.connections.len() < self.wanted {
            self.open_one()?;
        }
        Ok(())
    }

    fn open_one(&mut self) -> Fallible<()> {
        let entry = self.connections.vacant_entry();
        let stream = self.door.connect(Token(entry.key()))?;
        entry.insert(Connection::new(stream, &self.kit));
        self.begun += 1;
        Ok(())
    }

    /// Another connection comes in the place of one that is done, unless that was to be closed.
    fn replace(&mut self, index: usize) -> Fallible<()> {
        self.connections.remove(index);
        if matches!(self.stage, Stage::Closing) { Ok(()) } else { self.open_one() }
    }

    fn sweep(&mut self, now: Instant) -> Fallible<()> {
        let mut done = Vec::new();
        for (index, connection) in &mut self.connections {
            if connection.check(now, &mut self.meter)? == Next::Done {
                done.push(index);
            }
        }
        done.into_iter().try_for_each(|index| self.replace(index))
    }

    /// Looks whether something has come on standard input.
    fn listen(&mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(()) => self.lines += 1,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stage = Stage::Over;
                    return;
                }
            }
        }
    }

    /// Goes on to the next stage where it is time.
    fn direct(&mut self, now: Instant) -> Fallible<()> {
        let is_idle = matches!(self.scenario, Scenario::Idle { .. });
        let next = match &self.stage {
            Stage::Opening if self.meter.opened >= self.wanted as u64 && !is_idle => {
                Stage::Warming { until: now + self.warm_up }
            }
            Stage::Opening if self.meter.opened >= self.wanted as u64 => say("begin", Stage::Begun)?,
            Stage::Warming { until } if now >= *until => say("begin", Stage::Begun)?,
            Stage::Begun if self.lines > 0 => {
                self.lines -= 1;
                self.begin(is_idle)
            }
            Stage::Measuring { until, from } if now >= *until => {
                let said = self.meter.report(from, self.scenario);
                say(&format!("end {said}"), Stage::Ended)?
            }
            Stage::Closing => self.close()?,
            Stage::Ended if self.lines > 0 => Stage::Over,
            _ => return Ok(()),
        };
        self.stage = next;
        Ok(())
    }

    /// Begins with what is measured.
    fn begin(&mut self, is_idle: bool) -> Stage {
        if is_idle {
            self.to_close = self.connections.iter().map(|(index, _)| index).collect();
            return Stage::Closing;
        }
        let from = self.meter.begin();
        Stage::Measuring { until: from.at() + self.length, from }
    }

    /// Closes tunnels, a few at once.
    fn close(&mut self) -> Fallible<Stage> {
        while self.connections.len() - self.to_close.len() < CLOSED_AT_ONCE
            && let Some(index) = self.to_close.pop()
        {
            self.connections[index].leave(&mut self.scratch)?;
        }
        if self.connections.is_empty() { say("end {}", Stage::Ended) } else { Ok(Stage::Closing) }
    }
}

/// Says something to whoever started this.
fn say(line: &str, next: Stage) -> Fallible<Stage> {
    println!("{line}");
    io::stdout().flush()?;
    Ok(next)
}

/// Hears the lines on standard input, until it ends.
fn hear(waker: Waker) -> Receiver<()> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for _ in io::stdin().lines().map_while(Result::ok) {
            if sender.send(()).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(sender);
        // The client may be gone, and needs no waking.
        let _ = waker.wake();
    });
    orders
}
