//! Values of headers with placeholders: `{client_ip}` and the like in what a route sets.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

use thiserror::Error;

/// What a route sets a header to: text, and placeholders that each request fills in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

/// What a placeholder stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    ClientIp,
    ClientPort,
    RequestId,
    Host,
    Scheme,
    ListenerPort,
    Route,
    TlsVersion,
    TlsCipher,
    TlsSni,
    TlsClientSubject,
    TlsClientSerial,
    TlsClientFingerprint,
}

/// Every placeholder by its name.
const PLACEHOLDERS: [(&str, Placeholder); 13] = [
    ("client_ip", Placeholder::ClientIp),
    ("client_port", Placeholder::ClientPort),
    ("request_id", Placeholder::RequestId),
    ("host", Placeholder::Host),
    ("scheme", Placeholder::Scheme),
    ("listener_port", Placeholder::ListenerPort),
    ("route", Placeholder::Route),
    ("tls.version", Placeholder::TlsVersion),
    ("tls.cipher", Placeholder::TlsCipher),
    ("tls.sni", Placeholder::TlsSni),
    ("tls.client.subject", Placeholder::TlsClientSubject),
    ("tls.client.serial", Placeholder::TlsClientSerial),
    ("tls.client.fingerprint", Placeholder::TlsClientFingerprint),
];

/// What a request has for the placeholders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// The client's address.
    pub client_ip: Option<IpAddr>,
    /// Its port, where it is known.
    pub client_port: Option<u16>,
    /// The value of X-Request-Id.
    pub request_id: &'a str,
    /// The request's host without the port; empty where it has none.
    pub host: &'a str,
    /// Whether the client came by https.
    pub https: bool,
    /// The port that the client connected to.
    pub listener_port: Option<u16>,
    /// The route's name.
    pub route: &'a str,
    /// The TLS of the connection.
    pub tls: Option<TlsValues<'a>>,
}

/// What a TLS handshake agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsValues<'a> {
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite's name.
    pub cipher: &'a str,
    /// The name that the client asked for.
    pub sni: Option<&'a str>,
    /// The client's certificate, verified.
    pub client: Option<CertificateValues<'a>>,
}

/// Who a client is by its verified certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateValues<'a> {
    /// The subject's distinguished name.
    pub subject: &'a str,
    /// The serial number.
    pub serial: &'a str,
    /// A hash of the certificate.
    pub fingerprint: &'a str,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A name that stands for nothing.
    #[error("unknown placeholder")]
    Unknown(String),
    /// A `{` without its `}`.
    #[error("a `{{` without its `}}`")]
    Open,
}

impl Template {
    /// Adds text as it is.
    pub fn push_literal(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.0.push(Part::Text(text.to_owned())),
        }
    }

    /// Adds text with placeholders. `{{` stands for `{`, and `}}` for `}`, as does a `}` that ends no placeholder.
    pub fn push_written(&mut self, mut rest: &str) -> Result<(), TemplateError> {
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            self.push_literal(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                self.push_literal(&brace[..1]);
                rest = &brace[2..];
            } else if let Some(after) = brace.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or(TemplateError::Open)?;
                let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
                let (_, placeholder) = known.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
                self.0.push(Part::Value(*placeholder));
                rest = after;
            } else {
                self.push_literal("}");
                rest = &brace[1..];
            }
        }
        self.push_literal(rest);
        Ok(())
    }

    /// The names of all placeholders.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PLACEHOLDERS.iter().map(|(name, _)| *name)
    }

    /// The text for a request; `None` if it has no value for a placeholder, or one that can't stand in a header (H13).
    pub(super) fn fill(&self, values: &Values<'_>) -> Option<Cow<'_, str>> {
        if let [Part::Text(text)] = &self.0[..] {
            return Some(Cow::Borrowed(text));
        }
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Value(placeholder) => placeholder.write(values, &mut filled)?,
            }
        }
        Some(Cow::Owned(filled))
    }
}

