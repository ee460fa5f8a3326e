//! `wsgate completions` and `wsgate man`: what the definition of the command line also gives.

use std::{fs, io};

use clap::CommandFactory;

use super::{
    Failure,
    arguments::{Arguments, Completions, Man},
    say,
};

/// Prints a shell's script.
pub(super) fn completions(arguments: &Completions) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "wsgate", &mut script);
    say(String::from_utf8_lossy(&script));
}

/// Writes a page for the program and one for each of its commands, `wsgate.1` and `wsgate-run.1`.
pub(super) fn man(arguments: &Man) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(&arguments.folder)?;
        clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), &arguments.folder)
    };
    write().map_err(|error| {
        Failure::runtime(format!("cannot write man pages into {}: {error}", arguments.folder.display()))
    })
}
