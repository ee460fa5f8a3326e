//! Look-ups: the addresses of a name and the servers of an SRV record, as the system is configured.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name as DnsName, RData, RecordType, rdata::SRV},
    },
    system_conf::read_system_conf,
};
use tokio::time::timeout;

/// The addresses of a name, by family.
#[derive(Debug)]
pub(super) struct Found {
    /// IPv6; `None` if nobody said, so that what was known goes on to be true.
    six: Option<Vec<IpAddr>>,
    /// The same for IPv4.
    four: Option<Vec<IpAddr>>,
}

/// Why there is no address for a name.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub(super) struct Unresolved(Arc<io::Error>);

impl Unresolved {
    pub(super) fn new(error: io::Error) -> Self {
        Self(Arc::new(error))
    }

    /// It is not a server of the pool any more.
    pub(super) fn left() -> Self {
        Self::new(io::Error::new(io::ErrorKind::NotFound, "the server has left its record"))
    }
}

impl Found {
    /// Whether both families were heard of.
    pub(super) fn is_whole(&self) -> bool {
        self.six.is_some() && self.four.is_some()
    }

    /// The addresses, IPv6 first and each once. Where nobody said anything about a family, those of `last` stay.
    pub(super) fn addresses(&self, last: &[IpAddr]) -> Vec<IpAddr> {
        let of_last = |is_six: bool| last.iter().copied().filter(move |last| last.is_ipv6() == is_six);
        let mut all: Vec<IpAddr> = Vec::new();
        for (found, is_six) in [(&self.six, true), (&self.four, false)] {
            let found = found.clone().unwrap_or_else(|| of_last(is_six).collect());
            for address in found {
                // An IPv4 address written as IPv6 is reached the same way.
                let address = address.to_canonical();
                if !all.contains(&address) {
                    all.push(address);
                }
            }
        }
        all
    }

    /// All there are.
    fn whole(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (six, four) = addresses.into_iter().partition(IpAddr::is_ipv6);
        Self { six: Some(six), four: Some(four) }
    }

    fn is_empty(&self) -> bool {
        [&self.six, &self.four].into_iter().flatten().all(Vec::is_empty)
    }
}

/// The addresses of `host`, at least one: those of the hosts file if it has some, and else what DNS says. Where the answer for
/// one family is there, the other one's is waited for with `patience`.
pub(super) async fn look_up(host: &str, patience: Duration) -> io::Result<Found> {
    let found = match Dns::of_system() {
        // No resolv.conf that could be read, but the C library may know more ways.
        Err(_) => {
            Found::whole(tokio::net::lookup_host((host, 0)).await?.map(|address: SocketAddr| address.ip()))
        }
        Ok(dns) => {
            let name = DnsName::from_str_relaxed(host).map_err(io::Error::other)?;
            let in_file = Found::whole(in_hosts_file(&name));
            if in_file.is_empty() { dns.both_families(&name, patience).await? } else { in_file }
        }
    };
    if found.is_empty() { Err(absent("the name has no address")) } else { Ok(found) }
}

/// The servers that the SRV record `name` lists (RFC 2782).
pub(super) async fn records(name: &str) -> io::Result<Vec<SRV>> {
    let dns = Dns::of_system().map_err(io::Error::other)?;
    let record = |data: &RData| match data {
        // The root as a target says that there is no such service.
        RData::SRV(record) if !record.target.is_root() => Some(record.clone()),
        _ => None,
    };
    for candidate in dns.candidates(&DnsName::from_str_relaxed(name).map_err(io::Error::other)?) {
        let records = dns.ask(&candidate, RecordType::SRV, record).await?;
        if !records.is_empty() {
            return Ok(records);
        }
    }
    Err(absent("the record lists no server"))
}

