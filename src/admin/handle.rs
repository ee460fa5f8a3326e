//! A running server is what is asked and ordered here.

use std::{sync::Arc, time::SystemTime};

use time::OffsetDateTime;

use super::control::{
    CertificateStatus, Configuration, Control, DrainProgress, LastReload, Later, ListenerStatus, Status,
};
use crate::{
    config::{self, CertificateSource, Identity, OnRemoved},
    connection::{
        Listener,
        tunnels::{self, Page, TunnelFilter},
    },
    ending::AdminClose,
    server::{self, ConfigSource, Readiness, ReloadError, ReloadReport, ServerHandle},
    telemetry::{self, format_time},
    upstream::PoolView,
};

impl Control for ServerHandle {
    fn readiness(&self) -> Readiness {
        Self::readiness(self)
    }

    fn status(&self) -> Status {
        let status = Self::status(self);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: format_time(status.started.into()),
            uptime_s: SystemTime::now().duration_since(status.started).map_or(0, |time| time.as_secs()),
            readiness: status.readiness,
            generation: status.generation,
            last_reload: status.last_reload.map(last_reload),
            drain: status.drain.map(|(began_with, open)| DrainProgress { began_with, open }),
            connections: status.connections,
            tls_handshakes: status.tls_handshakes,
            tunnels: self.gate().metrics.open_tunnels(),
            workers: status.workers,
        }
    }

    fn configuration(&self) -> Configuration {
        let snapshot = self.snapshot();
        let file = match self.source() {
            ConfigSource::File(path) => Some(path.display().to_string()),
            ConfigSource::Own => None,
        };
        Configuration { file, generation: snapshot.generation, config: snapshot.config.masked() }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        self.snapshot().listeners.iter().map(listener_status).collect()
    }

    fn upstreams(&self) -> Vec<PoolView> {
        self.pools()
    }

    fn tunnels(&self, filter: TunnelFilter, after: Option<u64>, limit: usize) -> Later<'_, Page> {
        Box::pin(tunnels::list(self.workers(), filter, after, limit))
    }

    fn close_tunnels(&self, filter: TunnelFilter, close: AdminClose) -> Later<'_, usize> {
        Box::pin(tunnels::close(self.workers(), filter, close))
    }

    fn drain_endpoint(&self, upstream: &str, endpoint: &str, tunnels: OnRemoved) -> bool {
        self.take_out(upstream, endpoint, tunnels)
    }

    fn restore_endpoint(&self, upstream: &str, endpoint: &str) -> bool {
        self.put_back(upstream, endpoint)
    }

    fn log_level(&self) -> String {
        telemetry::level()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        config::check_level(level)?;
        telemetry::set_level(level).map_err(|error| error.to_string())
    }

    fn reload(&self) -> Result<ReloadReport, ReloadError> {
        Self::reload(self)
    }

    fn metrics(&self) -> String {
        Self::metrics(self)
    }
}

fn last_reload(last: server::LastReload) -> LastReload {
    LastReload { at: format_time(last.at.into()), ok: last.error.is_none(), error: last.error }
}

fn listener_status(listener: &Arc<Listener>) -> ListenerStatus {
    let identities = match listener.config.tls.as_ref().map(|tls| &tls.source) {
        Some(CertificateSource::Files(identities)) => identities.as_slice(),
        Some(CertificateSource::SelfSigned { .. }) | None => &[],
    };
    ListenerStatus {
        address: listener.bound.address.to_string(),
        tls: listener.speaks_tls(),
        certificates: identities.iter().map(certificate_status).collect(),
        cut_unanswered: listener.bound.cut(),
    }
}

fn certificate_status(identity: &Identity) -> CertificateStatus {
    let not_after: OffsetDateTime = identity.not_after;
    CertificateStatus { names: identity.names.clone(), not_after: format_time(not_after) }
}
