//! Message heads: start line and header lines, parsed strictly, edited and written (RFC 9112 §2 to §5).
//!
//! What a lenient parser repairs, two parsers repair differently, and that difference is how requests are
//! smuggled. So nothing is repaired here: each line ends with exactly CRLF, and what RFC 9112 lets a
//! recipient either mend or refuse is refused.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use memchr::memchr;
use thiserror::Error;

mod progress;
#[cfg(test)]
mod tests;

pub use self::progress::HeadProgress;
#[cfg(test)]
pub(crate) use self::progress::work;

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
const LONGEST_METHOD: usize = 32;

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

/// A header that can't be written without changing the meaning of the head around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidHeader {
    /// The name is no token (RFC 9110 §5.1).
    #[error("header name is not a token")]
    Name,
    /// The value holds CR, LF, NUL or another control character but HTAB (RFC 9110 §5.5).
    #[error("header value holds a control character")]
    Value,
    /// Connection names so many headers that comparing each header with each of them is work for nothing.
    #[error("Connection names too many headers")]
    TooManyOptions,
}

/// One line within [`Headers::text`]: `name: value CR LF`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Line {
    start: usize,
    /// The length of the name.
    name: usize,
    end: usize,
}

impl Line {
    const COLON: &[u8] = b": ";
    const CRLF: &[u8] = b"\r\n";

    fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start..self.start + self.name]
    }

    fn value<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start + self.name + Self::COLON.len()..self.end - Self::CRLF.len()]
    }
}

/// Header lines in their order and with the case of their names; look-up ignores case.
///
/// The text is kept in the form it has on the wire, so that writing it is one copy, and the whole costs two
/// allocations however many lines there are. `Debug` shows names and sizes only: values are often secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: Vec<u8>,
    lines: Vec<Line>,
}

impl Headers {
    /// No lines, and nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for so many lines, and for their text on the wire in bytes.
    pub(super) fn with_capacity(lines: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), lines: Vec::with_capacity(lines) }
    }

    /// The number of lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The size of all lines on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        self.text.len()
    }

    /// Name and value of each line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|line| (name_text(line.name(&self.text)), line.value(&self.text)))
    }

    /// The value of the first line of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The values of all lines of that name, in order.
    pub fn get_all<'h, 'n>(&'h self, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
        let named = move |line: &&Line| line.name(&self.text).eq_ignore_ascii_case(name.as_bytes());
        self.lines.iter().filter(named).map(|line| line.value(&self.text))
    }

    /// Whether there is a line of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The elements of a comma-separated list over all lines of that name, trimmed, empty ones left out
    /// (RFC 9110 §5.6.1). Quoted strings are not looked into: it is for lists of tokens.
    pub fn tokens<'h, 'n>(&'h self, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
        self.get_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Whether the list of that name has this element, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Adds a line at the end, with the white space around the value taken off.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        // Checked before it is trimmed, as trimming would take a CR or LF off unseen.
        if !value.iter().copied().all(is_field_byte) {
            return Err(InvalidHeader::Value);
        }
        self.append_with(name, |text| text.extend_from_slice(value.trim_ascii()))
    }

    /// Adds a line whose value `write` puts at the end of the text, which saves an allocation.
    pub(super) fn append_with(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), InvalidHeader> {
        if !is_token(name.as_bytes()) {
            return Err(InvalidHeader::Name);
        }
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(Line::COLON);
        let value = self.text.len();
        write(&mut self.text);
        if !self.text[value..].iter().copied().all(is_field_byte) {
            self.text.truncate(start);
            return Err(InvalidHeader::Value);
        }
        self.end_line(start, name.len());
        Ok(())
    }

    /// Adds a line that was checked when it was parsed or appended elsewhere.
    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(Line::COLON);
        self.text.extend_from_slice(value);
        self.end_line(start, name.len());
    }

    fn end_line(&mut self, start: usize, name: usize) {
        self.text.extend_from_slice(Line::CRLF);
        self.lines.push(Line { start, name, end: self.text.len() });
    }

    /// Makes this the only line of that name, at the end. On an error nothing was changed.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        let before = self.len();
        self.append(name, value)?;
        let mut index = 0;
        self.retain(|each, _| {
            index += 1;
            index > before || !each.eq_ignore_ascii_case(name)
        });
        Ok(())
    }

    /// Takes out all lines of that name, and says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.len();
        self.retain(|each, _| !each.eq_ignore_ascii_case(name));
        before - self.len()
    }

    /// Takes out the lines for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        let text = &mut self.text;
        let mut end = 0;
        self.lines.retain_mut(|line| {
            let kept = keep(name_text(line.name(text)), line.value(text));
            if kept {
                text.copy_within(line.start..line.end, end);
                *line = Line { start: end, name: line.name, end: end + (line.end - line.start) };
                end = line.end;
            }
            kept
        });
        text.truncate(end);
    }

    /// Writes the lines, each with its CRLF, and not the empty line that ends a head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text);
    }

    /// Parses header lines up to and with the empty line: the end of a head, or a trailer section.
    pub(super) fn parse(
        input: &[u8],
        bytes: usize,
        lines: usize,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        parse_within(input, bytes, |cursor| cursor.headers(lines))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            map.entry(&name, &format_args!("{} bytes", value.len()));
        }
        map.finish()
    }
}

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
    /// whatever comes after, and no byte past the head counts. Allocates only when the head is complete.
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

    /// The head at the start of `input` and its length; see [`RequestHead::parse`] for what `None` means.
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

    /// Writes the head with its empty line, in the version that it holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.reason.len() + self.headers.wire_len() + 32);
        // Writing to a Vec can't fail.
        let _ = write!(out, "{} {:03} ", self.version.as_str(), self.status);
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

