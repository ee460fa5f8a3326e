//! Whom a request comes from.

use std::net::{IpAddr, SocketAddr};

use super::{Client, client::name_of};
use crate::{
    config,
    proto::{
        forward::{self, ClientIpHeader, Proxy, told_request_id},
        head::RequestHead,
    },
    telemetry::RateLimited,
};

/// On whose word the address is the sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Nobody's: it is the connection's, or what the PROXY header says.
    Own,
    /// The PROXY header named nobody: it is the proxy's.
    Unnamed,
    /// A trusted proxy's, which may have spoken for itself.
    Proxy,
    /// The same by the listener's `client_ip_header`.
    Named,
}

/// The client of one request, as far as the listener believes what it was told (rule H7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// `None` on a unix listener.
    pub(super) ip: Option<IpAddr>,
    /// `None` where no port is told.
    port: Option<u16>,
    /// Whether it came by https, to wsgate or to a proxy that is trusted.
    pub(super) https: bool,
    word: Word,
}

impl Sender {
    /// The sender of a request of this connection.
    pub(super) fn of(client: &Client, head: &RequestHead, listener: &config::Listener) -> Self {
        let word = if client.is_unnamed() {
            Word::Unnamed
        } else if client.is_among(&listener.trusted_proxies) {
            Word::Proxy
        } else {
            Word::Own
        };
        let own = Self {
            ip: client.ip(),
            port: client.address().map(|address| address.port()),
            https: client.tls.is_some(),
            word,
        };
        if !own.is_proxied() {
            return own;
        }
        let named = listener.client_ip_header.as_deref();
        let told = forward::told(&head.headers, named, &listener.trusted_proxies);
        if told.refused {
            warn_of_refused(client, named.unwrap_or_default());
        }
        let https = told.https.unwrap_or(own.https);
        match told.client {
            Some(hop) => {
                let word = if named.is_some() { Word::Named } else { word };
                Self { ip: Some(hop.ip), port: hop.port, https, word }
            }
            None => Self { https, ..own },
        }
    }

    /// Whether a trusted proxy sent the request.
    pub(super) fn is_proxied(&self) -> bool {
        matches!(self.word, Word::Proxy | Word::Named)
    }

    /// The address by which lists of networks judge it; `None` where only its proxy's is known.
    pub(super) fn listed_ip(&self) -> Option<IpAddr> {
        self.ip.filter(|_| self.word != Word::Unnamed)
    }

    /// Its address; port 0 is one that is not known.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port.unwrap_or_default()))
    }

    /// Its port, where that is known.
    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Its name in logs.
    pub(super) fn name(&self) -> Box<str> {
        match (self.ip, self.port) {
            (Some(ip), None) => ip.to_string().into(),
            _ => name_of(self.address()),
        }
    }

    /// The id that a trusted proxy gave to its request.
    pub(super) fn request_id<'h>(&self, head: &'h RequestHead) -> Option<&'h str> {
        self.is_proxied().then(|| told_request_id(&head.headers)).flatten()
    }

    /// The proxy that sent the request, if its word counts.
    pub(super) fn proxy<'a>(&self, client: &Client, listener: &'a config::Listener) -> Option<Proxy<'a>> {
        self.is_proxied().then(|| Proxy {
            ip: client.ip(),
            tls: client.tls.is_some(),
            trusted: &listener.trusted_proxies,
        })
    }

    /// The listener's `client_ip_header`, and whether it was believed.
    pub(super) fn client_ip_header<'a>(&self, listener: &'a config::Listener) -> Option<ClientIpHeader<'a>> {
        let name = listener.client_ip_header.as_deref()?;
        Some(ClientIpHeader { name, believed: self.word == Word::Named })
    }
}

