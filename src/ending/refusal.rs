//! Endings before the 101.

use std::{io, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{Phase, Side};
use crate::proto::{
    framing::{ChunkError, FramingError},
    handshake::{AgreementError, OfferError},
    head::HeadError,
};

/// Why a request was not answered by what the upstream said.
///
/// Its `Display` is for the log; a client sees [`Self::status`] and the usual reason phrase alone.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request head breaks RFC 9112.
    #[error("malformed request head")]
    BadHead(#[source] HeadError),
    /// The body's framing can be read in two ways (rule H1).
    #[error("ambiguous framing")]
    AmbiguousFraming(#[source] FramingError),
    /// A transfer coding other than `chunked`.
    #[error("unknown transfer coding")]
    TransferCoding,
    /// A chunked request body breaks RFC 9112 §7.1.
    #[error("malformed request body")]
    BadBody(#[source] ChunkError),
    /// Host is missing, double or invalid (rule H3).
    #[error("bad Host: {0}")]
    BadHost(&'static str),
    /// A path that could mean two things (rule H9).
    #[error("bad path: {0}")]
    BadPath(&'static str),
    /// The head passed the limit of bytes or of headers.
    #[error("request head too large")]
    HeadTooLarge,
    /// The target passed its limit.
    #[error("request target too long")]
    TargetTooLong,
    /// The body passed the route's limit.
    #[error("request body too large")]
    BodyTooLarge,
    /// The head did not end in time.
    #[error("request head not complete in time")]
    HeadTimeout,
    /// The body made too little progress.
    #[error("request body makes no progress")]
    BodyTimeout,
    /// The client takes no bytes.
    #[error("client takes no bytes")]
    WriteTimeout,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("HTTP version not supported")]
    HttpVersion,
    /// CONNECT, or a target form that does not go with the method.
    #[error("method not allowed")]
    Method,
    /// No route matches.
    #[error("no route")]
    NoRoute,
    /// Only a WebSocket is routed here.
    #[error("only WebSocket handshakes are routed here")]
    UpgradeRequired,
    /// The opening handshake is malformed, or its version is not 13 (RFC 6455 §4.2.1).
    #[error("opening handshake refused")]
    Handshake(#[source] OfferError),
    /// The Origin is not one of the route's (rule W14).
    #[error("Origin not allowed: {0}")]
    OriginDenied(String),
    /// The client's address is not let in.
    #[error("address not allowed")]
    AddressDenied,
    /// The request proves nobody whom the route lets in.
    #[error("not authorised: {why}")]
    Unauthorized {
        /// What the client is asked to authenticate for: the route's name.
        realm: Arc<str>,
        /// What is wrong with its credentials.
        why: &'static str,
    },
    /// More passwords wait to be checked than can be in time.
    #[error("too many passwords to check")]
    AuthOverload,
    /// As many connections of this client as `max_connections_per_ip` allows. A connection that is one too many ends in any
    /// case; one of a trusted proxy, on which this client's request is one too many, need not.
    #[error("too many connections of this client")]
    PerIpLimit,
    /// Handshakes of this client over `handshake_rate_per_ip` (rule W15).
    #[error("handshakes of this client too fast")]
    HandshakeRate {
        /// When the next one would be let in.
        wait: Duration,
    },
    /// As many tunnels as the route's `max_tunnels` allows.
    #[error("too many tunnels on this route")]
    RouteLimit,
    /// As many connections as `server.max_connections` allows.
    #[error("too many connections")]
    Overload,
    /// wsgate is going down.
    #[error("draining")]
    Draining,
    /// The pool has no endpoint to try.
    #[error("no endpoint")]
    NoEndpoint,
    /// The last endpoint tried could not be reached.
    #[error("cannot connect to {endpoint}")]
    ConnectFailed {
        /// The endpoint.
        endpoint: String,
        /// What the connect said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake with the last server tried failed.
    #[error("TLS with {endpoint} failed")]
    UpstreamTls {
        /// The endpoint.
        endpoint: String,
        /// What the connect said.
        #[source]
        source: io::Error,
    },
    /// The last endpoint tried did not answer the connect in time.
    #[error("connect to {endpoint} timed out")]
    ConnectTimeout {
        /// The endpoint.
        endpoint: String,
    },
    /// The upstream ended before its response head did.
    #[error("upstream closed early")]
    UpstreamClosed(#[source] Option<io::Error>),
    /// The upstream's answer breaks HTTP.
    #[error("malformed response")]
    BadResponse(#[source] UpstreamFault),
    /// The upstream did not answer a plain request in time.
    #[error("no response in time")]
    ResponseTimeout,
    /// The upstream did not answer a handshake in time.
    #[error("no answer to the handshake in time")]
    HandshakeTimeout,
    /// The 101 does not prove the handshake (rule W8).
    #[error("the 101 does not answer the handshake")]
    Disagreed(#[source] AgreementError),
    /// A 101 to a request that was no offer (rule W11).
    #[error("a 101 that nobody asked for")]
    UnaskedUpgrade,
    /// The client left before its answer.
    #[error("client gone")]
    DownstreamGone {
        /// Where it was in its request's life.
        phase: Phase,
        /// What the stream said, if not a plain end.
        #[source]
        source: Option<io::Error>,
    },
}

/// What is wrong with an upstream's answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    /// Its head.
    #[error("head")]
    Head(#[source] HeadError),
    /// Its body's framing.
    #[error("framing")]
    Framing(#[source] FramingError),
    /// Its chunks.
    #[error("chunks")]
    Chunks(#[source] ChunkError),
    /// A header that cannot be passed on.
    #[error("header")]
    Header,
    /// It ended within its head.
    #[error("cut within its head")]
    Cut,
    /// More interim responses than make sense.
    #[error("too many interim responses")]
    Interim,
}

impl Refusal {
    /// The status of the answer; `None` when there is nobody to answer or nothing may be written.
    pub fn status(&self) -> Option<u16> {
        Some(match self {
            Self::BadHead(_) | Self::AmbiguousFraming(_) | Self::BadBody(_) => 400,
            Self::BadHost(_) | Self::BadPath(_) => 400,
            Self::TransferCoding => 501,
            Self::HeadTooLarge => 431,
            Self::TargetTooLong => 414,
            Self::BodyTooLarge => 413,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::WriteTimeout | Self::DownstreamGone { .. } => return None,
            Self::HttpVersion => 505,
            Self::Method => 405,
            Self::NoRoute => 404,
            Self::UpgradeRequired | Self::Handshake(OfferError::Version) => 426,
            Self::Handshake(OfferError::Malformed(_)) => 400,
            Self::OriginDenied(_) | Self::AddressDenied => 403,
            Self::Unauthorized { .. } => 401,
            Self::PerIpLimit | Self::HandshakeRate { .. } => 429,
            Self::Overload | Self::AuthOverload | Self::RouteLimit | Self::Draining | Self::NoEndpoint => 503,
            Self::ConnectFailed { .. }
            | Self::UpstreamTls { .. }
            | Self::UpstreamClosed(_)
            | Self::BadResponse(_) => 502,
            Self::Disagreed(_) | Self::UnaskedUpgrade => 502,
            Self::ConnectTimeout { .. } | Self::ResponseTimeout | Self::HandshakeTimeout => 504,
        })
    }

    /// The stable name in logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadHead(_) => "bad_head",
            Self::AmbiguousFraming(_) | Self::BadBody(_) => "ambiguous_framing",
            Self::TransferCoding => "transfer_coding",
            Self::BadHost(_) => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::HttpVersion => "http_version",
            Self::Method => "method",
            Self::NoRoute => "no_route",
            Self::UpgradeRequired => "upgrade_required",
            Self::Handshake(OfferError::Malformed(_)) => "bad_handshake",
            Self::Handshake(OfferError::Version) => "ws_version",
            Self::OriginDenied(_) => "origin_denied",
            Self::AddressDenied => "address_denied",
            Self::Unauthorized { .. } => "unauthorized",
            Self::AuthOverload => "auth_overload",
            Self::PerIpLimit => "per_ip_limit",
            Self::HandshakeRate { .. } => "handshake_rate",
            Self::RouteLimit => "route_limit",
            Self::Overload => "overload",
            Self::Draining => "draining",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed { .. } => "connect_failed",
            Self::UpstreamTls { .. } => "upstream_tls",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::UpstreamClosed(_) => "upstream_closed",
            Self::BadResponse(_) => "bad_response",
            Self::ResponseTimeout => "response_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Disagreed(AgreementError::BadAccept) => "bad_accept",
            Self::Disagreed(AgreementError::BadUpgrade(_)) => "bad_upgrade",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::DownstreamGone { .. } => "downstream_gone",
        }
    }

    /// Whether the connection is closed after the answer whatever the client asked for. An offer is closed after
    /// every refusal (rule H12), which is not said here.
    pub fn closes(&self) -> bool {
        match self {
            Self::BadHead(_)
            | Self::BadBody(_)
            | Self::AmbiguousFraming(_)
            | Self::TransferCoding
            | Self::BadHost(_)
            | Self::BadPath(_)
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::WriteTimeout
            | Self::HttpVersion
            | Self::Method
            | Self::Handshake(_)
            | Self::HandshakeRate { .. }
            | Self::Overload
            | Self::Draining
            | Self::Disagreed(_)
            | Self::UnaskedUpgrade
            | Self::DownstreamGone { .. } => true,
            Self::NoRoute
            | Self::UpgradeRequired
            | Self::OriginDenied(_)
            | Self::AddressDenied
            | Self::Unauthorized { .. }
            | Self::AuthOverload
            | Self::PerIpLimit
            | Self::RouteLimit
            | Self::NoEndpoint
            | Self::ConnectFailed { .. }
            | Self::UpstreamTls { .. }
            | Self::ConnectTimeout { .. }
            | Self::UpstreamClosed(_)
            | Self::BadResponse(_)
            | Self::ResponseTimeout
            | Self::HandshakeTimeout => false,
        }
    }

    /// Between how many and how many seconds after the answer the client may try again; `None` where it is not told. One of
    /// them is drawn for each answer, so that those who were refused together don't come back together.
    pub fn retry_after(&self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::HandshakeRate { wait } => {
                let least = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Some(least..=least + 2)
            }
            // Whoever takes over is there already, or will be soon.
            Self::Draining => Some(1..=5),
            _ => matches!(self.status(), Some(429 | 503)).then_some(1..=10),
        }
    }

    /// Who ended the request.
    pub fn ended_by(&self) -> Side {
        match self {
            Self::BadHead(_)
            | Self::BadBody(_)
            | Self::AmbiguousFraming(_)
            | Self::TransferCoding
            | Self::BadHost(_)
            | Self::BadPath(_)
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::WriteTimeout
            | Self::HttpVersion
            | Self::Method
            | Self::NoRoute
            | Self::UpgradeRequired
            | Self::Handshake(_)
            | Self::OriginDenied(_)
            | Self::AddressDenied
            | Self::Unauthorized { .. }
            | Self::AuthOverload
            | Self::PerIpLimit
            | Self::HandshakeRate { .. }
            | Self::RouteLimit
            | Self::Overload
            | Self::Draining
            | Self::NoEndpoint
            | Self::ConnectTimeout { .. }
            | Self::ResponseTimeout
            | Self::HandshakeTimeout
            | Self::BadResponse(_)
            | Self::Disagreed(_)
            | Self::UnaskedUpgrade => Side::Gate,
            Self::ConnectFailed { .. } | Self::UpstreamTls { .. } | Self::UpstreamClosed(_) => Side::Upstream,
            Self::DownstreamGone { .. } => Side::Downstream,
        }
    }

    /// The phase in which it ended.
    pub fn phase(&self) -> Phase {
        match self {
            Self::BadHead(_)
            | Self::AmbiguousFraming(_)
            | Self::TransferCoding
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::HeadTimeout
            | Self::HttpVersion
            | Self::Method
            | Self::PerIpLimit
            | Self::Overload
            | Self::BadHost(_)
            | Self::BadPath(_) => Phase::Head,
            Self::NoRoute | Self::UpgradeRequired | Self::Handshake(_) | Self::Draining => Phase::Route,
            Self::OriginDenied(_) | Self::AddressDenied => Phase::Route,
            Self::Unauthorized { .. } | Self::AuthOverload => Phase::Route,
            Self::HandshakeRate { .. } | Self::RouteLimit => Phase::Route,
            Self::NoEndpoint
            | Self::ConnectFailed { .. }
            | Self::UpstreamTls { .. }
            | Self::ConnectTimeout { .. } => Phase::Connect,
            Self::UpstreamClosed(_)
            | Self::BadResponse(_)
            | Self::ResponseTimeout
            | Self::HandshakeTimeout
            | Self::Disagreed(_)
            | Self::UnaskedUpgrade => Phase::Response,
            Self::BodyTooLarge | Self::BodyTimeout | Self::BadBody(_) | Self::WriteTimeout => Phase::Exchange,
            Self::DownstreamGone { phase, .. } => *phase,
        }
    }
}
