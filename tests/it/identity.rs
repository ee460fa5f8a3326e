//! Who a client is, as trusted proxies say it, and where that counts. Rules H6 and H7.

use std::sync::Arc;

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, Head, HttpBackend, Peer, Setup, get, offer_with, ok, pki::Pki, program::Program,
    unix_address,
};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]";
const SAYS: &str = "X-Forwarded-For: 6.6.6.6, 192.0.2.1:4711\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: app.example\r\nX-Request-Id: abc-1\r\n";

/// What the backend sees of a request with these lines.
async fn seen(gate: &Gate, backend: &HttpBackend, lines: &str) -> Head {
    let mut peer = gate.ask(get("/", lines)).await;
    assert_eq!(peer.read_response().await.status(), 200);
    backend.last()
}

#[tokio::test]
async fn h7_a_trusted_proxy_is_believed_and_a_stranger_is_not() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener(TRUSTED).start();
    let head = seen(&gate, &backend, SAYS).await;
    assert_eq!(head.get("x-forwarded-for"), Some("6.6.6.6, 192.0.2.1:4711, 127.0.0.1"));
    assert_eq!(head.get("x-real-ip"), Some("192.0.2.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-host"), Some("app.example"));
    assert_eq!(head.get("x-request-id"), Some("abc-1"));
    let record = gate.record_of(Kind::Exchange).await;
    assert_eq!((&*record.client, &*record.request_id), ("192.0.2.1:4711", "abc-1"));
    assert!(record.peer.unwrap().starts_with("127.0.0.1:"));

    let gate = Setup::to(backend.address()).listener("trusted_proxies = [\"127.0.0.2\"]").start();
    let head = seen(&gate, &backend, SAYS).await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("test.example"));
    assert_ne!(head.get("x-request-id"), Some("abc-1"));
    let record = gate.record_of(Kind::Exchange).await;
    assert!(record.client.starts_with("127.0.0.1:") && record.peer.is_none());
}

#[tokio::test]
async fn h7_requests_of_one_connection_have_each_their_client() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener(TRUSTED).start();
    let mut peer = gate.client().await;
    for ip in ["192.0.2.1", "192.0.2.2", "2001:db8::3"] {
        peer.send(get("/", &format!("X-Forwarded-For: {ip}\r\n"))).await;
        peer.read_response().await;
        assert_eq!(backend.last().get("x-real-ip"), Some(ip));
        gate.record(|record| *record.client == *ip).await;
    }
    peer.send(get("/", "")).await;
    peer.read_response().await;
    assert_eq!(backend.last().get("x-real-ip"), Some("127.0.0.1"), "the proxy's own request");
}

#[tokio::test]
async fn h7_a_proxy_on_a_unix_socket_is_trusted_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let backend = HttpBackend::start().await;
    for (keys, expected) in [("trusted_proxies = [\"unix\"]", Some("192.0.2.1")), (TRUSTED, None)] {
        let gate = Setup::to(backend.address()).listen(&unix_address(folder.path())).listener(keys).start();
        let mut peer = Peer::dial_unix(&gate.path()).await;
        peer.send(get("/", "X-Forwarded-For: 192.0.2.1\r\n")).await;
        assert_eq!(peer.read_response().await.status(), 200);
        assert_eq!(backend.last().get("x-real-ip"), expected);
        assert_eq!(backend.last().get("x-forwarded-for"), expected);
        let record = gate.record_of(Kind::Exchange).await;
        let beside = expected.map(|_| "unix");
        assert_eq!((&*record.client, record.peer.as_deref()), (expected.unwrap_or("unix"), beside));
        drop((peer, gate));
    }
}

