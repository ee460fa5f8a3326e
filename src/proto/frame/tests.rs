use proptest::collection::vec;
use proptest::prelude::*;

use super::{scanner::Watch, *};
use crate::proto::{
    handshake::Extensions,
    laws::frames::{Bounds, Outcome, Seen, one_outcome, scan_bounded, scan_split},
};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn scan_whole(role: Role, extensions: Extensions, stream: &[u8]) -> Outcome {
    scan_split(role, extensions, stream, &[])
}

fn verdict(role: Role, extensions: Extensions, stream: &[u8]) -> Option<FrameError> {
    match scan_whole(role, extensions, stream).fault? {
        Fault::Illegal(error) => Some(error),
        Fault::Excess(excess) => panic!("nothing bounds it: {excess}"),
    }
}

fn server_verdict(stream: &[u8]) -> Option<FrameError> {
    verdict(Role::FromServer, Extensions::None, stream)
}

fn frame(fin: bool, rsv: u8, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameHeader { fin, rsv, opcode, mask, length: payload.len() as u64 }.encode(&mut bytes);
    let payload_start = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[payload_start..], mask);
    }
    bytes
}

#[test]
fn scanner_is_small() {
    assert_eq!(size_of::<FrameScanner>(), 24);
    assert!(size_of::<FrameHeader>() <= 16);
}

#[test]
fn t4_lengths_of_all_three_sizes_round_trip() {
    for (length, header_length) in
        [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (u64::MAX >> 1, 10)]
    {
        for mask in [None, Some(KEY)] {
            let header = FrameHeader { fin: true, rsv: 0, opcode: Opcode::Binary, mask, length };
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            assert_eq!(bytes.len(), header_length + mask.map_or(0, |key| key.len()));
            assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(FrameHeader::parse(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
            }
        }
    }
}

#[test]
fn t4_longer_length_form_than_needed_passes_in_data_frames() {
    let outcome = scan_whole(Role::FromServer, Extensions::None, &[0x82, 126, 0, 1, b'x']);
    assert_eq!((outcome.fault, outcome.relayed.len()), (None, 5));
}

#[test]
fn t4_length_with_top_bit_is_illegal_at_its_first_byte() {
    assert_eq!(server_verdict(&[0x82, 127, 0x80]), Some(FrameError::LengthTopBit));
    assert_eq!(server_verdict(&[0x82, 127, 0x7F]), None);
}

#[test]
fn t4_greatest_legal_lengths_do_not_overflow() {
    let mut greatest = Vec::new();
    FrameHeader { fin: false, rsv: 0, opcode: Opcode::Text, mask: None, length: u64::MAX >> 1 }
        .encode(&mut greatest);
    greatest.extend_from_slice(b"abc");
    let mut scanner = FrameScanner::new(Role::FromServer, Extensions::None);
    assert_eq!(scanner.scan(&greatest, |_| ()), Ok(greatest.len()));
    assert_eq!(scanner.payload_left(), (u64::MAX >> 1) - 3);

    scanner.payload_left = 0;
    scanner.message_length = u64::MAX - 1;
    let mut announced = 0;
    let continuation = [0x80, 2, b'x', b'y'];
    let relayed = scanner.scan(&continuation, |event| {
        if let Event::Header { message_length, .. } = event {
            announced = message_length;
        }
    });
    assert_eq!((relayed, announced), (Ok(4), u64::MAX));
}

#[test]
fn t4_control_frame_over_125_bytes_is_illegal_at_its_second_byte() {
    assert_eq!(server_verdict(&[0x89, 126]), Some(FrameError::ControlTooLong));
    assert_eq!(server_verdict(&[0x8A, 127]), Some(FrameError::ControlTooLong));
    assert_eq!(server_verdict(&[0x89, 125]), None);
}

#[test]
fn t4_fragmented_control_frame_is_illegal() {
    for first in [0x08, 0x09, 0x0A] {
        assert_eq!(server_verdict(&[first]), Some(FrameError::ControlFragmented));
    }
}

#[test]
fn t4_reserved_opcodes_are_illegal_at_their_first_byte() {
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        assert_eq!(server_verdict(&[0x80 | opcode]), Some(FrameError::ReservedOpcode(opcode)));
    }
}

