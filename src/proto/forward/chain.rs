//! What proxies before this one say of a client: X-Forwarded-For, Forwarded and the like, read as far as they may be believed
//! (H7).

use std::net::IpAddr;

use crate::proto::{
    head::{Headers, is_token},
    network::Peers,
    origin,
};

/// An address that a proxy tells, with the port where it tells one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The address, an IPv4 one never in IPv6 clothes.
    pub ip: IpAddr,
    /// The port.
    pub port: Option<u16>,
    /// Whether this one's request came by https, where that is told with the address.
    pub https: Option<bool>,
}

/// What a trusted proxy says of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The client; `None` is the proxy itself.
    pub client: Option<Hop>,
    /// Whether the client came by https.
    pub https: Option<bool>,
    /// The named header was not believed: it is missing, double, or no address.
    pub refused: bool,
}

/// Reads what a trusted proxy says. The client's address stands in the header `named` alone, if one is named; else in
/// X-Forwarded-For; else in Forwarded. In a chain it is the first address from the right that is not `trusted`: what is left of
/// it may be anybody's.
pub fn told(headers: &Headers, named: Option<&str>, trusted: &Peers) -> Told {
    let https = told_https(headers);
    if let Some(name) = named {
        let client = single(headers, name).and_then(hop);
        return Told { client, https, refused: client.is_none() };
    }
    let client = if is_told(headers, X_FORWARDED_FOR) {
        x_forwarded_for(headers, trusted)
    } else {
        forwarded(headers, trusted)
    };
    Told { client, https: https.or(client.and_then(|hop| hop.https)), refused: false }
}

pub(super) const X_FORWARDED_FOR: &str = "X-Forwarded-For";
pub(super) const FORWARDED: &str = "Forwarded";

/// Whether there is such a header with anything in it.
pub(super) fn is_told(headers: &Headers, name: &str) -> bool {
    headers.tokens(name).next().is_some()
}

/// The client that X-Forwarded-For tells.
pub(super) fn x_forwarded_for(headers: &Headers, trusted: &Peers) -> Option<Hop> {
    first_untrusted(headers, X_FORWARDED_FOR, trusted, hop)
}

/// The client that Forwarded tells (RFC 7239). Elements are told apart by every comma: a quoted one stands in no address, and
/// what is left of an element can't swallow it by a quote that it opens.
pub(super) fn forwarded(headers: &Headers, trusted: &Peers) -> Option<Hop> {
    first_untrusted(headers, FORWARDED, trusted, element)
}

/// The elements of Forwarded from the last that can't be read on: what stands before it would read otherwise to whoever takes
/// its quotes for the beginning of one.
pub(super) fn readable(headers: &Headers) -> Vec<&[u8]> {
    let mut elements: Vec<_> = headers.tokens(FORWARDED).collect();
    let unreadable = elements.iter().rposition(|text| element(text).is_none());
    elements.drain(..unreadable.map_or(0, |last| last + 1));
    elements
}

/// The first hop from the right that is not trusted; if all are, the last. What can't be read ends the chain.
fn first_untrusted(
    headers: &Headers,
    name: &str,
    trusted: &Peers,
    read: fn(&[u8]) -> Option<Hop>,
) -> Option<Hop> {
    let elements: Vec<_> = headers.tokens(name).collect();
    let mut client = None;
    for hop in elements.into_iter().rev().map_while(read) {
        client = Some(hop);
        if !trusted.networks.contains(hop.ip) {
            break;
        }
    }
    client
}

/// The value of a header that stands there once.
pub(super) fn single<'h>(headers: &'h Headers, name: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name);
    let value = values.next()?;
    values.next().is_none().then(|| value.trim_ascii())
}

/// What X-Forwarded-Proto says.
pub(super) fn told_https(headers: &Headers) -> Option<bool> {
    scheme(single(headers, "X-Forwarded-Proto")?)
}

fn scheme(value: &[u8]) -> Option<bool> {
    let is = |scheme: &str| value.eq_ignore_ascii_case(scheme.as_bytes());
    if is("https") { Some(true) } else { is("http").then_some(false) }
}

/// What X-Forwarded-Host says, if it is a host.
pub(super) fn told_host(headers: &Headers) -> Option<&[u8]> {
    single(headers, "X-Forwarded-Host").filter(|host| origin::is_authority(host))
}

/// What X-Forwarded-Port says, if it is a port.
pub(super) fn told_port(headers: &Headers) -> Option<u16> {
    single(headers, "X-Forwarded-Port").and_then(port).filter(|port| *port > 0)
}

/// The value of X-Request-Id, if it is a token of at most 128 bytes, which no log and no backend takes for more than that.
pub fn told_request_id(headers: &Headers) -> Option<&str> {
    let id = single(headers, "X-Request-Id").filter(|id| id.len() <= 128 && is_token(id))?;
    std::str::from_utf8(id).ok()
}

