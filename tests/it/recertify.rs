//! Certificates over a reload, and files that change under a running gate (rules S6, B10).

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, HandshakeKind,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};

use crate::harness::{
    Backend, Gate, HttpBackend, Peer, Setup,
    frames::{self, TEXT, client},
    get,
    pki::{Leaf, Pki},
    soon,
};

/// The files of a certificate that somebody renews.
fn put(leaf: &Leaf, folder: &Path) {
    for (from, to) in [(&leaf.cert, "tls.crt"), (&leaf.key, "tls.key")] {
        // A file comes whole, as whoever renews certificates should put it.
        let new = folder.join("new");
        fs::copy(from, &new).unwrap();
        fs::rename(new, folder.join(to)).unwrap();
    }
}

fn keys(folder: &Path, more: &str) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!("cert = \"{}\", key = \"{}\"{more}", path("tls.crt"), path("tls.key"))
}

/// The certificate that a new client is shown.
async fn shown(gate: &Gate, pki: &Pki) -> CertificateDer<'static> {
    let peer = pki.client(gate.address(), "localhost", &pki.client_config()).await;
    peer.tls().peer_certificates().unwrap()[0].clone().into_owned()
}

/// A request of a client that goes on where it left, if it may. How its TLS handshake was.
async fn resumes(gate: &Gate, pki: &Pki, config: &ClientConfig) -> HandshakeKind {
    let mut peer = pki.client(gate.address(), "localhost", config).await;
    peer.send(get("/", "")).await;
    assert_eq!(peer.read_response().await.head.status(), 200);
    peer.tls().handshake_kind().unwrap()
}

#[tokio::test]
async fn b10_a_new_certificate_is_for_new_connections_and_sessions_resume_over_it() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = [pki.leaf("localhost"), pki.leaf("localhost")];
    put(&one, folder.path());
    let setup = || Setup::to(backend.address()).tls_keys(keys(folder.path(), ""), &pki);
    let gate = setup().start();
    let configs = [&TLS12, &TLS13].map(|version| pki.client_config_of(&[version]));
    for config in &configs {
        assert_ne!(resumes(&gate, &pki, config).await, HandshakeKind::Resumed);
        assert_eq!(resumes(&gate, &pki, config).await, HandshakeKind::Resumed);
    }
    let mut old = gate.client().await;
    assert_eq!(shown(&gate, &pki).await, one.der);
    put(&two, folder.path());
    let report = gate.reload(&setup().toml());
    assert_eq!(report.listeners.changed, ["127.0.0.1:0"]);
    assert_eq!(shown(&gate, &pki).await, two.der);
    for config in &configs {
        assert_eq!(resumes(&gate, &pki, config).await, HandshakeKind::Resumed, "over the reload");
    }
    // Who was in a connection already goes on with it.
    for _ in 0..2 {
        old.send(get("/", "")).await;
        assert_eq!(old.read_response().await.head.get("connection"), None);
    }
}

#[tokio::test]
async fn b9_a_tls_handshake_that_has_begun_ends_by_the_rules_that_it_began_with() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let folder = tempfile::tempdir().unwrap();
    put(&pki.leaf("localhost"), folder.path());
    let setup = || Setup::to(backend.address()).tls_keys(keys(folder.path(), ""), &pki);
    let gate = setup().start();
    let silent = Peer::dial(gate.address()).await;
    gate.has_connections(1).await;
    put(&pki.leaf("localhost"), folder.path());
    gate.reload(&setup().toml());
    let mut client = pki.secure(silent).await;
    client.send(get("/", "")).await;
    let answer = client.read_response().await;
    assert_eq!((answer.head.status(), answer.head.get("connection")), (200, None));
}

