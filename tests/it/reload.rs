//! Another configuration in force: what goes on, what begins, what ends, and what is refused as a whole. Routes, upstreams and
//! bounds; `relisten.rs` has listeners, `recertify.rs` certificates.

use std::{path::Path, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use wsgate::{
    config::{Config, ListenAddress, LoadError},
    ending::report,
    server::{BindError, Changes, Follower, ReloadError},
    telemetry::Kind,
};

use crate::harness::{
    Backend, Gate, HttpBackend, Peer, Setup,
    frames::{self, TEXT, client, server, server_close},
    get, offer_with, ok,
    program::Program,
};

/// Bytes go both ways.
async fn passes(client_end: &mut Peer, server_end: &mut Peer) {
    client_end.send(client(TEXT, "ping")).await;
    assert_eq!(frames::read(server_end).await.payload, b"ping");
    server_end.send(server(TEXT, "pong")).await;
    assert_eq!(frames::read(client_end).await.payload, b"pong");
}

/// The tunnel is closed as a reload does it, in order.
async fn leaves(gate: &Gate, mut client_end: Peer, mut server_end: Peer) {
    let close = frames::read(&mut client_end).await;
    assert_eq!(close.close_code(), 1012);
    client_end.send(frames::client_close(1012, "")).await;
    let goodbye = frames::read(&mut server_end).await;
    assert_eq!(goodbye.close_code(), 1001);
    server_end.send(server_close(1001, "")).await;
    client_end.expect_end().await;
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.ended_by), (Some("reload"), Some("gate")));
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.into()).collect()
}

#[tokio::test]
async fn an_unchanged_file_changes_nothing_but_the_generation() {
    let backend = Backend::listen().await;
    let setup = || {
        Setup::to(backend.address()).route("limits.max_tunnels = 2\nwebsocket = { on_reload = \"close\" }")
    };
    let gate = setup().start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    for generation in 2..5 {
        let report = gate.reload(&setup().toml());
        assert_eq!(report.generation, generation);
        let unchanged = |list: &[&str]| Changes { unchanged: names(list), ..Changes::default() };
        assert_eq!(report.listeners, unchanged(&["127.0.0.1:0"]));
        assert_eq!((report.upstreams, report.routes), (unchanged(&["main"]), unchanged(&["main"])));
        passes(&mut client, &mut server).await;
        assert_eq!((gate.places(), gate.leases()), (1, 1));
    }
}

#[tokio::test]
async fn a_file_that_says_the_same_in_another_order_with_comments_changes_no_table() {
    let backend = Backend::listen().await;
    let text = |listener: &str, route: &str| {
        format!(
            "{listener}\n[upstream.main]\nservers = [\"{}\"]\n[[route]]\n{route}\nupstream = \"main\"\n",
            backend.address()
        )
    };
    let gate =
        Gate::start(&text("[[listener]]\naddress = \"127.0.0.1:0\"", "name = \"a\"\npath = \"/\""), None);
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let listener = "# The one.\n[[listener]]\naddress   =   '127.0.0.1:0'  # any port";
    let report = gate.reload(&text(listener, "path = \"/\"\nname = \"a\""));
    assert!(report.is_unchanged(), "{report:?}");
    passes(&mut client, &mut server).await;
}

#[tokio::test]
async fn t9_tunnels_of_a_changed_route_go_by_on_reload_of_the_new_one() {
    for (before, after, ends) in
        [("close", "keep", false), ("keep", "drain", true), ("keep", "close", true), ("drain", "drain", true)]
    {
        let backend = Backend::listen().await;
        let setup = |on_reload: &str, more: &str| {
            Setup::to(backend.address())
                .route(&format!("{more}\nwebsocket = {{ on_reload = \"{on_reload}\" }}"))
        };
        let gate = setup(before, "").start();
        let (mut client, mut server) = gate.tunnel(&backend).await;
        let report = gate.reload(&setup(after, "request_headers = { set = { X-New = \"1\" } }").toml());
        assert_eq!(report.routes.changed, ["main"]);
        // What comes now comes by the new route, and stays.
        let mut next = gate.ask(crate::harness::OFFER).await;
        let mut its_server = backend.accept().await;
        assert_eq!(its_server.read_head().await.get("x-new"), Some("1"));
        its_server.send(crate::harness::AGREED).await;
        assert_eq!(next.read_head().await.status(), 101);
        if ends {
            leaves(&gate, client, server).await;
        } else {
            passes(&mut client, &mut server).await;
        }
        passes(&mut next, &mut its_server).await;
    }
}

