//! Names of servers: each is asked for again every `dns_refresh`, by a task of its own that outlives every request.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use super::{
    endpoint::Endpoint,
    resolve::{Unresolved, look_up},
};

/// After a failure, a name that never had an answer is asked for again so soon. Until then it has failed for everybody.
const SOON: Duration = Duration::from_secs(1);
/// How long the addresses of one family wait for those of the other: while nothing is known (RFC 8305 §3)...
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
/// ...and when the last answer is in use meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server's name and port.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// How long an answer is used before the name is asked for again; `None` is for good.
    pub(super) refresh: Option<Duration>,
}

impl Named {
    /// How long a name without an answer waits for its next turn.
    pub(super) fn soon(refresh: Option<Duration>) -> Duration {
        refresh.map_or(SOON, |period| SOON.min(period))
    }
}

/// Keeps the addresses of `endpoint` fresh until it is gone, or the other end of `over` is.
pub(super) async fn follow(endpoint: Weak<Endpoint>, named: Named, over: oneshot::Receiver<()>) {
    tokio::select! {
        biased;
        _ = over => {}
        () = keep_fresh(endpoint, named) => {}
    }
}

async fn keep_fresh(endpoint: Weak<Endpoint>, named: Named) {
    let soon = Named::soon(named.refresh);
    let mut fails = false;
    loop {
        let Some(is_known) = endpoint.upgrade().map(|endpoint| endpoint.asks_for_its_name()) else { return };
        let patience = if is_known { PATIENCE } else { FIRST_PATIENCE };
        let found = look_up(&named.host, patience).await;
        let Some(endpoint) = endpoint.upgrade() else { return };
        let next = match found {
            Ok(found) => {
                fails = false;
                // A family that was too slow for the first request is asked for once more.
                let next = if is_known || found.is_whole() { named.refresh } else { Some(soon) };
                endpoint.name_resolved(&found, named.port);
                next
            }
            Err(error) if is_known => {
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(name = %named.host, %error, "name not resolved, its last addresses stay in use");
                }
                named.refresh
            }
            Err(error) => {
                endpoint.name_failed(Unresolved::new(error));
                Some(soon)
            }
        };
        drop(endpoint);
        let Some(next) = next else { return };
        sleep(next).await;
    }
}
