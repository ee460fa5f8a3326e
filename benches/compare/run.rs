//! Starts the gates, the backend and the client, and measures.

use std::{
    ffi::OsString,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Parser;
use wsgate::lifecycle::raise_fd_limit;

use crate::{
    Fallible,
    arguments::{Arguments, Cores, Scale},
    figures::{Case, Comparison, Detail, Load, Row, Said, Sample},
    gates::{Gate, Identities, Program, Setting},
    machine, plot,
    process::{Dialogue, Process, pause},
    record,
    scenario::Scenario,
    table,
};

/// How long the backend may take until it listens.
const LISTENING: Duration = Duration::from_secs(10);
/// How long the client may take until all its connections are open, or closed.
const OPENING: Duration = Duration::from_secs(120);
/// Beyond the time that it measures.
const MEASURING: Duration = Duration::from_secs(20);
/// Tunnels that are opened and closed before the memory is first read, so that code and scratch buffers are in it by then.
const WARM_UP: usize = 50;
/// The memory is at rest when it has not changed in so many readings, this far apart.
const READINGS: usize = 5;
const BETWEEN_READINGS: Duration = Duration::from_millis(100);
/// How long it may take until it is at rest.
const SETTLING: Duration = Duration::from_secs(5);

/// Measures what the arguments say, and prints it.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Fallible<()> {
    let arguments = Arguments::parse_from(std::iter::once("compare".to_owned()).chain(arguments));
    raise_fd_limit();
    let scale = arguments.scale();
    let runner = Runner {
        programs: arguments.programs()?,
        cores: arguments.cores()?,
        identities: Identities::make()?,
        scale,
    };
    let about = machine::describe(&runner.programs, runner.cores, &runner.scale)?;
    let mut comparison = Comparison { about, rows: Vec::new(), is_whole: runner.scale.is_whole };
    let mut ended = Ok(());
    for case in arguments.cases(&runner.scale) {
        match runner.measure(case) {
            Ok(rows) => comparison.rows.extend(rows),
            Err(error) => {
                ended = Err(format!("{}: {error}", case.name()).into());
                break;
            }
        }
    }
    // What was measured before an error is not lost.
    print!("{}", table::print(&comparison));
    if let Some(file) = &arguments.json {
        record::write(&comparison, file)?;
    }
    if let Some(file) = &arguments.svg {
        plot::write(&comparison, file)?;
    }
    ended
}

struct Runner {
    programs: Vec<Program>,
    cores: Cores,
    identities: Identities,
    scale: Scale,
}

impl Runner {
    /// All rounds of a case: a row for each gate.
    fn measure(&self, case: Case) -> Fallible<Vec<Row>> {
        let rounds = match case.scenario {
            Scenario::Idle { .. } => self.idle_rounds(case)?,
            _ => self.load_rounds(case)?,
        };
        let row = |(place, program): (usize, &Program)| Row {
            case,
            program: program.clone(),
            samples: rounds.iter().map(|round| round[place].clone()).collect(),
        };
        Ok(self.programs.iter().enumerate().map(row).collect())
    }

    /// The gates take turns, and each is there through all rounds.
    fn load_rounds(&self, case: Case) -> Fallible<Vec<Vec<Sample>>> {
        let backend = Backend::start(self.cores)?;
        let mut gates = Vec::new();
        for program in &self.programs {
            gates.push((program, self.start(program, case, backend.address)?));
        }
        let mut rounds = Vec::new();
        for number in 1..=self.scale.rounds {
            let mut round = Vec::new();
            for (program, gate) in &gates {
                let sample = self.load_sample(gate, &backend, case);
                round.push(sample.map_err(|error| gate.explain(&program.name, &*error))?);
            }
            self.tell(case, number, &round);
            rounds.push(round);
        }
        backend.dialogue.end()?;
        Ok(rounds)
    }

    /// Each gate is started anew for each round: what it keeps of an earlier one is no part of the next one's figures.
    fn idle_rounds(&self, case: Case) -> Fallible<Vec<Vec<Sample>>> {
        let mut rounds = Vec::new();
        for number in 1..=self.scale.rounds_of_idle {
            let mut round = Vec::new();
            for program in &self.programs {
                let backend = Backend::start(self.cores)?;
                let gate = self.start(program, case, backend.address)?;
                let sample = self.idle_sample(&gate, case);
                round.push(sample.map_err(|error| gate.explain(&program.name, &*error))?);
                backend.dialogue.end()?;
            }
            self.tell(case, number, &round);
            rounds.push(round);
        }
        Ok(rounds)
    }

    fn start(&self, program: &Program, case: Case, backend: SocketAddr) -> Fallible<Gate> {
        let Case { connections, workers, .. } = case;
        let setting = Setting { workers, connections, backend, core: self.cores.gate };
        Gate::start(program, &setting, &self.identities)
    }

