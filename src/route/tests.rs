use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::proto::head::{HeadLimits, RequestHead};

fn head(text: &str) -> RequestHead {
    RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

fn target(start_line: &str, lines: &[&str]) -> Result<Target, TargetError> {
    let mut text = format!("{start_line}\r\n");
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    Target::parse(&head(&format!("{text}\r\n")))
}

fn host_of(host: &str) -> Result<String, TargetError> {
    target("GET / HTTP/1.1", &[&format!("Host: {host}")]).map(|target| target.host().to_owned())
}

fn normal(path: &str) -> String {
    NormalPath::parse(path).unwrap().into_text()
}

fn is_bad_host<T>(result: Result<T, TargetError>) -> bool {
    matches!(result.err(), Some(TargetError::BadHost(_)))
}

fn is_malformed<T>(result: Result<T, TargetError>) -> bool {
    matches!(result.err(), Some(TargetError::Malformed(_)))
}

fn offer(subprotocols: &str) -> Offer {
    let text = format!(
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {subprotocols}\r\n\r\n"
    );
    Offer::from_head(&head(&text)).unwrap().unwrap()
}

fn matcher(host: &str, path: &str) -> Matcher {
    Matcher {
        hosts: vec![host.parse().unwrap()],
        paths: vec![path.parse().unwrap()],
        subprotocol: None,
        kind: RouteKind::Any,
    }
}

fn find(table: &RouteTable, host: &str, path: &str) -> Found {
    table.find(host, &NormalPath::parse(path).unwrap(), None)
}

#[test]
fn h3_exactly_one_host_in_1_1() {
    assert!(is_bad_host(target("GET / HTTP/1.1", &[])));
    assert!(is_bad_host(target("GET / HTTP/1.1", &["Host: a", "Host: a"])));
    assert!(is_bad_host(target("GET / HTTP/1.0", &["Host: a", "Host: b"])));
    let without = target("GET / HTTP/1.0", &[]).unwrap();
    assert_eq!((without.host(), without.authority()), ("", ""));
}

#[test]
fn h3_valid_hosts_and_their_matching_form() {
    for (host, expected) in [
        ("Chat.Example.COM", "chat.example.com"),
        ("chat.example.com:8443", "chat.example.com"),
        ("chat.example.com.", "chat.example.com"),
        ("chat.example.com.:80", "chat.example.com"),
        ("compose_web_1:3000", "compose_web_1"),
        ("192.168.1.141:80", "192.168.1.141"),
        ("[::1]:8080", "[::1]"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("a:65535", "a"),
        ("a:0", "a"),
        ("a:", "a"),
    ] {
        assert_eq!(host_of(host), Ok(expected.to_owned()), "{host}");
    }
}

#[test]
fn h3_invalid_hosts() {
    let long = "a".repeat(254);
    for host in [
        "",
        ":80",
        ".",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "a@b",
        "a,b",
        "a%41",
        "a\"",
        "a:b",
        "a:+1",
        "a:65536",
        "a:1:2",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]]",
        "[fe80::1%eth0]",
        "[a]",
        "é",
        "a?",
        "a#",
        "a\\b",
        &long,
    ] {
        assert!(is_bad_host(host_of(host)), "{host:?}");
    }
}

#[test]
fn h3_absolute_form_agrees_with_host() {
    let parsed = |host: &str| target("GET http://Example.com:80/a?b HTTP/1.1", &[&format!("Host: {host}")]);
    for host in ["example.com", "example.com:80", "EXAMPLE.com."] {
        let target = parsed(host).unwrap();
        assert_eq!((target.host(), target.authority()), ("example.com", host));
        assert_eq!((target.origin_form(), target.raw_path(), target.query()), ("/a?b", "/a", Some("b")));
    }
    for host in ["example.org", "example.com:8080", "example.com:443"] {
        assert!(is_bad_host(parsed(host)), "{host}");
    }
    assert!(is_bad_host(target("GET http://user@a/ HTTP/1.1", &["Host: a"])));
    assert!(is_bad_host(target("GET http:///x HTTP/1.1", &["Host: a"])));
    assert!(is_bad_host(target("GET http://a/ HTTP/1.1", &[])), "Host is needed all the same");
    assert_eq!(target("GET wss://a:443/ HTTP/1.1", &["Host: a"]).unwrap().origin_form(), "/");
    assert_eq!(target("GET http://a:81/x HTTP/1.0", &[]).unwrap().authority(), "a:81");
}

#[test]
fn h3_absolute_form_without_a_path() {
    let origin_form = |start_line| target(start_line, &["Host: a"]).unwrap().origin_form().to_owned();
    assert_eq!(origin_form("GET http://a HTTP/1.1"), "/");
    assert_eq!(origin_form("GET http://a?q=/ HTTP/1.1"), "/?q=/");
    assert_eq!(origin_form("OPTIONS http://a HTTP/1.1"), "*");
}

