//! Rules H1, H4 and H10: what delimits a body, and chunks in any split.

use proptest::prelude::*;

use super::*;
use crate::proto::head::HeadLimits;
use crate::proto::laws;
use BodyFraming::{Chunked, Empty, Length, UntilClose};

fn request_with(version: &str, lines: &str) -> RequestHead {
    let text = format!("POST / {version}\r\nHost: a\r\n{lines}\r\n");
    RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

fn response_with(status: u16, lines: &str) -> ResponseHead {
    let text = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
    ResponseHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

fn of_request(lines: &str) -> Result<BodyFraming, FramingError> {
    request_framing(&request_with("HTTP/1.1", lines))
}

fn of_response(lines: &str) -> Result<BodyFraming, FramingError> {
    response_framing(&response_with(200, lines), &Method::GET)
}

/// Ambiguous in a request and in a response.
#[track_caller]
fn assert_ambiguous(lines: &str) {
    for framing in [of_request(lines), of_response(lines)] {
        assert!(matches!(framing, Err(FramingError::Ambiguous(_))), "{lines:?}: {framing:?}");
    }
}

#[test]
fn h1_content_length_with_transfer_encoding_is_ambiguous() {
    assert_ambiguous("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
    assert_ambiguous("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n");
    assert_ambiguous("transfer-encoding: gzip, chunked\r\ncontent-length: 5\r\n");
}

#[test]
fn h1_several_content_lengths_are_ambiguous() {
    assert_ambiguous("Content-Length: 5\r\nContent-Length: 6\r\n");
    assert_ambiguous("Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n");
    assert_ambiguous("Content-Length: 5, 5\r\n");
}

#[test]
fn h1_a_content_length_is_digits_and_fits() {
    for value in ["", "+5", "-5", "5 5", "0x5", "5.0", "five", "5;", "\"5\"", "1_000", "5\u{a0}", "\u{665}"] {
        assert_ambiguous(&format!("Content-Length: {value}\r\n"));
    }
    assert_ambiguous("Content-Length: 18446744073709551616\r\n");
    assert_ambiguous("Content-Length: 99999999999999999999999999\r\n");
    for (value, length) in [("0", 0), ("007", 7), ("  42\t", 42), ("18446744073709551615", u64::MAX)] {
        assert_eq!(of_request(&format!("Content-Length: {value}\r\n")), Ok(Length(length)));
        assert_eq!(of_response(&format!("Content-Length: {value}\r\n")), Ok(Length(length)));
    }
}

#[test]
fn h1_transfer_encoding_with_http_1_0_is_ambiguous() {
    let request = request_with("HTTP/1.0", "Transfer-Encoding: chunked\r\n");
    assert!(matches!(request_framing(&request), Err(FramingError::Ambiguous(_))));
    let mut response = response_with(200, "Transfer-Encoding: chunked\r\n");
    response.version = Version::Http10;
    assert!(matches!(response_framing(&response, &Method::GET), Err(FramingError::Ambiguous(_))));
}

#[test]
fn h1_a_malformed_or_repeated_transfer_encoding_is_ambiguous() {
    for value in [
        "",
        ",",
        "chunked,",
        ",chunked",
        "chunked;a=b",
        "\"chunked\"",
        "chun ked",
        "chunked\u{a0}",
        "gzip;q=1",
    ] {
        assert_ambiguous(&format!("Transfer-Encoding: {value}\r\n"));
    }
    assert_ambiguous("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    assert_ambiguous("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n");
}

#[test]
fn h1_chunked_must_be_the_last_coding() {
    assert_ambiguous("Transfer-Encoding: chunked, gzip\r\n");
    assert_ambiguous("Transfer-Encoding: chunked, chunked\r\n");
    assert_ambiguous("Transfer-Encoding: gzip, chunked, identity\r\n");
}

#[test]
fn h1_chunked_is_chunked_in_any_case() {
    for value in ["chunked", "Chunked", "CHUNKED", " \tchunked \t"] {
        assert_eq!(of_request(&format!("Transfer-Encoding:{value}\r\n")), Ok(Chunked));
        assert_eq!(of_response(&format!("Transfer-Encoding:{value}\r\n")), Ok(Chunked));
    }
}

#[test]
fn h1_a_clean_unknown_coding_is_told_apart() {
    for value in ["gzip", "identity", "xchunked", "chunkedx", "gzip, chunked", "deflate , chunked"] {
        let line = format!("Transfer-Encoding: {value}\r\n");
        assert_eq!(of_request(&line), Err(FramingError::UnknownCoding), "{value}");
        assert_eq!(of_response(&line), Err(FramingError::UnknownCoding), "{value}");
    }
}

#[test]
fn h10_a_request_without_length_has_no_body_and_a_response_lasts_until_close() {
    assert_eq!(of_request(""), Ok(Empty));
    assert_eq!(of_response(""), Ok(UntilClose));
}

#[test]
fn h10_head_1xx_204_and_304_have_no_body() {
    let line = "Content-Length: 5\r\n";
    assert_eq!(response_framing(&response_with(200, line), &Method::HEAD), Ok(Empty));
    assert_eq!(response_framing(&response_with(200, line), &Method::CONNECT), Ok(Empty));
    assert_eq!(response_framing(&response_with(403, line), &Method::CONNECT), Ok(Length(5)));
    for status in [100, 101, 103, 204, 304] {
        assert_eq!(response_framing(&response_with(status, line), &Method::GET), Ok(Empty));
        assert_eq!(response_framing(&response_with(status, ""), &Method::GET), Ok(Empty));
    }
    // What is declared goes on to the client, so it has to be clear all the same.
    let two = response_with(200, "Content-Length: 5\r\nContent-Length: 6\r\n");
    assert!(response_framing(&two, &Method::HEAD).is_err());
}

#[test]
fn h10_clients_of_http_1_0_get_no_chunks() {
    assert_eq!(Chunked.for_client(Version::Http10), UntilClose);
    assert_eq!(Chunked.for_client(Version::Http11), Chunked);
    assert_eq!(Length(5).for_client(Version::Http10), Length(5));
}

#[test]
fn a_connection_lasts_by_version_and_options() {
    let persists = |version, lines| persists(version, &request_with("HTTP/1.1", lines).headers);
    assert!(persists(Version::Http11, ""));
    assert!(!persists(Version::Http11, "Connection: x, Close\r\n"));
    assert!(!persists(Version::Http10, ""));
    assert!(persists(Version::Http10, "Connection: Keep-Alive\r\n"));
    assert!(!persists(Version::Http10, "Connection: keep-alive\r\nConnection: close\r\n"));
}

#[test]
fn h14_a_response_that_may_be_followed_by_stray_bytes_ends_its_connection() {
    let persists = |status, lines: &str| {
        let head = response_with(status, lines);
        let framing = response_framing(&head, &Method::GET).unwrap();
        response_persists(&head, framing)
    };
    assert!(persists(200, "Content-Length: 5\r\n"));
    assert!(persists(304, "Content-Length: 5\r\n"));
    assert!(persists(204, ""));
    assert!(persists(204, "Content-Length: 0\r\n"));
    assert!(!persists(204, "Content-Length: 5\r\n"));
    assert!(!persists(204, "Transfer-Encoding: chunked\r\n"));
    assert!(!persists(200, ""));
    assert!(!persists(200, "Content-Length: 5\r\nConnection: close\r\n"));
}

fn scan(input: &[u8]) -> laws::ScannedBody {
    laws::scan_pieces([input], ChunkLimits::default())
}

#[track_caller]
fn assert_illegal(input: &str) {
    let body = scan(input.as_bytes());
    assert!(matches!(body.error, Some(ChunkError::Malformed(_))), "{input:?}: {body:?}");
}

#[test]
fn h4_data_and_the_end_are_found() {
    let input = b"5\r\nhello\r\n00A\r\n, world!!!\r\n0\r\n\r\nnext";
    let body = scan(input);
    assert_eq!(body.data, b"hello, world!!!");
    assert_eq!(body.end, Some((Headers::new(), input.len() - 4)));
    assert_eq!(scan(LAST_CHUNK).end, Some((Headers::new(), LAST_CHUNK.len())));
}

#[test]
fn h4_nothing_is_taken_after_the_end() {
    let mut scanner = ChunkScanner::default();
    assert_eq!(scanner.next(LAST_CHUNK), Ok((5, ChunkPart::End(Headers::new()))));
    assert_eq!(scanner.next(b"5\r\n"), Ok((0, ChunkPart::End(Headers::new()))));
}

#[test]
fn h4_sizes_are_hex_in_checked_arithmetic() {
    for input in
        ["\r\n", "g\r\n", "-1\r\n", "+1\r\n", "0x1\r\n", " 1\r\n", "1 \r\n", "1\t\r\n", "1_0\r\n", ";a\r\n"]
    {
        assert_illegal(input);
    }
    assert_eq!(scan(b"10000000000000000\r\n").error, Some(ChunkError::SizeOverflow));
    assert_eq!(scan(b"ffffffffffffffff0\r\n").error, Some(ChunkError::SizeOverflow));
    let mut scanner = ChunkScanner::default();
    assert_eq!(scanner.next(b"FFFFFFFFffffffff\r\na"), Ok((19, ChunkPart::Data(b"a"))));
}

#[test]
fn h4_line_ends_are_exact() {
    for input in
        ["1\na\r\n", "1\r\r\na", "1\ra", "1\r\na\n0\r\n\r\n", "1\r\na\r0", "1\r\nab\r\n", "1;a\na", "0\r\n\n"]
    {
        let body = scan(input.as_bytes());
        assert!(body.error.is_some() && body.end.is_none(), "{input:?}: {body:?}");
    }
}

#[test]
fn h4_extensions_are_dropped() {
    let body = scan(b"1;a\r\nx\r\n1 \t; b = \"c;d\" ;e\r\ny\r\n0;last\r\n\r\n");
    assert_eq!((body.data, body.error), (b"xy".to_vec(), None));
    assert_illegal("1;a\0\r\n");
    assert_illegal("1 a\r\n");
}

#[test]
fn h4_extensions_and_leading_zeros_are_bounded() {
    let line = |length: usize, pad: &str| format!("{}1\r\nx", pad.repeat(length - 1));
    assert_eq!(scan(line(256, "0").as_bytes()).data, b"x");
    assert_eq!(scan(line(257, "0").as_bytes()).error, Some(ChunkError::LineTooLong));
    assert_eq!(scan(format!("1;{}", "a".repeat(255)).as_bytes()).error, Some(ChunkError::LineTooLong));
    assert_eq!(scan(format!("1{}", " ".repeat(256)).as_bytes()).error, Some(ChunkError::LineTooLong));
}

#[test]
fn h4_trailers_are_parsed_as_headers_are() {
    let input = b"0\r\nX-Sum: 1 \r\nEmpty:\r\n\r\nnext";
    let (trailers, length) = scan(input).end.unwrap();
    assert_eq!(length, input.len() - 4);
    let expected: [(&str, &[u8]); 2] = [("X-Sum", b"1"), ("Empty", b"")];
    assert_eq!(trailers.iter().collect::<Vec<_>>(), expected);
    for section in ["X : a\r\n\r\n", " X: a\r\n\r\n", "X: a\n\r\n", "X\r\n\r\n", "X: \0\r\n\r\n", "\n"] {
        let error = scan(format!("0\r\n{section}").as_bytes()).error;
        assert!(
            matches!(error, Some(ChunkError::Trailers(HeadError::Malformed(_)))),
            "{section:?}: {error:?}"
        );
    }
}

#[test]
fn h4_trailers_are_bounded() {
    let limits = ChunkLimits { trailer_bytes: 10, trailer_lines: 1, ..ChunkLimits::default() };
    let error = |section: &[u8]| laws::scan_pieces([b"0\r\n", section], limits).error;
    assert_eq!(error(b"a: 234\r\n\r\n"), None);
    assert_eq!(error(b"a: 2345\r\n\r\n"), Some(ChunkError::Trailers(HeadError::TooLarge)));
    assert_eq!(error(b"a:1\r\nb"), Some(ChunkError::Trailers(HeadError::TooManyHeaders)));
}

#[test]
fn h4_trailers_that_frame_route_authenticate_or_modify_do_not_pass() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "HOST",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "If-Match",
        "Range",
        "Content-Type",
        "Content-Encoding",
        "Trailer",
        "Connection",
        "X-Forwarded-For",
        "Forwarded",
        "Sec-WebSocket-Key",
        "Proxy-Authorization",
        "Content_Length",
        "x_forwarded_for",
        "Location",
    ] {
        assert!(!may_pass_trailer(name), "{name}");
    }
    for name in ["Server-Timing", "Content-Digest", "grpc-status", "X-Checksum", "ETag", "If", "x"] {
        assert!(may_pass_trailer(name), "{name}");
    }
}

#[test]
fn a_chunk_head_is_its_size_in_hex() {
    for (length, expected) in
        [(1, "1\r\n"), (0x1a, "1a\r\n"), (0x1_0000, "10000\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
    {
        let mut out = Vec::new();
        encode_chunk_head(length, &mut out);
        assert_eq!(out, expected.as_bytes());
    }
}

/// Bytes out of which chunked bodies, and what nearly are, come up often.
fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        &b"3\r\nabc\r\n"[..],
        b"0a;x=\"y\"\r\n0123456789\r\n",
        b"1 ;x\r\nz\r\n",
        b"0\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"5\r\n",
        b"f",
        b";",
        b" ",
        b"\r",
        b"\n",
        b"\0",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn h4_any_split_gives_the_same_body(input in nearly_chunks(), cut in 0..100usize) {
        laws::chunks(&input, cut, ChunkLimits { size_line: 8, trailer_bytes: 20, trailer_lines: 2 });
        laws::chunks(&input, cut, ChunkLimits::default());
    }

    #[test]
    fn h4_no_bytes_break_the_scanner(
        input in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0..200usize,
    ) {
        laws::chunks(&input, cut, ChunkLimits::default());
    }

    #[test]
    fn h4_a_body_that_was_written_is_scanned_as_it_was(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..6),
        trailer in "[a-z]{1,8}",
        cut in 0..600usize,
    ) {
        let mut written = Vec::new();
        for chunk in &chunks {
            encode_chunk_head(chunk.len(), &mut written);
            written.extend_from_slice(chunk);
            written.extend_from_slice(b"\r\n");
        }
        let mut trailers = Headers::new();
        trailers.append("X-Sum", trailer.as_bytes()).unwrap();
        encode_last_chunk(&trailers, &mut written);
        let body = scan(&written);
        prop_assert_eq!(body.data, chunks.concat());
        prop_assert_eq!(body.end, Some((trailers, written.len())));
        laws::chunks(&written, cut, ChunkLimits::default());
    }
}
