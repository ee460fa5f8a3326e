//! A connection's requests, one behind the other, mean the same to wsgate, to what it sends upstream, and to a parser that is
//! none of its own.

mod reading;
mod writing;

use self::reading::{Reading, read};
use crate::proto::{
    forward::{
        self, Copied, ForwardedRequest, HeaderEdits, HostHeader, Kind, RequestContext, Template,
        TrailerRules, UnderscoreHeaders, Values,
    },
    framing::{
        BodyFraming, ChunkLimits, ChunkPart, ChunkScanner, encode_chunk_head, encode_last_chunk, persists,
        request_framing,
    },
    handshake::Offer,
    head::{HeadLimits, RequestHead},
    laws::choices::Choices,
    trace::Trace,
};

const LIMITS: HeadLimits = HeadLimits { bytes: 2048, headers: 32, target: 256 };
const CHUNKS: ChunkLimits = ChunkLimits { size_line: 32, trailer_bytes: 256, trailer_lines: 8 };

/// What a route says about requests.
struct Rules {
    host_header: HostHeader,
    edits: HeaderEdits,
    underscore_headers: UnderscoreHeaders,
    https: bool,
}

impl Rules {
    fn choose(choices: &mut Choices<'_>) -> Self {
        let edit = |name: &str, value: &str| {
            let mut written = Template::default();
            written.push_literal(value);
            (name.to_owned(), written)
        };
        let edits = HeaderEdits {
            set: vec![edit("X-Set", "by the route"), edit("Content-Length", "7"), edit("Upgrade", "h2c")],
            remove: vec!["X-Removed".to_owned(), "Host".to_owned()],
        };
        Self {
            host_header: match choices.below(3) {
                0 => HostHeader::Client,
                1 => HostHeader::Upstream,
                _ => HostHeader::Literal("literal.example".to_owned()),
            },
            edits: if choices.once_in(2) { edits } else { HeaderEdits::default() },
            underscore_headers: if choices.once_in(2) {
                UnderscoreHeaders::Pass
            } else {
                UnderscoreHeaders::Drop
            },
            https: choices.once_in(2),
        }
    }

    fn forward(&self, head: &RequestHead, kind: Kind, target: &str) -> Option<ForwardedRequest> {
        let trace = Trace::told(&head.headers).unwrap_or_else(|| Trace::begin(1, 2));
        let cx = RequestContext {
            client_ip: Some(reading::CLIENT.into()),
            https: self.https,
            listener_port: Some(443),
            proxy: None,
            client_ip_header: None,
            upstream_authority: "upstream.example:80",
            host_header: &self.host_header,
            via: None,
            copied: Copied::default(),
            edits: &self.edits,
            underscore_headers: self.underscore_headers,
            request_id: reading::REQUEST_ID,
            trace: &trace,
            target,
            values: Values::default(),
        };
        forward::request(head, kind, &cx).ok()
    }
}

/// A request that goes upstream.
#[derive(Debug, PartialEq)]
struct Passed {
    /// Where it begins and ends in the stream of the client.
    came: (usize, usize),
    is_offer: bool,
    head: Vec<u8>,
    data: Vec<u8>,
}

/// Why no further request is read, if not for the stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It can't be parsed, framed, routed, or forwarded.
    Refused,
    /// Its body is malformed.
    Body,
    /// The connection does not persist.
    Closes,
    /// It is an offer: what follows is data of the tunnel (rule W7).
    Offer,
}

/// The body at hand.
enum Body {
    Length(u64),
    Chunks(ChunkScanner),
}

/// The requests of a connection up to its end, as they go upstream.
struct Gate<'a, F> {
    rules: &'a Rules,
    origin_form: &'a F,
    tail: Vec<u8>,
    /// Bytes taken off the stream.
    taken: usize,
    body: Option<Body>,
    persists: bool,
    passed: Vec<Passed>,
    /// The bodies as they go upstream, which depends on how they came.
    sent: Vec<Vec<u8>>,
    end: Option<End>,
}

