//! Failover while servers come and go under tunnels that open and close: rules B8 and T3.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wsgate::telemetry::Kind;

use crate::harness::{AGREED, Backend, Gate, Head, Peer, Setup, frames, offer_with, soon};

/// What came with a connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Nothing yet.
    Nothing,
    Check {
        passed: bool,
    },
    /// From a client that began when so many connections had been made.
    Offer {
        began: usize,
    },
}

/// A server that falls and rises on the same port. Its tunnels send back what they get.
struct Server {
    place: usize,
    address: SocketAddr,
    /// Keeps the port from others while nobody listens on it.
    _port: TcpSocket,
    /// How it takes checks.
    passes: AtomicBool,
    /// Leaves every tenth offer without an answer.
    drops: bool,
    /// The connections in the order in which they were made.
    came: Mutex<Vec<Came>>,
    falls: AtomicUsize,
    up: Mutex<Option<Up>>,
}

/// While it lasts, a server listens.
struct Up {
    fall: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    fn new(place: usize, drops: bool) -> Arc<Self> {
        let port = shared(SocketAddr::from(([127, 0, 0, 1], 0)));
        let server = Arc::new(Self {
            place,
            address: port.local_addr().unwrap(),
            _port: port,
            passes: AtomicBool::new(true),
            drops,
            came: Mutex::default(),
            falls: AtomicUsize::new(0),
            up: Mutex::default(),
        });
        server.rise();
        server
    }

    fn rise(self: &Arc<Self>) {
        let backend = Backend::from(shared(self.address).listen(1024).unwrap());
        let (fall, falls) = watch::channel(());
        let task = tokio::spawn(Arc::clone(self).listen(backend, falls));
        *self.up.lock().unwrap() = Some(Up { fall, task });
    }

    /// Refuses connections from now on, and has broken those that it had.
    async fn fall(&self) {
        let Up { fall, task } = self.up.lock().unwrap().take().unwrap();
        self.falls.fetch_add(1, Ordering::SeqCst);
        drop(fall);
        soon("a server to fall", task).await.unwrap();
    }

    /// Whether it fell since it had fallen so often.
    fn has_fallen(&self, life: usize) -> bool {
        self.falls.load(Ordering::SeqCst) > life
    }

    async fn listen(self: Arc<Self>, backend: Backend, mut falls: watch::Receiver<()>) {
        let life = self.falls.load(Ordering::SeqCst);
        let mut peers = JoinSet::new();
        loop {
            let mut peer = tokio::select! {
                _ = falls.changed() => break,
                peer = backend.accept() => peer,
            };
            let number = {
                let mut came = self.came.lock().unwrap();
                came.push(Came::Nothing);
                came.len() - 1
            };
            let (this, mut falls) = (Arc::clone(&self), falls.clone());
            peers.spawn(async move {
                tokio::select! {
                    biased;
                    _ = falls.changed() => peer.reset(),
                    () = this.serve(&mut peer, number, life) => {}
                }
            });
        }
        drop(backend);
        while peers.join_next().await.is_some() {}
    }

