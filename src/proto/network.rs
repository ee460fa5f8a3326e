//! Networks of addresses, and peers that are known by them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// An address range such as `10.0.0.0/8`; an address alone is a range of one.
///
/// In order, a network stands before those that it includes, and these before any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(IpNet);

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor a range.
    #[error("expected an address or a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"")]
    Malformed,
    /// Address bits beyond the prefix: a slip in the one or the other.
    #[error("its address has bits beyond its prefix")]
    HostBits(Network),
}

impl Network {
    /// Whether `ip` lies in it. An IPv4 address is the same on an IPv6 socket.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether every address of `other` lies in it.
    pub fn includes(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether every address of its family lies in it.
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(ip.to_canonical().into()));
        }
        let written: IpNet = text.parse().map_err(|_| NetworkError::Malformed)?;
        let trunc = canonical(written.trunc());
        if written.trunc() == written { Ok(Self(trunc)) } else { Err(NetworkError::HostBits(Self(trunc))) }
    }
}

/// A range of IPv4 addresses that is written as they stand on an IPv6 socket, as one of IPv4.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(ip, prefix)| IpNet::new(ip.into(), prefix).ok()).unwrap_or(network)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_one = self.0.prefix_len() == self.0.max_prefix_len();
        if is_one { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// Several networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<Network>);

impl Networks {
    /// Whether one of them has `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(ip))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Peers that are believed something: by their networks, or because they are on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Those of TCP.
    pub networks: Networks,
    /// All of unix sockets.
    pub unix: bool,
}

impl Peers {
    /// Whether the peer with this address is one of them; `None` is one on a unix socket.
    pub fn contains(&self, ip: Option<IpAddr>) -> bool {
        ip.map_or(self.unix, |ip| self.networks.contains(ip))
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }
}

/// What stands for a client: its IPv4 address, or the first 64 bits of its IPv6 address, since whoever has one address there has
/// as many as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// On an IPv4 or an IPv6 socket.
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6([u8; 8]),
}

impl From<IpAddr> for ClientKey {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [prefix @ .., _, _, _, _, _, _, _, _] = ip.octets();
                Self::V6(prefix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_64_bits() {
        let of = |ip: &str| ClientKey::from(ip.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_its_addresses_in_either_clothes() {
        let ten = network("10.0.0.0/8");
        for inside in ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"] {
            assert!(ten.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.0", "::a00:1", "2001:db8::1"] {
            assert!(!ten.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(network("2001:db8::/32").contains("2001:db8:ffff::1".parse().unwrap()));
        assert!(network("::ffff:192.0.2.0/120").contains("192.0.2.7".parse().unwrap()));
        assert!(network("::/0").contains("2001:db8::1".parse().unwrap()));
        assert!(network("192.0.2.7").contains("192.0.2.7".parse().unwrap()));
        assert!(!network("192.0.2.7").contains("192.0.2.8".parse().unwrap()));
    }

    #[test]
    fn a_network_includes_those_that_lie_in_it() {
        assert!(network("10.0.0.0/8").includes(&network("10.1.0.0/16")));
        assert!(network("10.0.0.0/8").includes(&network("::ffff:10.1.2.3")));
        assert!(!network("10.1.0.0/16").includes(&network("10.0.0.0/8")));
        assert!(!network("::/0").includes(&network("10.0.0.0/8")));
        assert!(network("::/0").is_everyone() && !network("10.0.0.0/8").is_everyone());
    }

    #[test]
    fn in_order_a_network_leads_those_that_it_includes() {
        let mut texts = ["10.1.0.0/16", "2001:db8::/32", "10.0.0.0", "11.0.0.0/8", "10.0.0.0/8", "10.1.2.3"];
        texts.sort_by_key(|text| network(text));
        let expected = ["10.0.0.0/8", "10.0.0.0", "10.1.0.0/16", "10.1.2.3", "11.0.0.0/8", "2001:db8::/32"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn what_is_no_network_says_why() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0/", "10.0.0.1/255.0.0.0"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed), "{text}");
        }
        let meant = NetworkError::HostBits(network("10.0.0.0/8"));
        assert_eq!("10.0.0.1/8".parse::<Network>(), Err(meant));
    }

    #[test]
    fn a_network_is_shown_as_it_is_written() {
        for text in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "0.0.0.0/0"] {
            assert_eq!(network(text).to_string(), text);
        }
    }

    #[test]
    fn peers_on_a_unix_socket_are_named_by_a_word() {
        let peers = |unix| Peers { networks: Networks(vec![network("127.0.0.0/8")]), unix };
        assert!(peers(true).contains(None) && !peers(false).contains(None));
        assert!(peers(false).contains(Some("127.0.0.9".parse().unwrap())));
        assert!(Peers::default().is_empty() && !peers(false).is_empty());
    }
}
