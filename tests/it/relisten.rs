//! Listeners over a reload and at the beginning of a drain: no connection is lost (rule B9), wherever it stands.

use std::{net::SocketAddr, sync::Arc};

use wsgate::server::ReloadError;

use crate::harness::{
    Backend, Gate, HttpBackend, OFFER, Peer, Setup,
    frames::{self, TEXT, client, server},
    get, ok,
    pki::Pki,
    soon, unix_address,
};

/// A further listener of a gate.
fn listener(address: &str, lines: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n{lines}\n")
}

/// A port of `127.0.0.1` that nobody has.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn serves(address: SocketAddr) {
    let mut peer = Peer::dial(address).await;
    peer.send(get("/", "")).await;
    assert_eq!(peer.read_response().await.head.status(), 200);
}

async fn refuses(address: SocketAddr) {
    let error = Peer::try_dial(address).await.err().map(|error| error.kind());
    assert_eq!(error, Some(std::io::ErrorKind::ConnectionRefused));
}

/// The status of what `client` is answered, by the gate or by `backend`.
async fn answer(client: &mut Peer, backend: &Backend) -> u16 {
    tokio::select! {
        biased;
        head = client.read_head() => head.status(),
        mut server = backend.accept() => {
            server.read_head().await;
            server.send(ok("served")).await;
            client.read_head().await.status()
        }
    }
}

async fn again(client: &mut Peer) {
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.head.status(), 200);
}

#[tokio::test]
async fn b9_a_listener_comes_and_goes_and_comes_back() {
    let backend = HttpBackend::start().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    // Nobody else may take it meanwhile: it is one of an address that no other test has.
    let other: SocketAddr = format!("127.0.5.1:{}", free_port().port()).parse().unwrap();
    for round in 0..3 {
        let report = gate.reload(&setup().more(&listener(&other.to_string(), "")).toml());
        assert_eq!(report.listeners.added, [other.to_string()], "{round}");
        assert_eq!(report.listeners.unchanged, ["127.0.0.1:0"]);
        serves(other).await;
        let report = gate.reload(&setup().toml());
        assert_eq!(report.listeners.removed, [other.to_string()]);
        refuses(other).await;
        serves(gate.address()).await;
    }
}

#[tokio::test]
async fn b9_connections_of_a_removed_listener_live_on_by_the_newest_routes() {
    let backend = Backend::listen().await;
    let setup = |route: &str| Setup::to(backend.address()).route(route);
    let keeper = "[[listener]]\naddress = \"127.0.0.2:0\"\n";
    let gate = setup("").more(keeper).start();
    let old = gate.address();
    // A tunnel, one in an exchange, one that is idle, one that has begun a head, and one that said nothing yet.
    let (mut in_tunnel, mut its_server) = gate.tunnel(&backend).await;
    let mut in_exchange = gate.ask(get("/slow", "")).await;
    let mut slow = backend.accept().await;
    slow.read_head().await;
    let mut idle = gate.ask(get("/", "")).await;
    let mut reused = backend.accept().await;
    reused.read_head().await;
    reused.send(ok("one")).await;
    idle.read_response().await;
    let mut in_head = gate.ask("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let mut silent = gate.client().await;
    gate.has_connections(5).await;
    let kept = setup("deny = [\"127.0.0.0/8\"]").listen("127.0.0.2:0");
    gate.reload(&kept.toml());
    refuses(old).await;
    in_tunnel.send(client(TEXT, "x")).await;
    assert_eq!(frames::read(&mut its_server).await.payload, b"x");
    its_server.send(server(TEXT, "y")).await;
    assert_eq!(frames::read(&mut in_tunnel).await.payload, b"y");
    slow.send(ok("slow")).await;
    let answer = in_exchange.read_response().await;
    assert_eq!((&*answer.body, answer.head.get("connection")), (&b"slow"[..], None));
    in_head.send("\r\n").await;
    silent.send(get("/", "")).await;
    idle.send(get("/", "")).await;
    in_exchange.send(get("/", "")).await;
    for mut peer in [in_head, silent, idle, in_exchange] {
        let head = peer.read_response().await.head;
        assert_eq!((head.status(), head.get("connection")), (403, None), "by the newest routes");
    }
}

#[tokio::test]
async fn b9_what_waits_in_the_kernels_queue_is_served_when_a_listener_goes() {
    let backend = Backend::listen().await;
    // All permits are out, so that the thread that accepts waits for one, and the rest waits in the queue.
    let setup = || Setup::to(backend.address()).server("max_connections = 1");
    let gate = setup().more("[[listener]]\naddress = \"127.0.0.2:0\"\n").start();
    let (holder, its_server) = gate.tunnel(&backend).await;
    let mut turned_away = gate.ask(get("/", "")).await;
    assert_eq!(turned_away.read_response().await.head.status(), 503);
    let mut queued = Vec::new();
    for _ in 0..5 {
        queued.push(gate.ask(get("/", "")).await);
    }
    drop((holder, its_server));
    std::fs::write(gate.file(), setup().listen("127.0.0.2:0").toml()).unwrap();
    let handle = gate.handle().clone();
    // Beside the clients, each of which has to leave before there is a permit for the next.
    let reload = tokio::task::spawn_blocking(move || handle.reload());
    for mut peer in queued {
        let status = answer(&mut peer, &backend).await;
        assert!(status == 503 || status == 200, "{status}: an answer, and no reset");
    }
    reload.await.unwrap().unwrap();
}

#[tokio::test]
async fn b9_a_listener_goes_at_once_and_comes_back_though_all_permits_are_out() {
    let backend = Backend::listen().await;
    let other: SocketAddr = format!("127.0.5.5:{}", free_port().port()).parse().unwrap();
    let setup = || Setup::to(backend.address()).server("max_connections = 1");
    let both = || setup().more(&listener(&other.to_string(), ""));
    let gate = both().start();
    let (holder, its_server) = gate.tunnel(&backend).await;
    // It has the place for refusals for as long as it asks nothing.
    let silent = gate.client().await;
    gate.has_connections(2).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(Peer::dial(other).await);
    }
    gate.reload(&setup().toml());
    refuses(other).await;
    let report = gate.reload(&both().toml());
    assert_eq!(report.listeners.added, [other.to_string()]);
    waiting.push(Peer::dial(other).await);
    drop((holder, its_server, silent));
    for mut peer in waiting {
        peer.send(get("/", "")).await;
        let status = answer(&mut peer, &backend).await;
        assert!(status == 503 || status == 200, "{status}: an answer, and no reset");
    }
}

