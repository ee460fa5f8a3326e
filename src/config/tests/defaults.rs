//! The defaults of the reference, value by value.

use std::{net::IpAddr, time::Duration};

use super::{super::*, folder_with_certificates, parse, parse_in};
use crate::proto::forward::Template;

pub(super) const SMALLEST: &str = "
[[listener]]
address = \"0.0.0.0:80\"
[upstream.websocket]
servers = [\"192.168.1.141:80\"]
[[route]]
upstream = \"websocket\"
";

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn smallest() -> Config {
    let loaded = parse(SMALLEST).unwrap();
    assert_eq!(loaded.warnings, []);
    loaded.config
}

#[test]
fn defaults_of_server_and_log() {
    let Config { server, log, .. } = smallest();
    assert_eq!(server.workers, std::thread::available_parallelism().unwrap());
    assert_eq!(server.max_connections, 100_000);
    assert_eq!(server.max_tls_handshakes, 1000);
    assert_eq!(server.shutdown_delay, Duration::ZERO);
    assert_eq!(server.shutdown_grace, Some(seconds(20)));
    assert_eq!(server.drain_spread, seconds(10));
    assert_eq!(server.upgrade_socket, None);
    assert_eq!(log.level, "info");
    assert_eq!(log.format, LogFormat::Text);
    assert_eq!(log.access, AccessLog::Stdout);
    assert_eq!(log.redact, ["token", "access_token", "jwt"]);
}

#[test]
fn defaults_of_a_listener() {
    let listener = smallest().listeners.remove(0);
    assert_eq!(listener.address, ListenAddress::Inet("0.0.0.0:80".parse().unwrap()));
    assert!(listener.tls.is_none());
    assert_eq!(listener.underscore_headers, UnderscoreHeaders::Drop);
    assert_eq!(listener.redirect_https, None);
    assert_eq!(listener.limits.request_head, 64 * 1024);
    assert_eq!(listener.limits.header_count, 128);
    assert_eq!(listener.limits.target, 16 * 1024);
    assert_eq!(listener.limits.early_bytes, 64 * 1024);
    assert_eq!(listener.timeout.tls_handshake, Some(seconds(10)));
    assert_eq!(listener.timeout.request_head, Some(seconds(10)));
    assert_eq!(listener.timeout.keep_alive, Some(seconds(75)));
    assert_eq!(listener.timeout.request_body, Some(seconds(60)));
    assert_eq!(listener.timeout.write, Some(seconds(60)));
}

#[test]
fn defaults_of_tls() {
    let text = SMALLEST.replacen("80\"", "443\"\ntls.self_signed = [\"localhost\"]", 1);
    let tls = parse(&text).unwrap().config.listeners.remove(0).tls.unwrap();
    assert_eq!(tls.min_version, TlsVersion::Tls12);
    assert_eq!(tls.hsts, None);
    let CertificateSource::SelfSigned { names, folder } = tls.source else { panic!("not self-signed") };
    assert_eq!(names, ["localhost"]);
    assert_eq!(folder, std::path::Path::new("/nonexistent/certs"));
}

#[test]
fn defaults_of_an_upstream() {
    let upstream = smallest().upstreams.remove(0);
    assert_eq!(upstream.name, "websocket");
    let address = ServerAddress::Inet("192.168.1.141:80".parse().unwrap());
    assert_eq!(
        upstream.servers,
        [UpstreamServer { address, weight: 1, backup: false, max_connections: None }]
    );
    assert_eq!(upstream.balance, Balance::LeastConnections);
    assert_eq!(upstream.connect_timeout, Some(seconds(3)));
    assert_eq!(upstream.handshake_timeout, Some(seconds(10)));
    assert_eq!(upstream.response_timeout, Some(seconds(60)));
    assert_eq!(upstream.response_body_timeout, Some(seconds(300)));
    assert_eq!(upstream.retries, 2);
    assert_eq!(upstream.retry_deadline, Some(seconds(10)));
    assert_eq!(upstream.keep_alive, 64);
    assert_eq!(upstream.keep_alive_timeout, Some(seconds(4)));
    assert_eq!(upstream.sticky, None);
    assert_eq!(upstream.source_addresses, [] as [IpAddr; 0]);
    assert!(!upstream.retry_handshakes);
    assert_eq!(upstream.dns_refresh, Some(seconds(30)));
    assert_eq!(upstream.slow_start, None);
    assert_eq!(upstream.max_fails, Some(3));
    assert_eq!(upstream.fail_timeout, seconds(10));
    assert_eq!(upstream.on_removed, OnRemoved::Keep);
    assert_eq!(upstream.proxy_protocol, None);
    assert!(upstream.tls.is_none());
    assert!(upstream.health.is_none());
}

/// The upstream of the smallest file with these keys, and what was warned about.
fn upstream(keys: &str) -> (Upstream, Vec<String>) {
    let loaded = parse(&SMALLEST.replace("[[route]]", &format!("{keys}\n[[route]]"))).unwrap();
    let warnings = loaded.warnings.iter().map(|warning| warning.message.clone()).collect();
    (loaded.config.upstreams.into_iter().next().unwrap(), warnings)
}

#[test]
fn defaults_of_tls_to_servers() {
    let (upstream, warnings) = upstream("tls = {}");
    let tls = upstream.tls.unwrap();
    assert!(tls.server_name.is_none() && tls.identity.is_none());
    assert!(matches!(tls.trust, Trust::System));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn defaults_of_health_checks() {
    let (upstream, warnings) = upstream("health = {}");
    let health = upstream.health.unwrap();
    assert_eq!(health.check, Check::Websocket);
    assert_eq!((health.path.as_str(), health.host), ("/", None));
    assert_eq!((health.headers, health.subprotocol), (vec![], None));
    assert_eq!((health.expect_status, health.ping), (vec![200], false));
    assert_eq!((health.interval, health.timeout), (seconds(5), seconds(2)));
    assert_eq!((health.rise, health.fall), (2, 3));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn every_way_to_balance() {
    let balance = |keys: &str| {
        let (upstream, warnings) = upstream(keys);
        assert!(warnings.is_empty(), "{warnings:?}");
        upstream.balance
    };
    assert_eq!(balance("balance = \"least_connections\""), Balance::LeastConnections);
    assert_eq!(balance("balance = \"round_robin\""), Balance::RoundRobin);
    assert_eq!(balance("balance = \"random_two\""), Balance::RandomTwo);
    assert_eq!(balance("balance = \"consistent_hash\""), Balance::ConsistentHash(HashKey::ClientIp));
    for (written, key) in [
        ("client_ip", HashKey::ClientIp),
        ("path", HashKey::Path),
        ("header:X-User", HashKey::Header("X-User".to_owned())),
        ("cookie:sid", HashKey::Cookie("sid".to_owned())),
        ("query:room", HashKey::Query("room".to_owned())),
    ] {
        let keys = format!("balance = \"consistent_hash\"\nhash_key = \"{written}\"");
        assert_eq!(balance(&keys), Balance::ConsistentHash(key));
    }
}

#[test]
fn keys_of_a_pool() {
    let (pool, warnings) = upstream(
        "sticky_cookie = \"io\"\nsticky_same_site = \"strict\"\nsource_addresses = [\"10.0.0.5\", \"10.0.0.6\"]\n\
         retry_handshakes = true\nhandshake_timeout = \"4s\"\nslow_start = \"30s\"\nmax_fails = \"off\"\n\
         on_removed = \"close\"\nproxy_protocol = \"v1\"",
    );
    assert_eq!(pool.sticky, Some(Sticky { cookie: "io".to_owned(), same_site: SameSite::Strict }));
    assert_eq!(pool.source_addresses, ["10.0.0.5", "10.0.0.6"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert!(pool.retry_handshakes);
    assert_eq!((pool.slow_start, pool.max_fails), (Some(seconds(30)), None));
    assert_eq!((pool.on_removed, pool.proxy_protocol), (OnRemoved::Close, Some(ProxyProtocol::V1)));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn servers_with_more_to_say() {
    let text = SMALLEST.replace(
        "\"192.168.1.141:80\"",
        "{ address = \"dns+srv://_ws._tcp.example.com\", max_connections = 50 }, \
         { address = \"10.0.0.2:80\", weight = 2, backup = true, max_connections = \"off\" }",
    );
    let servers = parse(&text).unwrap().config.upstreams.remove(0).servers;
    let srv = ServerAddress::Srv("_ws._tcp.example.com".to_owned());
    let inet = ServerAddress::Inet("10.0.0.2:80".parse().unwrap());
    let expected = [
        UpstreamServer { address: srv, weight: 1, backup: false, max_connections: Some(50) },
        UpstreamServer { address: inet, weight: 2, backup: true, max_connections: None },
    ];
    assert_eq!(servers, expected);
}

#[test]
fn tls_to_servers_with_its_files() {
    let folder = folder_with_certificates();
    let tls = |keys: &str| {
        let text = SMALLEST.replace("[[route]]", &format!("tls = {{ {keys} }}\n[[route]]"));
        parse_in(folder.path(), &text).unwrap().config.upstreams.remove(0).tls.unwrap()
    };
    let full = tls(
        "server_name = \"::1\", ca = \"certs/reversed.crt\", cert = \"certs/chat.crt\", key = \"certs/chat.key\"",
    );
    assert_eq!(full.server_name.unwrap().to_str(), "::1");
    assert_eq!(full.identity.unwrap().cert, folder.path().join("certs/chat.crt"));
    assert!(matches!(full.trust, Trust::Ca(certificates) if certificates.len() == 2));
    assert!(matches!(tls("verify = false").trust, Trust::Anybody));
    assert!(matches!(tls("verify = true, ca = \"\"").trust, Trust::System));
}

#[test]
fn headers_of_a_check_are_secrets_of_its_own() {
    let (upstream, _) = upstream("health = { headers = { Authorization = \"Bearer ${SECRET}\" } }");
    assert_eq!(
        upstream.health.as_ref().unwrap().headers,
        [("Authorization".to_owned(), "Bearer s3cret".to_owned())]
    );
    let shown = format!("{upstream:?}");
    assert!(shown.contains("Authorization") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn defaults_of_a_route() {
    let route = smallest().routes.remove(0);
    assert_eq!(route.name, "websocket");
    assert_eq!(route.hosts, [HostPattern::Any]);
    assert_eq!(route.paths, ["/*".parse().unwrap()]);
    assert_eq!(route.kind, RouteKind::Any);
    assert_eq!(route.action, Action::Upstream(0));
    assert_eq!(route.strip_prefix, None);
    assert_eq!(route.host_header, HostHeader::Client);
    assert_eq!(route.via, None);
    assert_eq!(route.request_headers, HeaderEdits::default());
    assert_eq!(route.response_headers, HeaderEdits::default());
    assert_eq!(route.request_body, None);
    let websocket = WebSocket {
        on_reload: OnRemoved::Keep,
        frames: Frames::Enforce,
        verify_accept: true,
        idle_timeout: Some(seconds(3600)),
        ping: Ping::Both,
        ping_interval: Some(seconds(30)),
        pong_timeout: Some(seconds(20)),
        half_close_timeout: Some(seconds(30)),
        max_frame: None,
        max_message: None,
        message_rate: None,
        max_age: None,
        close_timeout: Some(seconds(5)),
    };
    assert_eq!(route.websocket, websocket);
}

#[test]
fn upstreams_keep_the_order_of_the_file() {
    let text = "
        [[listener]]
        address = \"unix:gate.sock\"
        [upstream]
        zebra = { servers = [\"10.0.0.1:80\", \"[::1]:80\", \"backend_1:8080\", \"unix:/run/b.sock\"] }
        ant = { servers = [{ address = \"10.0.0.2:80\", weight = 3 }], retries = 0, keep_alive_timeout = \"off\" }
        [[route]]
        path = \"/a\"
        upstream = \"ant\"
        [[route]]
        upstream = \"zebra\"
    ";
    let Config { listeners, upstreams, routes, .. } = parse(text).unwrap().config;
    assert_eq!(listeners[0].address, ListenAddress::Unix("/nonexistent/gate.sock".into()));
    assert_eq!(upstreams.iter().map(|upstream| &*upstream.name).collect::<Vec<_>>(), ["zebra", "ant"]);
    let name = ServerAddress::Name { host: "backend_1".to_owned(), port: 8080 };
    assert_eq!(upstreams[0].servers[2].address, name);
    assert_eq!(upstreams[0].servers[3].address, ServerAddress::Unix("/run/b.sock".into()));
    assert_eq!(upstreams[1].servers[0].weight, 3);
    assert_eq!((upstreams[1].retries, upstreams[1].keep_alive_timeout), (0, None));
    assert_eq!(
        routes.iter().map(|route| &route.action).collect::<Vec<_>>(),
        [&Action::Upstream(1), &Action::Upstream(0)]
    );
}

#[test]
fn names_of_routes_are_made_unique() {
    let text = format!(
        "{SMALLEST}host = \"a\"\n{}",
        "[[route]]\nupstream = \"websocket\"\nhost = \"b\"\n".repeat(2)
    ) + "[[route]]\nname = \"respond\"\nredirect = { to = \"/x\" }\nhost = \"c\"\n"
        + "[[route]]\nrespond = { status = 404 }\n";
    let names: Vec<_> = parse(&text).unwrap().config.routes.into_iter().map(|route| route.name).collect();
    assert_eq!(names, ["websocket", "websocket#2", "websocket#3", "respond", "respond#2"]);
}

#[test]
fn variables_and_their_escape() {
    let text = SMALLEST.replace("192.168.1.141:80", "${BACKEND}")
        + "request_headers.set = { X-A = \"a $${B} $c $$ ${SECRET}!\" }\n"
        + "websocket.idle_timeout = \"${OFF}\"\n[server]\nworkers = \"${AUTO}\"\n";
    let Config { upstreams, routes, .. } = parse(&text).unwrap().config;
    assert_eq!(routes[0].websocket.idle_timeout, None);
    assert_eq!(upstreams[0].servers[0].address.to_string(), "10.0.0.7:9000");
    let mut value = Template::default();
    value.push_literal("a ${B} $c $$ s3cret!");
    assert!(routes[0].request_headers.set == [("X-A".to_owned(), value)]);
}

#[test]
fn durations_and_sizes_in_every_unit() {
    let text = SMALLEST.replace(
        "[upstream",
        "limits = { request_head = \"8KiB\", target = 1_024, early_bytes = \"0x\" }\n[upstream",
    );
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.iter().count(), 1, "{problems}");
    let websocket =
        "websocket = { idle_timeout = \"1d\", half_close_timeout = \"1_500ms\", close_timeout = \"2m\" }";
    let route = parse(&format!("{SMALLEST}{websocket}\nlimits.request_body = \"1GiB\""))
        .unwrap()
        .config
        .routes
        .remove(0);
    assert_eq!(route.websocket.idle_timeout, Some(seconds(86_400)));
    assert_eq!(route.websocket.half_close_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(route.websocket.close_timeout, Some(seconds(120)));
    assert_eq!(route.request_body, Some(1 << 30));
}

/// The first route with this `[route.websocket]`, and what was warned about.
fn websocket(keys: &str) -> (WebSocket, Vec<String>) {
    let loaded = parse(&format!("{SMALLEST}[route.websocket]\n{keys}\n")).unwrap();
    let warnings = loaded.warnings.iter().map(|warning| warning.message.clone()).collect();
    (loaded.config.routes[0].websocket, warnings)
}

fn rate(count: u32, period: u64) -> Rate {
    Rate { count: count.try_into().unwrap(), period: seconds(period) }
}

#[test]
fn pings_of_either_side() {
    for (word, clients, upstreams) in
        [("both", true, true), ("clients", true, false), ("upstreams", false, true), ("off", false, false)]
    {
        let (websocket, warnings) = websocket(&format!("ping = \"{word}\""));
        assert_eq!((websocket.ping.clients(), websocket.ping.upstreams()), (clients, upstreams), "{word}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let (silent, warnings) = websocket("ping_interval = \"off\"\npong_timeout = \"off\"");
    assert_eq!((silent.ping_interval, silent.pong_timeout), (None, None));
    assert!(warnings.is_empty(), "{warnings:?}");
    let (longest, _) = websocket("pong_timeout = \"1d\"");
    let milliseconds = longest.pong_timeout.unwrap().as_millis();
    assert!(u32::try_from(milliseconds).is_ok(), "TCP_USER_TIMEOUT takes no more than 32 bits");
}

#[test]
fn limits_of_tunnels() {
    let (set, warnings) =
        websocket("max_frame = 125\nmax_message = \"1MiB\"\nmessage_rate = \"1_000/m\"\nmax_age = \"12h\"");
    assert_eq!((set.max_frame, set.max_message), (Some(125), Some(1 << 20)));
    assert_eq!((set.message_rate, set.max_age), (Some(rate(1000, 60)), Some(seconds(43_200))));
    assert!(warnings.is_empty(), "{warnings:?}");
    let off =
        websocket("max_frame = \"off\"\nmax_message = \"off\"\nmessage_rate = \"off\"\nmax_age = \"off\"").0;
    assert_eq!(off, WebSocket::default());
}

#[test]
fn rates_are_written_back_as_they_stand() {
    for (text, expected) in
        [("100/s", rate(100, 1)), ("600/m", rate(600, 60)), ("4294967295/h", rate(u32::MAX, 3600))]
    {
        let found = websocket(&format!("message_rate = \"{text}\"")).0.message_rate;
        assert_eq!(found, Some(expected));
        assert_eq!(expected.to_string(), text);
    }
}

#[test]
fn a_spread_is_off_at_zero_and_warned_about_past_half_of_the_grace() {
    let warned = |keys: &str| {
        let loaded = parse(&format!("{SMALLEST}[server]\n{keys}\n")).unwrap();
        (loaded.config.server.drain_spread, loaded.warnings.len())
    };
    assert_eq!(warned("drain_spread = \"off\""), (Duration::ZERO, 0));
    assert_eq!(warned("drain_spread = \"0s\""), (Duration::ZERO, 0));
    assert_eq!(warned("drain_spread = \"10s\""), (seconds(10), 0));
    assert_eq!(warned("drain_spread = \"11s\""), (seconds(11), 1));
    assert_eq!(warned("shutdown_grace = \"2s\""), (seconds(10), 0));
    assert_eq!(warned("shutdown_grace = \"off\"\ndrain_spread = \"1h\""), (seconds(3600), 0));
}
