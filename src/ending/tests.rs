//! README.md tells of every ending, and tells the truth.

use std::{collections::BTreeSet, io, time::Duration};

use rustls::Error;

use super::{
    AdminClose, AdminCloseError, Death, Introduction, Phase, Refusal, Side, TlsFailure, TunnelEnd,
    UpstreamFault,
};
use crate::proto::{
    frame::{Excess, FrameError},
    framing::{ChunkError, FramingError},
    handshake::{AgreementError, OfferError},
    head::HeadError,
};

const README: &str = include_str!("../../README.md");

type Rows = BTreeSet<Vec<String>>;

/// The first `columns` cells of each row of the table under the line `header`, without their backticks.
fn table(header: &str, columns: usize) -> Rows {
    let lines = README.lines().skip_while(|line| *line != header).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        row.split('|').skip(1).take(columns).map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    rows.map(cells).collect()
}

fn row<const COLUMNS: usize>(cells: [String; COLUMNS]) -> Vec<String> {
    cells.into()
}

/// The refusal after this one, from the first to the last: a new variant does not compile until it stands here.
fn next(refusal: &Refusal) -> Option<Refusal> {
    use Refusal as R;
    let endpoint = String::new;
    Some(match refusal {
        R::BadHead(_) => R::AmbiguousFraming(FramingError::Ambiguous("")),
        R::AmbiguousFraming(_) => R::TransferCoding,
        R::TransferCoding => R::BadBody(ChunkError::SizeOverflow),
        R::BadBody(_) => R::BadHost(""),
        R::BadHost(_) => R::BadPath(""),
        R::BadPath(_) => R::HeadTooLarge,
        R::HeadTooLarge => R::TargetTooLong,
        R::TargetTooLong => R::BodyTooLarge,
        R::BodyTooLarge => R::HeadTimeout,
        R::HeadTimeout => R::BodyTimeout,
        R::BodyTimeout => R::WriteTimeout,
        R::WriteTimeout => R::HttpVersion,
        R::HttpVersion => R::Method,
        R::Method => R::NoRoute,
        R::NoRoute => R::UpgradeRequired,
        R::UpgradeRequired => R::Handshake(OfferError::Malformed("")),
        R::Handshake(OfferError::Malformed(_)) => R::Handshake(OfferError::Version),
        R::Handshake(OfferError::Version) => R::OriginDenied(String::new()),
        R::OriginDenied(_) => R::AddressDenied,
        R::AddressDenied => R::Unauthorized { realm: "main".into(), why: "" },
        R::Unauthorized { .. } => R::AuthOverload,
        R::AuthOverload => R::PerIpLimit,
        R::PerIpLimit => R::HandshakeRate { wait: Duration::ZERO },
        R::HandshakeRate { .. } => R::RouteLimit,
        R::RouteLimit => R::Overload,
        R::Overload => R::Draining,
        R::Draining => R::NoEndpoint,
        R::NoEndpoint => R::ConnectFailed { endpoint: endpoint(), source: io::ErrorKind::Other.into() },
        R::ConnectFailed { .. } => {
            R::UpstreamTls { endpoint: endpoint(), source: io::ErrorKind::Other.into() }
        }
        R::UpstreamTls { .. } => R::ConnectTimeout { endpoint: endpoint() },
        R::ConnectTimeout { .. } => R::UpstreamClosed(None),
        R::UpstreamClosed(_) => R::BadResponse(UpstreamFault::Cut),
        R::BadResponse(_) => R::ResponseTimeout,
        R::ResponseTimeout => R::HandshakeTimeout,
        R::HandshakeTimeout => R::Disagreed(AgreementError::BadAccept),
        R::Disagreed(AgreementError::BadAccept) => R::Disagreed(AgreementError::BadUpgrade("")),
        R::Disagreed(AgreementError::BadUpgrade(_)) => R::UnaskedUpgrade,
        R::UnaskedUpgrade => R::DownstreamGone { phase: Phase::Head, source: None },
        R::DownstreamGone { .. } => return None,
    })
}

