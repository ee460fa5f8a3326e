//! What a gateway changes in a head before it passes it on (RFC 9110 §7.6). The only editor of headers.
//!
//! A head is rebuilt from the lines that may stay, then wsgate's own are added, then the route's edits are
//! made, then framing and upgrade are written: so nothing that a peer or a route writes can replace what
//! comes later.

mod chain;
mod edits;
mod forwarding;
mod template;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use self::forwarding::{is_forwarding, is_rebuilt};
use super::framing::{BodyFraming, content_length, may_pass_trailer, never_has_body};
use super::head::{Headers, InvalidHeader, Method, RequestHead, ResponseHead, Version};
use super::numerals::write_decimal;
use super::trace::{TRACEPARENT, TRACESTATE, Trace};

pub use self::{
    chain::{Hop, Told, told, told_request_id},
    edits::{HeaderEdits, may_edit},
    forwarding::{ClientIpHeader, Proxy},
    template::{CertificateValues, Template, TemplateError, TlsValues, Values},
};

/// What becomes of request headers with `_` in their names, which many backends can't tell from `-` (H6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    /// They are taken out.
    #[default]
    Drop,
    /// They pass, but for aliases of names that wsgate or the route sets.
    Pass,
}

/// Which Host goes upstream (H8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's, byte by byte.
    #[default]
    Client,
    /// The endpoint's own.
    Upstream,
    /// This one.
    Literal(String),
}

/// What a request head becomes part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An HTTP exchange whose body goes upstream in this framing.
    Plain {
        /// How the body is delimited, as `request_framing` said.
        framing: BodyFraming,
    },
    /// The opening handshake.
    Handshake,
}

impl Kind {
    /// How the request's body is delimited; a handshake has none.
    pub fn framing(self) -> BodyFraming {
        match self {
            Self::Plain { framing } => framing,
            Self::Handshake => BodyFraming::Empty,
        }
    }
}

/// Headers that go from another answer into a request, such as the name of a user.
#[derive(Clone, Copy, Default)]
pub struct Copied<'a> {
    /// Their names. What a client sends under one of them, or under an alias, is dropped in any case.
    pub names: &'a [String],
    /// The answer's headers; `None` has none of them.
    pub from: Option<&'a Headers>,
    /// It is the question: what the client proves itself by goes along, even if the answer is to replace it.
    pub is_asked_for: bool,
}

impl Copied<'_> {
    fn touch(&self, name: &[u8]) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let is_proof =
            [&b"authorization"[..], b"cookie"].iter().any(|proof| proof.eq_ignore_ascii_case(name));
        !(self.is_asked_for && is_proof) && self.names.iter().any(|copied| alike(copied, name))
    }

    /// Adds what the answer has, in place of what is there.
    fn apply(&self, out: &mut Headers) -> Result<(), InvalidHeader> {
        let Some(from) = self.from else { return Ok(()) };
        for name in self.names.iter().filter(|name| may_edit(name) && from.contains(name)) {
            out.retain(|each, _| !alike(name, each.as_bytes()));
            for value in from.get_all(name) {
                out.append(name, value)?;
            }
        }
        Ok(())
    }
}

/// All that a request head depends on but the head. No `Debug`, as the target may carry a token.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    /// The client; `None` on a unix listener.
    pub client_ip: Option<IpAddr>,
    /// Whether the client came by https.
    pub https: bool,
    /// The port it came to.
    pub listener_port: Option<u16>,
    /// The proxy that sent it, if its word counts.
    pub proxy: Option<Proxy<'a>>,
    /// In which header proxies tell the client.
    pub client_ip_header: Option<ClientIpHeader<'a>>,
    /// The endpoint's host, with the port where it is not the scheme's own.
    pub upstream_authority: &'a str,
    /// Which Host goes upstream.
    pub host_header: &'a HostHeader,
    /// The pseudonym for Via; `None` adds no line.
    pub via: Option<&'a str>,
    /// What another answer says of the request; the route's edits come after it.
    pub copied: Copied<'a>,
    /// The route's edits.
    pub edits: &'a HeaderEdits,
    /// What becomes of names with `_`.
    pub underscore_headers: UnderscoreHeaders,
    /// The value of X-Request-Id.
    pub request_id: &'a str,
    /// What `traceparent` says.
    pub trace: &'a Trace,
    /// The target that goes upstream, in origin form or `*`.
    pub target: &'a str,
    /// What the edits may fill in.
    pub values: Values<'a>,
}

