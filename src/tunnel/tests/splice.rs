//! Tunnels between real sockets, whose large frames the kernel moves.

mod turns;

use std::pin::pin;

use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};

use super::*;
use crate::{
    buffered::{MOST_PIPES, Pipe, SPLICED_AT_LEAST, SPLICED_AT_ONCE, Socket, prepare},
    proto::frame::HEADER_MAX,
};

/// The payload of a frame that is spliced.
const LARGE: usize = 2 * SPLICED_AT_LEAST;
/// A Ping of wsgate's own to a client.
const PING: usize = 2 + 16;
/// Nothing that is expected takes as long.
const LATE: Duration = Duration::from_secs(30);

/// The gate's end of a connection and its peer's.
#[expect(clippy::disallowed_methods, reason = "the other end is in this test, and answers at once")]
async fn tcp() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a connection");
    prepare(&near).expect("options");
    (Socket::Tcp(near), far)
}

fn unix() -> (Socket, UnixStream) {
    let (near, far) = UnixStream::pair().expect("sockets");
    (near.into(), far)
}

fn tunnel(limits: Limits, down: Socket, up: Socket) -> (Tunnel<Socket, Socket>, DrainHandle) {
    let (drain, signal) = Drain::new(Duration::ZERO);
    let terms = terms(limits, signal.clone());
    (Tunnel::new(Buffered::new(down), Buffered::new(up), &agreed(""), terms, signal), drain)
}

fn from_server(length: usize) -> Vec<u8> {
    frame(Role::FromServer, true, Opcode::Binary, &noise(length))
}

/// Polls the tunnel until `enough`.
async fn advance<D: Stream, U: Stream>(
    tunnel: &mut Tunnel<D, U>,
    mut enough: impl FnMut(&Tunnel<D, U>) -> bool,
) {
    let reached = std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut *tunnel).poll(cx).is_pending(), "it stands");
        if enough(tunnel) { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(LATE, reached).await.expect("in time");
}

async fn end<D: Stream, U: Stream>(tunnel: Tunnel<D, U>) -> Report {
    timeout(LATE, tunnel).await.expect("in time")
}

/// Writes `bytes` in pieces, and ends the stream.
async fn say(mut to: impl AsyncWriteExt + Unpin, bytes: &[u8], pieces: &[usize]) {
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.next().map_or(usize::MAX, |piece| *piece).min(rest.len()));
        to.write_all(piece).await.expect("taken");
        tokio::task::yield_now().await;
        rest = later;
    }
    to.shutdown().await.expect("taken");
}

/// Reads to the end, so many bytes at a time.
async fn hear(mut from: impl AsyncReadExt + Unpin, pieces: &[usize]) -> Vec<u8> {
    let (mut got, mut pieces) = (Vec::new(), pieces.iter().cycle());
    loop {
        let mut part = vec![0; pieces.next().map_or(4096, |piece| *piece)];
        let count = from.read(&mut part).await.expect("an end in order");
        if count == 0 {
            return got;
        }
        got.extend_from_slice(&part[..count]);
        tokio::task::yield_now().await;
    }
}

#[derive(Debug, Clone)]
struct Play {
    frames: Vec<Data>,
    said: Vec<usize>,
    heard: Vec<usize>,
    is_tcp: bool,
}

/// A data frame.
#[derive(Debug, Clone, Copy)]
struct Data {
    length: usize,
    fin: bool,
    /// A Ping stands behind it.
    has_ping: bool,
}

fn play() -> impl Strategy<Value = Play> {
    let length = prop_oneof![
        2 => 0..300usize,
        2 => SPLICED_AT_LEAST - 20..SPLICED_AT_LEAST + 20,
        3 => SPLICED_AT_LEAST..2 * SPLICED_AT_LEAST,
    ];
    // A few small ones among large ones: byte by byte it would take minutes.
    let pieces = || {
        vec(prop_oneof![1 => 1..40usize, 4 => 1000..200_000usize], 0..5).prop_map(|mut pieces| {
            pieces.push(70_000);
            pieces
        })
    };
    let data = (length, any::<bool>(), prop::bool::weighted(0.2));
    let data = data.prop_map(|(length, fin, has_ping)| Data { length, fin, has_ping });
    (vec(data, 1..20), pieces(), pieces(), any::<bool>()).prop_map(|(frames, said, heard, is_tcp)| Play {
        frames,
        said,
        heard,
        is_tcp,
    })
}

