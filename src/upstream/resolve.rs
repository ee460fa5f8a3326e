//! Names of endpoints: asked again every [`REFRESH`], the last good answer outliving a failure.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::lock;

/// How long an answer is used before the name is asked for again.
const REFRESH: Duration = Duration::from_secs(30);

/// A DNS name and port with its last good answer.
#[derive(Debug)]
pub(super) struct Name {
    host: String,
    port: u16,
    answer: Mutex<Option<Answer>>,
    /// The turn to ask while there is no answer yet.
    first: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Answer {
    /// Never empty; in the resolver's order.
    addresses: Arc<[SocketAddr]>,
    /// When somebody last set out to ask.
    asked: Instant,
}

impl Name {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, answer: Mutex::new(None), first: tokio::sync::Mutex::new(()) }
    }

    /// The name as configured.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Its addresses, never none. An error only if the name never had an answer.
    pub(super) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        let lookup = async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
            Ok(found.collect())
        };
        self.addresses_by(lookup).await
    }

    async fn addresses_by(
        &self,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(known) = self.known_or_ours_to_ask() {
            return Ok(known);
        }
        // A look-up can't be called off, so while the name has no answer there is one at a time: else the requests for a name
        // that nobody knows would leave as many look-ups behind as they are.
        let mut turn = None;
        if lock(&self.answer).is_none() {
            turn = Some(self.first.lock().await);
            if let Some(known) = self.known_or_ours_to_ask() {
                return Ok(known);
            }
        }
        let found = lookup.await.and_then(|found| {
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(Arc::from(found))
        });
        drop(turn);
        let mut answer = lock(&self.answer);
        match (found, &*answer) {
            (Ok(addresses), _) => {
                *answer = Some(Answer { addresses: Arc::clone(&addresses), asked: Instant::now() });
                Ok(addresses)
            }
            (Err(error), Some(last)) => {
                tracing::warn!(name = %self.host, %error, "name not resolved, its last addresses stay in use");
                Ok(Arc::clone(&last.addresses))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The known addresses, or `None` if the caller is to ask for them. Who is told to ask about a name that
    /// had an answer is the only one for a period: the others go on with the old one and wait for nothing.
    fn known_or_ours_to_ask(&self) -> Option<Arc<[SocketAddr]>> {
        let mut answer = lock(&self.answer);
        let answer = answer.as_mut()?;
        if answer.asked.elapsed() < REFRESH {
            return Some(Arc::clone(&answer.addresses));
        }
        answer.asked = Instant::now();
        None
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn answer(port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        std::future::ready(Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]))
    }

    fn failure() -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        std::future::ready(Err(io::Error::other("no server answers")))
    }

    fn name() -> Name {
        Name::new("backend.example".into(), 80)
    }

    #[tokio::test]
    async fn a_name_without_an_answer_is_asked_for_by_one_at_a_time() {
        let name = name();
        let asked = std::cell::Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            answer(7).await
        };
        let (one, two, three) =
            tokio::join!(name.addresses_by(ask()), name.addresses_by(ask()), name.addresses_by(ask()));
        assert!([one, two, three].into_iter().all(|found| found.unwrap()[0].port() == 7));
        assert_eq!(asked.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_used_for_a_period() {
        let name = name();
        assert_eq!(name.addresses_by(answer(1)).await.unwrap()[0].port(), 1);
        tokio::time::advance(Duration::from_millis(29_999)).await;
        assert_eq!(name.addresses_by(answer(2)).await.unwrap()[0].port(), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(name.addresses_by(answer(3)).await.unwrap()[0].port(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_last_good_answer() {
        let name = name();
        assert!(name.addresses_by(failure()).await.is_err());
        name.addresses_by(answer(1)).await.unwrap();
        for empty_answer in [false, true] {
            tokio::time::advance(REFRESH).await;
            let kept = if empty_answer {
                name.addresses_by(std::future::ready(Ok(Vec::new()))).await
            } else {
                name.addresses_by(failure()).await
            };
            assert_eq!(kept.unwrap()[0].port(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_again_and_the_others_do_not_wait() {
        let name = name();
        name.addresses_by(answer(1)).await.unwrap();
        tokio::time::advance(REFRESH).await;
        {
            let mut asking = std::pin::pin!(name.addresses_by(pending()));
            let first = std::future::poll_fn(|cx| std::task::Poll::Ready(asking.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            assert_eq!(name.addresses_by(pending()).await.unwrap()[0].port(), 1);
        }
        tokio::time::advance(REFRESH).await;
        assert_eq!(name.addresses_by(answer(2)).await.unwrap()[0].port(), 2);
    }

    #[tokio::test]
    async fn a_name_without_any_answer_is_an_error() {
        let error = name().addresses_by(std::future::ready(Ok(Vec::new()))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
