//! Where a server is: one address of it, for as long as it has that address.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{balance::EarlyEnds, pool::Surroundings};
use crate::{
    config::{self, OnRemoved},
    lifecycle::{Drain, DrainHandle},
};

/// What counts against a server, over all its sites and those that it left.
#[derive(Debug)]
pub(super) struct Load {
    open: AtomicUsize,
    pub(super) early_ends: EarlyEnds,
}

impl Load {
    pub(super) fn new() -> Self {
        Self { open: AtomicUsize::new(0), early_ends: EarlyEnds::new() }
    }

    /// Leases on the server.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more; `false` if there are `most` of them.
    pub(super) fn lease_begins(&self, most: usize) -> bool {
        let more = |open: usize| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn lease_ends(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address of a server with its tunnels.
///
/// Once it has left it stays so: an address that comes back to the answer is a site anew, as an order to tunnels can't be taken
/// back.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) at: At,
    pub(super) load: Arc<Load>,
    order: ArcSwap<DrainHandle>,
    has_left: AtomicBool,
    /// Which of `source_addresses` is the next to connect from: their ports are used up by each address for itself.
    pub(super) turn: AtomicUsize,
}

/// What is connected to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum At {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl Site {
    pub(super) fn new(at: At, load: &Arc<Load>, order: DrainHandle) -> Self {
        Self {
            at,
            load: Arc::clone(load),
            order: ArcSwap::from_pointee(order),
            has_left: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }
    }

    /// The signal to its tunnels.
    pub(super) fn drain(&self) -> Drain {
        self.order.load().signal()
    }

    /// Tells its tunnels to leave, if that is wanted.
    pub(super) fn removed(&self, on_removed: OnRemoved) {
        match on_removed {
            OnRemoved::Keep => {}
            OnRemoved::Drain | OnRemoved::Close => self.order.load().drain(),
        }
    }

    /// Lets new tunnels come; those that were told to leave still do.
    pub(super) fn renew(&self, order: DrainHandle) {
        self.order.store(Arc::new(order));
    }

    /// The server is not there any more.
    pub(super) fn leave(&self, on_removed: OnRemoved) {
        self.has_left.store(true, Ordering::Release);
        self.removed(on_removed);
    }

    /// Whether nothing is to be kept for it.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }
}

/// How tunnels are told to leave.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) on_removed: OnRemoved,
    whole: Drain,
    spread: Duration,
}

impl Orders {
    pub(super) fn new(upstream: &config::Upstream, place: &Surroundings) -> Self {
        let on_removed = upstream.on_removed;
        let spread = if on_removed == OnRemoved::Close { Duration::ZERO } else { place.drain_spread };
        Self { on_removed, whole: place.drain.clone(), spread }
    }

    /// One that was not given yet.
    pub(super) fn fresh(&self) -> DrainHandle {
        self.whole.part(self.spread)
    }
}
