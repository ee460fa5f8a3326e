//! Sockets that a service manager opened.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Command,
};

use command_fds::{CommandFdExt, FdMapping};

use super::{Site, ended, message, said, terminate};
use crate::harness::{HttpBackend, Peer, get, program::Program};

/// Runs the program with these sockets as systemd would, for the process that these words of a shell name.
fn activate(site: &Site, sockets: Vec<OwnedFd>, pid: &str) -> Program {
    let words =
        format!("export LISTEN_PID={pid} LISTEN_FDS={} LISTEN_FDNAMES=web:local:more; ", sockets.len());
    let mappings =
        sockets.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    let pass = |command: &mut Command| _ = command.fd_mappings(mappings.collect()).unwrap();
    Program::spawn_by(site.folder.path(), &site.toml(), &words, pass)
}

#[tokio::test]
async fn listeners_take_the_sockets_of_the_service_manager() {
    let backend = HttpBackend::start().await;
    let mut site = Site::before(backend.address());
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    site.address = web.local_addr().unwrap();
    let path = site.folder.path().join("gate.sock");
    site.listeners = format!("[[listener]]\naddress = \"unix:{}\"", path.display());
    let local = UnixListener::bind(&path).unwrap();
    let more = TcpListener::bind("127.0.0.1:0").unwrap();
    let unclaimed = more.local_addr().unwrap();
    // A client that is there before the program is served.
    let mut early = Peer::dial(site.address).await;
    early.send(get("/", "Connection: close\r\n")).await;

    let stream = TcpStream::connect(unclaimed).unwrap();
    let sockets = vec![web.into(), local.into(), more.into(), stream.into()];
    let old = activate(&site, sockets, "$$");
    assert_eq!(early.read_response().await.text(), "hello");
    drop(early);
    site.serves().await;
    let closed =
        old.says("what it closed", |event| message(event).contains("inherited socket: closed")).await;
    assert_eq!(closed["address"], unclaimed.to_string());
    assert!(TcpStream::connect(unclaimed).is_err());
    old.says("what is of no use", |event| message(event).contains("not a listening stream socket")).await;
    old.says("that it is ready", |event| message(event) == "ready").await;

    // They go to a successor like others, and the file stays the service manager's.
    let new = site.swap(&old).await;
    ended(old).await;
    site.serves().await;
    terminate(new).await;
    assert!(fs::symlink_metadata(path).is_ok());
}

#[tokio::test]
async fn sockets_that_were_passed_to_another_process_are_not_taken() {
    let backend = HttpBackend::start().await;
    let site = Site::before(backend.address());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = activate(&site, vec![other.into()], "1");
    program.says("that it is ready", |event| message(event) == "ready").await;
    site.serves().await;
    assert!(!said(&program, "inherited"), "{:?}", program.said());
    terminate(program).await;
}