#[tokio::test]
async fn s6_tickets_do_not_cross_a_reload_that_changes_what_clients_must_show() {
    let (backend, pki, clients, others) = (HttpBackend::start().await, Pki::new(), Pki::new(), Pki::new());
    let leaf = pki.leaf("localhost");
    let tls = |ca: Option<&Pki>| {
        let ca = ca.map_or_else(String::new, |ca| format!(", client_ca = \"{}\"", ca.ca_file().display()));
        Setup::to(backend.address()).tls_keys(
            format!("cert = \"{}\", key = \"{}\"{ca}", leaf.cert.display(), leaf.key.display()),
            &pki,
        )
    };
    let gate = tls(None).start();
    let nobody = pki.client_config();
    resumes(&gate, &pki, &nobody).await;
    assert_eq!(resumes(&gate, &pki, &nobody).await, HandshakeKind::Resumed);
    let mut old = pki.client(gate.address(), "localhost", &nobody).await;
    gate.reload(&tls(Some(&clients)).toml());
    // A connection that showed nothing is none of these rules.
    old.expect_end().await;
    let refused = async |config: &ClientConfig| {
        let Ok(mut peer) = pki.try_client(gate.address(), "localhost", config).await else { return };
        let _ = peer.offer_bytes(get("/", "")).await;
        let (answer, end) = peer.read_to_any_end().await;
        assert!(answer.is_empty() && end.is_err(), "{answer:?}");
    };
    refused(&nobody).await;
    let known = pki.client_config_with(&clients.leaf("alice"), &[], &[&TLS13]);
    resumes(&gate, &pki, &known).await;
    assert_eq!(resumes(&gate, &pki, &known).await, HandshakeKind::Resumed);
    // The same rules by another name of the file keep their tickets, and another CA does not.
    gate.reload(&tls(Some(&clients)).listener("underscore_headers = \"pass\"").toml());
    assert_eq!(resumes(&gate, &pki, &known).await, HandshakeKind::Resumed);
    gate.reload(&tls(Some(&others)).toml());
    refused(&known).await;
}

#[tokio::test]
async fn a_broken_pair_keeps_the_old_one_and_the_next_change_is_tried_again() {
    let (backend, pki) = (Backend::listen().await, Pki::new());
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = [pki.leaf("localhost"), pki.leaf("localhost")];
    put(&one, folder.path());
    let gate = Setup::to(backend.address()).tls_keys(keys(folder.path(), ""), &pki).start();
    let (mut client_end, mut server_end) = gate.tunnel(&backend).await;
    fs::copy(&two.cert, folder.path().join("tls.crt")).unwrap();
    let told = gate.handle().refresh_files().unwrap_err().to_string();
    assert!(told.contains("tls.key"), "{told}");
    assert_eq!(shown(&gate, &pki).await, one.der);
    fs::remove_file(folder.path().join("tls.crt")).unwrap();
    gate.handle().refresh_files().unwrap_err();
    assert_eq!(shown(&gate, &pki).await, one.der);
    put(&two, folder.path());
    let report = gate.handle().refresh_files().unwrap().unwrap();
    assert_eq!((report.listeners.changed.len(), report.generation), (1, 2));
    assert_eq!(shown(&gate, &pki).await, two.der);
    assert_eq!(gate.handle().refresh_files().unwrap(), None);
    client_end.send(client(TEXT, "x")).await;
    assert_eq!(frames::read(&mut server_end).await.payload, b"x");
}

#[tokio::test]
async fn a_broken_pair_keeps_no_other_one_from_being_renewed() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let [broken, sound] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two, three] = [pki.leaf("localhost"), pki.leaf("localhost"), pki.leaf("localhost")];
    put(&one, broken.path());
    put(&two, sound.path());
    let other = format!("[[listener]]\naddress = \"127.0.0.2:0\"\ntls = {{ {} }}", keys(sound.path(), ""));
    let gate = Setup::to(backend.address()).tls_keys(keys(broken.path(), ""), &pki).more(&other).start();
    fs::write(broken.path().join("tls.key"), "no key").unwrap();
    put(&three, sound.path());
    let report = gate.handle().refresh_files().unwrap().unwrap();
    assert_eq!(report.listeners.changed.len(), 1, "{report:?}");
    assert_eq!(shown(&gate, &pki).await, one.der);
    let peer = pki.client(gate.address_of(1), "localhost", &pki.client_config()).await;
    assert_eq!(peer.tls().peer_certificates().unwrap()[0], three.der);
    // A reload is asked for by somebody, who is told.
    let told = gate.handle().reload().unwrap_err().to_string();
    assert!(told.contains("tls.key"), "{told}");
}

/// The last reload, refreshes of files that went well and badly, and the last one.
fn counted(gate: &Gate) -> [u32; 4] {
    let metrics = gate.metrics();
    let refreshes = |result| metrics.sum("wsgate_file_refreshes_total", &[("result", result)]);
    let values = [
        metrics.sum("wsgate_config_last_reload_successful", &[]),
        refreshes("ok"),
        refreshes("failed"),
        metrics.sum("wsgate_file_last_refresh_successful", &[]),
    ];
    values.map(|value| value.to_string().parse().unwrap())
}

