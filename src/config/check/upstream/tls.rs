//! `[upstream.NAME.tls]`.

use rustls::pki_types::ServerName;

use super::Placed;
use crate::config::{
    Identity, ServerAddress, Trust, UpstreamTls,
    file::{Table, Value},
    identity::{self, Role},
    keys,
    report::{Finding, shown},
};

/// Reads the table. `None` only where an error was recorded.
pub(super) fn tls(value: Value<'_>, servers: &[Placed]) -> Option<UpstreamTls> {
    let reader = value.reader;
    let table = value.table(&keys::UPSTREAM_TLS);
    let table = table.map_err(|finding| finding.help("`tls = {}` is TLS that trusts the system's roots"));
    let table = reader.recorded(table)?;
    let is_given = table.value("server_name").is_some_and(|value| !value.is_word(""));
    if let Some(finding) = servers.iter().find_map(|placed| nameless(&table, placed)).filter(|_| !is_given) {
        reader.record(finding);
    }
    Some(UpstreamTls {
        server_name: table.optional("server_name", server_name).flatten(),
        trust: trust(&table),
        identity: client_identity(&table),
    })
}

/// `""` is the server's own host.
fn server_name(value: Value<'_>) -> Result<Option<ServerName<'static>>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let is_name = |text: &str| ServerName::try_from(text).is_ok();
    if let Ok(name) = ServerName::try_from(text.clone().into_owned()) {
        return Ok(Some(name));
    }
    let bare = text.rsplit("://").next().unwrap_or_default();
    let bare = bare.split(['/', '?']).next().unwrap_or_default();
    let bare = match bare.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => bare.split_once(':').map_or(bare, |(host, _)| host),
    };
    let help = (bare != text && is_name(bare)).then(|| format!("the name alone: \"{}\"", shown(bare)));
    Err(value
        .finding(format!("`{}` is not the name of a server", shown(&text)))
        .label("expected a DNS name or an IP address, without `*` and without a port")
        .maybe_help(help))
}

/// The error for a server that has no name of its own to send and check.
fn nameless(table: &Table<'_>, placed: &Placed) -> Option<Finding> {
    let label = match &placed.server.address {
        ServerAddress::Unix(_) => "a unix socket has no host",
        ServerAddress::Name { host, .. } if ServerName::try_from(host.as_str()).is_err() => {
            "its host is not a name that certificates have"
        }
        ServerAddress::Name { .. } | ServerAddress::Inet(_) | ServerAddress::Srv(_) => return None,
    };
    let finding = Finding::new(placed.span.clone(), "no name to ask this server's certificate for")
        .label(label)
        .context(table.span.clone(), "TLS is spoken to it because of this")
        .help("give the name in this table, for example `server_name = \"backend.internal\"`");
    Some(finding)
}

fn trust(table: &Table<'_>) -> Trust {
    let verify = table.get("verify", true, Value::switch);
    let ca = table.optional("ca", identity::load_ca).flatten();
    let Some(unverified) = table.value("verify").filter(|_| !verify) else {
        return ca.map_or(Trust::System, Trust::Ca);
    };
    let finding = unverified
        .finding("`verify` is off")
        .label("whoever answers at a server's address is trusted, with any certificate")
        .help("`ca` names a PEM file with the certificates that are trusted instead of the system's");
    table.reader.record(finding.warning());
    if let Some(value) = table.value("ca").filter(|value| !value.is_word("")) {
        let finding = value
            .finding("`ca` has no effect here")
            .label("no certificate is checked")
            .context(unverified.span(), "because of this")
            .help("leave `verify` out");
        table.reader.record(finding.warning());
    }
    Trust::Anybody
}

/// The client's certificate and its key: both or none; `""` is none.
fn client_identity(table: &Table<'_>) -> Option<Identity> {
    let given = |key| table.value(key).filter(|value| !value.is_word(""));
    match (given("cert"), given("key")) {
        (Some(cert), Some(key)) => identity::load(cert, key, Role::Client),
        (None, None) => None,
        (cert, _) => {
            let missing = table.missing(if cert.is_some() { "key" } else { "cert" });
            table.reader.record(missing.help("a certificate and its private key go together"));
            None
        }
    }
}
