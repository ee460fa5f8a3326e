//! Who may exist, and until when: permits for connections and TLS handshakes, places and rates of each client, and the drain
//! signal.

mod clients;
mod drain;
mod permits;
mod rates;
mod tracker;

pub use self::{
    clients::{ClientPlace, Clients, Entrance},
    drain::{Drain, DrainHandle, Wait},
    permits::{Permit, Permits, Places, TlsPermit, TlsPermits, raise_fd_limit},
    rates::ClientRates,
    tracker::{Tracked, Tracker},
};
