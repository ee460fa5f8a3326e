//! Which worker a thread is.

use std::cell::Cell;

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Tells this thread which worker it is, counted from 0. What belongs to a worker alone, such as its idle connections and its
/// counts, is found by this number.
///
/// A thread that never calls this is worker 0.
pub fn enter_worker(id: usize) {
    WORKER.set(id);
}

/// The number of this thread's worker.
pub fn worker() -> usize {
    WORKER.get()
}
