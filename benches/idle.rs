//! The memory of an idle tunnel, and how much of it comes back when it has closed.
//!
//! `cargo bench --bench idle` starts wsgate anew for each row of its table, opens 5,000 tunnels through it, sends a message
//! both ways through each, closes them all, and reads the memory (Pss) of the process in between. `-- --tunnels N` changes
//! the number, and `-- --wsgate PATH` measures another build. Without `--bench`, as `cargo test --bench idle` runs it, it is a
//! check that all of this works, with 200 tunnels.
//!
//! Client, backend and gate are on this machine, and all descriptors must fit: two here and two there for each tunnel.

use std::{
    error::Error,
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs, pki_types::CertificateDer,
    pki_types::ServerName,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use wsgate::lifecycle::raise_fd_limit;

/// Tunnels of a whole run, and of a check.
const TUNNELS: usize = 5_000;
const TUNNELS_OF_A_CHECK: usize = 200;
/// Payload of the message that each tunnel carries both ways; it is longer than what TLS puts into one record.
const MESSAGE: usize = 40_000;
/// Tunnels that go through these steps before the first reading, so that code and scratch buffers are in memory by then.
const WARM_UP: usize = 50;
/// Tunnels that are opened, used or closed at once.
const AT_ONCE: usize = 32;
/// How long a row may take in all.
const LONGEST: Duration = Duration::from_secs(120);
/// The memory is at rest when it has not changed in so many readings, this far apart.
const READINGS: usize = 10;
const BETWEEN_READINGS: Duration = Duration::from_millis(100);
/// How long after the last tunnel memory may still be given back.
const GIVING_BACK: Duration = Duration::from_secs(5);

const OFFER: &[u8] =
    b"GET /idle?room=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    tunnels: usize,
    wsgate: PathBuf,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Fallible<Self> {
        let mut parsed = Self { tunnels: TUNNELS_OF_A_CHECK, wsgate: env!("CARGO_BIN_EXE_wsgate").into() };
        while let Some(argument) = given.next() {
            match (argument.as_str(), &mut given) {
                // Cargo says this, and before all others that are given.
                ("--bench", _) => parsed.tunnels = TUNNELS,
                ("--tunnels", rest) => parsed.tunnels = rest.next().ok_or("--tunnels N")?.parse()?,
                ("--wsgate", rest) => parsed.wsgate = rest.next().ok_or("--wsgate PATH")?.into(),
                (other, _) => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(parsed)
    }
}

fn run(arguments: &Arguments) -> Fallible<()> {
    let fitting = raise_fd_limit();
    let tunnels = arguments.tunnels.min(fitting);
    if tunnels < arguments.tunnels {
        eprintln!("{tunnels} tunnels instead of {}: file descriptors are limited", arguments.tunnels);
    }
    println!("{tunnels} tunnels through {}\n", arguments.wsgate.display());
    println!(
        "{:<16} {:>9} {:>9} {:>13} {:>11} {:>10} {:>15}",
        "bytes of each", "at start", "idle", "after message", "when closed", "given back", "CPU per message"
    );
    let mut rows = Vec::new();
    for row in [
        Row { name: "wss", tls: true, access: false },
        Row { name: "wss, access log", tls: true, access: true },
        Row { name: "ws", tls: false, access: false },
        Row { name: "ws, access log", tls: false, access: true },
    ] {
        let figures = measure(&arguments.wsgate, row, tunnels)?;
        figures.print(row.name);
        rows.push((row, figures));
    }
    println!();
    for (row, figures) in rows.iter().filter(|(row, _)| !row.access) {
        figures.compare(*row);
    }
    Ok(())
}

/// What is measured in a process of its own.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    tls: bool,
    access: bool,
}

/// The memory of the process, in bytes.
struct Figures {
    tunnels: usize,
    before: u64,
    /// Every tunnel open, and none has carried a message.
    idle: u64,
    /// Every tunnel open, and each has carried one.
    used: u64,
    /// None is open any more.
    closed: u64,
    /// Processor time that the messages took.
    cpu: Duration,
}

impl Figures {
    /// Bytes of a tunnel, where the process had `pss`.
    #[expect(clippy::cast_precision_loss, reason = "the memory of a process is far below 2^52")]
    fn each(&self, pss: u64) -> f64 {
        (pss as f64 - self.before as f64) / self.tunnels as f64
    }

    /// What came back of the memory that the tunnels had taken, in percent.
    fn given_back(&self) -> f64 {
        let most = self.each(self.idle.max(self.used));
        100.0 * (most - self.each(self.closed)) / most
    }

    /// Microseconds of a message there and back.
    #[expect(clippy::cast_precision_loss, reason = "there are some thousands")]
    fn cpu_of_a_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.tunnels as f64
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<16} {:>6} KiB {:>9.0} {:>13.0} {:>11.0} {:>8.1} % {:>12.1} µs",
            self.before / 1024,
            self.each(self.idle),
            self.each(self.used),
            self.each(self.closed),
            self.given_back(),
            self.cpu_of_a_message(),
        );
    }

    /// Compares the figures with what ARCHITECTURE.md wants of them.
    fn compare(&self, row: Row) {
        let most = if row.tls { 5_000.0 } else { 1_300.0 };
        let change = 100.0 * (self.each(self.used) / self.each(self.idle) - 1.0);
        let line = |what: &str, figure: f64, is_met: bool| {
            let verdict = if is_met { "met" } else { "missed" };
            println!("{:<4} {what:<44} {figure:>8.1}  {verdict}", row.name);
        };
        line(
            &format!("bytes of an idle tunnel: at most {most}"),
            self.each(self.idle),
            self.each(self.idle) <= most,
        );
        line("change after a message: at most 5 %", change, change <= 5.0);
        line("given back within 5 s: at least 80 %", self.given_back(), self.given_back() >= 80.0);
    }
}

