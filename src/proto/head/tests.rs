use proptest::prelude::*;

use super::*;
use crate::proto::laws;

fn request(input: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
    RequestHead::parse(input, &HeadLimits::default())
}

fn response(input: &[u8]) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    ResponseHead::parse(input, &HeadLimits::default())
}

fn parsed(input: &[u8]) -> RequestHead {
    request(input).expect("legal").expect("complete").0
}

fn parsed_response(input: &[u8]) -> ResponseHead {
    response(input).expect("legal").expect("complete").0
}

#[track_caller]
fn assert_malformed(input: &[u8]) {
    let result = request(input);
    assert!(
        matches!(result, Err(HeadError::Malformed(_))),
        "{:?}: {result:?}",
        input.escape_ascii().to_string()
    );
}

/// Judges one header line, in a request as in a response.
#[track_caller]
fn assert_line_malformed(line: &[u8]) {
    for start in [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], b"HTTP/1.1 200 OK\r\nHost: a\r\n"] {
        let input = [start, line, b"\r\n\r\n"].concat();
        let errors = [request(&input).err(), response(&input).err()];
        let line = line.escape_ascii();
        assert!(errors.iter().all(|e| matches!(e, Some(HeadError::Malformed(_)))), "{line}: {errors:?}");
    }
}

#[test]
fn a_request_head_keeps_order_case_and_bytes() {
    let input =
        b"GET /a?b=%20 HTTP/1.1\r\nHost: example.com\r\nX-One:  1 \r\nx-one:\t2\r\nEmpty:\r\n\r\nbody";
    let (head, length) = request(input).unwrap().unwrap();
    assert_eq!(&input[length..], b"body");
    assert_eq!(
        (head.method.as_str(), head.target.as_str(), head.version),
        ("GET", "/a?b=%20", Version::Http11)
    );
    let lines: Vec<_> = head.headers.iter().collect();
    let expected: [(&str, &[u8]); 4] =
        [("Host", b"example.com"), ("X-One", b"1"), ("x-one", b"2"), ("Empty", b"")];
    assert_eq!(lines, expected);
    let mut written = Vec::new();
    head.encode(&mut written);
    let canonical = b"GET /a?b=%20 HTTP/1.1\r\nHost: example.com\r\nX-One: 1\r\nx-one: 2\r\nEmpty: \r\n\r\n";
    assert_eq!(written.escape_ascii().to_string(), canonical.escape_ascii().to_string());
}

#[test]
fn a_response_head_keeps_its_reason() {
    let head = parsed_response(b"HTTP/1.0 299 Fine, \xe9h\r\nServer: x\r\n\r\n");
    assert_eq!((head.version, head.status, &*head.reason), (Version::Http10, 299, &b"Fine, \xe9h"[..]));
    let mut written = Vec::new();
    head.encode(&mut written);
    assert_eq!(written, b"HTTP/1.0 299 Fine, \xe9h\r\nServer: x\r\n\r\n");
}

#[test]
fn a_reason_may_be_empty_or_absent() {
    for input in [&b"HTTP/1.1 200 \r\n\r\n"[..], b"HTTP/1.1 200\r\n\r\n"] {
        assert_eq!(parsed_response(input).reason.len(), 0);
    }
}

#[test]
fn h2_a_bare_lf_is_malformed_anywhere() {
    for input in [
        &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\nX: y\r\n\r\n",
        b"GET /\n HTTP/1.1\r\n\r\n",
        b"\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_malformed(input);
    }
    assert_line_malformed(b"X: a\nTransfer-Encoding: chunked");
}

#[test]
fn h2_a_bare_cr_is_malformed_anywhere() {
    for input in [
        &b"GET / HTTP/1.1\rHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n",
        b"\rGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_malformed(input);
    }
    assert_line_malformed(b"X: a\rb");
}

#[test]
fn h2_a_folded_line_is_malformed() {
    assert_line_malformed(b"X: a\r\n b");
    assert_line_malformed(b"X: a\r\n\tb");
    assert_line_malformed(b"Transfer-Encoding:\r\n chunked");
}

