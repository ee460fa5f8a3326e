//! Which route a request takes: its target taken apart and judged, and a table of host, path,
//! subprotocol and kind.
//!
//! Matching looks at a normal form of the path ([`NormalPath`]); what goes upstream is the path as it came.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::str::FromStr;

use memchr::memchr;

use crate::proto::handshake::Offer;
use crate::proto::head::{RequestHead, Version};

#[cfg(test)]
mod tests;

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
    host: String,
    authority: String,
    origin_form: String,
    path_length: usize,
    normal_path: NormalPath,
}

impl Target {
    /// Judges target and Host of a request.
    pub fn parse(head: &RequestHead) -> Result<Self, TargetError> {
        if head.method.is_connect() {
            return Err(TargetError::Method);
        }
        let (from_target, origin_form) = split_target(&head.target, head.method.is_options())?;
        let from_header = host_header(head)?;
        let authority = match (from_header, &from_target) {
            (Some(header), Some((scheme, target))) if !header.agrees_with(target, *scheme) => {
                return Err(TargetError::BadHost("it disagrees with the target"));
            }
            (Some(header), _) => Some(header),
            (None, Some((_, target))) => Some(target.clone()),
            (None, None) => None,
        };
        let path_length = memchr(b'?', origin_form.as_bytes()).unwrap_or(origin_form.len());
        let normal_path = NormalPath::parse(&origin_form[..path_length]).map_err(TargetError::BadPath)?;
        let Authority { host, text, .. } = authority.unwrap_or_default();
        Ok(Self { host, authority: text, origin_form, path_length, normal_path })
    }

    /// The host in the form that routes are matched in: lower case, without port or trailing dot, IPv6
    /// addresses in brackets and canonical. `""` for an HTTP/1.0 request that names none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host and port as received, `""` where there is none.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path as received; `*` for the asterisk-form.
    pub fn raw_path(&self) -> &str {
        &self.origin_form[..self.path_length]
    }

    /// What follows the first `?`, as received.
    pub fn query(&self) -> Option<&str> {
        self.origin_form.get(self.path_length + 1..)
    }

    /// Path and query as received: what goes upstream, with the rest of an absolute-form taken off.
    pub fn origin_form(&self) -> &str {
        &self.origin_form
    }

    /// The path in the form that routes are matched in.
    pub fn normal_path(&self) -> &NormalPath {
        &self.normal_path
    }
}

impl fmt::Debug for Target {
    /// Leaves the query out, as it may carry a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("authority", &self.authority)
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

/// Splits a target into its authority, where it has one, and what goes upstream. That it is printable ASCII
/// without a fragment, the head's parser has seen to.
fn split_target(
    target: &str,
    is_options: bool,
) -> Result<(Option<(Scheme, Authority)>, String), TargetError> {
    if target.starts_with('/') || target == "*" && is_options {
        return Ok((None, target.to_owned()));
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
        None if is_options => "*".to_owned(),
        Some(b'/') => rest.to_owned(),
        _ => format!("/{rest}"),
    };
    Ok((Some((scheme, authority)), origin_form))
}

/// The Host header: exactly one, or in HTTP/1.0 perhaps none.
fn host_header(head: &RequestHead) -> Result<Option<Authority>, TargetError> {
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
#[derive(Clone, Default)]
struct Authority {
    host: String,
    port: Option<u16>,
    text: String,
}

impl Authority {
    fn parse(text: &str) -> Result<Self, &'static str> {
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
        Ok(Self { host, port, text: text.to_owned() })
    }

    /// Whether both mean one authority, where an absent port is the scheme's.
    fn agrees_with(&self, other: &Self, scheme: Scheme) -> bool {
        let port = |authority: &Self| authority.port.unwrap_or(scheme.default_port());
        self.host == other.host && port(self) == port(other)
    }
}

/// Checks a host without port and brings it into the form that routes are matched in.
///
/// Of the names that RFC 3986 §3.2.2 allows, those with percent signs and sub-delimiters are refused: no DNS
/// name has them, and a comma or quote would change the meaning of the forwarding headers.
fn normal_host(host: &str) -> Result<String, &'static str> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or("a bracket is not closed")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "no IPv6 address is in the brackets")?;
        return Ok(format!("[{address}]"));
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
    Ok(name.to_ascii_lowercase())
}