#[test]
fn the_table_of_answers_is_that_of_the_code() {
    let first = Refusal::BadHead(HeadError::Malformed(""));
    let every = std::iter::successors(Some(first), next);
    let expected: Rows = every
        .map(|refusal| {
            let status = refusal.status().map_or_else(|| "none".to_owned(), |status| status.to_string());
            let closes = if refusal.closes() { "yes" } else { "no" };
            row([status, refusal.label().to_owned(), closes.to_owned()])
        })
        .collect();
    assert_eq!(table("| status | label | closes | when |", 3), expected);
}

/// The tunnel's end after this one.
fn next_end(end: &TunnelEnd) -> Option<TunnelEnd> {
    use TunnelEnd as E;
    let broken = || io::ErrorKind::ConnectionReset.into();
    Some(match end {
        E::Closed => E::Eof(Side::Downstream),
        E::Eof(Side::Downstream) => E::Eof(Side::Upstream),
        E::Eof(_) => E::Reset(Side::Downstream, broken()),
        E::Reset(Side::Downstream, _) => E::Reset(Side::Upstream, broken()),
        E::Reset(..) => E::Protocol(Side::Downstream, FrameError::WrongMask),
        E::Protocol(..) => E::TooLarge(Side::Downstream, Excess::Message(1)),
        E::TooLarge(..) => E::MessageRate(Side::Downstream),
        E::MessageRate(_) => E::Idle,
        E::Idle => E::MaxAge,
        E::MaxAge => E::Drained,
        E::Drained => E::Reload,
        E::Reload => E::Removed,
        E::Removed => E::Admin(AdminClose::default()),
        E::Admin(_) => E::Dead(Side::Downstream, Death::Silent),
        E::Dead(..) => E::WriteTimeout,
        E::WriteTimeout => E::DrainTimeout,
        E::DrainTimeout => return None,
    })
}

#[test]
fn the_table_of_close_codes_is_that_of_the_code() {
    let every = std::iter::successors(Some(TunnelEnd::Closed), next_end);
    let expected: Rows = every
        .map(|end| {
            let code =
                |side| end.close_to(side).map_or_else(|| "none".to_owned(), |(code, _)| code.to_string());
            row([end.label().to_owned(), code(Side::Downstream), code(Side::Upstream)])
        })
        .collect();
    assert_eq!(table("| label | Close to the client | Close to the backend | when |", 3), expected);
}

#[test]
fn t9_an_administrators_close_is_one_that_may_be_sent() {
    for code in [1000, 1001, 1003, 1007, 1012, 1014, 3000, 4000, 4999] {
        let end = TunnelEnd::Admin(AdminClose::new(code, "maintenance").expect("legal"));
        assert_eq!(end.close_to(Side::Downstream), Some((code, "maintenance")));
        assert_eq!(end.close_to(Side::Upstream), Some((1001, "going away")));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        assert_eq!(AdminClose::new(code, ""), Err(AdminCloseError::Code(code)));
    }
    assert!(AdminClose::new(1000, &"é".repeat(61)).is_ok());
    assert_eq!(AdminClose::new(1000, &"é".repeat(62)), Err(AdminCloseError::Reason(124)));
}

/// The failure of TLS after this one.
fn next_failure(failure: &TlsFailure) -> Option<TlsFailure> {
    use TlsFailure as F;
    Some(match failure {
        F::Timeout => F::Alpn,
        F::Alpn => F::ClientCertificate(Error::NoCertificatesPresented),
        F::ClientCertificate(_) => F::Protocol(Error::DecryptError),
        F::Protocol(_) => F::Io(io::ErrorKind::UnexpectedEof.into()),
        F::Io(_) => F::Silent,
        F::Silent => F::ProxyProtocol(Introduction::Timeout),
        F::ProxyProtocol(_) => return None,
    })
}

#[test]
fn the_table_of_tls_failures_is_that_of_the_code() {
    let every = std::iter::successors(Some(TlsFailure::Timeout), next_failure);
    let expected: Rows = every.map(|failure| row([failure.label().to_owned()])).collect();
    assert_eq!(table("| label | when |", 1), expected);
}
