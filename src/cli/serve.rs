//! The life of the proxy process.

use std::{
    sync::{Arc, LazyLock, mpsc},
    thread::JoinHandle,
};

use wsgate::{
    config::{ListenAddress, Loaded},
    server::{ConfigSource, Ending, Inherited, Readiness, Server, ServerHandle, StartError, Succession},
    telemetry::{self, AccessSink},
};

use super::{Failure, advice, memory, notify::Notifier, signals};

/// Runs the proxy to its end. `announce` gets the addresses when they are bound. A reload reads `source`.
pub(super) fn serve(
    loaded: Loaded,
    source: ConfigSource,
    announce: impl FnOnce(&[ListenAddress]),
) -> Result<(), Failure> {
    // Before there are other threads.
    let inherited = Inherited::from_environment();
    telemetry::init(&loaded.config.log).map_err(Failure::usage)?;
    memory::give_back();
    let access = AccessSink::open(&loaded.config.log).map_err(Failure::runtime)?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.brief());
    }
    // Signals are heard before there is a server; the orders then wait for it.
    let (give, given) = mpsc::channel::<ServerHandle>();
    let server = Arc::new(LazyLock::new(move || given.recv().ok()));
    let notifier = Arc::new(Notifier::from_environment());
    let (reloaded, tells) = (Arc::clone(&server), Arc::clone(&notifier));
    let end = move |signal| {
        if let Some(server) = &**server {
            tell(signal, server.end());
        }
    };
    let read_again = move || {
        if let Some(server) = &**reloaded {
            reload(server, &tells);
        }
    };
    signals::watch(end, read_again).map_err(Failure::runtime)?;
    let upgrade_socket = loaded.config.server.upgrade_socket.clone();
    let succession = Succession::begin(upgrade_socket.as_deref(), inherited).map_err(Failure::runtime)?;
    let started = Server::start_with(loaded, source, access, succession.inherited());
    let server = started.map_err(|error| match error {
        StartError::Bind(error) => Failure::runtime(advice::on_bind(&error.address, &error.source)),
        error => Failure::runtime(wsgate::ending::chain(&error)),
    })?;
    let addresses = server.addresses();
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    let handle = server.handle();
    if let Err(error) = succession.complete(&handle, |took_over| notifier.ready(took_over.is_some())) {
        handle.drain();
        server.wait();
        return Err(Failure::runtime(error));
    }
    tracing::info!("ready");
    // The receiver lives in the thread of the signals.
    let _ = give.send(handle.clone());
    let notifying = notifier.watch(&handle).map_err(Failure::runtime)?;
    announce(&addresses);
    let outcome = server.wait();
    // It has said what there was to say.
    let _ = notifying.map(JoinHandle::join);
    tracing::info!(cut = outcome.cut, panicked = outcome.panicked, "ended");
    if outcome.failed { Err(Failure::runtime("accepting connections failed")) } else { Ok(()) }
}

/// Reads the configuration again, of which the service manager is told.
fn reload(server: &ServerHandle, notifier: &Notifier) {
    let is_told = server.readiness() != Readiness::Draining;
    if is_told {
        notifier.reloading();
    }
    // What comes of it is logged there.
    let _ = server.reload();
    if is_told {
        notifier.ready(false);
    }
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
