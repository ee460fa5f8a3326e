//! Edits of headers.

use std::collections::HashMap;

use toml::de::DeValue;

use super::{
    file::{Entry, Table, Value},
    report::{Finding, shown},
};
use crate::proto::{
    forward::{HeaderEdits, may_edit},
    head::is_token,
};

/// Reads `set` and `remove`.
pub(super) fn edits(table: &Table<'_>) -> HeaderEdits {
    let edits = HeaderEdits {
        set: table.get("set", Vec::new(), set),
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

fn set(value: Value<'_>) -> Result<Vec<(String, String)>, Finding> {
    let mut seen: HashMap<String, std::ops::Range<usize>> = HashMap::new();
    let mut headers = Vec::new();
    for entry in value.entries()? {
        let span = entry.name_span.clone();
        if let Some(earlier) = seen.insert(entry.name.to_ascii_lowercase(), span.clone()) {
            let finding = Finding::new(span, format!("the header `{}` is set twice", shown(entry.name)))
                .label("names are the same in upper and lower case")
                .context(earlier, "first here");
            value.reader.record(finding);
        }
        headers.extend(value.reader.recorded(header(&entry)));
    }
    Ok(headers)
}

fn header(entry: &Entry<'_>) -> Result<(String, String), Finding> {
    check_name(entry.name, entry.name_span.clone())?;
    let text = entry.value.text()?;
    // The value may be a secret of the environment, so it is not repeated.
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(entry
            .value
            .finding(format!("the value of `{}` has a control character", entry.name))
            .label("a line break would begin another header"));
    }
    Ok((entry.name.to_owned(), text.into_owned()))
}

fn removed(value: Value<'_>) -> Result<String, Finding> {
    if let DeValue::Table(_) = value.node.get_ref() {
        return Err(value.wrong_type("a list of names"));
    }
    let name = value.text()?;
    check_name(&name, value.span())?;
    Ok(name.into_owned())
}

fn check_name(name: &str, span: std::ops::Range<usize>) -> Result<(), Finding> {
    if !is_token(name.as_bytes()) {
        return Err(Finding::new(span, format!("`{}` is not a header's name", shown(name)))
            .label("expected letters, digits and `-`, without spaces or a colon"));
    }
    if may_edit(name) {
        return Ok(());
    }
    let finding = Finding::new(span, format!("the header `{name}` cannot be edited"));
    Err(if name.eq_ignore_ascii_case("host") {
        finding.label("it has a key of its own").help("`host_header` of the route says what goes upstream")
    } else {
        finding.label("wsgate writes what frames a message or upgrades a connection")
    })
}
