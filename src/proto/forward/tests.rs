//! Rules H5, H6, H7, H8, H13, W6 and W13: what changes in a head, and what must not.

mod copied;
mod traced;
mod trusted;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use proptest::prelude::*;

use super::*;
use crate::proto::head::HeadLimits;

const GET: Kind = Kind::Plain { framing: BodyFraming::Empty };
static NO_EDITS: HeaderEdits = HeaderEdits { set: Vec::new(), remove: Vec::new() };

/// One that began here.
fn trace() -> &'static Trace {
    static TRACE: LazyLock<Trace> = LazyLock::new(|| Trace::begin(1, 2));
    &TRACE
}

fn context() -> RequestContext<'static> {
    RequestContext {
        client_ip: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        https: true,
        listener_port: Some(443),
        proxy: None,
        client_ip_header: None,
        upstream_authority: "10.0.0.2:8080",
        host_header: &HostHeader::Client,
        via: None,
        copied: Copied::default(),
        edits: &NO_EDITS,
        underscore_headers: UnderscoreHeaders::Drop,
        request_id: "id-1",
        trace: trace(),
        target: "/path?q",
        values: Values::default(),
    }
}

fn received(lines: &str) -> RequestHead {
    let text = format!("GET /path?q HTTP/1.1\r\nHost: Example.com:8443\r\n{lines}\r\n");
    RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

fn answer(status: u16, lines: &str) -> ResponseHead {
    let text = format!("HTTP/1.1 {status} Reason\r\n{lines}\r\n");
    ResponseHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

fn template(value: &str) -> Template {
    let mut template = Template::default();
    template.push_written(value).unwrap();
    template
}

/// What an answer depends on, with these edits.
fn answering(edits: &HeaderEdits) -> ResponseContext<'_> {
    ResponseContext { edits, via: None, hsts: None, set_cookie: None, values: Values::default() }
}

fn edits(set: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
    HeaderEdits {
        set: set.iter().map(|&(name, value)| (name.to_owned(), template(value))).collect(),
        remove: remove.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// The lines as text, with wsgate's own forwarding headers left out where they are not the subject.
fn lines(headers: &Headers) -> Vec<String> {
    const OWN: [&str; 9] = [
        "Host",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "Forwarded",
        "X-Request-Id",
        TRACEPARENT,
    ];
    let others = headers.iter().filter(|(name, _)| !OWN.contains(name));
    others.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
}

fn forwarded(lines: &str, kind: Kind) -> Headers {
    request(&received(lines), kind, &context()).unwrap().head.headers
}

fn one<'a>(headers: &'a Headers, name: &str) -> &'a str {
    let values: Vec<_> = headers.get_all(name).collect();
    assert_eq!(values.len(), 1, "{name}");
    std::str::from_utf8(values[0]).unwrap()
}

#[test]
fn a_plain_request_goes_upstream_as_it_came() {
    let head = received("accept: */*\r\nX-Odd:  a  b \r\nCookie: a=1\r\nCookie: b=2\r\n");
    let forwarded = request(&head, GET, &context()).unwrap();
    assert_eq!(forwarded.head.method, head.method);
    assert_eq!((forwarded.head.target.as_str(), forwarded.head.version), ("/path?q", Version::Http11));
    let expected = ["accept: */*", "X-Odd: a  b", "Cookie: a=1", "Cookie: b=2"];
    assert_eq!(lines(&forwarded.head.headers), expected);
    assert_eq!((forwarded.dropped_underscore, forwarded.dropped_forwarded), (0, 0));
}

#[test]
fn h5_hop_by_hop_headers_are_taken_out() {
    let hops = "Connection: close, X-Mine\r\nX-Mine: 1\r\nx-mine: 2\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: x\r\nTE: gzip\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nProxy-Authorization: Basic x\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\n";
    assert_eq!(lines(&forwarded(hops, GET)), ["X-Kept: 1"]);
    let cx = answering(&NO_EDITS);
    let kind = ResponseKind::Plain { body: BodyFraming::UntilClose, close: false, client: Version::Http11 };
    assert_eq!(lines(&response(&answer(200, hops), kind, &cx).unwrap().headers), ["X-Kept: 1"]);
}

#[test]
fn h5_connection_cannot_take_out_wsgates_own_headers() {
    let headers = forwarded(
        "Connection: X-Forwarded-For, X-Real-IP, Host, Forwarded, X-Request-Id, Content-Length\r\n",
        Kind::Plain { framing: BodyFraming::Length(3) },
    );
    assert_eq!(one(&headers, "X-Forwarded-For"), "192.0.2.7");
    assert_eq!(one(&headers, "X-Real-IP"), "192.0.2.7");
    assert_eq!(one(&headers, "Host"), "Example.com:8443");
    assert_eq!(one(&headers, "X-Request-Id"), "id-1");
    assert_eq!(one(&headers, "Content-Length"), "3");
    assert!(headers.contains("Forwarded"));
}

#[test]
fn h5_connection_cannot_take_out_what_a_message_is_judged_by() {
    let kept = ["Origin: https://a", "Cookie: a", "Authorization: b", "Sec-WebSocket-Key: c"];
    let text = "Connection: Origin, cookie, AUTHORIZATION, Sec-WebSocket-Key\r\n".to_owned();
    let headers = forwarded(&(text + &kept.join("\r\n") + "\r\n"), GET);
    assert_eq!(lines(&headers), kept);
}

#[test]
fn h5_te_trailers_goes_on_and_is_named_in_connection() {
    let headers = forwarded("TE: gzip, Trailers\r\nConnection: TE\r\n", GET);
    assert_eq!(lines(&headers), ["TE: trailers", "Connection: TE"]);
}

#[test]
fn h5_a_connection_header_of_very_many_names_is_refused() {
    let names = |count| format!("Connection: {}\r\n", vec!["x"; count].join(","));
    assert!(request(&received(&names(64)), GET, &context()).is_ok());
    assert_eq!(request(&received(&names(65)), GET, &context()), Err(InvalidHeader::TooManyOptions));
}

#[test]
fn h6_names_with_underscores_are_dropped_and_counted() {
    let head = received("X_Api_Key: 1\r\nX-Api-Key: 2\r\n_: 3\r\n");
    let forwarded = request(&head, GET, &context()).unwrap();
    assert_eq!(lines(&forwarded.head.headers), ["X-Api-Key: 2"]);
    assert_eq!(forwarded.dropped_underscore, 2);
}

#[test]
fn h6_aliases_of_names_that_are_set_are_dropped_always() {
    let edits = edits(&[("X-User", "alice"), ("X_Both", "1")], &["X-Gone"]);
    let cx = RequestContext { edits: &edits, underscore_headers: UnderscoreHeaders::Pass, ..context() };
    let aliases = "x_forwarded_for: 1\r\nX-Forwarded_Proto: 1\r\nX_Real_IP: 1\r\nX_Request_Id: 1\r\n\
        Host_: 1\r\nX_User: mallory\r\nx_gone: 1\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n\
        Sec_WebSocket_Key: 1\r\nX-Both: mallory\r\nX-User: mallory\r\nX_Free: 1\r\n";
    let forwarded = request(&received(aliases), GET, &cx).unwrap();
    assert_eq!(lines(&forwarded.head.headers), ["Host_: 1", "X_Free: 1", "X-User: alice", "X_Both: 1"]);
    assert_eq!(forwarded.dropped_underscore, 9);
}

#[test]
fn h7_what_a_client_says_of_proxies_is_dropped_and_rebuilt() {
    let head = received(
        "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: gopher\r\nX-Forwarded-Prefix: /x\r\n\
        X-Forwarded-Client-Cert: x\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Request-Id: mine\r\n",
    );
    let forwarded = request(&head, GET, &context()).unwrap();
    assert_eq!(forwarded.dropped_forwarded, 6);
    let headers = forwarded.head.headers;
    assert_eq!(lines(&headers), [""; 0]);
    assert_eq!(one(&headers, "X-Forwarded-For"), "192.0.2.7");
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "https");
    assert_eq!(one(&headers, "X-Forwarded-Host"), "Example.com:8443");
    assert_eq!(one(&headers, "X-Forwarded-Port"), "443");
    assert_eq!(one(&headers, "X-Real-IP"), "192.0.2.7");
    assert_eq!(one(&headers, "X-Request-Id"), "id-1");
    assert_eq!(one(&headers, "Forwarded"), "for=192.0.2.7;proto=https;host=\"Example.com:8443\"");
    assert_eq!(one(&headers, TRACEPARENT), trace().parent());
    assert_eq!(headers.len(), 9);
}