/// A request head as it goes upstream, and what a log should know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// What goes upstream.
    pub head: RequestHead,
    /// Lines dropped because of `_` in their names.
    pub dropped_underscore: usize,
    /// Lines dropped that told of a proxy before this one: X-Forwarded-*, Forwarded, X-Real-IP.
    pub dropped_forwarded: usize,
}

/// The head that goes upstream, as HTTP/1.1.
///
/// Fails if a value of the context or the edits can't be written (H13), or if Connection names more than 64
/// headers.
pub fn request(
    head: &RequestHead,
    kind: Kind,
    cx: &RequestContext<'_>,
) -> Result<ForwardedRequest, InvalidHeader> {
    let nominated = nominated(&head.headers)?;
    let mut headers = roomy(&head.headers);
    let mut dropped_underscore = 0;
    let mut dropped_forwarded = 0;
    append_host(&mut headers, head, cx)?;
    headers.pass(&head.headers, |name| {
        match request_fate(name, head.version, cx) {
            Fate::Underscore => dropped_underscore += 1,
            Fate::Forwarding => dropped_forwarded += 1,
            Fate::Drop => {}
            Fate::Keep if is_nominated(name, &nominated) => {}
            Fate::Keep if kind == Kind::Handshake => return Some(usual_case(name)),
            Fate::Keep => return Some(name),
        }
        None
    });
    forwarding::append(&mut headers, &head.headers, cx)?;
    append_via(&mut headers, head.version, cx.via)?;
    cx.copied.apply(&mut headers)?;
    cx.edits.apply(&mut headers, &cx.values)?;
    match kind {
        Kind::Plain { framing } => {
            append_framing(&mut headers, framing);
            append_te(&mut headers, head)?;
        }
        Kind::Handshake => append_upgrade(&mut headers)?,
    }
    let forwarded = RequestHead {
        method: head.method.clone(),
        target: cx.target.to_owned(),
        version: Version::Http11,
        headers,
    };
    Ok(ForwardedRequest { head: forwarded, dropped_underscore, dropped_forwarded })
}

/// A GET that asks a server whether to let the request through that came for `uri`: its headers, but for those of its body, of its
/// opening handshake and of what the client has of the resource, with X-Forwarded-Method and X-Forwarded-Uri. The target and
/// the Host are those of `cx`.
///
/// Fails as [`request`] does.
pub fn question(
    head: &RequestHead,
    uri: &str,
    cx: &RequestContext<'_>,
) -> Result<RequestHead, InvalidHeader> {
    let copied = Copied { from: None, is_asked_for: true, ..cx.copied };
    let cx = RequestContext { copied, ..*cx };
    let mut asked = request(head, Kind::Plain { framing: BodyFraming::Empty }, &cx)?.head;
    asked.headers.retain(|name, _| {
        let name = name.as_bytes();
        !is_of_content(name) && !is_handshake(name) && !tells_what_is_asked(name)
    });
    asked.headers.set("X-Forwarded-Method", head.method.as_str().as_bytes())?;
    asked.headers.set("X-Forwarded-Uri", uri.as_bytes())?;
    asked.method = Method::GET;
    Ok(asked)
}

/// Headers about a body, or about what of a resource is wanted; with TE goes the Connection that names it.
fn is_of_content(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = ["expect", "range", "te", "connection"];
    let families = ["content-", "if-"];
    NAMES.iter().any(|of_content| alike(of_content, name))
        || families.iter().any(|start| begins_alike(name, start))
}