fn stream(role: Role, frames: &[Data]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut is_open = false;
    for (at, Data { length, fin, has_ping }) in frames.iter().enumerate() {
        let opcode = if is_open { Opcode::Continuation } else { Opcode::Binary };
        let fin = *fin || at + 1 == frames.len();
        bytes.extend(frame(role, fin, opcode, &noise(*length)));
        if *has_ping {
            bytes.extend(frame(role, true, Opcode::Ping, b"between"));
        }
        is_open = !fin;
    }
    bytes
}

async fn run(play: Play) {
    let (sent, told) = (stream(Role::FromClient, &play.frames), stream(Role::FromServer, &play.frames));
    let (got_backend, got_client, report) = if play.is_tcp {
        let ((down, client), (up, backend)) = (tcp().await, tcp().await);
        converse(down, up, client.into_split(), backend.into_split(), (&sent, &told), &play).await
    } else {
        let ((down, client), (up, backend)) = (unix(), unix());
        converse(down, up, client.into_split(), backend.into_split(), (&sent, &told), &play).await
    };
    assert!(got_backend == sent && got_client == told, "all, unchanged and in order");
    let longest = report.backend.longest_message;
    for (account, bytes) in [(report.client, sent.len()), (report.backend, told.len())] {
        assert_eq!(account.bytes, bytes as u64);
        let pings = play.frames.iter().filter(|data| data.has_ping).count();
        assert_eq!(
            (account.frames.total(), account.frames.ping),
            ((play.frames.len() + pings) as u64, pings as u64)
        );
        assert_eq!(account.longest_message, longest);
        let longest_frame = play.frames.iter().map(|data| data.length as u64).max();
        assert!(Some(account.longest_message) >= longest_frame);
    }
    assert!(["downstream_eof", "upstream_eof"].contains(&report.end.label()), "{:?}", report.end);
}

type Halves<R, W> = (R, W);

async fn converse<R, W>(
    down: Socket,
    up: Socket,
    client: Halves<R, W>,
    backend: Halves<R, W>,
    (sent, told): (&[u8], &[u8]),
    play: &Play,
) -> (Vec<u8>, Vec<u8>, Report)
where
    R: AsyncReadExt + Unpin,
    W: AsyncWriteExt + Unpin,
{
    let (tunnel, _drain) = tunnel(LIMITS, down, up);
    let all = async {
        tokio::join!(
            hear(backend.0, &play.heard),
            hear(client.0, &play.heard),
            say(client.1, sent, &play.said),
            say(backend.1, told, &play.said),
            tunnel,
        )
    };
    let (got_backend, got_client, (), (), report) = timeout(LATE, all).await.expect("in time");
    (got_backend, got_client, report)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn t1_t11_what_the_kernel_moves_arrives_and_is_counted(play in play()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run(play));
    }
}

#[tokio::test]
async fn t1_a_receiver_that_takes_nothing_stops_its_sender_with_a_pipe_in_hand() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = from_server(16_000_000);
    let (to_client, given) = (told.clone(), std::cell::Cell::new(0));
    let sends = async {
        for piece in to_client.chunks(1000) {
            backend.write_all(piece).await.expect("taken");
            given.set(given.get() + piece.len());
        }
        backend
    };
    let mut sends = pin!(sends);
    tokio::select! {
        _ = &mut sends => panic!("sockets do not hold as much"),
        () = advance(&mut tunnel, |tunnel| tunnel.backend.piped() > 0) => {}
    }
    assert!(tunnel.backend.capacity() < 1024, "nothing is copied");
    assert!(tunnel.backend.piped() <= SPLICED_AT_ONCE, "what waits is bounded");
    // What arrives when the client reads again is all of it.
    let mut got = vec![0; told.len()];
    let (backend, read) = tokio::select! {
        both = async { tokio::join!(sends, client.read_exact(&mut got)) } => both,
        report = end_of(&mut tunnel) => panic!("{report:?}"),
    };
    read.expect("all");
    assert!(got == told);
    advance(&mut tunnel, |tunnel| tunnel.backend.piped() == 0).await;
    assert_eq!(tunnel.backend.capacity(), 0, "rule T10");
    drop((client, backend));
    assert!(Pipe::lent() == 0 && Pipe::idle() > 0);
}

async fn end_of<D: Stream, U: Stream>(tunnel: &mut Tunnel<D, U>) -> Report {
    std::future::poll_fn(|cx| Pin::new(&mut *tunnel).poll(cx)).await
}

