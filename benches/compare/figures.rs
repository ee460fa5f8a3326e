//! What was measured, and what is wanted of it.

use serde::Deserialize;

use crate::{
    gates::{Kind, Program},
    scenario::{Certificate, Scenario},
};

/// Costs of which the middle half lies so far apart, as a share of the median, are called noisy.
const NOISY: f64 = 0.1;

/// One line of the comparison: what all gates go through in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) scenario: Scenario,
    pub(crate) connections: usize,
    pub(crate) workers: usize,
}

impl Case {
    /// Whether it is the one that the targets are about. Of few idle tunnels, what a process has once is too large a part.
    fn is_usual(&self) -> bool {
        let usual = self.scenario.connections();
        let is_many = self.scenario.is_idle() && self.connections > usual;
        self.workers == 2 && (self.connections == usual || is_many)
    }

    /// Its name, with what is unusual.
    pub(crate) fn name(&self) -> String {
        if self.workers == 2 && self.connections == self.scenario.connections() {
            return self.scenario.name().to_owned();
        }
        format!("{} ({} connections, {} workers)", self.scenario, self.connections, self.workers)
    }
}

/// What one gate did in one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Microseconds of the gate's processor time per unit; bytes of its memory for each tunnel where these are idle.
    pub(crate) cost: f64,
    pub(crate) detail: Detail,
}

#[derive(Clone, Debug)]
pub(crate) enum Detail {
    Load(Load),
    /// Share of the tunnels' memory that came back when they had closed.
    Idle {
        given_back: f64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Units per second.
    pub(crate) rate: f64,
    /// Processor time of a second, in seconds: the gate's, the client's, the backend's.
    pub(crate) gate: f64,
    pub(crate) client: f64,
    pub(crate) backend: f64,
    pub(crate) said: Said,
}

/// What the client says of its measurement.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Said {
    pub(crate) units: f64,
    pub(crate) seconds: f64,
    /// The client's own.
    pub(crate) cpu_seconds: f64,
    /// Latency, where units have one.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// Share of the connections that were resumed.
    #[serde(default)]
    pub(crate) resumed: Option<f64>,
}

/// All rounds of one gate in one case.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) program: Program,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn cost(&self) -> Spread {
        Spread::of(self.samples.iter().map(|sample| sample.cost).collect())
    }

    /// The median of what the rounds say, if they say it.
    pub(crate) fn median(&self, figure: impl Fn(&Load) -> Option<f64>) -> Option<f64> {
        let of_load = |sample: &Sample| match &sample.detail {
            Detail::Load(load) => figure(load),
            Detail::Idle { .. } => None,
        };
        let values: Vec<f64> = self.samples.iter().filter_map(of_load).collect();
        (!values.is_empty()).then(|| Spread::of(values).median)
    }

    /// Of the scenario that is about it.
    pub(crate) fn resumed(&self) -> Option<f64> {
        let resumes = matches!(self.case.scenario, Scenario::Connections { resumed: true, .. });
        self.median(|load| load.said.resumed.filter(|_| resumes))
    }

    pub(crate) fn given_back(&self) -> Option<f64> {
        let given_back = |sample: &Sample| match sample.detail {
            Detail::Load(_) => None,
            Detail::Idle { given_back } => Some(given_back),
        };
        let values: Vec<f64> = self.samples.iter().filter_map(given_back).collect();
        (!values.is_empty()).then(|| Spread::of(values).median)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) is_noisy: bool,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (median, quarter, three) = (at(&values, 0.5), at(&values, 0.25), at(&values, 0.75));
        let is_noisy = three - quarter > NOISY * median.abs();
        Self { median, min: at(&values, 0.0), max: at(&values, 1.0), is_noisy }
    }
}

/// The value at this share of the sorted ones, between two of them where it must be.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "there are a few rounds"
)]
fn at(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let value = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (value(place.floor()), value(place.ceil()));
    below + (above - below) * place.fract()
}

/// What wsgate is to reach in a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    most: f64,
    /// Whose cost this is a share of; else it is a cost.
    of: Option<Kind>,
}

