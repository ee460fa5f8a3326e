//! Who is let in: networks, peers that are believed, origins.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    config::{
        Origins,
        file::{Table, Value},
        report::{Finding, nearest, shown},
    },
    proto::{
        network::{Network, NetworkError, Networks, Peers},
        origin::{OriginError, OriginPattern},
    },
};

/// What other programs' files have for networks, with what it says here.
const WORDS: [(&str, &str); 7] = [
    ("*", "every address: \"0.0.0.0/0\" and \"::/0\""),
    ("all", "every address: \"0.0.0.0/0\" and \"::/0\""),
    ("any", "every address: \"0.0.0.0/0\" and \"::/0\""),
    ("localhost", "this machine: \"127.0.0.0/8\" and \"::1\""),
    ("loopback", "this machine: \"127.0.0.0/8\" and \"::1\""),
    ("private_ranges", PRIVATE),
    ("private", PRIVATE),
];
const PRIVATE: &str = "\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\" and \"fc00::/7\"";
/// What other programs' files have for origins.
const OTHER_ORIGINS: [(&str, &str); 9] = [
    ("off", "*"),
    ("all", "*"),
    ("any", "*"),
    ("same_origin", "same-origin"),
    ("sameorigin", "same-origin"),
    ("same origin", "same-origin"),
    ("self", "same-origin"),
    ("'self'", "same-origin"),
    ("none", "null"),
];

/// Reads `allow` and `deny`.
pub(super) fn clients(table: &Table<'_>) -> (Networks, Networks) {
    let list = |value: Value<'_>| Ok(networks(value.elements()?));
    let (allow, deny) =
        (table.get("allow", Networks::default(), list), table.get("deny", Networks::default(), list));
    if let Some(finding) = nobody_is_let_in(table, &allow, &deny) {
        table.reader.record(finding.warning());
    } else {
        warn_of_denied(table, &deny);
    }
    (allow, deny)
}

/// `deny`, which wins, has everybody that would be let in.
fn nobody_is_let_in(table: &Table<'_>, allow: &Networks, deny: &Networks) -> Option<Finding> {
    let value = table.value("deny")?;
    let is_denied = |network: &Network| deny.0.iter().any(|denied| denied.includes(network));
    let everybody =
        || ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).all(|all| is_denied(&all));
    if allow.is_empty() {
        let finding = value.finding("this route lets nobody in").label("every address is denied");
        return everybody().then(|| finding.help("`allow` alone refuses everybody else"));
    }
    let allowed = table.value("allow").filter(|_| allow.0.iter().all(is_denied))?;
    let finding = allowed.finding("this route lets nobody in").label("`deny` wins over `allow`");
    Some(finding.context(value.span(), "these have all of them").help("`allow` alone refuses everybody else"))
}

/// Entries of `allow` that `deny` takes back.
fn warn_of_denied(table: &Table<'_>, deny: &Networks) {
    let (Some(allow), Some(denied)) = (table.value("allow"), table.value("deny")) else { return };
    for element in allow.elements().into_iter().flatten() {
        let Ok(network) = network(element) else { continue };
        if deny.0.iter().any(|denied| denied.includes(&network)) {
            let finding = element
                .finding(format!("`{network}` is allowed and denied"))
                .label("`deny` wins over `allow`")
                .context(denied.span(), "denied here");
            table.reader.record(finding.warning());
        }
    }
}

/// Addresses, ranges, and "unix" for whoever comes in by a unix socket.
pub(super) fn peers(value: Value<'_>) -> Result<Peers, Finding> {
    let (unix, others): (Vec<_>, _) = value.elements()?.into_iter().partition(|entry| entry.is_word("unix"));
    Ok(Peers { networks: networks(others), unix: !unix.is_empty() })
}

/// The networks of a list, of which the problems are recorded.
fn networks(entries: Vec<Value<'_>>) -> Networks {
    let read = entries.into_iter().filter_map(|entry| Some((entry, entry.reader.recorded(network(entry))?)));
    let read: Vec<_> = read.collect();
    warn_of_included(&read);
    Networks(read.into_iter().map(|(_, network)| network).collect())
}

