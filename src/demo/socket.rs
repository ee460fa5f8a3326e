//! What every WebSocket of the demo has in common: bounds, one way to speak JSON, and a proper farewell.

use std::{future::Future, time::Duration};

use axum::{
    Error,
    body::Bytes,
    extract::{
        WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code},
    },
    response::Response,
};
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

/// How long a client may take to receive a Close frame, and then to answer it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Characters of a message that are logged.
const LOGGED: usize = 200;

/// One client's visit to a part of the demo.
pub(super) trait Visit: Send + 'static {
    /// What the log calls it.
    const NAME: &'static str;
    /// Largest frame and message that is taken, in bytes; a larger one ends the connection.
    const MESSAGE_LIMIT: usize;

    /// Talks with the client until it has left or the stream has failed. May be dropped at any await.
    fn talk(self, socket: &mut WebSocket) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A message that carries data. Control frames are none of a visit's business.
pub(super) enum Said {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// The next message of the client, or `None` once the closing handshake is done. Safe to cancel.
pub(super) async fn listen(socket: &mut WebSocket) -> Result<Option<Said>, Error> {
    while let Some(message) = socket.recv().await {
        match message? {
            Message::Text(text) => return Ok(Some(Said::Text(text))),
            Message::Binary(bytes) => return Ok(Some(Said::Binary(bytes))),
            // The library answers pings and Close frames, the latter when it is asked for the next message.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
        }
    }
    Ok(None)
}

/// Sends `value` as JSON text.
pub(super) async fn tell<T: Serialize + Sync>(socket: &mut WebSocket, value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(Error::new)?;
    socket.send(Message::text(text)).await
}

/// The answer to what can't be understood.
#[derive(Serialize)]
pub(super) struct Complaint {
    pub(super) error: String,
}

/// What is wrong with JSON that should have looked like `example`, for the client to read.
pub(super) fn expected(example: &str, error: &serde_json::Error) -> String {
    // The library's text can quote all of what the client sent.
    format!("expected {example}: {}", on_one_line(&error.to_string()))
}

/// Logs what a client said on one line, whatever characters it holds.
pub(super) fn log_said(room: &str, said: &Said) {
    match said {
        Said::Text(text) => tracing::info!(room, "demo: received \"{}\"", on_one_line(text)),
        Said::Binary(bytes) => tracing::info!(room, "demo: received {} bytes", bytes.len()),
    }
}

/// `text` with control and format characters escaped, cut after [`LOGGED`] characters.
fn on_one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LOGGED).flat_map(char::escape_debug).collect();
    if text.chars().nth(LOGGED).is_some() {
        line.push('…');
    }
    line
}

/// Opens sockets, counts them, and tells them to close when the backend shuts down.
#[derive(Clone)]
pub(super) struct Sockets {
    closing: watch::Receiver<bool>,
    open: watch::Sender<usize>,
}

impl Sockets {
    pub(super) fn new(closing: watch::Receiver<bool>) -> Self {
        Self { closing, open: watch::Sender::new(0) }
    }

    /// Completes when no socket is open.
    pub(super) async fn all_left(&self) {
        // The sender is `self`, so this can't fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Answers an opening handshake with 101 and holds `visit` over the socket.
    pub(super) fn open<V: Visit>(&self, upgrade: WebSocketUpgrade, visit: V) -> Response {
        let seat = Seat::take(&self.open);
        let closing = self.closing.clone();
        upgrade
            .max_message_size(V::MESSAGE_LIMIT)
            .max_frame_size(V::MESSAGE_LIMIT)
            .on_failed_upgrade(|error| tracing::debug!(room = V::NAME, %error, "demo: upgrade failed"))
            .on_upgrade(move |socket| async move {
                let _seat = seat;
                receive(socket, visit, closing).await;
            })
    }
}

/// One open socket in the count; gives its place back on drop.
struct Seat(watch::Sender<usize>);

impl Seat {
    fn take(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

async fn receive<V: Visit>(mut socket: WebSocket, visit: V, mut closing: watch::Receiver<bool>) {
    tracing::info!(room = V::NAME, "demo: WebSocket opened");
    let ended = tokio::select! {
        result = visit.talk(&mut socket) => Some(result),
        _ = closing.wait_for(|closing| *closing) => None,
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::info!(room = V::NAME, %error, "demo: WebSocket failed");
            // 1008 is the code for an offence that has no better one (RFC 6455 §7.4.1). If it was the stream that
            // failed, nobody reads this.
            close(&mut socket, close_code::POLICY, "unacceptable message").await;
        }
        None => {
            close(&mut socket, close_code::AWAY, "going away").await;
            // The client's answer ends the stream; one that sends none is cut.
            let _ = timeout(FAREWELL, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
        }
    }
    tracing::info!(room = V::NAME, "demo: WebSocket closed");
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    if let Ok(Err(error)) = timeout(FAREWELL, socket.send(Message::Close(Some(frame)))).await {
        tracing::debug!(%error, "demo: no Close frame was sent");
    }
}
