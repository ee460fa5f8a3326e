//! `wsgate run --to`: a configuration out of a few words.
//!
//! It is written as the text of a proxy.toml and read like one, so what is printed is what runs.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// A backend in the form that `upstream.servers` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend(String);

impl FromStr for Backend {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected host:port such as 127.0.0.1:9000, a port, or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self(text.into())) } else { Err("expected unix:/path") };
        }
        if text.starts_with("https://") || text.starts_with("wss://") {
            return Err("backends are spoken to without TLS: expected host:port");
        }
        let url = text.strip_prefix("http://").or_else(|| text.strip_prefix("ws://"));
        let address = url.map_or(text, |rest| rest.strip_suffix('/').unwrap_or(rest));
        if let Ok(Port::On(port @ 1..)) = address.parse() {
            return Ok(Self(format!("127.0.0.1:{port}")));
        }
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                if host.contains(|c: char| c == '/' || c == '@' || c == '$' || c.is_whitespace()) {
                    return Err(EXPECTED);
                }
                Ok(Self(address.into()))
            }
            _ => Err(EXPECTED),
        }
    }
}

/// A port to listen on, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    On(u16),
    Off,
}

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|_| "expected a port from 0 (any that is free) to 65535, or off")
    }
}

/// What stands in front of which backends.
#[derive(Debug)]
pub(super) struct Quick<'a> {
    pub(super) backends: &'a [Backend],
    pub(super) tls: Port,
    pub(super) plain: Port,
    pub(super) bind: IpAddr,
}

impl Quick<'_> {
    /// The proxy.toml that says the same.
    pub(super) fn text(&self) -> String {
        self.to_string()
    }

    /// Names of the certificate: those of this machine, and the address that was asked for.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(Into::into).into();
        if !self.bind.is_loopback() && !self.bind.is_unspecified() {
            names.push(self.bind.to_string());
        }
        names
    }
}

impl fmt::Display for Quick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# Written by `wsgate run --to`. As proxy.toml it is what `wsgate run` reads.\n")?;
        if let Port::On(port) = self.tls {
            let names: Vec<_> = self.names().iter().map(|name| quoted(name)).collect();
            write!(
                f,
                "\n[[listener]]\naddress = {}\n",
                quoted(&SocketAddr::new(self.bind, port).to_string())
            )?;
            writeln!(f, "tls = {{ self_signed = [{}] }}", names.join(", "))?;
        }
        if let Port::On(port) = self.plain {
            write!(
                f,
                "\n[[listener]]\naddress = {}\n",
                quoted(&SocketAddr::new(self.bind, port).to_string())
            )?;
        }
        let servers: Vec<_> = self.backends.iter().map(|backend| quoted(&backend.0)).collect();
        write!(f, "\n[upstream.backend]\nservers = [{}]\n", servers.join(", "))?;
        f.write_str("\n[[route]]\nupstream = \"backend\"\n")
    }
}

/// A TOML string that stands for `text` itself: nothing in it is taken for an environment variable.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Writing to a String does not fail.
            c if c.is_control() => _ = write!(quoted, "\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn backend(text: &str) -> String {
        text.parse::<Backend>().unwrap().0
    }

    #[test]
    fn backends_are_written_as_people_write_them() {
        assert_eq!(backend("127.0.0.1:9000"), "127.0.0.1:9000");
        assert_eq!(backend("9000"), "127.0.0.1:9000");
        assert_eq!(backend("http://backend.test:80/"), "backend.test:80");
        assert_eq!(backend("ws://[::1]:80"), "[::1]:80");
        assert_eq!(backend("unix:/run/${a b}.sock"), "unix:/run/${a b}.sock");
        for bad in
            ["", "0", "a", "a:", ":1", "a:0", "a:65536", "a/b:1", "wss://a:1", "http://a:1/path", "unix:a"]
        {
            assert!(bad.parse::<Backend>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_text_is_a_short_proxy_toml() {
        let backends = ["9000", "unix:/run/a\"b.sock"].map(|text| text.parse().unwrap());
        let quick = Quick {
            backends: &backends,
            tls: Port::On(8443),
            plain: Port::On(8080),
            bind: Ipv4Addr::LOCALHOST.into(),
        };
        assert_eq!(
            quick.text(),
            r#"# Written by `wsgate run --to`. As proxy.toml it is what `wsgate run` reads.

[[listener]]
address = "127.0.0.1:8443"
tls = { self_signed = ["localhost", "127.0.0.1", "::1"] }

[[listener]]
address = "127.0.0.1:8080"

[upstream.backend]
servers = ["127.0.0.1:9000", "unix:/run/a\"b.sock"]

[[route]]
upstream = "backend"
"#
        );
    }

    #[test]
    fn a_listener_can_be_off_and_an_address_gets_its_name() {
        let backends = ["9000".parse().unwrap()];
        let text = Quick {
            backends: &backends,
            tls: Port::On(443),
            plain: Port::Off,
            bind: "192.168.1.20".parse().unwrap(),
        }
        .text();
        assert_eq!(text.matches("[[listener]]").count(), 1);
        assert!(
            text.contains(r#"self_signed = ["localhost", "127.0.0.1", "::1", "192.168.1.20"]"#),
            "{text}"
        );
        let text =
            Quick { backends: &backends, tls: Port::Off, plain: Port::On(80), bind: "::".parse().unwrap() }
                .text();
        assert!(text.contains("address = \"[::]:80\"\n") && !text.contains("tls"), "{text}");
    }

    #[test]
    fn strings_stand_for_themselves() {
        assert_eq!(quoted("a\\b\"c\n${d}"), r#""a\\b\"c\u000A$${d}""#);
    }
}
