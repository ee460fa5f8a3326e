//! Frames: following them in a stream, and writing a header.

use std::hint::black_box;

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use wsgate::proto::{
    frame::{Event, FrameHeader, FrameScanner, Opcode, Role},
    handshake::Extensions,
};

/// What a tunnel reads at once.
const READ: usize = 64 * 1024;

fn header(length: usize) -> FrameHeader {
    FrameHeader {
        fin: true,
        rsv: 0,
        opcode: Opcode::Binary,
        mask: Some([0x37, 0xfa, 0x21, 0x3d]),
        length: length as u64,
    }
}

/// Whole masked frames with payloads of this size, of at least [`READ`] bytes.
fn stream(size: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut frames) = (Vec::new(), 0);
    while bytes.len() < READ {
        header(size).encode(&mut bytes);
        bytes.resize(bytes.len() + size, 0x5a);
        frames += 1;
    }
    (bytes, frames)
}

/// Whole reads of frames of this size, by the frame.
#[divan::bench(args = [0, 64, 1_024, 16_384, 65_536])]
fn follow(bencher: Bencher<'_, '_>, size: usize) {
    let (bytes, frames) = stream(size);
    let mut scanner = FrameScanner::new(Role::FromClient, Extensions::None);
    bencher.counter(ItemsCount::new(frames)).counter(BytesCount::of_slice(&bytes)).bench_local(move || {
        let mut seen = 0;
        let taken = scanner.scan(black_box(&bytes), |event| {
            seen += usize::from(matches!(event, Event::Header { .. }));
        });
        (taken, seen)
    });
}

/// A read that begins and ends within the payload of one frame, as most do that belong to a long one.
#[divan::bench]
fn follow_within_a_frame(bencher: Bencher<'_, '_>) {
    let mut start = Vec::new();
    FrameHeader { length: 1 << 62, ..header(0) }.encode(&mut start);
    let mut scanner = FrameScanner::new(Role::FromClient, Extensions::None);
    scanner.scan(&start, |_| {}).expect("a legal header");
    let read = vec![0x5a; READ];
    bencher.counter(BytesCount::new(READ)).bench_local(move || scanner.scan(black_box(&read), |_| {}));
}

#[divan::bench(args = [64, 1_024, 65_536])]
fn encode_header(bencher: Bencher<'_, '_>, size: usize) {
    let header = header(size);
    let mut out = Vec::with_capacity(16);
    bencher.bench_local(move || {
        out.clear();
        black_box(&header).encode(&mut out);
        out.len()
    });
}
