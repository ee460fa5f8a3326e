//! What tunnels of one kind have in common.

use std::{fmt, sync::Arc, time::Duration};

use super::{Report, limits::Limits, totals::Totals};
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
    /// Who counts them.
    pub witness: Arc<dyn Witness>,
}

/// Who counts tunnels. It is found by what all of them have in common, so that it costs none of them a byte; whoever holds a
/// tunnel tells it, once, that this opened, and once how it ended.
pub trait Witness: fmt::Debug + Send + Sync {
    /// One to the server of this name was opened.
    fn opened(&self, endpoint: &Arc<str>);

    /// It has ended.
    fn ended(&self, endpoint: &Arc<str>, report: &Report);

    /// It was dropped with its task, after so long.
    fn cut(&self, endpoint: &Arc<str>, open: Duration);
}

/// Nobody counts them.
impl Witness for () {
    fn opened(&self, _: &Arc<str>) {}

    fn ended(&self, _: &Arc<str>, _: &Report) {}

    fn cut(&self, _: &Arc<str>, _: Duration) {}
}
