//! How servers are connected to: PROXY headers sent, and own addresses. Rule B13.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::harness::{
    AGREED, Backend, Gate, OFFER, Peer, Refusing, Setup,
    frames::{TEXT, client},
    get, ok,
    pki::Pki,
    unix_address,
};

#[derive(Debug, Clone, Copy)]
enum Version {
    V1,
    V2,
}

impl Version {
    const BOTH: [Self; 2] = [Self::V1, Self::V2];

    /// A key of `[upstream.main]`.
    fn key(self) -> &'static str {
        match self {
            Self::V1 => "proxy_protocol = \"v1\"",
            Self::V2 => "proxy_protocol = \"v2\"",
        }
    }

    /// Reads a header off `server`, which must be the one for a client at `from` that connected to `to`; without addresses,
    /// for nobody.
    #[track_caller]
    fn expect(
        self,
        server: &mut Peer,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let (got, expected) = match self {
                Self::V1 => (server.read_proxy_v1().await.into_bytes(), v1(addresses)),
                Self::V2 => (server.read_proxy_v2().await, v2(addresses)),
            };
            assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{caller}");
        }
    }
}

fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((from, to)) = addresses else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

fn v2(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    match addresses {
        None => header.extend([0x20, 0, 0, 0]),
        Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend([from.ip().octets(), to.ip().octets()].concat());
        }
        Some((SocketAddr::V6(from), SocketAddr::V6(to))) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend([from.ip().octets(), to.ip().octets()].concat());
        }
        Some(mixed) => panic!("{mixed:?}"),
    }
    for address in addresses.iter().flat_map(|(from, to)| [from, to]) {
        header.extend(address.port().to_be_bytes());
    }
    header
}

#[tokio::test]
async fn b13_a_header_goes_before_the_request_for_clients_of_both_families() {
    for version in Version::BOTH {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let backend = Backend::listen().await;
            let gate = Setup::to(backend.address()).upstream(version.key()).listen(listen).start();
            let mut client_end = gate.ask(OFFER).await;
            let mut server_end = backend.accept().await;
            let addresses = (client_end.own_address(), gate.address());
            version.expect(&mut server_end, Some(addresses)).await;
            server_end.read_head().await;
            server_end.send(AGREED).await;
            assert_eq!(client_end.read_head().await.status(), 101);
            client_end.send(client(TEXT, "behind it")).await;
            server_end.expect(client(TEXT, "behind it")).await;
        }
    }
}

#[tokio::test]
async fn b13_a_client_of_a_dual_stack_listener_over_ipv4_is_one_of_ipv4() {
    for version in Version::BOTH {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address()).upstream(version.key()).listen("[::]:0").start();
        let address = SocketAddr::from(([127, 0, 0, 1], gate.address().port()));
        let Ok(mut client_end) = Peer::try_dial(address).await else { return };
        client_end.send(OFFER).await;
        let mut server_end = backend.accept().await;
        version.expect(&mut server_end, Some((client_end.own_address(), address))).await;
        server_end.read_head().await;
    }
}

#[tokio::test]
async fn b13_a_client_on_a_unix_socket_has_no_address() {
    let folder = tempfile::tempdir().unwrap();
    for version in Version::BOTH {
        let backend = Backend::listen().await;
        let gate =
            Setup::to(backend.address()).upstream(version.key()).listen(&unix_address(folder.path())).start();
        let mut client_end = Peer::dial_unix(&gate.path()).await;
        client_end.send(get("/", "")).await;
        let mut server_end = backend.accept().await;
        version.expect(&mut server_end, None).await;
        assert_eq!(server_end.read_head().await.target(), "/");
    }
}

#[tokio::test]
async fn b13_a_header_goes_to_a_unix_socket() {
    for version in Version::BOTH {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::listen_unix(folder.path());
        let gate = Setup::to(backend.address()).upstream(version.key()).start();
        let client_end = gate.ask(get("/", "")).await;
        let mut server_end = backend.accept().await;
        version.expect(&mut server_end, Some((client_end.own_address(), gate.address()))).await;
        server_end.read_head().await;
    }
}

#[tokio::test]
async fn b13_a_header_goes_before_tls() {
    let pki = Pki::new();
    let config = pki.server_config(&pki.leaf("127.0.0.1"), rustls::ALL_VERSIONS, false);
    for version in Version::BOTH {
        let backend = Backend::listen().await;
        let gate = Setup::to(backend.address())
            .upstream(&format!("{}\ntls.ca = \"{}\"", version.key(), pki.ca_file().display()))
            .tls(&pki, "")
            .start();
        let mut client_end = gate.ask(get("/", "")).await;
        let mut server_end = backend.accept().await;
        version.expect(&mut server_end, Some((client_end.own_address(), gate.address()))).await;
        let mut server_end = server_end.accept_tls(&config).await.unwrap();
        server_end.read_head().await;
        server_end.send(ok("behind both")).await;
        assert_eq!(client_end.read_response().await.text(), "behind both");
    }
}

