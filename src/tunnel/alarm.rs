//! One timer for all the tunnels of a worker.
//!
//! A `tokio::time::Sleep` in each tunnel would cost more memory than all else that waits in it. Here a tunnel
//! holds a place in its worker's clock, and one task of the worker sleeps until the earliest of them is due.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::visit::Visit;

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
    due: BTreeSet<Due>,
    /// Visits that wait for the tunnels of these slots.
    visits: BTreeMap<usize, Vec<Visit>>,
    driven: bool,
}

#[derive(Debug)]
struct Slot {
    waker: Waker,
    due: Option<Due>,
}

/// When a slot's alarm rings, in milliseconds since the clock began, and behind it in the lowest bits which slot it is; plus one. There
/// is one for each tunnel, as long as it lives, so it is one number and not a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due(NonZeroU64);

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
        let slot = clock.lock().slots.insert(Slot { waker: waker.clone(), due: None });
        Self { clock, slot }
    }

    /// Wakes `waker` at `at`, to the millisecond, or before: an earlier alarm of the same tunnel stays, and whoever wakes looks at
    /// what is really due. So pushing a deadline back at each byte costs nothing.
    pub(super) fn set(&mut self, at: Instant, waker: &Waker) {
        let at = Due::new(at.saturating_duration_since(self.clock.began), self.slot);
        let mut alarms = self.clock.lock();
        let Alarms { slots, due, driven, .. } = &mut *alarms;
        let slot = &mut slots[self.slot];
        slot.waker.clone_from(waker);
        if slot.due.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = slot.due.replace(at) {
            due.remove(&later);
        }
        due.insert(at);
        let is_first = due.first() == Some(&at);
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
        if let Some(due) = slot.due {
            alarms.due.remove(&due);
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
        let elapsed = now.saturating_duration_since(self.began);
        let mut alarms = self.lock();
        let Alarms { slots, due, .. } = &mut *alarms;
        while let Some(&first) = due.first() {
            if first.after() > elapsed {
                return Some(Next::At(self.began + first.after()));
            }
            due.pop_first();
            let slot = &mut slots[first.slot()];
            slot.due = None;
            slot.waker.wake_by_ref();
        }
        if slots.is_empty() { None } else { Some(Next::WhenSet) }
    }
}

impl Due {
    /// As many slots as there are file descriptors by far: `max_connections` ends at 10 million. 40 bits are left, which are 34 years.
    const SLOT_BITS: u32 = 24;

    /// `after` the clock began, rounded up.
    fn new(after: Duration, slot: usize) -> Self {
        debug_assert!(slot >> Self::SLOT_BITS == 0, "no process has so many sockets");
        // Not by way of `as_nanos`: a division of 128 bits costs more than all else here.
        let millis = after
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(after.subsec_nanos().div_ceil(1_000_000).into());
        let millis = millis.min((u64::MAX >> Self::SLOT_BITS) - 1);
        Self(NonZeroU64::MIN.saturating_add((millis << Self::SLOT_BITS) | slot as u64))
    }

    fn after(self) -> Duration {
        Duration::from_millis((self.0.get() - 1) >> Self::SLOT_BITS)
    }

    fn slot(self) -> usize {
        let slot = (self.0.get() - 1) & ((1 << Self::SLOT_BITS) - 1);
        usize::try_from(slot).expect("24 bits")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_is_never_early_keeps_its_slot_and_goes_before_the_number_of_one() {
        let times = [0, 1, 999_999, 1_000_000, 1_000_001, 30_000_000_000, u64::from(u32::MAX) * 7_000_000];
        let slots = [0, 1, (1 << Due::SLOT_BITS) - 1];
        let mut dues: Vec<_> = times
            .iter()
            .flat_map(|nanos| slots.map(|slot| (Duration::from_nanos(*nanos), slot)))
            .map(|(after, slot)| {
                let due = Due::new(after, slot);
                assert_eq!(due.slot(), slot);
                let late = due.after().checked_sub(after).expect("not early");
                assert!(late < Duration::from_millis(1), "{late:?}");
                due
            })
            .collect();
        dues.sort();
        assert!(dues.is_sorted_by_key(|due| (due.after(), due.slot())));
    }

    #[test]
    fn times_that_no_process_sees_are_the_last() {
        let last = Due::new(Duration::MAX, 7);
        assert_eq!(last.slot(), 7);
        assert!(last > Due::new(Duration::from_secs(30 * 365 * 86_400), (1 << Due::SLOT_BITS) - 1));
    }
}
