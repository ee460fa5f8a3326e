use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;

fn folder() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::new(dir.path().join("certs"));
    (dir, folder)
}

fn at(folder: &Folder, days: i64) -> Folder {
    Folder { path: folder.path.clone(), now: folder.now + Duration::days(days) }
}

fn names(names: &[&str]) -> Vec<ServerName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn cert(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn read(issued: &Issued) -> [Vec<u8>; 3] {
    [&issued.ca, &issued.identity.cert, &issued.identity.key].map(|path| fs::read(path).unwrap())
}

fn message(result: Result<Issued, CertError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_ca_may_sign_leaves_alone() {
    let (_dir, folder) = folder();
    let made = folder.server(&ServerName::localhost(), false).unwrap();
    let der = cert(&made.ca);
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign());
    assert!(!usage.value.digital_signature());
    let name = ca.subject().iter_common_name().next().unwrap().as_str().unwrap();
    assert!(name.starts_with("wsgate development CA ") && name.len() <= 64, "{name}");
    assert_eq!(ca.subject(), ca.issuer());
    let validity = ca.validity();
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3653 * 86_400);
}

#[test]
fn a_server_leaf_is_what_browsers_take() {
    let (_dir, folder) = folder();
    let made =
        folder.server(&names(&["Dev.Test.", "*.dev.test", "10.1.2.3", "::1", "dev.test"]), false).unwrap();
    assert_eq!(made.identity.names, ["dev.test", "*.dev.test", "10.1.2.3", "::1"]);
    assert_eq!((&made.leaf_event, &made.ca_event), (&Event::Made, &Event::Made));
    let (ca_der, der) = (cert(&made.ca), cert(&made.identity.cert));
    let (_, ca) = X509Certificate::from_der(&ca_der).unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(leaf.issuer(), ca.subject());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let validity = leaf.validity();
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 397 * 86_400);
    assert!(validity.is_valid());
    assert_eq!(made.identity.not_after, validity.not_after.to_datetime());
    assert!(leaf.serial != ca.serial && leaf.raw_serial().len() == 16);
    let extensions: Vec<_> = leaf.extensions().iter().map(|extension| extension.oid.to_id_string()).collect();
    for (name, oid) in [("subject key identifier", "2.5.29.14"), ("authority key identifier", "2.5.29.35")] {
        assert!(extensions.contains(&oid.to_owned()), "{name}");
    }
}

#[test]
fn a_client_leaf_carries_its_name() {
    let (_dir, folder) = folder();
    let made = folder.client(&"alice@dev.test".parse().unwrap(), false).unwrap();
    assert!(made.identity.cert.ends_with("client-alice@dev.test.crt"));
    let der = cert(&made.identity.cert);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str(), Ok("alice@dev.test"));
    assert!(!folder.path.join("server.crt").exists());
}

#[test]
fn s7_keys_are_for_their_owner_alone() {
    let (_dir, folder) = folder();
    let server = folder.server(&ServerName::localhost(), false).unwrap();
    let client = folder.client(&"alice".parse().unwrap(), false).unwrap();
    assert!(server.exposed_keys.is_empty());
    fs::set_permissions(&server.identity.key, fs::Permissions::from_mode(0o644)).unwrap();
    let kept = folder.for_listener(&strings(&["localhost"])).unwrap();
    assert_eq!(kept.exposed_keys, std::slice::from_ref(&server.identity.key));
    folder.server(&ServerName::localhost(), true).unwrap();
    for key in [&folder.pair("ca").key, &server.identity.key, &client.identity.key] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    let mut left: Vec<_> = fs::read_dir(&folder.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["ca.crt", "ca.key", "client-alice.crt", "client-alice.key", "server.crt", "server.key"]
    );
}

#[test]
fn a_leaf_that_will_do_is_kept() {
    let (_dir, folder) = folder();
    let first = folder.server(&names(&["a.test", "b.test"]), false).unwrap();
    let before = read(&first);
    let second = folder.server(&names(&["b.test"]), false).unwrap();
    assert_eq!((second.leaf_event.clone(), second.ca_event.clone()), (Event::Kept, Event::Kept));
    assert_eq!(second.identity.names, ["a.test", "b.test"]);
    assert_eq!(read(&first), before);
}

#[test]
fn a_leaf_that_will_not_do_is_overwritten_by_force_alone() {
    let (_dir, folder) = folder();
    let first = folder.server(&names(&["a.test"]), false).unwrap();
    let before = read(&first);
    let error = message(folder.server(&names(&["a.test", "b.test"]), false));
    assert!(error.ends_with("it does not cover b.test; `wsgate cert --force` overwrites it"), "{error}");
    let error = message(at(&folder, 380).server(&names(&["a.test"]), false));
    assert!(error.contains("it is good until "), "{error}");
    assert_eq!(read(&first), before);

    let second = folder.server(&names(&["b.test"]), true).unwrap();
    assert_eq!((second.leaf_event.clone(), second.ca_event.clone()), (Event::Renewed(None), Event::Kept));
    assert_eq!(second.identity.names, ["b.test"]);
    let after = read(&second);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_ne!(after[2], before[2]);
}

