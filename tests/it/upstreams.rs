//! Pools: reuse, retries, spread, and every kind of address. Rules H14, B6, B7, B8.

use crate::harness::{Backend, Gate, Refusing, Setup, get, ok, unix_address, websocket};

/// An exchange over a connection that goes back to the pool, and the client and backend of it.
async fn pooled(gate: &Gate, backend: &Backend) -> (crate::harness::Peer, crate::harness::Peer) {
    let mut client = gate.ask(get("/first", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("first")).await;
    assert_eq!(client.read_response().await.text(), "first");
    (client, server)
}

#[tokio::test]
async fn b7_a_connection_is_reused_after_a_good_exchange_by_any_client() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (_client, mut server) = pooled(&gate, &backend).await;
    for _ in 0..3 {
        let mut other = gate.ask(get("/again", "")).await;
        assert_eq!(server.read_head().await.target(), "/again");
        server.send(ok("again")).await;
        assert_eq!(other.read_response().await.text(), "again");
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn b7_a_connection_is_not_reused_after_what_leaves_it_in_doubt() {
    for answer in [
        // Said so.
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        // HTTP/1.0 keeps nothing.
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        // Surplus bytes.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    ] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let mut client = gate.ask(get("/", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(answer).await;
        assert_eq!(client.read_response().await.text(), "ok");
        server.expect_gone().await;
        client.send(get("/next", "")).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(ok("mine")).await;
        assert_eq!(client.read_response().await.text(), "mine", "{answer}");
    }
}

#[tokio::test]
async fn h14_a_pooled_connection_with_unexpected_bytes_is_thrown_away() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client, mut server) = pooled(&gate, &backend).await;
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await;
    // The bytes are in the gate's kernel by the time that a later segment of the same host is.
    client.send(get("/next", "")).await;
    let mut fresh = backend.accept().await;
    fresh.read_head().await;
    fresh.send(ok("mine")).await;
    assert_eq!(client.read_response().await.text(), "mine");
    server.expect_gone().await;
}

#[tokio::test]
async fn h14_a_pooled_connection_that_the_server_closed_costs_not_even_a_post() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for _ in 0..5 {
        let (mut client, server) = pooled(&gate, &backend).await;
        drop(server);
        client.send(get("/", "Content-Length: 2\r\n").replacen("GET", "POST", 1) + "hi").await;
        let mut fresh = backend.accept().await;
        fresh.read_head().await;
        fresh.expect("hi").await;
        fresh.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.read_response().await.text(), "ok");
    }
}

#[tokio::test]
async fn h14_a_get_goes_again_over_a_stale_connection_and_a_post_does_not() {
    for (request, again) in [
        (get("/second", ""), true),
        (get("/second", "").replacen("GET", "DELETE", 1), true),
        (get("/second", "Content-Length: 0\r\n").replacen("GET", "POST", 1), false),
        (get("/second", "Content-Length: 2\r\n").replacen("GET", "PUT", 1) + "hi", false),
    ] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).start();
        let (mut client, mut server) = pooled(&gate, &backend).await;
        client.send(&request).await;
        // The server had closed it, and the request met the end on its way.
        server.read_head().await;
        drop(server);
        if again {
            let mut fresh = backend.accept().await;
            assert_eq!(fresh.read_head().await.target(), "/second");
            fresh.send(ok("second")).await;
            assert_eq!(client.read_response().await.text(), "second", "{request}");
        } else {
            assert_eq!(client.read_response().await.status(), 502, "{request}");
            backend.expect_untouched();
        }
    }
}

#[tokio::test]
async fn h14_a_get_goes_again_when_the_stale_connection_was_reset() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client, mut server) = pooled(&gate, &backend).await;
    client.send(get("/second", "")).await;
    server.read_head().await;
    server.reset();
    let mut fresh = backend.accept().await;
    fresh.read_head().await;
    fresh.send(ok("second")).await;
    assert_eq!(client.read_response().await.text(), "second");
    gate.record(|_| gate.records().len() == 2).await;
}

