//! README.md says of the configuration what is true.

use super::{super::keys, folder_with_certificates, parse_in};

const README: &str = include_str!("../../../README.md");
const FILE: &str = include_str!("../../../proxy.toml");

/// The first configuration that README shows.
fn ten_lines() -> &'static str {
    let (_, block) = README.split_once("```toml\n").unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn its_ten_lines_are_the_first_of_the_file_and_load() {
    let first = FILE.split_once("\n\n").unwrap().1;
    assert!(first.starts_with(ten_lines()));
    let loaded = parse_in(folder_with_certificates().path(), ten_lines()).unwrap();
    assert_eq!((loaded.config.listeners.len(), loaded.config.routes.len()), (2, 1));
    assert!(loaded.warnings.is_empty());
}

#[test]
fn its_listeners_behind_balancers_load() {
    let (_, section) = README.split_once("\n## Behind a balancer or CDN\n").unwrap();
    let section = section.split_once("\n## ").unwrap().0;
    let blocks: Vec<_> = section.split("```toml\n").skip(1).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let text = block.split_once("```").unwrap().0.to_owned() + "[[route]]\nrespond = { status = 204 }\n";
        let loaded = parse_in(folder_with_certificates().path(), &text).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

#[test]
fn its_public_listener_loads() {
    let (_, section) = README.split_once("\n## Overload\n").unwrap();
    let block = section.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let loaded = parse_in(folder_with_certificates().path(), block).unwrap();
    let listener = &loaded.config.listeners[0];
    assert!(listener.max_connections_per_ip.is_some() && listener.handshake_rate_per_ip.is_some());
    assert!(loaded.config.routes[0].max_tunnels.is_some() && loaded.warnings.is_empty());
}

/// The section that tells of the keys.
fn section() -> &'static str {
    let (_, section) = README.split_once("\n## Configuration\n").unwrap();
    section.split_once("\n## ").unwrap().0
}

#[test]
fn it_names_every_key() {
    for key in keys::ALL.iter().flat_map(|shape| shape.keys) {
        let forms = [
            format!("`{key}`"),
            format!("[{key}]"),
            format!("[{key}."),
            format!(".{key}]"),
            format!("{key} = "),
        ];
        assert!(forms.iter().any(|form| section().contains(form)), "{key} is not in README.md");
    }
}

/// What a row with a key and its default says stands in proxy.toml too, which other tests hold to the code.
#[test]
fn its_defaults_are_those_of_the_file() {
    let in_file: Vec<_> = FILE.lines().map(|line| line.split(" # ").next().unwrap().trim_end()).collect();
    let code = |cell: &'static str| cell.trim().strip_prefix('`')?.strip_suffix('`');
    let mut compared = 0;
    for line in section().lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split('|').map(code).collect();
        let pairs = cells.windows(2).filter_map(|pair| Some((pair[0]?, pair[1]?)));
        for (key, default) in pairs.filter(|(key, _)| !key.starts_with('[')) {
            let written = format!("#{key} = {default}");
            assert!(in_file.contains(&written.as_str()), "{written}");
            compared += 1;
        }
    }
    assert!(compared > 65, "{compared}");
}
