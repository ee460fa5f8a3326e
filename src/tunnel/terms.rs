//! What tunnels of one kind have in common.

use std::sync::Arc;

use super::{limits::Limits, totals::Totals};
use crate::lifecycle::Drain;

/// What all tunnels of a route have in common; they share one.
#[derive(Debug)]
pub struct Terms {
    /// What bounds them.
    pub limits: Limits,
    /// The order to leave, when a reload has changed or removed their route.
    pub route: Drain,
    /// Where what they carry is counted.
    pub totals: Arc<Totals>,
}
