//! What the gate bears: rules S1, S3, S4, and shutdown of the program.

use std::{process::Command, time::Duration};

use rustix::{
    fs::{FileType, Mode},
    io::Errno,
};
use tokio::{io::AsyncWriteExt, net::unix::pipe};

use crate::harness::{
    Backend, HttpBackend, Peer, Setup, Unreachable,
    frames::{TEXT, client, server},
    get,
    program::Program,
    soon,
};

#[tokio::test]
async fn s1_the_time_to_connect_is_its_own_and_retry_deadline_bounds_all_tries() {
    let silent = [Unreachable::new().await, Unreachable::new().await, Unreachable::new().await];
    let gate = Setup::before(silent.iter().map(Unreachable::address))
        .upstream("connect_timeout = \"1h\"\nretry_deadline = \"300ms\"\nretries = 5")
        .start();
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 504);
    let record = gate.record(|_| true).await;
    assert_eq!(record.ending, Some("connect_timeout"));
    assert!(record.duration.unwrap() < Duration::from_secs(10));
}

#[tokio::test]
async fn s1_keep_alive_is_the_time_between_requests_and_head_timeout_begins_with_a_byte() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address())
        .listener("timeout.keep_alive = \"600ms\"\ntimeout.request_head = \"100ms\"")
        .start();
    let mut client = gate.client().await;
    // Longer than a head may take, and shorter than an idle connection may stay.
    assert!(tokio::time::timeout(Duration::from_millis(250), client.next_head()).await.is_err());
    client.send(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 200);
    client.expect_end().await;
    assert_eq!(gate.records().len(), 1, "an idle connection that is closed is no exchange");
}

#[tokio::test]
async fn s1_stray_empty_lines_are_no_request_and_begin_none() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address())
        .listener("timeout.keep_alive = \"1h\"\ntimeout.request_head = \"100ms\"")
        .start();
    // Behind a request, by themselves after it, before any, and many of them.
    let mut behind = gate.ask([&get("/", ""), "\r\n\r\n"].concat()).await;
    assert_eq!(behind.read_response().await.status(), 200);
    let mut after = gate.ask(get("/", "")).await;
    assert_eq!(after.read_response().await.status(), 200);
    after.send("\r\n").await;
    let before = gate.ask("\r\n").await;
    let mut many = gate.client().await;
    for _ in 0..20 {
        many.send("\r\n").await;
        tokio::task::yield_now().await;
    }
    for mut client in [behind, after, before, many] {
        // Longer than a head may take.
        let quiet = tokio::time::timeout(Duration::from_millis(300), client.next_head()).await;
        assert!(quiet.is_err(), "an end, or an answer that nobody asked for: {quiet:?}");
        client.send(get("/", "")).await;
        assert_eq!(client.read_response().await.status(), 200);
    }
}

#[tokio::test]
async fn s1_an_idle_connection_with_stray_empty_lines_ends_without_an_answer() {
    let backend = HttpBackend::start().await;
    for keys in [
        "timeout.keep_alive = \"600ms\"",
        // Half an empty line may become anything, so it is a head's time that ends.
        "timeout.keep_alive = \"1h\"\ntimeout.request_head = \"100ms\"",
    ] {
        let gate = Setup::to(backend.address()).listener(keys).start();
        let stray = if keys.contains("1h") { "\r\n\r" } else { "\r\n" };
        let mut fresh = gate.ask(stray).await;
        let mut used = gate.ask(get("/", "")).await;
        assert_eq!(used.read_response().await.status(), 200);
        let _ = used.offer_bytes(stray).await;
        fresh.expect_end().await;
        used.expect_end().await;
        assert_eq!(gate.records().len(), 1, "what is no request has no record");
    }
}

#[tokio::test]
async fn garbage_of_every_kind_ends_one_connection_alone() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let (mut held_client, mut held_server) = {
        let other = Backend::listen().await;
        let gate = Setup::to(other.address()).start();
        let ends = gate.tunnel(&other).await;
        // Ends with its gate, which is another one.
        drop(gate);
        ends
    };
    held_client.expect_gone().await;
    held_server.expect_gone().await;
    for garbage in [
        &[0_u8; 200][..],
        &[0xff; 200],
        b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
        b"GET",
        b" ",
    ] {
        let mut client = gate.client().await;
        client.send(garbage).await;
        client.shutdown().await;
        let _ = client.read_to_any_end().await;
    }
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 200);
    // The harness looks that nothing panicked (rule S4) when the gate is dropped.
}

