//! Start lines' words: versions and methods.

use std::borrow::Cow;

use super::grammar::is_token;

/// The protocol versions that are understood; every message that wsgate writes is HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// No Host required, no chunks, closed after the answer unless `keep-alive` was asked for.
    Http10,
    /// What nearly everybody sends.
    Http11,
}

impl Version {
    /// The version as the start line has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// A request method: a token of at most 32 bytes, where case counts (RFC 9110 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(Cow<'static, str>);

/// Longer than any registered method, and short enough that a stream of letters is known for garbage early.
pub(super) const LONGEST_METHOD: usize = 32;

impl Method {
    /// `GET`
    pub const GET: Self = Self(Cow::Borrowed("GET"));
    /// `HEAD`
    pub const HEAD: Self = Self(Cow::Borrowed("HEAD"));
    /// `POST`
    pub const POST: Self = Self(Cow::Borrowed("POST"));
    /// `PUT`
    pub const PUT: Self = Self(Cow::Borrowed("PUT"));
    /// `DELETE`
    pub const DELETE: Self = Self(Cow::Borrowed("DELETE"));
    /// `CONNECT`
    pub const CONNECT: Self = Self(Cow::Borrowed("CONNECT"));
    /// `OPTIONS`
    pub const OPTIONS: Self = Self(Cow::Borrowed("OPTIONS"));
    /// `TRACE`
    pub const TRACE: Self = Self(Cow::Borrowed("TRACE"));
    /// `PATCH`
    pub const PATCH: Self = Self(Cow::Borrowed("PATCH"));

    const KNOWN: [Self; 9] = [
        Self::GET,
        Self::HEAD,
        Self::POST,
        Self::PUT,
        Self::DELETE,
        Self::CONNECT,
        Self::OPTIONS,
        Self::TRACE,
        Self::PATCH,
    ];

    /// Any token of 1 to 32 bytes; `None` for everything else.
    pub fn new(name: &str) -> Option<Self> {
        if let Some(known) = Self::KNOWN.iter().find(|known| known.0 == name) {
            return Some(known.clone());
        }
        let legal = is_token(name.as_bytes()) && name.len() <= LONGEST_METHOD;
        legal.then(|| Self(Cow::Owned(name.to_owned())))
    }

    /// The method as the request line has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `GET`.
    pub fn is_get(&self) -> bool {
        *self == Self::GET
    }

    /// Whether this is `HEAD`, whose answers have no body.
    pub fn is_head(&self) -> bool {
        *self == Self::HEAD
    }

    /// Whether this is `CONNECT`.
    pub fn is_connect(&self) -> bool {
        *self == Self::CONNECT
    }

    /// Whether this is `OPTIONS`, the only method with the target `*`.
    pub fn is_options(&self) -> bool {
        *self == Self::OPTIONS
    }

    /// Whether sending it twice has the effect of sending it once (RFC 9110 §9.2.2); no unknown method has.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}
