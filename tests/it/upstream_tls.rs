//! TLS to servers. Rules B7, B12, H14, T1, T3, T13, W10.

use std::{sync::Arc, time::Duration};

use rustls::{
    HandshakeKind, ServerConfig,
    version::{TLS12, TLS13},
};
use tokio::io::AsyncWriteExt;

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Setup,
    frames::{self, BINARY, TEXT, client, server},
    get, ok,
    pki::{Leaf, Pki},
    program::Program,
    soon, unix_address,
};

/// A server that speaks TLS, its CA, and how it speaks it.
struct Secure {
    pki: Arc<Pki>,
    backend: Backend,
    config: Arc<ServerConfig>,
}

impl Secure {
    /// With a leaf for `127.0.0.1`, as which it is addressed.
    async fn new() -> Self {
        let pki = Pki::new();
        let leaf = pki.leaf("127.0.0.1");
        let config = pki.server_config(&leaf, rustls::ALL_VERSIONS, false);
        Self { pki, backend: Backend::listen().await, config }
    }

    /// `[upstream.main.tls]` that trusts its CA, and further lines.
    fn setup(&self, lines: &str) -> Setup {
        Setup::to(self.backend.address()).upstream(&trusting(&self.pki, lines))
    }

    /// The next connection, with TLS on it.
    async fn accept(&self) -> Peer {
        self.backend.accept().await.accept_tls(&self.config).await.expect("a TLS handshake")
    }

    async fn tunnel(&self, gate: &Gate) -> (Peer, Peer) {
        let mut client = gate.ask(OFFER).await;
        let mut server = self.accept().await;
        server.read_head().await;
        server.send(AGREED).await;
        assert_eq!(client.read_head().await.status(), 101);
        (client, server)
    }
}

/// Keys of `[upstream.main]` by which it speaks TLS and trusts the CA of `pki`; `lines` are of the table `tls`.
fn trusting(pki: &Pki, lines: &str) -> String {
    format!("tls.ca = \"{}\"\n{lines}", pki.ca_file().display())
}

/// The answer of a gate whose server does not come through the TLS handshake, and the error in its record.
async fn refused(gate: &Gate, request: &str, label: &str) -> (u16, String) {
    let mut client = gate.ask(request).await;
    let status = client.read_response().await.status();
    let record = gate.record(|record| record.ending == Some(label)).await;
    assert_eq!(record.phase, Some("connect"));
    (status, record.error.expect("an error").into())
}

