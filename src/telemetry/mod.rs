//! What the program says: events for people, access records for machines.

mod access;
mod escape;
mod events;
mod mask;
mod metrics;
mod rate;
mod sink;
mod writer;

pub use self::{
    access::{AccessRecord, ClosedBy, Direction, Kind, Pings, TlsFields, format_time},
    events::{LogError, flush, init, level, set_level},
    mask::{mask_query, mask_subprotocol, mask_target},
    metrics::{
        Buckets, CertificateGauges, Connects, Ending, EndpointGauges, Exchanged, Gauges, Handshake,
        ListenerGauges, Metrics, Permitted, PingGauges, RouteGauges, RouteMetrics, UpstreamGauges,
        UpstreamMetrics, WayGauges,
    },
    rate::RateLimited,
    sink::{AccessSink, Reconfiguration, Records},
    writer::{Dropped, dropped},
};
