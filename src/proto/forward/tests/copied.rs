//! Questions to a server about a request, and what of its answer goes into the request.

use super::*;

const NAMES: [&str; 3] = ["X-User", "Remote_Groups", "X-Real-IP"];

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).into()
}

fn with(client: &str, answered: Option<&str>, underscore_headers: UnderscoreHeaders) -> Headers {
    let (names, answered) = (names(), answered.map(|lines| answer(200, lines)));
    let copied =
        Copied { names: &names, from: answered.as_ref().map(|answer| &answer.headers), ..Copied::default() };
    let cx = RequestContext { copied, underscore_headers, ..context() };
    request(&received(client), Kind::Handshake, &cx).unwrap().head.headers
}

#[test]
fn h6_what_is_copied_is_never_the_clients_under_any_alias() {
    let forged = "X-User: root\r\nx_user: root\r\nX_USER: root\r\nremote-groups: root\r\nREMOTE_GROUPS: root\r\n\
        X_Real_IP: root\r\nX-Real-IP: root\r\nConnection: X-User, Remote-Groups\r\n";
    for underscores in [UnderscoreHeaders::Drop, UnderscoreHeaders::Pass] {
        let headers =
            with(forged, Some("x-user: ali\r\nREMOTE_GROUPS: a\r\nRemote_groups: b\r\n"), underscores);
        assert_eq!(one(&headers, "X-User"), "ali");
        assert_eq!(headers.get_all("remote_groups").collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(!headers.iter().any(|(_, value)| value == b"root"), "{headers:?}");
        // wsgate's own stays where the answer has none.
        assert_eq!(one(&headers, "X-Real-IP"), "192.0.2.7");
        for answered in [None, Some("X-Other: 1\r\n")] {
            let headers = with(forged, answered, underscores);
            assert!(!headers.contains("x-user") && !headers.contains("remote_groups"), "{headers:?}");
            assert!(!headers.contains("remote-groups") && !headers.contains("x-other"), "{headers:?}");
        }
    }
}

#[test]
fn h7_what_is_copied_is_no_trusted_proxys_either() {
    let names = ["X-Forwarded-User".to_owned()];
    let trusted = crate::proto::network::Peers { unix: true, ..Default::default() };
    let proxy = Some(Proxy { ip: None, tls: false, trusted: &trusted });
    let cx = RequestContext { copied: Copied { names: &names, ..Copied::default() }, proxy, ..context() };
    let lines = "X-Forwarded-User: root\r\nX_Forwarded_User: root\r\nX-Forwarded-Uri: /x\r\nX-Forwarded-Method: PUT\r\n";
    let asked = question(&received(lines), "/path", &cx).unwrap();
    assert_eq!(
        (one(&asked.headers, "X-Forwarded-Uri"), one(&asked.headers, "X-Forwarded-Method")),
        ("/path", "GET")
    );
    for headers in [asked.headers, request(&received(lines), GET, &cx).unwrap().head.headers] {
        assert!(!headers.iter().any(|(_, value)| value == b"root"), "{headers:?}");
    }
}

#[test]
fn edits_that_tell_of_a_request_are_those_with_placeholders() {
    let mut all = edits(&[("Authorization", "Bearer backend")], &["Cookie"]);
    let mut subject = Template::default();
    subject.push_written("<{tls.client.subject}>").unwrap();
    all.set.push(("X-Subject".to_owned(), subject.clone()));
    let about = all.about_request();
    assert!(about.set == [("X-Subject".to_owned(), subject)] && about.remove.is_empty());
}

#[test]
fn what_is_copied_replaces_wsgates_own_and_yields_to_the_route() {
    let names = names();
    let from = answer(200, "X-Real-IP: 198.51.100.1\r\nX-User: ali\r\n").headers;
    let edits = edits(&[("X-User", "fixed")], &[]);
    let copied = Copied { names: &names, from: Some(&from), ..Copied::default() };
    let cx = RequestContext { copied, edits: &edits, ..context() };
    let headers = request(&received(""), GET, &cx).unwrap().head.headers;
    assert_eq!((one(&headers, "X-Real-IP"), one(&headers, "X-User")), ("198.51.100.1", "fixed"));
}

#[test]
fn what_frames_or_upgrades_a_message_is_never_copied() {
    let names: Vec<_> =
        ["Content-Length", "Connection", "Host", "Sec-WebSocket-Key"].map(str::to_owned).into();
    let lines = "Content-Length: 7\r\nConnection: x\r\nHost: evil\r\nSec-WebSocket-Key: x\r\n";
    let from = answer(200, lines).headers;
    let cx = RequestContext {
        copied: Copied { names: &names, from: Some(&from), ..Copied::default() },
        ..context()
    };
    let headers = request(&received("Connection: Upgrade\r\n"), Kind::Handshake, &cx).unwrap().head.headers;
    assert_eq!((one(&headers, "Host"), one(&headers, "Connection")), ("Example.com:8443", "Upgrade"));
    assert!(!headers.contains("content-length") && !headers.contains("sec-websocket-key"));
}

#[test]
fn a_question_tells_what_it_is_about_and_nothing_that_is_not_its_own() {
    let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec_WebSocket_Key: x\r\n\
        Sec-WebSocket-Protocol: x\r\nContent-Length: 3\r\nContent-Type: x\r\nTE: trailers\r\nExpect: 100-continue\r\n\
        If-Match: x\r\nIf-Modified-Since: x\r\nRange: x\r\nX-Forwarded-Uri: /x\r\nx-forwarded-method: x\r\n\
        X-Original-URL: /x\r\nx-original-uri: /x\r\nX-Original_Method: x\r\nX-Rewrite-URL: /x\r\n\
        Transfer-Encoding: chunked\r\nCookie: a\r\nAuthorization: b\r\nOrigin: c\r\nAccept-Encoding: gzip\r\n";
    let mut head = received(lines);
    head.method = Method::new("PROPFIND").unwrap();
    let cx = RequestContext {
        underscore_headers: UnderscoreHeaders::Pass,
        host_header: &HostHeader::Upstream,
        target: "/verify",
        ..context()
    };
    let asked = question(&head, "/path?q", &cx).unwrap();
    assert_eq!((&asked.method, asked.target.as_str()), (&Method::GET, "/verify"));
    let expected = [
        "Cookie: a",
        "Authorization: b",
        "Origin: c",
        "Accept-Encoding: gzip",
        "X-Forwarded-Method: PROPFIND",
        "X-Forwarded-Uri: /path?q",
    ];
    assert_eq!(self::lines(&asked.headers), expected);
    assert_eq!(one(&asked.headers, "Host"), "10.0.0.2:8080");
    assert_eq!(one(&asked.headers, "X-Forwarded-Host"), "Example.com:8443");
}

#[test]
fn h13_a_question_is_about_a_uri_that_can_be_written() {
    assert!(question(&received(""), "/a\r\nX-Forwarded-For: 6.6.6.6", &context()).is_err());
}

#[test]
fn a_question_has_the_credentials_that_its_answer_is_to_replace() {
    let names = ["Authorization", "cookie", "X-User"].map(str::to_owned);
    let cx = RequestContext { copied: Copied { names: &names, ..Copied::default() }, ..context() };
    let head = received("Authorization: Bearer good\r\nCookie: s=good\r\nX-User: root\r\n");
    let asked = question(&head, "/path", &cx).unwrap().headers;
    assert_eq!((one(&asked, "Authorization"), one(&asked, "Cookie")), ("Bearer good", "s=good"));
    assert!(!asked.contains("X-User"));
    let passed = request(&head, GET, &cx).unwrap().head.headers;
    assert!(!passed.contains("Authorization") && !passed.contains("Cookie"), "{passed:?}");
}