#[tokio::test]
async fn h14_an_answer_that_began_is_not_asked_for_again() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (mut client, mut server) = pooled(&gate, &backend).await;
    client.send(get("/second", "")).await;
    server.read_head().await;
    server.send("HTTP/1.1 2").await;
    server.shutdown().await;
    assert_eq!(client.read_response().await.status(), 502);
    backend.expect_untouched();
}

#[tokio::test]
async fn h14_a_fresh_connection_that_ends_is_not_tried_again() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    drop(server);
    assert_eq!(client.read_response().await.status(), 502);
    backend.expect_untouched();
}

#[tokio::test]
async fn h14_the_servers_keep_alive_timeout_shortens_the_stay() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("keep_alive_timeout = \"1h\"").start();
    let mut client = gate.ask(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    // One second, less one: it may not stay at all.
    server.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=5\r\nContent-Length: 0\r\n\r\n").await;
    client.read_response().await;
    server.expect_gone().await;
}

#[tokio::test]
async fn an_idle_connection_stays_for_keep_alive_timeout() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("keep_alive_timeout = \"200ms\"").start();
    let (_client, mut server) = pooled(&gate, &backend).await;
    server.expect_gone().await;
}

#[tokio::test]
async fn no_idle_connections_are_kept_with_keep_alive_0() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("keep_alive = 0").start();
    let (_client, mut server) = pooled(&gate, &backend).await;
    server.expect_gone().await;
}

#[tokio::test]
async fn handshakes_never_use_a_pooled_connection() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (_client, _server) = pooled(&gate, &backend).await;
    let (_client, _server) = gate.tunnel(&backend).await;
}

/// Backends that answer with their place, and their addresses.
async fn named(count: usize) -> (Vec<crate::harness::HttpBackend>, Vec<String>) {
    let mut all = Vec::new();
    for name in 0..count {
        all.push(Backend::listen().await.serve_http(move |_, _| ok(&name.to_string())));
    }
    let addresses = all.iter().map(crate::harness::HttpBackend::address).collect();
    (all, addresses)
}

async fn answers(gate: &Gate, count: usize) -> Vec<String> {
    let mut client = gate.client().await;
    let mut answers = Vec::new();
    for _ in 0..count {
        client.send(get("/", "")).await;
        answers.push(client.read_response().await.text().to_owned());
    }
    answers
}

#[tokio::test]
async fn round_robin_takes_them_in_turn() {
    let (_backends, addresses) = named(3).await;
    let gate = Setup::before(addresses).upstream("balance = \"round_robin\"").start();
    let answers = answers(&gate, 9).await;
    for name in ["0", "1", "2"] {
        assert_eq!(answers.iter().filter(|answer| *answer == name).count(), 3, "{answers:?}");
    }
    assert_ne!(answers[0], answers[1]);
}

#[tokio::test]
async fn round_robin_goes_by_weight() {
    let (_backends, addresses) = named(2).await;
    let toml = format!(
        "[server]\nworkers = 1\ndrain_spread = \"0s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [upstream.main]\nbalance = \"round_robin\"\n\
         servers = [{{ address = \"{}\", weight = 3 }}, \"{}\"]\n[[route]]\nupstream = \"main\"\n",
        addresses[0], addresses[1]
    );
    let gate = Gate::start(&toml, None);
    let answers = answers(&gate, 8).await;
    assert_eq!(answers.iter().filter(|answer| *answer == "0").count(), 6, "{answers:?}");
}

