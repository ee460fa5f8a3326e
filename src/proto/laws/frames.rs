//! Frames in any split are one stream.

use std::ops::Range;

use crate::proto::frame::{Event, Fault, FrameError, FrameHeader, FrameScanner, HELD_MAX, Opcode, Role};
use crate::proto::handshake::Extensions;

/// An [`Event`] that outlives the scan, with positions counted from the start of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Seen {
    Header { at: usize, header: FrameHeader, message_length: u64 },
    FrameEnd { at: usize },
    MessageEnd { at: usize, opcode: Opcode, length: u64, compressed: bool, fragmented: bool },
    Close { frame: Range<usize>, code: Option<u16>, reason: Vec<u8> },
    Ping { frame: Range<usize>, payload: Vec<u8> },
    Pong { frame: Range<usize>, payload: Vec<u8> },
}

impl Seen {
    fn new(base: usize, event: Event<'_>) -> Self {
        let moved = |frame: Range<usize>| base + frame.start..base + frame.end;
        match event {
            Event::Header { at, header, message_length } => {
                Self::Header { at: base + at, header, message_length }
            }
            Event::FrameEnd { at } => Self::FrameEnd { at: base + at },
            Event::MessageEnd { at, opcode, length, compressed, fragmented } => {
                Self::MessageEnd { at: base + at, opcode, length, compressed, fragmented }
            }
            Event::Close { frame, code, reason } => {
                Self::Close { frame: moved(frame), code: code.map(|code| code.0), reason: reason.to_vec() }
            }
            Event::Ping { frame, payload } => Self::Ping { frame: moved(frame), payload: payload.to_vec() },
            Event::Pong { frame, payload } => Self::Pong { frame: moved(frame), payload: payload.to_vec() },
        }
    }
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// All events.
    pub events: Vec<Seen>,
    /// The bytes that might be relayed.
    pub relayed: Vec<u8>,
    /// The bytes that were left at the stream's end; after an error none, as how many had come is chance.
    pub held: Vec<u8>,
    /// The first illegal frame.
    pub error: Option<FrameError>,
    /// Whether the relayed bytes end with a frame, and with a message.
    pub boundaries: (bool, bool),
}

/// Scans `stream` in pieces of these sizes, in turn, the way a tunnel does. Without sizes it comes whole.
pub fn scan_split(role: Role, extensions: Extensions, stream: &[u8], sizes: &[usize]) -> Outcome {
    let mut scanner = FrameScanner::new(role, extensions);
    let mut outcome =
        Outcome { events: vec![], relayed: vec![], held: vec![], error: None, boundaries: (true, true) };
    let mut sizes = sizes.iter().copied().cycle();
    let mut unread = stream;
    while !unread.is_empty() && outcome.error.is_none() {
        let (piece, rest) = unread.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, unread.len()));
        unread = rest;
        let mut input = std::mem::take(&mut outcome.held);
        input.extend_from_slice(piece);
        let base = outcome.relayed.len();
        let verdict = scanner.scan(&input, |event| outcome.events.push(Seen::new(base, event)));
        let legal = verdict.unwrap_or_else(|stopped| {
            let Fault::Illegal(error) = stopped.fault else { unreachable!("every legal frame is admitted") };
            outcome.error = Some(error);
            stopped.at
        });
        outcome.relayed.extend_from_slice(&input[..legal]);
        if outcome.error.is_none() {
            outcome.held = input.split_off(legal);
            assert!(outcome.held.len() <= HELD_MAX, "{} bytes held", outcome.held.len());
        }
        outcome.boundaries = (scanner.at_frame_boundary(), scanner.at_message_boundary());
        assert_eq!(outcome.boundaries.0, scanner.payload_left() == 0);
        assert!(outcome.held.is_empty() || outcome.boundaries.0, "bytes held in the middle of a frame");
    }
    outcome
}

/// A stream has one outcome in any split: nothing is lost or added, and an error hides nothing that came
/// before it.
pub fn one_outcome(role: Role, extensions: Extensions, stream: &[u8], sizes: &[usize]) -> Outcome {
    let whole = scan_split(role, extensions, stream, &[]);
    assert_eq!(whole, scan_split(role, extensions, stream, sizes), "in pieces of {sizes:?}");
    assert!(stream.starts_with(&whole.relayed));
    if whole.error.is_none() {
        assert_eq!([&whole.relayed[..], &whole.held].concat(), stream);
    } else {
        assert!(whole.boundaries.0, "an error in the middle of a frame");
    }
    whole
}
