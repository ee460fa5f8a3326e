//! The lines of `[admin]` and `[server]`.

use std::path::Path;

use super::{Row, listed, or_off, unusual};
use crate::config::{
    Admin, Server,
    values::{show_count, show_duration},
};

/// The admin listener, and below it who is let in. Tokens are named and not shown.
pub(super) fn admin(admin: &Admin) -> Vec<Row> {
    let Admin { address, token, metrics_token, hosts } = admin;
    let api = match token {
        Some(_) => "token",
        None => "no token",
    };
    let metrics = metrics_token.as_ref().map_or("open metrics", |_| "metrics_token");
    let hosts = (!hosts.is_empty()).then(|| format!("   hosts {}", listed(hosts.iter().cloned())));
    let first = vec![address.to_string(), format!("{api}, {metrics}")];
    std::iter::once(first).chain(hosts.map(|hosts| vec![String::new(), hosts])).collect()
}

/// The keys of `[server]` with another value than their default, but for the workers, of which the default is the machine's.
pub(super) fn unusual_of_server(server: &Server) -> Option<String> {
    let values = |server: &Server| {
        let count = |count: usize| show_count(u64::try_from(count).unwrap_or(u64::MAX));
        let path = |path: &Path| path.display().to_string();
        [
            ("max_connections", count(server.max_connections)),
            ("max_tls_handshakes", count(server.max_tls_handshakes)),
            ("shutdown_delay", show_duration(server.shutdown_delay)),
            ("shutdown_grace", or_off(server.shutdown_grace, show_duration)),
            ("drain_spread", show_duration(server.drain_spread)),
            ("upgrade_socket", or_off(server.upgrade_socket.as_deref(), path)),
        ]
    };
    unusual(values(server), values(&Server::default()))
}
