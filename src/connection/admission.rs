//! Who is let in by a route: by address, by Origin, by password, by the word of a server. In this order, and before anything is
//! done about the request.

use std::{net::IpAddr, ops::ControlFlow, sync::Arc};

use tokio::time::Instant;

use super::{
    forward_auth,
    h1::Next,
    request::{Ask, Request, Way},
    snapshot::{Route, Snapshot},
};
use crate::{
    auth::{Credentials, Denied},
    config::Origins,
    ending::{Phase, Refusal},
    proto::{
        head::Headers,
        network::{ClientKey, Networks},
        origin::Origin,
    },
};

/// Characters of an Origin that the log shows.
const ORIGIN_SHOWN: usize = 200;

impl Request<'_> {
    /// Judges whether the route lets the request in. `Break` where the server that was asked had an answer of its own, which
    /// the client has got.
    pub(super) async fn admit(
        &mut self,
        snapshot: &Snapshot,
        route: &Route,
        ask: &Ask,
    ) -> Result<ControlFlow<Next>, Refusal> {
        if !lets_in(&route.config.allow, &route.config.deny, self.sender.listed_ip()) {
            return Err(Refusal::AddressDenied);
        }
        if ask.offer.is_some() {
            let own = || Origin::of_request(self.sender.https, ask.target.authority());
            judge_origin(&self.head.headers, &route.config.origins, own)
                .map_err(|origin| Refusal::OriginDenied(self.record.mask(&origin)))?;
        }
        self.check_password(route).await?;
        let Some(server) = route.config.auth.as_ref().and_then(|auth| auth.forward.as_ref()) else {
            return Ok(ControlFlow::Continue(()));
        };
        let way = Way {
            route,
            pool: &snapshot.pools[server.upstream],
            asked: &ask.target,
            target: server.path.as_str().into(),
            metrics: snapshot.answering(server.upstream, &self.connection.gate.metrics),
        };
        self.record.begin_to_ask();
        let answer = forward_auth::ask(self, &way).await?;
        if answer.is_continue() {
            self.record.has_asked();
        }
        Ok(answer)
    }

    /// Checks name and password where the route has users. Whoever leaves meanwhile gives the place in the queue up.
    async fn check_password(&mut self, route: &Route) -> Result<(), Refusal> {
        let Some(users) = &route.users else { return Ok(()) };
        let refusal = |denied| match denied {
            Denied::Busy => Refusal::AuthOverload,
            denied => Refusal::Unauthorized { realm: Arc::clone(&route.name), why: denied.why() },
        };
        let credentials = Credentials::of(&self.head.headers).map_err(refusal)?;
        if let Some(user) = users.recall(&credentials, Instant::now()) {
            self.record.user(&user);
            return Ok(());
        }
        let verifier = self.connection.gate.verifier.clone();
        let user = tokio::select! {
            biased;
            verdict = verifier.prove(users, credentials, self.sender.ip.map(ClientKey::from)) => verdict.map_err(refusal)?,
            source = self.connection.gone() => {
                return Err(Refusal::DownstreamGone { phase: Phase::Route, source });
            }
        };
        self.record.user(&user);
        Ok(())
    }
}

/// Whether clients of this address are let in: `deny` wins, and a client without an address is on no list.
fn lets_in(allow: &Networks, deny: &Networks, client: Option<IpAddr>) -> bool {
    let is_in = |networks: &Networks| client.is_some_and(|ip| networks.contains(ip));
    (allow.is_empty() || is_in(allow)) && !is_in(deny)
}

/// Judges the Origin of an opening handshake (rule W14). The error says which it was.
fn judge_origin(
    headers: &Headers,
    origins: &Origins,
    own: impl FnOnce() -> Option<Origin>,
) -> Result<(), String> {
    let mut lines = headers.get_all("origin");
    let Some(origin) = lines.next() else {
        return if origins.require { Err("there is none".to_owned()) } else { Ok(()) };
    };
    // Which of them a backend would believe is not known here.
    if lines.next().is_some() {
        return Err(format!("several, the first is {}", shown(origin)));
    }
    let own = own();
    if origins.allowed.iter().any(|allowed| allowed.allows(origin, own.as_ref())) {
        return Ok(());
    }
    Err(shown(origin))
}

