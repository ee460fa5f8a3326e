//! What the program says: events for people, access records for machines.

mod access;
mod mask;
mod metrics;
mod rate;
mod sink;

use std::io;

use tracing_subscriber::EnvFilter;

pub use self::{
    access::{AccessRecord, ClosedBy, Direction, Kind, Pings, TlsFields, format_time},
    mask::{mask_query, mask_subprotocol, mask_target},
    metrics::{
        Buckets, CertificateGauges, Connects, Ending, EndpointGauges, Exchanged, Gauges, Handshake,
        ListenerGauges, Metrics, Permitted, PingGauges, RouteGauges, RouteMetrics, UpstreamGauges,
        UpstreamMetrics, WayGauges,
    },
    rate::RateLimited,
    sink::{AccessSink, Records},
};
use crate::config::{Log, LogFormat};

/// Writes events to standard error from now on, in the form and from the level that `log` says. A second call changes
/// nothing.
///
/// # Errors
/// The level is no tracing filter, which the configuration check has ruled out.
pub fn init(log: &Log) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(&log.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error here says that somebody set a subscriber before, as tests do.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
