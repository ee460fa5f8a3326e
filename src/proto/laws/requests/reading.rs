//! What another parser makes of a request, strictly; and what must be true of the one that goes upstream.

use std::net::Ipv4Addr;

use crate::proto::forward::HostHeader;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const REQUEST_ID: &str = "id-of-this-request";

/// Names that wsgate sets, whatever a client says.
const OWN: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
    "forwarded",
    "x-request-id",
    "traceparent",
];
/// Of one connection alone, and never of the next (rule H5).
const NEVER: [&str; 6] =
    ["keep-alive", "proxy-connection", "http2-settings", "trailer", "proxy-authorization", "proxy"];
/// What Connection can't take out.
const JUDGED_BY: [&str; 4] = ["host", "origin", "cookie", "authorization"];

pub(super) fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with("x-forwarded-")
}

/// A request with its body.
pub(super) struct Reading {
    pub(super) method: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) data: Vec<u8>,
    pub(super) trailers: Vec<String>,
    /// Of head and body, in bytes.
    pub(super) length: usize,
}

impl Reading {
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(each, _)| each == name).map(|(_, value)| &value[..])
    }

    fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
    }
}

/// Reads the request at the start of `bytes`. `None` if it is not whole, or not to be read in one way alone.
pub(super) fn read(bytes: &[u8]) -> Option<Reading> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(head) = request.parse(bytes).ok()? else { return None };
    let lines = request.headers.iter();
    let mut reading = Reading {
        method: request.method?.to_owned(),
        headers: lines
            .map(|line| (line.name.to_ascii_lowercase(), line.value.trim_ascii().to_vec()))
            .collect(),
        data: Vec::new(),
        trailers: Vec::new(),
        length: head,
    };
    let codings: Vec<_> = reading.tokens("transfer-encoding").collect();
    let lengths: Vec<_> = reading.all("content-length").collect();
    match (&codings[..], &lengths[..]) {
        ([], []) => {}
        ([], [length]) => {
            let length: usize = str::from_utf8(length).ok()?.parse().ok()?;
            reading.data = bytes.get(head..head.checked_add(length)?)?.to_vec();
            reading.length += length;
        }
        ([chunked], []) if chunked == "chunked" => read_chunks(bytes, &mut reading)?,
        _ => return None,
    }
    Some(reading)
}

fn read_chunks(bytes: &[u8], reading: &mut Reading) -> Option<()> {
    loop {
        let rest = &bytes[reading.length..];
        let line = rest.windows(2).position(|end| end == b"\r\n")?;
        reading.length += line + 2;
        let size = chunk_size(&rest[..line])?;
        if size == 0 {
            break;
        }
        let (data, rest) = rest[line + 2..].split_at_checked(size)?;
        rest.starts_with(b"\r\n").then_some(())?;
        reading.data.extend_from_slice(data);
        reading.length += data.len() + 2;
    }
    let mut lines = [httparse::EMPTY_HEADER; 16];
    let section = httparse::parse_headers(&bytes[reading.length..], &mut lines).ok()?;
    let httparse::Status::Complete((length, trailers)) = section else { return None };
    reading.trailers = trailers.iter().map(|line| line.name.to_ascii_lowercase()).collect();
    reading.length += length;
    Some(())
}

/// Not httparse's, which takes no more than 16 digits, zeros or not.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = str::from_utf8(line.split(|byte| *byte == b';').next()?).ok()?.trim_end_matches([' ', '\t']);
    // It would take a sign.
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    usize::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// What a request that goes upstream must be like, given the one that came.
pub(super) fn judge_headers(came: &Reading, gone: &Reading, is_offer: bool, host: &HostHeader) {
    let values = |name: &str| {
        gone.all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
    };
    for name in NEVER {
        assert_eq!(gone.all(name).count(), 0, "{name}");
    }
    let (upgrade, connection) = (values("upgrade"), values("connection"));
    if is_offer {
        assert_eq!((upgrade, connection), (vec!["websocket".to_owned()], vec!["Upgrade".to_owned()]));
    } else {
        assert!(upgrade.is_empty(), "an upgrade that nobody can answer: {upgrade:?}");
        assert!(connection.is_empty() || connection == ["TE"] && values("te") == ["trailers"]);
    }
    assert_eq!(values("x-forwarded-for"), [CLIENT.to_string()]);
    assert_eq!(values("x-real-ip"), [CLIENT.to_string()]);
    assert_eq!(values("x-request-id"), [REQUEST_ID]);
    assert_eq!(values("traceparent").len(), 1);
    assert_eq!((values("forwarded").len(), values("x-forwarded-proto").len()), (1, 1));
    let hosts = values("host");
    assert_eq!(hosts.len(), 1, "one Host");
    if let (HostHeader::Client, Some(theirs)) = (host, came.all("host").next()) {
        assert_eq!(hosts[0].as_bytes(), theirs);
    }
    for named in came.tokens("connection") {
        let stays = is_own(&named)
            || JUDGED_BY.contains(&&*named)
            || named.starts_with("sec-websocket-")
            // Set by the route, not by the client.
            || named == "x-set";
        assert!(stays || gone.all(&named).count() == 0, "Connection names {named}");
    }
    let framing = |trailer: &String| is_own(trailer) || NEVER.contains(&&**trailer);
    assert!(!gone.trailers.iter().any(framing), "{:?}", gone.trailers);
}
