//! Endings before TLS stands.

use std::io;

use rustls::Error;

use super::Side;
use crate::proto::proxy_protocol::HeaderError;

/// Why a downstream connection ended before TLS stood, or before its first request where there is none.
///
/// It has no answer of HTTP: where TLS knows an alert for it, that was sent before the connection was cut.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    /// The connection does not begin with the PROXY header that its listener requires (rule S5).
    #[error("PROXY header refused")]
    ProxyProtocol(#[source] Introduction),
    /// The TLS handshake was not complete in time, however much of it came.
    #[error("TLS handshake not complete in time")]
    Timeout,
    /// The client offers protocols by ALPN, and none of them is spoken here.
    #[error("no application protocol in common")]
    Alpn,
    /// The client's certificate is missing, or does not verify.
    #[error("client certificate refused")]
    ClientCertificate(#[source] Error),
    /// What came is not TLS, or not a handshake that both sides can agree on; or the client ended it with an
    /// alert.
    #[error("TLS handshake failed")]
    Protocol(#[source] Error),
    /// The connection ended within the TLS handshake, by an EOF or an error.
    #[error("connection lost within the TLS handshake")]
    Io(#[source] io::Error),
    /// The client closed before it sent a byte, as port checks do.
    #[error("connection closed without a byte")]
    Silent,
}

/// Why a PROXY header does not count.
#[derive(Debug, thiserror::Error)]
pub enum Introduction {
    /// The peer is none of those that may send one.
    #[error("the peer is not in proxy_protocol_from")]
    Stranger,
    /// It was not complete in time.
    #[error("not complete in time")]
    Timeout,
    /// What came is no such header.
    #[error(transparent)]
    Malformed(#[from] HeaderError),
    /// The connection ended within it.
    #[error("the connection ended within it")]
    CutShort(#[source] Option<io::Error>),
}

impl From<Introduction> for TlsFailure {
    fn from(why: Introduction) -> Self {
        Self::ProxyProtocol(why)
    }
}

impl TlsFailure {
    /// The stable name in logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ProxyProtocol(_) => "proxy_protocol",
            Self::Timeout => "tls_timeout",
            Self::Alpn => "tls_alpn",
            Self::ClientCertificate(_) => "tls_client_cert",
            Self::Protocol(_) => "tls_protocol",
            Self::Io(_) | Self::Silent => "downstream_gone",
        }
    }

    /// Who ended the connection.
    pub fn ended_by(&self) -> Side {
        match self {
            Self::ProxyProtocol(Introduction::CutShort(_)) => Side::Downstream,
            Self::ProxyProtocol(_) => Side::Gate,
            Self::Timeout | Self::Alpn | Self::ClientCertificate(_) => Side::Gate,
            // Whatever the client said or did, it was not a TLS handshake.
            Self::Protocol(Error::AlertReceived(_)) | Self::Io(_) | Self::Silent => Side::Downstream,
            Self::Protocol(_) => Side::Gate,
        }
    }
}

impl From<Error> for TlsFailure {
    /// Sorts what rustls says; a server verifies no certificates but its clients'.
    fn from(error: Error) -> Self {
        match error {
            Error::NoApplicationProtocol => Self::Alpn,
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Self::ClientCertificate(error),
            error => Self::Protocol(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage};

    use super::*;

    #[test]
    fn errors_of_rustls_are_sorted_into_labels() {
        let label = |error: Error| TlsFailure::from(error).label();
        assert_eq!(label(Error::NoApplicationProtocol), "tls_alpn");
        assert_eq!(label(Error::NoCertificatesPresented), "tls_client_cert");
        assert_eq!(label(CertificateError::Expired.into()), "tls_client_cert");
        assert_eq!(label(InvalidMessage::InvalidContentType.into()), "tls_protocol");
    }
}
