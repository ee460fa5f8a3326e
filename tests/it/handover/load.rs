//! The standing load: tunnels with traffic, and connections and exchanges without end, half of it over TLS, over three
//! hand-overs. What clients saw, what the backend saw and what the processes recorded must be the same.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ClientConfig;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{Site, ended, free_address, terminate};
use crate::harness::{
    AGREED, Backend, Head, OFFER, Peer, Serving, frames, get, ok,
    pki::Pki,
    program::{Program, need_descriptors},
    soon,
};

/// Tunnels that are open at any time.
const TUNNELS: usize = 500;
/// Between two messages of a tunnel.
const PACE: Duration = Duration::from_millis(250);
/// Clients that ask on a new connection each time, and such that keep theirs.
const ASKING: usize = 4;
const HAND_OVERS: usize = 3;

/// Bytes of payload that a tunnel's backend received, and sent back.
#[derive(Debug, Clone, Copy)]
struct Served {
    received: u64,
    sent: u64,
}

/// What a tunnel's client saw.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Bytes of payload.
    sent: u64,
    received: u64,
    /// Of the message that was on its way there, or whose echo was on its way back, when the Close came.
    unanswered: u64,
    messages: u64,
    ending: &'static str,
}

#[derive(Debug, Default)]
struct Load {
    /// By the tunnel's target, when it has ended.
    served: Mutex<HashMap<String, Served>>,
    seen: Mutex<HashMap<String, Seen>>,
    is_over: AtomicBool,
    hand_overs: AtomicUsize,
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

/// The ways into the gate.
struct Doors {
    plain: SocketAddr,
    tls: SocketAddr,
    pki: Arc<Pki>,
    config: ClientConfig,
}

impl Doors {
    /// A connection, which nobody refuses. Every other client comes by TLS.
    async fn enter(&self, client: usize) -> Peer {
        if client.is_multiple_of(2) {
            return Peer::try_dial(self.plain).await.expect("no connection is refused");
        }
        self.pki.try_client(self.tls, "localhost", &self.config).await.expect("no TLS handshake fails")
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
                    return echo(peer, &head, &load).await;
                }
                peer.send(ok("hello")).await;
            }
        }
    })
}

async fn echo(mut peer: Peer, head: &Head, load: &Load) {
    peer.send(AGREED).await;
    let mut served = Served { received: 0, sent: 0 };
    while let Some(frame) = frames::next(&mut peer).await {
        if frame.first == 0x80 | frames::CLOSE {
            // Its answer; the gate may be gone.
            let _ = peer.offer_bytes(frames::server(frames::CLOSE, &frame.payload)).await;
            break;
        }
        served.received += frame.payload.len() as u64;
        peer.send(frames::server(frames::BINARY, &frame.payload)).await;
        served.sent += frame.payload.len() as u64;
    }
    load.served.lock().unwrap().insert(head.target().to_owned(), served);
}

/// Has a tunnel open at any time, with messages that must come back in their order.
async fn keep_tunnel(id: usize, doors: Arc<Doors>, load: Arc<Load>) {
    let mut number = 0;
    while !load.is_over() {
        let target = format!("/tunnel/{id}/{number}");
        number += 1;
        let mut peer = doors.enter(id).await;
        peer.send(OFFER.replacen("GET /", &format!("GET {target}"), 1)).await;
        let status = peer.read_head().await.status();
        assert_eq!(status, 101, "{target}");
        load.tunnels.fetch_add(1, Ordering::Relaxed);
        let seen = talk(&mut peer, id, &load).await;
        peer.expect_end().await;
        load.seen.lock().unwrap().insert(target, seen);
    }
}

