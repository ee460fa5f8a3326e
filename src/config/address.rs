//! Addresses: where a listener listens, and where a server is.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Component, PathBuf},
};

use toml::de::DeValue;

use super::{
    ListenAddress, ServerAddress,
    file::Value,
    report::{Finding, shown},
};
use crate::route::HostPattern;

/// The longest path of a unix socket on Linux (unix(7)), without its final NUL.
const UNIX_PATH_MAX: usize = 107;
const UNIX_EXAMPLE: &str = "for example \"unix:/run/wsgate.sock\"";
/// Schemes of URLs, with whether they mean TLS and their port.
const SCHEMES: [(&str, bool, u16); 5] =
    [("http", false, 80), ("ws", false, 80), ("tcp", false, 80), ("https", true, 443), ("wss", true, 443)];

/// `listener.address`.
pub(super) fn listen(value: Value<'_>) -> Result<ListenAddress, Finding> {
    const EXPECTED: &str = "expected \"ip:port\", \"[ipv6]:port\" or \"unix:/path\"";
    if let DeValue::Integer(port) = value.node.get_ref() {
        let help = format!("every IPv4 address at this port is \"0.0.0.0:{}\"", port.as_str());
        return Err(value.wrong_type("a string").help(help));
    }
    let text = value.text()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(value, path, UNIX_EXAMPLE).map(ListenAddress::Unix);
    }
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => Err(value
            .finding(format!("`{}` is an IPv4 address in IPv6 clothes", shown(&text)))
            .help(format!("write \"{}\"", SocketAddr::new(address.ip().to_canonical(), address.port())))),
        Ok(address) => Ok(ListenAddress::Inet(address)),
        Err(_) => Err(value
            .finding(format!("`{}` is not an address to listen on", shown(&text)))
            .label(EXPECTED)
            .maybe_help(listen_help(&text))),
    }
}

/// What was meant by a listener's address that is none.
fn listen_help(text: &str) -> Option<String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(portless_help(ip, 443));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.parse::<u16>().is_err() {
        return is_number(port).then(|| "a port is at most 65535".to_owned());
    }
    let port_of = |ip: &str| format!("\"{ip}:{port}\"");
    match host {
        "" | "*" => Some(format!(
            "every IPv4 address at this port is {}, every IPv6 address {}",
            port_of("0.0.0.0"),
            port_of("[::]")
        )),
        "localhost" => {
            Some(format!("this machine alone is {} or {}", port_of("127.0.0.1"), port_of("[::1]")))
        }
        host if host.contains("://") => Some(format!("without the scheme: {}", port_of("0.0.0.0"))),
        host if ends_in_number(host) => None,
        _ => Some(format!(
            "a listener has an address, not a name: listen on {} and give the name to `host` of a route",
            port_of("0.0.0.0")
        )),
    }
}

/// What is said to an IP address without a port. The end of an IPv6 address may have been meant as one.
fn portless_help(ip: IpAddr, port: u16) -> String {
    let with_port = SocketAddr::new(ip, port);
    let text = ip.to_string();
    let split = text.rsplit_once(':').and_then(|(host, port)| {
        let host: Ipv6Addr = host.parse().or_else(|_| format!("{host}:").parse()).ok()?;
        let port = port.parse().ok()?;
        let is_loopback = host.is_unspecified() && port == 1;
        (!is_loopback).then(|| SocketAddr::new(host.into(), port))
    });
    match split {
        Some(split) => format!("with brackets and a port it is \"{split}\" or \"{with_port}\""),
        None => format!("a port belongs to it: \"{with_port}\""),
    }
}

/// An address of `upstream.servers`.
pub(super) fn server(value: Value<'_>) -> Result<ServerAddress, Finding> {
    let text = value.text()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(value, path, UNIX_EXAMPLE).map(ServerAddress::Unix);
    }
    if let Some(name) = text.strip_prefix("dns+srv://") {
        return srv(value, name).map(ServerAddress::Srv);
    }
    tcp_server(&text).map_err(|help| {
        value
            .finding(format!("`{}` is not the address of a server", shown(&text)))
            .label("expected \"host:port\", \"[ipv6]:port\", \"unix:/path\" or \"dns+srv://name\"")
            .help(help)
    })
}

/// The name of an SRV record. Most begin with `_service._proto`, which is not asked for: Consul answers for others too.
fn srv(value: Value<'_>, name: &str) -> Result<String, Finding> {
    const LABEL_MAX: usize = 63;
    let bare = name.split(['/', '?']).next().unwrap_or_default();
    let bare = bare.rsplit_once(':').map_or(bare, |(bare, _)| bare);
    let reason = match bare.parse() {
        Ok(HostPattern::Exact(_)) if bare.starts_with('[') || ends_in_number(bare) => {
            "an address has no records"
        }
        Ok(HostPattern::Exact(_)) if bare.split('.').any(|label| label.len() > LABEL_MAX) => {
            "a label between dots is longer than 63 characters"
        }
        Ok(HostPattern::Exact(_)) if bare == name => return Ok(name.to_owned()),
        Ok(HostPattern::Exact(_)) => {
            return Err(srv_finding(value, name)
                .label("it stands alone: the ports of the servers are in the record")
                .help(format!("the name alone: \"dns+srv://{}\"", shown(bare))));
        }
        Ok(_) => "a record has one name, without `*`",
        Err(reason) => return Err(srv_finding(value, name).label(reason.to_string())),
    };
    Err(srv_finding(value, name).label(reason))
}

