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
        return unix(value, path).map(ListenAddress::Unix);
    }
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => Err(value
            .error(format!("`{}` is an IPv4 address in IPv6 clothes", shown(&text)))
            .help(format!("write \"{}\"", SocketAddr::new(address.ip().to_canonical(), address.port())))),
        Ok(address) => Ok(ListenAddress::Inet(address)),
        Err(_) => Err(value
            .error(format!("`{}` is not an address to listen on", shown(&text)))
            .label(EXPECTED)
            .maybe_help(listen_help(&text))),
    }
}

/// What was meant by a listener's address that is none.
fn listen_help(text: &str) -> Option<String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(format!("a port belongs to it: \"{}\" for https", SocketAddr::new(ip, 443)));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.parse::<u16>().is_err() {
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        return is_number.then(|| "a port is at most 65535".to_owned());
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
        host if host.parse::<Ipv6Addr>().is_ok() => {
            Some(format!("an IPv6 address stands in brackets: {}", port_of(&format!("[{host}]"))))
        }
        host if host.contains("://") => Some(format!("without the scheme: {}", port_of("0.0.0.0"))),
        host if looks_like_ip(host) => None,
        _ => Some(format!(
            "a listener has an address, not a name: listen on {} and give the name to `host` of a route",
            port_of("0.0.0.0")
        )),
    }
}

/// An address of `upstream.servers`.
pub(super) fn server(value: Value<'_>) -> Result<ServerAddress, Finding> {
    let text = value.text()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(value, path).map(ServerAddress::Unix);
    }
    let error = |help: String| {
        value
            .error(format!("`{}` is not the address of a server", shown(&text)))
            .label("expected \"host:port\", \"[ipv6]:port\" or \"unix:/path\"")
            .help(help)
    };
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(error(url_help(scheme, rest)));
    }
    let (host, port) = match text.rsplit_once(':') {
        _ if text.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok() => {
            let address = text.trim_matches(['[', ']']);
            return Err(error(format!(
                "an IPv6 address stands in brackets, with a port: \"[{address}]:80\""
            )));
        }
        Some((host, port)) => (host, port),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(error(format!("a host belongs to the port: \"127.0.0.1:{text}\"")));
        }
        None => return Err(error(format!("the port is missing: \"{}:80\"", shown(&text)))),
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => return Err(error("the port is a number from 1 to 65535".to_owned())),
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(ServerAddress::Inet(address));
    }
    if host.is_empty() {
        return Err(error(format!("the host is missing: \"127.0.0.1:{port}\" is this machine")));
    }
    if looks_like_ip(host) {
        return Err(error("the numbers of an IPv4 address are four, of at most 255".to_owned()));
    }
    match host.parse::<HostPattern>() {
        Ok(HostPattern::Exact(_)) if !host.starts_with('[') => {
            Ok(ServerAddress::Name { host: host.to_owned(), port })
        }
        Ok(_) => Err(error("a server has one name, without `*`".to_owned())),
        Err(reason) => Err(error(reason.to_string())),
    }
}

/// What is said to a URL where an address belongs.
fn url_help(scheme: &str, rest: &str) -> String {
    if scheme == "dns+srv" {
        return "SRV records are not known yet: name the servers with their ports".to_owned();
    }
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let Some((_, tls, port)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
        return "a server is named by host and port alone".to_owned();
    };
    if *tls {
        return "TLS to servers is not known yet: name the server's port for plain HTTP".to_owned();
    }
    let bracket = host.rfind(']').unwrap_or(0);
    let address = if host[bracket..].contains(':') { host.to_owned() } else { format!("{host}:{port}") };
    format!("without the scheme and the path: \"{}\"", shown(&address))
}

/// A unix socket's path, which starts at the file's folder if it is relative.
fn unix(value: Value<'_>, written: &str) -> Result<PathBuf, Finding> {
    if written.is_empty() {
        return Err(value
            .error("the path of the unix socket is missing")
            .help("for example \"unix:/run/wsgate.sock\""));
    }
    if written.starts_with('@') || written.contains('\0') {
        return Err(value
            .error("abstract unix sockets are not known")
            .label("expected the path of a file")
            .help("for example \"unix:/run/wsgate.sock\""));
    }
    // Two spellings of one path are one address.
    let components = value.reader.path(written);
    let path: PathBuf = components.components().filter(|part| *part != Component::CurDir).collect();
    if path.as_os_str().len() > UNIX_PATH_MAX {
        return Err(value
            .error("the path of the unix socket is too long")
            .label(format!("with its folder it may have {UNIX_PATH_MAX} bytes")));
    }
    Ok(path)
}

/// Whether a host is made of numbers, which no name is.
fn looks_like_ip(host: &str) -> bool {
    host.rsplit('.')
        .next()
        .is_some_and(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
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
