//! W3C Trace Context: the id that all share who take part in a request (<https://www.w3.org/TR/trace-context/>).

use std::{fmt, ops::Range};

use super::{head::Headers, numerals::write_hex};

/// The header that carries it.
pub const TRACEPARENT: &str = "traceparent";
/// The header of those who trace, which means nothing without the other.
pub const TRACESTATE: &str = "tracestate";

/// Version, trace-id, parent-id and flags with the hyphens between them (§3.2.2).
const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
/// Where the two ids stand.
const ID: Range<usize> = 3..35;
const PARENT: Range<usize> = 36..52;

/// The id of everything that one request brought about; never zero. Shown as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// What `traceparent` says upstream of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: TraceId,
    parent: Parent,
}

/// The value of `traceparent`: each request has one, and hardly any brings its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Parent {
    Told(Box<str>),
    /// Hex digits and hyphens.
    Begun([u8; LENGTH]),
}

impl Trace {
    /// What the request's own headers say, to be passed on as it is; `None` if they say nothing, or not once, or nothing
    /// valid.
    ///
    /// A version above 00 may have more behind the flags, set off by a hyphen (§4.3); ff is none.
    pub fn told(headers: &Headers) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT);
        let (Some(parent), None) = (lines.next(), lines.next()) else { return None };
        Some(Self { id: parse(parent)?, parent: Parent::Told(std::str::from_utf8(parent).ok()?.into()) })
    }

    /// A trace that begins here, of numbers drawn at random; 0, which says nothing, is taken for 1.
    ///
    /// Its flags are 00: nobody asked for a sample, and a gate that asked for one of each request would have every service
    /// behind it record them all. Who samples by a rule of its own still does.
    pub fn begin(id: u128, parent: u64) -> Self {
        let (id, parent) = (TraceId(id.max(1).to_be_bytes()), parent.max(1));
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[ID], &id.0);
        write_hex(&mut text[PARENT], &parent.to_be_bytes());
        Self { id, parent: Parent::Begun(text) }
    }

    /// The id by which logs find it.
    pub fn id(&self) -> TraceId {
        self.id
    }

    /// The value of `traceparent`.
    pub fn parent(&self) -> &str {
        match &self.parent {
            Parent::Told(parent) => parent,
            Parent::Begun(parent) => str::from_utf8(parent).unwrap_or_default(),
        }
    }

    /// Whether the client said it, so that its `tracestate` belongs to it.
    pub fn is_told(&self) -> bool {
        matches!(self.parent, Parent::Told(_))
    }
}

/// The trace-id of a valid value. Any bytes may come.
pub fn parse(value: &[u8]) -> Option<TraceId> {
    let (head, more) = value.split_at_checked(LENGTH)?;
    let mut fields = head.split(|byte| *byte == b'-');
    let [version, id, parent, flags] = [(); 4].map(|()| fields.next().unwrap_or_default());
    let lengths = [version, id, parent, flags].map(<[u8]>::len);
    let is_hex = |field: &[u8]| field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |field: &[u8]| field.iter().all(|byte| *byte == b'0');
    if lengths != [2, 32, 16, 2] || ![version, id, parent, flags].into_iter().all(is_hex) {
        return None;
    }
    let may_have_more = version != b"00" && more.first().is_none_or(|first| *first == b'-');
    let is_whole = more.is_empty() || may_have_more;
    if version == b"ff" || is_zero(id) || is_zero(parent) || !is_whole {
        return None;
    }
    let id = std::str::from_utf8(id).ok()?;
    u128::from_str_radix(id, 16).ok().map(|id| TraceId(id.to_be_bytes()))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 32];
        write_hex(&mut digits, &self.0);
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn told(lines: &[&str]) -> Option<Trace> {
        let mut headers = Headers::default();
        for line in lines {
            headers.append("TraceParent", line.as_bytes()).expect("a value");
        }
        Trace::told(&headers)
    }

    fn of(version: &str, rest: &str) -> String {
        format!("{version}-{ID}-{PARENT}-01{rest}")
    }

    #[test]
    fn w13_a_valid_traceparent_is_passed_as_it_is() {
        for valid in [of("00", ""), of("01", ""), of("cc", "-what-the-future-brings"), of("fe", "-")] {
            let trace = told(&[&valid]).expect(&valid);
            assert_eq!(
                (trace.parent(), trace.id().to_string(), trace.is_told()),
                (&*valid, ID.to_owned(), true)
            );
        }
    }

    #[test]
    fn w13_a_traceparent_that_is_malformed_counts_as_none() {
        let (zeros, upper) = ("0".repeat(32), ID.to_uppercase());
        let malformed = [
            String::new(),
            ID.to_owned(),
            of("ff", ""),
            of("00", "-more"),
            of("00", "0"),
            of("01", "more"),
            of("0", ""),
            of("0g", ""),
            of("0A", ""),
            of("00", "")[..54].to_owned(),
            of("00", "").replace('-', "_"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{upper}-{PARENT}-01"),
            format!("00-{ID}-{PARENT}-0x"),
            format!("00-{ID}-{PARENT}--1"),
            format!("00-{PARENT}-{ID}-01"),
            format!("00-+{}-{PARENT}-01", &ID[1..]),
            format!("00-{}é-{PARENT}-01", &ID[2..]),
        ];
        for malformed in malformed {
            assert_eq!(told(&[&malformed]), None, "{malformed}");
        }
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[&of("00", ""), &of("00", "")]), None, "exactly one");
    }

    proptest! {
        #[test]
        fn a_trace_that_begins_here_is_one_that_others_read(id in any::<u128>(), parent in any::<u64>()) {
            for (id, parent) in [(id, parent), (0, 0)] {
                let trace = Trace::begin(id, parent);
                prop_assert_eq!(trace.parent().len(), LENGTH);
                prop_assert!(trace.parent().ends_with("-00") && !trace.is_told());
                prop_assert_eq!(parse(trace.parent().as_bytes()), Some(trace.id()));
            }
        }

        #[test]
        fn any_bytes_are_a_trace_or_none(
            value in proptest::collection::vec(any::<u8>(), 0..80),
            near in "[0-9a-f]{2}-[0-9a-fA-F]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}.{0,3}",
        ) {
            for value in [&value[..], near.as_bytes()] {
                if let Some(id) = parse(value) {
                    prop_assert_eq!(id.to_string().into_bytes(), &value[3..35]);
                }
            }
        }
    }
}
