//! Who is let in: networks, peers that are believed, origins.

use crate::{
    config::{
        Origins,
        file::{Table, Value},
        report::{Finding, shown},
    },
    proto::{
        network::{Network, NetworkError, Networks, Peers},
        origin::{OriginError, OriginPattern},
    },
};

/// Addresses and ranges.
pub(super) fn networks(value: Value<'_>) -> Result<Networks, Finding> {
    value.list(network).map(Networks)
}

/// Addresses, ranges, and "unix" for whoever comes in by a unix socket.
pub(super) fn peers(value: Value<'_>) -> Result<Peers, Finding> {
    let mut peers = Peers::default();
    for element in value.elements()? {
        if element.is_word("unix") {
            peers.unix = true;
        } else {
            peers.networks.0.extend(value.reader.recorded(network(element)));
        }
    }
    Ok(peers)
}

fn network(value: Value<'_>) -> Result<Network, Finding> {
    let text = value.text()?;
    text.parse().map_err(|error: NetworkError| {
        let finding = value.finding(format!("`{}` is not a network", shown(&text))).label(error.to_string());
        match error {
            NetworkError::HostBits(meant) => finding.help(format!("did you mean \"{meant}\"?")),
            NetworkError::Malformed if text == "*" => {
                finding.help("every address: \"0.0.0.0/0\" and \"::/0\"")
            }
            NetworkError::Malformed => finding,
        }
    })
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
    text.parse().map_err(|error: OriginError| {
        let finding = value.finding(format!("`{}` is not an origin", shown(&text))).label(error.to_string());
        match error {
            OriginError::Scheme if text.replace('_', "-").eq_ignore_ascii_case("same-origin") => {
                finding.help("did you mean \"same-origin\"?")
            }
            OriginError::Scheme => finding.help(format!("did you mean \"https://{}\"?", shown(&text))),
            OriginError::Path => {
                let end = text.find("://").map_or(0, |at| at + 3);
                let origin_end = text[end..].find(['/', '?', '#']).map_or(text.len(), |at| end + at);
                finding.help(format!("did you mean \"{}\"?", shown(&text[..origin_end])))
            }
            OriginError::Wildcard | OriginError::Host => finding,
        }
    })
}
