//! The admin listener of a real gate, and the commands that ask it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use wsgate::config::{Config, ListenAddress};

use super::harness::{
    Backend, Gate, HttpBackend, OFFER, Peer, Response, Setup, frames, get, pki::Pki, program::Program, soon,
};

const TOKEN: &str = "a-token-that-is-long-enough";

fn admin_table() -> String {
    format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n")
}

fn admin_of(gate: &Gate) -> SocketAddr {
    match gate.admin() {
        Some(ListenAddress::Inet(address)) => address,
        other => panic!("no admin listener on TCP: {other:?}"),
    }
}

/// Asks with the token.
async fn ask(address: SocketAddr, line: &str, body: &str) -> Response {
    let mut client = Peer::dial(address).await;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    client
        .send(format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n{length}\r\n{body}"
        ))
        .await;
    client.read_response().await
}

/// The JSON of an answer with 200.
async fn told(gate: &Gate, line: &str, body: &str) -> Value {
    let answer = ask(admin_of(gate), line, body).await;
    assert_eq!(answer.status(), 200, "{line}: {}", answer.text());
    serde_json::from_str(answer.text()).unwrap()
}

#[tokio::test]
async fn the_api_tells_of_the_gate() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    client.send(frames::client(1, "hello")).await;
    frames::read(&mut server).await;

    let status = told(&gate, "GET /api/status", "").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["readiness"], &status["generation"]), (&json!("ready"), &json!(1)));
    assert_eq!((&status["connections"]["in_use"], &status["tunnels"]), (&json!(1), &json!(1)));

    let listeners = told(&gate, "GET /api/listeners", "").await;
    assert_eq!(listeners["listeners"][0]["address"], gate.address().to_string());

    let config = told(&gate, "GET /api/config", "").await;
    assert_eq!(config["config"]["admin"]["token"], "***");
    assert_eq!(config["config"]["upstream"]["main"]["servers"][0], backend.address());
    assert_eq!(config["file"], gate.file().display().to_string());

    let upstream = told(&gate, "GET /api/upstreams/main", "").await;
    let endpoint = &upstream["endpoints"][0];
    assert_eq!((&endpoint["name"], &endpoint["state"]), (&json!(backend.address()), &json!("in")));
    assert_eq!((&endpoint["open"], &endpoint["counts"]["connect"]["count"]), (&json!(1), &json!(1)));

    let page = told(&gate, "GET /api/tunnels", "").await;
    let tunnel = &page["tunnels"][0];
    assert_eq!((&page["total"], page.get("next")), (&json!(1), None));
    assert_eq!((&tunnel["route"], &tunnel["endpoint"]), (&json!("main"), &json!(backend.address())));
    assert_eq!((&tunnel["from_client"]["text"], &tunnel["from_client"]["messages"]), (&json!(1), &json!(1)));
    let one = told(&gate, &format!("GET /api/tunnels/{}", tunnel["id"]), "").await;
    assert_eq!((&one["id"], &one["request_id"]), (&tunnel["id"], &tunnel["request_id"]));

    let metrics = ask(admin_of(&gate), "GET /metrics", "").await;
    assert!(metrics.text().contains("# EOF") && metrics.text().contains("wsgate_"), "{}", metrics.text());
}

#[tokio::test]
async fn filters_let_the_tunnels_through_that_they_name() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(gate.tunnel(&backend).await);
    }
    let total =
        async |query: &str| told(&gate, &format!("GET /api/tunnels?{query}"), "").await["total"].clone();
    for (query, count) in [
        ("route=main", 3),
        ("route=other", 0),
        ("client=127.0.0.0/8", 3),
        ("client=10.0.0.0/8", 0),
        ("min_age=1h", 0),
        ("max_age=1h", 3),
        ("min_idle=1h", 0),
        ("listener=127.0.0.1:0", 3),
        ("listener=127.0.0.1:1", 0),
        ("route=main&client=::1", 0),
    ] {
        assert_eq!(total(query).await, json!(count), "{query}");
    }
    assert_eq!(total(&format!("endpoint={}", backend.address())).await, json!(3));

    let first = told(&gate, "GET /api/tunnels?limit=2", "").await;
    assert_eq!((first["tunnels"].as_array().unwrap().len(), &first["total"]), (2, &json!(3)));
    let rest = told(&gate, &format!("GET /api/tunnels?limit=2&after={}", first["next"]), "").await;
    assert_eq!((rest["tunnels"].as_array().unwrap().len(), rest.get("next")), (1, None));
}

