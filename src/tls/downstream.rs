//! The downstream TLS stream: an ordinary stream over rustls' unbuffered API.
//!
//! rustls keeps no buffer of its own here. Ciphertext is read into a scratch buffer of the thread and opened
//! there, plaintext goes straight to the reader, and what is sealed goes to the socket from another scratch
//! buffer. A stream holds only what could not be passed on, and frees it as soon as it could; so an idle one
//! holds no buffer (rule T10).
//!
//! All use of the unbuffered API stands in `session`, because the next rustls changes it.

mod pending;
mod session;

use std::{
    cell::RefCell,
    fmt, io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread::LocalKey,
    time::Duration,
};

use rustls::{
    AlertDescription, ContentType, Error, InvalidMessage, ServerConfig, server::danger::ClientCertVerifier,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::{
    pending::Pending,
    session::{Received, Session},
};
use super::{info::TlsInfo, store};
use crate::{
    buffered::{SCRATCH, Stream},
    ending::TlsFailure,
};

/// Bytes of a TLS record's header (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// Bytes of plaintext that a TLS record has at most.
const MAX_PLAINTEXT: usize = 16 * 1024;

/// Bytes of a record that is full of data, with any AEAD of TLS 1.3: header, plaintext, its type, tag.
const FULL_RECORD: usize = RECORD_HEADER + MAX_PLAINTEXT + 1 + 16;

/// Bytes of unfinished records and TLS handshake messages that a stream holds; no legal client needs as many.
const MOST_HELD: usize = 32 * 1024;

/// Bytes of ciphertext that are opened at once, with what was held of it.
const OPENED_AT_ONCE: usize = SCRATCH + MOST_HELD;

/// Bytes of plaintext that one call to `poll_write` seals.
const SEALED_AT_ONCE: usize = SCRATCH;

/// How long a connection whose TLS handshake failed is kept, so that its alert arrives.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes sockets through the TLS handshake. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// Judges clients' certificates; `None` asks for none.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// A stream whose TLS handshake is complete.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The stream; what came in one segment with the end of the TLS handshake is read from it first. It is over a kilobyte,
    /// nearly all of it rustls' own, so it stays where it was made.
    pub stream: Box<TlsStream<S>>,
    /// What was agreed.
    pub info: TlsInfo,
}

impl Acceptor {
    /// `clients` is what `config` judges clients' certificates by.
    pub(super) fn new(config: ServerConfig, clients: Option<Arc<dyn ClientCertVerifier>>) -> Self {
        Self { config: Arc::new(config), clients }
    }

    /// Takes `socket` through the TLS handshake, for which `timeout` is the time in all (rule S1).
    ///
    /// On failure the alert that goes with it is sent and the socket closed, which takes a second at most.
    pub async fn accept<S: Stream>(
        &self,
        socket: S,
        timeout: Option<Duration>,
    ) -> Result<Accepted<S>, TlsFailure> {
        let mut stream = Box::new(TlsStream::new(socket, Arc::clone(&self.config))?);
        let mut heard = Heard::default();
        let clients = self.clients.as_deref();
        let handshake = std::future::poll_fn(|cx| stream.poll_handshake(cx, &mut heard, clients));
        let outcome = match timeout {
            Some(timeout) => {
                tokio::time::timeout(timeout, handshake).await.unwrap_or(Err(TlsFailure::Timeout))
            }
            None => handshake.await,
        };
        match outcome {
            Ok(()) => {
                let mut info = stream.session.info(heard.sni);
                // A session from before nobody was asked any more may still know a certificate.
                info.client = clients.and_then(|_| stream.session.client_certificate());
                Ok(Accepted { stream, info })
            }
            Err(failure) => {
                stream.dismiss().await;
                Err(failure)
            }
        }
    }
}

/// What came of the client in its TLS handshake.
#[derive(Debug, Default)]
struct Heard {
    /// A byte, at least.
    anything: bool,
    /// The name in its `ClientHello`.
    sni: Option<Box<str>>,
    /// A session to resume, which has been judged.
    session: bool,
}

