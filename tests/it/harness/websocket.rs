//! WebSocket ends that somebody else wrote: tokio-tungstenite.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{Backend, Gate, Peer, backend::Serving, soon};

pub type WebSocket = WebSocketStream<Peer>;

/// A backend that sends every message back, and answers Close.
pub async fn echo() -> Serving {
    Backend::listen().await.serve(|peer| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(peer).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// A client with an open tunnel through the gate.
pub async fn connect(gate: &Gate) -> WebSocket {
    let peer = gate.client().await;
    let handshake = tokio_tungstenite::client_async("ws://test.example/", peer);
    soon("a WebSocket handshake", handshake).await.expect("a 101").0
}

/// The next message of `socket`.
pub async fn next(socket: &mut WebSocket) -> Message {
    soon("a message", socket.next()).await.expect("a message, not the end").expect("a message")
}
