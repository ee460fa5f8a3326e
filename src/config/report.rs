//! What is wrong with a file, and how it is shown.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{file::section, load::Source};

/// How much of a value is repeated in a message.
const SHOWN: usize = 60;

/// Whether the file can be used in spite of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but it is hardly what was meant.
    Warning,
}

/// One problem of a file, with the place and the help that belong to it.
///
/// `Display` shows the line of the file and takes several lines; [`Problem::brief`] is for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file can be used in spite of it.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// The file's name, with line and column where there is a place to point at.
    pub place: String,
    rendered: String,
}

impl Problem {
    /// Message and place in one line.
    pub fn brief(&self) -> String {
        format!("{} ({})", self.message, self.place)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Everything that keeps a file from being used, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    name: String,
    list: Vec<Problem>,
}

impl Problems {
    /// The problems one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The reader gave no configuration and no reason: a mistake of wsgate's own, told instead of a panic.
    pub(super) fn unexplained(source: &Source) -> Self {
        let finding = Finding::of_file("the configuration was refused without a reason; please report this");
        Self { name: source.name.clone(), list: vec![finding.render(source)] }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}\n")?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem in {}", self.name),
            count => write!(f, "{count} problems in {}", self.name),
        }
    }
}

impl std::error::Error for Problems {}

/// A problem while the file is still being read: byte ranges instead of lines.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    severity: Severity,
    about_absence: bool,
    message: Box<str>,
    span: Option<Range<usize>>,
    label: Box<str>,
    context: Vec<(Range<usize>, String)>,
    help: Vec<String>,
}

impl Finding {
    /// An error at `span`. The label that stands beside the caret, and help, are added to it.
    pub(super) fn new(span: Range<usize>, message: impl Into<Box<str>>) -> Self {
        Self { span: Some(span), ..Self::of_file(message) }
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(message: impl Into<Box<str>>) -> Self {
        Self {
            severity: Severity::Error,
            about_absence: false,
            message: message.into(),
            span: None,
            label: Box::default(),
            context: Vec::new(),
            help: Vec::new(),
        }
    }

    /// The same error, at a place of the file.
    pub(super) fn at(self, span: Range<usize>) -> Self {
        Self { span: Some(span), ..self }
    }

    /// All that is said, in a line, where there is no file to point into.
    pub(super) fn in_a_line(self) -> String {
        let said = [self.message, self.label].into_iter().map(String::from).chain(self.help);
        said.filter(|words| !words.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// What stands beside the caret: what was expected there.
    pub(super) fn label(mut self, label: impl Into<Box<str>>) -> Self {
        self.label = label.into();
        self
    }

    /// A line on what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// The same, where there may be nothing to say.
    pub(super) fn maybe_help(self, help: Option<String>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// A second place that has to do with it.
    pub(super) fn context(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.context.push((span, label.into()));
        self
    }

    /// Something is not there. In a file with syntax errors it may be there all the same, so this is then
    /// left out.
    pub(super) fn absent(mut self) -> Self {
        self.about_absence = true;
        self
    }

    /// A warning instead of an error.
    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether it points at this place.
    pub(super) fn is_at(&self, span: &Range<usize>) -> bool {
        self.span.as_ref() == Some(span)
    }

    fn render(&self, source: &Source) -> Problem {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = match &self.span {
            None => {
                Group::with_title(level.primary_title(&*self.message)).element(Origin::path(&*source.name))
            }
            Some(span) => {
                let mut primary = AnnotationKind::Primary.span(span.clone());
                if !self.label.is_empty() {
                    primary = primary.label(&*self.label);
                }
                let context = self
                    .context
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(&**label));
                let snippet = Snippet::source(&*source.text).path(&*source.name).annotation(primary);
                Group::with_title(level.primary_title(&*self.message)).element(snippet.annotations(context))
            }
        };
        let group = group.elements(self.help.iter().map(|help| Level::HELP.message(&**help)));
        // The renderer leaves the control characters from U+0080 on in the lines of the file, which some terminals obey.
        let is_hidden = |c: char| c != '\n' && is_deceptive(c);
        Problem {
            severity: self.severity,
            message: self.message.to_string(),
            place: self.span.as_ref().map_or_else(|| source.name.clone(), |span| place(source, span.start)),
            rendered: Renderer::plain().render(&[group]).replace(is_hidden, "\u{fffd}"),
        }
    }
}

/// File, line and column as in the rendered text: both count from 1, the column in characters.
fn place(source: &Source, at: usize) -> String {
    let before = source.text.get(..at).unwrap_or(&source.text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    format!("{}:{line}:{}", source.name, before[line_start..].chars().count() + 1)
}

/// Shows what was found: the warnings of a usable file, or the errors of one that cannot be used.
///
/// Where the syntax is broken, what stands between the break and the next table header is not judged
/// by its meaning: it may have been read as part of another table.
pub(super) fn conclude(
    source: &Source,
    syntax: Vec<Finding>,
    mut findings: Vec<Finding>,
) -> Result<Vec<Problem>, Problems> {
    if !syntax.is_empty() {
        let starts = syntax.iter().filter_map(|finding| finding.span.as_ref()).map(|span| span.start);
        let blurred: Vec<_> = starts.map(|start| section(&source.text, start)).collect();
        findings.retain(|finding| !finding.about_absence && !stands_in(finding, &blurred));
        findings.extend(syntax);
    }
    let usable = findings.iter().all(|finding| finding.severity == Severity::Warning);
    if !usable {
        findings.retain(|finding| finding.severity == Severity::Error);
    }
    findings.sort_by_key(|finding| finding.span.as_ref().map_or(usize::MAX, |span| span.start));
    let list: Vec<_> = findings.iter().map(|finding| finding.render(source)).collect();
    if usable { Ok(list) } else { Err(Problems { name: source.name.clone(), list }) }
}

fn stands_in(finding: &Finding, ranges: &[Range<usize>]) -> bool {
    finding.span.as_ref().is_some_and(|span| ranges.iter().any(|range| range.contains(&span.start)))
}

/// A value as it is repeated in a message: control characters escaped, cut where it is long.
pub(super) fn shown(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let mut shown: String = text.chars().take(SHOWN).flat_map(escaped).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let plain = (!is_deceptive(c)).then_some(c);
    plain.into_iter().chain(plain.is_none().then(|| c.escape_unicode()).into_iter().flatten())
}

/// Control characters and those that turn the direction of writing.
fn is_deceptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The candidate that `word` was probably meant to be: few letters apart for its length.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let most = word.chars().count().div_ceil(4).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