#[test]
fn h3_authority_form_and_asterisk_form() {
    assert_eq!(target("CONNECT a:443 HTTP/1.1", &["Host: a:443"]), Err(TargetError::Method));
    assert_eq!(target("CONNECT / HTTP/1.1", &[]), Err(TargetError::Method));
    assert!(is_malformed(target("GET a:443 HTTP/1.1", &["Host: a:443"])));
    assert!(is_malformed(target("GET * HTTP/1.1", &["Host: a"])));
    let options = target("OPTIONS * HTTP/1.1", &["Host: a"]).unwrap();
    assert_eq!((options.origin_form(), options.raw_path(), options.query()), ("*", "*", None));
}

#[test]
fn h3_other_targets_are_malformed() {
    for start_line in ["GET a/b HTTP/1.1", "GET ftp://a/ HTTP/1.1", "GET ?a HTTP/1.1"] {
        assert!(is_malformed(target(start_line, &["Host: a"])), "{start_line}");
    }
}

#[test]
fn h9_dot_segments_nul_and_backslash_are_refused() {
    for path in [
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/a/..",
        "/%2e%2E/a",
        "/.%2e/a",
        "/..;/a",
        "/..;x=1/a",
        "/.;/",
        "/%2e%2e%3Bx/",
        "/a/..%2Fb",
        "/a%2f..",
        "/a%2F.;%2Fb",
        "/a%00b",
        "/a\\b",
        "/a%5Cb",
        "/a%5c..",
        "/%",
        "/%4",
        "/%zz",
        "/a%2",
        "/%+1",
    ] {
        let result = target(&format!("GET {path} HTTP/1.1"), &["Host: a"]);
        assert!(matches!(result, Err(TargetError::BadPath(_))), "{path}");
    }
}

#[test]
fn h9_harmless_dots_and_the_query_pass() {
    for path in
        ["/...", "/.well-known/x", "/a..b", "/a.", "/..a", "/a;../b", "/a?x=/../%00\\%zz", "/%252e%252e/"]
    {
        let parsed = target(&format!("GET {path} HTTP/1.1"), &["Host: a"]);
        assert_eq!(parsed.map(|target| target.origin_form().to_owned()), Ok(path.to_owned()));
    }
}

