//! What becomes of a body or a head that can't go on: the refusal of the exchange.

use super::body::BodyError;
use crate::{
    ending::{Phase, Refusal, UpstreamFault},
    proto::head::InvalidHeader,
};

pub(super) fn refusal_of_request(error: BodyError) -> Refusal {
    let gone = |source| Refusal::DownstreamGone { phase: Phase::Exchange, source };
    match error {
        BodyError::Read(error) => gone(Some(error)),
        BodyError::Incomplete => gone(None),
        BodyError::Malformed(error) => Refusal::BadBody(error),
        BodyError::TooLarge => Refusal::BodyTooLarge,
        BodyError::Write(error) => Refusal::UpstreamClosed(Some(error)),
    }
}

pub(super) fn refusal_of_response(error: BodyError) -> Refusal {
    match error {
        BodyError::Read(error) => Refusal::UpstreamClosed(Some(error)),
        BodyError::Incomplete | BodyError::TooLarge => Refusal::UpstreamClosed(None),
        BodyError::Malformed(error) => Refusal::BadResponse(UpstreamFault::Chunks(error)),
        BodyError::Write(error) => Refusal::DownstreamGone { phase: Phase::Exchange, source: Some(error) },
    }
}

pub(super) fn bad_header(_: InvalidHeader) -> Refusal {
    Refusal::BadResponse(UpstreamFault::Header)
}