/// Entries that another one of their list has already: told once, as lists may be long.
fn warn_of_included(list: &[(Value<'_>, Network)]) {
    // In this order what a network includes follows it, before anything that it does not include.
    let mut order: Vec<_> = (0..list.len()).collect();
    order.sort_by_key(|&index| (list[index].1, index));
    let (mut included, mut widest) = (Vec::new(), None);
    for index in order {
        match widest.filter(|&place: &usize| list[place].1.includes(&list[index].1)) {
            Some(place) => included.push((index, place)),
            None => widest = Some(index),
        }
    }
    let Some(&(index, place)) = included.iter().min() else { return };
    let ((entry, network), (wider, other)) = (&list[index], &list[place]);
    let more = match included.len() {
        1 => None,
        2 => Some("one more entry of this list adds nothing either".to_owned()),
        count => Some(format!("{} more entries of this list add nothing either", count - 1)),
    };
    let (message, label) = if network == other {
        (format!("`{network}` stands in this list twice"), "first here")
    } else {
        (format!("`{network}` adds nothing to this list"), "this has all of it")
    };
    let finding = entry.finding(message).context(wider.span(), label).maybe_help(more);
    entry.reader.record(finding.warning());
}

fn network(value: Value<'_>) -> Result<Network, Finding> {
    let text = value.text()?;
    text.parse().map_err(|error: NetworkError| {
        let finding = value.finding(format!("`{}` is not a network", shown(&text))).label(error.to_string());
        match error {
            NetworkError::HostBits(meant) => finding.help(format!("did you mean \"{meant}\"?")),
            NetworkError::Malformed => finding.maybe_help(meant(value.key, &text)),
        }
    })
}

/// What was probably meant by something that is no network.
fn meant(key: &str, text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    if let Some((_, help)) = WORDS.iter().find(|(word, _)| *word == lower) {
        return Some((*help).to_owned());
    }
    let is_about_clients = matches!(key, "allow" | "deny");
    if lower.starts_with("unix") {
        let help = if is_about_clients {
            "who comes in by a unix socket has no address"
        } else {
            "did you mean \"unix\"?"
        };
        return Some(help.to_owned());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(format!("without a port: \"{}\"", address.ip()));
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed.and_then(|text| text.parse::<Ipv6Addr>().ok()) {
        return Some(format!("without brackets: \"{address}\""));
    }
    if let Some((address, mask)) = text.split_once('/') {
        let bits = mask.parse::<Ipv4Addr>().map(Ipv4Addr::to_bits);
        let prefix = bits.ok().filter(|bits| bits.leading_ones() == bits.count_ones()).map(u32::count_ones);
        return prefix
            .map(|prefix| format!("with the length of its prefix: \"{}/{prefix}\"", shown(address)));
    }
    let is_name = text.contains('.') && text.chars().any(char::is_alphabetic) && !text.contains(':');
    is_name.then(|| "names are not looked up: addresses are compared".to_owned())
}

/// Reads `origins` and `require_origin`; with authentication the default is the listener's own origin, as a browser sends its
/// credentials along from wherever it is told to connect.
pub(super) fn origins(table: &Table<'_>, has_auth: bool) -> Origins {
    let default = if has_auth { OriginPattern::SameOrigin } else { OriginPattern::Any };
    let origins = Origins {
        allowed: table.get("origins", vec![default], |value| value.one_or_list(origin)),
        require: table.get("require_origin", false, Value::switch),
    };
    let any = origins.allowed.iter().position(|pattern| *pattern == OriginPattern::Any);
    if let (Some(value), Some(_)) = (table.value("origins"), any.filter(|_| origins.allowed.len() > 1)) {
        let finding = value.finding("`\"*\"` beside other origins").label("it lets every origin in");
        table.reader.record(finding.warning());
    }
    origins
}

fn origin(value: Value<'_>) -> Result<OriginPattern, Finding> {
    let text = value.text()?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if let Some(scheme @ ("ws" | "wss")) = scheme.as_deref() {
        let page = scheme.replace("ws", "http");
        let finding = value
            .finding(format!("no browser sends an Origin that begins with `{scheme}://`"))
            .label(format!("the origin of a page begins with `{page}://`"));
        value.reader.record(finding.warning());
    }
    text.parse().map_err(|error: OriginError| {
        let finding = value.finding(format!("`{}` is not an origin", shown(&text))).label(error.to_string());
        finding.maybe_help(meant_origin(&text))
    })
}

/// What was probably meant by something that is no origin.
fn meant_origin(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    if let Some((_, meant)) = OTHER_ORIGINS.iter().find(|(word, _)| *word == lower) {
        return Some(format!("did you mean \"{meant}\"?"));
    }
    if let Some(word) = nearest(text, ["same-origin", "null"]) {
        return Some(format!("did you mean \"{word}\"?"));
    }
    if text.contains([',', ' ']) {
        return Some(
            "each origin is an entry of its own: `[\"https://a.example\", \"https://b.example\"]`".to_owned(),
        );
    }
    // With its scheme, and without what stands behind host and port.
    let own = if ["localhost", "127.", "[::1]"].iter().any(|start| lower.starts_with(start)) {
        "http"
    } else {
        "https"
    };
    let (scheme, rest) = text.split_once("://").unwrap_or((own, text));
    let meant = format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default());
    meant.parse::<OriginPattern>().is_ok().then(|| format!("did you mean \"{}\"?", shown(&meant)))
}
