//! The TLS handshake: how it succeeds, and each way in which it fails.

use rustls::{
    AlertDescription, HandshakeKind, PeerIncompatible,
    client::Resumption,
    crypto::aws_lc_rs::{self, kx_group},
    version::{TLS12, TLS13},
};
use tokio::time::Instant;

use super::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// The failure of a handshake, and what the client was told.
async fn refused(acceptor: &Acceptor, config: ClientConfig) -> (TlsFailure, Error) {
    let (wire, client) = pipe(64 * 1024);
    let (client, failure) =
        tokio::join!(connector(config).connect(name("localhost"), client), acceptor.accept(wire, None));
    let error = client.unwrap_err();
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
    (failure.unwrap_err(), told.unwrap())
}

#[tokio::test]
async fn info_tells_what_tls_1_3_agreed() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    let mut config = gate.authority.client(&[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (_client, accepted) = gate.connect_over(wire, client, config).await;
    let expected = TlsInfo {
        version: "TLSv1.3",
        cipher_suite: "TLS_AES_128_GCM_SHA256",
        key_exchange_group: Some("X25519MLKEM768"),
        sni: Some("localhost".into()),
        alpn: Some("http/1.1"),
        resumed: false,
        client: None,
    };
    assert_eq!(accepted.info, expected);
}

#[tokio::test]
async fn info_tells_what_tls_1_2_agreed() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    let (_client, accepted) = gate.connect_over(wire, client, gate.authority.client(&[&TLS12])).await;
    assert_eq!(accepted.info.version, "TLSv1.2");
    assert_eq!(accepted.info.cipher_suite, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    assert_eq!(accepted.info.key_exchange_group, Some("X25519"));
    assert_eq!(accepted.info.alpn, None);
}

/// Connects twice with one client, reading a byte each time so that tickets arrive, and tells whether the
/// second was resumed.
async fn resumes(config: &ClientConfig, first: &Acceptor, second: &Acceptor) -> bool {
    let mut resumed = false;
    for acceptor in [first, second] {
        let (wire, client) = pipe(64 * 1024);
        let (client, accepted) = tokio::join!(
            connector(config.clone()).connect(name("localhost"), client),
            acceptor.accept(wire, None)
        );
        let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
        accepted.stream.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        resumed = accepted.info.resumed;
    }
    resumed
}

#[tokio::test]
async fn sessions_resume_in_both_versions() {
    let gate = Gate::new();
    for version in [&TLS12, &TLS13] {
        let config = gate.authority.client(&[version]);
        assert!(resumes(&config, &gate.acceptor, &gate.acceptor).await, "{version:?}");
        let mut forgetful = gate.authority.client(&[version]);
        forgetful.resumption = Resumption::disabled();
        assert!(!resumes(&forgetful, &gate.acceptor, &gate.acceptor).await, "{version:?}");
    }
}

#[tokio::test]
async fn s6_tickets_do_not_cross_listeners_but_outlive_a_reload() {
    let authority = Authority::new();
    let identities = [authority.identity(&["localhost"])];
    let tickets = Tickets::new().unwrap();
    let before = acceptor(&identities, TlsVersion::Tls12, None, &tickets).unwrap();
    let after = acceptor(&identities, TlsVersion::Tls12, None, &tickets).unwrap();
    let other = acceptor(&identities, TlsVersion::Tls12, None, &Tickets::new().unwrap()).unwrap();
    for version in [&TLS12, &TLS13] {
        assert!(resumes(&authority.client(&[version]), &before, &after).await, "{version:?}");
        assert!(!resumes(&authority.client(&[version]), &before, &other).await, "{version:?}");
    }
}

#[tokio::test]
async fn s6_one_ticket_and_no_early_data() {
    let gate = Gate::new();
    let (mut client, mut accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    accepted.stream.write_all(b"!").await.unwrap();
    client.read_exact(1).await;
    assert_eq!(client.tls.tls13_tickets_received(), 1);
    let mut config = gate.authority.client(&[&TLS13]);
    config.enable_early_data = true;
    assert!(resumes(&config, &gate.acceptor, &gate.acceptor).await);
    let (_wire, pipe) = pipe(1);
    assert!(RawClient::new(config, name("localhost"), pipe).tls.early_data().is_none());
}

#[tokio::test]
async fn alpn_without_a_common_protocol_is_refused_with_its_alert() {
    let gate = Gate::new();
    let mut config = gate.authority.client(&[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (failure, told) = refused(&gate.acceptor, config).await;
    assert!(matches!(failure, TlsFailure::Alpn), "{failure:?}");
    assert_eq!(told, Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn s6_a_version_below_the_lowest_is_refused_with_its_alert() {
    let gate = Gate::with_min_version(TlsVersion::Tls13);
    let (failure, told) = refused(&gate.acceptor, gate.authority.client(&[&TLS12])).await;
    let expected = Error::from(PeerIncompatible::Tls12NotOfferedOrEnabled);
    assert!(matches!(&failure, TlsFailure::Protocol(error) if *error == expected), "{failure:?}");
    assert_eq!(told, Error::AlertReceived(AlertDescription::ProtocolVersion));
}

#[tokio::test]
async fn an_alert_of_the_client_is_the_failure() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    let stranger = Authority::new().client(&[&TLS13]);
    let (client, failure) = tokio::join!(
        connector(stranger).connect(name("localhost"), client),
        gate.acceptor.accept(wire, None)
    );
    drop(client.unwrap_err());
    let failure = failure.unwrap_err();
    assert!(matches!(failure, TlsFailure::Protocol(Error::AlertReceived(_))), "{failure:?}");
}

#[tokio::test]
async fn plain_http_gets_an_alert_and_a_proper_end() {
    let gate = Gate::new();
    let (wire, mut client) = pipe(64 * 1024);
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let (failure, read) = tokio::join!(gate.acceptor.accept(wire, None), async {
        let read = client.read_to_end(&mut answer).await;
        drop(client);
        read
    });
    read.unwrap();
    let expected = Error::from(InvalidMessage::InvalidContentType);
    assert!(matches!(failure.unwrap_err(), TlsFailure::Protocol(error) if error == expected));
    // An alert record: fatal, decode_error.
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
}

#[tokio::test(start_paused = true)]
async fn s1_a_trickle_does_not_move_the_deadline_of_the_handshake() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    let mut client = RawClient::new(gate.authority.client(&[&TLS13]), name("localhost"), client);
    let trickle = async {
        for byte in client.records() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.pipe.write_all(&[byte]).await.unwrap();
        }
    };
    let start = Instant::now();
    tokio::select! {
        () = trickle => panic!("all of it was read"),
        failure = gate.acceptor.accept(wire, Some(SECONDS(10))) => {
            assert!(matches!(failure.unwrap_err(), TlsFailure::Timeout));
        }
    }
    assert_eq!(start.elapsed(), SECONDS(10));
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_stays_after_its_alert_is_let_go() {
    let gate = Gate::new();
    let (wire, mut client) = pipe(64 * 1024);
    client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    let start = Instant::now();
    let failure = gate.acceptor.accept(wire, Some(SECONDS(10))).await.unwrap_err();
    assert!(matches!(failure, TlsFailure::Protocol(_)));
    assert_eq!(start.elapsed(), FAREWELL);
}

#[tokio::test]
async fn an_end_within_the_handshake_is_lost_and_one_before_it_silent() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    drop(client);
    assert!(matches!(gate.acceptor.accept(wire, None).await.unwrap_err(), TlsFailure::Silent));

    let (wire, client) = pipe(64 * 1024);
    let mut client = RawClient::new(gate.authority.client(&[&TLS13]), name("localhost"), client);
    let hello = client.records();
    client.pipe.write_all(&hello[..hello.len() / 2]).await.unwrap();
    drop(client);
    let failure = gate.acceptor.accept(wire, None).await.unwrap_err();
    assert!(matches!(failure, TlsFailure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn segments_of_one_byte_make_a_connection() {
    let gate = Gate::new();
    for version in [&TLS12, &TLS13] {
        let (wire, client) = pipe(1);
        let config = gate.authority.client(&[version]);
        let talk = async {
            let mut client = connector(config).connect(name("localhost"), client).await.unwrap();
            client.write_all(b"ping").await.unwrap();
            client.flush().await.unwrap();
            assert_eq!(read_some(&mut client, 4).await, b"pong");
        };
        let answer = async {
            let mut stream = gate.acceptor.accept(wire, None).await.unwrap().stream;
            assert_eq!(read_some(&mut stream, 4).await, b"ping");
            stream.write_all(b"pong").await.unwrap();
            stream.flush().await.unwrap();
        };
        tokio::join!(talk, answer);
    }
}

#[tokio::test]
async fn a_request_in_one_segment_with_finished_is_read_and_its_answer_goes_behind_the_ticket() {
    let gate = Gate::new();
    let request = noise(20_000);
    // Each flight of the server is one write; in TLS 1.3 the ticket is none, and goes with the answer.
    for (version, flights) in [(&TLS12, 2), (&TLS13, 1)] {
        let (mut client, mut accepted) = gate.connect_raw(gate.authority.client(&[version]), &request).await;
        let stream = &mut accepted.stream;
        assert_eq!(stream.socket.writes.load(Ordering::Relaxed), flights, "{version:?}");
        assert_eq!(read_some(stream, 20_000).await, request);
        assert_eq!((stream.socket.writes.load(Ordering::Relaxed), stream.unsent()), (flights, 0));
        stream.write_all(b"answer").await.unwrap();
        assert_eq!((stream.has_tickets, stream.capacity()), (false, 0));
        assert_eq!(client.read_exact(6).await, b"answer");
        assert_eq!(stream.socket.writes.load(Ordering::Relaxed), flights + 1, "{version:?}");
    }
}

#[tokio::test]
async fn s6_a_ticket_that_nothing_follows_goes_with_the_end() {
    let gate = Gate::new();
    let (wire, client) = pipe(64 * 1024);
    let (mut client, accepted) = gate.connect_over(wire, client, gate.authority.client(&[&TLS13])).await;
    let mut stream = accepted.stream;
    let before = stream.socket.writes.load(Ordering::Relaxed);
    stream.shutdown().await.unwrap();
    assert_eq!(stream.socket.writes.load(Ordering::Relaxed), before + 1);
    assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 1);
}

#[tokio::test]
async fn a_ticket_that_waits_holds_no_alert_up() {
    let gate = Gate::new();
    let (mut client, mut accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    client.pipe.write_all(&[23, 3, 3, 0, 40]).await.unwrap();
    client.pipe.write_all(&noise(40)).await.unwrap();
    let error = accepted.stream.read(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(accepted.stream.sealed.is_empty(), "the alert is sent");
}

#[tokio::test]
async fn a_hello_retry_keeps_the_name() {
    let gate = Gate::new();
    // The client's only key share is for a group that the gate has not.
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::MLKEM768, kx_group::X25519];
    let config = gate.authority.client_with(provider, &[&TLS13]);
    let (wire, client) = pipe(64 * 1024);
    let (client, accepted) = gate.connect_over(wire, client, config).await;
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    assert_eq!(accepted.info.sni.as_deref(), Some("localhost"));
}

#[tokio::test]
async fn a_hello_that_never_ends_is_refused() {
    let gate = Gate::new();
    let (wire, mut client) = pipe(64 * 1024);
    let flood = async {
        // Handshake records of one byte each: the beginning of a ClientHello of 65,000 bytes.
        let mut hello = vec![1, 0, 0xfd, 0xe8];
        hello.resize(65_000, 0);
        for byte in hello {
            if client.write_all(&[22, 3, 1, 0, 1, byte]).await.is_err() {
                break;
            }
        }
        client
    };
    let ((), failure) = tokio::join!(async { drop(flood.await) }, gate.acceptor.accept(wire, None));
    let expected = Error::from(InvalidMessage::HandshakePayloadTooLarge);
    assert!(matches!(failure.unwrap_err(), TlsFailure::Protocol(error) if error == expected));
}

#[tokio::test]
async fn t13_the_alert_of_a_failed_handshake_is_not_cut_by_a_reset() {
    let gate = Gate::new();
    let (mut client, socket) = sockets().await;
    // More than is read before it is refused.
    let request = [b"POST / HTTP/1.1\r\n\r\n".as_slice(), &noise(200_000)].concat();
    let mut answer = Vec::new();
    let (failure, ()) = tokio::join!(gate.acceptor.accept(socket, None), async {
        client.write_all(&request).await.unwrap();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
    });
    assert!(matches!(failure.unwrap_err(), TlsFailure::Protocol(_)));
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
}
