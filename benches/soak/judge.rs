//! Whether all was as it must be.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Fallible, Scale,
    client::Kind,
    crew::{Deed, Told},
    gate::{Ended, Rest},
};

/// Of the memory that the tunnels took, so much may be kept, in percent, or so many bytes if that is more.
const KEPT_PERCENT: u64 = 20;
const KEPT_BYTES: u64 = 8 << 20;
/// Descriptors of the pipes that its two workers may keep for large frames: four of them each, with two ends.
const KEPT_PIPES: usize = 16;
/// By so much clocks of processes and records may seem to go backwards, in milliseconds.
const BEFORE: u64 = 200;
/// So many violations are printed.
const SHOWN: usize = 30;

/// The records of a tunnel.
#[derive(Default)]
struct Tunnel<'a> {
    opened: usize,
    ended: usize,
    /// Milliseconds since 1970.
    ended_at: u64,
    ending: &'a str,
    endpoint: &'a str,
    answered_pings: bool,
}

struct Judge<'a> {
    scale: &'a Scale,
    told: &'a Told,
    tunnels: HashMap<&'a str, Tunnel<'a>>,
    violations: Vec<String>,
}

/// Prints what happened. Returns whether all was as it must be.
pub(crate) fn judge(
    scale: &Scale,
    told: &Told,
    ended: &Ended,
    start: &Rest,
    most: &Rest,
    end: &Rest,
) -> Fallible<bool> {
    let mut judge = Judge { scale, told, tunnels: tunnels(&ended.records)?, violations: Vec::new() };
    judge.said();
    judge.balance();
    let (cut, left) = (judge.cuts(), judge.leaves());
    judge.deeds();
    judge.others(&cut, &left);
    judge.process(ended);
    judge.rest(start, most, end);
    print_endings(&judge.tunnels);
    print_sums(told, start, most, end);
    for violation in judge.violations.iter().take(SHOWN) {
        println!("violation: {violation}");
    }
    match judge.violations.len() {
        0 => println!("nothing lost, reordered or altered, and nothing left behind"),
        count => println!("{count} violations"),
    }
    Ok(judge.violations.is_empty())
}

fn tunnels(records: &[Value]) -> Fallible<HashMap<&str, Tunnel<'_>>> {
    let mut tunnels: HashMap<&str, Tunnel<'_>> = HashMap::new();
    for record in records {
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        let tunnel = match text("event") {
            "tunnel_open" | "tunnel_end" => tunnels.entry(text("target")).or_default(),
            _ => continue,
        };
        if text("event") == "tunnel_open" {
            tunnel.opened += 1;
            continue;
        }
        let at = OffsetDateTime::parse(text("time"), &Rfc3339)?.unix_timestamp_nanos() / 1_000_000;
        let pings = |name: &str| record["client_pings"][name].as_u64().unwrap_or(0);
        tunnel.ended += 1;
        tunnel.ended_at = u64::try_from(at)?;
        tunnel.ending = text("ending");
        tunnel.endpoint = text("endpoint");
        tunnel.answered_pings = pings("sent") > pings("lost");
    }
    Ok(tunnels)
}

/// Kind and process of a tunnel.
fn whose(path: &str) -> (Option<Kind>, &str) {
    let mut parts = path.split('/').skip(1);
    let kind = parts.next().and_then(|name| name.parse().ok());
    (kind, parts.next().unwrap_or_default())
}