/// A path in the form that routes are matched in: percent-decoded, with repeated slashes merged.
///
/// Only printable ASCII is decoded, and neither `%2F`, which is part of its segment, nor `%25`. Everything
/// else stands percent-encoded in upper case, so that two paths have one form only if they mean the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NormalPath(String);

impl NormalPath {
    /// Brings a path into its form, unless it is one that servers are at odds over (rule H9); the error says
    /// why.
    pub fn parse(raw: &str) -> Result<Self, &'static str> {
        if is_normal(raw.as_bytes()) {
            return Ok(Self(raw.to_owned()));
        }
        let mut normal = String::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((octet, after)) = split_octet(rest)? {
            octet.push_normal(&mut normal);
            rest = after;
        }
        if normal.contains('\\') {
            return Err("backslash");
        }
        // A literal percent sign is `%25` here.
        if normal.contains("%00") {
            return Err("NUL");
        }
        if has_dot_segment(&normal) {
            return Err("dot segment");
        }
        Ok(Self(normal))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a path has the normal form and nothing that would have to be looked at closely; most have.
fn is_normal(raw: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'%' | b'\\');
    let is_odd = |pair: &[u8]| pair == b"//" || pair == b"/.";
    raw.first() == Some(&b'/') && raw.iter().all(is_plain) && !raw.windows(2).any(is_odd)
}

/// Whether any server could see a `.` or `..` in a normal path: behind a decoded slash, or before parameters.
fn has_dot_segment(normal: &str) -> bool {
    normal
        .split('/')
        .flat_map(|segment| segment.split("%2F"))
        .filter_map(|part| part.split(';').next())
        .any(|name| matches!(name, "." | ".."))
}

/// One byte of a path, as it stands or percent-encoded.
#[derive(Clone, Copy)]
struct Octet {
    byte: u8,
    encoded: bool,
}

impl Octet {
    fn push_normal(self, normal: &mut String) {
        match self.byte {
            // The end of the text is a slash only after a separator: an encoded one ends in `F`.
            b'/' if !self.encoded && normal.ends_with('/') => {}
            b'/' if !self.encoded => normal.push('/'),
            b' '..=b'~' if !matches!(self.byte, b'/' | b'%') => normal.push(char::from(self.byte)),
            byte => {
                // Writing to a String can't fail.
                let _ = write!(normal, "%{byte:02X}");
            }
        }
    }
}