/// An address, perhaps with a port; an IPv6 one with a port stands in brackets.
fn hop(text: &[u8]) -> Option<Hop> {
    node(std::str::from_utf8(text).ok()?)
}

fn node(text: &str) -> Option<Hop> {
    let (ip, rest): (IpAddr, _) = if let Some(after) = text.strip_prefix('[') {
        let (ip, rest) = after.split_once(']')?;
        (ip.parse::<std::net::Ipv6Addr>().ok()?.into(), rest)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        (ip, "")
    } else {
        let colon = text.find(':')?;
        (text[..colon].parse::<std::net::Ipv4Addr>().ok()?.into(), &text[colon..])
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        // A port that is kept secret (RFC 7239 §6).
        Some(hidden) if hidden.len() > 1 && hidden.starts_with('_') && is_token(hidden.as_bytes()) => None,
        Some(digits) => Some(port(digits.as_bytes())?),
    };
    Some(Hop { ip: ip.to_canonical(), port, https: None })
}

fn port(digits: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// One element of Forwarded: `for` and `proto` of it, if all of it is well-formed. `unknown` and hidden names are no address.
fn element(text: &[u8]) -> Option<Hop> {
    let text = std::str::from_utf8(text).ok()?;
    let (mut client, mut proto) = (None, None);
    for pair in text.split(';') {
        let (name, value) = pair.trim_ascii().split_once('=')?;
        let value = unquoted(value)?;
        let place = match name {
            _ if !is_token(name.as_bytes()) => return None,
            _ if name.eq_ignore_ascii_case("for") => &mut client,
            _ if name.eq_ignore_ascii_case("proto") => &mut proto,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    Some(Hop { https: proto.and_then(|proto| scheme(proto.as_bytes())), ..node(client?)? })
}

/// A token, or what stands between quotes if none has to be escaped in it.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\'])),
        None => is_token(value.as_bytes()).then_some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Peers {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        Peers { networks: crate::proto::network::Networks(networks.into()), unix: true }
    }

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.append(name, value.as_bytes()).unwrap();
        }
        headers
    }

    /// The client that these lines tell, as text; empty is the proxy itself.
    fn client(lines: &[(&str, &str)]) -> String {
        shown(told(&headers(lines), None, &trusted()).client)
    }

    fn shown(client: Option<Hop>) -> String {
        match client {
            None => String::new(),
            Some(Hop { ip, port: Some(port), .. }) => std::net::SocketAddr::new(ip, port).to_string(),
            Some(Hop { ip, port: None, .. }) => ip.to_string(),
        }
    }

    #[test]
    fn h7_the_client_is_the_first_untrusted_address_from_the_right() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.0.0.9", "192.0.2.1"),
            ("6.6.6.6,192.0.2.1 ,\t10.0.0.9,10.1.1.1", "192.0.2.1"),
            ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
            ("10.0.0.9", "10.0.0.9"),
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443, 2001:db8:1::1", "[2001:db8::7]:443"),
            ("::ffff:192.0.2.1, ::ffff:10.0.0.9", "192.0.2.1"),
            ("6.6.6.6, , 192.0.2.1, ", "192.0.2.1"),
            // What can't be read ends the chain.
            ("6.6.6.6, unknown", ""),
            ("6.6.6.6, unknown, 10.0.0.9", "10.0.0.9"),
            ("6.6.6.6, 192.0.2.1:", ""),
            ("6.6.6.6, 192.0.2.1:65536", ""),
            ("6.6.6.6, 192.0.2.1:+1", ""),
            ("6.6.6.6, [2001:db8::7", ""),
            ("6.6.6.6, [2001:db8::7]x", ""),
            ("6.6.6.6, [192.0.2.1]", ""),
            ("6.6.6.6, 192.0.2.01", ""),
            ("6.6.6.6, fe80::1%eth0", ""),
            ("6.6.6.6, \"192.0.2.1\"", ""),
            ("6.6.6.6, 192.0.2.1 10.0.0.1", ""),
            ("6.6.6.6, example.com", ""),
            ("6.6.6.6, \u{e9}", ""),
            ("", ""),
        ] {
            assert_eq!(client(&[("x-forwarded-for", value)]), expected, "{value}");
        }
    }

    #[test]
    fn h7_several_lines_are_one_chain() {
        let lines = [("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.0.0.1")];
        assert_eq!(client(&lines), "192.0.2.1");
        let lines = [("X-Forwarded-For", "6.6.6.6, 192.0.2.1"), ("X-Forwarded-For", "10.0.0.1")];
        assert_eq!(client(&lines), "192.0.2.1");
    }

    #[test]
    fn h7_forwarded_is_read_as_rfc_7239_writes_it() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:4711\";Proto=https;by=10.0.0.1;host=a.example", "192.0.2.1:4711"),
            ("for=\"[2001:db8::7]\"", "2001:db8::7"),
            ("for=\"[2001:db8::7]:_secret\"", "2001:db8::7"),
            ("for=6.6.6.6, for=192.0.2.1, for=10.0.0.9", "192.0.2.1"),
            ("for=6.6.6.6,for=192.0.2.1;secret=\"x;y\"", ""),
            ("for=6.6.6.6, for=unknown", ""),
            ("for=6.6.6.6, for=_hidden, for=10.0.0.9", "10.0.0.9"),
            ("for=6.6.6.6, proto=https", ""),
            ("for=6.6.6.6, for=192.0.2.1;for=6.6.6.6", ""),
            ("for=6.6.6.6, for=2001:db8::7", ""),
            ("for=6.6.6.6, for=\"192.0.2.1", ""),
            ("for=6.6.6.6, for=192.0.2.1;", ""),
            ("for=6.6.6.6, 192.0.2.1", ""),
            // A quote that a client left open swallows nothing, and a host is no element.
            ("for=\"6.6.6.6, for=\"192.0.2.1\"", "192.0.2.1"),
            ("x=\"\\, for=192.0.2.1;host=\"a.example\"", "192.0.2.1"),
            ("for=192.0.2.1;host=\"a, for=6.6.6.6\"", ""),
            ("for=192.0.2.1;host=\"a, for=6.6.6.6;x=\"", ""),
        ] {
            assert_eq!(client(&[("Forwarded", value)]), expected, "{value}");
        }
    }

    #[test]
    fn h7_x_forwarded_for_goes_before_forwarded() {
        let lines = [("Forwarded", "for=6.6.6.6;proto=https"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(client(&lines), "192.0.2.1");
        assert_eq!(told(&headers(&lines), None, &trusted()).https, None, "nor is its scheme believed");
        assert_eq!(client(&[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "unknown")]), "");
        assert_eq!(client(&[("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "")]), "192.0.2.1");
    }

    #[test]
    fn h7_a_named_header_has_one_address_and_the_whole_say() {
        let told = |lines: &[(&str, &str)]| told(&headers(lines), Some("CF-Connecting-IP"), &trusted());
        let chain = ("X-Forwarded-For", "6.6.6.6");
        let good = told(&[("cf-connecting-ip", " 192.0.2.1"), chain]);
        assert_eq!((shown(good.client), good.refused), ("192.0.2.1".to_owned(), false));
        assert_eq!(shown(told(&[("CF-Connecting-IP", "10.0.0.9")]).client), "10.0.0.9", "a trusted one too");
        for lines in [
            &[chain][..],
            &[chain, ("CF-Connecting-IP", "")],
            &[chain, ("CF-Connecting-IP", "192.0.2.1, 6.6.6.6")],
            &[chain, ("CF-Connecting-IP", "192.0.2.1"), ("CF-Connecting-IP", "192.0.2.1")],
            &[chain, ("CF_Connecting_IP", "192.0.2.1")],
        ] {
            let told = told(lines);
            assert_eq!((told.client, told.refused), (None, true), "{lines:?}");
        }
    }

    #[test]
    fn h7_only_http_and_https_are_schemes() {
        let https = |lines: &[(&str, &str)]| told(&headers(lines), None, &trusted()).https;
        let proto = "X-Forwarded-Proto";
        assert_eq!(https(&[(proto, "https")]), Some(true));
        assert_eq!(https(&[(proto, "HTTP")]), Some(false));
        for value in ["", "wss", "https, http", "https http", "gopher"] {
            assert_eq!(https(&[(proto, value)]), None, "{value}");
        }
        assert_eq!(https(&[(proto, "https"), (proto, "https")]), None);
        assert_eq!(https(&[("Forwarded", "for=192.0.2.1;proto=https, for=10.0.0.9;proto=http")]), Some(true));
        assert_eq!(https(&[("Forwarded", "for=192.0.2.1;proto=https"), (proto, "http")]), Some(false));
        assert_eq!(https(&[("Forwarded", "for=192.0.2.1;proto=gopher")]), None);
    }

    #[test]
    fn h7_an_id_of_a_request_is_a_short_token() {
        let id = |value: &str| told_request_id(&headers(&[("X-Request-Id", value)])).map(str::to_owned);
        let longest = "a".repeat(128);
        for good in ["0a-B_c.~", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", &longest] {
            assert_eq!(id(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a\"b", "a=b", "\u{e9}", "a,b", &"a".repeat(129)] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert_eq!(told_request_id(&headers(&[("X-Request-Id", "a"), ("X-Request-Id", "a")])), None);
    }
}
