//! What wsgate says of a client to backends: X-Forwarded-For and the like (H7).

use std::net::IpAddr;

use super::{RequestContext, alike, begins_alike, chain, template::scheme};
use crate::proto::{
    head::{Headers, InvalidHeader, is_token},
    network::Peers,
    numerals::{write_decimal, write_ip},
    trace::TRACEPARENT,
};

/// A trusted proxy that sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Proxy<'a> {
    /// Its address; `None` is a unix socket's peer.
    pub ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// All that are trusted.
    pub trusted: &'a Peers,
}

/// The header in which trusted proxies give the client's address.
#[derive(Clone, Copy, Debug)]
pub struct ClientIpHeader<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether the client's address was taken from it.
    pub believed: bool,
}

/// Headers that tell of proxies before this one.
pub(super) fn is_forwarding(name: &[u8]) -> bool {
    begins_alike(name, "x-forwarded-") || is_rebuilt(name)
}

/// Those of them that wsgate writes itself, whoever sent them.
pub(super) fn is_rebuilt(name: &[u8]) -> bool {
    const NAMES: [&str; 6] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
    ];
    NAMES.iter().any(|ours| alike(ours, name))
}

/// Who the client is and how it came. `received` has what a trusted proxy said of that.
pub(super) fn append(
    out: &mut Headers,
    received: &Headers,
    cx: &RequestContext<'_>,
) -> Result<(), InvalidHeader> {
    let client = cx.client_ip.map(|ip| ip.to_canonical());
    let told = Chains::of(received, client, cx);
    if told.knows_anybody() {
        out.append_with("X-Forwarded-For", |text| told.write_x_forwarded_for(text))?;
    }
    out.push(b"X-Forwarded-Proto", scheme(cx.https).as_bytes());
    if let Some(host) = told.host {
        out.push(b"X-Forwarded-Host", host);
    }
    if let Some(port) = port(received, cx, told.tells_scheme) {
        out.push_with("X-Forwarded-Port", |text| write_decimal(text, port.into()));
    }
    if let Some(ip) = client {
        out.push_with("X-Real-IP", |text| write_ip(text, ip));
    }
    out.append_with("Forwarded", |text| told.write_forwarded(text, cx))?;
    if let (Some(ClientIpHeader { name, believed: true }), Some(ip)) = (cx.client_ip_header, client)
        && !is_rebuilt(name.as_bytes())
    {
        let mut text = Vec::new();
        write_ip(&mut text, ip);
        out.append(name, &text)?;
    }
    out.append_own("X-Request-Id", cx.request_id.as_bytes())?;
    out.push(TRACEPARENT.as_bytes(), cx.trace.parent().as_bytes());
    Ok(())
}

/// The port that the client connected to. Where a proxy tells the scheme but no port, it is not known: wsgate's own is that of
/// the proxy's connection.
fn port(received: &Headers, cx: &RequestContext<'_>, tells_scheme: bool) -> Option<u16> {
    if cx.proxy.is_none() {
        return cx.listener_port;
    }
    chain::told_port(received).or_else(|| cx.listener_port.filter(|_| !tells_scheme))
}

/// The chains of proxies, to be extended by one.
struct Chains<'a> {
    /// The chain as received by which the client was found. A proxy that sets the one often lets the other pass as its client
    /// wrote it, so that one does not go on even if it tells the same client.
    x_forwarded_for: Option<&'a Headers>,
    forwarded: Option<&'a Headers>,
    /// Whether a trusted proxy told by which scheme the client came.
    tells_scheme: bool,
    client: Option<IpAddr>,
    proxy: Option<Proxy<'a>>,
    /// The host as the client knows it, and as it came here.
    host: Option<&'a [u8]>,
    own_host: Option<&'a [u8]>,
}

