//! Whatever stands in a file: it is read without a panic, twice the same, and what is wrong with it has a place within it. Fuzz
//! targets and property tests feed this.

use std::fmt::Write as _;

use time::{OffsetDateTime, macros::datetime};

use super::{Config, Loaded, Problem, Source, keys, summary::summary_at};
use crate::proto::laws::choices::{Choices, mutate};

/// The time by which all is judged.
const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);
const FILE: &str = "proxy.toml";

const BEGINNING: &str = "[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.a]\nservers = [\"10.0.0.1:80\"]\n\
    [[route]]\nupstream = \"a\"\n";
const VALUES: [&str; 54] = [
    "\"a\"",
    "\"b\"",
    "\"*\"",
    "\"/a/*\"",
    "[\"a.example\", \"*.example\"]",
    "\"0.0.0.0:80\"",
    "\"[::1]:443\"",
    "\"unix:/a\"",
    "[\"10.0.0.1:80\", \"unix:/a\", \"dns+srv://_a._tcp.example\"]",
    "[{ address = \"a:80\", weight = 2, backup = true, max_connections = 5 }]",
    "[{ address = \"a:80\", weigth = 0 }]",
    "[\"127.0.0.2\", \"::1\"]",
    "\"off\"",
    "\"auto\"",
    "\"5s\"",
    "\"500ms\"",
    "\"99999999999h\"",
    "\"1MiB\"",
    "\"18446744073709551615KiB\"",
    "\"20/s\"",
    "\"0/h\"",
    "0",
    "1",
    "443",
    "-1",
    "9223372036854775807",
    "1e9",
    "nan",
    "0x_1",
    "true",
    "false",
    "1979-05-27T07:32:00Z",
    "[]",
    "{}",
    "[[]]",
    "{ to = \"https://a{path}\", status = 308 }",
    "{ status = 404, body = \"a\" }",
    "{ set = { X-A = \"b\", Host = \"c\" }, remove = [\"X-B\"] }",
    "{ cert = \"a.pem\", key = \"a.key\" }",
    "{ self_signed = [\"localhost\", \"127.0.0.1\"] }",
    "\"round_robin\"",
    "\"consistent_hash\"",
    "\"header:X-A\"",
    "\"websocket\"",
    "\"drain\"",
    "\"0123456789${EVEN}abcdef\"",
    "\"observe\"",
    "\"v2\"",
    "\"${EVEN}\"",
    "\"${ODD}\"",
    "\"$${EVEN}\"",
    "\"${\"",
    "'''\n\u{e9}\u{1f980}'''",
    "\"\\u0000\\r\\n\\u202e\"",
];
const SPECIAL: [&[u8]; 14] = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"'",
    b"\n",
    b"=",
    b".",
    b"#",
    b"\"\"\"",
    b"\\u",
    b"\x1b[31m",
    b"\xe2\x80\xae",
];

/// Every name with an even number of letters is set, to itself.
fn env(name: &str) -> Option<String> {
    name.len().is_multiple_of(2).then(|| name.to_owned())
}

/// Reads a text as a file.
pub fn read(text: &str) {
    let source = Source { name: FILE.to_owned(), text: text.to_owned(), folder: "/nonexistent".into() };
    let parse = || Config::parse_at(&source, &env, NOW);
    match (parse(), parse()) {
        (Ok(one), Ok(other)) => {
            assert_eq!(format!("{:?}", one.config), format!("{:?}", other.config), "read twice");
            assert_eq!(one.warnings, other.warnings);
            keep_all(&one, &other);
            one.warnings.iter().for_each(|warning| judge(warning, text));
            is_plain(&summary_at(&one.config, NOW).to_string());
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other, "read twice");
            assert!(one.iter().count() > 0, "refused for nothing");
            one.iter().for_each(|problem| judge(problem, text));
            is_plain(&one.to_string());
        }
        (one, other) => panic!("{} and {}", one.is_ok(), other.is_ok()),
    }
}

/// A reload with the same file changes nothing.
fn keep_all(one: &Loaded, other: &Loaded) {
    let (running, new) = (&one.config, &other.config);
    assert!(running.listeners.iter().zip(&new.listeners).all(|(one, other)| one.is_same(other)));
    assert!(running.upstreams.iter().zip(&new.upstreams).all(|(one, other)| one.is_same(other)));
    assert!(running.routes.iter().zip(&new.routes).all(|(one, other)| one.is_same(other)));
    assert!(running.masked() == new.masked(), "masked twice");
    assert!(Config::reload_at(&one.source, &env, NOW, running).is_ok(), "refused what is running");
}

/// A problem stands in the file: on one of its lines, and no further right than behind the last character.
fn judge(problem: &Problem, text: &str) {
    assert!(!problem.message.is_empty() && !problem.to_string().is_empty());
    is_plain(&problem.brief());
    let place = problem.place.strip_prefix(FILE).expect("the file's name");
    let Some((line, column)) = place.strip_prefix(':').and_then(|place| place.split_once(':')) else {
        assert_eq!(place, "");
        return;
    };
    let (line, column): (usize, usize) = (line.parse().expect("a line"), column.parse().expect("a column"));
    let found =
        text.split('\n').nth(line.checked_sub(1).expect("counted from 1")).expect("a line of the file");
    assert!((1..=found.chars().count() + 1).contains(&column), "{place} in {text:?}");
}

/// Nothing of a file gets to a terminal that is more than text (rule S10).
fn is_plain(shown: &str) {
    assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
}

/// Reads a file out of the tables, keys and values that there are, with mistakes here and there.
pub fn read_tables(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut text = if choices.once_in(4) { String::new() } else { BEGINNING.to_owned() };
    for _ in 0..choices.below(6) {
        let shape = choices.pick(keys::ALL);
        let name = choices.pick(&["a", "a", "b", "\"\"", "é"]);
        // Headers that are prose are those of entries of a list.
        let header = if shape.header.starts_with('[') { shape.header } else { "" };
        let _ = writeln!(text, "{}", header.replace("NAME", name));
        for _ in 0..choices.below(4) {
            let (key, value) = (choices.pick(shape.keys), choices.pick(&VALUES));
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    let mut bytes = text.into_bytes();
    mutate(&mut choices, &mut bytes, &SPECIAL);
    read(&String::from_utf8_lossy(&bytes));
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::proto::laws::replay;

    #[test]
    fn s10_what_was_found_once_keeps_the_laws() {
        replay("config_tables", read_tables);
        replay("config", |text| read(&String::from_utf8_lossy(text)));
    }

    #[test]
    fn s10_a_line_of_the_file_is_shown_without_its_control_characters() {
        read("\u{80}[[listener]]\u{9b}31m\u{7f}\u{1b}[31m\u{202e}\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn s10_any_tables_are_read_twice_the_same_with_problems_in_their_places(input in vec(any::<u8>(), 0..120)) {
            read_tables(&input);
        }
    }
}
