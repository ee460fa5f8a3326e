//! Tunnels between two scripted peers, over pipes in memory and the paused clock.

mod account;
mod admin;
mod alarm;
mod closing;
mod drain;
mod frames;
mod keepalive;
mod limits;
mod lots;
mod orders;
mod property;
mod relay;
mod splice;
mod timers;
mod totals;
mod visits;

use std::{io, time::Duration};

use tokio::{io::AsyncReadExt, task::JoinHandle};

pub(super) use super::laws::{Guest, KEY, Owner, agreed, frame, terms};
use super::*;
use crate::{
    buffered::wire::{Pace, Peer, Wire, wire},
    ending::{AdminClose, Death},
    lifecycle::DrainHandle,
    proto::frame::{FrameError, FrameHeader, Opcode, apply_mask, encode_close},
};

pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What tokio lets a task do in a turn.
const TURN: usize = 128;

pub(super) const LIMITS: Limits = Limits {
    idle: Some(IDLE_TIMEOUT),
    half_close: Some(HALF_CLOSE_TIMEOUT),
    close: Some(CLOSE_TIMEOUT),
    write: Some(WRITE_TIMEOUT),
    ..Limits::OFF
};

/// How a tunnel is set up.
pub(super) struct SetUp {
    pub(super) limits: Limits,
    pub(super) extensions: &'static str,
    /// Over which tunnels leave in a drain.
    pub(super) spread: Duration,
    pub(super) down: Pace,
    pub(super) up: Pace,
    pub(super) down_tail: Vec<u8>,
    pub(super) up_tail: Vec<u8>,
}

impl Default for SetUp {
    fn default() -> Self {
        Self {
            limits: LIMITS,
            extensions: "",
            spread: Duration::ZERO,
            down: Pace::FAST,
            up: Pace::FAST,
            down_tail: Vec::new(),
            up_tail: Vec::new(),
        }
    }
}

impl SetUp {
    pub(super) fn tunnel(self) -> (Tunnel<Wire, Wire>, Peer, Peer, Orders) {
        let (down, client) = wire(self.down);
        let (up, backend) = wire(self.up);
        let (mut down, mut up) = (Buffered::new(down), Buffered::new(up));
        down.put_back(&self.down_tail);
        up.put_back(&self.up_tail);
        let (drain, signal) = Drain::new(self.spread);
        let (server, route) = (signal.part(self.spread), signal.part(self.spread));
        let terms = terms(self.limits, route.signal());
        let tunnel = Tunnel::new(down, up, &agreed(self.extensions), terms, server.signal());
        (tunnel, client, backend, Orders { drain, server, route })
    }

    pub(super) fn open(self) -> Open {
        let (tunnel, client, backend, Orders { drain, server, route }) = self.tunnel();
        let totals = Arc::clone(&tunnel.terms.totals);
        let tunnel = tokio::spawn(Owner(tunnel));
        Open { client, backend, drain, server, route, totals, tunnel, since: Instant::now() }
    }
}

/// Who may order a tunnel to leave.
pub(super) struct Orders {
    /// All there is.
    pub(super) drain: DrainHandle,
    pub(super) server: DrainHandle,
    pub(super) route: DrainHandle,
}

/// A tunnel that runs, and its peers.
pub(super) struct Open {
    pub(super) client: Peer,
    pub(super) backend: Peer,
    pub(super) drain: DrainHandle,
    pub(super) server: DrainHandle,
    pub(super) route: DrainHandle,
    pub(super) totals: Arc<Totals>,
    pub(super) tunnel: JoinHandle<Report>,
    since: Instant,
}

impl Open {
    /// Waits for the tunnel's end; not for ever, as one that asks its peers may be alive for ever.
    pub(super) async fn report(&mut self) -> Report {
        let ends = tokio::time::timeout(Duration::from_secs(1_000_000), &mut self.tunnel);
        ends.await.expect("an end").expect("no panic")
    }

    pub(super) fn begin_drain(&self) {
        self.drain.drain();
        wake_all();
    }

    /// Time since the tunnel was opened.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

pub(super) fn open() -> Open {
    SetUp::default().open()
}

/// A text message of the client's.
pub(super) fn says(text: &str) -> Vec<u8> {
    frame(Role::FromClient, true, Opcode::Text, text.as_bytes())
}

/// A text message of the backend's.
pub(super) fn tells(text: &str) -> Vec<u8> {
    frame(Role::FromServer, true, Opcode::Text, text.as_bytes())
}

/// A Close of the client's.
pub(super) fn client_close(code: u16, reason: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_close(code, reason, Some(KEY), &mut bytes);
    bytes
}

/// A Close of the backend's, or of wsgate's towards the client.
pub(super) fn server_close(code: u16, reason: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_close(code, reason, None, &mut bytes);
    bytes
}

/// A side's peer and the other one.
pub(super) fn pair(open: &mut Open, side: Side) -> (&mut Peer, &mut Peer) {
    let Open { client, backend, .. } = open;
    if side == Side::Downstream { (client, backend) } else { (backend, client) }
}

/// The role of a side in what it sends.
pub(super) fn role(side: Side) -> Role {
    if side == Side::Downstream { Role::FromClient } else { Role::FromServer }
}

/// Reads one frame; its payload is unmasked.
pub(super) async fn read_frame(peer: &mut Peer) -> (FrameHeader, Vec<u8>) {
    let mut bytes = Vec::new();
    let header = loop {
        bytes.push(peer.pipe.read_u8().await.expect("a frame"));
        if let Some((header, _)) = FrameHeader::parse(&bytes).expect("legal") {
            break header;
        }
    };
    let mut payload = vec![0; usize::try_from(header.length).expect("a length of tests")];
    peer.pipe.read_exact(&mut payload).await.expect("a whole frame");
    apply_mask(&mut payload, header.mask.unwrap_or_default());
    (header, payload)
}

/// Nothing comes to `peer` for so long.
pub(super) async fn expect_silence(peer: &mut Peer, period: Duration) {
    if let Ok(read) = tokio::time::timeout(period, peer.pipe.read_u8()).await {
        panic!("something came: {read:?}");
    }
}

/// Bytes that are no repetition, so that a shift shows.
pub(super) fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap_or_default()).collect()
}

/// Takes a masked Close off what a backend got, and gives its code and reason.
pub(super) fn unmask_close(bytes: &[u8]) -> (u16, String) {
    let (header, length) = FrameHeader::parse(bytes).expect("legal").expect("whole");
    assert_eq!(header.opcode, Opcode::Close);
    let mask = header.mask.expect("a mask");
    let mut payload = bytes[length..].to_vec();
    assert_eq!(payload.len() as u64, header.length, "nothing follows a Close");
    apply_mask(&mut payload, mask);
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    (code, String::from_utf8(payload[2..].to_vec()).expect("text"))
}

/// What a backend got: first `before`, then a masked Close of wsgate's with this code and nothing more.
pub(super) fn assert_closed_with(got: &[u8], before: &[u8], code: u16) {
    assert!(got.starts_with(before), "what came before the Close");
    assert_eq!(unmask_close(&got[before.len()..]).0, code);
}

#[test]
fn t10_a_tunnel_is_small() {
    // Without its streams. With them, and what else a connection is, it fits 640 bytes of a task.
    let sizes = (size_of::<Tunnel<(), ()>>(), size_of::<Direction>(), size_of::<Pulse>());
    assert!(sizes.0 <= 416, "{sizes:?}");
}
