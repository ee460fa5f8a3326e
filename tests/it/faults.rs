//! What goes wrong in a tunnel, in each phase and direction, over ws and wss: rules T1 to T4 and T13.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Setup,
    frames::{BINARY, CLOSE, PING, PONG, TEXT, client, client_raw, server, server_raw},
    pki::Pki,
    program::{Program, need_descriptors},
    soon,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    fn label(self) -> &'static str {
        match self {
            Self::Client => "downstream",
            Self::Backend => "upstream",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }

    /// A frame of this side with this first byte.
    fn raw(self, first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        match self {
            Self::Client => client_raw(first, payload),
            Self::Backend => server_raw(first, payload),
        }
    }

    /// A whole message, or a control frame, of this side.
    fn frame(self, opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        self.raw(0x80 | opcode, payload)
    }

    fn close(self) -> Vec<u8> {
        self.frame(CLOSE, [&1000_u16.to_be_bytes()[..], b"bye"].concat())
    }

    /// The ends of a tunnel: this side's and the other one's.
    fn of(self, (client_end, server_end): (Peer, Peer)) -> (Peer, Peer) {
        match self {
            Self::Client => (client_end, server_end),
            Self::Backend => (server_end, client_end),
        }
    }
}

fn setup(backend: &Backend, tls: bool) -> Setup {
    let setup = Setup::to(backend.address());
    if tls { setup.tls(&Pki::new(), "") } else { setup }
}

async fn tunnel(tls: bool) -> (Backend, Gate, Peer, Peer) {
    let backend = Backend::listen().await;
    let gate = setup(&backend, tls).start();
    let (client_end, server_end) = gate.tunnel(&backend).await;
    (backend, gate, client_end, server_end)
}

/// Where the stream of the side at fault stands when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    FrameBoundary,
    BetweenFragments,
    Header,
    Payload,
    /// The other side's own frame is half sent.
    OthersPayload,
    OwnClose,
    BothCloses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// With `close_notify`, over TLS.
    HalfClose,
    /// A FIN alone, under TLS.
    Truncation,
    Reset,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    tls: bool,
    side: Side,
    at: At,
    fault: Fault,
}

fn cases() -> Vec<Case> {
    use At::{BetweenFragments, BothCloses, FrameBoundary, Header, OthersPayload, OwnClose, Payload};
    let mut all = Vec::new();
    for tls in [false, true] {
        for side in Side::BOTH {
            for fault in [Fault::HalfClose, Fault::Truncation, Fault::Reset] {
                for at in
                    [FrameBoundary, BetweenFragments, Header, Payload, OthersPayload, OwnClose, BothCloses]
                {
                    all.push(Case { tls, side, at, fault });
                }
            }
        }
    }
    // Only clients speak TLS here; and what was not relayed yet, as part of a header is not, goes with a reset or stays.
    all.retain(|case| match case.fault {
        Fault::Truncation => case.tls && case.side == Side::Client,
        Fault::Reset => case.at != Header,
        Fault::HalfClose => true,
    });
    all
}

impl Case {
    /// The end of the other side's stream breaks a frame.
    fn breaks_a_frame(self) -> bool {
        matches!(self.at, At::Header | At::Payload)
    }

    fn ending(self) -> String {
        let answers = self.fault != Fault::Reset && self.at == At::OwnClose;
        match self.fault {
            _ if self.at == At::BothCloses || answers => "closed".into(),
            Fault::Reset => format!("{}_reset", self.side.label()),
            Fault::HalfClose | Fault::Truncation => format!("{}_eof", self.side.label()),
        }
    }
}

/// Brings both streams to where the fault is to happen.
async fn lead_up(case: Case, faulty: &mut Peer, other: &mut Peer) {
    let side = case.side;
    let before = side.frame(TEXT, "before");
    faulty.send(&before).await;
    other.expect(&before).await;
    let half = side.frame(BINARY, [7; 1000]);
    match case.at {
        At::FrameBoundary => {}
        At::BetweenFragments => {
            let fragment = [side.raw(TEXT, "frag"), side.frame(PING, "between")].concat();
            faulty.send(&fragment).await;
            other.expect(&fragment).await;
        }
        At::Header => faulty.send(&half[..3]).await,
        At::Payload => {
            faulty.send(&half[..500]).await;
            other.expect(&half[..500]).await;
        }
        At::OthersPayload => {
            let half = side.other().frame(BINARY, [7; 1000]);
            other.send(&half[..500]).await;
            faulty.expect(&half[..500]).await;
        }
        At::OwnClose | At::BothCloses => {
            faulty.send(side.close()).await;
            other.expect(side.close()).await;
        }
    }
    if case.at == At::BothCloses {
        other.send(side.other().close()).await;
        faulty.expect(side.other().close()).await;
    }
}

