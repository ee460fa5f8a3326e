//! The opening handshake of a WebSocket (RFC 6455 §4): what is an offer, and what answer proves it.
//!
//! An [`Offer`] exists only for a legal opening request, an [`Agreed`] only for a 101 that answers that very
//! offer.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::head::{Headers, RequestHead, ResponseHead, Version};

#[cfg(test)]
mod tests;

/// What a server appends to the key before hashing it (RFC 6455 §1.3).
pub const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`: 28 base64 characters.
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The value of `Sec-WebSocket-Key` for 16 random bytes: 24 base64 characters.
pub fn encode_key(nonce: [u8; 16]) -> String {
    STANDARD.encode(nonce)
}

/// Why a request that means to be an opening handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// 400: a rule is broken, in words.
    #[error("malformed opening handshake: {0}")]
    Malformed(&'static str),
    /// 426: a version other than 13.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
}

/// Why a 101 does not answer an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// `Sec-WebSocket-Accept` is absent, repeated or wrong.
    #[error("Sec-WebSocket-Accept does not answer the key")]
    BadAccept,
    /// Anything else that RFC 6455 §4.1 asks of the answer, in words.
    #[error("invalid answer to a handshake: {0}")]
    BadUpgrade(&'static str),
}

/// What of the extensions (RFC 6455 §9) of an [`Agreed`] handshake matters to who follows its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extensions {
    /// None was agreed.
    None,
    /// permessage-deflate (RFC 7692) alone.
    PermessageDeflate,
    /// At least one that wsgate does not know.
    Unknown,
}

/// A legal opening handshake of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    key: String,
    subprotocols: Vec<String>,
    extensions: Vec<String>,
}

impl Offer {
    /// Tells an opening handshake from plain HTTP (`None`), and a legal one from a malformed one (rules W1 to
    /// W5).
    ///
    /// That there is exactly one Host is judged with the request's target. What is offered by way of
    /// subprotocols and extensions is taken as it comes: it binds only the answer.
    pub fn from_head(head: &RequestHead) -> Result<Option<Self>, OfferError> {
        let headers = &head.headers;
        let means_to_upgrade = head.method.is_get()
            && head.version == Version::Http11
            && headers.has_token("upgrade", "websocket")
            && headers.has_token("connection", "upgrade");
        if !means_to_upgrade {
            return Ok(None);
        }
        if headers.contains("transfer-encoding") || announces_content(headers) {
            return Err(OfferError::Malformed("it has a body"));
        }
        match only_value(headers, "sec-websocket-version") {
            Value::One(b"13") => {}
            Value::One(_) => return Err(OfferError::Version),
            Value::Absent => return Err(OfferError::Malformed("Sec-WebSocket-Version is missing")),
            Value::Several => return Err(OfferError::Malformed("Sec-WebSocket-Version is repeated")),
        }
        Ok(Some(Self {
            key: legal_key(headers)?,
            subprotocols: headers.tokens("sec-websocket-protocol").filter_map(to_text).collect(),
            extensions: extension_names(headers),
        }))
    }

    /// `Sec-WebSocket-Key` as the client sent it, 24 characters.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The only right `Sec-WebSocket-Accept`.
    pub fn accept(&self) -> String {
        accept_key(&self.key)
    }

    /// The subprotocols, in the client's order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.subprotocols.iter().map(String::as_str)
    }

    /// The names of the extensions, without their parameters; a name is repeated if it is offered in
    /// variants.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.extensions.iter().map(String::as_str)
    }

    /// Checks that `answer` is the 101 that agrees to this offer (rule W8, RFC 6455 §4.1, "the client MUST
    /// validate").
    ///
    /// Without `verify_accept` nothing is asked of `Sec-WebSocket-Accept`; all else is.
    pub fn prove(&self, answer: &ResponseHead, verify_accept: bool) -> Result<Agreed, AgreementError> {
        let headers = &answer.headers;
        // Steps 1 to 3: the status, Upgrade, Connection.
        if answer.status != 101 || answer.version != Version::Http11 {
            return Err(AgreementError::BadUpgrade("it is no HTTP/1.1 101"));
        }
        match only_value(headers, "upgrade") {
            Value::One(value) if value.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(AgreementError::BadUpgrade("Upgrade is not `websocket`")),
        }
        if !headers.has_token("connection", "upgrade") {
            return Err(AgreementError::BadUpgrade("Connection lacks `upgrade`"));
        }
        // Step 4: the proof that the server understood.
        if verify_accept
            && only_value(headers, "sec-websocket-accept") != Value::One(self.accept().as_bytes())
        {
            return Err(AgreementError::BadAccept);
        }
        // Steps 5 and 6: only what was offered.
        let extensions = self.agreed_extensions(headers)?;
        self.check_subprotocol(headers)?;
        Ok(Agreed { extensions })
    }

    fn agreed_extensions(&self, answer: &Headers) -> Result<Extensions, AgreementError> {
        if answer.get_all("sec-websocket-extensions").nth(1).is_some() {
            return Err(AgreementError::BadUpgrade("Sec-WebSocket-Extensions is repeated"));
        }
        let names = extension_names(answer);
        if names.iter().any(|name| !self.extensions.contains(name)) {
            return Err(AgreementError::BadUpgrade("an extension was not offered"));
        }
        match names.iter().filter(|name| *name == PERMESSAGE_DEFLATE).count() {
            0 if names.is_empty() => Ok(Extensions::None),
            1 if names.len() == 1 => Ok(Extensions::PermessageDeflate),
            0 | 1 => Ok(Extensions::Unknown),
            _ => Err(AgreementError::BadUpgrade("permessage-deflate is agreed twice")),
        }
    }

    fn check_subprotocol(&self, answer: &Headers) -> Result<(), AgreementError> {
        match only_value(answer, "sec-websocket-protocol") {
            Value::Absent => Ok(()),
            Value::One(chosen) if self.subprotocols().any(|offered| offered.as_bytes() == chosen) => Ok(()),
            Value::One(_) => Err(AgreementError::BadUpgrade("the subprotocol was not offered")),
            Value::Several => Err(AgreementError::BadUpgrade("Sec-WebSocket-Protocol is repeated")),
        }
    }
}

impl fmt::Debug for Offer {
    /// Shows how many subprotocols there are, not which: clients put access tokens there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("subprotocols", &self.subprotocols.len())
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

/// An offer and the answer that proves it: the ticket to a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    extensions: Extensions,
}

impl Agreed {
    /// What the two sides agreed on that shows in frames.
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }
}

/// How often a header that may stand once does stand there.
#[derive(PartialEq)]
enum Value<'a> {
    Absent,
    One(&'a [u8]),
    Several,
}

fn only_value<'a>(headers: &'a Headers, name: &'a str) -> Value<'a> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Value::Absent,
        (Some(value), None) => Value::One(value),
        (Some(_), Some(_)) => Value::Several,
    }
}

/// Whether there is a Content-Length of anything but zero; digits are judged elsewhere, so a strange value
/// counts.
fn announces_content(headers: &Headers) -> bool {
    headers
        .get_all("content-length")
        .any(|value| value.is_empty() || value.iter().any(|digit| *digit != b'0'))
}

/// `Sec-WebSocket-Key`: once, 22 base64 characters and `==` (rule W2). The six bits that 22 characters have
/// over 16 bytes' worth are not judged, as servers do not.
fn legal_key(headers: &Headers) -> Result<String, OfferError> {
    let value = match only_value(headers, "sec-websocket-key") {
        Value::One(value) => value,
        Value::Absent => return Err(OfferError::Malformed("Sec-WebSocket-Key is missing")),
        Value::Several => return Err(OfferError::Malformed("Sec-WebSocket-Key is repeated")),
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match value.strip_suffix(b"==") {
        Some(digits) if digits.len() == 22 && digits.iter().all(is_base64) => {
            to_text(value).ok_or(OfferError::Malformed("Sec-WebSocket-Key is no text"))
        }
        _ => Err(OfferError::Malformed("Sec-WebSocket-Key is not 22 base64 characters and `==`")),
    }
}

/// The names in all lines of `Sec-WebSocket-Extensions` (RFC 6455 §9.1). A comma inside a quoted parameter is
/// none that separates.
fn extension_names(headers: &Headers) -> Vec<String> {
    headers
        .get_all("sec-websocket-extensions")
        .flat_map(split_outside_quotes)
        .filter_map(|extension| extension.split(|byte| *byte == b';').next())
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .filter_map(to_text)
        .collect()
}

/// The elements of a comma-separated list whose parameters may be quoted strings.
fn split_outside_quotes(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            _ if literal => false,
            b'\\' if quoted => {
                escaped = true;
                false
            }
            b'"' => {
                quoted = !quoted;
                false
            }
            b',' => !quoted,
            _ => false,
        }
    })
}

/// What is no UTF-8 can't be agreed on, as no token is (RFC 6455 §4.1).
fn to_text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
