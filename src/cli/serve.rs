//! The life of the proxy process.

use std::sync::{Arc, OnceLock};

use wsgate::{
    config::{ListenAddress, Loaded},
    server::{ConfigSource, Ending, Server, ServerHandle, StartError},
    telemetry::{self, AccessSink},
};

use super::{Failure, advice, memory, signals};

/// Runs the proxy to its end. `announce` gets the addresses when they are bound. A reload reads `source`.
pub(super) fn serve(
    loaded: Loaded,
    source: ConfigSource,
    announce: impl FnOnce(&[ListenAddress]),
) -> Result<(), Failure> {
    telemetry::init(&loaded.config.log).map_err(Failure::usage)?;
    memory::give_back();
    // Before there is a file that could be renamed.
    let reopening = signals::Reopening::hear().map_err(Failure::runtime)?;
    let access = AccessSink::open(&loaded.config.log).map_err(Failure::runtime)?;
    let rotated = access.clone();
    reopening.each(move || rotated.reopen()).map_err(Failure::runtime)?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.brief());
    }
    // Signals are heard before there is a server; the orders then wait for it.
    let running = Arc::new(OnceLock::<ServerHandle>::new());
    let (ends, reloads) = (Arc::clone(&running), Arc::clone(&running));
    let end = move |signal| {
        if ends.get().is_none() {
            tracing::info!("{signal}: draining as soon as the start is over");
        }
        tell(signal, ends.wait().end());
    };
    // What comes of it is logged there.
    let reload = move || drop(reloads.wait().reload());
    signals::watch(end, reload).map_err(Failure::runtime)?;
    let server = Server::start(loaded, source, access).map_err(|error| match error {
        StartError::Bind(error) => Failure::runtime(advice::on_bind(&error.address, &error.source)),
        error => Failure::runtime(wsgate::ending::chain(&error)),
    })?;
    running.get_or_init(|| server.handle());
    let addresses = server.addresses();
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    announce(&addresses);
    let outcome = server.wait();
    tracing::info!(cut = outcome.cut, panicked = outcome.panicked, "ended");
    if outcome.failed { Err(Failure::runtime("accepting connections failed")) } else { Ok(()) }
}

/// Says what a signal has led to.
fn tell(signal: &str, ending: Ending) {
    match ending {
        Ending::Delayed(delay) => {
            tracing::info!(
                ?delay,
                "{signal}: not ready from now on, draining after shutdown_delay; a second signal drains now"
            );
        }
        Ending::Drains => tracing::info!("{signal}: draining; a second signal cuts what is open"),
        Ending::Cuts => tracing::warn!("{signal} again: cutting"),
    }
}
