//! Which route a request takes: its target taken apart and judged, and a table of host, path,
//! subprotocol and kind.
//!
//! Matching looks at a normal form of the path ([`NormalPath`]); what goes upstream is the path as it came.

mod target;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    str::FromStr,
};

use self::target::normal_host;
pub use self::target::{Target, TargetError};
use crate::proto::handshake::Offer;

/// A path in the form that routes are matched in: percent-decoded, with repeated slashes merged.
///
/// Only printable ASCII is decoded, and neither `%2F`, which is part of its segment, nor `%25`. Everything
/// else stands percent-encoded in upper case, so that two paths have one form only if they mean the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NormalPath<'a>(Cow<'a, str>);

impl<'a> NormalPath<'a> {
    /// Brings a path into its form, unless it is one that servers are at odds over (rule H9); the error says
    /// why.
    pub fn parse(raw: &'a str) -> Result<Self, &'static str> {
        if is_normal(raw.as_bytes()) {
            return Ok(Self(raw.into()));
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
        Ok(Self(normal.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its text, to be kept.
    pub fn into_text(self) -> String {
        self.0.into_owned()
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
        normal_host(name).map(|name| pattern(name.into_owned())).map_err(PatternError)
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
        NormalPath::parse(path).map(|normal| pattern(normal.0.into_owned())).map_err(PatternError)
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
    pub fn find(&self, host: &str, path: &NormalPath<'_>, offer: Option<&Offer>) -> Found {
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