impl Placeholder {
    fn write(self, values: &Values<'_>, out: &mut String) -> Option<()> {
        let tls = values.tls;
        let client = tls.and_then(|tls| tls.client);
        let text = match self {
            // Writing to a String can't fail.
            Self::ClientIp => return write!(out, "{}", values.client_ip?.to_canonical()).ok(),
            Self::ClientPort => return write!(out, "{}", values.client_port?).ok(),
            Self::ListenerPort => return write!(out, "{}", values.listener_port?).ok(),
            Self::RequestId => values.request_id,
            Self::Host => values.host,
            Self::Scheme => scheme(values.https),
            Self::Route => values.route,
            Self::TlsVersion => tls?.version,
            Self::TlsCipher => tls?.cipher,
            Self::TlsSni => tls?.sni?,
            Self::TlsClientSubject => client?.subject,
            Self::TlsClientSerial => client?.serial,
            Self::TlsClientFingerprint => client?.fingerprint,
        };
        let is_value = !text.is_empty() && !text.contains(|c: char| c.is_control());
        is_value.then(|| out.push_str(text))
    }
}

/// The scheme of a request.
pub(super) fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Template, TemplateError> {
        let mut template = Template::default();
        template.push_written(text).map(|()| template)
    }

    fn filled(text: &str, values: &Values<'_>) -> Option<String> {
        written(text).unwrap().fill(values).map(Cow::into_owned)
    }

    fn values() -> Values<'static> {
        Values {
            client_ip: Some("::ffff:192.0.2.7".parse().unwrap()),
            client_port: Some(4711),
            request_id: "id-1",
            host: "a.example",
            https: true,
            listener_port: Some(443),
            route: "chat",
            tls: Some(TlsValues {
                version: "TLSv1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                sni: Some("sni.example"),
                client: Some(CertificateValues { subject: "CN=alice", serial: "0a", fingerprint: "f1" }),
            }),
        }
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        let expected = [
            "192.0.2.7",
            "4711",
            "id-1",
            "a.example",
            "https",
            "443",
            "chat",
            "TLSv1.3",
            "TLS_AES_128_GCM_SHA256",
            "sni.example",
            "CN=alice",
            "0a",
            "f1",
        ];
        for (name, value) in Template::names().zip(expected) {
            assert_eq!(filled(&format!("<{{{name}}}>"), &values()), Some(format!("<{value}>")));
        }
        assert_eq!(Template::names().count(), expected.len());
    }

    #[test]
    fn a_header_without_a_value_is_no_header() {
        let nothing = Values::default();
        for name in Template::names().filter(|name| *name != "scheme") {
            assert_eq!(filled(&format!("{{scheme}} {{{name}}}"), &nothing), None, "{name}");
        }
        let without_certificate =
            Values { tls: Some(TlsValues { client: None, sni: None, ..values().tls.unwrap() }), ..values() };
        assert_eq!(filled("{tls.version}", &without_certificate).as_deref(), Some("TLSv1.3"));
        assert_eq!(filled("{tls.client.subject}", &without_certificate), None);
        assert_eq!(filled("{tls.sni}", &without_certificate), None);
    }

    #[test]
    fn h13_a_value_with_a_control_character_is_none() {
        for subject in ["CN=a\r\nX-Evil: 1", "CN=\0", "\u{7f}", "a\u{85}"] {
            let client = Some(CertificateValues { subject, ..CertificateValues::default() });
            let values =
                Values { tls: Some(TlsValues { client, ..TlsValues::default() }), ..Values::default() };
            assert_eq!(filled("{tls.client.subject}", &values), None, "{subject:?}");
        }
    }

    #[test]
    fn braces_are_doubled() {
        assert_eq!(filled("{{\"a\": [1}}]}", &values()).as_deref(), Some("{\"a\": [1}]}"));
        assert_eq!(filled("{{{client_port}}}", &values()).as_deref(), Some("{4711}"));
        assert_eq!(filled("{{client_port}}", &values()).as_deref(), Some("{client_port}"));
        assert_eq!(filled("", &values()).as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_placeholder_is_an_error() {
        assert_eq!(written("a {client_up} b").err(), Some(TemplateError::Unknown("client_up".to_owned())));
        assert_eq!(written("{}").err(), Some(TemplateError::Unknown(String::new())));
        assert_eq!(written("a {client_ip").err(), Some(TemplateError::Open));
        assert_eq!(written("{{{").err(), Some(TemplateError::Open));
    }

    #[test]
    fn a_literal_is_taken_as_it_is() {
        let mut template = Template::default();
        template.push_literal("{client_ip}}");
        assert_eq!(template.fill(&values()).as_deref(), Some("{client_ip}}"));
        template.push_written("{client_port}").unwrap();
        assert_eq!(template.fill(&values()).as_deref(), Some("{client_ip}}4711"));
    }
}
