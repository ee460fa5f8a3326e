//! Which bytes may stand where.

/// A character of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// A byte of a header value: visible, space, HTAB, or above ASCII (RFC 9110 §5.5).
pub(in crate::proto) fn is_field_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// A byte of a request target. Browsers send `|`, `{` and others that RFC 3986 would have encoded, so they
/// pass; `#` never goes on the wire, and a backend that cuts the path there serves another one than was
/// routed.
pub(super) fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// Header names are tokens, so ASCII.
pub(super) fn name_text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}
