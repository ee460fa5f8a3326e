//! What a request is for: its target and its Host, taken apart and judged.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use memchr::memchr;

use super::NormalPath;
use crate::proto::head::{RequestHead, Version};

/// The longest host name that DNS can carry, in text.
const HOST_MAX: usize = 253;

/// Why a request's target can't be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// 400: Host is missing, repeated, invalid, or disagrees with the target.
    #[error("bad Host: {0}")]
    BadHost(&'static str),
    /// 400: the path means different things to different servers (rule H9).
    #[error("bad path: {0}")]
    BadPath(&'static str),
    /// 405: CONNECT.
    #[error("method not allowed")]
    Method,
    /// 400: no form of a target that the method may have (RFC 9112 §3.2).
    #[error("malformed target: {0}")]
    Malformed(&'static str),
}

/// The target of a request together with its Host: legal, and taken apart (rules H3 and H9).
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The origin-form, and the authority behind it.
    text: String,
    origin_length: usize,
    path_length: usize,
    /// Of the origin-form.
    normal_path: Part,
    /// Of the authority.
    host: Part,
}

/// What is read out of a text: mostly its beginning as it stands, which is not copied.
#[derive(Clone, PartialEq, Eq)]
enum Part {
    Beginning(usize),
    Other(String),
}

impl Part {
    fn of<'t>(&'t self, text: &'t str) -> &'t str {
        match self {
            Self::Beginning(length) => &text[..*length],
            Self::Other(other) => other,
        }
    }
}

impl From<Cow<'_, str>> for Part {
    /// What is borrowed is the beginning.
    fn from(read: Cow<'_, str>) -> Self {
        match read {
            Cow::Borrowed(beginning) => Self::Beginning(beginning.len()),
            Cow::Owned(other) => Self::Other(other),
        }
    }
}

impl Target {
    /// Judges target and Host of a request.
    pub fn parse(head: &RequestHead) -> Result<Self, TargetError> {
        if head.method.is_connect() {
            return Err(TargetError::Method);
        }
        let (from_target, origin_form) = split_target(&head.target, head.method.is_options())?;
        let from_header = host_header(head)?;
        let authority = match (from_header, from_target) {
            (Some(header), Some((scheme, target))) if !header.agrees_with(&target, scheme) => {
                return Err(TargetError::BadHost("it disagrees with the target"));
            }
            (Some(header), _) => Some(header),
            (None, target) => target.map(|(_, target)| target),
        };
        let path_length = memchr(b'?', origin_form.as_bytes()).unwrap_or(origin_form.len());
        let normal_path =
            NormalPath::parse(&origin_form[..path_length]).map_err(TargetError::BadPath)?.0.into();
        let Authority { host, text, .. } = authority.unwrap_or_default();
        let origin_length = origin_form.len();
        let text = [&origin_form, text].concat();
        Ok(Self { text, origin_length, path_length, normal_path, host: host.into() })
    }

    /// The host in the form that routes are matched in: lower case, without port or trailing dot, IPv6
    /// addresses in brackets and canonical. `""` for an HTTP/1.0 request that names none.
    pub fn host(&self) -> &str {
        self.host.of(self.authority())
    }

    /// Host and port as received, `""` where there is none.
    pub fn authority(&self) -> &str {
        &self.text[self.origin_length..]
    }

    /// The path as received; `*` for the asterisk-form.
    pub fn raw_path(&self) -> &str {
        &self.text[..self.path_length]
    }

    /// What follows the first `?`, as received.
    pub fn query(&self) -> Option<&str> {
        self.origin_form().get(self.path_length + 1..)
    }

    /// Path and query as received: what goes upstream, with the rest of an absolute-form taken off.
    pub fn origin_form(&self) -> &str {
        &self.text[..self.origin_length]
    }

    /// The path in the form that routes are matched in.
    pub fn normal_path(&self) -> NormalPath<'_> {
        NormalPath(Cow::Borrowed(self.normal_path.of(self.origin_form())))
    }
}

