//! What the figures depend on: the machine and the programs.

use std::fs;

use crate::{
    Fallible,
    arguments::{Cores, Scale},
    gates::Program,
    process,
};

pub(crate) fn describe(programs: &[Program], cores: Cores, scale: &Scale) -> Fallible<Vec<(String, String)>> {
    let mut about = Vec::new();
    for program in programs {
        about.push((program.name.clone(), program.version()?));
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    about.push(("kernel".to_owned(), kernel.trim().to_owned()));
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    about.push(("congestion control".to_owned(), congestion.trim().to_owned()));
    about.push(("processor".to_owned(), format!("{}, {} cores", processor(), process::cores()?.len())));
    let placed = match cores {
        Cores { gate: Some(gate), load: Some(load) } => {
            format!("the gate on core {gate}, client and backend on core {load}")
        }
        _ => "not pinned: the gate may share its core with client and backend".to_owned(),
    };
    about.push(("cores".to_owned(), placed));
    let Scale { rounds, seconds, rounds_of_idle, .. } = scale;
    let lasts = format!("{rounds} of {seconds} s, in turn, medians; idle tunnels {rounds_of_idle}");
    about.push(("rounds".to_owned(), lasts));
    if !scale.is_whole {
        about.push(("check".to_owned(), "so short a run shows that all works, and no figures".to_owned()));
    }
    Ok(about)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}
