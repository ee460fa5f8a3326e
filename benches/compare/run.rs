//! Starts the gates, the backend and the client, and measures.

use crate::{Fallible, scenario::Scenario};

/// Measures what the arguments say.
pub(crate) fn run(_arguments: impl Iterator<Item = String>) -> Fallible<()> {
    for (name, scenario) in Scenario::ALL {
        println!(
            "{name:<20} {} connections, per {}, {} {:?}",
            scenario.connections(),
            scenario.unit(),
            scenario.target(),
            scenario.certificate()
        );
    }
    Ok(())
}
