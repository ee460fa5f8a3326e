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
    ROOT = "" ["server", "log", "admin", "listener", "upstream", "route"];
    SERVER = "[server]" [
        "workers", "max_connections", "max_tls_handshakes", "shutdown_delay", "shutdown_grace", "drain_spread",
        "upgrade_socket",
    ];
    LOG = "[log]" ["level", "format", "access", "redact"];
    ADMIN = "[admin]" ["address", "token", "metrics_token", "hosts"];
    LISTENER = "[[listener]]" [
        "address", "protocols", "proxy_protocol", "proxy_protocol_from", "trusted_proxies", "client_ip_header",
        "underscore_headers", "redirect_https", "max_connections_per_ip", "handshake_rate_per_ip", "limits", "timeout",
        "tls",
    ];
    LISTENER_LIMITS = "[listener.limits]" ["request_head", "header_count", "target", "early_bytes"];
    LISTENER_TIMEOUT = "[listener.timeout]" [
        "tls_handshake", "request_head", "keep_alive", "request_body", "write",
    ];
    LISTENER_TLS = "[listener.tls]" [
        "cert", "key", "certificates", "self_signed", "min_version", "client_ca", "client_auth", "hsts",
    ];
    CERTIFICATE = "an entry of `certificates`" ["cert", "key"];
    UPSTREAM = "[upstream.NAME]" [
        "servers", "balance", "connect_timeout", "handshake_timeout", "response_timeout",
        "response_body_timeout", "retries", "retry_deadline", "keep_alive", "keep_alive_timeout", "hash_key",
        "sticky_cookie", "sticky_same_site", "source_addresses", "retry_handshakes", "dns_refresh", "slow_start",
        "max_fails", "fail_timeout", "on_removed", "proxy_protocol", "tls", "health",
    ];
    UPSTREAM_SERVER = "an entry of `servers`" ["address", "weight", "backup", "max_connections"];
    UPSTREAM_TLS = "[upstream.NAME.tls]" ["server_name", "ca", "cert", "key", "verify"];
    UPSTREAM_HEALTH = "[upstream.NAME.health]" [
        "check", "path", "host", "headers", "subprotocol", "expect_status", "ping", "interval", "timeout", "rise",
        "fall",
    ];
    ROUTE = "[[route]]" [
        "name", "host", "path", "subprotocol", "kind", "upstream", "redirect", "respond", "strip_prefix",
        "host_header", "via", "allow", "deny", "request_headers", "response_headers", "auth", "limits", "websocket",
    ];
    REDIRECT = "[route.redirect]" ["to", "status"];
    RESPOND = "[route.respond]" ["status", "body"];
    REQUEST_HEADERS = "[route.request_headers]" ["set", "remove"];
    RESPONSE_HEADERS = "[route.response_headers]" ["set", "remove"];
    ROUTE_AUTH = "[route.auth]" ["basic", "forward", "copy_headers"];
    ROUTE_LIMITS = "[route.limits]" ["request_body", "max_tunnels"];
    ROUTE_WEBSOCKET = "[route.websocket]" [
        "frames", "origins", "require_origin", "verify_accept", "idle_timeout", "ping", "ping_interval",
        "pong_timeout", "half_close_timeout", "max_frame", "max_message", "message_rate", "max_age", "on_reload",
        "close_timeout",
    ];
}

