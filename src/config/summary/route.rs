//! The lines of a route.

use super::{Row, listed, or_off, word};
use crate::{
    config::{
        Action, Auth, Htpasswd, Route, Upstream, WebSocket,
        check::{
            upstream::ON_REMOVED,
            websocket::{FRAMES, PINGS},
        },
        values::{show_count, show_duration, show_size},
    },
    proto::{network::Networks, origin::OriginPattern},
    route::{HostPattern, PathPattern, RouteKind},
};

/// The route, and below its action what differs from the defaults: who is let in, its limits, and its tunnels.
pub(super) fn rows(route: &Route, upstreams: &[Upstream]) -> Vec<Row> {
    let auth = route.auth.as_ref().map(|auth| auth_of(auth, upstreams));
    let tunnels = tunnels(route);
    let tunnels = (!tunnels.is_empty()).then(|| format!("tunnels: {}", tunnels.join(", ")));
    let details = [clients(route), auth, request_body(route), tunnels].into_iter().flatten();
    let empty = || String::new();
    let below = details.map(|text| vec![empty(), empty(), empty(), empty(), format!("   {text}")]);
    std::iter::once(row(route, upstreams)).chain(below).collect()
}

fn row(route: &Route, upstreams: &[Upstream]) -> Row {
    let kind = match route.kind {
        RouteKind::Any => None,
        RouteKind::Websocket => Some("WebSocket only".to_owned()),
        RouteKind::Http => Some("plain HTTP only".to_owned()),
    };
    let subprotocol = route.subprotocol.as_ref().map(|name| format!("subprotocol {name}"));
    let selects: Vec<_> = kind.into_iter().chain(subprotocol).collect();
    let action = match &route.action {
        Action::Upstream(index) => format!("-> upstream {}", upstreams[*index].name),
        Action::Redirect { to, status } => format!("-> redirect {status} to {to}"),
        Action::Respond { status, .. } => format!("-> respond {status}"),
    };
    let hosts: Vec<_> = route.hosts.iter().map(host).collect();
    let paths: Vec<_> = route.paths.iter().map(path).collect();
    vec![route.name.clone(), hosts.join(", "), paths.join(", "), selects.join(", "), action]
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

fn clients(route: &Route) -> Option<String> {
    let shown = |key: &str, networks: &Networks| {
        let list = listed(networks.0.iter().map(ToString::to_string));
        (!networks.is_empty()).then(|| format!("{key} {list}"))
    };
    let parts: Vec<_> =
        [shown("allow", &route.allow), shown("deny", &route.deny)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("clients: {}", parts.join(", ")))
}

fn auth_of(auth: &Auth, upstreams: &[Upstream]) -> String {
    let users = |Htpasswd { path, users }: &Htpasswd| {
        let noun = if users.len() == 1 { "user" } else { "users" };
        format!("basic, {} {noun} of {}", users.len(), path.display())
    };
    let basic = auth.basic.as_ref().map(users);
    let forward = auth.forward.as_ref();
    let forward = forward.map(|asked| format!("forward {}{}", upstreams[asked.upstream].name, asked.path));
    let copied = listed(auth.copy_headers.iter().cloned());
    let copied = (!copied.is_empty()).then(|| format!("copy_headers {copied}"));
    format!("auth: {}", [basic, forward, copied].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn request_body(route: &Route) -> Option<String> {
    let most = route.request_body.filter(|_| matches!(route.action, Action::Upstream(_)))?;
    Some(format!("request_body {}", show_size(most)))
}

/// Who may open tunnels and how many, and the keys of `[route.websocket]` with another value than their default.
fn tunnels(route: &Route) -> Vec<String> {
    if route.kind == RouteKind::Http {
        return Vec::new();
    }
    let origins = &route.origins;
    // With authentication the default is another, which is worth knowing.
    let is_usual = origins.allowed == [OriginPattern::Any] && route.auth.is_none();
    let allowed = listed(origins.allowed.iter().map(ToString::to_string));
    let mut parts: Vec<_> = (!is_usual).then(|| format!("origins {allowed}")).into_iter().collect();
    parts.extend(origins.require.then(|| "require_origin true".to_owned()));
    if matches!(route.action, Action::Upstream(_)) {
        let most = route.max_tunnels.and_then(|most| u64::try_from(most.get()).ok());
        parts.extend(most.map(|most| format!("max_tunnels {}", show_count(most))));
        parts.extend(unusual(&route.websocket));
    }
    parts
}

fn unusual(websocket: &WebSocket) -> impl Iterator<Item = String> {
    let default = values_of(&WebSocket::default());
    let differs = |((key, value), default): ((&str, String), (&str, String))| {
        (value != default.1).then(|| format!("{key} {value}"))
    };
    values_of(websocket).into_iter().zip(default).filter_map(differs)
}

/// The keys of `[route.websocket]` with their values as the file writes them.
fn values_of(websocket: &WebSocket) -> [(&'static str, String); 13] {
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
        ("on_reload", word(&ON_REMOVED, &websocket.on_reload)),
        ("close_timeout", time(websocket.close_timeout)),
    ]
}
