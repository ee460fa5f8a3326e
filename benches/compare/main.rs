//! wsgate beside nginx and HAProxy: processor time, rates, latency and memory. README.md in this folder says how to run it,
//! and what the figures are.

use std::{error::Error, process::ExitCode};

mod arguments;
mod backend;
mod client;
mod figures;
mod gates;
mod latency;
mod machine;
mod plot;
mod process;
mod record;
mod run;
mod scenario;
mod table;
mod wire;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let role = arguments.next_if(|first| ["backend", "client", process::LEASH].contains(&first.as_str()));
    let ended = match role.as_deref() {
        Some("backend") => backend::serve(),
        Some("client") => client::run(arguments),
        Some(_) => process::become_leashed(arguments),
        None => run::run(arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
