//! The layers of the crate, read off the `use` lines: a module imports from layers below its own alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every module of the crate's root and its layer.
const LAYERS: [(&str, u8); 16] = [
    ("proto", 0),
    ("route", 0),
    ("config", 1),
    ("ending", 1),
    ("buffered", 2),
    ("tls", 2),
    ("upstream", 2),
    ("tunnel", 2),
    ("exchange", 2),
    ("auth", 2),
    ("lifecycle", 2),
    ("telemetry", 2),
    ("connection", 3),
    ("server", 4),
    ("admin", 4),
    ("demo", 4),
];

/// Imports within a layer that are meant, with the reason.
const WITHIN_A_LAYER: [(&str, &str, &str); 9] = [
    ("route", "proto", "a target is read off a request head, and an offer selects a route"),
    ("tls", "buffered", "it wraps the trait of a stream and is one"),
    ("tunnel", "buffered", "it takes two streams with their tails"),
    ("exchange", "buffered", "it takes two streams with their tails"),
    ("upstream", "buffered", "it hands out streams with their tails"),
    ("upstream", "tls", "it speaks TLS to servers"),
    ("tunnel", "lifecycle", "it listens to the drain signal"),
    ("admin", "server", "it binds as listeners do, and asks and orders a running server"),
    ("upstream", "lifecycle", "an endpoint that leaves drains its tunnels"),
];

fn layer_of(module: &str) -> u8 {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.unwrap_or_else(|| panic!("`{module}` has no layer yet: give it one here and in ARCHITECTURE.md")).1
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The module of the crate's root that this file belongs to; `None` for the root itself and the program.
fn module_of(path: &Path, root: &Path) -> Option<String> {
    let inner = path.strip_prefix(root).unwrap().components().next().unwrap();
    let name = Path::new(inner.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned();
    // The program's own rooms stand above everything.
    let is_root = ["lib", "main", "cli"].contains(&name.as_str());
    (!is_root).then_some(name)
}

/// What stands before the tests of a file: a test may look at anything.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The root modules that `crate::` paths of this text name, however they are written.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (place, _) in text.match_indices("crate::") {
        let is_path =
            !text[..place].ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '$');
        let line = text[..place].rsplit('\n').next().unwrap_or_default();
        if !is_path || line.trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[place + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            found.extend(of_list(list));
        } else {
            found.extend(name_at(rest));
        }
    }
    found
}

fn name_at(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|&next| next.is_alphanumeric() || next == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of the elements of a list in braces.
fn of_list(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut begins = true;
    for (place, next) in list.char_indices() {
        match next {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            next if begins && depth == 0 && next.is_alphabetic() => {
                names.extend(name_at(&list[place..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn a_module_imports_from_layers_below_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "the sources are elsewhere");
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for path in files {
        let Some(module) = module_of(&path, &root) else { continue };
        if path.file_stem().is_some_and(|name| name == "tests" || name == "pki")
            || path.iter().any(|part| part == "tests")
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for import in imports(without_tests(&text)) {
            if import == module || layer_of(&import) < layer_of(&module) {
                continue;
            }
            match WITHIN_A_LAYER.iter().find(|(from, to, _)| *from == module && *to == import) {
                Some(exception) => drop(used.insert(exception)),
                None => wrong.push(format!("{}: `{module}` imports `{import}`", path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let idle: Vec<_> = WITHIN_A_LAYER.iter().filter(|exception| !used.contains(exception)).collect();
    assert!(idle.is_empty(), "exceptions that nobody needs: {idle:?}");
}

#[test]
fn every_room_has_its_layer_and_every_layer_its_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: BTreeSet<String> =
        fs::read_dir(&root).unwrap().filter_map(|entry| module_of(&entry.unwrap().path(), &root)).collect();
    let layered: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(rooms, layered);
}

#[test]
fn use_lines_are_read_in_every_form() {
    let text = "use crate::{\n    buffered::{Buffered, Stream},\n    ending::Side,\n    telemetry,\n};\n\
        use crate::config;\n// use crate::demo;\nfn x() { crate::route::y(); $crate::server::z(); }\n";
    let expected = ["buffered", "config", "ending", "route", "telemetry"].map(str::to_owned);
    assert_eq!(imports(text), BTreeSet::from(expected));
}

#[test]
fn tls_is_unbuffered_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let users: Vec<_> = files
        .iter()
        .filter(|path| !path.iter().any(|part| part == "tests"))
        .filter(|path| fs::read_to_string(path).unwrap().contains("UnbufferedServerConnection"))
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    assert_eq!(users, ["tls/downstream/session.rs"], "the next rustls changes this API");
}
