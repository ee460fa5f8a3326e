//! What wsgate itself answers: refusals, redirects and fixed responses.

use std::sync::Mutex;

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::{
    ending::Refusal,
    proto::{
        handshake::OfferError,
        head::{InvalidHeader, Method, ResponseHead, Version, reason_phrase},
    },
};

/// IMF-fixdate (RFC 9110 §5.6.7).
const IMF_FIXDATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// A response of wsgate's own.
#[derive(Debug)]
pub(super) struct Answer {
    head: ResponseHead,
    body: String,
}

impl Answer {
    /// A response with a text body.
    pub(super) fn text(status: u16, body: String) -> Result<Self, InvalidHeader> {
        let mut head = ResponseHead::new(status);
        head.headers.append("Date", date(OffsetDateTime::now_utc()).as_bytes())?;
        if !body.is_empty() {
            head.headers.append("Content-Type", b"text/plain; charset=utf-8")?;
        }
        Ok(Self { head, body })
    }

    /// The answer to a refusal; `None` where there is none. It says the reason phrase and no more.
    pub(super) fn refusal(refusal: &Refusal) -> Option<Self> {
        let status = refusal.status()?;
        let mut answer = Self::text(status, format!("{status} {}\n", reason_phrase(status))).ok()?;
        let headers = &mut answer.head.headers;
        let mut add = |name, value: &str| headers.append(name, value.as_bytes());
        if let Some(seconds) = refusal.retry_after() {
            add("Retry-After", &rand::random_range(seconds).to_string()).ok()?;
        }
        match refusal {
            Refusal::UpgradeRequired | Refusal::Handshake(OfferError::Version) => {
                add("Upgrade", "websocket").ok()?;
                add("Sec-WebSocket-Version", "13").ok()?;
            }
            Refusal::Unauthorized { realm, .. } => {
                add("WWW-Authenticate", &format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")).ok()?;
            }
            Refusal::Method => add("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE").ok()?,
            _ => {}
        }
        Some(answer)
    }

    /// A redirect to `location`.
    pub(super) fn redirect(status: u16, location: &str) -> Result<Self, InvalidHeader> {
        let mut answer = Self::text(status, format!("{status} {}\n", reason_phrase(status)))?;
        answer.head.headers.append("Location", location.as_bytes())?;
        Ok(answer)
    }

    /// Its head, for a route's edits.
    pub(super) fn head_mut(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    /// Its status.
    pub(super) fn status(&self) -> u16 {
        self.head.status
    }

    /// The bytes that go out: the body is left away in the answer to HEAD and where the status has none.
    pub(super) fn encode(mut self, method: Option<&Method>, client: Version, close: bool) -> Vec<u8> {
        let status = self.head.status;
        let has_body = status != 204 && status != 304;
        let mut add = |name, value: &[u8]| {
            // Tokens and digits alone, which are legal (rule H13).
            let added = self.head.headers.append(name, value);
            debug_assert!(added.is_ok());
        };
        if has_body {
            add("Content-Length", self.body.len().to_string().as_bytes());
        }
        match (close, client) {
            // A 426 says what it takes (RFC 9110 §15.5.22).
            (true, _) if status == 426 => add("Connection", b"Upgrade, close"),
            (false, _) if status == 426 => add("Connection", b"Upgrade"),
            (true, _) => add("Connection", b"close"),
            (false, Version::Http10) => add("Connection", b"keep-alive"),
            (false, Version::Http11) => {}
        }
        let mut out = Vec::with_capacity(256 + self.body.len());
        self.head.encode(&mut out);
        if has_body && !method.is_some_and(Method::is_head) {
            out.extend_from_slice(self.body.as_bytes());
        }
        out
    }
}

/// `now` as a Date header says it. It is formatted once a second.
fn date(now: OffsetDateTime) -> String {
    static LAST: Mutex<(i64, String)> = Mutex::new((0, String::new()));
    let format = || now.format(IMF_FIXDATE).unwrap_or_default();
    let Ok(mut last) = LAST.lock() else { return format() };
    if last.0 != now.unix_timestamp() {
        *last = (now.unix_timestamp(), format());
    }
    last.1.clone()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;

    #[test]
    fn clients_that_are_refused_together_are_told_different_times_to_come_back() {
        for (refusal, range) in [
            (Refusal::NoEndpoint, 1..=10),
            (Refusal::Draining, 1..=5),
            (Refusal::HandshakeRate { wait: Duration::from_millis(89_001) }, 90..=92),
        ] {
            let told = || -> u64 {
                let answer = Answer::refusal(&refusal).unwrap();
                str::from_utf8(answer.head.headers.get("retry-after").unwrap()).unwrap().parse().unwrap()
            };
            let seen: BTreeSet<_> = std::iter::repeat_with(told).take(1000).collect();
            assert_eq!(seen, range.collect(), "{refusal:?}");
        }
    }
}
