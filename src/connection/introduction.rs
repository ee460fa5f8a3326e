//! The PROXY header, by which a balancer begins a connection (rules S5, B13).

use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout_at},
};

use super::Client;
use crate::{
    buffered::Socket,
    ending::{Introduction, TlsFailure},
    proto::{network::Peers, proxy_protocol::parse},
};

/// Bytes that are looked at at once: more than the header of nearly every balancer.
const GLANCE: usize = 512;

/// Reads the PROXY header that only these peers may send, and not a byte behind it.
pub(super) async fn read(
    socket: &mut Socket,
    client: &mut Client,
    from: &Peers,
    due: Option<Instant>,
) -> Result<(), TlsFailure> {
    if !from.contains(client.ip()) {
        return Err(Introduction::Stranger.into());
    }
    let read = read_header(socket, client);
    match due {
        Some(due) => timeout_at(due, read).await.unwrap_or(Err(Introduction::Timeout.into())),
        None => read.await,
    }
}

async fn read_header(socket: &mut Socket, client: &mut Client) -> Result<(), TlsFailure> {
    let mut header = Vec::new();
    loop {
        let before = header.len();
        let mut glance = [0; GLANCE];
        let seen = match socket.peek(&mut glance).await {
            Ok(0) if before == 0 => return Err(TlsFailure::Silent),
            Err(_) if before == 0 => return Err(TlsFailure::Silent),
            Ok(0) => return Err(Introduction::CutShort(None).into()),
            Err(error) => return Err(Introduction::CutShort(Some(error)).into()),
            Ok(seen) => seen,
        };
        header.extend_from_slice(&glance[..seen]);
        let parsed = parse(&header).map_err(Introduction::Malformed)?;
        // What was seen is taken out of the socket as far as it belongs to the header, and the rest stays for whoever is next.
        let length = parsed.map_or(header.len(), |(_, length)| length);
        let taken = socket.read_exact(&mut glance[..length - before]).await;
        taken.map_err(|error| Introduction::CutShort(Some(error)))?;
        if let Some((header, _)) = parsed {
            client.introduced(&header);
            return Ok(());
        }
    }
}
