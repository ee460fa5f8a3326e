//! What `/metrics` tells: what was counted, and what is there at the moment.

use crate::{
    connection::Gate,
    lifecycle::{DrainHandle, Permits},
    telemetry::{Gauges, Permitted},
};

/// All of it, as `OpenMetrics` text.
pub(super) fn encode(gate: &Gate, permits: &Permits, order: &DrainHandle) -> String {
    let draining = gate.drain.is_draining();
    gate.metrics.encode(Gauges {
        connections: Permitted { open: permits.in_use(), most: permits.total() },
        tls_handshakes: Permitted { open: gate.tls_permits.in_use(), most: gate.tls_permits.total() },
        passwords_waiting: gate.verifier.waiting(),
        draining,
        drain_began_with: if draining { order.began_with() } else { 0 },
        ..gate.gauges()
    })
}
