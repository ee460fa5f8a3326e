//! `wsgate check`.

use wsgate::config::{Config, Loaded, summary};

use super::{Failure, arguments::Check, say};

pub(super) fn run(arguments: &Check) -> Result<(), Failure> {
    let Loaded { config, warnings, .. } = Config::load(&arguments.config).map_err(Failure::usage)?;
    for warning in &warnings {
        eprintln!("{warning}\n");
    }
    say(format_args!("{}\n\n{} is fine\n", summary(&config), arguments.config.display()));
    Ok(())
}
