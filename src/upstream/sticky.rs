//! The cookie that keeps a client at its server.
//!
//! Its value is a part of a hash of the endpoint's name: the same on every replica and after every restart, it says
//! nothing by itself, and there is nothing in it to be believed, as it is only compared with those of the pool's own
//! endpoints. It is no secret: who guesses a server's address can find his guess confirmed.

use std::{fmt, str};

use sha1::{Digest, Sha1};

use crate::config::{SameSite, Sticky};

/// What a sticky cookie says: an endpoint, maybe of this pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StickyId(u64);

impl StickyId {
    /// Of the endpoint with this name.
    pub(super) fn of(name: &str) -> Self {
        let digest = Sha1::new().chain_update("wsgate sticky_cookie\n").chain_update(name).finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }

    /// Reads a cookie's value; `None` for what wsgate never wrote.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if value.len() != 16 || !value.iter().all(is_digit) {
            return None;
        }
        u64::from_str_radix(str::from_utf8(value).ok()?, 16).ok().map(Self)
    }

    /// The value of Set-Cookie that makes a client come back to it. Without an age, it ends with the browser.
    pub(super) fn set_cookie(self, sticky: &Sticky, secure: bool) -> String {
        let secure = if secure { "; Secure" } else { "" };
        let same_site = match sticky.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        };
        format!("{}={self}; Path=/; HttpOnly{secure}; SameSite={same_site}", sticky.cookie)
    }
}

impl fmt::Display for StickyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_the_same_in_every_version_and_shows_no_address() {
        let id = StickyId::of("10.0.0.2:80").to_string();
        assert_eq!(id, "2aa306610ca8e6ad");
        assert_ne!(StickyId::of("10.0.0.3:80").to_string(), id);
    }

    #[test]
    fn the_cookie_is_http_only_and_secure_where_the_client_is() {
        let sticky = |same_site| Sticky { cookie: "srv".into(), same_site };
        let id = StickyId(0xabc);
        assert_eq!(
            id.set_cookie(&sticky(SameSite::Lax), false),
            "srv=0000000000000abc; Path=/; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            id.set_cookie(&sticky(SameSite::None), true),
            "srv=0000000000000abc; Path=/; HttpOnly; Secure; SameSite=None"
        );
        assert!(id.set_cookie(&sticky(SameSite::Strict), true).ends_with("; SameSite=Strict"));
    }

    #[test]
    fn what_is_no_id_is_none() {
        for value in ["", "abc", "10.0.0.2:80", "000000000000000G", "0000000000000ABC", "+000000000000000"] {
            assert_eq!(StickyId::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(StickyId::parse(b"00000000000000000"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id: u64) {
            prop_assert_eq!(StickyId::parse(StickyId(id).to_string().as_bytes()), Some(StickyId(id)));
        }

        #[test]
        fn no_bytes_panic(value in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = StickyId::parse(&value);
        }
    }
}
