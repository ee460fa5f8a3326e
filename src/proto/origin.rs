//! The Origin of an opening handshake and the list of those that are let in (RFC 6454, RFC 6455 §10.2, rule W14).

use std::{fmt, str::FromStr};

/// An entry of a list of allowed origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: any, `null` too.
    Any,
    /// `null`: what a sandboxed frame or a file sends.
    Null,
    /// `same-origin`: that of the listener that the request came to.
    SameOrigin,
    /// One origin, such as `https://example.com` or `capacitor://localhost`.
    Exact(Origin),
    /// `https://*.example.com`: every host below, not the one that is named.
    Below(Origin),
}

/// Scheme, host and port (RFC 6454 §4): in lower case, the scheme's own port left away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// Why a text is no pattern of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// A host alone.
    #[error("an origin begins with its scheme, such as `https://`")]
    Scheme,
    /// More than scheme, host and port.
    #[error("an origin ends with its host or port, without a path")]
    Path,
    /// A `*` elsewhere than before the first dot of the host.
    #[error("a `*` stands for the beginning of a host alone: `https://*.example.com`")]
    Wildcard,
    /// Neither a name nor an address, or no port.
    #[error("its host or port is malformed")]
    Host,
}

impl Origin {
    /// Reads what a browser sends; `None` for what none does: `null`, a list, a path, malformed text.
    pub fn parse(value: &[u8]) -> Option<Self> {
        std::str::from_utf8(value).ok().and_then(|text| Self::from_text(text).ok())
    }

    /// The origin of a request to a listener: its scheme and what Host says, `None` where that is no host.
    pub fn of_request(tls: bool, authority: &str) -> Option<Self> {
        let scheme = if tls { "https" } else { "http" };
        Self::from_text(&format!("{scheme}://{authority}")).ok()
    }

    fn from_text(text: &str) -> Result<Self, OriginError> {
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err(OriginError::Scheme);
        }
        if rest.contains(['/', '?', '#']) {
            return Err(OriginError::Path);
        }
        let (host, port) = split_port(rest)?;
        if !is_host(host) {
            return Err(OriginError::Host);
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = port.filter(|port| usual_port(&scheme) != Some(*port));
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Ok(Self { scheme, host, port })
    }
}

/// A port that an origin leaves away (RFC 6454 §4). WebSocket's schemes are no origins of browsers, though of some other clients.
fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// An IPv6 address keeps its brackets.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), OriginError> {
    let host_end = if authority.starts_with('[') {
        authority.find(']').ok_or(OriginError::Host)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').ok_or(OriginError::Host)?;
    let is_port = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if is_port => Ok((host, Some(port))),
        _ => Err(OriginError::Host),
    }
}

/// A name, perhaps with letters of other scripts as some clients send them, or an address.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label_character = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !host.is_empty() && !host.starts_with('.') && !host.contains("..") && host.chars().all(is_label_character)
}

/// Whether this is a host, perhaps with a port.
pub(in crate::proto) fn is_authority(value: &[u8]) -> bool {
    let host = std::str::from_utf8(value).ok().and_then(|text| split_port(text).ok());
    host.is_some_and(|(host, _)| is_host(host))
}