impl fmt::Debug for Target {
    /// Leaves the query out, as it may carry a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("authority", &self.authority())
            .field("path", &self.raw_path())
            .finish_non_exhaustive()
    }
}

/// The schemes of an absolute-form target that wsgate serves.
#[derive(Clone, Copy)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What an absolute-form target says beside the path.
type Told<'a> = (Scheme, Authority<'a>);

/// Splits a target into its authority, where it has one, and what goes upstream. That it is printable ASCII
/// without a fragment, the head's parser has seen to.
fn split_target(target: &str, is_options: bool) -> Result<(Option<Told<'_>>, Cow<'_, str>), TargetError> {
    if target.starts_with('/') || target == "*" && is_options {
        return Ok((None, target.into()));
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(TargetError::Malformed("neither a path nor a URL"));
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Scheme::Http,
        "https" | "wss" => Scheme::Https,
        _ => return Err(TargetError::Malformed("unknown scheme")),
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = Authority::parse(authority).map_err(TargetError::BadHost)?;
    // An OPTIONS for the server as a whole says so by an absent path (RFC 9112 §3.2.4).
    let origin_form = match rest.as_bytes().first() {
        None if is_options => "*".into(),
        Some(b'/') => rest.into(),
        _ => format!("/{rest}").into(),
    };
    Ok((Some((scheme, authority)), origin_form))
}

/// The Host header: exactly one, or in HTTP/1.0 perhaps none.
fn host_header(head: &RequestHead) -> Result<Option<Authority<'_>>, TargetError> {
    let mut values = head.headers.get_all("host");
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(TargetError::BadHost("it is repeated")),
        (Some(value), None) => str::from_utf8(value)
            .map_err(|_| "it is no text")
            .and_then(Authority::parse)
            .map(Some)
            .map_err(TargetError::BadHost),
        (None, _) if head.version == Version::Http10 => Ok(None),
        (None, _) => Err(TargetError::BadHost("it is missing")),
    }
}

/// A host and perhaps a port.
#[derive(Default)]
struct Authority<'a> {
    host: Cow<'a, str>,
    port: Option<u16>,
    text: &'a str,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        // The colon of a port is the first that is outside of an IPv6 address.
        let bytes = text.as_bytes();
        let bracket = bytes.iter().rposition(|&byte| byte == b']').map_or(0, |bracket| bracket + 1);
        let colon = bytes[bracket..].iter().position(|&byte| byte == b':');
        let port_at = colon.map_or(text.len(), |colon| bracket + colon);
        let host = normal_host(&text[..port_at])?;
        let port = match text[port_at..].strip_prefix(':') {
            None | Some("") => None,
            // `u16` would take a sign.
            Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err("the port is not a number");
            }
            Some(digits) => Some(digits.parse().map_err(|_| "the port is over 65535")?),
        };
        Ok(Self { host, port, text })
    }

    /// Whether both mean one authority, where an absent port is the scheme's.
    fn agrees_with(&self, other: &Authority<'_>, scheme: Scheme) -> bool {
        let port = |authority: &Authority<'_>| authority.port.unwrap_or(scheme.default_port());
        self.host == other.host && port(self) == port(other)
    }
}

/// Checks a host without port and brings it into the form that routes are matched in, mostly its beginning.
///
/// Of the names that RFC 3986 §3.2.2 allows, those with percent signs and sub-delimiters are refused: no DNS
/// name has them, and a comma or quote would change the meaning of the forwarding headers.
pub(super) fn normal_host(host: &str) -> Result<Cow<'_, str>, &'static str> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or("a bracket is not closed")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "no IPv6 address is in the brackets")?;
        return Ok(format!("[{address}]").into());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > HOST_MAX {
        return Err("it is longer than 253 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err("it has a character that no host name has");
    }
    if name.starts_with('.') || name.ends_with('.') || name.as_bytes().windows(2).any(|pair| pair == b"..") {
        return Err("it has an empty label");
    }
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if is_lower { name.into() } else { name.to_ascii_lowercase().into() })
}
