//! The file as it may be shown: with `***` for what is secret in it (rule S7).

use toml::{Table, Value};

use super::Config;
use crate::proto::query;

/// What stands for a secret.
const MASK: &str = "***";
/// A header with one of these in its name carries a credential.
const SECRET: [&str; 9] =
    ["auth", "cookie", "token", "secret", "password", "credential", "key", "session", "signature"];

impl Config {
    /// The file as it was written: environment variables not put in, and masked what is secret. That is the tokens of
    /// `[admin]`, the values of headers that carry credentials, what stands before the `@` of a URL, and the values of
    /// query parameters in `log.redact`.
    pub fn masked(&self) -> Table {
        let mut tables = self.tables.table().clone();
        for (_, value) in &mut tables {
            mask_urls(value, &self.log.redact);
        }
        if let Some(admin) = tables.get_mut("admin").and_then(Value::as_table_mut) {
            mask_entries(admin, |key| matches!(key, "token" | "metrics_token"));
        }
        let routes = tables.get_mut("route").and_then(Value::as_array_mut).into_iter().flatten();
        for route in routes {
            for edits in ["request_headers", "response_headers"] {
                mask_headers(route.get_mut(edits).and_then(|edits| edits.get_mut("set")));
            }
        }
        let upstreams = tables.get_mut("upstream").and_then(Value::as_table_mut);
        for (_, upstream) in upstreams.into_iter().flatten() {
            mask_headers(upstream.get_mut("health").and_then(|health| health.get_mut("headers")));
        }
        tables
    }
}

/// Whether a header of this name carries a credential.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}

fn mask_headers(headers: Option<&mut Value>) {
    if let Some(headers) = headers.and_then(Value::as_table_mut) {
        mask_entries(headers, is_secret);
    }
}

fn mask_entries(table: &mut Table, is_secret: impl Fn(&str) -> bool) {
    for (_, value) in table.iter_mut().filter(|(key, _)| is_secret(key)) {
        if let Value::String(text) = value {
            *text = masked(text);
        }
    }
}

fn mask_urls(value: &mut Value, redact: &[String]) {
    match value {
        Value::String(text) => *text = mask_url(text, redact),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_urls(value, redact)),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| mask_urls(value, redact)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// A text with the secrets masked of the URLs that may stand in it.
fn mask_url(text: &str, redact: &[String]) -> String {
    let (before, query) = text.split_once('?').map_or((text, None), |(before, query)| (before, Some(query)));
    let mut shown = mask_users(before);
    let mut separator = '?';
    for piece in query.into_iter().flat_map(|query| query.split('&')) {
        shown.push(separator);
        separator = '&';
        match query::secret_at(piece, redact) {
            Some(at) => shown.extend([mask_users(&piece[..at]), masked(&piece[at..])]),
            None => shown.push_str(&mask_users(piece)),
        }
    }
    shown
}

/// A text without the users and passwords of its URLs.
fn mask_users(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//") {
        let (before, after) = rest.split_at(at + 2);
        shown.push_str(before);
        let authority = after.split(['/', '#', ' ']).next().unwrap_or_default();
        let at = authority.rfind('@').unwrap_or(0);
        shown.push_str(&masked(&after[..at]));
        rest = &after[at..];
    }
    shown + rest
}

/// A secret as it is shown. The names of environment variables are none.
fn masked(text: &str) -> String {
    pieces(text).map(|(piece, is_variable)| if is_variable { piece } else { MASK }).collect()
}

/// The same in a line of the file, where everything keeps its place: as many bytes and characters, the quotes and line
/// breaks as they are.
pub(super) fn starred(text: &str) -> String {
    let star = |c: char| match c {
        '"' | '\'' | '\n' | '\r' => c,
        c => match c.len_utf8() {
            1 => '*',
            2 => '\u{b7}',
            3 => '\u{2022}',
            _ => '\u{1f784}',
        },
    };
    let starred = |piece: &str| piece.chars().map(star).collect();
    pieces(text)
        .map(|(piece, is_variable)| if is_variable { piece.to_owned() } else { starred(piece) })
        .collect()
}

/// What a text consists of, with whether it is the `${NAME}` of an environment variable. Nothing is left out.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (at, length) = variable(rest)?;
        let (piece, is_variable) = if at == 0 { (&rest[..length], true) } else { (&rest[..at], false) };
        rest = &rest[piece.len()..];
        Some((piece, is_variable))
    })
}

/// Where the first `${NAME}` of a text begins and how long it is, or where the text ends; `None` of an empty one. `$${` is
/// no variable.
fn variable(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("${").map(|at| from + at) {
        let end = text[at..].find('}').map(|end| end + 1);
        match end {
            Some(length) if !text[..at].ends_with('$') => return Some((at, length)),
            _ => from = at + 2,
        }
    }
    (!text.is_empty()).then_some((text.len(), 0))
}
