//! `[[listener]]`.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroUsize, ops::Range, time::Duration};

use super::proxies::Proxies;
use crate::{
    config::{
        CertificateSource, ClientAuth, Identity, ListenAddress, Listener, ListenerLimits, ListenerTimeouts,
        Tls, TlsVersion, Written, address,
        file::{Reader, Table, Value},
        identity::{self, Role},
        keys, rate,
        report::{Finding, shown},
        values::{self, KIB, MIB, days, timeout},
    },
    proto::forward::UnderscoreHeaders,
    route::HostPattern,
};

/// The addresses that are taken, with their places.
#[derive(Default)]
pub(super) struct Addresses {
    taken: Vec<(ListenAddress, Range<usize>)>,
    plain: Option<Range<usize>>,
    exposed: Option<Range<usize>>,
}

impl Addresses {
    /// The addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ListenAddress> {
        self.taken.iter().map(|(address, _)| address)
    }

    /// The first listener that answers without TLS, and not by a redirect to https.
    pub(super) fn plain(&self) -> Option<Range<usize>> {
        self.plain.clone()
    }

    /// The first of these that other machines reach, without a proxy in front that may speak TLS.
    pub(super) fn exposed(&self) -> Option<Range<usize>> {
        self.exposed.clone()
    }

    /// Where this address or one that overlaps it stands.
    pub(super) fn place(&self, address: &ListenAddress) -> Option<Range<usize>> {
        self.taken.iter().find(|(taken, _)| address::overlap(taken, address)).map(|(_, span)| span.clone())
    }

    /// Takes an address, and records the error if it is taken already.
    pub(super) fn take(&mut self, reader: &Reader<'_>, span: Range<usize>, address: &ListenAddress) {
        const ONCE: &str = "each address stands once";
        const EVERY: &str = "0.0.0.0 and [::] stand for every address at their port";
        let taken = self.taken.iter().find(|(taken, _)| address::overlap(taken, address));
        if let Some((taken, earlier)) = taken {
            let (first, second) =
                if earlier.start < span.start { (earlier, &span) } else { (&span, earlier) };
            let finding = Finding::new(second.clone(), "this address is listened on already")
                .label(if taken == address { ONCE } else { EVERY })
                .context(first.clone(), "first here");
            reader.record(finding);
        }
        self.taken.push((address.clone(), span));
    }
}

/// Reads one listener. `None` only where an error was recorded.
pub(super) fn listener(table: &Table<'_>, addresses: &mut Addresses) -> Option<Listener> {
    const UNDERSCORES: [(&str, UnderscoreHeaders); 2] =
        [("drop", UnderscoreHeaders::Drop), ("pass", UnderscoreHeaders::Pass)];
    let address = table.required("address", "\"0.0.0.0:443\"", address::listen);
    if let (Some(value), Some(address)) = (table.value("address"), &address) {
        addresses.take(table.reader, value.span(), address);
    }
    table.optional("protocols", protocols);
    let tls = table.value("tls").map(tls);
    let proxies = Proxies::read(table, address.as_ref());
    if tls.is_none() && table.value("redirect_https").is_none_or(|value| value.is_word("off")) {
        addresses.plain.get_or_insert_with(|| table.span.clone());
        if address.as_ref().is_some_and(address::is_of_a_network) && proxies.is_empty() {
            addresses.exposed.get_or_insert_with(|| table.span.clone());
        }
    }
    warn_of_limits_of_nobody(table, address.as_ref(), &proxies);
    Some(Listener {
        table: Written::default(),
        proxy_protocol: proxies.proxy_protocol,
        trusted_proxies: proxies.trusted,
        client_ip_header: proxies.client_ip_header,
        max_connections_per_ip: table
            .get("max_connections_per_ip", None, values::count_or_off(1..=10_000_000))
            .and_then(NonZeroUsize::new),
        handshake_rate_per_ip: table.get("handshake_rate_per_ip", None, rate::rate_or_off),
        underscore_headers: table.get(
            "underscore_headers",
            UnderscoreHeaders::Drop,
            values::choice(&UNDERSCORES),
        ),
        redirect_https: table.get("redirect_https", None, |value| redirect_https(value, tls.is_some())),
        limits: limits(&table.table("limits", &keys::LISTENER_LIMITS)),
        timeout: timeouts(&table.table("timeout", &keys::LISTENER_TIMEOUT)),
        address: address?,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
    })
}

