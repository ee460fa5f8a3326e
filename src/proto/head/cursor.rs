//! The parser: from left to right, each byte judged where it stands.

use memchr::memchr;

use super::{
    HeadError, Headers, Version,
    grammar::{field_run, is_field_byte, is_target_byte, is_token_byte, name_text},
    headers::Line,
    method::LONGEST_METHOD,
    progress::look,
};

pub(super) const NO_METHOD: &str = "no method";

/// Why a scan ended before its head did.
pub(super) enum Stop {
    NeedMore,
    Illegal(HeadError),
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Self {
        Self::Illegal(error)
    }
}

pub(super) fn malformed(what: &'static str) -> Stop {
    Stop::Illegal(HeadError::Malformed(what))
}

/// Runs a parser over at most `bytes` bytes of the input. As the parser goes from left to right and judges
/// each byte when it comes to it, what it says of a prefix holds for the whole.
pub(super) fn parse_within<T>(
    input: &[u8],
    bytes: usize,
    parse: impl FnOnce(&mut Cursor<'_>) -> Result<T, Stop>,
) -> Result<Option<(T, usize)>, HeadError> {
    let mut cursor = Cursor { input: look(&input[..input.len().min(bytes)]), at: 0 };
    match parse(&mut cursor) {
        Ok(parsed) => Ok(Some((parsed, cursor.at))),
        Err(Stop::NeedMore) if input.len() >= bytes => Err(HeadError::TooLarge),
        Err(Stop::NeedMore) => Ok(None),
        Err(Stop::Illegal(error)) => Err(error),
    }
}

pub(super) struct Cursor<'a> {
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

    /// The same for [`is_field_byte`].
    fn field_run(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let length = field_run(rest);
        self.at += length;
        &rest[..length]
    }

    pub(super) fn expect(&mut self, text: &[u8], otherwise: &'static str) -> Result<(), Stop> {
        for &byte in text {
            if self.peek()? != byte {
                return Err(malformed(otherwise));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// CRLF, where nothing else may stand.
    pub(super) fn line_end(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            b'\r' => self.at += 1,
            b'\n' => return Err(malformed("a bare LF")),
            byte if is_field_byte(byte) => return Err(malformed("surplus text in the start line")),
            _ => return Err(malformed("a control character")),
        }
        self.expect(b"\n", "a bare CR")
    }

    pub(super) fn skip_empty_lines(&mut self, most: usize) -> Result<(), Stop> {
        for _ in 0..most {
            if self.peek()? != b'\r' {
                return Ok(());
            }
            self.line_end()?;
        }
        Ok(())
    }

    pub(super) fn method(&mut self) -> Result<&'a str, Stop> {
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

    pub(super) fn target(&mut self, most: usize) -> Result<&'a str, Stop> {
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
    pub(super) fn version(&mut self) -> Result<Version, Stop> {
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

    pub(super) fn status(&mut self) -> Result<u16, Stop> {
        const OTHERWISE: &str = "a status that is not three digits";
        let class = self.digit(OTHERWISE)?;
        if class == 0 {
            return Err(malformed("a status below 100"));
        }
        Ok(class * 100 + self.digit(OTHERWISE)? * 10 + self.digit(OTHERWISE)?)
    }

    pub(super) fn reason(&mut self) -> Result<&'a [u8], Stop> {
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
    pub(super) fn headers(&mut self, most: usize) -> Result<Headers, Stop> {
        let start = self.at;
        let mut lines = Vec::new();
        let mut are_usual = true;
        while self.header_begins(lines.len())? {
            if lines.len() == most {
                return Err(HeadError::TooManyHeaders.into());
            }
            if lines.is_empty() {
                lines = Vec::with_capacity(most.min(USUAL_LINES));
            }
            let (line, is_usual) = self.header_line(start)?;
            lines.push(line);
            are_usual &= is_usual;
        }
        let section = &self.input[start..self.at - Line::CRLF.len()];
        Ok(if are_usual { Headers::of(section, lines) } else { copied(section, lines.len()) })
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

    /// The next line, as it stands behind `start`, and whether it has the form in which [`Headers`] keeps it.
    fn header_line(&mut self, start: usize) -> Result<(Line, bool), Stop> {
        let from = self.at;
        let name = self.run(is_token_byte);
        match self.peek()? {
            b':' if name.is_empty() => return Err(malformed("an empty header name")),
            b':' => self.at += 1,
            b' ' | b'\t' => return Err(malformed("white space before a colon")),
            b'\r' | b'\n' => return Err(malformed("a header line without a colon")),
            _ => return Err(malformed("a header name that is not a token")),
        }
        let value = self.field_run();
        self.line_end()?;
        let is_usual = value.strip_prefix(b" ").is_some_and(|value| value.trim_ascii().len() == value.len());
        Ok((Line { start: from - start, name: name.len(), end: self.at - start }, is_usual))
    }
}

/// Room for the lines of most heads.
const USUAL_LINES: usize = 16;

/// Copies lines that were found legal: a CR is always that of a CRLF, and each line has a colon.
fn copied(mut section: &[u8], lines: usize) -> Headers {
    // A colon without a space after it grows by that space.
    let mut headers = Headers::with_capacity(lines, section.len() + lines);
    while let Some(end) = memchr(b'\r', section) {
        let line = &section[..end];
        if let Some(colon) = memchr(b':', line) {
            headers.push(&line[..colon], line[colon + 1..].trim_ascii());
        }
        section = &section[end + Line::CRLF.len()..];
    }
    headers
}
