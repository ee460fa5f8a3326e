//! A connection's stream of bytes, with TLS or without, and buffers that all of them share.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    arguments::Arguments,
    tls::{self, Identity, Session},
};
use crate::{Fallible, scenario::Scenario};

/// What is read at once: large enough for what a proxy writes at once.
const READ: usize = 128 * 1024;

/// How connections are made.
pub(super) struct Door {
    address: SocketAddr,
    sources: u8,
    /// Connections that were made.
    made: usize,
    identity: Option<Identity>,
    registry: Registry,
}

impl Door {
    pub(super) fn new(arguments: &Arguments, registry: Registry) -> Fallible<Self> {
        let identity = match (arguments.scenario.certificate(), &arguments.ca) {
            (Some(_), None) => return Err("--ca is missing".into()),
            (Some(_), Some(ca)) => {
                let is_resumed = matches!(arguments.scenario, Scenario::Connections { resumed: true, .. });
                Some(tls::identity(ca, is_resumed)?)
            }
            (None, _) => None,
        };
        Ok(Self { address: arguments.address, sources: arguments.sources, made: 0, identity, registry })
    }

    /// Begins a connection, whose events have this token.
    pub(super) fn connect(&mut self, token: Token) -> Fallible<Stream> {
        let socket =
            Socket::new(Domain::for_address(self.address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = self.source() {
            // A port is chosen when it is known where to, so ports go round for each destination.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        self.made += 1;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
                return Err(error.into());
            }
            _ => (),
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let session = self.identity.as_ref().map(Identity::session).transpose()?;
        Ok(Stream { socket, session, is_connected: false, unsent: Vec::new(), sent: 0 })
    }

    fn source(&self) -> Option<Ipv4Addr> {
        let is_loopback = matches!(self.address.ip(), IpAddr::V4(address) if address.is_loopback());
        if self.sources < 2 || !is_loopback {
            return None;
        }
        let turn = u8::try_from(self.made % usize::from(self.sources)).unwrap_or_default();
        Some(Ipv4Addr::new(127, 0, 0, turn + 1))
    }
}

/// Buffers that serve whichever stream has its turn.
pub(super) struct Scratch {
    input: Vec<u8>,
    output: Output,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { input: vec![0; READ], output: Output { bytes: vec![0; READ], filled: 0 } }
    }
}

/// What is to be written at the end of a turn.
pub(super) struct Output {
    bytes: Vec<u8>,
    filled: usize,
}

impl Output {
    /// The room behind what it holds, of so many bytes at least.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        let needed = self.filled + least;
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// Says that so many bytes of the room are in use now.
    pub(super) fn fill(&mut self, count: usize) {
        self.filled += count;
    }

    fn held(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing has come.
    Nothing,
    /// Less than there was room for, so that no more is there.
    All,
    /// As much as there was room for.
    Part,
    /// The other side has ended the connection.
    End,
}

pub(super) struct Stream {
    socket: TcpStream,
    session: Option<Session>,
    is_connected: bool,
    /// What the socket did not take, of which so many bytes are sent by now.
    unsent: Vec<u8>,
    sent: usize,
}

impl Stream {
    /// Begins with TLS when the connection stands; `false` says that it does not stand yet.
    pub(super) fn connect(&mut self, scratch: &mut Scratch) -> Fallible<bool> {
        if self.is_connected {
            return Ok(true);
        }
        if let Some(error) = self.socket.take_error()? {
            return Err(format!("can't connect: {error}").into());
        }
        match self.socket.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            other => other?,
        };
        self.is_connected = true;
        if let Some(session) = &mut self.session {
            session.take(&mut [], &mut scratch.output, &mut |_: &[u8]| Ok(()))?;
        }
        Ok(true)
    }

    /// Whether bytes can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.is_connected && self.session.as_ref().is_none_or(Session::is_ready)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_resumed)
    }

    /// Whether the socket has not taken all that was sent.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads once, and gives what came to `take`, piece by piece.
    pub(super) fn read(
        &mut self,
        scratch: &mut Scratch,
        mut take: impl FnMut(&[u8]) -> Fallible<()>,
    ) -> Fallible<Came> {
        let held = self.session.as_ref().map_or(&[][..], Session::held);
        let start = held.len();
        scratch.input[..start].copy_from_slice(held);
        let count = match self.socket.read(&mut scratch.input[start..]) {
            Ok(0) => return Ok(Came::End),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Came::Nothing),
            Err(error) => return Err(error.into()),
        };
        let end = start + count;
        let came = if end < scratch.input.len() { Came::All } else { Came::Part };
        let bytes = &mut scratch.input[..end];
        match &mut self.session {
            Some(session) => session.take(bytes, &mut scratch.output, &mut take)?,
            None => take(bytes)?,
        }
        Ok(came)
    }

    /// Sends bytes with the next flush, or at once where there is no TLS.
    pub(super) fn send(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Fallible<()> {
        match &mut self.session {
            Some(session) => session.send(bytes, &mut scratch.output),
            None => Ok(self.write(bytes)?),
        }
    }

    /// Writes what is to be written.
    pub(super) fn flush(&mut self, scratch: &mut Scratch) -> io::Result<()> {
        self.write(scratch.output.held())?;
        scratch.output.filled = 0;
        Ok(())
    }

    /// Writes what is unsent, then `bytes`, and keeps what the socket does not take.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_blocked() {
            self.unsent.extend_from_slice(bytes);
            self.sent += take_blocked(self.socket.write(&self.unsent[self.sent..]))?;
            if self.sent == self.unsent.len() {
                self.unsent.clear();
                self.sent = 0;
            }
        } else if !bytes.is_empty() {
            let sent = take_blocked(self.socket.write(bytes))?;
            self.unsent.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }
}

/// How much a socket took: nothing, where it would have blocked.
fn take_blocked(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
