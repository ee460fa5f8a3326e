//! What can be said on the command line.
#![expect(clippy::doc_markdown, reason = "these comments are what `--help` prints")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use wsgate::tls::development::{ClientName, ServerName};

use super::{
    client::Address,
    quick::{Backend, Port},
};

/// The configuration that is read unless another one is named.
pub(super) const DEFAULT_FILE: &str = "proxy.toml";

/// A reverse proxy for WebSockets that ends TLS.
///
/// Clients connect with wss:// or ws:// (and https:// or http://); wsgate checks their handshake, forwards it to a
/// backend, verifies the answer, and relays every frame both ways.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  wsgate demo                        See it work: a built-in backend, with TLS in front of it
  wsgate run --to 127.0.0.1:9000     Put TLS in front of your backend, without a file
  wsgate check                       Read proxy.toml and print what it means
  wsgate run                         Run by proxy.toml
  wsgate status                      Ask the running one how it is
  wsgate reload                      Have it read proxy.toml again

Exit codes: 0 fine, 1 failed while running, 2 wrong usage or configuration.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy, by a file or in front of one backend
    ///
    /// It runs until SIGTERM or SIGINT (Ctrl-C); open tunnels and requests then have the time of `shutdown_grace`
    /// to end, and a second signal cuts them. With `shutdown_delay` it goes on for so long before that: a second
    /// signal then begins the drain, and a third one cuts.
    ///
    /// SIGHUP has it read its configuration again, SIGUSR1 open the file of access records anew.
    Run(Run),
    /// Read a configuration and print what it means, or all that is wrong with it
    ///
    /// Every file that it names is read too. Nothing is opened for clients and nothing is written.
    Check(Check),
    /// Have a running wsgate read its configuration again
    ///
    /// It is read, checked and put in force as a whole; if anything is wrong with it, the old one stays in force and
    /// what `wsgate check` would say is printed. This asks the admin listener, whose address and token are read from
    /// the configuration file; of that, only [admin] has to be right here.
    Reload(Reload),
    /// Show how a running wsgate is: listeners, upstreams, tunnels
    ///
    /// This asks the admin listener, whose address and token are read from the configuration file; of that, only
    /// [admin] has to be right here.
    Status(Status),
    /// Make certificates for development
    ///
    /// A local CA is made once (ca.crt, ca.key), and certificates that it signs: server.crt and server.key for the
    /// names given, or with --client a client's for mutual TLS. How to make browsers and tools trust the CA is
    /// printed.
    Cert(Cert),
    /// Run a built-in backend with wsgate in front of it
    ///
    /// The backend speaks HTTP and WebSocket on a free port of this machine; wsgate has a development certificate.
    /// What to open in a browser and what to try with curl and wscat is printed.
    Demo(Demo),
    /// Print the completions of a shell
    ///
    /// For bash: `source <(wsgate completions bash)`; or put the output where the shell looks for such scripts.
    Completions(Completions),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(super) struct Run {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    pub(super) config: PathBuf,

    /// Run without a file in front of this backend: host:port, a port of this machine, or unix:/path. Give it
    /// several times to balance over several backends
    #[arg(long, value_name = "BACKEND", conflicts_with = "config", help_heading = WITHOUT_FILE)]
    pub(super) to: Vec<Backend>,

    #[command(flatten)]
    pub(super) ports: Ports,

    /// Address to listen on; 0.0.0.0 is reached from other machines too
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), requires = "to",
          help_heading = WITHOUT_FILE)]
    pub(super) bind: IpAddr,

    /// Print the proxy.toml that says the same, and end
    #[arg(long, requires = "to", help_heading = WITHOUT_FILE)]
    pub(super) print_config: bool,
}

const WITHOUT_FILE: &str = "Without a file";

/// The ports of `run --to`.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Ports {
    /// Port for https:// and wss://, with a development certificate; or off
    #[arg(long, value_name = "PORT", default_value = "8443", requires = "to", help_heading = WITHOUT_FILE)]
    pub(super) tls: Port,

    /// Port for http:// and ws://; or off
    #[arg(long, value_name = "PORT", default_value = "8080", requires = "to", help_heading = WITHOUT_FILE)]
    pub(super) plain: Port,
}

const RUN_EXAMPLES: &str = "\
Examples:
  wsgate run                                   By the proxy.toml of this folder
  wsgate run -c /etc/wsgate/proxy.toml
  wsgate run --to 127.0.0.1:9000               https and wss on 8443, http and ws on 8080
  wsgate run --to 9000 --to 9001 --bind 0.0.0.0 --tls 443 --plain off
  wsgate run --to 9000 --print-config > proxy.toml

