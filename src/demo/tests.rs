//! The backend over a loopback port, as its clients see it.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::{ClientRequestBuilder, IntoClientRequest},
        protocol::frame::coding::CloseCode,
    },
};

use super::{Backend, echo::GREETING};

/// Longer than anything here takes on a busy machine; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    backend: Backend,
    stop: oneshot::Sender<()>,
}

async fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let backend = Backend::start(listener, async {
        stopped.await.expect("a test stops its backend");
    });
    Running { address, backend, stop }
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.backend.finished()).await.unwrap();
    }

    /// The head, in lower case, and the body of the answer to a GET.
    async fn get(&self, path: &str, headers: &str) -> (String, String) {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
            self.address
        ))
        .await
    }

    async fn request(&self, request: &str) -> (String, String) {
        let mut stream = dial(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    async fn open(&self, path: &str) -> Client {
        self.offer(path, &[]).await.0
    }

    /// A client on `path`, and the subprotocol that it was given.
    async fn offer(&self, path: &str, subprotocols: &[&str]) -> (Client, Option<String>) {
        let uri = format!("ws://{}{path}", self.address).parse().unwrap();
        let request = subprotocols
            .iter()
            .fold(ClientRequestBuilder::new(uri), |request, name| request.with_sub_protocol(*name));
        let (stream, answer) = soon(connect_async(request.into_client_request().unwrap())).await.unwrap();
        let chosen =
            answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
        (Client(stream), chosen)
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own client, with a deadline of its own")]
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    soon(TcpStream::connect(address)).await
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("not in time")
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn say(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        soon(self.0.next()).await.expect("the stream ended").unwrap()
    }

    async fn hear_json(&mut self) -> Value {
        serde_json::from_str(self.hear().await.to_text().unwrap()).unwrap()
    }

    /// The text of the next message, which must be a complaint.
    async fn hear_error(&mut self) -> String {
        let answer = self.hear_json().await;
        answer["error"].as_str().unwrap_or_else(|| panic!("no error in {answer}")).to_owned()
    }

    /// Does the closing handshake and waits for the end of the stream.
    async fn leave(mut self) {
        self.0.close(None).await.unwrap();
        while let Some(message) = soon(self.0.next()).await {
            message.unwrap();
        }
    }

    /// Waits for the server's Close frame and tells its code.
    async fn closed(&mut self) -> CloseCode {
        loop {
            if let Message::Close(frame) = self.hear().await {
                return frame.expect("a close code").code;
            }
        }
    }
}

#[tokio::test]
async fn a_program_gets_one_line_of_text() {
    let running = start().await;
    for accept in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
        let (head, body) = running.get("/", accept).await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("\r\ncontent-type: text/plain"), "{head}");
        assert_eq!(body, "Http Message: Hello World");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_browser_gets_pages_under_a_strict_policy() {
    let running = start().await;
    for path in ["/", "/echo", "/stocks", "/chat"] {
        let (head, body) = running.get(path, "Accept: text/html,*/*;q=0.8\r\n").await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(head.contains("\r\ncontent-type: text/html; charset=utf-8"), "{path}: {head}");
        assert!(head.contains("\r\ncontent-security-policy: default-src 'none';"), "{path}: {head}");
        assert!(!head.contains("unsafe"), "{path}: {head}");
        assert!(body.contains("<title>"), "{path}");
        assert!(!body.contains("://") || path == "/", "{path} names another host");
        for inline in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
            assert!(!body.contains(inline), "{path} has {inline}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn everything_that_a_page_names_is_there() {
    let running = start().await;
    for path in ["/", "/echo", "/stocks", "/chat", "/demo/echo.js", "/demo/stocks.js", "/demo/chat.js"] {
        let (_, body) = running.get(path, "Accept: text/html\r\n").await;
        let mentions =
            ["href=\"", "src=\"", "from \"./"].into_iter().flat_map(|mark| body.split(mark).skip(1));
        let mut names = mentions.filter_map(|rest| rest.split('"').next()).peekable();
        assert!(names.peek().is_some(), "{path} names nothing");
        for name in names {
            let at = if name.starts_with('/') { name.to_owned() } else { format!("/demo/{name}") };
            let (head, _) = running.get(&at, "").await;
            assert!(head.starts_with("http/1.1 200 "), "{path} names {name}: {head}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let running = start().await;
    let (head, body) = running.get("/nothing", "Accept: text/html\r\n").await;
    assert!(head.starts_with("http/1.1 404 "), "{head}");
    assert!(body.contains("/chat"));
    running.stop().await;
}

#[tokio::test]
async fn a_broken_handshake_is_refused_and_not_taken_for_a_page() {
    let running = start().await;
    for path in ["/", "/echo", "/stocks", "/chat"] {
        let wrong_version = "Upgrade: websocket\r\nSec-WebSocket-Key: MlRAR6bQZi07587UD4H8oA==\r\n\
             Sec-WebSocket-Version: 12\r\n";
        let (head, _) = running.get(path, wrong_version).await;
        assert!(head.starts_with("http/1.1 400 "), "{path}: {head}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_websocket_is_greeted_and_echoed() {
    let running = start().await;
    for path in ["/", "/echo"] {
        let mut client = running.open(path).await;
        assert_eq!(client.hear().await, Message::text("Websocket Send: Hello World"));
        for message in [
            Message::text("hello"),
            Message::text(""),
            Message::text("line\r\nbreak \u{202e}\u{1b}[31m ☃"),
            Message::binary(vec![0, 255, 7]),
            Message::binary(vec![42; 300_000]),
        ] {
            client.say(message.clone()).await;
            assert_eq!(client.hear().await, message);
        }
        client.leave().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn asked_for_stocks_the_market_tells_their_prices_each_second() {
    let running = start().await;
    let mut client = running.open("/stocks").await;
    client.say(json!({ "stocks": ["AAPL", "MSFT", "AAPL"] }).to_string()).await;
    let first = client.hear_json().await;
    let symbols: Vec<_> = first["prices"].as_object().unwrap().keys().collect();
    assert_eq!(symbols, ["AAPL", "MSFT"]);

    let second = client.hear_json().await;
    for symbol in ["AAPL", "MSFT"] {
        let (before, after) = (&first["prices"][symbol], &second["prices"][symbol]);
        assert!(before.as_f64().unwrap() >= 1.0 && after.as_f64().unwrap() >= 1.0);
        assert_ne!(before, after, "a price moves with each tick");
    }

    client.say(json!({ "stocks": ["IBM"] }).to_string()).await;
    loop {
        let prices = client.hear_json().await["prices"].clone();
        if prices.get("IBM").is_some() {
            assert_eq!(prices.as_object().unwrap().len(), 1, "the new list takes the place of the old one");
            break;
        }
    }
    client.leave().await;
    running.stop().await;
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_answered_with_an_error() {
    let running = start().await;
    let mut client = running.open("/stocks").await;
    let long_list = json!({ "stocks": vec!["AAPL"; 1000] }).to_string();
    let long_text = json!({ "stocks": "A".repeat(10_000) }).to_string();
    for (order, expected) in [
        ("AAPL", "expected {\"stocks\""),
        ("", "expected {\"stocks\""),
        ("[]", "expected {\"stocks\""),
        ("{\"stocks\": [1]}", "expected {\"stocks\""),
        ("{\"stocks\": [\"NOPE\"]}", "no symbol \"NOPE\""),
        (&"[".repeat(10_000), "expected {\"stocks\""),
        (&long_list, "this one has 1000"),
        (&long_text, "expected {\"stocks\""),
    ] {
        client.say(order).await;
        let error = client.hear_error().await;
        assert!(error.contains(expected), "{error}");
        assert!(error.len() < 1_000, "{} bytes", error.len());
    }
    client.say(Message::binary(vec![1, 2, 3])).await;
    assert!(client.hear_error().await.contains("text message"));

    client.say("{\"stocks\": []}").await;
    assert_eq!(client.hear_json().await, json!({ "prices": {} }), "and the client is still welcome");
    client.leave().await;
    running.stop().await;
}

#[tokio::test]
async fn what_one_says_in_the_chat_all_hear() {
    let running = start().await;
    let (mut ann, mut bob) = (running.open("/chat").await, running.open("/chat").await);
    let ann_id = ann.hear_json().await["you"].as_str().unwrap().to_owned();
    let bob_id = bob.hear_json().await["you"].as_str().unwrap().to_owned();
    assert_ne!(ann_id, bob_id);

    ann.say(json!({ "id": bob_id, "message": "<b>hello</b>" }).to_string()).await;
    let expected = json!({ "id": ann_id, "message": "<b>hello</b>" });
    assert_eq!(ann.hear_json().await, expected, "nobody speaks in another's name");
    assert_eq!(bob.hear_json().await, expected);

    ann.leave().await;
    bob.say(json!({ "message": "alone" }).to_string()).await;
    assert_eq!(bob.hear_json().await, json!({ "id": bob_id, "message": "alone" }));
    bob.leave().await;
    running.stop().await;
}

#[tokio::test]
async fn nonsense_in_the_chat_is_answered_to_its_sender_alone() {
    let running = start().await;
    let (mut ann, mut bob) = (running.open("/chat").await, running.open("/chat").await);
    ann.hear().await;
    bob.hear().await;
    let too_long = json!({ "message": "é".repeat(2_001) }).to_string();
    for (message, expected) in [
        ("hello", "expected {\"message\""),
        ("{\"message\": 7}", "expected {\"message\""),
        ("{\"message\": \" \\n \"}", "is empty"),
        (&too_long, "2000 characters"),
    ] {
        ann.say(message).await;
        let error = ann.hear_error().await;
        assert!(error.contains(expected), "{error}");
    }
    ann.say(Message::binary("hello")).await;
    assert!(ann.hear_error().await.contains("text message"));

    ann.say(json!({ "message": "sense" }).to_string()).await;
    assert_eq!(bob.hear_json().await["message"], "sense", "the first that the other one hears");
    running.stop().await;
}

#[tokio::test]
async fn the_chat_takes_the_subprotocols_chat_and_superchat() {
    let running = start().await;
    for (offered, expected) in [
        (&["chat"][..], Some("chat")),
        (&["superchat"], Some("superchat")),
        (&["superchat", "chat"], Some("chat")),
    ] {
        let (client, chosen) = running.offer("/chat", offered).await;
        assert_eq!(chosen.as_deref(), expected, "offered {offered:?}");
        client.leave().await;
    }
    let (client, chosen) = running.offer("/chat", &[]).await;
    assert_eq!(chosen, None);
    client.leave().await;

    running.stop().await;
}

#[tokio::test]
async fn a_subprotocol_that_the_chat_does_not_speak_is_not_chosen() {
    let running = start().await;
    // By hand, because a client library refuses such an answer, as it should.
    let mut stream = dial(running.address).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MlRAR6bQZi07587UD4H8oA==\r\n\
         Sec-WebSocket-Protocol: soap\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(soon(stream.read_buf(&mut answer)).await.unwrap(), 0, "the head has an end");
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: iuril3uit+tspmmz0x1ivh7el98="), "{head}");
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn a_guest_who_does_not_read_misses_messages_and_holds_nobody_up() {
    let running = start().await;
    let (mut ann, mut bob) = (running.open("/chat").await, running.open("/chat").await);
    ann.hear().await;
    bob.hear().await;
    // More than all the buffers between the two hold; each is on its way to Bob when Ann hears it.
    let long = json!({ "message": "\u{1f409}".repeat(2_000) }).to_string();
    for _ in 0..2_500 {
        ann.say(long.clone()).await;
        assert!(ann.hear_json().await.get("message").is_some());
    }
    let missed = loop {
        if let Some(missed) = bob.hear_json().await["missed"].as_u64() {
            break missed;
        }
    };
    assert!(missed > 0);
    running.stop().await;
}

#[tokio::test]
async fn a_message_past_the_limit_ends_that_client_alone() {
    let running = start().await;
    let mut stocks = running.open("/stocks").await;
    let mut other = running.open("/").await;
    assert_eq!(other.hear().await, Message::text(GREETING));

    // The head of a frame alone, so that nothing lies unread when the server closes.
    let head = [&[0x81, 0xff][..], &(1_u64 << 20).to_be_bytes(), &[0; 4]].concat();
    stocks.0.get_mut().write_all(&head).await.unwrap();
    assert_eq!(stocks.closed().await, CloseCode::Policy);

    other.say("still here").await;
    assert_eq!(other.hear().await, Message::text("still here"));
    running.stop().await;
}

#[tokio::test]
async fn at_shutdown_every_client_gets_a_close_frame() {
    let running = start().await;
    let mut clients = Vec::new();
    for path in ["/", "/stocks", "/chat"] {
        clients.push(running.open(path).await);
    }
    running.stop.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.closed().await, CloseCode::Away);
        assert!(soon(client.0.next()).await.is_none(), "and the stream ends");
    }
    soon(running.backend.finished()).await.unwrap();
}
