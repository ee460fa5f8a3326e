//! The proxy.toml of the repository: what it says is true, in its comments too.

use std::{fmt::Debug, path::Path};

use super::{
    super::{Config, Upstream, keys},
    defaults, difference, folder_with_certificates, parse, parse_in,
};

const FILE: &str = include_str!("../../../proxy.toml");

/// The file with each `#key = value` and `#[table]` made real. Prose has a space behind its `#`.
pub(super) fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_file_loads_with_its_certificates() {
    let folder = folder_with_certificates();
    let path = folder.path().join("proxy.toml");
    std::fs::write(&path, FILE).unwrap();
    let config = Config::load(&path).unwrap().config;
    assert_eq!((config.listeners.len(), config.upstreams.len(), config.routes.len()), (2, 1, 1));
}

#[test]
fn it_begins_with_the_ten_lines() {
    let lines =
        FILE.lines().map(|line| line.split('#').next().unwrap().trim_end()).filter(|line| !line.is_empty());
    let expected = [
        "[[listener]]",
        "address = \"0.0.0.0:443\"",
        "tls = { cert = \"certs/server.crt\", key = \"certs/server.key\" }",
        "[[listener]]",
        "address = \"0.0.0.0:80\"",
        "[upstream.websocket]",
        "servers = [\"192.168.1.141:80\"]",
        "[[route]]",
        "upstream = \"websocket\"",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

#[test]
fn its_commented_keys_load() {
    let folder = folder_with_certificates();
    let loaded = parse_in(folder.path(), &uncommented(FILE)).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["the upstream `another` is not used", "the upstream `secure` is not used"]);
}

#[test]
fn its_commented_values_are_the_defaults() {
    let folder = folder_with_certificates();
    let as_it_stands = parse_in(folder.path(), FILE).unwrap().config;
    let mut with_comments = parse_in(folder.path(), &uncommented(FILE)).unwrap().config;
    with_comments.listeners[2].address = as_it_stands.listeners[0].address.clone();
    let (another, websocket) = (&with_comments.upstreams[1], &as_it_stands.upstreams[0]);
    let another =
        Upstream { name: websocket.name.clone(), servers: websocket.servers.clone(), ..another.clone() };
    let same = |one: &dyn Debug, other: &dyn Debug| {
        assert_eq!(difference(&format!("{one:#?}"), &format!("{other:#?}")), "");
    };
    same(&as_it_stands.server, &with_comments.server);
    same(&as_it_stands.log, &with_comments.log);
    let admin = parse(&format!("{}[admin]\n", defaults::SMALLEST)).unwrap().config.admin;
    same(&admin, &with_comments.admin);
    same(&as_it_stands.listeners[0], &with_comments.listeners[2]);
    same(websocket, &another);
    let with_tables = defaults::SMALLEST.replace("[[route]]", "tls = {}\nhealth = {}\n[[route]]");
    let (secure, tables) = (&with_comments.upstreams[2], &parse(&with_tables).unwrap().config.upstreams[0]);
    same(&tables.tls, &secure.tls);
    same(&tables.health, &secure.health);
    same(&as_it_stands.routes, &with_comments.routes);
}

#[test]
fn it_names_every_key() {
    for key in keys::ALL.iter().flat_map(|shape| shape.keys) {
        let forms = [format!("{key} ="), format!("[{key}]"), format!("[{key}."), format!(".{key}]")];
        assert!(forms.iter().any(|form| FILE.contains(form)), "{key} is not in proxy.toml");
    }
}

#[test]
fn the_configuration_of_the_compose_file_is_fine() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/compose/proxy.toml");
    let loaded = Config::load(&path).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.config.upstreams[0].servers.len(), 2);
}
