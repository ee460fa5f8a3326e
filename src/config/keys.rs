//! Every table of the configuration with its keys, and what an unknown key was probably meant to be.

use super::report::{Finding, nearest};

/// A table of the configuration.
#[derive(Debug)]
pub(super) struct Shape {
    /// How its header is written.
    pub(super) header: &'static str,
    /// Its keys, those of sub-tables included.
    pub(super) keys: &'static [&'static str],
}

macro_rules! shapes {
    ($($name:ident = $header:literal [$($key:literal),* $(,)?];)*) => {
        $(pub(super) static $name: Shape = Shape { header: $header, keys: &[$($key),*] };)*
        /// All of them.
        pub(super) static ALL: &[&Shape] = &[$(&$name),*];
    };
}

shapes! {
    ROOT = "" ["server", "log", "listener", "upstream", "route"];
    SERVER = "[server]" ["workers", "max_connections", "max_tls_handshakes", "shutdown_grace", "drain_spread"];
    LOG = "[log]" ["level", "format", "access", "redact"];
    LISTENER = "[[listener]]" [
        "address", "protocols", "underscore_headers", "redirect_https", "limits", "timeout", "tls",
    ];
    LISTENER_LIMITS = "[listener.limits]" ["request_head", "header_count", "target", "early_bytes"];
    LISTENER_TIMEOUT = "[listener.timeout]" [
        "tls_handshake", "request_head", "keep_alive", "request_body", "write",
    ];
    LISTENER_TLS = "[listener.tls]" [
        "cert", "key", "certificates", "self_signed", "min_version", "hsts",
    ];
    CERTIFICATE = "an entry of `certificates`" ["cert", "key"];
    UPSTREAM = "[upstream.NAME]" [
        "servers", "balance", "connect_timeout", "handshake_timeout", "response_timeout",
        "response_body_timeout", "retries", "retry_deadline", "keep_alive", "keep_alive_timeout",
    ];
    UPSTREAM_SERVER = "an entry of `servers`" ["address", "weight"];
    ROUTE = "[[route]]" [
        "name", "host", "path", "kind", "upstream", "redirect", "respond", "strip_prefix", "host_header",
        "via", "request_headers", "response_headers", "limits", "websocket",
    ];
    REDIRECT = "[route.redirect]" ["to", "status"];
    RESPOND = "[route.respond]" ["status", "body"];
    REQUEST_HEADERS = "[route.request_headers]" ["set", "remove"];
    RESPONSE_HEADERS = "[route.response_headers]" ["set", "remove"];
    ROUTE_LIMITS = "[route.limits]" ["request_body"];
    ROUTE_WEBSOCKET = "[route.websocket]" [
        "frames", "verify_accept", "idle_timeout", "ping", "ping_interval", "pong_timeout", "half_close_timeout",
        "max_frame", "max_message", "message_rate", "max_age", "close_timeout",
    ];
}

