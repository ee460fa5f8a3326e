//! What the documents name is there.

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents that tell of the project.
fn documents() -> Vec<String> {
    let first = [
        "README.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "tests/corpus/README.md",
        "benches/compare/README.md",
    ];
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let more = entries.map(|name| format!("docs/{}", name.to_str().unwrap()));
    first.into_iter().map(Into::into).chain(more).collect()
}

/// Words of a document that are paths into the project.
fn paths(text: &str) -> Vec<&str> {
    let is_of_path = |next: char| next.is_ascii_alphanumeric() || "_-./".contains(next);
    let words = text.split(|next: char| !is_of_path(next)).map(|word| word.trim_end_matches(['.', '/']));
    let inside = ["src/", "tests/", "benches/", "fuzz/", "examples/", "packaging/", "docs/"];
    // A name in capitals stands for many.
    let is_one = |word: &str| word.split('/').all(|part| !part.bytes().all(|byte| byte.is_ascii_uppercase()));
    words.filter(|word| inside.iter().any(|folder| word.starts_with(folder)) && is_one(word)).collect()
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let mut named = 0;
    for document in documents() {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        for path in paths(&text) {
            assert!(root().join(path).exists(), "{document} names {path}");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}

#[test]
fn every_link_within_the_project_leads_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                root().join(&document)
            } else {
                root().join(&document).parent().unwrap().join(file)
            };
            assert!(target.exists(), "{document} links to {link}");
            assert!(section.is_empty() || has_section(&target, section), "{document} links to {link}");
            followed += 1;
        }
    }
    assert!(followed > 8, "{followed}");
}

/// Whether a heading of this file has the name that links use: lower case, hyphens for spaces, no other signs.
fn has_section(file: &Path, section: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let name = |heading: &str| -> String {
        let kept = heading.chars().filter(|next| next.is_alphanumeric() || "-_ ".contains(*next));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| name(line.trim_start_matches('#').trim()) == section)
}

/// Whether a path is of this endpoint, in which what stands in braces is anything.
fn is_of(endpoint: &str, path: &str) -> bool {
    let parts = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let (endpoint, path) = (parts(endpoint), parts(path));
    let is_same = |(own, other): (&String, &String)| own == other || own.starts_with('{');
    endpoint.len() == path.len() && endpoint.iter().zip(&path).all(is_same)
}

/// docs/admin.md names what the admin listener answers, which a test within it holds.
#[test]
fn every_endpoint_that_a_document_names_is_there() {
    let admin = fs::read_to_string(root().join("docs/admin.md")).unwrap();
    let endpoints: Vec<_> = admin.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(endpoints.len() > 15, "{endpoints:?}");
    let more = ["CHANGELOG.md", "examples/prometheus/alerts.yml"].map(str::to_owned);
    let mut named = 0;
    for document in documents().into_iter().chain(more) {
        let text = fs::read_to_string(root().join(&document)).unwrap().replace("{{ $labels.", "{");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            for rest in text.split(&format!("{method} /")).skip(1) {
                let path = rest.split([' ', '`', '\n', ',', ';', ')']).next().unwrap().trim_end_matches('.');
                // `/` alone is anybody's, and `/api/...` all of them.
                if path.is_empty() || path == "api/" {
                    continue;
                }
                let path = format!("{method} /{path}");
                assert!(endpoints.iter().any(|endpoint| is_of(endpoint, &path)), "{document} names {path}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}