/// Sends messages until the load is over, or until the gate ends the tunnel in order.
async fn talk(peer: &mut Peer, id: usize, load: &Load) -> Seen {
    let mut seen = Seen { ending: "drained", ..Seen::default() };
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in id.. {
        let message = vec![u8::try_from(number % 251).unwrap(); 64 + number % 1000];
        let length = message.len() as u64;
        peer.send(frames::client(frames::BINARY, &message)).await;
        seen.sent += length;
        seen.messages += 1;
        let frame = frames::read(peer).await;
        if frame.first == 0x80 | frames::CLOSE {
            seen.unanswered = length;
            leave(peer, &frame).await;
            break;
        }
        assert!(frame.payload == message, "tunnel {id}: message {number} is another one");
        seen.received += length;
        if load.is_over() {
            peer.send(frames::client_close(1000, "")).await;
            assert_eq!(frames::read(peer).await.close_code(), 1000);
            seen.ending = "closed";
            break;
        }
        tokio::select! {
            _ = pace.tick() => {}
            frame = frames::next(peer) => {
                leave(peer, &frame.expect("no tunnel is cut")).await;
                break;
            }
        }
    }
    seen
}

/// Answers the Close of a drain.
async fn leave(peer: &mut Peer, close: &frames::Read) {
    assert_eq!(close.close_code(), 1012);
    peer.send(frames::client_close(1012, "")).await;
}

