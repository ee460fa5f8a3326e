//! Putting another configuration in force: read, checked and built whole, then swapped in one step.

use std::{
    fmt,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    BindError, ConfigSource, Inherited, ServerHandle,
    accept::{Bound, Change},
    bind, fitting,
    handle::Shared,
    surroundings,
};
use crate::{
    config::{
        Config, ListenAddress, Listener, LoadError, Loaded, Log, Problem, Problems, Route, Source, Upstream,
    },
    connection::{BoundAddress, SetUpError, Setting, Snapshot},
    ending::report,
    telemetry::{LogError, Reconfiguration},
};

/// How long a reload waits for the sockets to be closed that it removed: what waits in them is accepted first.
const CLOSING: Duration = Duration::from_secs(3);

/// What is in force.
#[derive(Debug)]
pub(super) struct InForce {
    /// The text of the file, for when only what it names has changed.
    pub(super) text: Source,
    /// What was told of files that have changed since and cannot be used.
    pub(super) unusable: Option<String>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// Addresses of listeners.
    pub listeners: Changes,
    /// Names of upstreams.
    pub upstreams: Changes,
    /// Names of routes.
    pub routes: Changes,
    /// What is hardly meant so in the file, a line each.
    pub warnings: Vec<String>,
}

/// How one kind of tables differs from before. Contents of files that a table names count as its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// There were none of these names.
    pub added: Vec<String>,
    /// There are none of these names any more.
    pub removed: Vec<String>,
    /// These say something else.
    pub changed: Vec<String>,
    /// These say what they said.
    pub unchanged: Vec<String>,
}

/// How the last reload went.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// The text of the error, if it changed nothing.
    pub error: Option<String>,
}

/// Why a reload changed nothing. `Display` is all that is to be said.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file gives no configuration.
    #[error("{}", report(.0))]
    Config(LoadError),
    /// A new listener's address.
    #[error("{}{}", report(.error), in_the_way(.held_by.as_ref()))]
    Bind {
        /// Why.
        error: BindError,
        /// A listener that the reload would remove, and that has the address yet.
        held_by: Option<ListenAddress>,
    },
    /// TLS.
    #[error("{}", report(.0))]
    SetUp(SetUpError),
    /// The log.
    #[error("{}", report(.0))]
    Log(#[from] LogError),
    /// A thread or its runtime.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// There is no file to be read again.
    #[error("there is no configuration file to reload: this process was started without one")]
    NoFile,
    /// The process is going down.
    #[error("a process that drains does not reload")]
    Draining,
}

impl ReloadError {
    /// Whether it is about what the file asks for, and not about the process.
    pub fn is_of_configuration(&self) -> bool {
        match self {
            Self::Config(_) | Self::Bind { .. } | Self::SetUp(_) | Self::Log(_) => true,
            Self::Thread(_) | Self::NoFile | Self::Draining => false,
        }
    }
}

fn in_the_way(held_by: Option<&ListenAddress>) -> String {
    held_by.map_or_else(String::new, |address| {
        format!("\n  = help: {address} is in the way, which this reload would remove: remove it in a reload of its own first")
    })
}

