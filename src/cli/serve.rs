//! The life of the proxy process.

use std::sync::{Arc, LazyLock, mpsc};

use wsgate::{
    config::{ListenAddress, Loaded},
    lifecycle::DrainHandle,
    server::{Server, StartError},
    telemetry::{self, AccessSink},
};

use super::{Failure, advice, memory, signals};

/// Runs the proxy to its end. `announce` gets the addresses when they are bound.
pub(super) fn serve(loaded: Loaded, announce: impl FnOnce(&[ListenAddress])) -> Result<(), Failure> {
    let Loaded { config, warnings, .. } = loaded;
    telemetry::init(&config.log).map_err(Failure::usage)?;
    memory::give_back();
    // Before there is a file that could be renamed.
    let reopening = signals::Reopening::hear().map_err(Failure::runtime)?;
    let access = AccessSink::open(&config.log).map_err(Failure::runtime)?;
    let rotated = access.clone();
    reopening.each(move || rotated.reopen()).map_err(Failure::runtime)?;
    for warning in &warnings {
        tracing::warn!("{}", warning.brief());
    }
    // Signals are heard before there is a server; the order then waits for it.
    let (give, given) = mpsc::channel::<Arc<DrainHandle>>();
    let order = Arc::new(LazyLock::new(move || given.recv().ok()));
    let second = Arc::clone(&order);
    signals::watch(
        move |signal| {
            tracing::info!("{signal}: draining; a second signal cuts what is open");
            if let Some(order) = &**order {
                order.drain();
            }
        },
        move |signal| {
            tracing::warn!("{signal} again: cutting");
            if let Some(order) = &**second {
                order.hurry();
            }
        },
    )
    .map_err(Failure::runtime)?;
    let server = Server::start(&config, access).map_err(|error| match error {
        StartError::Bind(error) => Failure::runtime(advice::on_bind(&error.address, &error.source)),
        error => Failure::runtime(wsgate::ending::chain(&error)),
    })?;
    // The receiver lives in the thread of the signals.
    let _ = give.send(server.order());
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    announce(server.addresses());
    let outcome = server.wait();
    tracing::info!(cut = outcome.cut, panicked = outcome.panicked, "ended");
    if outcome.failed { Err(Failure::runtime("accepting connections failed")) } else { Ok(()) }
}