#[test]
fn t4_mask_direction_is_judged_both_ways() {
    let masked = frame(true, 0, Opcode::Text, Some(KEY), b"hi");
    let plain = frame(true, 0, Opcode::Text, None, b"hi");
    let wrong = Some(FrameError::WrongMask);
    assert_eq!(verdict(Role::FromClient, Extensions::None, &masked), None);
    assert_eq!(verdict(Role::FromClient, Extensions::None, &plain), wrong);
    assert_eq!(verdict(Role::FromServer, Extensions::None, &plain), None);
    assert_eq!(verdict(Role::FromServer, Extensions::None, &masked), wrong);
    assert_eq!(verdict(Role::FromClient, Extensions::None, &plain[..2]), wrong, "before the payload");
}

#[test]
fn t4_fragments_must_be_in_sequence() {
    assert_eq!(server_verdict(&[0x80, 0]), Some(FrameError::ContinuationWithoutMessage));
    assert_eq!(server_verdict(&[0x00]), Some(FrameError::ContinuationWithoutMessage));
    assert_eq!(server_verdict(&[0x01, 0, 0x82]), Some(FrameError::DataWithinMessage));
    assert_eq!(server_verdict(&[0x01, 0, 0x80, 0, 0x80]), Some(FrameError::ContinuationWithoutMessage));
    assert_eq!(server_verdict(&[0x01, 0, 0x00, 0, 0x80, 0, 0x82, 0]), None);
}

#[test]
fn t4_rsv_bits_need_an_extension() {
    let with = |extensions, bytes: &[u8]| verdict(Role::FromServer, extensions, bytes);
    let illegal = Some(FrameError::RsvBits);
    for rsv in 1..8 {
        assert_eq!(with(Extensions::None, &[0x82 | rsv << 4]), illegal);
        assert_eq!(with(Extensions::Unknown, &[0x82 | rsv << 4, 0]), None);
        let expected = if rsv == RSV1 { None } else { illegal };
        assert_eq!(with(Extensions::PermessageDeflate, &[0x82 | rsv << 4, 0]), expected);
    }
}

#[test]
fn t4_permessage_deflate_marks_the_first_frame_alone() {
    let with = |bytes: &[u8]| verdict(Role::FromServer, Extensions::PermessageDeflate, bytes);
    assert_eq!(with(&[0x41, 0, 0x80, 0]), None);
    assert_eq!(with(&[0x41, 0, 0xC0]), Some(FrameError::RsvBits));
    assert_eq!(with(&[0x01, 0, 0xC0]), Some(FrameError::RsvBits));
    assert_eq!(with(&[0xC9]), Some(FrameError::RsvBits));
}

#[test]
fn t4_nothing_of_an_illegal_frame_is_relayed() {
    let legal = frame(true, 0, Opcode::Text, None, b"before");
    for illegal in [&[0x83][..], &[0x82, 0x80], &[0x82, 127, 0xFF], &[0x89, 126], &[0x80]] {
        let stream = [&legal, illegal].concat();
        for size in 1..=stream.len() {
            let outcome = scan_split(Role::FromServer, Extensions::None, &stream, &[size]);
            assert!(outcome.fault.is_some());
            assert_eq!(outcome.relayed, legal, "pieces of {size}");
            assert!(outcome.boundaries == (true, true));
        }
    }
}

#[test]
fn t4_messages_are_counted_over_their_fragments() {
    let stream = [
        frame(false, RSV1, Opcode::Text, None, b"Hel"),
        frame(true, 0, Opcode::Ping, None, b"?"),
        frame(false, 0, Opcode::Continuation, None, b""),
        frame(true, 0, Opcode::Continuation, None, b"lo"),
        frame(true, 0, Opcode::Binary, None, b""),
    ]
    .concat();
    let events = scan_whole(Role::FromServer, Extensions::PermessageDeflate, &stream).events;
    let ends: Vec<_> = events.iter().filter(|event| matches!(event, Seen::MessageEnd { .. })).collect();
    let text =
        Seen::MessageEnd { at: 14, opcode: Opcode::Text, length: 5, compressed: true, fragmented: true };
    let binary =
        Seen::MessageEnd { at: 16, opcode: Opcode::Binary, length: 0, compressed: false, fragmented: false };
    assert_eq!(ends, [&text, &binary]);
    let lengths: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let Seen::Header { message_length, .. } = event { Some(*message_length) } else { None }
        })
        .collect();
    assert_eq!(lengths, [3, 0, 3, 5, 0]);
}

