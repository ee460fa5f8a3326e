//! What must be true of a tunnel that has ended.

use super::{Player, Stage};
use crate::{
    ending::{Side, TunnelEnd},
    proto::{
        frame::{Excess, Fault, FrameHeader, Opcode, apply_mask},
        handshake::Extensions,
        laws::frames::{Bounds, Outcome, Seen, scan_bounded},
    },
    tunnel::{Account, Frames, Limits, Report},
};

/// What may arrive of what a side sent.
#[derive(Debug)]
struct Unit<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Frame,
    Close,
    /// Answers a Ping of wsgate's own, and is left out.
    OwnPong,
    /// The beginning of a frame whose end never came.
    Partial,
    /// What is not judged any more.
    Unseen,
}

/// What of wsgate's own a receiver got.
#[derive(Debug, Default)]
struct Own {
    pings: u32,
    close: Option<u16>,
    /// All that was sent has come.
    is_all: bool,
}

pub(super) fn judge(stage: &Stage, report: &Report) {
    let Stage { client, backend, .. } = stage;
    let to_client = judge_way(stage, backend, client, report);
    let to_backend = judge_way(stage, client, backend, report);
    judge_account(stage, client, &report.client, report);
    judge_account(stage, backend, &report.backend, report);
    let own_close = report.own_close.as_ref().map(|(code, _)| *code);
    assert_eq!(own_close.filter(|_| to_client.close.is_some()), to_client.close);
    judge_totals(stage, report);
    let ends = [(client, to_client, report.client_pings), (backend, to_backend, report.backend_pings)];
    let is_undisturbed = is_undisturbed(stage, report);
    for (player, own, pings) in ends {
        assert!(own.pings <= pings.sent && pings.lost <= pings.sent);
        assert!(player.broke || player.peer.was_shut() || player.peer.was_reset(), "an end");
        if is_undisturbed && !player.peer.was_reset() {
            assert!(own.is_all, "all where nothing was cut: {report:?}");
            assert_eq!(own.pings, pings.sent);
        }
    }
}

/// Nobody broke anything, and no time can have run out.
fn is_undisturbed(stage: &Stage, report: &Report) -> bool {
    // Whatever runs out behind a Close changes no more how the end is called. Ages are spread by a tenth.
    let Limits { close, half_close, write, idle, max_age, .. } = stage.limits;
    let patient = [close, half_close, write, idle, max_age.map(|age| age.mul_f64(0.9))];
    let in_time = patient.iter().flatten().all(|period| report.open < *period);
    let is_orderly = matches!(report.end, TunnelEnd::Closed | TunnelEnd::Eof(_));
    is_orderly && in_time && !stage.was_told && !stage.client.broke && !stage.backend.broke
}

fn scan(stage: &Stage, sender: &Player, said: &[u8], report: &Report) -> Outcome {
    // When a frame comes too soon is the throttle's to say.
    let is_throttled = sender.side == Side::Downstream && stage.limits.message_rate.is_some();
    let admitted = usize::try_from(report.client.frames.total()).expect("few");
    let frames = if is_throttled { admitted } else { usize::MAX };
    let most = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let bounds =
        Bounds { frame: most(stage.limits.max_frame), message: most(stage.limits.max_message), frames };
    scan_bounded(sender.role(), stage.extensions, bounds, said, &[])
}

fn is_observed(stage: &Stage) -> bool {
    stage.limits.observe || stage.extensions == Extensions::Unknown
}

fn units<'a>(stage: &Stage, sender: &'a Player, outcome: &Outcome) -> Vec<Unit<'a>> {
    let (said, mut units, mut begun, mut kind) = (&sender.said[..], Vec::new(), 0, Kind::Frame);
    for event in &outcome.events {
        match event {
            Seen::Close { .. } => kind = Kind::Close,
            Seen::Pong { payload, .. } if sender.answered.contains(payload) => kind = Kind::OwnPong,
            Seen::FrameEnd { at } => {
                units.push(Unit { bytes: &said[begun..*at], kind });
                (begun, kind) = (*at, Kind::Frame);
            }
            _ => {}
        }
    }
    let rest = match outcome.fault {
        None => Some(Kind::Partial),
        Some(Fault::Illegal(_)) if is_observed(stage) => Some(Kind::Unseen),
        Some(_) => None,
    };
    units.extend(rest.map(|kind| Unit { bytes: &said[begun..], kind }).filter(|unit| !unit.bytes.is_empty()));
    units
}

/// The control frame of wsgate's own at the start of `bytes`: its length, its kind, and what it says.
fn own_frame(bytes: &[u8], receiver: Side) -> Option<(usize, Opcode, Vec<u8>)> {
    let (header, length) = FrameHeader::parse(bytes).ok()??;
    let end = length + usize::try_from(header.length).ok()?;
    let mut payload = bytes.get(length..end)?.to_vec();
    apply_mask(&mut payload, header.mask.unwrap_or_default());
    let is_own = match header.opcode {
        Opcode::Ping => payload.starts_with(b"wsgate-"),
        Opcode::Close => payload.len() > 2,
        _ => false,
    };
    assert_eq!(
        header.mask.is_some(),
        receiver == Side::Upstream,
        "frames are masked towards the backend alone"
    );
    (is_own && header.fin && header.rsv == 0).then_some((end, header.opcode, payload))
}

