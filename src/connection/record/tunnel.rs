//! What a tunnel's record will say at its end.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{CUT, end, peer_beside, tls_fields};
use crate::{
    connection::{Client, client::name_of},
    ending::{Phase, Side, chain},
    proto::{head::Method, trace::TraceId},
    telemetry::{AccessRecord, AccessSink, ClosedBy, Direction, Kind, Pings},
    tunnel::{self, Account, Frames, Report},
};

/// What a tunnel's record will say at its end. It stands as long as the tunnel, so it keeps no more than can't be had
/// elsewhere.
pub(in crate::connection) struct TunnelRecord {
    /// Unique in this process.
    id: u64,
    access: AccessSink,
    listener: Arc<str>,
    client: Arc<Client>,
    route: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    /// Client, if it is not the connection's, host, target, subprotocol, request id and user.
    words: Box<str>,
    trace_id: TraceId,
    opened: Instant,
    ended: bool,
}

impl Drop for TunnelRecord {
    /// Writes the record of a tunnel that was dropped with its task.
    fn drop(&mut self) {
        if !self.ended {
            let mut record = self.record();
            end(&mut record, CUT);
            self.access.record(&record);
        }
    }
}

impl TunnelRecord {
    /// Can stand in neither a head's line nor what was parsed out of one.
    const BETWEEN: &str = "\n";

    /// In bytes, of each word; what is longer ends in [`Self::CUT_OFF`]. A client chooses them, and each of its tunnels has them
    /// as long as it stands.
    const LONGEST: usize = 1024;
    const CUT_OFF: &str = "...";

    /// Of a tunnel that `opening` is the record of.
    pub(in crate::connection) fn new(
        access: AccessSink,
        client: &Arc<Client>,
        opening: AccessRecord,
        trace_id: TraceId,
    ) -> Self {
        let words = [
            // The connection's own is kept already.
            if opening.client == name_of(client.address()) { "" } else { &*opening.client },
            &*opening.host,
            &opening.target,
            opening.subprotocol.as_deref().unwrap_or_default(),
            &opening.request_id,
            opening.user.as_deref().unwrap_or_default(),
        ];
        Self {
            id: Self::next_id(),
            access,
            client: Arc::clone(client),
            words: words.map(Self::cut).join(Self::BETWEEN).into(),
            listener: opening.listener,
            route: opening.route,
            endpoint: opening.endpoint,
            trace_id,
            opened: Instant::now(),
            ended: false,
        }
    }

    fn cut(word: &str) -> Cow<'_, str> {
        if word.len() <= Self::LONGEST {
            return word.into();
        }
        let most = Self::LONGEST - Self::CUT_OFF.len();
        let fits = (0..=most).rev().find(|&end| word.is_char_boundary(end));
        [&word[..fits.unwrap_or(0)], Self::CUT_OFF].concat().into()
    }

    /// The number of the next tunnel.
    fn next_id() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The tunnel's number.
    pub(in crate::connection) fn id(&self) -> u64 {
        self.id
    }

    /// Its route's name.
    pub(in crate::connection) fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Its endpoint's name.
    pub(in crate::connection) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Its listener's address as configured.
    pub(in crate::connection) fn listener(&self) -> &str {
        &self.listener
    }

    /// Its client's address; `None` on a unix socket.
    pub(in crate::connection) fn client_ip(&self) -> Option<IpAddr> {
        match self.words.split(Self::BETWEEN).next().unwrap_or_default() {
            "" => self.client.ip(),
            name => name.parse().or_else(|_| name.parse().map(|client: SocketAddr| client.ip())).ok(),
        }
    }

    /// Writes the record.
    pub(in crate::connection) fn end(&mut self, report: &Report) {
        let mut record = self.record();
        record.ending = Some(report.end.label());
        record.ended_by = Some(report.ended_by.label());
        record.error = std::error::Error::source(&report.end).map(|_| chain(&report.end).into());
        record.duration = Some(report.open);
        record.client_pings = pings(&report.client_pings);
        record.backend_pings = pings(&report.backend_pings);
        record.from_client = Some(direction(&report.client));
        record.from_backend = Some(direction(&report.backend));
        record.close = report.first_close.and_then(|side| closed_by(side, report));
        record.truncated = report.truncated;
        self.access.record(&record);
        self.ended = true;
    }

    /// The record as far as it does not depend on the end.
    pub(in crate::connection) fn record(&self) -> AccessRecord {
        let mut words = self.words.split(Self::BETWEEN);
        let mut word = || words.next().unwrap_or_default();
        let client = match word() {
            "" => name_of(self.client.address()),
            client => client.into(),
        };
        let mut record = AccessRecord::new(Kind::TunnelEnd, Arc::clone(&self.listener), client);
        record.peer = peer_beside(&self.client, &record.client);
        record.method = Method::GET.as_str().into();
        record.host = word().into();
        record.target = word().into();
        record.subprotocol = Some(word()).filter(|name| !name.is_empty()).map(Into::into);
        record.request_id = word().into();
        record.trace_id = Some(self.trace_id);
        record.user = Some(word()).filter(|name| !name.is_empty()).map(Into::into);
        record.route.clone_from(&self.route);
        record.endpoint.clone_from(&self.endpoint);
        record.status = Some(101);
        record.duration = Some(self.opened.elapsed());
        record.phase = Some(Phase::Tunnel.label());
        record.tls = tls_fields(&self.client);
        record
    }
}

