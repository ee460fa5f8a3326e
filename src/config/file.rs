//! The shape of the file: tables and values with their places, read key by key.
//!
//! Whatever is wrong is recorded in the [`Reader`] and the reading goes on with the default, so that one
//! run finds every problem.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Identity,
    keys::Shape,
    load::Source,
    mask,
    report::{Finding, shown},
};

/// Parses the text, and gives what could be read beside every syntax error.
pub(super) fn syntax(text: &str) -> (Spanned<DeTable<'_>>, Vec<Finding>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut findings = Vec::new();
    let mut repeated_table = 0..0;
    for error in &errors {
        let span = whole_characters(text, error.span().unwrap_or(0..0));
        if error.message() != "duplicate key" {
            let finding = Finding::new(span, "this is not TOML").label(shown(error.message()));
            findings.push(finding.maybe_help(syntax_help(error.message())));
            continue;
        }
        // The keys of a table that stands twice are repeated for that reason alone.
        if !repeated_table.contains(&span.start) {
            let section = section(text, span.start);
            if text[section.start..].trim_start().starts_with('[') {
                repeated_table = section;
            }
            let name = shown(&text[span.clone()]);
            let finding = Finding::new(span, format!("`{name}` is given twice"));
            findings.push(finding.label("it stands further up already"));
        }
    }
    (table, findings)
}

/// The range widened to where characters begin and end.
fn whole_characters(text: &str, span: Range<usize>) -> Range<usize> {
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=span.start.min(text.len())).rev().find(boundary).unwrap_or(0);
    let end = (span.end.max(start)..text.len()).find(boundary).unwrap_or(text.len());
    start..end
}

fn syntax_help(message: &str) -> Option<String> {
    const UNQUOTED: [&str; 3] = ["invalid float", "invalid integer", "string values must be quoted"];
    let help = if message.starts_with("key with no value") {
        "a key and its value are written `key = value`"
    } else if UNQUOTED.iter().any(|start| message.starts_with(start)) {
        "text stands in quotes: `key = \"value\"`"
    } else {
        return None;
    };
    Some(help.to_owned())
}

/// From the beginning of a place's line to the next line that opens a table.
pub(super) fn section(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut end = at;
    for line in text[at..].split_inclusive('\n') {
        if end > at && line.trim_start().starts_with('[') {
            return start..end;
        }
        end += line.len();
    }
    start..text.len() + 1
}

/// The reading of one file.
pub(super) struct Reader<'r> {
    source: &'r Source,
    env: &'r dyn Fn(&str) -> Option<String>,
    /// The time by which certificates are judged.
    pub(super) now: OffsetDateTime,
    findings: RefCell<Vec<Finding>>,
    /// Certificates that are loaded already: a pair may serve many listeners.
    pub(super) identities: RefCell<HashMap<(PathBuf, PathBuf), Identity>>,
    /// Files that were read.
    files: RefCell<BTreeSet<PathBuf>>,
    /// Where secrets stand.
    secrets: RefCell<Vec<Range<usize>>>,
    /// Pairs that are in use and go on if their files can't be used any more.
    in_use: HashMap<(PathBuf, PathBuf), Identity>,
    /// What is wrong with those that do.
    kept: RefCell<Vec<Finding>>,
}

/// What came of a reading.
pub(super) struct Conclusion {
    pub(super) findings: Vec<Finding>,
    /// What is wrong with certificates that stay as they were for that.
    pub(super) kept: Vec<Finding>,
    /// The file's text without its secrets.
    pub(super) text: String,
}

