//! The service behind the gates. It costs little: one thread, one buffer to read into, one to write from, no TLS.
//!
//! What it does follows from the path: `/echo` and `/idle` return every message, `/download` sends messages without pause,
//! `/upload` acknowledges each sixteenth, and anything else is a plain request with a short answer.

mod tunnel;

use std::{
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token,
    event::Event,
    net::{TcpListener, TcpStream},
};
use slab::Slab;
use wsgate::{
    lifecycle::raise_fd_limit,
    proto::{frame::Opcode, handshake::accept_key},
};

use self::tunnel::Tunnel;
use crate::{
    Fallible,
    scenario::BULK,
    wire::{self, BODY},
};

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
/// What is read at once.
const READ: usize = 128 * 1024;
/// Messages of a download that go into one write, and writes that it has before others have their turn.
const AT_ONCE: usize = 4;
const WRITES: usize = 4;
/// The longest head of a request.
const HEAD: usize = 16 * 1024;

/// Serves until standard input ends, and says on standard output where.
pub(crate) fn serve() -> Fallible<()> {
    raise_fd_limit();
    thread::spawn(|| {
        // Whatever ends it, whoever started this is gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let mut backend = Backend::bind()?;
    println!("listening {}", backend.listener.local_addr()?);
    io::stdout().flush()?;
    let mut events = Events::with_capacity(EVENTS);
    loop {
        backend.turn(&mut events)?;
    }
}

struct Backend {
    poll: Poll,
    listener: TcpListener,
    connections: Slab<Connection>,
    /// Downloads that others were let go before.
    waiting: Vec<usize>,
    shared: Shared,
}

/// What all connections use.
struct Shared {
    input: Vec<u8>,
    output: Vec<u8>,
    /// The whole answer to a plain request.
    answer: Vec<u8>,
    /// A message of a download.
    message: Vec<u8>,
}

impl Backend {
    fn bind() -> Fallible<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n")
                .into_bytes();
        answer.extend(wire::payload(BODY));
        let shared = Shared {
            input: vec![0; READ],
            output: Vec::with_capacity(2 * READ),
            answer,
            message: wire::frame(Opcode::Binary, &wire::payload(BULK), None),
        };
        Ok(Self { poll, listener, connections: Slab::new(), waiting: Vec::new(), shared })
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let pause = if self.waiting.is_empty() { None } else { Some(Duration::ZERO) };
        match self.poll.poll(events, pause) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for index in std::mem::take(&mut self.waiting) {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.is_waiting = false;
            }
            self.go_on(index, |connection, shared| connection.write(shared));
        }
        for event in events.iter() {
            if event.token() == LISTENER {
                self.accept()?;
            } else {
                self.go_on(event.token().0, |connection, shared| connection.serve(event, shared));
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The other side has left meanwhile.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(entry.key()), interest)?;
            entry.insert(Connection::new(socket));
        }
    }

    fn go_on(&mut self, index: usize, step: impl FnOnce(&mut Connection, &mut Shared) -> Fallible<Next>) {
        // One that has ended may still have an event; one that has come in its place takes no harm from it.
        let Some(connection) = self.connections.get_mut(index) else { return };
        match step(connection, &mut self.shared) {
            Ok(Next::Rest) => (),
            Ok(Next::Again) if connection.is_waiting => (),
            Ok(Next::Again) => {
                connection.is_waiting = true;
                self.waiting.push(index);
            }
            // What goes wrong here, the client sees too.
            Ok(Next::End) | Err(_) => drop(self.connections.remove(index)),
        }
    }
}

/// What becomes of a connection.
enum Next {
    /// It has its next turn when something happens on its socket.
    Rest,
    /// It could go on, but others have their turn first.
    Again,
    End,
}

struct Connection {
    socket: TcpStream,
    service: Service,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// Others were let go before it.
    is_waiting: bool,
}

enum Service {
    /// Requests, with what has come of the next one.
    Requests(Vec<u8>),
    Tunnel(Tunnel),
    Download(Download),
    /// All has been said but for what is unsent.
    Over,
}

struct Download {
    /// Bytes of the message that the socket has taken already.
    taken: usize,
    /// What the client says, of which a Close matters.
    said: Tunnel,
}

impl Connection {
    fn new(socket: TcpStream) -> Self {
        Self { socket, service: Service::Requests(Vec::new()), unsent: Vec::new(), is_waiting: false }
    }

    fn serve(&mut self, event: &Event, shared: &mut Shared) -> Fallible<Next> {
        let mut next = if event.is_writable() { self.write(shared)? } else { Next::Rest };
        if matches!(next, Next::End) {
            return Ok(next);
        }
        // Who does not take what it gets is not read; when it has taken it, it is.
        while self.unsent.is_empty() {
            let count = match self.socket.read(&mut shared.input) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            shared.output.clear();
            self.take(count, shared)?;
            self.send(&shared.output)?;
            if matches!(self.service, Service::Download(_)) {
                next = self.write(shared)?;
            }
            if matches!(self.service, Service::Over) && self.unsent.is_empty() {
                return Ok(Next::End);
            }
            // A short read is the last one, unless the end stands behind it.
            if count < shared.input.len() && !event.is_read_closed() {
                break;
            }
        }
        Ok(next)
    }

