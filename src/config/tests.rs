//! Goldens: every file `tests/config/NAME.toml` with the exact text that it gives in `NAME.txt`.
//!
//! `WSGATE_GOLDENS=write cargo test --lib config` writes the texts anew; read the difference before you commit it.

mod admin;
mod defaults;
mod example;
mod mask;
mod properties;
mod public;
mod readme;
mod sameness;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use time::{OffsetDateTime, macros::datetime};

use super::{Config, Loaded, Problems, Source, summary::summary_at};

/// The time at which the goldens are judged.
const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

fn env(name: &str) -> Option<String> {
    let value = match name {
        "BACKEND" => "10.0.0.7:9000",
        "SECRET" => "s3cret",
        "TWO_LINES" => "one\r\ntwo",
        "CERTS" => "certs",
        "OFF" => "off",
        "AUTO" => "auto",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Parses a text as `proxy.toml` in `folder`, at [`NOW`].
fn parse_in(folder: &Path, text: &str) -> Result<Loaded, Problems> {
    let source = Source { name: "proxy.toml".to_owned(), text: text.to_owned(), folder: folder.to_owned() };
    Config::parse_at(&source, &env, NOW)
}

/// The same in a folder that does not exist.
fn parse(text: &str) -> Result<Loaded, Problems> {
    parse_in(Path::new("/nonexistent"), text)
}

/// A folder with the certificates that the goldens name.
fn folder_with_certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    let valid = (datetime!(2025-01-01 0:00 UTC), datetime!(2026-04-01 0:00 UTC));
    let expired = (datetime!(2024-01-01 0:00 UTC), datetime!(2025-12-24 0:00 UTC));
    let future = (datetime!(2026-02-01 0:00 UTC), datetime!(2027-02-01 0:00 UTC));
    write_pair(folder.path(), "server", &["example.com", "www.example.com", "192.168.1.10"], valid);
    write_pair(folder.path(), "chat", &["*.chat.example.com", "::1"], valid);
    write_pair(folder.path(), "expired", &["example.com"], expired);
    write_pair(folder.path(), "future", &["example.com"], future);
    write_pair(folder.path(), "nameless", &[], valid);
    write_pair(folder.path(), "open", &["example.com"], valid);
    let (ca, signed) = ca_and_signed();
    fs::set_permissions(folder.path().join("certs/open.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let read = |name: &str| fs::read(folder.path().join("certs").join(name)).unwrap();
    let write =
        |name: &str, content: &[u8]| fs::write(folder.path().join("certs").join(name), content).unwrap();
    write("reversed.crt", &[read("chat.crt"), read("server.crt")].concat());
    write("authority.crt", ca.as_bytes());
    write("signed.crt", signed.as_bytes());
    write("signed-and-authority.crt", [signed, ca].concat().as_bytes());
    write("notes.txt", b"These are notes.\n");
    write("server.der", &pem_content(&read("server.crt")));
    write("broken.crt", b"-----BEGIN CERTIFICATE-----\nMAMBAf8=\n-----END CERTIFICATE-----\n");
    let marker = ["-----BEGIN ENCRYPTED PRIVATE", " KEY-----\nAAAA\n"].concat();
    write("encrypted.key", marker.as_bytes());
    write_users(folder.path());
    folder
}

/// The htpasswd files that the goldens name.
fn write_users(folder: &Path) {
    const BCRYPT: &str = "$2y$10$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dba";
    let folder = folder.join("users");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(folder.join(name), content).unwrap();
    let all_of = |hash: &str| format!("ann:{hash}\n").repeat(11);
    write("good", format!("# people\nann:{BCRYPT}\n\nbob:{BCRYPT}\n").as_bytes());
    write("one", format!("ann:{BCRYPT}\n").as_bytes());
    write("open", format!("ann:{BCRYPT}\n").as_bytes());
    fs::set_permissions(folder.join("open"), fs::Permissions::from_mode(0o666)).unwrap();
    write("empty", b"# nobody yet\n\n");
    write("apr1", all_of("$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00").as_bytes());
    write("sha1", b"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n");
    write("plain", b"ann:s3cret\n");
    write("twice", format!("ann:{BCRYPT}\nbob:{BCRYPT}\nann:{BCRYPT}\n").as_bytes());
    write("latin", b"ann\xe9:x\n");
    let dear = BCRYPT.replace("$10$", "$17$");
    let short = &BCRYPT[..50];
    let mixed = format!(
        "ann:{dear}\nbob\n:{BCRYPT}\ncat:{short}\ndan:$6$salt$hash\neve:$5$salt$hash\nfay:{BCRYPT}\n"
    );
    write("mixed", mixed.as_bytes());
}

fn write_pair(folder: &Path, name: &str, names: &[&str], validity: (OffsetDateTime, OffsetDateTime)) {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    (params.not_before, params.not_after) = validity;
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let path = |extension: &str| folder.join("certs").join(format!("{name}.{extension}"));
    fs::write(path("crt"), cert.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// The certificates of a CA and of somebody for whom it vouches, in PEM.
fn ca_and_signed() -> (String, String) {
    let of = |name| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let ((mut ca, ca_key), (client, client_key)) = (of("the CA"), of("a client"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, ca_key).unwrap();
    let signed = client.signed_by(&client_key, &ca).unwrap();
    (ca.pem(), signed.pem())
}

fn pem_content(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

/// What `wsgate check` would print.
fn printed(folder: &Path, text: &str) -> String {
    let mut printed = match parse_in(folder, text) {
        Err(problems) => problems.to_string(),
        Ok(loaded) => {
            let mut printed = String::new();
            for warning in &loaded.warnings {
                write!(printed, "{warning}\n\n").unwrap();
            }
            write!(printed, "{}", summary_at(&loaded.config, NOW)).unwrap();
            printed
        }
    };
    printed.push('\n');
    printed.replace(&folder.display().to_string(), "FOLDER")
}

fn goldens(extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

/// The lines that differ between the first and the last difference.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let start = expected.iter().zip(&found).take_while(same).count();
    let rest = (expected[start..].iter().rev()).zip(found[start..].iter().rev());
    let end = rest.take_while(same).count();
    let lost = expected[start..expected.len() - end].iter().map(|line| ["- ", line, "\n"].concat());
    let new = found[start..found.len() - end].iter().map(|line| ["+ ", line, "\n"].concat());
    lost.chain(new).collect()
}

#[test]
fn every_mistake_is_told_as_its_golden_says() {
    let folder = folder_with_certificates();
    let write = std::env::var("WSGATE_GOLDENS").is_ok_and(|value| value == "write");
    let mut differences = String::new();
    for path in goldens("toml") {
        let golden = path.with_extension("txt");
        let found = printed(folder.path(), &fs::read_to_string(&path).unwrap());
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if write {
            fs::write(&golden, &found).unwrap();
        } else if expected != found {
            let name = golden.file_name().unwrap().display();
            write!(differences, "\n{name}:\n{}", difference(&expected, &found)).unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}\nWSGATE_GOLDENS=write writes them anew");
}

#[test]
fn every_golden_belongs_to_a_file() {
    for golden in goldens("txt") {
        assert!(golden.with_extension("toml").exists(), "{}", golden.display());
    }
}

#[test]
fn problems_of_a_file_are_told_in_its_order_and_counted() {
    let problems = parse("[server]\nworkers = 0\nthread = 1\n").unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places[..2], ["proxy.toml:2:11", "proxy.toml:3:1"]);
    assert!(problems.to_string().ends_with("\n5 problems in proxy.toml"), "{problems}");
}

#[test]
fn a_missing_file_tells_what_works_without_one() {
    let error = Config::load(Path::new("/nonexistent/proxy.toml")).unwrap_err();
    assert!(std::error::Error::source(&error).is_some());
    let error = error.to_string();
    assert!(error.starts_with("cannot read the configuration /nonexistent/proxy.toml\n"), "{error}");
    for help in ["-c FILE", "wsgate run --to", "wsgate demo"] {
        assert!(error.contains(help), "{error}");
    }
}

#[test]
fn a_file_that_is_no_text_tells_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    fs::write(&path, b"[server]\n# \xff\n").unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("is not UTF-8 text: byte 11 is the first that is none"), "{error}");
}

#[test]
fn a_warning_for_the_log_is_one_line_with_its_place() {
    let folder = folder_with_certificates();
    let text = "[[listener]]\naddress = \"[::]:443\"\ntls = { cert = \"certs/open.crt\", key = \"certs/open.key\" }\n\
                [[route]]\nrespond = { status = 404 }\n";
    let loaded = parse_in(folder.path(), text).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(super::Problem::brief).collect();
    assert_eq!(warnings, ["other users can read this private key (proxy.toml:3:40)"]);
}
