//! Message heads: start line and header lines, parsed strictly, edited and written (RFC 9112 §2 to §5).
//!
//! What a lenient parser repairs, two parsers repair differently, and that difference is how requests are
//! smuggled. So nothing is repaired here: each line ends with exactly CRLF, and what RFC 9112 lets a
//! recipient either mend or refuse is refused.

mod cursor;
mod grammar;
mod headers;
mod method;
mod progress;
mod request;
mod response;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub(super) use self::grammar::is_field_byte;
pub(crate) use self::grammar::is_token;
#[cfg(test)]
pub(crate) use self::progress::work;
pub use self::{
    headers::{Headers, InvalidHeader},
    method::{Method, Version},
    progress::HeadProgress,
    request::RequestHead,
    response::{ResponseHead, reason_phrase},
};

/// Bounds of one head; passing one is an error of its own, so that each gets its own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The whole head in bytes, from the first byte to the empty line's LF, skipped empty lines included.
    pub bytes: usize,
    /// Header lines.
    pub headers: usize,
    /// The request target in bytes.
    pub target: usize,
}

impl Default for HeadLimits {
    /// 64 KiB, 128 header lines, a target of 16 KiB.
    fn default() -> Self {
        Self { bytes: 64 * 1024, headers: 128, target: 16 * 1024 }
    }
}

/// Why bytes are not, and can't become, a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// Not the grammar of RFC 9112; says what was found.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    /// No end within [`HeadLimits::bytes`].
    #[error("head too large")]
    TooLarge,
    /// More lines than [`HeadLimits::headers`].
    #[error("too many header lines")]
    TooManyHeaders,
    /// More bytes than [`HeadLimits::target`].
    #[error("request target too long")]
    TargetTooLong,
    /// HTTP, but neither 1.0 nor 1.1; the preface of HTTP/2 ends here too.
    #[error("HTTP version not supported")]
    Version,
}
