//! The executable is swapped: a new process takes the listening sockets over from the running one.
//!
//! Both know `server.upgrade_socket`. The running process listens there; the new one connects and says hello, gets the
//! descriptors, builds all that it needs, says that it is ready, accepts when it is told to take them, and takes the place at the
//! upgrade socket. Only then does the old one stop accepting and drain. Until that moment it goes on as if nothing had happened, whatever becomes of
//! the new one. Both have the same sockets and so the same queues of the kernel: no connection is refused, and none is lost.

mod channel;
mod offer;
mod succession;

pub(super) use self::offer::Offered;
pub use self::{
    offer::{Lent, Sockets},
    succession::{HandoverError, Succession, TookOver},
};

#[cfg(test)]
mod tests;
