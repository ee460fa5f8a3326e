//! What a reload leaves alone, and what it refuses to change.

use std::{fs, path::Path};

use super::{super::*, defaults::SMALLEST, env, folder_with_certificates, parse, parse_in};

/// A file that names one of everything that is read from elsewhere.
const FILES: &str = "
[[listener]]
address = \"0.0.0.0:443\"
tls = { cert = \"certs/server.crt\", key = \"certs/server.key\", client_ca = \"certs/authority.crt\" }
[upstream.a]
servers = [\"10.0.0.1:443\"]
tls = { ca = \"certs/chat.crt\", cert = \"certs/expired.crt\", key = \"certs/expired.key\" }
[[route]]
upstream = \"a\"
auth = { basic = \"users/good\" }
";

/// Whether listeners, upstreams, routes and users of two files are the same, each in its order.
fn same(one: &Config, other: &Config) -> [bool; 4] {
    fn all<T>(one: &[T], other: &[T], is_same: fn(&T, &T) -> bool) -> bool {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
    }
    [
        all(&one.listeners, &other.listeners, Listener::is_same),
        all(&one.upstreams, &other.upstreams, Upstream::is_same),
        all(&one.routes, &other.routes, Route::is_same),
        all(&one.routes, &other.routes, Route::has_same_users),
    ]
}

fn read(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).config
}

#[test]
fn a_file_is_the_same_as_itself_however_it_is_laid_out() {
    let laid_out = "
        [upstream]
        websocket.servers = ['192.168.1.141:80'] # the same
        [[route]]
        upstream = \"websocket\"
        [[listener]]
        address = \"0.0.0.0:80\"
    ";
    assert_eq!(same(&read(SMALLEST), &read(SMALLEST)), [true; 4]);
    assert_eq!(same(&read(SMALLEST), &read(laid_out)), [true; 4]);
}

#[test]
fn a_key_changes_the_table_that_it_stands_in_and_no_other() {
    let before = read(SMALLEST);
    for (at, key, expected) in [
        ("[upstream", "limits = { target = \"8KiB\" }", [false, true, true, true]),
        ("[upstream", "redirect_https = \"off\"", [false, true, true, true]),
        ("[[route", "retries = 1", [true, false, true, true]),
        ("[[route", "health = {}", [true, false, true, true]),
        ("[[route", "tls = {}", [true, false, true, true]),
    ] {
        let after = read(&SMALLEST.replace(at, &format!("{key}\n{at}")));
        assert_eq!(same(&before, &after), expected, "{key}");
    }
    let after = read(&format!("{SMALLEST}websocket = {{ idle_timeout = \"1h\" }}\n"));
    assert_eq!(same(&before, &after), [true, true, false, true]);
    assert_eq!(same(&before, &read(&format!("{SMALLEST}[log]\nlevel = \"warn\""))), [true; 4]);
}

/// An integer past what TOML's libraries must take is a size nevertheless.
#[test]
fn a_size_past_63_bits_is_a_change_like_another() {
    let of_size = |size: &str| read(&format!("{SMALLEST}limits = {{ request_body = {size} }}\n"));
    let large = of_size("9223372036854775808");
    assert_eq!(large.routes[0].request_body, Some(1 << 63));
    assert_eq!(same(&large, &of_size("9223372036854775808")), [true; 4]);
    assert_eq!(same(&large, &of_size("9223372036854775809")), [true, true, false, true]);
    assert_eq!(same(&large, &read(SMALLEST)), [true, true, false, true]);
}

#[test]
fn sameness_goes_by_name_and_not_by_place() {
    let named = "name = \"chat\"\n";
    let first = "[[route]]\nhost = \"a\"\nupstream = \"websocket\"\n[[route]]\n";
    let before_it = |text: &str| text.replace("[[route]]\n", first);
    let (before, after) = (format!("{SMALLEST}{named}"), before_it(&format!("{SMALLEST}{named}")));
    assert!(read(&after).routes[1].is_same(&read(&before).routes[0]));
    // Without a name of its own it is the second of its upstream by now.
    let moved = &read(&before_it(SMALLEST)).routes[1];
    assert_eq!(moved.name, "websocket#2");
    assert!(!moved.is_same(&read(SMALLEST).routes[0]));
    let renamed = SMALLEST.replace("websocket", "other");
    assert!(!read(&renamed).upstreams[0].is_same(&read(SMALLEST).upstreams[0]));
}

fn copy(folder: &Path, from: &str, to: &str) {
    fs::copy(folder.join(from), folder.join(to)).unwrap();
}

#[test]
fn files_of_other_content_make_their_owner_another() {
    let folder = folder_with_certificates();
    let folder = folder.path();
    let before = parse_in(folder, FILES).unwrap().config;
    assert_eq!(same(&before, &parse_in(folder, FILES).unwrap().config), [true; 4]);
    for (files, expected) in [
        (
            [("certs/open.crt", "certs/server.crt"), ("certs/open.key", "certs/server.key")].as_slice(),
            [false, true, true, true],
        ),
        (&[("certs/reversed.crt", "certs/authority.crt")], [false, true, true, true]),
        (&[("certs/authority.crt", "certs/chat.crt")], [true, false, true, true]),
        (
            &[("certs/future.crt", "certs/expired.crt"), ("certs/future.key", "certs/expired.key")],
            [true, false, true, true],
        ),
        (&[("users/one", "users/good")], [true, true, true, false]),
    ] {
        let kept: Vec<_> = files.iter().map(|(_, to)| fs::read(folder.join(to)).unwrap()).collect();
        for (from, to) in files {
            copy(folder, from, to);
        }
        assert_eq!(same(&before, &parse_in(folder, FILES).unwrap().config), expected, "{files:?}");
        for ((_, to), content) in files.iter().zip(kept) {
            fs::write(folder.join(to), content).unwrap();
        }
    }
}

#[test]
fn every_file_that_was_read_is_watched_once() {
    let folder = folder_with_certificates();
    let twice = FILES.replace(
        "[upstream",
        "[[listener]]\naddress = \"[::]:443\"\n\
         tls = { cert = \"certs/server.crt\", key = \"certs/server.key\" }\n[upstream",
    );
    let config = parse_in(folder.path(), &twice).unwrap().config;
    let expected = [
        "certs/authority.crt",
        "certs/chat.crt",
        "certs/expired.crt",
        "certs/expired.key",
        "certs/server.crt",
        "certs/server.key",
        "users/good",
    ];
    assert_eq!(config.watched_files(), expected.map(|file| folder.path().join(file)));
    assert!(read(SMALLEST).watched_files().is_empty());
}

/// What is left of the file behind the values is enough to read it again.
#[test]
fn what_was_loaded_can_be_read_again() {
    let folder = folder_with_certificates();
    let loaded = parse_in(folder.path(), FILES).unwrap();
    copy(folder.path(), "users/one", "users/good");
    let again = Config::parse(&loaded.source, &env).unwrap().config;
    assert_eq!(same(&loaded.config, &again), [true, true, true, false]);
}

/// What a reload of the first file with the second says.
fn reloaded(running: &str, text: &str) -> Result<Loaded, Problems> {
    let running = read(&format!("{SMALLEST}{running}"));
    let text = format!("{SMALLEST}{text}");
    let source = Source { name: "proxy.toml".to_owned(), text, folder: "/nonexistent".into() };
    Config::reload(&source, &env, &running)
}

fn messages(problems: &Problems) -> Vec<String> {
    problems.iter().map(|problem| format!("{} {}", problem.place, problem.message)).collect()
}

#[test]
fn a_reload_changes_what_may_change() {
    for (running, text) in [
        ("", ""),
        ("", "[log]\nlevel = \"warn\"\n[server]\nmax_connections = 5"),
        ("[server]\nworkers = 3", "[server]\nworkers = 3\nshutdown_delay = \"5s\""),
        ("[server]\nworkers = \"auto\"", ""),
        ("", "[server]\nworkers = \"${AUTO}\""),
        ("[server]\nupgrade_socket = \"\"", ""),
    ] {
        reloaded(running, text).unwrap_or_else(|problems| panic!("{problems}"));
    }
    // "auto" on a machine with as many CPUs is no change.
    let cpus = std::thread::available_parallelism().unwrap();
    assert!(reloaded("", &format!("[server]\nworkers = {cpus}")).is_ok());
}

/// The CPUs that the process may use can be others by now.
#[test]
fn auto_stays_what_it_was() {
    let mut running = read(SMALLEST);
    running.server.workers = running.server.workers.saturating_add(1);
    let source = parse(SMALLEST).unwrap().source;
    let reloaded = Config::reload(&source, &env, &running).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(reloaded.config.server.workers, running.server.workers);
    let text = format!("{SMALLEST}[server]\nworkers = {}\n", running.server.workers.get() + 1);
    assert!(Config::reload(&Source { text, ..source }, &env, &running).is_err());
}

#[test]
fn a_reload_that_needs_a_restart_is_refused_as_a_whole() {
    let problems = reloaded("[server]\nworkers = 3", "[server]\nworkers = 4\n").unwrap_err();
    let shown = problems.to_string();
    for part in [
        "error: `workers` cannot change while wsgate runs",
        "proxy.toml:9:11",
        "workers = 4",
        "wsgate runs with 3",
        "help: it is read at the start",
        "1 problem in proxy.toml",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let problems = reloaded("[server]\nworkers = 300", "").unwrap_err();
    assert_eq!(messages(&problems), ["proxy.toml `workers` cannot change while wsgate runs"]);
    let problems = reloaded("", "[server]\nupgrade_socket = \"/a.sock\"").unwrap_err();
    assert_eq!(messages(&problems), ["proxy.toml:9:18 `upgrade_socket` cannot change while wsgate runs"]);
    assert!(problems.to_string().contains("wsgate runs without one"), "{problems}");
}

#[test]
fn it_is_told_beside_the_other_problems_of_the_file() {
    let problems = reloaded("[server]\nworkers = 3", "[server]\nworkers = 999\nthread = 1\n").unwrap_err();
    let expected =
        ["proxy.toml:9:11 `workers` cannot change while wsgate runs", "proxy.toml:10:1 unknown key `thread`"];
    assert_eq!(messages(&problems), expected);
    // A value that is none is not compared.
    let problems = reloaded("[server]\nworkers = 3", "[server]\nworkers = 0\n").unwrap_err();
    assert_eq!(messages(&problems), ["proxy.toml:9:11 `workers` is out of bounds"]);
}

#[test]
fn s7_what_was_written_is_not_shown() {
    let text = format!("{SMALLEST}request_headers.set = {{ Authorization = \"hunter2\" }}\n");
    let config = read(&text);
    for shown in [format!("{:?}", config.tables), format!("{:?}", config.routes[0].table)] {
        assert_eq!(shown, "Written");
    }
}
