//! Numbers as text. Each exchange writes a dozen of them, and `fmt` takes ten times as long for one.

use std::{io::Write as _, net::IpAddr};

/// Appends a number in decimal.
pub(crate) fn write_decimal(text: &mut Vec<u8>, mut number: u64) {
    const MOST_DIGITS: usize = 20;
    let mut digits = [b'0'; MOST_DIGITS];
    let mut at = MOST_DIGITS;
    loop {
        at -= 1;
        // A remainder of ten fits.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
}

/// Appends an address as it is usually written, an IPv6 one without brackets.
pub(crate) fn write_ip(text: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let mut written = [0; 4 * OCTET];
            let mut end = 0;
            for octet in ip.octets() {
                let (digits, length) = &OCTETS[usize::from(octet)];
                written[end..end + OCTET].copy_from_slice(digits);
                end += length;
            }
            text.extend_from_slice(&written[..end - 1]);
        }
        // Writing to a Vec can't fail.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

/// Bytes of an octet in decimal with a dot behind it, at most.
const OCTET: usize = 4;

/// Each octet in decimal with a dot behind it, and how long that is.
static OCTETS: [([u8; OCTET], usize); 256] = {
    let mut octets = [([0; OCTET], 0); 256];
    let mut octet = 0_u8;
    loop {
        let digit = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        octets[octet as usize] = match octet {
            0..=9 => ([digit[2], b'.', 0, 0], 2),
            10..=99 => ([digit[1], digit[2], b'.', 0], 3),
            100.. => ([digit[0], digit[1], digit[2], b'.'], 4),
        };
        if octet == u8::MAX {
            break octets;
        }
        octet += 1;
    }
};

/// Each byte as two lower-case hex digits.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

/// Fills `digits` with the lower-case hex digits of `bytes`, two for each.
pub(crate) fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    let (pairs, _) = digits.as_chunks_mut();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_fmt_makes_of_them(number: u64, ip: IpAddr, bytes: u128) {
            for number in [number, number % 1000, 0, u64::MAX] {
                let mut text = b"x".to_vec();
                write_decimal(&mut text, number);
                prop_assert_eq!(text, format!("x{number}").into_bytes());
            }
            let mut text = b"x".to_vec();
            write_ip(&mut text, ip);
            prop_assert_eq!(text, format!("x{ip}").into_bytes());
            let mut digits = [0; 32];
            write_hex(&mut digits, &bytes.to_be_bytes());
            prop_assert_eq!(digits.to_vec(), format!("{bytes:032x}").into_bytes());
        }
    }
}
