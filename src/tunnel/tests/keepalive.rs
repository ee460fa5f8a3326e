//! Keepalive (rule T6).

mod death;
mod pings;
mod stopped;

use std::task::Waker;

use tokio::io::AsyncWriteExt as _;

use super::*;

const INTERVAL: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const BOTH: [Side; 2] = [Side::Downstream, Side::Upstream];

const KEEPALIVE: Keepalive =
    Keepalive { clients: true, backends: true, interval: Some(INTERVAL), pong: Some(PONG) };
/// Nothing but keepalive and the time-outs of closing.
const PINGED: Limits = Limits { idle: None, write: None, keepalive: KEEPALIVE, ..LIMITS };

/// Limits under which `side` alone is asked.
fn asked_alone(side: Side) -> Limits {
    let clients = side == Side::Downstream;
    Limits { keepalive: Keepalive { clients, backends: !clients, ..KEEPALIVE }, ..PINGED }
}

fn open_with(limits: Limits) -> Open {
    SetUp { limits, ..SetUp::default() }.open()
}

fn text(side: Side, text: &str) -> Vec<u8> {
    frame(role(side), true, Opcode::Text, text.as_bytes())
}

fn ping(side: Side, payload: &[u8]) -> Vec<u8> {
    frame(role(side), true, Opcode::Ping, payload)
}

fn pong(side: Side, payload: &[u8]) -> Vec<u8> {
    frame(role(side), true, Opcode::Pong, payload)
}

fn another(side: Side) -> Side {
    if side == Side::Downstream { Side::Upstream } else { Side::Downstream }
}

/// Waits for a Ping of wsgate's own to `side` and gives its payload.
async fn asked(peer: &mut Peer, side: Side) -> Vec<u8> {
    let (header, payload) = read_frame(peer).await;
    assert_eq!((header.opcode, header.fin, header.rsv), (Opcode::Ping, true, 0));
    assert_eq!(header.mask.is_some(), side == Side::Upstream, "masked towards the backend alone");
    assert!(payload.starts_with(b"wsgate-") && payload.len() <= 125, "{}", payload.escape_ascii());
    payload
}

/// Waits for a Ping of wsgate's own to `side` and answers it.
async fn answers(peer: &mut Peer, side: Side) -> Vec<u8> {
    let payload = asked(peer, side).await;
    peer.send(&pong(side, &payload)).await;
    payload
}

/// A tunnel in which only `side` is asked, and has answered once, at the age of one interval.
async fn answered_once(side: Side, set_up: SetUp) -> Open {
    let mut open = SetUp { limits: asked_alone(side), ..set_up }.open();
    let (peer, _) = pair(&mut open, side);
    answers(peer, side).await;
    assert_eq!(open.age(), INTERVAL);
    open
}

fn pings(report: &Report, side: Side) -> Pings {
    if side == Side::Downstream { report.client_pings } else { report.backend_pings }
}

/// Waits for the end of what `peer` gets, but not for ever, as Pings go on for ever.
async fn expect_end_soon(peer: &mut Peer, words: &[u8]) {
    tokio::time::timeout(HOUR, peer.expect_end(words)).await.expect("an end");
}

/// The tunnel ended as `dead` fell silent: it is cut with a reset, and the other side, which read `words` of it last, has its
/// end in order.
async fn expect_death(open: &mut Open, dead: Side, words: &[u8]) -> Report {
    let (_, other) = pair(open, dead);
    expect_end_soon(other, words).await;
    assert!(other.was_shut());
    let age = open.age();
    let (_, other) = pair(open, dead);
    other.finish().await;
    let report = open.report().await;
    assert_eq!(open.age(), age, "nothing is waited for");
    assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "pong_timeout"));
    assert!(matches!(&report.end, TunnelEnd::Dead(side, Death::Silent) if *side == dead));
    assert_eq!(report.first_close, None);
    let (peer, other) = pair(open, dead);
    assert!(peer.was_reset() && !other.was_reset());
    report
}
