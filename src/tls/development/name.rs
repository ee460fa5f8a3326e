//! Names that a development certificate can carry.

use std::{fmt, net::IpAddr, str::FromStr};

use rustls::pki_types::DnsName;

use super::CertError;

/// Characters of an X.509 common name (RFC 5280, Appendix A, `ub-common-name`).
pub(super) const COMMON_NAME: usize = 64;

/// A name of a server: a DNS name, perhaps with a leading `*.`, or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// In lower case and without a trailing dot.
    Dns(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
}

impl ServerName {
    /// The names that a development server has unless told otherwise.
    pub fn localhost() -> Vec<Self> {
        vec![
            Self::Dns("localhost".into()),
            Self::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
            Self::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ]
    }
}

impl FromStr for ServerName {
    type Err = CertError;

    fn from_str(text: &str) -> Result<Self, CertError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let refuse = |why| Err(CertError::Name { name: text.to_owned(), why });
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if !name.is_ascii() {
            return refuse("write it in its ASCII form, which begins with `xn--`");
        }
        if DnsName::try_from(name.strip_prefix("*.").unwrap_or(&name)).is_err() {
            return refuse("expected a DNS name, `*.` and a DNS name, or an IP address without a port");
        }
        Ok(Self::Dns(name))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// A client's name: the common name of its certificate, and a part of a file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(String);

impl FromStr for ClientName {
    type Err = CertError;

    fn from_str(text: &str) -> Result<Self, CertError> {
        let refuse = |why| Err(CertError::Name { name: text.to_owned(), why });
        if text.is_empty() || text.len() > COMMON_NAME {
            return refuse("expected 1 to 64 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte)) {
            return refuse(
                "it names a file, so only letters, digits and `.` `_` `@` `+` `-` may stand in it",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