/// Words of other programs, with the key that does their job here. Of several with the same word, the one that the
/// table has is meant, or else the first. Case and `_` don't count: `maxPayload` is `max_payload`.
const FOREIGN: &[(&str, &str)] = &[
    ("listen", "address"),
    ("bind", "address"),
    ("port", "address"),
    ("location", "path"),
    ("server_name", "host"),
    ("hosts", "host"),
    ("domain", "host"),
    ("backend", "upstream"),
    ("proxy_pass", "upstream"),
    ("ssl", "tls"),
    ("ssl_certificate", "cert"),
    ("certificate", "cert"),
    ("ssl_certificate_key", "key"),
    ("private_key", "key"),
    ("ssl_protocols", "min_version"),
    ("proxy_connect_timeout", "connect_timeout"),
    ("proxy_read_timeout", "idle_timeout"),
    ("proxy_read_timeout", "response_timeout"),
    ("client_max_body_size", "request_body"),
    ("worker_processes", "workers"),
    ("worker_connections", "max_connections"),
    ("threads", "workers"),
    ("access_log", "access"),
    ("max_body_size", "request_body"),
    ("timeout_tunnel", "idle_timeout"),
    ("tunnel_timeout", "idle_timeout"),
    ("stream_idle_timeout", "idle_timeout"),
    ("heartbeat", "ping_interval"),
    ("heartbeat_interval", "ping_interval"),
    ("keepalive", "keep_alive"),
    ("keepalive", "ping_interval"),
    ("keepalive_interval", "ping_interval"),
    ("ping_period", "ping_interval"),
    ("heartbeat_timeout", "pong_timeout"),
    ("keepalive_timeout", "keep_alive"),
    ("keepalive_timeout", "pong_timeout"),
    ("tcp_user_timeout", "pong_timeout"),
    ("pings", "ping"),
    ("max_frame_size", "max_frame"),
    ("max_frame_length", "max_frame"),
    ("max_received_frame_size", "max_frame"),
    ("max_payload", "max_message"),
    ("max_payload_size", "max_message"),
    ("max_payload_length", "max_message"),
    ("max_message_size", "max_message"),
    ("max_received_message_size", "max_message"),
    ("message_size_limit", "max_message"),
    ("rate_limit", "message_rate"),
    ("rate", "message_rate"),
    ("max_rate", "message_rate"),
    ("frame_rate", "message_rate"),
    ("max_messages_per_second", "message_rate"),
    ("max_connection_age", "max_age"),
    ("max_connection_duration", "max_age"),
    ("max_lifetime", "max_age"),
    ("max_stream_duration", "max_age"),
    ("close_spread_time", "drain_spread"),
    ("drain_window", "drain_spread"),
    ("drain_time", "shutdown_grace"),
    ("drain_timeout", "shutdown_grace"),
    ("grace_period", "shutdown_grace"),
    ("hard_stop_after", "shutdown_grace"),
    ("shutdown_timeout", "shutdown_grace"),
    ("stop_grace_period", "shutdown_grace"),
    ("stream_close_delay", "shutdown_grace"),
    ("worker_shutdown_timeout", "shutdown_grace"),
];

impl Shape {
    /// The header in backticks, as a message names the table.
    pub(super) fn shown(&self) -> String {
        match self.header {
            "" => "the top level".to_owned(),
            header if header.starts_with('[') => format!("`{header}`"),
            words => words.to_owned(),
        }
    }

    /// The error for a key that this table does not have.
    pub(super) fn unknown_key(&self, key: &str, span: std::ops::Range<usize>) -> Finding {
        let shown = super::report::shown(key);
        Finding::new(span, format!("unknown key `{shown}`"))
            .label(format!("{} has no such key", self.shown()))
            .help(self.meant(key))
    }

    /// What may have been meant: a slip of one letter, the same key elsewhere, a similar one, a word of
    /// another proxy.
    fn meant(&self, key: &str) -> String {
        let here = nearest(key, self.keys.iter().copied());
        if let Some(near) = here.filter(|near| strsim::damerau_levenshtein(near, key) == 1) {
            return format!("did you mean `{near}`?");
        }
        if let Some(places) = places(key) {
            return format!("`{key}` belongs in {places}");
        }
        let everywhere = || nearest(key, ALL.iter().flat_map(|shape| shape.keys).copied());
        match self.foreign(key).or(here).or_else(everywhere) {
            Some(meant) if self.keys.contains(&meant) => format!("did you mean `{meant}`?"),
            Some(meant) => {
                let places = places(meant).unwrap_or_else(|| ROOT.shown());
                format!("did you mean `{meant}`? It belongs in {places}")
            }
            None => format!("the keys of {} are {}", self.shown(), self.keys.join(", ")),
        }
    }

    /// The key that does the job of another program's word: one of this table, if there is one.
    fn foreign(&self, word: &str) -> Option<&'static str> {
        let plain = |word: &str| word.replace(['_', '-'], "").to_lowercase();
        let same = |(known, _): &&(&str, &str)| plain(known) == plain(word);
        let mut meant = FOREIGN.iter().filter(same).map(|(_, key)| *key);
        let first = meant.clone().next();
        meant.find(|key| self.keys.contains(key)).or(first)
    }
}

/// Where `key` is known: as a sub-table of its own, or else as a key of these tables.
fn places(key: &str) -> Option<String> {
    let sub_table = format!(".{key}]");
    let is_sub_table = |shape: &&&Shape| shape.header.ends_with(&sub_table);
    let mut shapes: Vec<_> = ALL.iter().filter(is_sub_table).collect();
    if shapes.is_empty() {
        let below_the_top = ALL.iter().filter(|shape| !shape.header.is_empty());
        shapes = below_the_top.filter(|shape| shape.keys.contains(&key)).collect();
    }
    let shown: Vec<_> = shapes.iter().map(|shape| shape.shown()).collect();
    (!shown.is_empty()).then(|| shown.join(" or "))
}
