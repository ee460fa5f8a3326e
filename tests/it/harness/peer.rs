//! One end of a stream of bytes, a client's or a backend's, driven by hand.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

use super::{Head, Response, soon};

/// What a [`Peer`] speaks over.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    UnixTls(Box<TlsStream<UnixStream>>),
}

macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::UnixTls($stream) => $call,
        }
    };
}

/// One end of a connection, with what was read and not yet expected. All that it waits for has a deadline.
pub struct Peer {
    stream: Stream,
    tail: Vec<u8>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("tail", &String::from_utf8_lossy(&self.tail)).finish_non_exhaustive()
    }
}

impl From<TcpStream> for Peer {
    fn from(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a connected socket");
        Self { stream: Stream::Tcp(stream), tail: Vec::new() }
    }
}

impl From<UnixStream> for Peer {
    fn from(stream: UnixStream) -> Self {
        Self { stream: Stream::Unix(stream), tail: Vec::new() }
    }
}

impl From<TlsStream<TcpStream>> for Peer {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), tail: Vec::new() }
    }
}

impl Peer {
    /// A connection to `address`.
    pub async fn dial(address: std::net::SocketAddr) -> Self {
        Self::from(dial(address, None).await)
    }

    /// The same, which may fail.
    pub async fn try_dial(address: std::net::SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        soon("connect", socket.connect(address)).await.map(Self::from)
    }

    /// A connection to `address` from this address of the host.
    pub async fn dial_from(from: &str, address: std::net::SocketAddr) -> Self {
        Self::try_dial_from(from, address).await.expect("somebody listens")
    }

