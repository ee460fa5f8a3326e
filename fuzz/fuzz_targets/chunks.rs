#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::{framing::ChunkLimits, laws};

fuzz_target!(|input: &[u8]| {
    // The first byte says where to cut.
    let Some((&cut, body)) = input.split_first() else { return };
    laws::chunks(body, usize::from(cut), ChunkLimits { size_line: 32, trailer_bytes: 256, trailer_lines: 8 });
});
