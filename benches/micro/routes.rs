//! The target of a request, and its route.

use std::hint::black_box;

use divan::Bencher;
use wsgate::{
    proto::handshake::Offer,
    route::{Matcher, NormalPath, RouteKind, RouteTable, Target},
};

use crate::{BROWSER, OFFER, heads::request};

const ROUTES: [usize; 3] = [1, 100, 10_000];

fn table(count: usize, pattern: impl Fn(usize) -> (String, String)) -> RouteTable {
    let matcher = |number| {
        let (host, path) = pattern(number);
        Matcher {
            hosts: vec![host.parse().expect("a host pattern")],
            paths: vec![path.parse().expect("a path pattern")],
            subprotocol: None,
            kind: RouteKind::Any,
        }
    };
    RouteTable::new((0..count).map(matcher).collect())
}

fn look_up(bencher: Bencher<'_, '_>, table: &RouteTable, host: &str, path: &str) {
    let path = NormalPath::parse(path).expect("a legal path");
    bencher.bench(|| table.find(black_box(host), black_box(&path), None));
}

#[divan::bench]
fn target(bencher: Bencher<'_, '_>) {
    let head = request(BROWSER);
    bencher.bench(|| Target::parse(black_box(&head)));
}

#[divan::bench(args = ROUTES)]
fn exact_host(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| (format!("h{number}.example.com"), "/*".to_owned()));
    look_up(bencher, &table, &format!("h{}.example.com", routes - 1), "/api/v1/rooms/4711/messages");
}

#[divan::bench(args = ROUTES)]
fn exact_host_missed(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| (format!("h{number}.example.com"), "/*".to_owned()));
    look_up(bencher, &table, "nowhere.example.com", "/api/v1/rooms/4711/messages");
}

#[divan::bench(args = ROUTES)]
fn wildcard_host(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| (format!("*.h{number}.example.com"), "/*".to_owned()));
    look_up(bencher, &table, &format!("a.b.c.h{}.example.com", routes - 1), "/api/v1/rooms/4711/messages");
}

#[divan::bench(args = ROUTES)]
fn wildcard_host_missed(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| (format!("*.h{number}.example.com"), "/*".to_owned()));
    look_up(bencher, &table, "a.b.c.nowhere.example.com", "/api/v1/rooms/4711/messages");
}

#[divan::bench(args = ROUTES)]
fn path_prefix(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| ("*".to_owned(), format!("/service{number}/*")));
    look_up(bencher, &table, "chat.example.com", &format!("/service{}/rooms/4711/messages", routes - 1));
}

#[divan::bench(args = ROUTES)]
fn path_prefix_missed(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| ("*".to_owned(), format!("/service{number}/*")));
    look_up(bencher, &table, "chat.example.com", "/nowhere/rooms/4711/messages");
}

/// A route each for host and path, all of them below one wildcard.
#[divan::bench(args = ROUTES)]
fn wildcard_and_prefix(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes, |number| ("*.example.com".to_owned(), format!("/a/b/service{number}/*")));
    look_up(bencher, &table, "chat.example.com", &format!("/a/b/service{}/messages", routes - 1));
}

/// What a client can make of it: the longest host there may be, in as many labels as possible, and a path of 8,000 segments. The
/// longest prefix is as long, which is more than anybody writes.
#[divan::bench(args = ROUTES)]
fn worst_host_and_path(bencher: Bencher<'_, '_>, routes: usize) {
    let long = "/a".repeat(8_000);
    let table = table(routes, |number| match number {
        0 => ("*.b".to_owned(), format!("{long}/*")),
        _ => ("*".to_owned(), format!("/service{number}/*")),
    });
    look_up(bencher, &table, &format!("{}b", "a.".repeat(126)), &format!("{long}b"));
}

/// Routes that differ in their subprotocol alone are tried one after the other, as the first one wins.
#[divan::bench(args = [1, 10, 100])]
fn alike_but_for_the_subprotocol(bencher: Bencher<'_, '_>, routes: usize) {
    let matcher = |number| Matcher {
        hosts: vec!["*".parse().expect("a host pattern")],
        paths: vec!["/*".parse().expect("a path pattern")],
        subprotocol: Some(format!("protocol{number}")),
        kind: RouteKind::Any,
    };
    let table = RouteTable::new((0..routes).map(matcher).collect());
    let offer = Offer::from_head(&request(OFFER)).expect("a legal handshake");
    let path = NormalPath::parse("/chat").expect("a legal path");
    bencher.bench(|| table.find(black_box("chat.example.com"), black_box(&path), offer.as_ref()));
}
