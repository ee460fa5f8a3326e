//! What the test suites of other proxies pin down, where no other file has it: rules B1 and B3.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{AGREED, Backend, OFFER, Setup, frames, ok, soon};

/// Frames of one side: small ones, some of 48 KB, empty ones, and Pings between them.
fn mixed(frame: impl Fn(u8, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let message = |number: u8| match number % 8 {
        0 => frame(frames::BINARY, vec![number; 48 * 1024]),
        3 => frame(frames::PING, vec![number; 125]),
        5 => frame(frames::TEXT, Vec::new()),
        _ => frame(frames::TEXT, vec![b'a' + number % 26; usize::from(number)]),
    };
    (0..200).flat_map(message).collect()
}

/// Writes and reads on both streams at once; returns what came out of each.
async fn both_ways(
    (client, up): (&mut TcpStream, &[u8]),
    (server, down): (&mut TcpStream, &[u8]),
) -> [Vec<u8>; 2] {
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    let (mut at_client, mut at_server) = (vec![0; down.len()], vec![0; up.len()]);
    let all = async {
        tokio::try_join!(
            client_writes.write_all(up),
            server_writes.write_all(down),
            client_reads.read_exact(&mut at_client),
            server_reads.read_exact(&mut at_server),
        )
    };
    soon("all bytes in both directions", all).await.expect("no early end");
    [at_client, at_server]
}

#[tokio::test]
async fn b1_small_and_large_frames_interleaved_both_ways_at_once() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let (client, server) = gate.tunnel(&backend).await;
    let (mut client, mut server) = (client.into_tcp(), server.into_tcp());
    let up = mixed(frames::client);
    let down = mixed(frames::server);
    assert!(up.len() > 1 << 20 && down.len() > 1 << 20, "more than the kernel takes at once");
    let [at_client, at_server] = both_ways((&mut client, &up), (&mut server, &down)).await;
    assert!(at_client == down, "what came to the client is not what was sent");
    assert!(at_server == up, "what came to the backend is not what was sent");
}

#[tokio::test]
async fn b1_a_frame_in_the_segment_of_the_request_reaches_the_backend() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    let frame = frames::client(frames::TEXT, "first");
    let mut client = gate.client().await;
    client.send([OFFER.as_bytes(), &frame].concat()).await;
    let mut server = backend.accept().await;
    server.read_head().await;
    server.send(AGREED).await;
    server.expect(&frame).await;
    assert_eq!(client.read_head().await.status(), 101);
}

#[tokio::test]
async fn b3_every_answer_to_an_offer_gives_its_place_back() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).start();
    for status in [200, 201, 400, 401, 403, 426, 500, 503] {
        let mut client = gate.ask(OFFER).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(ok("told").replacen("200 OK", &format!("{status} Told"), 1)).await;
        let response = client.read_response().await;
        assert_eq!((response.status(), response.text()), (status, "told"));
        client.expect_end().await;
        server.expect_end().await;
        // wsgate reads on until the client has ended too.
        drop(client);
        gate.at_rest().await;
    }
}
