//! Header lines: kept as they came, looked up, edited and written.

use std::fmt;

use thiserror::Error;

use super::{
    HeadError,
    cursor::parse_within,
    grammar::{is_field_value, is_same_name, is_token, name_text},
};

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
pub(super) struct Line {
    pub(super) start: usize,
    /// The length of the name.
    pub(super) name: usize,
    pub(super) end: usize,
}

impl Line {
    const COLON: &[u8] = b": ";
    pub(super) const CRLF: &[u8] = b"\r\n";

    fn is_named(&self, name: &str, text: &[u8]) -> bool {
        is_same_name(self.name(text), name.as_bytes())
    }

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
    pub(in crate::proto) fn with_capacity(lines: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), lines: Vec::with_capacity(lines) }
    }

    /// Lines that were found legal, each in the form of `text`.
    pub(super) fn of(text: &[u8], lines: Vec<Line>) -> Self {
        Self { text: text.to_vec(), lines }
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
        self.lines().map(|(name, value)| (name_text(name), value))
    }

    /// The same with the names as bytes, which need not be proven to be text.
    pub(in crate::proto) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (line.name(&self.text), line.value(&self.text)))
    }

    /// An empty head with room for these lines and for so many more, of so many bytes.
    pub(in crate::proto) fn roomier(&self, lines: usize, bytes: usize) -> Self {
        Self {
            text: Vec::with_capacity(self.text.len() + bytes),
            lines: Vec::with_capacity(self.lines.len() + lines),
        }
    }

    /// Adds those lines of `received` for which `name` has a name, under which they go on.
    pub(in crate::proto) fn pass<'h>(
        &mut self,
        received: &'h Self,
        mut name: impl FnMut(&'h [u8]) -> Option<&'h [u8]>,
    ) {
        for line in &received.lines {
            let came_as = line.name(&received.text);
            match name(came_as) {
                None => {}
                // A line that stays what it is is one copy.
                Some(same) if std::ptr::eq(same, came_as) => {
                    let start = self.text.len();
                    self.text.extend_from_slice(&received.text[line.start..line.end]);
                    self.lines.push(Line { start, name: line.name, end: self.text.len() });
                }
                Some(name) => self.push(name, line.value(&received.text)),
            }
        }
    }

    /// The value of the first line of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The values of all lines of that name, in order.
    pub fn get_all<'h, 'n>(&'h self, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
        let named = move |line: &&Line| line.is_named(name, &self.text);
        self.lines.iter().filter(named).map(|line| line.value(&self.text))
    }

    /// Whether there is a line of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.lines.iter().any(|line| line.is_named(name, &self.text))
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
        self.contains(name) && self.tokens(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Adds a line at the end, with the white space around the value taken off.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        // Checked before it is trimmed, as trimming would take a CR or LF off unseen.
        if !is_token(name.as_bytes()) {
            return Err(InvalidHeader::Name);
        }
        if !is_field_value(value) {
            return Err(InvalidHeader::Value);
        }
        self.push(name.as_bytes(), value.trim_ascii());
        Ok(())
    }

    /// The same under a name that stands in the program, and so needs no proof.
    pub(in crate::proto) fn append_own(
        &mut self,
        name: &'static str,
        value: &[u8],
    ) -> Result<(), InvalidHeader> {
        debug_assert!(is_token(name.as_bytes()));
        if !is_field_value(value) {
            return Err(InvalidHeader::Value);
        }
        self.push(name.as_bytes(), value.trim_ascii());
        Ok(())
    }

    /// Adds a line under such a name, whose value `write` puts at the end of the text, which saves an allocation.
    pub(in crate::proto) fn append_with(
        &mut self,
        name: &'static str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), InvalidHeader> {
        let start = self.text.len();
        self.push_with(name, write);
        let value = start + name.len() + Line::COLON.len();
        if is_field_value(&self.text[value..self.text.len() - Line::CRLF.len()]) {
            return Ok(());
        }
        self.text.truncate(start);
        self.lines.pop();
        Err(InvalidHeader::Value)
    }

    /// The same for a value that needs no proof either, as a number or an address.
    pub(in crate::proto) fn push_with(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(is_token(name.as_bytes()));
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(Line::COLON);
        write(&mut self.text);
        self.end_line(start, name.len());
    }

    /// Adds a line that was checked when it was parsed or appended elsewhere.
    pub(in crate::proto) fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.reserve(name.len() + value.len() + Line::COLON.len() + Line::CRLF.len());
        self.text.extend_from_slice(name);
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
        let (before, is_new) = (self.len(), !self.contains(name));
        self.append(name, value)?;
        if is_new {
            return Ok(());
        }
        let mut index = 0;
        self.retain(|each, _| {
            index += 1;
            index > before || !each.eq_ignore_ascii_case(name)
        });
        Ok(())
    }

    /// Takes out all lines of that name, and says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        if !self.contains(name) {
            return 0;
        }
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
            // Up to the first line that goes, nothing moves; and mostly none goes.
            if kept && line.start == end {
                end = line.end;
            } else if kept {
                text.copy_within(line.start..line.end, end);
                *line = Line { start: end, name: line.name, end: end + (line.end - line.start) };
                end = line.end;
            }
            kept
        });
        text.truncate(end);
    }

    /// The whole head behind this start line, with the empty line at the end, in the buffer of the lines.
    pub(super) fn into_head(self, start_line: &[&[u8]]) -> Vec<u8> {
        let mut text = self.text;
        let (lines, start) = (text.len(), start_line.iter().map(|part| part.len()).sum());
        text.resize(start + lines + Line::CRLF.len(), 0);
        text.copy_within(..lines, start);
        let mut at = 0;
        for part in start_line {
            text[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        text[start + lines..].copy_from_slice(Line::CRLF);
        text
    }

    /// Writes the lines, each with its CRLF, and not the empty line that ends a head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text);
    }

    /// Parses header lines up to and with the empty line: the end of a head, or a trailer section.
    pub(in crate::proto) fn parse(
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
