//! Heads, what they say of bodies, and chunks.

use std::hint::black_box;

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use wsgate::proto::{
    framing::{ChunkLimits, ChunkPart, ChunkScanner, request_framing, response_framing},
    head::{HeadLimits, Method, RequestHead, ResponseHead},
};

use crate::{ANSWER, BROWSER, MINIMAL};

/// The size of body that chunks are scanned in.
const BODY: usize = 64 * 1024;

pub(crate) fn request(text: &str) -> RequestHead {
    RequestHead::parse(text.as_bytes(), &HeadLimits::default())
        .expect("a legal head")
        .expect("a whole head")
        .0
}

pub(crate) fn response(text: &str) -> ResponseHead {
    ResponseHead::parse(text.as_bytes(), &HeadLimits::default())
        .expect("a legal head")
        .expect("a whole head")
        .0
}

#[divan::bench(args = [("minimal", MINIMAL), ("browser", BROWSER)].map(Named))]
fn parse_request(bencher: Bencher<'_, '_>, head: Named) {
    let limits = HeadLimits::default();
    bencher
        .counter(BytesCount::of_str(head.text()))
        .bench(|| RequestHead::parse(black_box(head.text().as_bytes()), &limits));
}

#[divan::bench]
fn parse_response(bencher: Bencher<'_, '_>) {
    let limits = HeadLimits::default();
    bencher
        .counter(BytesCount::of_str(ANSWER))
        .bench(|| ResponseHead::parse(black_box(ANSWER.as_bytes()), &limits));
}

/// By the number of lines.
#[divan::bench(args = [10, 100, 1_000])]
fn parse_lines(bencher: Bencher<'_, '_>, lines: usize) {
    let limits = HeadLimits { bytes: 1 << 20, headers: 2_000, ..HeadLimits::default() };
    let more: Vec<String> = (0..lines).map(|line| format!("X-Line-{line}: some value\r\n")).collect();
    let more = more.concat();
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    bencher.counter(ItemsCount::new(lines)).bench(|| RequestHead::parse(black_box(text.as_bytes()), &limits));
}

#[divan::bench(args = [("minimal", MINIMAL), ("browser", BROWSER)].map(Named))]
fn encode_request(bencher: Bencher<'_, '_>, head: Named) {
    let parsed = request(head.text());
    let mut out = Vec::with_capacity(head.text().len());
    bencher.counter(BytesCount::of_str(head.text())).bench_local(move || {
        out.clear();
        black_box(&parsed).encode(&mut out);
        out.len()
    });
}

#[divan::bench]
fn encode_response(bencher: Bencher<'_, '_>) {
    let parsed = response(ANSWER);
    let mut out = Vec::with_capacity(ANSWER.len());
    bencher.counter(BytesCount::of_str(ANSWER)).bench_local(move || {
        out.clear();
        black_box(&parsed).encode(&mut out);
        out.len()
    });
}

#[divan::bench]
fn frame_request(bencher: Bencher<'_, '_>) {
    let head = request(BROWSER);
    bencher.bench(|| request_framing(black_box(&head)));
}

#[divan::bench]
fn frame_response(bencher: Bencher<'_, '_>) {
    let (head, method) = (response(ANSWER), Method::GET);
    bencher.bench(|| response_framing(black_box(&head), &method));
}

/// A body in chunks of this size.
#[divan::bench(args = [16, 1_024, 16_384])]
fn scan_chunks(bencher: Bencher<'_, '_>, size: usize) {
    let mut body = Vec::new();
    for _ in 0..BODY / size {
        body.extend(format!("{size:x}\r\n").bytes());
        body.resize(body.len() + size, b'x');
        body.extend(b"\r\n");
    }
    body.extend(b"0\r\n\r\n");
    bencher.counter(BytesCount::new(BODY)).bench(|| {
        let mut scanner = ChunkScanner::new(ChunkLimits::default());
        let (mut rest, mut data) = (black_box(&body[..]), 0);
        loop {
            let (used, part) = scanner.next(rest).expect("a legal body");
            rest = &rest[used..];
            match part {
                ChunkPart::Data(bytes) => data += bytes.len(),
                ChunkPart::More | ChunkPart::End(_) => break data,
            }
        }
    });
}

/// A head by its name in the table of results.
#[derive(Clone, Copy)]
pub(crate) struct Named(pub(crate) (&'static str, &'static str));

impl Named {
    fn text(self) -> &'static str {
        self.0.1
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.0)
    }
}
