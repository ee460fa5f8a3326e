//! The executable is swapped: a new process takes the listening sockets over, and none of the clients is refused.

mod activation;
mod load;
mod notification;
mod overload;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    AGREED, Backend, HttpBackend, OFFER, PATIENCE, Peer, frames, get, program::Program, soon,
};

/// A gate that has a place of its own: a folder, an address that nobody else listens on, and an upgrade socket.
struct Site {
    folder: TempDir,
    address: SocketAddr,
    server: &'static str,
    listeners: String,
    backend: String,
}

impl Site {
    fn before(backend: impl Into<String>) -> Self {
        let (backend, server) = (backend.into(), "");
        Self {
            folder: tempfile::tempdir().unwrap(),
            address: free_address(),
            server,
            listeners: String::new(),
            backend,
        }
    }

    fn toml(&self) -> String {
        let Self { address, server, listeners, backend, .. } = self;
        format!(
            "[server]\nworkers = 1\nshutdown_grace = \"15s\"\nupgrade_socket = \"upgrade.sock\"\n{server}\n\
            [[listener]]\naddress = \"{address}\"\n{listeners}\n\
            [upstream.main]\nservers = [\"{backend}\"]\n[[route]]\nupstream = \"main\"\n"
        )
    }

    /// A tunnel through the gate: its client and its server.
    async fn open_tunnel(&self, backend: &Backend) -> (Peer, Peer) {
        let mut client = Peer::dial(self.address).await;
        client.send(OFFER).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(AGREED).await;
        assert_eq!(client.read_head().await.status(), 101);
        (client, server)
    }

    /// Puts another configuration in the place of the one that runs, with the same `[log]`.
    fn rewrite(&self, toml: &str) {
        let path = self.folder.path().join("proxy.toml");
        let before = fs::read_to_string(&path).unwrap();
        let log = before.split("[server]").next().unwrap();
        fs::write(path, [log, toml].concat()).unwrap();
    }

    fn upgrade_socket(&self) -> PathBuf {
        self.folder.path().join("upgrade.sock")
    }

    fn spawn(&self) -> Program {
        Program::spawn(self.folder.path(), &self.toml(), None)
    }

    /// Runs it, and waits until it serves and can be taken over from.
    async fn run(&self) -> Program {
        let program = self.spawn();
        program.says("that it is ready", |event| event["message"] == "ready").await;
        program
    }

    /// Puts a new process in the place of `old`, and waits until it is there.
    async fn swap(&self, old: &Program) -> Program {
        let new = self.run().await;
        let took_over = new.says("that it took over", is_take_over).await;
        assert_eq!(
            (&took_over["pid"], &took_over["sockets"]),
            (&Value::from(old.id()), &Value::from(self.sockets()))
        );
        let handed_over =
            old.says("that it handed over", |event| message(event).contains("were handed over")).await;
        assert_eq!(handed_over["pid"], Value::from(new.id()));
        new
    }

    fn sockets(&self) -> usize {
        1 + self.listeners.matches("[[listener]]").count() + self.listeners.matches("[admin]").count()
    }

    /// The gate answers on a new connection.
    async fn serves(&self) {
        let mut client = Peer::dial(self.address).await;
        client.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(client.read_response().await.text(), "hello");
    }
}

/// On a network that is nearly this test's own, so that nobody takes the port before the gate does.
fn free_address() -> SocketAddr {
    let [one, two, three] = rand::random::<[u8; 3]>();
    let ip = [127, one | 64, two, three.clamp(1, 254)];
    std::net::TcpListener::bind(SocketAddr::from((ip, 0))).unwrap().local_addr().unwrap()
}

fn message(event: &Value) -> &str {
    event["message"].as_str().unwrap_or_default()
}

fn is_take_over(event: &Value) -> bool {
    message(event) == "took over the listening sockets"
}

fn said(program: &Program, part: &str) -> bool {
    program.said().iter().any(|event| event.to_string().contains(part))
}

