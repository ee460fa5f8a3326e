//! What the choice of an endpoint knows of a request.

use std::{borrow::Cow, net::IpAddr};

use crate::{
    config::{Balance, HashKey, Upstream},
    proto::{cookie, head::RequestHead, query},
    route::Target,
    upstream::{Caller, StickyId},
};

/// As far as the pool asks for it.
pub(super) fn of(pool: &Upstream, head: &RequestHead, target: &Target, client: Option<IpAddr>) -> Caller {
    let hash = match &pool.balance {
        Balance::ConsistentHash(key) => key_of(key, head, target, client),
        Balance::LeastConnections | Balance::RoundRobin | Balance::RandomTwo => None,
    };
    let sticky = pool.sticky.as_ref();
    Caller {
        hash: hash.map(|key| Caller::hash(&key)),
        // A backend may have a cookie with the same name, on another path.
        sticky: sticky
            .and_then(|sticky| cookie::values(&head.headers, &sticky.cookie).find_map(StickyId::parse)),
        addresses: None,
    }
}

/// What is hashed; `None` if the request has no such thing. What is empty is nothing: else all who leave it empty would go
/// to one server.
fn key_of<'r>(
    key: &HashKey,
    head: &'r RequestHead,
    target: &'r Target,
    client: Option<IpAddr>,
) -> Option<Cow<'r, [u8]>> {
    let key: Cow<'r, [u8]> = match key {
        HashKey::ClientIp => match client?.to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec().into(),
            IpAddr::V6(ip) => ip.octets().to_vec().into(),
        },
        HashKey::Path => target.normal_path().into_text().into_bytes().into(),
        HashKey::Header(name) => head.headers.get(name)?.into(),
        HashKey::Cookie(name) => cookie::values(&head.headers, name).next()?.into(),
        HashKey::Query(name) => query::value(target.query()?, name)?.into(),
    };
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::HeadLimits;

    fn key(key: &HashKey, client: Option<&str>, target: &str, lines: &str) -> Option<Vec<u8>> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0;
        let target = Target::parse(&head).unwrap();
        key_of(key, &head, &target, client.map(|ip| ip.parse().unwrap())).map(Cow::into_owned)
    }

    #[test]
    fn an_address_is_the_same_on_an_ipv6_socket() {
        let of = |ip| key(&HashKey::ClientIp, Some(ip), "/", "");
        assert_eq!(of("192.0.2.7"), Some(vec![192, 0, 2, 7]));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(key(&HashKey::ClientIp, None, "/", ""), None, "a unix listener");
    }

    #[test]
    fn a_path_is_hashed_as_it_is_routed_by() {
        let of = |target| key(&HashKey::Path, None, target, "");
        assert_eq!(of("/room/1?token=x").as_deref(), Some(&b"/room/1"[..]));
        assert_eq!(of("//room/%31"), of("/room/1"));
        assert_ne!(of("/room/2"), of("/room/1"));
    }

    #[test]
    fn a_header_a_cookie_and_a_parameter() {
        let lines = "X-Room: red\r\nCookie: a=1; room=\"blue\"\r\n";
        let of = |what: HashKey| key(&what, None, "/?room=gr%65en&room=x", lines);
        assert_eq!(of(HashKey::Header("x-room".into())).as_deref(), Some(&b"red"[..]));
        assert_eq!(of(HashKey::Cookie("room".into())).as_deref(), Some(&b"blue"[..]));
        assert_eq!(of(HashKey::Query("room".into())).as_deref(), Some(&b"green"[..]));
        assert_eq!(of(HashKey::Header("x".into())), None);
        assert_eq!(of(HashKey::Cookie("x".into())), None);
        assert_eq!(of(HashKey::Query("x".into())), None);
    }

    #[test]
    fn what_is_empty_is_no_key() {
        let of = |what: HashKey| key(&what, None, "/?room=", "X-Room:\r\nCookie: room=\r\n");
        assert_eq!(of(HashKey::Header("x-room".into())), None);
        assert_eq!(of(HashKey::Cookie("room".into())), None);
        assert_eq!(of(HashKey::Query("room".into())), None);
    }
}