#[test]
fn a_listener_renews_a_leaf_that_ends_soon() {
    let (_dir, folder) = folder();
    let first = folder.for_listener(&strings(&["localhost"])).unwrap();
    assert_eq!((&first.leaf_event, &first.ca_event), (&Event::Made, &Event::Made));
    let kept = at(&folder, 366).for_listener(&strings(&["localhost"])).unwrap();
    assert_eq!(kept.leaf_event, Event::Kept);
    let renewed = at(&folder, 368).for_listener(&strings(&["localhost"])).unwrap();
    assert_eq!(renewed.leaf_event, Event::Renewed(Some(Flaw::Ends(first.identity.not_after))));
    assert_eq!(renewed.ca_event, Event::Kept);
    assert_eq!(renewed.identity.not_after - first.identity.not_after, Duration::days(368));
}

#[test]
fn listeners_with_different_names_share_a_leaf() {
    let (_dir, folder) = folder();
    folder.for_listener(&strings(&["a.test"])).unwrap();
    let second = folder.for_listener(&strings(&["b.test", "::1"])).unwrap();
    assert_eq!(second.leaf_event, Event::Renewed(Some(Flaw::Lacks(strings(&["b.test", "::1"])))));
    assert_eq!(second.identity.names, ["b.test", "::1", "a.test"]);
    assert_eq!(folder.for_listener(&strings(&["a.test"])).unwrap().leaf_event, Event::Kept);
}

#[test]
fn a_listener_leaves_a_foreign_leaf_alone() {
    let (_dir, folder) = folder();
    let (_other_dir, other) = self::folder();
    let own = folder.for_listener(&strings(&["localhost"])).unwrap();
    let foreign = other.for_listener(&strings(&["localhost"])).unwrap();
    fs::copy(&foreign.identity.cert, &own.identity.cert).unwrap();
    fs::copy(&foreign.identity.key, &own.identity.key).unwrap();
    let before = read(&own);
    assert!(matches!(folder.for_listener(&strings(&["a.test"])), Err(CertError::Foreign { .. })));
    let error = message(folder.server(&ServerName::localhost(), false));
    assert!(error.contains("it was not signed by the CA beside it"), "{error}");
    fs::remove_file(folder.pair("ca").cert).unwrap();
    fs::remove_file(folder.pair("ca").key).unwrap();
    assert!(matches!(folder.server(&ServerName::localhost(), false), Err(CertError::Exists { .. })));
    assert!(!folder.ca_cert().exists());
    assert!(matches!(folder.for_listener(&strings(&["localhost"])), Err(CertError::Foreign { .. })));
    assert_eq!(fs::read(&own.identity.cert).unwrap(), before[1]);
    assert_eq!(fs::read(&own.identity.key).unwrap(), before[2]);
}

#[test]
fn a_ca_that_ends_soon_is_renewed_with_its_leaf() {
    let (_dir, folder) = folder();
    let first = folder.for_listener(&strings(&["localhost"])).unwrap();
    let late = at(&folder, 3640);
    let error = message(late.client(&"alice".parse().unwrap(), false));
    assert!(error.contains("`wsgate cert --force` makes a new one"), "{error}");
    let second = late.for_listener(&strings(&["localhost"])).unwrap();
    assert!(matches!(second.ca_event, Event::Renewed(Some(Flaw::Ends(_)))));
    assert_eq!(second.leaf_event, Event::Renewed(Some(Flaw::OtherCa)));
    assert!(second.identity.not_after > first.identity.not_after);
    assert_eq!(late.for_listener(&strings(&["localhost"])).unwrap().leaf_event, Event::Kept);
}

#[test]
fn a_leaf_never_outlasts_its_ca() {
    let (_dir, folder) = folder();
    let first = folder.server(&ServerName::localhost(), false).unwrap();
    let late = at(&folder, 3500).server(&ServerName::localhost(), true).unwrap();
    let ca = cert(&first.ca);
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    assert_eq!(late.identity.not_after, ca.validity().not_after.to_datetime());
    assert_eq!(late.ca_event, Event::Kept);
}

