//! `[upstream.NAME]`.

mod balance;
mod health;
mod servers;
mod source;
mod tls;

use std::{ops::Range, time::Duration};

use self::servers::Placed;
use super::listener::Addresses;
use crate::config::{
    OnRemoved, ProxyProtocol, ServerAddress, Upstream, Written,
    file::{Entry, Table, Value},
    keys,
    report::{Finding, nearest, shown},
    values::{self, timeout},
};

pub(in crate::config) use self::{balance::SAME_SITES, health::CHECKS};

/// The default of `dns_refresh`.
const DNS_REFRESH: Duration = Duration::from_secs(30);
const NAME_HELP: &str = "every upstream is a table with a name: `[upstream.websocket]`";

/// The upstreams by name.
pub(super) struct Pools<'r> {
    /// `None` if they could not be read: then no route is blamed for the name that it gives.
    names: Option<Vec<(&'r str, Range<usize>)>>,
    upstreams: Vec<Upstream>,
}

impl<'r> Pools<'r> {
    pub(super) fn read(root: &Table<'r>, listeners: &Addresses) -> Self {
        let Some(value) = root.value("upstream") else {
            return Self { names: Some(Vec::new()), upstreams: Vec::new() };
        };
        let Some(entries) = value.reader.recorded(entries(value)) else {
            return Self { names: None, upstreams: Vec::new() };
        };
        let names = entries.iter().map(|entry| (entry.name, entry.name_span.clone())).collect();
        let upstreams = entries.iter().filter_map(|entry| upstream(entry, listeners)).collect();
        Self { names: Some(names), upstreams }
    }

    /// The place of the upstream that a route names. `None` only where an error was recorded.
    pub(super) fn find(&self, value: Value<'_>) -> Option<usize> {
        let text = value.reader.recorded(value.text())?;
        self.find_named(value, &text, "a route leads to an upstream of this file")
    }

    /// The same for a name that is a part of the value, with what the message says is expected.
    pub(super) fn find_named(&self, value: Value<'_>, text: &str, expected: &str) -> Option<usize> {
        let names: Vec<_> = self.names.as_ref()?.iter().map(|(name, _)| *name).collect();
        if let Some(index) = names.iter().position(|name| *name == text) {
            return Some(index);
        }
        let help = match nearest(text, names.iter().copied()) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None if names.is_empty() => format!("it is made by a table `[upstream.{}]`", shown(text)),
            None => format!(
                "upstreams of this file: {}",
                names.into_iter().map(shown).collect::<Vec<_>>().join(", ")
            ),
        };
        let finding =
            value.finding(format!("there is no upstream `{}`", shown(text))).label(expected).help(help);
        value.reader.record(finding.absent());
        None
    }

    /// The name of the upstream at the place that [`Pools::find`] gave.
    pub(super) fn name(&self, index: usize) -> &'r str {
        self.names.iter().flatten().nth(index).map_or("", |(name, _)| name)
    }

    /// Warns about every upstream that no route leads to.
    pub(super) fn warn_unused(&self, record: impl Fn(Finding), used: impl Fn(usize) -> bool) {
        for (index, (name, span)) in self.names.iter().flatten().enumerate() {
            if !used(index) {
                let message = format!("the upstream `{}` is not used", shown(name));
                record(Finding::new(span.clone(), message).label("no route leads to it").absent().warning());
            }
        }
    }

    pub(super) fn into_upstreams(self) -> Vec<Upstream> {
        self.upstreams
    }
}

/// The named tables.
fn entries(value: Value<'_>) -> Result<Vec<Entry<'_>>, Finding> {
    if value.node.get_ref().is_array() {
        return Err(value.finding("`upstream` must be a table of named tables").help(NAME_HELP));
    }
    let entries = value.entries()?;
    // Keys of an upstream right under `[upstream]`: told once, not key by key.
    let nameless = entries.iter().find(|entry| keys::UPSTREAM.keys.contains(&entry.name) && !is_table(entry));
    if let Some(entry) = nameless {
        return Err(Finding::new(entry.name_span.clone(), "an upstream without a name")
            .label("this is a key of an upstream, not a name")
            .help(NAME_HELP));
    }
    Ok(entries)
}

fn is_table(entry: &Entry<'_>) -> bool {
    entry.value.node.get_ref().is_table()
}

/// The words of `on_removed`.
pub(in crate::config) const ON_REMOVED: [(&str, OnRemoved); 3] =
    [("keep", OnRemoved::Keep), ("drain", OnRemoved::Drain), ("close", OnRemoved::Close)];
/// The words of `proxy_protocol` beside "off".
pub(in crate::config) const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 2] =
    [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];

