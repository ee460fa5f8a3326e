//! What is known of a connection once its TLS handshake is complete.

use rustls::{CipherSuite, ProtocolVersion};

use super::client_certificate::ClientCertificate;

/// What a TLS handshake agreed on. Names are those of the IANA registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// Such as `TLS_AES_128_GCM_SHA256`.
    pub cipher_suite: &'static str,
    /// Such as `X25519MLKEM768`; `None` when a TLS 1.2 session was resumed.
    pub key_exchange_group: Option<&'static str>,
    /// The name that the client asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// The protocol agreed by ALPN; `None` when the client offered none.
    pub alpn: Option<&'static str>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The client's certificate, verified; `None` where none was asked for or shown.
    pub client: Option<Box<ClientCertificate>>,
}

pub(super) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "",
    }
}

/// The IANA name; rustls spells those of TLS 1.3 in its own way.
pub(super) fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or_default(),
    }
}
