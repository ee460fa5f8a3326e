//! Names and passwords: `route.auth.basic`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::NamedTempFile;

use crate::harness::{
    AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup, get, offer_with, program::need_descriptors, soon,
};

/// `open sesame`, by another implementation of bcrypt.
const SESAME: &str = "$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy";

fn htpasswd(users: &[(&str, &str)]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let mut text = String::from("# who may come in\n");
    for (user, hash) in users {
        let _ = writeln!(text, "{user}:{hash}");
    }
    std::fs::write(file.path(), text).unwrap();
    file
}

fn with_users(setup: Setup, file: &NamedTempFile) -> Setup {
    setup.route(&format!("auth.basic = \"{}\"", file.path().display()))
}

/// The header line of a user with a password.
fn basic(text: impl AsRef<[u8]>) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(text))
}

fn right() -> String {
    basic("ali:open sesame")
}

#[tokio::test]
async fn a_password_lets_in_and_goes_on_to_the_backend() {
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", SESAME)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut client = gate.client().await;
    for _ in 0..2 {
        client.send(get("/", &right())).await;
        assert_eq!(client.read_response().await.status(), 200);
    }
    let sent = format!("Authorization: {}", backend.last().get("authorization").unwrap());
    assert_eq!(format!("{sent}\r\n"), right());
    let record = gate.record(|record| record.status == Some(200)).await;
    assert_eq!(record.user.as_deref(), Some("ali"));
}

#[tokio::test]
async fn a_route_can_keep_the_password_from_its_backend() {
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", SESAME)]));
    let setup = Setup::to(backend.address()).route("request_headers.remove = [\"Authorization\"]");
    let gate = with_users(setup, &file).start();
    assert_eq!(gate.ask(get("/", &right())).await.read_response().await.status(), 200);
    assert!(!backend.last().has("authorization"));
}

