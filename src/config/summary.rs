//! What `wsgate check` prints of a configuration that can be used.

use std::fmt;

use time::OffsetDateTime;

use super::{
    Action, Balance, CertificateSource, Config, Identity, ListenAddress, Listener, Route, ServerAddress, Tls,
    Upstream, UpstreamServer, WebSocket,
    check::websocket::{FRAMES, PINGS},
    identity::date,
    values::{show_duration, show_size},
};
use crate::route::{HostPattern, PathPattern, RouteKind};

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
        let Config { listeners, upstreams, routes, .. } = self.config;
        writeln!(f, "Listeners")?;
        table(f, listeners.iter().map(|listener| listener_rows(listener, self.now)))?;
        if !upstreams.is_empty() {
            writeln!(f, "\n\nUpstreams")?;
            table(f, upstreams.iter().map(upstream_rows))?;
        }
        writeln!(f, "\n\nRoutes (the first that matches wins)")?;
        table(f, routes.iter().map(|route| route_rows(route, upstreams)))
    }
}

type Row = Vec<String>;

/// Writes rows of the same length in columns as wide as their widest cell; empty columns are left out.
fn table(f: &mut fmt::Formatter<'_>, groups: impl Iterator<Item = Vec<Row>>) -> fmt::Result {
    let rows: Vec<_> = groups.flatten().collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            line.push_str("  ");
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        let separator = if index == 0 { "" } else { "\n" };
        write!(f, "{separator}{}", line.trim_end())?;
    }
    Ok(())
}

fn listener_rows(listener: &Listener, now: OffsetDateTime) -> Vec<Row> {
    let address = listener.address.to_string();
    let row = |address: &str, scheme: &str, what: String| vec![address.to_owned(), scheme.to_owned(), what];
    match &listener.tls {
        None => {
            let what = listener.redirect_https.map(|port| format!("redirects to https at port {port}"));
            vec![row(&address, "http", what.unwrap_or_default())]
        }
        Some(Tls { source: CertificateSource::SelfSigned { names, folder }, .. }) => {
            let what = format!("development certificate in {} for {}", folder.display(), names.join(", "));
            vec![row(&address, "https", what)]
        }
        Some(Tls { source: CertificateSource::Files(identities), .. }) => {
            let certificates = identities.iter().map(|identity| certificate(identity, now)).enumerate();
            let rows = certificates.map(|(index, what)| match index {
                0 => row(&address, "https", what),
                _ => row("", "", what),
            });
            rows.collect()
        }
    }
}

fn certificate(identity: &Identity, now: OffsetDateTime) -> String {
    let names = if identity.names.is_empty() { "no name".to_owned() } else { identity.names.join(", ") };
    let days = (identity.not_after - now).whole_days();
    let date = date(identity.not_after);
    let expiry = match days {
        _ if identity.not_after < now => format!("expired on {date}"),
        0 => "expires within a day".to_owned(),
        1 => format!("expires in 1 day, on {date}"),
        days => format!("expires in {days} days, on {date}"),
    };
    format!("{names} ({expiry})")
}

fn upstream_rows(upstream: &Upstream) -> Vec<Row> {
    let balance = match upstream.balance {
        Balance::LeastConnections => "least_connections",
        Balance::RoundRobin => "round_robin",
    };
    let row = |(index, server): (usize, &UpstreamServer)| {
        let first = |text: &str| if index == 0 { text.to_owned() } else { String::new() };
        let weight = if server.weight == 1 { String::new() } else { format!("weight {}", server.weight) };
        vec![first(&upstream.name), first(balance), server.address.to_string(), weight]
    };
    upstream.servers.iter().enumerate().map(row).collect()
}

/// The route, and below its action what differs from the defaults of its tunnels.
fn route_rows(route: &Route, upstreams: &[Upstream]) -> Vec<Row> {
    let unusual = match &route.action {
        Action::Upstream(_) => unusual(&route.websocket),
        Action::Redirect { .. } | Action::Respond { .. } => String::new(),
    };
    let mut rows = vec![route_row(route, upstreams)];
    if !unusual.is_empty() {
        let empty = || String::new();
        rows.push(vec![empty(), empty(), empty(), empty(), format!("   tunnels: {unusual}")]);
    }
    rows
}

/// The keys of `[route.websocket]` with another value than their default.
fn unusual(websocket: &WebSocket) -> String {
    let default = values_of(&WebSocket::default());
    let differs = |((key, value), default): ((&str, String), (&str, String))| {
        (value != default.1).then(|| format!("{key} {value}"))
    };
    let unusual: Vec<_> = values_of(websocket).into_iter().zip(default).filter_map(differs).collect();
    unusual.join(", ")
}

/// The keys of `[route.websocket]` with their values as the file writes them.
fn values_of(websocket: &WebSocket) -> [(&'static str, String); 12] {
    fn or_off<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
        value.map_or_else(|| "off".to_owned(), show)
    }
    fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
        words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| *word).to_owned()
    }
    let time = |duration| or_off(duration, show_duration);
    let size = |bytes| or_off(bytes, show_size);
    [
        ("frames", word(&FRAMES, &websocket.frames)),
        ("verify_accept", websocket.verify_accept.to_string()),
        ("idle_timeout", time(websocket.idle_timeout)),
        ("ping", word(&PINGS, &websocket.ping)),
        ("ping_interval", time(websocket.ping_interval)),
        ("pong_timeout", time(websocket.pong_timeout)),
        ("half_close_timeout", time(websocket.half_close_timeout)),
        ("max_frame", size(websocket.max_frame)),
        ("max_message", size(websocket.max_message)),
        ("message_rate", or_off(websocket.message_rate, |rate| rate.to_string())),
        ("max_age", time(websocket.max_age)),
        ("close_timeout", time(websocket.close_timeout)),
    ]
}

fn route_row(route: &Route, upstreams: &[Upstream]) -> Row {
    let kind = match route.kind {
        RouteKind::Any => "",
        RouteKind::Websocket => "WebSocket only",
        RouteKind::Http => "plain HTTP only",
    };
    let action = match &route.action {
        Action::Upstream(index) => format!("-> upstream {}", upstreams[*index].name),
        Action::Redirect { to, status } => format!("-> redirect {status} to {to}"),
        Action::Respond { status, .. } => format!("-> respond {status}"),
    };
    let hosts: Vec<_> = route.hosts.iter().map(host).collect();
    let paths: Vec<_> = route.paths.iter().map(path).collect();
    vec![route.name.clone(), hosts.join(", "), paths.join(", "), kind.to_owned(), action]
}

fn host(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "any host".to_owned(),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(name) => format!("*.{name}"),
    }
}

fn path(path: &PathPattern) -> String {
    match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(path) => format!("{path}/*"),
    }
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
        }
    }
}