impl<'a, F: Fn(&RequestHead) -> Option<String>> Gate<'a, F> {
    /// Takes a stream that comes in these pieces.
    fn take(rules: &'a Rules, origin_form: &'a F, mut stream: &[u8], sizes: &[usize]) -> Self {
        let mut gate = Self {
            rules,
            origin_form,
            tail: Vec::new(),
            taken: 0,
            body: None,
            persists: true,
            passed: Vec::new(),
            sent: Vec::new(),
            end: None,
        };
        let mut sizes = sizes.iter().copied().cycle();
        while !stream.is_empty() && gate.end.is_none() {
            let (piece, rest) = stream.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, stream.len()));
            stream = rest;
            gate.tail.extend_from_slice(piece);
            while gate.end.is_none() && gate.step() {}
        }
        gate
    }

    fn consume(&mut self, count: usize) {
        self.tail.drain(..count);
        self.taken += count;
    }

    /// Takes a head or a part of a body, if there is one.
    fn step(&mut self) -> bool {
        let result = match &mut self.body {
            None => self.head(),
            Some(_) => self.body(),
        };
        result.unwrap_or_else(|end| {
            self.end = Some(end);
            false
        })
    }

    fn head(&mut self) -> Result<bool, End> {
        while self.tail.starts_with(b"\r\n") {
            self.consume(2);
        }
        let parsed = RequestHead::parse(&self.tail, &LIMITS).map_err(|_| End::Refused)?;
        let Some((head, length)) = parsed else { return Ok(false) };
        let framing = request_framing(&head).map_err(|_| End::Refused)?;
        let target = (self.origin_form)(&head).ok_or(End::Refused)?;
        let is_offer = Offer::from_head(&head).map_err(|_| End::Refused)?.is_some();
        let kind = if is_offer { Kind::Handshake } else { Kind::Plain { framing } };
        let forwarded = self.rules.forward(&head, kind, &target).ok_or(End::Refused)?;
        assert!(forwarded.dropped_underscore + forwarded.dropped_forwarded <= head.headers.len());
        let mut encoded = Vec::new();
        forwarded.head.encode(&mut encoded);
        let came = (self.taken, self.taken + length);
        self.consume(length);
        self.passed.push(Passed { came, is_offer, head: encoded, data: Vec::new() });
        self.sent.push(Vec::new());
        self.persists = persists(head.version, &head.headers);
        self.body = match framing {
            _ if is_offer => return Err(End::Offer),
            BodyFraming::Empty | BodyFraming::Length(0) => return self.end_body(),
            BodyFraming::Length(length) => Some(Body::Length(length)),
            BodyFraming::Chunked => Some(Body::Chunks(ChunkScanner::new(CHUNKS))),
            BodyFraming::UntilClose => unreachable!("a request whose body has no end"),
        };
        Ok(true)
    }

    fn end_body(&mut self) -> Result<bool, End> {
        self.body = None;
        let taken = self.taken;
        self.at_hand().0.came.1 = taken;
        if self.persists { Ok(true) } else { Err(End::Closes) }
    }

    fn at_hand(&mut self) -> (&mut Passed, &mut Vec<u8>) {
        let (passed, sent) = (self.passed.last_mut(), self.sent.last_mut());
        passed.zip(sent).expect("a request is at hand")
    }

    fn body(&mut self) -> Result<bool, End> {
        if self.tail.is_empty() {
            return Ok(false);
        }
        match self.body.take().expect("a body is at hand") {
            Body::Length(left) => {
                let count = usize::try_from(left).map_or(self.tail.len(), |left| left.min(self.tail.len()));
                let data = self.tail[..count].to_vec();
                self.consume(count);
                let (passed, sent) = self.at_hand();
                passed.data.extend_from_slice(&data);
                sent.extend_from_slice(&data);
                let left = left - count as u64;
                self.body = Some(Body::Length(left));
                if left == 0 { self.end_body() } else { Ok(false) }
            }
            Body::Chunks(scanner) => self.chunk(scanner),
        }
    }

    fn chunk(&mut self, mut scanner: ChunkScanner) -> Result<bool, End> {
        let tail = std::mem::take(&mut self.tail);
        let (used, part) = scanner.next(&tail).map_err(|_| End::Body)?;
        let rules = self.rules;
        let (passed, sent) = self.at_hand();
        let has_ended = match part {
            ChunkPart::Data(data) => {
                passed.data.extend_from_slice(data);
                encode_chunk_head(data.len(), sent);
                sent.extend_from_slice(data);
                sent.extend_from_slice(b"\r\n");
                false
            }
            ChunkPart::More => false,
            ChunkPart::End(trailers) => {
                let rules = TrailerRules { edits: &rules.edits, client_ip_header: None };
                encode_last_chunk(&forward::trailers(&trailers, rules), sent);
                true
            }
        };
        self.tail = tail;
        self.consume(used);
        self.body = Some(Body::Chunks(scanner));
        if has_ended { self.end_body() } else { Ok(used > 0) }
    }

    /// The requests whose bodies have come to their ends.
    fn whole(&self) -> usize {
        self.passed.len() - usize::from(self.body.is_some() || self.end == Some(End::Body))
    }
}

