//! The servers of a pool at one time, and the choice among them.

use std::sync::Arc;

use super::{
    balance::{Balancer, Candidate},
    endpoint::Endpoint,
};
use crate::{config, proto::proxy_protocol::Route};

/// The endpoints of a pool at one time. Places in it are stable.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
}

/// What the choice knows of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// What `hash_key` gave; `None` where nothing is hashed, or the request has no such thing.
    pub hash: Option<u64>,
    /// The value of its sticky cookie.
    pub sticky: Option<Box<str>>,
    /// Whom a PROXY header names.
    pub route: Option<Route>,
}

impl Set {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, balance: &config::Balance) -> Self {
        let balancer = Balancer::new(balance, endpoints.len());
        Self { endpoints, balancer }
    }

    /// The place of the endpoint for a request that was at `tried` already; `None` if none is left.
    pub(super) fn pick(&self, caller: &Caller, tried: &[usize]) -> Option<usize> {
        let _ = caller;
        let usable = |index: &usize| !tried.contains(index) && !self.endpoints[*index].is_full();
        for backups in [false, true] {
            let candidates = (0..self.endpoints.len())
                .filter(usable)
                .filter(|index| self.endpoints[*index].is_backup == backups)
                .map(|index| self.candidate(index));
            if let Some(picked) = self.balancer.pick(candidates) {
                return Some(picked);
            }
        }
        None
    }

    fn candidate(&self, index: usize) -> Candidate {
        let endpoint = &self.endpoints[index];
        Candidate { index, weight: endpoint.weight, open: endpoint.open() }
    }
}