impl<'a> Judge<'a> {
    fn violates(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// Lines of all processes that begin with `word`: a time, and a path.
    fn lines(&self, word: &str) -> Vec<(u64, &'a str)> {
        let told: &'a Told = self.told;
        let lines = told.lines.iter().filter_map(|line| {
            let mut words = line.split(' ');
            let is_it = words.next() == Some(word);
            Some((words.next()?.parse().ok()?, words.next()?)).filter(|_| is_it)
        });
        lines.collect()
    }

    /// What servers and clients found wrong.
    fn said(&mut self) {
        let told = self.told;
        let wrong = told.lines.iter().filter_map(|line| line.strip_prefix("violation "));
        self.violations.extend(wrong.map(str::to_owned));
        self.violations.extend(told.failed.iter().map(|name| format!("{name} did not end well")));
    }

    /// Each tunnel was opened once and ended once.
    fn balance(&mut self) {
        let odd: Vec<_> =
            self.tunnels.iter().filter(|(_, tunnel)| (tunnel.opened, tunnel.ended) != (1, 1)).collect();
        let odd: Vec<_> = odd
            .iter()
            .map(|(path, it)| format!("{path}: {} opened, {} ended", it.opened, it.ended))
            .collect();
        self.violations.extend(odd);
        if self.tunnels.len() < self.scale.tunnels {
            self.violates(format!("only {} tunnels in all", self.tunnels.len()));
        }
    }

    /// A server fell a short time before the tunnel ended. Whether the client's own end or reset came before wsgate had passed
    /// the server's on is chance.
    fn fell(&self, tunnel: &Tunnel<'_>) -> bool {
        let endpoint: Option<SocketAddr> = tunnel.endpoint.parse().ok();
        let slack = millis(self.scale.slack);
        let mut falls = self.told.fallen.iter().filter(|(_, address)| Some(*address) == endpoint);
        ["upstream_eof", "upstream_reset", "downstream_reset"].contains(&tunnel.ending)
            && falls.any(|(at, _)| (at.saturating_sub(BEFORE)..at + slack).contains(&tunnel.ended_at))
    }

    /// Clients were cut for reasons alone: their server fell, or their process was stopped.
    fn cuts(&mut self) -> HashSet<&'a str> {
        let cuts = self.lines("cut");
        for (at, path) in &cuts {
            let Some(tunnel) = self.tunnels.get(path) else { continue };
            let was_stopped =
                tunnel.ending == "pong_timeout" && self.deeds_to(path).any(|deed| deed.kind == Kind::Stopped);
            if !self.fell(tunnel) && !was_stopped {
                let what = format!("{path} was cut, and no server fell: {}", tunnel.ending);
                self.violates(what);
            } else if *at > tunnel.ended_at + millis(self.scale.slack) && !was_stopped {
                self.violates(format!("{path} ended, and its client learned it late"));
            }
        }
        cuts.into_iter().map(|(_, path)| path).collect()
    }

