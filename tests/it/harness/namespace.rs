//! A network of its own, whose only wire can be cut: whoever is in it vanishes without a FIN or a reset.

use std::{
    fs::File,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Backend, PATIENCE, Peer};

/// What the gate's kernel hears of a peer behind a wire that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing at all, as of a peer behind a router.
    Silent,
    /// That nobody has its address any more, as of a neighbour.
    Unreachable,
}

/// A network namespace with one wire to the gate's; both are gone when it is dropped.
pub struct Namespace {
    name: String,
    near: String,
    far: String,
    near_address: IpAddr,
    far_address: IpAddr,
}

impl Namespace {
    /// A new one; `None`, and a word on the standard error, where this process may not make one.
    pub fn new(loss: Loss) -> Option<Self> {
        let made = Self::make(loss);
        if let Err(reason) = &made {
            // Around the capture of the tests' output, so that nobody takes this for a test that was run.
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = writeln!(io::stderr(), "{test}: SKIPPED, there is no network namespace: {reason}");
        }
        made.ok()
    }

    fn make(loss: Loss) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("it takes root".into());
        }
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let name = format!("wsg{process}x{number}");
        // A network of four addresses out of those for tests (RFC 2544).
        let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + ((process * 16 + number) % 0x8000) * 4;
        let this = Self {
            near: format!("{name}a"),
            far: format!("{name}b"),
            near_address: Ipv4Addr::from(network + 1).into(),
            far_address: Ipv4Addr::from(network + 2).into(),
            name,
        };
        let Self { name, near, far, near_address, far_address } = &this;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {near} type veth peer name {far} netns {name}"))?;
        ip(&format!("address add {near_address}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {name} address add {far_address}/30 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        if loss == Loss::Silent {
            let link = ip(&format!("-n {name} link show {far}"))?;
            let mut words = link.split_whitespace().skip_while(|word| *word != "link/ether");
            let hardware = words.nth(1).ok_or_else(|| format!("no address in {link}"))?;
            ip(&format!("neigh replace {far_address} lladdr {hardware} dev {near} nud permanent"))?;
        }
        Ok(this)
    }

    /// Where a gate listens that is to be reached from here.
    pub fn gate_address(&self) -> String {
        format!("{}:0", self.near_address)
    }

    /// A connection from here to `address`.
    pub fn dial(&self, address: SocketAddr) -> Peer {
        let stream = self.within(|| std::net::TcpStream::connect_timeout(&address, PATIENCE));
        stream.set_nonblocking(true).expect("a socket");
        Peer::from(tokio::net::TcpStream::from_std(stream).expect("a socket"))
    }

    /// A backend in here.
    pub fn listen(&self) -> Backend {
        let listener = self.within(|| std::net::TcpListener::bind((self.far_address, 0)));
        listener.set_nonblocking(true).expect("a socket");
        Backend::from(tokio::net::TcpListener::from_std(listener).expect("a socket"))
    }

    /// Cuts the wire: not a packet passes any more.
    #[track_caller]
    pub fn cut(&self) {
        ip(&format!("-n {} link set {} down", self.name, self.far)).expect("a link");
    }

    /// Makes a socket in here. It stays where it was made, whoever uses it.
    fn within<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> T {
        let path = format!("/var/run/netns/{}", self.name);
        let enter_and_make = || {
            let namespace = File::open(path)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        };
        // A thread of its own, which ends in there.
        let socket = std::thread::scope(|scope| scope.spawn(enter_and_make).join().expect("no panic"));
        socket.expect("a socket in the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The namespace outlives its name while sockets are open in it; its wire goes now.
        let _ = ip(&format!("link delete {}", self.near));
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

/// Runs `ip` of iproute2.
fn ip(line: &str) -> Result<String, String> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
