//! The admin listener: its socket, its thread, its connections.
//!
//! One thread of its own serves it, so that neither a busy worker keeps an operator out nor a request here holds up a worker. It
//! stays until the process ends, through the drain too.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::{AbortHandle, JoinError, JoinSet},
    time::timeout,
};

use super::{
    api,
    control::Control,
    guard::{Caller, Via},
};
use crate::{
    config::{self, ListenAddress},
    server::{BindError, Inherited, Lent, Listening, Sockets, UnixPath, bind_private},
    telemetry::RateLimited,
};
use tracing::Level;

/// Connections at once. One more takes the place of that which has asked nothing for the longest time.
const CONNECTIONS: usize = 64;
/// For a request head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For what is being answered when the listener closes.
const CLOSING: Duration = Duration::from_secs(1);
/// After a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The bound socket of an admin listener that does not answer yet.
#[derive(Debug)]
pub struct Bound {
    socket: Listening,
    admin: config::Admin,
}

/// Binds the address of `[admin]`, unless a socket for it was inherited. The file of a unix socket is its owner's alone (0600).
pub fn bind(admin: &config::Admin, inherited: &Inherited) -> Result<Bound, BindError> {
    Ok(Bound { socket: bind_private(&admin.address, inherited)?, admin: admin.clone() })
}

impl Bound {
    /// The address; a port of 0 is the one that it got.
    pub fn address(&self) -> ListenAddress {
        self.socket.address()
    }

    /// Answers from now on, on a thread of its own. Its socket is among `sockets`; if these are handed over, it answers nobody new.
    pub fn serve(self, control: Arc<dyn Control>, sockets: &Arc<Sockets>) -> io::Result<Serving> {
        let address = self.address();
        let admin = Arc::new(ArcSwap::from_pointee(self.admin));
        let state = Arc::new(Door {
            admin: Arc::clone(&admin),
            refused: RateLimited::new(Level::WARN, "admin request refused"),
        });
        let router = api::router(control).layer(from_fn_with_state(state, pass));
        let (stop, stopped) = watch::channel(());
        let lent = sockets.lend(&self.socket)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = {
            let _entered = runtime.enter();
            Socket::register(self.socket)?
        };
        let sockets = Arc::clone(sockets);
        let run = move || {
            runtime.block_on(serve((socket, lent), router, stopped, &sockets));
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("wsgate-admin".into()).spawn(run)?;
        tracing::info!(%address, "admin listening");
        Ok(Serving { address, admin, stop, thread })
    }
}

/// An admin listener that answers. Its drop closes it; requests under way are answered.
#[derive(Debug)]
pub struct Serving {
    address: ListenAddress,
    admin: Arc<ArcSwap<config::Admin>>,
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Where it listens; a port of 0 is the one that it got.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Puts tokens and hosts in force for every further request. The address stays.
    pub fn configure(&self, admin: config::Admin) {
        self.admin.store(Arc::new(admin));
    }

    /// The `[admin]` in force.
    pub fn configuration(&self) -> Arc<config::Admin> {
        self.admin.load_full()
    }

    /// Closes it, and waits until what was being answered has been. `false` if its thread panicked, which is a defect.
    pub fn close(self) -> bool {
        drop(self.stop);
        self.thread.join().is_ok()
    }
}

/// What stands before all endpoints.
#[derive(Debug)]
struct Door {
    admin: Arc<ArcSwap<config::Admin>>,
    refused: RateLimited,
}

/// Lets a request through if it may, and puts the headers that hold browsers to this host on every answer.
async fn pass(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let via = request.extensions().get::<Via>().copied().unwrap_or(Via::Unix);
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let judged = Caller { via, method, uri, headers }.judge(&door.admin.load());
    let mut response = match judged {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            let (status, error) = (failure.status.as_u16(), &failure.error);
            door.refused.warn(|skipped| tracing::warn!(status, error, skipped, "admin request refused"));
            failure.into_response()
        }
    };
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    response.headers_mut().extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// A listening socket that a runtime watches.
enum Socket {
    Tcp(TcpListener),
    /// The file goes first: once nobody listens on it, a successor may take its place.
    Unix(#[expect(dead_code, reason = "its drop removes the file")] UnixPath, UnixListener),
}

impl Socket {
    fn register(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener, path) => Self::Unix(path, UnixListener::from_std(listener)?),
        })
    }
}