#[tokio::test]
async fn b9_what_waits_in_the_kernels_queue_is_served_when_a_drain_begins() {
    let backend = HttpBackend::start().await;
    for _ in 0..20 {
        let gate = Setup::to(backend.address()).start();
        let mut peers = Vec::new();
        for _ in 0..20 {
            peers.push(Peer::dial(gate.address()).await);
        }
        gate.drain();
        for mut peer in peers {
            peer.send(get("/", "")).await;
            let answer = peer.read_response().await;
            assert_eq!((answer.head.status(), answer.head.get("connection")), (200, Some("close")));
        }
    }
}

#[tokio::test]
async fn b9_a_unix_listener_that_stays_keeps_its_socket_and_one_that_goes_removes_its_file() {
    let backend = HttpBackend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let address = unix_address(folder.path());
    let setup = |lines: &str| Setup::to(backend.address()).listen(&address).listener(lines);
    let gate = setup("").start();
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(gate.path()).unwrap());
    let (path, before) = (gate.path(), inode());
    let mut idle = Peer::dial_unix(&path).await;
    again(&mut idle).await;
    let report = gate.reload(&setup("underscore_headers = \"pass\"").toml());
    assert_eq!(report.listeners.changed, std::slice::from_ref(&address));
    assert_eq!(inode(), before);
    again(&mut idle).await;
    again(&mut Peer::dial_unix(&path).await).await;
    gate.reload(&Setup::to(backend.address()).toml());
    assert!(!path.exists());
    again(&mut idle).await;
    serves(gate.address()).await;
}

#[tokio::test]
async fn b9_a_changed_listener_keeps_its_socket_and_its_connections() {
    let backend = HttpBackend::start().await;
    let setup = |lines: &str| Setup::to(backend.address()).listener(lines);
    let gate = setup("").start();
    let address = gate.address();
    let mut idle = gate.ask(get("/", "")).await;
    idle.read_response().await;
    let mut in_head = gate.ask("GET / HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\n").await;
    gate.has_connections(2).await;
    gate.reload(&setup("underscore_headers = \"pass\"\nlimits = { header_count = 20 }").toml());
    assert_eq!(gate.address(), address);
    // The next request of each is by the new keys.
    in_head.send("\r\n").await;
    assert_eq!(in_head.read_response().await.head.status(), 200);
    assert_eq!(backend.last().get("x_y"), Some("1"));
    idle.send(get("/", &"X: y\r\n".repeat(20))).await;
    assert_eq!(idle.read_response().await.head.status(), 431);
}