#[test]
fn h9_matching_form_is_decoded_with_slashes_merged() {
    for (raw, expected) in [
        ("/", "/"),
        ("//", "/"),
        ("//a///b//", "/a/b/"),
        ("/%63h%61t", "/chat"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%252Fb", "/a%252Fb"),
        ("/a%2F/%2Fb", "/a%2F/%2Fb"),
        ("/a%20b%3Fc%2a", "/a b?c*"),
        ("/caf%c3%A9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/%0d%7F", "/%0D%7F"),
    ] {
        assert_eq!(normal(raw), expected, "{raw}");
    }
}

#[test]
fn h9_the_path_is_kept_byte_by_byte() {
    let parsed = target("GET //a/%7e%2F/?x=%zz&y=? HTTP/1.1", &["Host: a"]).unwrap();
    assert_eq!(parsed.origin_form(), "//a/%7e%2F/?x=%zz&y=?");
    assert_eq!((parsed.raw_path(), parsed.query()), ("//a/%7e%2F/", Some("x=%zz&y=?")));
    assert_eq!(parsed.normal_path().as_str(), "/a/~%2F/");
}

#[test]
fn h9_strip_prefix_maps_back_to_the_raw_bytes() {
    for (raw, prefix, expected) in [
        ("/chat/room", "/chat", Some("/room")),
        ("/chat/room", "/chat/", Some("/room")),
        ("/chat", "/chat", Some("/")),
        ("/chat/", "/chat", Some("/")),
        ("/chat?x=/chat", "/chat", Some("/?x=/chat")),
        ("/chat//room//x?y//z", "/chat", Some("/room//x?y//z")),
        ("//chat/room", "/chat", Some("/room")),
        ("/ch%61t/r%6Fom%2Fx", "/chat", Some("/r%6Fom%2Fx")),
        ("/a/b/c", "/a//b", Some("/c")),
        ("/é/x", "/%c3%a9", Some("/x")),
        ("//a", "", Some("/a")),
        ("/a", "/", Some("/a")),
        ("/chatter", "/chat", None),
        ("/chat%2Froom", "/chat", None),
        ("/cha", "/chat", None),
        ("/x/chat", "/chat", None),
        ("/é", "/%C3", None),
        ("*", "/chat", None),
    ] {
        assert_eq!(strip_prefix(raw, prefix).as_deref(), expected, "{raw} without {prefix}");
    }
}

#[test]
fn patterns_are_parsed_or_refused_in_words() {
    assert_eq!("*".parse(), Ok(HostPattern::Any));
    assert_eq!("Chat.Example.com".parse(), Ok(HostPattern::Exact("chat.example.com".into())));
    assert_eq!("*.Example.com".parse(), Ok(HostPattern::Suffix("example.com".into())));
    assert_eq!("[::0001]".parse(), Ok(HostPattern::Exact("[::1]".into())));
    for host in ["", "a:80", "::1", "*.", "*.*", "a.*", "*a", "*.[::1]", "a/b"] {
        assert!(host.parse::<HostPattern>().is_err(), "{host}");
    }
    assert_eq!("/chat".parse(), Ok(PathPattern::Exact("/chat".into())));
    assert_eq!("/chat/*".parse(), Ok(PathPattern::Prefix("/chat".into())));
    assert_eq!("/chat//*".parse(), Ok(PathPattern::Prefix("/chat".into())));
    assert_eq!("/*".parse(), Ok(PathPattern::Prefix(String::new())));
    assert_eq!("/a b/%2a".parse(), Ok(PathPattern::Exact("/a b/*".into())));
    for path in ["", "*", "chat", "/chat*", "/*/chat", "/a/../b", "/a?b", "/100%", "/a\\b"] {
        assert!(path.parse::<PathPattern>().is_err(), "{path}");
    }
}

#[test]
fn the_first_route_of_the_file_wins() {
    let table = RouteTable::new(vec![
        matcher("*.example.com", "/chat/*"),
        matcher("chat.example.com", "/*"),
        matcher("*", "/chat"),
        matcher("chat.example.com", "/chat"),
    ]);
    assert_eq!(find(&table, "chat.example.com", "/chat"), Found::Route(0));
    assert_eq!(find(&table, "a.b.example.com", "/chat/room"), Found::Route(0));
    assert_eq!(find(&table, "chat.example.com", "/other"), Found::Route(1));
    assert_eq!(find(&table, "example.com", "/chat"), Found::Route(2), "a wildcard leaves its parent out");
    assert_eq!(find(&table, "", "/chat"), Found::Route(2));
    assert_eq!(find(&table, "example.com", "/chat/"), Found::None);
    assert_eq!(find(&table, "badexample.com", "/chat/room"), Found::None);
}

#[test]
fn a_prefix_ends_at_a_segment() {
    let table = RouteTable::new(vec![matcher("*", "/chat/*")]);
    for path in ["/chat", "/chat/", "/chat/a/b", "//chat//a", "/ch%61t"] {
        assert_eq!(find(&table, "a", path), Found::Route(0), "{path}");
    }
    for path in ["/", "/chatter", "/chat%2Fa", "/a/chat", "*"] {
        assert_eq!(find(&table, "a", path), Found::None, "{path}");
    }
    let all = RouteTable::new(vec![matcher("*", "/*")]);
    assert_eq!(find(&all, "a", "*"), Found::Route(0));
    assert_eq!(find(&all, "a", "/"), Found::Route(0));
}

#[test]
fn kind_and_subprotocol_select() {
    let of_kind = |kind, subprotocol: Option<&str>| Matcher {
        kind,
        subprotocol: subprotocol.map(str::to_owned),
        ..matcher("*", "/*")
    };
    let path = NormalPath::parse("/").unwrap();
    let table = RouteTable::new(vec![
        of_kind(RouteKind::Any, Some("mqtt")),
        of_kind(RouteKind::Websocket, None),
        of_kind(RouteKind::Http, None),
    ]);
    assert_eq!(table.find("a", &path, None), Found::Route(2));
    assert_eq!(table.find("a", &path, Some(&offer("chat"))), Found::Route(1));
    assert_eq!(table.find("a", &path, Some(&offer("chat, mqtt"))), Found::Route(0));
    assert_eq!(table.find("a", &path, Some(&offer("MQTT"))), Found::Route(1));
}

#[test]
fn upgrade_is_required_only_if_kind_alone_stood_in_the_way() {
    let websocket = Matcher { kind: RouteKind::Websocket, ..matcher("a", "/chat") };
    let mqtt = Matcher { subprotocol: Some("mqtt".into()), ..matcher("a", "/mqtt") };
    let http = Matcher { kind: RouteKind::Http, ..matcher("a", "/http") };
    let table = RouteTable::new(vec![websocket, mqtt, http]);
    assert_eq!(find(&table, "a", "/chat"), Found::UpgradeRequired);
    assert_eq!(find(&table, "b", "/chat"), Found::None);
    assert_eq!(find(&table, "a", "/other"), Found::None);
    assert_eq!(find(&table, "a", "/mqtt"), Found::None);
    let path = NormalPath::parse("/http").unwrap();
    assert_eq!(table.find("a", &path, Some(&offer("mqtt"))), Found::None);
}

#[test]
fn of_ten_thousand_routes_only_those_that_share_a_pattern_are_tried() {
    let numbers = 0..10_000;
    let by_host = numbers.clone().map(|number| matcher(&format!("h{number}.example.com"), "/*"));
    let by_path = numbers.map(|number| matcher("*", &format!("/service{number}/*")));
    let table = RouteTable::new(by_host.chain(by_path).collect());
    let tried = |host, path| table.hosts(host).flat_map(|paths| paths.routes(path)).flatten().count();
    assert_eq!(tried("h7777.example.com", "/service9999/a/b"), 2);
    assert_eq!(tried("other.example.com", "/other"), 0);
    assert_eq!(find(&table, "h7777.example.com", "/service9999/a/b"), Found::Route(7777));
    assert_eq!(find(&table, "other.example.com", "/service9999"), Found::Route(19_999));
}

#[test]
fn a_target_shows_no_query_in_debug() {
    let parsed = target("GET /a?token=s3cr3t HTTP/1.1", &["Host: a"]).unwrap();
    assert!(!format!("{parsed:?}").contains("s3cr3t"));
}

/// What a table would find if it tried each route in turn.
fn find_by_trying(matchers: &[Matcher], host: &str, path: &str) -> Found {
    let host_fits = |pattern: &HostPattern| match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => host == name,
        HostPattern::Suffix(parent) => host.ends_with(&format!(".{parent}")),
    };
    let path_fits = |pattern: &PathPattern| match pattern {
        PathPattern::Exact(exact) => path == exact,
        PathPattern::Prefix(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
    };
    let mut upgrade_required = false;
    for (route, matcher) in matchers.iter().enumerate() {
        if matcher.hosts.iter().any(host_fits) && matcher.paths.iter().any(path_fits) {
            match matcher.kind {
                RouteKind::Any | RouteKind::Http => return Found::Route(route),
                RouteKind::Websocket => upgrade_required = true,
            }
        }
    }
    if upgrade_required { Found::UpgradeRequired } else { Found::None }
}

prop_compose! {
    fn any_matcher()(
        hosts in vec(prop::sample::select(vec!["*", "a", "b.a", "*.a", "*.b.a", "c"]), 1..3),
        paths in vec(prop::sample::select(vec!["/*", "/", "/x", "/x/*", "/x/y", "/x/y/*", "/x/"]), 1..3),
        kind in prop::sample::select(vec![RouteKind::Any, RouteKind::Websocket, RouteKind::Http]),
    ) -> Matcher {
        Matcher {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
            subprotocol: None,
            kind,
        }
    }
}

proptest! {
    #[test]
    fn a_table_finds_what_trying_each_route_finds(
        matchers in vec(any_matcher(), 0..8),
        host in prop::sample::select(vec!["", "a", "b.a", "c.b.a", "ba", "c"]),
        path in prop::sample::select(vec!["/", "/x", "/x/", "/x/y", "/x/y/z", "/xy", "/z"]),
    ) {
        let expected = find_by_trying(&matchers, host, path);
        prop_assert_eq!(find(&RouteTable::new(matchers), host, path), expected);
    }

    #[test]
    fn h9_any_path_is_refused_or_has_a_form_that_stays(raw in "/([a-c./;%\\\\é]|%2[ef5F]|%00|%5C){0,12}") {
        if let Ok(NormalPath(form)) = NormalPath::parse(&raw) {
            prop_assert!(!form.contains("//") && form.is_ascii());
            prop_assert_eq!(NormalPath::parse(&form), Ok(NormalPath(form.as_ref().into())));
        }
    }

    #[test]
    fn h9_what_remains_of_a_path_stands_as_it_came(
        prefix in "(/[a-c]{1,3}){0,3}",
        rest in "(/{1,2}[a-c%é]{0,3}){0,3}",
    ) {
        let stripped = strip_prefix(&format!("{prefix}{rest}?q"), &prefix);
        prop_assert_eq!(stripped, Some(format!("/{}?q", rest.trim_start_matches('/'))));
    }

    #[test]
    fn any_target_and_host_give_a_verdict(start in "[ -~é]{1,20}", host in "[ -~é]{0,12}") {
        let mut request = head("GET / HTTP/1.1\r\n\r\n");
        request.target = start;
        let _ = request.headers.append("Host", host.as_bytes());
        if let Ok(target) = Target::parse(&request) {
            prop_assert!(target.origin_form().starts_with('/'));
            prop_assert!(request.target.ends_with(&target.origin_form()[1..]));
        }
    }
}