fn absent(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

/// A resolver as the system is configured now, for one look-up.
///
/// Its tasks live on the runtime that asks and end with the look-up; it has no cache to be stale, as answers are kept with what
/// they are for; and a resolv.conf that changed is seen. Making one reads a small file, once in `dns_refresh`.
struct Dns {
    resolver: TokioResolver,
    /// What is appended to names that are not whole.
    search: Vec<DnsName>,
    ndots: usize,
}

impl Dns {
    fn of_system() -> Result<Self, NetError> {
        let (config, mut options) = configuration()?;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let mut search = config.search().to_vec();
        if search.is_empty() {
            search.extend(config.domain().cloned());
        }
        let ndots = options.ndots;
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider).with_options(options).build()?;
        Ok(Self { resolver, search, ndots })
    }

    /// What `name` may be short for, in the order of resolv.conf(5).
    fn candidates(&self, name: &DnsName) -> Vec<DnsName> {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        if name.is_fqdn() {
            return vec![whole];
        }
        let mut candidates: Vec<_> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let has_dots_enough = usize::from(name.num_labels()) > self.ndots || name.is_localhost();
        candidates.insert(if has_dots_enough { 0 } else { candidates.len() }, whole);
        candidates
    }

    /// What is found at a whole name; nothing if there is no such name, or no such record.
    async fn ask<T>(
        &self,
        name: &DnsName,
        family: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        match self.resolver.lookup(name.clone(), family).await {
            Ok(found) => Ok(found.answers().iter().filter_map(|answer| read(&answer.data)).collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Both families of the first candidate that has any, as another one is another host. Where one could not be asked for, it
    /// might have been this one, and no other is taken for it.
    async fn both_families(&self, name: &DnsName, patience: Duration) -> io::Result<Found> {
        for candidate in self.candidates(name) {
            let found = self.families_of(&candidate, patience).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(absent("there is no such name"))
    }

    /// A server that answers for one family alone must not keep its addresses from being used.
    async fn families_of(&self, name: &DnsName, patience: Duration) -> io::Result<Found> {
        let mut six = pin!(self.ask(name, RecordType::AAAA, RData::ip_addr));
        let mut four = pin!(self.ask(name, RecordType::A, RData::ip_addr));
        let (six, four) = tokio::select! {
            found = &mut six => {
                let other = other_family(&found, four, patience).await;
                (found, other)
            }
            found = &mut four => (other_family(&found, six, patience).await, found),
        };
        match (six, four) {
            (Err(error), Err(_)) => Err(error),
            (Ok(found), Err(error)) | (Err(error), Ok(found)) if found.is_empty() => Err(error),
            (six, four) => Ok(Found { six: six.ok(), four: four.ok() }),
        }
    }
}

/// The second answer, without long waiting if the first is good.
async fn other_family(
    first: &io::Result<Vec<IpAddr>>,
    other: impl Future<Output = io::Result<Vec<IpAddr>>>,
    patience: Duration,
) -> io::Result<Vec<IpAddr>> {
    match first {
        Ok(found) if !found.is_empty() => {
            timeout(patience, other).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        _ => other.await,
    }
}

fn configuration() -> Result<(ResolverConfig, ResolverOpts), NetError> {
    #[cfg(test)]
    if let Some(configuration) = super::tests::names::configuration() {
        return Ok(configuration);
    }
    read_system_conf()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_that_is_said_twice_is_one() {
        let found = Found {
            six: Some(ips(&["::1", "::ffff:10.0.0.1", "::1"])),
            four: Some(ips(&["10.0.0.1", "10.0.0.2"])),
        };
        assert_eq!(found.addresses(&[]), ips(&["::1", "10.0.0.1", "10.0.0.2"]));
    }

    #[test]
    fn a_family_of_which_nobody_said_anything_stays_as_it_was() {
        let last = ips(&["::1", "::2", "10.0.0.1"]);
        let four = Found { six: None, four: Some(ips(&["10.0.0.9"])) };
        assert_eq!(four.addresses(&last), ips(&["::1", "::2", "10.0.0.9"]));
        let six = Found { six: Some(ips(&["::9"])), four: None };
        assert_eq!(six.addresses(&last), ips(&["::9", "10.0.0.1"]));
        assert_eq!(Found::whole(ips(&["::9"])).addresses(&last), ips(&["::9"]));
        assert!(!four.is_whole() && Found::whole(Vec::new()).is_whole());
    }

    #[tokio::test]
    async fn the_search_list_is_walked_as_resolv_conf_says() {
        let dns = |search: &[&str], ndots| Dns {
            resolver: TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(Vec::new()),
                TokioRuntimeProvider::default(),
            )
            .build()
            .unwrap(),
            search: search.iter().map(|name| DnsName::from_str_relaxed(name).unwrap()).collect(),
            ndots,
        };
        let walk = |dns: &Dns, name: &str| {
            let name = DnsName::from_str_relaxed(name).unwrap();
            dns.candidates(&name).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let one = dns(&["a.test", "b.test."], 1);
        assert_eq!(walk(&one, "web"), ["web.a.test.", "web.b.test.", "web."]);
        assert_eq!(walk(&one, "web.x"), ["web.x.", "web.x.a.test.", "web.x.b.test."]);
        assert_eq!(walk(&one, "web.x."), ["web.x."]);
        assert_eq!(walk(&dns(&["a.test"], 2), "web.x"), ["web.x.a.test.", "web.x."]);
        assert_eq!(walk(&dns(&[], 1), "web"), ["web."]);
    }
}
