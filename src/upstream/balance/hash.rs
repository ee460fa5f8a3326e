//! The hash of balancing: FNV-1a in 64 bits, its result mixed as `MurmurHash3` ends.
//!
//! It is without a seed and will not change: every wsgate has to come to the same result, in each of its versions
//! and on every machine. Who chooses his key can choose his server, with this hash as with any other.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of `bytes`.
pub(in crate::upstream) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    mix(fnv)
}

/// Spreads what differs in some bits over all of them; no two inputs have one result.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What other replicas count on.
    #[test]
    fn the_hash_is_the_same_in_every_version() {
        // The fixed points of FNV-1a are its published vectors for "", "a" and "foobar", mixed.
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash(b"foobar"), mix(0x8594_4171_f739_67e8));
        // The published finalizer maps 1 to this.
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(mix(0), 0);
    }
}
