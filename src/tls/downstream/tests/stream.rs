//! The stream after its TLS handshake.

use proptest::prelude::*;
use rustls::{
    AlertDescription,
    server::UnbufferedServerConnection,
    version::{TLS12, TLS13},
};

use super::*;

/// A client and its stream on the gate, over a loopback socket.
async fn connect_over_sockets(gate: &Gate) -> (client::TlsStream<TcpStream>, Box<TlsStream<Socket>>) {
    let (client, socket) = sockets().await;
    let (client, accepted) = gate.connect_over(socket, client, gate.authority.client(&[&TLS13])).await;
    (client, accepted.stream)
}

/// Writes `data` in chunks of these sizes over and over, and shuts down.
async fn send(mut writer: impl AsyncWrite + Unpin, data: &[u8], sizes: &[usize]) {
    let mut rest = data;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(rest.len().min(*size));
        writer.write_all(chunk).await.unwrap();
        rest = after;
    }
    writer.shutdown().await.unwrap();
}

/// Reads to the end with buffers of these sizes over and over.
async fn receive(mut reader: impl AsyncRead + Unpin, sizes: &[usize]) -> Vec<u8> {
    let mut data = Vec::new();
    for size in sizes.iter().cycle() {
        let mut buffer = vec![0; *size];
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            count => data.extend_from_slice(&buffer[..count]),
        }
    }
    data
}

/// One side of an exchange: sends `data` and receives the same, at once.
async fn exchange(stream: impl AsyncRead + AsyncWrite, data: &[u8], writes: &[usize], reads: &[usize]) {
    let (input, output) = tokio::io::split(stream);
    let ((), arrived) = tokio::join!(send(output, data, writes), receive(input, reads));
    assert!(arrived == data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn t1_bytes_arrive_unchanged_for_any_split_and_back_pressure(
        length in 0_usize..400_000,
        capacity in 1_usize..100_000,
        writes in prop::collection::vec(1_usize..100_000, 1..8),
        reads in prop::collection::vec(1_usize..70_000, 1..8),
        tls12: bool,
    ) {
        let length = length.min(capacity * 2_000);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let gate = Gate::new();
            let (wire, client) = pipe(capacity);
            let connector = connector(gate.authority.client(&[if tls12 { &TLS12 } else { &TLS13 }]));
            let data = noise(length);
            let client = async {
                let stream = connector.connect(name("localhost"), client).await.unwrap();
                exchange(stream, &data, &reads, &writes).await;
            };
            let gate = async {
                let stream = gate.acceptor.accept(wire, None).await.unwrap().stream;
                exchange(stream, &data, &writes, &reads).await;
            };
            tokio::join!(client, gate);
        });
    }
}

#[tokio::test]
async fn t1_megabytes_cross_sockets_both_ways() {
    let (client, stream) = connect_over_sockets(&Gate::new()).await;
    let data = noise(8 * 1024 * 1024);
    let (some, others) = ([100_000, 7, 16_384], [65_536, 1, 300]);
    tokio::join!(exchange(client, &data, &others, &some), exchange(stream, &data, &some, &others));
}

#[tokio::test]
async fn a_write_is_sealed_whole_and_sent_at_once() {
    let (_client, mut stream) = Gate::new().connect().await;
    let before = stream.socket.writes.load(Ordering::Relaxed);
    assert_eq!(stream.write(&noise(40_000)).await.unwrap(), 40_000);
    assert_eq!(stream.socket.writes.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn records_that_the_socket_does_not_take_hold_up_writes_and_flush() {
    let gate = Gate::new();
    let (wire, client) = pipe(1000);
    let (mut client, accepted) = gate.connect_over(wire, client, gate.authority.client(&[&TLS13])).await;
    let mut stream = accepted.stream;
    let data = noise(SEALED_AT_ONCE + 1000);
    assert_eq!(stream.write(&data).await.unwrap(), SEALED_AT_ONCE);
    assert!(stream.capacity() > SEALED_AT_ONCE - 1000);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(&mut stream).poll_write(&mut cx, b"more").is_pending());
    assert!(Pin::new(&mut stream).poll_flush(&mut cx).is_pending());
    let (read, flushed) = tokio::join!(read_some(&mut client, SEALED_AT_ONCE), stream.flush());
    flushed.unwrap();
    assert!(read == data[..SEALED_AT_ONCE]);
    assert_eq!(stream.capacity(), 0);
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let gate = Gate::new();
    let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    let mut stream = accepted.stream;
    client.tls.writer().write_all(b"first").unwrap();
    let record = client.records();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for byte in &record {
        let mut bytes = [0; 16];
        assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_pending());
        client.pipe.write_all(&[*byte]).await.unwrap();
    }
    assert!(stream.capacity() < 2 * record.len(), "{} for a part of {}", stream.capacity(), record.len());
    assert_eq!(read_some(&mut stream, 5).await, b"first");
    assert_eq!(stream.capacity(), 0);
}

