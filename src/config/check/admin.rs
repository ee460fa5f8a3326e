//! `[admin]`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::listener::Addresses;
use crate::{
    config::{
        Admin, ListenAddress, Secret, address,
        file::{Table, Value},
        keys, mask,
        report::{Finding, nearest, shown},
    },
    route::HostPattern,
};

/// A shorter token than this can be guessed.
const SHORT: usize = 16;
const MADE: &str = "`openssl rand -hex 32` makes one";

/// Reads the table. `None` only where an error was recorded.
pub(super) fn admin(value: Value<'_>, addresses: &mut Addresses) -> Option<Admin> {
    let reader = value.reader;
    hide_secrets(value);
    let help = if value.node.get_ref().is_array() {
        "write its header in one pair of brackets: `[admin]`"
    } else {
        "for example `admin = { address = \"127.0.0.1:9900\" }`"
    };
    let table = reader.recorded(value.table(&keys::ADMIN).map_err(|finding| finding.help(help)))?;
    let default = ListenAddress::Inet(SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)));
    let address = match table.value("address") {
        Some(value) => reader.recorded(address::listen(value)),
        None => Some(default),
    };
    let address_span = table.value("address").map_or(table.span.clone(), |value| value.span());
    if let Some(address) = &address {
        addresses.take(reader, address_span, address);
    }
    let admin = Admin {
        token: table.optional("token", token).flatten(),
        metrics_token: table.optional("metrics_token", token).flatten(),
        hosts: table.get("hosts", Vec::new(), |value| value.list(host)),
        address: address?,
    };
    needs_a_token(&table, &admin);
    warn_of_weak_tokens(&table, &admin);
    Some(admin)
}

/// Tokens are never repeated, under a wrong key neither.
fn hide_secrets(value: Value<'_>) {
    let is_token = |name| mask::is_secret(name) || nearest(name, ["token", "metrics_token"]).is_some();
    let entries = value.entries().unwrap_or_default();
    for entry in entries.into_iter().filter(|entry| is_token(entry.name)) {
        value.reader.hide(entry.value);
    }
}

/// A token; `""` is none.
fn token(value: Value<'_>) -> Result<Option<Secret>, Finding> {
    let text = value.text()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(value
            .finding(format!("`{}` cannot be sent in a header", value.key))
            .label("expected visible characters of ASCII, without spaces")
            .help(MADE));
    }
    Ok((!text.is_empty()).then(|| Secret::new(&*text)))
}

/// Whoever gets to the listener can close tunnels and read the configuration.
fn needs_a_token(table: &Table<'_>, admin: &Admin) {
    let given = table.value("token");
    let is_blank = given.is_none_or(|value| value.is_word(""));
    if !is_blank || !address::is_of_a_network(&admin.address) {
        return;
    }
    let Some(address) = table.value("address") else { return };
    let finding = address
        .finding("an admin listener that other machines reach needs a `token`")
        .label("neither a loopback address nor a unix socket")
        .help(format!("for example `token = \"${{WSGATE_TOKEN}}\"`, out of the environment: {MADE}"))
        .help("for this machine alone: `address = \"127.0.0.1:9900\"`");
    table.reader.record(match given {
        Some(blank) => finding.context(blank.span(), "this is none"),
        None => finding.absent(),
    });
}

fn warn_of_weak_tokens(table: &Table<'_>, admin: &Admin) {
    let tokens = [("token", &admin.token), ("metrics_token", &admin.metrics_token)];
    for (key, token) in tokens {
        let is_short = token.as_ref().is_some_and(|token| token.reveal().len() < SHORT);
        if let Some(value) = table.value(key).filter(|_| is_short) {
            let finding = value
                .finding(format!("`{key}` is shorter than {SHORT} characters"))
                .label("it can be guessed")
                .help(MADE);
            table.reader.record(finding.warning());
        }
    }
    if let (Some(token), Some(metrics_token)) = (table.value("token"), table.value("metrics_token"))
        && admin.token.is_some()
        && admin.token == admin.metrics_token
    {
        let finding = metrics_token
            .finding("`metrics_token` is the same as `token`")
            .label("whoever reads metrics may then change everything")
            .context(token.span(), "the other")
            .help(MADE);
        table.reader.record(finding.warning());
    }
}

/// A name or an IP address, as a Host has it before its port.
fn host(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    let finding = value.finding(format!("`{}` is not a name of this listener", shown(&text)));
    let label = match text.parse() {
        Ok(HostPattern::Exact(name)) => return Ok(name),
        Ok(HostPattern::Any | HostPattern::Suffix(_)) => {
            return Err(finding
                .label("expected a whole name: with `*` any page could speak to it")
                .help("each name is an entry of its own: `[\"admin.example.com\", \"wsgate.internal\"]`"));
        }
        Err(reason) => reason.to_string(),
    };
    Err(finding.label(label).maybe_help(bare(&text).map(|name| format!("did you mean \"{name}\"?"))))
}

/// What is left without scheme, port and path, where that is a name or an address.
fn bare(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(format!("[{address}]"));
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    match authority[..port.unwrap_or(authority.len())].parse() {
        Ok(HostPattern::Exact(name)) => Some(name),
        _ => None,
    }
}
