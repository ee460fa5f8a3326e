//! What all tunnels of a gate carry, counted as it passes.

use std::{
    iter::Sum as SumOf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{account::Frames, pulse::Asked};
use crate::{
    buffered::worker,
    proto::frame::{FrameHeader, Opcode, Role},
};

/// The bounds of the classes of round trips, from 1 ms to 30 s; what is longer stands in a class of its own.
pub const ROUND_TRIPS: [Duration; 14] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// One for all tunnels of a gate. Each worker has counters of its own, which no other writes, so that a count is an addition
/// without a lock and without a line of cache that two want.
#[derive(Debug)]
pub struct Totals {
    shards: Box<[Shard]>,
}

/// The counters of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    from_client: Way,
    from_backend: Way,
    to_client: PingCounts,
    to_backend: PingCounts,
}

/// What went one way through one worker.
#[derive(Debug, Default)]
pub(super) struct Way {
    bytes: Count,
    frames: [Count; OPCODES],
    text: MessageCounts,
    binary: MessageCounts,
}

#[derive(Debug, Default)]
struct MessageCounts {
    count: Count,
    bytes: Count,
}

/// What Pings of wsgate's own to one side gave on one worker.
#[derive(Debug, Default)]
pub(super) struct PingCounts {
    sent: Count,
    lost: Count,
    classes: [Count; ROUND_TRIPS.len() + 1],
    micros: Count,
}

/// A count that one thread writes and others read.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        // Nobody else writes it, so it need not be one step.
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const OPCODES: usize = 6;

fn place(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Continuation => 0,
        Opcode::Text => 1,
        Opcode::Binary => 2,
        Opcode::Close => 3,
        Opcode::Ping => 4,
        Opcode::Pong => 5,
    }
}

/// What all tunnels together have carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// From clients.
    pub from_client: Carried,
    /// From backends.
    pub from_backend: Carried,
    /// Of wsgate's own Pings to clients.
    pub client_pings: Pinged,
    /// Of wsgate's own Pings to backends.
    pub backend_pings: Pinged,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes read from the senders, frame headers included.
    pub bytes: u64,
    /// Frames by kind, counted when their headers have come.
    pub frames: Frames,
    /// Text messages that came to their end.
    pub text: Messages,
    /// Binary messages that came to their end.
    pub binary: Messages,
}

/// Messages that came to their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their payload in bytes, as on the wire.
    pub bytes: u64,
}

/// What Pings of wsgate's own gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pinged {
    /// So many went out.
    pub sent: u64,
    /// Of these, those that were not answered before the next one went out or the side was given up.
    pub lost: u64,
    /// Round trips up to the bound at the same place of [`ROUND_TRIPS`] and over the one before it; at the end, the longer ones.
    pub round_trips: [u64; ROUND_TRIPS.len() + 1],
    /// All round trips together.
    pub total: Duration,
}

impl Totals {
    /// Counters for so many workers; at least for one.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers.max(1)).map(|_| Shard::default()).collect() }
    }

    /// The counters of this thread's worker.
    pub(super) fn here(&self) -> &Shard {
        self.shards.get(worker()).unwrap_or(&self.shards[0])
    }

    /// What was counted so far. Each figure is right; together they may be of moments that are a little apart.
    pub fn sum(&self) -> Sum {
        self.shards.iter().map(Shard::read).sum()
    }
}

impl Shard {
    /// Where what a sender in this role sends is counted.
    pub(super) fn way(&self, role: Role) -> &Way {
        match role {
            Role::FromClient => &self.from_client,
            Role::FromServer => &self.from_backend,
        }
    }

    /// Where Pings to this side are counted.
    pub(super) fn pings(&self, to: Asked) -> &PingCounts {
        match to {
            Asked::Client => &self.to_client,
            Asked::Backend => &self.to_backend,
        }
    }

    fn read(&self) -> Sum {
        Sum {
            from_client: self.from_client.get(),
            from_backend: self.from_backend.get(),
            client_pings: self.to_client.get(),
            backend_pings: self.to_backend.get(),
        }
    }
}

impl Way {
    /// So many bytes came.
    pub(super) fn read(&self, bytes: usize) {
        self.bytes.add(bytes as u64);
    }

    /// A frame has begun.
    pub(super) fn frame(&self, header: &FrameHeader) {
        self.frames[place(header.opcode)].add(1);
    }

    /// A message has come to its end; `opcode` is that of its first frame.
    pub(super) fn message(&self, opcode: Opcode, length: u64) {
        let messages = if opcode == Opcode::Text { &self.text } else { &self.binary };
        messages.count.add(1);
        messages.bytes.add(length);
    }

    fn get(&self) -> Carried {
        let of = |opcode| self.frames[place(opcode)].get();
        Carried {
            bytes: self.bytes.get(),
            frames: Frames {
                continuation: of(Opcode::Continuation),
                text: of(Opcode::Text),
                binary: of(Opcode::Binary),
                close: of(Opcode::Close),
                ping: of(Opcode::Ping),
                pong: of(Opcode::Pong),
            },
            text: self.text.get(),
            binary: self.binary.get(),
        }
    }
}

impl MessageCounts {
    fn get(&self) -> Messages {
        Messages { count: self.count.get(), bytes: self.bytes.get() }
    }
}

impl PingCounts {
    /// One goes out.
    pub(super) fn send(&self) {
        self.sent.add(1);
    }

    /// One is not answered any more.
    pub(super) fn lose(&self) {
        self.lost.add(1);
    }

    /// One was answered after this time.
    pub(super) fn answer(&self, round_trip: Duration) {
        self.classes[ROUND_TRIPS.partition_point(|bound| *bound < round_trip)].add(1);
        self.micros.add(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX));
    }

    fn get(&self) -> Pinged {
        Pinged {
            sent: self.sent.get(),
            lost: self.lost.get(),
            round_trips: std::array::from_fn(|class| self.classes[class].get()),
            total: Duration::from_micros(self.micros.get()),
        }
    }
}

impl SumOf for Sum {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, next| Self {
            from_client: sum.from_client.plus(&next.from_client),
            from_backend: sum.from_backend.plus(&next.from_backend),
            client_pings: sum.client_pings.plus(&next.client_pings),
            backend_pings: sum.backend_pings.plus(&next.backend_pings),
        })
    }
}

impl Carried {
    fn plus(&self, more: &Self) -> Self {
        Self {
            bytes: self.bytes + more.bytes,
            frames: self.frames.plus(&more.frames),
            text: self.text.plus(&more.text),
            binary: self.binary.plus(&more.binary),
        }
    }
}

impl Messages {
    fn plus(&self, more: &Self) -> Self {
        Self { count: self.count + more.count, bytes: self.bytes + more.bytes }
    }
}

impl Pinged {
    fn plus(&self, more: &Self) -> Self {
        Self {
            sent: self.sent + more.sent,
            lost: self.lost + more.lost,
            round_trips: std::array::from_fn(|class| self.round_trips[class] + more.round_trips[class]),
            total: self.total + more.total,
        }
    }
}
