//! Which bytes may stand where.

/// One answer for each byte: a look-up costs a third of the comparisons.
type Class = [bool; 256];

static TOKEN: Class = {
    let mut class = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        class[byte as usize] = byte.is_ascii_alphanumeric()
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
            );
        byte += 1;
    }
    class
};

/// A character of a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// A byte of a header value: visible, space, HTAB, or above ASCII (RFC 9110 §5.5).
pub(in crate::proto) fn is_field_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// How many bytes at the start are [`is_field_byte`]. Eight are judged at once, as most bytes of a head are those of values.
pub(super) fn field_run(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks();
    let run = 8 * blocks.iter().take_while(|block| is_visible(**block)).count();
    let rest = &bytes[run..];
    run + rest.iter().position(|&byte| !is_field_byte(byte)).unwrap_or(rest.len())
}

/// Whether none of eight bytes is a control character, HTAB among them.
fn is_visible(block: [u8; 8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const TOP: u64 = 0x80 * EACH;
    let block = u64::from_ne_bytes(block);
    // A byte borrows from its top bit where less is there than what is taken away.
    let below_space = block.wrapping_sub(0x20 * EACH) & !block & TOP;
    let is_delete = block ^ (0x7f * EACH);
    let deletes = is_delete.wrapping_sub(EACH) & !is_delete & TOP;
    below_space | deletes == 0
}

/// Whether all bytes are [`is_field_byte`].
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    field_run(bytes) == bytes.len()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn h2_a_run_of_field_bytes_ends_where_each_byte_by_itself_says(
            bytes in proptest::collection::vec(prop_oneof![4 => b' '..=b'~', 1 => any::<u8>(), 1 => Just(b'\t')], 0..60),
        ) {
            let each = bytes.iter().take_while(|&&byte| is_field_byte(byte)).count();
            prop_assert_eq!(field_run(&bytes), each);
        }
    }

    #[test]
    fn h2_every_byte_is_judged_alike_alone_and_in_a_block() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut block = [b'a'; 9];
                block[place] = byte;
                assert_eq!(is_field_value(&block), is_field_byte(byte), "{byte} at {place}");
            }
        }
    }
}
