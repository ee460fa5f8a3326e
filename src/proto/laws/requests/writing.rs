//! Requests as clients write them, and as attackers do.

use crate::proto::laws::choices::{Choices, mutate};

const MOST: usize = 5;
const METHODS: [&str; 9] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "CONNECT", "get", "X-Y"];
const TARGETS: [&str; 10] = [
    "/",
    "/a/b?c=d",
    "*",
    "http://a.example/b",
    "https://a.example:8443",
    "/%2e%2e/a",
    "//a",
    "a.example:80",
    "/\x7f",
    "/a;b=%00",
];
const VERSIONS: [&str; 5] = ["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/2.0"];
const OFFER: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const LINES: [&str; 40] = [
    "Accept: */*",
    "Connection: close",
    "Connection: keep-alive, X-Named",
    "Connection: Host, Content-Length, Transfer-Encoding, X-Forwarded-For",
    "connection: upgrade , te,",
    "Connection: Cookie, Sec-WebSocket-Key, Origin",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: 99999999999999999999",
    "Content-Length:\t7 ",
    "Content_Length: 3",
    "Cookie: a=b",
    "Expect: 100-continue",
    "Forwarded: for=1.2.3.4",
    "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    "Host: b.example",
    "Keep-Alive: timeout=5",
    "Origin: https://a.example",
    "Proxy-Connection: keep-alive",
    "Proxy: http://evil.example",
    "TE: trailers, deflate;q=0.5",
    "Trailer: X-Trailer",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: \x0bchunked",
    "transfer_encoding: chunked",
    "Upgrade: h2c",
    "Upgrade: websocket, h2c",
    "X-Forwarded-For: 1.2.3.4",
    "X_Forwarded_For: 1.2.3.4",
    "X-Named: named",
    "X-Real-Ip: 1.2.3.4",
    "X-Request-Id: theirs",
    "X-Removed: by the route",
    " folded: line",
    "X-Odd: \u{ff}\t\u{e9}",
];
const EXTENSIONS: [&str; 5] = ["", ";a=b", " ; a=\"b\"", ";\n", " "];
const TRAILERS: [&str; 6] = [
    "X-Trailer: a",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "Host: c.example",
    "Expect: a",
    "bad",
];
const SPECIAL: [&[u8]; 16] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0\r\n\r\n",
    b"_",
    b"-",
    b"\x0b",
    b"\xff",
    b"chunked",
    b"\r\n\r\n",
];

/// The bytes of a few requests, one behind the other.
pub(super) fn requests(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..=choices.below(MOST) {
        let mut request = Vec::new();
        write(choices, &mut request);
        if choices.once_in(3) {
            mutate(choices, &mut request, &SPECIAL);
        }
        stream.extend_from_slice(&request);
    }
    stream
}

fn write(choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    let usual = |choices: &mut Choices<'_>, among: &[&'static str]| {
        if choices.once_in(2) { choices.pick(among) } else { among[0] }
    };
    let is_offer = choices.once_in(5);
    let method = if is_offer { "GET" } else { usual(choices, &METHODS) };
    let target = usual(choices, &TARGETS);
    let version = if choices.once_in(4) { choices.pick(&VERSIONS) } else { VERSIONS[0] };
    out.extend_from_slice(format!("{method} {target} {version}\r\n").as_bytes());
    if !choices.once_in(12) {
        out.extend_from_slice(b"Host: a.example\r\n");
    }
    if is_offer {
        out.extend_from_slice(OFFER.as_bytes());
    }
    for _ in 0..choices.below(6) {
        out.extend_from_slice(choices.pick(&LINES).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match choices.below(6) {
        0 | 1 => out.extend_from_slice(b"\r\n"),
        2 => write_length(choices, 0, out),
        3 => {
            let wrong_by = choices.below(5);
            write_length(choices, wrong_by, out);
        }
        4 => {
            out.extend_from_slice(b"Transfer-Encoding: Chunked\r\n\r\n");
            write_chunks(choices, out);
        }
        // The head has a framing of its own, or none.
        _ => {
            out.extend_from_slice(b"\r\n");
            write_chunks(choices, out);
        }
    }
}

fn data<'a>(choices: &mut Choices<'a>) -> &'a [u8] {
    let most = choices.below(24);
    choices.bytes(most)
}

fn write_length(choices: &mut Choices<'_>, wrong_by: usize, out: &mut Vec<u8>) {
    let body = data(choices);
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len() + wrong_by).as_bytes());
    out.extend_from_slice(body);
}

fn write_chunks(choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    for _ in 0..choices.below(4) {
        let chunk = data(choices);
        if !chunk.is_empty() {
            let extension = choices.pick(&EXTENSIONS);
            let zeros = choices.pick(&["", "0", "00000000000000000000"]);
            out.extend_from_slice(format!("{zeros}{:X}{extension}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"0\r\n");
    for _ in 0..choices.below(3) {
        out.extend_from_slice(choices.pick(&TRAILERS).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
