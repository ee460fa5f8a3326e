//! The use of an endpoint while it lasts: before, with and after its connection.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Transport, endpoint::Endpoint, pool::Inner, site::Site};
use crate::{
    buffered::{Buffered, worker},
    lifecycle::Drain,
};

/// A place at an endpoint for which there is no connection yet. Its drop gives it back.
pub(super) struct Claim {
    endpoint: Arc<Endpoint>,
    is_used: bool,
}

/// The use of an endpoint while it lasts. Its drop is the end of the use.
pub struct Lease {
    pool: Arc<Inner>,
    endpoint: Arc<Endpoint>,
    held: TunnelLease,
}

/// What is left of a lease once a tunnel stands. Every idle tunnel holds one, so it is a pointer and no more.
pub struct TunnelLease {
    site: Arc<Site>,
}

impl Claim {
    /// `None` if the endpoint has as many as it may.
    pub(super) fn on(endpoint: &Arc<Endpoint>) -> Option<Self> {
        endpoint.lease_begins().then(|| Self { endpoint: Arc::clone(endpoint), is_used: false })
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// It was used for a connection to `site`.
    pub(super) fn lease(mut self, pool: &Arc<Inner>, site: Arc<Site>) -> Lease {
        self.is_used = true;
        let endpoint = Arc::clone(&self.endpoint);
        Lease { pool: Arc::clone(pool), endpoint, held: TunnelLease { site } }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_used {
            self.endpoint.load.lease_ends();
        }
    }
}

impl Lease {
    /// The endpoint as logs name it: `10.0.0.2:80`, `backend:80`, `unix:/run/app.sock`.
    pub fn endpoint_name(&self) -> &Arc<str> {
        self.endpoint.name()
    }

    /// Notes that a try failed by the server's fault: it was not reached, or its answer ended before it began, or was none.
    pub fn server_failed(&self, reason: &str) {
        self.pool.server_failed(&self.endpoint, reason);
    }

    /// The same use, by a tunnel from now on.
    pub fn into_tunnel(self) -> TunnelLease {
        self.held
    }

    /// The endpoint as a Host header names it: without its scheme's port, and `localhost` for a unix socket.
    pub fn authority(&self) -> &str {
        self.endpoint.authority()
    }

    /// Ends the use and keeps `stream` for another request of this worker, at most for `keep_alive_timeout`
    /// and `max_idle`.
    ///
    /// Only after a whole, good exchange (rule B7). A stream with a tail holds bytes that no request asked
    /// for and is closed, as one more than `keep_alive` is, and one to an address that the server has left.
    pub fn park(self, stream: Buffered<Transport>, max_idle: Option<Duration>) {
        self.park_at(stream, max_idle, Instant::now());
    }

    /// [`Self::park`] by who knows what time it is.
    pub fn park_at(self, stream: Buffered<Transport>, max_idle: Option<Duration>, now: Instant) {
        let (stream, tail) = stream.into_parts();
        if !tail.is_empty() || !self.pool.dial.may_be_shared() {
            return;
        }
        let stay = self.pool.config.keep_alive_timeout.into_iter().chain(max_idle).min();
        let expires = stay.and_then(|stay| now.checked_add(stay));
        self.endpoint.idle.put(worker(), stream, Arc::clone(&self.held.site), expires);
    }
}

impl TunnelLease {
    /// The signal to the tunnels of this endpoint.
    pub fn drain(&self) -> Drain {
        self.site.drain()
    }

    /// The endpoint as logs and metrics name it.
    pub fn endpoint_name(&self) -> &Arc<str> {
        &self.site.load.endpoint
    }

    /// Notes that the server ended a tunnel that had stood for so long. If it does so at once and again and again, it gets
    /// fewer of them for a while.
    pub fn server_ended_tunnel(&self, after: Duration) {
        self.site.load.early_ends.ended_after(after);
    }
}

impl Drop for TunnelLease {
    fn drop(&mut self) {
        self.site.load.lease_ends();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.endpoint_name()).finish()
    }
}
