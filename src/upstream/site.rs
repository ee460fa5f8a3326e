//! Where a server is: one address of it, for as long as it has that address.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{balance::EarlyEnds, counts::Counts, pool::Surroundings};
use crate::{
    config::{self, OnRemoved},
    lifecycle::{Drain, DrainHandle},
};

/// What is counted of a server, over all its sites and those that it left, and over all configurations that have it.
#[derive(Debug)]
pub(super) struct Load {
    /// As logs and metrics name the server.
    pub(super) endpoint: Arc<str>,
    open: AtomicUsize,
    pub(super) early_ends: EarlyEnds,
    pub(super) counts: Counts,
}

impl Load {
    pub(super) fn new(endpoint: &Arc<str>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            open: AtomicUsize::new(0),
            early_ends: EarlyEnds::new(),
            counts: Counts::default(),
        }
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

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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
    pub(super) fn order(&self, orders: &Orders, tunnels: OnRemoved) {
        orders.give(&self.order.load(), tunnels);
    }

    /// Lets new tunnels come; those that were told to leave still do.
    pub(super) fn renew(&self, order: DrainHandle) {
        self.order.store(Arc::new(order));
    }

    /// The server is not there any more.
    pub(super) fn leave(&self, orders: &Orders) {
        self.has_left.store(true, Ordering::Release);
        self.order(orders, orders.on_removed);
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
        Self { on_removed, whole: place.drain.clone(), spread: place.drain_spread }
    }

    /// One that has been given as often as those in `given` say.
    pub(super) fn fresh(&self, given: impl IntoIterator<Item = OnRemoved>) -> DrainHandle {
        let order = self.whole.part(self.spread);
        given.into_iter().for_each(|tunnels| self.give(&order, tunnels));
        order
    }

    fn give(&self, order: &DrainHandle, tunnels: OnRemoved) {
        match tunnels {
            OnRemoved::Keep => {}
            OnRemoved::Drain => order.drain_over(self.spread),
            OnRemoved::Close => order.drain_over(Duration::ZERO),
        }
    }
}
