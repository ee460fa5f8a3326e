//! Access records: what happened to a request, a tunnel or a connection, in a line.

use std::{
    fmt::{self, Write},
    io,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::escape::{is_plain, write_json_escape};
use crate::proto::trace::TraceId;

const RFC_3339_MS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request was answered, or could not be.
    Exchange,
    /// A tunnel was opened.
    TunnelOpen,
    /// A tunnel has ended.
    TunnelEnd,
    /// A TLS handshake failed, or what stands before it.
    TlsFailure,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::TunnelOpen => "tunnel_open",
            Self::TunnelEnd => "tunnel_end",
            Self::TlsFailure => "tls_failure",
        }
    }
}

/// How a connection's TLS came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsFields {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// The name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<Box<str>>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The subject of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Box<str>>,
}

/// What went one way of a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Direction {
    /// Bytes, frame headers included.
    pub bytes: u64,
    /// Frames of any kind.
    pub frames: u64,
    /// Of these: first fragments, or the whole, of text messages.
    pub text: u64,
    /// The same of binary messages.
    pub binary: u64,
    /// Further fragments.
    pub continuation: u64,
    /// Closes.
    pub close: u64,
    /// Pings.
    pub ping: u64,
    /// Pongs.
    pub pong: u64,
    /// Whole messages.
    pub messages: u64,
    /// Of these, those in more than one frame.
    pub fragmented: u64,
    /// Of these, those that were compressed.
    pub compressed: u64,
    /// Payload bytes of the longest message.
    pub longest_message: u64,
    /// Illegal frames that were passed on.
    pub illegal_frames: u64,
}

/// What wsgate's own Pings to one side gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pings {
    /// So many went out.
    pub sent: u32,
    /// So many of them were not answered.
    pub lost: u32,
    /// The last one's time from Ping to Pong.
    #[serde(
        rename = "rtt_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_duration"
    )]
    pub round_trip: Option<Duration>,
    /// The longest such time.
    #[serde(
        rename = "longest_rtt_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_duration"
    )]
    pub longest_round_trip: Option<Duration>,
}

/// The Close frame that came first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClosedBy {
    /// `downstream` or `upstream`.
    pub side: &'static str,
    /// Its code; absent when the frame was empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Its reason, as text.
    pub reason: Box<str>,
}

/// One line of the access log. What does not apply is absent.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    /// When it was written, UTC.
    #[serde(serialize_with = "serialize_time")]
    pub time: OffsetDateTime,
    /// What it tells of.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// The listener's address as configured.
    pub listener: Arc<str>,
    /// The client's address, with the port where it is known, or `unix`.
    pub client: Box<str>,
    /// Who connected, where that is another: a proxy's address and port, or `unix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Box<str>>,
    /// Shared by the records of one request and by X-Request-Id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: Box<str>,
    /// Shared by all that this request brought about, here and elsewhere: of `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_shown")]
    pub trace_id: Option<TraceId>,
    /// The request's method.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: Box<str>,
    /// The request's host without the port.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: Box<str>,
    /// The request's target, with secrets masked.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub target: Box<str>,
    /// Who has proven to be whom, by a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<str>>,
    /// The route that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The endpoint that was tried last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    /// The status that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes that went upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Bytes that went to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// How long it took.
    #[serde(
        rename = "duration_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_duration"
    )]
    pub duration: Option<Duration>,
    /// How it ended, if not with the upstream's own answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<&'static str>,
    /// `downstream`, `upstream` or `gate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<&'static str>,
    /// In which phase it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// The error and its sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// The subprotocol that was agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<Box<str>>,
    /// What the client sent through the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_client: Option<Direction>,
    /// What the backend sent through the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_backend: Option<Direction>,
    /// wsgate's Pings to the client, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_pings: Option<Pings>,
    /// wsgate's Pings to the backend, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_pings: Option<Pings>,
    /// The Close frame that came first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close: Option<ClosedBy>,
    /// A TLS stream ended without `close_notify`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The client's TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFields>,
}