#[test]
fn a_ca_of_somebody_elses_is_used_and_never_replaced() {
    let (_dir, folder) = folder();
    fs::create_dir(&folder.path).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = folder.now + Duration::days(100);
    let pair = folder.pair("ca");
    files::write_pair(&pair, &key.serialize_pem(), &params.self_signed(&key).unwrap().pem()).unwrap();
    assert_eq!(folder.for_listener(&strings(&["localhost"])).unwrap().ca_event, Event::Kept);
    let error = message(at(&folder, 99).for_listener(&strings(&["localhost"])));
    assert!(error.contains("wsgate did not make it"), "{error}");
}

#[test]
fn broken_pairs_are_named() {
    let (_dir, folder) = folder();
    let issued = folder.server(&ServerName::localhost(), false).unwrap();
    let again = || message(folder.server(&ServerName::localhost(), false));
    let ca = folder.pair("ca");
    let (ca_cert, ca_key) = (fs::read(&ca.cert).unwrap(), fs::read(&ca.key).unwrap());

    fs::write(&issued.identity.key, &ca_key).unwrap();
    assert!(again().contains("server.key is not the key of"), "{}", again());
    fs::write(&issued.identity.key, "nothing").unwrap();
    assert!(again().contains("server.key does not hold an unencrypted private key in PEM"), "{}", again());
    fs::remove_file(&issued.identity.key).unwrap();
    assert!(again().contains("server.crt is there without "), "{}", again());
    fs::write(&ca.cert, fs::read(&issued.identity.cert).unwrap()).unwrap();
    assert!(again().contains("ca.key is not the key of"), "{}", again());
    fs::write(&ca.cert, "nothing").unwrap();
    assert!(again().contains("ca.crt does not hold a certificate in PEM"), "{}", again());
    fs::remove_file(&ca.cert).unwrap();
    assert!(again().contains("ca.key is there without "), "{}", again());

    fs::write(&ca.cert, ca_cert).unwrap();
    assert!(matches!(
        folder.server(&ServerName::localhost(), true).unwrap().leaf_event,
        Event::Renewed(None)
    ));
}

#[test]
fn a_leaf_in_the_place_of_the_ca_does_not_sign() {
    let (_dir, folder) = folder();
    let issued = folder.server(&ServerName::localhost(), false).unwrap();
    let ca = folder.pair("ca");
    fs::copy(&issued.identity.cert, &ca.cert).unwrap();
    fs::copy(&issued.identity.key, &ca.key).unwrap();
    assert!(matches!(folder.client(&"alice".parse().unwrap(), false), Err(CertError::NotCa { .. })));
}

#[test]
fn names_are_checked() {
    for bad in
        ["", "a b", "https://a.test", "a.test:443", "[::1]", "*", "*.", "a.*.test", "**.test", "bücher.test"]
    {
        assert!(bad.parse::<ServerName>().is_err(), "{bad}");
    }
    for good in ["a", "xn--bcher-kva.test", "my_host", "*.a.test", "127.0.0.1", "fe80::1"] {
        assert!(good.parse::<ServerName>().is_ok(), "{good}");
    }
    for bad in ["", "../alice", "a/b", "a b", "a\n", "é", &"a".repeat(65)] {
        assert!(bad.parse::<ClientName>().is_err(), "{bad}");
    }
    for good in ["alice", "alice@dev.test", "node-7_b", &"a".repeat(64)] {
        assert!(good.parse::<ClientName>().is_ok(), "{good}");
    }
}

fn identity(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (vec![cert(&issued.identity.cert)], PrivateKeyDer::from_pem_file(&issued.identity.key).unwrap())
}

#[test]
fn both_sides_of_a_tls_handshake_trust_the_ca() {
    let (_dir, folder) = folder();
    let server = folder.server(&names(&["localhost", "*.dev.test"]), false).unwrap();
    let client = folder.client(&"alice".parse().unwrap(), false).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert(&server.ca)).unwrap();
    let roots = Arc::new(roots);

    let (chain, key) = identity(&server);
    let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
    let server =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let (chain, key) = identity(&client);
    let client =
        ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    let (server, client) = (Arc::new(server), Arc::new(client));
    for (name, trusted) in [("localhost", true), ("chat.dev.test", true), ("other.test", false)] {
        let client = ClientConnection::new(Arc::clone(&client), name.try_into().unwrap()).unwrap();
        let outcome = shake_hands(client, ServerConnection::new(Arc::clone(&server)).unwrap());
        assert_eq!(outcome.is_ok(), trusted, "{name}: {outcome:?}");
    }
}

/// Carries the bytes of a TLS handshake to its end, and a greeting after it.
fn shake_hands(mut client: ClientConnection, mut server: ServerConnection) -> Result<(), rustls::Error> {
    server.writer().write_all(b"hello").unwrap();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut input = wire.as_slice();
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets()?;
        }
    }
    let mut greeting = [0; 5];
    client.reader().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
    Ok(())
}
