//! The program told to go down, with many tunnels under traffic: rule T9, `drain_spread`, `shutdown_grace`, the second
//! signal, the exit code and what the log tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::interval};

use crate::harness::{
    AGREED, Backend, OFFER, PATIENCE, Peer,
    frames::{self, BINARY, CLOSE, TEXT, client, client_raw, server, server_raw},
    get, ok,
    pki::Pki,
    program::{Program, need_descriptors},
    soon,
};

/// Messages with a number in each, from one sender; every third in three frames.
struct Talk {
    raw: fn(u8, Vec<u8>) -> Vec<u8>,
    tunnel: u32,
    said: u32,
}

impl Talk {
    fn of_client(tunnel: u32) -> Self {
        Self { raw: client_raw, tunnel, said: 0 }
    }

    fn of_backend(tunnel: u32) -> Self {
        Self { raw: server_raw, tunnel, said: 0 }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut payload = [self.tunnel.to_be_bytes(), self.said.to_be_bytes()].concat();
        payload.resize(8 + (self.said as usize * 331 + self.tunnel as usize * 17) % 1500, b'x');
        self.said += 1;
        if !self.said.is_multiple_of(3) {
            return (self.raw)(0x80 | BINARY, payload);
        }
        let last = payload.split_off(6);
        let second = payload.split_off(2);
        [(self.raw)(BINARY, payload), (self.raw)(0, second), (self.raw)(0x80, last)].concat()
    }
}

/// Puts messages together and looks that they come in their order.
#[derive(Default)]
struct Listen {
    tunnel: Option<u32>,
    heard: u32,
    open: Option<Vec<u8>>,
}

impl Listen {
    /// Takes a frame; a Close is given back, and must not come within a message.
    fn take(&mut self, frame: frames::Read) -> Option<frames::Read> {
        match frame.first & 0xf {
            CLOSE => {
                assert!(self.open.is_none(), "a Close within a message");
                return Some(frame);
            }
            BINARY => assert!(self.open.replace(frame.payload).is_none(), "a message within a message"),
            0 => self.open.as_mut().expect("a message").extend(frame.payload),
            _ => panic!("{frame:?}"),
        }
        if frame.first & 0x80 != 0 {
            let message = self.open.take().expect("a message");
            let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(*self.tunnel.get_or_insert(word(0)), word(0), "another's message");
            assert_eq!(word(4), self.heard, "a message is missing");
            self.heard += 1;
        }
        None
    }
}

const PACE: Duration = Duration::from_millis(250);

/// What a client found.
struct ClientSaw {
    tunnel: u32,
    said: u32,
    closed: Instant,
}

/// Talks until the Close, answers it, and sees the end.
async fn be_client(mut peer: Peer, tunnel: u32, heard_first: Arc<AtomicUsize>) -> ClientSaw {
    let (mut talk, mut listen) = (Talk::of_client(tunnel), Listen::default());
    let mut pace = interval(PACE);
    let close = loop {
        tokio::select! {
            _ = pace.tick() => peer.send(talk.next()).await,
            frame = frames::next(&mut peer) => {
                let close = listen.take(frame.expect("a Close, not a bare end"));
                if listen.heard == 1 && close.is_none() {
                    heard_first.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(close) = close {
                    break close;
                }
            }
        }
    };
    let closed = Instant::now();
    assert_eq!((close.close_code(), close.masked), (1012, false));
    assert!(std::str::from_utf8(&close.payload[2..]).is_ok_and(|reason| !reason.is_empty()), "with a reason");
    // What it says before its answer is delivered too.
    peer.send([talk.next(), talk.next(), frames::client_close(1012, "")].concat()).await;
    peer.expect_end().await;
    peer.shutdown().await;
    ClientSaw { tunnel, said: talk.said, closed }
}

/// What a backend found: who its client was, and how many messages came.
async fn be_backend(mut peer: Peer) -> (u32, u32) {
    peer.read_head().await;
    peer.send(AGREED).await;
    let (mut talk, mut listen) = (Talk::of_backend(0), Listen::default());
    let mut pace = interval(PACE);
    let close = loop {
        tokio::select! {
            _ = pace.tick(), if listen.tunnel.is_some() => {
                talk.tunnel = listen.tunnel.unwrap_or_default();
                peer.send(talk.next()).await;
            }
            frame = frames::next(&mut peer) => {
                if let Some(close) = listen.take(frame.expect("a Close, not a bare end")) {
                    break close;
                }
            }
        }
    };
    assert_eq!((close.close_code(), close.masked), (1001, true));
    peer.send(frames::server_close(1001, "")).await;
    peer.expect_end().await;
    (listen.tunnel.expect("a client that said something"), listen.heard)
}

/// Files of a program in its own folder.
struct Setting {
    folder: TempDir,
    pki: Option<Arc<Pki>>,
}

impl Setting {
    fn new(tls: bool) -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), pki: tls.then(Pki::new) }
    }

    async fn run(&self, server: &str, route: &str, backend: &str) -> Program {
        let tls = self.pki.as_ref().map_or_else(String::new, |pki| {
            let leaf = pki.leaf("localhost");
            format!("tls = {{ cert = \"{}\", key = \"{}\" }}\n", leaf.cert.display(), leaf.key.display())
        });
        let toml = format!(
            "[server]\n{server}\n[[listener]]\naddress = \"127.0.0.1:0\"\n{tls}\
             [upstream.main]\nservers = [\"{backend}\"]\n[[route]]\nupstream = \"main\"\n{route}\n"
        );
        Program::start(self.folder.path(), &toml, None).await
    }

    async fn client(&self, program: &Program) -> Peer {
        let peer = Peer::dial(program.address).await;
        match &self.pki {
            Some(pki) => pki.secure(peer).await,
            None => peer,
        }
    }

    async fn tunnel(&self, program: &Program, backend: &Backend) -> (Peer, Peer) {
        let mut client_end = self.client(program).await;
        client_end.send(OFFER).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send(AGREED).await;
        assert_eq!(client_end.read_head().await.status(), 101);
        (client_end, server_end)
    }
}