/// Accepts from when the sockets are this process' own until `stopped`, or until another process has the socket, then lets what is being answered end.
async fn serve(
    (socket, lent): (Socket, Lent),
    router: Router,
    mut stopped: watch::Receiver<()>,
    sockets: &Sockets,
) {
    let mut connections =
        Connections { router, stopped: stopped.clone(), tasks: JoinSet::new(), open: Vec::new() };
    let failures = RateLimited::new(Level::WARN, "admin accept failed");
    tokio::select! {
        () = sockets.opened() => {}
        _ = stopped.changed() => return,
    }
    loop {
        let accepted = tokio::select! {
            accepted = accept(&socket, &mut connections) => accepted,
            _ = stopped.changed() => break,
            () = sockets.handed_over() => break,
        };
        if let Err(error) = accepted {
            failures.warn(|skipped| tracing::warn!(%error, skipped, "admin accept failed"));
            tokio::time::sleep(PAUSE).await;
        }
    }
    drop((socket, lent));
    // Whoever is not done by then has stopped reading.
    let _ = timeout(CLOSING, connections.ended()).await;
}

async fn accept(socket: &Socket, connections: &mut Connections) -> io::Result<()> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?.ip();
            connections.admit(stream, Via::Tcp(local));
        }
        Socket::Unix(_, listener) => connections.admit(listener.accept().await?.0, Via::Unix),
    }
    Ok(())
}

/// The open connections. There is always room for one more, so that nobody is kept out by those who hold theirs.
struct Connections {
    router: Router,
    stopped: watch::Receiver<()>,
    tasks: JoinSet<()>,
    open: Vec<Open>,
}

struct Open {
    /// The turn of its last request.
    turn: Arc<AtomicU64>,
    task: AbortHandle,
}

/// Orders requests and connections by when they came.
static TURNS: AtomicU64 = AtomicU64::new(0);

fn next_turn() -> u64 {
    TURNS.fetch_add(1, Ordering::Relaxed)
}

impl Connections {
    fn admit(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, via: Via) {
        while let Some(ended) = self.tasks.try_join_next() {
            note_panic(ended);
        }
        self.open.retain(|open| !open.task.is_finished());
        if self.open.len() >= CONNECTIONS {
            self.cut_one();
        }
        let turn = Arc::new(AtomicU64::new(next_turn()));
        let connection = answer(stream, via, self.router.clone(), Arc::clone(&turn), self.stopped.clone());
        self.open.push(Open { turn, task: self.tasks.spawn(connection) });
    }

    /// Waits until all of them have ended.
    async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            note_panic(ended);
        }
    }

    /// Cuts the connection whose last request is the longest ago.
    fn cut_one(&mut self) {
        let by_turn = |(_, open): &(usize, &Open)| open.turn.load(Ordering::Relaxed);
        if let Some((place, _)) = self.open.iter().enumerate().min_by_key(by_turn) {
            self.open.swap_remove(place).task.abort();
        }
    }
}

/// A panic ends its own connection alone (rule S4).
fn note_panic(ended: Result<(), JoinError>) {
    static PANICS: RateLimited = RateLimited::new(Level::ERROR, "an admin connection panicked");
    if ended.is_err_and(|error| error.is_panic()) {
        PANICS.warn(|skipped| {
            tracing::error!(skipped, "an admin connection panicked, which is a defect of wsgate");
        });
    }
}

/// Answers the requests of one connection. Its errors are its client's own.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    via: Via,
    router: Router,
    turn: Arc<AtomicU64>,
    mut stopped: watch::Receiver<()>,
) {
    let router = router.layer(axum::Extension(via)).layer(axum::middleware::from_fn(
        move |request: Request, next: Next| {
            turn.store(next_turn(), Ordering::Relaxed);
            next.run(request)
        },
    ));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    /// How long a client is kept that sends `bytes`, one a second, and then nothing.
    async fn kept(bytes: &[u8]) -> Duration {
        let (mut client, stream) = tokio::io::duplex(4096);
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let (_stop, stopped) = watch::channel(());
        let (began, turn) = (Instant::now(), Arc::default());
        let answered = tokio::spawn(async move {
            answer(stream, Via::Unix, router, turn, stopped).await;
            began.elapsed()
        });
        for byte in bytes {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Who was cut can't send.
            let _ = client.write_all(&[*byte]).await;
        }
        let _ = client.read_to_end(&mut Vec::new()).await;
        answered.await.expect("no panic")
    }

    #[tokio::test(start_paused = true)]
    async fn s1_a_head_has_ten_seconds_and_a_trickle_does_not_move_them() {
        let limit = HEAD_TIMEOUT..HEAD_TIMEOUT + Duration::from_secs(2);
        for bytes in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n"] {
            let kept = kept(bytes).await;
            assert!(limit.contains(&kept), "{kept:?} for {} bytes", bytes.len());
        }
    }
}