#[test]
fn h7_addresses_are_written_as_their_headers_want_them() {
    let with = |client_ip| {
        let cx = RequestContext { client_ip, https: false, listener_port: None, ..context() };
        let mut head = received("");
        head.headers.set("Host", b"example.com").unwrap();
        request(&head, GET, &cx).unwrap().head.headers
    };
    let six = with(Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))));
    assert_eq!(one(&six, "X-Forwarded-For"), "2001:db8::1");
    assert_eq!(one(&six, "Forwarded"), "for=\"[2001:db8::1]\";proto=http;host=example.com");
    let mapped = with(Some(IpAddr::V6(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped())));
    assert_eq!(one(&mapped, "X-Real-IP"), "192.0.2.7");
    let unix = with(None);
    assert!(
        !unix.contains("X-Forwarded-For")
            && !unix.contains("X-Real-IP")
            && !unix.contains("X-Forwarded-Port")
    );
    assert_eq!(one(&unix, "Forwarded"), "for=unknown;proto=http;host=example.com");
}

#[test]
fn h7_a_host_cannot_leave_its_quotes() {
    let mut head = received("");
    head.headers.set("Host", b"a\";for=1.1.1.1\\").unwrap();
    let headers = request(&head, GET, &context()).unwrap().head.headers;
    assert_eq!(one(&headers, "Forwarded"), r#"for=192.0.2.7;proto=https;host="a\";for=1.1.1.1\\""#);
}

#[test]
fn h8_host_goes_first_and_as_the_route_says() {
    let host = |host_header: &HostHeader| {
        let cx = RequestContext { host_header, ..context() };
        let headers = request(&received("X: y\r\n"), GET, &cx).unwrap().head.headers;
        let (name, value) = headers.iter().next().unwrap();
        assert_eq!((name, headers.get_all("host").count()), ("Host", 1));
        String::from_utf8(value.to_vec()).unwrap()
    };
    assert_eq!(host(&HostHeader::Client), "Example.com:8443");
    assert_eq!(host(&HostHeader::Upstream), "10.0.0.2:8080");
    assert_eq!(host(&HostHeader::Literal("internal".to_owned())), "internal");
}

#[test]
fn h8_a_client_of_http_1_0_without_host_gets_the_upstreams() {
    let text = b"GET / HTTP/1.0\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n";
    let (head, _) = RequestHead::parse(text, &HeadLimits::default()).unwrap().unwrap();
    let forwarded = request(&head, GET, &context()).unwrap().head;
    assert_eq!(forwarded.version, Version::Http11);
    assert_eq!(one(&forwarded.headers, "Host"), "10.0.0.2:8080");
    assert!(!forwarded.headers.contains("X-Forwarded-Host"));
    assert_eq!(one(&forwarded.headers, "Forwarded"), "for=192.0.2.7;proto=https");
    assert_eq!(lines(&forwarded.headers), [""; 0]);
}

#[test]
fn h11_expect_passes() {
    assert_eq!(lines(&forwarded("Expect: 100-continue\r\n", GET)), ["Expect: 100-continue"]);
}

#[test]
fn h1_framing_is_written_by_wsgate() {
    let with = |framing| lines(&forwarded("Content-Length: 007\r\n", Kind::Plain { framing }));
    assert_eq!(with(BodyFraming::Length(7)), ["Content-Length: 7"]);
    assert_eq!(with(BodyFraming::Length(0)), ["Content-Length: 0"]);
    assert_eq!(with(BodyFraming::Chunked), ["Transfer-Encoding: chunked"]);
    assert_eq!(with(BodyFraming::Empty), [""; 0]);
}

#[test]
fn h13_nothing_with_a_line_break_is_written() {
    let split = "a\r\nX-Evil: 1";
    let set = edits(&[("X", split)], &[]);
    let host = HostHeader::Literal(split.to_owned());
    for cx in [
        RequestContext { request_id: split, ..context() },
        RequestContext { via: Some(split), ..context() },
        RequestContext { edits: &set, ..context() },
        RequestContext { host_header: &host, ..context() },
    ] {
        assert_eq!(request(&received(""), GET, &cx), Err(InvalidHeader::Value));
    }
    let cx = ResponseContext { hsts: Some(split), ..answering(&NO_EDITS) };
    let kind = ResponseKind::Plain { body: BodyFraming::Empty, close: false, client: Version::Http11 };
    assert_eq!(response(&answer(200, ""), kind, &cx), Err(InvalidHeader::Value));
}

const OFFER: &str =
    "connection: keep-alive, Upgrade\r\nupgrade: h2c, WebSocket, TLS/1.0\r\nHTTP2-Settings: AAA\r\n";

#[test]
fn w6_a_handshake_goes_upstream_with_exactly_one_upgrade() {
    let headers = forwarded(OFFER, Kind::Handshake);
    assert_eq!(lines(&headers), ["Upgrade: websocket", "Connection: Upgrade"]);
}

#[test]
fn w6_no_upgrade_goes_upstream_with_a_plain_request() {
    assert_eq!(lines(&forwarded(OFFER, GET)), [""; 0]);
}

#[test]
fn w13_what_the_handshake_and_its_owner_say_passes_unchanged() {
    let same = "Sec-WebSocket-Protocol: graphql-ws, chat\r\nSec-WebSocket-Protocol: c\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Origin: https://example.com\r\nCookie: a=\"b\"; c=d\r\nAuthorization: Bearer x\r\n\
        X-Unknown: \u{e9}\r\n";
    let ours = forwarded(&format!("Content-Length: 0\r\nTE: trailers\r\n{same}"), Kind::Handshake);
    let mut expected = lines(&received(same).headers);
    expected.extend(["Upgrade: websocket".to_owned(), "Connection: Upgrade".to_owned()]);
    assert_eq!(lines(&ours), expected);
}

#[test]
fn b5_the_handshakes_names_go_on_in_their_usual_case() {
    let text = "sec-websocket-key: k\r\nSEC-WEBSOCKET-VERSION: 13\r\nsec-websocket-protocol: p\r\n\
        Sec-Websocket-Extensions: e\r\nsec-websocket-other: o\r\n";
    let expected = [
        "Sec-WebSocket-Key: k",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: p",
        "Sec-WebSocket-Extensions: e",
        "sec-websocket-other: o",
        "Upgrade: websocket",
        "Connection: Upgrade",
    ];
    assert_eq!(lines(&forwarded(text, Kind::Handshake)), expected);
}

#[test]
fn via_is_a_line_of_its_own_with_the_version_received() {
    let cx = RequestContext { via: Some("gate"), ..context() };
    let mut head = received("Via: 1.1 first\r\n");
    head.version = Version::Http10;
    assert_eq!(lines(&request(&head, GET, &cx).unwrap().head.headers), ["Via: 1.1 first", "Via: 1.0 gate"]);
}

#[test]
fn edits_come_after_forwarding_headers_and_before_framing() {
    let edits = edits(
        &[("X-Forwarded-Proto", "https"), ("Content-Length", "9"), ("Connection", "x"), ("Host", "evil")],
        &["X-Real-IP", "Transfer-Encoding", "cookie", "Sec-WebSocket-Key", "host"],
    );
    let cx = RequestContext { https: false, edits: &edits, ..context() };
    let head = received("Cookie: a\r\nSec-WebSocket-Key: k\r\n");
    let headers = request(&head, Kind::Plain { framing: BodyFraming::Chunked }, &cx).unwrap().head.headers;
    assert_eq!(lines(&headers), ["Sec-WebSocket-Key: k", "Transfer-Encoding: chunked"]);
    assert_eq!(one(&headers, "X-Forwarded-Proto"), "https");
    assert_eq!(one(&headers, "Host"), "Example.com:8443");
    assert!(!headers.contains("X-Real-IP"));
}

#[test]
fn s7_debug_shows_no_value_that_a_route_sets() {
    let shown = format!("{:?}", edits(&[("Authorization", "hunter2")], &["X-Gone"]));
    assert!(
        shown.contains("Authorization") && shown.contains("X-Gone") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn the_proxy_header_never_reaches_a_cgi_backend() {
    assert_eq!(lines(&forwarded("Proxy: http://evil\r\n", GET)), [""; 0]);
}

fn plain(head: &ResponseHead, body: BodyFraming, close: bool, client: Version) -> Vec<String> {
    let cx = answering(&NO_EDITS);
    let answer = response(head, ResponseKind::Plain { body, close, client }, &cx).unwrap();
    assert_eq!((answer.version, answer.status, &answer.reason), (Version::Http11, head.status, &head.reason));
    lines(&answer.headers)
}

#[test]
fn h10_a_response_is_framed_as_it_goes_to_the_client() {
    let head = answer(200, "Server: x\r\nContent-Length: 5\r\n");
    let with = |body| plain(&head, body, false, Version::Http11);
    assert_eq!(with(BodyFraming::Length(5)), ["Server: x", "Content-Length: 5"]);
    assert_eq!(with(BodyFraming::Chunked), ["Server: x", "Transfer-Encoding: chunked"]);
    assert_eq!(with(BodyFraming::UntilClose), ["Server: x"]);
}

#[test]
fn h10_head_and_304_tell_the_length_of_another_answer() {
    let with = |status| {
        let head = answer(status, "Content-Length: 5\r\n");
        plain(&head, BodyFraming::Empty, false, Version::Http11)
    };
    assert_eq!(with(200), ["Content-Length: 5"]);
    assert_eq!(with(304), ["Content-Length: 5"]);
    assert_eq!(with(204), [""; 0]);
}

#[test]
fn connection_says_what_becomes_of_it() {
    let head = answer(200, "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n");
    let with = |close, client| plain(&head, BodyFraming::Empty, close, client);
    assert_eq!(with(true, Version::Http11), ["Connection: close"]);
    assert_eq!(with(true, Version::Http10), ["Connection: close"]);
    assert_eq!(with(false, Version::Http10), ["Connection: keep-alive"]);
    assert_eq!(with(false, Version::Http11), [""; 0]);
}

#[test]
fn w10_a_refusal_of_an_offer_goes_on_as_it_is() {
    let head = answer(401, "WWW-Authenticate: Basic realm=\"x\"\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n");
    let lines = plain(&head, BodyFraming::Length(2), true, Version::Http11);
    let expected = [
        "WWW-Authenticate: Basic realm=\"x\"",
        "Set-Cookie: a",
        "Set-Cookie: b",
        "Content-Length: 2",
        "Connection: close",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn w3_a_backends_426_keeps_its_upgrade_to_websocket_alone() {
    let with = |upgrade| {
        let head = answer(426, &format!("Upgrade: {upgrade}\r\nConnection: upgrade\r\n"));
        plain(&head, BodyFraming::Empty, true, Version::Http11)
    };
    assert_eq!(with("WebSocket"), ["Upgrade: websocket", "Connection: Upgrade, close"]);
    assert_eq!(with("TLS/1.2"), ["Connection: close"]);
}

#[test]
fn w13_a_101_keeps_what_was_agreed() {
    let head = answer(
        101,
        "upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nsec-websocket-accept: x=\r\n\
        Sec-WebSocket-Protocol: chat\r\nsec-websocket-extensions: permessage-deflate\r\nSet-Cookie: a\r\n\
        Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    );
    let cx = answering(&NO_EDITS);
    let expected = [
        "Sec-WebSocket-Accept: x=",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Set-Cookie: a",
        "Upgrade: websocket",
        "Connection: Upgrade",
    ];
    assert_eq!(lines(&response(&head, ResponseKind::Upgraded, &cx).unwrap().headers), expected);
}

#[test]
fn w11_an_interim_answer_has_no_framing_and_nothing_set() {
    let edits = edits(&[("X-Set", "1")], &["X-Gone"]);
    let cx = ResponseContext { via: Some("gate"), hsts: Some("max-age=1"), ..answering(&edits) };
    let head = answer(103, "Link: </a>\r\nX-Gone: 1\r\nContent-Length: 5\r\nConnection: close\r\n");
    assert_eq!(lines(&response(&head, ResponseKind::Interim, &cx).unwrap().headers), ["Link: </a>"]);
}

#[test]
fn a_response_is_edited_by_its_route() {
    let edits = edits(&[("X-Set", "1")], &["Server"]);
    let cx = ResponseContext { via: Some("gate"), hsts: Some("max-age=1"), ..answering(&edits) };
    let kind = ResponseKind::Plain { body: BodyFraming::Length(1), close: false, client: Version::Http11 };
    let head = answer(200, "Server: x\r\nx-set: 0\r\nStrict-Transport-Security: max-age=0\r\n");
    let expected = ["Via: 1.1 gate", "Strict-Transport-Security: max-age=1", "X-Set: 1", "Content-Length: 1"];
    assert_eq!(lines(&response(&head, kind, &cx).unwrap().headers), expected);
}

#[test]
fn h4_trailers_pass_unless_they_may_not_or_the_route_decides_about_them() {
    let mut received = Headers::new();
    for name in ["Server-Timing", "Content-Length", "X-User", "X-Sum", "cf-connecting-ip"] {
        received.append(name, b"1").unwrap();
    }
    let edits = edits(&[("X-User", "alice")], &[]);
    let rules = TrailerRules { edits: &edits, client_ip_header: Some("CF-Connecting-IP") };
    assert_eq!(lines(&trailers(&received, rules)), ["Server-Timing: 1", "X-Sum: 1"]);
}

proptest! {
    #[test]
    fn h5_no_client_forges_what_wsgate_writes(
        names in prop::collection::vec(prop::sample::select(vec![
            "Connection", "connection", "X-Forwarded-For", "x_forwarded_for", "Content-Length",
            "Transfer-Encoding", "Upgrade", "TE", "X-Other", "Host", "Trailer", "X-Real-IP", "Forwarded",
            "Keep-Alive",
        ]), 0..12),
        values in prop::collection::vec(prop::sample::select(vec![
            "close", "X-Forwarded-For, Host", "Forwarded", "chunked", "evil", "trailers", "websocket",
            "upgrade",
        ]), 12),
        handshake: bool,
        pass: bool,
    ) {
        let mut head = received("");
        for (name, value) in names.iter().zip(&values) {
            head.headers.append(name, value.as_bytes()).unwrap();
        }
        let underscore_headers = if pass { UnderscoreHeaders::Pass } else { UnderscoreHeaders::Drop };
        let kind = if handshake { Kind::Handshake } else { Kind::Plain { framing: BodyFraming::Length(1) } };
        let cx = RequestContext { underscore_headers, ..context() };
        let headers = request(&head, kind, &cx).unwrap().head.headers;
        for name in ["X-Forwarded-For", "X-Real-IP"] {
            prop_assert_eq!(one(&headers, name), "192.0.2.7");
        }
        prop_assert_eq!(one(&headers, "Host"), "Example.com:8443");
        prop_assert_eq!(headers.get_all("forwarded").count(), 1);
        prop_assert!(!headers.contains("transfer-encoding") && !headers.contains("x_forwarded_for"));
        prop_assert!(!headers.contains("trailer") && !headers.contains("keep-alive"));
        prop_assert_eq!(headers.get("content-length"), (!handshake).then_some(&b"1"[..]));
        prop_assert_eq!(headers.get("upgrade"), handshake.then_some(&b"websocket"[..]));
    }
}

#[test]
fn a_cookie_of_wsgates_own_stands_beside_those_of_the_backend() {
    let edits = edits(&[("Set-Cookie", "route=1")], &["set-cookie"]);
    let backend = "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: set-cookie\r\n";
    let own = "srv=1; Path=/";
    let plain = ResponseKind::Plain { body: BodyFraming::Empty, close: false, client: Version::Http11 };
    let cookies = |status, lines, kind, edits| {
        let cx = ResponseContext { set_cookie: Some(own), ..answering(edits) };
        let passed = response(&answer(status, lines), kind, &cx).unwrap().headers;
        let values = passed.get_all("set-cookie").map(|value| String::from_utf8_lossy(value).into_owned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(cookies(200, "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", plain, &NO_EDITS), ["a=1", "b=2", own]);
    assert_eq!(cookies(200, backend, plain, &NO_EDITS), [own]);
    assert_eq!(cookies(200, backend, plain, &edits), ["route=1", own]);
    assert_eq!(cookies(101, "", ResponseKind::Upgraded, &NO_EDITS), [own]);
    assert!(cookies(103, "", ResponseKind::Interim, &NO_EDITS).is_empty());
}

#[test]
fn h13_a_cookie_that_cannot_be_written_is_an_error() {
    let cx = ResponseContext { set_cookie: Some("srv=1\r\nX: injected"), ..answering(&NO_EDITS) };
    assert!(response(&answer(101, ""), ResponseKind::Upgraded, &cx).is_err());
}