fn is_draining(event: &Value) -> bool {
    event["message"] == "draining"
}

/// Where many tunnels were open and drained, what the log tells of it.
fn expect_told(said: &[Value], open: u64) {
    let of = |message: &str| said.iter().filter(|event| event["message"] == message).collect::<Vec<_>>();
    let progress = of("draining");
    assert_eq!(progress[0]["open"], open, "{said:?}");
    assert!(progress.len() > 1, "no progress is told in a drain of more than two seconds");
    let mut before = open;
    for event in &progress[1..] {
        let left = event["open"].as_u64().expect("a count");
        assert!(left <= before && event["drained"] == open - left, "{event}");
        before = left;
    }
    let drained = of("drained");
    assert_eq!(drained.len(), 1);
    assert_eq!((&drained[0]["drained"], &drained[0]["cut"]), (&open.into(), &0.into()));
    let ended = of("ended");
    assert_eq!((&ended[0]["cut"], &ended[0]["panicked"]), (&0.into(), &0.into()));
}

/// Drains so many tunnels under traffic in both directions, over three seconds.
async fn drain_many(tls: bool, count: u32) {
    const SPREAD: Duration = Duration::from_secs(3);
    need_descriptors(u64::from(count) * 4 + 500);
    let setting = Setting::new(tls);
    let backend = Backend::listen().await;
    let mut program = setting.run("drain_spread = \"3s\"", "", &backend.address()).await;
    let mut backends = JoinSet::new();
    let accepting = tokio::spawn(async move {
        for _ in 0..count {
            backends.spawn(be_backend(backend.accept().await));
        }
        backends
    });
    let heard_first = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    let open = async |tunnel| {
        let mut peer = setting.client(&program).await;
        peer.send(OFFER).await;
        assert_eq!(peer.read_head().await.status(), 101);
        (peer, tunnel)
    };
    let open_all = stream::iter(0..count).map(open).buffer_unordered(40).for_each(|(peer, tunnel)| {
        clients.spawn(be_client(peer, tunnel, Arc::clone(&heard_first)));
        std::future::ready(())
    });
    open_all.await;
    let backends = accepting.await.expect("no panic");
    soon("messages in every tunnel", async {
        while heard_first.load(Ordering::Relaxed) < count as usize {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    let signalled = Instant::now();
    program.terminate();
    let ends = async { (clients.join_all().await, backends.join_all().await) };
    let (clients, backends) = tokio::time::timeout(3 * PATIENCE, ends).await.expect("all ends in time");
    assert_eq!(program.ended().await, Some(0));

    let arrived: BTreeMap<u32, u32> = backends.into_iter().collect();
    for ClientSaw { tunnel, said, .. } in &clients {
        assert_eq!(arrived.get(tunnel), Some(said), "messages of tunnel {tunnel}");
    }
    // On a slow machine they may come late, but never in one heap.
    let closed: Vec<_> = clients.iter().map(|saw| saw.closed - signalled).collect();
    let (first, last) = (closed.iter().min().expect("many"), closed.iter().max().expect("many"));
    assert!(*last < SPREAD + Duration::from_secs(15), "the last Close came after {last:?}");
    let tenths: BTreeSet<_> =
        closed.iter().map(|after| after.as_millis() * 10 / SPREAD.as_millis()).collect();
    assert!(tenths.len() >= 5 && *last > *first + SPREAD / 3, "from {first:?} to {last:?}, in {tenths:?}");

    expect_told(&program.said(), count.into());
    let records = program.records();
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    assert_eq!(of("tunnel_open").len(), count as usize);
    let ends = of("tunnel_end");
    assert_eq!(ends.len(), count as usize);
    for end in ends {
        assert_eq!((&end["ending"], &end["ended_by"]), (&"drained".into(), &"gate".into()), "{end}");
        assert_eq!((&end["close"]["code"], &end["close"]["side"]), (&1012.into(), &"gate".into()), "{end}");
        assert_eq!(end["truncated"], Value::Null, "{end}");
    }
}

#[tokio::test]
async fn t9_500_wss_tunnels_under_traffic_leave_in_order_over_drain_spread() {
    drain_many(true, 500).await;
}

#[tokio::test]
async fn t9_100_ws_tunnels_under_traffic_leave_in_order_over_drain_spread() {
    drain_many(false, 100).await;
}

async fn expect_refused(program: &Program) {
    let error = Peer::try_dial(program.address).await.expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn sigterm_closes_what_listens_and_what_is_idle_and_lets_an_exchange_end() {
    for tls in [false, true] {
        let setting = Setting::new(tls);
        let backend = Backend::listen().await;
        let mut program = setting.run("drain_spread = \"0s\"", "", &backend.address()).await;
        let mut idle = setting.client(&program).await;
        idle.send(get("/", "")).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        let first = ok("first").replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server_end.send(first).await;
        assert_eq!(idle.read_response().await.text(), "first");
        let mut running = setting.client(&program).await;
        running.send(get("/", "")).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsec").await;
        let head = running.read_head().await;
        assert!(!head.has_token("connection", "close"), "{head:?}");
        let mut waiting = setting.client(&program).await;
        waiting.send(get("/", "")).await;
        let mut other_end = backend.accept().await;
        other_end.read_head().await;
        program.terminate();
        let told = program.says("that it drains", is_draining).await;
        assert_eq!(told["open"], 3, "{told}");
        expect_refused(&program).await;
        idle.expect_end().await;
        idle.shutdown().await;
        // One had its head before the drain, and the other not.
        server_end.send("ond").await;
        other_end.send(ok("third")).await;
        running.expect("second").await;
        running.expect_end().await;
        running.shutdown().await;
        let answer = waiting.read_response().await;
        assert_eq!(answer.text(), "third");
        assert!(answer.head.has_token("connection", "close"), "{:?}", answer.head);
        waiting.expect_end().await;
        waiting.shutdown().await;
        assert_eq!(program.ended().await, Some(0));
        let said = program.said();
        let drained = said.iter().find(|event| event["message"] == "drained").expect("told");
        assert_eq!((&drained["drained"], &drained["cut"]), (&3.into(), &0.into()));
    }
}

/// Two tunnels that can't end: within a frame both ways, and with hours to answer.
async fn hold(setting: &Setting, program: &Program, backend: &Backend) -> Vec<(Peer, Peer)> {
    let mut open = Vec::new();
    for _ in 0..2 {
        let (mut client_end, mut server_end) = setting.tunnel(program, backend).await;
        client_end.send(&client(TEXT, "half a frame")[..9]).await;
        server_end.expect(&client(TEXT, "half a frame")[..9]).await;
        server_end.send(&server(TEXT, "half a frame")[..9]).await;
        client_end.expect(&server(TEXT, "half a frame")[..9]).await;
        open.push((client_end, server_end));
    }
    open
}

/// The tunnels were cut, without a Close, and that is told.
async fn expect_cut(program: &mut Program, mut open: Vec<(Peer, Peer)>) {
    for (client_end, server_end) in &mut open {
        assert!(client_end.expect_reset().await.is_empty());
        assert!(server_end.expect_reset().await.is_empty());
    }
    assert_eq!(program.ended().await, Some(0), "README: 1 is for what failed");
    let said = program.said();
    let cut = said.iter().find(|event| event["message"] == "cutting what is still open").expect("told");
    assert_eq!((&cut["level"], &cut["cut"], &cut["drained"]), (&"WARN".into(), &2.into(), &0.into()));
    let ended = said.iter().find(|event| event["message"] == "ended").expect("told");
    assert_eq!(ended["cut"], 2);
    let records = program.records();
    let ends: Vec<_> = records.iter().filter(|record| record["event"] == "tunnel_end").collect();
    assert_eq!(ends.len(), 2);
    for end in ends {
        assert_eq!((&end["ending"], &end["ended_by"]), (&"drain_timeout".into(), &"gate".into()), "{end}");
    }
}

#[tokio::test]
async fn a_second_sigterm_cuts_at_once() {
    for tls in [false, true] {
        let setting = Setting::new(tls);
        let backend = Backend::listen().await;
        let keys = "drain_spread = \"0s\"\nshutdown_grace = \"1h\"";
        let mut program = setting.run(keys, "websocket.close_timeout = \"1h\"", &backend.address()).await;
        let open = hold(&setting, &program, &backend).await;
        program.terminate();
        program.says("that it drains", is_draining).await;
        program.terminate();
        expect_cut(&mut program, open).await;
    }
}

#[tokio::test]
async fn what_is_left_after_shutdown_grace_is_cut_and_counted() {
    for tls in [false, true] {
        let setting = Setting::new(tls);
        let backend = Backend::listen().await;
        let keys = "drain_spread = \"0s\"\nshutdown_grace = \"500ms\"";
        let mut program = setting.run(keys, "websocket.close_timeout = \"1h\"", &backend.address()).await;
        let open = hold(&setting, &program, &backend).await;
        program.terminate();
        expect_cut(&mut program, open).await;
    }
}
