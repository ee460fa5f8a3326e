//! The echo: greets a client, logs what it says and says it back.

use axum::{
    Error,
    extract::ws::{Message, WebSocket},
};

use super::socket::{Said, Visit, listen, log_said};

/// What every client of the echo hears first.
pub(super) const GREETING: &str = "Websocket Send: Hello World";

/// A client's visit to the echo.
pub(super) struct Echo;

impl Visit for Echo {
    const NAME: &'static str = "echo";
    // Room for a large message through the gate, and no more than that.
    const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;

    async fn talk(self, socket: &mut WebSocket) -> Result<(), Error> {
        socket.send(Message::text(GREETING)).await?;
        while let Some(said) = listen(socket).await? {
            log_said(Self::NAME, &said);
            let answer = match said {
                Said::Text(text) => Message::Text(text),
                Said::Binary(bytes) => Message::Binary(bytes),
            };
            socket.send(answer).await?;
        }
        Ok(())
    }
}