#[tokio::test]
async fn t9_tunnels_of_a_removed_route_go_by_its_own_on_reload() {
    for (on_reload, ends) in [("keep", false), ("drain", true), ("close", true)] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address());
        let route = |name: &str, host: &str, on_reload: &str| {
            format!(
                "[[route]]\nname = \"{name}\"\nhost = \"{host}\"\nupstream = \"main\"\n\
                 websocket = {{ on_reload = \"{on_reload}\" }}\n"
            )
        };
        let other = Setup::to(backend.address()).route("host = \"other.example\"");
        let gate =
            setup.route("host = \"other.example\"").more(&route("gone", "test.example", on_reload)).start();
        let (mut client, mut server) = gate.tunnel(&backend).await;
        let report = gate.reload(&other.toml());
        assert_eq!((report.routes.removed, report.routes.unchanged), (names(&["gone"]), names(&["main"])));
        assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 404);
        if ends {
            leaves(&gate, client, server).await;
        } else {
            passes(&mut client, &mut server).await;
        }
    }
}

#[tokio::test]
async fn t9_tunnels_that_a_change_kept_hear_of_the_next_one() {
    let backend = Backend::listen().await;
    let setup = |on_reload: &str, count: &str| {
        let lines = format!("limits.max_tunnels = {count}\nwebsocket = {{ on_reload = \"{on_reload}\" }}");
        Setup::to(backend.address()).route(&lines)
    };
    let gate = setup("keep", "2").start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    gate.reload(&setup("keep", "3").toml());
    passes(&mut client, &mut server).await;
    gate.reload(&setup("close", "3").toml());
    leaves(&gate, client, server).await;
}

#[tokio::test]
async fn routes_are_known_by_name_wherever_they_stand() {
    let backend = Backend::listen().await;
    let setup = || Setup::to(backend.address()).route("websocket = { on_reload = \"close\" }");
    let gate = setup().start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let before =
        "[[route]]\nname = \"first\"\npath = \"/first\"\nrespond = { status = 200, body = \"first\" }";
    let report = gate.reload(&setup().more(before).toml());
    assert_eq!((report.routes.added, report.routes.unchanged), (names(&["first"]), names(&["main"])));
    passes(&mut client, &mut server).await;
    assert_eq!(gate.ask(get("/first", "")).await.read_response().await.body, b"first");
}

#[tokio::test]
async fn an_exchange_in_flight_ends_as_it_began() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.expect("ab").await;
    let answers = Setup::default().more("[[route]]\nrespond = { status = 403, body = \"closed\" }");
    let report = gate.reload(&answers.toml());
    assert_eq!((report.upstreams.removed, report.routes.removed), (names(&["main"]), names(&["main"])));
    client.send("cd").await;
    server.expect("cd").await;
    server.send(ok("old")).await;
    assert_eq!(client.read_response().await.body, b"old");
    // The next one on the same connection finds what is in force.
    client.send(get("/", "")).await;
    let answer = client.read_response().await;
    assert_eq!((answer.head.status(), &*answer.body), (403, &b"closed"[..]));
}

