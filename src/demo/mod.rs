//! The built-in backend of `wsgate demo`: something to stand behind the gate on a machine that has nothing else.
//!
//! It answers HTTP and WebSocket on one port, as the backends do that wsgate is made for:
//!
//! | path | without upgrade | WebSocket |
//! |---|---|---|
//! | `/` | a line of text; the index page for a browser | greets, then echoes |
//! | `/echo` | the echo page | the same as `/` |
//! | `/stocks` | the ticker page | prices of the symbols asked for, each second |
//! | `/chat` | the chat page | what one says, all hear |
//!
//! Every client is a stranger: messages, lists and queues are bounded, what can't be understood is answered with
//! `{"error": "..."}`, and a client that reads too slowly misses messages and is told how many.

mod chat;
mod echo;
mod pages;
mod socket;
mod stocks;
#[cfg(test)]
mod tests;

use std::{future::Future, io, pin::pin, time::Duration};

use axum::{
    Router,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

use self::{chat::Chat, echo::Echo, socket::Sockets, stocks::Market};

/// How long sockets and requests have to end after the shutdown began, before they are left behind.
const CLOSING_TIME: Duration = Duration::from_secs(3);

/// A demo backend that was started and runs in tasks of its own until its `shutdown` completes.
#[derive(Debug)]
#[must_use = "`finished` tells when the backend has ended"]
pub struct Backend {
    task: JoinHandle<io::Result<()>>,
}

impl Backend {
    /// Serves `listener` until `shutdown` completes. Must be called on a Tokio runtime with I/O and time enabled.
    ///
    /// From then on nothing new is accepted, every open WebSocket gets a Close frame with 1001, and what has not ended
    /// three seconds later is left behind.
    pub fn start(listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { task: tokio::spawn(serve(listener, shutdown)) }
    }

    /// Waits until the backend has ended.
    ///
    /// # Errors
    /// The listener failed for good, or a task of the backend panicked.
    pub async fn finished(self) -> io::Result<()> {
        self.task.await.map_err(io::Error::other)?
    }
}

/// What every request can reach.
#[derive(Clone)]
struct Rooms {
    sockets: Sockets,
    market: Market,
    chat: Chat,
}

async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let (closing, mut closed) = watch::channel(false);
    let sockets = Sockets::new(closing.subscribe());
    let market = Market::open();
    let rooms = Rooms { sockets: sockets.clone(), market: market.clone(), chat: Chat::open() };

    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "demo: TCP_NODELAY was not set");
        }
    });
    let signal = async move {
        // An error means that the sender is gone, which is as good a reason to end.
        let _ = closed.wait_for(|closing| *closing).await;
    };
    let mut server = pin!(axum::serve(listener, router(rooms)).with_graceful_shutdown(signal).into_future());

    tokio::select! {
        result = &mut server => return result,
        () = market.trade() => {}
        () = shutdown => {}
    }
    closing.send_replace(true);
    let ended = timeout(CLOSING_TIME, async {
        let result = server.await;
        sockets.all_left().await;
        result
    });
    ended.await.unwrap_or_else(|_| {
        tracing::warn!("demo: some clients did not leave in time");
        Ok(())
    })
}

fn router(rooms: Rooms) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/echo", get(echo))
        .route("/stocks", get(stocks))
        .route("/chat", get(chat))
        .merge(pages::assets())
        .fallback(pages::not_found)
        .with_state(rooms)
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn index(State(rooms): State<Rooms>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    if wants_websocket(&headers) {
        open_echo(&rooms, upgrade)
    } else if pages::wants_html(&headers) {
        pages::index()
    } else {
        pages::hello()
    }
}

async fn echo(State(rooms): State<Rooms>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    if wants_websocket(&headers) { open_echo(&rooms, upgrade) } else { pages::echo() }
}

fn open_echo(rooms: &Rooms, upgrade: Upgrade) -> Response {
    match upgrade {
        Ok(upgrade) => rooms.sockets.open(upgrade, Echo),
        Err(rejection) => rejection.into_response(),
    }
}

async fn stocks(State(rooms): State<Rooms>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    match upgrade {
        _ if !wants_websocket(&headers) => pages::stocks(),
        Ok(upgrade) => rooms.sockets.open(upgrade, rooms.market.counter()),
        Err(rejection) => rejection.into_response(),
    }
}

async fn chat(State(rooms): State<Rooms>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    match upgrade {
        _ if !wants_websocket(&headers) => pages::chat(),
        Ok(upgrade) => {
            let guest = rooms.chat.join();
            rooms.sockets.open(upgrade.protocols(chat::SUBPROTOCOLS), guest)
        }
        Err(rejection) => rejection.into_response(),
    }
}

/// Whether a request means to open a WebSocket, however well it does so.
fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