    fn deeds_to(&self, path: &str) -> impl Iterator<Item = &'a Deed> {
        let (_, name) = whose(path);
        let name = name.to_owned();
        let told: &'a Told = self.told;
        told.deeds.iter().filter(move |deed| deed.name == name)
    }

    /// What clients left ended in time.
    fn leaves(&mut self) -> HashSet<&'a str> {
        let left = self.lines("left");
        for (at, path) in &left {
            let (Some(tunnel), (Some(kind), _)) = (self.tunnels.get(path), whose(path)) else { continue };
            if tunnel.ended_at > at + millis(self.scale.deadline(kind)) {
                let late = tunnel.ended_at - at;
                self.violates(format!("{path} ended {late} ms after its client left it: {}", tunnel.ending));
            }
        }
        left.into_iter().map(|(_, path)| path).collect()
    }

    /// What processes left behind ended in time.
    fn deeds(&mut self) {
        let mut late = Vec::new();
        for deed in &self.told.deeds {
            let due = deed.at + millis(self.scale.deadline(deed.kind));
            for (path, tunnel) in self.tunnels.iter().filter(|(path, _)| whose(path).1 == deed.name) {
                // A side that never answered a Ping is not dead for not answering one.
                let counts = deed.kind == Kind::Killed || tunnel.answered_pings;
                if counts && tunnel.ended_at > due {
                    late.push(format!(
                        "{path} ended {} ms after its process was {}: {}",
                        tunnel.ended_at - deed.at,
                        deed.kind.name(),
                        tunnel.ending
                    ));
                }
            }
        }
        self.violations.extend(late);
    }

    /// All others were closed by their clients at the end.
    fn others(&mut self, cut: &HashSet<&str>, left: &HashSet<&str>) {
        let mut wrong = Vec::new();
        for (path, tunnel) in &self.tunnels {
            let is_disturbed =
                cut.contains(path) || left.contains(path) || self.deeds_to(path).next().is_some();
            if !is_disturbed && tunnel.ending != "closed" && !self.fell(tunnel) {
                wrong.push(format!("{path}: {}, and nobody cut it", tunnel.ending));
            }
        }
        self.violations.extend(wrong);
    }

    /// The process had no accident, and nothing was open when it ended.
    fn process(&mut self, ended: &Ended) {
        for event in &ended.events {
            let is_defect = event["level"] == "ERROR" || event.to_string().contains("panicked\":1");
            if event.is_string() || is_defect {
                self.violates(format!("wsgate says {event}"));
            }
        }
        let last = ended.events.iter().find(|event| event["message"] == "ended");
        let counts = last.map(|event| (event["cut"].as_u64(), event["panicked"].as_u64()));
        if counts != Some((Some(0), Some(0))) || ended.code != Some(0) {
            self.violates(format!("wsgate ended with {:?} and {:?}", ended.code, last));
        }
    }

    fn rest(&mut self, start: &Rest, most: &Rest, end: &Rest) {
        if end.descriptors > start.descriptors {
            self.violates(format!("{} descriptors in place of {}", end.descriptors, start.descriptors));
        }
        if end.pipes > start.pipes + KEPT_PIPES {
            self.violates(format!("{} descriptors of pipes in place of {}", end.pipes, start.pipes));
        }
        let rise = most.memory.saturating_sub(start.memory);
        let bound = start.memory + KEPT_BYTES.max(rise * KEPT_PERCENT / 100);
        if end.memory > bound {
            self.violates(format!("{} KiB of memory are over {} KiB", end.memory / 1024, bound / 1024));
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn print_endings(tunnels: &HashMap<&str, Tunnel<'_>>) {
    let mut endings: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (path, tunnel) in tunnels {
        let kind = whose(path).0.map_or("", Kind::name);
        *endings.entry((kind, tunnel.ending)).or_default() += 1;
    }
    println!("\n{:<10} {:<20} {:>8}", "clients", "ending", "tunnels");
    for ((kind, ending), count) in endings {
        println!("{kind:<10} {ending:<20} {count:>8}");
    }
}

fn print_sums(told: &Told, start: &Rest, most: &Rest, end: &Rest) {
    let mut sums = [0_u64; 9];
    for line in told.lines.iter().filter_map(|line| line.strip_prefix("sum ")) {
        for (sum, part) in sums.iter_mut().zip(line.split(' ')) {
            *sum += part.parse().unwrap_or(0);
        }
    }
    let [tunnels, messages, bytes, fragmented, pongs, cut, left, refused, plain] = sums;
    println!("\nof the clients that were not killed:");
    println!(
        "{tunnels} tunnels, {cut} cut by falling servers, {left} left; {refused} tries refused or lost meanwhile"
    );
    println!(
        "{messages} messages both ways, {fragmented} in fragments, {} MiB; {pongs} Pings answered",
        bytes >> 20
    );
    println!("{plain} plain requests\n");
    println!("{:<12} {:>10} {:>10} {:>10}", "of wsgate", "start", "most", "end");
    println!(
        "{:<12} {:>10} {:>10} {:>10}",
        "descriptors", start.descriptors, most.descriptors, end.descriptors
    );
    let kib = |rest: &Rest| rest.memory / 1024;
    println!("{:<12} {:>10} {:>10} {:>10}\n", "KiB (Pss)", kib(start), kib(most), kib(end));
}