/// Reads one upstream. `None` only where an error was recorded.
fn upstream(entry: &Entry<'_>, listeners: &Addresses) -> Option<Upstream> {
    let reader = entry.value.reader;
    reader.recorded(name(entry.name, entry.name_span.clone()));
    let table = entry.value.table(&keys::UPSTREAM).map_err(|finding| finding.help(NAME_HELP));
    let table = reader.recorded(table)?;
    let placed =
        table.required("servers", "[\"192.168.1.141:80\"]", |value| servers::servers(value, listeners));
    let known = placed.as_deref().unwrap_or_default();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let upstream = Upstream {
        table: Written::default(),
        name: entry.name.to_owned(),
        balance: balance::balance(&table),
        connect_timeout: table.get("connect_timeout", seconds(3), timeout),
        handshake_timeout: table.get("handshake_timeout", seconds(10), timeout),
        response_timeout: table.get("response_timeout", seconds(60), timeout),
        response_body_timeout: table.get("response_body_timeout", seconds(300), timeout),
        retries: table.get("retries", 2, values::count(0..=100)),
        retry_deadline: table.get("retry_deadline", seconds(10), timeout),
        keep_alive: table.get("keep_alive", 64, values::count(0..=100_000)),
        keep_alive_timeout: table.get("keep_alive_timeout", seconds(4), timeout),
        sticky: balance::sticky(&table, listeners),
        source_addresses: source::addresses(&table, known),
        retry_handshakes: table.get("retry_handshakes", false, Value::switch),
        dns_refresh: table.get("dns_refresh", Some(DNS_REFRESH), timeout),
        slow_start: table.get("slow_start", None, timeout),
        max_fails: table.get("max_fails", Some(3), values::count_or_off(1..=1_000_000)),
        fail_timeout: table.get("fail_timeout", Duration::from_secs(10), fail_timeout),
        on_removed: table.get("on_removed", OnRemoved::Keep, values::choice(&ON_REMOVED)),
        proxy_protocol: table.get("proxy_protocol", None, proxy_protocol),
        tls: table.value("tls").and_then(|value| tls::tls(value, known)),
        health: table.optional("health", health::health),
        servers: known.iter().map(|placed| placed.server.clone()).collect(),
    };
    let unused = [unused_retry, late_retry, unused_refresh, unused_fail_timeout, unused_keep_alive];
    for finding in unused.into_iter().filter_map(|find| find(&table, &upstream)) {
        reader.record(finding.warning());
    }
    if table.value("tls").is_none() {
        warn_of_plain_443(entry, known);
    }
    placed.map(|_| upstream)
}

/// How long a server stays out cannot be off; taking servers out can.
fn fail_timeout(value: Value<'_>) -> Result<Duration, Finding> {
    if value.is_word("off") {
        return Err(value
            .finding("`fail_timeout` cannot be off")
            .label("expected a duration such as \"10s\"")
            .help("`max_fails = \"off\"` takes no server out for its failures"));
    }
    values::duration_in(Duration::from_millis(1)..=values::days(1))(value)
}

fn proxy_protocol(value: Value<'_>) -> Result<Option<ProxyProtocol>, Finding> {
    if value.node.get_ref().as_bool() == Some(true) {
        let help = "\"v2\" where the server knows it, else \"v1\"";
        return Err(value.wrong_type("\"off\", \"v1\" or \"v2\"").help(help));
    }
    values::off_or(value, |value| {
        let text = value.text()?;
        let known = PROXY_PROTOCOLS.iter().find(|(word, _)| *word == text);
        known
            .map(|(_, version)| *version)
            .ok_or_else(|| values::unknown_word(value, &text, ["off", "v1", "v2"].into_iter()))
    })
}

