//! `upstream.source_addresses`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::Placed;
use crate::config::{
    ServerAddress,
    file::{Table, Value},
    report::{Finding, shown},
};

/// An address with its place in the file.
type Source = (IpAddr, Range<usize>);

/// Reads the list, and warns of addresses and servers that don't go together.
pub(super) fn addresses(table: &Table<'_>, servers: &[Placed]) -> Vec<IpAddr> {
    let Some(value) = table.value("source_addresses") else { return Vec::new() };
    let read = |element: Value<'_>| address(element).map(|address| (address, element.span()));
    let sources = table.reader.recorded(value.list(read)).unwrap_or_default();
    if !sources.is_empty() && !servers.is_empty() {
        for finding in judge(value, &sources, servers) {
            table.reader.record(finding.warning());
        }
    }
    sources.into_iter().map(|(address, _)| address).collect()
}

fn address(value: Value<'_>) -> Result<IpAddr, Finding> {
    let text = value.text()?;
    let error = |label: &str| {
        Err(value.finding(format!("`{}` is not an address to connect from", shown(&text))).label(label))
    };
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => error("it leaves the choice to the system, as an empty list does"),
        Ok(ip) if ip.is_multicast() => error("nobody can connect from a multicast address"),
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            error("this is an IPv4 address in IPv6 clothes")
        }
        Ok(ip) => Ok(ip),
        Err(_) if text.parse::<SocketAddr>().is_ok() => error("expected an IP address without a port"),
        Err(_) if text.contains('/') => error("expected an IP address; those of a network stand one by one"),
        Err(_) => error("expected an IP address of this machine, such as \"10.0.0.5\""),
    }
}

fn judge(value: Value<'_>, sources: &[Source], servers: &[Placed]) -> Vec<Finding> {
    if servers.iter().all(|placed| matches!(placed.server.address, ServerAddress::Unix(_))) {
        let finding = value.finding("`source_addresses` has no effect here");
        return vec![finding.label("every server is a unix socket")];
    }
    let mut findings = twice(sources);
    findings.extend(unreachable(value, sources, servers));
    findings.extend(unused(sources, servers));
    findings.extend(loopback(sources, servers));
    findings
}

fn twice(sources: &[Source]) -> Vec<Finding> {
    let repeated = sources.iter().enumerate().filter_map(|(index, (address, span))| {
        let (_, first) = sources[..index].iter().find(|(earlier, _)| earlier == address)?;
        let finding = Finding::new(span.clone(), "this address stands in the list twice");
        Some(finding.context(first.clone(), "first here"))
    });
    repeated.collect()
}

/// The literal addresses of servers.
fn literals(servers: &[Placed]) -> impl Iterator<Item = (IpAddr, &Placed)> {
    servers.iter().filter_map(|placed| match &placed.server.address {
        ServerAddress::Inet(address) => Some((address.ip(), placed)),
        ServerAddress::Name { .. } | ServerAddress::Unix(_) | ServerAddress::Srv(_) => None,
    })
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The first server of a family that no source address has.
fn unreachable(value: Value<'_>, sources: &[Source], servers: &[Placed]) -> Option<Finding> {
    let fits = |server: IpAddr| sources.iter().any(|(source, _)| source.is_ipv4() == server.is_ipv4());
    let (server, placed) = literals(servers).find(|(server, _)| !fits(*server))?;
    let family = family(server);
    let finding = Finding::new(placed.span.clone(), "no source address fits this server")
        .label(format!("it has an {family} address"))
        .context(value.span(), format!("none of these is {family}"));
    Some(finding.help(format!("the system chooses one for it, unless the list has an {family} address too")))
}

/// The first source address of a family that no server has, where others are used.
fn unused(sources: &[Source], servers: &[Placed]) -> Option<Finding> {
    let inet =
        servers.iter().filter(|placed| !matches!(placed.server.address, ServerAddress::Unix(_))).count();
    let is_used = |source: &IpAddr| literals(servers).any(|(server, _)| server.is_ipv4() == source.is_ipv4());
    let all_are_literal = literals(servers).count() == inet;
    if !all_are_literal || !sources.iter().any(|(source, _)| is_used(source)) {
        return None;
    }
    let (source, span) = sources.iter().find(|(source, _)| !is_used(source))?;
    let finding = Finding::new(span.clone(), "this source address is never used");
    Some(finding.label(format!("no server has an {} address", family(*source))))
}

/// A loopback source that has to reach another machine.
fn loopback(sources: &[Source], servers: &[Placed]) -> Option<Finding> {
    let (source, span) = sources.iter().find(|(source, _)| source.is_loopback())?;
    let far = |(server, _): &(IpAddr, &Placed)| server.is_ipv4() == source.is_ipv4() && !server.is_loopback();
    let (_, placed) = literals(servers).find(far)?;
    let finding = Finding::new(span.clone(), "a loopback address reaches this machine alone")
        .label("connecting from it fails")
        .context(placed.span.clone(), "this server is elsewhere");
    Some(finding)
}