#[tokio::test]
async fn files_that_are_read_again_are_no_reload_and_counted_for_themselves() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let [broken, sound] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let one = pki.leaf("localhost");
    put(&one, broken.path());
    put(&pki.leaf("localhost"), sound.path());
    let other = format!("[[listener]]\naddress = \"127.0.0.2:0\"\ntls = {{ {} }}", keys(sound.path(), ""));
    let gate = Setup::to(backend.address()).tls_keys(keys(broken.path(), ""), &pki).more(&other).start();
    assert!(gate.try_reload("not yet = whole").is_err());
    assert_eq!(counted(&gate), [0, 0, 0, 1]);
    fs::write(broken.path().join("tls.key"), "no key").unwrap();
    put(&pki.leaf("localhost"), sound.path());
    gate.handle().refresh_files().unwrap().expect("the other pair");
    assert_eq!(counted(&gate), [0, 0, 1, 0], "a pair stays as it was");
    gate.handle().refresh_files().unwrap_err();
    assert_eq!(counted(&gate), [0, 0, 2, 0]);
    fs::copy(&one.key, broken.path().join("tls.key")).unwrap();
    assert_eq!(gate.handle().refresh_files().unwrap(), None);
    assert_eq!(counted(&gate), [0, 1, 2, 1]);
    assert!(gate.handle().status().last_reload.unwrap().error.is_some());
}

#[tokio::test]
async fn what_the_file_says_meanwhile_waits_for_a_reload() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let folder = tempfile::tempdir().unwrap();
    put(&pki.leaf("localhost"), folder.path());
    let setup = || Setup::to(backend.address()).tls_keys(keys(folder.path(), ""), &pki);
    let gate = setup().start();
    fs::write(gate.file(), "not yet = whole").unwrap();
    put(&pki.leaf("localhost"), folder.path());
    assert!(gate.handle().refresh_files().unwrap().is_some());
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.head.status(), 200);
}

/// Waits until new clients are shown this certificate.
async fn is_found(gate: &Gate, pki: &Pki, leaf: &Leaf) {
    soon("the new certificate", async {
        while shown(gate, pki).await != leaf.der {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn files_that_change_are_found_in_place_and_behind_symlinks() {
    let (backend, pki) = (HttpBackend::start().await, Pki::new());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let leaves: [Leaf; 3] = std::array::from_fn(|_| pki.leaf("localhost"));
    for (version, leaf) in ["..1", "..2"].iter().zip(&leaves) {
        fs::create_dir(at(version)).unwrap();
        put(leaf, &at(version));
    }
    symlink("..1", at("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), at(name)).unwrap();
    }
    let gate: Arc<Gate> =
        Arc::new(Setup::to(backend.address()).tls_keys(keys(folder.path(), ""), &pki).start());
    assert_eq!(shown(&gate, &pki).await, leaves[0].der);
    // As Kubernetes swaps a volume, and certbot a link.
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    is_found(&gate, &pki, &leaves[1]).await;
    put(&leaves[2], &at("..2"));
    is_found(&gate, &pki, &leaves[2]).await;
}

#[tokio::test]
async fn b12_a_changed_certificate_for_servers_is_shown_by_the_next_connection() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().unwrap());
    let backend = Backend::listen().await;
    let [one, two] = [pki.leaf("gate"), pki.leaf("gate")];
    put(&one, folder.path());
    let keys = keys(folder.path(), "");
    let tls =
        format!("tls = {{ ca = \"{}\", server_name = \"localhost\", {keys} }}", pki.ca_file().display());
    let gate = Setup::to(backend.address()).upstream(&tls).start();
    let server_leaf = pki.leaf("localhost");
    let config = pki.server_config(&server_leaf, rustls::ALL_VERSIONS, true);
    for (number, leaf) in [&one, &two].into_iter().enumerate() {
        let _client = gate.ask(get("/", "Connection: close\r\n")).await;
        let server = backend.accept().await.accept_tls(&config).await.unwrap();
        assert_eq!(server.tls().peer_certificates().unwrap()[0], leaf.der, "{number}");
        if number == 0 {
            put(&two, folder.path());
            assert_eq!(gate.handle().refresh_files().unwrap().unwrap().upstreams.changed, ["main"]);
        }
    }
}