fn srv_finding(value: Value<'_>, name: &str) -> Finding {
    value.finding(format!("`{}` is not the name of an SRV record", shown(name)))
}

/// Whether this is a host with or without its port.
pub(super) fn is_host(text: &str) -> bool {
    let bracket = text.rfind(']').unwrap_or(0);
    let (host, port) = match text[bracket..].find(':') {
        Some(colon) => (&text[..bracket + colon], Some(&text[bracket + colon + 1..])),
        None => (text, None),
    };
    matches!(host.parse(), Ok(HostPattern::Exact(_))) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A server's host and port, or what is to be done about the text.
fn tcp_server(text: &str) -> Result<ServerAddress, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(url_help(scheme, rest));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return Err(portless_help(ip, 80));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some(parts) => parts,
        None if is_number(text) => return Err(format!("a host belongs to the port: \"127.0.0.1:{text}\"")),
        None => return Err(format!("the port is missing: \"{}:80\"", shown(text))),
    };
    let port = match port.parse() {
        Ok(number) if number > 0 && is_number(port) => number,
        _ => return Err("the port is a number from 1 to 65535".to_owned()),
    };
    if let Ok(address) = text.parse() {
        return Ok(ServerAddress::Inet(address));
    }
    if host.is_empty() {
        return Err(format!("the host is missing: \"127.0.0.1:{port}\" is this machine"));
    }
    if ends_in_number(host) {
        return Err("the numbers of an IPv4 address are four, of at most 255".to_owned());
    }
    match host.parse() {
        Ok(HostPattern::Exact(_)) if !host.starts_with('[') => {
            Ok(ServerAddress::Name { host: host.to_owned(), port })
        }
        Ok(_) => Err("a server has one name, without `*`".to_owned()),
        Err(reason) => Err(reason.to_string()),
    }
}

/// What is said to a URL where an address belongs.
fn url_help(scheme: &str, rest: &str) -> String {
    if matches!(scheme, "srv" | "dns" | "dnssrv" | "dns-srv") {
        return format!("the servers of an SRV record are \"dns+srv://{}\"", shown(rest));
    }
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let Some((_, tls, port)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
        return "a server is named by host and port alone".to_owned();
    };
    let bracket = host.rfind(']').unwrap_or(0);
    let address = if host[bracket..].contains(':') { host.to_owned() } else { format!("{host}:{port}") };
    let how = if *tls { ", and `tls = {}` beside `servers` makes it TLS" } else { "" };
    format!("without the scheme and the path: \"{}\"{how}", shown(&address))
}

/// A unix socket's path, which starts at the file's folder if it is relative.
pub(super) fn unix(value: Value<'_>, written: &str, example: &str) -> Result<PathBuf, Finding> {
    if written.is_empty() {
        return Err(value.finding("the path of the unix socket is missing").help(example));
    }
    if written.starts_with('@') || written.contains('\0') {
        return Err(value
            .finding("abstract unix sockets are not known")
            .label("expected the path of a file")
            .help(example));
    }
    // Two spellings of one path are one address.
    let components = value.reader.path(written);
    let path: PathBuf = components.components().filter(|part| *part != Component::CurDir).collect();
    if path.as_os_str().len() > UNIX_PATH_MAX {
        return Err(value
            .finding("the path of the unix socket is too long")
            .label(format!("with its folder it may have {UNIX_PATH_MAX} bytes")));
    }
    Ok(path)
}

/// Digits alone: parsing a number would take a sign too.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a host has the form of an IPv4 address, which no name has.
fn ends_in_number(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(is_number)
}

/// Whether other machines may reach it.
pub(super) fn is_of_a_network(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Inet(address) => !address.ip().is_loopback(),
        ListenAddress::Unix(_) => false,
    }
}

/// Whether both cannot be bound at once: the same address, or one that stands for all beside one of them.
pub(super) fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Inet(one), ListenAddress::Inet(other)) => {
            let same_ip = one.ip() == other.ip()
                || one.is_ipv4() == other.is_ipv4()
                    && (one.ip().is_unspecified() || other.ip().is_unspecified());
            // Port 0 is a different port each time.
            one.port() != 0 && one.port() == other.port() && same_ip
        }
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => one == other,
        _ => false,
    }
}
