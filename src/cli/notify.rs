//! What is told to the service manager (`sd_notify(3)`), if there is one.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime,
    sync::Notify,
    time::{sleep, timeout},
};
use wsgate::server::{Pulse, ServerHandle};

/// How often a process that ends tells of itself, and how much more time each time asks for.
const ENDING: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(30);

/// Tells the service manager how this process is; nothing where there is none.
#[derive(Debug)]
pub(super) struct Notifier {
    manager: Option<Manager>,
    /// The time within which it wants to hear that all is well, each time.
    watchdog: Option<Duration>,
    /// The process was told to end, and may wait before it drains.
    leaving: Notify,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The service manager that the environment names.
    pub(super) fn from_environment() -> Self {
        let manager = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            Manager::at(&name)
                .inspect_err(
                    |error| tracing::warn!(name = %name.display(), %error, "NOTIFY_SOCKET is of no use"),
                )
                .ok()
        });
        let number = |name| env::var_os(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let is_for_another = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&period| period > 0 && !is_for_another);
        Self { manager, watchdog: watchdog.map(Duration::from_micros), leaving: Notify::new() }
    }

    /// Connections are accepted. `took_over`: and another process was the service before this one.
    pub(super) fn ready(&self, took_over: bool) {
        let main = if took_over { format!("MAINPID={}\n", process::id()) } else { String::new() };
        self.tell(format_args!("{main}READY=1\nSTATUS=Serving"));
    }

    /// The configuration is being read again; [`Self::ready`] tells of the end of that, however it went.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(format_args!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=Reloading"));
    }

    /// The process was told to end: from now on it asks for the time that this takes, though it may still wait for
    /// `shutdown_delay`.
    pub(super) fn leaving(&self) {
        self.leaving.notify_one();
    }

    /// Watches over `server` from now on, and tells of its health and of its end, with which the thread ends.
    pub(super) fn watch(self: Arc<Self>, server: &ServerHandle) -> io::Result<Option<JoinHandle<()>>> {
        if self.manager.is_none() {
            return Ok(None);
        }
        let watch = Watch { notifier: self, pulse: server.pulse(), server: server.clone() };
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name("notify".into()).spawn(move || runtime.block_on(watch.run())).map(Some)
    }

    fn tell(&self, state: impl Display) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.send(&state.to_string()) {
            tracing::debug!(%error, "the service manager does not hear");
        }
    }
}

impl Manager {
    /// A path, or a name in the abstract namespace, which begins with `@`.
    fn at(name: &OsString) -> io::Result<Self> {
        let name = name.as_bytes();
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        // One that does not read its queue holds nothing up here.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    fn send(&self, state: &str) -> io::Result<()> {
        self.socket.send_to_addr(state.as_bytes(), &self.address).map(drop)
    }
}

/// What the service manager hears while a gate lives.
struct Watch {
    notifier: Arc<Notifier>,
    pulse: Pulse,
    server: ServerHandle,
}

impl Watch {
    async fn run(self) {
        let signal = self.server.drain_signal();
        let half = self.notifier.watchdog.map(|period| period / 2);
        loop {
            self.feed_watchdog();
            let next = async {
                match half {
                    Some(half) => sleep(half).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = signal.draining() => break,
                () = self.notifier.leaving.notified() => break,
                () = next => {}
            }
        }
        // Once another process is the service, its end is what the manager would take this for.
        let ends_service = || self.server.sockets().successor().is_none();
        if ends_service() {
            self.notifier.tell("STOPPING=1");
        }
        while !signal.is_shutdown() {
            self.feed_watchdog();
            let is_draining = signal.is_draining();
            if ends_service() {
                let (time, open) = (EXTENSION.as_micros(), self.server.connections());
                let what = if is_draining { "Draining" } else { "Not ready for shutdown_delay" };
                self.notifier.tell(format_args!("EXTEND_TIMEOUT_USEC={time}\nSTATUS={what}, {open} open"));
            }
            let changed = async {
                if is_draining {
                    signal.shutdown().await;
                } else {
                    signal.draining().await;
                }
            };
            let next = half.map_or(ENDING, |half| half.min(ENDING));
            // Which of the two it was is looked at above.
            let _ = timeout(next, changed).await;
        }
    }

    /// Says that all is well, if it is.
    fn feed_watchdog(&self) {
        let Some(period) = self.notifier.watchdog else { return };
        if self.pulse.beats(period / 4) {
            self.notifier.tell("WATCHDOG=1");
        } else {
            tracing::error!(
                "a thread is stuck, which is a defect of wsgate: the watchdog is not told that all is well"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(name: &str, listener: &UnixDatagram) -> String {
        let manager = Some(Manager::at(&name.into()).unwrap());
        Notifier { manager, watchdog: None, leaving: Notify::new() }.ready(true);
        let mut bytes = [0; 256];
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = listener.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_service_manager_is_at_a_path_or_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let expected = format!("MAINPID={}\nREADY=1\nSTATUS=Serving", process::id());
        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(heard(path.to_str().unwrap(), &listener), expected);
        let name = format!("wsgate-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        assert_eq!(heard(&format!("@{name}"), &listener), expected);
    }

    #[test]
    fn nobody_is_told_where_there_is_no_service_manager() {
        let notifier = Notifier { manager: None, watchdog: None, leaving: Notify::new() };
        notifier.ready(false);
        notifier.reloading();
    }
}