#[tokio::test]
async fn a_route_made_private_is_private_for_the_next_request_of_an_old_connection() {
    let backend = HttpBackend::start().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.head.status(), 200);
    gate.reload(&setup().route("deny = [\"127.0.0.0/8\"]").toml());
    for _ in 0..2 {
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.head.status(), 403);
    }
    gate.reload(&setup().toml());
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.head.status(), 200);
    // One whose request was on its way is judged by what holds when its head is there.
    let mut slow = gate.ask("GET / HTTP/1.1\r\nHost: a\r\n").await;
    gate.has_connections(2).await;
    gate.reload(&setup().route("deny = [\"127.0.0.0/8\"]").toml());
    slow.send("\r\n").await;
    assert_eq!(slow.read_response().await.head.status(), 403);
}

#[tokio::test]
async fn passwords_that_were_proven_are_asked_again_only_if_the_users_changed() {
    let backend = HttpBackend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let write = |name: &str, password: &str| {
        std::fs::write(&users, format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())).unwrap();
    };
    write("ali", "sesame");
    let setup = || {
        let server = backend.address();
        Setup::to(server).route(&format!("auth = {{ basic = \"{}\" }}", users.display()))
    };
    let gate = setup().start();
    let ask = || gate.ask(get("/", "Authorization: Basic YWxpOnNlc2FtZQ==\r\n"));
    assert_eq!(ask().await.read_response().await.head.status(), 200);
    assert!(gate.reload(&setup().toml()).is_unchanged());
    assert_eq!(ask().await.read_response().await.head.status(), 200);
    write("ali", "another");
    assert_eq!(gate.reload(&setup().toml()).routes.changed, ["main"]);
    assert_eq!(ask().await.read_response().await.head.status(), 401);
    write("ali", "sesame");
    // The file alone has changed: nobody has to be told.
    assert_eq!(gate.handle().refresh_files().unwrap().unwrap().routes.changed, ["main"]);
    assert_eq!(ask().await.read_response().await.head.status(), 200);
    assert_eq!(gate.handle().refresh_files().unwrap(), None);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told_as_check_tells_it() {
    let backend = Backend::listen().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let broken = setup().route("pathh = \"/\"\nmax_tunnels = 0").toml();
    let told = gate.try_reload(&broken).unwrap_err();
    let check = Config::load(&gate.file()).unwrap_err();
    assert!(matches!(check, LoadError::Problems(_)));
    assert_eq!(told.to_string(), report(&check));
    assert!(told.to_string().contains("pathh") && told.to_string().contains("max_tunnels"), "{told}");
    assert!(told.is_of_configuration());
    std::fs::remove_file(gate.file()).unwrap();
    let told = gate.handle().reload().unwrap_err();
    assert_eq!(told.to_string(), report(&Config::load(&gate.file()).unwrap_err()));
    let status = gate.handle().status();
    assert_eq!(status.generation, 1);
    assert_eq!(status.last_reload.unwrap().error, Some(told.to_string()));
    passes(&mut client, &mut server).await;
    let report = gate.reload(&setup().toml());
    assert!(report.is_unchanged() && report.generation == 2);
    assert_eq!(gate.handle().status().last_reload.unwrap().error, None);
}

/// Somebody whose address is taken.
#[derive(Debug)]
struct Refuses;

impl Follower for Refuses {
    fn prepare(self: Arc<Self>, _: &Config) -> Result<Box<dyn FnOnce() + Send>, BindError> {
        let address = ListenAddress::Inet(([127, 0, 0, 1], 9900).into());
        Err(BindError { address, source: std::io::ErrorKind::AddrInUse.into() })
    }
}

#[tokio::test]
async fn a_reload_that_fails_makes_no_certificates() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let follower = Arc::new(Refuses);
    gate.handle().follow(&follower);
    let development = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { self_signed = [\"dev.example\"] }";
    let toml = Setup::to(backend.address()).more(development).toml();
    let told = gate.try_reload(&toml).unwrap_err();
    assert!(matches!(told, ReloadError::Bind { .. }), "{told:?}");
    let left = || std::fs::read_dir(gate.file().parent().unwrap()).unwrap().count();
    assert_eq!(left(), 1, "proxy.toml");
    drop(follower);
    gate.reload(&toml);
    assert_eq!(left(), 2, "and the folder of the certificates");
}

#[tokio::test]
async fn a_key_that_needs_a_restart_refuses_the_reload_as_a_whole() {
    let backend = HttpBackend::start().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    let changed = setup().route("deny = [\"127.0.0.0/8\"]").toml().replace("workers = 1", "workers = 2");
    let told = gate.try_reload(&changed).unwrap_err().to_string();
    assert!(told.contains("workers") && told.contains("restart"), "{told}");
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 200);
}

