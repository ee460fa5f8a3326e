//! Edits of headers.

use std::{collections::HashMap, ops::Range};

use toml::de::DeValue;

use super::{
    file::{Entry, Piece, Table, Value},
    mask,
    report::{Finding, nearest, shown},
};
use crate::proto::{
    forward::{HeaderEdits, Template, TemplateError, may_edit},
    head::is_token,
};

/// Reads `set` and `remove`.
pub(super) fn edits(table: &Table<'_>) -> HeaderEdits {
    let edits = HeaderEdits {
        set: table.get("set", Vec::new(), |value| set(value, may_be_edited, template)),
        remove: table.get("remove", Vec::new(), |value| value.list(removed)),
    };
    if let Some(value) = table.value("remove") {
        let is_set = |name: &str| edits.set.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        if let Some(name) = edits.remove.iter().find(|name| is_set(name)) {
            let finding = value
                .finding(format!("`{}` is set and removed", shown(name)))
                .help("`set` alone replaces what is there");
            table.reader.record(finding);
        }
    }
    edits
}

/// What refuses a header's name.
type Judge = fn(&str, Range<usize>) -> Result<(), Finding>;

/// The headers that are sent with a health check.
pub(super) fn of_a_check(value: Value<'_>) -> Result<Vec<(String, String)>, Finding> {
    set(value, may_be_sent, |entry| Ok(entry.value.text()?.into_owned()))
}

/// Names with their values, as `read` makes them.
fn set<T>(
    value: Value<'_>,
    judge: Judge,
    read: fn(&Entry<'_>) -> Result<T, Finding>,
) -> Result<Vec<(String, T)>, Finding> {
    let mut seen: HashMap<String, Range<usize>> = HashMap::new();
    let mut headers = Vec::new();
    for entry in value.entries()? {
        let span = entry.name_span.clone();
        if let Some(earlier) = seen.insert(entry.name.to_ascii_lowercase(), span.clone()) {
            let finding = Finding::new(span, format!("the header `{}` is set twice", shown(entry.name)))
                .label("names are the same in upper and lower case")
                .context(earlier, "first here");
            value.reader.record(finding);
        }
        headers.extend(value.reader.recorded(header(&entry, judge, read)));
    }
    Ok(headers)
}

fn header<T>(
    entry: &Entry<'_>,
    judge: Judge,
    read: fn(&Entry<'_>) -> Result<T, Finding>,
) -> Result<(String, T), Finding> {
    if mask::is_secret(entry.name) {
        entry.value.reader.hide(entry.value);
    }
    check_name(entry.name, entry.name_span.clone())?;
    judge(entry.name, entry.name_span.clone())?;
    let text = entry.value.text()?;
    // The value may be a secret of the environment, so it is not repeated.
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(entry
            .value
            .finding(format!("the value of `{}` has a control character", entry.name))
            .label("a line break would begin another header"));
    }
    Ok((entry.name.to_owned(), read(entry)?))
}

/// A value with placeholders. In what an environment variable says there are none.
fn template(entry: &Entry<'_>) -> Result<Template, Finding> {
    let mut template = Template::default();
    for piece in entry.value.pieces()? {
        match piece {
            Piece::Literal(text) => template.push_literal(&text),
            Piece::Written(text) => {
                template.push_written(text).map_err(|error| bad_template(entry, &error))?;
            }
        }
    }
    Ok(template)
}

fn bad_template(entry: &Entry<'_>, error: &TemplateError) -> Finding {
    const DOUBLED: &str = "write `{{` for `{` itself";
    match error {
        TemplateError::Unknown(name) => {
            let meant = nearest(name, Template::names()).map(|name| format!("did you mean `{{{name}}}`?"));
            let name = if name.is_empty() { String::new() } else { shown(name) };
            let finding = entry.value.finding(format!("unknown placeholder `{{{name}}}`"));
            finding.maybe_help(meant).help(DOUBLED)
        }
        TemplateError::Open => entry.value.finding("`{` without its `}`").help(DOUBLED),
    }
}

fn removed(value: Value<'_>) -> Result<String, Finding> {
    if let DeValue::Table(_) = value.node.get_ref() {
        return Err(value.wrong_type("a list of names"));
    }
    copied(value)
}

/// The name of a header that goes from another answer into a request.
pub(super) fn copied(value: Value<'_>) -> Result<String, Finding> {
    let name = value.text()?;
    check_name(&name, value.span())?;
    may_be_edited(&name, value.span())?;
    Ok(name.into_owned())
}

/// The name of a header that is read.
pub(super) fn name(value: Value<'_>) -> Result<Option<String>, Finding> {
    let name = value.text()?;
    if name.is_empty() {
        return Ok(None);
    }
    check_name(&name, value.span())?;
    Ok(Some(name.into_owned()))
}

fn check_name(name: &str, span: Range<usize>) -> Result<(), Finding> {
    if is_token(name.as_bytes()) {
        return Ok(());
    }
    Err(Finding::new(span, format!("`{}` is not a header's name", shown(name)))
        .label("expected letters, digits and `-`, without spaces or a colon"))
}

/// Beside what its table says of other keys, a header is wsgate's own for this reason.
const OWN: &str = "wsgate writes what frames a message or upgrades a connection";

fn may_be_edited(name: &str, span: Range<usize>) -> Result<(), Finding> {
    if may_edit(name) {
        return Ok(());
    }
    let finding = Finding::new(span, format!("the header `{name}` cannot be edited"));
    Err(if name.eq_ignore_ascii_case("host") {
        finding.label("it has a key of its own").help("`host_header` of the route says what goes upstream")
    } else {
        finding.label(OWN)
    })
}

fn may_be_sent(name: &str, span: Range<usize>) -> Result<(), Finding> {
    if may_edit(name) {
        return Ok(());
    }
    let finding = Finding::new(span, format!("the header `{name}` cannot be set for a check"));
    let key = match &*name.to_ascii_lowercase() {
        "host" => "host",
        "sec-websocket-protocol" => "subprotocol",
        _ => return Err(finding.label(OWN)),
    };
    Err(finding.label("it has a key of its own").help(format!("`{key}` of this table says what is sent")))
}