/// Names under which other gateways tell an auth server what is asked for: one that knows them must not hear it of the client.
fn tells_what_is_asked(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = ["x-original-url", "x-original-uri", "x-original-method", "x-rewrite-url"];
    NAMES.iter().any(|told| alike(told, name))
}

/// What becomes of a client's header.
enum Fate {
    Keep,
    Drop,
    Underscore,
    Forwarding,
}

fn request_fate(name: &[u8], version: Version, cx: &RequestContext<'_>) -> Fate {
    let tells_client = cx.client_ip_header.is_some_and(|header| alike(header.name, name));
    let tells = tells_client || is_forwarding(name);
    let is_copied = cx.copied.touch(name);
    let ours = is_rewritten(name) || is_copied || cx.edits.touch(name);
    let drops_underscores = cx.underscore_headers == UnderscoreHeaders::Drop;
    if name.contains(&b'_') && (ours || tells || is_handshake(name) || drops_underscores) {
        return Fate::Underscore;
    }
    // What a trusted proxy tells of the client was read, and is written anew; what else it tells passes.
    if tells {
        return match cx.proxy {
            None => Fate::Forwarding,
            Some(_) if tells_client || is_copied || is_rebuilt(name) => Fate::Drop,
            Some(_) => Fate::Keep,
        };
    }
    // HTTP/1.0 knows no interim answer to wait for, and the backend would take it for 1.1 (RFC 9110 §10.1.1).
    let expects = version == Version::Http10 && name.eq_ignore_ascii_case(b"expect");
    // A state that belongs to another trace than the one that goes on would be taken for a part of it.
    let stray = !cx.trace.is_told() && alike(TRACESTATE, name);
    // A CGI backend would read `Proxy` as the environment's HTTP_PROXY.
    if ours || expects || stray || name.eq_ignore_ascii_case(b"proxy") { Fate::Drop } else { Fate::Keep }
}

/// Names that wsgate writes itself, or that must not go on at all.
fn is_rewritten(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = ["host", "content-length", "x-request-id", TRACEPARENT];
    is_hop_by_hop(name) || NAMES.iter().any(|ours| alike(ours, name))
}

/// Headers of one connection only (H5). The Proxy-* credentials are between a client and the proxy that asked
/// for them, and wsgate is none that did (RFC 9110 §11.7).
fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: [&str; 11] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
    ];
    NAMES.iter().any(|hop| alike(hop, name))
}

fn is_handshake(name: &[u8]) -> bool {
    begins_alike(name, "sec-websocket-")
}

/// Equal in the eyes of a backend that ignores case and takes `_` for `-`.
pub(crate) fn alike(one: &str, other: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.as_bytes().iter().map(fold).eq(other.iter().map(fold))
}

fn begins_alike(name: &[u8], start: &str) -> bool {
    name.get(..start.len()).is_some_and(|beginning| alike(start, beginning))
}

/// More headers than anybody names in Connection, and few enough to compare each header with each of them.
const MOST_NOMINATED: usize = 64;

/// The headers that Connection names beside the ones that never go on anyway.
fn nominated(headers: &Headers) -> Result<Vec<&[u8]>, InvalidHeader> {
    if !headers.contains("connection") {
        return Ok(Vec::new());
    }
    let options = headers.tokens("connection").filter(|option| {
        let usual = ["close", "keep-alive", "upgrade", "te", "http2-settings"];
        !usual.iter().any(|usual| option.eq_ignore_ascii_case(usual.as_bytes()))
    });
    let nominated: Vec<_> = options.take(MOST_NOMINATED + 1).collect();
    if nominated.len() > MOST_NOMINATED { Err(InvalidHeader::TooManyOptions) } else { Ok(nominated) }
}

/// Whether Connection takes this header out. It can't take out what the message is judged by, at wsgate or
/// behind it: that would leave a backend with another message than the one that was let through (RFC 9110
/// §7.6.1).
fn is_nominated(name: &[u8], nominated: &[&[u8]]) -> bool {
    const JUDGED_BY: [&[u8]; 4] = [b"host", b"origin", b"cookie", b"authorization"];
    nominated.iter().any(|option| option.eq_ignore_ascii_case(name))
        && !is_handshake(name)
        && !JUDGED_BY.iter().any(|judged| judged.eq_ignore_ascii_case(name))
}

