//! The life of the proxy process.

use std::{
    error::Error,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use wsgate::{
    admin::{self, Keeper},
    config::{ListenAddress, Loaded},
    server::{
        BindError, ConfigSource, Ending, Inherited, Readiness, Server, ServerHandle, StartError, Succession,
    },
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
    // Before there is a file that could be renamed.
    let reopening = signals::Reopening::hear().map_err(Failure::runtime)?;
    let access = AccessSink::open(&loaded.config.log).map_err(Failure::runtime)?;
    let rotated = access.clone();
    reopening.each(move || rotated.reopen()).map_err(Failure::runtime)?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.brief());
    }
    let notifier = Arc::new(Notifier::from_environment());
    let running = Running::hear_signals(&notifier)?;
    let upgrade_socket = loaded.config.server.upgrade_socket.clone();
    let succession = Succession::begin(upgrade_socket.as_deref(), inherited).map_err(Failure::runtime)?;
    let unbound = |error: BindError| Failure::runtime(advice::on_bind(&error.address, &error.source));
    let bind_admin = |config| admin::bind(config, succession.inherited());
    let admin = loaded.config.admin.as_ref().map(bind_admin).transpose().map_err(unbound)?;
    let started = Server::start_with(loaded, source, access, succession.inherited());
    let server = started.map_err(|error| match error {
        StartError::Bind(error) => unbound(error),
        error => Failure::runtime(wsgate::ending::chain(&error)),
    })?;
    let (handle, addresses) = (server.handle(), server.addresses());
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    let keeper = Keeper::open(admin, &handle).map_err(Failure::runtime)?;
    if let Err(error) = running.succeed(succession, &handle, &notifier) {
        handle.drain();
        server.wait();
        return Err(Failure::runtime(error));
    }
    tracing::info!("ready");
    let notifying = notifier.watch(&handle).map_err(Failure::runtime)?;
    announce(&addresses);
    let outcome = server.wait();
    keeper.close();
    // It has said what there was to say.
    let _ = notifying.map(JoinHandle::join);
    tracing::info!(cut = outcome.cut, panicked = outcome.panicked, "ended");
    if outcome.failed { Err(Failure::runtime("accepting connections failed")) } else { Ok(()) }
}

/// The server, for the signals: they are heard before there is one, and the orders then wait for it.
struct Running {
    server: Arc<OnceLock<ServerHandle>>,
    is_to_end: Arc<AtomicBool>,
}

impl Running {
    fn hear_signals(notifier: &Arc<Notifier>) -> Result<Self, Failure> {
        let (server, is_to_end) = (Arc::new(OnceLock::<ServerHandle>::new()), Arc::<AtomicBool>::default());
        let (ends, told, leaves) = (Arc::clone(&server), Arc::clone(&is_to_end), Arc::clone(notifier));
        let end = move |signal| {
            if ends.get().is_none() {
                told.store(true, Ordering::Release);
                tracing::info!("{signal}: draining as soon as the start is over");
            }
            let ending = ends.wait().end();
            leaves.leaving();
            tell(signal, ending);
        };
        let (reloads, notifier) = (Arc::clone(&server), Arc::clone(notifier));
        signals::watch(end, move || reload(reloads.wait(), &notifier)).map_err(Failure::runtime)?;
        Ok(Self { server, is_to_end })
    }

    /// Puts `server` in the place of the running process, if there is one, and lets the signals reach it.
    fn succeed(
        &self,
        succession: Succession,
        server: &ServerHandle,
        notifier: &Notifier,
    ) -> Result<(), Box<dyn Error>> {
        // To take over and then to drain would leave nobody.
        if succession.has_predecessor() && self.is_to_end.load(Ordering::Acquire) {
            return Err("told to end before it took over: the running process goes on".into());
        }
        succession.complete(server, |took_over| notifier.ready(took_over.is_some()))?;
        self.server.get_or_init(|| server.clone());
        Ok(())
    }
}

/// Reads the configuration again, of which the service manager is told.
fn reload(server: &ServerHandle, notifier: &Notifier) {
    // Of one that is to end, nobody wants to hear that it is ready.
    let is_told = server.readiness() == Readiness::Ready;
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
