//! `[upstream.NAME]`.

use std::{net::SocketAddr, ops::Range, time::Duration};

use super::listener::Addresses;
use crate::config::{
    Balance, ListenAddress, OnRemoved, ServerAddress, Upstream, UpstreamServer, address,
    file::{Entry, Table, Value},
    keys,
    report::{Finding, nearest, shown},
    values::{self, timeout},
};

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
        let names: Vec<_> = self.names.as_ref()?.iter().map(|(name, _)| *name).collect();
        if let Some(index) = names.iter().position(|name| *name == text) {
            return Some(index);
        }
        let help = match nearest(&text, names.iter().copied()) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None if names.is_empty() => format!("it is made by a table `[upstream.{}]`", shown(&text)),
            None => format!(
                "upstreams of this file: {}",
                names.into_iter().map(shown).collect::<Vec<_>>().join(", ")
            ),
        };
        let finding = value
            .finding(format!("there is no upstream `{}`", shown(&text)))
            .label("a route leads to an upstream of this file")
            .help(help);
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

/// Reads one upstream. `None` only where an error was recorded.
fn upstream(entry: &Entry<'_>, listeners: &Addresses) -> Option<Upstream> {
    type Made = fn() -> Balance;
    const BALANCES: [(&str, Made); 2] =
        [("least_connections", || Balance::LeastConnections), ("round_robin", || Balance::RoundRobin)];
    let reader = entry.value.reader;
    reader.recorded(name(entry.name, entry.name_span.clone()));
    let table = entry.value.table(&keys::UPSTREAM).map_err(|finding| finding.help(NAME_HELP));
    let table = reader.recorded(table)?;
    let servers = table.required("servers", "[\"192.168.1.141:80\"]", |value| servers(value, listeners));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    Some(Upstream {
        name: entry.name.to_owned(),
        balance: table.get("balance", BALANCES[0].1, values::choice(&BALANCES))(),
        connect_timeout: table.get("connect_timeout", seconds(3), timeout),
        handshake_timeout: table.get("handshake_timeout", seconds(10), timeout),
        response_timeout: table.get("response_timeout", seconds(60), timeout),
        response_body_timeout: table.get("response_body_timeout", seconds(300), timeout),
        retries: table.get("retries", 2, values::count(0..=100)),
        retry_deadline: table.get("retry_deadline", seconds(10), timeout),
        keep_alive: table.get("keep_alive", 64, values::count(0..=100_000)),
        keep_alive_timeout: table.get("keep_alive_timeout", seconds(4), timeout),
        sticky: None,
        source_addresses: Vec::new(),
        retry_handshakes: false,
        dns_refresh: seconds(30),
        slow_start: None,
        max_fails: Some(3),
        fail_timeout: Duration::from_secs(10),
        on_removed: OnRemoved::Keep,
        proxy_protocol: None,
        tls: None,
        health: None,
        servers: servers?,
    })
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

fn servers(value: Value<'_>, listeners: &Addresses) -> Result<Vec<UpstreamServer>, Finding> {
    let elements = value.elements()?;
    if elements.is_empty() {
        return Err(value.finding("`servers` is an empty list").label("an upstream has at least one server"));
    }
    let mut servers: Vec<(UpstreamServer, Range<usize>)> = Vec::new();
    for element in elements {
        let Some(server) = server(element) else { continue };
        judge(element, &server.address, listeners, &servers);
        servers.push((server, element.span()));
    }
    Ok(servers.into_iter().map(|(server, _)| server).collect())
}

/// One entry: an address, or a table of address and weight. `None` only where an error was recorded.
fn server(value: Value<'_>) -> Option<UpstreamServer> {
    if !value.node.get_ref().is_table() {
        let address = value.reader.recorded(address::server(value))?;
        return Some(UpstreamServer { address, weight: 1, backup: false, max_connections: None });
    }
    let table = value.reader.recorded(value.table(&keys::UPSTREAM_SERVER))?;
    let address = table.required("address", "\"192.168.1.141:80\"", address::server);
    let weight = table.get("weight", 1, values::count(1..=10_000));
    Some(UpstreamServer { address: address?, weight, backup: false, max_connections: None })
}

/// Warns about a server that stands twice, and one that is wsgate itself.
fn judge(
    value: Value<'_>,
    server: &ServerAddress,
    listeners: &Addresses,
    before: &[(UpstreamServer, Range<usize>)],
) {
    if let Some((_, span)) = before.iter().find(|(earlier, _)| earlier.address == *server) {
        let finding = value
            .finding("this server stands in the list twice")
            .context(span.clone(), "first here")
            .help("its share is set by a weight: `{ address = \"...\", weight = 2 }`");
        value.reader.record(finding.warning());
    }
    if listeners.iter().any(|listener| leads_to(server, listener)) {
        let finding =
            value.finding("this server is a listener of wsgate itself").label("requests would go in circles");
        value.reader.record(finding.warning());
    }
}

fn leads_to(server: &ServerAddress, listener: &ListenAddress) -> bool {
    match (server, listener) {
        (ServerAddress::Inet(server), ListenAddress::Inet(listener)) => reaches(*server, *listener),
        (ServerAddress::Name { host, port }, ListenAddress::Inet(listener)) => {
            let is_here = listener.ip().is_loopback() || listener.ip().is_unspecified();
            host.eq_ignore_ascii_case("localhost") && *port == listener.port() && is_here
        }
        (ServerAddress::Unix(server), ListenAddress::Unix(listener)) => server == listener,
        _ => false,
    }
}

fn reaches(server: SocketAddr, listener: SocketAddr) -> bool {
    let every = listener.ip().is_unspecified() && listener.is_ipv4() == server.is_ipv4();
    server.port() == listener.port() && (server.ip() == listener.ip() || every && server.ip().is_loopback())
}