impl FromStr for OriginPattern {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            "same-origin" => return Ok(Self::SameOrigin),
            _ => {}
        }
        let Some((scheme, rest)) = text.split_once("://*.") else {
            return if text.contains('*') {
                Err(OriginError::Wildcard)
            } else {
                Origin::from_text(text).map(Self::Exact)
            };
        };
        if rest.contains('*') {
            return Err(OriginError::Wildcard);
        }
        Origin::from_text(&format!("{scheme}://{rest}")).map(Self::Below)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::SameOrigin => f.write_str("same-origin"),
            Self::Exact(origin) => origin.fmt(f),
            Self::Below(Origin { scheme, host, port }) => {
                write!(f, "{scheme}://*.{host}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

impl OriginPattern {
    /// Whether it lets this Origin in. `own` is the origin that the request came to, if that could be told.
    pub fn allows(&self, value: &[u8], own: Option<&Origin>) -> bool {
        let origin = || Origin::parse(value);
        match self {
            Self::Any => true,
            Self::Null => value == b"null",
            Self::SameOrigin => own.is_some_and(|own| origin().as_ref() == Some(own)),
            Self::Exact(allowed) => origin().as_ref() == Some(allowed),
            Self::Below(above) => origin().is_some_and(|origin| {
                let below = origin.host.strip_suffix(&above.host).and_then(|rest| rest.strip_suffix('.'));
                origin.scheme == above.scheme
                    && origin.port == above.port
                    && below.is_some_and(|below| !below.is_empty())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        let own = Origin::of_request(true, "chat.example.com");
        pattern.parse::<OriginPattern>().unwrap().allows(origin.as_bytes(), own.as_ref())
    }

    #[test]
    fn w14_scheme_host_and_port_all_count() {
        assert!(allows("https://example.com", "https://example.com"));
        assert!(allows("https://example.com", "HTTPS://Example.COM:443"));
        assert!(allows("https://example.com:443", "https://example.com"));
        assert!(allows("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"));
        for other in [
            "http://example.com",
            "https://example.com:8443",
            "https://www.example.com",
            "https://example.com.evil.example",
            "https://evilexample.com",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://example.com https://evil.example",
            "example.com",
            "null",
            "",
        ] {
            assert!(!allows("https://example.com", other), "{other}");
        }
    }

    #[test]
    fn w14_custom_schemes_count_as_they_are() {
        assert!(allows("capacitor://localhost", "capacitor://localhost"));
        assert!(!allows("capacitor://localhost", "ionic://localhost"));
        assert!(!allows("capacitor://localhost", "capacitor://localhost:80"));
        assert!(allows("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"));
    }

    #[test]
    fn w14_a_wildcard_is_for_hosts_below() {
        let pattern = "https://*.example.com";
        assert!(allows(pattern, "https://chat.example.com"));
        assert!(allows(pattern, "https://a.b.example.com"));
        for other in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "http://chat.example.com",
            "https://chat.example.com:8443",
            "https://chat.example.com.evil.example",
        ] {
            assert!(!allows(pattern, other), "{other}");
        }
    }

    #[test]
    fn w14_any_takes_null_and_null_takes_null_alone() {
        assert!(allows("*", "null") && allows("*", "https://evil.example") && allows("*", "\u{7f}"));
        assert!(allows("null", "null") && !allows("null", "NULL") && !allows("null", "https://a.example"));
    }

    #[test]
    fn w14_same_origin_is_that_of_the_listener() {
        assert!(allows("same-origin", "https://chat.example.com"));
        assert!(allows("same-origin", "https://chat.example.com:443"));
        assert!(!allows("same-origin", "http://chat.example.com"));
        assert!(!allows("same-origin", "https://chat.example.com:8443"));
        assert!(!allows("same-origin", "null"));
        let pattern = OriginPattern::SameOrigin;
        assert!(!pattern.allows(b"https://chat.example.com", None));
        let own = Origin::of_request(false, "chat.example.com:8080");
        assert!(pattern.allows(b"http://chat.example.com:8080", own.as_ref()));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let error = |text: &str| text.parse::<OriginPattern>().unwrap_err();
        assert_eq!(error("example.com"), OriginError::Scheme);
        assert_eq!(error("same_origin"), OriginError::Scheme);
        assert_eq!(error("https://example.com/"), OriginError::Path);
        assert_eq!(error("https://exa*mple.com"), OriginError::Wildcard);
        assert_eq!(error("https://*.*.com"), OriginError::Wildcard);
        assert_eq!(error("*.example.com"), OriginError::Wildcard);
        assert_eq!(error("https://"), OriginError::Host);
        assert_eq!(error("https://example.com:99999"), OriginError::Host);
    }

    #[test]
    fn a_pattern_is_shown_as_it_is_written() {
        for text in
            ["*", "null", "same-origin", "https://a.example:8443", "https://*.a.example", "tauri://localhost"]
        {
            assert_eq!(text.parse::<OriginPattern>().unwrap().to_string(), text);
        }
    }
}