fn measure(program: &Path, row: Row, tunnels: usize) -> Fallible<Figures> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let backend = TcpListener::bind(("127.0.0.1", 0)).await?;
        let setup = Setup::new(row, backend.local_addr()?)?;
        tokio::spawn(serve(backend));
        let mut gate = Gate::start(program, setup)?;
        let measured = timeout(LONGEST, gate.measure(tunnels)).await;
        measured
            .unwrap_or_else(|_| Err("it took too long".into()))
            .map_err(|error| gate.explain(row, &*error))
    })
}

/// The files of a gate.
struct Setup {
    folder: TempDir,
    certificate: Option<CertificateDer<'static>>,
}

impl Setup {
    fn new(row: Row, backend: SocketAddr) -> Fallible<Self> {
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        let mut certificate = None;
        let mut tls = "";
        if row.tls {
            let CertifiedKey { cert, signing_key } =
                rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
            write("gate.crt", &cert.pem())?;
            write("gate.key", &signing_key.serialize_pem())?;
            certificate = Some(cert.der().clone());
            tls = "tls = { cert = \"gate.crt\", key = \"gate.key\" }";
        }
        let access = if row.access { "access.log" } else { "off" };
        let text = format!(
            "[server]\nworkers = 2\n[log]\naccess = \"{access}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{tls}\n\
             [upstream.backend]\nservers = [\"{backend}\"]\n[[route]]\nupstream = \"backend\"\n"
        );
        write("proxy.toml", &text)?;
        Ok(Self { folder, certificate })
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gate.log")
    }

