//! Parsing PROXY headers (rules S5, B13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use super::{Addresses, SIGNATURE, VERSION_2_LOCAL, VERSION_2_PROXY};

/// Bytes of the longest header that is taken: a line of version 1 has 107 at most, version 2 could announce 64 KiB. What
/// balancers put into it, certificates included, stays far below this.
pub const LONGEST: usize = 16 * 1024;

/// Bytes of the longest line of version 1, its CRLF included.
const LONGEST_LINE: usize = 107;
/// How a header of version 1 begins.
const LINE_START: &[u8] = b"PROXY ";
/// Bytes of version 2 before its addresses.
const FIXED: usize = 16;
/// Type, and two bytes of length, before each value.
const TLV_HEAD: usize = 3;
const TLV_CRC32C: u8 = 0x03;

/// Whom a connection is made for, as its PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The proxy's own connection, such as a health check.
    Local,
    /// Somebody of whom no address is told: `UNKNOWN`, unspecified, or a unix socket's.
    Unknown,
    /// A client.
    For(Addresses),
}

/// Why bytes don't begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// They begin otherwise.
    #[error("there is none")]
    Missing,
    /// They begin with something that is nearly one.
    #[error("{0}")]
    Malformed(&'static str),
    /// It has more than 107 bytes in version 1, or [`LONGEST`] in version 2.
    #[error("it is too long")]
    TooLong,
    /// Its CRC-32C is another than that of its bytes.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Reads the header that `bytes` begin with, of version 1 or 2, and its length. `None`: it needs more of them, and all of these
/// belong to it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    if begins(bytes, &SIGNATURE) {
        parse_binary(bytes)
    } else if begins(bytes, LINE_START) {
        parse_line(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Whether `bytes` begin so, as far as there are any.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(one, other)| one == other)
}

/// Version 1: a line of text.
fn parse_line(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let within = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return if within.len() == LONGEST_LINE { Err(HeaderError::TooLong) } else { Ok(None) };
    };
    let line = within[LINE_START.len()..end].strip_suffix(b"\r");
    let line = line.ok_or(HeaderError::Malformed("its line does not end with CRLF"))?;
    let header = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        Header::Unknown
    } else {
        let addresses = std::str::from_utf8(line).ok().and_then(addresses_of_line);
        Header::For(addresses.ok_or(HeaderError::Malformed("its line is malformed"))?)
    };
    Ok(Some((header, end + 1)))
}

/// Family, source, destination and both ports, with one space between them.
fn addresses_of_line(line: &str) -> Option<Addresses> {
    let mut fields = line.split(' ');
    let family = fields.next()?;
    let mut ip = || -> Option<IpAddr> {
        let text = fields.next()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || fields.next().and_then(port_of);
    let (from, to) = (port()?, port()?);
    let addresses =
        Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) };
    fields.next().is_none().then_some(addresses)
}

/// Digits without a leading zero.
fn port_of(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// Version 2.
fn parse_binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if command != VERSION_2_LOCAL && command != VERSION_2_PROXY {
        return Err(HeaderError::Malformed("it has another version or command"));
    }
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(HeaderError::Malformed("it has another family or protocol"));
    }
    let Some(&[high, low]) = bytes.get(SIGNATURE.len() + 2..FIXED) else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(HeaderError::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if command == VERSION_2_LOCAL {
        return Ok(Some((Header::Local, length)));
    }
    binary_addresses(header, family).map(|addresses| Some((addresses, length)))
}

/// The addresses of a whole header of version 2. Of one without a family or protocol nothing is looked at.
fn binary_addresses(header: &[u8], family: u8) -> Result<Header, HeaderError> {
    const SHORT: HeaderError = HeaderError::Malformed("it has no room for its addresses");
    let rest = &header[FIXED..];
    let (addresses, used) = match (family >> 4, family & 0xf) {
        (0, _) | (_, 0) => return Ok(Header::Unknown),
        (1, _) => (Header::For(addresses_of_binary(rest, |ip: [u8; 4]| ip.into()).ok_or(SHORT)?), 12),
        (2, _) => (Header::For(addresses_of_binary(rest, |ip: [u8; 16]| ip.into()).ok_or(SHORT)?), 36),
        _ => (Header::Unknown, 216),
    };
    if rest.len() < used {
        return Err(SHORT);
    }
    check_tlvs(header, FIXED + used)?;
    Ok(addresses)
}

/// Source and destination, then both ports. An address has `N` bytes.
fn addresses_of_binary<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Option<Addresses> {
    let (source, after) = bytes.split_first_chunk::<N>()?;
    let (destination, after) = after.split_first_chunk::<N>()?;
    let (from, after) = after.split_first_chunk::<2>()?;
    let to = after.first_chunk::<2>()?;
    Some(Addresses {
        source: SocketAddr::new(ip(*source), u16::from_be_bytes(*from)),
        destination: SocketAddr::new(ip(*destination), u16::from_be_bytes(*to)),
    })
}