#[tokio::test]
async fn s5_connections_that_could_not_have_been_made_by_the_new_rules_end_politely() {
    let backend = Backend::listen().await;
    let setup = |lines: &str| Setup::to(backend.address()).upstream("keep_alive = 0").listener(lines);
    let gate = setup("").start();
    let (mut in_tunnel, mut its_server) = gate.tunnel(&backend).await;
    let mut in_exchange = gate.ask(get("/", "")).await;
    let mut busy = backend.accept().await;
    busy.read_head().await;
    let mut idle = gate.ask("GET /idle HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("")).await;
    idle.read_response().await;
    let mut offers = gate.ask("GET / HTTP/1.1\r\n").await;
    gate.has_connections(4).await;
    gate.reload(&setup("proxy_protocol = \"required\"\nproxy_protocol_from = [\"127.0.0.1\"]").toml());
    idle.expect_end().await;
    busy.send(ok("busy")).await;
    let answer = in_exchange.read_response().await;
    assert_eq!((&*answer.body, answer.head.get("connection")), (&b"busy"[..], Some("close")));
    in_exchange.expect_end().await;
    // It opens no tunnel, which would live by the old rules for hours.
    offers.send(OFFER.strip_prefix("GET / HTTP/1.1\r\n").unwrap()).await;
    assert_eq!(offers.read_response().await.head.status(), 503);
    in_tunnel.send(client(TEXT, "x")).await;
    assert_eq!(frames::read(&mut its_server).await.payload, b"x");
    // What comes now has to begin with the header.
    let mut introduced = gate.ask(["PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n", &get("/", "")].concat()).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_head().await.get("x-real-ip"), Some("192.0.2.1"));
    server.send(ok("")).await;
    assert_eq!(introduced.read_response().await.head.status(), 200);
}

#[tokio::test]
async fn a_listener_begins_to_speak_tls_and_ceases_to() {
    let backend = HttpBackend::start().await;
    let pki = Pki::new();
    let plain = || Setup::to(backend.address());
    let gate = plain().start();
    let mut idle = gate.ask(get("/", "")).await;
    idle.read_response().await;
    gate.reload(&plain().tls(&pki, "").toml());
    idle.expect_end().await;
    let mut secure = pki.client(gate.address(), "localhost", &pki.client_config()).await;
    again(&mut secure).await;
    gate.reload(&plain().toml());
    secure.expect_end().await;
    serves(gate.address()).await;
}

#[tokio::test]
async fn an_address_that_cannot_be_had_refuses_the_reload_as_a_whole() {
    let backend = HttpBackend::start().await;
    let setup = || Setup::to(backend.address());
    let gate = setup().start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let free: SocketAddr = format!("127.0.5.2:{}", free_port().port()).parse().unwrap();
    let more = listener(&free.to_string(), "") + &listener(&taken.to_string(), "");
    let holder = std::net::TcpListener::bind(taken);
    let told = gate.try_reload(&setup().route("deny = [\"127.0.0.0/8\"]").more(&more).toml());
    if let Ok(_held) = holder {
        let told = told.unwrap_err();
        assert!(matches!(told, ReloadError::Bind { .. }), "{told:?}");
        assert!(told.to_string().contains(&taken.to_string()), "{told}");
        // Neither the routes nor the address that could be had.
        refuses(free).await;
        serves(gate.address()).await;
    }
}

#[tokio::test]
async fn an_address_in_the_way_is_named() {
    let backend = HttpBackend::start().await;
    let port = free_port().port();
    let setup = |address: String| Setup::to(backend.address()).listen(&address);
    let gate = setup(format!("127.0.5.3:{port}")).start();
    let told = gate.try_reload(&setup(format!("0.0.0.0:{port}")).toml()).unwrap_err().to_string();
    assert!(told.contains(&format!("127.0.5.3:{port} is in the way")), "{told}");
    serves(gate.address()).await;
}

/// A stream of connections and requests while listeners come, go and change: each is served.
#[tokio::test]
async fn b9_nothing_is_refused_while_listeners_come_and_go_and_change() {
    let backend = HttpBackend::start().await;
    let other: SocketAddr = format!("127.0.5.4:{}", free_port().port()).parse().unwrap();
    let setup = |number: usize| {
        let setup =
            Setup::to(backend.address()).listener(&format!("limits = {{ header_count = {} }}", 50 + number));
        if number % 3 == 1 { setup.more(&listener(&other.to_string(), "")) } else { setup }
    };
    let gate = Arc::new(setup(0).start());
    let address = gate.address();
    let load = tokio::spawn(async move {
        let mut kept = Peer::dial(address).await;
        for _ in 0..150 {
            let mut peer = Peer::dial(address).await;
            again(&mut peer).await;
            again(&mut kept).await;
        }
    });
    let mut number = 0;
    while !load.is_finished() {
        number += 1;
        let gate: Arc<Gate> = Arc::clone(&gate);
        let text = setup(number).toml();
        soon("a reload", tokio::task::spawn_blocking(move || gate.reload(&text))).await.unwrap();
    }
    load.await.unwrap();
    assert!(number > 5, "{number} reloads");
}
