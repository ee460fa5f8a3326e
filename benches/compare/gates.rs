//! The proxies: their configuration, start and addresses.

use std::{
    error::Error,
    ffi::OsString,
    fmt, fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

use crate::{
    Fallible,
    process::{Process, pause},
    scenario::Certificate,
};

/// How long a gate may take until it listens.
const STARTING: Duration = Duration::from_secs(10);
/// A port that was found free may be another's when it is to be bound.
const STARTS: usize = 3;
/// Descriptors that the peers prepare for, if not more are needed: they take memory for each.
const DESCRIPTORS: u64 = 20_000;

/// Whose proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Wsgate,
    Nginx,
    Haproxy,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Wsgate, Self::Nginx, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wsgate => "wsgate",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }

    /// The name of its program and of Debian's package.
    fn program(self) -> &'static str {
        match self {
            Self::Wsgate => "wsgate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Its configuration: names of files, and their text.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Wsgate => &[("proxy.toml", include_str!("peers/wsgate.toml"))],
            Self::Nginx => &[
                ("nginx.conf", include_str!("peers/nginx.conf")),
                ("proxy.conf", include_str!("peers/nginx.proxy.conf")),
            ],
            Self::Haproxy => &[("haproxy.cfg", include_str!("peers/haproxy.cfg"))],
        }
    }

    /// Arguments for a process that stays in the foreground, in the folder of its files.
    fn arguments(self, folder: &Path) -> Vec<OsString> {
        match self {
            Self::Wsgate => vec!["run".into()],
            Self::Nginx => ["-p".into(), folder.into(), "-e".into(), "stderr".into()]
                .into_iter()
                .chain(["-c".into(), "nginx.conf".into()])
                .collect(),
            Self::Haproxy => vec!["-db".into(), "-f".into(), "haproxy.cfg".into()],
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.program() == name);
        found.ok_or_else(|| format!("no gate {name}; there are wsgate, nginx and haproxy"))
    }
}

/// A proxy on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    /// What the table calls it.
    pub(crate) name: String,
    path: PathBuf,
}

impl Program {
    /// A build of wsgate.
    pub(crate) fn build(name: &str, path: &Path) -> Fallible<Self> {
        let path = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { kind: Kind::Wsgate, name: name.to_owned(), path })
    }

    /// An installed proxy. Debian's lie where only root's PATH looks.
    pub(crate) fn installed(kind: Kind) -> Fallible<Self> {
        let searched = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&searched).chain(["/usr/sbin".into()]);
        let found = folders.map(|folder| folder.join(kind.program())).find(|path| path.is_file());
        let path = found.ok_or_else(|| {
            let package = kind.program();
            format!("{package} is not here: install Debian's package {package}, or leave it out with --gates")
        })?;
        Ok(Self { kind, name: kind.name().to_owned(), path })
    }

    /// What it says of itself, in a line.
    pub(crate) fn version(&self) -> Fallible<String> {
        let flag = if self.kind == Kind::Wsgate { "--version" } else { "-v" };
        let mut command = Command::new(&self.path);
        let said = lend_libraries(self.kind, &mut command).arg(flag).output()?;
        let said = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().next().unwrap_or("a version that it does not say");
        Ok(line.split(" - ").next().unwrap_or(line).trim_start_matches("nginx version: ").to_owned())
    }
}

/// tests/interop unpacks what is not installed, and says where the libraries are.
fn lend_libraries(kind: Kind, command: &mut Command) -> &mut Command {
    match std::env::var_os("SERVER_LIBRARIES") {
        Some(folder) if kind != Kind::Wsgate => command.env("LD_LIBRARY_PATH", folder),
        _ => command,
    }
}

/// Certificates that all gates show, and their keys.
pub(crate) struct Identities(Vec<Identity>);

struct Identity {
    name: &'static str,
    certificate: String,
    key: String,
}

impl Identities {
    pub(crate) fn make() -> Fallible<Self> {
        let make = |name, algorithm: &'static SignatureAlgorithm| -> Fallible<Identity> {
            let key = KeyPair::generate_for(algorithm)?;
            let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?.pem();
            Ok(Identity { name, certificate, key: key.serialize_pem() })
        };
        // RSA keys have 2,048 bits.
        Ok(Self(vec![make("ecdsa", &PKCS_ECDSA_P256_SHA256)?, make("rsa", &PKCS_RSA_SHA256)?]))
    }

    fn write(&self, folder: &Path) -> Fallible<()> {
        for Identity { name, certificate, key } in &self.0 {
            write_secret(&folder.join(format!("{name}.crt")), certificate)?;
            write_secret(&folder.join(format!("{name}.key")), key)?;
            write_secret(&folder.join(format!("{name}.pem")), &format!("{certificate}{key}"))?;
        }
        Ok(())
    }
}

