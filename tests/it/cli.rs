//! The command line: what it prints, what it writes and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

struct Shell {
    folder: TempDir,
}

impl Shell {
    /// An empty folder, which is the home too.
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn wsgate(&self, line: &str) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_wsgate"))
            .args(line.split_whitespace())
            .current_dir(self.path())
            .env("HOME", self.path().join("home"))
            .env_remove("XDG_DATA_HOME")
            .output()
            .unwrap();
        Ended::from(output)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.path()).unwrap().next().is_none()
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn fine(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "");
        self.err
    }
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

const PROXY: &str = r#"
[[listener]]
address = "127.0.0.1:0"
tls = { cert = "certs/server.crt", key = "certs/server.key" }

[upstream.websocket]
servers = ["127.0.0.1:9000"]

[[route]]
upstream = "websocket"
"#;

#[test]
fn help_shows_a_newcomer_the_way() {
    let shell = Shell::new();
    let help = shell.wsgate("--help").fine();
    holds(&help, &["wsgate demo", "wsgate run --to 127.0.0.1:9000", "check", "cert", "Exit codes"]);
    holds(
        &shell.wsgate("run --help").fine(),
        &[
            "SIGTERM",
            "SIGHUP",
            "SIGUSR1",
            "`shutdown_delay`",
            "a third one",
            "--to",
            "--tls",
            "--plain",
            "--print-config",
            "8443",
        ],
    );
    holds(&shell.wsgate("check --help").fine(), &["--config", "proxy.toml"]);
    holds(&shell.wsgate("cert --help").fine(), &["--client", "--force", "localhost"]);
    holds(&shell.wsgate("demo --help").fine(), &["8443", "8080"]);
    assert_eq!(shell.wsgate("--version").fine(), format!("wsgate {}\n", env!("CARGO_PKG_VERSION")));
    assert!(shell.is_empty());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let shell = Shell::new();
    holds(&shell.wsgate("").failed(2), &["Usage: wsgate"]);
    holds(&shell.wsgate("rnu").failed(2), &["unrecognized subcommand 'rnu'"]);
    holds(&shell.wsgate("run --to nowhere").failed(2), &["expected host:port such as 127.0.0.1:9000"]);
    holds(&shell.wsgate("run --tls 8443").failed(2), &["--to"]);
    holds(&shell.wsgate("run --to 9000 --tls off --plain off").failed(2), &["nothing to listen on"]);
    holds(&shell.wsgate("cert a_b:443").failed(2), &["no certificate can be made for `a_b:443`"]);
    holds(&shell.wsgate("cert --client ../alice").failed(2), &["`../alice`"]);
    assert!(shell.is_empty());
}

#[test]
fn a_missing_configuration_names_the_ways_without_one() {
    let shell = Shell::new();
    for command in ["run", "check"] {
        let error = shell.wsgate(command).failed(2);
        holds(&error, &["proxy.toml: No such file", "-c FILE", "wsgate run --to", "wsgate demo"]);
    }
}

#[test]
fn certificates_are_made_once() {
    let shell = Shell::new();
    let made = shell.wsgate("cert").fine();
    holds(
        &made,
        &["made     certs/ca.crt", "made     certs/server.crt (for localhost, 127.0.0.1, ::1, until "],
    );
    holds(&made, &["update-ca-certificates", "Firefox", "certutil -d sql:", "curl --cacert certs/ca.crt"]);
    for key in ["certs/ca.key", "certs/server.key"] {
        assert_eq!(fs::metadata(shell.path().join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let files = ["certs/ca.crt", "certs/ca.key", "certs/server.crt", "certs/server.key"];
    let before = files.map(|file| shell.read(file));
    holds(&shell.wsgate("cert").fine(), &["kept     certs/ca.crt", "kept     certs/server.crt"]);
    let error = shell.wsgate("cert a.test").failed(1);
    holds(&error, &["certs/server.crt is already there", "does not cover a.test", "--force"]);
    assert_eq!(files.map(|file| shell.read(file)), before);

    holds(
        &shell.wsgate("cert a.test --force").fine(),
        &["kept     certs/ca.crt", "renewed  certs/server.crt"],
    );
    assert_eq!(shell.read("certs/ca.key"), before[1]);
    assert_ne!(shell.read("certs/server.crt"), before[2]);
}

#[test]
fn a_client_gets_a_certificate_of_the_same_ca() {
    let shell = Shell::new();
    shell.wsgate("cert --dir pki").fine();
    let made = shell.wsgate("cert --dir pki --client alice").fine();
    holds(
        &made,
        &["kept     pki/ca.crt", "made     pki/client-alice.crt", "--cert pki/client-alice.crt", "pkcs12"],
    );
    assert!(!shell.path().join("certs").exists());
}

#[test]
fn check_prints_what_it_understood() {
    let shell = Shell::new();
    shell.wsgate("cert a.test").fine();
    shell.write("proxy.toml", PROXY);
    let report = shell.wsgate("check").fine();
    holds(&report, &["127.0.0.1:0", "a.test", "expires in 396 days", "websocket", "127.0.0.1:9000"]);
    holds(&report, &["proxy.toml is fine"]);
}

#[test]
fn a_wrong_configuration_is_exit_code_2_with_all_its_problems() {
    let shell = Shell::new();
    shell.write("proxy.toml", &PROXY.replace("upstream = ", "upstrem = "));
    for command in ["check", "run", "run -c proxy.toml"] {
        let error = shell.wsgate(command).failed(2);
        holds(&error, &["proxy.toml:10:1", "`upstrem`", "certs/server.crt", "proxy.toml:4:"]);
    }
}

#[test]
fn what_print_config_prints_is_a_configuration() {
    let shell = Shell::new();
    let text =
        shell.wsgate("run --to 9000 --to unix:/run/a.sock --tls 443 --bind 0.0.0.0 --print-config").fine();
    assert!(shell.is_empty());
    holds(&text, &["address = \"0.0.0.0:443\"", "servers = [\"127.0.0.1:9000\", \"unix:/run/a.sock\"]"]);
    shell.write("proxy.toml", &text);
    let report = shell.wsgate("check").fine();
    holds(&report, &["0.0.0.0:443", "0.0.0.0:8080", "unix:/run/a.sock", "localhost"]);
    assert!(!shell.path().join("certs").exists());
}

#[test]
fn a_backend_that_cannot_be_is_named_before_anything_runs() {
    let shell = Shell::new();
    let error = shell.wsgate("run --to 300.1.1.1:90 --print-config").failed(2);
    holds(&error, &["wsgate run --to:", "300.1.1.1:90"]);
}
