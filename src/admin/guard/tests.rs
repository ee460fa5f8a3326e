use axum::http::Request;

use super::*;
use crate::config::{ListenAddress, Secret};

const TOKEN: &str = "a-token-of-some-length";

fn admin(token: Option<&str>) -> Admin {
    Admin {
        address: ListenAddress::Inet(([0, 0, 0, 0], 9900).into()),
        token: token.map(Secret::new),
        metrics_token: None,
        hosts: vec!["gate.example".into(), "[2001:db8::7]".into()],
    }
}

/// The status with which a request is refused, or 200.
fn status(admin: &Admin, via: Via, line: &str, headers: &[(&str, &str)]) -> u16 {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let caller = Caller { via, method: &head.method, uri: &head.uri, headers: &head.headers };
    caller.judge(admin).map_or_else(|failure| failure.status.as_u16(), |()| 200)
}

const LOCAL: Via = Via::Tcp(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

#[test]
fn s8_a_host_is_an_address_of_the_listener_or_listed() {
    let host = |host: &str| status(&admin(None), LOCAL, "GET /api/status", &[("host", host)]);
    let own = [
        "localhost",
        "LOCALHOST:9900",
        "localhost.",
        "localhost:8080",
        "127.0.0.1",
        "127.8.8.8:9900",
        "[::1]",
        "[::1]:9900",
        "192.0.2.1",
        "192.0.2.1:9900",
        "[::ffff:192.0.2.1]",
        "gate.example",
        "Gate.Example.:9900",
        "[2001:db8::7]:9900",
    ];
    for name in own {
        assert_eq!(host(name), 200, "{name}");
    }
    let foreign = [
        "attacker.example",
        "attacker.example:9900",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "gate.example.attacker.example",
        "a.gate.example",
        "192.0.2.2",
        "10.0.0.1:9900",
        "0.0.0.0:9900",
        "[2001:db8::8]",
        "2130706433",
    ];
    for name in foreign {
        assert_eq!(host(name), 421, "{name}");
    }
    for malformed in ["", "a b", "user@localhost", ":9900", "localhost:x:y", "[::1"] {
        assert_eq!(host(malformed), 400, "{malformed}");
    }
    assert_eq!(status(&admin(None), LOCAL, "GET /api/status", &[]), 400);
    let twice = [("host", "localhost"), ("host", "attacker.example")];
    assert_eq!(status(&admin(None), LOCAL, "GET /api/status", &twice), 400);
}

#[test]
fn s8_the_local_address_is_that_of_the_connection() {
    let host = |via| status(&admin(None), via, "GET /api/status", &[("host", "192.0.2.1:9900")]);
    assert_eq!(host(LOCAL), 200);
    assert_eq!(host(Via::Tcp("::ffff:192.0.2.1".parse().unwrap())), 200);
    assert_eq!(host(Via::Tcp("192.0.2.9".parse().unwrap())), 421);
    assert_eq!(host(Via::Unix), 421);
    let loopback = [("host", "localhost")];
    assert_eq!(status(&admin(None), Via::Unix, "GET /api/status", &loopback), 200);
}

#[test]
fn s8_an_absolute_target_agrees_with_the_host() {
    let target =
        |target: &str| status(&admin(None), LOCAL, &format!("GET {target}"), &[("host", "localhost:9900")]);
    assert_eq!(target("http://localhost:9900/api/status"), 200);
    assert_eq!(target("http://attacker.example/api/status"), 400);
}

#[test]
fn s8_probes_are_open_to_any_host() {
    for path in ["/healthz", "/readyz", "/healthz?x"] {
        for token in [None, Some(TOKEN)] {
            let line = format!("GET {path}");
            assert_eq!(status(&admin(token), LOCAL, &line, &[("host", "any.example")]), 200, "{path}");
        }
    }
    for path in ["/", "/metrics", "/healthz/", "/healthzz", "/api/healthz", "//healthz"] {
        assert_eq!(
            status(&admin(None), LOCAL, &format!("GET {path}"), &[("host", "any.example")]),
            421,
            "{path}"
        );
    }
}

#[test]
fn s8_a_foreign_origin_is_refused() {
    let origin = |origin: &str| {
        let headers = [("host", "localhost:9900"), ("origin", origin)];
        status(&admin(None), LOCAL, "GET /api/status", &headers)
    };
    for own in ["http://localhost:9900", "https://localhost:9900", "http://LOCALHOST:9900"] {
        assert_eq!(origin(own), 200, "{own}");
    }
    let foreign = [
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:9900",
        "http://attacker.example",
        "http://attacker.example:9900",
        "file://localhost:9900",
        "localhost:9900",
        "http://localhost:9900.attacker.example",
    ];
    for origin_of in foreign {
        assert_eq!(origin(origin_of), 403, "{origin_of}");
    }
    let usual_port = [("host", "gate.example"), ("origin", "https://gate.example:443")];
    assert_eq!(status(&admin(None), LOCAL, "GET /", &usual_port), 200);
    let twice =
        [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://attacker.example")];
    assert_eq!(status(&admin(None), LOCAL, "GET /", &twice), 400);
}

#[test]
fn s8_a_foreign_fetch_site_is_refused() {
    let site = |path: &str, site: &str| {
        let headers = [("host", "localhost"), ("sec-fetch-site", site)];
        status(&admin(None), LOCAL, &format!("GET {path}"), &headers)
    };
    for path in ["/", "/api/status", "/metrics"] {
        assert_eq!((site(path, "same-origin"), site(path, "none")), (200, 200), "{path}");
        for foreign in ["cross-site", "same-site", "", "None", "same-origin, none"] {
            assert_eq!(site(path, foreign), 403, "{path} {foreign}");
        }
    }
}

const CHANGES: [&str; 4] =
    ["POST /api/reload", "PUT /api/log", "POST /api/tunnels/close", "DELETE /anything"];

#[test]
fn s8_changes_without_a_token_need_the_unix_socket() {
    for change in CHANGES {
        let headers = [("host", "localhost")];
        assert_eq!(status(&admin(None), LOCAL, change, &headers), 403, "{change}");
        assert_eq!(status(&admin(None), Via::Unix, change, &headers), 200, "{change}");
        let shown = [("host", "localhost"), ("authorization", "Bearer ")];
        assert_eq!(status(&admin(None), LOCAL, change, &shown), 403, "{change}");
    }
    for look in ["GET /api/status", "HEAD /api/status", "GET /", "GET /metrics"] {
        assert_eq!(status(&admin(None), LOCAL, look, &[("host", "localhost")]), 200, "{look}");
    }
}

#[test]
fn s8_where_a_token_is_set_the_api_needs_it() {
    let asked = |via, line: &str, authorization: Option<&str>| {
        let mut headers = vec![("host", "localhost")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        status(&admin(Some(TOKEN)), via, line, &headers)
    };
    let good = format!("Bearer {TOKEN}");
    let wrong = [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        format!("Basic {TOKEN}"),
        TOKEN.into(),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", TOKEN.to_uppercase()),
    ];
    for line in
        ["GET /api", "GET /api/status", "HEAD /api/status", "GET /api/unknown"].into_iter().chain(CHANGES)
    {
        for via in [LOCAL, Via::Unix] {
            assert_eq!(asked(via, line, None), 401, "{line}");
            assert_eq!(asked(via, line, Some(&good)), 200, "{line}");
            assert_eq!(asked(via, line, Some(&good.replace("Bearer", "bearer"))), 200, "{line}");
            for wrong in &wrong {
                assert_eq!(asked(via, line, Some(wrong)), 401, "{line} {wrong}");
            }
        }
    }
    for line in ["GET /", "GET /dashboard.js", "GET /healthz", "GET /metrics"] {
        assert_eq!(asked(LOCAL, line, None), 200, "{line}");
    }
    let twice = [("host", "localhost"), ("authorization", &good), ("authorization", "Bearer x")];
    assert_eq!(status(&admin(Some(TOKEN)), LOCAL, "GET /api/status", &twice), 400);
}

#[test]
fn s8_metrics_have_a_token_of_their_own() {
    let admin = Admin { metrics_token: Some(Secret::new("for-prometheus")), ..admin(Some(TOKEN)) };
    let shown = |path: &str, token: &str| {
        let value = format!("Bearer {token}");
        status(&admin, LOCAL, &format!("GET {path}"), &[("host", "localhost"), ("authorization", &value)])
    };
    assert_eq!(status(&admin, LOCAL, "GET /metrics", &[("host", "localhost")]), 401);
    assert_eq!((shown("/metrics", "for-prometheus"), shown("/metrics", TOKEN)), (200, 401));
    assert_eq!((shown("/api/status", "for-prometheus"), shown("/api/status", TOKEN)), (401, 200));
}