    /// Says how far it is.
    fn tell(&self, case: Case, number: usize, round: &[Sample]) {
        let costs = self.programs.iter().zip(round);
        let costs: Vec<String> =
            costs.map(|(program, sample)| format!("{} {:.1}", program.name, sample.cost)).collect();
        eprintln!("{} {number}: {}", case.name(), costs.join(", "));
    }

    fn client(&self, gate: &Gate, case: Case) -> Fallible<Dialogue> {
        let certificate = case.scenario.certificate();
        let mut arguments: Vec<OsString> = vec![
            case.scenario.name().into(),
            "--address".into(),
            gate.address(certificate).to_string().into(),
            "--connections".into(),
            case.connections.to_string().into(),
            "--warm-up".into(),
            self.scale.warm_up.to_string().into(),
            "--seconds".into(),
            self.scale.seconds.to_string().into(),
        ];
        if let Some(certificate) = certificate {
            arguments.extend(["--ca".into(), gate.authority(certificate).into()]);
        }
        Dialogue::start(self.cores.load, "client", &arguments)
    }

    /// Traffic flows before, between and after the two readings of the clocks. The processor time of a second is taken between these,
    /// and the units of a second are the client's: so it does not matter that neither begins and ends at once with the other.
    fn load_sample(&self, gate: &Gate, backend: &Backend, case: Case) -> Fallible<Sample> {
        let mut client = self.client(gate, case)?;
        client.hear("begin", OPENING)?;
        let before = Clocks::read(&gate.process, &backend.dialogue.process)?;
        client.tell("go")?;
        let end = client.hear("end", Duration::from_secs_f64(self.scale.seconds) + MEASURING)?;
        let after = Clocks::read(&gate.process, &backend.dialogue.process)?;
        client.end()?;
        let said: Said = serde_json::from_str(&end).map_err(|error| format!("{end}: {error}"))?;
        let rate = said.units / said.seconds;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(format!("the client did nothing: {end}").into());
        }
        let lasted = after.instant.duration_since(before.instant).as_secs_f64();
        let gate = after.gate.saturating_sub(before.gate).as_secs_f64() / lasted;
        let backend = after.backend.saturating_sub(before.backend).as_secs_f64() / lasted;
        let client = said.cpu_seconds / said.seconds;
        let detail = Detail::Load(Load { rate, gate, client, backend, said });
        Ok(Sample { cost: gate * 1e6 / rate, detail })
    }

    fn idle_sample(&self, gate: &Gate, case: Case) -> Fallible<Sample> {
        let descriptors = gate.process.descriptors();
        let mut warm_up = self.client(gate, Case { connections: WARM_UP.min(case.connections), ..case })?;
        warm_up.hear("begin", OPENING)?;
        leave(warm_up)?;
        empties(&gate.process, descriptors);
        let before = at_rest(&gate.process)?;
        let mut client = self.client(gate, case)?;
        client.hear("begin", OPENING)?;
        let open = at_rest(&gate.process)?;
        leave(client)?;
        empties(&gate.process, descriptors);
        pause(Duration::from_secs_f64(self.scale.giving_back));
        let closed = bytes(gate.process.memory()?);
        let detail = Detail::Idle { given_back: (open - closed) / (open - before) };
        #[expect(clippy::cast_precision_loss, reason = "there are some thousands")]
        let tunnels = case.connections as f64;
        Ok(Sample { cost: (open - before) / tunnels, detail })
    }
}

/// Lets a client close its idle tunnels and end.
fn leave(mut client: Dialogue) -> Fallible<()> {
    client.tell("close")?;
    client.hear("end", OPENING)?;
    client.end()
}

struct Backend {
    dialogue: Dialogue,
    address: SocketAddr,
}

impl Backend {
    fn start(cores: Cores) -> Fallible<Self> {
        let mut dialogue = Dialogue::start(cores.load, "backend", &[])?;
        let address = dialogue.hear("listening", LISTENING)?.parse()?;
        Ok(Self { dialogue, address })
    }
}

struct Clocks {
    instant: Instant,
    gate: Duration,
    backend: Duration,
}

impl Clocks {
    fn read(gate: &Process, backend: &Process) -> Fallible<Self> {
        Ok(Self { gate: gate.cpu()?, instant: Instant::now(), backend: backend.cpu()? })
    }
}

#[expect(clippy::cast_precision_loss, reason = "the memory of a process is far below 2^52")]
fn bytes(memory: u64) -> f64 {
    memory as f64
}

/// The memory when it does not change any more.
fn at_rest(process: &Process) -> Fallible<f64> {
    let due = Instant::now() + SETTLING;
    let (mut last, mut same) = (process.memory()?, 0);
    while same < READINGS && Instant::now() < due {
        pause(BETWEEN_READINGS);
        let now = process.memory()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(bytes(last))
}

/// Waits until it has no more descriptors than this. One that keeps some for later is not waited for.
fn empties(process: &Process, descriptors: usize) {
    let due = Instant::now() + SETTLING;
    while process.descriptors() > descriptors && Instant::now() < due {
        pause(BETWEEN_READINGS);
    }
}
