//! What is measured: the scenarios, with their names on the command line and in the table.

use std::{fmt, str::FromStr};

/// Bytes of the messages of downloads and uploads.
pub(crate) const BULK: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Whole connections one after another: TCP, TLS, opening handshake, Close.
    Connections { certificate: Certificate, resumed: bool },
    /// Messages of `size` bytes there and back, one in flight on each connection.
    Echo { tls: bool, size: usize },
    /// Messages of [`BULK`] bytes from the backend, as many as the client takes.
    Download { tls: bool },
    /// The same from the client.
    Upload { tls: bool },
    /// Plain requests, one in flight on each keep-alive connection.
    Get { tls: bool },
    /// Tunnels that are open and carry nothing.
    Idle { tls: bool },
}

/// The key of the certificate that a gate shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

impl Scenario {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [(&str, Self); 14] = [
        ("connections-ecdsa", Self::Connections { certificate: Certificate::Ecdsa, resumed: false }),
        ("connections-rsa", Self::Connections { certificate: Certificate::Rsa, resumed: false }),
        ("connections-resumed", Self::Connections { certificate: Certificate::Ecdsa, resumed: true }),
        ("wss-echo-64", Self::Echo { tls: true, size: 64 }),
        ("wss-echo-1k", Self::Echo { tls: true, size: 1024 }),
        ("wss-echo-16k", Self::Echo { tls: true, size: 16 * 1024 }),
        ("wss-download", Self::Download { tls: true }),
        ("wss-upload", Self::Upload { tls: true }),
        ("ws-echo-64", Self::Echo { tls: false, size: 64 }),
        ("ws-download", Self::Download { tls: false }),
        ("https-get", Self::Get { tls: true }),
        ("http-get", Self::Get { tls: false }),
        ("wss-idle", Self::Idle { tls: true }),
        ("ws-idle", Self::Idle { tls: false }),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scenario)| *scenario == self).map_or("unnamed", |(name, _)| name)
    }

    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Idle { .. })
    }

    /// What is counted, and what the figures are per.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Connections { .. } => "connection",
            Self::Echo { .. } => "round trip",
            Self::Download { .. } | Self::Upload { .. } => "MB",
            Self::Get { .. } => "request",
            Self::Idle { .. } => "tunnel",
        }
    }

    /// Which listener of the gate it goes to: the one with this key, or the plain one.
    pub(crate) fn certificate(self) -> Option<Certificate> {
        match self {
            Self::Connections { certificate, .. } => Some(certificate),
            Self::Echo { tls, .. }
            | Self::Download { tls }
            | Self::Upload { tls }
            | Self::Get { tls }
            | Self::Idle { tls } => tls.then_some(Certificate::Ecdsa),
        }
    }

    /// Connections at once, unless the command line says otherwise.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::Connections { .. } | Self::Download { .. } | Self::Upload { .. } => 8,
            Self::Echo { .. } | Self::Get { .. } => 50,
            Self::Idle { .. } => 5_000,
        }
    }

    /// The path that it asks for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Connections { .. } | Self::Echo { .. } => "/echo",
            Self::Download { .. } => "/download?size=65536",
            Self::Upload { .. } => "/upload",
            Self::Get { .. } => "/",
            Self::Idle { .. } => "/idle",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = || Self::ALL.map(|(known, _)| known).join(", ");
        found
            .map(|(_, scenario)| *scenario)
            .ok_or_else(|| format!("no scenario {name}; there are {}", names()))
    }
}