/// The first octet of a path, and what follows.
fn split_octet(path: &[u8]) -> Result<Option<(Octet, &[u8])>, &'static str> {
    match path {
        [] => Ok(None),
        [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            let byte = hex_value(*high) << 4 | hex_value(*low);
            Ok(Some((Octet { byte, encoded: true }, rest)))
        }
        [b'%', ..] => Err("percent sign without two hex digits"),
        [byte, rest @ ..] => Ok(Some((Octet { byte: *byte, encoded: false }, rest))),
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Takes `prefix`, a path in any form, off the path of `origin_form`; `None` if it does not begin with these
/// segments.
///
/// What remains stands byte by byte as it came, behind exactly one `/` (rule H9). The prefixes `""` and `/`
/// take off nothing.
pub fn strip_prefix(origin_form: &str, prefix: &str) -> Option<String> {
    let prefix = NormalPath::parse(prefix).ok()?.0;
    let prefix = prefix.strip_suffix('/').unwrap_or(&prefix);
    let path_length = origin_form.find('?').unwrap_or(origin_form.len());
    let mut rest = &origin_form.as_bytes()[..path_length];
    let mut taken = String::with_capacity(prefix.len());
    while taken.len() < prefix.len() {
        let (octet, after) = split_octet(rest).ok()??;
        octet.push_normal(&mut taken);
        rest = after;
    }
    if taken != prefix || !matches!(rest, [] | [b'/', ..]) {
        return None;
    }
    let remains = origin_form[path_length - rest.len()..].trim_start_matches('/');
    Some(format!("/{remains}"))
}

/// Why a host or path in the configuration is no pattern, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(&'static str);

/// Which hosts a route is for; written as `*`, `chat.example.com` or `*.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host, and none.
    Any,
    /// This host, in the form of [`Target::host`].
    Exact(String),
    /// Every host below this one, at any depth, but not this one itself.
    Suffix(String),
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.starts_with("*.[") {
            return Err(PatternError("an address has no names below it"));
        }
        let (pattern, name): (fn(String) -> Self, _) = match text.strip_prefix("*.") {
            Some(parent) => (Self::Suffix, parent),
            None => (Self::Exact, text),
        };
        if name.contains('*') {
            return Err(PatternError("a `*` stands alone or for the first labels, as in `*.example.com`"));
        }
        if !name.starts_with('[') && name.contains(':') {
            return Err(PatternError("a host is named without its port, and an IPv6 address in brackets"));
        }
        normal_host(name).map(pattern).map_err(PatternError)
    }
}

/// Which paths a route is for; written as `/chat`, `/chat/*` or `/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// This path, in the form of [`NormalPath`].
    Exact(String),
    /// This path and all below it; `""` is every path, and `*` of OPTIONS too.
    Prefix(String),
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if !text.starts_with('/') {
            return Err(PatternError("a path begins with `/`; `/*` is every path"));
        }
        if text.contains(['?', '#']) {
            return Err(PatternError("a path has no query and no fragment"));
        }
        let (pattern, path): (fn(String) -> Self, _) = match text.strip_suffix("/*") {
            Some(parent) => (Self::Prefix, parent.trim_end_matches('/')),
            None => (Self::Exact, text),
        };
        if path.contains('*') {
            return Err(PatternError("a `*` stands only at the end, as in `/chat/*`"));
        }
        NormalPath::parse(path).map(|normal| pattern(normal.0)).map_err(PatternError)
    }
}

/// Which requests a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// Opening handshakes and plain HTTP.
    #[default]
    Any,
    /// Opening handshakes alone.
    Websocket,
    /// Plain HTTP alone.
    Http,
}

/// What selects a route. An empty list of hosts or paths selects nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// One of these hosts,
    pub hosts: Vec<HostPattern>,
    /// one of these paths,
    pub paths: Vec<PathPattern>,
    /// if it is here, an opening handshake that offers this subprotocol,
    pub subprotocol: Option<String>,
    /// and a request of this kind.
    pub kind: RouteKind,
}

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The route with this index.
    Route(usize),
    /// 426: nothing but `kind = "websocket"` stood in the way of plain HTTP.
    UpgradeRequired,
    /// 404.
    None,
}

/// Routes in the order of the file, of which the first that matches wins.
///
/// A look-up takes time by the labels of the host and the different lengths of prefixes, not by the number of
/// routes: only routes with a host pattern and a path pattern in common are tried one after the other.
#[derive(Debug, Default)]
pub struct RouteTable {
    matchers: Vec<Matcher>,
    any_host: PathIndex,
    exact_hosts: HashMap<String, PathIndex>,
    host_suffixes: HashMap<String, PathIndex>,
}

impl RouteTable {
    /// A table in which a route's index is that of its matcher.
    pub fn new(matchers: Vec<Matcher>) -> Self {
        let mut table = Self::default();
        for (route, matcher) in matchers.iter().enumerate() {
            for host in &matcher.hosts {
                let paths = match host {
                    HostPattern::Any => &mut table.any_host,
                    HostPattern::Exact(name) => table.exact_hosts.entry(name.clone()).or_default(),
                    HostPattern::Suffix(name) => table.host_suffixes.entry(name.clone()).or_default(),
                };
                for path in &matcher.paths {
                    paths.insert(path, route);
                }
            }
        }
        Self { matchers, ..table }
    }

