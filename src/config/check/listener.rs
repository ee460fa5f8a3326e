//! `[[listener]]`.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroUsize, ops::Range, time::Duration};

use super::access;

use crate::{
    config::{
        CertificateSource, ClientAuth, Identity, ListenAddress, Listener, ListenerLimits, ListenerTimeouts,
        Tls, TlsVersion, address,
        file::{Table, Value},
        headers,
        identity::{self, Role},
        keys, rate,
        report::{Finding, shown},
        values::{self, KIB, MIB, days, timeout},
    },
    proto::{forward::UnderscoreHeaders, network::Peers},
    route::HostPattern,
};

/// The addresses that are taken, with their places.
#[derive(Default)]
pub(super) struct Addresses {
    taken: Vec<(ListenAddress, Range<usize>)>,
    plain: Option<Range<usize>>,
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

    fn take(&mut self, value: Value<'_>, address: &ListenAddress) {
        const ONCE: &str = "each address stands once";
        const EVERY: &str = "0.0.0.0 and [::] stand for every address at their port";
        let taken = self.taken.iter().find(|(taken, _)| address::overlap(taken, address));
        if let Some((taken, span)) = taken {
            let finding = value
                .finding("this address is listened on already")
                .label(if taken == address { ONCE } else { EVERY })
                .context(span.clone(), "first here");
            value.reader.record(finding);
        }
        self.taken.push((address.clone(), value.span()));
    }
}

/// Reads one listener. `None` only where an error was recorded.
pub(super) fn listener(table: &Table<'_>, addresses: &mut Addresses) -> Option<Listener> {
    const UNDERSCORES: [(&str, UnderscoreHeaders); 2] =
        [("drop", UnderscoreHeaders::Drop), ("pass", UnderscoreHeaders::Pass)];
    let address = table.required("address", "\"0.0.0.0:443\"", address::listen);
    if let (Some(value), Some(address)) = (table.value("address"), &address) {
        addresses.take(value, address);
    }
    table.optional("protocols", protocols);
    let tls = table.value("tls").map(tls);
    if tls.is_none() && table.value("redirect_https").is_none_or(|value| value.is_word("off")) {
        addresses.plain.get_or_insert_with(|| table.span.clone());
    }
    let proxy_protocol = proxy_protocol(table);
    let trusted_proxies = table.get("trusted_proxies", Peers::default(), access::peers);
    let client_ip_header = table.optional("client_ip_header", headers::name).flatten();
    if let Some(value) =
        table.value("client_ip_header").filter(|_| client_ip_header.is_some() && trusted_proxies.is_empty())
    {
        let finding = value
            .finding("`client_ip_header` without `trusted_proxies`")
            .label("it is believed from nobody")
            .help("`trusted_proxies` names the networks that set it");
        table.reader.record(finding);
    }
    Some(Listener {
        proxy_protocol,
        trusted_proxies,
        client_ip_header,
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

/// Reads `proxy_protocol` and `proxy_protocol_from`, which go together.
fn proxy_protocol(table: &Table<'_>) -> Option<Peers> {
    let is_required =
        table.get("proxy_protocol", false, values::choice(&[("off", false), ("required", true)]));
    let from = table.get("proxy_protocol_from", Peers::default(), access::peers);
    match (table.value("proxy_protocol"), table.value("proxy_protocol_from")) {
        (Some(value), given) if is_required && given.is_none_or(|from| from.is_empty()) => {
            let finding = value
                .finding("a PROXY header is required of nobody")
                .label("`proxy_protocol_from` names the networks that may send it")
                .help("for example `proxy_protocol_from = [\"10.0.0.0/8\"]`, or \"unix\" for a unix socket");
            table.reader.record(finding.absent());
        }
        (_, Some(from)) if !is_required && !from.is_empty() => {
            let finding = from
                .finding("`proxy_protocol_from` has no effect here")
                .label("`proxy_protocol` is off")
                .help("`proxy_protocol = \"required\"` expects the header from them");
            table.reader.record(finding.warning());
        }
        _ => {}
    }
    is_required.then_some(from)
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
    let limits = ListenerLimits {
        request_head: table.get("request_head", 64 * KIB, values::memory(256..=MIB)),
        header_count: table.get("header_count", 128, values::count(8..=10_000)),
        target: table.get("target", 16 * KIB, values::memory(64..=MIB)),
        early_bytes: table.get("early_bytes", 64 * KIB, values::memory(KIB..=16 * MIB)),
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
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    ListenerTimeouts {
        tls_handshake: table.get("tls_handshake", seconds(10), timeout),
        request_head: table.get("request_head", seconds(10), timeout),
        keep_alive: table.get("keep_alive", seconds(75), timeout),
        request_body: table.get("request_body", seconds(60), timeout),
        write: table.get("write", seconds(60), timeout),
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
    let required = table.get("client_auth", true, values::choice(&[("required", true), ("optional", false)]));
    let ca = table.optional("client_ca", identity::load_ca).flatten();
    if let Some(value) = table.value("client_auth").filter(|_| table.value("client_ca").is_none()) {
        let finding = value
            .finding("`client_auth` has no effect here")
            .label("clients are asked for no certificate")
            .help("`client_ca` is the PEM file of who signs them");
        table.reader.record(finding.warning());
    }
    ca.map(|ca| ClientAuth { ca, required })
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