/// What goes the way to the side at fault that is left.
fn reply(case: Case) -> Vec<u8> {
    let side = case.side.other();
    match case.at {
        At::FrameBoundary | At::BetweenFragments => side.frame(TEXT, "still here"),
        At::OthersPayload => side.frame(BINARY, [7; 1000])[500..].to_vec(),
        At::OwnClose => side.close(),
        At::BothCloses | At::Header | At::Payload => Vec::new(),
    }
}

async fn play(case: Case) {
    let (_backend, gate, client_end, server_end) = tunnel(case.tls).await;
    let (mut faulty, mut other) = case.side.of((client_end, server_end));
    lead_up(case, &mut faulty, &mut other).await;
    let mut bare = None;
    let mut half_closed = None;
    match case.fault {
        Fault::Reset => faulty.reset(),
        Fault::Truncation => {
            let mut tcp = faulty.into_tcp();
            tcp.shutdown().await.expect("a connected socket");
            bare = Some(tcp);
        }
        Fault::HalfClose => {
            faulty.shutdown().await;
            half_closed = Some(faulty);
        }
    }
    if case.breaks_a_frame() {
        let rest = other.expect_reset().await;
        // As far as it came, if a reset let it through.
        assert!(rest.len() <= 3, "{case:?}: {rest:02x?}");
    } else {
        other.expect_end().await;
    }
    if case.fault != Fault::Reset && !case.breaks_a_frame() {
        other.send(reply(case)).await;
        other.shutdown().await;
        if let Some(faulty) = &mut half_closed {
            faulty.expect(reply(case)).await;
            faulty.expect_end().await;
        }
        if let Some(tcp) = &mut bare {
            // To its end, for a close over unread bytes would be a reset.
            let mut sealed = Vec::new();
            soon("the end", tcp.read_to_end(&mut sealed)).await.expect("an end, not a reset");
        }
    }
    drop((other, half_closed, bare));
    let record = gate.tunnel_end().await;
    assert_eq!(record.ending, Some(&*case.ending()), "{case:?}: {record:?}");
    assert_eq!(record.ended_by, Some(case.side.label()), "{case:?}");
    let truncates = case.fault == Fault::Truncation;
    assert!(record.truncated || !truncates, "{case:?}");
    gate.at_rest().await;
}

/// Some at once, as the TLS handshakes are most of it.
async fn play_all(cases: Vec<Case>) {
    for some in cases.chunks(8) {
        join_all(some.iter().map(|case| play(*case))).await;
    }
}

#[tokio::test]
async fn t3_every_fault_in_every_phase_and_direction_over_ws() {
    play_all(cases().into_iter().filter(|case| !case.tls).collect()).await;
}

#[tokio::test]
async fn t3_t13_every_fault_in_every_phase_and_direction_over_wss() {
    play_all(cases().into_iter().filter(|case| case.tls).collect()).await;
}

#[tokio::test]
async fn t4_frames_of_every_length_and_control_frames_between_fragments() {
    for (tls, side) in
        [(false, Side::Client), (false, Side::Backend), (true, Side::Client), (true, Side::Backend)]
    {
        let (_backend, gate, client_end, server_end) = tunnel(tls).await;
        let (mut sender, mut receiver) = side.of((client_end, server_end));
        let mut all = Vec::new();
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            all.extend(side.frame(BINARY, vec![3; length]));
            all.extend(side.raw(TEXT, vec![4; length]));
            all.extend(side.frame(PING, vec![5; length.min(125)]));
            all.extend(side.raw(0, vec![6; length]));
            all.extend(side.frame(PONG, ""));
            all.extend(side.frame(0, vec![7; length]));
        }
        tokio::join!(sender.send(&all), receiver.expect(&all));
        drop((sender, receiver));
        let record = gate.tunnel_end().await;
        let from = if side == Side::Client { record.from_client } else { record.from_backend };
        let from = from.expect("an account");
        assert_eq!((from.messages, from.fragmented, from.longest_message), (16, 8, 3 * 70_000));
        assert_eq!((from.frames, from.ping, from.pong, from.bytes), (48, 8, 8, all.len() as u64));
    }
}