    async fn serve(&self, peer: &mut Peer, number: usize, life: usize) {
        let Some(head) = peer.next_head().await else {
            // A check would have asked.
            self.saw(number, Came::Offer { began: usize::MAX });
            return;
        };
        if head.target() == "/check" {
            let passed = self.passes.load(Ordering::SeqCst);
            self.saw(number, Came::Check { passed });
            if !passed || !head.has("upgrade") {
                let status = if passed { "200 OK" } else { "503 Service Unavailable" };
                let _ = peer
                    .offer_bytes(format!(
                        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    ))
                    .await;
                return;
            }
        } else {
            let began = head.get("x-began").unwrap().split(',').nth(self.place).unwrap();
            self.saw(number, Came::Offer { began: began.parse().unwrap() });
            if self.drops && self.offers().is_multiple_of(10) {
                return;
            }
        }
        let accept = derive_accept_key(head.get("sec-websocket-key").unwrap().as_bytes());
        let agreed = AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept);
        let agreed = agreed.replacen("\r\n\r\n", &format!("\r\nX-Server: {}/{life}\r\n\r\n", self.place), 1);
        if peer.offer_bytes(agreed).await.is_err() {
            return;
        }
        while let Some(frame) = frames::next(peer).await {
            if peer.offer_bytes(frames::server_raw(frame.first, &frame.payload)).await.is_err() {
                return;
            }
        }
    }

    fn saw(&self, number: usize, what: Came) {
        self.came.lock().unwrap()[number] = what;
    }

    fn count(&self, wanted: impl Fn(Came) -> bool) -> usize {
        self.came.lock().unwrap().iter().filter(|came| wanted(**came)).count()
    }

    /// Connections that were no checks.
    fn offers(&self) -> usize {
        self.count(|came| matches!(came, Came::Offer { .. }))
    }

    /// Waits for so many more checks that it takes as it does now.
    async fn checked(&self, more: usize) {
        let wanted = Came::Check { passed: self.passes.load(Ordering::SeqCst) };
        let before = self.count(|came| came == wanted);
        until("checks", || self.count(|came| came == wanted) >= before + more).await;
    }

    /// Connections so far.
    fn made(&self) -> usize {
        self.came.lock().unwrap().len()
    }

    fn turn(&self, passes: bool) {
        self.passes.store(passes, Ordering::SeqCst);
    }

    /// How often it was out as its checks tell, and how many connections were made to it then for clients that had begun
    /// since: a choice that was made just before may be followed by its connection after.
    ///
    /// With `fall = 1`, a check that follows one that failed begins after the gate took the server out, and it comes in
    /// again after a check that passed began.
    async fn while_out(&self) -> (usize, usize) {
        let made = self.made();
        let told = || self.came.lock().unwrap()[..made].iter().all(|came| *came != Came::Nothing);
        until("all connections to say what they are", told).await;
        let (mut failed, mut out_since, mut times_out, mut made_then) = (false, None, 0, 0);
        for (number, came) in self.came.lock().unwrap()[..made].iter().enumerate() {
            match came {
                Came::Check { passed: true } => (failed, out_since) = (false, None),
                Came::Check { passed: false } => {
                    if failed && out_since.is_none() {
                        out_since = Some(number);
                        times_out += 1;
                    }
                    failed = true;
                }
                Came::Offer { began } => {
                    made_then += usize::from(out_since.is_some_and(|since| since < *began));
                }
                Came::Nothing => {}
            }
        }
        (times_out, made_then)
    }
}

