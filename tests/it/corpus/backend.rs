//! A backend that keeps all that reaches it, and answers by a case's script.

use std::sync::{Arc, Mutex};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use wsgate::proto::handshake::accept_key;

use super::{case::Script, message::Message};
use crate::harness::{Head, Peer, frames, soon};

/// What a client says in a tunnel that it takes to be open.
pub fn question() -> Vec<u8> {
    frames::client(frames::TEXT, "open?")
}

/// What the backend answers to it.
pub fn reply() -> Vec<u8> {
    frames::server(frames::TEXT, "open!")
}

/// All that reached the backend.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: Vec<String>,
    /// Everything.
    pub bytes: Vec<u8>,
    /// What came and became no whole request.
    pub rest: Vec<u8>,
    /// What came behind a 101.
    pub tunnel: Vec<u8>,
}

/// What the connections of a backend have in common.
struct Common {
    seen: Mutex<Seen>,
    /// For the first request.
    script: Mutex<Option<Script>>,
}

pub struct ScriptedBackend {
    address: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Seen>,
}

impl ScriptedBackend {
    pub async fn start(script: Option<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket").to_string();
        let common = Arc::new(Common { seen: Mutex::default(), script: Mutex::new(script) });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            accept_until(&listener, stopped, |stream| {
                connections.spawn(serve(Peer::from(stream), Arc::clone(&common)));
            })
            .await;
            while let Some(served) = connections.join_next().await {
                served.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            }
            std::mem::take(&mut *common.seen.lock().unwrap())
        });
        Self { address, stop, task }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// All that came, when whoever connected has ended its connections.
    pub async fn finish(self) -> Seen {
        self.stop.send(()).expect("a backend that runs");
        let seen = soon("the end of all connections to the backend", self.task).await;
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Accepts until it is told to stop, and then what is still in the kernel's queue.
async fn accept_until(
    listener: &TcpListener,
    mut stopped: oneshot::Receiver<()>,
    mut serve: impl FnMut(TcpStream),
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => serve(accepted.expect("a connection").0),
            _ = &mut stopped => break,
        }
    }
    while let Ok(socket) = rustix::net::accept(listener) {
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true).expect("a socket");
        serve(TcpStream::from_std(stream).expect("a socket"));
    }
}

/// Serves requests until the other side ends.
async fn serve(mut peer: Peer, common: Arc<Common>) {
    loop {
        let read = peer.read_until(|bytes| Some(Message::request(bytes)?.length)).await;
        let Ok(Some(bytes)) = read else {
            let (rest, _) = peer.read_to_any_end().await;
            let mut seen = common.seen.lock().unwrap();
            seen.bytes.extend_from_slice(&rest);
            seen.rest.extend(rest);
            return;
        };
        let request = Message::request(&bytes).expect("what was just read");
        {
            let mut seen = common.seen.lock().unwrap();
            seen.bytes.extend_from_slice(&bytes);
            seen.requests.push(summary(&request));
        }
        let script = common.script.lock().unwrap().take();
        let script = script.unwrap_or_else(|| Script { bytes: usual_answer(&request.head), ends: false });
        // Whoever was answered may be gone.
        let _ = peer.offer_bytes(&script.bytes).await;
        if script.ends {
            peer.shutdown().await;
        }
        if is_offer(&request.head) && opens_tunnel(&script.bytes) {
            speak_through_tunnel(&mut peer, &common).await;
            return;
        }
    }
}

/// Answers the client's question, and keeps what comes, until the other side ends or says Close.
async fn speak_through_tunnel(peer: &mut Peer, common: &Common) {
    let mut tunnel = Vec::new();
    loop {
        let read = peer.read_until(|bytes| (!bytes.is_empty()).then_some(bytes.len())).await;
        let Ok(Some(bytes)) = read else { break };
        tunnel.extend(bytes);
        if tunnel.ends_with(&question()) {
            let _ = peer.offer_bytes(reply()).await;
        }
        if frames::split(&tunnel).0.iter().any(|frame| frame.first == 0x80 | frames::CLOSE) {
            break;
        }
    }
    let mut seen = common.seen.lock().unwrap();
    seen.bytes.extend_from_slice(&tunnel);
    seen.tunnel = tunnel;
}

/// `POST /upload "hello"`
fn summary(request: &Message) -> String {
    let start = request.head.start.strip_suffix(" HTTP/1.1").expect("HTTP/1.1");
    if request.body.is_empty() {
        return start.to_owned();
    }
    format!("{start} \"{}\"", request.body.escape_ascii())
}

fn is_offer(head: &Head) -> bool {
    head.has_line("Upgrade", "websocket") && head.has_line("Connection", "Upgrade")
}

fn opens_tunnel(answer: &[u8]) -> bool {
    answer.windows(13).any(|window| window == b"HTTP/1.1 101 ")
}

fn usual_answer(head: &Head) -> Vec<u8> {
    let text = if is_offer(head) {
        let accept = accept_key(head.get("sec-websocket-key").expect("a key"));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    } else {
        let body = if head.start.starts_with("HEAD ") { "" } else { "ok" };
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}")
    };
    text.into_bytes()
}