#[tokio::test]
async fn t4_four_gigabytes_announced_are_followed_and_end_as_a_reset() {
    for (tls, side) in [(false, Side::Client), (true, Side::Client), (true, Side::Backend)] {
        let (_backend, gate, client_end, server_end) = tunnel(tls).await;
        let (mut sender, mut receiver) = side.of((client_end, server_end));
        let mask: &[u8] = if side == Side::Client { &[0x80 | 127] } else { &[127] };
        let announced = (1_u64 << 32).to_be_bytes();
        let mut bytes = [&[0x82], mask, &announced[..]].concat();
        bytes.resize(bytes.len() + 1_000_000, 9);
        tokio::join!(sender.send(&bytes), receiver.expect(&bytes));
        sender.shutdown().await;
        assert!(receiver.expect_reset().await.is_empty());
        drop((sender, receiver));
        let record = gate.tunnel_end().await;
        assert_eq!(record.ending, Some(&*format!("{}_eof", side.label())));
    }
}

/// Passes on byte by byte, each in a segment of its own.
async fn trickle(from: TcpStream, to: TcpStream) {
    async fn one_way(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            for byte in &buffer[..count] {
                if to.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
        let _ = to.shutdown().await;
    }
    for stream in [&from, &to] {
        stream.set_nodelay(true).expect("a connected socket");
    }
    let (from, to) = (from.into_split(), to.into_split());
    tokio::join!(one_way(from.0, to.1), one_way(to.0, from.1));
}

/// A listener of which each connection trickles on to the address that `to` is given.
async fn trickling() -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<std::net::SocketAddr>, JoinSet<()>)
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let to = told.await.expect("an address");
        loop {
            let (from, _) = listener.accept().await.expect("a connection");
            let to = Peer::dial(to).await.into_tcp();
            tokio::spawn(trickle(from, to));
        }
    });
    (address, tell, tasks)
}

#[tokio::test]
async fn t1_w12_a_whole_life_in_segments_of_one_byte() {
    for tls in [false, true] {
        let backend = Backend::listen().await;
        let (before_gate, tell_gate, _one) = trickling().await;
        let (before_backend, tell_backend, _two) = trickling().await;
        let pki = Pki::new();
        let setup = Setup::to(before_backend.to_string());
        let gate = if tls { setup.tls(&pki, "") } else { setup }.start();
        tell_gate.send(gate.address()).expect("it waits");
        tell_backend.send(backend.address().parse().expect("an address")).expect("it waits");
        let mut client_end = Peer::dial(before_gate).await;
        if tls {
            client_end = pki.secure(client_end).await;
        }
        // The first frames stand right behind the heads (W12), so the last byte of either head is followed at once.
        client_end.send([OFFER.as_bytes(), &client(TEXT, "early")].concat()).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send([AGREED.as_bytes(), &server(TEXT, "early too")].concat()).await;
        assert_eq!(client_end.read_head().await.status(), 101);
        client_end.expect(server(TEXT, "early too")).await;
        server_end.expect(client(TEXT, "early")).await;
        let talk = |side: Side| {
            let sizes = [0, 1, 125, 126, 500];
            let frames =
                sizes.map(|size| [side.frame(BINARY, vec![1; size]), side.frame(PING, "p")].concat());
            frames.concat()
        };
        let (up, down) = (talk(Side::Client), talk(Side::Backend));
        client_end.send(&up).await;
        server_end.send(&down).await;
        tokio::join!(client_end.expect(&down), server_end.expect(&up));
        client_end.send(Side::Client.close()).await;
        server_end.expect(Side::Client.close()).await;
        server_end.send(Side::Backend.close()).await;
        client_end.expect(Side::Backend.close()).await;
        server_end.shutdown().await;
        client_end.expect_end().await;
        client_end.shutdown().await;
        server_end.expect_end().await;
        drop((client_end, server_end));
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.truncated), (Some("closed"), false));
        assert_eq!(record.from_client.map(|from| from.messages), Some(6));
    }
}