/// The receiver got what the sender sent, with wsgate's own frames between its frames.
fn judge_way(stage: &Stage, sender: &Player, receiver: &Player, report: &Report) -> Own {
    let outcome = scan(stage, sender, &sender.said, report);
    let units = units(stage, sender, &outcome);
    let (mut rest, mut own, mut is_over, mut ends_within) = (&receiver.got[..], Own::default(), false, false);
    let mut expected = units.iter().filter(|unit| unit.kind != Kind::OwnPong).peekable();
    let is_cut = receiver.broke || receiver.peer.was_reset();
    while !rest.is_empty() {
        assert!(own.close.is_none(), "something follows a Close of wsgate's own");
        let next = expected.peek();
        let arrived = next.and_then(|unit| Some((unit, rest.strip_prefix(unit.bytes)?)));
        // A beginning that something follows is that of a frame of wsgate's own.
        if let Some((unit, after)) =
            arrived.filter(|(unit, after)| unit.kind != Kind::Partial || after.is_empty())
        {
            is_over |= matches!(unit.kind, Kind::Close | Kind::Unseen);
            ends_within = unit.kind == Kind::Partial && !is_over;
            rest = after;
            expected.next();
        } else if next.is_some_and(|unit| unit.bytes.starts_with(rest)) {
            // What follows a Close is nobody's business.
            let may_end = is_over || next.is_some_and(|unit| unit.kind == Kind::Unseen);
            assert!(is_cut || may_end, "an end within a frame is a reset: {report:?}");
            return own;
        } else {
            assert!(!is_over && !ends_within, "a frame of wsgate's own in the wrong place: {report:?}");
            let Some((length, opcode, payload)) = own_frame(rest, receiver.side) else {
                let begins_own = (rest[0] == 0x88 || rest[0] == 0x89) && rest.len() < 132;
                // A frame that was begun when its sender was lost is passed as far as it came, be it the answer to a Ping of wsgate's.
                let begins_answer =
                    units.iter().any(|unit| unit.kind == Kind::OwnPong && unit.bytes.starts_with(rest));
                let may_begin = begins_own || begins_answer;
                assert!(is_cut && may_begin, "not what was sent: {}", rest.escape_ascii());
                return own;
            };
            rest = &rest[length..];
            match opcode {
                Opcode::Ping => own.pings += 1,
                _ => own.close = Some(judge_close(&payload, receiver.side, report)),
            }
        }
    }
    assert!(is_cut || !ends_within, "an end within a frame is a reset: {report:?}");
    own.is_all = expected.peek().is_none();
    own
}

/// wsgate's Close has the code of the tunnel's end.
fn judge_close(payload: &[u8], receiver: Side, report: &Report) -> u16 {
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    // What left in order when the time ran out, for whatever reason.
    let left = match &report.own_close {
        Some((code, _)) if receiver == Side::Downstream => *code,
        _ => 1001,
    };
    let expected = report.end.close_to(receiver).map_or(left, |(code, _)| code);
    assert_eq!(code, expected, "{report:?}");
    assert!(report.end.close_to(receiver).is_some() || matches!(report.end, TunnelEnd::DrainTimeout));
    code
}

/// The totals of a gate with one tunnel are its accounts.
fn judge_totals(stage: &Stage, report: &Report) {
    let sum = stage.totals.sum();
    for (carried, account) in [(sum.from_client, &report.client), (sum.from_backend, &report.backend)] {
        assert_eq!((carried.bytes, carried.frames), (account.bytes, account.frames));
        assert_eq!(carried.text.count + carried.binary.count, account.messages);
    }
    for (pinged, pings) in
        [(sum.client_pings, report.client_pings), (sum.backend_pings, report.backend_pings)]
    {
        assert_eq!((pinged.sent, pinged.lost), (pings.sent.into(), pings.lost.into()));
        assert_eq!(pinged.round_trips.iter().sum::<u64>() > 0, pings.round_trip.is_some());
    }
}

/// What was counted is what was read.
fn judge_account(stage: &Stage, sender: &Player, account: &Account, report: &Report) {
    let read = usize::try_from(account.bytes).expect("few");
    assert!(read <= sender.said.len(), "more was read than sent");
    let outcome = scan(stage, sender, &sender.said[..read], report);
    let (mut frames, mut messages, mut longest, mut fragmented) = (Frames::default(), 0, 0, 0);
    for event in &outcome.events {
        match event {
            Seen::Header { header, .. } => count(&mut frames, header.opcode),
            Seen::MessageEnd { length, fragmented: is_fragmented, .. } => {
                messages += 1;
                longest = longest.max(*length);
                fragmented += u64::from(*is_fragmented);
            }
            _ => {}
        }
    }
    let counted = (account.messages, account.longest_message, account.fragmented);
    assert_eq!((account.frames, counted), (frames, (messages, longest, fragmented)), "{report:?}");
    let is_illegal = matches!(outcome.fault, Some(Fault::Illegal(_)));
    assert_eq!(account.illegal, u64::from(is_illegal && is_observed(stage)));
    if let (TunnelEnd::MessageRate(side), Some(fault)) = (&report.end, outcome.fault)
        && *side == sender.side
    {
        assert_eq!(fault, Fault::Excess(Excess::Rate));
    }
}

fn count(frames: &mut Frames, opcode: Opcode) {
    *match opcode {
        Opcode::Continuation => &mut frames.continuation,
        Opcode::Text => &mut frames.text,
        Opcode::Binary => &mut frames.binary,
        Opcode::Close => &mut frames.close,
        Opcode::Ping => &mut frames.ping,
        Opcode::Pong => &mut frames.pong,
    } += 1;
}
