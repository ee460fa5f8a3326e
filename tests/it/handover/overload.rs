//! The executable is swapped while all permits are out.

use super::{Site, ended, free_address, is_take_over, terminate};
use crate::harness::{Backend, Peer, frames, get, ok};

#[tokio::test]
async fn b9_whoever_waits_for_a_permit_is_answered_though_the_sockets_are_handed_over() {
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "max_connections = 1\ndrain_spread = \"0s\"";
    let unwanted = free_address();
    site.listeners =
        format!("[[listener]]\naddress = \"{unwanted}\"\n[[listener]]\naddress = \"unix:unwanted.sock\"\n");
    let old = site.run().await;
    let (mut tunnel, server) = site.open_tunnel(&backend).await;
    // It has the place for refusals for as long as it asks nothing.
    let silent = Peer::dial(site.address).await;
    let file = site.folder.path().join("unwanted.sock");
    let mut waiting = vec![Peer::dial(site.address).await, Peer::dial_unix(&file).await];
    for _ in 0..3 {
        waiting.push(Peer::dial(unwanted).await);
    }

    site.listeners.clear();
    let new = site.run().await;
    new.says("that it took over", is_take_over).await;
    assert!(!file.exists(), "nobody listens there");
    assert_eq!(frames::read(&mut tunnel).await.close_code(), 1012);
    tunnel.send(frames::client_close(1012, "")).await;
    drop((tunnel, server, silent));
    for mut peer in waiting {
        peer.send(get("/", "")).await;
        let status = tokio::select! {
            biased;
            head = peer.read_head() => head.status(),
            mut server = backend.accept() => {
                server.read_head().await;
                server.send(ok("served")).await;
                peer.read_head().await.status()
            }
        };
        assert!(status == 503 || status == 200, "{status}: an answer, and no reset");
    }
    ended(old).await;
    terminate(new).await;
}
