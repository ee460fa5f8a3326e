//! Frames in any split are one stream.

use std::ops::Range;

use crate::proto::frame::{
    Event, Excess, Fault, Follow, FrameHeader, FrameScanner, HEADER_MAX, HELD_MAX, Opcode, Role, Stopped,
};
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
    /// Why the first frame that may not pass may not.
    pub fault: Option<Fault>,
    /// Whether the relayed bytes end with a frame, and with a message.
    pub boundaries: (bool, bool),
}

/// What legal frames are admitted (rule T7).
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Payload bytes of a frame.
    pub frame: u64,
    /// Payload bytes of a message.
    pub message: u64,
    /// Frames of any kind.
    pub frames: usize,
}

impl Bounds {
    /// Every legal frame.
    pub const OFF: Self = Self { frame: u64::MAX, message: u64::MAX, frames: usize::MAX };
}

/// Keeps the bounds, and writes down what a scanner meets.
struct Recorder<'a> {
    bounds: Bounds,
    admitted: usize,
    /// Where the input of this scan stands in the stream.
    base: usize,
    events: &'a mut Vec<Seen>,
}

impl Follow for Recorder<'_> {
    fn admit(&mut self, header: &FrameHeader, message_length: u64) -> Result<(), Excess> {
        if header.length > self.bounds.frame {
            return Err(Excess::Frame(header.length));
        }
        if message_length > self.bounds.message {
            return Err(Excess::Message(message_length));
        }
        if self.admitted == self.bounds.frames {
            return Err(Excess::Rate);
        }
        self.admitted += 1;
        Ok(())
    }

    fn meet(&mut self, event: Event<'_>) {
        self.events.push(Seen::new(self.base, event));
    }
}

/// [`scan_bounded`] without bounds.
pub fn scan_split(role: Role, extensions: Extensions, stream: &[u8], sizes: &[usize]) -> Outcome {
    scan_bounded(role, extensions, Bounds::OFF, stream, sizes)
}

/// Scans `stream` in pieces of these sizes, in turn, the way a tunnel does. Without sizes it comes whole.
pub fn scan_bounded(
    role: Role,
    extensions: Extensions,
    bounds: Bounds,
    stream: &[u8],
    sizes: &[usize],
) -> Outcome {
    scan_ahead(role, extensions, bounds, u64::MAX, stream, sizes)
}

/// [`scan_bounded`] the way a tunnel does that sees no more than the headers of frames with `least` bytes of payload. Of
/// these it sees every other piece nevertheless.
fn scan_ahead(
    role: Role,
    extensions: Extensions,
    bounds: Bounds,
    least: u64,
    stream: &[u8],
    sizes: &[usize],
) -> Outcome {
    let mut scanner = FrameScanner::new(role, extensions);
    let mut outcome =
        Outcome { events: vec![], relayed: vec![], held: vec![], fault: None, boundaries: (true, true) };
    let mut recorder = Recorder { bounds, admitted: 0, base: 0, events: &mut outcome.events };
    let mut sizes = sizes.iter().copied().cycle();
    let (mut unread, mut is_seen) = (stream, false);
    while !unread.is_empty() && outcome.fault.is_none() {
        let (mut piece, mut rest) =
            unread.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, unread.len()));
        recorder.base = outcome.relayed.len();
        if outcome.held.is_empty() && scanner.at_frame_boundary() {
            scanner.enter(&piece[..piece.len().min(HEADER_MAX)], least, &mut recorder);
        }
        if least < u64::MAX && scanner.payload_left() > 0 && !is_seen {
            let count =
                usize::try_from(scanner.payload_left()).map_or(piece.len(), |left| left.min(piece.len()));
            (piece, rest) = unread.split_at(count);
            recorder.base += count;
            scanner.pass(count as u64, &mut recorder);
            outcome.relayed.extend_from_slice(piece);
        } else {
            let mut input = std::mem::take(&mut outcome.held);
            input.extend_from_slice(piece);
            let legal = scanner.follow(&input, &mut recorder).unwrap_or_else(|Stopped { at, fault }| {
                outcome.fault = Some(fault);
                at
            });
            outcome.relayed.extend_from_slice(&input[..legal]);
            if outcome.fault.is_none() {
                outcome.held = input.split_off(legal);
                assert!(outcome.held.len() <= HELD_MAX, "{} bytes held", outcome.held.len());
            }
        }
        (unread, is_seen) = (rest, !is_seen);
        outcome.boundaries = (scanner.at_frame_boundary(), scanner.at_message_boundary());
        assert_eq!(outcome.boundaries.0, scanner.payload_left() == 0);
        assert!(outcome.held.is_empty() || outcome.boundaries.0, "bytes held in the middle of a frame");
    }
    outcome
}

/// A stream has one outcome in any split, whether payload is seen or not: nothing is lost or added, and a fault hides nothing
/// that came before it. Nothing over the bounds is relayed, and without its Pongs it is still a stream of frames.
pub fn one_outcome(
    role: Role,
    extensions: Extensions,
    bounds: Bounds,
    stream: &[u8],
    sizes: &[usize],
) -> Outcome {
    let whole = scan_bounded(role, extensions, bounds, stream, &[]);
    assert_eq!(whole, scan_bounded(role, extensions, bounds, stream, sizes), "in pieces of {sizes:?}");
    for least in [0, 5, 200] {
        let unseen = scan_ahead(role, extensions, bounds, least, stream, sizes);
        assert_eq!(whole, unseen, "in pieces of {sizes:?}, unseen from {least}");
    }
    assert!(stream.starts_with(&whole.relayed));
    if whole.fault.is_none() {
        assert_eq!([&whole.relayed[..], &whole.held].concat(), stream);
    } else {
        assert!(whole.boundaries.0, "a fault in the middle of a frame");
    }
    keeps_bounds(bounds, &whole);
    pongs_can_be_taken_out(role, extensions, &whole);
    whole
}

fn keeps_bounds(bounds: Bounds, outcome: &Outcome) {
    let mut frames = 0;
    for event in &outcome.events {
        if let Seen::Header { header, message_length, .. } = event {
            frames += 1;
            assert!(header.length <= bounds.frame && *message_length <= bounds.message);
        }
    }
    assert!(frames <= bounds.frames, "{frames} frames");
    if outcome.fault == Some(Fault::Excess(Excess::Rate)) {
        assert_eq!(frames, bounds.frames, "each is counted once");
    }
}

/// A Pong lies within what is relayed, and what is left without the Pongs is a stream with the same messages (rule T6).
fn pongs_can_be_taken_out(role: Role, extensions: Extensions, outcome: &Outcome) {
    let (mut rest, mut from) = (Vec::new(), 0);
    for event in &outcome.events {
        if let Seen::Pong { frame, .. } = event {
            rest.extend_from_slice(&outcome.relayed[from..frame.start]);
            from = frame.end;
        }
    }
    rest.extend_from_slice(&outcome.relayed[from..]);
    let left = scan_split(role, extensions, &rest, &[]);
    assert_eq!((left.fault, &left.relayed, left.boundaries), (None, &rest, outcome.boundaries));
    assert!(!left.events.iter().any(|event| matches!(event, Seen::Pong { .. })));
    assert_eq!(messages(&left), messages(outcome));
}

fn messages(outcome: &Outcome) -> Vec<(Opcode, u64, bool, bool)> {
    let message = |event: &Seen| match *event {
        Seen::MessageEnd { opcode, length, compressed, fragmented, .. } => {
            Some((opcode, length, compressed, fragmented))
        }
        _ => None,
    };
    outcome.events.iter().filter_map(message).collect()
}
