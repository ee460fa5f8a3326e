//! Where a body ends (RFC 9112 §6 and §7), and whether the connection outlives it (§9.3).
//!
//! Two parties that disagree about the end of a body read different messages out of one stream. So a head
//! whose framing can be read in two ways has none here: it is an error, even where RFC 9112 says which
//! reading wins.

use thiserror::Error;

use super::head::{HeadError, Headers, Method, RequestHead, ResponseHead, Version, is_field_byte, is_token};

#[cfg(test)]
mod tests;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none, and no header says anything of one, or what it says is of another message (HEAD, 304).
    Empty,
    /// So many bytes, possibly 0.
    Length(u64),
    /// Chunks, see [`ChunkScanner`].
    Chunked,
    /// All until the connection ends. Never that of a request.
    UntilClose,
}

impl BodyFraming {
    /// The framing in which a response body goes on to a client: one that speaks HTTP/1.0 knows no chunks
    /// (H10).
    #[must_use]
    pub fn for_client(self, client: Version) -> Self {
        match (self, client) {
            (Self::Chunked, Version::Http10) => Self::UntilClose,
            _ => self,
        }
    }
}

/// Why a head does not say where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// It can be read in more than one way; says how.
    #[error("ambiguous framing: {0}")]
    Ambiguous(&'static str),
    /// A well-formed transfer coding, but one that is not `chunked`.
    #[error("unknown transfer coding")]
    UnknownCoding,
}

/// How a request's body is delimited (RFC 9112 §6.3, without the repairs that it allows).
pub fn request_framing(head: &RequestHead) -> Result<BodyFraming, FramingError> {
    Ok(declared(head.version, &head.headers)?.unwrap_or(BodyFraming::Empty))
}

/// How a response's body is delimited (RFC 9112 §6.3). What the head declares is judged even where the status
/// or the method says that there is no body, since a declared length goes on to the client.
pub fn response_framing(head: &ResponseHead, request_method: &Method) -> Result<BodyFraming, FramingError> {
    let declared = declared(head.version, &head.headers)?;
    let tunnel = request_method.is_connect() && (200..300).contains(&head.status);
    if request_method.is_head() || never_has_body(head.status) || head.status == 304 || tunnel {
        return Ok(BodyFraming::Empty);
    }
    Ok(declared.unwrap_or(BodyFraming::UntilClose))
}

/// A 1xx or 204, which must not even declare a body (RFC 9110 §8.6, RFC 9112 §6.1).
pub(super) fn never_has_body(status: u16) -> bool {
    status < 200 || status == 204
}

/// Whether more messages may follow on this side's connection (RFC 9112 §9.3).
pub fn persists(version: Version, headers: &Headers) -> bool {
    let closes = headers.has_token("connection", "close");
    match version {
        Version::Http11 => !closes,
        Version::Http10 => !closes && headers.has_token("connection", "keep-alive"),
    }
}

/// Whether the upstream connection may carry another request once this response has been read to its end.
///
/// Not if a 1xx or 204 declares a body: its server may yet send one, where the next response is expected.
pub fn response_persists(head: &ResponseHead, framing: BodyFraming) -> bool {
    let stray_body = never_has_body(head.status)
        && !matches!(declared(head.version, &head.headers), Ok(None | Some(BodyFraming::Length(0))));
    framing != BodyFraming::UntilClose && !stray_body && persists(head.version, &head.headers)
}

/// What the headers say of a body: a length, chunks, or nothing.
fn declared(version: Version, headers: &Headers) -> Result<Option<BodyFraming>, FramingError> {
    let length = content_length(headers)?;
    let mut codings = headers.get_all("transfer-encoding");
    let Some(coding) = codings.next() else { return Ok(length.map(BodyFraming::Length)) };
    if codings.next().is_some() {
        return Err(FramingError::Ambiguous("several Transfer-Encoding lines"));
    }
    if length.is_some() {
        return Err(FramingError::Ambiguous("Content-Length with Transfer-Encoding"));
    }
    if version == Version::Http10 {
        return Err(FramingError::Ambiguous("Transfer-Encoding with HTTP/1.0"));
    }
    chunked(coding).map(|()| Some(BodyFraming::Chunked))
}