#[test]
fn t5_boundaries_are_known_after_every_byte() {
    let stream = [
        frame(false, 0, Opcode::Text, None, b"ab"),
        frame(true, 0, Opcode::Ping, None, b"p"),
        frame(true, 0, Opcode::Continuation, None, b"c"),
    ]
    .concat();
    let mut scanner = FrameScanner::new(Role::FromServer, Extensions::None);
    let mut start = 0;
    let mut states = Vec::new();
    for end in 1..=stream.len() {
        start += scanner.scan(&stream[start..end], |_| ()).unwrap();
        states.push((start, scanner.at_frame_boundary(), scanner.at_message_boundary()));
    }
    let expected = [
        (0, true, true),
        (2, false, false),
        (3, false, false),
        (4, true, false),
        (4, true, false),
        (4, true, false),
        (7, true, false),
        (7, true, false),
        (9, false, false),
        (10, true, true),
    ];
    assert_eq!(states, expected);
}

#[test]
fn t5_own_control_frames_are_legal_and_cut_to_size() {
    let long = "é".repeat(100);
    for (role, mask) in [(Role::FromServer, None), (Role::FromClient, Some(KEY))] {
        let mut stream = Vec::new();
        encode_ping(b"wsgate", mask, &mut stream);
        encode_pong(&[7; 200], mask, &mut stream);
        encode_close(1012, &long, mask, &mut stream);
        let outcome = scan_whole(role, Extensions::None, &stream);
        assert_eq!((outcome.fault, outcome.held.len()), (None, 0));
        let contents: Vec<_> = outcome
            .events
            .into_iter()
            .filter_map(|event| match event {
                Seen::Ping { payload, .. } | Seen::Pong { payload, .. } => Some((None, payload)),
                Seen::Close { code, reason, .. } => Some((code, reason)),
                _ => None,
            })
            .collect();
        let reason = "é".repeat(61).into_bytes();
        assert_eq!(contents, [(None, b"wsgate".to_vec()), (None, vec![7; 125]), (Some(1012), reason)]);
    }
}

#[test]
fn t6_a_pong_is_reported_whole_in_the_input_that_completes_it() {
    let text = frame(true, 0, Opcode::Text, Some(KEY), b"t");
    let pong = frame(true, 0, Opcode::Pong, Some(KEY), b"7");
    let mut scanner = FrameScanner::new(Role::FromClient, Extensions::None);
    let input = [&text[..], &pong[..pong.len() - 1]].concat();
    assert_eq!(scanner.scan(&input, |_| ()), Ok(text.len()));
    let mut found = None;
    let relayed = scanner.scan(&pong, |event| {
        if let Event::Pong { frame, payload } = event {
            found = Some((frame, payload.to_vec()));
        }
    });
    assert_eq!((relayed, found), (Ok(7), Some((0..7, b"7".to_vec()))));
}

#[test]
fn t11_close_without_code_has_none() {
    for payload in [&b""[..], b"\x03"] {
        let stream = frame(true, 0, Opcode::Close, None, payload);
        let outcome = scan_whole(Role::FromServer, Extensions::None, &stream);
        assert_eq!(outcome.events[1], Seen::Close { frame: 0..stream.len(), code: None, reason: vec![] });
    }
}

#[test]
fn t12_reload_of_a_browser_is_a_masked_close_1001() {
    let reload = [0x88, 0x82, 0x34, 0xB3, 0xE3, 0x25, 0x37, 0x5A];
    for size in 1..=reload.len() {
        let outcome = scan_split(Role::FromClient, Extensions::None, &reload, &[size]);
        assert_eq!(outcome.events[1], Seen::Close { frame: 0..8, code: Some(1001), reason: vec![] });
        assert_eq!((outcome.relayed, outcome.fault), (reload.to_vec(), None));
    }
}

