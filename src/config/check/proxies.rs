//! Who stands in front of a listener, and how it says whom it speaks for.

use super::access;
use crate::{
    config::{
        ListenAddress,
        file::{Table, Value},
        headers,
        report::{Finding, shown},
        values,
    },
    proto::{
        forward::may_edit,
        network::{Network, Peers},
    },
};

/// `proxy_protocol` with `proxy_protocol_from`, `trusted_proxies` and `client_ip_header`.
pub(super) struct Proxies {
    pub(super) proxy_protocol: Option<Peers>,
    pub(super) trusted: Peers,
    pub(super) client_ip_header: Option<String>,
}

impl Proxies {
    /// Reads the keys of a listener at this address, if that could be read.
    pub(super) fn read(table: &Table<'_>, address: Option<&ListenAddress>) -> Self {
        let proxies = Self {
            proxy_protocol: proxy_protocol(table, address),
            trusted: table.get("trusted_proxies", Peers::default(), access::peers),
            client_ip_header: table.optional("client_ip_header", client_ip_header).flatten(),
        };
        // An entry of `trusted_proxies` that could not be read is an error already.
        let named = table.value("trusted_proxies").filter(|value| !value.is_empty());
        if let (Some(value), Some(_), None) =
            (table.value("client_ip_header"), &proxies.client_ip_header, named)
        {
            let finding = value
                .finding("`client_ip_header` without `trusted_proxies`")
                .label("it is believed from nobody")
                .help("`trusted_proxies` names the networks that set it");
            table.reader.record(finding);
        }
        // With a PROXY header a peer on a unix socket has an address too. One of TCP never comes by a unix socket.
        let is_told = proxies.proxy_protocol.is_some();
        let heard_as = address.filter(|address| !is_told || matches!(address, ListenAddress::Inet(_)));
        let unheard = named.zip(heard_as);
        if let Some((value, address)) = unheard.filter(|(_, address)| !can_reach(&proxies.trusted, address)) {
            let finding = value.finding("`trusted_proxies` has no effect here").label(stays_away(address));
            table.reader.record(finding.warning());
        }
        for key in ["proxy_protocol_from", "trusted_proxies"] {
            warn_of_everyone(table, key);
        }
        proxies
    }

    /// Whether nothing tells of clients behind the peers.
    pub(super) fn is_empty(&self) -> bool {
        self.proxy_protocol.is_none() && self.trusted.is_empty()
    }
}

/// Reads `proxy_protocol` and `proxy_protocol_from`, which go together.
fn proxy_protocol(table: &Table<'_>, address: Option<&ListenAddress>) -> Option<Peers> {
    let given = table.value("proxy_protocol");
    let read = table.optional("proxy_protocol", required);
    let from = table.get("proxy_protocol_from", Peers::default(), access::peers);
    let named = table.value("proxy_protocol_from").filter(|value| !value.is_empty());
    match (given, named) {
        (Some(value), None) if read == Some(true) => {
            let finding = value
                .finding("a PROXY header is required of nobody")
                .label("`proxy_protocol_from` names the networks that may send it")
                .help("for example `proxy_protocol_from = [\"10.0.0.0/8\"]`, or \"unix\" for a unix socket");
            table.reader.record(finding.absent());
        }
        (Some(value), Some(named)) if read == Some(true) => {
            // An entry that could not be read is an error already.
            let unheard = address.filter(|address| !from.is_empty() && !can_reach(&from, address));
            if let Some(address) = unheard {
                let finding = named
                    .finding("none of these can send a PROXY header here")
                    .label(stays_away(address))
                    .context(value.span(), "all others are cut");
                table.reader.record(finding);
            }
        }
        // Where `proxy_protocol` could not be read, nobody knows whether it needs them.
        (given, Some(named)) if given.is_none() || read == Some(false) => {
            let finding = named
                .finding("`proxy_protocol_from` has no effect here")
                .label("`proxy_protocol` is off")
                .help("`proxy_protocol = \"required\"` expects the header from them");
            table.reader.record(finding.warning());
        }
        _ => {}
    }
    read.is_some_and(|is_required| is_required).then_some(from)
}

/// `false` is "off".
fn required(value: Value<'_>) -> Result<bool, Finding> {
    if value.node.get_ref().as_bool() == Some(true) {
        return Err(value.wrong_type("\"off\" or \"required\"").help("write `\"required\"`"));
    }
    let words = values::choice(&[("off", false), ("required", true)]);
    let is_close = ["v1", "v2", "on", "optional"].into_iter().any(|word| value.is_word(word));
    values::off_or(value, words).map(Option::unwrap_or_default).map_err(|finding| {
        let help = "`\"required\"` takes v1 and v2, and cuts who sends neither";
        finding.maybe_help(is_close.then(|| help.to_owned()))
    })
}

fn can_reach(peers: &Peers, address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Inet(_) => !peers.networks.is_empty(),
        ListenAddress::Unix(_) => peers.unix,
    }
}

fn stays_away(address: &ListenAddress) -> &'static str {
    match address {
        ListenAddress::Inet(_) => "this listener is no unix socket: its peers are known by their networks",
        ListenAddress::Unix(_) => "this listener is a unix socket: its peers are \"unix\"",
    }
}

/// Who believes everybody lets every client choose its address.
fn warn_of_everyone(table: &Table<'_>, key: &'static str) {
    for element in table.value(key).into_iter().flat_map(|value| value.elements().unwrap_or_default()) {
        let network = element.text().ok().and_then(|text| text.parse::<Network>().ok());
        if network.is_some_and(|network| network.is_everyone()) {
            let finding = element
                .finding("every client is believed to be a proxy")
                .label("it says itself which address it has")
                .help("the networks of the proxies alone keep others from passing for somebody else");
            table.reader.record(finding.warning());
        }
    }
}

/// A header of requests that one proxy writes; `""` is none.
fn client_ip_header(value: Value<'_>) -> Result<Option<String>, Finding> {
    let Some(name) = headers::name(value)? else { return Ok(None) };
    if !may_edit(&name) {
        return Err(value
            .finding(format!("the header `{}` cannot tell a client's address", shown(&name)))
            .label("it frames, routes or upgrades a message")
            .help("for example `client_ip_header = \"CF-Connecting-IP\"`"));
    }
    if ["x-forwarded-for", "forwarded"].iter().any(|list| name.eq_ignore_ascii_case(list)) {
        let finding = value
            .finding(format!("`{name}` is believed from trusted proxies without this key"))
            .label("here a header with one address is meant")
            .help("leave `client_ip_header` out");
        value.reader.record(finding.warning());
    }
    Ok(Some(name))
}
