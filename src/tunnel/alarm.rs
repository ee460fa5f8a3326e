//! One timer for all the tunnels of a worker.
//!
//! A `tokio::time::Sleep` in each tunnel would cost more memory than all else that waits in it. Here a tunnel
//! holds a place in its worker's clock, and one task of the worker sleeps until the earliest of them is due.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

thread_local! {
    static CLOCK: RefCell<Option<Arc<Clock>>> = const { RefCell::new(None) };
}

/// The alarms of one worker. The lock is taken once in each poll of a tunnel and when an alarm rings, never by another
/// thread.
#[derive(Debug, Default)]
struct Clock {
    alarms: Mutex<Alarms>,
    /// An alarm was set that is due before all others.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Alarms {
    slots: Slab<Slot>,
    due: BTreeSet<(Instant, usize)>,
    driven: bool,
}

#[derive(Debug)]
struct Slot {
    waker: Waker,
    at: Option<Instant>,
}

/// A tunnel's place in its worker's clock; given back on drop.
#[derive(Debug)]
pub(super) struct Alarm {
    clock: Arc<Clock>,
    slot: usize,
}

impl Alarm {
    /// A place in the clock of this thread. From now on [`wake_all`] wakes `waker`.
    pub(super) fn new(waker: &Waker) -> Self {
        let clock = CLOCK.with_borrow_mut(|clock| Arc::clone(clock.get_or_insert_default()));
        let slot = clock.lock().slots.insert(Slot { waker: waker.clone(), at: None });
        Self { clock, slot }
    }

    /// Wakes `waker` at `at`, or before: an earlier alarm of the same tunnel stays, and whoever wakes looks at what is
    /// really due. So pushing a deadline back at each byte costs nothing.
    pub(super) fn set(&mut self, at: Instant, waker: &Waker) {
        let mut alarms = self.clock.lock();
        let Alarms { slots, due, driven } = &mut *alarms;
        let slot = &mut slots[self.slot];
        slot.waker.clone_from(waker);
        if slot.at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = slot.at.replace(at) {
            due.remove(&(later, self.slot));
        }
        due.insert((at, self.slot));
        let is_first = due.first() == Some(&(at, self.slot));
        if !*driven {
            *driven = true;
            tokio::spawn(drive(Driver(Arc::clone(&self.clock))));
        } else if is_first {
            self.clock.earlier.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut alarms = self.clock.lock();
        let slot = alarms.slots.remove(self.slot);
        if let Some(at) = slot.at {
            alarms.due.remove(&(at, self.slot));
        }
        let was_last = alarms.slots.is_empty();
        drop(alarms);
        if was_last {
            self.clock.earlier.notify_one();
        }
    }
}

/// Wakes every tunnel of this thread, so that each looks at the drain signal.
pub fn wake_all() {
    let Some(clock) = CLOCK.with_borrow(Clone::clone) else { return };
    let wakers: Vec<Waker> = clock.lock().slots.iter().map(|(_, slot)| slot.waker.clone()).collect();
    wakers.into_iter().for_each(Waker::wake);
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what is due and returns when the next alarm is; `None` when no tunnel is left.
    fn ring(&self, now: Instant) -> Option<Next> {
        let mut alarms = self.lock();
        let Alarms { slots, due, .. } = &mut *alarms;
        while let Some(&(at, slot)) = due.first() {
            if at > now {
                return Some(Next::At(at));
            }
            due.pop_first();
            slots[slot].at = None;
            slots[slot].waker.wake_by_ref();
        }
        if slots.is_empty() { None } else { Some(Next::WhenSet) }
    }
}

enum Next {
    At(Instant),
    WhenSet,
}

/// The task that drives a clock; when it ends in whatever way, the next alarm starts another.
struct Driver(Arc<Clock>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.lock().driven = false;
    }
}

async fn drive(driver: Driver) {
    let clock = &driver.0;
    while let Some(next) = clock.ring(Instant::now()) {
        match next {
            Next::WhenSet => clock.earlier.notified().await,
            Next::At(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = clock.earlier.notified() => {}
            },
        }
    }
}