fn unused_retry(table: &Table<'_>, upstream: &Upstream) -> Option<Finding> {
    let (value, retries) = (table.value("retry_handshakes")?, table.value("retries")?);
    (upstream.retry_handshakes && upstream.retries == 0).then(|| {
        value
            .finding("`retry_handshakes` has no effect here")
            .label("no other server is tried")
            .context(retries.span(), "because of this")
    })
}

/// After a handshake that timed out there must be time for another.
fn late_retry(table: &Table<'_>, upstream: &Upstream) -> Option<Finding> {
    let value =
        table.value("retry_handshakes").filter(|_| upstream.retry_handshakes && upstream.retries > 0)?;
    let (timeout, deadline) = (upstream.handshake_timeout?, upstream.retry_deadline?);
    let mut finding = value
        .finding("a handshake that times out is not tried elsewhere")
        .label("one whose connection ends is, but not one without an answer")
        .help(format!(
            "`handshake_timeout` is {} and `retry_deadline`, which is over all tries, {}: make the former the shorter one",
            values::show_duration(timeout),
            values::show_duration(deadline),
        ));
    for (key, label) in
        [("handshake_timeout", "so long is one waited for"), ("retry_deadline", "by then every try is over")]
    {
        if let Some(given) = table.value(key) {
            finding = finding.context(given.span(), label);
        }
    }
    (timeout >= deadline).then_some(finding)
}

fn unused_refresh(table: &Table<'_>, upstream: &Upstream) -> Option<Finding> {
    let value = table.value("dns_refresh")?;
    let has_name = |address: &ServerAddress| match address {
        ServerAddress::Name { .. } | ServerAddress::Srv(_) => true,
        ServerAddress::Inet(_) | ServerAddress::Unix(_) => false,
    };
    let named =
        upstream.servers.is_empty() || upstream.servers.iter().any(|server| has_name(&server.address));
    let is_default = upstream.dns_refresh == Some(DNS_REFRESH);
    (!named && !is_default)
        .then(|| value.finding("`dns_refresh` has no effect here").label("no server is given by a name"))
}

fn unused_fail_timeout(table: &Table<'_>, upstream: &Upstream) -> Option<Finding> {
    let (value, max_fails) = (table.value("fail_timeout")?, table.value("max_fails")?);
    upstream.max_fails.is_none().then(|| {
        value
            .finding("`fail_timeout` has no effect here")
            .label("no server is taken out for its failures")
            .context(max_fails.span(), "because of this")
    })
}

fn unused_keep_alive(table: &Table<'_>, upstream: &Upstream) -> Option<Finding> {
    let (value, proxy) = (table.value("keep_alive")?, table.value("proxy_protocol")?);
    (upstream.proxy_protocol.is_some() && upstream.keep_alive > 0).then(|| {
        value
            .finding("`keep_alive` has no effect here")
            .label("no connection is kept, as each is for one client")
            .context(proxy.span(), "because of this")
    })
}

/// Port 443 is hardly ever plain.
fn warn_of_plain_443(entry: &Entry<'_>, servers: &[Placed]) {
    for placed in servers {
        let port = match &placed.server.address {
            ServerAddress::Inet(address) => address.port(),
            ServerAddress::Name { port, .. } => *port,
            ServerAddress::Unix(_) | ServerAddress::Srv(_) => continue,
        };
        if port == 443 {
            let finding =
                Finding::new(placed.span.clone(), "port 443 of this server is spoken to without TLS")
                    .label("it expects TLS, as a rule")
                    .help(format!(
                        "a table `[upstream.{}.tls]`, which may be empty, makes it TLS",
                        shown(entry.name)
                    ));
            entry.value.reader.record(finding.warning());
        }
    }
}

/// A name that can stand in logs, metrics and paths.
pub(super) fn name(name: &str, span: Range<usize>) -> Result<(), Finding> {
    const LONGEST: usize = 64;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !name.is_empty() && name.len() <= LONGEST && name.bytes().all(legal) {
        return Ok(());
    }
    Err(Finding::new(span, format!("`{}` is not a name", shown(name)))
        .label(format!("expected up to {LONGEST} letters, digits, `_`, `-` or `.`")))
}