#[tokio::test]
async fn an_administrator_closes_tunnels() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let (mut second, mut its_server) = gate.tunnel(&backend).await;
    let page = told(&gate, "GET /api/tunnels", "").await;
    let line = format!("POST /api/tunnels/{}/close", page["tunnels"][0]["id"]);

    let order = "{\"code\":4001,\"reason\":\"off with you\"}";
    assert_eq!(told(&gate, &line, order).await, json!({ "closed": 1 }));
    let close = frames::read(&mut client).await;
    assert_eq!((close.close_code(), &close.payload[2..]), (4001, &b"off with you"[..]));
    assert_eq!(ask(admin_of(&gate), &line, order).await.status(), 409);
    client.send(frames::client_close(4001, "")).await;
    assert_eq!(frames::read(&mut server).await.close_code(), 1001);
    server.send(frames::server_close(1001, "")).await;
    drop((client, server));
    assert_eq!(gate.tunnel_end().await.ending, Some("admin"));

    assert_eq!(told(&gate, "POST /api/tunnels/close", "{\"route\":\"other\"}").await, json!({ "closed": 0 }));
    assert_eq!(told(&gate, "POST /api/tunnels/close", "{\"route\":\"main\"}").await, json!({ "closed": 1 }));
    assert_eq!(frames::read(&mut second).await.close_code(), 1012);
    second.send(frames::client_close(1012, "")).await;
    assert_eq!(frames::read(&mut its_server).await.close_code(), 1001);
    its_server.send(frames::server_close(1001, "")).await;
    drop((second, its_server));
    gate.at_rest().await;
    assert_eq!(ask(admin_of(&gate), &line, "").await.status(), 404);
}

#[tokio::test]
async fn a_log_level_is_judged_as_that_of_the_file() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let before = told(&gate, "GET /api/log", "").await;
    for (level, error) in [
        (
            "infoo",
            "unknown value `infoo` of `level`; possible values: \"error\", \"warn\", \"info\", \"debug\"",
        ),
        ("infoo", "; did you mean \"info\"?; a module's own level is written like "),
        ("", "unknown value `\"\"` of `level`; "),
        ("debug,loud", "unknown value `loud` of `level`; "),
        ("wsgate=loud", "`wsgate=loud` is not a filter; "),
    ] {
        let answer = ask(admin_of(&gate), "PUT /api/log", &json!({ "level": level }).to_string()).await;
        let said: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(answer.status(), 422, "{level}: {said}");
        assert!(said["error"].as_str().unwrap().contains(error), "{level}: {said}");
    }
    assert_eq!(told(&gate, "GET /api/log", "").await, before);
}

#[tokio::test]
async fn a_drained_endpoint_gets_nothing_until_it_is_restored() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let endpoint = format!("POST /api/upstreams/main/endpoints/{}", backend.address());
    let upstream = told(&gate, &format!("{endpoint}/drain"), "{\"tunnels\":\"keep\"}").await;
    assert_eq!(upstream["endpoints"][0]["state"], "drained_by_admin");
    assert_eq!(gate.ask(get("/", "Connection: close\r\n")).await.read_response().await.status(), 503);
    let upstream = told(&gate, &format!("{endpoint}/restore"), "").await;
    assert_eq!(upstream["endpoints"][0]["state"], "in");
    assert_eq!(gate.ask(get("/", "Connection: close\r\n")).await.read_response().await.status(), 200);
}

#[tokio::test]
async fn a_reload_answers_with_what_it_did_or_what_is_wrong() {
    let backend = HttpBackend::start().await;
    let setup = || Setup::to(backend.address()).more(&admin_table());
    let gate = setup().start();
    fs::write(gate.file(), setup().route("via = \"gate\"").toml()).unwrap();
    let report = told(&gate, "POST /api/reload", "").await;
    assert_eq!((&report["generation"], &report["routes"]["changed"]), (&json!(2), &json!(["main"])));
    assert_eq!(report["upstreams"]["unchanged"], json!(["main"]));

    fs::write(gate.file(), setup().route("vai = \"gate\"").toml()).unwrap();
    let answer = ask(admin_of(&gate), "POST /api/reload", "").await;
    let error: Value = serde_json::from_str(answer.text()).unwrap();
    let printed = Config::load(&gate.file()).unwrap_err().to_string();
    assert_eq!((answer.status(), error["error"].as_str().unwrap()), (422, &*printed));
    let status = told(&gate, "GET /api/status", "").await;
    assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&json!(2), &json!(false)));
}