#[tokio::test]
async fn b12_exchanges_and_tunnels_over_both_versions() {
    for (version, name) in
        [(&TLS12, rustls::ProtocolVersion::TLSv1_2), (&TLS13, rustls::ProtocolVersion::TLSv1_3)]
    {
        let mut secure = Secure::new().await;
        secure.config = secure.pki.server_config(&secure.pki.leaf("127.0.0.1"), &[version], false);
        let gate = secure.setup("").start();
        let mut client_end = gate.ask(get("/plain", "")).await;
        let mut server_end = secure.accept().await;
        assert_eq!(server_end.tls().protocol_version(), Some(name));
        assert_eq!(server_end.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        let head = server_end.read_head().await;
        assert_eq!((head.target(), head.get("x-forwarded-proto")), ("/plain", Some("http")));
        server_end.send(ok("over TLS")).await;
        assert_eq!(client_end.read_response().await.text(), "over TLS");

        let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
        client_end.send(client(TEXT, "up")).await;
        server_end.expect(client(TEXT, "up")).await;
        server_end.send(server(TEXT, "down")).await;
        client_end.expect(server(TEXT, "down")).await;
    }
}

#[tokio::test]
async fn t1_large_messages_both_ways_at_once() {
    let secure = Secure::new().await;
    let gate = secure.setup("").tls(&secure.pki, "").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    // One that is read only once it is there as a whole must not hold up the other.
    let up = client(BINARY, (0..3_000_000_u32).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let down = server(BINARY, (0..5_000_000_u32).map(|at| (at % 241) as u8).collect::<Vec<_>>());
    for _ in 0..2 {
        let (mut client_reads, mut client_writes) = tokio::io::split(&mut client_end);
        let (mut server_reads, mut server_writes) = tokio::io::split(&mut server_end);
        let (mut got_up, mut got_down) = (vec![0; up.len()], vec![0; down.len()]);
        let upwards = async {
            client_writes.write_all(&up).await?;
            client_writes.flush().await
        };
        let downwards = async {
            server_writes.write_all(&down).await?;
            server_writes.flush().await
        };
        let all = async {
            tokio::try_join!(
                upwards,
                downwards,
                async { tokio::io::AsyncReadExt::read_exact(&mut server_reads, &mut got_up).await.map(drop) },
                async {
                    tokio::io::AsyncReadExt::read_exact(&mut client_reads, &mut got_down).await.map(drop)
                },
            )
        };
        soon("both ways", all).await.unwrap();
        assert!(got_up == up && got_down == down, "other bytes");
    }
}

/// More than all buffers on the way hold.
const BOUND: usize = 24 * 1024 * 1024;

#[tokio::test]
async fn t1_a_server_that_stops_reading_stops_its_client() {
    let secure = Secure::new().await;
    let gate = secure.setup("").listener("timeout.write = \"off\"").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    let frame = client(BINARY, vec![1; 64 * 1024]);
    let taken = client_end.fill(&frame, BOUND).await;
    assert!(taken < BOUND, "the gate and the kernel hold {taken} bytes for a server that does not read");
    // The other way is not held up, and nothing is lost once it reads.
    server_end.send(server(TEXT, "still here")).await;
    client_end.expect(server(TEXT, "still here")).await;
    for sent in 0..taken / frame.len() {
        assert!(server_end.read_exact(frame.len()).await == frame, "other bytes in frame {sent}");
    }
    server_end.expect(&frame[..taken % frame.len()]).await;
}

#[tokio::test]
async fn t13_an_end_of_either_side_is_passed_on_with_close_notify() {
    let secure = Secure::new().await;
    let gate = secure.setup("").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    client_end.send(client(TEXT, "last")).await;
    client_end.shutdown().await;
    server_end.expect(client(TEXT, "last")).await;
    // Without close_notify this is an error.
    server_end.expect_end().await;
    server_end.send(server(TEXT, "half open")).await;
    client_end.expect(server(TEXT, "half open")).await;
    server_end.shutdown().await;
    client_end.expect_end().await;
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.truncated), (Some("downstream_eof"), false));

    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    server_end.send(server(TEXT, "last")).await;
    server_end.shutdown().await;
    client_end.expect(server(TEXT, "last")).await;
    client_end.expect_end().await;
    client_end.send(client(TEXT, "half open")).await;
    server_end.expect(client(TEXT, "half open")).await;
    client_end.shutdown().await;
    server_end.expect_end().await;
    let record = gate.record(|record| record.ending == Some("upstream_eof")).await;
    assert!(!record.truncated);
}

#[tokio::test]
async fn t13_a_bare_fin_of_the_server_is_a_truncation() {
    let secure = Secure::new().await;
    let gate = secure.setup("").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    server_end.send(server(TEXT, "last")).await;
    client_end.expect(server(TEXT, "last")).await;
    let mut bare = server_end.into_tcp();
    bare.shutdown().await.unwrap();
    client_end.expect_end().await;
    client_end.shutdown().await;
    let record = gate.tunnel_end().await;
    assert_eq!((record.ending, record.truncated), (Some("upstream_eof"), true));
}

#[tokio::test]
async fn t13_a_connection_that_is_not_kept_ends_with_close_notify() {
    let secure = Secure::new().await;
    let gate = secure.setup("").upstream("keep_alive = 0").start();
    let mut client_end = gate.ask(get("/", "")).await;
    let mut server_end = secure.accept().await;
    server_end.read_head().await;
    server_end.send(ok("once")).await;
    assert_eq!(client_end.read_response().await.text(), "once");
    server_end.expect_end().await;
}

#[tokio::test]
async fn t13_an_idle_connection_that_expires_ends_with_close_notify() {
    let secure = Secure::new().await;
    let gate = secure.setup("").upstream("keep_alive_timeout = \"100ms\"").start();
    let mut client_end = gate.ask(get("/", "")).await;
    let mut server_end = secure.accept().await;
    server_end.read_head().await;
    server_end.send(ok("once")).await;
    assert_eq!(client_end.read_response().await.text(), "once");
    server_end.expect_end().await;
}