#[tokio::test]
async fn least_connections_spreads_tunnels() {
    let backends = [Backend::listen().await, Backend::listen().await, Backend::listen().await];
    let gate = Setup::before(backends.iter().map(Backend::address)).start();
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut client = gate.ask(crate::harness::OFFER).await;
        // Whichever it is that was chosen.
        let mut server = tokio::select! {
            peer = backends[0].accept() => peer,
            peer = backends[1].accept() => peer,
            peer = backends[2].accept() => peer,
        };
        server.read_head().await;
        server.send(crate::harness::AGREED).await;
        assert_eq!(client.read_head().await.status(), 101);
        open.push((client, server));
    }
    // A record follows the 101 that its client has seen.
    gate.record(|_| gate.records().len() == 6).await;
    let mut counts = std::collections::HashMap::new();
    for record in gate.records() {
        *counts.entry(record.endpoint.clone().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 2, 2], "{counts:?}");
    // The lease of a tunnel that ended is given back: the next goes there.
    let (client, mut server) = open.remove(3);
    let freed = gate.records()[3].endpoint.clone();
    // By the client: a server that ends its tunnels at once gets fewer.
    drop(client);
    server.expect_gone().await;
    drop(server);
    gate.tunnel_end().await;
    gate.leases_fall_to(5).await;
    let _client = gate.ask(crate::harness::OFFER).await;
    let next = async {
        let mut server = tokio::select! {
            peer = backends[0].accept() => peer,
            peer = backends[1].accept() => peer,
            peer = backends[2].accept() => peer,
        };
        server.read_head().await;
        server.send(crate::harness::AGREED).await;
        server
    };
    let _server = next.await;
    let opened = |record: &crate::harness::Record| {
        record.kind == wsgate::telemetry::Kind::TunnelOpen && record.endpoint == freed
    };
    let again = gate.record(|record| {
        opened(record) && gate.records().iter().filter(|record| opened(record)).count() == 3
    });
    again.await;
}

#[tokio::test]
async fn b8_a_connect_that_fails_goes_to_the_second_server() {
    let (nobody, backend) = (Refusing::new(), Backend::listen().await.serve_http(|_, _| ok("second")));
    let gate =
        Setup::before([nobody.address(), backend.address()]).upstream("balance = \"round_robin\"").start();
    let mut client = gate.client().await;
    for _ in 0..4 {
        // Nothing of it was sent, so a POST may go on too.
        client.send(get("/", "Content-Length: 2\r\n").replacen("GET", "POST", 1) + "hi").await;
        assert_eq!(client.read_response().await.text(), "second");
    }
    assert!(
        gate.records().iter().all(|record| record.endpoint.as_deref() == Some(backend.address().as_str()))
    );
}

#[tokio::test]
async fn b8_a_connect_that_times_out_goes_to_the_second_server() {
    let silent = crate::harness::Unreachable::new().await;
    let backend = Backend::listen().await;
    let gate = Setup::before([silent.address(), backend.address()])
        .upstream("balance = \"round_robin\"\nconnect_timeout = \"150ms\"")
        .start();
    for _ in 0..2 {
        let (_client, _server) = gate.tunnel(&backend).await;
    }
}