#[tokio::test]
async fn t3_an_end_within_a_spliced_frame_is_a_reset() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let (tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = from_server(LARGE);
    let part = &told[..LARGE - 7];
    let tunnel = tokio::spawn(tunnel);
    backend.write_all(part).await.expect("taken");
    let mut got = vec![0; part.len()];
    client.read_exact(&mut got).await.expect("what came before the end");
    assert!(got == part);
    drop(backend);
    let lost = timeout(LATE, client.read(&mut got)).await.expect("in time");
    assert_eq!(lost.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(tunnel.await.expect("no panic").end.label(), "upstream_eof");
}

#[tokio::test]
async fn t3_a_client_that_is_gone_takes_its_pipe_along() {
    let ((down, client), (up, backend)) = (tcp().await, tcp().await);
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = from_server(16_000_000);
    let (_from_gate, to_gate) = backend.into_split();
    let sender = tokio::spawn(async move {
        let mut to_gate = to_gate;
        // The gate goes some day.
        let _ = to_gate.write_all(&told).await;
    });
    advance(&mut tunnel, |tunnel| tunnel.backend.piped() > 0).await;
    client.set_zero_linger().expect("a socket");
    drop(client);
    advance(&mut tunnel, |tunnel| tunnel.backend.is_shut()).await;
    assert_eq!((tunnel.backend.piped(), Pipe::lent()), (0, 0));
    sender.abort();
    let _ = sender.await;
    assert_eq!(end(tunnel).await.end.label(), "downstream_reset");
}

#[tokio::test]
async fn t9_a_drain_waits_for_the_end_of_a_spliced_frame() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let (mut tunnel, drain) = tunnel(LIMITS, down, up);
    let told = from_server(LARGE);
    let (first, rest) = told.split_at(LARGE / 2);
    backend.write_all(first).await.expect("taken");
    advance(&mut tunnel, |tunnel| tunnel.backend.bytes() == first.len() as u64).await;
    drain.drain();
    wake_all();
    let tunnel = tokio::spawn(tunnel);
    backend.write_all(rest).await.expect("taken");
    let mut got = vec![0; told.len() + 4];
    client.read_exact(&mut got).await.expect("the frame and a Close");
    assert!(got[..told.len()] == told);
    let close = &got[told.len()..];
    assert_eq!((close[0], &close[2..]), (0x88, &1012_u16.to_be_bytes()[..]));
    drop((client, backend));
    assert_eq!(tunnel.await.expect("no panic").end.label(), "drained");
}

#[tokio::test]
async fn t5_what_is_dropped_does_not_get_into_a_pipe() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = [server_close(1000, ""), from_server(16_000_000), from_server(LARGE)].concat();
    let sent = told.clone();
    let sender = tokio::spawn(async move {
        backend.write_all(&sent).await.expect("taken");
        backend
    });
    advance(&mut tunnel, |tunnel| tunnel.backend.piped() > 0).await;
    let passed = tunnel.backend.bytes();
    // A Close of the backend's has passed, so there is none of wsgate's, and the rest is dropped.
    let now = Moment::new(Instant::now(), tunnel.opened);
    tunnel.begin_close(TunnelEnd::Idle, now);
    advance(&mut tunnel, |tunnel| tunnel.backend.bytes() == told.len() as u64).await;
    let mut got = vec![0; usize::try_from(passed).expect("small")];
    tokio::select! {
        read = client.read_exact(&mut got) => drop(read.expect("what came before")),
        report = end_of(&mut tunnel) => panic!("{report:?}"),
    }
    assert!(told.starts_with(&got));
    advance(&mut tunnel, |tunnel| tunnel.backend.capacity() == 0).await;
    assert_eq!((tunnel.backend.waiting(), Pipe::lent()), (0, 0));
    drop((client, sender.await.expect("no panic")));
}

#[tokio::test]
async fn t5_a_ping_waits_for_the_end_of_a_spliced_frame() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let interval = Duration::from_secs(100);
    let keepalive = Keepalive { clients: true, backends: false, interval: Some(interval), pong: None };
    let (mut tunnel, _drain) = tunnel(Limits { keepalive, ..LIMITS }, down, up);
    let told = from_server(LARGE);
    let (first, rest) = told.split_at(LARGE / 2);
    backend.write_all(first).await.expect("taken");
    advance(&mut tunnel, |tunnel| tunnel.backend.bytes() == first.len() as u64).await;
    let later = Moment::new(Instant::now(), tunnel.opened) + interval;
    assert!(tunnel.ask(Side::Downstream, later) && tunnel.client_pulse.waits());
    let tunnel = tokio::spawn(tunnel);
    backend.write_all(rest).await.expect("taken");
    let mut got = vec![0; told.len() + 2];
    client.read_exact(&mut got).await.expect("the frame and a Ping");
    assert!(got[..told.len()] == told);
    assert_eq!(got[told.len()], 0x89);
    drop((client, backend));
    tunnel.await.expect("no panic");
}

