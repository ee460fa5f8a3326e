//! What no part of the file says alone: warnings about several that don't go together.

use std::{collections::HashMap, num::NonZeroUsize};

use super::listener::Addresses;
use crate::{
    config::{
        Action, Config, ListenAddress, Listener, Route, Server,
        file::Table,
        report::shown,
        values::{show_count, show_duration},
    },
    route::{HostPattern, PathPattern, RouteKind},
};

/// Where the parts of a [`Config`] stand in its file.
pub(super) struct Tables<'t, 'r> {
    pub(super) server: &'t Table<'r>,
    /// In the order of [`Config::listeners`].
    pub(super) listeners: &'t [Table<'r>],
    /// In the order of [`Config::routes`].
    pub(super) routes: &'t [Table<'r>],
    pub(super) addresses: &'t Addresses,
}

/// Warns about a configuration that was read as a whole.
pub(super) fn warn(config: &Config, tables: &Tables<'_, '_>) {
    for (table, route) in tables.routes.iter().zip(&config.routes) {
        passwords_in_plain(table, route, tables.addresses);
        answers_cut_short(table, route, &config.server, tables.server);
    }
    cookies_of_one_name(config, tables.routes);
    limits_out_of_reach(config, tables);
}

/// Basic authentication sends the password with every request, readable but for TLS.
fn passwords_in_plain(table: &Table<'_>, route: &Route, addresses: &Addresses) {
    let has_passwords = route.auth.as_ref().is_some_and(|auth| auth.basic.is_some());
    let (Some(value), Some(plain)) = (table.value("auth"), addresses.exposed()) else { return };
    if has_passwords {
        let finding = value
            .finding("passwords come in readable by everybody on the way")
            .label("`basic` asks for them with every request")
            .context(plain, "this listener has no `tls`")
            .help("give that listener `tls`, or let it redirect: `redirect_https = 443`")
            .help("`trusted_proxies` says that TLS ends at a proxy in front of it");
        table.reader.record(finding.warning());
    }
}

/// A `close_timeout` that the file asks for and a drain does not have: the Close waits so long for the end of a message, and
/// then so long for its answer, after the last of the spread began.
fn answers_cut_short(table: &Table<'_>, route: &Route, server: &Server, server_table: &Table<'_>) {
    let Some(value) = table.values_of("websocket").find(|value| value.key == "close_timeout") else { return };
    let (Some(grace), Some(timeout)) = (server.shutdown_grace, route.websocket.close_timeout) else { return };
    let left = grace.saturating_sub(server.drain_spread.min(grace / 2));
    if timeout.saturating_mul(2) <= left {
        return;
    }
    let spread = server.drain_spread;
    let enough = timeout.saturating_mul(2).saturating_add(spread).max(spread.saturating_mul(2));
    let mut finding = value
        .finding("a drain has less time than twice `close_timeout`")
        .label(format!("{} are left when the last tunnel begins to end, then it is cut", show_duration(left)))
        .help("once for the end of a message, once for the answer to the Close")
        .help(format!("`shutdown_grace = \"{}\"` has the time for both", show_duration(enough)));
    let labels =
        [("shutdown_grace", "a drain takes no longer than this"), ("drain_spread", "and begins within this")];
    for (key, label) in labels {
        if let Some(given) = server_table.value(key) {
            finding = finding.context(given.span(), label);
        }
    }
    table.reader.record(finding.warning());
}

/// Two pools with a cookie of one name under one host: each sets it over the other's, and clients stay nowhere.
fn cookies_of_one_name(config: &Config, tables: &[Table<'_>]) {
    let mut by_cookie: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, route) in config.routes.iter().enumerate() {
        let Some((pool, cookie)) = sticky(config, route) else { continue };
        let earlier = by_cookie.entry(cookie).or_default();
        let other = earlier.iter().find(|other| {
            let other = &config.routes[**other];
            let is_another = sticky(config, other).is_some_and(|(of_other, _)| of_other != pool);
            is_another && share_a_host(other, route)
        });
        let places =
            other.and_then(|other| tables[*other].value("upstream").zip(tables[index].value("upstream")));
        match places {
            None if takes_whole_hosts(route) => {}
            None => earlier.push(index),
            // Once is enough: what is told is not compared again.
            Some((first, second)) => {
                let finding = second
                    .finding("two pools under one host have a `sticky_cookie` of one name")
                    .label(format!("each sets `{}` over the other's", shown(cookie)))
                    .context(first.span(), "this is the other")
                    .help("give each pool a name of its own, and clients stay at their server of both");
                tables[index].reader.record(finding.warning());
            }
        }
    }
}

/// Limits of a client or a route that `max_connections`, which holds for all of them together, leaves no way to reach.
fn limits_out_of_reach(config: &Config, tables: &Tables<'_, '_>) {
    let all = config.server.max_connections;
    let out_of_reach = |most: &NonZeroUsize| most.get() >= all;
    let listeners = tables.listeners.iter().zip(&config.listeners);
    let of_clients = listeners.filter_map(|(table, listener)| {
        listener.max_connections_per_ip.filter(out_of_reach).filter(|_| knows_clients(listener))?;
        table.value("max_connections_per_ip")
    });
    let routes = tables.routes.iter().zip(&config.routes);
    let of_routes = routes.filter_map(|(table, route)| {
        let has_tunnels = matches!(route.action, Action::Upstream(_)) && route.kind != RouteKind::Http;
        route.max_tunnels.filter(out_of_reach).filter(|_| has_tunnels)?;
        table.values_of("limits").find(|value| value.key == "max_tunnels")
    });
    let all = show_count(u64::try_from(all).unwrap_or(u64::MAX));
    for value in of_clients.chain(of_routes) {
        let mut finding = value
            .finding(format!("`{}` has no effect here", value.key))
            .label(format!("`max_connections` of `[server]` lets in {all} of all clients together"));
        if let Some(given) = tables.server.value("max_connections") {
            finding = finding.context(given.span(), "this bounds all of them");
        }
        value.reader.record(finding.warning());
    }
}

/// Whether this listener can tell its clients apart.
fn knows_clients(listener: &Listener) -> bool {
    let is_network = matches!(listener.address, ListenAddress::Inet(_));
    is_network || listener.proxy_protocol.is_some() || !listener.trusted_proxies.is_empty()
}

/// The pool of a route and the name of its cookie.
fn sticky<'c>(config: &'c Config, route: &Route) -> Option<(usize, &'c str)> {
    let Action::Upstream(pool) = route.action else { return None };
    let sticky = config.upstreams.get(pool)?.sticky.as_ref()?;
    Some((pool, &sticky.cookie))
}

/// Whether no request for a host of this route goes to a later one.
fn takes_whole_hosts(route: &Route) -> bool {
    let every_path = PathPattern::Prefix(String::new());
    route.kind == RouteKind::Any && route.subprotocol.is_none() && route.paths.contains(&every_path)
}

fn share_a_host(one: &Route, other: &Route) -> bool {
    one.hosts.iter().any(|host| other.hosts.iter().any(|other| overlap(host, other)))
}

fn overlap(one: &HostPattern, other: &HostPattern) -> bool {
    let is_below =
        |name: &str, parent: &str| name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(one), HostPattern::Exact(other)) => one == other,
        (HostPattern::Exact(name), HostPattern::Suffix(parent))
        | (HostPattern::Suffix(parent), HostPattern::Exact(name)) => is_below(name, parent),
        (HostPattern::Suffix(one), HostPattern::Suffix(other)) => {
            one == other || is_below(one, other) || is_below(other, one)
        }
    }
}