#[tokio::test]
async fn h6_the_named_header_is_believed_of_trusted_proxies_alone() {
    let backend = HttpBackend::start().await;
    let named = "underscore_headers = \"pass\"\nclient_ip_header = \"CF-Connecting-IP\"";
    let forged = "CF_Connecting_IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\n";
    let gate = Setup::to(backend.address()).listener(TRUSTED).listener(named).start();
    let head = seen(&gate, &backend, &format!("CF-Connecting-IP: 192.0.2.1\r\n{forged}")).await;
    assert_eq!(head.get("x-real-ip"), Some("192.0.2.1"));
    assert_eq!(head.get("x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
    assert_eq!((head.get("cf-connecting-ip"), head.get("cf_connecting_ip")), (Some("192.0.2.1"), None));
    let head = seen(&gate, &backend, forged).await;
    assert_eq!((head.get("x-real-ip"), head.get("cf-connecting-ip")), (Some("127.0.0.1"), None));

    let elsewhere = "trusted_proxies = [\"127.0.0.2\"]";
    let gate = Setup::to(backend.address()).listener(elsewhere).listener(named).start();
    let head = seen(&gate, &backend, &format!("CF-Connecting-IP: 192.0.2.1\r\n{forged}")).await;
    assert_eq!(head.get("x-real-ip"), Some("127.0.0.1"));
    assert_eq!((head.get("cf-connecting-ip"), head.get("cf_connecting_ip")), (None, None));
}

#[tokio::test]
async fn h7_a_request_that_was_https_already_is_not_redirected() {
    let backend = HttpBackend::start().await;
    let keys = format!("{TRUSTED}\nredirect_https = 443");
    let gate = Setup::to(backend.address()).listener(&keys).start();
    for (lines, status) in [
        ("X-Forwarded-Proto: https\r\n", 200),
        ("Forwarded: for=192.0.2.1;proto=https\r\n", 200),
        ("X-Forwarded-Proto: http\r\n", 308),
        ("X-Forwarded-Proto: https, http\r\n", 308),
        ("", 308),
    ] {
        let mut peer = gate.ask(get("/", lines)).await;
        assert_eq!(peer.read_response().await.status(), status, "{lines}");
    }
    let gate = Setup::to(backend.address()).listener("redirect_https = 443").start();
    let mut peer = gate.ask(get("/", "X-Forwarded-Proto: https\r\n")).await;
    assert_eq!(peer.read_response().await.status(), 308, "a stranger says so");
}

#[tokio::test]
async fn h7_a_cookie_is_secure_where_the_client_came_by_https() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).listener(TRUSTED).upstream("sticky_cookie = \"srv\"").start();
    for (lines, secure) in [("X-Forwarded-Proto: https\r\n", true), ("", false)] {
        let mut peer = gate.ask(get("/", lines)).await;
        let answer = peer.read_response().await;
        assert_eq!(answer.head.get("set-cookie").unwrap().contains("; Secure"), secure);
    }
}

#[tokio::test]
async fn h7_the_hash_and_the_header_to_servers_are_the_clients() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener(TRUSTED).upstream("proxy_protocol = \"v1\"").start();
    for (client, expected) in [("192.0.2.1:4711", "192.0.2.1"), ("192.0.2.2", "192.0.2.2")] {
        let mut peer = gate.ask(get("/", &format!("X-Forwarded-For: {client}\r\n"))).await;
        let mut server = backend.accept().await;
        let line = server.read_proxy_v1().await;
        let port = client.split_once(':').map_or("0", |(_, port)| port);
        let to = gate.address().port();
        assert_eq!(line, format!("PROXY TCP4 {expected} 127.0.0.1 {port} {to}\r\n"));
        server.read_head().await;
        server.send(ok("")).await;
        assert_eq!(peer.read_response().await.status(), 200);
    }

    let servers = [HttpBackend::start().await, HttpBackend::start().await, HttpBackend::start().await];
    let gate = Setup::before(servers.iter().map(HttpBackend::address))
        .listener(TRUSTED)
        .upstream("balance = \"consistent_hash\"")
        .start();
    for last in 1..=30 {
        for _ in 0..2 {
            let mut peer = gate.ask(get("/", &format!("X-Forwarded-For: 192.0.2.{last}\r\n"))).await;
            peer.read_response().await;
        }
    }
    let counts: Vec<_> = servers.iter().map(|server| server.seen().len()).collect();
    assert!(counts.iter().all(|count| *count > 0 && count % 2 == 0), "{counts:?}");
}

