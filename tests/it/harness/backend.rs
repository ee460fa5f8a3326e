//! Backends on a port of the system's choice.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpSocket, UnixListener},
    task::{JoinHandle, JoinSet},
};

use super::{Head, Peer, soon};

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A listening backend whose connections the test drives itself.
pub struct Backend {
    listening: Listening,
}

impl From<TcpListener> for Backend {
    fn from(listener: TcpListener) -> Self {
        Self { listening: Listening::Tcp(listener) }
    }
}

impl Backend {
    /// On a port of `127.0.0.1`.
    pub async fn listen() -> Self {
        Self::listen_at("127.0.0.1:0").await
    }

    #[expect(clippy::unused_async, reason = "it takes a runtime, which whoever awaits has")]
    pub async fn listen_at(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        socket.set_reuseaddr(true).expect("a socket");
        socket.bind(address).expect("a free port");
        // As long a queue as the gate's, for those that connect all at once.
        Self::from(socket.listen(4096).expect("a listening socket"))
    }

    /// On a unix socket of this folder.
    pub fn listen_unix(folder: &Path) -> Self {
        let path = folder.join("backend.sock");
        let listener = UnixListener::bind(&path).expect("a new socket");
        Self { listening: Listening::Unix(listener, path) }
    }

    /// The address as `servers` has it.
    pub fn address(&self) -> String {
        match &self.listening {
            Listening::Tcp(listener) => listener.local_addr().expect("a bound socket").to_string(),
            Listening::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = Peer> {
        soon("a connection to the backend", self.next())
    }

    async fn next(&self) -> Peer {
        match &self.listening {
            Listening::Tcp(listener) => Peer::from(listener.accept().await.expect("a connection").0),
            Listening::Unix(listener, _) => Peer::from(listener.accept().await.expect("a connection").0),
        }
    }

    /// No connection waits to be accepted. One that was made before is in the kernel's queue by now, so once a gate
    /// has answered, this tells that it did not connect.
    #[track_caller]
    pub fn expect_untouched(&self) {
        let accepted = match &self.listening {
            Listening::Tcp(listener) => rustix::net::accept(listener),
            Listening::Unix(listener, _) => rustix::net::accept(listener),
        };
        assert_eq!(accepted.err(), Some(Errno::AGAIN), "the backend was connected to");
    }

    /// Serves every connection by `serve` from now on, each in a task.
    pub fn serve<F>(self, serve: impl Fn(Peer) -> F + Send + 'static) -> Serving
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = self.address();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut peers = JoinSet::new();
            loop {
                let peer = self.next().await;
                count.fetch_add(1, Ordering::Relaxed);
                peers.spawn(serve(peer));
            }
        });
        Serving { address, accepted, _task: AbortOnDrop(task) }
    }

    /// Answers every request with what `answer` gives for its head and body, and keeps the connection until the answer
    /// says `Connection: close`.
    pub fn serve_http<F>(self, answer: F) -> HttpBackend
    where
        F: Fn(&Head, &[u8]) -> String + Send + Sync + 'static,
    {
        let seen: Seen = Arc::default();
        let answer = Arc::new(answer);
        let requests = Arc::clone(&seen);
        let serving = self.serve(move |mut peer| {
            let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
            async move {
                while let Some(head) = peer.next_head().await {
                    let body = peer.read_body(&head).await;
                    let answer = answer(&head, &body);
                    requests.lock().expect("no panic").push((head, body));
                    peer.send(&answer).await;
                    if answer.to_ascii_lowercase().contains("connection: close") {
                        return;
                    }
                }
            }
        });
        HttpBackend { serving, seen }
    }
}

/// Heads and bodies of requests.
type Seen = Arc<Mutex<Vec<(Head, Vec<u8>)>>>;

/// A backend that serves by itself, until it is dropped.
pub struct Serving {
    address: String,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDrop,
}

impl Serving {
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A backend of HTTP that records what it was asked.
pub struct HttpBackend {
    serving: Serving,
    seen: Seen,
}

impl HttpBackend {
    /// One that answers every request with 200 and `hello`.
    pub async fn start() -> Self {
        Backend::listen().await.serve_http(|_, _| super::ok("hello"))
    }

    pub fn address(&self) -> String {
        self.serving.address()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.serving.accepted()
    }

    /// The heads and bodies of all requests so far.
    pub fn seen(&self) -> Vec<(Head, Vec<u8>)> {
        self.seen.lock().expect("no panic").clone()
    }

    /// The head of the last request.
    #[track_caller]
    pub fn last(&self) -> Head {
        self.seen().pop().expect("a request").0
    }
}

/// An address that refuses connections, and is kept from others.
pub struct Refusing {
    socket: TcpSocket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self { socket }
    }

    pub fn address(&self) -> String {
        self.socket.local_addr().expect("a bound socket").to_string()
    }
}

/// An address that does not answer connections: its queue is full.
pub struct Unreachable {
    listener: TcpListener,
    _queued: Vec<tokio::net::TcpStream>,
}

impl Unreachable {
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let listener = socket.listen(0).expect("a listening socket");
        let address = listener.local_addr().expect("a bound socket");
        let mut queued = Vec::new();
        // A connect on the loopback that is not through by then waits for a place in the queue.
        let short = Duration::from_millis(200);
        while let Ok(connected) =
            tokio::time::timeout(short, TcpSocket::new_v4().expect("a socket").connect(address)).await
        {
            queued.push(connected.expect("a connection"));
        }
        Self { listener, _queued: queued }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().expect("a bound socket").to_string()
    }
}
