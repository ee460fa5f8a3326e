//! The standing load: tunnels with traffic, and connections and exchanges without end, over three hand-overs.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{Site, ended, terminate};
use crate::harness::{
    AGREED, Backend, Head, OFFER, Peer, Serving, frames, get, ok,
    program::{Program, need_descriptors},
    soon,
};

/// Tunnels that are open at any time.
const TUNNELS: usize = 500;
/// Between two messages of a tunnel.
const PACE: Duration = Duration::from_millis(250);
/// Clients that ask on a new connection each time, and such that keep theirs.
const ASKING: usize = 4;

/// What went through, by the tunnel's target: bytes of payload as the one side sent and as the other received them.
#[derive(Debug, Default)]
struct Account {
    up: Mutex<HashMap<String, Side>>,
    down: Mutex<HashMap<String, Side>>,
}

/// Of a direction of a tunnel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Side {
    sent: u64,
    received: u64,
}

#[derive(Debug, Default)]
struct Load {
    account: Account,
    is_over: AtomicBool,
    exchanges: AtomicUsize,
    connections: AtomicUsize,
    tunnels: AtomicUsize,
    /// Requests that came to a kept connection just when it was closed.
    asked_again: AtomicUsize,
}

impl Load {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Answers plain requests, and sends every message of a tunnel back.
fn serve(backend: Backend, load: &Arc<Load>) -> Serving {
    let load = Arc::clone(load);
    backend.serve(move |mut peer| {
        let load = Arc::clone(&load);
        async move {
            while let Some(head) = peer.next_head().await {
                if head.has_token("upgrade", "websocket") {
                    return echo(peer, &head, &load.account).await;
                }
                peer.send(ok("hello")).await;
            }
        }
    })
}

async fn echo(mut peer: Peer, head: &Head, account: &Account) {
    let target = head.target().to_owned();
    peer.send(AGREED).await;
    let (mut received, mut sent) = (0, 0);
    while let Some(frame) = frames::next(&mut peer).await {
        if frame.first == 0x80 | frames::CLOSE {
            // Its answer; the gate may be gone.
            let _ = peer.offer_bytes(frames::server(frames::CLOSE, &frame.payload)).await;
            break;
        }
        received += frame.payload.len() as u64;
        peer.send(frames::server(frames::BINARY, &frame.payload)).await;
        sent += frame.payload.len() as u64;
    }
    account.up.lock().unwrap().entry(target.clone()).or_default().received = received;
    account.down.lock().unwrap().entry(target).or_default().sent = sent;
}

/// Has a tunnel open at any time, with messages that must come back in their order.
async fn keep_tunnel(id: usize, address: SocketAddr, load: Arc<Load>) {
    let mut number = 0;
    while !load.is_over() {
        let target = format!("/tunnel/{id}/{number}");
        number += 1;
        let mut peer = Peer::try_dial(address).await.expect("no connection is refused");
        peer.send(OFFER.replacen("GET /", &format!("GET {target}"), 1)).await;
        let status = peer.read_head().await.status();
        assert_eq!(status, 101, "{target}");
        load.tunnels.fetch_add(1, Ordering::Relaxed);
        let (sent, received) = talk(&mut peer, id, &load).await;
        load.account.up.lock().unwrap().entry(target.clone()).or_default().sent = sent;
        load.account.down.lock().unwrap().entry(target).or_default().received = received;
    }
}

/// Sends messages until the load is over, or until the gate ends the tunnel in order. Returns the bytes each way.
async fn talk(peer: &mut Peer, id: usize, load: &Load) -> (u64, u64) {
    let (mut sent, mut received) = (0, 0);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in id.. {
        let message = vec![u8::try_from(number % 251).unwrap(); 64 + number % 1000];
        peer.send(frames::client(frames::BINARY, &message)).await;
        sent += message.len() as u64;
        let frame = frames::read(peer).await;
        if frame.first == 0x80 | frames::CLOSE {
            assert_eq!(frame.close_code(), 1012);
            peer.send(frames::client_close(1012, "")).await;
            break;
        }
        assert!(frame.payload == message, "tunnel {id}: message {number} is another one");
        received += message.len() as u64;
        if load.is_over() {
            peer.send(frames::client_close(1000, "")).await;
            assert_eq!(frames::read(peer).await.close_code(), 1000);
            break;
        }
        tokio::select! {
            _ = pace.tick() => {}
            frame = frames::next(peer) => {
                assert_eq!(frame.expect("no tunnel is cut").close_code(), 1012);
                peer.send(frames::client_close(1012, "")).await;
                break;
            }
        }
    }
    peer.read_to_end().await;
    (sent, received)
}

async fn ask_anew(address: SocketAddr, load: Arc<Load>) {
    while !load.is_over() {
        let mut peer = Peer::try_dial(address).await.expect("no connection is refused");
        peer.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(peer.read_response().await.text(), "hello");
        load.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks on one connection for as long as it stays. One that is closed when the request comes has lost nothing: the client knows,
/// and asks again.
async fn ask_again(address: SocketAddr, load: Arc<Load>) {
    while !load.is_over() {
        let mut peer = Peer::try_dial(address).await.expect("no connection is refused");
        let mut is_first = true;
        while !load.is_over() {
            match ask(&mut peer).await {
                Ok(stays) => {
                    load.exchanges.fetch_add(1, Ordering::Relaxed);
                    if !stays {
                        break;
                    }
                }
                Err(error) => {
                    assert!(!is_first, "a new connection: {error}");
                    load.asked_again.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            is_first = false;
        }
    }
}

/// One exchange. Whether the connection stays; an error is an end before the first byte of the answer.
async fn ask(peer: &mut Peer) -> io::Result<bool> {
    peer.offer_bytes(get("/", "")).await?;
    let first = soon("an answer", peer.read_until(|tail| (!tail.is_empty()).then_some(0))).await?;
    first.ok_or(io::ErrorKind::UnexpectedEof)?;
    let response = peer.read_response().await;
    assert_eq!(response.text(), "hello");
    Ok(!response.head.has_token("connection", "close"))
}

async fn reaches(what: &str, count: &AtomicUsize, wanted: usize) {
    soon(what, async {
        while count.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_five_hundred_tunnels_and_a_stream_of_connections_over_three_hand_overs() {
    need_descriptors(8192);
    let load = Arc::<Load>::default();
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"2s\"";
    let _serving = serve(backend, &load);
    let mut program = site.run().await;
    let mut clients = JoinSet::new();
    for id in 0..TUNNELS {
        clients.spawn(keep_tunnel(id, site.address, Arc::clone(&load)));
    }
    for _ in 0..ASKING {
        clients.spawn(ask_anew(site.address, Arc::clone(&load)));
        clients.spawn(ask_again(site.address, Arc::clone(&load)));
    }
    for round in 1..=3 {
        reaches("tunnels to open", &load.tunnels, round * TUNNELS).await;
        let asked = load.connections.load(Ordering::Relaxed);
        reaches("requests", &load.connections, asked + 20).await;
        let new = site.swap(&program).await;
        let old: Program = std::mem::replace(&mut program, new);
        ended_within_grace(old).await;
    }
    reaches("tunnels to open again", &load.tunnels, 4 * TUNNELS).await;
    load.is_over.store(true, Ordering::Relaxed);
    while let Some(client) = soon("clients to end", clients.join_next()).await {
        client.unwrap();
    }
    terminate(program).await;
    balance(&load);
}

async fn ended_within_grace(old: Program) {
    ended(old).await;
}

/// Every byte that a client sent was received, and what it received is what was sent, but for echoes that came after a Close.
fn balance(load: &Load) {
    let (up, down) = (load.account.up.lock().unwrap(), load.account.down.lock().unwrap());
    assert_eq!(up.len(), load.tunnels.load(Ordering::Relaxed));
    for (target, side) in &*up {
        assert_eq!(side.sent, side.received, "{target}: {side:?}, {:?}", down[target]);
        let down = down[target];
        assert!(
            down.received <= down.sent && side.sent - down.received <= 1100,
            "{target}: {side:?}, {down:?}"
        );
    }
    let bytes: u64 = up.values().map(|side| side.sent).sum();
    println!(
        "{} tunnels, {bytes} bytes up; {} connections, {} exchanges on kept ones, {} of them asked again",
        up.len(),
        load.connections.load(Ordering::Relaxed),
        load.exchanges.load(Ordering::Relaxed),
        load.asked_again.load(Ordering::Relaxed),
    );
    assert!(load.exchanges.load(Ordering::Relaxed) > 0);
}
