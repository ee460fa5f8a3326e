//! What listeners, routes and pools show of themselves at a scrape.

use std::sync::Arc;

use super::{Listener, Snapshot, snapshot::Route};
use crate::{
    config::{CertificateSource, Identity},
    telemetry::{CertificateGauges, Gauges, ListenerGauges},
};

impl Listener {
    /// Its certificates. Those that wsgate makes for development are not watched.
    pub(crate) fn gauges(&self) -> ListenerGauges {
        let identities = match self.config.tls.as_ref().map(|tls| &tls.source) {
            Some(CertificateSource::Files(identities)) => identities.as_slice(),
            Some(CertificateSource::SelfSigned { .. }) | None => &[],
        };
        let certificate = |identity: &Identity| CertificateGauges {
            // One without names is told by its file.
            name: identity.names.first().cloned().unwrap_or_else(|| identity.cert.display().to_string()),
            not_after: identity.not_after.unix_timestamp(),
        };
        let mut certificates: Vec<_> = identities.iter().map(certificate).collect();
        // Of two for one name, the one that ends first counts.
        certificates.sort_by_key(|certificate| certificate.not_after);
        ListenerGauges { name: Arc::clone(&self.label), certificates }
    }
}

impl Snapshot {
    /// Its routes and pools.
    pub(crate) fn gauges(&self) -> Gauges {
        Gauges { routes: self.routes.iter().map(Route::gauges).collect(), ..Gauges::default() }
    }
}
