//! Holds the layers of `ARCHITECTURE.md`: a module imports only from those below it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules with their layers.
const LAYERS: [(&str, u8); 14] = [
    ("proto", 0),
    ("route", 0),
    ("config", 1),
    ("ending", 1),
    ("buffered", 2),
    ("tls", 2),
    ("upstream", 2),
    ("tunnel", 2),
    ("exchange", 2),
    ("lifecycle", 2),
    ("telemetry", 2),
    ("connection", 3),
    ("server", 4),
    ("demo", 4),
];

/// Who may import from whom in the same layer.
const EXCEPTIONS: [(&str, &str); 6] = [
    ("route", "proto"),
    ("tls", "buffered"),
    ("upstream", "buffered"),
    ("tunnel", "buffered"),
    ("exchange", "buffered"),
    // The drain signal.
    ("tunnel", "lifecycle"),
];

fn layer(module: &str) -> u8 {
    let known = LAYERS.iter().find(|(name, _)| *name == module);
    known.unwrap_or_else(|| panic!("`{module}` has no layer: give it one here and in ARCHITECTURE.md")).1
}

fn may_import(from: &str, to: &str) -> bool {
    from == to || layer(to) < layer(from) || EXCEPTIONS.contains(&(from, to))
}

/// The modules that a file names behind `crate::`, its tests left out.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code);
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    code.split("crate::").skip(1).flat_map(modules).collect()
}

/// The first names of what stands behind a `crate::`: of one path, or of each in a group of them.
fn modules(path: &str) -> Vec<String> {
    let name = |path: &str| {
        let end = |c: char| !c.is_ascii_lowercase() && c != '_';
        let path = path.trim_start();
        path[..path.find(end).unwrap_or(path.len())].to_owned()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut depth = 1_u32;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_go_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    files(&root, &mut sources);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in sources {
        let inside = path.strip_prefix(&root).unwrap();
        let first = Path::new(inside.components().next().unwrap().as_os_str());
        let module = first.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main", "cli", "layers"].contains(&module) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for import in imports(&text) {
            seen += 1;
            if !may_import(module, &import) {
                wrong.push(format!("{} imports from {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 80, "{seen}");
}

#[test]
fn imports_are_found_in_every_form() {
    let found = |text| imports(text).into_iter().collect::<Vec<_>>();
    let text = "use crate::{\n    proto::{head, frame::{A, B}},\n    route::X,\n};\nfn f() { crate::tls::g() }\n// crate::demo\n";
    assert_eq!(found(text), ["proto", "route", "tls"]);
    assert_eq!(found("use crate::{ending::Y, proto};\nuse crate::config;"), ["config", "ending", "proto"]);
}