/// Limits of one client need its address, which a unix socket does not tell.
fn warn_of_limits_of_nobody(table: &Table<'_>, address: Option<&ListenAddress>, proxies: &Proxies) {
    if !matches!(address, Some(ListenAddress::Unix(_))) || !proxies.is_empty() {
        return;
    }
    for key in ["max_connections_per_ip", "handshake_rate_per_ip"] {
        if let Some(value) = table.value(key).filter(|value| !value.is_word("off")) {
            let finding = value
                .finding(format!("`{key}` has no effect here"))
                .label("who comes in by a unix socket has no address")
                .help("`trusted_proxies = [\"unix\"]` believes what the program in front says of it");
            table.reader.record(finding.warning());
        }
    }
}

/// ALPN has one value yet, so there is nothing to keep.
fn protocols(value: Value<'_>) -> Result<(), Finding> {
    let known = [("http/1.1", ())];
    let elements = value.elements()?;
    if elements.is_empty() {
        return Err(value.finding("`protocols` is an empty list").label("expected [\"http/1.1\"]"));
    }
    value.list(values::choice(&known)).map(drop)
}

fn redirect_https(value: Value<'_>, has_tls: bool) -> Result<Option<u16>, Finding> {
    if value.node.get_ref().as_bool() == Some(true) {
        return Err(value.wrong_type("a port or \"off\"").help("the usual port of https is 443"));
    }
    let port = values::off_or(value, values::port)?;
    if port.is_some() && has_tls {
        return Err(value
            .finding("`redirect_https` on a listener with `tls`")
            .label("what comes in here is https already, and would be redirected for ever")
            .help("it belongs in the listener for plain HTTP"));
    }
    Ok(port)
}

fn limits(table: &Table<'_>) -> ListenerLimits {
    let default = ListenerLimits::default();
    let limits = ListenerLimits {
        request_head: table.get("request_head", default.request_head, values::memory(256..=MIB)),
        header_count: table.get("header_count", default.header_count, values::count(8..=10_000)),
        target: table.get("target", default.target, values::memory(64..=MIB)),
        early_bytes: table.get("early_bytes", default.early_bytes, values::memory(KIB..=16 * MIB)),
    };
    let target = table.value("target").filter(|_| limits.target > limits.request_head);
    if let Some(target) = target {
        let finding = target
            .finding("`target` is larger than `request_head`")
            .label("a target is part of the head, so this limit is never reached");
        table.reader.record(finding.warning());
    }
    limits
}

fn timeouts(table: &Table<'_>) -> ListenerTimeouts {
    let default = ListenerTimeouts::default();
    ListenerTimeouts {
        tls_handshake: table.get("tls_handshake", default.tls_handshake, timeout),
        request_head: table.get("request_head", default.request_head, timeout),
        keep_alive: table.get("keep_alive", default.keep_alive, timeout),
        request_body: table.get("request_body", default.request_body, timeout),
        write: table.get("write", default.write, timeout),
    }
}

/// Reads `listener.tls`. `None` only where an error was recorded.
fn tls(value: Value<'_>) -> Option<Tls> {
    const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    if value.node.get_ref().is_bool() {
        let finding =
            value.wrong_type("a table").help("for development: `tls = { self_signed = [\"localhost\"] }`");
        value.reader.record(finding);
        return None;
    }
    let table = value.reader.recorded(value.table(&keys::LISTENER_TLS))?;
    let source = source(&table);
    let tls = Tls {
        client_auth: client_auth(&table),
        min_version: table.get("min_version", TlsVersion::Tls12, values::choice(&VERSIONS)),
        hsts: table.get("hsts", None, hsts),
        source: source?,
    };
    if let (CertificateSource::SelfSigned { .. }, Some(value), Some(_)) =
        (&tls.source, table.value("hsts"), tls.hsts)
    {
        let finding = value
            .finding("`hsts` with a development certificate")
            .label("browsers will insist on https for every port of these names");
        table.reader.record(finding.warning());
    }
    Some(tls)
}

/// Reads `client_ca` and `client_auth`.
fn client_auth(table: &Table<'_>) -> Option<ClientAuth> {
    let required = table.get("client_auth", true, client_auth_word);
    let ca = table.optional("client_ca", identity::load_ca).flatten();
    if let (Some(value), Some(ca)) = (table.value("client_ca"), &ca) {
        identity::warn_of_no_ca(value, ca);
    }
    let is_asked = table.value("client_ca").is_some_and(|value| !value.is_word(""));
    if let Some(value) = table.value("client_auth").filter(|_| !is_asked) {
        let finding = value
            .finding("`client_auth` has no effect here")
            .label("clients are asked for no certificate")
            .help("`client_ca` is the PEM file of who signs them");
        table.reader.record(finding.warning());
    }
    ca.map(|ca| ClientAuth { ca, required })
}