#[test]
fn t7_a_frame_is_judged_before_a_byte_of_it_may_be_relayed() {
    // The last of these headers announces more than there can be, and more than that with what came before it.
    let begun = frame(false, 0, Opcode::Text, None, b"begun");
    let announced = [0x80, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    let stream = [&begun[..], &announced, b"payload"].concat();
    for (bounds, excess) in [
        (Bounds { frame: 5, ..Bounds::OFF }, Excess::Frame(u64::MAX >> 1)),
        (Bounds { message: 5, ..Bounds::OFF }, Excess::Message((u64::MAX >> 1) + 5)),
        (Bounds { message: u64::MAX >> 1, ..Bounds::OFF }, Excess::Message((u64::MAX >> 1) + 5)),
        (Bounds { frames: 1, ..Bounds::OFF }, Excess::Rate),
    ] {
        for size in 1..stream.len() {
            let outcome = scan_bounded(Role::FromServer, Extensions::None, bounds, &stream, &[size]);
            assert_eq!((outcome.fault, &outcome.relayed), (Some(excess.into()), &begun));
        }
    }
}

#[test]
fn t7_a_control_frame_is_no_part_of_a_message_and_is_counted_once() {
    let ping = frame(true, 0, Opcode::Ping, None, &[b'?'; 125]);
    let stream = [
        frame(false, 0, Opcode::Text, None, &[b'x'; 100]),
        ping.clone(),
        frame(true, 0, Opcode::Continuation, None, &[b'x'; 30]),
        ping,
    ]
    .concat();
    let bounds = Bounds { frame: 125, message: 130, frames: 4 };
    for size in 1..=stream.len() {
        let outcome = scan_bounded(Role::FromServer, Extensions::None, bounds, &stream, &[size]);
        assert_eq!((outcome.fault, &outcome.relayed), (None, &stream));
    }
}

#[test]
fn t4_only_a_legal_data_frame_of_some_size_is_entered() {
    let large = frame(true, 0, Opcode::Binary, None, &[b'x'; 300]);
    let enters = |ahead: &[u8]| {
        let mut scanner = FrameScanner::new(Role::FromServer, Extensions::None);
        let is_entered = scanner.enter(ahead, 300, &mut Watch(|_: Event<'_>| ()));
        assert_eq!(is_entered, !scanner.at_frame_boundary());
        (is_entered, scanner.payload_left())
    };
    assert_eq!(enters(&large[..HEADER_MAX]), (true, large.len() as u64), "header and payload");
    assert_eq!(enters(&large[..4]), (true, large.len() as u64));
    let masked = frame(true, 0, Opcode::Binary, Some(KEY), &[b'x'; 300]);
    let small = frame(true, 0, Opcode::Binary, None, &[b'x'; 299]);
    let reserved = [&[0x83][..], &large[1..]].concat();
    for other in
        [&[][..], &large[..3], &masked, &small, &reserved, &[0x80, 126, 2, 0], &[0x89, 0], &[0x88, 0]]
    {
        assert_eq!(enters(other), (false, 0), "{}", other[..other.len().min(HEADER_MAX)].escape_ascii());
    }
}

#[test]
fn close_codes_that_may_stand_on_the_wire() {
    for code in [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4999] {
        assert!(CloseCode(code).is_legal_on_wire(), "{code}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert!(!CloseCode(code).is_legal_on_wire(), "{code}");
    }
}

#[test]
fn examples_of_rfc_6455_section_5_7() {
    let hello = frame(true, 0, Opcode::Text, Some(KEY), b"Hello");
    assert_eq!(hello, [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]);
    let ping = scan_whole(Role::FromServer, Extensions::None, b"\x89\x05Hello");
    assert_eq!(ping.events[1], Seen::Ping { frame: 0..7, payload: b"Hello".to_vec() });
}

fn any_extensions() -> impl Strategy<Value = Extensions> {
    prop_oneof![Just(Extensions::None), Just(Extensions::PermessageDeflate), Just(Extensions::Unknown)]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::FromClient), Just(Role::FromServer)]
}

prop_compose! {
    fn any_header()(
        fin: bool,
        rsv in 0..8_u8,
        opcode in prop::sample::select(vec![0x0, 0x1, 0x2, 0x8, 0x9, 0xA]),
        mask: Option<[u8; 4]>,
        short in 0..=125_u64,
        long in prop_oneof![0..300_u64, 65_000..66_000_u64, 0..=u64::MAX >> 1],
    ) -> FrameHeader {
        let opcode = Opcode::from_bits(opcode).unwrap();
        let control = opcode.is_control();
        FrameHeader { fin: fin || control, rsv, opcode, mask, length: if control { short } else { long } }
    }
}

/// A legal message in fragments, with a Ping before each of them where the flag says so.
fn any_message() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    vec((any::<bool>(), vec(any::<u8>(), 0..300)), 1..4)
}

fn any_bounds() -> impl Strategy<Value = Bounds> {
    let some = |most: u64| prop_oneof![Just(u64::MAX), 0..most];
    let frames = prop_oneof![Just(usize::MAX), 0..20_usize];
    (some(300), some(600), frames).prop_map(|(frame, message, frames)| Bounds { frame, message, frames })
}

fn encode_message(fragments: &[(bool, Vec<u8>)], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, (ping_first, payload)) in fragments.iter().enumerate() {
        if *ping_first {
            encode_ping(&payload[..payload.len().min(9)], mask, &mut bytes);
        }
        let opcode = if index == 0 { Opcode::Text } else { Opcode::Continuation };
        bytes.extend(frame(index + 1 == fragments.len(), 0, opcode, mask, payload));
    }
    bytes
}

