//! Messages there and back, one in flight.

use std::{rc::Rc, time::Instant};

use super::{COMPARED, Traffic};
use crate::{
    Fallible,
    client::{
        meter::Meter,
        stream::{Scratch, Stream},
    },
};

/// The longest header of a frame that is not masked.
const HEADER: usize = 10;

pub(super) struct Echo {
    sent: Rc<[u8]>,
    received: Rc<[u8]>,
    /// Bytes of the answer that have come.
    offset: usize,
    is_due: bool,
    round_trips: u64,
    since: Instant,
}

impl Echo {
    pub(super) fn new(sent: Rc<[u8]>, received: Rc<[u8]>) -> Self {
        Self { sent, received, offset: 0, is_due: true, round_trips: 0, since: Instant::now() }
    }
}

impl Traffic for Echo {
    fn receive(&mut self, bytes: &[u8], meter: &mut Meter) -> Fallible<()> {
        let end = self.offset + bytes.len();
        let expected = self.received.get(self.offset..end).filter(|_| !self.is_due);
        let expected = expected.ok_or("more has come back than was sent")?;
        let is_compared = self.round_trips.is_multiple_of(COMPARED);
        let compared =
            if is_compared { bytes.len() } else { HEADER.saturating_sub(self.offset).min(bytes.len()) };
        if bytes[..compared] != expected[..compared] {
            return Err("what came back is not what was sent".into());
        }
        self.offset = end;
        if end == self.received.len() {
            let now = Instant::now();
            meter.count += 1;
            meter.latency.record(now - self.since);
            // The next message is sent next.
            self.since = now;
            self.offset = 0;
            self.is_due = true;
            self.round_trips += 1;
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Fallible<()> {
        if self.is_due {
            self.is_due = false;
            if self.round_trips == 0 {
                self.since = Instant::now();
            }
            stream.send(&self.sent, scratch)?;
        }
        Ok(())
    }
}
