use super::*;
use crate::ending::Phase;

fn lines<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(name)).collect()
}

fn exchanged(status: Option<u16>, ending: Option<Ending>) -> Exchanged {
    Exchanged { status, ending, is_offer: true, sent: 10, received: 20, duration: Duration::from_millis(3) }
}

#[test]
fn names_units_and_suffixes_are_those_of_openmetrics() {
    let metrics = Metrics::default();
    let ending = Ending { label: "no_route", side: Side::Gate, phase: Phase::Route };
    metrics.exchanged(&metrics.route(None), &exchanged(Some(404), Some(ending)));
    let text = metrics.encode(Gauges::default());
    for expected in [
        "# HELP wsgate_exchanges Requests by the status of the answer; 101 is a tunnel.\n\
         # TYPE wsgate_exchanges counter\nwsgate_exchanges_total{route=\"none\",status=\"404\"} 1\n",
        "wsgate_endings_total{ending=\"no_route\",side=\"gate\",phase=\"route\"} 1\n",
        "wsgate_handshakes_refused_total{route=\"none\",ending=\"no_route\"} 1\n",
        "# UNIT wsgate_request_bytes bytes\nwsgate_request_bytes_total{route=\"none\"} 10\n",
        "# TYPE wsgate_exchange_duration_seconds histogram\n# UNIT wsgate_exchange_duration_seconds seconds\n",
        "wsgate_exchange_duration_seconds_bucket{le=\"0.0025\",route=\"none\"} 0\n",
        "wsgate_exchange_duration_seconds_bucket{le=\"0.005\",route=\"none\"} 1\n",
        "wsgate_exchange_duration_seconds_bucket{le=\"+Inf\",route=\"none\"} 1\n",
        "# TYPE wsgate_connections_open gauge\nwsgate_connections_open 0\n",
        "wsgate_tunnel_frames_total{direction=\"from_client\",opcode=\"text\"} 0\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
}

#[test]
fn what_can_happen_is_there_before_it_happens() {
    let metrics = Metrics::default();
    let text = metrics.encode(Gauges {
        listeners: vec![ListenerGauges { name: "[::]:443".into(), certificates: Vec::new() }],
        routes: vec![RouteGauges { name: "chat".into(), places: None, upstream: None }],
        ..Gauges::default()
    });
    for expected in [
        "wsgate_panics_total 0",
        "wsgate_config_generation 1",
        "wsgate_config_last_reload_successful 1",
        "wsgate_accept_errors_total{listener=\"[::]:443\"} 0",
        "wsgate_connections_refused_total{listener=\"[::]:443\",reason=\"cut\"} 0",
        "wsgate_tunnels_opened_total{route=\"chat\"} 0",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
    }
    assert_eq!(lines(&text, "wsgate_config_reloads_total").len(), 2);
    assert!(lines(&text, "wsgate_route_places").is_empty(), "it has no bound");
}

#[test]
fn a_route_without_tunnels_has_none_at_each_server_of_its_pool() {
    let metrics = Metrics::default();
    let endpoint =
        |name: &str, is_up| EndpointGauges { name: name.into(), is_up, ..EndpointGauges::default() };
    let gauges = || Gauges {
        routes: [("chat", Some("pool")), ("files", None)]
            .map(|(name, upstream)| RouteGauges {
                name: name.into(),
                places: None,
                upstream: upstream.map(str::to_owned),
            })
            .into(),
        upstreams: vec![UpstreamGauges {
            name: "pool".into(),
            endpoints: vec![
                endpoint("a:80", Some(true)),
                endpoint("b:80", Some(false)),
                endpoint("c:80", None),
            ],
            ..UpstreamGauges::default()
        }],
        ..Gauges::default()
    };
    let open = || {
        let text = metrics.encode(gauges());
        let mut open: Vec<_> =
            lines(&text, "wsgate_tunnels_open{").into_iter().map(|line| line.replace('"', "")).collect();
        open.sort();
        open.join(" ").replace("wsgate_tunnels_open", "").replace("route=chat,endpoint=", "")
    };
    assert_eq!(open(), "{a:80} 0 {b:80} 0");
    let (route, endpoint) = (metrics.route(Some("chat")), "c:80".into());
    metrics.tunnel_opened(&route, &endpoint);
    assert_eq!(
        open(),
        "{a:80} 0 {b:80} 0 {c:80} 1",
        "one that has left the pool, for as long as it has tunnels"
    );
    let ending = Ending { label: "closed", side: Side::Upstream, phase: Phase::Tunnel };
    metrics.tunnel_ended(&route, &endpoint, ending, Duration::from_secs(1));
    assert_eq!((open(), metrics.open_tunnels()), ("{a:80} 0 {b:80} 0".to_owned(), 0));
}

#[test]
fn the_time_of_the_start_is_that_of_the_clock() {
    let before = since_epoch().as_secs_f64();
    let text = Metrics::default().encode(Gauges::default());
    let started = lines(&text, "process_start_time_seconds ")[0].rsplit(' ').next().unwrap();
    // The kernel's word, which a sandbox may hide, is on the whole test program and so an earlier time.
    assert!(
        (before..=since_epoch().as_secs_f64()).contains(&started.parse().unwrap()),
        "{started}, {before}"
    );
}

#[test]
fn statuses_and_close_codes_are_of_fixed_sets() {
    let metrics = Metrics::default();
    let route = metrics.route(Some("main"));
    for status in [None, Some(99), Some(100), Some(599), Some(600), Some(999)] {
        metrics.exchanged(&route, &exchanged(status, None));
    }
    let codes = [0, 999, 1000, 1015, 1016, 2999, 3000, 3999, 4000, 4999, 5000, u16::MAX];
    for code in codes.map(Some).into_iter().chain([None]) {
        metrics.first_close(Side::Upstream, code);
    }
    let text = metrics.encode(Gauges::default());
    let value_of = |line: &str, label: &str| {
        let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap();
        let (value, rest) = rest.split_once('"').unwrap();
        format!("{value}{}", rest.trim_start_matches('}'))
    };
    let of = |name: &str, label: &str| {
        let mut found: Vec<_> = lines(&text, name).iter().map(|line| value_of(line, label)).collect();
        found.sort();
        found
    };
    assert_eq!(of("wsgate_exchanges_total", "status"), ["100 1", "599 1", "none 1", "other 3"]);
    assert_eq!(
        of("wsgate_tunnel_close_codes_total", "code"),
        ["1000 1", "1015 1", "none 1", "other 6", "private 2", "registered 2"]
    );
    assert!(lines(&text, "wsgate_endings").is_empty());
}

#[test]
fn s10_a_label_can_not_look_like_another_line() {
    let metrics = Metrics::default();
    let name = "a\"} 1\nwsgate_panics_total 9\\".to_owned();
    let certificate = |not_after| CertificateGauges { name: name.clone(), not_after };
    let certificates = vec![certificate(7), certificate(8)];
    let listeners = vec![ListenerGauges { name: "a".into(), certificates }];
    let text = metrics.encode(Gauges { listeners, ..Gauges::default() });
    assert_eq!(lines(&text, "wsgate_panics_total"), ["wsgate_panics_total 0"]);
    assert_eq!(
        lines(&text, "wsgate_certificate_not_after_timestamp_seconds{"),
        [
            "wsgate_certificate_not_after_timestamp_seconds{listener=\"a\",name=\"a\\\"} 1\\nwsgate_panics_total 9\\\\\"} 7"
        ],
        "and a series stands there once"
    );
}

#[test]
fn reloads_tell_of_what_is_in_force() {
    let metrics = Metrics::default();
    let state = || {
        let text = metrics.encode(Gauges::default());
        let value =
            |name: &str| -> f64 { lines(&text, name)[0].rsplit(' ').next().unwrap().parse().unwrap() };
        let whole = [
            "wsgate_config_generation ",
            "wsgate_config_last_reload_successful ",
            "wsgate_config_reloads_total{result=\"failed\"}",
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((value("wsgate_config_last_reload_success_timestamp_seconds ") - now).abs() < 60.0);
        whole.map(|name| value(name).to_string())
    };
    assert_eq!(state(), ["1", "1", "0"]);
    metrics.reload_failed();
    assert_eq!(state(), ["1", "0", "1"]);
    metrics.in_force(2);
    assert_eq!(state(), ["2", "0", "1"], "files were read again, which is no reload");
    metrics.reloaded();
    assert_eq!(state(), ["2", "1", "1"]);
}

#[test]
fn files_that_are_read_again_are_counted_for_themselves() {
    let metrics = Metrics::default();
    let state = || {
        let text = metrics.encode(Gauges::default());
        let value = |name: &str| lines(&text, name)[0].rsplit(' ').next().unwrap().to_owned();
        let of = |result| value(&format!("wsgate_file_refreshes_total{{result=\"{result}\"}}"));
        [value("wsgate_file_last_refresh_successful "), of("ok"), of("failed")]
    };
    assert_eq!(state(), ["1", "0", "0"]);
    metrics.refreshed(false);
    assert_eq!(state(), ["0", "0", "1"]);
    metrics.refreshed(true);
    assert_eq!(state(), ["1", "1", "1"]);
    assert!(metrics.encode(Gauges::default()).contains("wsgate_config_reloads_total{result=\"ok\"} 0"));
}

#[test]
fn what_many_threads_count_at_once_is_exact() {
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let metrics = &metrics;
            scope.spawn(move || {
                for number in 0..1_000_u16 {
                    let route = metrics.route(Some(if number % 2 == 0 { "a" } else { "b" }));
                    metrics.exchanged(&route, &exchanged(Some(200 + thread), None));
                    let endpoint: Arc<str> = format!("10.0.0.{}:80", number % 7).into();
                    metrics.tunnel_opened(&route, &endpoint);
                    if number % 4 != 0 {
                        let ending = Ending { label: "closed", side: Side::Upstream, phase: Phase::Tunnel };
                        metrics.tunnel_ended(&route, &endpoint, ending, Duration::from_secs(1));
                    }
                }
            });
        }
    });
    let text = metrics.encode(Gauges::default());
    let sum = |name: &str| -> u64 {
        lines(&text, name).iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum("wsgate_exchanges_total"), 4_000);
    assert_eq!(lines(&text, "wsgate_exchanges_total").len(), 8);
    assert_eq!((sum("wsgate_tunnels_opened_total"), sum("wsgate_tunnels_open{")), (4_000, 1_000));
    assert_eq!(sum("wsgate_endings_total"), 3_000);
    assert_eq!(sum("wsgate_response_bytes_total"), 80_000);
}
