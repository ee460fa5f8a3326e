//! wsgate beside nginx and HAProxy: processor time, rates, latency and memory. README.md in this folder says how to run it,
//! and what the figures are.

use std::{error::Error, process::ExitCode};

mod backend;
mod client;
mod latency;
mod run;
mod scenario;
mod wire;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let role = arguments.next_if(|first| first == "backend" || first == "client");
    let ended = match role.as_deref() {
        Some("backend") => backend::serve(),
        Some(_) => client::run(arguments),
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
