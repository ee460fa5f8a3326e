//! The lines of a listener.

use time::OffsetDateTime;

use super::{Row, listed, or_off, trusted, unusual};
use crate::{
    config::{
        CertificateSource, Identity, Listener, ListenerLimits, ListenerTimeouts, Tls,
        identity::date,
        values::{show_count, show_duration, show_size},
    },
    proto::network::Peers,
};

/// The listener with its certificates, and below them what differs from the defaults.
pub(super) fn rows(listener: &Listener, now: OffsetDateTime) -> Vec<Row> {
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    let mut whats = match &listener.tls {
        None => vec![
            listener
                .redirect_https
                .map_or_else(String::new, |port| format!("redirects to https at port {port}")),
        ],
        Some(Tls { source: CertificateSource::SelfSigned { names, folder }, .. }) => {
            vec![format!("development certificate in {} for {}", folder.display(), names.join(", "))]
        }
        Some(Tls { source: CertificateSource::Files(identities), .. }) => {
            identities.iter().map(|identity| certificate(identity, now)).collect()
        }
    };
    let details = [client_certificates, hsts, proxies, limits_of_a_client, limits, timeouts];
    whats.extend(details.into_iter().filter_map(|show| show(listener)).map(|text| format!("   {text}")));
    let first = [listener.address.to_string(), scheme.to_owned()];
    let begins = std::iter::once(first).chain(std::iter::repeat_n(Default::default(), whats.len()));
    begins.zip(whats).map(|([address, scheme], what)| vec![address, scheme, what]).collect()
}

fn certificate(identity: &Identity, now: OffsetDateTime) -> String {
    let names = if identity.names.is_empty() { "no name".to_owned() } else { identity.names.join(", ") };
    let days = (identity.not_after - now).whole_days();
    let date = date(identity.not_after);
    let expiry = match days {
        _ if identity.not_after < now => format!("expired on {date}"),
        0 => "expires within a day".to_owned(),
        1 => format!("expires in 1 day, on {date}"),
        days => format!("expires in {days} days, on {date}"),
    };
    format!("{names} ({expiry})")
}

fn client_certificates(listener: &Listener) -> Option<String> {
    let asked = listener.tls.as_ref()?.client_auth.as_ref()?;
    let word = if asked.required { "required" } else { "optional" };
    Some(format!("client certificates: {word}, {}", trusted("client_ca", asked.ca.len())))
}

fn hsts(listener: &Listener) -> Option<String> {
    let age = listener.tls.as_ref()?.hsts?;
    Some(format!("hsts {}", show_duration(age)))
}

fn proxies(listener: &Listener) -> Option<String> {
    let Listener { proxy_protocol, trusted_proxies, client_ip_header, .. } = listener;
    let required = proxy_protocol.as_ref().map(|from| format!("PROXY header required of {}", peers(from)));
    let trusted =
        (!trusted_proxies.is_empty()).then(|| format!("trusted_proxies {}", peers(trusted_proxies)));
    let header = client_ip_header.as_ref().map(|name| format!("client_ip_header {name}"));
    joined([required, trusted, header])
}

fn limits_of_a_client(listener: &Listener) -> Option<String> {
    let most = listener.max_connections_per_ip.and_then(|most| u64::try_from(most.get()).ok());
    let rate = listener.handshake_rate_per_ip;
    joined([
        most.map(|most| format!("max_connections_per_ip {}", show_count(most))),
        rate.map(|rate| format!("handshake_rate_per_ip {rate}")),
    ])
}

fn limits(listener: &Listener) -> Option<String> {
    let values = |limits: &ListenerLimits| {
        let wide = |amount: usize| u64::try_from(amount).unwrap_or(u64::MAX);
        [
            ("request_head", show_size(wide(limits.request_head))),
            ("header_count", show_count(wide(limits.header_count))),
            ("target", show_size(wide(limits.target))),
            ("early_bytes", show_size(wide(limits.early_bytes))),
        ]
    };
    let unusual = unusual(values(&listener.limits), values(&ListenerLimits::default()));
    unusual.map(|shown| format!("limits: {shown}"))
}

fn timeouts(listener: &Listener) -> Option<String> {
    let values = |timeout: &ListenerTimeouts| {
        let time = |duration| or_off(duration, show_duration);
        [
            ("tls_handshake", time(timeout.tls_handshake)),
            ("request_head", time(timeout.request_head)),
            ("keep_alive", time(timeout.keep_alive)),
            ("request_body", time(timeout.request_body)),
            ("write", time(timeout.write)),
        ]
    };
    let unusual = unusual(values(&listener.timeout), values(&ListenerTimeouts::default()));
    unusual.map(|shown| format!("timeout: {shown}"))
}

fn peers(peers: &Peers) -> String {
    listed(
        peers
            .unix
            .then(|| "unix".to_owned())
            .into_iter()
            .chain(peers.networks.0.iter().map(ToString::to_string)),
    )
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> Option<String> {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
