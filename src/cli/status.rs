//! `wsgate status`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use hyper::Method;
use serde_json::{Value, json};
use wsgate::config::{Config, ListenAddress};

use super::{
    Failure,
    arguments::{Admin, Status},
    client::{Answer, Client},
    say,
};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &Status) -> Result<(), Failure> {
    if arguments.health {
        return health(arguments);
    }
    let client = Client::find(&arguments.admin)?;
    let get = |path| client.json(Method::GET, path, PATIENCE).map_err(Failure::runtime);
    let mut all = json!({ "status": get("/api/status")? });
    for (path, key) in [("/api/listeners", "listeners"), ("/api/upstreams", "upstreams")] {
        all[key] = get(path)?[key].take();
    }
    if arguments.json {
        say(format_args!("{all:#}\n"));
    } else {
        say(overview(&all));
    }
    Ok(())
}

/// Without an admin listener there is nobody to ask: that a listener accepts is what can be known of its health.
fn accepts(file: &Path) -> Result<(), Failure> {
    let loaded = Config::load(file).map_err(Failure::runtime)?;
    // A configuration has one at least.
    let Some(listener) = loaded.config.listeners.first() else { return Ok(()) };
    let connected = match &listener.address {
        ListenAddress::Inet(address) => {
            let mut address = *address;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            TcpStream::connect_timeout(&address, PATIENCE).map(drop)
        }
        ListenAddress::Unix(path) => UnixStream::connect(path).map(drop),
    };
    connected.map_err(|error| Failure::runtime(format!("not ready: {}: {error}", listener.address)))?;
    say("accepts connections; no [admin] to ask\n");
    Ok(())
}

/// A word, and whether it is "ready".
fn health(arguments: &Status) -> Result<(), Failure> {
    let Admin { config, admin } = &arguments.admin;
    if admin.is_none() && matches!(Config::load_admin(config), Ok(None)) {
        return accepts(config);
    }
    // A health check knows of 0 and 1 alone.
    let client = Client::find(&arguments.admin).map_err(|failure| match failure {
        Failure::Usage(error) | Failure::Runtime(error) => Failure::Runtime(error),
    })?;
    let Answer { status, body } = client.ask(Method::GET, "/readyz", PATIENCE).map_err(Failure::runtime)?;
    let word = String::from_utf8_lossy(&body);
    let word = word.lines().next().unwrap_or_default();
    if status == 200 {
        say(format_args!("{}\n", plain(word)));
        return Ok(());
    }
    Err(Failure::runtime(format!("not ready: {}", plain(word))))
}

/// What people want to know at a glance, in the form of `wsgate check`.
fn overview(all: &Value) -> String {
    let status = &all["status"];
    let mut text =
        format!("wsgate {}, {}\n", word(&status["version"]), word(&status["readiness"]).replace('_', " "));
    write_rows(&mut text, &process(status));
    text.push_str("\nListeners\n");
    write_rows(&mut text, &elements(&all["listeners"]).map(listener).collect::<Vec<_>>());
    let upstreams: Vec<_> = elements(&all["upstreams"]).flat_map(upstream).collect();
    if !upstreams.is_empty() {
        text.push_str("\nUpstreams\n");
        write_rows(&mut text, &upstreams);
    }
    text
}

type Row = Vec<String>;

/// Writes rows in columns as wide as their widest cell.
fn write_rows(text: &mut String, rows: &[Row]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            line.extend(["  ", cell]);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn process(status: &Value) -> Vec<Row> {
    let usage = |usage: &Value| format!("{} of {}", word(&usage["in_use"]), word(&usage["max"]));
    let up = Duration::from_secs(status["uptime_s"].as_u64().unwrap_or(0));
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row(
            "process",
            format!("{}, up {} since {}", word(&status["pid"]), show(up), word(&status["started"])),
        ),
        row("configuration", format!("generation {}", word(&status["generation"]))),
        row("connections", usage(&status["connections"])),
        row("TLS handshakes", usage(&status["tls_handshakes"])),
        row("tunnels", word(&status["tunnels"])),
    ];
    if let Some(reload) = status.get("last_reload") {
        let how = match reload["error"].as_str() {
            Some(error) => format!("refused: {}", plain(error.lines().next().unwrap_or_default())),
            None => "in force".to_owned(),
        };
        rows.push(row("last reload", format!("{}, {how}", word(&reload["at"]))));
    }
    if let Some(drain) = status.get("drain") {
        rows.push(row(
            "drain",
            format!("{} of {} still open", word(&drain["open"]), word(&drain["began_with"])),
        ));
    }
    rows
}

