//! What connections carry: a kind of traffic for each scenario.

mod bulk;
mod echo;
mod plain;
mod tunnel;

use std::rc::Rc;

use wsgate::proto::frame::Opcode;

use self::{
    bulk::{Download, Upload},
    echo::Echo,
    plain::Requests,
    tunnel::Tunnel,
};
use super::{
    meter::Meter,
    stream::{Scratch, Stream},
};
use crate::{
    Fallible,
    scenario::{BULK, Scenario},
    wire,
};

/// Of so many messages one is compared byte by byte.
const COMPARED: u64 = 64;

/// The traffic of one connection. It is called at the connection's turns, so it may keep nothing but its own state.
pub(super) trait Traffic {
    /// Takes what has come, which may be a part of a message or several.
    fn receive(&mut self, bytes: &[u8], meter: &mut Meter) -> Fallible<()>;

    /// Sends what is due.
    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Fallible<()>;

    /// Whether it waits for an order, and nothing has to move.
    fn is_at_rest(&self) -> bool {
        false
    }

    /// Whether the connection may end.
    fn is_over(&self) -> bool {
        false
    }

    /// The order to close.
    fn leave(&mut self) {}
}

/// What the connections of a scenario share.
pub(super) struct Kit {
    scenario: Scenario,
    /// The message that they send, in its frame, or the request.
    sent: Rc<[u8]>,
    /// What they receive.
    received: Rc<[u8]>,
}

impl Kit {
    pub(super) fn new(scenario: Scenario) -> Self {
        let key = Some(rand::random());
        let (sent, received) = match scenario {
            Scenario::Connections { .. } | Scenario::Idle { .. } => {
                (wire::frame(Opcode::Close, &tunnel::NORMAL, key), Vec::new())
            }
            Scenario::Echo { size, .. } => {
                let payload = wire::payload(size);
                (wire::frame(Opcode::Binary, &payload, key), wire::frame(Opcode::Binary, &payload, None))
            }
            Scenario::Download { .. } => (Vec::new(), wire::payload(BULK)),
            Scenario::Upload { .. } => (wire::frame(Opcode::Binary, &wire::payload(BULK), key), Vec::new()),
            Scenario::Get { .. } => (wire::request(scenario.target()), wire::payload(wire::BODY)),
        };
        Self { scenario, sent: sent.into(), received: received.into() }
    }

    /// The opening handshake, which is empty where there is none.
    pub(super) fn offer(&self) -> Vec<u8> {
        match self.scenario {
            Scenario::Get { .. } => Vec::new(),
            _ => wire::offer(self.scenario.target()),
        }
    }

    pub(super) fn traffic(&self) -> Box<dyn Traffic> {
        let (sent, received) = (self.sent.clone(), self.received.clone());
        match self.scenario {
            Scenario::Connections { .. } => Box::new(Tunnel::closing(sent)),
            Scenario::Idle { .. } => Box::new(Tunnel::idle(sent)),
            Scenario::Echo { .. } => Box::new(Echo::new(sent, received)),
            Scenario::Download { .. } => Box::new(Download::new(received)),
            Scenario::Upload { .. } => Box::new(Upload::new(sent)),
            Scenario::Get { .. } => Box::new(Requests::new(sent, received)),
        }
    }
}