    /// Looks at the first bytes of the input, and puts into the output what answers them.
    fn take(&mut self, count: usize, shared: &mut Shared) -> Fallible<()> {
        let Shared { input, output, answer, message } = shared;
        let next = match &mut self.service {
            Service::Requests(held) => answer_requests(held, &input[..count], answer, output)?,
            Service::Tunnel(tunnel) => tunnel.take(&input[..count], output)?.then_some(Service::Over),
            Service::Download(download) => {
                download.take(&input[..count], message, output)?.then_some(Service::Over)
            }
            Service::Over => None,
        };
        if let Some(next) = next {
            self.service = next;
        }
        Ok(())
    }

    /// Sends what is unsent, and goes on with a download.
    fn write(&mut self, shared: &Shared) -> Fallible<Next> {
        if !self.unsent.is_empty() {
            let sent = take_blocked(self.socket.write(&self.unsent))?;
            self.unsent.drain(..sent);
            if !self.unsent.is_empty() {
                return Ok(Next::Rest);
            }
        }
        match &mut self.service {
            Service::Download(download) => download.send(&mut self.socket, &shared.message),
            Service::Over => Ok(Next::End),
            Service::Requests(_) | Service::Tunnel(_) => Ok(Next::Rest),
        }
    }

    fn send(&mut self, output: &[u8]) -> io::Result<()> {
        if !output.is_empty() {
            let sent = take_blocked(self.socket.write(output))?;
            self.unsent.extend_from_slice(&output[sent..]);
        }
        Ok(())
    }
}

impl Download {
    /// Looks whether there is a Close, and puts the rest of the message and the answer into the output then.
    fn take(&mut self, input: &[u8], message: &[u8], output: &mut Vec<u8>) -> Fallible<bool> {
        let mut answers = Vec::new();
        let is_over = self.said.take(input, &mut answers)?;
        if is_over {
            if self.taken > 0 {
                output.extend_from_slice(&message[self.taken..]);
            }
            output.extend_from_slice(&answers);
        }
        Ok(is_over)
    }

    /// Sends messages until the socket takes no more or others should have their turn.
    fn send(&mut self, socket: &mut TcpStream, message: &[u8]) -> Fallible<Next> {
        for _ in 0..WRITES {
            let mut slices = [IoSlice::new(message); AT_ONCE];
            slices[0] = IoSlice::new(&message[self.taken..]);
            let offered = AT_ONCE * message.len() - self.taken;
            let sent = take_blocked(socket.write_vectored(&slices))?;
            self.taken = (self.taken + sent) % message.len();
            if sent < offered {
                return Ok(Next::Rest);
            }
        }
        Ok(Next::Again)
    }
}

/// How much a socket took: nothing, where it would have blocked.
fn take_blocked(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// Answers all requests that are whole. A legal offer ends them, and says what comes instead.
fn answer_requests(
    held: &mut Vec<u8>,
    input: &[u8],
    answer: &[u8],
    output: &mut Vec<u8>,
) -> Fallible<Option<Service>> {
    let joined;
    let mut rest = input;
    if !held.is_empty() {
        held.extend_from_slice(input);
        joined = std::mem::take(held);
        rest = &joined;
    }
    while let Some(length) = wire::head_length(rest) {
        let (request, behind) = rest.split_at(length);
        rest = behind;
        if let Some((key, mut service)) = tunnel_of(request) {
            agree(key, output);
            // A client may send frames only after the answer, so there is nothing behind this.
            if let Service::Tunnel(tunnel) = &mut service {
                tunnel.take(rest, output)?;
            }
            return Ok(Some(service));
        }
        output.extend_from_slice(answer);
    }
    if rest.len() > HEAD {
        return Err("a head has no end".into());
    }
    held.extend_from_slice(rest);
    Ok(None)
}

/// The key of an offer, and what its path asks for.
fn tunnel_of(head: &[u8]) -> Option<(&str, Service)> {
    let target = head.strip_prefix(b"GET ")?;
    let service = if target.starts_with(b"/echo") || target.starts_with(b"/idle") {
        Service::Tunnel(Tunnel::echo())
    } else if target.starts_with(b"/upload") {
        Service::Tunnel(Tunnel::upload())
    } else if target.starts_with(b"/download") {
        Service::Download(Download { taken: 0, said: Tunnel::upload() })
    } else {
        return None;
    };
    wire::field(head, "Sec-WebSocket-Key").map(|key| (key, service))
}

fn agree(key: &str, output: &mut Vec<u8>) {
    output.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    output.extend_from_slice(accept_key(key).as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
}
