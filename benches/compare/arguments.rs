//! What the runner is asked to do.

use std::{path::PathBuf, str::FromStr};

use clap::Parser;

use crate::{
    Fallible,
    figures::Case,
    gates::{Kind, Program},
    process,
    scenario::Scenario,
};

/// Compares wsgate with nginx and HAProxy: processor time for each unit of work, rates, latency and memory
#[derive(Parser)]
#[command(name = "compare", disable_version_flag = true)]
pub(crate) struct Arguments {
    /// A whole run; without it, as under `cargo test`, all is only tried for a moment
    #[arg(long, hide = true)]
    bench: bool,
    /// How often each gate is measured in each scenario, in turn [default: 5; idle tunnels 3 at most]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each time [default: 3]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// These scenarios alone
    #[arg(long, value_name = "SCENARIO,..", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// These proxies alone
    #[arg(long, value_name = "GATE,..", value_delimiter = ',', default_value = "wsgate,nginx,haproxy")]
    gates: Vec<Kind>,
    /// Another build of wsgate; several, with names, are compared with each other
    #[arg(long, value_name = "[NAME=]PATH")]
    wsgate: Vec<Build>,
    /// Connections at once, in place of each scenario's own; several numbers give a row each
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    connections: Vec<usize>,
    /// Workers of each gate; several numbers give a row each
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "2")]
    workers: Vec<usize>,
    /// The cores of the gate, and of client and backend [default: the first two]
    #[arg(long, value_name = "GATE,LOAD", value_delimiter = ',', num_args = 2, conflicts_with = "unpinned")]
    cores: Vec<usize>,
    /// Let the kernel choose the cores
    #[arg(long)]
    unpinned: bool,
    /// Write all figures of all rounds to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the costs into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Clone)]
struct Build {
    name: String,
    path: PathBuf,
}

impl FromStr for Build {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or(("wsgate", text));
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

/// How long everything is, and how large.
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    pub(crate) rounds_of_idle: usize,
    pub(crate) seconds: f64,
    /// Seconds of traffic before the first figure is taken.
    pub(crate) warm_up: f64,
    /// How long after the last tunnel memory may still be given back, in seconds.
    pub(crate) giving_back: f64,
    /// Idle tunnels, where the scenario's own are too many.
    idle_tunnels: usize,
    pub(crate) is_whole: bool,
}

const WHOLE: Scale = Scale {
    rounds: 5,
    rounds_of_idle: 3,
    seconds: 3.0,
    warm_up: 0.5,
    giving_back: 5.0,
    idle_tunnels: usize::MAX,
    is_whole: true,
};

/// It shows that everything works, and its figures mean nothing.
const CHECK: Scale = Scale {
    rounds: 1,
    rounds_of_idle: 1,
    seconds: 0.2,
    warm_up: 0.1,
    giving_back: 0.0,
    idle_tunnels: 100,
    is_whole: false,
};

/// Where the processes run; `None` is anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) gate: Option<usize>,
    pub(crate) load: Option<usize>,
}

impl Arguments {
    pub(crate) fn scale(&self) -> Scale {
        let scale = if self.bench { WHOLE } else { CHECK };
        Scale {
            rounds: self.rounds.unwrap_or(scale.rounds).max(1),
            rounds_of_idle: self.rounds.unwrap_or(scale.rounds_of_idle).clamp(1, WHOLE.rounds_of_idle),
            seconds: self.seconds.unwrap_or(scale.seconds),
            ..scale
        }
    }

    pub(crate) fn cases(&self, scale: &Scale) -> Vec<Case> {
        let is_chosen = |scenario: &Scenario| self.only.is_empty() || self.only.contains(scenario);
        let mut cases = Vec::new();
        for scenario in Scenario::ALL.into_iter().map(|(_, scenario)| scenario).filter(is_chosen) {
            let most = if scenario.is_idle() { scale.idle_tunnels } else { usize::MAX };
            let usual = [scenario.connections().min(most)];
            let connections = if self.connections.is_empty() { &usual[..] } else { &self.connections };
            for &workers in &self.workers {
                cases.extend(connections.iter().map(|&connections| Case { scenario, connections, workers }));
            }
        }
        cases
    }

    /// The proxies in the order in which they take turns.
    pub(crate) fn programs(&self) -> Fallible<Vec<Program>> {
        let mut programs = Vec::new();
        for &kind in &self.gates {
            match kind {
                Kind::Wsgate if self.wsgate.is_empty() => {
                    programs.push(Program::build("wsgate", env!("CARGO_BIN_EXE_wsgate").as_ref())?);
                }
                Kind::Wsgate => {
                    for Build { name, path } in &self.wsgate {
                        programs.push(Program::build(name, path)?);
                    }
                }
                Kind::Nginx | Kind::Haproxy => programs.push(Program::installed(kind)?),
            }
        }
        for (place, program) in programs.iter().enumerate() {
            if programs.iter().skip(place + 1).any(|other| other.name == program.name) {
                return Err(format!("two gates are called {0}: --wsgate NAME=PATH", program.name).into());
            }
        }
        Ok(programs)
    }

    /// One core for the gate and one for all else, if there are two.
    pub(crate) fn cores(&self) -> Fallible<Cores> {
        if self.unpinned {
            return Ok(Cores { gate: None, load: None });
        }
        let own = if self.cores.is_empty() { process::cores()? } else { self.cores.clone() };
        Ok(match own[..] {
            [gate, load, ..] => Cores { gate: Some(gate), load: Some(load) },
            _ => Cores { gate: None, load: None },
        })
    }
}