#[tokio::test]
async fn t3_an_end_within_a_frame_is_a_reset_on_either_side() {
    let secure = Secure::new().await;
    let gate = secure.setup("").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    let part = &client(BINARY, vec![1; 1000])[..500];
    client_end.send(part).await;
    server_end.expect(part).await;
    client_end.reset();
    assert!(server_end.expect_reset().await.is_empty());
    assert_eq!(gate.tunnel_end().await.ending, Some("downstream_reset"));

    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    let part = &server(BINARY, vec![1; 1000])[..500];
    server_end.send(part).await;
    client_end.expect(part).await;
    server_end.reset();
    assert!(client_end.expect_reset().await.is_empty());
    gate.record(|record| record.ending == Some("upstream_reset")).await;
}

#[tokio::test]
async fn t3_whole_frames_before_a_broken_one_all_arrive() {
    let secure = Secure::new().await;
    let gate = secure.setup("").start();
    let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
    let whole = client(BINARY, vec![2; 100_000]).repeat(10);
    let sent = [&whole[..], &client(BINARY, vec![1; 1000])[..500]].concat();
    let write = async {
        client_end.send(&sent).await;
        client_end.shutdown().await;
    };
    let ((), read) = tokio::join!(write, server_end.read_exact(whole.len()));
    assert!(read == whole, "other bytes");
    // Of the rest as much as was on the wire.
    assert!(sent[whole.len()..].starts_with(&server_end.expect_reset().await));
}

#[tokio::test]
async fn b12_the_name_that_is_sent_is_the_servers_host_or_server_name() {
    let mut secure = Secure::new().await;
    let port = secure.backend.address().rsplit(':').next().unwrap().to_owned();
    for (host, line, sni, names) in [
        ("localhost", "", Some("localhost"), "localhost"),
        ("localhost", "tls.server_name = \"other.example\"", Some("other.example"), "other.example"),
        ("127.0.0.1", "tls.server_name = \"other.example\"", Some("other.example"), "other.example"),
        // An address is no name, but is in the certificate (RFC 6066 §3).
        ("127.0.0.1", "", None, "127.0.0.1"),
    ] {
        secure.config = secure.pki.server_config(&secure.pki.leaf(names), rustls::ALL_VERSIONS, false);
        let gate = Setup::to(format!("{host}:{port}")).upstream(&trusting(&secure.pki, line)).start();
        let mut client_end = gate.ask(get("/", "")).await;
        let mut server_end = secure.accept().await;
        assert_eq!(server_end.sni(), sni);
        server_end.read_head().await;
        server_end.send(ok("named")).await;
        assert_eq!(client_end.read_response().await.text(), "named");
    }
}

/// A server with this leaf of `pki` that takes every connection into TLS and answers there.
async fn serving(pki: &Pki, leaf: &Leaf) -> crate::harness::Serving {
    let config = pki.server_config(leaf, rustls::ALL_VERSIONS, false);
    Backend::listen().await.serve(move |peer| {
        let config = Arc::clone(&config);
        async move {
            let Ok(mut peer) = peer.accept_tls(&config).await else { return };
            while peer.next_head().await.is_some() {
                peer.send(ok("secure")).await;
            }
        }
    })
}

#[tokio::test]
async fn b12_a_certificate_that_proves_nothing_is_502_and_says_why() {
    let (ours, other) = (Pki::new(), Pki::new());
    for (pki, leaf, reason) in [
        (&ours, ours.leaf("other.example"), "not valid for name"),
        // Of another CA of the same name.
        (&other, other.leaf("127.0.0.1"), "BadSignature"),
        (&ours, ours.leaf_until("127.0.0.1", 2020), "expired"),
    ] {
        let bad = serving(pki, &leaf).await;
        let gate = Setup::to(bad.address()).upstream(&trusting(&ours, "")).start();
        for request in [OFFER.to_owned(), get("/", "")] {
            let (status, error) = refused(&gate, &request, "upstream_tls").await;
            assert_eq!(status, 502);
            assert!(error.contains(reason), "{error}");
        }
        // Another server of the pool answers in its place.
        let good = serving(&ours, &ours.leaf("127.0.0.1")).await;
        let gate = Setup::before([bad.address(), good.address()])
            .upstream(&trusting(&ours, "balance = \"round_robin\""))
            .start();
        let mut client = gate.client().await;
        for _ in 0..4 {
            client.send(get("/", "Connection: keep-alive\r\n")).await;
            assert_eq!(client.read_response().await.text(), "secure");
        }
    }
}

