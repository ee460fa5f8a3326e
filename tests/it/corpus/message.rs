//! HTTP/1.1 messages as strict ends read them, without the code under test.

use crate::harness::Head;

/// A whole message.
#[derive(Debug)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    /// Its bytes on the wire.
    pub length: usize,
}

impl Message {
    /// The request at the start of `bytes`, when it is there as a whole.
    pub fn request(bytes: &[u8]) -> Option<Self> {
        let (head, at) = head(bytes)?;
        if !head.has("content-length") && !head.has("transfer-encoding") {
            return Some(Self { head, body: Vec::new(), length: at });
        }
        Self::with_body(head, at, bytes)
    }

    /// The response at the start of `bytes`, when it is there as a whole: with a body that the end of the stream ends, if it
    /// has `ended`.
    pub fn response(bytes: &[u8], to_head: bool, ended: bool) -> Option<Self> {
        let (head, at) = head(bytes)?;
        let status = head.status();
        if to_head || status < 200 || status == 204 || status == 304 {
            return Some(Self { head, body: Vec::new(), length: at });
        }
        if head.has("content-length") || head.has("transfer-encoding") {
            return Self::with_body(head, at, bytes);
        }
        ended.then(|| Self { head, body: bytes[at..].to_vec(), length: bytes.len() })
    }

    fn with_body(head: Head, at: usize, bytes: &[u8]) -> Option<Self> {
        let (body, length) = if head.get("transfer-encoding") == Some("chunked") {
            assert!(!head.has("content-length"), "two framings: {head:?}");
            chunks(&bytes[at..])?
        } else {
            assert!(!head.has("transfer-encoding"), "a strange coding: {head:?}");
            let digits = head.get("content-length").unwrap_or_default();
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "a strange length: {head:?}");
            let length: u64 = digits.parse().expect("a length of 64 bits");
            let length = usize::try_from(length).ok()?;
            (bytes[at..].get(..length)?.to_vec(), length)
        };
        Some(Self { head, body, length: at + length })
    }
}

fn head(bytes: &[u8]) -> Option<(Head, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    Some((Head::parse(&bytes[..end]), end))
}

/// The data of a chunked body and its length on the wire, trailers included. A proxy that passes chunks on passes no
/// extensions.
fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let size = line(&bytes[at..])?;
        assert!(!size.is_empty() && size.iter().all(u8::is_ascii_hexdigit), "no chunk size: {size:?}");
        let length = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).ok()?;
        at += size.len() + 2;
        if length == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(length)?)?);
        at += length;
        assert_eq!(bytes.get(at..at + 2)?, b"\r\n", "no end of a chunk");
        at += 2;
    }
    loop {
        let trailer = line(&bytes[at..])?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Some((data, at));
        }
    }
}

/// What comes before the first CRLF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some(&bytes[..end])
}