#[tokio::test]
async fn a_reload_moves_the_admin_listener() {
    let backend = HttpBackend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let unix = format!("[admin]\naddress = \"unix:{}\"\n", path.display());
    let setup = |admin: &str| Setup::to(backend.address()).more(admin).toml();
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let before = admin_of(&gate);

    // The answer to the request that moves it still comes.
    fs::write(gate.file(), setup(&unix)).unwrap();
    assert_eq!(told(&gate, "POST /api/reload", "").await["generation"], 2);
    assert_eq!(gate.admin(), Some(ListenAddress::Unix(path.clone())));
    let mut client = Peer::dial_unix(&path).await;
    client.send("POST /api/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 200);
    soon("the listener to be gone", async {
        while Peer::try_dial(before).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // An address that can't be had is refused with all else of the file.
    let taken = gate.address();
    let refused = gate.try_reload(&setup(&format!("[admin]\naddress = \"{taken}\"\n")));
    assert!(refused.unwrap_err().to_string().contains(&taken.to_string()));
    assert_eq!(gate.admin(), Some(ListenAddress::Unix(path.clone())));

    gate.reload(&setup(""));
    assert_eq!(gate.admin(), None);
}

#[tokio::test]
async fn probes_and_status_answer_through_the_drain() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(&admin_table()).start();
    let (mut client, mut server) = gate.tunnel(&backend).await;
    let ready = ask(admin_of(&gate), "GET /readyz", "").await;
    assert_eq!((ready.status(), ready.text()), (200, "ready\n"));
    gate.drain();
    let ready = ask(admin_of(&gate), "GET /readyz", "").await;
    assert_eq!((ready.status(), ready.text()), (503, "draining\n"));
    assert_eq!(ask(admin_of(&gate), "GET /healthz", "").await.status(), 200);
    assert_eq!(told(&gate, "GET /api/status", "").await["drain"], json!({ "began_with": 1, "open": 1 }));
    assert_eq!(ask(admin_of(&gate), "POST /api/reload", "").await.status(), 409);
    assert_eq!(frames::read(&mut client).await.close_code(), 1012);
    client.send(frames::client_close(1012, "")).await;
    frames::read(&mut server).await;
    server.send(frames::server_close(1001, "")).await;
    drop((client, server));
    gate.at_rest().await;
    assert_eq!(told(&gate, "GET /api/status", "").await["drain"], json!({ "began_with": 1, "open": 0 }));
}

#[tokio::test]
async fn s7_the_api_shows_no_secret() {
    let secrets = ["hunter2-hunter2-hunter2", "metrics-hunter2-hunter2", "Bearer hunter3"];
    let admin = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\nmetrics_token = \"{}\"\n",
        secrets[1]
    );
    let backend = HttpBackend::start().await;
    let route = format!("request_headers = {{ set = {{ Authorization = \"{}\" }} }}", secrets[2]);
    let gate = Setup::to(backend.address()).more(&admin).route(&route).start();
    for path in ["/api/config", "/api/status", "/api/upstreams", "/api/listeners", "/api/tunnels"] {
        let answer = ask(admin_of(&gate), &format!("GET {path}"), "").await;
        let is_told = secrets.iter().chain([&TOKEN]).any(|secret| answer.text().contains(secret));
        assert!(answer.status() == 200 && !is_told, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn certificates_are_told_with_their_names() {
    let pki = Pki::new();
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).tls(&pki, "").more(&admin_table()).start();
    let listener = told(&gate, "GET /api/listeners", "").await["listeners"][0].clone();
    assert_eq!(
        (&listener["tls"], &listener["certificates"][0]["names"][0]),
        (&json!(true), &json!("localhost"))
    );
}

/// A program with an admin listener on a unix socket, in a folder of its own.
struct Running {
    folder: TempDir,
    program: Program,
    toml: String,
}

const LOG: &str = "[log]\nformat = \"json\"\naccess = \"access.log\"\n";

impl Running {
    async fn start(admin: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toml = format!(
            "{admin}\n[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.main]\nservers = [\"127.0.0.1:9\"]\n\
            [[route]]\nupstream = \"main\"\n"
        );
        let program = Program::start(folder.path(), &toml, None).await;
        program.says("that the admin listens", |event| event["message"] == "admin listening").await;
        Self { folder, program, toml }
    }

    fn write(&self, toml: &str) {
        fs::write(self.folder.path().join("proxy.toml"), [LOG, toml].concat()).unwrap();
    }

    /// Runs `wsgate` in the folder; its exit code, and what it printed to both.
    async fn wsgate(&self, line: &str) -> (Option<i32>, String, String) {
        let (folder, line) = (self.folder.path().to_owned(), line.to_owned());
        let run = tokio::task::spawn_blocking(move || wsgate(&folder, &line, None));
        let output = run.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn wsgate(folder: &Path, line: &str, token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsgate"));
    command.args(line.split_whitespace()).current_dir(folder).env_remove("WSGATE_ADMIN_TOKEN");
    command.envs(token.map(|token| ("WSGATE_ADMIN_TOKEN", token)));
    command.output().unwrap()
}

const UNIX: &str = "[admin]\naddress = \"unix:admin.sock\"";

#[tokio::test]
async fn status_tells_how_it_is() {
    let mut running = Running::start(UNIX).await;
    let socket = running.folder.path().join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, out, err) = running.wsgate("status").await;
    assert_eq!((code, &*err), (Some(0), ""));
    let address = running.program.address.to_string();
    let pid = running.program.id().to_string();
    for part in
        ["wsgate 0.", ", ready\n", "generation 1", "Listeners\n", &address, &pid, "main  127.0.0.1:9  in"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    let (code, out, _) = running.wsgate("status --json").await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["upstreams"][0]["name"]), (Some(0), &json!("main")));
    let (code, out, err) = running.wsgate("status --health").await;
    assert_eq!((code, &*out, &*err), (Some(0), "ready\n", ""));

    // Whatever else is wrong with the file is no matter.
    running.write(&running.toml.replace("servers", "srevers"));
    assert_eq!(running.wsgate("status --health").await.0, Some(0));
    running.write(&format!("{}\n[[listener]\n", running.toml));
    assert_eq!(running.wsgate("status").await.0, Some(0));
    running.write(&running.toml.replace("unix:admin.sock", "unix"));
    let (code, _, err) = running.wsgate("status").await;
    assert!(code == Some(2) && err.contains("proxy.toml:5:"), "{err}");
    assert_eq!(running.wsgate("status --health").await.0, Some(1));
    running.write(&running.toml.replace(UNIX, ""));
    let (code, _, err) = running.wsgate("status").await;
    assert!(code == Some(2) && err.contains("has no [admin]"), "{err}");
    // A health check has to know all the same.
    let plain = running.toml.replace(UNIX, "");
    running.write(&plain.replace("127.0.0.1:0", &address));
    assert_eq!(running.wsgate("status --health").await.0, Some(0));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    running.write(&plain.replace("127.0.0.1:0", &nobody.to_string()));
    let (code, _, err) = running.wsgate("status --health").await;
    assert!(code == Some(1) && err.contains("not ready"), "{err}");

    running.write(&running.toml);
    running.program.terminate();
    running.program.ended().await;
    assert!(!socket.exists());
    let (code, out, err) = running.wsgate("status --health").await;
    assert!(code == Some(1) && out.is_empty() && err.contains("cannot reach the admin listener"), "{err}");
}

#[tokio::test]
async fn reload_puts_the_file_in_force_or_says_what_is_wrong() {
    let running = Running::start(UNIX).await;
    running.write(&format!("{}via = \"gate\"\n", running.toml));
    let (code, out, err) = running.wsgate("reload").await;
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.contains("generation 2 is in force") && out.contains("changed main"), "{out}");

    running.write(&format!("{}vai = \"gate\"\n", running.toml));
    let (code, out, reloaded) = running.wsgate("reload").await;
    let (_, _, checked) = running.wsgate("check").await;
    assert_eq!((code, out, reloaded), (Some(2), String::new(), checked));
    let (code, out, _) = running.wsgate("status").await;
    assert!(code == Some(0) && out.contains("refused: "), "{out}");
}

#[tokio::test]
async fn orders_are_logged_once_in_plain_fields() {
    let running = Running::start(&admin_table()).await;
    let listening = running.program.says("admin", |event| event["message"] == "admin listening").await;
    let admin = listening["address"].as_str().unwrap().parse().unwrap();
    let endpoint = "POST /api/upstreams/main/endpoints/127.0.0.1:9";
    let close =
        "{\"route\":\"main\",\"client\":\"10.0.0.0/8\",\"min_age\":\"90s\",\"code\":4000,\"reason\":\"bye\"}";
    for (line, body) in [
        (&*format!("{endpoint}/drain"), "{\"tunnels\":\"close\"}"),
        (&format!("{endpoint}/restore"), ""),
        ("POST /api/tunnels/close", close),
        ("POST /api/tunnels/close", "{\"all\":true}"),
        ("PUT /api/log", "{\"level\":\"debug\"}"),
    ] {
        assert_eq!(ask(admin, line, body).await.status(), 200, "{line}");
    }
    let last = "log level set by an administrator";
    running.program.says("the last order", |event| event["message"] == last).await;
    let is_order =
        |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("an administrator"));
    let plain = |mut event: Value| {
        let fields = event.as_object_mut().unwrap();
        fields.remove("timestamp").unwrap();
        fields.remove("target").unwrap();
        event
    };
    let orders: Vec<_> = running.program.said().into_iter().filter(is_order).map(plain).collect();
    let (upstream, endpoint) = ("main", "127.0.0.1:9");
    let closed = "tunnels closed by an administrator";
    let expected = [
        json!({ "level": "WARN", "message": "an administrator took a server out", "upstream": upstream,
                "endpoint": endpoint, "tunnels": "close" }),
        json!({ "level": "INFO", "message": "an administrator brought a server back", "upstream": upstream,
                "endpoint": endpoint }),
        json!({ "level": "INFO", "message": closed, "closed": 0, "route": "main", "client": "10.0.0.0/8",
                "min_age_s": 90.0, "code": 4000, "reason": "bye" }),
        json!({ "level": "INFO", "message": closed, "closed": 0, "code": 1012,
                "reason": "closed by an administrator" }),
        json!({ "level": "INFO", "message": last, "filter": "debug" }),
    ];
    assert_eq!(orders, expected);
}

#[tokio::test]
async fn an_address_and_a_token_can_be_given() {
    let running = Running::start(&admin_table()).await;
    let listening = running.program.says("admin", |event| event["message"] == "admin listening").await;
    let address = listening["address"].as_str().unwrap().to_owned();
    let folder = running.folder.path().to_owned();
    let run = move |line: &'static str, token: Option<&'static str>| {
        let (folder, line) = (folder.clone(), format!("{line} --admin {address}"));
        tokio::task::spawn_blocking(move || wsgate(&folder, &line, token))
    };
    assert_eq!(run("status", Some(TOKEN)).await.unwrap().status.code(), Some(0));
    assert_eq!(run("reload", Some(TOKEN)).await.unwrap().status.code(), Some(0));
    assert_eq!(run("status --health", None).await.unwrap().status.code(), Some(0));
    for token in [None, Some("another-token")] {
        for line in ["status", "reload"] {
            let output = run(line, token).await.unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(1) && error.contains("`admin.token`"), "{error}");
        }
    }
    // Its port is any that was free, so the file does not tell it.
    let (code, _, err) = running.wsgate("status").await;
    assert!(code == Some(2) && err.contains("--admin ADDRESS"), "{err}");
}

#[tokio::test]
async fn s8_a_foreign_page_gets_nothing_of_a_real_gate() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more("[admin]\naddress = \"127.0.0.1:0\"\n").start();
    let address = admin_of(&gate);
    let status = async |line: &str, lines: &str| {
        let mut client = Peer::dial(address).await;
        client.send(format!("{line} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n")).await;
        client.read_response().await.status()
    };
    let host = format!("Host: {address}\r\n");
    assert_eq!(status("GET /api/status", &host).await, 200);
    assert_eq!(status("GET /api/status", "Host: attacker.example\r\n").await, 421);
    assert_eq!(status("GET /api/status", &format!("{host}Origin: http://attacker.example\r\n")).await, 403);
    assert_eq!(status("GET /api/status", &format!("{host}Sec-Fetch-Site: cross-site\r\n")).await, 403);
    assert_eq!(status("POST /api/reload", &host).await, 403);
    assert_eq!(status("GET /readyz", "Host: attacker.example\r\n").await, 200);
    // It is no listener of clients.
    let mut client = Peer::dial(address).await;
    client.send(OFFER.replace("test.example", "localhost")).await;
    assert_eq!(client.read_head().await.status(), 200);
    backend.expect_untouched();
}