#[tokio::test]
async fn the_clients_tls_keys_change_under_traffic() {
    const ROUNDS: usize = 60;
    let (_backend, gate, mut client_end, server_end) = tunnel(true).await;
    let (up, down) = (client(BINARY, vec![1; 30_000]), server(BINARY, vec![2; 40_000]));
    let (mut reads, mut writes) = tokio::io::split(server_end);
    let (sent, expected) = (down.repeat(ROUNDS), up.repeat(ROUNDS));
    let sending = tokio::spawn(async move {
        soon("all to be sent", writes.write_all(&sent)).await.expect("a connection");
        writes
    });
    let receiving = tokio::spawn(async move {
        let mut arrived = vec![0; expected.len()];
        soon("all to arrive", reads.read_exact(&mut arrived)).await.expect("a connection");
        assert!(arrived == expected, "other bytes");
        reads
    });
    for round in 0..ROUNDS {
        // Each asks wsgate for new keys of its own, too.
        if round % 3 == 0 {
            client_end.update_keys();
        }
        let mut arrived = vec![0; down.len()];
        {
            let (mut reads, mut writes) = tokio::io::split(&mut client_end);
            let both = async { tokio::try_join!(writes.write_all(&up), reads.read_exact(&mut arrived)) };
            soon("a round", both).await.expect("a connection");
        }
        client_end.flush().await.expect("a connection");
        assert!(arrived == down, "other bytes in round {round}");
    }
    drop((sending.await.expect("no panic"), receiving.await.expect("no panic"), client_end));
    let record = gate.tunnel_end().await;
    assert_eq!(record.from_client.map(|from| from.messages), Some(ROUNDS as u64));
    assert_eq!(record.from_backend.map(|from| from.messages), Some(ROUNDS as u64));
}

/// Bytes of memory that the process has.
fn memory_of(program: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().strip_suffix(" kB").and_then(|size| size.parse::<usize>().ok()).expect("kilobytes") * 1024
}

#[tokio::test]
async fn t1_readers_that_take_nothing_cost_little_memory_and_lose_nothing() {
    /// Tunnels stalled in each direction.
    const EACH: usize = 12;
    /// What a sender gets rid of at most, most of it held by kernels.
    const MOST: usize = 24 * 1024 * 1024;
    need_descriptors(1000);
    for tls in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::new();
        let backend = Backend::listen().await;
        let keys = if tls {
            let leaf = pki.leaf("localhost");
            format!("tls = {{ cert = \"{}\", key = \"{}\" }}\n", leaf.cert.display(), leaf.key.display())
        } else {
            String::new()
        };
        let toml = format!(
            "[server]\nworkers = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\ntimeout.write = \"off\"\n{keys}\
             [upstream.main]\nservers = [\"{}\"]\n[[route]]\nupstream = \"main\"\nwebsocket.pong_timeout = \"off\"\n",
            backend.address()
        );
        let program = Program::start(folder.path(), &toml, None).await;
        let mut open = Vec::new();
        for number in 0..2 * EACH {
            let mut client_end = Peer::dial(program.address).await;
            if tls {
                client_end = pki.secure(client_end).await;
            }
            client_end.send(OFFER).await;
            let mut server_end = backend.accept().await;
            server_end.read_head().await;
            server_end.send(AGREED).await;
            client_end.read_head().await;
            let side = if number % 2 == 0 { Side::Client } else { Side::Backend };
            open.push((side, side.of((client_end, server_end))));
        }
        let before = memory_of(&program);
        let frames = [Side::Client, Side::Backend].map(|side| Arc::new(side.frame(BINARY, vec![1; 60_000])));
        let frame_of = |side: Side| Arc::clone(&frames[usize::from(side == Side::Backend)]);
        let fill_all = open.iter_mut().map(|(side, (sender, _))| {
            let frame = frame_of(*side);
            async move { sender.fill(&frame, MOST).await }
        });
        let taken = join_all(fill_all).await;
        let grown = memory_of(&program).saturating_sub(before);
        assert!(taken.iter().all(|taken| *taken < MOST), "tls={tls}: a sender was not stopped: {taken:?}");
        // A scratch buffer of 64 KiB, sealed too over TLS, and room for what vectors and the allocator add.
        assert!(grown / (2 * EACH) < 300 * 1024, "tls={tls}: {grown} bytes for {} stalled tunnels", 2 * EACH);
        // The other direction is free, and nothing is lost.
        for ((side, (sender, receiver)), taken) in open.iter_mut().zip(taken) {
            let hello = side.other().frame(TEXT, "hello");
            receiver.send(&hello).await;
            sender.expect(&hello).await;
            let frame = frame_of(*side);
            let receive = async {
                let mut left = taken;
                while left > 0 {
                    let count = left.min(frame.len());
                    receiver.expect(&frame[..count]).await;
                    left -= count;
                }
            };
            // The sender's TLS took bytes that its kernel did not.
            let (flushed, ()) = tokio::join!(sender.flush(), receive);
            flushed.expect("a connection");
        }
    }
}