#[tokio::test]
async fn all_records_of_a_read_come_at_once_and_the_surplus_is_kept() {
    let gate = Gate::new();
    let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    let mut stream = accepted.stream;
    let data = noise(15_000);
    for record in data.chunks(3_000) {
        client.tls.writer().write_all(record).unwrap();
    }
    client.send().await;
    let mut buffer = vec![0; 64 * 1024];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 15_000);

    for record in data.chunks(3_000) {
        client.tls.writer().write_all(record).unwrap();
    }
    client.send().await;
    let mut got = Vec::new();
    while got.len() < data.len() {
        let mut buffer = [0; 100];
        let count = stream.read(&mut buffer).await.unwrap();
        got.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(got, data);
    assert_eq!(stream.capacity(), 0);
}

#[tokio::test]
async fn keys_are_updated_in_both_directions() {
    let gate = Gate::new();
    let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    let mut stream = accepted.stream;
    for _ in 0..3 {
        // The client's update asks the gate for one.
        client.tls.refresh_traffic_keys().unwrap();
        client.tls.writer().write_all(b"ping").unwrap();
        client.send().await;
        assert_eq!(read_some(&mut stream, 4).await, b"ping");
        stream.write_all(b"pong").await.unwrap();
        assert_eq!(client.read_exact(4).await, b"pong");
    }
    // Unanswered ones do not pile up.
    for _ in 0..20 {
        client.tls.refresh_traffic_keys().unwrap();
    }
    client.tls.writer().write_all(b"done").unwrap();
    client.send().await;
    assert_eq!(read_some(&mut stream, 4).await, b"done");
    assert_eq!(stream.capacity(), 0);
    stream.shutdown().await.unwrap();
    client.receive().await.unwrap();
    assert_eq!(client.tls.reader().read(&mut [0; 4]).unwrap(), 0);
}

#[tokio::test]
async fn t13_close_notify_is_an_end_and_leaves_the_other_direction_open() {
    let (mut client, mut stream) = Gate::new().connect().await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut words = Vec::new();
    stream.read_to_end(&mut words).await.unwrap();
    assert_eq!(words, b"last words");
    assert!(!stream.was_truncated());
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn t13_an_end_without_close_notify_is_a_truncation() {
    let gate = Gate::new();
    let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"whole").await;
    let mut stream = accepted.stream;
    client.tls.writer().write_all(b"cut short").unwrap();
    let record = client.records();
    client.pipe.write_all(&record[..record.len() - 1]).await.unwrap();
    drop(client);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"whole");
    assert!(stream.was_truncated());
    assert_eq!(stream.capacity(), 0);
}

