//! Peers that are slow or hang, each cut by the deadline of its phase: rules S1, S3 and B14.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::task::JoinSet;
use wsgate::telemetry::Kind;

use crate::harness::{
    Backend, OFFER, Peer, Serving, Setup, get, ok,
    program::{Program, need_descriptors},
    soon,
};

/// Of a program that is to run out of them.
const DESCRIPTORS: u32 = 1000;

/// Sends the beginning of a request, and more of it byte by byte until it is told that this was too slow.
async fn dribble_for_ever(mut client: Peer, beginning: &str) {
    client.send(beginning).await;
    loop {
        let answer = tokio::time::timeout(Duration::from_millis(100), client.next_head()).await;
        if let Ok(head) = answer {
            assert_eq!(head.expect("an answer").status(), 408);
            return;
        }
        client.send("a").await;
    }
}

/// A server with an answer that is too large for any buffer, and others.
async fn large_or_quick() -> Serving {
    let large: Arc<[u8]> = vec![b'a'; 1 << 20].into();
    Backend::listen().await.serve(move |mut peer| {
        let large = Arc::clone(&large);
        async move {
            while let Some(head) = peer.next_head().await {
                match head.target() {
                    "/" => peer.send(ok("quick")).await,
                    "/large" => {
                        let head = "HTTP/1.1 200 OK\r\nContent-Length: 20971520\r\n\r\n";
                        let mut taken = peer.offer_bytes(head).await;
                        for _ in 0..20 {
                            if taken.is_ok() {
                                taken = peer.offer_bytes(&large).await;
                            }
                        }
                        assert!(
                            taken.is_err(),
                            "whoever reads this slowly is cut before it has been written"
                        );
                        return;
                    }
                    _ => drop(peer.read_to_any_end().await),
                }
            }
        }
    })
}

#[tokio::test]
async fn b14_200_slow_heads_bodies_and_readers_at_once_are_cut_while_others_are_served() {
    const EACH: usize = 200;
    need_descriptors(8 * EACH as u64);
    let backend = large_or_quick().await;
    let gate = Setup::to(backend.address())
        .listener("timeout.request_head = \"3s\"\ntimeout.request_body = \"3s\"\ntimeout.write = \"3s\"")
        .start();
    let (mut heads, mut bodies, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..EACH {
        heads.push(gate.client().await);
        bodies.push(gate.client().await);
        readers.push(Peer::dial_narrow(gate.address()).await);
    }
    gate.has_connections(3 * EACH).await;
    let mut dribbling = JoinSet::new();
    for client in heads {
        dribbling.spawn(dribble_for_ever(client, "GET / HTTP/1.1\r\nHost: a\r\nX: "));
    }
    for client in bodies {
        let body = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
        dribbling.spawn(dribble_for_ever(client, body));
    }
    for reader in &mut readers {
        reader.send(get("/large", "")).await;
    }
    let ended = |label| gate.records().iter().filter(|record| record.ending == Some(label)).count();
    let mut served = 0;
    soon("all of them to be cut", async {
        while ["head_timeout", "body_timeout", "write_timeout"].map(ended) != [EACH; 3] {
            let mut other = gate.ask(get("/", "Connection: close\r\n")).await;
            assert_eq!(other.read_response().await.text(), "quick");
            served += 1;
        }
    })
    .await;
    assert!(served >= 20, "{served}");
    soon("those that dribble to be told", dribbling.join_all()).await;
    for reader in &mut readers {
        assert!(reader.read_to_any_end().await.0.len() < 20 << 20);
    }
}

#[tokio::test]
async fn s1_a_server_that_hangs_is_given_up_by_the_deadline_of_its_phase() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n";
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nabc";
    let plain = get("/", "");
    for (request, key, says, status, label, phase) in [
        (&*plain, "response_timeout", "", 504, "response_timeout", "response"),
        (&plain, "response_timeout", begun, 504, "response_timeout", "response"),
        (&plain, "response_body_timeout", cut, 200, "response_timeout", "exchange"),
        (OFFER, "handshake_timeout", "", 504, "handshake_timeout", "response"),
        (OFFER, "handshake_timeout", begun, 504, "handshake_timeout", "response"),
        (OFFER, "response_body_timeout", refused, 403, "response_timeout", "exchange"),
    ] {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).upstream(&format!("{key} = \"300ms\"")).start();
        let mut client = gate.ask(request).await;
        let mut server = backend.accept().await;
        server.read_head().await;
        server.send(says).await;
        assert_eq!(client.read_head().await.status(), status, "{key}: {says}");
        let record = gate.record_of(Kind::Exchange).await;
        let tells = (record.status, record.ending, record.phase);
        assert_eq!(tells, (Some(status), Some(label), Some(phase)), "{key}: {says}");
        server.expect_gone().await;
    }
}

/// Sets the soft limit of a program's file descriptors.
fn limit_descriptors(program: &Program, current: u64) {
    let id = Pid::from_raw(program.id().try_into().expect("a process")).expect("a process");
    let limit = Rlimit { current: Some(current), maximum: Some(DESCRIPTORS.into()) };
    prlimit(Some(id), Resource::Nofile, limit).expect("a process of this user");
}

#[tokio::test]
async fn s3_a_lack_of_descriptors_is_waited_out_and_told_at_a_bounded_rate() {
    let folder = tempfile::tempdir().unwrap();
    let toml =
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nrespond = { status = 200, body = \"hello\" }\n";
    let mut program = Program::start(folder.path(), toml, Some(DESCRIPTORS)).await;
    let serves = async |client: &mut Peer| {
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.text(), "hello");
    };
    let mut open = Peer::dial(program.address).await;
    serves(&mut open).await;
    // Below any descriptor that could be given out, so that accept finds none.
    limit_descriptors(&program, 0);
    let began = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(Peer::dial(program.address).await);
    }
    let fails = |event: &serde_json::Value| event["message"] == "accept failed";
    // From 10 ms each pause is twice the last one, so that there are seven errors in the first second.
    let told = program.says("how often it failed", |event| fails(event) && event["skipped"] != 0).await;
    assert!((1..=8).contains(&told["skipped"].as_u64().unwrap()), "{told}");
    assert!(told["error"].as_str().unwrap().contains("os error 24"), "{told}");
    let lines = program.said().iter().filter(|event| fails(event)).count();
    assert!(lines as u64 <= began.elapsed().as_secs() + 2, "{lines} in {:?}", began.elapsed());
    serves(&mut open).await;
    limit_descriptors(&program, DESCRIPTORS.into());
    for client in &mut waiting {
        serves(client).await;
    }
    drop((open, waiting));
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
}
