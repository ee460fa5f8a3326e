//! Names of servers: asked again every `dns_refresh`, the last good answer outliving a failure.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::{
    Hosts, ResolverBuilder, TokioResolver,
    config::ResolveHosts,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name as DnsName, RData, RecordType, rdata::SRV},
    },
};
use tokio::time::{Instant, timeout};

use super::lock;
use crate::config;

/// How long the request that finds an answer too old waits for a new one, at most, before it goes on with the old.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the addresses of one family wait for those of the other (RFC 8305 §3).
const OTHER_FAMILY: Duration = Duration::from_millis(250);

/// A DNS name and port with its last good answer.
#[derive(Debug)]
pub(super) struct Name {
    host: String,
    port: u16,
    /// How long an answer is used before the name is asked for again; `None` is for good.
    refresh: Option<Duration>,
    patience: Duration,
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
    pub(super) fn new(host: String, port: u16, upstream: &config::Upstream) -> Self {
        Self {
            host,
            port,
            refresh: upstream.dns_refresh,
            patience: upstream.connect_timeout.map_or(PATIENCE, |timeout| PATIENCE.min(timeout / 2)),
            answer: Mutex::new(None),
            first: tokio::sync::Mutex::new(()),
        }
    }

    /// The name as configured.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Its addresses, never none. An error only if the name never had an answer.
    pub(super) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        self.addresses_by(look_up(&self.host, self.port)).await
    }

    async fn addresses_by(
        &self,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Arc<[SocketAddr]>> {
        if let Some(known) = self.known_or_ours_to_ask() {
            return Ok(known);
        }
        // While the name has no answer there is one look-up at a time: else there would be as many for a name that nobody
        // knows as there are requests, and the system's own can't be called off.
        let mut turn = None;
        let is_first = lock(&self.answer).is_none();
        if is_first {
            turn = Some(self.first.lock().await);
            if let Some(known) = self.known_or_ours_to_ask() {
                return Ok(known);
            }
        }
        let found = if is_first {
            lookup.await
        } else {
            timeout(self.patience, lookup).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        let found = found.and_then(|found| {
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
        if self.refresh.is_none_or(|period| answer.asked.elapsed() < period) {
            return Some(Arc::clone(&answer.addresses));
        }
        answer.asked = Instant::now();
        None
    }
}

/// All addresses of `host`: those of the hosts file if it has some, and else what DNS says.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let Ok(resolver) = resolver() else {
        // No resolv.conf that could be read, but the C library may know more ways.
        return Ok(tokio::net::lookup_host((host, port)).await?.collect());
    };
    let name = DnsName::from_str_relaxed(host).map_err(io::Error::other)?;
    let mut found = in_hosts_file(&name);
    if found.is_empty() {
        found = both_families(&resolver, &name).await?;
    }
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// The servers that the SRV record `name` lists (RFC 2782).
pub(super) async fn records(name: &str) -> io::Result<Vec<SRV>> {
    let resolver = resolver().map_err(io::Error::other)?;
    let name = DnsName::from_str_relaxed(name).map_err(io::Error::other)?;
    let found = resolver.lookup(name, RecordType::SRV).await.map_err(io::Error::other)?;
    let record = |data: &RData| match data {
        // The root as a target says that there is no such service.
        RData::SRV(record) if !record.target.is_root() => Some(record.clone()),
        _ => None,
    };
    let records: Vec<_> = found.answers().iter().filter_map(|answer| record(&answer.data)).collect();
    if records.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the record lists no server"));
    }
    Ok(records)
}

/// A resolver as the system is configured now, for one look-up.
///
/// Its tasks live on the runtime that asks and end with the look-up, whichever worker's it is; it has no cache to be stale, as a
/// [`Name`] keeps its answer; and a resolv.conf that changed is seen. Making one reads a small file, once in `dns_refresh`.
fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = builder()?;
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

fn builder() -> Result<ResolverBuilder<TokioRuntimeProvider>, NetError> {
    #[cfg(test)]
    if let Some(config) = super::tests::names::config() {
        return Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()));
    }
    TokioResolver::builder_tokio()
}

/// What the hosts file says. Where it knows a name in one family alone, DNS is not asked for the other: it may know nothing of
/// the name, or not be there.
fn in_hosts_file(name: &DnsName) -> Vec<IpAddr> {
    let Ok(hosts) = Hosts::from_system() else { return Vec::new() };
    let families = [RecordType::AAAA, RecordType::A];
    let found = families.map(|family| hosts.lookup_static_host(&Query::query(name.clone(), family)));
    let addresses = |lookup: &hickory_resolver::lookup::Lookup| {
        lookup.answers().iter().filter_map(|answer| answer.data.ip_addr()).collect::<Vec<_>>()
    };
    found.iter().flatten().flat_map(addresses).collect()
}

/// What DNS says, IPv6 first. A server that answers for one family alone must not keep its addresses from being used.
async fn both_families(resolver: &TokioResolver, name: &DnsName) -> io::Result<Vec<IpAddr>> {
    let ask = async |family| {
        let found = resolver.lookup(name.clone(), family).await.map_err(io::Error::other)?;
        Ok::<Vec<_>, io::Error>(found.answers().iter().filter_map(|answer| answer.data.ip_addr()).collect())
    };
    let (mut six, mut four) = (pin!(ask(RecordType::AAAA)), pin!(ask(RecordType::A)));
    let (six, four) = tokio::select! {
        found = &mut six => {
            let other = other_family(&found, four).await;
            (found, other)
        }
        found = &mut four => (other_family(&found, six).await, found),
    };
    match (six, four) {
        (Ok(six), Ok(four)) => Ok([six, four].concat()),
        (Ok(one), Err(error)) | (Err(error), Ok(one)) => {
            if one.is_empty() {
                Err(error)
            } else {
                Ok(one)
            }
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// The second answer, without long waiting if the first is good.
async fn other_family(
    first: &io::Result<Vec<IpAddr>>,
    other: impl Future<Output = io::Result<Vec<IpAddr>>>,
) -> io::Result<Vec<IpAddr>> {
    match first {
        Ok(found) if !found.is_empty() => {
            timeout(OTHER_FAMILY, other).await.unwrap_or_else(|_| Ok(Vec::new()))
        }
        _ => other.await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// The `dns_refresh` of the pools of tests.
    const REFRESH: Duration = Duration::from_secs(30);

    fn answer(port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        std::future::ready(Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]))
    }

    fn failure() -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        std::future::ready(Err(io::Error::other("no server answers")))
    }

    fn name() -> Name {
        Name::new("backend.example".into(), 80, &crate::upstream::tests::upstream(Vec::new()))
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

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_keeps_the_last_good_answer() {
        let name = name();
        name.addresses_by(answer(1)).await.unwrap();
        tokio::time::advance(REFRESH).await;
        let begun = Instant::now();
        assert_eq!(name.addresses_by(pending()).await.unwrap()[0].port(), 1);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn without_dns_refresh_a_name_is_asked_for_once() {
        let mut config = crate::upstream::tests::upstream(Vec::new());
        config.dns_refresh = None;
        let name = Name::new("backend.example".into(), 80, &config);
        assert!(name.addresses_by(failure()).await.is_err());
        name.addresses_by(answer(1)).await.unwrap();
        tokio::time::advance(Duration::from_secs(1_000_000)).await;
        assert_eq!(name.addresses_by(answer(2)).await.unwrap()[0].port(), 1);
    }

    #[tokio::test]
    async fn a_name_without_any_answer_is_an_error() {
        let error = name().addresses_by(std::future::ready(Ok(Vec::new()))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
