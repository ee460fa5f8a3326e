//! The head of a request.

use std::fmt;

use super::{
    HeadError, HeadLimits, Headers, Method, Version,
    cursor::{NO_METHOD, malformed, parse_within},
};

/// The head of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target as it came: visible ASCII characters but `#`, not looked into any further.
    pub target: String,
    /// The version as it came.
    pub version: Version,
    /// The header lines.
    pub headers: Headers,
}

/// RFC 9112 §2.2 asks for at least one empty line before a request line to be ignored: old clients end a body
/// with one.
const LEADING_EMPTY_LINES: usize = 4;

impl RequestHead {
    /// An HTTP/1.1 request without headers. The target must be one that [`RequestHead::parse`] would take.
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), version: Version::Http11, headers: Headers::new() }
    }

    /// The head at the start of `input` and its length in bytes, up to 4 leading empty lines included.
    ///
    /// `None` while the bytes may still become a legal head. A result that is not `None` stays what it is
    /// whatever comes after, and no byte past the head counts. What it allocates for a
    /// head that is not complete is given back at once.
    ///
    /// It begins anew each time. Where a head trickles in, calling it at the first bytes, and then only when
    /// new ones hold a LF or pass the bound, loses nothing.
    pub fn parse(input: &[u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, HeadError> {
        parse_within(input, limits.bytes, |cursor| {
            cursor.skip_empty_lines(LEADING_EMPTY_LINES)?;
            let method = cursor.method()?;
            let target = cursor.target(limits.target)?;
            let version = cursor.version()?;
            cursor.line_end()?;
            let headers = cursor.headers(limits.headers)?;
            let method = Method::new(method).ok_or(malformed(NO_METHOD))?;
            Ok(Self { method, target: target.to_owned(), version, headers })
        })
    }

    /// The head as [`Self::encode`] writes it, in the buffer of its header lines.
    pub fn into_encoded(self) -> Vec<u8> {
        let Self { method, target, version, headers } = self;
        let words = [method.as_str(), " ", &target, " ", version.as_str(), "\r\n"];
        headers.into_head(&words.map(str::as_bytes))
    }

    /// Writes the head with its empty line, in the version that it holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.method.as_str().len() + self.target.len() + self.headers.wire_len() + 16);
        for part in [self.method.as_str(), " ", &self.target, " ", self.version.as_str(), "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.headers.encode(out);
        out.extend_from_slice(b"\r\n");
    }
}

impl fmt::Debug for RequestHead {
    /// Leaves the query out, as it may carry a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method.as_str())
            .field("path", &self.target.split('?').next().unwrap_or_default())
            .field("version", &self.version)
            .field("headers", &self.headers)
            .finish()
    }
}