/// Which process answers at the admin listener.
async fn admin_pid(socket: &Path) -> u64 {
    let mut client = Peer::dial_unix(socket).await;
    client.send("GET /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let status: Value = serde_json::from_str(client.read_response().await.text()).unwrap();
    status["pid"].as_u64().unwrap()
}

/// The program ended by itself, and in order.
async fn ended(mut program: Program) {
    assert_eq!(program.ended().await, Some(0), "{:?}", program.said());
    let end = program.says("how it ended", |event| message(event) == "ended").await;
    assert_eq!((&end["cut"], &end["panicked"]), (&Value::from(0), &Value::from(0)));
}

async fn terminate(program: Program) {
    program.terminate();
    ended(program).await;
}

/// What a new process says that wants all sockets.
const READY: &str = "{\"ready\":{\"unwanted\":[]}}\n";

/// A successor that the test speaks for.
struct Taker(UnixStream);

impl Taker {
    fn connect(site: &Site) -> Self {
        let stream = UnixStream::connect(site.upgrade_socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Asks, and is answered. It gets no descriptors, since it does not look for them.
    fn takes(site: &Site) -> Self {
        let mut this = Self::connect(site);
        this.say("{\"hello\":{\"protocol\":1,\"version\":\"9.9.9\",\"pid\":7}}\n");
        assert!(this.hear().contains("sockets"));
        this
    }

    fn say(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).unwrap();
    }

    fn hear(&self) -> String {
        let mut line = String::new();
        BufReader::new(&self.0).read_line(&mut line).unwrap();
        line
    }
}

#[tokio::test]
async fn b9_the_new_process_serves_and_the_old_one_ends() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let mut program = site.run().await;
    let mode = fs::metadata(site.upgrade_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..2 {
        let mut idle = Peer::dial(site.address).await;
        idle.send(get("/", "")).await;
        assert_eq!(idle.read_response().await.status(), 200);
        let new = site.swap(&program).await;
        site.serves().await;
        // An idle connection ends without a word.
        idle.expect_end().await;
        let document = include_str!("../../docs/upgrade.md");
        let lines = document.split_once("```text\n").unwrap().1.split_once("```").unwrap().0;
        for (who, line) in lines.lines().map(|line| line.split_once(": ").unwrap()) {
            let program = if who == "old" { &program } else { &new };
            program.says(line, |event| message(event) == line).await;
        }
        ended(std::mem::replace(&mut program, new)).await;
        site.serves().await;
    }
    terminate(program).await;
    let mut left: Vec<_> =
        fs::read_dir(site.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["access.log", "proxy.toml"]);
}

#[tokio::test]
async fn b9_t9_tunnels_of_the_old_process_get_1012_and_its_exchanges_end() {
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"0s\"";
    let old = site.run().await;
    let (mut tunnel, mut server) = site.open_tunnel(&backend).await;
    let mut exchange = Peer::dial(site.address).await;
    exchange.send(get("/", "")).await;
    let mut answering = backend.accept().await;
    answering.read_head().await;
    answering.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe").await;

    let new = site.swap(&old).await;
    assert_eq!(frames::read(&mut tunnel).await.close_code(), 1012);
    tunnel.send(frames::client(frames::TEXT, "last words")).await;
    tunnel.send(frames::client_close(1012, "")).await;
    assert_eq!(frames::read(&mut server).await.payload, b"last words");
    assert_eq!(frames::read(&mut server).await.close_code(), 1001);
    answering.send("st").await;
    assert_eq!(exchange.read_response().await.body, b"best");
    exchange.expect_end().await;
    drop((server, tunnel));
    ended(old).await;
    terminate(new).await;
}

#[tokio::test]
async fn b9_a_new_process_that_cannot_run_changes_nothing() {
    let backend = HttpBackend::start().await;
    let mut site = Site::before(backend.address());
    let old = site.run().await;
    site.server = "no_such_key = 1";
    let mut wrong = site.spawn();
    assert_eq!(wrong.ended().await, Some(2), "{:?}", wrong.said());
    assert!(!said(&old, "asks for the listening sockets"), "it looks at its configuration first");
    site.server = "";
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    site.listeners = format!("[[listener]]\naddress = \"{}\"", other.local_addr().unwrap());
    let mut wrong = site.spawn();
    assert_eq!(wrong.ended().await, Some(1), "{:?}", wrong.said());
    assert!(said(&wrong, "cannot listen on 127.0.0.1"));
    old.says("that it goes on", |event| message(event).contains("going on")).await;
    site.serves().await;
    site.listeners.clear();
    let new = site.swap(&old).await;
    ended(old).await;
    terminate(new).await;
}

#[tokio::test]
async fn b9_a_new_process_that_dies_before_it_is_ready_changes_nothing() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let old = site.run().await;
    let taker = Taker::takes(&site);
    site.serves().await;
    drop(taker);
    old.says("that it goes on", |event| message(event).contains("going on")).await;
    let mut taker = Taker::takes(&site);
    taker.say(READY);
    assert_eq!(taker.hear(), "\"take\"\n");
    drop(taker);
    old.says("that it goes on", |event| event["error"].as_str() == Some("process 7 ended when it was ready"))
        .await;
    site.serves().await;
    let new = site.swap(&old).await;
    ended(old).await;
    terminate(new).await;
}

#[tokio::test]
async fn b9_the_admin_listener_is_handed_over_too() {
    let backend = HttpBackend::start().await;
    let mut site = Site::before(backend.address());
    site.listeners = "[admin]\naddress = \"unix:admin.sock\"".into();
    let socket = site.folder.path().join("admin.sock");
    let pid = async || admin_pid(&socket).await;
    let old = site.run().await;
    assert_eq!(pid().await, u64::from(old.id()));
    let new = site.swap(&old).await;
    assert_eq!(pid().await, u64::from(new.id()));
    ended(old).await;
    assert_eq!(pid().await, u64::from(new.id()), "its file is the successor's");
    terminate(new).await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn b9_of_two_new_processes_the_second_waits_for_the_first() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let old = site.run().await;
    // Who says nothing holds nobody up.
    let _silent = Taker::connect(&site);
    let first = Taker::takes(&site);
    let second = site.spawn();
    old.says("that it is busy", |event| event["why"] == "busy").await;
    drop(first);
    second.says("that it took over", is_take_over).await;
    let third = site.swap(&second).await;
    ended(old).await;
    ended(second).await;
    site.serves().await;
    terminate(third).await;
}

#[tokio::test]
async fn b9_one_that_is_ending_already_leaves_its_addresses_to_the_new_process() {
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"0s\"";
    let old = site.run().await;
    let (mut tunnel, server) = site.open_tunnel(&backend).await;
    old.terminate();
    assert_eq!(frames::read(&mut tunnel).await.close_code(), 1012);
    let new = site.run().await;
    assert!(!said(&new, "took over"));
    let mut client = Peer::dial(site.address).await;
    client.send(get("/", "Connection: close\r\n")).await;
    let mut answering = backend.accept().await;
    answering.read_head().await;
    answering.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
    assert_eq!(client.read_response().await.text(), "hello");
    tunnel.send(frames::client_close(1012, "")).await;
    drop((tunnel, server));
    ended(old).await;
    // Its end takes nothing of the new one's away.
    assert!(site.upgrade_socket().exists());
    terminate(new).await;
}

#[tokio::test]
async fn b9_one_that_is_ending_already_hands_its_admin_listener_over() {
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"0s\"";
    site.listeners = "[admin]\naddress = \"unix:admin.sock\"".into();
    let socket = site.folder.path().join("admin.sock");
    let old = site.run().await;
    let (mut tunnel, server) = site.open_tunnel(&backend).await;
    old.terminate();
    assert_eq!(frames::read(&mut tunnel).await.close_code(), 1012);
    let new = site.run().await;
    assert_eq!(admin_pid(&socket).await, u64::from(new.id()));
    tunnel.send(frames::client_close(1012, "")).await;
    drop((tunnel, server));
    ended(old).await;
    assert_eq!(admin_pid(&socket).await, u64::from(new.id()), "its end takes nothing of the new one's away");
    assert!(site.upgrade_socket().exists());
    terminate(new).await;
    assert!(!socket.exists() && !site.upgrade_socket().exists());
}

#[tokio::test]
async fn b9_the_socket_of_a_process_that_was_killed_is_in_nobodys_way() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    drop(site.run().await);
    assert!(site.upgrade_socket().exists());
    let program = site.run().await;
    site.serves().await;
    terminate(program).await;
    assert!(!site.upgrade_socket().exists());
}

