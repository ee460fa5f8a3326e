//! What the parts of an exchange, a handshake and a tunnel cost by themselves: time, and what they allocate.
//!
//! `cargo bench --bench micro` measures all of it, `cargo bench --bench micro -- routes` a part. What may grow with the
//! configuration or the input is measured at several sizes, which tells how it grows. Without `--bench`, as
//! `cargo test --bench micro` runs it, each is done once as a check that it works.

#[path = "micro/balancing.rs"]
mod balancing;
#[path = "micro/forwarding.rs"]
mod forwarding;
#[path = "micro/frames.rs"]
mod frames;
#[path = "micro/handshake.rs"]
mod handshake;
#[path = "micro/heads.rs"]
mod heads;
#[path = "micro/routes.rs"]
mod routes;
#[path = "micro/tls.rs"]
mod tls;

use divan::AllocProfiler;

/// It is the program's allocator that is measured; the profiler counts what is asked of it.
#[global_allocator]
static ALLOCATOR: AllocProfiler<tikv_jemallocator::Jemalloc> =
    AllocProfiler::new(tikv_jemallocator::Jemalloc);

fn main() {
    divan::main();
}

/// What a browser sends with a request for an API: 20 lines.
const BROWSER: &str = "GET /api/v1/rooms/4711/messages?after=1a2b3c&limit=50 HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"142\", \"Not?A_Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: application/json,text/plain;q=0.9,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: cors\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: empty\r\n\
    Referer: https://chat.example.com/rooms/4711\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=6f1c9a0e4b7d42f8a35b0c2d1e9f8a7b; theme=dark; seen=1763760000\r\n\
    Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0NzExIn0.c2lnbmF0dXJl\r\n\
    If-None-Match: \"5f3e-61a2b3c4d5e6f\"\r\n\
    X-Requested-With: XMLHttpRequest\r\n\r\n";

/// The least that a request can be.
const MINIMAL: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What a browser sends to open a WebSocket.
const OFFER: &str = "GET /chat?room=4711 HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=6f1c9a0e4b7d42f8a35b0c2d1e9f8a7b; theme=dark; seen=1763760000\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: chat.v2, chat.v1\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// What proves it.
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat.v2\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// What a backend answers.
const ANSWER: &str = "HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
    Server: backend/1.0\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 2048\r\n\
    Connection: keep-alive\r\n\
    ETag: \"5f3e-61a2b3c4d5e6f\"\r\n\
    Cache-Control: private, max-age=0, must-revalidate\r\n\
    Vary: Accept-Encoding, Origin\r\n\
    Set-Cookie: session=6f1c9a0e4b7d42f8a35b0c2d1e9f8a7b; Path=/; Secure; HttpOnly; SameSite=Lax\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\r\n";
