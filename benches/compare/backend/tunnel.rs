//! A tunnel whose messages are returned, or counted.

use wsgate::proto::frame::{FrameHeader, Opcode};

use crate::{
    Fallible,
    wire::{self, ACKNOWLEDGED, Follower, Piece},
};

pub(super) struct Tunnel {
    follower: Follower,
    /// What the frame is that is under way, and what its next byte is masked with.
    opcode: Opcode,
    key: [u8; 4],
    /// Messages that have come, where they are counted and not returned.
    counted: Option<u64>,
}

impl Tunnel {
    pub(super) fn echo() -> Self {
        Self { follower: Follower::default(), opcode: Opcode::Binary, key: [0; 4], counted: None }
    }

    pub(super) fn upload() -> Self {
        Self { counted: Some(0), ..Self::echo() }
    }

    /// Takes what has come, and puts into the output what answers it. `true` says that a Close is in there and nothing comes
    /// behind it.
    pub(super) fn take(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Fallible<bool> {
        while let Some(piece) = self.follower.next(&mut input)? {
            match piece {
                Piece::Header(header) => self.begin(&header, output)?,
                Piece::Payload { bytes, is_last } => {
                    self.go_on(bytes, output);
                    if is_last && self.opcode == Opcode::Close {
                        return Ok(true);
                    }
                    if is_last && !self.opcode.is_control() {
                        self.count(output);
                    }
                }
            }
        }
        Ok(false)
    }

    fn begin(&mut self, header: &FrameHeader, output: &mut Vec<u8>) -> Fallible<()> {
        self.key = header.mask.ok_or("a frame is not masked")?;
        self.opcode = header.opcode;
        if self.is_answered() {
            let opcode = if header.opcode == Opcode::Ping { Opcode::Pong } else { header.opcode };
            FrameHeader { opcode, mask: None, ..*header }.encode(output);
        }
        Ok(())
    }

    fn go_on(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        if self.is_answered() {
            let start = output.len();
            output.extend_from_slice(bytes);
            wire::mask(&mut output[start..], self.key);
            self.key.rotate_left(bytes.len() % 4);
        }
    }

    /// Whether the frame that is under way has one that answers it, with the same payload.
    fn is_answered(&self) -> bool {
        match self.opcode {
            Opcode::Pong => false,
            Opcode::Close | Opcode::Ping => true,
            Opcode::Text | Opcode::Binary | Opcode::Continuation => self.counted.is_none(),
        }
    }

    fn count(&mut self, output: &mut Vec<u8>) {
        let Some(count) = &mut self.counted else { return };
        *count += 1;
        if *count % ACKNOWLEDGED == 0 {
            output.extend_from_slice(&wire::frame(Opcode::Text, b"more", None));
        }
    }
}
