//! Open tunnels by route and endpoint.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Pairs of route and endpoint that have series of their own. Endpoints can come out of DNS, which bounds them less than the
/// file does.
const MOST_PAIRS: usize = 1_000;

/// The label of endpoints past that.
pub(super) const OTHER: &str = "other";

/// Route and endpoint.
pub(super) type Pair = (Arc<str>, Arc<str>);

/// Counts open tunnels. An idle tunnel keeps nothing for it: whoever ends one knows its pair.
#[derive(Debug, Default)]
pub(super) struct OpenTunnels {
    /// None is 0. The lock is held to count, when a tunnel opens or ends.
    open: Mutex<HashMap<Pair, u64>>,
}

impl OpenTunnels {
    pub(super) fn opens(&self, route: &Arc<str>, endpoint: &Arc<str>) {
        let mut open = self.lock();
        let pair = (Arc::clone(route), Arc::clone(endpoint));
        if open.len() < MOST_PAIRS || open.contains_key(&pair) {
            *open.entry(pair).or_default() += 1;
        } else {
            *open.entry(other_of(route)).or_default() += 1;
        }
    }

    pub(super) fn ends(&self, route: &Arc<str>, endpoint: &Arc<str>) {
        let mut open = self.lock();
        let own = (Arc::clone(route), Arc::clone(endpoint));
        // One that was opened when there was no room for its pair may end when there is: the sums hold all the same.
        let pair = if open.contains_key(&own) { own } else { other_of(route) };
        if let Some(count) = open.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                open.remove(&pair);
            }
        }
    }

    /// Every pair with its tunnels.
    pub(super) fn all(&self) -> Vec<(Pair, u64)> {
        self.lock().iter().map(|(pair, count)| (pair.clone(), *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pair, u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn other_of(route: &Arc<str>) -> Pair {
    (Arc::clone(route), OTHER.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_past_the_bound_are_counted_together_and_the_sum_holds() {
        let tunnels = OpenTunnels::default();
        let route: Arc<str> = "main".into();
        let endpoint =
            |number: usize| -> Arc<str> { format!("10.0.{}.{}:80", number / 256, number % 256).into() };
        let sum = || tunnels.all().iter().map(|(_, count)| count).sum::<u64>();
        for number in 0..MOST_PAIRS + 50 {
            tunnels.opens(&route, &endpoint(number));
        }
        assert_eq!((tunnels.all().len(), sum()), (MOST_PAIRS + 1, MOST_PAIRS as u64 + 50));
        let other = |all: &[(Pair, u64)]| {
            all.iter().find(|((_, endpoint), _)| &**endpoint == OTHER).map(|(_, count)| *count)
        };
        assert_eq!(other(&tunnels.all()), Some(50));
        // Room for the pair of one that was counted among the others, which then opens a second tunnel.
        (0..100).for_each(|number| tunnels.ends(&route, &endpoint(number)));
        let late = endpoint(MOST_PAIRS + 1);
        tunnels.opens(&route, &late);
        tunnels.ends(&route, &late);
        assert_eq!(sum(), MOST_PAIRS as u64 - 50);
        (100..MOST_PAIRS + 50).for_each(|number| tunnels.ends(&route, &endpoint(number)));
        assert_eq!(tunnels.all(), [], "nothing is kept for what is gone");
    }
}