/// An empty head with room for what came and for what wsgate adds.
fn roomy(received: &Headers) -> Headers {
    received.roomier(12, 512)
}

/// Host comes first (RFC 9110 §7.2). A client of HTTP/1.0 may have sent none.
fn append_host(out: &mut Headers, head: &RequestHead, cx: &RequestContext<'_>) -> Result<(), InvalidHeader> {
    let own = match (cx.host_header, head.headers.get("host")) {
        (HostHeader::Client, Some(host)) => {
            out.push(b"Host", host);
            return Ok(());
        }
        (HostHeader::Client | HostHeader::Upstream, _) => cx.upstream_authority,
        (HostHeader::Literal(host), _) => host,
    };
    out.append_own("Host", own.as_bytes())
}

/// A line of our own after those that came (RFC 9110 §7.6.3), with the version in which the message came.
fn append_via(out: &mut Headers, received: Version, pseudonym: Option<&str>) -> Result<(), InvalidHeader> {
    let Some(pseudonym) = pseudonym else { return Ok(()) };
    let version = match received {
        Version::Http10 => b"1.0 ",
        Version::Http11 => b"1.1 ",
    };
    out.append_with("Via", |text| {
        text.extend_from_slice(version);
        text.extend_from_slice(pseudonym.as_bytes());
    })
}

fn append_framing(out: &mut Headers, framing: BodyFraming) {
    match framing {
        BodyFraming::Empty | BodyFraming::UntilClose => {}
        BodyFraming::Length(length) => out.push_with("Content-Length", |text| write_decimal(text, length)),
        BodyFraming::Chunked => out.push(b"Transfer-Encoding", b"chunked"),
    }
}

/// That the client takes trailers is true of wsgate as well; TE has to be named in Connection (RFC 9110
/// §10.1.4).
fn append_te(out: &mut Headers, head: &RequestHead) -> Result<(), InvalidHeader> {
    if head.version == Version::Http11 && head.headers.has_token("te", "trailers") {
        out.append_own("TE", b"trailers")?;
        out.append_own("Connection", b"TE")?;
    }
    Ok(())
}

fn append_upgrade(out: &mut Headers) -> Result<(), InvalidHeader> {
    out.append_own("Upgrade", b"websocket")?;
    out.append_own("Connection", b"Upgrade")
}

/// The handshake's names as RFC 6455 writes them: some backends compare them with case (B5).
fn usual_case(name: &[u8]) -> &[u8] {
    const USUAL: [&[u8]; 5] = [
        b"Sec-WebSocket-Accept",
        b"Sec-WebSocket-Extensions",
        b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Version",
    ];
    USUAL.into_iter().find(|usual| usual.eq_ignore_ascii_case(name)).unwrap_or(name)
}

/// What a response head becomes part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// The final answer of an exchange.
    Plain {
        /// How the body goes to the client, see `BodyFraming::for_client`.
        body: BodyFraming,
        /// Whether wsgate closes the client's connection after it.
        close: bool,
        /// What the client speaks.
        client: Version,
    },
    /// The 101 that opens a tunnel.
    Upgraded,
    /// A 1xx before the final answer.
    Interim,
}

/// All that a response head depends on but the head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext<'a> {
    /// The route's edits; on an interim answer nothing is set, only removed.
    pub edits: &'a HeaderEdits,
    /// The pseudonym for Via; `None` adds no line.
    pub via: Option<&'a str>,
    /// The value of Strict-Transport-Security. Over plain HTTP it must be `None` (RFC 6797 §7.2).
    pub hsts: Option<&'a str>,
    /// The value of a Set-Cookie of wsgate's own, which the route's edits have no say in: a route that takes the backend's
    /// cookies out, or sets its own, still keeps its clients at their servers.
    pub set_cookie: Option<&'a str>,
    /// What the edits may fill in.
    pub values: Values<'a>,
}