impl<'r> Reader<'r> {
    pub(super) fn new(
        source: &'r Source,
        env: &'r dyn Fn(&str) -> Option<String>,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            source,
            env,
            now,
            findings: RefCell::default(),
            identities: RefCell::default(),
            files: RefCell::default(),
            secrets: RefCell::default(),
            in_use: HashMap::new(),
            kept: RefCell::default(),
        }
    }

    /// Has these certificates stay as they are where their files can't be used.
    pub(super) fn keep<'i>(&mut self, identities: impl Iterator<Item = &'i Identity>) {
        let pair = |identity: &Identity| (identity.cert.clone(), identity.key.clone());
        self.in_use = identities.map(|identity| (pair(identity), identity.clone())).collect();
    }

    /// So many problems are known.
    pub(super) fn known_problems(&self) -> usize {
        self.findings.borrow().len()
    }

    /// The pair as it is in use, if it may stay; then what was found since so many problems were known is none of the file's.
    pub(super) fn kept(&self, pair: &(PathBuf, PathBuf), since: usize) -> Option<Identity> {
        let identity = self.in_use.get(pair)?;
        self.kept.borrow_mut().extend(self.findings.borrow_mut().drain(since..));
        Some(identity.clone())
    }

    /// Notes a problem; the reading goes on.
    pub(super) fn record(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    /// Whether a problem of this place is recorded already.
    pub(super) fn is_blamed(&self, span: &Range<usize>) -> bool {
        self.findings.borrow().iter().any(|finding| finding.is_at(span))
    }

    /// The value, or `None` and its problem recorded.
    pub(super) fn recorded<T>(&self, result: Result<T, Finding>) -> Option<T> {
        result.map_err(|finding| self.record(finding)).ok()
    }

    /// Notes a file that is read.
    pub(super) fn note_file(&self, path: &Path) {
        self.files.borrow_mut().insert(path.to_owned());
    }

    /// The files that were read, in order and each once.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().iter().cloned().collect()
    }

    /// Notes a secret, which no problem shows.
    pub(super) fn hide(&self, secret: Value<'_>) {
        self.secrets.borrow_mut().push(secret.span());
    }

    fn is_hidden(&self, span: &Range<usize>) -> bool {
        self.secrets.borrow().contains(span)
    }

    /// Ends the reading.
    pub(super) fn conclude(self) -> Conclusion {
        let mut shown = self.source.text.clone();
        for secret in self.secrets.into_inner() {
            if let Some(text) = self.source.text.get(secret.clone()) {
                shown.replace_range(secret, &mask::starred(text));
            }
        }
        Conclusion { findings: self.findings.into_inner(), kept: self.kept.into_inner(), text: shown }
    }

    /// Where a path of the file leads: relative ones start at the file's folder.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        self.source.folder.join(written)
    }

    /// The folder where relative paths start.
    pub(super) fn folder(&self) -> &'r Path {
        &self.source.folder
    }
}

/// A table of the file, or the defaults of one that is not there.
#[derive(Clone)]
pub(super) struct Table<'r> {
    pub(super) reader: &'r Reader<'r>,
    shape: &'static Shape,
    entries: Option<&'r DeTable<'r>>,
    /// Its header, or the braces of an inline one.
    pub(super) span: Range<usize>,
}

impl<'r> Table<'r> {
    /// Opens a table and records the keys that its shape does not have.
    pub(super) fn open(
        reader: &'r Reader<'r>,
        shape: &'static Shape,
        entries: &'r DeTable<'r>,
        span: Range<usize>,
    ) -> Self {
        for key in entries.keys().filter(|key| !shape.keys.contains(&&**key.get_ref())) {
            reader.record(shape.unknown_key(key.get_ref(), key.span()));
        }
        Self { reader, shape, entries: Some(entries), span }
    }

    /// The value of a key, if the file has it.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'r>> {
        debug_assert!(self.shape.keys.contains(&key), "{key} is not among the keys of {}", self.shape.header);
        let node = self.entries?.get(key)?;
        Some(Value { reader: self.reader, key, node, is_element: false })
    }

    /// The values of a sub-table that the file has, its keys not judged again.
    pub(super) fn values_of(&self, key: &'static str) -> impl Iterator<Item = Value<'r>> + use<'r> {
        let entries = self.value(key).and_then(|value| value.entries().ok()).unwrap_or_default();
        entries.into_iter().map(|entry| entry.value)
    }

    /// The parsed value; `None` where it is absent or wrong.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(Value<'r>) -> Result<T, Finding>,
    ) -> Option<T> {
        let value = self.value(key)?;
        self.reader.recorded(parse(value))
    }

    /// The parsed value; the default where it is absent or wrong.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(Value<'r>) -> Result<T, Finding>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// The parsed value of a key that must be there.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(Value<'r>) -> Result<T, Finding>,
    ) -> Option<T> {
        if self.value(key).is_none() {
            self.reader.record(self.missing(key).help(format!("for example `{key} = {example}`")));
        }
        self.optional(key, parse)
    }

    /// The error for a key that must be there and is not.
    pub(super) fn missing(&self, key: &str) -> Finding {
        Finding::new(self.span.clone(), format!("`{key}` is missing"))
            .label(format!("{} needs `{key}`", self.shape.shown()))
            .absent()
    }

    /// A sub-table; where it is absent or no table, an empty one.
    pub(super) fn table(&self, key: &'static str, shape: &'static Shape) -> Self {
        let absent = Self { reader: self.reader, shape, entries: None, span: self.span.clone() };
        self.get(key, absent, |value| value.table(shape))
    }
}