#[tokio::test]
async fn s1_a_client_that_takes_nothing_of_a_spliced_frame_is_cut() {
    let ((down, _client), (up, mut backend)) = (tcp().await, tcp().await);
    let limits = Limits { write: Some(Duration::from_millis(50)), ..LIMITS };
    let (tunnel, _drain) = tunnel(limits, down, up);
    let told = from_server(30_000_000);
    let sender = tokio::spawn(async move {
        // The gate goes before it has taken all.
        let _ = backend.write_all(&told).await;
    });
    assert_eq!(end(tunnel).await.end.label(), "write_timeout");
    sender.abort();
    let _ = sender.await;
    assert_eq!(Pipe::lent(), 0);
}

#[tokio::test]
async fn t1_who_finds_no_pipe_copies() {
    let pipes: Vec<Pipe> = std::iter::from_fn(Pipe::borrow).take(MOST_PIPES + 1).collect();
    assert_eq!(pipes.len(), MOST_PIPES, "they are bounded");
    let data = Data { length: LARGE, fin: true, has_ping: true };
    let told = Play { frames: vec![data; 4], said: vec![70_000], heard: vec![50_000], is_tcp: true };
    run(told).await;
    drop(pipes);
    assert_eq!(Pipe::lent(), 0);
}

#[tokio::test]
async fn t7_a_frame_that_is_too_large_is_not_spliced() {
    let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
    let limits = Limits { max_frame: Some(LARGE as u64), ..LIMITS };
    let (tunnel, _drain) = tunnel(limits, down, up);
    let tunnel = tokio::spawn(tunnel);
    let (legal, excess) = (from_server(LARGE), from_server(LARGE + 1));
    let mut got = vec![0; legal.len()];
    for _ in 0..2 {
        backend.write_all(&legal).await.expect("taken");
        client.read_exact(&mut got).await.expect("a legal frame");
        assert!(got == legal);
    }
    backend.write_all(&excess[..100]).await.expect("taken");
    let mut close = [0; 4];
    client.read_exact(&mut close).await.expect("a Close");
    assert_eq!((close[0], &close[2..]), (0x88, &1009_u16.to_be_bytes()[..]));
    drop((client, backend));
    assert_eq!(tunnel.await.expect("no panic").end.label(), "too_large");
}

/// So many large frames of the backend's, in all that many bytes.
fn large_frames(count: usize) -> Vec<u8> {
    from_server(LARGE).repeat(count)
}

/// Has the backend say all of this, and never end; until then it holds its socket.
fn says_all(mut backend: TcpStream, told: Vec<u8>) -> JoinHandle<TcpStream> {
    tokio::spawn(async move {
        backend.write_all(&told).await.expect("taken");
        backend
    })
}

/// Lets the client take `count` bytes while the tunnel goes on.
async fn take<D: Stream, U: Stream>(
    tunnel: &mut Tunnel<D, U>,
    client: &mut TcpStream,
    count: usize,
) -> Vec<u8> {
    let mut got = vec![0; count];
    let read = tokio::select! {
        read = timeout(LATE, client.read_exact(&mut got)) => read,
        report = end_of(tunnel) => panic!("{report:?}"),
    };
    read.expect("in time").expect("bytes");
    got
}

#[tokio::test]
async fn t1_frames_that_come_at_once_leave_at_once() {
    let ((down, mut client), (up, backend)) = (tcp().await, tcp().await);
    let (mut tunnel, _drain) = tunnel(LIMITS, down, up);
    let told = large_frames(200);
    let sender = says_all(backend, told.clone());
    let (mut got, mut most) = (Vec::new(), 0);
    while got.len() < told.len() {
        got.extend(take(&mut tunnel, &mut client, (told.len() - got.len()).min(LARGE)).await);
        most = most.max(tunnel.backend.piped());
        assert!(most <= SPLICED_AT_ONCE && tunnel.backend.capacity() < 1024, "what waits is bounded");
    }
    assert!(got == told);
    assert!(most > LARGE + LARGE / 2, "no more than one frame at a time: {most}");
    advance(&mut tunnel, |tunnel| tunnel.backend.capacity() == 0).await;
    assert_eq!(tunnel.backend.given, told.len() as u64);
    assert_eq!(Pipe::lent(), 0);
    drop(sender.await.expect("no panic"));
}