/// The head that goes to the client, as HTTP/1.1 whatever the client speaks (RFC 9110 §6.2).
///
/// Fails if a value of the context or the edits can't be written (H13), or if Connection names more than 64
/// headers.
pub fn response(
    head: &ResponseHead,
    kind: ResponseKind,
    cx: &ResponseContext<'_>,
) -> Result<ResponseHead, InvalidHeader> {
    let nominated = nominated(&head.headers)?;
    let mut headers = roomy(&head.headers);
    headers.pass(&head.headers, |name| {
        let own = is_hop_by_hop(name) || name.eq_ignore_ascii_case(b"content-length");
        if own || is_nominated(name, &nominated) {
            None
        } else if kind == ResponseKind::Upgraded {
            Some(usual_case(name))
        } else {
            Some(name)
        }
    });
    if kind == ResponseKind::Interim {
        for name in cx.edits.removed() {
            headers.remove(name);
        }
    } else {
        append_via(&mut headers, head.version, cx.via)?;
        if let Some(hsts) = cx.hsts {
            headers.set("Strict-Transport-Security", hsts.as_bytes())?;
        }
        cx.edits.apply(&mut headers, &cx.values)?;
        if let Some(cookie) = cx.set_cookie {
            headers.append_own("Set-Cookie", cookie.as_bytes())?;
        }
    }
    match kind {
        ResponseKind::Plain { body, close, client } => {
            append_framing(&mut headers, told_framing(head, body));
            append_connection(&mut headers, head, close, client)?;
        }
        ResponseKind::Upgraded => append_upgrade(&mut headers)?,
        ResponseKind::Interim => {}
    }
    Ok(ResponseHead { version: Version::Http11, status: head.status, reason: head.reason.clone(), headers })
}

/// What the head says of the body. An answer to HEAD and a 304 have none, and tell the length that another
/// answer would have (RFC 9110 §8.6).
fn told_framing(head: &ResponseHead, body: BodyFraming) -> BodyFraming {
    if body != BodyFraming::Empty || never_has_body(head.status) {
        return body;
    }
    match content_length(&head.headers) {
        Ok(Some(length)) => BodyFraming::Length(length),
        _ => body,
    }
}

/// What becomes of the connection. A 426 says what to upgrade to (RFC 9110 §15.5.22), if it is what wsgate
/// can do.
fn append_connection(
    out: &mut Headers,
    head: &ResponseHead,
    close: bool,
    client: Version,
) -> Result<(), InvalidHeader> {
    let upgrade = head.status == 426 && head.headers.has_token("upgrade", "websocket");
    if upgrade {
        out.append_own("Upgrade", b"websocket")?;
    }
    let options: &[u8] = match (upgrade, close, client) {
        (true, true, _) => b"Upgrade, close",
        (true, false, Version::Http10) => b"Upgrade, keep-alive",
        (true, false, Version::Http11) => b"Upgrade",
        (false, true, _) => b"close",
        (false, false, Version::Http10) => b"keep-alive",
        (false, false, Version::Http11) => return Ok(()),
    };
    out.append_own("Connection", options)
}

/// What decides about trailers, beside [`may_pass_trailer`]: whoever merges them into headers would have them for such.
#[derive(Clone, Copy, Debug)]
pub struct TrailerRules<'a> {
    /// The route's edits; none that these decide about passes.
    pub edits: &'a HeaderEdits,
    /// The header in which proxies tell the client, which never passes.
    pub client_ip_header: Option<&'a str>,
}

/// The trailers of either direction that may go on.
pub fn trailers(received: &Headers, rules: TrailerRules<'_>) -> Headers {
    let tells_client = |name: &[u8]| rules.client_ip_header.is_some_and(|header| alike(header, name));
    let is_ours = |name: &[u8]| rules.edits.touch(name) || tells_client(name);
    let mut passed = received.clone();
    passed.retain(|name, _| may_pass_trailer(name) && !is_ours(name.as_bytes()));
    passed
}
