//! What goes upstream of a request that a trusted proxy sent (H7), and what a route fills in.

use super::*;
use crate::proto::network::{Networks, Peers};

const CLIENT: &str = "192.0.2.7";
const PROXY: &str = "10.0.0.9";

fn trusted() -> Peers {
    Peers { networks: Networks(vec!["10.0.0.0/8".parse().unwrap()]), unix: true }
}

/// What goes upstream of these lines that `proxy` sent by plain HTTP, as the listener reads them.
fn through(proxy: Option<&str>, named: Option<&str>, lines: &str) -> Headers {
    let trusted = trusted();
    let head = received(lines);
    let told = told(&head.headers, named, &trusted);
    let proxy = proxy.map(|ip| ip.parse().unwrap());
    let cx = RequestContext {
        client_ip: told.client.map_or(proxy, |hop| Some(hop.ip)),
        https: told.https.unwrap_or(false),
        listener_port: Some(8080),
        proxy: Some(Proxy { ip: proxy, tls: false, trusted: &trusted }),
        client_ip_header: named.map(|name| ClientIpHeader { name, believed: told.client.is_some() }),
        ..context()
    };
    request(&head, GET, &cx).unwrap().head.headers
}

fn of(lines: &str) -> Headers {
    through(Some(PROXY), None, lines)
}

#[test]
fn h7_a_trusted_proxys_chain_is_extended() {
    let headers = of("X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 192.0.2.7,10.0.0.1\r\n\
        X-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: app.example:8443\r\nX-Forwarded-Port: 8443\r\n\
        X-Forwarded-Prefix: /app\r\nX-Real-IP: 6.6.6.6\r\n");
    assert_eq!(one(&headers, "X-Forwarded-For"), "6.6.6.6, 192.0.2.7, 10.0.0.1, 10.0.0.9");
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "https");
    assert_eq!(one(&headers, "X-Forwarded-Host"), "app.example:8443");
    assert_eq!(one(&headers, "X-Forwarded-Port"), "8443");
    assert_eq!(one(&headers, "X-Forwarded-Prefix"), "/app");
    assert_eq!(one(&headers, "X-Real-IP"), CLIENT);
    assert_eq!(
        one(&headers, "Forwarded"),
        "for=192.0.2.7;proto=https;host=\"app.example:8443\", \
         for=10.0.0.9;proto=http;host=\"Example.com:8443\""
    );
}

#[test]
fn h7_a_chain_of_forwarded_is_extended() {
    let headers =
        of("Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.7;proto=https, for=\"[::1]\";by=x\r\n");
    assert_eq!(one(&headers, "X-Real-IP"), "::1", "which is not trusted");
    let headers = of("Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.7;proto=https, for=10.0.0.1\r\n");
    assert_eq!(
        one(&headers, "Forwarded"),
        "for=6.6.6.6, for=192.0.2.7;proto=https, for=10.0.0.1, \
         for=10.0.0.9;proto=http;host=\"Example.com:8443\""
    );
    assert_eq!(one(&headers, "X-Forwarded-For"), "192.0.2.7, 10.0.0.9");
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "https");
}

#[test]
fn h7_a_chain_that_was_not_believed_does_not_go_on() {
    // A proxy that sets X-Forwarded-For lets Forwarded pass as its client wrote it.
    let headers = of("X-Forwarded-For: 192.0.2.7\r\nForwarded: for=6.6.6.6\r\n");
    assert!(one(&headers, "Forwarded").starts_with("for=192.0.2.7;proto=http;"));
    let headers = of("X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7;proto=https\r\n");
    assert!(one(&headers, "Forwarded").starts_with("for=192.0.2.7;proto=http;"));
    // Who knows its own address can write the rest.
    for forged in ["for=192.0.2.7;proto=http;host=evil.example", "for=192.0.2.7;by=evil"] {
        let headers = of(&format!("X-Forwarded-For: 192.0.2.7\r\nForwarded: {forged}\r\n"));
        assert!(!one(&headers, "Forwarded").contains("evil"), "{forged}");
        let lines = format!("CF-Connecting-IP: 192.0.2.7\r\nForwarded: {forged}\r\n");
        let named = through(Some(PROXY), Some("CF-Connecting-IP"), &lines);
        assert!(!one(&named, "Forwarded").contains("evil"), "{forged}");
    }
    // Nor can it swallow what the proxy writes behind it.
    let headers = of("Forwarded: for=10.0.0.1;x=\"\r\nForwarded: for=192.0.2.7;proto=http\r\n");
    let expected = "for=192.0.2.7;proto=http, for=10.0.0.9;proto=http;host=\"Example.com:8443\"";
    assert_eq!(one(&headers, "Forwarded"), expected);
    let named =
        through(Some(PROXY), Some("X-Real-IP"), "X-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 6.6.6.6\r\n");
    assert_eq!(one(&named, "X-Forwarded-For"), "192.0.2.7, 10.0.0.9");
    assert_eq!(one(&named, "X-Real-IP"), CLIENT);
}

