//! Laws that every parser here keeps, as functions that panic where one is broken; property tests and fuzz
//! targets feed them.

#[cfg(any(test, fuzzing))]
pub mod choices;
pub mod frames;
pub mod handshake;
#[cfg(any(test, fuzzing))]
pub mod requests;

use std::fmt::Debug;

use super::framing::{ChunkError, ChunkLimits, ChunkPart, ChunkScanner};
use super::head::{HeadLimits, Headers, RequestHead, ResponseHead};
use super::proxy_protocol;
use super::trace::{TRACEPARENT, Trace};

/// What `parse` says of any prefix is `None` or what it says of the whole; what it takes is needed to the
/// last byte. Returns what it says of the whole.
fn prefixes_agree<T: PartialEq + Debug, E: PartialEq + Debug>(
    input: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Option<T> {
    let whole = parse(input);
    for end in 0..input.len() {
        let prefix = parse(&input[..end]);
        assert!(
            prefix == Ok(None) || prefix == whole,
            "the first {end} bytes give {prefix:?}, all {whole:?}"
        );
    }
    let (parsed, length) = whole.ok()??;
    assert!(length <= input.len());
    assert_eq!(parse(&input[..length - 1]), Ok(None), "the head ends before its length");
    Some(parsed)
}

/// A request head is parsed alike in any split, and is the same after it was written and parsed again.
pub fn request_head(input: &[u8], limits: &HeadLimits) {
    let Some(head) = prefixes_agree(input, |bytes| RequestHead::parse(bytes, limits)) else { return };
    if let Some(trace) = Trace::told(&head.headers) {
        assert_eq!(head.headers.get_all(TRACEPARENT).collect::<Vec<_>>(), [trace.parent().as_bytes()]);
    }
    let mut written = Vec::new();
    head.encode(&mut written);
    let unlimited = HeadLimits { bytes: usize::MAX, ..*limits };
    let length = written.len();
    assert_eq!(RequestHead::parse(&written, &unlimited), Ok(Some((head, length))));
}

/// The same for a response head.
pub fn response_head(input: &[u8], limits: &HeadLimits) {
    let Some(head) = prefixes_agree(input, |bytes| ResponseHead::parse(bytes, limits)) else { return };
    let mut written = Vec::new();
    head.encode(&mut written);
    let unlimited = HeadLimits { bytes: usize::MAX, ..*limits };
    let length = written.len();
    assert_eq!(ResponseHead::parse(&written, &unlimited), Ok(Some((head, length))));
}

/// A PROXY header is parsed alike in any split, whatever follows it.
pub fn proxy_header(input: &[u8]) {
    prefixes_agree(input, proxy_protocol::parse);
}

/// All that a chunked body was scanned to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ScannedBody {
    /// The data of all chunks.
    pub data: Vec<u8>,
    /// The trailers, and the bytes of input up to and with the body's end.
    pub end: Option<(Headers, usize)>,
    /// What was wrong.
    pub error: Option<ChunkError>,
}

/// Scans a body that comes in these pieces.
pub fn scan_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: ChunkLimits) -> ScannedBody {
    let mut scanner = ChunkScanner::new(limits);
    let mut body = ScannedBody::default();
    let mut before = 0;
    for piece in pieces {
        let mut at = 0;
        loop {
            match scanner.next(&piece[at..]) {
                Err(error) => return ScannedBody { error: Some(error), ..body },
                Ok((used, ChunkPart::Data(data))) => {
                    assert!(!data.is_empty() && data.len() <= used);
                    body.data.extend_from_slice(data);
                    at += used;
                }
                Ok((used, ChunkPart::More)) => {
                    assert_eq!(at + used, piece.len(), "asks for more, and has not taken all");
                    break;
                }
                Ok((used, ChunkPart::End(trailers))) => {
                    return ScannedBody { end: Some((trailers, before + at + used)), ..body };
                }
            }
        }
        before += piece.len();
    }
    body
}

/// A chunked body gives the same data, end and error whole, byte by byte, and cut in two at `cut`.
pub fn chunks(input: &[u8], cut: usize, limits: ChunkLimits) {
    let whole = scan_pieces([input], limits);
    let (first, second) = input.split_at(cut.min(input.len()));
    assert_eq!(scan_pieces([first, second], limits), whole, "cut at {cut}");
    assert_eq!(scan_pieces(input.chunks(1), limits), whole, "byte by byte");
}

/// Holds a law against the inputs that its fuzz target begins with; among them is whatever broke it once.
#[cfg(test)]
pub(crate) fn replay(target: &str, law: impl Fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).expect("a folder of seeds") {
        law(&std::fs::read(file.expect("a file").path()).expect("a seed"));
        count += 1;
    }
    assert!(count > 3, "the seeds are elsewhere");
}