Certificates of --to are kept in ./certs where there is such a folder or a proxy.toml, else in
$XDG_DATA_HOME/wsgate/certs or ~/.local/share/wsgate/certs.";

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    pub(super) config: PathBuf,
}

/// Where the admin listener is.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Admin {
    /// The configuration file of the running wsgate
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    pub(super) config: PathBuf,

    /// The admin listener's address, ip:port or unix:/path, instead of what a file says. Its token is then taken from
    /// the environment variable WSGATE_ADMIN_TOKEN
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    pub(super) admin: Option<Address>,
}

#[derive(Debug, Args)]
#[command(after_help = RELOAD_CODES)]
pub(super) struct Reload {
    #[command(flatten)]
    pub(super) admin: Admin,
}

const RELOAD_CODES: &str = "\
Exit codes: 0 the new configuration is in force, 1 it could not be asked for, or not now, 2 it is wrong and the old one \
stays in force.";

#[derive(Debug, Args)]
#[command(after_help = STATUS_CODES)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) admin: Admin,

    /// Print JSON: what GET /api/status, /api/listeners and /api/upstreams tell, in one object
    #[arg(long)]
    pub(super) json: bool,

    /// Print one word and say by the exit code whether it is ready, as health checks of containers want it; without
    /// [admin], whether its first listener accepts
    #[arg(long, conflicts_with = "json")]
    pub(super) health: bool,
}

const STATUS_CODES: &str = "\
Exit codes: 0 fine, with --health ready; 1 it could not be asked, with --health also not ready; 2 wrong usage or [admin].";

#[derive(Debug, Args)]
#[command(after_help = CERT_EXAMPLES)]
pub(super) struct Cert {
    /// DNS names (also *.example.test) and IP addresses of the server [default: localhost 127.0.0.1 ::1]
    #[arg(conflicts_with = "client")]
    pub(super) names: Vec<ServerName>,

    /// Make a client's certificate instead, client-NAME.crt and client-NAME.key
    #[arg(long, value_name = "NAME")]
    pub(super) client: Option<ClientName>,

    /// The folder of the certificates; it is made if missing
    #[arg(long, value_name = "FOLDER", default_value = "certs", value_hint = ValueHint::DirPath)]
    pub(super) dir: PathBuf,

    /// Overwrite the certificate and the key if they are there. The CA is kept unless it is about to expire
    #[arg(long)]
    pub(super) force: bool,
}

const CERT_EXAMPLES: &str = "\
Examples:
  wsgate cert                                  For localhost, 127.0.0.1 and ::1
  wsgate cert chat.test '*.chat.test' 192.168.1.20 --force
  wsgate cert --client alice";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Port for https:// and wss:// [default: 8443, or the next one that is free]
    #[arg(long, value_name = "PORT")]
    pub(super) tls: Option<u16>,

    /// Port for http:// and ws:// [default: 8080, or the next one that is free]
    #[arg(long, value_name = "PORT")]
    pub(super) plain: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// The folder; it is made if missing
    #[arg(value_hint = ValueHint::DirPath)]
    pub(super) folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exit_codes_are_wrapped_by_the_terminal_alone() {
        for codes in [RELOAD_CODES, STATUS_CODES] {
            assert!(codes.starts_with("Exit codes: ") && !codes.contains('\n'), "{codes}");
        }
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for line in [
            "wsgate",
            "wsgate run --to 9000 -c proxy.toml",
            "wsgate run --tls 8443",
            "wsgate run --bind 0.0.0.0",
            "wsgate run --print-config",
            "wsgate run --to 9000 --tls 70000",
            "wsgate cert a.test --client alice",
            "wsgate cert https://a.test",
            "wsgate cert --client ../alice",
            "wsgate demo --tls off",
            "wsgate status --health --json",
            "wsgate status -c a.toml --admin 127.0.0.1:9900",
            "wsgate reload --admin localhost",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "wsgate run",
            "wsgate run -c a.toml",
            "wsgate run --to 9000 --to unix:/run/a.sock --tls 443 --plain off --bind ::1 --print-config",
            "wsgate check --config a.toml",
            "wsgate cert",
            "wsgate cert --client alice --dir x --force",
            "wsgate demo --tls 0 --plain 0",
            "wsgate status --health",
            "wsgate status --json -c a.toml",
            "wsgate reload --admin unix:/run/wsgate.sock",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