fn client_auth_word(value: Value<'_>) -> Result<bool, Finding> {
    if value.node.get_ref().as_bool() == Some(true) {
        return Err(value.wrong_type("\"required\" or \"optional\"").help("write `\"required\"`"));
    }
    let is_no = value.node.get_ref().as_bool() == Some(false);
    let is_off = is_no || ["off", "none", "no"].into_iter().any(|word| value.is_word(word));
    values::choice(&[("required", true), ("optional", false)])(value).map_err(|finding| {
        finding
            .maybe_help(is_off.then(|| "without `client_ca` clients are asked for no certificate".to_owned()))
    })
}

/// Where the certificates come from: exactly one of three ways.
fn source(table: &Table<'_>) -> Option<CertificateSource> {
    let given = |key| table.value(key).filter(|value| !value.is_empty());
    let pair = given("cert").or(given("key"));
    let ways: Vec<_> = [pair, given("certificates"), given("self_signed")].into_iter().flatten().collect();
    if let [first, second, ..] = &ways[..] {
        let finding = second
            .finding(format!("`{}` beside `{}`", second.key, first.key))
            .label("certificates come from one place")
            .context(first.span(), "given already")
            .help("`cert` and `key` for one certificate, `certificates` for several, `self_signed` for development");
        table.reader.record(finding);
        return None;
    }
    if pair.is_some() {
        return read_pair(table).map(|identity| CertificateSource::Files(vec![identity]));
    }
    if let Some(value) = given("certificates") {
        let entries = table.reader.recorded(value.list(|entry| entry.table(&keys::CERTIFICATE)))?;
        let identities: Vec<_> = entries.iter().map(read_pair).collect();
        return identities.into_iter().collect::<Option<Vec<_>>>().map(CertificateSource::Files);
    }
    if let Some(value) = given("self_signed") {
        let names = table.reader.recorded(value.list(self_signed_name))?;
        let mut seen = BTreeSet::new();
        let names: Vec<_> = names.into_iter().filter(|name| seen.insert(name.clone())).collect();
        let folder = table.reader.folder().join("certs");
        return (!names.is_empty()).then_some(CertificateSource::SelfSigned { names, folder });
    }
    let finding = Finding::new(table.span.clone(), "TLS without a certificate")
        .label("expected `cert` and `key`, `certificates` or `self_signed`")
        .help("for development: `self_signed = [\"localhost\"]`")
        .absent();
    table.reader.record(finding);
    None
}

fn read_pair(table: &Table<'_>) -> Option<Identity> {
    match (table.value("cert"), table.value("key")) {
        (Some(cert), Some(key)) => identity::load(cert, key, Role::Server),
        (cert, key) => {
            for (name, value) in [("cert", cert), ("key", key)] {
                if value.is_none() {
                    table
                        .reader
                        .record(table.missing(name).help("a certificate and its private key go together"));
                }
            }
            None
        }
    }
}

/// A DNS name, perhaps with `*.` before it, or an IP address.
fn self_signed_name(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    match text.parse::<HostPattern>() {
        Ok(HostPattern::Exact(name)) if !name.starts_with('[') => Ok(name),
        Ok(HostPattern::Suffix(name)) => Ok(format!("*.{name}")),
        _ => Err(value
            .finding(format!("`{}` is not a name for a certificate", shown(&text)))
            .label("expected a host name or an IP address, without a port")),
    }
}

/// Whole seconds of `max-age`; "0s" tells browsers to forget (RFC 6797 §6.1.1).
fn hsts(value: Value<'_>) -> Result<Option<Duration>, Finding> {
    const LONGEST: Duration = days(3650);
    let Some(age) = values::off_or(value, values::duration)? else { return Ok(None) };
    if age.subsec_nanos() > 0 {
        return Err(value.finding("`hsts` is told to browsers in whole seconds"));
    }
    let found = values::out_of_range(value, &(Duration::ZERO..=LONGEST), age, values::show_duration);
    found.map_or(Ok(Some(age)), Err)
}
