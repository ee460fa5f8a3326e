//! A visit to every tunnel: what is known of them is looked up, and what is asked of them is done, in their own tasks.
//!
//! So there is nothing that tunnels share with anybody else, and one that nobody asks about pays a load for each poll.

use std::{any::Any, sync::Arc};

use tokio::task::yield_now;

use super::{Tunnel, alarm};
use crate::buffered::Stream;

/// What comes to every tunnel, for its owner, who knows what it is.
pub type Visit = Arc<dyn Any + Send + Sync>;

/// So many places of a worker's clock are visited at once, so that its other tasks never wait behind more.
const PORTION: usize = 256;

/// Brings `visit` to every tunnel that this thread has now. Ends when each has had it, or has ended.
pub async fn visit(visit: Visit) {
    let Some(clock) = alarm::clock() else { return };
    let mut next = Some(0);
    while let Some(from) = next {
        let portion = from..from + PORTION;
        next = clock.mark(portion.clone(), &visit);
        while clock.waits(portion.clone(), &visit) {
            yield_now().await;
        }
    }
}

impl<D: Stream, U: Stream> Tunnel<D, U> {
    /// The next visit that waits for this tunnel. Its owner asks in each poll.
    pub fn take_visit(&self) -> Option<Visit> {
        self.alarm.as_ref()?.take_visit()
    }
}