impl Target {
    fn of(scenario: Scenario) -> Option<Self> {
        let share = |most, of| Some(Self { most, of: Some(of) });
        match scenario {
            Scenario::Connections { resumed: true, .. } => share(0.41, Kind::Nginx),
            Scenario::Connections { certificate: Certificate::Ecdsa, .. } => share(0.40, Kind::Nginx),
            Scenario::Connections { certificate: Certificate::Rsa, .. } => share(0.62, Kind::Nginx),
            Scenario::Echo { tls: true, size: 64 } => share(0.78, Kind::Nginx),
            Scenario::Echo { tls: true, size: 16_384 } => share(0.53, Kind::Haproxy),
            Scenario::Echo { tls: false, size: 64 } => share(0.95, Kind::Nginx),
            Scenario::Echo { .. } => None,
            Scenario::Download { tls: true } => share(0.57, Kind::Haproxy),
            Scenario::Download { tls: false } => share(0.46, Kind::Haproxy),
            Scenario::Upload { tls: true } => share(0.51, Kind::Haproxy),
            Scenario::Upload { tls: false } => None,
            Scenario::Get { tls: true } => share(0.88, Kind::Haproxy),
            Scenario::Get { tls: false } => share(0.93, Kind::Nginx),
            Scenario::Idle { tls: true } => Some(Self { most: 5_000.0, of: None }),
            Scenario::Idle { tls: false } => Some(Self { most: 1_300.0, of: None }),
        }
    }
}

/// A figure beside its target.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) wanted: String,
    pub(crate) is_met: bool,
}

/// Everything that was measured.
pub(crate) struct Comparison {
    /// Names and values: the machine, the programs, the rounds.
    pub(crate) about: Vec<(String, String)>,
    pub(crate) rows: Vec<Row>,
    /// Whether it was long enough to judge by.
    pub(crate) is_whole: bool,
}

impl Comparison {
    /// Cases in their order.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.rows.iter().map(|row| row.case).collect();
        cases.dedup();
        cases
    }

    pub(crate) fn rows_of(&self, case: Case) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.case == case)
    }

    /// Those that the others are compared with: nginx, HAProxy, and the first build of wsgate if there are several.
    pub(crate) fn references(&self) -> Vec<&Program> {
        let Some(first) = self.rows.first() else { return Vec::new() };
        let programs: Vec<&Program> = self.rows_of(first.case).map(|row| &row.program).collect();
        let of = |kind| programs.iter().copied().filter(move |program| program.kind == kind);
        let builds = of(Kind::Wsgate).count();
        let first_build = of(Kind::Wsgate).take(usize::from(builds > 1 || builds == programs.len()));
        of(Kind::Nginx).chain(of(Kind::Haproxy)).chain(first_build).collect()
    }

    /// The cost as a multiple of that of another program in the same case.
    pub(crate) fn ratio(&self, row: &Row, reference: &Program) -> Option<f64> {
        let other = self.rows_of(row.case).find(|other| other.program.name == reference.name)?;
        Some(row.cost().median / other.cost().median)
    }

    /// What wsgate was to reach, and whether it did.
    pub(crate) fn verdicts(&self, row: &Row) -> Vec<Verdict> {
        if !self.is_whole || row.program.kind != Kind::Wsgate || !row.case.is_usual() {
            return Vec::new();
        }
        let at_least = |what: &str, share: Option<f64>, least: f64| {
            let wanted = format!("{what} ≥ {:.0} %", 100.0 * least);
            share.map(|share| Verdict { wanted, is_met: share >= least })
        };
        self.cost_verdict(row)
            .into_iter()
            .chain(at_least("resumed", row.resumed(), 0.99))
            .chain(at_least("given back", row.given_back(), 0.80))
            .collect()
    }

    fn cost_verdict(&self, row: &Row) -> Option<Verdict> {
        let target = Target::of(row.case.scenario)?;
        let (wanted, figure) = match target.of {
            None => (format!("≤ {} B", target.most), row.cost().median),
            Some(kind) => {
                let peer = self.rows_of(row.case).find(|other| other.program.kind == kind)?;
                let ratio = row.cost().median / peer.cost().median;
                (format!("≤ {:.2} × {}", target.most, kind.name()), ratio)
            }
        };
        Some(Verdict { wanted, is_met: figure <= target.most })
    }
}