/// A value of the file, with its key.
#[derive(Clone, Copy)]
pub(super) struct Value<'r> {
    pub(super) reader: &'r Reader<'r>,
    /// The key that it, or the list around it, belongs to.
    pub(super) key: &'r str,
    pub(super) node: &'r Spanned<DeValue<'r>>,
    is_element: bool,
}

impl<'r> Value<'r> {
    /// The value of a key of the file's root, if the file has it. Nothing else there is judged.
    pub(super) fn of_root(
        reader: &'r Reader<'r>,
        entries: &'r DeTable<'r>,
        key: &'static str,
    ) -> Option<Self> {
        Some(Self { reader, key, node: entries.get(key)?, is_element: false })
    }

    /// Its place in the file.
    pub(super) fn span(&self) -> Range<usize> {
        self.node.span()
    }

    /// The value as written.
    pub(super) fn raw(&self) -> &'r str {
        self.reader.source.text.get(self.span()).unwrap_or_default()
    }

    /// Whether it is a list or table without entries.
    pub(super) fn is_empty(&self) -> bool {
        match self.node.get_ref() {
            DeValue::Array(nodes) => nodes.is_empty(),
            DeValue::Table(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// An error at this value.
    pub(super) fn finding(&self, message: impl Into<Box<str>>) -> Finding {
        Finding::new(self.span(), message)
    }

    /// The error for a value of another type than expected.
    pub(super) fn wrong_type(&self, expected: &str) -> Finding {
        let found = match self.node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let what = if self.is_element { "an entry of " } else { "" };
        self.finding(format!("{what}`{}` must be {expected}", self.key)).label(format!("this is {found}"))
    }

    /// A string with its `${NAME}`s replaced.
    pub(super) fn text(self) -> Result<Cow<'r, str>, Finding> {
        match self.node.get_ref() {
            DeValue::String(text) => self.expand(text),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)
                if !self.reader.is_hidden(&self.span()) =>
            {
                Err(self.wrong_type("a string").help(format!("write it in quotes: `\"{}\"`", self.raw())))
            }
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// Whether this is the string `word`.
    pub(super) fn is_word(self, word: &str) -> bool {
        self.node.get_ref().is_str() && self.text().is_ok_and(|text| text == word)
    }

    /// `true` or `false`.
    pub(super) fn switch(self) -> Result<bool, Finding> {
        match self.node.get_ref() {
            DeValue::Boolean(switch) => Ok(*switch),
            DeValue::String(text) if matches!(&**text, "true" | "false") => {
                Err(self.wrong_type("`true` or `false`").help(format!("write it without quotes: `{text}`")))
            }
            _ => Err(self.wrong_type("`true` or `false`")),
        }
    }

    /// The elements of a list.
    pub(super) fn elements(self) -> Result<Vec<Value<'r>>, Finding> {
        match self.node.get_ref() {
            DeValue::Array(nodes) => {
                Ok(nodes.iter().map(|node| Value { node, is_element: true, ..self }).collect())
            }
            DeValue::Table(_) | DeValue::Datetime(_) => Err(self.wrong_type("a list")),
            _ if self.is_word("off") || self.is_word("") => {
                Err(self.wrong_type("a list").help("a list of nothing is `[]`"))
            }
            _ => Err(self.wrong_type("a list").help(format!("write it in brackets: `[{}]`", self.raw()))),
        }
    }

    /// A list of which every element is parsed; the problems of elements are recorded, and those left out.
    pub(super) fn list<T>(self, parse: impl Fn(Value<'r>) -> Result<T, Finding>) -> Result<Vec<T>, Finding> {
        let elements = self.elements()?.into_iter();
        Ok(elements.filter_map(|element| self.reader.recorded(parse(element))).collect())
    }

    /// One element, or a list of them.
    pub(super) fn one_or_list<T>(
        self,
        parse: impl Fn(Value<'r>) -> Result<T, Finding>,
    ) -> Result<Vec<T>, Finding> {
        if !self.node.get_ref().is_array() {
            return Ok(vec![parse(self)?]);
        }
        if self.is_empty() {
            return Err(self
                .finding(format!("`{}` is an empty list", self.key))
                .label("nothing could match"));
        }
        self.list(parse)
    }

    /// A table of this shape.
    pub(super) fn table(self, shape: &'static Shape) -> Result<Table<'r>, Finding> {
        match self.node.get_ref() {
            DeValue::Table(entries) => Ok(Table::open(self.reader, shape, entries, self.span())),
            _ => Err(self.wrong_type("a table")),
        }
    }

    /// The entries of a table whose keys are free, in the order of the file.
    pub(super) fn entries(self) -> Result<Vec<Entry<'r>>, Finding> {
        let DeValue::Table(entries) = self.node.get_ref() else {
            return Err(self.wrong_type("a table"));
        };
        let entry = |(key, node): (&'r Spanned<Cow<'r, str>>, &'r Spanned<DeValue<'r>>)| Entry {
            name: key.get_ref(),
            name_span: key.span(),
            value: Value { reader: self.reader, key: key.get_ref(), node, is_element: false },
        };
        let mut entries: Vec<_> = entries.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.name_span.start);
        Ok(entries)
    }

    /// Replaces `${NAME}` by the environment variable and `$${` by `${`.
    fn expand(self, text: &'r str) -> Result<Cow<'r, str>, Finding> {
        match &self.pieces_of(text)?[..] {
            [Piece::Written(text)] => Ok(Cow::Borrowed(text)),
            pieces => Ok(pieces.iter().map(Piece::text).collect::<String>().into()),
        }
    }

    /// A string in the pieces that stand in the file, and those that came in for a `${NAME}`.
    pub(super) fn pieces(self) -> Result<Vec<Piece<'r>>, Finding> {
        match self.node.get_ref() {
            DeValue::String(text) => self.pieces_of(text),
            // Which says what is wrong with it.
            _ => self.text().map(|text| vec![Piece::Literal(text.into_owned())]),
        }
    }

    fn pieces_of(self, text: &'r str) -> Result<Vec<Piece<'r>>, Finding> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, reference) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                pieces.extend([Piece::Written(before), Piece::Literal("${".to_owned())]);
                rest = &reference[2..];
                continue;
            }
            let Some((name, after)) = reference[2..].split_once('}') else {
                return Err(self
                    .finding("`${` without its `}`")
                    .label("`${NAME}` stands for an environment variable")
                    .help("write `$${` for `${` itself"));
            };
            pieces.extend([Piece::Written(before), Piece::Literal(self.variable(name)?)]);
            rest = after;
        }
        pieces.push(Piece::Written(rest));
        Ok(pieces)
    }

    fn variable(self, name: &str) -> Result<String, Finding> {
        let written = format!("${{{name}}}");
        let span = match self.raw().find(&written) {
            Some(at) => self.span().start + at..self.span().start + at + written.len(),
            None => self.span(),
        };
        let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !legal || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            return Err(Finding::new(span, format!("`{}` names no environment variable", shown(&written)))
                .label("expected letters, digits and `_`")
                .help("write `$${` for `${` itself"));
        }
        (self.reader.env)(name).ok_or_else(|| {
            Finding::new(span, format!("the environment variable `{name}` is not set"))
                .help(format!("set it where wsgate is started, or write `$${{{name}}}` for the text itself"))
        })
    }
}

/// An entry of a table whose keys are free.
pub(super) struct Entry<'r> {
    pub(super) name: &'r str,
    pub(super) name_span: Range<usize>,
    pub(super) value: Value<'r>,
}

/// A piece of a string.
#[derive(Debug)]
pub(super) enum Piece<'r> {
    /// As it stands in the file.
    Written(&'r str),
    /// The value of an environment variable, or the `${` that `$${` stands for: whatever is in it, it means just that.
    Literal(String),
}

impl Piece<'_> {
    /// Its text.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Written(text) => text,
            Self::Literal(text) => text,
        }
    }
}
