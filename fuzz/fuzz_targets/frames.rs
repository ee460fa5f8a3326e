#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::proto::frame::Role;
use wsgate::proto::handshake::Extensions;
use wsgate::proto::laws::frames::{Bounds, one_outcome};

fuzz_target!(|input: &[u8]| {
    // The first bytes choose the side with the bounds, the extensions and the split.
    let &[side, extensions, first_piece, second_piece, ref stream @ ..] = input else { return };
    let role = if side & 1 == 0 { Role::FromClient } else { Role::FromServer };
    let extensions = match extensions % 3 {
        0 => Extensions::None,
        1 => Extensions::PermessageDeflate,
        _ => Extensions::Unknown,
    };
    let bounds = match side >> 1 & 0b11 {
        0 => Bounds::OFF,
        1 => Bounds { frame: 300, ..Bounds::OFF },
        2 => Bounds { message: 300, ..Bounds::OFF },
        _ => Bounds { frames: 5, ..Bounds::OFF },
    };
    let sizes = [first_piece, second_piece].map(usize::from);
    one_outcome(role, extensions, bounds, stream, &sizes);
});
