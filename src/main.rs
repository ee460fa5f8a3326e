//! The command line of wsgate.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
