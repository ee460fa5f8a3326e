//! Large messages one way, as many as get through.

use std::rc::Rc;

use wsgate::proto::frame::Opcode;

use super::{COMPARED, Traffic};
use crate::{
    Fallible,
    client::{
        meter::Meter,
        stream::{Scratch, Stream},
    },
    scenario::BULK,
    wire::{ACKNOWLEDGED, Follower, Piece},
};

/// Messages of an upload that are on their way and not acknowledged.
const WINDOW: u64 = 64;

pub(super) struct Download {
    follower: Follower,
    /// The payload of every message.
    payload: Rc<[u8]>,
    /// Bytes of it that have come, and messages before it.
    offset: usize,
    messages: u64,
}

impl Download {
    pub(super) fn new(payload: Rc<[u8]>) -> Self {
        Self { follower: Follower::default(), payload, offset: 0, messages: 0 }
    }
}

impl Traffic for Download {
    fn receive(&mut self, mut bytes: &[u8], meter: &mut Meter) -> Fallible<()> {
        while let Some(piece) = self.follower.next(&mut bytes)? {
            match piece {
                Piece::Header(header) => {
                    let is_expected = header.opcode == Opcode::Binary && header.length == BULK as u64;
                    if !is_expected || header.mask.is_some() {
                        return Err(format!("an unexpected frame in a download: {header:?}").into());
                    }
                }
                Piece::Payload { bytes, is_last } => {
                    let end = self.offset + bytes.len();
                    if self.messages.is_multiple_of(COMPARED) && bytes != &self.payload[self.offset..end] {
                        return Err("a download is not what was sent".into());
                    }
                    meter.count += bytes.len() as u64;
                    self.offset = if is_last { 0 } else { end };
                    self.messages += u64::from(is_last);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, _: &mut Stream, _: &mut Scratch) -> Fallible<()> {
        Ok(())
    }
}

pub(super) struct Upload {
    /// A message in its frame.
    frame: Rc<[u8]>,
    sent: u64,
    acknowledged: u64,
    follower: Follower,
}

impl Upload {
    pub(super) fn new(frame: Rc<[u8]>) -> Self {
        Self { frame, sent: 0, acknowledged: 0, follower: Follower::default() }
    }
}

impl Traffic for Upload {
    fn receive(&mut self, mut bytes: &[u8], meter: &mut Meter) -> Fallible<()> {
        while let Some(piece) = self.follower.next(&mut bytes)? {
            match piece {
                Piece::Header(header) if header.opcode == Opcode::Text => self.acknowledged += ACKNOWLEDGED,
                Piece::Header(header) => {
                    return Err(format!("an unexpected frame in an upload: {header:?}").into());
                }
                Piece::Payload { is_last: true, .. } => meter.count += ACKNOWLEDGED * BULK as u64,
                Piece::Payload { .. } => (),
            }
        }
        if self.acknowledged > self.sent {
            return Err("messages are acknowledged that were not sent".into());
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Fallible<()> {
        while self.sent - self.acknowledged < WINDOW && !stream.is_blocked() {
            stream.send(&self.frame, scratch)?;
            stream.flush(scratch)?;
            self.sent += 1;
        }
        Ok(())
    }
}