/// Walks what stands behind the addresses, type, length and value each. Of these only the checksum means something here.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), HeaderError> {
    const SHORT: HeaderError = HeaderError::Malformed("a value of it is cut short");
    let mut checksum = None;
    while at < header.len() {
        let &[kind, high, low] = header[at..].first_chunk::<TLV_HEAD>().ok_or(SHORT)?;
        let value = at + TLV_HEAD;
        let end = value + usize::from(u16::from_be_bytes([high, low]));
        let bytes = header.get(value..end).ok_or(SHORT)?;
        if kind == TLV_CRC32C {
            let told = <[u8; 4]>::try_from(bytes).ok().filter(|_| checksum.is_none());
            checksum = Some((value, told.ok_or(HeaderError::Malformed("its checksum is malformed"))?));
        }
        at = end;
    }
    match checksum {
        Some((place, told)) if crc32c_without(header, place) != u32::from_be_bytes(told) => {
            Err(HeaderError::Checksum)
        }
        _ => Ok(()),
    }
}

/// The CRC-32C of `bytes` with the four at `place` taken for zeros (RFC 9260 appendix A).
fn crc32c_without(bytes: &[u8], place: usize) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let own = place..place + 4;
    let crc = bytes.iter().enumerate().fold(u32::MAX, |crc, (at, &byte)| {
        let byte = if own.contains(&at) { 0 } else { byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1)))
    });
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::*, *};
    use crate::proto::laws;

    fn of(text: &str) -> Result<Option<(Header, usize)>, HeaderError> {
        parse(text.as_bytes())
    }

    fn client(source: &str, destination: &str) -> Header {
        Header::For(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 203, 0, 113, 9, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn b13_a_line_tells_the_client() {
        let line = "PROXY TCP4 192.0.2.1 203.0.113.9 56324 443\r\n";
        let expected = client("192.0.2.1:56324", "203.0.113.9:443");
        assert_eq!(of(&format!("{line}GET / HTTP/1.1\r\n")), Ok(Some((expected, line.len()))));
        let line = "PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n";
        assert_eq!(of(line), Ok(Some((client("[2001:db8::1]:0", "[2001:db8::2]:65535"), line.len()))));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 \u{7f} 1 x\r\n"] {
            assert_eq!(of(unknown), Ok(Some((Header::Unknown, unknown.len()))), "{unknown}");
        }
    }

    #[test]
    fn b13_a_line_is_read_strictly() {
        for line in [
            "PROXY \r\n",
            "PROXY  TCP4 192.0.2.1 203.0.113.9 1 2\r\n",
            "PROXY tcp4 192.0.2.1 203.0.113.9 1 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1\r\n",
            "PROXY TCP4 192.0.2.1  203.0.113.9 1 2\r\n",
            "PROXY TCP4 192.0.2.01 203.0.113.9 1 2\r\n",
            "PROXY TCP4 192.0.2.256 203.0.113.9 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 203.0.113.9 1 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 01 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 \r\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 2\n",
            "PROXY TCP4 192.0.2.1 203.0.113.9 1 2\r\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UDP4 192.0.2.1 203.0.113.9 1 2\r\n",
        ] {
            assert!(matches!(of(line), Err(HeaderError::Malformed(_))), "{line:?}");
        }
    }

    #[test]
    fn s5_a_byte_that_begins_no_header_is_refused_at_once() {
        for bytes in ["G", "proxy ", "PROXy", "PROXY\t", "\r\n\r\n\0\r\nQUIT\r", "\u{16}\u{3}\u{1}", "\n"] {
            assert_eq!(of(bytes), Err(HeaderError::Missing), "{bytes:?}");
        }
        for bytes in ["", "P", "PROXY", "PROXY TCP4 1", "\r", "\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(of(bytes), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn s5_a_header_is_bounded() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(of(&line(107)), Ok(Some((Header::Unknown, 107))));
        assert_eq!(of(&line(108)), Err(HeaderError::TooLong));
        assert_eq!(of(&line(108)[..106]), Ok(None));
        assert_eq!(of(&line(108)[..107]), Err(HeaderError::TooLong));
        let longest = binary(VERSION_2_PROXY, 0, &vec![0; LONGEST - FIXED]);
        assert_eq!(parse(&longest), Ok(Some((Header::Unknown, LONGEST))));
        let longer = binary(VERSION_2_PROXY, 0, &vec![0; LONGEST - FIXED + 1]);
        assert_eq!(parse(&longer[..FIXED]), Err(HeaderError::TooLong));
    }

    #[test]
    fn b13_version_2_tells_the_client() {
        let header = binary(VERSION_2_PROXY, 0x11, &IPV4);
        let expected = client("192.0.2.1:56324", "203.0.113.9:443");
        assert_eq!(parse(&[&header[..], b"\x16\x03"].concat()), Ok(Some((expected, 28))));
        assert_eq!(parse(&binary(VERSION_2_PROXY, 0x12, &IPV4)), Ok(Some((expected, 28))), "UDP");
        let mut six = vec![0; 36];
        six[15] = 1;
        six[31] = 2;
        six[33] = 5;
        six[35] = 80;
        assert_eq!(
            parse(&binary(VERSION_2_PROXY, 0x21, &six)),
            Ok(Some((client("[::1]:5", "[::2]:80"), 52)))
        );
    }

    #[test]
    fn b13_local_unspecified_and_unix_tell_none() {
        for (family, rest) in [(0, &b""[..]), (0x11, &IPV4), (0x21, b"\x03\0"), (0x32, b"x")] {
            let header = binary(VERSION_2_LOCAL, family, rest);
            assert_eq!(parse(&header), Ok(Some((Header::Local, header.len()))), "{family:x}");
        }
        for (family, rest) in [(0, &b"\x03\0\x09"[..]), (0x10, b""), (0x02, b"x"), (0x31, &[0; 216])] {
            let header = binary(VERSION_2_PROXY, family, rest);
            assert_eq!(parse(&header), Ok(Some((Header::Unknown, header.len()))), "{family:x}");
        }
    }

    #[test]
    fn b13_version_2_is_read_strictly() {
        for header in [
            binary(0x11, 0x11, &IPV4),
            binary(0x22, 0x11, &IPV4),
            binary(VERSION_2_PROXY, 0x41, &IPV4),
            binary(VERSION_2_PROXY, 0x13, &IPV4),
            binary(VERSION_2_LOCAL, 0x13, &[]),
            binary(VERSION_2_PROXY, 0x11, &IPV4[..11]),
            binary(VERSION_2_PROXY, 0x21, &[0; 35]),
            binary(VERSION_2_PROXY, 0x31, &[0; 215]),
        ] {
            assert!(matches!(parse(&header), Err(HeaderError::Malformed(_))), "{header:x?}");
        }
    }

    /// A header with these values behind its addresses.
    fn with_values(values: &[u8]) -> Vec<u8> {
        binary(VERSION_2_PROXY, 0x11, &[&IPV4, values].concat())
    }

    #[test]
    fn b13_values_behind_the_addresses_are_walked() {
        // ALPN, authority, no operation, TLS with a value of its own, one of a vendor.
        let several = b"\x01\0\x02h2\x02\0\x01a\x04\0\0\x20\0\x08\x01\0\0\0\0\x21\0\0\xea\0\x02\x01x";
        let header = with_values(several);
        let expected = client("192.0.2.1:56324", "203.0.113.9:443");
        assert_eq!(parse(&header), Ok(Some((expected, header.len()))));
        for cut in [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x01\0\x02h2\x02\xff\xffa"] {
            assert!(matches!(parse(&with_values(cut)), Err(HeaderError::Malformed(_))), "{cut:x?}");
        }
    }

    #[test]
    fn b13_a_checksum_is_verified() {
        // The check value that is published for CRC-32C; the place is behind the end.
        assert_eq!(crc32c_without(b"123456789", 9), 0xe306_9283);
        let mut header = with_values(b"\x04\0\x01x\x03\0\x04\0\0\0\0\x04\0\x01y");
        let place = header.len() - 8;
        let sum = crc32c_without(&header, place);
        header[place..place + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(matches!(parse(&header), Ok(Some((Header::For(_), _)))));
        for place in [place, 16, 31, header.len() - 1] {
            let mut other = header.clone();
            other[place] ^= 1;
            assert_eq!(parse(&other), Err(HeaderError::Checksum), "byte {place}");
        }
        for malformed in [&b"\x03\0\x03\0\0\0"[..], b"\x03\0\0", b"\x03\0\x04\0\0\0\0\x03\0\x04\0\0\0\0"] {
            assert!(matches!(parse(&with_values(malformed)), Err(HeaderError::Malformed(_))));
        }
    }

    fn sockets() -> impl Strategy<Value = Addresses> {
        prop_oneof![
            any::<([u8; 4], u16, [u8; 4], u16)>()
                .prop_map(|(a, p, b, q)| Addresses { source: (a, p).into(), destination: (b, q).into() }),
            any::<([u16; 8], u16, [u16; 8], u16)>()
                .prop_filter("mapped addresses are written as IPv4", |(a, _, b, _)| a[0] > 0 && b[0] > 0)
                .prop_map(|(a, p, b, q)| Addresses { source: (a, p).into(), destination: (b, q).into() }),
        ]
    }

    proptest! {
        #[test]
        fn b13_what_is_written_is_read(addresses in sockets()) {
            for encode in [encode_v1, encode_v2] {
                let mut header = Vec::new();
                encode(Some(&addresses), &mut header);
                prop_assert_eq!(parse(&header), Ok(Some((Header::For(addresses), header.len()))));
            }
        }

        #[test]
        fn s5_any_split_gives_the_same(
            start in prop::sample::select(vec![
                &b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", &SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x03\0\x04",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..150),
        ) {
            laws::proxy_header(&[start, &rest].concat());
        }
    }
}