#[tokio::test]
async fn b9_what_reloads_have_added_and_removed_counts() {
    let backend = HttpBackend::start().await;
    let mut site = Site::before(backend.address());
    let old = site.run().await;
    site.listeners = format!("[[listener]]\naddress = \"{}\"", free_address());
    site.rewrite(&site.toml());
    old.hang_up();
    old.says("that it reloaded", |event| message(event).starts_with("reloaded")).await;
    let new = site.swap(&old).await;
    site.serves().await;
    ended(old).await;
    terminate(new).await;
}

/// A running process that the test speaks for. It has passed no socket, and hears that the new one is ready.
async fn elder(site: &Site) -> (Program, UnixStream, BufReader<UnixStream>) {
    let listener = UnixListener::bind(site.upgrade_socket()).unwrap();
    let new = site.spawn();
    let (stream, _) = tokio::task::spawn_blocking(move || listener.accept()).await.unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert!(line(&mut reader).contains("\"hello\""));
    (new, stream, reader)
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

const NO_SOCKETS: &[u8] = b"{\"sockets\":{\"pid\":7,\"sockets\":[],\"more\":false}}\n";

#[tokio::test]
async fn b9_one_that_is_told_no_ends_and_leaves_the_others_socket() {
    for (why, part) in [("too_late", "took too long"), ("protocol", "of a version")] {
        let site = Site::before("127.0.0.1:9");
        let (mut new, mut stream, mut reader) = elder(&site).await;
        if why == "too_late" {
            stream.write_all(NO_SOCKETS).unwrap();
            assert_eq!(line(&mut reader), READY);
        }
        stream.write_all(format!("{{\"refused\":{{\"why\":\"{why}\"}}}}\n").as_bytes()).unwrap();
        assert_eq!(new.ended().await, Some(1), "{:?}", new.said());
        assert!(said(&new, part), "{:?}", new.said());
        assert!(site.upgrade_socket().exists());
        assert_eq!(
            fs::read_dir(site.folder.path()).unwrap().count(),
            3,
            "the log, the configuration and the socket"
        );
    }
}

#[tokio::test]
async fn b9_one_that_is_told_no_has_answered_nobody() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let (mut new, mut stream, mut reader) = elder(&site).await;
    stream.write_all(NO_SOCKETS).unwrap();
    assert_eq!(line(&mut reader), READY);
    let mut client = std::net::TcpStream::connect(site.address).unwrap();
    client.write_all(get("/", "").as_bytes()).unwrap();
    stream.write_all(b"{\"refused\":{\"why\":\"too_late\"}}\n").unwrap();
    assert_eq!(new.ended().await, Some(1), "{:?}", new.said());
    let mut answer = Vec::new();
    // It may be reset.
    let _ = client.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn b9_one_whose_predecessor_dies_goes_on_alone() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let (new, mut stream, mut reader) = elder(&site).await;
    stream.write_all(NO_SOCKETS).unwrap();
    assert_eq!(line(&mut reader), READY);
    drop((stream, reader));
    new.says("that it is ready", |event| message(event) == "ready").await;
    site.serves().await;
    terminate(new).await;
}

