//! Keys that are read once, at the start: a reload that would change one is refused.

use std::{fmt::Display, path::Path};

use crate::config::{
    Config, Server,
    file::{Table, Value},
    report::{Finding, shown},
};

/// Records what `[server]` would change of the configuration that is running.
pub(super) fn changes(table: &Table<'_>, server: &Server, running: &Config) {
    let workers = server.workers == running.server.workers || is_auto(table) && was_auto(running);
    if !workers {
        record(table, "workers", &format!("wsgate runs with {}", running.server.workers));
    }
    if server.upgrade_socket != running.server.upgrade_socket {
        let socket = running.server.upgrade_socket.as_deref();
        let runs = |path: &Path| format!("wsgate runs with `{}`", shown(&path.display().to_string()));
        record(table, "upgrade_socket", &socket.map_or("wsgate runs without one".to_owned(), runs));
    }
}

/// The CPUs that the process may use can be others by now: "auto" is what it was.
fn is_auto(table: &Table<'_>) -> bool {
    table.value("workers").is_none_or(|value| value.is_word("auto"))
}

/// A number is an integer in the file, and every text that is taken says "auto".
fn was_auto(running: &Config) -> bool {
    let server = running.tables.table().get("server");
    !server.and_then(|server| server.get("workers")).is_some_and(toml::Value::is_integer)
}

fn record(table: &Table<'_>, key: &'static str, runs_with: &impl Display) {
    let message = format!("`{key}` cannot change while wsgate runs");
    let finding = match table.value(key).as_ref().map(Value::span) {
        // What could not be read was taken for the default.
        Some(span) if table.reader.is_blamed(&span) => return,
        Some(span) => Finding::new(span, message).label(format!("{runs_with}")),
        None => Finding::of_file(message).help(format!("{runs_with}, and the key is not there any more")),
    };
    table.reader.record(finding.help("it is read at the start: restart wsgate, or leave it as it was"));
}
