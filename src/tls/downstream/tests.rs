//! Tests of the stream against rustls' own client: over pipes, where every segment is chosen, and over
//! sockets.

mod clients;
mod handshake;
mod stream;

use std::{
    io::{Read, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, ClientConnection, ContentType, ProtocolVersion,
    crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage},
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::{
    buffered::Socket,
    config::TlsVersion,
    tls::{
        Tickets, acceptor,
        pki::{Authority, name},
    },
};

/// One end of a pipe, as the socket of a connection.
#[derive(Debug)]
struct Wire {
    pipe: DuplexStream,
    /// Calls to `poll_write` that took something.
    writes: Arc<AtomicUsize>,
}

/// A pipe that holds `capacity` bytes each way: the gate's end and the client's.
fn pipe(capacity: usize) -> (Wire, DuplexStream) {
    let (gate, client) = tokio::io::duplex(capacity);
    (Wire { pipe: gate, writes: Arc::default() }, client)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.pipe).poll_write(cx, buf))?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

impl Stream for Wire {
    fn reset_on_drop(&mut self) {}
}

/// A loopback connection: the client's end and the gate's.
async fn sockets() -> (TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = TcpSocket::new_v4().unwrap().connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(connect, listener.accept());
    (client.unwrap(), Socket::Tcp(accepted.unwrap().0))
}

/// A listener for `localhost` and the authority of its certificate.
struct Gate {
    authority: Authority,
    acceptor: Acceptor,
}

impl Gate {
    fn new() -> Self {
        Self::with_min_version(TlsVersion::Tls12)
    }

    fn with_min_version(min_version: TlsVersion) -> Self {
        let authority = Authority::new();
        let identities = [authority.identity(&["localhost"])];
        let acceptor = acceptor(&identities, min_version, None, &Tickets::new().unwrap()).unwrap();
        Self { authority, acceptor }
    }

    /// A client of TLS 1.3 and its stream on the gate, over a pipe of 64 KiB.
    async fn connect(&self) -> (client::TlsStream<DuplexStream>, Box<TlsStream<Wire>>) {
        let (wire, client) = pipe(64 * 1024);
        let config = self.authority.client(&[&rustls::version::TLS13]);
        let (client, accepted) = self.connect_over(wire, client, config).await;
        (client, accepted.stream)
    }

    async fn connect_over<S: Stream, C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        client: C,
        config: ClientConfig,
    ) -> (client::TlsStream<C>, Accepted<S>) {
        let (client, accepted) = tokio::join!(
            connector(config).connect(name("localhost"), client),
            self.acceptor.accept(socket, None)
        );
        (client.unwrap(), accepted.unwrap())
    }

    /// A client whose records are written by hand, and its stream on the gate, on which `request` came in one
    /// segment with the client's last flight.
    async fn connect_raw(&self, config: ClientConfig, request: &[u8]) -> (RawClient, Accepted<Wire>) {
        let (wire, pipe) = pipe(1024 * 1024);
        let mut client = RawClient::new(config, name("localhost"), pipe);
        let ((), accepted) = tokio::join!(client.handshake(request), self.acceptor.accept(wire, None));
        (client, accepted.unwrap())
    }
}

fn connector(config: ClientConfig) -> TlsConnector {
    TlsConnector::from(Arc::new(config))
}

/// A client that decides what goes into one segment.
struct RawClient {
    tls: ClientConnection,
    pipe: DuplexStream,
}

impl RawClient {
    fn new(config: ClientConfig, name: ServerName<'static>, pipe: DuplexStream) -> Self {
        Self { tls: ClientConnection::new(Arc::new(config), name).unwrap(), pipe }
    }

    /// The records that wait to be sent.
    fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    async fn send(&mut self) {
        let records = self.records();
        self.pipe.write_all(&records).await.unwrap();
    }

    /// Reads once and processes what came.
    async fn receive(&mut self) -> Result<(), Error> {
        let mut segment = vec![0; 64 * 1024];
        let count = self.pipe.read(&mut segment).await.unwrap();
        assert!(count > 0, "the gate has closed");
        let mut rest = &segment[..count];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    /// Handshakes, and sends `request` together with the last flight.
    async fn handshake(&mut self, request: &[u8]) {
        self.send().await;
        while self.tls.is_handshaking() {
            self.receive().await.unwrap();
            if self.tls.is_handshaking() {
                self.send().await;
            }
        }
        self.tls.writer().write_all(request).unwrap();
        self.send().await;
    }

    /// Receives until `count` bytes of plaintext have come.
    async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut plaintext = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.tls.reader().read(&mut plaintext[filled..]) {
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.receive().await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        plaintext
    }

    /// Gives the session up for its keys, so that any record can be made.
    fn into_sealer(self) -> (Sealer, DuplexStream) {
        let suite = self.tls.negotiated_cipher_suite().unwrap().tls13().unwrap();
        let (seq, secrets) = self.tls.dangerous_extract_secrets().unwrap().tx;
        let (rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | rustls::ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | rustls::ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
        else {
            panic!("unknown secrets");
        };
        (Sealer { encrypter: suite.aead_alg.encrypter(key, iv), seq }, self.pipe)
    }
}

/// Makes records of any kind with a client's keys.
struct Sealer {
    encrypter: Box<dyn MessageEncrypter>,
    seq: u64,
}

impl Sealer {
    fn seal(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let record = self.encrypter.encrypt(message, self.seq).unwrap().encode();
        self.seq += 1;
        record
    }
}

/// Bytes without a pattern that a shift could hide.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}
