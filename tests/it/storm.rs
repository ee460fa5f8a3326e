//! Many clients at once: a flood of one address (rule S2), and all clients that come back at the same time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::harness::{
    Gate, HttpBackend, OFFER, Peer, Setup, frames, get, pki::Pki, program::need_descriptors, websocket,
};

/// The address from which a flood comes.
const FLOOD: &str = "127.0.0.2";

/// Connects over and over and holds each connection, after the beginning of something, until it is cut.
async fn flood(address: SocketAddr, beginning: &'static [u8], is_over: Arc<AtomicBool>) {
    let mut held = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        // Refused or reset is what a flood comes to.
        let Ok(mut peer) = Peer::try_dial_from(FLOOD, address).await else { continue };
        let _ = peer.offer_bytes(beginning).await;
        held.push(peer);
        // Those that were cut hold nothing of the gate; they are let go so that this process has descriptors.
        if held.len() >= 50 {
            held.drain(..25);
        }
        tokio::task::yield_now().await;
    }
}

/// A thousand connections of one address that stall with `beginning`, and then more of them without end, while others ask.
async fn expect_others_served(setup: Setup, beginning: &'static [u8]) {
    // Without the limit per address, either of the others would be used up.
    let gate = setup
        .server("max_connections = 100\nmax_tls_handshakes = 40")
        .listener("max_connections_per_ip = 20")
        .start();
    let mut stalled = Vec::new();
    for _ in 0..1000 {
        let Ok(mut peer) = Peer::try_dial_from(FLOOD, gate.address()).await else { continue };
        let _ = peer.offer_bytes(beginning).await;
        stalled.push(peer);
    }
    let is_over = Arc::<AtomicBool>::default();
    let mut floods = JoinSet::new();
    for _ in 0..4 {
        floods.spawn(flood(gate.address(), beginning, Arc::clone(&is_over)));
    }
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        let mut client = gate.ask(get("/", "Connection: close\r\n")).await;
        assert_eq!(client.read_response().await.text(), "hello");
        longest = longest.max(began.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    floods.join_all().await;
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(gate.cut_unanswered() >= 900, "{}", gate.cut_unanswered());
    drop(stalled);
    gate.at_rest().await;
}

#[tokio::test]
async fn s2_a_flood_of_one_address_that_stalls_in_tls_keeps_nobody_else_out() {
    let backend = HttpBackend::start().await;
    expect_others_served(Setup::to(backend.address()).tls(&Pki::new(), ""), &[0x16, 3, 1]).await;
}

#[tokio::test]
async fn s2_a_flood_of_one_address_that_stalls_in_heads_keeps_nobody_else_out() {
    let backend = HttpBackend::start().await;
    expect_others_served(Setup::to(backend.address()), b"GET / HT").await;
}

/// So many clients of 50 addresses that come back at once, to a gate that has room for `room` of them.
async fn storm(count: usize, room: usize, tls: Option<&Arc<Pki>>) {
    need_descriptors(count as u64 + 5 * room as u64);
    let backend = websocket::echo().await;
    let setup = Setup::to(backend.address())
        .server(&format!("max_connections = {room}"))
        .listener("max_connections_per_ip = 1_000\nhandshake_rate_per_ip = \"1_000/s\"");
    let gate = match tls {
        Some(pki) => setup.tls(pki, "").start(),
        None => setup.start(),
    };
    let mut clients = JoinSet::new();
    for number in 0..count {
        let (address, tls) = (gate.address(), tls.map(Arc::clone));
        clients.spawn(async move {
            let mut client = Peer::dial_from(&format!("127.0.1.{}", number % 50 + 1), address).await;
            if let Some(pki) = tls {
                client = pki.secure(client).await;
            }
            come_back(client).await
        });
    }
    let answers = clients.join_all().await;
    let tunnels: Vec<_> = answers.into_iter().flatten().collect();
    // A tunnel's place is given to nobody else, and none stays free while somebody waits for one.
    assert_eq!(tunnels.len(), room, "{:?}", endings(&gate));
    gate.has_connections(room).await;
    assert_eq!(gate.places(), room);
    drop(tunnels);
    gate.at_rest().await;
    let began = Instant::now();
    assert!(come_back(gate.client().await).await.is_some());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// How much ended how.
fn endings(gate: &Gate) -> BTreeMap<(Option<u16>, Option<&'static str>), usize> {
    let mut counts = BTreeMap::new();
    for record in gate.records() {
        *counts.entry((record.status, record.ending)).or_default() += 1;
    }
    counts
}

/// Offers. Returns the tunnel if it gets one; else it was told when to try again, and is gone.
async fn come_back(mut client: Peer) -> Option<Peer> {
    client.send(OFFER).await;
    let head = client.read_head().await;
    if head.status() == 101 {
        client.send(frames::client(frames::TEXT, "back")).await;
        client.expect(frames::server(frames::TEXT, "back")).await;
        return Some(client);
    }
    assert_eq!(head.status(), 503);
    let retry_after: u64 = head.get("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=10).contains(&retry_after));
    client.read_to_end().await;
    None
}

#[tokio::test]
async fn s2_5000_clients_that_come_back_at_once_are_served_or_told_when_to_try_again() {
    storm(5000, 2000, None).await;
}

#[tokio::test]
async fn s2_400_clients_that_come_back_at_once_over_tls_are_served_or_told_when_to_try_again() {
    storm(400, 150, Some(&Pki::new())).await;
}
