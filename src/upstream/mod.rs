//! Upstreams: pools of endpoints, the choice of one, connections to it and their reuse.
//!
//! A request has one [`Attempt`] with its [`Pool`]. Each [`Pool::connect`] on it gives a stream and a
//! [`Lease`], which counts against the endpoint until it is dropped, however the task that holds it ends;
//! [`Lease::park`] keeps the stream for a later plain request, [`Lease::into_tunnel`] is for a stream that became a tunnel.

mod balance;
mod budget;
mod connect;
mod counts;
mod endpoint;
mod health;
mod idle;
mod lease;
mod names;
mod pool;
mod resolve;
mod set;
mod site;
mod srv;
mod status;
mod sticky;
mod streak;
mod succession;
#[cfg(test)]
mod tests;
mod transport;
mod view;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use lease::{Lease, TunnelLease};
pub use pool::{Attempt, Connected, Pool, Surroundings, Want};
pub use set::Caller;
pub use sticky::StickyId;
pub use transport::Transport;
pub use view::{
    Bucket, CheckView, ConnectFailures, CountsView, EndpointState, EndpointView, FailureView, HistogramView,
    PoolView,
};

/// Why there is no connection to an upstream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The last endpoint tried could not be reached, at any of its addresses.
    #[error("cannot connect to {endpoint}")]
    Failed {
        /// The endpoint's name.
        endpoint: String,
        /// What the connect, or the look-up of the name, said.
        #[source]
        source: io::Error,
    },
    /// The last endpoint tried did not answer in `connect_timeout`, or in what `retry_deadline` left of it.
    #[error("connect to {endpoint} timed out")]
    TimedOut {
        /// The endpoint's name.
        endpoint: String,
    },
    /// The TLS handshake with the last endpoint tried failed.
    #[error("TLS with {endpoint} failed")]
    Tls {
        /// The endpoint's name.
        endpoint: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The pool has no endpoint, or the attempt has no retry left.
    #[error("no endpoint left to try")]
    NoEndpoint,
    /// `retry_deadline` had passed before a connect could begin.
    #[error("time for retries has passed")]
    Deadline,
}

/// File descriptors, ports or memory that ran out here.
fn is_own_lack(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let lacks = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
    let is_lack =
        |error: &io::Error| error.raw_os_error().is_some_and(|code| lacks.contains(&Errno::from_raw(code)));
    // What the system said may stand below what is told of it.
    let causes =
        std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    causes.filter_map(|error| error.downcast_ref()).any(is_lack)
}

/// Locks what no panic can leave half-changed; a connection that panicked must not stop the others (rule S4).
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