#[tokio::test]
async fn b12_verify_false_takes_anybody_and_warns_once_at_each_start() {
    let stranger = Pki::new();
    let server = serving(&stranger, &stranger.leaf("other.example")).await;
    let gate = Setup::to(server.address()).upstream("tls.verify = false").start();
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.text(), "secure");
    drop((client, gate));

    let folder = tempfile::tempdir().unwrap();
    let toml = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.careless]\nservers = [\"{}\"]\ntls.verify = false\n\
         [[route]]\nupstream = \"careless\"\n",
        server.address()
    );
    // What it warns of, it does before it listens.
    let program = Program::start(folder.path(), &toml, None).await;
    let mut said = program.said();
    said.retain(|event| event["level"] == "WARN" && event.to_string().contains("verify"));
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["message"], "`verify` is off (proxy.toml:8:14)");
}

#[tokio::test]
async fn b12_a_client_certificate_is_shown_to_a_server_that_asks() {
    for version in [&TLS12, &TLS13] {
        let mut secure = Secure::new().await;
        secure.config = secure.pki.server_config(&secure.pki.leaf("127.0.0.1"), &[version], true);
        let leaf = secure.pki.leaf("gate.example");
        let keys = format!("tls.cert = \"{}\"\ntls.key = \"{}\"", leaf.cert.display(), leaf.key.display());
        let gate = secure.setup(&keys).start();
        let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
        assert_eq!(server_end.tls().peer_certificates().unwrap(), [leaf.der]);
        client_end.send(client(TEXT, "known")).await;
        server_end.expect(client(TEXT, "known")).await;
    }
}

#[tokio::test]
async fn b12_without_the_client_certificate_that_a_server_wants_it_is_502() {
    // By version 1.3 the server tells only after the TLS handshake, in place of an answer.
    for (version, label) in [(&TLS12, "upstream_tls"), (&TLS13, "upstream_closed")] {
        let mut secure = Secure::new().await;
        secure.config = secure.pki.server_config(&secure.pki.leaf("127.0.0.1"), &[version], true);
        let gate = secure.setup("").upstream("retries = 0").start();
        let mut client_end = gate.ask(OFFER).await;
        let rejected = secure.backend.accept().await.accept_tls(&secure.config).await;
        rejected.expect_err("no certificate came");
        assert_eq!(client_end.read_response().await.status(), 502);
        let record = gate.record(|record| record.ending.is_some()).await;
        assert_eq!((record.ending, record.status), (Some(label), Some(502)));
        let error = record.error.unwrap();
        assert!(error.contains("CertificateRequired") || error.contains("HandshakeFailure"), "{error}");
    }
}