pub(in crate::connection) fn direction(account: &Account) -> Direction {
    let Frames { continuation, text, binary, close, ping, pong } = account.frames;
    Direction {
        bytes: account.bytes,
        frames: account.frames.total(),
        text,
        binary,
        continuation,
        close,
        ping,
        pong,
        messages: account.messages,
        fragmented: account.fragmented,
        compressed: account.compressed,
        longest_message: account.longest_message,
        illegal_frames: account.illegal,
    }
}

pub(in crate::connection) fn pings(pings: &tunnel::Pings) -> Option<Pings> {
    let &tunnel::Pings { sent, lost, round_trip, longest_round_trip } = pings;
    (sent > 0).then_some(Pings { sent, lost, round_trip, longest_round_trip })
}

fn closed_by(side: Side, report: &Report) -> Option<ClosedBy> {
    let (code, reason) = match side {
        Side::Downstream => of_peer(&report.client)?,
        Side::Upstream => of_peer(&report.backend)?,
        Side::Gate => {
            let (code, reason) = report.own_close.as_ref()?;
            (Some(*code), reason.clone())
        }
    };
    Some(ClosedBy { side: side.label(), code, reason })
}

fn of_peer(account: &Account) -> Option<(Option<u16>, Box<str>)> {
    let close = account.close.as_ref()?;
    Some((close.code.map(|code| code.0), String::from_utf8_lossy(&close.reason).into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ending::TunnelEnd, proto::trace::Trace};

    fn open(access: &AccessSink, client: &str, target: &str) -> TunnelRecord {
        let address = Client::new(Some(SocketAddr::from(([192, 0, 2, 1], 5))));
        let name = if client.is_empty() { name_of(address.address()) } else { client.into() };
        let mut opening = AccessRecord::new(Kind::TunnelOpen, "127.0.0.1:443".into(), name);
        opening.host = "a.example".into();
        opening.target = target.into();
        opening.subprotocol = Some("graphql".into());
        opening.request_id = "id".into();
        opening.user = Some("ali".into());
        opening.route = Some("main".into());
        opening.endpoint = Some("127.0.0.1:9000".into());
        TunnelRecord::new(access.clone(), &Arc::new(address), opening, Trace::begin(7, 7).id())
    }

    #[test]
    fn t11_a_tunnel_that_is_dropped_with_its_task_leaves_its_record() {
        let (access, records) = AccessSink::memory();
        drop(open(&access, "", "/chat"));
        let all = records.all();
        assert_eq!(all.len(), 1);
        let record = &all[0];
        assert_eq!((record.kind, record.ending), (Kind::TunnelEnd, Some("drain_timeout")));
        assert_eq!((record.ended_by, record.phase), (Some("gate"), Some("tunnel")));
        assert_eq!((&*record.host, &*record.target), ("a.example", "/chat"));
        assert_eq!((&*record.request_id, record.subprotocol.as_deref()), ("id", Some("graphql")));
        assert_eq!(record.user.as_deref(), Some("ali"));
        assert_eq!(record.trace_id, Some(Trace::begin(7, 1).id()));
        assert_eq!((&*record.client, record.status), ("192.0.2.1:5", Some(101)));
        assert_eq!(record.peer, None);
        assert_eq!(
            (record.route.as_deref(), record.endpoint.as_deref()),
            (Some("main"), Some("127.0.0.1:9000"))
        );
        assert!(record.duration.is_some());
    }

    #[test]
    fn h7_a_tunnels_record_names_its_client_and_the_proxy() {
        let (access, records) = AccessSink::memory();
        drop(open(&access, "198.51.100.7", "/chat"));
        let all = records.all();
        assert_eq!((&*all[0].client, all[0].peer.as_deref()), ("198.51.100.7", Some("192.0.2.1:5")));
        assert_eq!((&*all[0].host, &*all[0].request_id), ("a.example", "id"));
    }

    #[test]
    fn s2_what_a_client_can_have_a_tunnel_keep_is_bounded() {
        let (access, records) = AccessSink::memory();
        // No cut falls within a character, wherever the one that is too much begins.
        for shift in 0..4 {
            let long = format!("/{}{}", "a".repeat(shift), "\u{1f980}".repeat(4000));
            let open = open(&access, "", &long);
            assert!(open.words.len() < 1100, "{} bytes", open.words.len());
            drop(open);
            let target = &*records.all()[shift].target;
            let kept = target.strip_suffix("...").unwrap();
            assert!(long.starts_with(kept) && (1018..=1024).contains(&target.len()), "{}", target.len());
        }
        let fits = "a".repeat(1024);
        drop(open(&access, "", &fits));
        assert_eq!(*records.all()[4].target, *fits);
    }

    #[test]
    fn t11_a_tunnel_that_has_ended_has_one_record() {
        let (access, records) = AccessSink::memory();
        let mut open = open(&access, "", "/chat");
        open.end(&Report {
            own_close: None,
            end: TunnelEnd::Idle,
            ended_by: Side::Gate,
            first_close: None,
            open: Duration::from_secs(60),
            client: Account::default(),
            backend: Account::default(),
            client_pings: tunnel::Pings::default(),
            backend_pings: tunnel::Pings::default(),
            truncated: false,
        });
        drop(open);
        let endings: Vec<_> = records.all().iter().map(|record| record.ending).collect();
        assert_eq!(endings, [Some("idle")]);
    }
}
