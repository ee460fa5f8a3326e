//! One connection, from TCP over TLS and the opening handshake to its traffic.

use std::time::{Duration, Instant};

use mio::event::Event;

use super::{
    meter::Meter,
    stream::{Came, Scratch, Stream},
    traffic::{Kit, Traffic},
};
use crate::{
    Fallible,
    wire::{self, ACCEPT},
};

/// A connection on which nothing moves for so long has failed.
const LONGEST: Duration = Duration::from_secs(10);
/// How long the server may leave a connection open after its Close, before the client ends it.
const LATE: Duration = Duration::from_secs(1);

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Rest,
    /// It has done what there was to do.
    Done,
}

pub(super) struct Connection {
    stream: Stream,
    talk: Talk,
    began: Instant,
    /// When something last happened.
    moved: Instant,
}

/// What is said on a connection.
struct Talk {
    stage: Stage,
    traffic: Box<dyn Traffic>,
}

enum Stage {
    /// There is an opening handshake to come.
    Offering(Vec<u8>),
    /// The answer to it has not come, but for this.
    Awaiting(Vec<u8>),
    Open,
}

impl Connection {
    pub(super) fn new(stream: Stream, kit: &Kit) -> Self {
        let now = Instant::now();
        let talk = Talk { stage: Stage::Offering(kit.offer()), traffic: kit.traffic() };
        Self { stream, talk, began: now, moved: now }
    }

    /// Does what the event allows.
    pub(super) fn progress(
        &mut self,
        event: &Event,
        now: Instant,
        scratch: &mut Scratch,
        meter: &mut Meter,
    ) -> Fallible<Next> {
        self.moved = now;
        let Self { stream, talk, .. } = self;
        if !stream.connect(scratch)? {
            return Ok(Next::Rest);
        }
        if event.is_writable() {
            stream.flush(scratch)?;
        }
        while event.is_readable() {
            let came = match stream.read(scratch, |bytes| talk.receive(bytes, meter)) {
                // Behind a Close there is nothing to lose.
                Err(_) if talk.traffic.is_over() => Came::End,
                other => other?,
            };
            if came == Came::End {
                return self.end(meter);
            }
            talk.send(stream, scratch, meter)?;
            // A short read is the last one, unless the end stands behind it.
            if came == Came::Nothing || (came == Came::All && !event.is_read_closed()) {
                break;
            }
        }
        if !event.is_readable() {
            talk.send(stream, scratch, meter)?;
        }
        stream.flush(scratch)?;
        Ok(Next::Rest)
    }

    /// The server has ended the connection, or should have.
    fn end(&mut self, meter: &mut Meter) -> Fallible<Next> {
        if !self.talk.traffic.is_over() {
            return Err("the gate has ended a connection".into());
        }
        meter.count += 1;
        meter.ended += 1;
        meter.resumed += u64::from(self.stream.is_resumed());
        meter.latency.record(self.began.elapsed());
        Ok(Next::Done)
    }

    /// Looks whether it stands still.
    pub(super) fn check(&mut self, now: Instant, meter: &mut Meter) -> Fallible<Next> {
        let still = now.saturating_duration_since(self.moved);
        if self.talk.traffic.is_over() && still > LATE {
            meter.late += 1;
            return self.end(meter);
        }
        if still > LONGEST && !self.talk.is_at_rest() {
            return Err(format!("nothing has moved on a connection for {} s", LONGEST.as_secs()).into());
        }
        Ok(Next::Rest)
    }

    /// Closes a tunnel that is at rest.
    pub(super) fn leave(&mut self, scratch: &mut Scratch) -> Fallible<()> {
        self.moved = Instant::now();
        self.talk.traffic.leave();
        self.talk.traffic.send(&mut self.stream, scratch)?;
        Ok(self.stream.flush(scratch)?)
    }
}

impl Talk {
    fn receive(&mut self, bytes: &[u8], meter: &mut Meter) -> Fallible<()> {
        let Stage::Awaiting(head) = &mut self.stage else {
            return self.traffic.receive(bytes, meter);
        };
        head.extend_from_slice(bytes);
        let Some(length) = wire::head_length(head) else { return Ok(()) };
        let (head, tail) = head.split_at(length);
        if !head.starts_with(b"HTTP/1.1 101 ") || wire::field(head, "Sec-WebSocket-Accept") != Some(ACCEPT) {
            return Err(format!("not what agrees: {}", String::from_utf8_lossy(head)).into());
        }
        let tail = tail.to_vec();
        self.open(meter);
        if tail.is_empty() { Ok(()) } else { self.traffic.receive(&tail, meter) }
    }

    /// Whether nothing has to move until there is an order.
    fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.traffic.is_at_rest()
    }

    fn open(&mut self, meter: &mut Meter) {
        self.stage = Stage::Open;
        meter.opened += 1;
    }

    /// Sends what is due.
    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch, meter: &mut Meter) -> Fallible<()> {
        if let Stage::Offering(offer) = &self.stage
            && stream.is_ready()
        {
            if offer.is_empty() {
                self.open(meter);
            } else {
                stream.send(offer, scratch)?;
                self.stage = Stage::Awaiting(Vec::new());
            }
        }
        match self.stage {
            Stage::Open => self.traffic.send(stream, scratch),
            Stage::Offering(_) | Stage::Awaiting(_) => Ok(()),
        }
    }
}
