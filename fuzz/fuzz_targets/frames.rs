#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::frame::Role;
use wsgate::proto::handshake::Extensions;
use wsgate::proto::laws;

fuzz_target!(|input: &[u8]| {
    // The first bytes choose the side, the extensions and the split.
    let &[side, extensions, first_piece, second_piece, ref stream @ ..] = input else { return };
    let role = if side & 1 == 0 { Role::FromClient } else { Role::FromServer };
    let extensions = match extensions % 3 {
        0 => Extensions::None,
        1 => Extensions::PermessageDeflate,
        _ => Extensions::Unknown,
    };
    let sizes = [first_piece, second_piece].map(usize::from);
    laws::frames::one_outcome(role, extensions, stream, &sizes);
});