    /// The same, which may fail.
    pub async fn try_dial_from(from: &str, address: std::net::SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // The kernel chooses the port when it knows the other side, so that there are enough.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind((from.parse::<std::net::IpAddr>().expect("an address"), 0).into())?;
        let stream = soon("connect", socket.connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Stream::Tcp(stream), tail: Vec::new() })
    }

    /// A connection whose kernel holds as little as may be for its reader.
    pub async fn dial_narrow(address: std::net::SocketAddr) -> Self {
        Self::from(dial(address, Some(4096)).await)
    }

    pub async fn dial_unix(path: &Path) -> Self {
        let stream = soon("connect to a unix socket", UnixStream::connect(path)).await;
        Self::from(stream.expect("somebody listens"))
    }

    /// Writes all of it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        soon("bytes to be taken", async move {
            let written = self.write_all(bytes.as_ref()).await;
            written.expect("the other side takes bytes");
            self.flush().await.expect("the other side takes bytes");
        })
    }

    /// Writes as much as the other side takes before it ends the stream.
    pub async fn offer_bytes(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("bytes to be taken", async {
            self.write_all(bytes.as_ref()).await?;
            self.flush().await
        })
        .await
    }

    /// Writes byte by byte, each in a segment of its own as far as the kernel lets it.
    pub async fn dribble(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Reads until `is_enough` tells how many bytes are wanted; `None` when the stream ends before. If this is dropped
    /// before its end, nothing is lost.
    pub async fn read_until(
        &mut self,
        mut is_enough: impl FnMut(&[u8]) -> Option<usize>,
    ) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = is_enough(&self.tail) {
                return Ok(Some(self.tail.drain(..length).collect()));
            }
            self.tail.reserve(16 * 1024);
            let tail = &mut self.tail;
            if either!(&mut self.stream, stream => stream.read_buf(tail).await)? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a head to its empty line.
    #[track_caller]
    pub fn read_head(&mut self) -> impl Future<Output = Head> {
        let head = soon("a head", self.next_head());
        async move { head.await.expect("a head, not the end of the stream") }
    }

    /// Reads a head, or the end of the stream.
    pub async fn next_head(&mut self) -> Option<Head> {
        let read = self.read_until(|tail| {
            let end = tail.windows(4).position(|four| four == b"\r\n\r\n")?;
            Some(end + 4)
        });
        let head = read.await.expect("a head, not a reset")?;
        Some(Head::parse(&head))
    }

    /// Reads so many bytes.
    #[track_caller]
    pub fn read_exact(&mut self, count: usize) -> impl Future<Output = Vec<u8>> {
        soon("bytes", async move {
            let read = self.read_until(|tail| (tail.len() >= count).then_some(count)).await;
            match read.expect("bytes, not a reset") {
                Some(bytes) => bytes,
                None => panic!("the stream ended after {}", shown(&self.tail)),
            }
        })
    }

    /// Reads as many bytes as these, which they must be.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let expected = bytes.as_ref().to_vec();
        let read = self.read_exact(expected.len());
        async move {
            let read = read.await;
            if read != expected {
                let at = read.iter().zip(&expected).position(|(one, other)| one != other);
                panic!("{caller}: other bytes from {at:?}: {}, not {}", shown(&read), shown(&expected));
            }
        }
    }

    /// What was read and not yet expected.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Reads to the end of the stream.
    #[track_caller]
    pub fn read_to_end(&mut self) -> impl Future<Output = Vec<u8>> {
        soon("the end of the stream", async move {
            self.read_until(|_| None).await.expect("an end, not a reset");
            std::mem::take(&mut self.tail)
        })
    }

    /// The stream ends, and nothing came before.
    #[track_caller]
    pub fn expect_end(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let rest = self.read_to_end();
        async move {
            let rest = rest.await;
            assert!(rest.is_empty(), "{caller}: bytes before the end: {}", shown(&rest));
        }
    }

    /// Reads to the end, or to the reset that comes instead of it.
    #[track_caller]
    pub fn read_to_any_end(&mut self) -> impl Future<Output = (Vec<u8>, io::Result<()>)> {
        soon("an end of the stream", async move {
            let end = self.read_until(|_| None).await.map(drop);
            (std::mem::take(&mut self.tail), end)
        })
    }

    /// The stream is over, in whatever way, and nothing came before.
    #[track_caller]
    pub fn expect_gone(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let rest = self.read_to_any_end();
        async move {
            let (rest, _) = rest.await;
            assert!(rest.is_empty(), "{caller}: bytes before the end: {}", shown(&rest));
        }
    }

    /// The stream breaks. Returns what came before.
    #[track_caller]
    pub fn expect_reset(&mut self) -> impl Future<Output = Vec<u8>> {
        let caller = std::panic::Location::caller();
        let rest = self.read_to_any_end();
        async move {
            let (rest, end) = rest.await;
            assert!(end.is_err(), "{caller}: an orderly end after {}", shown(&rest));
            rest
        }
    }

    /// Reads a response and its body. `method` is the request's.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> impl Future<Output = Response> {
        let has_no_body = method == "HEAD";
        soon("a response", async move {
            let head = self.next_head().await.expect("a response, not the end of the stream");
            let status = head.status();
            let has_no_body = has_no_body || status < 200 || status == 204 || status == 304;
            let body = if has_no_body { Vec::new() } else { self.read_body(&head).await };
            Response { head, body }
        })
    }

    /// Reads a response to a GET and its body.
    #[track_caller]
    pub fn read_response(&mut self) -> impl Future<Output = Response> {
        self.read_response_to("GET")
    }

    /// Reads the body that `head` announces: a length, chunks, or, for a response, all to the end of the stream.
    pub async fn read_body(&mut self, head: &Head) -> Vec<u8> {
        if head.has_token("transfer-encoding", "chunked") {
            return self.read_chunks().await;
        }
        match head.get("content-length") {
            Some(length) => self.read_exact(length.parse().expect("a length")).await,
            None if head.start.starts_with("HTTP/") => self.read_to_end().await,
            None => Vec::new(),
        }
    }

    /// Reads chunks to the last one, and an empty trailer section.
    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
            body.extend(self.read_exact(size).await);
            self.expect("\r\n").await;
            if size == 0 {
                return body;
            }
        }
    }

    /// Reads a line, and returns it without its CRLF.
    pub async fn read_line(&mut self) -> String {
        let read = self.read_until(|tail| Some(tail.windows(2).position(|two| two == b"\r\n")? + 2));
        let line = soon("a line", read).await.expect("a line, not a reset").expect("a line, not the end");
        String::from_utf8(line[..line.len() - 2].to_vec()).expect("a text")
    }

    /// Ends this direction.
    pub async fn shutdown(&mut self) {
        soon("the end to be sent", AsyncWriteExt::shutdown(self)).await.expect("a connected socket");
    }

    /// Breaks the connection, under TLS too.
    pub fn reset(self) {
        let tcp = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Unix(_) | Stream::UnixTls(_) => panic!("only TCP has a reset"),
        };
        socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)).expect("a connected socket");
    }

    /// Changes the client's keys with the next write, and asks the other side to change its own (RFC 8446 §4.6.3).
    pub fn update_keys(&mut self) {
        let Stream::Tls(stream) = &mut self.stream else { panic!("no TLS") };
        let TlsStream::Client(stream) = &mut **stream else { panic!("no client") };
        stream.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
    }

    /// Takes the bare socket away from under TLS, which so ends without a `close_notify`.
    pub fn into_tcp(self) -> TcpStream {
        match self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => match *stream {
                TlsStream::Client(stream) => stream.into_inner().0,
                TlsStream::Server(stream) => stream.into_inner().0,
            },
            Stream::Unix(_) | Stream::UnixTls(_) => panic!("no TCP"),
        }
    }

    /// Takes a client through the TLS handshake, as its server.
    pub async fn accept_tls(self, config: &Arc<ServerConfig>) -> io::Result<Self> {
        assert!(self.tail.is_empty(), "bytes before the TLS handshake");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(config));
        let stream = match self.stream {
            Stream::Tcp(stream) => {
                Stream::Tls(Box::new(soon("a TLS handshake", acceptor.accept(stream)).await?.into()))
            }
            Stream::Unix(stream) => {
                Stream::UnixTls(Box::new(soon("a TLS handshake", acceptor.accept(stream)).await?.into()))
            }
            Stream::Tls(_) | Stream::UnixTls(_) => panic!("TLS already"),
        };
        Ok(Self { stream, tail: Vec::new() })
    }

    /// The name that the client asked for by SNI.
    pub fn sni(&self) -> Option<&str> {
        match &self.stream {
            Stream::Tls(stream) => match &**stream {
                TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                TlsStream::Client(_) => panic!("no server"),
            },
            Stream::UnixTls(stream) => match &**stream {
                TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                TlsStream::Client(_) => panic!("no server"),
            },
            Stream::Tcp(_) | Stream::Unix(_) => panic!("no TLS"),
        }
    }

    /// The address of the other side of TCP.
    pub fn address(&self) -> std::net::SocketAddr {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr(),
            Stream::Tls(stream) => stream.get_ref().0.peer_addr(),
            Stream::Unix(_) | Stream::UnixTls(_) => panic!("no TCP"),
        }
        .expect("a connected socket")
    }

    /// The own address of a client over TCP.
    pub fn own_address(&self) -> std::net::SocketAddr {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.get_ref().0.local_addr(),
            Stream::Unix(_) | Stream::UnixTls(_) => panic!("no TCP"),
        }
        .expect("a connected socket")
    }

    /// Reads a PROXY header of version 1, its CRLF included, and not one byte more.
    #[track_caller]
    pub fn read_proxy_v1(&mut self) -> impl Future<Output = String> {
        soon("a PROXY header", async move {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.read_u8().await.expect("a PROXY header"));
                assert!(line.len() <= 107, "no PROXY header: {}", shown(&line));
            }
            String::from_utf8(line).expect("a text")
        })
    }

    /// Reads a PROXY header of version 2, and not one byte more.
    #[track_caller]
    pub fn read_proxy_v2(&mut self) -> impl Future<Output = Vec<u8>> {
        soon("a PROXY header", async move {
            let mut header = vec![0; 16];
            AsyncReadExt::read_exact(self, &mut header).await.expect("a PROXY header");
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            header.resize(16 + length, 0);
            AsyncReadExt::read_exact(self, &mut header[16..]).await.expect("a PROXY header");
            header
        })
    }

    /// The TLS session.
    pub fn tls(&self) -> &rustls::CommonState {
        match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1,
            Stream::UnixTls(stream) => stream.get_ref().1,
            Stream::Tcp(_) | Stream::Unix(_) => panic!("no TLS"),
        }
    }

    /// Writes these bytes over and over until the other side takes no more for good, or `most` bytes. Returns how many
    /// it took.
    pub async fn fill(&mut self, bytes: &[u8], most: usize) -> usize {
        let mut taken = 0;
        while taken < most {
            let write = AsyncWriteExt::write(self, &bytes[taken % bytes.len()..]);
            // Whoever still reads does so well within this time; only a stalled stream waits it out.
            match tokio::time::timeout(Duration::from_millis(700), write).await {
                Ok(count) => taken += count.expect("a connected socket"),
                Err(_) => return taken,
            }
        }
        taken
    }
}

async fn dial(address: std::net::SocketAddr, receive_buffer: Option<u32>) -> TcpStream {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.expect("a socket");
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size).expect("a smaller buffer");
    }
    soon("connect", socket.connect(address)).await.expect("somebody listens")
}

/// The beginning of some bytes, for a message.
fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(300)];
    format!("{} bytes, {:?} {start:02x?}", bytes.len(), String::from_utf8_lossy(start))
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tail.is_empty() {
            return either!(&mut self.stream, stream => Pin::new(stream).poll_read(cx, buf));
        }
        let count = self.tail.len().min(buf.remaining());
        buf.put_slice(&self.tail[..count]);
        self.tail.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
