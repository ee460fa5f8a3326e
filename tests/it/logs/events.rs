//! docs/logs.md tells of every event that wsgate writes, and of no others.

use std::{fs, path::Path};

use super::documented::{codes, table};

/// What a call of `tracing` says.
#[derive(Debug)]
struct Call {
    level: &'static str,
    /// All that stands in its parentheses.
    arguments: String,
    /// The message, with the places of what is put in, up to the end of its first line.
    message: String,
}

/// Messages that are nothing but what is put in: what else there is of them, as it stands in the source, and must stand in the
/// document.
const PUT_IN: [(&str, &[&str]); 5] = [
    // What each reload has done.
    ("{what}", &["reloaded", "files have changed and were read again"]),
    // A reload while the process goes down.
    ("{error}", &["a process that drains does not reload"]),
    // Warnings of the configuration, which have a sentence of their own below the table.
    ("{warning}", &[]),
    // A refresh of files.
    (
        "{unusable}",
        &[
            "files have changed and cannot be used: what they said before stays",
            "certificates that cannot be used stay as they were",
        ],
    ),
    ("{}", &[]),
];

/// The sources of the program without its tests, and without the demo, which shows what it gets.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_left_out = path.file_stem().is_some_and(|name| name == "tests" || name == "demo");
        if is_left_out {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            found.push(text[..end].to_owned());
        }
    }
}

/// What stands within parentheses that are open, in parts that commas on the top level divide.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut is_string, mut is_escaped, mut begins) = (0_usize, false, false, 0);
    let mut parts = Vec::new();
    for (place, next) in text.char_indices() {
        if is_string {
            is_string = is_escaped || next != '"';
            is_escaped = !is_escaped && next == '\\';
            continue;
        }
        match next {
            '"' => is_string = true,
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                parts.push(text[begins..place].trim());
                return parts;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[begins..place].trim());
                begins = place + 1;
            }
            _ => {}
        }
    }
    panic!("no end: {text}")
}

fn calls() -> Vec<Call> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let mut calls = Vec::new();
    for source in &found {
        for level in ["error", "warn", "info"] {
            for rest in source.split(&format!("tracing::{level}!(")).skip(1) {
                let parts = arguments(rest);
                let message = parts.iter().find_map(|part| part.strip_prefix('"')?.strip_suffix('"'));
                let message = message.unwrap_or_else(|| panic!("no message: {parts:?}"));
                let message = message.split("\\n").next().unwrap_or_default().replace("\\\"", "\"");
                calls.push(Call { level, arguments: parts.join(","), message });
            }
        }
    }
    assert!(calls.len() > 50, "{}", calls.len());
    calls
}

/// Whether `message` is what becomes of this one when something is put in.
fn fits(written: &str, message: &str) -> bool {
    let mut pieces = Vec::new();
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('{') {
        pieces.push(before);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    let Some((first, between)) = pieces.split_first() else { return written == message };
    let Some(mut left) = message.strip_prefix(first) else { return false };
    for piece in between {
        let Some((_, after)) = left.split_once(piece) else { return false };
        left = after;
    }
    left.len() > rest.len() && left.ends_with(rest)
}

fn put_in(call: &Call) -> Option<&'static [&'static str]> {
    PUT_IN.into_iter().find(|(message, _)| *message == call.message).map(|(_, known)| known)
}

/// Whether it is this message that the call writes.
fn writes(call: &Call, message: &str) -> bool {
    put_in(call).map_or_else(|| fits(&call.message, message), |known| known.contains(&message))
}

#[test]
fn messages_fit_what_is_put_into_them() {
    assert!(fits("drained", "drained") && !fits("drained", "drained now"));
    assert!(fits("{signal}: draining", "SIGTERM: draining") && !fits("{signal}: draining", ": draining"));
    assert!(fits("not {a}, {until}", "not resolved, until") && !fits("not {a}, {until}", "not resolved"));
    assert_eq!(arguments("%a, b(\"),\\\"\", 1), \"m, {x}\"); x"), ["%a", "b(\"),\\\"\", 1)", "\"m, {x}\""]);
}

#[test]
fn the_events_of_the_document_are_logged_so() {
    let calls = calls();
    let rows = table("| level | message |");
    assert!(rows.len() > 50, "{}", rows.len());
    for row in rows {
        let message = codes(&row[1])[0];
        let of_row: Vec<_> =
            calls.iter().filter(|call| call.level == row[0] && writes(call, message)).collect();
        assert!(!of_row.is_empty(), "nobody logs {message} at {}", row[0]);
        for field in codes(&row[2]) {
            assert!(of_row.iter().any(|call| call.arguments.contains(field)), "{message} has no {field}");
        }
    }
}

#[test]
fn what_is_logged_stands_in_the_document() {
    let rows = table("| level | message |");
    let is_told = |level: &str, is_it: &dyn Fn(&str) -> bool| {
        rows.iter().any(|row| row[0] == level && is_it(codes(&row[1])[0]))
    };
    let mut untold = Vec::new();
    for call in calls() {
        let known = put_in(&call).unwrap_or_default();
        untold.extend(
            known
                .iter()
                .filter(|known| !is_told(call.level, &|said| said == **known))
                .map(|known| (call.level, (*known).to_owned())),
        );
        if put_in(&call).is_none() && !is_told(call.level, &|said| fits(&call.message, said)) {
            untold.push((call.level, call.message));
        }
    }
    assert!(untold.is_empty(), "docs/logs.md does not tell of {untold:#?}");
}

#[test]
fn what_is_put_in_is_what_the_source_says() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let calls = calls();
    for (message, known) in PUT_IN {
        assert!(calls.iter().any(|call| call.message == message), "nobody logs {message}");
        for known in known {
            // With what goes on in further lines, or without.
            let literals = [format!("\"{known}\""), format!("\"{known}\\n")];
            let is_written = |source: &String| literals.iter().any(|literal| source.contains(literal));
            assert!(found.iter().any(is_written), "{known}");
        }
    }
}
