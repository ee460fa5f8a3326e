//! One timer for all the tunnels of a worker.
//!
//! A `tokio::time::Sleep` in each tunnel would cost more memory than all else that waits in it. Here a tunnel
//! holds a place in its worker's clock, and one task of the worker sleeps until the earliest of them is due.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{moment::Moment, visit::Visit};

thread_local! {
    static CLOCK: RefCell<Option<Arc<Clock>>> = const { RefCell::new(None) };
}

/// The alarms of one worker. The lock is taken once in each poll of a tunnel and when an alarm rings, never by another
/// thread.
#[derive(Debug)]
pub(super) struct Clock {
    began: Instant,
    alarms: Mutex<Alarms>,
    /// An alarm was set that is due before all others.
    earlier: Notify,
    /// There are visits: read in each poll without the lock.
    has_visits: AtomicBool,
}

#[derive(Debug, Default)]
struct Alarms {
    slots: Slab<Slot>,
    /// Of each tunnel, one for as long as it lives: an `Instant` would make it half as large again.
    due: BTreeSet<(Moment, usize)>,
    /// Visits that wait for the tunnels of these slots.
    visits: BTreeMap<usize, Vec<Visit>>,
    driven: bool,
}

#[derive(Debug)]
struct Slot {
    waker: Waker,
    at: Option<Moment>,
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
        let at = Moment::new(at, self.clock.began);
        let mut alarms = self.clock.lock();
        let Alarms { slots, due, driven, .. } = &mut *alarms;
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

    /// The next visit that waits for this tunnel.
    pub(super) fn take_visit(&self) -> Option<Visit> {
        if !self.clock.has_visits.load(Ordering::Relaxed) {
            return None;
        }
        let mut alarms = self.clock.lock();
        let waiting = alarms.visits.get_mut(&self.slot)?;
        let visit = waiting.pop();
        if waiting.is_empty() {
            self.clock.forget_visits(&mut alarms, self.slot);
        }
        visit
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut alarms = self.clock.lock();
        let slot = alarms.slots.remove(self.slot);
        let missed = self.clock.forget_visits(&mut alarms, self.slot);
        if let Some(at) = slot.at {
            alarms.due.remove(&(at, self.slot));
        }
        let was_last = alarms.slots.is_empty();
        drop(alarms);
        // What a visit carries is not dropped under the lock.
        drop(missed);
        if was_last {
            self.clock.earlier.notify_one();
        }
    }
}

/// The clock of this thread; `None` if there was no tunnel yet.
pub(super) fn clock() -> Option<Arc<Clock>> {
    CLOCK.with_borrow(Clone::clone)
}

/// Wakes every tunnel of this thread, so that each looks at the drain signal.
pub fn wake_all() {
    let Some(clock) = clock() else { return };
    let wakers: Vec<Waker> = clock.lock().slots.iter().map(|(_, slot)| slot.waker.clone()).collect();
    wakers.into_iter().for_each(Waker::wake);
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            alarms: Mutex::default(),
            earlier: Notify::new(),
            has_visits: AtomicBool::new(false),
        }
    }
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `visit` wait for the tunnels of these slots, and wakes them. Returns where to go on; `None` behind the last slot.
    pub(super) fn mark(&self, portion: Range<usize>, visit: &Visit) -> Option<usize> {
        let mut alarms = self.lock();
        let Alarms { slots, visits, .. } = &mut *alarms;
        for at in portion.clone() {
            if let Some(slot) = slots.get(at) {
                visits.entry(at).or_default().push(Arc::clone(visit));
                slot.waker.wake_by_ref();
            }
        }
        self.has_visits.store(!visits.is_empty(), Ordering::Relaxed);
        Some(portion.end).filter(|next| *next < slots.capacity())
    }

    /// Whether `visit` still waits for one of these slots' tunnels.
    pub(super) fn waits(&self, portion: Range<usize>, visit: &Visit) -> bool {
        let alarms = self.lock();
        let mut waiting = alarms.visits.range(portion).flat_map(|(_, visits)| visits);
        waiting.any(|waiting| Arc::ptr_eq(waiting, visit))
    }

    /// Takes out the visits that wait for a slot.
    fn forget_visits(&self, alarms: &mut Alarms, slot: usize) -> Option<Vec<Visit>> {
        let visits = alarms.visits.remove(&slot);
        if alarms.visits.is_empty() {
            self.has_visits.store(false, Ordering::Relaxed);
        }
        visits
    }

    /// Takes out what is due and returns when the next alarm is; `None` when no tunnel is left.
    fn ring(&self, now: Instant) -> Option<Next> {
        let now = Moment::new(now, self.began);
        let mut alarms = self.lock();
        let Alarms { slots, due, .. } = &mut *alarms;
        while let Some(&(at, slot)) = due.first() {
            if at > now {
                return Some(Next::At(at.instant(self.began)));
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
