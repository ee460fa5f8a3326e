//! The labels of what is counted. Each takes its values from the configuration or from a fixed set.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family, histogram::Histogram},
};

use crate::ending::{Phase, Side};

/// Counters, one for each set of labels.
pub(super) type Counters<L> = family::Family<L, Counter>;
/// Histograms, one for each set of labels.
pub(super) type Histograms<L> = family::Family<L, Histogram, fn() -> Histogram>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfListener {
    pub(super) listener: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfRoute {
    pub(super) route: Arc<str>,
}

/// A connection that was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TurnedAway {
    pub(super) listener: Arc<str>,
    pub(super) reason: &'static str,
}

/// A TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Shaken {
    pub(super) listener: Arc<str>,
    /// `ok`, or the label of its failure.
    pub(super) result: &'static str,
    /// `none` where it failed.
    pub(super) version: &'static str,
    pub(super) resumed: bool,
}

/// An exchange that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Answered {
    pub(super) route: Arc<str>,
    pub(super) status: Status,
}

/// The status of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Code(u16),
    /// One that is none of 100 to 599.
    Other,
    /// There was no answer.
    None,
}

impl From<Option<u16>> for Status {
    fn from(status: Option<u16>) -> Self {
        match status {
            Some(code @ 100..=599) => Self::Code(code),
            Some(_) => Self::Other,
            None => Self::None,
        }
    }
}

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => code.encode(encoder),
            Self::Other => "other".encode(encoder),
            Self::None => "none".encode(encoder),
        }
    }
}

/// A handshake that did not become a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedHandshake {
    pub(super) route: Arc<str>,
    pub(super) ending: &'static str,
}

/// How something ended, as `ending` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ending {
    /// Its stable name.
    pub label: &'static str,
    /// Who ended it.
    pub side: Side,
    /// In which phase.
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    ending: &'static str,
    side: &'static str,
    phase: &'static str,
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Self { ending: ending.label, side: ending.side.label(), phase: ending.phase.label() }
    }
}

/// The Close frame of a tunnel that came first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FirstClose {
    pub(super) side: &'static str,
    pub(super) code: CloseLabel,
}

/// A close code, as far as it has a meaning of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CloseLabel {
    /// 1000 to 1015 (RFC 6455 §7.4.1 and the registry).
    Code(u16),
    /// 3000 to 3999: of libraries and frameworks.
    Registered,
    /// 4000 to 4999: of applications.
    Private,
    /// The frame was empty.
    None,
    Other,
}

impl From<Option<u16>> for CloseLabel {
    fn from(code: Option<u16>) -> Self {
        match code {
            None => Self::None,
            Some(code @ 1000..=1015) => Self::Code(code),
            Some(3000..=3999) => Self::Registered,
            Some(4000..=4999) => Self::Private,
            Some(_) => Self::Other,
        }
    }
}

impl EncodeLabelValue for CloseLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => code.encode(encoder),
            Self::Registered => "registered".encode(encoder),
            Self::Private => "private".encode(encoder),
            Self::None => "none".encode(encoder),
            Self::Other => "other".encode(encoder),
        }
    }
}

/// The beginning of a server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Answering {
    pub(super) upstream: Arc<str>,
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reload {
    pub(super) result: &'static str,
}
