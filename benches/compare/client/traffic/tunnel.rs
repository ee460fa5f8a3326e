//! A tunnel that carries nothing: it is closed at once, or at an order.

use std::rc::Rc;

use wsgate::proto::frame::Opcode;

use super::Traffic;
use crate::{
    Fallible,
    client::{
        meter::Meter,
        stream::{Scratch, Stream},
    },
    wire::{self, Follower, Piece},
};

/// The payload of a Close: code 1000 (RFC 6455 §7.4.1).
pub(super) const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

pub(super) struct Tunnel {
    /// The Close that it sends.
    close: Rc<[u8]>,
    state: State,
    follower: Follower,
    /// What the frame is that is under way, and what has come of its payload.
    opcode: Opcode,
    payload: Vec<u8>,
    /// Pongs that are due.
    answers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// The Close is due.
    Leaving,
    /// The Close was sent.
    Left,
    /// It was answered.
    Over,
}

impl Tunnel {
    pub(super) fn idle(close: Rc<[u8]>) -> Self {
        Self {
            close,
            state: State::Idle,
            follower: Follower::default(),
            opcode: Opcode::Binary,
            payload: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn closing(close: Rc<[u8]>) -> Self {
        Self { state: State::Leaving, ..Self::idle(close) }
    }

    fn answer(&mut self) {
        let key = Some(rand::random());
        self.answers.extend_from_slice(&wire::frame(Opcode::Pong, &self.payload, key));
    }

    /// A frame is whole.
    fn finish(&mut self) -> Fallible<()> {
        match self.opcode {
            Opcode::Ping => self.answer(),
            Opcode::Close if self.state == State::Left && self.payload == NORMAL => self.state = State::Over,
            other => return Err(format!("an unexpected {other:?}: {:?}", self.payload).into()),
        }
        self.payload.clear();
        Ok(())
    }
}

impl Traffic for Tunnel {
    fn receive(&mut self, mut bytes: &[u8], _: &mut Meter) -> Fallible<()> {
        while let Some(piece) = self.follower.next(&mut bytes)? {
            match piece {
                Piece::Header(header) => self.opcode = header.opcode,
                Piece::Payload { bytes, is_last } => {
                    self.payload.extend_from_slice(bytes);
                    if is_last {
                        self.finish()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Fallible<()> {
        if !self.answers.is_empty() {
            stream.send(&self.answers, scratch)?;
            self.answers = Vec::new();
        }
        if self.state == State::Leaving {
            stream.send(&self.close, scratch)?;
            self.state = State::Left;
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.state == State::Idle
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn leave(&mut self) {
        self.state = State::Leaving;
    }
}