/// Requests chosen by `input` come on one connection. In any split the same of them go upstream, and each that does is one
/// request to a reader of its own: with the body that came, with nothing of another connection's, nothing that asks for an upgrade
/// but wsgate's, and nothing of wsgate's that is the client's. `origin_form` judges the target, as the routes do.
pub fn sequence(input: &[u8], origin_form: impl Fn(&RequestHead) -> Option<String>) {
    let mut choices = Choices::new(input);
    let rules = Rules::choose(&mut choices);
    let sizes = [choices.below(256), choices.below(32)];
    let stream = writing::requests(&mut choices);
    let whole = Gate::take(&rules, &origin_form, &stream, &[]);
    for sizes in [&sizes[..], &[1]] {
        let split = Gate::take(&rules, &origin_form, &stream, sizes);
        assert_eq!(split.end, whole.end, "in pieces of {sizes:?}");
        assert_eq!(split.passed, whole.passed, "in pieces of {sizes:?}");
        judge(&split, &stream);
    }
    judge(&whole, &stream);
}

fn judge<F: Fn(&RequestHead) -> Option<String>>(gate: &Gate<'_, F>, stream: &[u8]) {
    for (passed, sent) in gate.passed.iter().zip(&gate.sent).take(gate.whole()) {
        let (begin, end) = passed.came;
        let upstream = [&passed.head[..], sent].concat();
        let legal = |bytes: &[u8]| {
            read(bytes).unwrap_or_else(|| panic!("others can't read {}", bytes.escape_ascii()))
        };
        let (came, gone) = (legal(&stream[begin..]), legal(&upstream));
        assert_eq!(gone.length, upstream.len(), "one request and nothing more");
        assert_eq!(gone.data, passed.data, "the body that was passed");
        assert_eq!((came.length, &came.data), (end - begin, &passed.data), "the body that came");
        assert_eq!(gone.method, came.method);
        reading::judge_headers(&came, &gone, passed.is_offer, &gate.rules.host_header);
        judge_names(gate.rules, &gone);
    }
}

/// No name with `_` but those that may pass, and the route's edits have been made.
fn judge_names(rules: &Rules, gone: &Reading) {
    for (name, _) in gone.headers.iter().filter(|(name, _)| name.contains('_')) {
        assert_eq!(rules.underscore_headers, UnderscoreHeaders::Pass, "{name}");
        assert!(!reading::is_own(&name.replace('_', "-")), "an alias: {name}");
    }
    if !rules.edits.set.is_empty() {
        assert_eq!(gone.all("x-set").collect::<Vec<_>>(), [b"by the route"]);
        assert_eq!(gone.all("x-removed").count(), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{proto::laws::replay, route::Target};

    fn origin_form(head: &RequestHead) -> Option<String> {
        Target::parse(head).ok().map(|target| target.origin_form().to_owned())
    }

    #[test]
    fn h1_h5_w6_what_was_found_once_keeps_the_laws() {
        replay("requests", |input| sequence(input, origin_form));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn h1_h5_w6_requests_on_one_connection_are_what_others_read(input in vec(any::<u8>(), 0..600)) {
            sequence(&input, origin_form);
        }
    }
}