#[tokio::test]
async fn h7_a_tunnels_records_name_its_client() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).listener(TRUSTED).start();
    let mut peer = gate.ask(offer_with(SAYS)).await;
    let mut server = backend.accept().await;
    assert_eq!(server.read_head().await.get("x-real-ip"), Some("192.0.2.1"));
    server.send(AGREED).await;
    assert_eq!(peer.read_head().await.status(), 101);
    drop((peer, server));
    for kind in [Kind::TunnelOpen, Kind::TunnelEnd] {
        let record = gate.record_of(kind).await;
        assert_eq!((&*record.client, &*record.request_id), ("192.0.2.1:4711", "abc-1"));
        assert!(record.peer.unwrap().starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn placeholders_are_filled_in_both_ways() {
    let pki = Arc::new(Pki::new());
    let backend = Backend::listen().await.serve_http(|_: &Head, _| {
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Subject: the backend's\r\n\r\n".to_owned()
    });
    let all = "{client_ip} {request_id} {host} {scheme} {listener_port} {route} {tls.version} {tls.sni}";
    let edits = format!(
        "request_headers.set = {{ X-All = \"{all}\", X-Subject = \"{{tls.client.subject}}\" }}\n\
         response_headers.set = {{ X-Port = \"{{client_port}}\", X-Subject = \"{{tls.client.subject}}\" }}"
    );
    let gate = Setup::to(backend.address()).tls(&pki, "").route(&edits).start();
    let mut peer = gate.ask(get("/", "X-Subject: CN=admin\r\nX-All: forged\r\n")).await;
    let answer = peer.read_response().await;
    let port = gate.address().port();
    let record = gate.record_of(Kind::Exchange).await;
    let head = backend.last();
    let expected =
        format!("127.0.0.1 {} test.example https {port} main TLSv1.3 localhost", record.request_id);
    assert_eq!(head.all("x-all"), [&*expected]);
    assert!(!head.has("x-subject"), "no certificate, no header of that name");
    assert!(record.client.ends_with(&format!(":{}", answer.head.get("x-port").unwrap())));
    assert!(!answer.head.has("x-subject"));
}

#[tokio::test]
async fn b11_the_verified_certificate_goes_to_the_backend_and_no_other() {
    let (pki, clients) = (Arc::new(Pki::new()), Pki::new());
    let backend = HttpBackend::start().await;
    let keys = format!("client_ca = \"{}\", client_auth = \"optional\"", clients.ca_file().display());
    let set = "request_headers.set = { X-Subject = \"{tls.client.subject}\", X-Serial = \"{tls.client.serial}\", \
        X-Fingerprint = \"{tls.client.fingerprint}\" }";
    let gate = Setup::to(backend.address()).tls(&pki, &keys).route(set).start();
    let leaf = clients.leaf_with("alice", |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "alice, Ltd");
    });
    let forged = get("/", "X-Subject: CN=admin\r\nx-serial: 1\r\nX_Subject: CN=admin\r\n");
    let with = pki.client_config_with(&leaf, &[], rustls::ALL_VERSIONS);
    for (config, subject) in [(with, Some("CN=alice\\, Ltd")), (pki.client_config(), None)] {
        let mut peer = pki.client(gate.address(), "localhost", &config).await;
        peer.send(&forged).await;
        assert_eq!(peer.read_response().await.status(), 200);
        let head = backend.last();
        assert_eq!(head.get("x-subject"), subject);
        assert_eq!(head.get("x-fingerprint").map(str::len), subject.map(|_| 64));
        assert_eq!(head.has("x-serial"), subject.is_some());
        assert!(!head.has("x_subject"));
    }
}

#[tokio::test]
async fn placeholders_are_filled_in_answers_of_wsgates_own() {
    let route = "[[route]]\nrespond = { status = 200, body = \"hi\" }\n\
        response_headers.set = { X-Who = \"{client_ip}/{scheme}\", X-None = \"{tls.version}\" }\n";
    let toml = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{TRUSTED}\n{route}");
    let gate = Gate::start(&toml, None);
    let mut peer = gate.ask(get("/", SAYS)).await;
    let answer = peer.read_response().await;
    assert_eq!(answer.head.get("x-who"), Some("192.0.2.1/https"));
    assert!(!answer.head.has("x-none"));
}

#[tokio::test]
async fn h7_the_log_tells_whose_word_about_a_client_was_not_taken() {
    let (backend, folder) = (HttpBackend::start().await, tempfile::tempdir().unwrap());
    let toml = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         client_ip_header = \"CF-Connecting-IP\"\n[upstream.main]\nservers = [\"{}\"]\n\
         [[route]]\nupstream = \"main\"\n",
        backend.address()
    );
    let program = Program::start(folder.path(), &toml, None).await;
    for (from, lines, level, field, message) in [
        ("127.0.0.1", "CF-Connecting-IP: nobody\r\n", "WARN", "proxy", "client_ip_header: its own counts"),
        ("127.0.0.2", "X-Forwarded-For: 192.0.2.1\r\n", "INFO", "client", "is not in trusted_proxies"),
    ] {
        let mut client = Peer::dial_from(from, program.address).await;
        client.send(get("/", lines)).await;
        assert_eq!(client.read_response().await.status(), 200);
        let own = client.own_address().to_string();
        let tells = |event: &serde_json::Value| {
            event["level"] == level
                && event[field] == *own
                && event["message"].as_str().is_some_and(|text| text.contains(message))
        };
        program.says(message, tells).await;
    }
}
