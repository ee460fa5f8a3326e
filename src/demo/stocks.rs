//! The ticker: made-up prices that move each second.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Error, extract::ws::WebSocket};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::socket::{Complaint, Said, Visit, expected, listen, log_said, tell};

/// Time between two prices.
const TICK: Duration = Duration::from_secs(1);

/// Most entries that a client's list may have, repeated ones included.
const LIST_LIMIT: usize = 32;

/// Lowest price in cents, so that a walk never comes to nothing.
const FLOOR: u32 = 100;

/// What is traded, with a first price in cents. None of it is meant to be true.
const LISTED: [(&str, u32); 12] = [
    ("AAPL", 19_120),
    ("AMD", 15_875),
    ("AMZN", 17_840),
    ("CSCO", 4_935),
    ("GOOG", 16_410),
    ("IBM", 18_265),
    ("INTC", 3_080),
    ("META", 48_690),
    ("MSFT", 41_530),
    ("NFLX", 61_205),
    ("NVDA", 88_400),
    ("ORCL", 12_150),
];

/// Prices in cents, in the order of [`LISTED`].
type Prices = [u32; LISTED.len()];

/// The one market that all clients watch. A client that is slow skips prices and never has more than one to come.
#[derive(Clone)]
pub(super) struct Market {
    prices: Arc<watch::Sender<Prices>>,
}

impl Market {
    /// A market at its first prices.
    pub(super) fn open() -> Self {
        Self { prices: Arc::new(watch::Sender::new(LISTED.map(|(_, price)| price))) }
    }

    /// Moves the prices each second, for ever.
    pub(super) async fn trade(&self) {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.prices.send_modify(|prices| {
                for price in prices {
                    *price = moved(*price, rand::random(), rand::random());
                }
            });
        }
    }

    /// A visit that watches this market.
    pub(super) fn counter(&self) -> Counter {
        Counter { prices: self.prices.subscribe(), chosen: Vec::new() }
    }
}

/// `price` after a step of one cent to about half a percent. It always moves, so that a viewer sees it live.
fn moved(price: u32, up: bool, chance: u8) -> u32 {
    let step = 1 + price / 200 * u32::from(chance) / 255;
    if up || price < FLOOR + step { price.saturating_add(step) } else { price - step }
}

/// A client's visit to the market.
pub(super) struct Counter {
    prices: watch::Receiver<Prices>,
    /// Places in [`LISTED`] of what the client wants to see, each once.
    chosen: Vec<usize>,
}

/// What a client sends: the symbols that it wants to see from now on.
#[derive(Deserialize)]
struct Order {
    stocks: Vec<String>,
}

/// What a client gets at once and then each second: `{"prices": {"AAPL": 191.2}}`.
#[derive(Serialize)]
struct Quote {
    prices: BTreeMap<&'static str, f64>,
}

impl Visit for Counter {
    const NAME: &'static str = "stocks";
    const MESSAGE_LIMIT: usize = 16 * 1024;

    async fn talk(mut self, socket: &mut WebSocket) -> Result<(), Error> {
        loop {
            tokio::select! {
                said = listen(socket) => match said? {
                    Some(said) => self.answer(socket, &said).await?,
                    None => return Ok(()),
                },
                tick = self.prices.changed() => match tick {
                    Ok(()) if self.chosen.is_empty() => self.prices.mark_unchanged(),
                    Ok(()) => { let quote = self.quote(); tell(socket, &quote).await?; }
                    // The market has gone, and with it the backend.
                    Err(_) => return Ok(()),
                },
            }
        }
    }
}

impl Counter {
    async fn answer(&mut self, socket: &mut WebSocket, said: &Said) -> Result<(), Error> {
        log_said(Self::NAME, said);
        match chosen(said) {
            Ok(chosen) => {
                self.chosen = chosen;
                let quote = self.quote();
                tell(socket, &quote).await
            }
            Err(error) => tell(socket, &Complaint { error }).await,
        }
    }

    fn quote(&mut self) -> Quote {
        let prices = self.prices.borrow_and_update();
        let quoted = self.chosen.iter().map(|&at| (LISTED[at].0, f64::from(prices[at]) / 100.0));
        Quote { prices: quoted.collect() }
    }
}

/// The places in [`LISTED`] that an order names, each once; or what is wrong with it, for the client to read.
fn chosen(said: &Said) -> Result<Vec<usize>, String> {
    let Said::Text(text) = said else {
        return Err("send a text message with JSON".to_owned());
    };
    let order: Order =
        serde_json::from_str(text).map_err(|error| expected(r#"{"stocks": ["AAPL", ...]}"#, &error))?;
    if order.stocks.len() > LIST_LIMIT {
        return Err(format!("a list may have {LIST_LIMIT} symbols, this one has {}", order.stocks.len()));
    }
    let mut chosen = Vec::with_capacity(order.stocks.len());
    for symbol in &order.stocks {
        let at = LISTED.iter().position(|(listed, _)| listed == symbol).ok_or_else(|| unknown(symbol))?;
        if !chosen.contains(&at) {
            chosen.push(at);
        }
    }
    Ok(chosen)
}

fn unknown(symbol: &str) -> String {
    let shown: String = symbol.chars().take(12).collect();
    let listed = LISTED.map(|(symbol, _)| symbol).join(", ");
    format!("no symbol \"{shown}\" is traded here; there are {listed}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_price_always_moves_and_stays_above_the_floor(price in FLOOR..10_000_000, up: bool, chance: u8) {
            let after = moved(price, up, chance);
            prop_assert_ne!(after, price);
            prop_assert!(after >= FLOOR);
        }

        #[test]
        fn no_order_is_too_strange(text: String) {
            let chosen = chosen(&Said::Text(text.into()));
            prop_assert!(chosen.is_err() || chosen.is_ok_and(|chosen| chosen.len() <= LISTED.len()));
        }
    }

    #[test]
    fn a_symbol_named_twice_is_chosen_once() {
        let said = Said::Text(r#"{"stocks": ["MSFT", "AAPL", "MSFT"]}"#.into());
        assert_eq!(chosen(&said), Ok(vec![8, 0]));
    }
}
