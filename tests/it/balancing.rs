//! Which server a request gets: cookies, hashes, full servers and backups. Rule B8.

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, Head, HttpBackend, OFFER, Record, Response, Setup, get, offer_with, ok, pki::Pki,
};

/// A server that answers with this name, and takes every handshake.
async fn named(name: &'static str) -> HttpBackend {
    let answer = move |head: &Head, _: &[u8]| {
        if head.has("upgrade") { AGREED.to_owned() } else { ok(name) }
    };
    Backend::listen().await.serve_http(answer)
}

async fn three() -> [HttpBackend; 3] {
    [named("a").await, named("b").await, named("c").await]
}

/// A gate before servers that are tables.
fn before_tables(servers: &[String], upstream: &str) -> Gate {
    let toml = format!(
        "[server]\nworkers = 1\nshutdown_grace = \"10s\"\ndrain_spread = \"0s\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.main]\nservers = [{}]\n{upstream}\n\
         [[route]]\nupstream = \"main\"\n",
        servers.join(", ")
    );
    Gate::start(&toml, None)
}

async fn answer_to(gate: &Gate, path: &str, lines: &str) -> Response {
    let mut client = gate.ask(get(path, lines)).await;
    client.read_response().await
}

/// The line that shows the cookie of a Set-Cookie.
fn shown(set_cookie: &str) -> String {
    format!("Cookie: {}\r\n", set_cookie.split(';').next().unwrap())
}