impl AccessRecord {
    /// A record that tells nothing yet.
    pub fn new(kind: Kind, listener: Arc<str>, client: Box<str>) -> Self {
        Self {
            time: OffsetDateTime::now_utc(),
            kind,
            listener,
            client,
            peer: None,
            request_id: Box::default(),
            trace_id: None,
            method: Box::default(),
            host: Box::default(),
            target: Box::default(),
            user: None,
            route: None,
            endpoint: None,
            status: None,
            sent: None,
            received: None,
            duration: None,
            ending: None,
            ended_by: None,
            phase: None,
            error: None,
            subprotocol: None,
            from_client: None,
            from_backend: None,
            client_pings: None,
            backend_pings: None,
            close: None,
            truncated: false,
            tls: None,
        }
    }

    /// One line for machines, without the line's end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // A record holds nothing that JSON can't say, and a Vec takes everything.
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(out, Visible));
        debug_assert!(written.is_ok());
    }

    /// One line for people: time, kind and client, then `key=value`. What peers wrote is quoted and escaped (rule S10).
    pub fn write_text(&self, out: &mut String) {
        // Writing to a String can't fail.
        let _ = self.fmt_text(out);
    }

    fn fmt_text(&self, out: &mut String) -> fmt::Result {
        write!(out, "{} {} {}", format_time(self.time), self.kind.as_str(), self.client)?;
        if !self.method.is_empty() {
            write!(out, " {} {}{}", Escaped(&self.method), Escaped(&self.host), Escaped(&self.target))?;
        }
        let mut field = |name: &str, value: Option<&dyn fmt::Display>| match value {
            Some(value) => write!(out, " {name}={value}"),
            None => Ok(()),
        };
        field("status", self.status.as_ref().map(display))?;
        field("ending", self.ending.as_ref().map(display))?;
        field("by", self.ended_by.as_ref().map(display))?;
        field("phase", self.phase.as_ref().map(display))?;
        field("error", self.error.as_deref().map(Quoted).as_ref().map(display))?;
        field("user", self.user.as_deref().map(Quoted).as_ref().map(display))?;
        field("route", self.route.as_deref().map(Escaped).as_ref().map(display))?;
        field("endpoint", self.endpoint.as_ref().map(display))?;
        field("duration", self.duration.map(Seconds).as_ref().map(display))?;
        field("sent", self.sent.as_ref().map(display))?;
        field("received", self.received.as_ref().map(display))?;
        field("subprotocol", self.subprotocol.as_deref().map(Quoted).as_ref().map(display))?;
        field("from_client", self.from_client.as_ref().map(display))?;
        field("from_backend", self.from_backend.as_ref().map(display))?;
        field("client_pings", self.client_pings.as_ref().map(display))?;
        field("backend_pings", self.backend_pings.as_ref().map(display))?;
        field("close", self.close.as_ref().map(display))?;
        field("truncated", self.truncated.then_some(&true).map(display))?;
        field("tls", self.tls.as_ref().map(display))?;
        field("peer", self.peer.as_ref().map(display))?;
        field("listener", Some(&self.listener))?;
        field("id", (!self.request_id.is_empty()).then_some(&self.request_id).map(display))?;
        field("trace_id", self.trace_id.as_ref().map(display))
    }
}

fn display<T: fmt::Display>(value: &T) -> &dyn fmt::Display {
    value
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, frames, messages, longest_message, .. } = self;
        write!(f, "{bytes}B/{messages}msg/{frames}frames/longest:{longest_message}")?;
        let rare = [
            ("fragmented", self.fragmented),
            ("compressed", self.compressed),
            ("ping", self.ping),
            ("pong", self.pong),
            ("illegal", self.illegal_frames),
        ];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "/{name}:{count}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}sent/{}lost", self.sent, self.lost)?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        if let Some(time) = self.round_trip {
            write!(f, "/rtt:{:.3}ms", milliseconds(time))?;
        }
        if let Some(time) = self.longest_round_trip {
            write!(f, "/longest:{:.3}ms", milliseconds(time))?;
        }
        Ok(())
    }
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code}")?,
            None => f.write_str("none")?,
        }
        write!(f, "/{}/{}", self.side, Quoted(&self.reason))
    }
}