#[test]
fn h2_white_space_before_the_first_header_is_malformed() {
    assert_malformed(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n");
    assert_malformed(b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n");
    assert_malformed(b" GET / HTTP/1.1\r\n\r\n");
}

#[test]
fn h2_white_space_before_the_colon_is_malformed() {
    assert_line_malformed(b"Content-Length : 5");
    assert_line_malformed(b"Content-Length\t: 5");
}

#[test]
fn h2_control_characters_but_htab_are_malformed() {
    for byte in (0..=0x1f).chain([0x7f]).filter(|&byte| byte != b'\t') {
        assert_line_malformed(&[b"X: a", &[byte][..], b"b"].concat());
        assert_line_malformed(&[b"X", &[byte][..], b": b"].concat());
        assert_malformed(&[b"GET /", &[byte][..], b" HTTP/1.1\r\n\r\n"].concat());
    }
    assert_eq!(parsed(b"GET / HTTP/1.1\r\nX: a\tb\r\n\r\n").headers.get("x"), Some(&b"a\tb"[..]));
}

#[test]
fn h2_a_name_must_be_a_token() {
    for line in
        [&b": a"[..], b"no colon", b"X(y): a", b"X\xe9: a", b"X y: a", b"\"X\": a", b"X@y: a", b"X[]: a"]
    {
        assert_line_malformed(line);
    }
    let head = parsed(b"GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~09azAZ: a\r\n\r\n");
    assert!(head.headers.contains("!#$%&'*+-.^_`|~09azAZ"));
}

#[test]
fn h2_bytes_above_ascii_pass_in_values() {
    let every: Vec<u8> = (0x80..=0xff).collect();
    let head = parsed(&[b"GET / HTTP/1.1\r\nX: ", &every[..], b"\r\n\r\n"].concat());
    assert_eq!(head.headers.get("X"), Some(&every[..]));
}

#[test]
fn h2_the_request_line_has_single_spaces_and_nothing_else() {
    for input in [
        &b"GET  / HTTP/1.1\r\n\r\n"[..],
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET\t/ HTTP/1.1\r\n\r\n",
        b"GET / a HTTP/1.1\r\n\r\n",
        b"GET /\r\n",
        b"GET\r\n",
        b"GET / http/1.1\r\n\r\n",
        b"GET / HTTP/1.10\r\n\r\n",
        b"GET / HTTP/1,1\r\n\r\n",
        b"GET / HTTP/x.1\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
    ] {
        assert_malformed(input);
    }
}

#[test]
fn h2_the_status_line_is_exact() {
    for input in [
        &b"HTTP/1.1 20 OK\r\n\r\n"[..],
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1\t200 OK\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 OK\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"<html>",
    ] {
        assert!(matches!(response(input), Err(HeadError::Malformed(_))), "{}", input.escape_ascii());
    }
}

#[test]
fn a_few_empty_lines_before_a_request_are_skipped() {
    let line = b"GET / HTTP/1.1\r\n\r\n";
    let (_, length) = request(&[b"\r\n\r\n\r\n\r\n", &line[..]].concat()).unwrap().unwrap();
    assert_eq!(length, line.len() + 8);
    assert_malformed(b"\r\n\r\n\r\n\r\n\r\n");
}

#[test]
fn garbage_is_known_at_its_first_bytes() {
    // The start of a TLS ClientHello, of TLS records in general, of SSH, of a PROXY v2 header.
    for input in
        [&b"\x16\x03\x01"[..], b"\x15", b"SSH-2.0-OpenSSH_9.6\r", b"\r\n\r\n\0\r\nQUIT\n", b"\0", b"\x80"]
    {
        assert_malformed(input);
    }
    assert_malformed(&[b'A'; 33]);
    assert!(matches!(response(b"HTTQ"), Err(HeadError::Malformed(_))));
    assert!(matches!(response(b"\x15\x03\x03"), Err(HeadError::Malformed(_))));
}

#[test]
fn versions_other_than_1_0_and_1_1_are_told_apart_from_garbage() {
    for version in ["HTTP/2.0", "HTTP/3", "HTTP/0.9", "HTTP/1.2", "HTTP/1.9"] {
        assert_eq!(request(format!("GET / {version}").as_bytes()), Err(HeadError::Version), "{version}");
        assert_eq!(response(version.as_bytes()), Err(HeadError::Version), "{version}");
    }
    assert_eq!(request(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(HeadError::Version));
    assert_eq!(parsed(b"GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
}

#[test]
fn s2_a_head_is_bounded_in_bytes() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let limits = |bytes| HeadLimits { bytes, ..HeadLimits::default() };
    assert!(matches!(RequestHead::parse(input, &limits(input.len())), Ok(Some(_))));
    assert_eq!(RequestHead::parse(input, &limits(input.len() - 1)), Err(HeadError::TooLarge));
    assert_eq!(RequestHead::parse(&input[..9], &limits(10)), Ok(None));
    assert_eq!(RequestHead::parse(&input[..10], &limits(10)), Err(HeadError::TooLarge));
    let status = b"HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(ResponseHead::parse(status, &limits(status.len() - 1)), Err(HeadError::TooLarge));
}

#[test]
fn s2_header_lines_are_counted() {
    let limits = HeadLimits { headers: 2, ..HeadLimits::default() };
    let two = b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\n\r\n";
    assert!(matches!(RequestHead::parse(two, &limits), Ok(Some(_))));
    let third_begins = b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc";
    assert_eq!(RequestHead::parse(third_begins, &limits), Err(HeadError::TooManyHeaders));
}

#[test]
fn s2_a_target_is_bounded() {
    let limits = HeadLimits { target: 4, ..HeadLimits::default() };
    assert!(matches!(RequestHead::parse(b"GET /abc HTTP/1.1\r\n\r\n", &limits), Ok(Some(_))));
    assert_eq!(RequestHead::parse(b"GET /abc", &limits), Ok(None));
    assert_eq!(RequestHead::parse(b"GET /abcd", &limits), Err(HeadError::TargetTooLong));
}

#[test]
fn lists_span_lines_and_skip_empty_elements() {
    let head =
        parsed(b"GET / HTTP/1.1\r\nConnection: keep-alive,, Upgrade\r\nX: y\r\nconnection: ,\tTE ,\r\n\r\n");
    let tokens: Vec<_> = head.headers.tokens("CONNECTION").collect();
    assert_eq!(tokens, [&b"keep-alive"[..], b"Upgrade", b"TE"]);
    assert!(head.headers.has_token("Connection", "upgrade"));
    assert!(!head.headers.has_token("Connection", "keep"));
    assert_eq!(head.headers.get_all("connection").count(), 2);
}

#[test]
fn lines_are_set_removed_and_kept_by_name_in_any_case() {
    let mut headers = Headers::new();
    for (name, value) in [("A", "1"), ("b", "2"), ("a", "3"), ("C", "4")] {
        headers.append(name, value.as_bytes()).unwrap();
    }
    headers.set("B", b" 5 ").unwrap();
    assert_eq!(headers.remove("a"), 2);
    assert_eq!(headers.remove("a"), 0);
    let expected: [(&str, &[u8]); 2] = [("C", b"4"), ("B", b"5")];
    assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
    headers.retain(|_, value| value != b"4");
    let mut written = Vec::new();
    headers.encode(&mut written);
    assert_eq!(written, b"B: 5\r\n");
    assert_eq!((headers.len(), headers.wire_len()), (1, 6));
}

#[test]
fn h13_a_value_with_cr_lf_or_nul_is_never_written() {
    let mut headers = Headers::new();
    headers.append("X", b"kept").unwrap();
    for value in [&b"a\r\nY: b"[..], b"a\n", b"\r", b"\0", b"a\x7fb", b"\x1b[2J"] {
        assert_eq!(headers.append("X", value), Err(InvalidHeader::Value));
        assert_eq!(headers.set("X", value), Err(InvalidHeader::Value));
        assert_eq!(headers.append_with("X", |text| text.extend_from_slice(value)), Err(InvalidHeader::Value));
    }
    for name in ["", "X Y", "X:", "X\r\nY", "\u{e9}"] {
        assert_eq!(headers.append(name, b"a"), Err(InvalidHeader::Name));
        assert_eq!(headers.set(name, b"a"), Err(InvalidHeader::Name));
    }
    let expected: [(&str, &[u8]); 1] = [("X", b"kept")];
    assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_response_is_the_same_in_a_buffer_of_its_own_and_in_that_of_its_lines() {
    for text in [
        "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n",
        "HTTP/1.0 907 \r\n\r\n",
        "HTTP/1.1 100 \u{fc}\r\nA:\r\n\r\n",
    ] {
        let (head, _) = ResponseHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap();
        let mut written = Vec::new();
        head.encode(&mut written);
        assert_eq!(head.into_encoded(), written);
    }
}

#[test]
fn s7_debug_shows_neither_values_nor_queries() {
    let head = parsed(b"GET /a?token=hunter2 HTTP/1.1\r\nAuthorization: hunter2\r\n\r\n");
    let shown = format!("{head:?}");
    assert!(shown.contains("Authorization") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn methods_are_tokens_where_case_counts() {
    assert!(parsed(b"GET / HTTP/1.1\r\n\r\n").method.is_get());
    let odd = parsed(b"get / HTTP/1.1\r\n\r\n").method;
    assert!(!odd.is_get() && odd.as_str() == "get");
    let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "X"]
        .map(|name| Method::new(name).is_some_and(|method| method.is_idempotent()));
    assert_eq!(idempotent, [true, true, true, true, true, true, false, false, false, false]);
    assert_eq!(Method::new("A B"), None);
    assert_eq!(Method::new(""), None);
}

fn token() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}"
}

fn header_lines() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let byte = prop_oneof![0x20..=0x7eu8, 0x80..=0xffu8, Just(b'\t')];
    prop::collection::vec((token(), prop::collection::vec(byte, 0..60)), 0..8)
}

fn collected(lines: Vec<(String, Vec<u8>)>) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in lines {
        headers.append(&name, &value).unwrap();
    }
    headers
}

fn any_request() -> impl Strategy<Value = RequestHead> {
    (token(), "[!-\"$-~]{1,40}", any::<bool>(), header_lines()).prop_map(|(method, target, old, lines)| {
        let version = if old { Version::Http10 } else { Version::Http11 };
        RequestHead { method: Method::new(&method).unwrap(), target, version, headers: collected(lines) }
    })
}

/// Bytes out of which heads, and what nearly are heads, come up often.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"HTTP/1.1 200 OK\r\n",
        b"GET ",
        b"/",
        b" HTTP/1.0",
        b"Host: a\r\n",
        b"X:y",
        b":",
        b" ",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b"\0",
        b"\xff",
    ]);
    prop::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_head_that_was_written_is_parsed_as_it_was(head in any_request(), tail in any::<[u8; 4]>()) {
        let mut written = Vec::new();
        head.encode(&mut written);
        prop_assert_eq!(&head.clone().into_encoded(), &written);
        let length = written.len();
        written.extend_from_slice(&tail);
        prop_assert_eq!(request(&written), Ok(Some((head, length))));
    }

    #[test]
    fn a_split_head_is_parsed_as_the_whole(head in any_request()) {
        let mut written = Vec::new();
        head.encode(&mut written);
        laws::request_head(&written, &HeadLimits::default());
        // Bounds that many of these pass.
        laws::request_head(&written, &HeadLimits { bytes: 100, headers: 2, target: 20 });
    }

    #[test]
    fn a_damaged_head_is_judged_alike_in_any_split(
        head in any_request(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut written = Vec::new();
        head.encode(&mut written);
        let at = at.index(written.len());
        written[at] = byte;
        laws::request_head(&written, &HeadLimits::default());
    }

    #[test]
    fn no_bytes_break_the_laws(
        input in nearly_a_head(),
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        for input in [&input, &noise] {
            laws::request_head(input, &HeadLimits { bytes: 80, headers: 2, target: 8 });
            laws::response_head(input, &HeadLimits { bytes: 80, headers: 2, target: 8 });
        }
    }

    #[test]
    fn what_is_legal_here_is_legal_to_httparse_and_means_the_same(
        input in nearly_a_head(),
        head in any_request(),
    ) {
        let mut written = Vec::new();
        head.encode(&mut written);
        for input in [&input, &written] {
            let Ok(Some((ours, length))) = request(input) else { continue };
            let mut lines = [httparse::EMPTY_HEADER; 16];
            let mut theirs = httparse::Request::new(&mut lines);
            prop_assert_eq!(theirs.parse(input), Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(theirs.method, Some(ours.method.as_str()));
            prop_assert_eq!(theirs.path, Some(ours.target.as_str()));
            let theirs: Vec<_> = theirs.headers.iter().map(|line| (line.name, line.value)).collect();
            prop_assert_eq!(theirs, ours.headers.iter().collect::<Vec<_>>());
        }
    }
}