impl ServerHandle {
    /// Reads the configuration again and puts it in force. Blocks until that is done; a further call waits for it. What goes wrong
    /// is logged here.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let mut in_force = self.in_force();
        let reloaded = self.read_again().and_then(|loaded| self.put_in_force(loaded, &mut in_force));
        match &reloaded {
            Ok(report) => {
                report.log("reloaded");
                self.shared.gate.metrics.reloaded();
                // It has read all files.
                if in_force.unusable.take().is_some() {
                    self.shared.gate.metrics.refreshed(true);
                }
            }
            Err(error @ ReloadError::Draining) => tracing::info!("{error}"),
            Err(error) => {
                self.shared.gate.metrics.reload_failed();
                tracing::error!("reload failed, and what was in force stays\n{error}");
            }
        }
        let last =
            LastReload { at: SystemTime::now(), error: reloaded.as_ref().err().map(ToString::to_string) };
        *self.shared.last_reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        reloaded
    }

    /// Reads the files again that the configuration in force names, as they have changed: certificates, keys, and users. What
    /// goes wrong is logged here, once for each text. `None` if they say what they said.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn refresh_files(&self) -> Result<Option<ReloadReport>, ReloadError> {
        let mut in_force = self.in_force();
        let read = Config::refresh(&in_force.text, &environment, &self.config());
        let (refreshed, broken) = match read {
            Ok((loaded, broken)) if is_all_the_same(&loaded.config, &self.config()) => match broken {
                Some(problems) => (Err(ReloadError::Config(problems.into())), None),
                None => (Ok(None), None),
            },
            Ok((loaded, broken)) => (self.put_in_force(loaded, &mut in_force).map(Some), broken),
            Err(problems) => (Err(ReloadError::Config(problems.into())), None),
        };
        let unusable = match (&refreshed, broken) {
            (Err(ReloadError::Draining), _) => return refreshed,
            (Err(error), _) => {
                Some(format!("files have changed and cannot be used: what they said before stays\n{error}"))
            }
            (Ok(_), Some(problems)) => {
                Some(format!("certificates that cannot be used stay as they were\n{problems}"))
            }
            (Ok(_), None) => None,
        };
        if let Ok(Some(report)) = &refreshed {
            report.log("files have changed and were read again");
        }
        let is_news = matches!(refreshed, Ok(Some(_))) || unusable.is_some() || in_force.unusable.is_some();
        if is_news {
            self.shared.gate.metrics.refreshed(unusable.is_none());
        }
        if let Some(unusable) = unusable.as_ref().filter(|&now| in_force.unusable.as_ref() != Some(now)) {
            tracing::error!("{unusable}");
        }
        in_force.unusable = unusable;
        refreshed
    }

    /// Whether files have changed that cannot be used, so that what they said before stays.
    pub(super) fn has_unusable_files(&self) -> bool {
        self.in_force().unusable.is_some()
    }

    /// Held by one reload at a time. One that panicked has either changed nothing or all.
    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.shared.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self) -> Result<Loaded, ReloadError> {
        let ConfigSource::File(path) = &self.shared.source else { return Err(ReloadError::NoFile) };
        let source = Source::read(path).map_err(ReloadError::Config)?;
        let loaded = Config::reload(&source, &environment, &self.config());
        loaded.map_err(|problems: Problems| ReloadError::Config(problems.into()))
    }

    /// Builds all that `loaded` asks for and swaps it in. Whatever fails does so before anything has changed.
    fn put_in_force(&self, loaded: Loaded, in_force: &mut InForce) -> Result<ReloadReport, ReloadError> {
        let Shared { gate, permits, background, configs, .. } = &*self.shared;
        let _steady = self.sockets().keep_steady();
        if gate.drain.is_draining() || self.sockets().successor().is_some() {
            return Err(ReloadError::Draining);
        }
        let Loaded { config, warnings, source } = loaded;
        let (config, before) = (Arc::new(config), gate.current.load_full());
        let Sockets { at, added, removed } = self.bind(&config, &before)?;
        let follow = self.follower().map(|follower| follower.prepare(&config)).transpose();
        let follow = follow.map_err(|error| in_use(error, &config, &before))?;
        background.prepare(gate, &config).map_err(ReloadError::Thread)?;
        self.watch_files_of(&config).map_err(ReloadError::Thread)?;
        let is_logged_alike = logs_alike(&before.config.log, &config.log);
        let log = (!is_logged_alike).then(|| gate.access.reconfigure(&config.log)).transpose()?;
        // Last, as it may make certificates, which stay.
        let place = surroundings(&gate.drain, &config);
        let setting = Setting { place, totals: &gate.totals, metrics: &gate.metrics };
        let next = Snapshot::new(Arc::clone(&config), at, &setting, Some(&before));
        let next = Arc::new(next.map_err(ReloadError::SetUp)?);

        gate.current.store(Arc::clone(&next));
        background.look_after(next.pools());
        permits.resize(fitting(config.server.max_connections));
        gate.tls_permits.resize(config.server.max_tls_handshakes);
        next.succeed(&before, &setting.place);
        self.accept_from(added, removed);
        log.into_iter().for_each(Reconfiguration::commit);
        gate.lists_tunnels.store(config.admin.is_some(), Ordering::Relaxed);
        if let Some(follow) = follow {
            follow();
        }
        in_force.text = source;
        gate.metrics.in_force(next.generation);
        let report = ReloadReport::new(&before.config, &config, next.generation, &warnings);
        configs.send_replace(config);
        Ok(report)
    }

    /// The addresses of the listeners of `config`: those that are bound already, and new ones.
    fn bind(&self, config: &Config, before: &Snapshot) -> Result<Sockets, ReloadError> {
        let _entered = self.shared.doors.workers[0].enter();
        let mut left: Vec<_> = before.listeners.iter().collect();
        let mut sockets = Sockets::default();
        for listener in &config.listeners {
            let same = left.iter().position(|before| before.config.address == listener.address);
            let at = if let Some(place) = same {
                Arc::clone(&left.remove(place).bound)
            } else {
                let bound = bind::bind(&listener.address, &Inherited::default())
                    .and_then(|listening| Bound::new(listening, self.sockets()));
                let bound = bound.map_err(|error| in_use(error, config, before))?;
                let at = Arc::clone(&bound.at);
                sockets.added.push(bound);
                at
            };
            sockets.at.push(at);
        }
        sockets.removed = left.into_iter().map(|listener| Arc::clone(&listener.bound)).collect();
        Ok(sockets)
    }

    /// Has these accepted from, and those not any more; waits until they are closed, so that their addresses can be had again.
    fn accept_from(&self, added: Vec<Bound>, removed: Vec<Arc<BoundAddress>>) {
        let (closing, closed) = mpsc::channel();
        // If the thread that looks after accepting has ended, the gate has.
        let _ = self.shared.doors.changes.send(Change { added, removed, closing });
        // Nobody sends anything: it ends with the last of them.
        let _ = closed.recv_timeout(CLOSING);
    }
}