    fn connector(&self) -> Fallible<Option<TlsConnector>> {
        let Some(certificate) = &self.certificate else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

/// wsgate as a process. It ends when this is dropped.
struct Gate {
    process: Child,
    setup: Setup,
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gate {
    fn start(program: &Path, setup: Setup) -> Fallible<Self> {
        let process = Command::new(fs::canonicalize(program)?)
            .arg("run")
            .current_dir(setup.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(setup.log())?)
            .spawn()?;
        Ok(Self { process, setup })
    }

    /// Adds to an error what the process said.
    fn explain(&self, row: Row, error: &dyn Error) -> Box<dyn Error> {
        let said = fs::read_to_string(self.setup.log()).unwrap_or_default();
        format!("{}: {error}\n{said}", row.name).into()
    }

    async fn measure(&mut self, tunnels: usize) -> Fallible<Figures> {
        let door = Door { address: self.address().await?, connector: self.setup.connector()? };
        let descriptors = self.descriptors()?;
        close(use_all(door.open(WARM_UP).await?).await?).await?;
        self.has_descriptors(descriptors).await?;
        let before = self.memory_at_rest().await?;
        let open = door.open(tunnels).await?;
        let idle = self.memory_at_rest().await?;
        let cpu = self.cpu()?;
        let open = use_all(open).await?;
        let cpu = self.cpu()?.saturating_sub(cpu);
        let used = self.memory_at_rest().await?;
        close(open).await?;
        self.has_descriptors(descriptors).await?;
        sleep(GIVING_BACK).await;
        let closed = self.memory()?;
        Ok(Figures { tunnels, before, idle, used, closed, cpu })
    }

    /// Where it listens, as soon as it says so.
    async fn address(&mut self) -> Fallible<SocketAddr> {
        loop {
            let said = fs::read_to_string(self.setup.log())?;
            let mut lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(address) = lines.find_map(|line| line.split("listening address=").nth(1)) {
                return Ok(address.trim().parse()?);
            }
            if self.process.try_wait()?.is_some() {
                return Err("wsgate ended".into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The text of one of the kernel's files about the process.
    fn about(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.process.id()))
    }

    /// What the process has of memory, in bytes: its own, and its share of what others have too.
    fn memory(&self) -> Fallible<u64> {
        let text = self.about("smaps_rollup")?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
        let kib: u64 = pss.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kib * 1024)
    }

    /// The same, when it does not change any more.
    async fn memory_at_rest(&self) -> Fallible<u64> {
        let began = Instant::now();
        let (mut last, mut same) = (self.memory()?, 0);
        while same < READINGS && began.elapsed() < GIVING_BACK {
            sleep(BETWEEN_READINGS).await;
            let now = self.memory()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Processor time that it has used.
    fn cpu(&self) -> Fallible<Duration> {
        let stat = self.about("stat")?;
        // The second field is the name in parentheses; user and system time are the 14th and the 15th.
        let fields = stat.rsplit(')').next().ok_or("no name")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Duration::from_millis(10) * u32::try_from(ticks.iter().sum::<u64>())?)
    }

    fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    /// Waits until no more than `count` are open.
    async fn has_descriptors(&self, count: usize) -> Fallible<()> {
        while self.descriptors()? > count {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

type Tunnel = Box<dyn Stream>;

/// How clients come in.
struct Door {
    address: SocketAddr,
    connector: Option<TlsConnector>,
}

impl Door {
    /// Opens so many tunnels.
    async fn open(&self, count: usize) -> Fallible<Vec<Tunnel>> {
        stream::iter(0..count).map(|_| self.open_one()).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn open_one(&self) -> Fallible<Tunnel> {
        let socket = TcpSocket::new_v4()?.connect(self.address).await?;
        socket.set_nodelay(true)?;
        let mut tunnel: Tunnel = match &self.connector {
            Some(connector) => Box::new(connector.connect(ServerName::try_from("localhost")?, socket).await?),
            None => Box::new(socket),
        };
        tunnel.write_all(OFFER).await?;
        tunnel.flush().await?;
        let head = read_head(&mut tunnel).await?;
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(String::from_utf8_lossy(&head).into());
        }
        Ok(tunnel)
    }
}

/// Runs `step` on all tunnels, and returns what comes of them.
async fn each<F, T>(open: Vec<Tunnel>, step: impl Fn(Tunnel) -> F) -> Fallible<Vec<T>>
where
    F: Future<Output = Fallible<T>>,
{
    stream::iter(open).map(step).buffer_unordered(AT_ONCE).try_collect().await
}

/// Sends a message through each tunnel, and awaits it back.
async fn use_all(open: Vec<Tunnel>) -> Fallible<Vec<Tunnel>> {
    let payload = &(0..=u8::MAX).cycle().take(MESSAGE).collect::<Vec<_>>();
    let message = &frame(BINARY, payload, Some([0x37, 0xfa, 0x21, 0x3d]));
    each(open, |mut tunnel| async move {
        tunnel.write_all(message).await?;
        tunnel.flush().await?;
        let (first, echo) = read_frame(&mut tunnel).await?;
        if first == BINARY && echo == *payload {
            Ok(tunnel)
        } else {
            Err("an echo is not what was sent".into())
        }
    })
    .await
}

/// Takes each tunnel through the closing handshake.
async fn close(open: Vec<Tunnel>) -> Fallible<()> {
    let normal = &frame(CLOSE, &1000_u16.to_be_bytes(), Some([0; 4]));
    each(open, |mut tunnel| async move {
        tunnel.write_all(normal).await?;
        tunnel.flush().await?;
        let (first, _) = read_frame(&mut tunnel).await?;
        let rest = tunnel.read(&mut [0]).await?;
        if first == CLOSE && rest == 0 { Ok(()) } else { Err("a tunnel did not end with its Close".into()) }
    })
    .await?;
    Ok(())
}

/// The backend: it agrees to every offer, echoes every frame, and ends after a Close.
async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        // What goes wrong here, the client's side of the tunnel sees too.
        tokio::spawn(async { echo(socket).await.is_ok() });
    }
}

async fn echo(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    read_head(&mut socket).await?;
    socket.write_all(AGREED).await?;
    loop {
        let (first, payload) = read_frame(&mut socket).await?;
        socket.write_all(&frame(first, &payload, None)).await?;
        if first == CLOSE {
            return Ok(());
        }
    }
}

/// Reads the next frame that is no Ping or Pong, and unmasks it.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let mut start = [0; 2];
        stream.read_exact(&mut start).await?;
        let length = match start[1] & 0x7f {
            126 => stream.read_u16().await?.into(),
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        if start[1] & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        if start[0] == BINARY || start[0] == CLOSE {
            return Ok((start[0], payload));
        }
    }
}

/// A frame of at most 65,535 bytes, masked as those of clients must be.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        frame.push(mask_bit | short);
    } else {
        frame.push(mask_bit | 0x7e);
        frame.extend(u16::try_from(payload.len()).expect("a short payload").to_be_bytes());
    }
    frame.extend(mask.iter().flatten());
    frame.extend(payload.iter().zip(mask.unwrap_or_default().iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Reads to the end of a head, behind which nothing may come yet.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}