#[tokio::test]
async fn a_sticky_cookie_leads_polling_and_upgrades_to_one_server() {
    let servers = three().await;
    for balance in ["least_connections", "round_robin", "random_two", "consistent_hash"] {
        let keys = format!("balance = \"{balance}\"\nsticky_cookie = \"srv\"");
        let gate = Setup::before(servers.iter().map(HttpBackend::address)).upstream(&keys).start();
        let path = format!("/{balance}");
        let first = answer_to(&gate, &path, "").await;
        let set = first.head.get("set-cookie").expect("a cookie").to_owned();
        assert!(set.starts_with("srv=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        assert!(!set.contains("127"), "{set}");
        let server =
            servers.iter().find(|server| server.seen().iter().any(|(head, _)| head.target() == path));
        let server = server.unwrap();
        for _ in 0..5 {
            let again = answer_to(&gate, "/again", &shown(&set)).await;
            assert_eq!((again.text(), again.head.get("set-cookie")), (first.text(), None));
            // Cookies pass unchanged (rule W13).
            assert_eq!(format!("Cookie: {}\r\n", server.last().get("cookie").unwrap()), shown(&set));
            let mut client = gate.ask(offer_with(&shown(&set))).await;
            let upgraded = client.read_head().await;
            assert_eq!((upgraded.status(), upgraded.get("set-cookie")), (101, None));
            assert!(server.last().has("upgrade"));
        }
    }
}

#[tokio::test]
async fn a_101_sets_the_cookie_too() {
    let servers = three().await;
    let gate =
        Setup::before(servers.iter().map(HttpBackend::address)).upstream("sticky_cookie = \"srv\"").start();
    let mut client = gate.ask(OFFER).await;
    let upgraded = client.read_head().await;
    assert_eq!(upgraded.status(), 101);
    let set = upgraded.get("set-cookie").expect("a cookie").to_owned();
    let upgraded_at = |server: &&HttpBackend| server.seen().iter().any(|(head, _)| head.has("upgrade"));
    let server = servers.iter().find(upgraded_at).unwrap();
    answer_to(&gate, "/later", &shown(&set)).await;
    assert_eq!(server.last().target(), "/later");
}

#[tokio::test]
async fn a_sticky_cookie_is_secure_over_tls() {
    let (pki, server) = (Pki::new(), named("a").await);
    let keys = "sticky_cookie = \"srv\"\nsticky_same_site = \"none\"";
    let gate = Setup::to(server.address()).tls(&pki, "").upstream(keys).start();
    let answer = answer_to(&gate, "/", "").await;
    let set = answer.head.get("set-cookie").expect("a cookie");
    assert!(set.ends_with("; Path=/; HttpOnly; Secure; SameSite=None"), "{set}");
}

#[tokio::test]
async fn a_cookie_that_says_nothing_is_set_anew() {
    let server = named("a").await;
    let gate = Setup::to(server.address()).upstream("sticky_cookie = \"srv\"").start();
    for cookie in [
        "srv=0123456789abcdef",
        "srv=127.0.0.1:1",
        "srv=",
        "srv",
        "srv=\"\"; srv=\u{fffd}; ;;=",
        "srv=ffffffffffffffffffffffffffffffffffff",
        "SRV=0123456789abcdef",
    ] {
        let answer = answer_to(&gate, "/", &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!(answer.text(), "a");
        assert!(answer.head.has("set-cookie"), "{cookie}");
    }
    let set = answer_to(&gate, "/", "").await.head.get("set-cookie").unwrap().to_owned();
    // Behind another of the same name, and among others.
    let lines = format!("Cookie: x=1; srv=theirs\r\n{}", shown(&set));
    assert!(!answer_to(&gate, "/", &lines).await.head.has("set-cookie"));
}

#[tokio::test]
async fn a_cookie_of_a_dead_server_falls_back_and_is_set_anew() {
    let (dying, living) = (Backend::listen().await, named("living").await);
    let keys = "balance = \"round_robin\"\nsticky_cookie = \"srv\"";
    let gate = Setup::before([dying.address(), living.address()]).upstream(keys).start();
    // In turn, the first of the list comes first.
    let mut client = gate.ask(get("/", "")).await;
    let mut server = dying.accept().await;
    server.read_head().await;
    server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ndying").await;
    let first = client.read_response().await;
    let dead = first.head.get("set-cookie").expect("a cookie").to_owned();
    drop((server, dying));
    let second = answer_to(&gate, "/", &shown(&dead)).await;
    assert_eq!(second.text(), "living");
    let anew = second.head.get("set-cookie").expect("a new cookie").to_owned();
    assert_ne!(anew, dead);
    let third = answer_to(&gate, "/", &shown(&anew)).await;
    assert_eq!((third.text(), third.head.get("set-cookie")), ("living", None));
}

#[tokio::test]
async fn h14_a_stale_connection_costs_nobody_the_session() {
    let backends = [Backend::listen().await, Backend::listen().await];
    let keys = "balance = \"round_robin\"\nsticky_cookie = \"srv\"";
    let gate = Setup::before(backends.iter().map(Backend::address)).upstream(keys).start();
    let mut client = gate.ask(get("/first", "")).await;
    let mut server = backends[0].accept().await;
    server.read_head().await;
    server.send(ok("first")).await;
    let set = client.read_response().await.head.get("set-cookie").expect("a cookie").to_owned();
    client.send(get("/second", &shown(&set))).await;
    // The server had closed the connection, and the request met the end on its way.
    server.read_head().await;
    drop(server);
    let mut fresh = backends[0].accept().await;
    assert_eq!(fresh.read_head().await.target(), "/second");
    fresh.send(ok("second")).await;
    let second = client.read_response().await;
    assert_eq!((second.text(), second.head.get("set-cookie")), ("second", None));
    backends[1].expect_untouched();
}

#[tokio::test]
async fn replicas_lead_a_key_and_a_cookie_to_the_same_server() {
    let servers = three().await;
    let keys = "balance = \"consistent_hash\"\nhash_key = \"query:room\"\nsticky_cookie = \"srv\"";
    let one = Setup::before(servers.iter().map(HttpBackend::address)).upstream(keys).start();
    let other = Setup::before(servers.iter().rev().map(HttpBackend::address)).upstream(keys).start();
    let mut seen = std::collections::BTreeSet::new();
    for room in 0..30 {
        let answer = answer_to(&one, &format!("/?room={room}"), "").await;
        let replica = answer_to(&other, &format!("/?x=y&room={room}"), "").await;
        assert_eq!(answer.text(), replica.text());
        let set = answer.head.get("set-cookie").expect("a cookie");
        assert_eq!(replica.head.get("set-cookie"), Some(set));
        let elsewhere = answer_to(&other, "/?room=another", &shown(set)).await;
        assert_eq!(elsewhere.text(), answer.text());
        seen.insert(answer.text().to_owned());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn every_hash_key_reaches_one_server() {
    let servers = three().await;
    for (key, path, lines) in [
        ("client_ip", "/any", ""),
        ("path", "/room/1?any", ""),
        ("header:X-Room", "/any", "X-Room: 1\r\n"),
        ("cookie:room", "/any", "Cookie: a=b; room=1\r\n"),
        ("query:room", "/any?room=1", ""),
    ] {
        let keys = format!("balance = \"consistent_hash\"\nhash_key = \"{key}\"");
        let gate = Setup::before(servers.iter().map(HttpBackend::address)).upstream(&keys).start();
        let first = answer_to(&gate, path, lines).await;
        for _ in 0..10 {
            assert_eq!(answer_to(&gate, path, lines).await.text(), first.text(), "{key}");
        }
    }
}

/// Waits until so many tunnels have ended.
async fn have_ended(gate: &Gate, tunnels: usize) {
    let is_end = |record: &&Record| record.kind == Kind::TunnelEnd;
    gate.record(|_| gate.records().iter().filter(is_end).count() == tunnels).await;
}

#[tokio::test]
async fn b8_full_servers_get_nothing_and_when_all_are_full_the_answer_is_503_at_once() {
    let (one, two, backup) = (Backend::listen().await, Backend::listen().await, Backend::listen().await);
    let table = |backend: &Backend, more: &str| {
        format!("{{ address = \"{}\", max_connections = 1{more} }}", backend.address())
    };
    let servers = [table(&one, ""), table(&backup, ", backup = true"), table(&two, "")];
    let gate = before_tables(&servers, "balance = \"round_robin\"");
    let first = gate.tunnel(&one).await;
    let _second = gate.tunnel(&two).await;
    let _third = gate.tunnel(&backup).await;
    for request in [OFFER.to_owned(), get("/", "")] {
        let refused = gate.ask(request).await.read_response().await;
        assert_eq!(refused.status(), 503);
        assert!(refused.head.has("retry-after"));
    }
    gate.record(|record| record.ending == Some("no_endpoint")).await;
    drop(first);
    have_ended(&gate, 1).await;
    gate.leases_fall_to(2).await;
    let _fourth = gate.tunnel(&one).await;
    backup.expect_untouched();
}

#[tokio::test]
async fn a_server_that_ends_its_tunnels_at_once_does_not_draw_everybody() {
    let broken = Backend::listen().await.serve(|mut peer| async move {
        if peer.next_head().await.is_some() {
            peer.send(AGREED).await;
            peer.shutdown().await;
        }
    });
    let sound = named("sound").await;
    let gate = Setup::before([broken.address(), sound.address()]).start();
    let mut tunnels = Vec::new();
    for _ in 0..60 {
        let before = broken.accepted();
        let mut client = gate.ask(OFFER).await;
        assert_eq!(client.read_head().await.status(), 101);
        if broken.accepted() == before {
            tunnels.push(client);
            continue;
        }
        client.expect_end().await;
        drop(client);
        have_ended(&gate, before + 1).await;
        gate.leases_fall_to(tunnels.len()).await;
    }
    // By open tunnels alone it would get all but the first.
    let drawn = broken.accepted();
    assert!((1..=20).contains(&drawn), "{drawn}");
    let by_server = |record: &Record| record.ended_by == Some("upstream");
    assert_eq!(gate.records().iter().filter(|record| by_server(record)).count(), drawn);
}