/// A proxy that is trusted does not do what the configuration says of it.
fn warn_of_refused(client: &Client, header: &str) {
    static REFUSED: RateLimited = RateLimited::new(tracing::Level::WARN, "no address in client_ip_header");
    REFUSED.warn(|skipped| {
        tracing::warn!(
            proxy = %name_of(client.address()),
            header,
            skipped,
            "a trusted proxy gave no single valid address in client_ip_header: its own counts"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        head::HeadLimits,
        network::{Networks, Peers},
        proxy_protocol::{Addresses, Header},
    };

    fn head(lines: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
    }

    fn listener() -> config::Listener {
        let toml = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 204 }\n";
        let source = config::Source { name: String::new(), text: toml.into(), folder: "/".into() };
        let mut listener = config::Config::parse(&source, &|_| None).unwrap().config.listeners.remove(0);
        listener.trusted_proxies =
            Peers { networks: Networks(vec!["10.0.0.0/8".parse().unwrap()]), unix: false };
        listener
    }

    fn client(peer: &str) -> Client {
        Client::new(Some(peer.parse().unwrap()))
    }

    const SAYS: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: abc\r\n";

    #[test]
    fn h7_only_a_trusted_proxy_is_believed() {
        let of = |peer| {
            let head = head(SAYS);
            let sender = Sender::of(&client(peer), &head, &listener());
            (sender.name(), sender.https, sender.request_id(&head).map(str::to_owned))
        };
        assert_eq!(of("10.0.0.1:9"), ("192.0.2.1".into(), true, Some("abc".to_owned())));
        assert_eq!(of("[::ffff:10.0.0.1]:9").0, "192.0.2.1".into());
        assert_eq!(of("11.0.0.1:9"), ("11.0.0.1:9".into(), false, None));
    }

    #[test]
    fn h7_trust_is_judged_on_what_the_proxy_header_says() {
        let through = |header: Header| {
            let mut client = client("10.0.0.1:9");
            client.introduced(&header);
            Sender::of(&client, &head(SAYS), &listener()).name()
        };
        let from = |source: &str| {
            Header::For(Addresses {
                source: source.parse().unwrap(),
                destination: "203.0.113.9:443".parse().unwrap(),
            })
        };
        assert_eq!(through(from("198.51.100.1:5")), "198.51.100.1:5".into(), "though the peer is trusted");
        assert_eq!(through(from("10.9.9.9:5")), "192.0.2.1".into());
        assert_eq!(through(Header::Local), "192.0.2.1".into(), "the proxy's own request");
        assert_eq!(through(Header::Unknown), "10.0.0.1:9".into(), "nobody vouches for who has no address");
    }

    #[test]
    fn h7_a_unix_peer_is_trusted_where_it_is_named() {
        let mut listener = listener();
        let of = |listener: &config::Listener| Sender::of(&Client::new(None), &head(SAYS), listener);
        assert_eq!((of(&listener).ip, &*of(&listener).name()), (None, "unix"));
        listener.trusted_proxies.unix = true;
        assert_eq!(&*of(&listener).name(), "192.0.2.1");
    }

    #[test]
    fn h7_the_named_header_alone_gives_the_address() {
        let mut listener = listener();
        listener.client_ip_header = Some("CF-Connecting-IP".to_owned());
        let of = |peer, lines: &str| {
            let sender = Sender::of(&client(peer), &head(&format!("{SAYS}{lines}")), &listener);
            let believed = sender.client_ip_header(&listener).is_some_and(|header| header.believed);
            (sender.name(), sender.https, believed)
        };
        let given = "CF-Connecting-IP: 198.51.100.7\r\n";
        assert_eq!(of("10.0.0.1:9", given), ("198.51.100.7".into(), true, true));
        assert_eq!(of("10.0.0.1:9", ""), ("10.0.0.1:9".into(), true, false));
        assert_eq!(of("10.0.0.1:9", &given.repeat(2)), ("10.0.0.1:9".into(), true, false));
        assert_eq!(of("11.0.0.1:9", given), ("11.0.0.1:9".into(), false, false));
    }
}