#[tokio::test]
async fn b12_sessions_are_resumed() {
    for version in [&TLS12, &TLS13] {
        let mut secure = Secure::new().await;
        secure.config = secure.pki.server_config(&secure.pki.leaf("127.0.0.1"), &[version], false);
        let gate = secure.setup("").start();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (mut client_end, mut server_end) = secure.tunnel(&gate).await;
            kinds.push(server_end.tls().handshake_kind());
            server_end.send(frames::server_close(1000, "")).await;
            client_end.expect(frames::server_close(1000, "")).await;
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}

#[tokio::test]
async fn b7_an_idle_connection_is_reused_by_requests_and_not_by_handshakes() {
    for version in [&TLS12, &TLS13] {
        let mut secure = Secure::new().await;
        secure.config = secure.pki.server_config(&secure.pki.leaf("127.0.0.1"), &[version], false);
        let gate = secure.setup("").start();
        let mut first = gate.ask(get("/first", "")).await;
        let mut server_end = secure.accept().await;
        server_end.read_head().await;
        server_end.send(ok("first")).await;
        assert_eq!(first.read_response().await.text(), "first");
        for _ in 0..3 {
            let mut next = gate.ask(get("/next", "")).await;
            assert_eq!(server_end.read_head().await.target(), "/next");
            server_end.send(ok("next")).await;
            assert_eq!(next.read_response().await.text(), "next");
        }
        secure.backend.expect_untouched();
        let (_client, _server) = secure.tunnel(&gate).await;
    }
}

#[tokio::test]
async fn h14_what_came_on_an_idle_connection_makes_it_useless() {
    #[derive(Debug, Clone, Copy)]
    enum Came {
        Poison,
        CloseNotify,
        BareFin,
        Garbage,
    }
    for came in [Came::Poison, Came::CloseNotify, Came::BareFin, Came::Garbage] {
        let secure = Secure::new().await;
        let gate = secure.setup("").start();
        let mut client_end = gate.ask(get("/first", "")).await;
        let mut server_end = secure.accept().await;
        server_end.read_head().await;
        server_end.send(ok("first")).await;
        assert_eq!(client_end.read_response().await.text(), "first");
        let (mut kept, mut bare) = (None, None);
        match came {
            Came::Poison => {
                server_end.send(ok("poison")).await;
                kept = Some(server_end);
            }
            Came::CloseNotify => {
                server_end.shutdown().await;
                kept = Some(server_end);
            }
            Came::BareFin => {
                let mut stream = server_end.into_tcp();
                stream.shutdown().await.unwrap();
                bare = Some(stream);
            }
            Came::Garbage => {
                let mut stream = server_end.into_tcp();
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
                bare = Some(stream);
            }
        }
        // Not even a POST meets it.
        client_end.send(get("/second", "Content-Length: 2\r\n").replacen("GET", "POST", 1) + "hi").await;
        let mut fresh = secure.accept().await;
        fresh.read_head().await;
        fresh.expect("hi").await;
        fresh.send(ok("mine")).await;
        assert_eq!(client_end.read_response().await.text(), "mine", "{came:?}");
        drop((kept, bare));
    }
}

#[tokio::test]
async fn h14_surplus_in_the_record_of_the_answer_is_not_kept() {
    let secure = Secure::new().await;
    let gate = secure.setup("").start();
    let mut client_end = gate.ask(get("/first", "")).await;
    let mut server_end = secure.accept().await;
    server_end.read_head().await;
    server_end.send(ok("first") + &ok("poison")).await;
    assert_eq!(client_end.read_response().await.text(), "first");
    client_end.send(get("/second", "")).await;
    let mut fresh = secure.accept().await;
    fresh.read_head().await;
    fresh.send(ok("mine")).await;
    assert_eq!(client_end.read_response().await.text(), "mine");
}

#[tokio::test]
async fn b7_pools_of_different_identities_share_nothing() {
    let pki = Pki::new();
    let server_config = pki.server_config(&pki.leaf("127.0.0.1"), &[&TLS13], true);
    let backend = Backend::listen().await;
    let pool = |name: &str| {
        let leaf = pki.leaf(name);
        format!(
            "[upstream.{name}]\nservers = [\"{}\"]\ntls = {{ ca = \"{}\", cert = \"{}\", key = \"{}\" }}\n",
            backend.address(),
            pki.ca_file().display(),
            leaf.cert.display(),
            leaf.key.display()
        )
    };
    let toml = format!(
        "[server]\nworkers = 1\ndrain_spread = \"0s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{}{}\
         [[route]]\npath = \"/one\"\nupstream = \"one\"\n[[route]]\npath = \"/other\"\nupstream = \"other\"\n",
        pool("one"),
        pool("other"),
    );
    let gate = Gate::start(&toml, None);
    let mut certificates = Vec::new();
    let mut open = Vec::new();
    for path in ["/one", "/other"] {
        let mut client_end = gate.ask(get(path, "")).await;
        let mut server_end = backend.accept().await.accept_tls(&server_config).await.unwrap();
        // Neither the connection nor the session of the other.
        assert_eq!(server_end.tls().handshake_kind(), Some(HandshakeKind::Full));
        certificates.push(server_end.tls().peer_certificates().unwrap()[0].clone());
        server_end.read_head().await;
        server_end.send(ok(path)).await;
        assert_eq!(client_end.read_response().await.text(), path);
        open.push(server_end);
    }
    assert_ne!(certificates[0], certificates[1]);
}

#[tokio::test]
async fn upstream_tls_for_a_server_that_speaks_plain_http() {
    let backend = Backend::listen().await.serve(|mut peer| async move {
        // It takes the ClientHello for a bad request.
        peer.read_until(|tail| (!tail.is_empty()).then_some(tail.len())).await.unwrap();
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    });
    let pki = Pki::new();
    let gate = Setup::to(backend.address()).upstream(&trusting(&pki, "")).start();
    let (status, error) = refused(&gate, OFFER, "upstream_tls").await;
    assert_eq!(status, 502);
    assert!(error.contains("corrupt message"), "{error}");
}

#[tokio::test]
async fn upstream_tls_for_a_server_that_ends_the_tls_handshake() {
    let backend = Backend::listen().await.serve(|mut peer| async move {
        peer.read_until(|tail| (!tail.is_empty()).then_some(tail.len())).await.unwrap();
    });
    let pki = Pki::new();
    let gate = Setup::to(backend.address()).upstream(&trusting(&pki, "")).start();
    let (status, error) = refused(&gate, OFFER, "upstream_tls").await;
    assert_eq!(status, 502);
    assert!(error.contains("handshake eof"), "{error}");
}

#[tokio::test]
async fn connect_timeout_for_a_server_that_hangs_in_the_tls_handshake() {
    let backend = Backend::listen().await;
    let pki = Pki::new();
    let gate = Setup::to(backend.address())
        .upstream(&trusting(&pki, "connect_timeout = \"300ms\"\nretries = 0"))
        .start();
    let began = std::time::Instant::now();
    let (answer, _silent) = tokio::join!(refused(&gate, OFFER, "connect_timeout"), backend.accept());
    assert_eq!(answer.0, 504);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_tls_handshake_with_the_server() {
    let backend = Backend::listen().await;
    let pki = Pki::new();
    let gate = Setup::to(backend.address()).upstream(&trusting(&pki, "connect_timeout = \"1h\"")).start();
    let client_end = gate.ask(OFFER).await;
    let mut silent = backend.accept().await;
    silent.read_exact(5).await;
    drop(client_end);
    silent.read_to_any_end().await.1.expect("an end");
    let record = gate.record(|record| record.ending == Some("downstream_gone")).await;
    assert_eq!((record.ended_by, record.phase), (Some("downstream"), Some("connect")));
    gate.at_rest().await;
}

#[tokio::test]
async fn a_unix_socket_speaks_tls_under_server_name() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    let config = pki.server_config(&pki.leaf("app.internal"), rustls::ALL_VERSIONS, false);
    let backend = Backend::listen_unix(folder.path());
    let gate = Setup::to(backend.address())
        .upstream(&trusting(&pki, "proxy_protocol = \"v1\"\ntls.server_name = \"app.internal\""))
        .listen(&unix_address(folder.path()))
        .start();
    let mut client_end = Peer::dial_unix(&gate.path()).await;
    client_end.send(OFFER).await;
    let mut server_end = backend.accept().await;
    assert_eq!(server_end.read_proxy_v1().await, "PROXY UNKNOWN\r\n");
    let mut server_end = server_end.accept_tls(&config).await.unwrap();
    assert_eq!(server_end.sni(), Some("app.internal"));
    server_end.read_head().await;
    server_end.send(AGREED).await;
    assert_eq!(client_end.read_head().await.status(), 101);
    server_end.send(server(TEXT, "over TLS over unix")).await;
    client_end.expect(server(TEXT, "over TLS over unix")).await;
}

#[tokio::test]
async fn the_host_header_of_the_upstream_names_its_port() {
    let secure = Secure::new().await;
    let gate = secure.setup("").route("host_header = \"upstream\"").start();
    let _client_end = gate.ask(get("/", "")).await;
    let mut server_end = secure.accept().await;
    // No test can have port 443; that it is left out is told by the endpoint's own.
    assert_eq!(server_end.read_head().await.get("host"), Some(&*secure.backend.address()));
}