/// What a client wrote, as long as the log wants it. Whoever prints it escapes it (rule S10).
fn shown(origin: &[u8]) -> String {
    String::from_utf8_lossy(origin).chars().take(ORIGIN_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(values: &[&[u8]], origins: &[&str], require: bool, own: (bool, &str)) -> Result<(), String> {
        let mut headers = Headers::new();
        for value in values {
            headers.append("oRiGiN", value).unwrap();
        }
        let allowed = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        judge_origin(&headers, &Origins { allowed, require }, || Origin::of_request(own.0, own.1))
    }

    #[test]
    fn deny_wins_and_a_list_leaves_all_others_out() {
        let networks = |list: &[&str]| Networks(list.iter().map(|text| text.parse().unwrap()).collect());
        let judge = |allow: &[&str], deny: &[&str], ip: &str| {
            lets_in(&networks(allow), &networks(deny), Some(ip.parse().unwrap()))
        };
        assert!(judge(&[], &[], "192.0.2.1") && judge(&[], &["10.0.0.0/8"], "192.0.2.1"));
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
            assert!(judge(&["10.0.0.0/8", "2001:db8::/32"], &[], inside), "{inside}");
            assert!(!judge(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.2.3", "2001:db8::1"], inside));
            assert!(!judge(&["192.0.2.1"], &[], inside));
        }
        let nobody = |allow: &[&str], deny: &[&str]| lets_in(&networks(allow), &networks(deny), None);
        assert!(nobody(&[], &["0.0.0.0/0", "::/0"]) && !nobody(&["0.0.0.0/0", "::/0"], &[]));
    }

    const OWN: (bool, &str) = (true, "chat.example");

    #[test]
    fn w14_an_origin_is_allowed_by_any_entry_of_the_list() {
        let list = ["https://a.example", "same-origin", "null"];
        for allowed in ["https://a.example", "https://chat.example", "https://chat.example:443", "null"] {
            assert_eq!(judge(&[allowed.as_bytes()], &list, true, OWN), Ok(()), "{allowed}");
        }
        for denied in ["http://chat.example", "https://chat.example:8443", "https://b.example", "", "Null"] {
            assert_eq!(judge(&[denied.as_bytes()], &list, false, OWN), Err(denied.to_owned()), "{denied}");
        }
        assert_eq!(judge(&[b"https://a.example"], &[], false, OWN), Err("https://a.example".to_owned()));
    }

    #[test]
    fn w14_the_own_origin_is_that_of_the_listener_and_host() {
        let same = |origin: &str, own| judge(&[origin.as_bytes()], &["same-origin"], false, own);
        assert!(same("http://chat.example:8080", (false, "Chat.Example:8080")).is_ok());
        assert!(same("https://chat.example:8080", (false, "chat.example:8080")).is_err());
        // A request without Host has no origin that another could be the same as.
        assert!(same("http://", (false, "")).is_err());
    }

    #[test]
    fn w14_an_absent_origin_passes_unless_one_is_required() {
        assert_eq!(judge(&[], &["https://a.example"], false, OWN), Ok(()));
        assert_eq!(judge(&[], &["*"], true, OWN), Err("there is none".to_owned()));
    }

    #[test]
    fn w14_several_origins_are_none_that_could_be_judged() {
        let both: [&[u8]; 2] = [b"https://a.example", b"https://b.example"];
        let error = "several, the first is https://a.example";
        assert_eq!(judge(&both, &["https://a.example"], false, OWN), Err(error.to_owned()));
        assert_eq!(judge(&both, &["*"], false, OWN), Err(error.to_owned()));
        assert_eq!(judge(&[b"*"], &["*"], true, OWN), Ok(()));
    }

    #[test]
    fn s10_the_log_has_no_more_of_an_origin_than_it_wants() {
        let error = judge(&[&[b'x'; 5000]], &["null"], false, OWN).unwrap_err();
        assert_eq!(error.len(), ORIGIN_SHOWN);
        assert_eq!(judge(&[b"\xff"], &["null"], false, OWN), Err("\u{fffd}".to_owned()));
    }
}