async fn ask_anew(client: usize, doors: Arc<Doors>, load: Arc<Load>) {
    while !load.is_over() {
        let mut peer = doors.enter(client).await;
        peer.send(get("/", "Connection: close\r\n")).await;
        assert_eq!(peer.read_response().await.text(), "hello");
        peer.expect_end().await;
        load.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks on one connection for as long as it stays. One that is closed when the request comes has lost nothing: the client
/// knows, and asks again, once for each hand-over at most.
async fn ask_again(client: usize, doors: Arc<Doors>, load: Arc<Load>) {
    let mut asked_again = 0;
    while !load.is_over() {
        let mut peer = doors.enter(client).await;
        let mut is_first = true;
        while !load.is_over() {
            let Some(stays) = ask(&mut peer).await else {
                assert!(!is_first, "a new connection ended without an answer");
                asked_again += 1;
                let hand_overs = load.hand_overs.load(Ordering::Relaxed);
                assert!(asked_again <= hand_overs, "{asked_again} times in {hand_overs} hand-overs");
                load.asked_again.fetch_add(1, Ordering::Relaxed);
                break;
            };
            load.exchanges.fetch_add(1, Ordering::Relaxed);
            if !stays {
                peer.expect_end().await;
                break;
            }
            is_first = false;
        }
    }
}

/// One exchange. Whether the connection stays; `None` if it ended, in order, before the first byte of the answer.
async fn ask(peer: &mut Peer) -> Option<bool> {
    peer.offer_bytes(get("/", "")).await.expect("an end, not a reset");
    let first = soon("an answer", peer.read_until(|tail| (!tail.is_empty()).then_some(0))).await;
    first.expect("an end, not a reset")?;
    let response = peer.read_response().await;
    assert_eq!(response.text(), "hello");
    Some(!response.head.has_token("connection", "close"))
}

async fn reaches(what: &str, count: impl Fn() -> usize, wanted: usize) {
    soon(what, async {
        while count() < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A site with a listener for TLS too, and the ways into it.
fn site(backend: &Backend) -> (Site, Arc<Doors>) {
    let pki = Pki::new();
    let leaf = pki.leaf("localhost");
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"2s\"";
    let tls = free_address();
    site.listeners = format!(
        "[[listener]]\naddress = \"{tls}\"\ntls = {{ cert = \"{}\", key = \"{}\" }}",
        leaf.cert.display(),
        leaf.key.display()
    );
    let config = pki.client_config();
    let doors = Doors { plain: site.address, tls, pki, config };
    (site, Arc::new(doors))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_five_hundred_tunnels_and_a_stream_of_connections_over_three_hand_overs() {
    need_descriptors(8192);
    let load = Arc::<Load>::default();
    let backend = Backend::listen().await;
    let (site, doors) = site(&backend);
    let _serving = serve(backend, &load);
    let mut program = site.run().await;
    let mut clients = JoinSet::new();
    for id in 0..TUNNELS {
        clients.spawn(keep_tunnel(id, Arc::clone(&doors), Arc::clone(&load)));
    }
    for id in 0..ASKING {
        clients.spawn(ask_anew(id, Arc::clone(&doors), Arc::clone(&load)));
        clients.spawn(ask_again(id, Arc::clone(&doors), Arc::clone(&load)));
    }
    let tunnels = || load.tunnels.load(Ordering::Relaxed);
    let connections = || load.connections.load(Ordering::Relaxed);
    for round in 1..=HAND_OVERS {
        reaches("tunnels to open", tunnels, round * TUNNELS).await;
        reaches("requests", connections, connections() + 20).await;
        load.hand_overs.store(round, Ordering::Relaxed);
        let new = site.swap(&program).await;
        let old: Program = std::mem::replace(&mut program, new);
        ended(old).await;
    }
    reaches("tunnels to open again", tunnels, (HAND_OVERS + 1) * TUNNELS).await;
    load.is_over.store(true, Ordering::Relaxed);
    while let Some(client) = soon("clients to end", clients.join_next()).await {
        client.unwrap();
    }
    let log = || fs::read_to_string(site.folder.path().join("access.log")).unwrap();
    terminate(program).await;
    reaches("the backend's accounts", || load.served.lock().unwrap().len(), tunnels()).await;
    balance(&load);
    expect_recorded(&load, &log());
}

/// Every byte that a client sent was received and sent back, and came to it, but for the one echo that a Close came before.
fn balance(load: &Load) {
    let (served, seen) = (load.served.lock().unwrap(), load.seen.lock().unwrap());
    let tunnels = load.tunnels.load(Ordering::Relaxed);
    assert_eq!((served.len(), seen.len()), (tunnels, tunnels));
    for (target, seen) in &*seen {
        let served = served[target];
        assert_eq!(served.received, seen.sent, "{target}: {served:?}, {seen:?}");
        assert_eq!(served.sent, seen.sent, "{target}: {served:?}, {seen:?}");
        assert_eq!(seen.received + seen.unanswered, seen.sent, "{target}: {served:?}, {seen:?}");
    }
    println!(
        "{tunnels} tunnels, {} bytes up, {} of them without an echo; {} connections, {} exchanges on kept ones, {} asked again",
        seen.values().map(|seen| seen.sent).sum::<u64>(),
        seen.values().map(|seen| seen.unanswered).sum::<u64>(),
        load.connections.load(Ordering::Relaxed),
        load.exchanges.load(Ordering::Relaxed),
        load.asked_again.load(Ordering::Relaxed),
    );
    assert!(load.exchanges.load(Ordering::Relaxed) > 0);
}

/// The processes, which write to one file, recorded what the clients saw, and nothing else.
fn expect_recorded(load: &Load, log: &str) {
    let seen = load.seen.lock().unwrap();
    let (mut exchanges, mut opened, mut ended) = (0, HashSet::new(), HashSet::new());
    let (mut drained, mut by_tls) = (0, 0);
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let target = record["target"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        match record["event"].as_str() {
            Some("exchange") => {
                assert_eq!((&record["status"], record.get("ending")), (&Value::from(200), None), "{line}");
                exchanges += 1;
                by_tls += usize::from(record["tls"].is_object());
            }
            Some("tunnel_open") => assert!(opened.insert(target), "twice: {line}"),
            Some("tunnel_end") => {
                let seen = seen.get(&target).unwrap_or_else(|| panic!("nobody's: {line}"));
                assert_eq!(record["ending"], seen.ending, "{line}");
                assert_eq!(record["from_client"]["messages"], seen.messages, "{line}");
                drained += usize::from(seen.ending == "drained");
                assert!(ended.insert(target), "twice: {line}");
            }
            _ => panic!("{line}"),
        }
    }
    let asked = load.connections.load(Ordering::Relaxed) + load.exchanges.load(Ordering::Relaxed);
    assert_eq!((exchanges, opened.len(), ended.len()), (asked, seen.len(), seen.len()));
    assert_eq!(drained, HAND_OVERS * TUNNELS);
    assert!(by_tls > 0 && by_tls < exchanges, "{by_tls} of {exchanges}");
}