/// A TLS stream over `S`, on the server's side.
///
/// It belongs to one task: the last caller of any of its methods is the one that is woken.
pub struct TlsStream<S> {
    socket: S,
    session: Session,
    /// Ciphertext that was read and not yet used up: part of a record, or of a TLS handshake message. It is
    /// as rustls left it, opened in place where a record is complete.
    held: Vec<u8>,
    /// Plaintext that the reader had no room for.
    opened: Pending,
    /// Records that the socket has not yet taken.
    sealed: Pending,
    /// What is in `sealed` are session tickets, which nobody waits for: they go out with what is written next.
    has_tickets: bool,
    end: End,
    /// Why the socket takes nothing any more, where that has not been told. A socket gives its error once.
    lost: Option<io::Error>,
    /// Whether this side has sent its `close_notify`.
    closed: bool,
}

/// How the client's side of the stream stands.
#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// It said `close_notify`.
    Closed,
    /// It ended without one.
    Truncated,
    /// What came was no TLS, or a fatal alert. Nothing more is opened or sealed.
    Failed(Box<Error>),
}

impl<S: Stream> TlsStream<S> {
    fn new(socket: S, config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            socket,
            session: Session::new(config)?,
            held: Vec::new(),
            opened: Pending::default(),
            sealed: Pending::default(),
            has_tickets: false,
            end: End::Open,
            lost: None,
            closed: false,
        })
    }

    /// Reads and answers until the TLS handshake is complete. Of its last flight, a part may still wait for the socket; the next
    /// read or write sends it. The tickets of TLS 1.3 wait for the next write.
    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        heard: &mut Heard,
        clients: Option<&dyn ClientCertVerifier>,
    ) -> Poll<Result<(), TlsFailure>> {
        loop {
            // A client may send, too, before it has taken all of a flight; so what is left does not hold up
            // reads.
            if !self.has_tickets {
                let _ = self.poll_drain(cx).map_err(TlsFailure::Io)?;
            }
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let unsent = self.sealed.len();
            let read = ready!(self.poll_fill(cx, &mut ReadBuf::new(&mut [])));
            heard.sni = store::take_sni().or(heard.sni.take());
            if let (false, true, Some(clients)) = (heard.session, self.session.resumes(), clients) {
                heard.session = true;
                self.judge_session(clients, unsent);
            }
            let lost = match (read, &self.end) {
                (Ok(()), End::Failed(error)) => return Poll::Ready(Err(Error::clone(error).into())),
                (Ok(()), End::Open | End::Closed) => {
                    heard.anything = true;
                    self.has_tickets = unsent == 0 && self.session.has_only_tickets_to_say();
                    continue;
                }
                (Ok(()), End::Truncated) => io::ErrorKind::UnexpectedEof.into(),
                (Err(error), _) => error,
            };
            let failure = if heard.anything { TlsFailure::Io(lost) } else { TlsFailure::Silent };
            return Poll::Ready(Err(failure));
        }
    }

    /// Refuses a session that is about to be resumed, if its client would not be let in by a full TLS handshake: rustls looks
    /// at a certificate once, while sessions are good for hours (rule S6). Then nothing goes out but the alert, in place
    /// of the answer that has just been put behind the first `unsent` bytes of `sealed`.
    ///
    /// A client forgets a session that ended in a fatal alert (RFC 8446 §6.2, RFC 5246 §7.2.2), so its next attempt is a full
    /// TLS handshake with the certificate that it has by then.
    fn judge_session(&mut self, clients: &dyn ClientCertVerifier, unsent: usize) {
        let Err(error) = self.session.judge(clients) else { return };
        self.sealed.truncate(unsent);
        self.sealed.extend(&plain_alert(&error));
        self.end = End::Failed(Box::new(error));
    }

    /// Sends out the alert of a failed TLS handshake and closes the socket, in bounded time.
    async fn dismiss(&mut self) {
        if !matches!(self.end, End::Failed(_)) {
            return;
        }
        let farewell = std::future::poll_fn(|cx| {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            // A close with unread input would be a reset, which can overtake the alert.
            while ready!(self.poll_discard(cx))? > 0 {}
            Poll::Ready(io::Result::Ok(()))
        });
        // The failure is told already; that the client is gone, or stays, changes nothing about it.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Reads once from the socket and drops what came.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_buffer(&OPENING, |scratch| {
            scratch.resize(OPENED_AT_ONCE, 0);
            let mut input = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut input))?;
            Poll::Ready(Ok(input.filled().len()))
        })
    }

    /// Reads once from the socket and opens what is complete, into `plaintext` as far as it has room. The end
    /// of the stream, and a failure of TLS, is noted in `end`.
    fn poll_fill(&mut self, cx: &mut Context<'_>, plaintext: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_buffer(&OPENING, |scratch| {
            scratch.resize(OPENED_AT_ONCE, 0);
            let start = self.held.len();
            let room = self.whole_records(plaintext.remaining()).min(scratch.len() - start);
            let mut input = ReadBuf::new(&mut scratch[start..start + room]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut input))?;
            let count = input.filled().len();
            if count == 0 {
                if let Some(error) = self.lost.take() {
                    return Poll::Ready(Err(error));
                }
                self.held = Vec::new();
                self.end = End::Truncated;
                return Poll::Ready(Ok(()));
            }
            scratch[..start].copy_from_slice(&self.held);
            self.receive(&mut scratch[..start + count], plaintext);
            Poll::Ready(Ok(()))
        })
    }

    /// Bytes to the end of the record that has begun, and of full ones behind it, as many as `plaintext` has room for. Of a bulk of
    /// data a read ends where a record does, so that no part of one has to be kept and copied.
    fn whole_records(&self, plaintext: usize) -> usize {
        let first = match *self.held {
            [_, _, _, high, low, ..] => RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])),
            _ => FULL_RECORD,
        };
        let rest = first.checked_sub(self.held.len()).filter(|rest| *rest > 0).unwrap_or(FULL_RECORD);
        rest + (plaintext / MAX_PLAINTEXT).saturating_sub(1) * FULL_RECORD
    }

    /// Opens the records at the front of `ciphertext`, and keeps the rest.
    fn receive(&mut self, ciphertext: &mut [u8], plaintext: &mut ReadBuf<'_>) {
        let opened = &mut self.opened;
        let received = self.session.receive(ciphertext, &mut self.sealed, |record| {
            let (now, later) = record.split_at(record.len().min(plaintext.remaining()));
            plaintext.put_slice(now);
            opened.extend(later);
        });
        self.held = Vec::new();
        match received {
            Ok(Received { closed: true, .. }) => self.end = End::Closed,
            Ok(Received { used, .. }) if ciphertext.len() - used > MOST_HELD => {
                self.end = End::Failed(Box::new(InvalidMessage::HandshakePayloadTooLarge.into()));
            }
            Ok(Received { used, .. }) => self.held = ciphertext[used..].to_vec(),
            Err(error) => {
                if !self.closed {
                    self.session.encode_alert(&mut self.sealed);
                }
                self.has_tickets = false;
                self.end = End::Failed(Box::new(error));
            }
        }
    }

    /// Gives the socket the records that it has not taken yet.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain_by(cx, |socket, cx, records| Pin::new(socket).poll_write(cx, records))
    }

    fn poll_drain_by(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut S, &mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.lost.take() {
            return Poll::Ready(Err(error));
        }
        self.has_tickets = false;
        while !self.sealed.is_empty() {
            let count = ready!(write(&mut self.socket, cx, self.sealed.bytes()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the socket has taken what was sealed before, but for tickets that wait, so that more may be.
    fn poll_seals(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_tickets {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(match &self.end {
            End::Failed(error) => Err(failed(error)),
            _ if self.closed => Err(io::ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        })
    }

    /// Seals what fits of `plaintext`, and has the records passed on.
    fn seal(
        &mut self,
        plaintext: &[u8],
        pass_on: impl FnOnce(&mut Self, &[u8]) -> io::Result<()>,
    ) -> io::Result<usize> {
        let plaintext = &plaintext[..plaintext.len().min(SEALED_AT_ONCE)];
        with_buffer(&SEALING, |scratch| {
            let length = self.session.seal(&mut self.held, plaintext, scratch).map_err(io::Error::other)?;
            pass_on(self, &scratch[..length])?;
            Ok(plaintext.len())
        })
    }

    /// Writes `records`, and keeps what the socket does not take now.
    fn send(&mut self, cx: &mut Context<'_>, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, records)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => records = &records[count..],
                Poll::Pending => {
                    self.sealed.extend(records);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Bytes of heap that the buffers of this stream hold, but for tickets that wait for the first answer.
    #[cfg(test)]
    fn capacity(&self) -> usize {
        let sealed = if self.has_tickets { 0 } else { self.sealed.bytes.capacity() };
        self.held.capacity() + self.opened.bytes.capacity() + sealed
    }
}

impl<S> TlsStream<S> {
    /// The socket below, for its own properties.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: Stream> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        while buf.remaining() > 0 && buf.filled().len() == before {
            // An alert, perhaps. That the socket does not take it is for writes, or for the end of what there is
            // to read, to tell.
            if !this.has_tickets
                && let Poll::Ready(Err(error)) = this.poll_drain(cx)
            {
                this.lost = Some(error);
            }
            if !this.opened.is_empty() {
                let count = this.opened.bytes().len().min(buf.remaining());
                buf.put_slice(&this.opened.bytes()[..count]);
                this.opened.consume(count);
                break;
            }
            match &this.end {
                End::Open => ready!(this.poll_fill(cx, buf))?,
                End::Closed | End::Truncated => break,
                End::Failed(error) => return Poll::Ready(Err(failed(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_seals(cx))?;
        Poll::Ready(this.seal(buf, |this, records| {
            if !this.has_tickets {
                return this.send(cx, records);
            }
            this.sealed.extend(records);
            match this.poll_drain(cx) {
                Poll::Ready(drained) => drained,
                Poll::Pending => Ok(()),
            }
        }))
    }

    /// Ready when the socket has taken every record.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    /// Sends `close_notify`, once, after all that was written, and then ends the socket's writing side (rule
    /// T13).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !mem::replace(&mut this.closed, true) && !matches!(this.end, End::Failed(_)) {
            this.session.encode_close_notify(&mut this.held, &mut this.sealed).map_err(io::Error::other)?;
        }
        ready!(this.poll_drain_by(cx, Stream::poll_write_last))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn reset_on_drop(&mut self) {
        self.socket.reset_on_drop();
    }

    fn bound_unacknowledged(&mut self, period: Duration) {
        self.socket.bound_unacknowledged(period);
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_seals(cx))?;
        Poll::Ready(self.seal(buf, |this, records| {
            this.sealed.extend(records);
            Ok(())
        }))
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_sent(cx)
    }

    fn was_truncated(&self) -> bool {
        matches!(self.end, End::Truncated)
    }

    fn unsent(&self) -> usize {
        if self.has_tickets { 0 } else { self.sealed.len() }
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// The error of a stream whose TLS failed. A fatal alert of the client is an abort, all else is bad data.
fn failed(error: &Error) -> io::Error {
    let kind = match error {
        Error::AlertReceived(_) => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error.clone())
}

/// The record of a fatal alert from before there are keys, with what rustls itself says of a certificate.
fn plain_alert(error: &Error) -> [u8; 7] {
    let description = match error {
        Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        _ => AlertDescription::HandshakeFailure,
    };
    [ContentType::Alert.into(), 3, 3, 0, 2, 2, description.into()]
}

type Scratch = RefCell<Vec<u8>>;

thread_local! {
    /// What was read, and is opened in place; [`SCRATCH`] bytes once it has been used.
    static OPENING: Scratch = const { RefCell::new(Vec::new()) };
    /// Records on their way to the socket; as long as the longest so far.
    static SEALING: Scratch = const { RefCell::new(Vec::new()) };
}

/// Runs `with` on a scratch buffer of this thread. These are not the buffer of `buffered::with_scratch`,
/// which is often the one that is read into or written from.
///
/// A nested call, which is TLS within TLS, gets a buffer of its own.
fn with_buffer<R>(buffer: &'static LocalKey<Scratch>, with: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    buffer.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => with(&mut buffer),
        Err(_) => with(&mut Vec::new()),
    })
}

#[cfg(test)]
mod tests;
