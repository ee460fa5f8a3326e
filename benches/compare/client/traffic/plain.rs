//! Plain requests, one in flight.

use std::{rc::Rc, time::Instant};

use super::{COMPARED, Traffic};
use crate::{
    Fallible,
    client::{
        meter::Meter,
        stream::{Scratch, Stream},
    },
    wire,
};

pub(super) struct Requests {
    request: Rc<[u8]>,
    body: Rc<[u8]>,
    /// An answer that is not whole.
    held: Vec<u8>,
    is_due: bool,
    answers: u64,
    since: Instant,
}

impl Requests {
    pub(super) fn new(request: Rc<[u8]>, body: Rc<[u8]>) -> Self {
        Self { request, body, held: Vec::new(), is_due: true, answers: 0, since: Instant::now() }
    }

    /// Whether these bytes are the whole answer.
    fn is_whole(&self, bytes: &[u8]) -> Fallible<bool> {
        let Some(length) = wire::head_length(bytes) else { return Ok(false) };
        let (head, body) = bytes.split_at(length);
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("not 200: {}", String::from_utf8_lossy(head)).into());
        }
        let announced: usize = wire::field(head, "Content-Length").ok_or("no Content-Length")?.parse()?;
        if announced != self.body.len() || body.len() > announced {
            return Err("a body has another length".into());
        }
        if self.answers.is_multiple_of(COMPARED) && !self.body.starts_with(body) {
            return Err("a body is not what was sent".into());
        }
        Ok(body.len() == announced)
    }
}

impl Traffic for Requests {
    fn receive(&mut self, bytes: &[u8], meter: &mut Meter) -> Fallible<()> {
        if self.is_due {
            return Err("an answer has come to no request".into());
        }
        let is_whole = if self.held.is_empty() {
            self.is_whole(bytes)?
        } else {
            self.held.extend_from_slice(bytes);
            self.is_whole(&self.held)?
        };
        if is_whole {
            let now = Instant::now();
            meter.count += 1;
            meter.latency.record(now - self.since);
            // The next request is sent next.
            self.since = now;
            self.held.clear();
            self.is_due = true;
            self.answers += 1;
        } else if self.held.is_empty() {
            self.held.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut Stream, scratch: &mut Scratch) -> Fallible<()> {
        if self.is_due {
            self.is_due = false;
            if self.answers == 0 {
                self.since = Instant::now();
            }
            stream.send(&self.request, scratch)?;
        }
        Ok(())
    }
}
