//! The chat: one room, where all hear what one says.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Error,
    extract::ws::{Message, Utf8Bytes, WebSocket},
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{self, error::RecvError};

use super::socket::{Complaint, Said, Visit, expected, listen, log_said, tell};

/// Subprotocols that the chat speaks, the preferred one first. They mean the same here.
pub(super) const SUBPROTOCOLS: [&str; 2] = ["chat", "superchat"];

/// Messages that wait for the slowest guest. One that falls further behind misses the oldest.
const BACKLOG: usize = 64;

/// Most characters in a message.
const LENGTH_LIMIT: usize = 2_000;

const ANIMALS: [&str; 12] = [
    "badger", "crane", "dormouse", "finch", "heron", "ibex", "lynx", "marten", "otter", "puffin", "stoat",
    "wren",
];

/// The room. Each message is serialised once and shared by all its copies.
#[derive(Clone)]
pub(super) struct Chat {
    said: broadcast::Sender<Utf8Bytes>,
    guests: Arc<AtomicU64>,
}

impl Chat {
    /// An empty room.
    pub(super) fn open() -> Self {
        Self { said: broadcast::Sender::new(BACKLOG), guests: Arc::new(AtomicU64::new(0)) }
    }

    /// A new guest, with an id that no other guest has had, who hears all that is said from now on.
    pub(super) fn join(&self) -> Guest {
        let number = self.guests.fetch_add(1, Ordering::Relaxed) + 1;
        let animal = ANIMALS[rand::random_range(0..ANIMALS.len())];
        Guest { id: format!("{animal}-{number}"), say: self.said.clone(), hear: self.said.subscribe() }
    }
}

/// A client's visit to the chat.
pub(super) struct Guest {
    id: String,
    say: broadcast::Sender<Utf8Bytes>,
    hear: broadcast::Receiver<Utf8Bytes>,
}

/// What a client sends. Any other member, an id too, is ignored: nobody speaks in another's name.
#[derive(Deserialize)]
struct Saying {
    message: String,
}

/// What all clients get.
#[derive(Serialize)]
struct Heard<'a> {
    id: &'a str,
    message: &'a str,
}

/// The first that a client gets: its own id.
#[derive(Serialize)]
struct Welcome<'a> {
    you: &'a str,
}

/// What a client that was too slow gets in place of the messages it missed.
#[derive(Serialize)]
struct Gap {
    missed: u64,
}

impl Visit for Guest {
    const NAME: &'static str = "chat";
    const MESSAGE_LIMIT: usize = 64 * 1024;

    async fn talk(mut self, socket: &mut WebSocket) -> Result<(), Error> {
        tell(socket, &Welcome { you: &self.id }).await?;
        loop {
            tokio::select! {
                said = listen(socket) => match said? {
                    Some(said) => self.pass_on(socket, &said).await?,
                    None => return Ok(()),
                },
                heard = self.hear.recv() => match heard {
                    Ok(text) => socket.send(Message::Text(text)).await?,
                    Err(RecvError::Lagged(missed)) => tell(socket, &Gap { missed }).await?,
                    // It can't close while this guest can speak.
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }
}

impl Guest {
    async fn pass_on(&self, socket: &mut WebSocket, said: &Said) -> Result<(), Error> {
        log_said(Self::NAME, said);
        match heard(&self.id, said) {
            Ok(text) => {
                // The only error is that nobody listens, and this guest does.
                let _ = self.say.send(text);
                Ok(())
            }
            Err(error) => tell(socket, &Complaint { error }).await,
        }
    }
}

/// The message for all that a client's message becomes; or what is wrong with it, for the client to read.
fn heard(id: &str, said: &Said) -> Result<Utf8Bytes, String> {
    let Said::Text(text) = said else {
        return Err("send a text message with JSON".to_owned());
    };
    let saying: Saying =
        serde_json::from_str(text).map_err(|error| expected(r#"{"message": "..."}"#, &error))?;
    let message = saying.message.trim();
    if message.is_empty() {
        return Err("the message is empty".to_owned());
    }
    if message.chars().nth(LENGTH_LIMIT).is_some() {
        return Err(format!("a message may have {LENGTH_LIMIT} characters"));
    }
    serde_json::to_string(&Heard { id, message }).map(Utf8Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_guest_who_lags_is_told_how_much_it_missed() {
        let chat = Chat::open();
        let mut slow = chat.join();
        for _ in 0..BACKLOG + 3 {
            chat.said.send("x".into()).unwrap();
        }
        assert_eq!(slow.hear.recv().await, Err(RecvError::Lagged(3)));
        assert_eq!(slow.hear.recv().await, Ok("x".into()));
    }

    #[test]
    fn no_two_guests_have_the_same_id() {
        let chat = Chat::open();
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| chat.join().id).collect();
        assert_eq!(ids.len(), 1000);
    }

    proptest! {
        #[test]
        fn what_is_heard_is_what_was_said(message in "\\PC{1,50}") {
            let said = serde_json::json!({ "id": "forged", "message": format!("x{message}x") }).to_string();
            let heard = heard("wren-1", &Said::Text(said.into())).unwrap();
            let heard: serde_json::Value = serde_json::from_str(&heard).unwrap();
            prop_assert_eq!(&heard["id"], "wren-1");
            prop_assert_eq!(heard["message"].as_str().unwrap(), format!("x{message}x"));
        }
    }
}