proptest! {
    #[test]
    fn header_encoded_then_parsed_is_the_same(header in any_header(), after: Vec<u8>) {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let length = bytes.len();
        prop_assert!(length <= HEADER_MAX);
        bytes.extend(after);
        prop_assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, length))));
    }

    #[test]
    fn t4_any_bytes_in_any_split_give_one_outcome(
        role in any_role(),
        extensions in any_extensions(),
        stream in vec(prop_oneof![3 => any::<u8>(), 2 => 0..4_u8, 2 => 0x80..0x8B_u8], 0..400),
        cuts in vec(1..40_usize, 1..8),
    ) {
        one_outcome(role, extensions, Bounds::OFF, &stream, &cuts);
    }

    #[test]
    fn t7_legal_streams_are_stopped_alike_in_any_split(
        role in any_role(),
        key: [u8; 4],
        messages in vec(any_message(), 0..6),
        cuts in vec(1..500_usize, 1..8),
        bounds in any_bounds(),
    ) {
        let mask = (role == Role::FromClient).then_some(key);
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode_message(message, mask)).collect();
        let outcome = one_outcome(role, Extensions::None, bounds, &stream, &cuts);
        prop_assert!(outcome.fault.is_some() || outcome.relayed == stream);
    }

    #[test]
    fn t4_legal_streams_pass_whole_in_any_split(
        role in any_role(),
        key: [u8; 4],
        messages in vec(any_message(), 0..6),
        cuts in vec(1..500_usize, 1..8),
    ) {
        let mask = (role == Role::FromClient).then_some(key);
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode_message(message, mask)).collect();
        let outcome = scan_split(role, Extensions::None, &stream, &cuts);
        prop_assert_eq!(&outcome.relayed, &stream);
        prop_assert!(outcome.fault.is_none() && outcome.boundaries == (true, true));
        let found: Vec<_> = outcome.events.iter().filter_map(|event| match event {
            Seen::MessageEnd { length, fragmented, .. } => Some((*length, *fragmented)),
            _ => None,
        }).collect();
        let sent: Vec<_> = messages.iter().map(|fragments| {
            let length = fragments.iter().map(|(_, payload)| payload.len() as u64).sum::<u64>();
            (length, fragments.len() > 1)
        }).collect();
        prop_assert_eq!(found, sent);
        let pings = outcome.events.iter().filter(|event| matches!(event, Seen::Ping { .. })).count();
        prop_assert_eq!(pings, messages.iter().flatten().filter(|(ping_first, _)| *ping_first).count());
    }

    #[test]
    fn masking_twice_is_the_identity(payload: Vec<u8>, key: [u8; 4]) {
        let mut masked = payload.clone();
        apply_mask(&mut masked, key);
        apply_mask(&mut masked, key);
        prop_assert_eq!(masked, payload);
    }
}
