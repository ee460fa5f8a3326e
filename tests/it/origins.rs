//! Rule W14: which sites may open a tunnel.

use crate::harness::{AGREED, Backend, Gate, HttpBackend, OFFER, Peer, Setup, get, offer_with, pki::Pki};

fn origin(origin: &str) -> String {
    offer_with(&format!("Origin: {origin}\r\n"))
}

/// The offer opens a tunnel, and its Origin reaches the backend as it is.
async fn expect_tunnel(gate: &Gate, backend: &Backend, offer: &str) {
    let mut client = gate.ask(offer).await;
    let mut server = backend.accept().await;
    let head = server.read_head().await;
    for origin in head.all("origin") {
        assert!(offer.contains(&format!("Origin: {origin}\r\n")), "{head:?}");
    }
    server.send(AGREED).await;
    assert_eq!(client.read_head().await.status(), 101, "{offer}");
}

/// The offer gets 403 and the end, and no backend hears of it. Returns what the record says.
async fn expect_refusal(gate: &Gate, backend: &Backend, offer: &str) -> String {
    let before = gate.records().len();
    let mut client: Peer = gate.ask(offer).await;
    let answer = client.read_response().await;
    assert_eq!((answer.status(), answer.text()), (403, "403 Forbidden\n"), "{offer}");
    assert!(answer.head.has_token("connection", "close"), "{offer}");
    client.expect_end().await;
    backend.expect_untouched();
    drop(client);
    gate.at_rest().await;
    let records = gate.records();
    let refused = records[before..].iter().find(|record| record.ending == Some("origin_denied"));
    let record = refused.unwrap_or_else(|| panic!("no record of {offer}"));
    assert_eq!((record.ended_by, record.phase), (Some("gate"), Some("route")));
    assert_eq!((record.status, record.endpoint.as_deref()), (Some(403), None));
    record.error.as_deref().unwrap().to_owned()
}

#[tokio::test]
async fn w14_an_allow_list_judges_scheme_host_and_port_before_an_upstream_is_touched() {
    let backend = Backend::listen().await;
    let list = "websocket.origins = [\"https://a.example\", \"https://*.b.example:8443\", \"capacitor://localhost\"]";
    let gate = Setup::to(backend.address()).route(list).start();
    for allowed in [
        "https://a.example",
        "https://a.example:443",
        "HTTPS://A.Example",
        "https://x.b.example:8443",
        "https://x.y.b.example:8443",
        "capacitor://localhost",
    ] {
        expect_tunnel(&gate, &backend, &origin(allowed)).await;
    }
    // Who sends none is no browser.
    expect_tunnel(&gate, &backend, OFFER).await;
    for denied in [
        "http://a.example",
        "https://a.example:8443",
        "https://www.a.example",
        "https://a.example.evil.example",
        "https://evila.example",
        "https://b.example:8443",
        "https://x.b.example",
        "https://xb.example:8443",
        "capacitor://localhost:1",
        "ionic://localhost",
        "https://a.example/",
        "https://a.example, https://a.example",
        "null",
        "a.example",
        "*",
        "same-origin",
        "",
    ] {
        let error = expect_refusal(&gate, &backend, &origin(denied)).await;
        assert_eq!(error, format!("Origin not allowed: {denied}"));
    }
}

#[tokio::test]
async fn w14_several_origins_are_refused_by_every_list() {
    for list in ["websocket.origins = [\"https://a.example\"]", ""] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).route(list).start();
        let twice = offer_with("Origin: https://a.example\r\nOrigin: https://a.example\r\n");
        let error = expect_refusal(&gate, &backend, &twice).await;
        assert_eq!(error, "Origin not allowed: several, the first is https://a.example");
    }
}

#[tokio::test]
async fn w14_anything_passes_by_default_and_null_only_where_it_is_named() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for any in ["https://evil.example", "null", "whatever"] {
        expect_tunnel(&gate, &backend, &origin(any)).await;
    }
    let gate = Setup::to(backend.address()).route("websocket.origins = \"null\"").start();
    expect_tunnel(&gate, &backend, &origin("null")).await;
    expect_refusal(&gate, &backend, &origin("https://a.example")).await;
}

#[tokio::test]
async fn w14_an_absent_origin_is_refused_where_one_is_required() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.require_origin = true").start();
    let error = expect_refusal(&gate, &backend, OFFER).await;
    assert_eq!(error, "Origin not allowed: there is none");
    expect_tunnel(&gate, &backend, &origin("https://a.example")).await;
}

#[tokio::test]
async fn w14_the_same_origin_is_the_listeners_scheme_and_the_requests_host() {
    let pki = Pki::new();
    for (tls, own) in [(false, "http"), (true, "https")] {
        let backend = Backend::listen().await;
        let setup = Setup::to(backend.address()).route("websocket.origins = \"same-origin\"");
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        let other = if tls { "http" } else { "https" };
        expect_tunnel(&gate, &backend, &origin(&format!("{own}://test.example"))).await;
        for denied in [
            format!("{other}://test.example"),
            format!("{own}://test.example:8443"),
            "https://evil.example".into(),
        ] {
            expect_refusal(&gate, &backend, &origin(&denied)).await;
        }
        let elsewhere = origin(&format!("{own}://test.example:8443"))
            .replace("Host: test.example", "Host: test.example:8443");
        expect_tunnel(&gate, &backend, &elsewhere).await;
    }
}

#[tokio::test]
async fn w14_a_plain_request_is_not_judged_by_its_origin() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address())
        .route("websocket.origins = [\"https://a.example\"]\nwebsocket.require_origin = true")
        .start();
    for lines in ["Origin: https://evil.example\r\n", ""] {
        assert_eq!(gate.ask(get("/", lines)).await.read_response().await.status(), 200);
    }
}

#[tokio::test]
async fn w14_offers_to_routes_without_an_upstream_are_judged_too() {
    let other = "[[route]]\npath = \"/old\"\nredirect = { to = \"https://a.example/\", status = 308 }\n\
        websocket.origins = [\"https://a.example\"]\n";
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).more(other).start();
    let offer = |site| origin(site).replacen("GET / ", "GET /old ", 1);
    expect_refusal(&gate, &backend, &offer("https://evil.example")).await;
    assert_eq!(gate.ask(offer("https://a.example")).await.read_response().await.status(), 308);
}

#[tokio::test]
async fn s10_an_origin_is_escaped_where_the_record_is_printed() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).route("websocket.origins = [\"https://a.example\"]").start();
    let offer = origin("https://e.example\" status=200 \u{202e}x");
    expect_refusal(&gate, &backend, &offer).await;
    let record = gate.record(|record| record.ending == Some("origin_denied")).await;
    let mut text = String::new();
    record.write_text(&mut text);
    let quoted = r#"error="Origin not allowed: https://e.example\" status=200 \u{202e}x""#;
    assert!(text.contains(quoted), "{text}");
}