#[tokio::test]
async fn b9_one_that_is_to_end_before_it_took_over_does_not() {
    let site = Site::before("127.0.0.1:9");
    let (mut new, mut stream, mut reader) = elder(&site).await;
    new.terminate();
    new.says("that it heard", |event| message(event).contains("as soon as the start is over")).await;
    stream.write_all(NO_SOCKETS).unwrap();
    assert_eq!(new.ended().await, Some(1), "{:?}", new.said());
    assert!(said(&new, "told to end before it took over"));
    assert_eq!(line(&mut reader), "", "it never said that it is ready");
}

#[tokio::test]
async fn b9_unix_listeners_are_handed_over_with_their_files() {
    let backend = HttpBackend::start().await;
    let mut site = Site::before(backend.address());
    let path = site.folder.path().join("gate.sock");
    site.listeners = format!("[[listener]]\naddress = \"unix:{}\"", path.display());
    let serves = async || {
        let mut client = Peer::dial_unix(&path).await;
        client.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(client.read_response().await.text(), "hello");
    };
    let old = site.run().await;
    serves().await;
    let new = site.swap(&old).await;
    serves().await;
    ended(old).await;
    serves().await;
    terminate(new).await;
    assert!(!path.exists(), "the last one removes it");
}

#[tokio::test]
async fn b9_another_user_gets_no_sockets() {
    const NOBODY: u32 = 65534;
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let old = site.run().await;
    if !geteuid().is_root() {
        // This user can't be another one. The unit tests of the hand-over hold the rule.
        return terminate(old).await;
    }
    // Even if the modes of the folder and of the file let everybody in.
    for path in [site.folder.path(), &site.upgrade_socket(), &site.folder.path().join("access.log")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut stranger =
        Program::spawn_by(site.folder.path(), &site.toml(), "", |command| _ = command.uid(NOBODY));
    assert_eq!(stranger.ended().await, Some(1), "{:?}", stranger.said());
    let noticed = old.says("who came", |event| message(event).contains("a stranger")).await;
    assert_eq!(noticed["uid"], Value::from(NOBODY));
    assert!(!said(&old, "asks for the listening sockets"));
    site.serves().await;
    terminate(old).await;
}

#[tokio::test]
async fn b9_what_stands_at_the_path_and_is_no_socket_is_left_alone() {
    let site = Site::before("127.0.0.1:9");
    fs::write(site.upgrade_socket(), "mine").unwrap();
    let mut program = site.spawn();
    assert_eq!(soon("its end", program.ended()).await, Some(1));
    assert!(said(&program, "upgrade.sock"), "{:?}", program.said());
    assert_eq!(fs::read(site.upgrade_socket()).unwrap(), b"mine");
}