/// A socket at this address, which others like it may have too until one listens.
fn shared(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    soon(what, async move {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Clients that open as many tunnels as are admitted, each one after the other.
struct Load {
    gate: SocketAddr,
    servers: Vec<Arc<Server>>,
    admits: Semaphore,
    admitted: AtomicUsize,
    begun: AtomicUsize,
    opened: AtomicUsize,
    /// Tunnels that are held until their server falls; fewer than clients, so that others go on.
    held: AtomicUsize,
    cut: AtomicUsize,
    /// Servers whose tunnels may be held.
    flapping: Vec<usize>,
}

const CLIENTS: usize = 20;

impl Load {
    fn begin(gate: &Gate, servers: &[Arc<Server>], flapping: &[usize]) -> (Arc<Self>, JoinSet<()>) {
        let load = Arc::new(Self {
            gate: gate.address(),
            servers: servers.to_vec(),
            admits: Semaphore::new(0),
            admitted: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            flapping: flapping.to_vec(),
        });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let load = Arc::clone(&load);
            clients.spawn(async move {
                while let Ok(admit) = load.admits.acquire().await {
                    admit.forget();
                    load.tunnel(load.begun.fetch_add(1, Ordering::SeqCst)).await;
                }
            });
        }
        (load, clients)
    }

    fn admit(&self, more: usize) {
        self.admitted.fetch_add(more, Ordering::SeqCst);
        self.admits.add_permits(more);
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Waits until all that were admitted stand or stood, but for so many.
    async fn all_opened_but(&self, few: usize) {
        until("tunnels to open", || self.opened() + few >= self.admitted.load(Ordering::SeqCst)).await;
    }

    /// Opens and closes a tunnel, which ends before that only if its server falls.
    async fn tunnel(&self, number: usize) {
        let mut random = StdRng::seed_from_u64(number as u64);
        let began: Vec<_> = self.servers.iter().map(|server| server.made().to_string()).collect();
        let mut client = Peer::dial(self.gate).await;
        client.send(offer_with(&format!("X-Began: {}\r\n", began.join(",")))).await;
        let head = client.read_head().await;
        assert_eq!(head.status(), 101, "tunnel {number}: {head:?}");
        let (place, life) = said_by(&head);
        let server = &self.servers[place];
        self.opened.fetch_add(1, Ordering::SeqCst);
        let mut is_whole = echoes(&mut client, &mut random, 5).await;
        if is_whole && self.flapping.contains(&place) && number % 5 < 2 {
            if self.held.fetch_add(1, Ordering::SeqCst) < CLIENTS / 2 {
                // Some are busy when their server falls, others are quiet.
                while is_whole && number.is_multiple_of(5) {
                    is_whole = echoes(&mut client, &mut random, 1).await;
                }
                if is_whole {
                    client.expect_gone().await;
                    is_whole = false;
                }
            }
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
        is_whole = is_whole && closes(&mut client).await;
        if !is_whole {
            assert!(server.has_fallen(life), "tunnel {number} on a server that was up");
            self.cut.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits for the clients to end all that they have begun.
    async fn end(&self, clients: JoinSet<()>) {
        self.all_opened_but(0).await;
        self.admits.close();
        soon("the clients to end", clients.join_all()).await;
    }
}

/// Which server answered, and how often it had fallen before.
fn said_by(head: &Head) -> (usize, usize) {
    let (place, life) = head.get("x-server").unwrap().split_once('/').unwrap();
    (place.parse().unwrap(), life.parse().unwrap())
}

/// Sends so many messages at once, and gets them back. `false` if the tunnel ended before, of which nothing but a beginning
/// of them may tell.
async fn echoes(client: &mut Peer, random: &mut StdRng, count: usize) -> bool {
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let most = [1, 126, 4000, 20_000][random.random_range(0..4)];
        let mut message = vec![0; random.random_range(0..most)];
        random.fill(&mut message[..]);
        sent.extend(frames::client(frames::BINARY, &message));
        expected.extend(frames::server(frames::BINARY, &message));
    }
    returns(client, &sent, &expected).await
}

async fn returns(client: &mut Peer, sent: &[u8], expected: &[u8]) -> bool {
    // If it is not taken, there is nothing to be read but the end.
    let _ = client.offer_bytes(sent).await;
    let length = expected.len();
    let read = client.read_until(|tail| (tail.len() >= length).then_some(length));
    if let Ok(Some(read)) = soon("messages that return", read).await {
        assert!(read == expected, "other bytes");
        return true;
    }
    assert!(expected.starts_with(client.tail()), "other bytes before the end");
    false
}

async fn closes(client: &mut Peer) -> bool {
    let is_whole =
        returns(client, &frames::client_close(1000, "bye"), &frames::server_close(1000, "bye")).await;
    if is_whole {
        client.shutdown().await;
        client.expect_gone().await;
    }
    is_whole
}

const ROUNDS: usize = 10;

#[tokio::test]
async fn b8_t3_failover_while_200_tunnels_open_and_close_and_servers_flap() {
    let servers: Vec<_> = (0..4).map(|place| Server::new(place, false)).collect();
    let flapping = [0, 2];
    let gate = Setup::before(servers.iter().map(|server| server.address.to_string()))
        .upstream(
            "balance = \"round_robin\"\nretries = 3\nretry_handshakes = true\non_removed = \"keep\"\n\
             max_fails = 1\nfail_timeout = \"100ms\"\n\
             health = { check = \"websocket\", path = \"/check\", interval = \"20ms\", timeout = \"20s\", \
             rise = 1, fall = 1 }",
        )
        .start();
    let (load, clients) = Load::begin(&gate, &servers, &flapping);
    for round in 0..ROUNDS {
        let server = &servers[flapping[round % 2]];
        // Its fall breaks tunnels and handshakes. There are at most eight of these before the first one that fails takes
        // the server out, and in turn not more than three of them are at this server: the twenty requests of a round
        // pay for four retries, so that the budget is never the reason for a failure.
        load.admit(14);
        load.all_opened_but(4).await;
        server.fall().await;
        load.admit(4);
        load.all_opened_but(0).await;
        if round / 2 % 2 == 0 {
            // The checks see it; else it is up again before that, as likely as not.
            servers[1].checked(3).await;
        }
        load.admit(2);
        load.all_opened_but(0).await;
        server.rise();
        let before = server.offers();
        soon("tunnels on a server that is up again", async {
            while server.offers() == before {
                load.admit(1);
                load.all_opened_but(0).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    for place in flapping {
        servers[place].fall().await;
    }
    load.end(clients).await;
    let (opened, cut) = (load.opened(), load.cut.load(Ordering::SeqCst));
    assert!(opened >= 200 && cut >= ROUNDS, "{opened} tunnels, {cut} of them cut");
    gate.at_rest().await;
    let ends: Vec<_> = gate.records().into_iter().filter(|record| record.kind == Kind::TunnelEnd).collect();
    assert_eq!(ends.len(), opened);
    let flaps = |name: &str| flapping.iter().any(|place| servers[*place].address.to_string() == name);
    for end in &ends {
        match (end.ending, end.ended_by) {
            (Some("closed"), Some("downstream")) => {}
            (Some("upstream_reset"), Some("upstream")) if flaps(end.endpoint.as_deref().unwrap()) => {}
            _ => panic!("{end:?}"),
        }
    }
}

#[tokio::test]
async fn b8_no_try_goes_to_a_server_that_is_known_to_be_out_while_others_are_in() {
    // Handshakes at the last one that get no answer are tried again, fewer than the budget has retries for.
    let servers: Vec<_> = (0..4).map(|place| Server::new(place, place == 3)).collect();
    let gate = Setup::before(servers.iter().map(|server| server.address.to_string()))
        .upstream(
            "balance = \"round_robin\"\nretries = 3\nretry_handshakes = true\nmax_fails = \"off\"\n\
             health = { check = \"http\", path = \"/check\", interval = \"30ms\", timeout = \"20s\", \
             rise = 1, fall = 1 }",
        )
        .start();
    let (load, clients) = Load::begin(&gate, &servers, &[]);
    let turns: [&[usize]; 6] = [&[0], &[1], &[0, 1], &[1], &[0], &[0, 1]];
    for turn in turns {
        let out = || turn.iter().map(|place| &servers[*place]);
        load.admit(CLIENTS);
        for server in out() {
            server.turn(false);
        }
        for server in out() {
            server.checked(2).await;
        }
        load.admit(2 * CLIENTS);
        load.all_opened_but(0).await;
        for server in out() {
            server.checked(1).await;
            server.turn(true);
        }
        for server in out() {
            let before = server.offers();
            soon("tunnels on a server that is in again", async {
                while server.offers() == before {
                    load.admit(1);
                    load.all_opened_but(0).await;
                }
            })
            .await;
        }
    }
    load.end(clients).await;
    for (server, expected) in servers.iter().zip([4, 4, 0, 0]) {
        assert_eq!(server.while_out().await, (expected, 0), "server {}", server.place);
    }
    assert_eq!(load.cut.load(Ordering::SeqCst), 0);
}
