//! What `wsgate check` prints of a configuration that can be used.

mod listener;
mod process;
mod route;

use std::{fmt, time::Duration};

use time::OffsetDateTime;

use super::{
    Balance, Check, Config, HashKey, Health, ListenAddress, OnRemoved, SameSite, ServerAddress, Sticky,
    Trust, Upstream, UpstreamServer, UpstreamTls,
    check::upstream::{CHECKS, ON_REMOVED, PROXY_PROTOCOLS, SAME_SITES},
    values::{show_count, show_duration},
};

/// What wsgate understood, as aligned text without a line break at its end.
pub fn summary(config: &Config) -> impl fmt::Display + '_ {
    summary_at(config, OffsetDateTime::now_utc())
}

/// The same at a given time, from which expiry is counted.
pub(super) fn summary_at(config: &Config, now: OffsetDateTime) -> impl fmt::Display + '_ {
    Summary { config, now }
}

struct Summary<'c> {
    config: &'c Config,
    now: OffsetDateTime,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { server, admin, listeners, upstreams, routes, .. } = self.config;
        writeln!(f, "Listeners")?;
        table(f, listeners.iter().map(|listener| listener::rows(listener, self.now)))?;
        if !upstreams.is_empty() {
            writeln!(f, "\n\nUpstreams")?;
            table(f, upstreams.iter().map(upstream_rows))?;
        }
        writeln!(f, "\n\nRoutes (the first that matches wins)")?;
        table(f, routes.iter().map(|route| route::rows(route, upstreams)))?;
        if let Some(admin) = admin {
            writeln!(f, "\n\nAdmin")?;
            table(f, std::iter::once(process::admin(admin)))?;
        }
        if let Some(unusual) = process::unusual_of_server(server) {
            write!(f, "\n\nProcess\n  {unusual}")?;
        }
        Ok(())
    }
}

type Row = Vec<String>;

/// Writes rows in columns as wide as their widest cell; empty columns are left out. The first row has all columns; the
/// last cell of one that has fewer may be longer than its column.
fn table(f: &mut fmt::Formatter<'_>, groups: impl Iterator<Item = Vec<Row>>) -> fmt::Result {
    let rows: Vec<_> = groups.flatten().collect();
    let columns = rows.first().map_or(0, Vec::len);
    let in_column = |row: &&Row, column| row.len() == columns || column + 1 < row.len();
    let width = |column: usize| {
        let rows = rows.iter().filter(|row| in_column(row, column));
        rows.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            line.push_str("  ");
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        let separator = if index == 0 { "" } else { "\n" };
        write!(f, "{separator}{}", line.trim_end())?;
    }
    Ok(())
}

/// The servers, and below them what differs from the defaults of the pool.
fn upstream_rows(upstream: &Upstream) -> Vec<Row> {
    let row = |(index, server): (usize, &UpstreamServer)| {
        let first = |text: String| if index == 0 { text } else { String::new() };
        vec![
            first(upstream.name.clone()),
            first(balance(&upstream.balance)),
            server.address.to_string(),
            share(server),
        ]
    };
    let servers = upstream.servers.iter().enumerate().map(row);
    let details =
        [upstream_tls, health, sticky, unusual_of_pool].into_iter().filter_map(|show| show(upstream));
    let empty = || String::new();
    servers.chain(details.map(|text| vec![empty(), empty(), format!("   {text}")])).collect()
}

fn balance(balance: &Balance) -> String {
    let key = match balance {
        Balance::LeastConnections => return "least_connections".to_owned(),
        Balance::RoundRobin => return "round_robin".to_owned(),
        Balance::RandomTwo => return "random_two".to_owned(),
        Balance::ConsistentHash(key) => key,
    };
    let key = match key {
        HashKey::ClientIp => "client_ip".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
    };
    format!("consistent_hash of {key}")
}

