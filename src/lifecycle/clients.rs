//! How much of each client there is at once.

use std::{
    collections::{HashMap, hash_map},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::proto::network::ClientKey;

/// Of one client past its bound, so many at once are told so; those beyond are cut. Who reads the answer has many tries, and a
/// flood costs little.
const TOLD: usize = 8;
/// Room for so many clients is kept, however few there are.
const SMALL: usize = 1024;

/// Bounds what each client has open at once (rule S2). Memory is held for clients that have something open, and no others.
#[derive(Debug, Clone)]
pub struct Clients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A reload may change it.
    most: AtomicUsize,
    open: Mutex<HashMap<ClientKey, Count>>,
}

/// What one client has open.
#[derive(Debug, Default)]
struct Count {
    let_in: usize,
    refused: usize,
}

/// What becomes of one more.
#[derive(Debug)]
pub enum Entrance {
    /// It is let in. Without a place, it is not counted.
    Open(Option<ClientPlace>),
    /// There are too many; it takes a place among those that are told so.
    Refused(ClientPlace),
    /// There are too many that are told so already: it is cut without an answer.
    Cut,
}

/// One of a client, counted until it is dropped. Tunnels hold one for hours, so it is small.
#[derive(Debug)]
pub struct ClientPlace {
    clients: Clients,
    key: ClientKey,
    is_refused: bool,
}

impl Clients {
    /// A bound of `most` for each client.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { shared: Arc::new(Shared { most: AtomicUsize::new(most.get()), open: Mutex::default() }) }
    }

    /// Changes the bound. Who is in stays in.
    pub fn bound(&self, most: NonZeroUsize) {
        self.shared.most.store(most.get(), Ordering::Relaxed);
    }

    /// One more of the client with this address.
    pub fn enter(&self, ip: IpAddr) -> Entrance {
        let key = ClientKey::from(ip);
        let mut open = self.lock();
        // If it is made here, it does not stay empty: there is room for one at least.
        let count = open.entry(key).or_default();
        let is_refused = count.let_in >= self.shared.most.load(Ordering::Relaxed);
        if is_refused && count.refused >= TOLD {
            return Entrance::Cut;
        }
        *count.of(is_refused) += 1;
        drop(open);
        let place = ClientPlace { clients: self.clone(), key, is_refused };
        if is_refused { Entrance::Refused(place) } else { Entrance::Open(Some(place)) }
    }

    /// Places that are taken, those of refusals among them.
    pub fn in_use(&self) -> usize {
        self.lock().values().map(|count| count.let_in + count.refused).sum()
    }

    /// Held for no longer than it takes to count, and nothing in there panics.
    fn lock(&self) -> MutexGuard<'_, HashMap<ClientKey, Count>> {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn of(&mut self, is_refused: bool) -> &mut usize {
        if is_refused { &mut self.refused } else { &mut self.let_in }
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut open = self.clients.lock();
        let hash_map::Entry::Occupied(mut entry) = open.entry(self.key) else { return };
        let count = entry.get_mut();
        *count.of(self.is_refused) -= 1;
        if count.let_in + count.refused > 0 {
            return;
        }
        entry.remove();
        // Given back after a storm, in halves, so that the work is spread.
        if open.capacity() > SMALL && open.len() < open.capacity() / 4 {
            let half = open.capacity() / 2;
            open.shrink_to(half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(most: usize) -> Clients {
        Clients::new(NonZeroUsize::new(most).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn let_in(entrance: Entrance) -> ClientPlace {
        let Entrance::Open(Some(place)) = entrance else { panic!("{entrance:?}") };
        place
    }

    #[test]
    fn s2_a_client_has_as_many_as_it_may_then_some_refusals_then_nothing() {
        let clients = clients(2);
        let one = ip("192.0.2.1");
        let places = [let_in(clients.enter(one)), let_in(clients.enter(one))];
        let refusals: Vec<_> = (0..TOLD).map(|_| clients.enter(one)).collect();
        assert!(refusals.iter().all(|entrance| matches!(entrance, Entrance::Refused(_))));
        assert!(matches!(clients.enter(one), Entrance::Cut));
        let other = let_in(clients.enter(ip("192.0.2.2")));
        assert_eq!(clients.in_use(), 2 + TOLD + 1);
        drop(refusals);
        assert!(matches!(clients.enter(one), Entrance::Refused(_)), "the places themselves are still taken");
        drop(places);
        drop((let_in(clients.enter(one)), other));
        assert!(clients.in_use() == 0 && clients.lock().is_empty());
    }

    #[test]
    fn s2_a_bound_that_changed_counts_who_is_in_already() {
        let clients = clients(1);
        let one = ip("192.0.2.1");
        let first = let_in(clients.enter(one));
        clients.bound(NonZeroUsize::new(3).unwrap());
        let more = [let_in(clients.enter(one)), let_in(clients.enter(one))];
        assert!(matches!(clients.enter(one), Entrance::Refused(_)));
        clients.bound(NonZeroUsize::new(2).unwrap());
        drop(first);
        assert!(matches!(clients.enter(one), Entrance::Refused(_)));
        drop(more);
        drop(let_in(clients.enter(one)));
        assert_eq!(clients.in_use(), 0);
    }

    #[test]
    fn s2_a_client_of_ipv6_is_its_64_bits_and_one_of_ipv4_its_address_on_either_socket() {
        let same = |one: &str, other: &str| ClientKey::from(ip(one)) == ClientKey::from(ip(other));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
        assert!(!same("0.0.0.1", "::1") && !same("0.0.0.0", "::"));
    }

    #[test]
    fn s2_counts_are_exact_after_many_came_and_went_at_once_and_their_memory_is_given_back() {
        let clients = clients(3);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let clients = &clients;
                scope.spawn(move || {
                    let mut held = std::collections::VecDeque::new();
                    for number in 0..20_000_u32 {
                        // Three in four are of some clients that all have in common.
                        let client = if number % 4 == 0 { number * 4 + thread } else { number % 5 };
                        held.push_back(clients.enter(std::net::Ipv4Addr::from(client).into()));
                        if held.len() > 3000 {
                            held.pop_front();
                        }
                    }
                });
            }
        });
        let open = clients.lock();
        assert!(open.is_empty() && open.capacity() <= 2 * SMALL, "{}", open.capacity());
    }
}