    /// Finds the route of a request; `offer` is its opening handshake, if it is one.
    pub fn find(&self, host: &str, path: &NormalPath, offer: Option<&Offer>) -> Found {
        let mut first = None;
        let mut upgrade_required = false;
        for routes in self.hosts(host).flat_map(|paths| paths.routes(path.as_str())) {
            for &route in routes {
                // A list is in order, so past the first route so far there is none to gain.
                if first.is_some_and(|first| first <= route) {
                    break;
                }
                match self.matchers[route].judge(offer) {
                    Verdict::Takes => first = Some(route),
                    Verdict::NeedsUpgrade => upgrade_required = true,
                    Verdict::Leaves => {}
                }
            }
        }
        match first {
            Some(route) => Found::Route(route),
            None if upgrade_required => Found::UpgradeRequired,
            None => Found::None,
        }
    }

    /// The paths under each host pattern that `host` matches.
    fn hosts(&self, host: &str) -> impl Iterator<Item = &PathIndex> {
        let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
        let dots = dots.take(if self.host_suffixes.is_empty() { 0 } else { usize::MAX });
        let suffixes = dots.filter_map(|(dot, _)| self.host_suffixes.get(&host[dot + 1..]));
        self.exact_hosts.get(host).into_iter().chain(suffixes).chain([&self.any_host])
    }
}

/// What a route says to a request whose host and path it matches.
enum Verdict {
    Takes,
    NeedsUpgrade,
    Leaves,
}

impl Matcher {
    fn judge(&self, offer: Option<&Offer>) -> Verdict {
        let subprotocol_fits = self.subprotocol.as_ref().is_none_or(|wanted| {
            offer.is_some_and(|offer| offer.subprotocols().any(|offered| offered == wanted))
        });
        match (self.kind, offer) {
            _ if !subprotocol_fits => Verdict::Leaves,
            (RouteKind::Websocket, None) => Verdict::NeedsUpgrade,
            (RouteKind::Http, Some(_)) => Verdict::Leaves,
            (RouteKind::Any, _) | (RouteKind::Websocket, Some(_)) | (RouteKind::Http, None) => Verdict::Takes,
        }
    }
}

/// Routes by path pattern; every list is in the order of the file.
#[derive(Debug, Default)]
struct PathIndex {
    /// Those for every path.
    everywhere: Vec<usize>,
    exact: HashMap<String, Vec<usize>>,
    /// The others, for some path and all below it.
    prefixes: HashMap<String, Vec<usize>>,
    /// Lengths in bytes that prefixes have: no more than one look-up each, however many segments a path has.
    prefix_lengths: BTreeSet<usize>,
}

impl PathIndex {
    fn insert(&mut self, path: &PathPattern, route: usize) {
        let (routes, path) = match path {
            PathPattern::Prefix(path) if path.is_empty() => return self.everywhere.push(route),
            PathPattern::Exact(path) => (&mut self.exact, path),
            PathPattern::Prefix(path) => {
                self.prefix_lengths.insert(path.len());
                (&mut self.prefixes, path)
            }
        };
        routes.entry(path.clone()).or_default().push(route);
    }

    /// The routes under each path pattern that `path` matches.
    fn routes(&self, path: &str) -> impl Iterator<Item = &Vec<usize>> {
        let ends_segment = |length| match path.as_bytes().get(length) {
            None => length == path.len(),
            Some(next) => *next == b'/',
        };
        let lengths = self.prefix_lengths.iter().copied().filter(move |&length| ends_segment(length));
        let prefixes = lengths.filter_map(|length| self.prefixes.get(&path[..length]));
        [&self.everywhere].into_iter().chain(self.exact.get(path)).chain(prefixes)
    }
}