/// What a server gets of a pool's connections, where it is not simply its share.
fn share(server: &UpstreamServer) -> String {
    let weight = (server.weight != 1).then(|| format!("weight {}", server.weight));
    let backup = server.backup.then(|| "backup".to_owned());
    let most = server.max_connections.and_then(|most| u64::try_from(most).ok());
    let most = most.map(|most| format!("max_connections {}", show_count(most)));
    [weight, backup, most].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn upstream_tls(upstream: &Upstream) -> Option<String> {
    let UpstreamTls { server_name, trust, identity } = upstream.tls.as_ref()?;
    let trust = match trust {
        Trust::System => "trusts the system's roots".to_owned(),
        Trust::Ca(certificates) => trusted("ca", certificates.len()),
        Trust::Anybody => "trusts anybody".to_owned(),
    };
    let name = server_name.as_ref().map(|name| format!("as {}", name.to_str()));
    let shown = identity.as_ref().map(|identity| format!("shows {}", identity.cert.display()));
    let parts: Vec<_> = name.into_iter().chain([trust]).chain(shown).collect();
    Some(format!("TLS: {}", parts.join(", ")))
}

/// The certificates of the file that a key names.
fn trusted(key: &str, certificates: usize) -> String {
    match certificates {
        1 => format!("trusts the certificate of `{key}`"),
        count => format!("trusts the {count} certificates of `{key}`"),
    }
}

fn health(upstream: &Upstream) -> Option<String> {
    let Health {
        check,
        path,
        host,
        headers,
        subprotocol,
        expect_status,
        ping,
        interval,
        timeout,
        rise,
        fall,
    } = upstream.health.as_ref()?;
    let mut parts = vec![format!("{} every {}", word(&CHECKS, check), show_duration(*interval))];
    if *check != Check::Tcp {
        parts.push(format!("path {path}"));
        parts.extend(host.as_ref().map(|host| format!("host {host}")));
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        parts.extend((!names.is_empty()).then(|| format!("headers {}", names.join(" "))));
        let statuses: Vec<_> = expect_status.iter().map(u16::to_string).collect();
        let statuses = if statuses.is_empty() { "none".to_owned() } else { statuses.join(" ") };
        parts.extend((*expect_status != [200]).then(|| format!("expect_status {statuses}")));
    }
    if *check == Check::Websocket {
        parts.extend(subprotocol.as_ref().map(|name| format!("subprotocol {name}")));
        parts.extend(ping.then(|| "ping".to_owned()));
    }
    let usual = (Duration::from_secs(2), 2, 3);
    parts.extend((*timeout != usual.0).then(|| format!("timeout {}", show_duration(*timeout))));
    parts.extend((*rise != usual.1).then(|| format!("rise {rise}")));
    parts.extend((*fall != usual.2).then(|| format!("fall {fall}")));
    Some(format!("health: {}", parts.join(", ")))
}

fn sticky(upstream: &Upstream) -> Option<String> {
    let Sticky { cookie, same_site } = upstream.sticky.as_ref()?;
    let same_site = match same_site {
        SameSite::Lax => String::new(),
        SameSite::Strict | SameSite::None => format!(", sticky_same_site {}", word(&SAME_SITES, same_site)),
    };
    Some(format!("sticky_cookie {cookie}{same_site}"))
}

/// The keys of `[upstream.NAME]` about tunnels and connecting with another value than their default.
fn unusual_of_pool(upstream: &Upstream) -> Option<String> {
    let Upstream { source_addresses, proxy_protocol, slow_start, max_fails, fail_timeout, .. } = upstream;
    let unusual = |is_unusual: bool, key: &str, value: String| is_unusual.then(|| format!("{key} {value}"));
    let sources: Vec<_> = source_addresses.iter().map(ToString::to_string).collect();
    let parts = [
        unusual(!sources.is_empty(), "source_addresses", sources.join(" ")),
        proxy_protocol.map(|version| format!("proxy_protocol {}", word(&PROXY_PROTOCOLS, &version))),
        unusual(upstream.retry_handshakes, "retry_handshakes", "true".to_owned()),
        unusual(
            upstream.dns_refresh != Some(Duration::from_secs(30)),
            "dns_refresh",
            or_off(upstream.dns_refresh, show_duration),
        ),
        slow_start.map(|time| format!("slow_start {}", show_duration(time))),
        unusual(*max_fails != Some(3), "max_fails", or_off(*max_fails, |count| count.to_string())),
        unusual(*fail_timeout != Duration::from_secs(10), "fail_timeout", show_duration(*fail_timeout)),
        unusual(
            upstream.on_removed != OnRemoved::Keep,
            "on_removed",
            word(&ON_REMOVED, &upstream.on_removed),
        ),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn or_off<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "off".to_owned(), show)
}

/// The keys of a table with another value than their default.
fn unusual<const N: usize>(values: [(&str, String); N], defaults: [(&str, String); N]) -> Option<String> {
    let differing = values.into_iter().zip(defaults).filter(|(value, default)| value != default);
    let parts: Vec<_> = differing.map(|((key, value), _)| format!("{key} {value}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The word of the file for a value.
fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| *word).to_owned()
}

/// A list as it stands in a line, cut where it is long.
fn listed(entries: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let mut entries = entries;
    let mut shown: Vec<_> = entries.by_ref().take(SHOWN).collect();
    let more = entries.count();
    shown.extend((more > 0).then(|| format!("and {more} more")));
    shown.join(" ")
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Srv(name) => write!(f, "dns+srv://{name}"),
        }
    }
}