/// The sockets of the next configuration.
#[derive(Debug, Default)]
struct Sockets {
    /// Where each listener is.
    at: Vec<Arc<BoundAddress>>,
    added: Vec<Bound>,
    removed: Vec<Arc<BoundAddress>>,
}

/// An address that can't be had, and why that may be.
fn in_use(error: BindError, config: &Config, before: &Snapshot) -> ReloadError {
    let port = |address: &ListenAddress| match address {
        ListenAddress::Inet(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    };
    let is_removed = |address: &ListenAddress| config.listeners.iter().all(|now| now.address != *address);
    let mut listeners = before.listeners.iter().map(|listener| &listener.config.address);
    let held_by = listeners.find(|&address| {
        error.source.kind() == std::io::ErrorKind::AddrInUse
            && port(address).is_some()
            && port(address) == port(&error.address)
            && is_removed(address)
    });
    let held_by = held_by.cloned();
    ReloadError::Bind { error, held_by }
}

/// Whether events and records go the same way. Else a level that was set meanwhile stays.
fn logs_alike(one: &Log, other: &Log) -> bool {
    one.level == other.level && one.format == other.format && one.access == other.access
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_all_the_same(one: &Config, other: &Config) -> bool {
    fn all<T>(one: &[T], other: &[T], is_same: impl Fn(&T, &T) -> bool) -> bool {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
    }
    all(&one.listeners, &other.listeners, Listener::is_same)
        && all(&one.upstreams, &other.upstreams, Upstream::is_same)
        && all(&one.routes, &other.routes, is_same_with_users)
}

fn is_same_with_users(one: &Route, other: &Route) -> bool {
    one.is_same(other) && one.has_same_users(other)
}

impl ReloadReport {
    fn new(before: &Config, now: &Config, generation: u64, warnings: &[Problem]) -> Self {
        let (listener, upstream) = (|it: &Listener| it.address.to_string(), |it: &Upstream| it.name.clone());
        Self {
            generation,
            listeners: Changes::new(&before.listeners, &now.listeners, listener, Listener::is_same),
            upstreams: Changes::new(&before.upstreams, &now.upstreams, upstream, Upstream::is_same),
            routes: Changes::new(&before.routes, &now.routes, |it| it.name.clone(), is_same_with_users),
            warnings: warnings.iter().map(Problem::brief).collect(),
        }
    }

    /// Whether the tables are what they were; `[server]` and `[log]` may say something else.
    pub fn is_unchanged(&self) -> bool {
        let all = [&self.listeners, &self.upstreams, &self.routes];
        all.iter().all(|it| it.added.is_empty() && it.removed.is_empty() && it.changed.is_empty())
    }

    fn log(&self, what: &'static str) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        let generation = self.generation;
        let [added, changed, removed] = [
            self.listed(|changes| &changes.added),
            self.listed(|changes| &changes.changed),
            self.listed(|changes| &changes.removed),
        ];
        let unchanged = self.is_unchanged().then_some("all");
        tracing::info!(generation, added, changed, removed, unchanged, "{what}");
    }

    /// Names with what they are of; `None` if there are none.
    fn listed(&self, which: impl Fn(&Changes) -> &Vec<String>) -> Option<String> {
        let kinds = [("listener", &self.listeners), ("upstream", &self.upstreams), ("route", &self.routes)];
        let names = kinds
            .iter()
            .flat_map(|(kind, changes)| which(changes).iter().map(move |name| format!("{kind} {name}")));
        let names: Vec<_> = names.collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Changes {
    fn new<T>(
        before: &[T],
        now: &[T],
        name: impl Fn(&T) -> String,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut changes = Self::default();
        let mut left: Vec<_> = before.iter().collect();
        for table in now {
            let list = match left.iter().position(|before| name(before) == name(table)) {
                None => &mut changes.added,
                Some(place) if is_same(left.remove(place), table) => &mut changes.unchanged,
                Some(_) => &mut changes.changed,
            };
            list.push(name(table));
        }
        changes.removed = left.into_iter().map(name).collect();
        changes
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed, unchanged } = self;
        write!(f, "{} added, {} removed, ", added.len(), removed.len())?;
        write!(f, "{} changed, {} unchanged", changed.len(), unchanged.len())
    }
}