#[tokio::test]
async fn whatever_else_gets_401_and_no_backend_hears_of_it() {
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", SESAME), ("green", SESAME)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut client = gate.client().await;
    let token = STANDARD.encode("ali:open sesame");
    for (lines, why) in [
        (String::new(), "no credentials"),
        (format!("Authorization: Bearer {token}\r\n"), "no credentials"),
        ("Authorization: Basic\r\n".into(), "no credentials"),
        (format!("Proxy-Authorization: Basic {token}\r\n"), "no credentials"),
        ("Authorization: Basic ???\r\n".into(), "malformed credentials"),
        (format!("Authorization: Basic {token}=\r\n"), "malformed credentials"),
        (basic("ali"), "malformed credentials"),
        (basic("ali:open\r\nsesame"), "malformed credentials"),
        (basic("ali:open sesame\0"), "malformed credentials"),
        (format!("{}{}", right(), right()), "malformed credentials"),
        (format!("{}Authorization: Bearer x\r\n", right()), "malformed credentials"),
        (basic(format!("ali:open sesame{}", "x".repeat(62))), "name or password too long"),
        (basic(format!("{}:open sesame", "x".repeat(256))), "name or password too long"),
        (basic("ali:Open sesame"), "unknown user or wrong password"),
        (basic("ali:"), "unknown user or wrong password"),
        (basic(":open sesame"), "unknown user or wrong password"),
        (basic("ALI:open sesame"), "unknown user or wrong password"),
        (basic("nobody:open sesame"), "unknown user or wrong password"),
        (basic(b"\xff\xfe:open sesame"), "unknown user or wrong password"),
        (basic("# who may come in\n:open sesame"), "malformed credentials"),
    ] {
        let before = gate.records().len();
        client.send(get("/", &lines)).await;
        let answer = client.read_response().await;
        assert_eq!((answer.status(), answer.text()), (401, "401 Unauthorized\n"), "{lines}");
        let challenge = "Basic realm=\"main\", charset=\"UTF-8\"";
        assert_eq!(answer.head.get("www-authenticate"), Some(challenge));
        assert!(
            !answer.head.has_token("connection", "close"),
            "the next try may come on the same connection"
        );
        let records = soon("a record", async {
            loop {
                let records = gate.records();
                if records.len() > before {
                    return records;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let record = &records[before];
        assert_eq!(record.error.as_deref(), Some(format!("not authorised: {why}").as_str()), "{lines}");
        assert_eq!((record.ending, record.ended_by), (Some("unauthorized"), Some("gate")));
        assert_eq!((record.user.as_deref(), record.endpoint.as_deref()), (None, None), "{lines}");
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn s7_no_record_has_a_password_nor_what_was_typed_for_a_name() {
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", SESAME)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    for lines in [right(), basic("secret-name:secret-word"), basic("secret-name")] {
        let status = gate.ask(get("/", &lines)).await.read_response().await.status();
        assert!(status == 200 || status == 401);
    }
    gate.at_rest().await;
    let records = gate.records();
    assert_eq!(records.len(), 3);
    for record in records {
        let (mut text, mut json) = (String::new(), Vec::new());
        record.write_text(&mut text);
        record.write_json(&mut json);
        let all = format!("{text}{}{record:?}", String::from_utf8(json).unwrap());
        for secret in ["sesame", "secret", &STANDARD.encode("ali:open sesame"), "Basic"] {
            assert!(!all.contains(secret), "{secret}: {all}");
        }
    }
}

#[tokio::test]
async fn an_offer_needs_the_password_too_and_closes_without_it() {
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", SESAME)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut client = gate.ask(OFFER).await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 401);
    assert!(answer.head.has_token("connection", "close") && answer.head.has("www-authenticate"));
    client.expect_end().await;
    backend.expect_untouched();

    let mut client = gate.ask(offer_with(&right())).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101);
    drop((client, server));
    assert_eq!(gate.tunnel_end().await.user.as_deref(), Some("ali"));
}

#[tokio::test]
async fn w14_with_a_password_only_the_own_site_may_open_tunnels_unless_others_are_named() {
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", SESAME)]));
    let lines = |site: &str| format!("Origin: {site}\r\n{}", right());
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let refused = gate.ask(offer_with(&lines("https://evil.example"))).await.read_response().await;
    assert_eq!(refused.status(), 403);
    backend.expect_untouched();
    let _client = gate.ask(offer_with(&lines("http://test.example"))).await;
    backend.accept().await.read_head().await;

    let setup = Setup::to(backend.address()).route("websocket.origins = \"*\"");
    let gate = with_users(setup, &file).start();
    let _client = gate.ask(offer_with(&lines("https://evil.example"))).await;
    backend.accept().await.read_head().await;
}

#[tokio::test]
async fn w14_the_address_is_judged_before_the_origin_and_that_before_the_password() {
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", SESAME)]));
    for (lines, label) in [
        ("deny = [\"127.0.0.1\"]", "address_denied"),
        ("", "origin_denied"),
        ("websocket.origins = \"*\"", "unauthorized"),
    ] {
        let gate = with_users(Setup::to(backend.address()).route(lines), &file).start();
        gate.ask(offer_with("Origin: https://evil.example\r\n")).await.read_response().await;
        assert_eq!(gate.record(|_| true).await.ending, Some(label));
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn fixed_answers_and_redirects_need_the_password_too() {
    let file = htpasswd(&[("ali", SESAME)]);
    let route = |path: &str, what: &str| {
        format!("[[route]]\npath = \"{path}\"\n{what}\nauth.basic = \"{}\"\n", file.path().display())
    };
    let toml = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{}{}",
        route("/old", "redirect = { to = \"https://a.example/\", status = 308 }"),
        route("/*", "respond = { status = 200, body = \"in\" }")
    );
    let gate = Gate::start(&toml, None);
    for (path, status) in [("/old", 308), ("/", 200)] {
        let refused = gate.ask(get(path, "")).await.read_response().await;
        assert!(refused.status() == 401 && !refused.head.has("location"));
        assert_eq!(gate.ask(get(path, &right())).await.read_response().await.status(), status);
    }
    // Each route has a realm of its own name.
    let refused = gate.ask(get("/old", "")).await.read_response().await;
    assert_eq!(refused.head.get("www-authenticate"), Some("Basic realm=\"redirect\", charset=\"UTF-8\""));
}

#[tokio::test]
async fn a_body_that_was_not_let_in_is_not_taken_for_another_request() {
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", SESAME)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let smuggled = get("/smuggled", &right());
    let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let mut client = gate.ask(post).await;
    let answer = client.read_response().await;
    assert!(answer.status() == 401 && answer.head.has_token("connection", "close"));
    client.expect_end().await;
    backend.expect_untouched();
}

#[tokio::test]
async fn passwords_that_are_checked_hold_up_no_worker() {
    const GUESSES: usize = 12;
    // Each takes a tenth of a second or more, and one worker serves all of them.
    let hash = bcrypt::hash("open sesame", 11).unwrap();
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", &hash)]));
    let free = "[[route]]\npath = \"/free\"\nrespond = { status = 200, body = \"at once\" }\n";
    let gate = with_users(Setup::to(backend.address()).more(free), &file).start();
    let mut clients = Vec::new();
    for number in 0..GUESSES {
        clients.push(gate.ask(get("/", &basic(format!("ali:{number}")))).await);
    }
    gate.has_connections(GUESSES).await;
    let mut client = gate.client().await;
    for _ in 0..50 {
        client.send(get("/free", "")).await;
        assert_eq!(client.read_response().await.text(), "at once");
    }
    let checked = gate.records().iter().filter(|record| record.status == Some(401)).count();
    assert!(checked < GUESSES, "the others waited for all the guesses");
    // Who leaves is waited for no longer.
    drop(clients.split_off(2));
    for client in &mut clients {
        assert_eq!(client.read_response().await.status(), 401);
    }
    let gone = gate.record(|record| record.ending == Some("downstream_gone")).await;
    assert_eq!(gone.phase, Some("route"));
}

#[tokio::test]
async fn a_proven_password_is_not_proven_again_for_a_while() {
    // Dear enough that fifty of them would take longer than any test waits.
    let hash = bcrypt::hash("open sesame", 13).unwrap();
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", &hash)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(gate.ask(get("/", &right())).await);
    }
    for client in &mut clients {
        assert_eq!(client.read_response().await.status(), 200);
    }
}

#[tokio::test]
async fn whoever_guesses_keeps_nobody_else_out() {
    const GUESSES: usize = 40;
    let hash = bcrypt::hash("open sesame", 10).unwrap();
    let (backend, file) = (HttpBackend::start().await, htpasswd(&[("ali", &hash)]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut guessing = Vec::new();
    for number in 0..GUESSES {
        guessing.push(gate.ask(get("/", &basic(format!("ali:{number}")))).await);
    }
    gate.has_connections(GUESSES).await;
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut client = Peer::from(soon("a connection", elsewhere.connect(gate.address())).await.unwrap());
    client.send(get("/", &right())).await;
    assert_eq!(client.read_response().await.status(), 200);
    let checked = gate.records().iter().filter(|record| record.status == Some(401)).count();
    assert!(checked < GUESSES / 2, "{checked} guesses of another address came first");
}

#[tokio::test]
async fn s2_a_password_for_which_there_is_no_room_gets_503_and_is_to_come_again() {
    // Some hundred more than there is room for, of which few are checked meanwhile: each takes most of a second.
    const GUESSES: usize = 1400;
    need_descriptors(4096);
    let (backend, file) = (Backend::listen().await, htpasswd(&[("ali", &SESAME.replace("$04$", "$13$"))]));
    let gate = with_users(Setup::to(backend.address()), &file).start();
    let mut clients = Vec::new();
    for _ in 0..GUESSES {
        clients.push(gate.ask(get("/", &basic("ali:guess"))).await);
    }
    let record = gate.record(|record| record.status == Some(503)).await;
    assert_eq!((record.ending, record.ended_by), (Some("auth_overload"), Some("gate")));
    assert_eq!((record.phase, record.user.as_deref()), (Some("route"), None));
    let refused = clients.iter_mut().find(|client| client.own_address().to_string() == *record.client);
    let answer = refused.unwrap().read_response().await;
    assert_eq!((answer.status(), answer.text()), (503, "503 Service Unavailable\n"));
    let seconds: u64 = answer.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&seconds) && !answer.head.has("www-authenticate"), "{answer:?}");
    backend.expect_untouched();
}