#[tokio::test]
async fn t13_shutdown_sends_close_notify_once_and_behind_all_else() {
    let gate = Gate::new();
    let (wire, client) = pipe(1000);
    let (mut client, accepted) = gate.connect_over(wire, client, gate.authority.client(&[&TLS13])).await;
    let mut stream = accepted.stream;
    let data = noise(50_000);
    stream.write_all(&data).await.unwrap();
    let mut got = Vec::new();
    let (read, shutdown) = tokio::join!(client.read_to_end(&mut got), stream.shutdown());
    // rustls' client makes an error of an EOF without close_notify.
    read.unwrap();
    shutdown.unwrap();
    assert!(got == data);
    let before = stream.socket.writes.load(Ordering::Relaxed);
    stream.shutdown().await.unwrap();
    assert_eq!(stream.socket.writes.load(Ordering::Relaxed), before);
    assert_eq!(stream.write(b"late").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    // The other direction is still open.
    client.write_all(b"late, but legal").await.unwrap();
    assert_eq!(read_some(&mut stream, 15).await, b"late, but legal");
}

#[tokio::test]
async fn t13_the_last_bytes_and_close_notify_are_one_write() {
    let (mut client, mut stream) = Gate::new().connect().await;
    stream.write_all(b"first").await.unwrap();
    let before = stream.socket.writes.load(Ordering::Relaxed);
    let taken = std::future::poll_fn(|cx| stream.poll_write_last(cx, b"last")).await.unwrap();
    assert_eq!((taken, stream.socket.writes.load(Ordering::Relaxed)), (4, before));
    stream.shutdown().await.unwrap();
    assert_eq!(stream.socket.writes.load(Ordering::Relaxed), before + 1);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"firstlast");
}

