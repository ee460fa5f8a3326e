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

    /// How many there are.
    pub(super) fn sum(&self) -> u64 {
        self.lock().values().sum()
    }

    /// Every pair with its tunnels, and those of `configured` that have none with 0, which whoever asks for a sum could not tell
    /// from a gate that is gone. Past the bound, one for each route stands for the others.
    pub(super) fn all(&self, configured: impl IntoIterator<Item = Pair>) -> HashMap<Pair, u64> {
        let mut all = self.lock().clone();
        for pair in configured {
            let has_place = all.len() < MOST_PAIRS || all.contains_key(&pair);
            all.entry(if has_place { pair } else { other_of(&pair.0) }).or_default();
        }
        all
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
        let all = || tunnels.all([]);
        let sum = || tunnels.sum();
        for number in 0..MOST_PAIRS + 50 {
            tunnels.opens(&route, &endpoint(number));
        }
        assert_eq!((all().len(), sum()), (MOST_PAIRS + 1, MOST_PAIRS as u64 + 50));
        assert_eq!(all().get(&other_of(&route)), Some(&50));
        // Room for the pair of one that was counted among the others, which then opens a second tunnel.
        (0..100).for_each(|number| tunnels.ends(&route, &endpoint(number)));
        let late = endpoint(MOST_PAIRS + 1);
        tunnels.opens(&route, &late);
        tunnels.ends(&route, &late);
        assert_eq!(sum(), MOST_PAIRS as u64 - 50);
        (100..MOST_PAIRS + 50).for_each(|number| tunnels.ends(&route, &endpoint(number)));
        assert!(all().is_empty(), "nothing is kept for what is gone");
    }

    #[test]
    fn configured_pairs_are_there_without_tunnels_as_far_as_the_bound_goes() {
        let tunnels = OpenTunnels::default();
        let pair = |number: usize| -> Pair { ("main".into(), format!("server{number}:80").into()) };
        let (route, endpoint) = pair(1);
        tunnels.opens(&route, &endpoint);
        let few = tunnels.all((0..3).map(pair));
        assert_eq!([0, 1, 2].map(|number| few.get(&pair(number)).copied()), [Some(0), Some(1), Some(0)]);
        let many = tunnels.all((0..MOST_PAIRS + 50).map(pair));
        assert_eq!((many.len(), many.get(&other_of(&route))), (MOST_PAIRS + 1, Some(&0)));
        assert_eq!((many.values().sum::<u64>(), tunnels.sum()), (1, 1));
    }
}
