//! Asking a running wsgate over its admin listener.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, body::Bytes, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, UnixStream},
    runtime,
    time::timeout,
};
use wsgate::config::{Config, ListenAddress};

use super::{Failure, arguments::Admin};

/// The environment variable of the token where `--admin` names the address.
const TOKEN: &str = "WSGATE_ADMIN_TOKEN";
/// Bytes of an answer that are read at most.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// `127.0.0.1:9900` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(ListenAddress);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected ip:port such as 127.0.0.1:9900, or unix:/path";
        match text.strip_prefix("unix:") {
            Some("") => Err(EXPECTED),
            Some(path) => Ok(Self(ListenAddress::Unix(PathBuf::from(path)))),
            None => {
                let address: SocketAddr = text.parse().map_err(|_| EXPECTED)?;
                if address.port() == 0 { Err(EXPECTED) } else { Ok(Self(ListenAddress::Inet(address))) }
            }
        }
    }
}

/// Where a running wsgate is asked, and with what.
#[derive(Debug)]
pub(super) struct Client {
    address: ListenAddress,
    token: Option<String>,
}

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody answers.
    #[error("cannot reach the admin listener at {0}")]
    Unreachable(ListenAddress, #[source] io::Error),
    /// Something other than wsgate does.
    #[error("the admin listener at {0} gave no answer that can be read")]
    Broken(ListenAddress, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It takes too long.
    #[error("the admin listener at {address} gave no answer within {} s", within.as_secs())]
    TimedOut {
        /// It.
        address: ListenAddress,
        /// The time that it had.
        within: Duration,
    },
    /// It says no.
    #[error("{error}")]
    Refused {
        /// The status.
        status: u16,
        /// What it says.
        error: String,
    },
}

/// An answer: its status and body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Client {
    /// Who the command line, or else the configuration file, says.
    pub(super) fn find(arguments: &Admin) -> Result<Self, Failure> {
        if let Some(Address(address)) = &arguments.admin {
            let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
            return Ok(Self { address: address.clone(), token });
        }
        let file = arguments.config.display();
        let admin = Config::load_admin(&arguments.config).map_err(Failure::usage)?;
        let admin = admin.ok_or_else(|| {
            Failure::usage(format!(
                "{file} has no [admin], so nothing listens for this\n  = help: `[admin]` with `address = \"127.0.0.1:9900\"` opens the \
                admin listener at a reload by SIGHUP, or at the next start\n  = help: `--admin ADDRESS` names one that is elsewhere"
            ))
        })?;
        if matches!(admin.address, ListenAddress::Inet(address) if address.port() == 0) {
            return Err(Failure::usage(format!(
                "`admin.address` in {file} has the port 0, which is any that was free\n  = help: `--admin ADDRESS` names the one that it \
                got; the log has it at \"admin listening\""
            )));
        }
        let token = admin.token.map(|token| token.reveal().to_owned());
        Ok(Self { address: admin.address, token })
    }

    /// The JSON with which it answers, or why there is none.
    pub(super) fn json(&self, method: Method, path: &str, within: Duration) -> Result<Value, AskError> {
        let Answer { status, body } = self.ask(method, path, within)?;
        let json: Value = serde_json::from_slice(&body)
            .map_err(|error| AskError::Broken(self.address.clone(), error.into()))?;
        if status == 200 {
            return Ok(json);
        }
        let error = json["error"].as_str().unwrap_or("it was refused").to_owned();
        Err(AskError::Refused { status, error })
    }

    /// Asks, and waits for the whole answer.
    pub(super) fn ask(&self, method: Method, path: &str, within: Duration) -> Result<Answer, AskError> {
        let unreachable = |error| AskError::Unreachable(self.address.clone(), error);
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
        let asked = runtime.block_on(async { timeout(within, self.exchange(method, path)).await });
        asked.unwrap_or_else(|_| Err(AskError::TimedOut { address: self.address.clone(), within }))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Answer, AskError> {
        let unreachable = |error| AskError::Unreachable(self.address.clone(), error);
        match &self.address {
            ListenAddress::Inet(address) => {
                let address = reachable(*address);
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
                let stream = socket.map_err(unreachable)?.connect(address).await.map_err(unreachable)?;
                self.over(stream, method, path, &address.to_string()).await
            }
            ListenAddress::Unix(path_of_socket) => {
                let stream = UnixStream::connect(path_of_socket).await.map_err(unreachable)?;
                self.over(stream, method, path, "localhost").await
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        host: &str,
    ) -> Result<Answer, AskError> {
        let broken =
            |error: Box<dyn std::error::Error + Send + Sync>| AskError::Broken(self.address.clone(), error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::<Bytes>::default()).map_err(|error| broken(error.into()))?;
        let answer: Response<Incoming> =
            sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await.map_err(broken)?;
        Ok(Answer { status, body: body.to_bytes() })
    }
}

/// Where a listener on all addresses is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_a_path() {
        for good in ["127.0.0.1:9900", "[::1]:9900", "unix:/run/wsgate.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in
            ["", "9900", "localhost:9900", "127.0.0.1", "127.0.0.1:0", "unix:", "http://127.0.0.1:9900"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_own_machine() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:9900"), "127.0.0.1:9900");
        assert_eq!(reached("[::]:9900"), "[::1]:9900");
        assert_eq!(reached("192.0.2.1:9900"), "192.0.2.1:9900");
    }
}