fn listener(listener: &Value) -> Row {
    let certificates = elements(&listener["certificates"]).map(|one| {
        let names: Vec<_> = elements(&one["names"]).map(word).collect();
        let day = word(&one["not_after"]);
        format!("{} until {}", names.join(" "), day.split('T').next().unwrap_or_default())
    });
    let tls = if listener["tls"] == true { "TLS" } else { "" };
    vec![word(&listener["address"]), tls.to_owned(), certificates.collect::<Vec<_>>().join(", ")]
}

/// A row for each endpoint.
fn upstream(upstream: &Value) -> Vec<Row> {
    let row = |(place, endpoint): (usize, &Value)| {
        let name = if place == 0 { word(&upstream["name"]) } else { String::new() };
        let load = format!("{} open, {} idle", word(&endpoint["open"]), word(&endpoint["idle"]));
        vec![name, word(&endpoint["name"]), state(endpoint), load, failure(endpoint)]
    };
    elements(&upstream["endpoints"]).enumerate().map(row).collect()
}

fn state(endpoint: &Value) -> String {
    let state = word(&endpoint["state"]).replace('_', " ");
    match endpoint["state_for_s"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => format!("{state} for {}", show(time)),
        None => state,
    }
}

/// What last spoke against an endpoint that is not in.
fn failure(endpoint: &Value) -> String {
    let reason = endpoint["last_failure"]["reason"].as_str();
    reason.filter(|_| endpoint["state"] != "in").map(plain).unwrap_or_default()
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A value as it stands in a line.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), plain)
}

/// What peers may have written, with nothing in it that a terminal would obey (rule S10).
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// A time in its two largest units.
fn show(time: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let seconds = time.as_secs();
    let first = UNITS.iter().position(|(_, size)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let parts = UNITS[first..].iter().take(2).map(|(unit, size)| {
        let count = rest / size;
        rest %= size;
        (count, format!("{count}{unit}"))
    });
    let parts: Vec<_> = parts.enumerate().filter(|(at, (count, _))| *at == 0 || *count > 0).collect();
    parts.into_iter().map(|(_, (_, part))| part).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Value {
        json!({
            "status": {
                "version": "0.1.0", "pid": 42, "started": "2026-01-01T00:00:00Z", "uptime_s": 90_061,
                "readiness": "shutting_down", "generation": 2, "workers": 2, "tunnels": 7,
                "connections": { "in_use": 12, "max": 100 }, "tls_handshakes": { "in_use": 0, "max": 10 },
                "last_reload": { "at": "2026-01-02T00:00:00Z", "ok": false, "error": "error: wrong\n --> a.toml" },
                "drain": { "began_with": 12, "open": 3 },
            },
            "listeners": [
                {
                    "address": "0.0.0.0:443", "tls": true, "cut_unanswered": 0,
                    "certificates": [{ "names": ["a.test", "b.test"], "not_after": "2027-01-01T00:00:00Z" }],
                },
                { "address": "0.0.0.0:80", "tls": false, "cut_unanswered": 0, "certificates": [] },
            ],
            "upstreams": [{
                "name": "chat",
                "endpoints": [
                    { "name": "10.0.0.1:80", "state": "in", "state_for_s": null, "open": 7, "idle": 1,
                      "last_failure": { "reason": "old", "ago_s": 9.0 } },
                    { "name": "10.0.0.2:80", "state": "out_by_checks", "state_for_s": 61.5, "open": 0, "idle": 0,
                      "last_failure": { "reason": "refused \u{1b}[31m", "ago_s": 1.0 } },
                ],
            }],
        })
    }

    #[test]
    fn s10_the_overview_is_a_few_aligned_lines() {
        let expected = "\
wsgate 0.1.0, shutting down
  process         42, up 1d 1h since 2026-01-01T00:00:00Z
  configuration   generation 2
  connections     12 of 100
  TLS handshakes  0 of 10
  tunnels         7
  last reload     2026-01-02T00:00:00Z, refused: error: wrong
  drain           3 of 12 still open

Listeners
  0.0.0.0:443  TLS  a.test b.test until 2027-01-01
  0.0.0.0:80

Upstreams
  chat  10.0.0.1:80  in                       7 open, 1 idle
        10.0.0.2:80  out by checks for 1m 1s  0 open, 0 idle  refused \\u{1b}[31m
";
        assert_eq!(overview(&all()), expected);
    }

    #[test]
    fn times_have_their_two_largest_units() {
        let shown = |seconds| show(Duration::from_secs(seconds));
        assert_eq!(
            [shown(0), shown(59), shown(60), shown(3_605), shown(90_000)],
            ["0s", "59s", "1m", "1h", "1d 1h"]
        );
        assert_eq!(show(Duration::from_millis(900)), "0s");
    }
}