impl<'a> Chains<'a> {
    fn of(received: &'a Headers, client: Option<IpAddr>, cx: &RequestContext<'a>) -> Self {
        let own_host = received.get("host").filter(|host| !host.is_empty());
        let mut chains = Self {
            x_forwarded_for: None,
            forwarded: None,
            tells_scheme: false,
            client,
            proxy: cx.proxy,
            host: own_host,
            own_host,
        };
        if let Some(proxy) = cx.proxy {
            let believed = |hop: Option<chain::Hop>| hop.map_or(proxy.ip, |hop| Some(hop.ip)) == client;
            let chain = chain::x_forwarded_for(received, proxy.trusted);
            let x_is_told = chain::is_told(received, chain::X_FORWARDED_FOR);
            chains.x_forwarded_for = (x_is_told && believed(chain)).then_some(received);
            let chain = chain::forwarded(received, proxy.trusted);
            let is_read = !x_is_told && cx.client_ip_header.is_none() && chain.is_some();
            let told = chain.filter(|_| is_read).and_then(|hop| hop.https);
            chains.tells_scheme = chain::told_https(received).or(told).is_some();
            let https = chain.and_then(|hop| hop.https).unwrap_or(cx.https);
            chains.forwarded = (is_read && believed(chain) && https == cx.https).then_some(received);
            chains.host = chain::told_host(received).or(own_host);
        }
        chains
    }

    /// The client where the proxy spoke for another one than itself.
    fn apart(&self) -> Option<IpAddr> {
        self.client.filter(|_| self.proxy.is_none_or(|proxy| proxy.ip != self.client))
    }

    /// Whether there is an address for X-Forwarded-For, which has no word for an unknown one.
    fn knows_anybody(&self) -> bool {
        let proxy = self.proxy.and_then(|proxy| proxy.ip);
        self.x_forwarded_for.is_some() || self.client.or(proxy).is_some()
    }

    fn write_x_forwarded_for(&self, text: &mut Vec<u8>) {
        let start = text.len();
        match self.x_forwarded_for {
            Some(received) => write_list(text, received.tokens(chain::X_FORWARDED_FOR)),
            None => self.apart().into_iter().for_each(|ip| write_ip(text, ip)),
        }
        if let Some(ip) = self.proxy.and_then(|proxy| proxy.ip) {
            if text.len() > start {
                text.extend_from_slice(b", ");
            }
            write_ip(text, ip);
        }
    }

    fn write_forwarded(&self, text: &mut Vec<u8>, cx: &RequestContext<'_>) {
        let Some(proxy) = self.proxy else { return write_element(text, self.client, cx.https, self.host) };
        if let Some(received) = self.forwarded {
            write_list(text, chain::readable(received).into_iter());
            text.extend_from_slice(b", ");
        } else if self.apart().is_some() {
            write_element(text, self.client, cx.https, self.host);
            text.extend_from_slice(b", ");
        }
        write_element(text, proxy.ip, proxy.tls, self.own_host);
    }
}

fn write_list<'e>(text: &mut Vec<u8>, elements: impl Iterator<Item = &'e [u8]>) {
    for (place, element) in elements.enumerate() {
        if place > 0 {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(element);
    }
}

/// One element of Forwarded (RFC 7239 §4): an IPv6 address and a host with a port are no tokens and stand in
/// quotes.
fn write_element(text: &mut Vec<u8>, client: Option<IpAddr>, https: bool, host: Option<&[u8]>) {
    text.extend_from_slice(b"for=");
    match client {
        Some(ip @ IpAddr::V4(_)) => write_ip(text, ip),
        Some(ip @ IpAddr::V6(_)) => {
            text.extend_from_slice(b"\"[");
            write_ip(text, ip);
            text.extend_from_slice(b"]\"");
        }
        None => text.extend_from_slice(b"unknown"),
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(scheme(https).as_bytes());
    let Some(host) = host else { return };
    text.extend_from_slice(b";host=");
    if is_token(host) {
        text.extend_from_slice(host);
        return;
    }
    text.push(b'"');
    for &byte in host {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
}