/// The one Content-Length. Equal repetitions may be merged by RFC 9112 §6.3, but who merges them is not
/// agreed on.
pub(super) fn content_length(headers: &Headers) -> Result<Option<u64>, FramingError> {
    let mut values = headers.get_all("content-length");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(FramingError::Ambiguous("several Content-Length lines"));
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(FramingError::Ambiguous("a Content-Length that is not digits"));
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    let length = value.iter().try_fold(0, add);
    length.map(Some).ok_or(FramingError::Ambiguous("a Content-Length that overflows"))
}

/// That a Transfer-Encoding is `chunked` and nothing else. Every element is looked at before one is called
/// unknown, so that 501 is only said of a list that is clean.
fn chunked(coding: &[u8]) -> Result<(), FramingError> {
    let mut chunked = false;
    let mut unknown = false;
    for element in coding.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        // An empty element is skipped by one parser and ends the list for another; `chunked` has no
        // parameters.
        if !is_token(element) {
            return Err(FramingError::Ambiguous("a malformed Transfer-Encoding"));
        }
        if chunked {
            return Err(FramingError::Ambiguous("chunked is not the last coding"));
        }
        chunked = element.eq_ignore_ascii_case(b"chunked");
        unknown |= !chunked;
    }
    if unknown { Err(FramingError::UnknownCoding) } else { Ok(()) }
}

/// Bounds of what stands around the data of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// One size line with its extensions, without CRLF, in bytes. Nobody sends extensions, and they are
    /// dropped.
    pub size_line: usize,
    /// The trailer section with its empty line, in bytes.
    pub trailer_bytes: usize,
    /// Trailer lines.
    pub trailer_lines: usize,
}

impl Default for ChunkLimits {
    /// 256 bytes, 8 KiB, 64 lines.
    fn default() -> Self {
        Self { size_line: 256, trailer_bytes: 8 * 1024, trailer_lines: 64 }
    }
}

/// Why bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// Not the grammar of RFC 9112 §7.1; says what was found.
    #[error("malformed chunk: {0}")]
    Malformed(&'static str),
    /// A size of more than 64 bits.
    #[error("chunk size overflows")]
    SizeOverflow,
    /// A size line over [`ChunkLimits::size_line`].
    #[error("chunk size line too long")]
    LineTooLong,
    /// A malformed trailer section, or one over its bounds.
    #[error("bad trailer section")]
    Trailers(#[source] HeadError),
}

/// What came next in a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkPart<'a> {
    /// Data; never empty. A chunk may come in several of these.
    Data(&'a [u8]),
    /// The input was taken to its end.
    More,
    /// The body has ended. The trailers are well-formed, but see [`may_pass_trailer`].
    End(Headers),
}

/// Follows a chunked body in any split (RFC 9112 §7.1), and buffers nothing of it but an unfinished trailer
/// section.
#[derive(Debug)]
pub struct ChunkScanner {
    limits: ChunkLimits,
    state: ChunkState,
    /// The size as far as it has been read; then what is left of the data.
    left: u64,
    /// Bytes of the size line so far.
    line: usize,
    trailers: Vec<u8>,
}

/// What is expected next.
#[derive(Clone, Copy, Debug)]
enum ChunkState {
    FirstDigit,
    Digit,
    /// White space stands after the size, where only an extension makes it legal (RFC 9112 §7.1.1).
    Semicolon,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

impl ChunkScanner {
    /// A scanner at the start of a body.
    pub fn new(limits: ChunkLimits) -> Self {
        Self { limits, state: ChunkState::FirstDigit, left: 0, line: 0, trailers: Vec::new() }
    }

    /// Takes the next part: how many bytes of `input` it used, and what they were.
    ///
    /// Call it again with the rest until it says [`ChunkPart::More`]. After [`ChunkPart::End`] what is left
    /// of the input belongs to the next message, and further calls use nothing; after an error there is
    /// nothing to go on with.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, ChunkPart<'a>), ChunkError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                ChunkState::Data => {
                    let data = self.data(&input[at..]);
                    return Ok((at + data.len(), ChunkPart::Data(data)));
                }
                ChunkState::Trailers => {
                    let (used, part) = self.trailers(&input[at..])?;
                    return Ok((at + used, part));
                }
                ChunkState::Ended => return Ok((at, ChunkPart::End(Headers::new()))),
                _ => self.step(byte)?,
            }
            at += 1;
        }
        Ok((at, ChunkPart::More))
    }

    /// One byte of a size line, or of the CRLF after the data.
    fn step(&mut self, byte: u8) -> Result<(), ChunkError> {
        use ChunkState::{DataCr, DataLf, Digit, Extension, FirstDigit, Semicolon, SizeLf};
        self.state = match (self.state, byte) {
            (FirstDigit | Digit, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (Digit | Extension, b'\r') => SizeLf,
            (Digit | Semicolon, b';') => Extension,
            (Digit | Semicolon, b' ' | b'\t') => Semicolon,
            (Extension, byte) if is_field_byte(byte) => Extension,
            (SizeLf, b'\n') => self.end_size_line(),
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => FirstDigit,
            (FirstDigit, _) => return Err(ChunkError::Malformed("no size")),
            (Digit | Semicolon, _) => return Err(ChunkError::Malformed("a size that is not hex digits")),
            (Extension, _) => return Err(ChunkError::Malformed("a control character in an extension")),
            (SizeLf, _) => return Err(ChunkError::Malformed("a bare CR")),
            _ => return Err(ChunkError::Malformed("data longer than its size")),
        };
        if matches!(self.state, Digit | Semicolon | Extension) {
            self.line += 1;
            if self.line > self.limits.size_line {
                return Err(ChunkError::LineTooLong);
            }
        }
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<ChunkState, ChunkError> {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        let size = self.left.checked_mul(16).ok_or(ChunkError::SizeOverflow)?;
        // The product ends in four zero bits.
        self.left = size | u64::from(value);
        Ok(ChunkState::Digit)
    }

    fn end_size_line(&mut self) -> ChunkState {
        self.line = 0;
        if self.left == 0 { ChunkState::Trailers } else { ChunkState::Data }
    }

    fn data<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let length = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        self.left -= length as u64;
        if self.left == 0 {
            self.state = ChunkState::DataCr;
        }
        &input[..length]
    }

    /// The trailer section is that of a head, and is judged as a whole each time that more of it comes.
    fn trailers<'a>(&mut self, input: &'a [u8]) -> Result<(usize, ChunkPart<'a>), ChunkError> {
        let held = self.trailers.len();
        let section = if held == 0 {
            input
        } else {
            let room = self.limits.trailer_bytes.saturating_sub(held).min(input.len());
            self.trailers.extend_from_slice(&input[..room]);
            &self.trailers
        };
        let parsed = Headers::parse(section, self.limits.trailer_bytes, self.limits.trailer_lines);
        if let Some((trailers, length)) = parsed.map_err(ChunkError::Trailers)? {
            self.state = ChunkState::Ended;
            return Ok((length - held, ChunkPart::End(trailers)));
        }
        if held == 0 {
            self.trailers.extend_from_slice(input);
        }
        Ok((input.len(), ChunkPart::More))
    }
}