#[tokio::test]
async fn t13_the_last_bytes_arrive_over_sockets_and_the_end_behind_them() {
    let (mut client, mut stream) = connect_over_sockets(&Gate::new()).await;
    let taken = std::future::poll_fn(|cx| stream.poll_write_last(cx, b"last")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert_eq!((taken, got.as_slice()), (4, b"last".as_slice()));
}

#[tokio::test]
async fn t13_shutdown_sends_close_notify_after_that_of_the_client() {
    let (mut client, mut stream) = connect_over_sockets(&Gate::new()).await;
    client.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0);
    stream.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reset_is_an_error_and_no_end() {
    let (client, mut stream) = connect_over_sockets(&Gate::new()).await;
    let mut client = Socket::Tcp(client.into_inner().0);
    client.reset_on_drop();
    drop(client);
    let error = stream.read(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(!stream.was_truncated());
}

#[tokio::test]
async fn records_without_content_are_passed_over() {
    let gate = Gate::new();
    let (client, accepted) = gate.connect_raw(sealing_client(&gate), b"").await;
    let mut stream = accepted.stream;
    let (mut sealer, mut pipe) = client.into_sealer();
    for payload in [b"".as_slice(), b"", b"text"] {
        pipe.write_all(&sealer.seal(ContentType::ApplicationData, payload)).await.unwrap();
    }
    let mut buffer = [0; 16];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 4);
    assert_eq!(&buffer[..4], b"text");
    // A flood of them is no progress.
    for _ in 0..100 {
        pipe.write_all(&sealer.seal(ContentType::ApplicationData, b"")).await.unwrap();
    }
    assert_eq!(stream.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// A client of TLS 1.3 that gives its keys away.
fn sealing_client(gate: &Gate) -> ClientConfig {
    let mut config = gate.authority.client(&[&TLS13]);
    config.enable_secret_extraction = true;
    config
}

#[tokio::test]
async fn a_malformed_record_is_bad_data_after_what_came_before_it_and_gets_an_alert() {
    let gate = Gate::new();
    for version in [&TLS12, &TLS13] {
        let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[version]), b"").await;
        let mut stream = accepted.stream;
        client.tls.writer().write_all(b"before").unwrap();
        let mut segment = client.records();
        segment.extend_from_slice(&[23, 3, 3, 0, 40]);
        segment.extend_from_slice(&noise(40));
        client.pipe.write_all(&segment).await.unwrap();
        assert_eq!(read_some(&mut stream, 6).await, b"before");
        for _ in 0..2 {
            assert_eq!(stream.read(&mut [0; 4]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(stream.write(b"no").await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        stream.shutdown().await.unwrap();
        let told = loop {
            match client.receive().await {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        assert_eq!(stream.capacity(), 0);
    }
}

#[tokio::test]
async fn a_malformed_record_after_our_close_notify_is_bad_data() {
    let gate = Gate::new();
    let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[&TLS13]), b"").await;
    let mut stream = accepted.stream;
    stream.shutdown().await.unwrap();
    client.pipe.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 4]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_fatal_alert_of_the_client_is_an_abort() {
    let gate = Gate::new();
    let (client, accepted) = gate.connect_raw(sealing_client(&gate), b"").await;
    let mut stream = accepted.stream;
    let (mut sealer, mut pipe) = client.into_sealer();
    pipe.write_all(&sealer.seal(ContentType::Alert, &[2, 80])).await.unwrap();
    let error = stream.read(&mut [0; 4]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(error.to_string().contains("InternalError"), "{error}");
}

#[tokio::test]
async fn writes_go_on_while_a_handshake_message_is_incomplete() {
    let gate = Gate::new();
    let (client, accepted) = gate.connect_raw(sealing_client(&gate), b"").await;
    let mut stream = accepted.stream;
    let (mut sealer, mut pipe) = client.into_sealer();
    // The first half of a KeyUpdate, opened in place and kept.
    pipe.write_all(&sealer.seal(ContentType::Handshake, &[24, 0, 0])).await.unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..2 {
        let mut bytes = [0; 16];
        assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_pending());
        stream.write_all(b"still here").await.unwrap();
    }
    // The other half, and a record under the new keys would follow. Instead: data within the message is
    // illegal.
    pipe.write_all(&sealer.seal(ContentType::ApplicationData, b"within")).await.unwrap();
    assert_eq!(stream.read(&mut [0; 4]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn handshake_messages_that_never_end_are_refused() {
    let gate = Gate::new();
    let (client, accepted) = gate.connect_raw(sealing_client(&gate), b"").await;
    let mut stream = accepted.stream;
    let (mut sealer, mut pipe) = client.into_sealer();
    let mut message = vec![24, 0, 0xff, 0xff];
    message.resize(60_000, 0);
    for part in message.chunks(10_000) {
        pipe.write_all(&sealer.seal(ContentType::Handshake, part)).await.unwrap();
    }
    assert_eq!(stream.read(&mut [0; 4]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(stream.capacity(), 0);
}

#[tokio::test]
async fn t10_a_part_of_a_record_is_all_that_is_held_and_is_freed_with_its_rest() {
    let gate = Gate::new();
    for version in [&TLS12, &TLS13] {
        let (mut client, accepted) = gate.connect_raw(gate.authority.client(&[version]), b"").await;
        let mut stream = accepted.stream;
        assert_eq!(stream.capacity(), 0, "nothing is left of the TLS handshake");
        let data = noise(16_000);
        client.tls.writer().write_all(&data).unwrap();
        let record = client.records();
        let (part, rest) = record.split_at(record.len() - 1);
        client.pipe.write_all(part).await.unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut bytes = vec![0; data.len()];
        assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_pending());
        assert_eq!(stream.capacity(), part.len());
        client.pipe.write_all(rest).await.unwrap();
        // A small reader leaves plaintext behind, which is freed when it has been read as well.
        assert_eq!(read_some(&mut stream, 100).await, data[..100]);
        assert!(stream.capacity() > 0);
        assert_eq!(read_some(&mut stream, data.len() - 100).await, data[100..]);
        assert_eq!(stream.capacity(), 0);
    }
}

#[tokio::test]
async fn t10_an_idle_stream_holds_no_buffer_and_is_small() {
    let (mut client, mut stream) = Gate::new().connect().await;
    assert_eq!(stream.capacity(), 0);
    client.write_all(&noise(30_000)).await.unwrap();
    client.flush().await.unwrap();
    read_some(&mut stream, 30_000).await;
    stream.write_all(&noise(30_000)).await.unwrap();
    read_some(&mut client, 30_000).await;
    assert_eq!(stream.capacity(), 0);
    let size = size_of::<TlsStream<Socket>>();
    assert!(size <= 1280, "{size}, of which {} are rustls'", size_of::<UnbufferedServerConnection>());
}