#[tokio::test]
async fn t1_a_reader_that_is_slow_gets_all_of_it() {
    for (tls, side) in
        [(false, Side::Client), (false, Side::Backend), (true, Side::Client), (true, Side::Backend)]
    {
        let (_backend, _gate, client_end, server_end) = tunnel(tls).await;
        let (mut sender, mut receiver) = side.of((client_end, server_end));
        let frame = side.frame(BINARY, vec![7; 4_000_000]);
        let send = async {
            sender.send(&frame).await;
            sender.send(side.close()).await;
        };
        let receive = async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            for piece in frame.chunks(100_000) {
                pace.tick().await;
                receiver.expect(piece).await;
            }
            receiver.expect(side.close()).await;
        };
        tokio::join!(send, receive);
    }
}

#[tokio::test]
async fn t3_what_came_before_a_broken_frame_reaches_a_slow_reader() {
    for (tls, side) in
        [(false, Side::Client), (false, Side::Backend), (true, Side::Client), (true, Side::Backend)]
    {
        let (_backend, _gate, client_end, server_end) = tunnel(tls).await;
        let (mut sender, mut receiver) = side.of((client_end, server_end));
        let whole = side.frame(BINARY, vec![7; 40_000]).repeat(50);
        let broken = side.frame(BINARY, [8; 1000]);
        let send = async {
            sender.send([&whole, &broken[..500]].concat()).await;
            sender.shutdown().await;
        };
        let receive = async {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            for piece in whole.chunks(20_000) {
                pace.tick().await;
                receiver.expect(piece).await;
            }
            let rest = receiver.expect_reset().await;
            assert!(broken.starts_with(&rest) && rest.len() <= 500, "{rest:02x?}");
        };
        tokio::join!(send, receive);
    }
}

#[tokio::test]
async fn t3_t13_bytes_that_are_no_tls_break_the_clients_stream_alone() {
    for within_frame in [false, true] {
        let (_backend, gate, mut client_end, mut server_end) = tunnel(true).await;
        let frame = client(BINARY, [7; 1000]);
        let sent = if within_frame { &frame[..500] } else { &frame };
        client_end.send(sent).await;
        server_end.expect(sent).await;
        let mut tcp = client_end.into_tcp();
        tcp.write_all(&[b'x'; 100]).await.expect("a connected socket");
        if within_frame {
            assert!(server_end.expect_reset().await.is_empty());
        } else {
            server_end.expect_end().await;
        }
        drop(server_end);
        let record = gate.tunnel_end().await;
        assert_eq!((record.ending, record.ended_by), (Some("downstream_reset"), Some("downstream")));
        assert!(record.error.is_some() && record.close.is_none());
    }
}

/// Many frames, cut off anywhere, and then an end or a reset.
async fn cut_anywhere(tls: bool, side: Side, resets: bool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut bytes, mut boundaries) = (Vec::new(), vec![0]);
    for _ in 0..random.random_range(1..60) {
        let length = random.random_range(0..40_000);
        bytes.extend(side.frame(BINARY, vec![7; length]));
        boundaries.push(bytes.len());
    }
    let cut = if random.random_bool(0.5) {
        boundaries[random.random_range(0..boundaries.len())]
    } else {
        random.random_range(0..=bytes.len())
    };
    let (_backend, _gate, client_end, server_end) = tunnel(tls).await;
    let (mut sender, mut receiver) = side.of((client_end, server_end));
    let sending = async {
        sender.send(&bytes[..cut]).await;
        if resets {
            sender.reset();
            None
        } else {
            sender.shutdown().await;
            Some(sender)
        }
    };
    let (sender, (arrived, end)) = tokio::join!(sending, receiver.read_to_any_end());
    let case = format!("tls={tls} {side:?} resets={resets} seed={seed}: {} of {cut}, {end:?}", arrived.len());
    assert!(bytes[..cut].starts_with(&arrived), "other bytes: {case}");
    assert!(resets || arrived.len() == cut, "bytes are missing: {case}");
    // A reset reaches the gate before what was sent last is read.
    let is_whole = boundaries.contains(&arrived.len());
    assert!(is_whole || end.is_err(), "a broken frame with an orderly end: {case}");
    assert!(resets || !is_whole || end.is_ok(), "whole frames with a broken end: {case}");
    drop(sender);
}

#[tokio::test]
async fn t3_streams_cut_anywhere_end_as_they_stand() {
    let base: u64 = rand::random();
    for (tls, side) in
        [(false, Side::Client), (false, Side::Backend), (true, Side::Client), (true, Side::Backend)]
    {
        for resets in [false, true] {
            join_all((0..8).map(|number| cut_anywhere(tls, side, resets, number ^ base))).await;
        }
    }
}
