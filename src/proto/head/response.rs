//! The head of a response.

use std::borrow::Cow;

use super::{HeadError, HeadLimits, Headers, Version, cursor::parse_within};
use crate::proto::numerals::write_decimal;

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The version as it came.
    pub version: Version,
    /// 100 to 999: what the status means is for others, only its three digits are of the grammar.
    pub status: u16,
    /// The reason as it came, possibly empty; no control characters but HTAB.
    pub reason: Cow<'static, [u8]>,
    /// The header lines.
    pub headers: Headers,
}

impl ResponseHead {
    /// An HTTP/1.1 response with the usual reason and without headers.
    pub fn new(status: u16) -> Self {
        let reason = Cow::Borrowed(reason_phrase(status).as_bytes());
        Self { version: Version::Http11, status, reason, headers: Headers::new() }
    }

    /// The head at the start of `input` and its length; see [`RequestHead::parse`](super::RequestHead::parse) for what `None` means.
    ///
    /// No empty line may come first. The space before an absent reason may be absent too: servers are known
    /// that leave it out, and nothing can hide in it (RFC 9112 §4).
    pub fn parse(input: &[u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, HeadError> {
        parse_within(input, limits.bytes, |cursor| {
            let version = cursor.version()?;
            cursor.expect(b" ", "no single space after the version")?;
            let status = cursor.status()?;
            let reason = cursor.reason()?;
            cursor.line_end()?;
            let headers = cursor.headers(limits.headers)?;
            Ok(Self { version, status, reason: usual_or_owned(status, reason), headers })
        })
    }

    /// The head as [`Self::encode`] writes it, in the buffer of its header lines.
    pub fn into_encoded(self) -> Vec<u8> {
        let Self { version, status, reason, headers } = self;
        let digit = |place: u16| b'0' + (status / place % 10) as u8;
        let digits = [digit(100), digit(10), digit(1)];
        headers.into_head(&[version.as_str().as_bytes(), b" ", &digits, b" ", &reason, b"\r\n"])
    }

    /// Writes the head with its empty line, in the version that it holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.reason.len() + self.headers.wire_len() + 32);
        out.extend_from_slice(self.version.as_str().as_bytes());
        out.push(b' ');
        write_decimal(out, self.status.into());
        out.push(b' ');
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The reason without an allocation where it is the usual one.
fn usual_or_owned(status: u16, reason: &[u8]) -> Cow<'static, [u8]> {
    let usual = reason_phrase(status).as_bytes();
    if reason == usual { Cow::Borrowed(usual) } else { Cow::Owned(reason.to_vec()) }
}

/// The usual reason of a status (RFC 9110 §15 and the registry); empty for an unknown one.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}
