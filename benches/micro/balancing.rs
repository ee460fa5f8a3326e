//! The choice of a server.

use std::{fmt::Write, hint::black_box, time::Duration};

use divan::Bencher;
use wsgate::{
    config::{Config, Loaded, Source},
    lifecycle::Drain,
    upstream::{Caller, Pool, Surroundings},
};

const SERVERS: [usize; 4] = [1, 10, 100, 1_000];

pub(crate) fn config(text: String, folder: &std::path::Path) -> Config {
    let source = Source { name: "proxy.toml".to_owned(), text, folder: folder.to_owned() };
    let Loaded { config, .. } =
        Config::parse(&source, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    config
}

fn pool(servers: usize, lines: &str) -> Pool {
    let mut text =
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"a\"\n[upstream.a]\n".to_owned();
    let addresses: Vec<_> =
        (0..servers).map(|server| format!("\"10.0.{}.{}:80\"", server / 250, server % 250 + 1)).collect();
    let _ = writeln!(text, "servers = [{}]\n{lines}", addresses.join(", "));
    let config = config(text, "/".as_ref());
    let (_, drain) = Drain::new(Duration::ZERO);
    let place = Surroundings { workers: 1, drain, drain_spread: Duration::ZERO };
    Pool::new(&config.upstreams[0], &place).expect("a pool")
}

fn choose(bencher: Bencher<'_, '_>, servers: usize, lines: &str, caller: Caller) {
    let pool = pool(servers, lines);
    bencher.bench(|| pool.choose(black_box(&caller)));
}

#[divan::bench(args = SERVERS)]
fn least_connections(bencher: Bencher<'_, '_>, servers: usize) {
    choose(bencher, servers, "balance = \"least_connections\"", Caller::default());
}

#[divan::bench(args = SERVERS)]
fn round_robin(bencher: Bencher<'_, '_>, servers: usize) {
    choose(bencher, servers, "balance = \"round_robin\"", Caller::default());
}

#[divan::bench(args = SERVERS)]
fn random_two(bencher: Bencher<'_, '_>, servers: usize) {
    choose(bencher, servers, "balance = \"random_two\"", Caller::default());
}

#[divan::bench(args = SERVERS)]
fn consistent_hash(bencher: Bencher<'_, '_>, servers: usize) {
    let lines = "balance = \"consistent_hash\"\nhash_key = \"client_ip\"";
    let caller = Caller { hash: Some(Caller::hash(b"192.0.2.7")), ..Caller::default() };
    choose(bencher, servers, lines, caller);
}