#[test]
fn h7_what_a_trusted_proxy_says_wrongly_is_written_anew() {
    let headers = of("X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a b\r\nX-Forwarded-Port: 0\r\n");
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "http");
    assert_eq!(one(&headers, "X-Forwarded-Host"), "Example.com:8443");
    assert_eq!(one(&headers, "X-Forwarded-Port"), "8080");
    assert_eq!(one(&headers, "X-Forwarded-For"), PROXY);
    assert_eq!(one(&headers, "X-Real-IP"), PROXY);
    assert_eq!(one(&headers, "Forwarded"), "for=10.0.0.9;proto=http;host=\"Example.com:8443\"");
    let headers = of("X-Forwarded-Host: a.example\r\nX-Forwarded-Host: b.example\r\n");
    assert_eq!(one(&headers, "X-Forwarded-Host"), "Example.com:8443");
}

#[test]
fn h7_the_port_of_another_scheme_is_not_told() {
    let headers = of("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n");
    assert!(!headers.contains("X-Forwarded-Port"), "that of wsgate is the proxy's");
    let headers = of("Forwarded: for=192.0.2.7;proto=https\r\n");
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "https");
    assert!(!headers.contains("X-Forwarded-Port"), "whichever header tells the scheme");
}

#[test]
fn h7_a_proxy_on_a_unix_socket_has_no_address() {
    let headers = through(None, None, "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n");
    assert_eq!(one(&headers, "X-Forwarded-For"), "6.6.6.6, 192.0.2.7");
    assert!(one(&headers, "Forwarded").ends_with(", for=unknown;proto=http;host=\"Example.com:8443\""));
    let headers = through(None, None, "");
    assert!(!headers.contains("X-Forwarded-For") && !headers.contains("X-Real-IP"));
    assert!(one(&headers, "Forwarded").starts_with("for=unknown;proto=http"));
}

#[test]
fn h6_the_named_header_and_its_aliases_cannot_be_forged() {
    let forged = "CF-Connecting-IP: 6.6.6.6\r\ncf_connecting_ip: 6.6.6.6\r\nCF-Connecting_IP: 6.6.6.6\r\n";
    let head = received(forged);
    let name = "CF-Connecting-IP";
    let cx = RequestContext {
        underscore_headers: UnderscoreHeaders::Pass,
        client_ip_header: Some(ClientIpHeader { name, believed: false }),
        ..context()
    };
    let forwarded = request(&head, GET, &cx).unwrap();
    assert_eq!(lines(&forwarded.head.headers), [""; 0]);
    assert_eq!((forwarded.dropped_underscore, forwarded.dropped_forwarded), (2, 1));

    let believed = through(Some(PROXY), Some(name), &forged.replacen("6.6.6.6", "::ffff:192.0.2.7", 1));
    assert_eq!(lines(&believed), ["CF-Connecting-IP: 192.0.2.7"]);
    let twice = through(Some(PROXY), Some(name), &forged.replace('_', "-"));
    assert_eq!(lines(&twice), [""; 0]);
    assert_eq!(one(&twice, "X-Real-IP"), PROXY);
}

#[test]
fn h6_aliases_of_what_a_trusted_proxy_says_are_dropped() {
    let trusted = trusted();
    let cx = RequestContext {
        underscore_headers: UnderscoreHeaders::Pass,
        proxy: Some(Proxy { ip: None, tls: false, trusted: &trusted }),
        ..context()
    };
    let head = received("X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Prefix: /x\r\nX_Real_IP: 6.6.6.6\r\n");
    assert_eq!(request(&head, GET, &cx).unwrap().dropped_underscore, 3);
}

#[test]
fn a_route_fills_in_what_it_knows_and_takes_out_what_it_does_not() {
    let client = Some(CertificateValues { subject: "CN=a\r\nb", ..CertificateValues::default() });
    let values = Values {
        client_ip: Some(CLIENT.parse().unwrap()),
        route: "chat",
        tls: Some(TlsValues { client, ..TlsValues::default() }),
        ..Values::default()
    };
    let edits = edits(&[("X-Who", "{client_ip} on {route}"), ("X-Subject", "{tls.client.subject}")], &[]);
    let cx = RequestContext { edits: &edits, values, ..context() };
    let head = received("X-Who: forged\r\nX-Subject: forged\r\nX_Subject: forged\r\n");
    let headers = request(&head, GET, &cx).unwrap().head.headers;
    assert_eq!(lines(&headers), ["X-Who: 192.0.2.7 on chat"]);
    let cx = ResponseContext { values, ..answering(&edits) };
    let kind = ResponseKind::Plain { body: BodyFraming::Empty, close: false, client: Version::Http11 };
    let headers = response(&answer(200, "X-Subject: the backend's\r\n"), kind, &cx).unwrap().headers;
    assert_eq!(lines(&headers), ["X-Who: 192.0.2.7 on chat"]);
}