impl Default for ChunkScanner {
    fn default() -> Self {
        Self::new(ChunkLimits::default())
    }
}

/// The last chunk and an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the size line of a chunk; its data and a CRLF are the caller's. `len` must not be 0, which is the
/// last chunk.
pub fn encode_chunk_head(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0, "a chunk of no bytes ends the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(len >> (4 * place)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk with a trailer section.
pub fn encode_last_chunk(trailers: &Headers, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    trailers.encode(out);
    out.extend_from_slice(b"\r\n");
}

const NEVER_PASS: &[&str] = &[
    // framing and routing
    "connection",
    "content-length",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    // request modifiers
    "cache-control",
    "expect",
    "max-forwards",
    "pragma",
    "range",
    // authentication
    "authorization",
    "cookie",
    "origin",
    "set-cookie",
    "www-authenticate",
    "authentication-info",
    // control of the response
    "age",
    "date",
    "expires",
    "location",
    "retry-after",
    "vary",
    "warning",
    "strict-transport-security",
    // processing of the content
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
];
const NEVER_PASS_FAMILIES: &[&str] = &["if-", "proxy-", "sec-", "x-forwarded-", "access-control-"];

/// Whether a trailer may be passed on (RFC 9110 §6.5.1): not if it frames, routes, modifies, authenticates or
/// describes the message, as whoever merges trailers into headers would have it do so after the fact.
pub fn may_pass_trailer(name: &str) -> bool {
    let begins = |start: &&str| name.get(..start.len()).is_some_and(|s| s.eq_ignore_ascii_case(start));
    // An alias with `_` would slip past the names.
    !name.contains('_')
        && !NEVER_PASS.iter().any(|never| never.eq_ignore_ascii_case(name))
        && !NEVER_PASS_FAMILIES.iter().any(begins)
}
