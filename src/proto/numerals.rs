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
            let mut written = *b"000.000.000.000.";
            let mut end = 0;
            for octet in ip.octets() {
                let digits = [octet / 100, octet / 10 % 10, octet % 10];
                let leading = usize::from(octet < 100) + usize::from(octet < 10);
                for digit in &digits[leading..] {
                    written[end] = b'0' + digit;
                    end += 1;
                }
                written[end] = b'.';
                end += 1;
            }
            text.extend_from_slice(&written[..end - 1]);
        }
        // Writing to a Vec can't fail.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

/// Fills `digits` with the lower-case hex digits of `bytes`, two for each.
pub(crate) fn write_hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
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