#[tokio::test]
async fn a_process_that_drains_does_not_reload() {
    let backend = Backend::listen().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    let (client, server) = gate.tunnel(&backend).await;
    gate.drain();
    let told = gate.try_reload(&setup().toml()).unwrap_err();
    assert!(matches!(told, ReloadError::Draining) && !told.is_of_configuration());
    drop((client, server));
}

#[tokio::test]
async fn a_changed_upstream_keeps_counts_and_what_it_knows_of_its_servers() {
    let backend = Backend::listen().await;
    let other = Backend::listen().await;
    let setup = |upstream: &str| {
        let servers = format!("{{ address = \"{}\", max_connections = 1 }}", backend.address());
        let more = format!(
            "[upstream.bound]\nservers = [{servers}]\n{upstream}\n[[route]]\nname = \"bound\"\nupstream = \"bound\""
        );
        Setup::to(other.address()).route("host = \"other.example\"").more(&more)
    };
    let gate = setup("").start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let report = gate.reload(&setup("connect_timeout = \"3s\"").toml());
    assert_eq!((report.upstreams.changed, report.upstreams.unchanged), (names(&["bound"]), names(&["main"])));
    assert_eq!(gate.leases(), 1);
    // The tunnel counts against the server's `max_connections` still.
    assert_eq!(gate.ask(crate::harness::OFFER).await.read_head().await.status(), 503);
    passes(&mut client, &mut server).await;
    drop((client, server));
    gate.at_rest().await;
    let _next = gate.tunnel(&backend).await;
}

#[tokio::test]
async fn t9_tunnels_of_a_server_that_a_reload_takes_away_go_by_on_removed() {
    for (on_removed, ends) in [("keep", false), ("drain", true), ("close", true)] {
        let (gone, stays) = (Backend::listen().await, HttpBackend::start().await);
        let setup = |servers: Vec<String>, on_removed: &str| {
            Setup::before(servers).upstream(&format!("on_removed = \"{on_removed}\""))
        };
        let gate = setup(vec![gone.address()], "keep").start();
        let (mut client, mut server) = gate.tunnel(&gone).await;
        gate.reload(&setup(vec![stays.address()], on_removed).toml());
        assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 200);
        if ends {
            assert_eq!(frames::read(&mut client).await.close_code(), 1012);
            client.send(frames::client_close(1012, "")).await;
            assert_eq!(frames::read(&mut server).await.close_code(), 1001);
            server.send(server_close(1001, "")).await;
            assert_eq!(gate.tunnel_end().await.ending, Some("removed"));
        } else {
            passes(&mut client, &mut server).await;
        }
    }
}

#[tokio::test]
async fn s2_connections_are_bounded_anew_and_nobody_is_cut_for_that() {
    let backend = HttpBackend::start().await;
    let setup = |most: usize| Setup::to(backend.address()).server(&format!("max_connections = {most}"));
    let gate = setup(3).start();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = gate.ask(get("/", "")).await;
        assert_eq!(client.read_response().await.head.status(), 200);
        open.push(client);
    }
    gate.reload(&setup(1).toml());
    for client in &mut open {
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.head.status(), 200, "who was in stays in");
    }
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 503);
    open.truncate(1);
    gate.has_connections(1).await;
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 503);
    gate.reload(&setup(2).toml());
    gate.has_connections(1).await;
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 200);
    assert_eq!(gate.handle().status().connections.max, 2);
}

