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

/// 1 in each of eight bytes, and the top bit of each.
const EACH: u64 = u64::from_ne_bytes([1; 8]);
const TOP: u64 = 0x80 * EACH;

/// How many bytes at the start are [`is_field_byte`]. Eight are judged at once, as most bytes of a head are those of values.
pub(super) fn field_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    while let Some(block) = bytes[run..].first_chunk() {
        let visible = visible_run(*block);
        run += visible;
        if visible < block.len() {
            if bytes[run] != b'\t' {
                return run;
            }
            run += 1;
        }
    }
    let rest = &bytes[run..];
    run + rest.iter().position(|&byte| !is_field_byte(byte)).unwrap_or(rest.len())
}

/// How many of eight bytes stand before the first control character, HTAB among them.
fn visible_run(block: [u8; 8]) -> usize {
    let block = u64::from_le_bytes(block);
    // A byte borrows from its top bit where less is there than what is taken away, and from the next one: so the first that is
    // found is one.
    let below_space = block.wrapping_sub(0x20 * EACH) & !block & TOP;
    let is_delete = block ^ (0x7f * EACH);
    let deletes = is_delete.wrapping_sub(EACH) & !is_delete & TOP;
    ((below_space | deletes).trailing_zeros() / 8) as usize
}

/// Whether two names are the same but for the case of letters; most of them are longer than eight bytes.
pub(super) fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (blocks, rest) = one.as_chunks();
    let (other_blocks, other_rest) = other.as_chunks();
    blocks.iter().zip(other_blocks).all(|(one, other)| is_same_block(*one, *other))
        && rest.eq_ignore_ascii_case(other_rest)
}

fn is_same_block(one: [u8; 8], other: [u8; 8]) -> bool {
    let (one, other) = (u64::from_ne_bytes(one), u64::from_ne_bytes(other));
    let differs = one ^ other;
    if differs & !(0x20 * EACH) != 0 {
        return false;
    }
    // What differs in that bit alone must be a letter: of lower case with the bit set, and ASCII.
    let lower = (one | (0x20 * EACH)) & !TOP;
    let from_a = lower + (0x80 - u64::from(b'a')) * EACH;
    let past_z = lower + (0x7f - u64::from(b'z')) * EACH;
    let is_letter = from_a & !past_z & !one & TOP;
    (differs << 2) & !is_letter == 0
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

    proptest! {
        #[test]
        fn h2_names_are_the_same_if_they_are_byte_by_byte(
            name in proptest::collection::vec(any::<u8>(), 0..20),
            flips in proptest::collection::vec(prop_oneof![9 => Just(0_u8), 3 => Just(0x20), 1 => any::<u8>()], 20),
        ) {
            let other: Vec<_> = name.iter().zip(&flips).map(|(byte, flip)| byte ^ flip).collect();
            prop_assert_eq!(is_same_name(&name, &other), name.eq_ignore_ascii_case(&other));
            prop_assert!(is_same_name(&name, &name.to_ascii_uppercase()));
        }
    }

    #[test]
    fn h2_any_two_bytes_are_the_same_or_not_in_a_block_as_they_are_alone() {
        for (one, other) in (0..=u8::MAX).flat_map(|one| (0..=u8::MAX).map(move |other| (one, other))) {
            let is_same = is_same_name(
                &[b'a', one, b'b', one, b'c', b'd', b'e', one],
                &[b'a', other, b'b', other, b'c', b'd', b'e', other],
            );
            assert_eq!(is_same, one.eq_ignore_ascii_case(&other), "{one} and {other}");
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
