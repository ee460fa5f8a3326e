//! `[upstream.NAME.health]`.

use std::time::Duration;

use crate::{
    config::{
        Check, Health, address,
        file::{Table, Value},
        headers, keys,
        report::{Finding, shown},
        values::{self, days, show_duration},
    },
    proto::head::is_token,
};

/// The words of `check`.
pub(in crate::config) const CHECKS: [(&str, Check); 3] =
    [("websocket", Check::Websocket), ("http", Check::Http), ("tcp", Check::Tcp)];

/// Reads the table, and warns of what is hardly meant.
pub(super) fn health(value: Value<'_>) -> Result<Health, Finding> {
    let table = value.table(&keys::UPSTREAM_HEALTH);
    let table = table.map_err(|finding| {
        finding.help("for example `health = { check = \"http\", path = \"/healthz\" }`")
    })?;
    let check = table.optional("check", check);
    let time = || values::duration_in(Duration::from_millis(1)..=days(1));
    let health = Health {
        check: check.unwrap_or(Check::Websocket),
        path: table.get("path", "/".to_owned(), path),
        host: table.optional("host", host).flatten(),
        headers: table.get("headers", Vec::new(), headers::of_a_check),
        subprotocol: table.optional("subprotocol", subprotocol).flatten(),
        expect_status: table.get("expect_status", vec![200], statuses),
        ping: table.get("ping", false, Value::switch),
        interval: table.get("interval", Duration::from_secs(5), interval),
        timeout: table.get("timeout", Duration::from_secs(2), time()),
        rise: table.get("rise", 2, values::count(1..=1000)),
        fall: table.get("fall", 3, values::count(1..=1000)),
    };
    if check.is_some() || table.value("check").is_none() {
        warn_without_effect(&table, health.check);
        nothing_is_healthy(&table, health.check);
    }
    if let Some(finding) = slow(&table, &health) {
        table.reader.record(finding.warning());
    }
    Ok(health)
}

fn check(value: Value<'_>) -> Result<Check, Finding> {
    values::choice(&CHECKS)(value).map_err(|finding| {
        let text = value.text().unwrap_or_default().to_ascii_lowercase();
        finding.maybe_help(match &*text {
            "ws" | "wss" | "handshake" => Some("did you mean \"websocket\"?".to_owned()),
            "connect" | "tls" | "ssl" => Some("\"tcp\" connects, and no more than that".to_owned()),
            "off" | "none" => Some("without the table `health` there are no checks".to_owned()),
            _ => None,
        })
    })
}

/// A path, perhaps with its query.
fn path(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    let error =
        |label: &str| value.finding(format!("`{}` is not a path to ask for", shown(&text))).label(label);
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |slash| &rest[slash..]);
        return Err(error("expected a path").help(format!("without scheme and host: \"{}\"", shown(path))));
    }
    if !text.starts_with('/') {
        return Err(error("a path begins with `/`"));
    }
    if text.contains('#') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(error("it has neither spaces nor `#`, and what is not ASCII is percent-encoded"));
    }
    Ok(text.into_owned())
}

/// `""` is the server's own.
fn host(value: Value<'_>) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() || address::is_host(&text) {
        return Ok(Some(text.into_owned()).filter(|text| !text.is_empty()));
    }
    Err(value
        .finding(format!("`{}` is not a Host", shown(&text)))
        .label("expected a host such as \"example.com\" or \"example.com:8080\""))
}

/// A token (RFC 6455 §4.1); `""` is none.
fn subprotocol(value: Value<'_>) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() || is_token(text.as_bytes()) {
        return Ok(Some(text.into_owned()).filter(|text| !text.is_empty()));
    }
    let finding = value.finding(format!("`{}` is not a subprotocol", shown(&text)));
    Err(finding.label("expected one name, without spaces or commas"))
}

fn statuses(value: Value<'_>) -> Result<Vec<u16>, Finding> {
    let mut statuses = value.list(|element| {
        let is_range = element.node.get_ref().is_str();
        let status = values::count(100..=599)(element);
        status.map_err(|finding| if is_range { finding.help("each status by its number") } else { finding })
    })?;
    let mut seen = std::collections::BTreeSet::new();
    statuses.retain(|status| seen.insert(*status));
    Ok(statuses)
}

fn interval(value: Value<'_>) -> Result<Duration, Finding> {
    let time = values::duration_in(Duration::from_millis(1)..=days(1))(value);
    time.map_err(|finding| {
        let is_off = value.is_word("off");
        if is_off { finding.help("without the table `health` there are no checks") } else { finding }
    })
}

/// Keys that say something about another kind of check.
fn warn_without_effect(table: &Table<'_>, check: Check) {
    let (keys, label): (&[_], _) = match check {
        Check::Websocket => return,
        Check::Http => (&["subprotocol", "ping"], "this check sends a plain request"),
        Check::Tcp => (
            &["path", "host", "headers", "subprotocol", "expect_status", "ping"],
            "this check connects and sends nothing",
        ),
    };
    for value in keys.iter().filter_map(|key| table.value(key)) {
        let finding = value.finding(format!("`{}` has no effect here", value.key)).label(label);
        let finding = match table.value("check") {
            Some(check) => finding.context(check.span(), "because of this"),
            None => finding,
        };
        table.reader.record(finding.warning());
    }
}

/// An http check that no answer passes. To a websocket check a 101 is healthy without a word.
fn nothing_is_healthy(table: &Table<'_>, check: Check) {
    let empty = table.value("expect_status").filter(|value| value.is_empty() && check == Check::Http);
    if let Some(value) = empty {
        let finding = value
            .finding("`expect_status` is an empty list")
            .label("no answer would be healthy")
            .help("for example `expect_status = [200, 204]`");
        table.reader.record(finding);
    }
}

/// A check that may take longer than the time to the next one.
fn slow(table: &Table<'_>, health: &Health) -> Option<Finding> {
    let mut given = ["timeout", "interval"].into_iter().filter_map(|key| table.value(key));
    let first = given.next().filter(|_| health.timeout > health.interval)?;
    let (timeout, interval) = (show_duration(health.timeout), show_duration(health.interval));
    let finding = first
        .finding("the `timeout` of a check is longer than its `interval`")
        .label(format!("a check may take {timeout}, and the next is due after {interval}"));
    Some(match given.next() {
        Some(second) => finding.context(second.span(), "due after this"),
        None => finding,
    })
}
