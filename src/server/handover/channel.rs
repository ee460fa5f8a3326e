//! What two processes say to each other over a unix socket: lines of JSON, and descriptors.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// The version of what is said here.
pub(super) const PROTOCOL: u32 = 1;
/// Descriptors that go along with one message; the kernel takes 253 (unix(7)).
pub(super) const PORTION: usize = 64;
/// The longest line.
const LINE: usize = 64 * 1024;

/// One line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The new process: who asks.
    Hello { protocol: u32, version: String, pid: u32 },
    /// The old one: no.
    Refused { why: Refused },
    /// The old one: these sockets, whose descriptors come along in this order, and whether more follow.
    Sockets { pid: u32, sockets: Vec<Passed>, more: bool },
    /// The new one: could serve, but for the sockets of these addresses, which it does not want.
    Ready { unwanted: Vec<String> },
    /// The old one: the sockets are yours.
    Take,
    /// The new one: can be found where the old one was, and goes on alone.
    Taken,
}

/// Why a process keeps its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refused {
    /// Another one is taking them over.
    Busy,
    /// It has closed them.
    Draining,
    /// It does not speak this protocol.
    Protocol,
    /// The new process took too long.
    TooLate,
}

impl Refused {
    /// Its name in logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Protocol => "protocol",
            Self::TooLate => "too_late",
        }
    }
}

/// A socket that is passed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passed {
    /// Its address, for people.
    pub(super) address: String,
    /// Its file is removed by the process that has it in the end.
    pub(super) removes_file: bool,
}

/// One end of the conversation. Each step blocks, up to a deadline.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// Read and not yet a line.
    bytes: Vec<u8>,
    /// Read and not yet taken.
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, bytes: Vec::new(), descriptors: VecDeque::new() })
    }

    /// Says `message`, with at most [`PORTION`] descriptors, within `patience`.
    pub(super) fn send(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> io::Result<()> {
        self.stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTION))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The descriptors go with the first byte.
        let sent = sendmsg(&self.stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&line[sent..])
    }

    /// The next message within `patience`; `None` when the other side is gone.
    pub(super) fn receive(&mut self, patience: Duration) -> io::Result<Option<Message>> {
        let until = Instant::now() + patience;
        let mut is_over = false;
        loop {
            if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.bytes.len() > LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line too long"));
            }
            if is_over {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = until.saturating_duration_since(Instant::now());
            // What has come counts, however late this process looks: it may have been frozen.
            is_over = left.is_zero();
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.read() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTION))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let read = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.bytes.extend_from_slice(&bytes[..read]);
        Ok(read)
    }

    /// The next descriptor that came with the messages so far.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }
}
