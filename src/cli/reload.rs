//! `wsgate reload`.

use std::{fmt::Write, time::Duration};

use hyper::Method;
use serde_json::Value;
use wsgate::ending::report;

use super::{
    Failure,
    arguments::Reload,
    client::{AskError, Client},
    say,
};

/// Files are read, names may be asked for, and sockets bound.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do about an `[admin]` that is not in force yet.
const BY_SIGNAL: &str = "\n  = help: if `[admin]` itself was changed, what is asked does not know of it yet: `kill -s HUP PID` puts the file in \
    force, as does `systemctl kill -s HUP wsgate`";

pub(super) fn run(arguments: &Reload) -> Result<(), Failure> {
    let client = Client::find(&arguments.admin)?;
    match client.json(Method::POST, "/api/reload", PATIENCE) {
        Ok(report) => {
            for warning in report["warnings"].as_array().into_iter().flatten() {
                eprintln!("warning: {}", warning.as_str().unwrap_or_default());
            }
            say(told(&report));
            Ok(())
        }
        // What is wrong with the configuration, in the words of `wsgate check`.
        Err(AskError::Refused { status: 422, error }) => Err(Failure::usage(error)),
        Err(
            error @ (AskError::Unreachable(..)
            | AskError::TimedOut { .. }
            | AskError::Refused { status: 401 | 403, .. }),
        ) => Err(Failure::runtime(format!("{}{BY_SIGNAL}", report(&error)))),
        Err(error) => Err(Failure::runtime(error)),
    }
}

/// What changed, a line for each kind of tables.
fn told(report: &Value) -> String {
    let mut text = format!("generation {} is in force\n", report["generation"]);
    for kind in ["listeners", "upstreams", "routes"] {
        let changes = &report[kind];
        let parts = ["added", "removed", "changed"].into_iter().filter_map(|how| {
            let names: Vec<_> = changes[how].as_array()?.iter().filter_map(Value::as_str).collect();
            (!names.is_empty()).then(|| format!("{how} {}", names.join(" ")))
        });
        let mut parts: Vec<_> = parts.collect();
        let unchanged = changes["unchanged"].as_array().map_or(0, Vec::len);
        parts.extend((unchanged > 0).then(|| format!("{unchanged} unchanged")));
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {kind:<9}  {}",
            if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_told_in_a_line_for_each_kind() {
        let report = json!({
            "generation": 3,
            "listeners": { "added": [], "removed": ["0.0.0.0:80"], "changed": [], "unchanged": ["0.0.0.0:443"] },
            "upstreams": { "added": [], "removed": [], "changed": [], "unchanged": [] },
            "routes": { "added": ["a", "b"], "removed": [], "changed": ["chat"], "unchanged": [] },
            "warnings": [],
        });
        let expected = "generation 3 is in force\n  listeners  removed 0.0.0.0:80, 1 unchanged\n  upstreams  none\n  \
            routes     added a b, changed chat\n";
        assert_eq!(told(&report), expected);
    }
}