#[tokio::test]
async fn s2_what_each_client_has_counts_over_a_reload() {
    let backend = Backend::listen().await;
    let setup = |listener: &str, route: &str| Setup::to(backend.address()).listener(listener).route(route);
    let gate = setup("max_connections_per_ip = 1", "limits.max_tunnels = 1").start();
    let (client, server) = gate.tunnel(&backend).await;
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 429);
    gate.reload(&setup("max_connections_per_ip = 2", "limits.max_tunnels = 1").toml());
    assert_eq!(gate.ask(crate::harness::OFFER).await.read_head().await.status(), 503, "of the route");
    gate.reload(&setup("max_connections_per_ip = 2", "limits.max_tunnels = 2").toml());
    let (second, its_server) = gate.tunnel(&backend).await;
    assert_eq!(gate.ask(get("/", "")).await.read_response().await.head.status(), 429);
    // Who was refused leaves its place.
    gate.has_connections(2).await;
    assert_eq!(gate.places(), 4);
    drop((client, server, second, its_server));
    gate.at_rest().await;
}

#[tokio::test]
async fn w15_a_rate_that_a_reload_changes_gives_no_new_burst() {
    let backend = Backend::listen().await;
    let setup =
        |rate: &str| Setup::to(backend.address()).listener(&format!("handshake_rate_per_ip = \"{rate}\""));
    let gate = setup("2/h").start();
    let _open = gate.tunnel(&backend).await;
    gate.reload(&setup("2/h").listener("underscore_headers = \"pass\"").toml());
    let _second = gate.tunnel(&backend).await;
    for rate in ["2/h", "4/h", "2/m"] {
        gate.reload(&setup(rate).toml());
        assert_eq!(gate.ask(crate::harness::OFFER).await.read_head().await.status(), 429, "{rate}");
    }
}

#[tokio::test]
async fn masks_of_the_log_hold_for_the_next_request() {
    let backend = HttpBackend::start().await;
    let setup = |log: &str| Setup::to(backend.address()).more(log);
    let gate = setup("").start();
    let mut client = gate.ask(get("/?secret=one", "")).await;
    client.read_response().await;
    gate.reload(&setup("[log]\nredact = [\"secret\"]").toml());
    client.send(get("/?secret=two", "")).await;
    client.read_response().await;
    drop(client);
    gate.at_rest().await;
    let targets: Vec<_> = gate.records().into_iter().map(|record| record.target).collect();
    assert_eq!(targets.len(), 2);
    assert!(targets[0].contains("one") && !targets[1].contains("two"), "{targets:?}");
}

#[tokio::test]
async fn nothing_is_left_of_what_was_in_force_after_many_reloads() {
    let backend = HttpBackend::start().await;
    let setup = |number: usize| {
        let more = format!(
            "[upstream.u{number}]\nservers = [\"localhost:9\"]\nhealth = {{ check = \"tcp\", interval = \"1h\" }}\n\
             [[route]]\nname = \"r{number}\"\nhost = \"r{number}.example\"\nupstream = \"u{number}\"\n"
        );
        Setup::to(backend.address()).upstream(&format!("retries = {number}")).more(&more)
    };
    let gate = setup(0).start();
    let first = std::sync::Arc::downgrade(&gate.handle().snapshot());
    let mut client = gate.ask(get("/", "")).await;
    client.read_response().await;
    let count = |of: &str| std::fs::read_dir(Path::new("/proc/self").join(of)).unwrap().count();
    let mut last = first.clone();
    for number in 1..1000 {
        gate.reload(&setup(number % 7).toml());
        if number == 100 {
            last = std::sync::Arc::downgrade(&gate.handle().snapshot());
        }
    }
    assert!(first.upgrade().is_none() && last.upgrade().is_none(), "snapshots are let go");
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.head.status(), 200);
    // Other tests run in this process as well, so these are far from exact.
    assert!(count("fd") < 900 && count("task") < 900, "{} {}", count("fd"), count("task"));
    assert_eq!(gate.handle().status().generation, 1000);
}

fn hang_up(program: &Program) {
    kill_process(Pid::from_raw(i32::try_from(program.id()).unwrap()).unwrap(), Signal::HUP).unwrap();
}