/// Writes what others may not read.
fn write_secret(file: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

/// What a gate's configuration depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) workers: usize,
    /// Connections that it must have room for.
    pub(crate) connections: usize,
    pub(crate) backend: SocketAddr,
    /// Where it runs; `None` is anywhere.
    pub(crate) core: Option<usize>,
}

impl Setting {
    /// Descriptors of a process.
    fn descriptors(&self) -> u64 {
        let wanted = DESCRIPTORS.max(2 * self.connections as u64 + 1_000);
        getrlimit(Resource::Nofile).maximum.map_or(wanted, |most| most.min(wanted))
    }

    fn fill(&self, text: &str, ports: Ports) -> String {
        let descriptors = self.descriptors();
        [
            ("@WORKERS@", self.workers.to_string()),
            ("@BACKEND@", self.backend.to_string()),
            ("@DESCRIPTORS@", descriptors.to_string()),
            // Two for each; the rest are its own.
            ("@CONNECTIONS@", (descriptors.saturating_sub(100) / 2).to_string()),
            ("@ECDSA@", ports.ecdsa.to_string()),
            ("@RSA@", ports.rsa.to_string()),
            ("@PLAIN@", ports.plain.to_string()),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// Where a gate listens.
#[derive(Clone, Copy)]
struct Ports {
    ecdsa: u16,
    rsa: u16,
    plain: u16,
}

impl Ports {
    /// Three that are free now: nginx and HAProxy can't be told to find one themselves.
    fn find() -> Fallible<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (ecdsa, rsa, plain) = (bind()?, bind()?, bind()?);
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Self { ecdsa: port(&ecdsa)?, rsa: port(&rsa)?, plain: port(&plain)? })
    }

    fn all(self) -> [u16; 3] {
        [self.ecdsa, self.rsa, self.plain]
    }
}

/// A running proxy. It ends when this is dropped.
pub(crate) struct Gate {
    pub(crate) process: Process,
    ports: Ports,
    folder: TempDir,
}

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a gate in {}", self.folder.path().display())
    }
}

impl Gate {
    pub(crate) fn start(program: &Program, setting: &Setting, identities: &Identities) -> Fallible<Self> {
        let mut tries = 1;
        loop {
            match Self::try_to_start(program, setting, identities) {
                Err(_) if tries < STARTS => tries += 1,
                result => return result,
            }
        }
    }

    fn try_to_start(program: &Program, setting: &Setting, identities: &Identities) -> Fallible<Self> {
        let folder = tempfile::tempdir()?;
        let ports = Ports::find()?;
        identities.write(folder.path())?;
        for (name, text) in program.kind.files() {
            fs::write(folder.path().join(name), setting.fill(text, ports))?;
        }
        let mut command = Process::command(setting.core, &program.path)?;
        let log = fs::File::create(folder.path().join("gate.log"))?;
        lend_libraries(program.kind, &mut command)
            .args(program.kind.arguments(folder.path()))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut gate = Self { process: Process::start(command)?, ports, folder };
        gate.listens().map_err(|error| gate.explain(&program.name, &*error))?;
        Ok(gate)
    }

    /// Waits until it takes connections at all its ports.
    fn listens(&mut self) -> Fallible<()> {
        let due = Instant::now() + STARTING;
        for port in self.ports.all() {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                if self.process.has_ended() || Instant::now() > due {
                    return Err("it does not listen".into());
                }
                pause(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Adds to an error what the gate said.
    pub(crate) fn explain(&self, name: &str, error: &dyn Error) -> Box<dyn Error> {
        let said = fs::read_to_string(self.folder.path().join("gate.log")).unwrap_or_default();
        format!("{name}: {error}\n{said}").into()
    }

    /// Where clients go that want this certificate, or none.
    pub(crate) fn address(&self, certificate: Option<Certificate>) -> SocketAddr {
        let port = match certificate {
            Some(Certificate::Ecdsa) => self.ports.ecdsa,
            Some(Certificate::Rsa) => self.ports.rsa,
            None => self.ports.plain,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The file of that certificate.
    pub(crate) fn authority(&self, certificate: Certificate) -> PathBuf {
        self.folder.path().join(match certificate {
            Certificate::Ecdsa => "ecdsa.crt",
            Certificate::Rsa => "rsa.crt",
        })
    }
}
