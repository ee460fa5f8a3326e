//! The PROXY protocol's headers, by which a proxy tells a server whom it speaks for (HAProxy's specification, versions 1 and 2).

mod parse;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub use parse::{Header, HeaderError, LONGEST, parse};

/// Begins every header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_LOCAL: u8 = 0x20;
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Whom a connection is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
}

impl Addresses {
    /// Both in one family: IPv4 if both are, mapped or not, else IPv6.
    fn ips(&self) -> (IpAddr, IpAddr) {
        match (self.source.ip().to_canonical(), self.destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => (source.into(), destination.into()),
            (source, destination) => (mapped(source).into(), mapped(destination).into()),
        }
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Appends the header of version 1. Without addresses it is for a connection of unknown origin.
pub fn encode_v1(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    let line = match addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(addresses) => {
            let (source, destination) = addresses.ips();
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (addresses.source.port(), addresses.destination.port());
            format!("PROXY {family} {source} {destination} {from} {to}\r\n")
        }
    };
    out.extend_from_slice(line.as_bytes());
}

/// Appends the header of version 2. Without addresses the connection is the proxy's own.
pub fn encode_v2(addresses: Option<&Addresses>, out: &mut Vec<u8>) {
    out.extend_from_slice(&SIGNATURE);
    let Some(addresses) = addresses else {
        out.extend_from_slice(&[VERSION_2_LOCAL, 0, 0, 0]);
        return;
    };
    let ports = [addresses.source.port().to_be_bytes(), addresses.destination.port().to_be_bytes()].concat();
    let (family, octets) = match addresses.ips() {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            (TCP_OVER_IPV4, [source.octets(), destination.octets()].concat())
        }
        (source, destination) => {
            (TCP_OVER_IPV6, [mapped(source).octets(), mapped(destination).octets()].concat())
        }
    };
    out.extend_from_slice(&[VERSION_2_PROXY, family]);
    // 12 or 36 bytes.
    let length = u16::try_from(octets.len() + ports.len()).unwrap_or_default();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&octets);
    out.extend_from_slice(&ports);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v1(addresses: Option<&Addresses>) -> String {
        let mut out = Vec::new();
        encode_v1(addresses, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn v2(addresses: Option<&Addresses>) -> Vec<u8> {
        let mut out = Vec::new();
        encode_v2(addresses, &mut out);
        out
    }

    #[test]
    fn b13_version_1_in_either_family() {
        assert_eq!(
            v1(Some(&addresses("192.0.2.1:56324", "203.0.113.9:443"))),
            "PROXY TCP4 192.0.2.1 203.0.113.9 56324 443\r\n"
        );
        assert_eq!(
            v1(Some(&addresses("[2001:db8::1]:5", "[2001:db8::2]:80"))),
            "PROXY TCP6 2001:db8::1 2001:db8::2 5 80\r\n"
        );
        assert_eq!(v1(None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn b13_mapped_and_mixed_families_are_made_one() {
        assert_eq!(
            v1(Some(&addresses("[::ffff:192.0.2.1]:5", "203.0.113.9:80"))),
            "PROXY TCP4 192.0.2.1 203.0.113.9 5 80\r\n"
        );
        assert_eq!(
            v1(Some(&addresses("[2001:db8::1]:5", "203.0.113.9:80"))),
            "PROXY TCP6 2001:db8::1 ::ffff:203.0.113.9 5 80\r\n"
        );
    }

    #[test]
    fn b13_version_2_byte_by_byte() {
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        expected.extend([192, 0, 2, 1, 203, 0, 113, 9, 0xdc, 0x04, 0x01, 0xbb]);
        assert_eq!(v2(Some(&addresses("192.0.2.1:56324", "203.0.113.9:443"))), expected);
        assert_eq!(v2(None), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
        let six = v2(Some(&addresses("[2001:db8::1]:5", "[2001:db8::2]:80")));
        assert_eq!((six[12], six[13], six[15], six.len()), (0x21, 0x21, 36, 52));
    }
}