/// Words of other programs, with the key that does their job here, which may have the name of its table before it. Of
/// several with the same word, the one that the table has is meant, or else the first. Case, `-` and `_` don't count:
/// `maxPayload` is `max_payload`.
pub(super) const FOREIGN: &[(&str, &str)] = &[
    ("listen", "address"),
    ("bind", "address"),
    ("port", "address"),
    ("location", "route.path"),
    ("server_name", "route.host"),
    ("server_name", "health.host"),
    ("hosts", "route.host"),
    ("domain", "route.host"),
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
    ("pid", "upgrade_socket"),
    ("pid_file", "upgrade_socket"),
    ("upgrade_sock", "upgrade_socket"),
    ("expose_fd", "upgrade_socket"),
    ("hot_restart", "upgrade_socket"),
    ("lameduck", "shutdown_delay"),
    ("drain_delay", "shutdown_delay"),
    ("pre_stop_delay", "shutdown_delay"),
    ("request_accept_grace_timeout", "shutdown_delay"),
    ("stats", "admin"),
    ("metrics", "admin"),
    ("api", "admin"),
    ("stub_status", "admin"),
    ("dashboard", "admin"),
    ("prometheus", "admin"),
    ("telemetry", "admin"),
    ("auth_token", "token"),
    ("bearer_token", "token"),
    ("api_key", "token"),
    ("password", "token"),
    ("allowed_hosts", "admin.hosts"),
    ("to", "servers"),
    ("endpoints", "servers"),
    ("load_assignment", "servers"),
    ("server_template", "servers"),
    ("max_conns", "max_connections"),
    ("maxconn", "max_connections"),
    ("unhealthy_request_count", "max_connections"),
    ("load_balancing_weight", "weight"),
    ("least_conn", "balance"),
    ("least_request", "balance"),
    ("ip_hash", "balance"),
    ("hash", "balance"),
    ("random", "balance"),
    ("maglev", "balance"),
    ("ring_hash", "balance"),
    ("hash_type", "balance"),
    ("lb_policy", "balance"),
    ("load_balancer", "balance"),
    ("strategy", "balance"),
    ("hash_policy", "hash_key"),
    ("hash_on", "hash_key"),
    ("sticky", "sticky_cookie"),
    ("cookie", "sticky_cookie"),
    ("stick_table", "sticky_cookie"),
    ("session_affinity", "sticky_cookie"),
    ("same_site", "sticky_same_site"),
    ("proxy_bind", "source_addresses"),
    ("local_address", "source_addresses"),
    ("source_address", "source_addresses"),
    ("upstream_bind_config", "source_addresses"),
    ("timeout_connect", "connect_timeout"),
    ("dial_timeout", "connect_timeout"),
    ("timeout_server", "response_timeout"),
    ("response_header_timeout", "response_timeout"),
    ("proxy_next_upstream_tries", "retries"),
    ("redispatch", "retries"),
    ("lb_retries", "retries"),
    ("num_retries", "retries"),
    ("proxy_next_upstream_timeout", "retry_deadline"),
    ("lb_try_duration", "retry_deadline"),
    ("proxy_next_upstream", "retry_handshakes"),
    ("resolver", "dns_refresh"),
    ("resolvers", "dns_refresh"),
    ("dns_refresh_rate", "dns_refresh"),
    ("slow_start_window", "slow_start"),
    ("slow_start_config", "slow_start"),
    ("outlier_detection", "max_fails"),
    ("consecutive_5xx", "max_fails"),
    ("consecutive_gateway_failure", "max_fails"),
    ("error_limit", "max_fails"),
    ("fail_duration", "fail_timeout"),
    ("base_ejection_time", "fail_timeout"),
    ("on_marked_down", "on_removed"),
    ("close_connections_on_host_health_failure", "on_removed"),
    ("send_proxy", "proxy_protocol"),
    ("send_proxy_v2", "proxy_protocol"),
    ("proxy_ssl", "tls"),
    ("transport_socket", "tls"),
    ("servers_transport", "tls"),
    ("proxy_ssl_verify", "verify"),
    ("ssl_verify", "verify"),
    ("tls_insecure_skip_verify", "verify"),
    ("insecure_skip_verify", "verify"),
    ("insecure", "verify"),
    ("proxy_ssl_name", "server_name"),
    ("proxy_ssl_server_name", "server_name"),
    ("tls_server_name", "server_name"),
    ("sni", "server_name"),
    ("proxy_ssl_trusted_certificate", "ca"),
    ("ca_file", "ca"),
    ("trusted_ca", "ca"),
    ("tls_trust_pool", "ca"),
    ("root_cas", "ca"),
    ("proxy_ssl_certificate", "tls.cert"),
    ("tls_client_auth", "tls.cert"),
    ("crt", "cert"),
    ("proxy_ssl_certificate_key", "tls.key"),
    ("health_check", "health"),
    ("health_checks", "health"),
    ("httpchk", "health"),
    ("option_httpchk", "health"),
    ("health_uri", "health.path"),
    ("health_path", "health.path"),
    ("uri", "path"),
    ("health_headers", "headers"),
    ("health_status", "expect_status"),
    ("expected_statuses", "expect_status"),
    ("status", "expect_status"),
    ("status", "admin"),
    ("health_interval", "interval"),
    ("inter", "interval"),
    ("health_timeout", "health.timeout"),
    ("timeout_check", "health.timeout"),
    ("healthy_threshold", "rise"),
    ("health_passes", "rise"),
    ("passes", "rise"),
    ("unhealthy_threshold", "fall"),
    ("health_fails", "fall"),
    ("fails", "fall"),
    ("accept_proxy", "proxy_protocol"),
    ("set_real_ip_from", "trusted_proxies"),
    ("real_ip_recursive", "trusted_proxies"),
    ("forwarded_headers", "trusted_proxies"),
    ("trusted_ips", "trusted_proxies"),
    ("use_remote_address", "trusted_proxies"),
    ("xff_num_trusted_hops", "trusted_proxies"),
    ("trust_proxy", "trusted_proxies"),
    ("real_ip_header", "client_ip_header"),
    ("original_ip_detection_extensions", "client_ip_header"),
    ("limit_conn", "max_connections_per_ip"),
    ("limit_conn", "max_tunnels"),
    ("limit_conn_zone", "max_connections_per_ip"),
    ("in_flight_req", "max_connections_per_ip"),
    ("max_connections_per_client", "max_connections_per_ip"),
    ("connection_limit", "max_connections_per_ip"),
    ("rate_limit", "handshake_rate_per_ip"),
    ("limit_req", "handshake_rate_per_ip"),
    ("limit_req_zone", "handshake_rate_per_ip"),
    ("local_ratelimit", "handshake_rate_per_ip"),
    ("http_req_rate", "handshake_rate_per_ip"),
    ("max_websockets", "max_tunnels"),
    ("max_sessions", "max_tunnels"),
    ("ssl_client_certificate", "client_ca"),
    ("ca", "client_ca"),
    ("ca_file", "client_ca"),
    ("ca_files", "client_ca"),
    ("trusted_ca", "client_ca"),
    ("trust_pool", "client_ca"),
    ("validation_context", "client_ca"),
    ("mtls", "client_ca"),
    ("ssl_verify_client", "client_auth"),
    ("verify_client", "client_auth"),
    ("client_auth_type", "client_auth"),
    ("require_client_certificate", "client_auth"),
    ("auth_basic", "basic"),
    ("auth_basic_user_file", "basic"),
    ("basic_auth", "basic"),
    ("users_file", "basic"),
    ("userlist", "basic"),
    ("htpasswd", "basic"),
    ("auth_request", "forward"),
    ("forward_auth", "forward"),
    ("ext_authz", "forward"),
    ("auth_url", "forward"),
    ("auth_request_set", "copy_headers"),
    ("auth_response_headers", "copy_headers"),
    ("authorization_response_headers", "copy_headers"),
    ("allowed_origins", "origins"),
    ("allow_origin", "origins"),
    ("allow_origins", "origins"),
    ("access_control_allow_origin", "origins"),
    ("access_control_allow_origin_list", "origins"),
    ("check_origin", "origins"),
    ("cors", "origins"),
    ("ip_allow_list", "allow"),
    ("ip_white_list", "allow"),
    ("allow_list", "allow"),
    ("white_list", "allow"),
    ("source_range", "allow"),
    ("remote_ip", "allow"),
    ("deny_list", "deny"),
    ("block_list", "deny"),
    ("black_list", "deny"),
    ("protocols", "subprotocol"),
    ("sec_websocket_protocol", "subprotocol"),
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
        let foreign = self.foreign(key);
        if let Some(meant) = foreign.filter(|meant| self.keys.contains(meant)) {
            return format!("did you mean `{meant}`?");
        }
        if let Some(places) = shown(self.below().filter(|shape| shape.keys.contains(&key))) {
            return format!("`{key}` belongs in {places}");
        }
        if let Some(meant) = foreign {
            return self.elsewhere(meant);
        }
        if let Some(places) = places(key) {
            return format!("`{key}` belongs in {places}");
        }
        let everywhere = || nearest(key, ALL.iter().flat_map(|shape| shape.keys).copied());
        match here.or_else(everywhere) {
            Some(meant) if self.keys.contains(&meant) => format!("did you mean `{meant}`?"),
            Some(meant) => self.elsewhere(meant),
            None => format!("the keys of {} are {}", self.shown(), self.keys.join(", ")),
        }
    }

    /// A key of another table that may have been meant.
    fn elsewhere(&self, meant: &str) -> String {
        let named = meant.split_once('.');
        let of_table = named.and_then(|(table, key)| {
            ALL.iter()
                .find(|shape| shape.is_called(table) && shape.keys.contains(&key))
                .map(|shape| (shape.shown(), key))
        });
        let below = || shown(self.below().filter(|shape| shape.keys.contains(&meant)));
        let (places, key) = of_table
            .unwrap_or_else(|| (below().or_else(|| places(meant)).unwrap_or_else(|| ROOT.shown()), meant));
        format!("did you mean `{key}`? It belongs in {places}")
    }

    /// The tables below this one.
    fn below(&self) -> impl Iterator<Item = &'static Shape> {
        let start = format!("[{}.", self.header.trim_matches(['[', ']']));
        ALL.iter().copied().filter(move |shape| shape.header.starts_with(&start))
    }

    /// Whether this is the table of that name, as [`FOREIGN`] writes it.
    fn is_called(&self, name: &str) -> bool {
        let header = self.header.trim_matches(['[', ']']);
        header == name || header.strip_prefix("upstream.NAME.") == Some(name)
    }

    /// The key that does the job of another program's word: one of this table, if there is one.
    fn foreign(&self, word: &str) -> Option<&'static str> {
        let plain = |word: &str| word.replace(['_', '-'], "").to_lowercase();
        if let Some(key) = self.keys.iter().find(|key| plain(key) == plain(word)) {
            return Some(key);
        }
        let same = |(known, _): &&(&str, &str)| plain(known) == plain(word);
        let mut meant = FOREIGN.iter().filter(same).map(|(_, key)| self.bare(key));
        let first = meant.clone().next();
        meant.find(|key| self.keys.contains(key)).or(first)
    }

    /// A key of [`FOREIGN`] without its table, if that is this one.
    fn bare(&self, key: &'static str) -> &'static str {
        match key.split_once('.') {
            Some((table, bare)) if self.is_called(table) => bare,
            _ => key,
        }
    }
}

/// Where `key` is known: as a table of its own, or as a key of these.
fn places(key: &str) -> Option<String> {
    let of_its_own = |shape: &Shape| shape.below().any(|below| below.header.ends_with(&format!(".{key}]")));
    let sub_table = format!(".{key}]");
    let sub_tables = ALL.iter().copied().filter(|shape| shape.header.ends_with(&sub_table));
    let has_key =
        |shape: &&Shape| !shape.header.is_empty() && shape.keys.contains(&key) && !of_its_own(shape);
    shown(sub_tables.chain(ALL.iter().copied().filter(has_key)))
}

fn shown(shapes: impl Iterator<Item = &'static Shape>) -> Option<String> {
    let shown: Vec<_> = shapes.map(Shape::shown).collect();
    (!shown.is_empty()).then(|| shown.join(" or "))
}
