//! The life of the proxy process.

use wsgate::{
    config::{ListenAddress, Loaded},
    server::{Server, StartError},
    telemetry::{self, AccessSink},
};

use super::{Failure, advice, signals};

/// Runs the proxy to its end. `announce` gets the addresses when they are bound.
pub(super) fn serve(loaded: Loaded, announce: impl FnOnce(&[ListenAddress])) -> Result<(), Failure> {
    let Loaded { config, warnings } = loaded;
    telemetry::init(&config.log).map_err(Failure::usage)?;
    let access = AccessSink::open(&config.log).map_err(Failure::runtime)?;
    for warning in &warnings {
        tracing::warn!("{}", warning.brief());
    }
    let server = Server::start(&config, access).map_err(|error| match error {
        StartError::Bind(error) => Failure::runtime(advice::on_bind(&error.address, &error.source)),
        error => Failure::runtime(wsgate::ending::chain(&error)),
    })?;
    let (first, second) = (server.order(), server.order());
    signals::watch(
        move |signal| {
            tracing::info!("{signal}: draining; a second signal cuts what is open");
            first.drain();
        },
        move |signal| {
            tracing::warn!("{signal} again: cutting");
            second.shutdown();
        },
    )
    .map_err(Failure::runtime)?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    announce(server.addresses());
    let outcome = server.wait();
    tracing::info!(cut = outcome.cut, panicked = outcome.panicked, "ended");
    Ok(())
}
