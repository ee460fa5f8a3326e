//! What the allocator does with memory that is free.

use tikv_jemalloc_ctl::{Access, AsName, Result, background_thread};

/// How long free memory is kept for whoever needs some next, in milliseconds; then the system gets it back, little by little.
const KEPT_FOR: isize = 1_000;

/// Sees to it that the memory of a peak is given back also when nothing happens any more.
pub(super) fn give_back() {
    if let Err(error) = set_up() {
        // There is no such thread on macOS and with musl: then memory is given back by whoever uses some.
        tracing::debug!(%error, "no thread gives memory back");
    }
}

fn set_up() -> Result<()> {
    // The first arena is there already; the others will be made as these say.
    for name in ["arena.0.dirty_decay_ms\0", "arenas.dirty_decay_ms\0"] {
        name.name().write(KEPT_FOR)?;
    }
    background_thread::write(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_takes_its_orders() {
        set_up().unwrap();
        let kept_for: isize = "arenas.dirty_decay_ms\0".name().read().unwrap();
        assert_eq!((kept_for, background_thread::read().unwrap()), (KEPT_FOR, true));
    }
}
