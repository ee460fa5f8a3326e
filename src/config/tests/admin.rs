//! `[admin]`, and the keys of `[server]` and `[route.websocket]` for days after the first.

use std::time::Duration;

use super::{super::*, defaults::SMALLEST, folder_with_certificates, parse, parse_in, printed};

const TOKEN: &str = "0123456789abcdef";

fn with(tables: &str) -> Loaded {
    parse(&format!("{SMALLEST}{tables}\n")).unwrap_or_else(|problems| panic!("{problems}"))
}

fn admin(keys: &str) -> Admin {
    let loaded = with(&format!("[admin]\n{keys}"));
    assert_eq!(loaded.warnings, []);
    loaded.config.admin.unwrap()
}

fn warned(keys: &str) -> Vec<String> {
    with(&format!("[admin]\n{keys}")).warnings.into_iter().map(|warning| warning.message).collect()
}

#[test]
fn without_its_table_there_is_no_admin_listener() {
    assert_eq!(with("").config.admin, None);
    let address = ListenAddress::Inet("127.0.0.1:9900".parse().unwrap());
    let default = Admin { address, token: None, metrics_token: None, hosts: vec![] };
    assert_eq!(admin(""), default);
    assert_eq!(admin("token = \"\"\nmetrics_token = \"\"\nhosts = []"), default);
}

#[test]
fn keys_of_the_admin_listener() {
    let admin = admin(
        "address = \"[::]:9900\"\ntoken = \"0123456789-${SECRET}\"\nmetrics_token = \"fedcba9876543210\"\n\
         hosts = [\"Admin.Example.com\", \"192.0.2.7\", \"[2001:DB8::1]\"]",
    );
    assert_eq!(admin.address, ListenAddress::Inet("[::]:9900".parse().unwrap()));
    assert_eq!(admin.token.as_ref().map(Secret::reveal), Some("0123456789-s3cret"));
    assert_eq!(admin.metrics_token.as_ref().map(Secret::reveal), Some("fedcba9876543210"));
    assert_eq!(admin.hosts, ["admin.example.com", "192.0.2.7", "[2001:db8::1]"]);
}

#[test]
fn s8_without_a_token_it_is_for_this_machine_alone() {
    let is_fine = |address: &str, keys: &str| {
        let text = format!("{SMALLEST}[admin]\naddress = \"{address}\"\n{keys}\n");
        parse(&text).map(|_| ()).map_err(|problems| problems.iter().count())
    };
    for address in ["127.0.0.1:9900", "127.8.9.1:9900", "[::1]:9900", "unix:admin.sock"] {
        assert_eq!(is_fine(address, ""), Ok(()), "{address}");
    }
    for address in ["0.0.0.0:9900", "[::]:9900", "192.0.2.7:9900", "[2001:db8::1]:9900"] {
        assert_eq!(is_fine(address, ""), Err(1), "{address}");
        assert_eq!(is_fine(address, "token = \"\""), Err(1), "{address}");
        assert_eq!(is_fine(address, &format!("metrics_token = \"{TOKEN}\"")), Err(1), "{address}");
        assert_eq!(is_fine(address, &format!("token = \"{TOKEN}\"")), Ok(()), "{address}");
        // Of a token that could not be read nobody is told that it is missing.
        assert_eq!(is_fine(address, "token = 5"), Err(1), "{address}");
    }
}

#[test]
fn tokens_that_can_be_guessed_are_warned_about() {
    let short = "`token` is shorter than 16 characters";
    assert_eq!(warned("token = \"0123456789abcde\""), [short]);
    assert_eq!(warned(&format!("token = \"{TOKEN}\"")), [] as [&str; 0]);
    let short = "`metrics_token` is shorter than 16 characters";
    assert_eq!(warned(&format!("token = \"{TOKEN}\"\nmetrics_token = \"0\"")), [short]);
    let equal = "`metrics_token` is the same as `token`";
    assert_eq!(warned(&format!("token = \"{TOKEN}\"\nmetrics_token = \"{TOKEN}\"")), [equal]);
}

/// A line of the file that is shown has the place of the secret, and not the secret.
#[test]
fn s7_no_problem_shows_a_secret_of_the_file() {
    let folder = folder_with_certificates();
    for keys in [
        "[admin]\ntoken = \"hunter2\"",
        "[admin]\ntoken = \"hunter2 hunter2\"",
        "[admin]\ntoken = \"\"\"\nhunter2 \"\"\"",
        "[admin]\ntoken = [\"hunter2\"]",
        "[admin]\naddress = \"0.0.0.0:80\"\ntoken = \"hunter2\"\nhosts = [\"*\"]",
        "[admin]\ntokne = \"hunter2\"",
        "[admin]\npassword = \"hunter2\"",
        "[route.request_headers]\nset = { Authorization = \"hunter2\\n\" }",
        "[route.response_headers]\nset = { Set-Cookie = \"hunter2 {zzz}\" }",
        "[upstream.a]\nservers = [\"10.0.0.1:80\"]\nhealth.headers = { X-Api-Key = \"hunter2\\u0007\" }",
    ] {
        let shown = printed(folder.path(), &format!("{SMALLEST}{keys}\n"));
        assert!(shown.contains("proxy.toml:") && !shown.contains("hunter2"), "{shown}");
    }
    let shown = printed(folder.path(), &format!("{SMALLEST}[admin]\ntoken = 12345\n"));
    assert!(shown.contains("*****") && !shown.contains("12345"), "{shown}");
    let debug = format!("{:?}", with(&format!("[admin]\ntoken = \"{TOKEN}\"")).config);
    assert!(debug.contains("Admin") && !debug.contains(TOKEN), "{debug}");
}

#[test]
fn a_delay_is_off_at_zero_and_warned_about_past_five_minutes() {
    let delay = |value: &str| {
        let loaded = with(&format!("[server]\nshutdown_delay = \"{value}\""));
        (loaded.config.server.shutdown_delay, loaded.warnings.len())
    };
    assert_eq!(with("").config.server.shutdown_delay, Duration::ZERO);
    assert_eq!(delay("off"), (Duration::ZERO, 0));
    assert_eq!(delay("0s"), (Duration::ZERO, 0));
    assert_eq!(delay("5m"), (Duration::from_secs(300), 0));
    assert_eq!(delay("300001ms"), (Duration::from_millis(300_001), 1));
}

#[test]
fn the_upgrade_socket_is_a_path_of_the_files_folder() {
    let folder = folder_with_certificates();
    let socket = |value: &str| {
        let text = format!("{SMALLEST}[server]\nupgrade_socket = \"{value}\"\n");
        parse_in(folder.path(), &text).unwrap().config.server.upgrade_socket
    };
    assert_eq!(socket(""), None);
    assert_eq!(socket("upgrade.sock"), Some(folder.path().join("upgrade.sock")));
    assert_eq!(socket("./certs/./a.sock"), Some(folder.path().join("certs/a.sock")));
}

#[test]
fn every_word_of_on_reload() {
    for (word, meant) in [("keep", OnRemoved::Keep), ("drain", OnRemoved::Drain), ("close", OnRemoved::Close)]
    {
        let loaded = with(&format!("websocket = {{ on_reload = \"{word}\" }}"));
        assert_eq!(loaded.config.routes[0].websocket.on_reload, meant);
        assert_eq!(loaded.warnings, []);
    }
}