#[tokio::test]
async fn retries_0_tries_one_server_alone() {
    let nobody = Refusing::new();
    let backend = Backend::listen().await;
    let gate = Setup::before([nobody.address(), backend.address()])
        .upstream("balance = \"round_robin\"\nretries = 0")
        .start();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut client = gate.ask(get("/", "")).await;
        statuses.push(tokio::select! {
            answer = client.read_response() => answer.status(),
            mut server = backend.accept() => {
                server.read_head().await;
                server.send(ok("")).await;
                client.read_response().await.status()
            }
        });
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[tokio::test]
async fn unix_sockets_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::listen_unix(folder.path());
    let gate = Setup::to(backend.address()).listen(&unix_address(folder.path())).start();
    let path = gate.path();
    let mut client = crate::harness::Peer::dial_unix(&path).await;
    client.send(get("/", "X-Real-IP: 6.6.6.6\r\n")).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    assert!(
        !head.has("x-real-ip") && !head.has("x-forwarded-for") && !head.has("x-forwarded-port"),
        "{head:?}"
    );
    assert!(head.get("forwarded").unwrap().starts_with("for=unknown;proto=http"), "{head:?}");
    server.send(ok("over unix")).await;
    assert_eq!(client.read_response().await.text(), "over unix");
    client.send(crate::harness::OFFER).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(crate::harness::AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    client.shutdown().await;
    server.expect_end().await;
    drop((client, server));
    let record = gate.tunnel_end().await;
    assert_eq!((&*record.client, record.endpoint.as_deref()), ("unix", Some(backend.address().as_str())));
    gate.finish().await;
    assert!(!path.exists(), "the socket's file is left behind");
}

#[tokio::test]
async fn the_file_that_a_lost_process_left_of_its_unix_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix_address(folder.path());
    drop(std::os::unix::net::UnixListener::bind(address.strip_prefix("unix:").unwrap()).unwrap());
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listen(&address).start();
    let mut client = crate::harness::Peer::dial_unix(&gate.path()).await;
    client.send(get("/", "")).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(ok("anew")).await;
    assert_eq!(client.read_response().await.text(), "anew");
}

#[tokio::test]
async fn ipv6_on_both_sides() {
    let backend = Backend::listen_at("[::1]:0").await;
    let gate = Setup::to(backend.address()).listen("[::1]:0").start();
    let mut client = gate.ask("GET / HTTP/1.1\r\nHost: [::1]:81\r\n\r\n").await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    assert_eq!((head.get("host"), head.get("x-forwarded-for")), (Some("[::1]:81"), Some("::1")));
    assert!(
        head.get("forwarded").unwrap().starts_with("for=\"[::1]\";proto=http;host=\"[::1]:81\""),
        "{head:?}"
    );
    server.send(ok("six")).await;
    assert_eq!(client.read_response().await.text(), "six");
    let record = gate.record(|_| true).await;
    assert!(record.client.starts_with("[::1]:"));
}

#[tokio::test]
async fn a_name_is_resolved() {
    let backend = Backend::listen().await;
    let port = backend.address().rsplit(':').next().unwrap().to_owned();
    let gate = Setup::to(format!("localhost:{port}")).start();
    let (_client, _server) = gate.tunnel(&backend).await;
    let record = gate.record(|_| true).await;
    assert_eq!(record.endpoint.as_deref(), Some(format!("localhost:{port}").as_str()));
}

#[tokio::test]
async fn a_pool_without_an_answer_to_its_record_has_no_endpoint() {
    let gate =
        Setup::to("dns+srv://_ws._tcp.nowhere.invalid").upstream("connect_timeout = \"150ms\"").start();
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 503);
    assert_eq!(gate.record(|_| true).await.ending, Some("no_endpoint"));
    gate.finish().await;
}

#[tokio::test]
async fn websockets_of_another_make_pass_both_ways() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;

    let pki = crate::harness::pki::Pki::new();
    for tls in [false, true] {
        let backend = websocket::echo().await;
        let setup = Setup::to(backend.address()).server("max_connections = 100");
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let mut socket = websocket::connect(&gate).await;
        for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
            let message = Message::binary(vec![7; size]);
            socket.send(message.clone()).await.unwrap();
            assert!(websocket::next(&mut socket).await == message);
            let message = Message::text("é".repeat(size.min(1000)));
            socket.send(message.clone()).await.unwrap();
            assert_eq!(websocket::next(&mut socket).await, message);
        }
        socket.send(Message::Ping(vec![1, 2].into())).await.unwrap();
        assert_eq!(websocket::next(&mut socket).await, Message::Pong(vec![1, 2].into()));
        socket.close(None).await.unwrap();
        assert!(websocket::next(&mut socket).await.is_close());
        drop(socket);
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("closed"), Some("downstream")));
        assert_eq!(record.from_client.unwrap().messages, 14);
    }
}