#[tokio::test]
async fn a_hang_up_reloads_the_file_and_a_broken_one_is_told_as_check_prints_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = |body: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nname = \"main\"\nrespond = {{ status = 200, body = \"{body}\" }}\n"
        )
    };
    let mut program = Program::start(folder.path(), &text("one"), None).await;
    let ask = async |wanted: &str| {
        let mut client = Peer::dial(program.address).await;
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.body, wanted.as_bytes());
    };
    ask("one").await;
    let log = "[log]\nformat = \"json\"\naccess = \"access.log\"\n";
    let write = |text: &str| std::fs::write(folder.path().join("proxy.toml"), [log, text].concat()).unwrap();
    let is = |event: &serde_json::Value, word: &str| {
        event["message"].as_str().is_some_and(|message| message.starts_with(word))
    };
    write(&text("two"));
    hang_up(&program);
    let event = program.says("the reload", |event| is(event, "reloaded")).await;
    assert_eq!((event["generation"].as_u64(), event["changed"].as_str()), (Some(2), Some("route main")));
    ask("two").await;
    write("[[listener]]\naddress = 80\n");
    hang_up(&program);
    let event = program.says("the failure", |event| is(event, "reload failed")).await;
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_wsgate"))
        .arg("check")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(2));
    let printed = String::from_utf8(check.stderr).unwrap();
    let message = event["message"].as_str().unwrap();
    assert_eq!(message.split_once('\n').map(|(_, text)| text.trim()), Some(printed.trim()));
    ask("two").await;
    program.terminate();
    program.says("the drain", |event| is(event, "SIGTERM: draining")).await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn shutdown_delay_tells_first_and_serves_on_and_a_second_signal_skips_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[server]\nshutdown_delay = \"1h\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
                [[route]]\nrespond = { status = 200, body = \"here\" }\n";
    let mut program = Program::start(folder.path(), text, None).await;
    let says = |event: &serde_json::Value, word: &str| {
        event["message"].as_str().is_some_and(|message| message.starts_with(word))
    };
    program.terminate();
    program.says("that it will end", |event| says(event, "SIGTERM: not ready")).await;
    let mut client = Peer::dial(program.address).await;
    client.send(get("/", "")).await;
    let answer = client.read_response().await;
    assert_eq!((answer.head.get("connection"), &*answer.body), (None, &b"here"[..]));
    program.terminate();
    program.says("the drain", |event| says(event, "SIGTERM: draining")).await;
    client.expect_end().await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn readiness_says_no_in_the_delay_and_in_the_drain() {
    use wsgate::server::{Ending, Readiness};
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).server("shutdown_delay = \"50ms\"").grace("20s").start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    assert_eq!(gate.handle().readiness(), Readiness::Ready);
    assert_eq!(gate.handle().end(), Ending::Delayed(Duration::from_millis(50)));
    assert_ne!(gate.handle().readiness(), Readiness::Ready);
    assert_eq!(frames::read(&mut client).await.close_code(), 1012, "the delay is over");
    assert_eq!(gate.handle().readiness(), Readiness::Draining);
    client.send(frames::client_close(1012, "")).await;
    assert_eq!(frames::read(&mut server).await.close_code(), 1001);
    assert_eq!(gate.handle().end(), Ending::Cuts);
    let record = gate.record_of(Kind::TunnelEnd).await;
    assert!(record.ending.is_some());
}

#[tokio::test]
async fn w14_an_offer_of_an_old_connection_is_judged_by_the_newest_origins() {
    let backend = Backend::listen().await;
    let setup = |origins: &str| {
        Setup::to(backend.address()).route(&format!("websocket = {{ origins = [{origins}] }}"))
    };
    let gate = setup("\"*\"").start();
    let mut client = gate.client().await;
    gate.has_connections(1).await;
    gate.reload(&setup("\"https://a.example\"").toml());
    client.send(offer_with("Origin: https://b.example\r\n")).await;
    assert_eq!(client.read_head().await.status(), 403);
    backend.expect_untouched();
}
