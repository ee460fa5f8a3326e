//! Heads of requests and answers, no more than this program needs of them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reads a head. What follows it stays in `came`.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), came: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = came.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = came.drain(..end + 4).collect();
            return String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(came).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The value of a header.
pub(crate) fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The status of an answer.
pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The tunnel's number, which is the end of the request's path.
pub(crate) fn tunnel(head: &str) -> u64 {
    let path = head.split(' ').nth(1).unwrap_or_default();
    path.rsplit('/').next().and_then(|number| u64::from_str_radix(number, 16).ok()).unwrap_or(0)
}
