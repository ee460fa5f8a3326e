//! `upstream.servers`.

use std::{net::SocketAddr, ops::Range};

use crate::config::{
    ListenAddress, ServerAddress, UpstreamServer, address, check::listener::Addresses, file::Value, keys,
    report::Finding, values,
};

/// A server with its place in the file.
pub(super) struct Placed {
    pub(super) server: UpstreamServer,
    pub(super) span: Range<usize>,
}

/// The list, which is not empty.
pub(super) fn servers(value: Value<'_>, listeners: &Addresses) -> Result<Vec<Placed>, Finding> {
    let elements = value.elements()?;
    if elements.is_empty() {
        return Err(value.finding("`servers` is an empty list").label("an upstream has at least one server"));
    }
    let mut servers: Vec<Placed> = Vec::new();
    for element in &elements {
        let Some(server) = server(*element) else { continue };
        judge(*element, &server.address, listeners, &servers);
        servers.push(Placed { server, span: element.span() });
    }
    if servers.len() == elements.len() && servers.iter().all(|placed| placed.server.backup) {
        return Err(value
            .finding("every server of this upstream is a backup")
            .label("backups get connections only while none of the others can")
            .help("leave `backup` out of those that are to be used first"));
    }
    Ok(servers)
}

/// One entry: an address, or a table with more. `None` only where an error was recorded.
fn server(value: Value<'_>) -> Option<UpstreamServer> {
    if !value.node.get_ref().is_table() {
        let address = value.reader.recorded(address::server(value))?;
        return Some(UpstreamServer { address, weight: 1, backup: false, max_connections: None });
    }
    let table = value.reader.recorded(value.table(&keys::UPSTREAM_SERVER))?;
    let address = table.required("address", "\"192.168.1.141:80\"", address::server);
    let server = UpstreamServer {
        weight: table.get("weight", 1, values::count(1..=10_000)),
        backup: table.get("backup", false, Value::switch),
        max_connections: table.get("max_connections", None, values::count_or_off(1..=10_000_000)),
        address: address?,
    };
    if let (ServerAddress::Srv(_), Some(weight)) = (&server.address, table.value("weight")) {
        let finding = weight
            .finding("`weight` beside an SRV record")
            .label("each server of the record has its weight there")
            .help("leave it out");
        table.reader.record(finding);
    }
    Some(server)
}

/// Warns about a server that stands twice, and one that is wsgate itself.
fn judge(value: Value<'_>, server: &ServerAddress, listeners: &Addresses, before: &[Placed]) {
    if let Some(Placed { span, .. }) = before.iter().find(|earlier| earlier.server.address == *server) {
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
