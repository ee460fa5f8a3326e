//! The opening handshake.
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