#[tokio::test]
async fn several_workers_share_the_connections_and_all_of_them_drain() {
    let backend = Backend::listen().await;
    let toml = format!(
        "[server]\nworkers = 3\nshutdown_grace = \"10s\"\ndrain_spread = \"0s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"[::1]:0\"\n[upstream.main]\nservers = [\"{}\"]\n[[route]]\nupstream = \"main\"\n",
        backend.address()
    );
    let gate = crate::harness::Gate::start(&toml, None);
    let mut open = Vec::new();
    for number in 0..9 {
        let mut client_end = Peer::dial(gate.address_of(number % 2)).await;
        client_end.send(crate::harness::OFFER).await;
        let mut server_end = backend.accept().await;
        server_end.read_head().await;
        server_end.send(crate::harness::AGREED).await;
        client_end.read_head().await;
        client_end.send(client(TEXT, "a")).await;
        server_end.expect(client(TEXT, "a")).await;
        server_end.send(server(TEXT, "b")).await;
        client_end.expect(server(TEXT, "b")).await;
        open.push((client_end, server_end));
    }
    gate.drain();
    for (client_end, _) in &mut open {
        assert_eq!(crate::harness::frames::read(client_end).await.close_code(), 1012);
    }
    drop(open);
    assert_eq!(gate.finish().await.cut, 0);
}

/// `wsgate run` before this backend, with so many file descriptors.
async fn program(folder: &std::path::Path, backend: &str, descriptors: u32) -> Program {
    let toml = format!(
        "[server]\nworkers = 1\nmax_connections = 100\ndrain_spread = \"0s\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.main]\nservers = [\"{backend}\"]\n\
         [[route]]\nupstream = \"main\"\n"
    );
    Program::start(folder, &toml, Some(descriptors)).await
}

#[tokio::test]
async fn s2_a_process_with_few_file_descriptors_serves_as_many_as_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let backend = HttpBackend::start().await;
    let program = program(folder.path(), &backend.address(), 40).await;
    let mut all = Vec::new();
    for _ in 0..80 {
        all.push(Peer::dial(program.address).await);
    }
    // More than it has descriptors for, so the others wait in the kernel's queue.
    let mut first = all.remove(0);
    first.send(get("/", "")).await;
    let status = first.read_response().await.status();
    assert!([200, 502, 503].contains(&status), "{status}");
    drop((first, all));
    soon("to be served again", async {
        loop {
            let mut client = Peer::dial(program.address).await;
            let sent = client.offer_bytes(get("/", "Connection: close\r\n")).await;
            if sent.is_ok() && client.read_to_any_end().await.0.starts_with(b"HTTP/1.1 200 ") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_program_drains_on_sigterm_and_leaves_its_access_log() {
    let folder = tempfile::tempdir().unwrap();
    let backend = HttpBackend::start().await;
    let mut program = program(folder.path(), &backend.address(), 1000).await;
    let mut client = Peer::dial(program.address).await;
    client.send(get("/?token=secret", "")).await;
    assert_eq!(client.read_response().await.text(), "hello");
    client.send("GET /\u{1b}[31m HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 400);
    let mut idle = Peer::dial(program.address).await;
    idle.send(get("/", "")).await;
    idle.read_response().await;
    program.terminate();
    idle.expect_end().await;
    drop((client, idle));
    assert_eq!(program.ended().await, Some(0));
    let (log, records) = (program.access_log(), program.records());
    assert_eq!(records.len(), 3);
    assert_eq!((&records[0]["event"], &records[0]["status"]), (&"exchange".into(), &200.into()));
    assert_eq!(records[0]["target"], "/?token=***");
    assert_eq!((&records[1]["ending"], &records[1]["status"]), (&"bad_head".into(), &400.into()));
    assert!(!log.contains('\u{1b}') && !log.contains("secret"));
}

#[tokio::test]
async fn a_signal_before_the_start_has_finished_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut cert = Command::new(env!("CARGO_BIN_EXE_wsgate"));
    assert!(cert.arg("cert").current_dir(folder.path()).output().unwrap().status.success());
    let toml = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = { self_signed = [\"localhost\"] }\n\
                [[route]]\nrespond = { status = 200, body = \"\" }\n";
    // The start waits in its middle for the CA, which comes out of a pipe.
    let path = folder.path().join("certs/ca.crt");
    let ca = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
    let mut program = Program::spawn(folder.path(), toml, None);
    let reader = async {
        loop {
            match pipe::OpenOptions::new().open_sender(&path) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => {
                    tokio::task::yield_now().await;
                }
                opened => return opened.unwrap(),
            }
        }
    };
    let mut writer = soon("the start to read the CA", reader).await;
    program.terminate();
    let says = |event: &serde_json::Value, what: &str| {
        event["message"].as_str().is_some_and(|text| text.contains(what))
    };
    program.says("the drain", |event| says(event, "SIGTERM: draining")).await;
    writer.write_all(&ca).await.unwrap();
    drop(writer);
    program.says("where it listened", |event| says(event, "listening")).await;
    assert_eq!(program.ended().await, Some(0));
}