#[tokio::test]
async fn t4_what_is_illegal_behind_large_frames_ends_the_tunnel_behind_them() {
    for (limit, stopped, code) in [
        (None, vec![0x83, 0], 1002_u16),
        (None, vec![0x82, 0x80], 1002),
        (Some(LARGE as u64), from_server(LARGE + 1)[..HEADER_MAX].to_vec(), 1009),
    ] {
        let ((down, client), (up, backend)) = (tcp().await, tcp().await);
        let (tunnel, _drain) = tunnel(Limits { max_frame: limit, ..LIMITS }, down, up);
        let legal = large_frames(30);
        let sender = says_all(backend, [&legal[..], &stopped].concat());
        let tunnel = tokio::spawn(tunnel);
        let (mut client, mut got) = (client, vec![0; legal.len() + 4]);
        client.read_exact(&mut got).await.expect("the frames and a Close");
        assert!(got.starts_with(&legal));
        let close = &got[legal.len()..];
        assert_eq!((close[0], &close[2..]), (0x88, &code.to_be_bytes()[..]));
        drop((client, sender.await.expect("no panic")));
        let label = if code == 1002 { "ws_protocol" } else { "too_large" };
        assert_eq!(tunnel.await.expect("no panic").end.label(), label);
    }
}

#[tokio::test]
async fn t9_a_drain_takes_effect_behind_what_is_in_a_pipe() {
    let ((down, mut client), (up, backend)) = (tcp().await, tcp().await);
    let (mut tunnel, drain) = tunnel(LIMITS, down, up);
    let told = large_frames(400);
    let sender = says_all(backend, told.clone());
    advance(&mut tunnel, |tunnel| tunnel.backend.piped() > 0).await;
    let begun = tunnel.backend.begun();
    drain.drain();
    wake_all();
    advance(&mut tunnel, |tunnel| tunnel.end.is_some()).await;
    // The message that was begun is the last one.
    let told = told[..begun].to_vec();
    let got = take(&mut tunnel, &mut client, told.len() + 4).await;
    assert!(got.starts_with(&told));
    let close = &got[told.len()..];
    assert_eq!((close[0], &close[2..]), (0x88, &1012_u16.to_be_bytes()[..]));
    sender.abort();
    drop(client);
    assert_eq!(end(tunnel).await.end.label(), "drained");
}

#[tokio::test]
async fn t5_a_ping_goes_between_frames_behind_what_is_in_a_pipe() {
    let ((down, mut client), (up, backend)) = (tcp().await, tcp().await);
    let interval = Duration::from_secs(100);
    let keepalive = Keepalive { clients: true, backends: false, interval: Some(interval), pong: None };
    let (mut tunnel, _drain) = tunnel(Limits { keepalive, ..LIMITS }, down, up);
    let told = large_frames(400);
    let sender = says_all(backend, told.clone());
    advance(&mut tunnel, |tunnel| tunnel.backend.piped() > 0).await;
    let before = tunnel.backend.begun();
    let later = Moment::new(Instant::now(), tunnel.opened) + interval;
    assert!(tunnel.ask(Side::Downstream, later));
    let got = take(&mut tunnel, &mut client, told.len() + PING).await;
    assert!(got[..before] == told[..before] && got[before + PING..] == told[before..]);
    assert_eq!((got[before], usize::from(got[before + 1])), (0x89, PING - 2));
    drop((client, sender.await.expect("no panic")));
}

#[tokio::test]
async fn t3_an_end_behind_gathered_frames_is_an_end_or_a_reset() {
    for missing in [0, 7, LARGE + 3] {
        let ((down, mut client), (up, mut backend)) = (tcp().await, tcp().await);
        let (tunnel, _drain) = tunnel(LIMITS, down, up);
        let mut told = large_frames(100);
        told.truncate(told.len() - missing);
        let (tunnel, sent) = (tokio::spawn(tunnel), told.clone());
        let sender = tokio::spawn(async move { backend.write_all(&sent).await });
        let mut got = vec![0; told.len()];
        let read = timeout(LATE, client.read_exact(&mut got)).await.expect("in time");
        read.expect("what came before the end");
        assert!(got == told);
        sender.await.expect("no panic").expect("taken");
        match timeout(LATE, client.read(&mut got)).await.expect("in time") {
            Ok(count) => assert_eq!((count, missing), (0, 0)),
            Err(error) => assert_eq!((error.kind(), missing > 0), (io::ErrorKind::ConnectionReset, true)),
        }
        drop(client);
        assert_eq!(tunnel.await.expect("no panic").end.label(), "upstream_eof");
    }
}