impl fmt::Display for TlsFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.cipher)?;
        if let Some(sni) = &self.sni {
            write!(f, "/{}", Escaped(sni))?;
        }
        if self.resumed {
            f.write_str("/resumed")?;
        }
        match &self.client {
            Some(subject) => write!(f, "/client:{}", Quoted(subject)),
            None => Ok(()),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// What a peer wrote, as one word: whatever is not plain ASCII, and spaces and quotes, are escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '!' | '#'..='[' | ']'..='~' => f.write_char(character)?,
                // Else the rest would read as a field of its own.
                ' ' => f.write_str("\\u{20}")?,
                other => write!(f, "{}", other.escape_default())?,
            }
        }
        Ok(())
    }
}

/// What a peer wrote, in quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                ' ' | '\'' => f.write_char(character)?,
                other => write!(f, "{}", other.escape_default())?,
            }
        }
        f.write_char('"')
    }
}

/// JSON that shows what it holds: beside what JSON itself escapes, DEL, the C1 controls and what steers the direction or
/// the visibility of text are escaped, for people read it in terminals as well (rule S10).
struct Visible;

impl serde_json::ser::Formatter for Visible {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut shown = String::with_capacity(fragment.len() + 16);
        for character in fragment.chars() {
            if is_plain(character) {
                shown.push(character);
            } else {
                write_json_escape(&mut shown, character);
            }
        }
        writer.write_all(shown.as_bytes())
    }
}

/// A time as records have it: RFC 3339, UTC, with milliseconds.
pub fn format_time(time: OffsetDateTime) -> String {
    time.format(RFC_3339_MS).unwrap_or_default()
}

fn serialize_time<S: serde::Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(*time))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn serialize_shown<T: fmt::Display, S: serde::Serializer>(
    shown: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match shown {
        Some(shown) => serializer.collect_str(shown),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn serialize_duration<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AccessRecord {
        let mut record = AccessRecord::new(Kind::Exchange, "127.0.0.1:80".into(), "192.0.2.1:4711".into());
        record.time = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1_500);
        record.method = "GET".into();
        record.host = "chat.example".into();
        record.target = "/a\u{1b}[31m b\"\u{202e}".into();
        record.status = Some(404);
        record.ending = Some("no_route");
        record.duration = Some(Duration::from_micros(1_234));
        record.error = Some("line\nfeed".into());
        record
    }

    #[test]
    fn s10_text_escapes_what_peers_wrote() {
        let mut line = String::new();
        record().write_text(&mut line);
        assert_eq!(
            line,
            "1970-01-01T00:00:01.500Z exchange 192.0.2.1:4711 GET chat.example/a\\u{1b}[31m\\u{20}b\\\"\\u{202e} \
             status=404 ending=no_route error=\"line\\nfeed\" duration=0.001s listener=127.0.0.1:80"
        );
    }

    #[test]
    fn s10_a_value_cannot_look_like_another_field() {
        let mut record = record();
        record.target = "/ status=200".into();
        record.route = Some("a status=200".into());
        let mut line = String::new();
        record.write_text(&mut line);
        assert_eq!(line.matches(" status=").count(), 1, "{line}");
    }

    #[test]
    fn s10_json_shows_what_it_holds() {
        let hostile = "\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}\u{1b}\"\\é";
        let mut record = record();
        record.host = hostile.into();
        let mut line = Vec::new();
        record.write_json(&mut line);
        let line = String::from_utf8(line).expect("UTF-8");
        assert!(line.chars().all(|c| matches!(c, ' '..='~' | 'é')), "{line:?}");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["host"], hostile, "nothing is lost");
    }

    #[test]
    fn s10_json_is_one_line_that_parses_back() {
        let mut line = Vec::new();
        record().write_json(&mut line);
        assert!(!line.contains(&b'\n') && !line.contains(&0x1b));
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["event"], "exchange");
        assert_eq!(value["time"], "1970-01-01T00:00:01.500Z");
        assert_eq!(value["duration_ms"], 1.234);
        assert_eq!(value["error"], "line\nfeed");
        assert!(value.get("route").is_none());
    }
}