/// A character of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// A byte of a header value: visible, space, HTAB, or above ASCII (RFC 9110 §5.5).
pub(super) fn is_field_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// A byte of a request target. Browsers send `|`, `{` and others that RFC 3986 would have encoded, so they
/// pass; `#` never goes on the wire, and a backend that cuts the path there serves another one than was
/// routed.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// Header names are tokens, so ASCII.
fn name_text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}

const NO_METHOD: &str = "no method";

/// Why a scan ended before its head did.
enum Stop {
    NeedMore,
    Illegal(HeadError),
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Self {
        Self::Illegal(error)
    }
}

fn malformed(what: &'static str) -> Stop {
    Stop::Illegal(HeadError::Malformed(what))
}

/// Runs a parser over at most `bytes` bytes of the input. As the parser goes from left to right and judges
/// each byte when it comes to it, what it says of a prefix holds for the whole.
fn parse_within<T>(
    input: &[u8],
    bytes: usize,
    parse: impl FnOnce(&mut Cursor<'_>) -> Result<T, Stop>,
) -> Result<Option<(T, usize)>, HeadError> {
    let mut cursor = Cursor { input: progress::look(&input[..input.len().min(bytes)]), at: 0 };
    match parse(&mut cursor) {
        Ok(parsed) => Ok(Some((parsed, cursor.at))),
        Err(Stop::NeedMore) if input.len() >= bytes => Err(HeadError::TooLarge),
        Err(Stop::NeedMore) => Ok(None),
        Err(Stop::Illegal(error)) => Err(error),
    }
}

struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Result<u8, Stop> {
        self.input.get(self.at).copied().ok_or(Stop::NeedMore)
    }

    fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    /// The longest run of bytes of that class, possibly empty.
    fn run(&mut self, class: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|&byte| !class(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// The same for [`is_field_byte`], a block at a time: most bytes of a head are those of values.
    fn field_run(&mut self) -> &'a [u8] {
        let start = self.at;
        let legal = |block: &&[u8]| block.iter().fold(true, |all, &byte| all & is_field_byte(byte));
        self.at += 32 * self.rest().chunks_exact(32).take_while(legal).count();
        self.run(is_field_byte);
        &self.input[start..self.at]
    }

    fn expect(&mut self, text: &[u8], otherwise: &'static str) -> Result<(), Stop> {
        for &byte in text {
            if self.peek()? != byte {
                return Err(malformed(otherwise));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// CRLF, where nothing else may stand.
    fn line_end(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            b'\r' => self.at += 1,
            b'\n' => return Err(malformed("a bare LF")),
            byte if is_field_byte(byte) => return Err(malformed("surplus text in the start line")),
            _ => return Err(malformed("a control character")),
        }
        self.expect(b"\n", "a bare CR")
    }

    fn skip_empty_lines(&mut self, most: usize) -> Result<(), Stop> {
        for _ in 0..most {
            if self.peek()? != b'\r' {
                return Ok(());
            }
            self.line_end()?;
        }
        Ok(())
    }

    fn method(&mut self) -> Result<&'a str, Stop> {
        let method = self.run(is_token_byte);
        if method.len() > LONGEST_METHOD {
            return Err(malformed("a method of more than 32 bytes"));
        }
        if self.peek()? != b' ' || method.is_empty() {
            return Err(malformed(NO_METHOD));
        }
        self.at += 1;
        Ok(name_text(method))
    }

    fn target(&mut self, most: usize) -> Result<&'a str, Stop> {
        let target = self.run(is_target_byte);
        if target.len() > most {
            return Err(HeadError::TargetTooLong.into());
        }
        if self.peek()? != b' ' || target.is_empty() {
            return Err(malformed("a request target that is none, or is not followed by a version"));
        }
        self.at += 1;
        Ok(name_text(target))
    }

    /// `HTTP/1.0` or `HTTP/1.1`. Of 1.2 and above there is no specification that a gateway could vouch for.
    fn version(&mut self) -> Result<Version, Stop> {
        self.expect(b"HTTP/", "not HTTP")?;
        if self.digit("no HTTP version")? != 1 {
            return Err(HeadError::Version.into());
        }
        self.expect(b".", "no HTTP version")?;
        match self.digit("no HTTP version")? {
            0 => Ok(Version::Http10),
            1 => Ok(Version::Http11),
            _ => Err(HeadError::Version.into()),
        }
    }

    fn digit(&mut self, otherwise: &'static str) -> Result<u16, Stop> {
        let byte = self.peek()?;
        if !byte.is_ascii_digit() {
            return Err(malformed(otherwise));
        }
        self.at += 1;
        Ok(u16::from(byte - b'0'))
    }

    fn status(&mut self) -> Result<u16, Stop> {
        const OTHERWISE: &str = "a status that is not three digits";
        let class = self.digit(OTHERWISE)?;
        if class == 0 {
            return Err(malformed("a status below 100"));
        }
        Ok(class * 100 + self.digit(OTHERWISE)? * 10 + self.digit(OTHERWISE)?)
    }

    fn reason(&mut self) -> Result<&'a [u8], Stop> {
        match self.peek()? {
            b' ' => {
                self.at += 1;
                Ok(self.field_run())
            }
            b'\r' => Ok(b""),
            _ => Err(malformed("a status that is not three digits")),
        }
    }

    /// All lines up to and with the empty one: first each byte is judged; the copy is made at the end.
    fn headers(&mut self, most: usize) -> Result<Headers, Stop> {
        let start = self.at;
        let mut count = 0;
        while self.header_begins(count)? {
            if count == most {
                return Err(HeadError::TooManyHeaders.into());
            }
            self.header_line()?;
            count += 1;
        }
        let section = &self.input[start..self.at - Line::CRLF.len()];
        // A colon without a space after it grows by that space.
        let mut headers = Headers::with_capacity(count, section.len() + count);
        copy_lines(section, &mut headers);
        Ok(headers)
    }

    /// Whether a header comes next; if not, the empty line has been taken.
    fn header_begins(&mut self, count: usize) -> Result<bool, Stop> {
        match self.peek()? {
            b'\r' => self.line_end().map(|()| false),
            b' ' | b'\t' if count == 0 => Err(malformed("white space before the first header")),
            b' ' | b'\t' => Err(malformed("a folded header line")),
            _ => Ok(true),
        }
    }

    fn header_line(&mut self) -> Result<(), Stop> {
        let name = self.run(is_token_byte);
        match self.peek()? {
            b':' if name.is_empty() => return Err(malformed("an empty header name")),
            b':' => self.at += 1,
            b' ' | b'\t' => return Err(malformed("white space before a colon")),
            b'\r' | b'\n' => return Err(malformed("a header line without a colon")),
            _ => return Err(malformed("a header name that is not a token")),
        }
        self.field_run();
        self.line_end()
    }
}

/// Copies lines that were found legal: a CR is always that of a CRLF, and each line has a colon.
fn copy_lines(mut section: &[u8], headers: &mut Headers) {
    while let Some(end) = memchr(b'\r', section) {
        let line = &section[..end];
        if let Some(colon) = memchr(b':', line) {
            headers.push(name_text(&line[..colon]), line[colon + 1..].trim_ascii());
        }
        section = &section[end + Line::CRLF.len()..];
    }
}
