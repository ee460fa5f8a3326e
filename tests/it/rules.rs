//! Every rule that the project has given itself is named by a test.

use std::{collections::BTreeMap, fs, path::Path};

/// What is meant by a letter and its numbers. CONTRIBUTING.md says what the letters stand for.
const RULES: [(char, &[u32]); 5] = [
    ('w', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ('t', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    ('h', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    ('s', &[1, 2, 3, 4, 5, 6, 7, 8, 10]),
    ('b', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
];

/// Counts the tests of all files below `folder` by the rules that their names begin with: `w7_b2_early_bytes...` has two.
fn count(folder: &Path, counts: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count(&path, counts);
            continue;
        }
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for name in text.split("fn ").skip(1) {
            let name = name.split('(').next().unwrap_or_default();
            for rule in name.split('_').take_while(|word| is_rule(word)) {
                *counts.entry(rule.to_owned()).or_default() += 1;
            }
        }
    }
}

fn is_rule(word: &str) -> bool {
    let Some((letter, number)) = word.split_at_checked(1) else { return false };
    RULES.iter().any(|(known, _)| letter.starts_with(*known)) && number.parse::<u32>().is_ok()
}

#[test]
fn every_rule_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut counts = BTreeMap::new();
    count(&root.join("src"), &mut counts);
    count(&root.join("tests"), &mut counts);
    let expected: Vec<_> = RULES
        .iter()
        .flat_map(|(letter, numbers)| numbers.iter().map(move |number| format!("{letter}{number}")))
        .collect();
    let missing: Vec<_> = expected.iter().filter(|rule| !counts.contains_key(*rule)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
    let unknown: Vec<_> = counts.keys().filter(|rule| !expected.contains(rule)).collect();
    assert!(unknown.is_empty(), "tests name rules that are not in the list: {unknown:?}");
}
