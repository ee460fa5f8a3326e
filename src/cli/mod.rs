//! `wsgate run`, `check`, `reload`, `status`, `cert` and `demo`.
//!
//! Exit codes: 0 is fine, 1 is a failure while running, 2 is a usage or a configuration that cannot be used.

mod advice;
mod arguments;
mod cert;
mod check;
mod client;
mod demo;
mod memory;
mod notify;
mod paper;
mod quick;
mod reload;
mod run;
mod serve;
mod signals;
mod status;
mod trust;

use std::{
    error::Error,
    fmt::Display,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use wsgate::{
    config::{Config, Loaded, Problems, Source},
    ending::report,
    telemetry,
};

use arguments::{Arguments, Command};

/// Why a command failed, and its exit code.
#[derive(Debug)]
enum Failure {
    /// What was asked for cannot be done as it was asked.
    Usage(Box<dyn Error>),
    /// It could be done, and went wrong.
    Runtime(Box<dyn Error>),
}

impl Failure {
    fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Usage(error.into())
    }

    fn runtime(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Runtime(error.into())
    }

    fn report(&self) -> ExitCode {
        let (error, code) = match self {
            Self::Usage(error) => (error, 2),
            Self::Runtime(error) => (error, 1),
        };
        eprintln!("{}", report(error.as_ref()));
        ExitCode::from(code)
    }
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    // A log may be rotated while there is none yet. Where signals can't be heard, serving will say so.
    drop(signals::Reopening::hear());
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Cert(arguments) => cert::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completions(arguments) => {
            paper::completions(&arguments);
            Ok(())
        }
        Command::Man(arguments) => paper::man(&arguments),
    };
    // Behind what was logged, if anything was, comes the reason of the end.
    telemetry::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints to standard output. Whoever reads it may have seen enough, as `head` has.
fn say(text: impl Display) {
    let mut out = io::stdout().lock();
    // There is nobody to tell that nobody listens.
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// The configuration of a text that wsgate wrote itself. In messages it is called `name`.
fn parse(name: &str, text: String) -> Result<Loaded, Problems> {
    Config::parse(&Source { name: name.into(), text, folder: home_folder() }, &|_| None)
}

/// Where `run --to` and `demo`, which have no configuration file, keep their certificates: in the `certs` folder
/// of the one that is returned.
///
/// That is the current folder if it is one of wsgate's (it has a `certs` folder or a `proxy.toml`), so that keys
/// are not strewn over other projects; else the user's data folder, `$XDG_DATA_HOME/wsgate` or
/// `~/.local/share/wsgate`.
fn home_folder() -> PathBuf {
    let here = PathBuf::from(".");
    if here.join("certs").is_dir() || here.join(arguments::DEFAULT_FILE).is_file() {
        return PathBuf::new();
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(PathBuf::new, |data| data.join("wsgate"))
}
