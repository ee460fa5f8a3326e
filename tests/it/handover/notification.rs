//! What the service manager is told.

use std::{os::unix::net::UnixDatagram, time::Duration};

use super::{Site, ended, is_take_over, terminate};
use crate::harness::{Backend, HttpBackend, PATIENCE, frames, program::Program};

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn new(site: &Site) -> Self {
        let socket = UnixDatagram::bind(site.folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn runs(site: &Site, words: &str) -> Program {
        let words = format!("export NOTIFY_SOCKET=\"$PWD/notify\" {words}; ");
        Program::spawn_by(site.folder.path(), &site.toml(), &words, |_| ())
    }

    fn next(&self) -> String {
        let mut bytes = [0; 1024];
        let length = self.0.recv(&mut bytes).expect("a notification in good time");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// All up to the first that has this in it.
    fn hears(&self, part: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next());
            if heard.last().unwrap().contains(part) {
                return heard;
            }
        }
    }

    /// All that waits.
    fn rest(&self) -> Vec<String> {
        self.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut bytes = [0; 1024];
        std::iter::from_fn(|| {
            let length = self.0.recv(&mut bytes).ok()?;
            Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
        })
        .collect()
    }
}

#[tokio::test]
async fn the_service_manager_hears_of_readiness_health_and_the_end() {
    let backend = Backend::listen().await;
    let mut site = Site::before(backend.address());
    site.server = "drain_spread = \"0s\"";
    let manager = Manager::new(&site);
    let program = Manager::runs(&site, "WATCHDOG_USEC=200000");
    assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    // Who was told so can connect.
    let (mut tunnel, server) = site.open_tunnel(&backend).await;
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    program.terminate();
    manager.hears("STOPPING=1");
    manager.hears("EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Draining, 1 open");
    manager.hears("WATCHDOG=1");
    assert_eq!(frames::read(&mut tunnel).await.close_code(), 1012);
    tunnel.send(frames::client_close(1012, "")).await;
    drop((tunnel, server));
    ended(program).await;
}

#[tokio::test]
async fn the_service_manager_is_asked_for_time_from_the_beginning_of_shutdown_delay_on() {
    let mut site = Site::before("127.0.0.1:9");
    site.server = "shutdown_delay = \"1h\"";
    let manager = Manager::new(&site);
    let program = Manager::runs(&site, "");
    assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    program.terminate();
    assert_eq!(manager.next(), "STOPPING=1");
    let asked = "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Not ready for shutdown_delay, 0 open";
    assert_eq!(manager.next(), asked);
    program.terminate();
    ended(program).await;
}

#[tokio::test]
async fn the_service_manager_follows_the_successor_and_does_not_take_the_old_ones_end_for_the_services() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let manager = Manager::new(&site);
    let old = Manager::runs(&site, "");
    assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    let new = Manager::runs(&site, "");
    assert_eq!(manager.next(), format!("MAINPID={}\nREADY=1\nSTATUS=Serving", new.id()));
    new.says("that it took over", is_take_over).await;
    ended(old).await;
    assert_eq!(manager.rest(), Vec::<String>::new());
    terminate(new).await;
    assert_eq!(manager.next(), "STOPPING=1");
}

#[tokio::test]
async fn the_service_manager_hears_of_a_reload_whether_or_not_it_goes_well() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let manager = Manager::new(&site);
    let program = Manager::runs(&site, "");
    assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    for text in [site.toml(), "nothing = 1".to_owned()] {
        site.rewrite(&text);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        program.hang_up();
        let told = manager.next();
        let told = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload");
        let (at, status) = told.split_once('\n').unwrap();
        assert!((now..now + 20).contains(&(at.parse::<i64>().unwrap() / 1_000_000)), "{at}");
        assert_eq!(status, "STATUS=Reloading");
        assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    }
    site.serves().await;
    terminate(program).await;
}

#[tokio::test]
async fn a_watchdog_of_another_process_is_not_fed() {
    let site = Site::before("127.0.0.1:9");
    let manager = Manager::new(&site);
    let program = Manager::runs(&site, "WATCHDOG_USEC=1000 WATCHDOG_PID=1");
    assert_eq!(manager.next(), "READY=1\nSTATUS=Serving");
    terminate(program).await;
    assert_eq!(manager.next(), "STOPPING=1");
}