#[tokio::test]
async fn b13_each_request_has_a_connection_of_its_own() {
    let pki = Pki::new();
    let config = pki.server_config(&pki.leaf("127.0.0.1"), rustls::ALL_VERSIONS, false);
    for tls in [false, true] {
        for version in Version::BOTH {
            let backend = Backend::listen().await;
            let ca = if tls { format!("tls.ca = \"{}\"", pki.ca_file().display()) } else { String::new() };
            let gate = Setup::to(backend.address()).upstream(&format!("{}\n{ca}", version.key())).start();
            // Two requests of one client and one of another.
            let mut client_end = gate.client().await;
            let mut other = gate.client().await;
            for client_end in [&mut client_end, &mut other] {
                for _ in 0..2 {
                    client_end.send(get("/", "")).await;
                    let mut server_end = backend.accept().await;
                    let addresses = (client_end.own_address(), gate.address());
                    version.expect(&mut server_end, Some(addresses)).await;
                    if tls {
                        server_end = server_end.accept_tls(&config).await.unwrap();
                    }
                    server_end.read_head().await;
                    server_end.send(ok("once")).await;
                    assert_eq!(client_end.read_response().await.text(), "once");
                    server_end.expect_end().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn b13_a_retry_sends_its_header_too() {
    let pki = Pki::new();
    let config = pki.server_config(&pki.leaf("127.0.0.1"), rustls::ALL_VERSIONS, false);
    let nobody = Refusing::new();
    let (plain, backend) = (Backend::listen().await, Backend::listen().await);
    // One refuses, one is no TLS: in whatever order they are tried, the third is asked.
    let gate = Setup::before([nobody.address(), plain.address(), backend.address()])
        .upstream(&format!(
            "balance = \"round_robin\"\nproxy_protocol = \"v2\"\ntls.ca = \"{}\"",
            pki.ca_file().display()
        ))
        .start();
    let _plain = plain.serve(|mut peer| async move {
        peer.read_proxy_v2().await;
        peer.send("what is this?\r\n").await;
        let _ = peer.read_to_any_end().await;
    });
    for _ in 0..3 {
        let mut client_end = gate.ask(get("/", "")).await;
        let mut server_end = backend.accept().await;
        Version::V2.expect(&mut server_end, Some((client_end.own_address(), gate.address()))).await;
        let mut server_end = server_end.accept_tls(&config).await.unwrap();
        server_end.read_head().await;
        server_end.send(ok("third")).await;
        assert_eq!(client_end.read_response().await.text(), "third");
    }
}

/// From where a gate connects, over some requests that it does not keep connections for.
async fn sources(gate: &Gate, backend: &Backend, count: usize) -> HashMap<String, usize> {
    let mut sources = HashMap::new();
    let mut client_end = gate.client().await;
    for _ in 0..count {
        client_end.send(get("/", "")).await;
        let mut server_end = backend.accept().await;
        *sources.entry(server_end.address().ip().to_string()).or_default() += 1;
        server_end.read_head().await;
        server_end.send(ok("")).await;
        client_end.read_response().await;
    }
    sources
}

fn counts(expected: &[(&str, usize)]) -> HashMap<String, usize> {
    expected.iter().map(|(source, count)| ((*source).to_owned(), *count)).collect()
}

#[tokio::test]
async fn source_addresses_take_turns() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address())
        .upstream("keep_alive = 0\nsource_addresses = [\"127.0.0.2\", \"127.0.0.3\", \"127.0.0.4\"]")
        .start();
    let found = sources(&gate, &backend, 9).await;
    assert_eq!(found, counts(&[("127.0.0.2", 3), ("127.0.0.3", 3), ("127.0.0.4", 3)]));
}

#[tokio::test]
async fn source_addresses_serve_their_own_family_alone() {
    let keys = "keep_alive = 0\nsource_addresses = [\"127.0.0.2\", \"::1\", \"127.0.0.3\"]";
    let four = Backend::listen().await;
    let gate = Setup::to(four.address()).upstream(keys).start();
    assert_eq!(sources(&gate, &four, 4).await, counts(&[("127.0.0.2", 2), ("127.0.0.3", 2)]));
    let six = Backend::listen_at("[::1]:0").await;
    let gate = Setup::to(six.address()).upstream(keys).start();
    assert_eq!(sources(&gate, &six, 2).await, counts(&[("::1", 2)]));
    // Where none fits, the system chooses.
    let gate = Setup::to(four.address()).upstream("keep_alive = 0\nsource_addresses = [\"::1\"]").start();
    assert_eq!(sources(&gate, &four, 1).await, counts(&[("127.0.0.1", 1)]));
}

#[tokio::test]
async fn one_port_of_a_source_address_serves_several_servers() {
    // The port is chosen at the connect: without that, each connection would take one for itself alone.
    let backends = [Backend::listen().await, Backend::listen().await];
    let gate = Setup::before(backends.iter().map(Backend::address))
        .upstream("balance = \"round_robin\"\nsource_addresses = [\"127.0.0.2\"]")
        .start();
    let gate = Arc::new(gate);
    for _ in 0..2 {
        let _client_end = gate.ask(OFFER).await;
        let server_end = tokio::select! {
            peer = backends[0].accept() => peer,
            peer = backends[1].accept() => peer,
        };
        assert_eq!(server_end.address().ip().to_string(), "127.0.0.2");
    }
}

#[tokio::test]
async fn connect_failed_from_an_address_that_is_not_ours() {
    let backend = Backend::listen().await;
    let gate = Setup::to(backend.address()).upstream("source_addresses = [\"192.0.2.77\"]").start();
    let mut client_end = gate.ask(get("/", "")).await;
    assert_eq!(client_end.read_response().await.status(), 502);
    let record = gate.record(|record| record.ending == Some("connect_failed")).await;
    let error = record.error.unwrap();
    assert!(error.contains("source address 192.0.2.77") && error.contains("Cannot assign"), "{error}");
    backend.expect_untouched();
}
