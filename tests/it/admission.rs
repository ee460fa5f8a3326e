//! Which route a handshake takes by its subprotocol, and which clients a route lets in by their address.

use crate::harness::{AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup, get, offer_with, unix_address};

/// The status of the answer, which the record tells of too.
async fn asks(gate: &Gate, client: &mut Peer, request: &str) -> u16 {
    client.send(request).await;
    let status = client.read_response().await.status();
    if status == 403 {
        let record = gate.record(|record| record.status == Some(403)).await;
        assert_eq!((record.ending, record.ended_by), (Some("address_denied"), Some("gate")));
        assert_eq!((record.phase, record.route.as_deref()), (Some("route"), Some("main")));
    }
    status
}

#[tokio::test]
async fn a_route_lets_in_by_the_clients_address_and_deny_wins() {
    for (address, lines, expected) in [
        ("127.0.0.1:0", "allow = [\"127.0.0.0/8\"]", 200),
        ("127.0.0.1:0", "allow = [\"10.0.0.0/8\", \"::/0\"]", 403),
        ("127.0.0.1:0", "deny = [\"127.0.0.1\"]", 403),
        ("127.0.0.1:0", "deny = [\"10.0.0.0/8\", \"::1\"]", 200),
        ("127.0.0.1:0", "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.1\"]", 403),
        ("127.0.0.1:0", "allow = [\"::ffff:127.0.0.1\"]", 200),
        ("127.0.0.1:0", "deny = [\"::ffff:127.0.0.0/104\"]", 403),
        ("[::1]:0", "allow = [\"::1\"]", 200),
        ("[::1]:0", "deny = [\"::/64\"]", 403),
        ("[::1]:0", "allow = [\"2001:db8::/32\", \"127.0.0.1\"]", 403),
    ] {
        let backend = HttpBackend::start().await;
        let gate = Setup::to(backend.address()).listen(address).route(lines).start();
        let mut client = gate.client().await;
        for _ in 0..2 {
            // Plain requests are told so on a connection that goes on.
            assert_eq!(asks(&gate, &mut client, &get("/", "")).await, expected, "{address} {lines}");
        }
        assert_eq!(backend.accepted() > 0, expected == 200, "{address} {lines}");
    }
}

#[tokio::test]
async fn a_client_of_a_unix_socket_has_no_address_to_be_allowed_by() {
    for (lines, expected) in
        [("allow = [\"0.0.0.0/0\", \"::/0\"]", 403), ("deny = [\"0.0.0.0/0\", \"::/0\"]", 200)]
    {
        let folder = tempfile::tempdir().unwrap();
        let backend = HttpBackend::start().await;
        let gate = Setup::to(backend.address()).listen(&unix_address(folder.path())).route(lines).start();
        let mut client = Peer::dial_unix(&gate.path()).await;
        assert_eq!(asks(&gate, &mut client, &get("/", "")).await, expected, "{lines}");
    }
}

#[tokio::test]
async fn a_denied_address_gets_neither_tunnel_nor_redirect_nor_fixed_answer() {
    let backend = Backend::listen().await;
    let others = "[[route]]\npath = \"/old\"\nredirect = { to = \"https://a.example{path}\", status = 308 }\n\
        deny = [\"127.0.0.1\"]\n[[route]]\npath = \"/fixed\"\nrespond = { status = 200, body = \"x\" }\n\
        allow = [\"10.0.0.1\"]\n";
    let gate = Setup::to(backend.address()).more(others).route("deny = [\"127.0.0.0/8\"]").start();
    let mut client = gate.client().await;
    for path in ["/old", "/fixed", "/"] {
        client.send(get(path, "")).await;
        let answer = client.read_response().await;
        assert_eq!((answer.status(), answer.text()), (403, "403 Forbidden\n"), "{path}");
        assert!(!answer.head.has("location") && !answer.head.has_token("connection", "close"));
    }
    // A refused offer closes, as its client may have sent frames (rule H12).
    client.send(OFFER).await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 403);
    assert!(answer.head.has_token("connection", "close"));
    client.expect_end().await;
    backend.expect_untouched();
}

#[tokio::test]
async fn a_route_is_chosen_by_an_offered_subprotocol() {
    let (chat, any) = (Backend::listen().await, Backend::listen().await);
    let tables = format!(
        "[upstream.chat]\nservers = [\"{}\"]\n[[route]]\nname = \"chat\"\nupstream = \"chat\"\n\
         subprotocol = \"chat.v2\"\n",
        chat.address()
    );
    let gate = Setup::to(any.address()).more(&tables).start();
    for (lines, backend, other) in [
        ("Sec-WebSocket-Protocol: chat.v2\r\n", &chat, &any),
        ("Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n", &chat, &any),
        ("Sec-WebSocket-Protocol: chat.v1\r\nSec-WebSocket-Protocol: chat.v2\r\n", &chat, &any),
        ("Sec-WebSocket-Protocol: chat.v1\r\n", &any, &chat),
        // Subprotocols are compared with case (RFC 6455 §4.1).
        ("Sec-WebSocket-Protocol: Chat.v2\r\n", &any, &chat),
        ("", &any, &chat),
    ] {
        let mut client = gate.ask(offer_with(lines)).await;
        let mut server = backend.accept().await;
        let offered = server.read_head().await.all("sec-websocket-protocol").join(", ");
        let agreed = offered.split(", ").last().filter(|last| !last.is_empty());
        let line = agreed.map(|agreed| format!("Sec-WebSocket-Protocol: {agreed}\r\n"));
        server.send(AGREED.replacen("\r\n\r\n", &format!("\r\n{}\r\n", line.unwrap_or_default()), 1)).await;
        let answer = client.read_head().await;
        assert_eq!((answer.status(), answer.get("sec-websocket-protocol")), (101, agreed), "{lines:?}");
        other.expect_untouched();
    }
    // Plain HTTP offers none.
    let _client = gate.ask(get("/", "Sec-WebSocket-Protocol: chat.v2\r\n")).await;
    any.accept().await.read_head().await;
}

#[tokio::test]
async fn a_subprotocol_alone_is_no_way_for_those_who_offer_another() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("subprotocol = \"chat.v2\"").start();
    let mut client = gate.ask(offer_with("Sec-WebSocket-Protocol: chat.v1\r\n")).await;
    assert_eq!(client.read_response().await.status(), 404);
    backend.expect_untouched();
}
