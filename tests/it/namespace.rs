//! Peers that vanish without a FIN or a reset: rules T3 and T6. Each is in a network of its own whose wire is cut.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Setup,
    frames::{self, BINARY, PING, PONG, TEXT, client, server},
    namespace::{Loss, Namespace},
    pki::Pki,
};

const PING_INTERVAL: Duration = Duration::from_secs(1);
const PONG_TIMEOUT: Duration = Duration::from_secs(1);

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(6);

/// Which side vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Client,
    Backend,
}

impl Gone {
    fn label(self) -> &'static str {
        match self {
            Self::Client => "downstream",
            Self::Backend => "upstream",
        }
    }

    /// The side that is asked: this one alone, as the other one may be slow to answer on a busy machine.
    fn keys(self) -> String {
        let asked = match self {
            Self::Client => "clients",
            Self::Backend => "upstreams",
        };
        format!(
            "websocket.ping = \"{asked}\"\nwebsocket.ping_interval = \"1s\"\nwebsocket.pong_timeout = \"1s\""
        )
    }
}

/// One case.
#[derive(Debug, Clone, Copy)]
struct Case {
    gone: Gone,
    loss: Loss,
    tls: bool,
    /// The side that stays goes on sending.
    sends: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for gone in [Gone::Client, Gone::Backend] {
        for loss in [Loss::Silent, Loss::Unreachable] {
            for tls in [false, true] {
                all.extend([true, false].map(|sends| Case { gone, loss, tls, sends }));
            }
        }
    }
    all
}

/// A tunnel with one end in a namespace.
struct Tunnel {
    namespace: Namespace,
    gate: Gate,
    gone: Peer,
    stays: Peer,
}

impl Tunnel {
    async fn open(case: Case, keys: &str) -> Self {
        let namespace = Namespace::new(case.loss).expect("another network namespace");
        let backend = if case.gone == Gone::Backend { namespace.listen() } else { Backend::listen().await };
        let mut setup = Setup::to(backend.address()).route(keys);
        if case.gone == Gone::Client {
            setup = setup.listen(&namespace.gate_address());
        }
        let pki = Pki::new();
        let gate = if case.tls { setup.tls(&pki, "") } else { setup }.start();
        let mut client_end = match case.gone {
            Gone::Client => namespace.dial(gate.address()),
            Gone::Backend => Peer::dial(gate.address()).await,
        };
        if case.tls {
            client_end = pki.secure(client_end).await;
        }
        client_end.send(OFFER).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send(AGREED).await;
        assert_eq!(client_end.read_head().await.status(), 101);
        let (gone, stays) = match case.gone {
            Gone::Client => (client_end, server_end),
            Gone::Backend => (server_end, client_end),
        };
        Self { namespace, gate, gone, stays }
    }
}

/// The record must be that of a dead side.
async fn expect_dead(gate: &Gate, case: Case) {
    let record = gate.tunnel_end().await;
    let end = (record.ending, record.ended_by, record.phase);
    assert_eq!(end, (Some("pong_timeout"), Some("gate"), Some("tunnel")), "{case:?}: {record:?}");
    assert!(record.error.as_deref().is_some_and(|error| error.starts_with(case.gone.label())), "{record:?}");
    assert_eq!(record.close, None);
}

/// A message, or a control frame, of the side that stays, or of the one that is to vanish.
fn of_stays(gone: Gone, opcode: u8, payload: &[u8]) -> Vec<u8> {
    match gone {
        Gone::Client => server(opcode, payload),
        Gone::Backend => client(opcode, payload),
    }
}

fn of_gone(gone: Gone, opcode: u8, payload: &[u8]) -> Vec<u8> {
    match gone {
        Gone::Client => client(opcode, payload),
        Gone::Backend => server(opcode, payload),
    }
}

/// Sends a message now and then if it `sends`, until the stream ends. Returns what came.
async fn live(mut peer: Peer, gone: Gone, sends: bool) -> Vec<frames::Read> {
    let mut all = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let message = of_stays(gone, BINARY, &[7; 2000]);
    loop {
        tokio::select! {
            _ = pace.tick(), if sends => {
                // After the end it may be refused.
                let _ = peer.offer_bytes(&message).await;
            }
            frame = frames::next(&mut peer) => match frame {
                Some(frame) => all.push(frame),
                None => return all,
            },
        }
    }
}

/// The side that stays sees no more than a bare end, and that in good time.
async fn expect_bare_end(stays: Peer, case: Case, within: Duration) {
    let began = Instant::now();
    let others = live(stays, case.gone, case.sends).await;
    let took = began.elapsed();
    assert!(others.is_empty(), "{case:?}: {others:?}");
    assert!(took < within + SLACK, "{case:?}: found after {took:?}");
}

async fn vanishes_after_an_answer(case: Case) {
    let Tunnel { namespace, gate, mut gone, mut stays } = Tunnel::open(case, &case.gone.keys()).await;
    let ping = frames::read(&mut gone).await;
    assert_eq!(ping.first, 0x80 | PING);
    gone.send(of_gone(case.gone, PONG, &ping.payload)).await;
    gone.send(of_gone(case.gone, TEXT, b"last words")).await;
    assert_eq!(frames::read(&mut stays).await.payload, b"last words");
    namespace.cut();
    expect_bare_end(stays, case, PING_INTERVAL + PONG_TIMEOUT).await;
    expect_dead(&gate, case).await;
    drop(gone);
}

#[tokio::test]
async fn t6_a_side_that_vanished_is_found_and_the_other_gets_a_bare_end() {
    if Namespace::new(Loss::Silent).is_some() {
        join_all(cases().into_iter().map(vanishes_after_an_answer)).await;
    }
}

async fn vanishes_while_it_is_sent_to(case: Case, pong_timeout: Duration) {
    let keys = format!("websocket.ping = \"off\"\nwebsocket.pong_timeout = \"{}s\"", pong_timeout.as_secs());
    let Tunnel { namespace, gate, mut gone, stays } = Tunnel::open(case, &keys).await;
    gone.send(of_gone(case.gone, TEXT, &[7; 1000])).await;
    namespace.cut();
    let said = vec![frames::Read { first: 0x81, masked: case.gone == Gone::Client, payload: vec![7; 1000] }];
    let began = Instant::now();
    assert_eq!(live(stays, case.gone, true).await, said, "{case:?}");
    assert!(began.elapsed() < pong_timeout + SLACK, "{case:?}: found after {:?}", began.elapsed());
    expect_dead(&gate, case).await;
    drop(gone);
}

#[tokio::test]
async fn t6_a_side_that_never_answered_a_ping_is_found_by_what_it_does_not_acknowledge() {
    let sent_to = cases().into_iter().filter(|case| case.sends);
    let within = |case: Case| match case.loss {
        Loss::Silent => Duration::from_secs(1),
        // So much that the kernel learns meanwhile that the neighbour is not there.
        Loss::Unreachable => Duration::from_secs(5),
    };
    if Namespace::new(Loss::Silent).is_some() {
        join_all(sent_to.map(|case| vanishes_while_it_is_sent_to(case, within(case)))).await;
    }
}
