//! `[server]`.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use super::listener::Addresses;
use crate::config::{
    ListenAddress, Server, address,
    file::{Table, Value},
    report::{Finding, shown},
    values,
};

/// A `shutdown_delay` above this is taken for a slip.
const LONG_DELAY: Duration = Duration::from_secs(5 * 60);

/// Reads the table, and warns of what is hardly meant.
pub(super) fn server(table: &Table<'_>) -> Server {
    let default = Server::default();
    let spread = |value| values::period(value).map(Option::unwrap_or_default);
    let workers = |value: Value<'_>| if value.is_word("auto") { Ok(default.workers) } else { workers(value) };
    let server = Server {
        workers: table.get("workers", default.workers, workers),
        max_connections: table.get("max_connections", default.max_connections, values::count(1..=10_000_000)),
        max_tls_handshakes: table.get(
            "max_tls_handshakes",
            default.max_tls_handshakes,
            values::count(1..=1_000_000),
        ),
        shutdown_delay: table.get("shutdown_delay", default.shutdown_delay, spread),
        shutdown_grace: table.get("shutdown_grace", default.shutdown_grace, values::period),
        drain_spread: table.get("drain_spread", default.drain_spread, spread),
        upgrade_socket: table.get("upgrade_socket", None, upgrade_socket),
    };
    warn_of_a_long_spread(table, &server);
    warn_of_a_long_delay(table, &server);
    server
}

/// A spread that the file asks for and does not get.
fn warn_of_a_long_spread(table: &Table<'_>, server: &Server) {
    let (Some(value), Some(grace)) = (table.value("drain_spread"), server.shutdown_grace) else { return };
    let half = grace / 2;
    if server.drain_spread <= half {
        return;
    }
    let told = match half.as_millis() {
        0 => "the Close frames of a drain are sent at once".to_owned(),
        _ => format!("the Close frames of a drain are spread over {}", values::show_duration(half)),
    };
    let enough = values::show_duration(server.drain_spread.saturating_mul(2));
    let mut finding = value.finding("`drain_spread` is more than half of `shutdown_grace`").label(told).help(
        format!("the other half is for their answers: `shutdown_grace = \"{enough}\"` makes room for both"),
    );
    if let Some(grace_value) = table.value("shutdown_grace") {
        finding = finding.context(grace_value.span(), "a drain takes no longer than this");
    }
    value.reader.record(finding.warning());
}

/// Balancers notice within seconds, and whoever sent the signal waits for its end.
fn warn_of_a_long_delay(table: &Table<'_>, server: &Server) {
    let Some(value) = table.value("shutdown_delay").filter(|_| server.shutdown_delay > LONG_DELAY) else {
        return;
    };
    let finding = value
        .finding("`shutdown_delay` is longer than 5 minutes")
        .label("for so long after SIGTERM everything goes on, but for the answer of /readyz")
        .help("the time for open tunnels and requests to end is `shutdown_grace`, which comes after it");
    table.reader.record(finding.warning());
}

/// The path of a unix socket; `""` is none.
fn upgrade_socket(value: Value<'_>) -> Result<Option<PathBuf>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return Err(value
            .finding("`upgrade_socket` is a path")
            .label("it is a unix socket always")
            .help(format!("without the word before it: \"{}\"", shown(path))));
    }
    let path = address::unix(value, &text, "for example \"/run/wsgate.sock\"")?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if path.is_dir() {
        return Err(value.finding("`upgrade_socket` cannot be a folder").label("expected a socket's path"));
    }
    match folder {
        Some(folder) if !folder.is_dir() => Err(value
            .finding(format!("there is no folder for the socket `{}`", shown(&text)))
            .label("the socket is made at the start, its folder is not")),
        _ => Ok(Some(path)),
    }
}

/// A socket of its own: a new process would take a listener's for it.
pub(super) fn judge_upgrade_socket(table: &Table<'_>, server: &Server, addresses: &Addresses) {
    let (Some(value), Some(path)) = (table.value("upgrade_socket"), &server.upgrade_socket) else { return };
    if let Some(taken) = addresses.place(&ListenAddress::Unix(path.clone())) {
        let finding = value
            .finding("this unix socket is listened on already")
            .label("a new process asks here for the listening sockets")
            .context(taken, "listened on here");
        table.reader.record(finding);
    }
}

fn workers(value: Value<'_>) -> Result<NonZeroUsize, Finding> {
    if value.node.get_ref().is_str() {
        value.text()?;
        return Err(value.wrong_type("\"auto\" or an integer"));
    }
    let count: usize = values::count(1..=1024)(value)?;
    Ok(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
}
