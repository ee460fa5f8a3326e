//! `wsgate demo`: the built-in backend, and wsgate in front of it.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    thread::{self, JoinHandle},
};

use tokio::{runtime, sync::oneshot};
use wsgate::{demo::Backend, server::ConfigSource, tls::development::Folder};

use super::{
    Failure, arguments, home_folder, parse,
    quick::{Port, Quick},
    say, serve, trust,
};

/// How many ports after the usual one are tried before any port will do.
const NEXT_PORTS: u16 = 20;

/// Browsers keep the demo's tunnels open, and Ctrl-C should not wait for them.
const SERVER: &str = "\n[server]\nshutdown_grace = \"2s\"\ndrain_spread = \"0s\"\n";

pub(super) fn run(arguments: &arguments::Demo) -> Result<(), Failure> {
    let running = Running::start().map_err(Failure::runtime)?;
    let tls = chosen_port(arguments.tls, 8443).map_err(Failure::runtime)?;
    let plain = chosen_port(arguments.plain, 8080).map_err(Failure::runtime)?;
    let backend = format!("127.0.0.1:{}", running.port).parse().map_err(Failure::usage)?;
    let quick = Quick {
        backends: &[backend],
        tls: Port::On(tls),
        plain: Port::On(plain),
        bind: Ipv4Addr::LOCALHOST.into(),
    };
    let loaded = parse("wsgate demo", quick.text() + SERVER).map_err(Failure::usage)?;
    let ended = serve::serve(loaded, ConfigSource::Own, |_| say(welcome(running.port, tls, plain)));
    let stopped = running.end().map_err(Failure::runtime);
    ended.and(stopped)
}

fn welcome(backend: u16, tls: u16, plain: u16) -> String {
    let folder = home_folder().join("certs");
    let ca = trust::shell(&Folder::new(&folder).ca_cert());
    let folder = trust::shell(&folder);
    format!(
        "\
The backend listens on 127.0.0.1:{backend}, and wsgate in front of it:

  in a browser   http://localhost:{plain}/
                 https://localhost:{tls}/ once it trusts the CA {ca}
                 (`wsgate cert --dir {folder}` tells how)
  with curl      curl --cacert {ca} https://127.0.0.1:{tls}/
                 curl http://127.0.0.1:{plain}/
  with wscat     wscat --ca {ca} -c wss://127.0.0.1:{tls}/
                 wscat -c ws://127.0.0.1:{plain}/

Ctrl-C ends it.

"
    )
}

/// The port that was asked for; else `usual`, one of those after it, or any that is free.
fn chosen_port(asked: Option<u16>, usual: u16) -> io::Result<u16> {
    match asked {
        Some(port @ 1..) => Ok(port),
        Some(0) => free_port(0),
        None => (usual..=usual + NEXT_PORTS)
            .find_map(|port| free_port(port).ok())
            .map_or_else(|| free_port(0), Ok),
    }
}

fn free_port(port: u16) -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?.port())
}

/// The backend on a thread of its own.
struct Running {
    port: u16,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Running {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let backend = async move {
            let stopped = async {
                // An error means that the sender is gone, which is as good a reason to end.
                let _ = stopped.await;
            };
            Backend::start(tokio::net::TcpListener::from_std(listener)?, stopped).finished().await
        };
        let thread = thread::Builder::new().name("demo".into()).spawn(move || runtime.block_on(backend))?;
        Ok(Self { port, stop, thread })
    }

    /// Stops the backend, and waits until its connections have ended.
    fn end(self) -> io::Result<()> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the demo backend panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_gives_way_to_another() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let usual = port.min(u16::MAX - NEXT_PORTS);
        let chosen = chosen_port(None, usual).unwrap();
        assert!(chosen != 0 && chosen != port);
        assert_eq!(chosen_port(Some(port), 1).unwrap(), port);
        assert_ne!(chosen_port(Some(0), 1).unwrap(), 0);
    }

    #[test]
    fn the_backend_runs_until_it_is_stopped() {
        let running = Running::start().unwrap();
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, running.port)).is_ok());
        running.end().unwrap();
    }

    #[test]
    fn the_welcome_names_what_to_paste() {
        let text = welcome(9, 8444, 8081);
        for line in ["https://localhost:8444/", "http://localhost:8081/", "ca.crt -c wss://127.0.0.1:8444/"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
