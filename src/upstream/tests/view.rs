//! What an administrator and metrics see of pools.

use super::{
    names::eventually,
    reload::{changed, checked, reload},
    *,
};
use crate::config::{OnRemoved, Trust};

/// In milliseconds, as a moment is never 0.
fn milliseconds(seconds: Option<f64>) -> Option<f64> {
    seconds.map(|seconds| (seconds * 1000.0).round())
}

fn state(pool: &Pool, place: usize) -> EndpointState {
    pool.view().endpoints[place].state
}

#[tokio::test]
async fn a_view_has_what_the_file_says_and_what_is_open() {
    let ((listener, a), (_b, b)) = (server().await, server().await);
    let mut config =
        upstream(vec![a.clone(), b.clone(), ServerAddress::Unix("/run/wsgate-test.sock".into())]);
    (config.servers[1].backup, config.servers[1].weight) = (true, 7);
    config.servers[0].max_connections = Some(9);
    config.servers[2].backup = true;
    let pool = followed(&config);
    let _idle = park_one(&pool, &listener).await;
    let _open = connect(&pool, Want::Fresh).await.unwrap();
    let view = pool.view();
    assert_eq!((view.name.as_str(), view.retries, view.endpoints.len()), ("websocket", 0, 3));
    let [first, second, third] = &view.endpoints[..] else { unreachable!() };
    assert_eq!((&first.name, &first.addresses), (&name_of(&a), &vec![name_of(&a)]));
    assert_eq!((first.weight, first.group, first.max_connections), (1, 0, Some(9)));
    assert_eq!((first.open, first.idle, first.state, first.state_for_s), (1, 1, EndpointState::In, None));
    assert_eq!((second.weight, second.group, second.open), (7, 1, 0));
    assert_eq!(third.addresses, ["unix:/run/wsgate-test.sock"]);
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["endpoints"][0]["state"], "in");
    assert_eq!(json["endpoints"][0]["counts"]["connect"]["count"], 2);
    assert_eq!(json["endpoints"][0]["last_check"], serde_json::Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_state_says_why_and_since_when() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = config::Upstream { max_fails: Some(1), ..upstream(vec![a.clone(), b]) };
    let pool = followed(&config);
    let endpoint = pool.endpoint(0);
    pool.inner().server_failed(&endpoint, "connection refused");
    advance(Duration::from_secs(4)).await;
    let view = pool.view().endpoints.remove(0);
    assert_eq!(view.state, EndpointState::OutByFailures);
    assert_eq!((milliseconds(view.state_for_s), milliseconds(view.back_in_s)), (Some(4000.0), Some(6000.0)));
    let failure = view.last_failure.unwrap();
    assert_eq!((failure.reason.as_str(), failure.ago_s), ("connection refused", 4.0));
    advance(Duration::from_secs(7)).await;
    let view = pool.view().endpoints.remove(0);
    assert_eq!((view.state, milliseconds(view.state_for_s)), (EndpointState::In, Some(1000.0)));
    assert_eq!(view.back_in_s, None);
    endpoint.status.name_failed(&"no answer");
    assert_eq!(state(&pool, 0), EndpointState::Unresolved);
    endpoint.checks_failed("no");
    advance(Duration::from_secs(1)).await;
    endpoint.status.name_failed(&"no answer");
    assert_eq!(state(&pool, 0), EndpointState::OutByChecks);
    assert!(pool.take_out(endpoint.name(), OnRemoved::Keep));
    advance(Duration::from_secs(2)).await;
    assert!(pool.take_out(endpoint.name(), OnRemoved::Drain));
    let view = pool.view().endpoints.remove(0);
    assert_eq!((view.state, milliseconds(view.state_for_s)), (EndpointState::DrainedByAdmin, Some(2000.0)));
    assert_eq!(view.counts.times_out, 2);
    assert!(pool.put_back(endpoint.name()));
    endpoint.checks_passed();
    let view = pool.view().endpoints.remove(0);
    assert_eq!((view.state, milliseconds(view.state_for_s)), (EndpointState::Unresolved, Some(3000.0)));
}

#[tokio::test]
async fn a_server_that_left_is_seen_as_long_as_something_is_open_there() {
    let ((_a, a), (_b, b)) = (server().await, server().await);
    let config = upstream(vec![a.clone(), b]);
    let pool = followed(&config);
    let open = connect(&pool, Want::Fresh).await.unwrap();
    let next = reload(&pool, &changed(&config, |config| _ = config.servers.remove(0)));
    let view = next.view();
    assert_eq!(view.endpoints.len(), 2);
    let left = &view.endpoints[1];
    assert_eq!((&left.name, left.state, left.open), (&name_of(&a), EndpointState::Left, 1));
    drop(open);
    assert_eq!(next.view().endpoints.len(), 1);
}

#[tokio::test]
async fn connects_are_counted_by_what_came_of_them() {
    let ((listener, good), (_refuses, refusing), (_silent, silent)) = (server().await, refusing(), silent());
    let tls = config::UpstreamTls { server_name: None, trust: Trust::Anybody, identity: None };
    let config = config::Upstream {
        connect_timeout: Some(Duration::from_millis(200)),
        retries: 0,
        ..upstream(vec![good.clone()])
    };
    let counts = |pool: &Pool| pool.view().endpoints.remove(0).counts;
    let failures = |pool: &Pool| {
        let ConnectFailures { failed, timed_out, tls, unresolved } = counts(pool).connects_failed;
        [failed, timed_out, tls, unresolved]
    };
    let pool = followed(&config);
    connect(&pool, Want::Fresh).await.unwrap();
    let made = counts(&pool);
    assert_eq!((made.connect.count, made.tls_handshake.count, failures(&pool)), (1, 0, [0; 4]));
    assert!(made.connect.sum_s > 0.0 && made.connect.sum_s < 0.2);
    for (address, expected) in [(refusing, [1, 0, 0, 0]), (silent, [0, 1, 0, 0])] {
        let pool = followed(&config::Upstream { servers: upstream(vec![address]).servers, ..config.clone() });
        connect(&pool, Want::Fresh).await.unwrap_err();
        assert_eq!((counts(&pool).connect.count, failures(&pool)), (0, expected));
    }
    let nowhere = ServerAddress::Name { host: "wsgate-test.invalid.".into(), port: 80 };
    let pool = followed(&config::Upstream { servers: upstream(vec![nowhere]).servers, ..config.clone() });
    connect(&pool, Want::Fresh).await.unwrap_err();
    assert_eq!(failures(&pool), [0, 0, 0, 1]);
    let pool = followed(&config::Upstream { tls: Some(tls), ..config });
    let answers = async {
        listener.accept().await.unwrap();
        listener.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let (failure, ()) = tokio::join!(connect(&pool, Want::Fresh), answers);
    assert!(matches!(failure, Err(ConnectFailure::Tls { .. })), "{failure:?}");
    assert_eq!(failures(&pool), [0, 0, 1, 0]);
}

#[tokio::test]
async fn reused_stale_and_retried_connections_are_counted_and_go_on_over_a_reload() {
    let (listener, a) = server().await;
    let config = upstream(vec![a]);
    let pool = followed(&config);
    let ended = park_one(&pool, &listener).await;
    let (other, accepted) = tokio::join!(connect(&pool, Want::Fresh), listener.accept());
    let (Connected { stream, lease, .. }, _good) = (other.unwrap(), accepted.unwrap());
    lease.park(stream, None);
    // Those that have just come are looked at, and then it takes a while.
    for _ in 0..10 {
        yield_now().await;
    }
    drop(ended);
    let mut attempt = pool.attempt(Caller::default(), Instant::now());
    assert!(pool.connect(&mut attempt, Want::Reuse).await.unwrap().reused);
    // The server ended it as the request came.
    attempt.stay_if_bound();
    pool.connect(&mut attempt, Want::Fresh).await.unwrap();
    pool.connect(&mut pool.attempt(Caller::default(), Instant::now()), Want::Reuse).await.unwrap();
    let next = reload(&pool, &changed(&config, |config| config.retries = 1));
    let view = next.view();
    let counts = &view.endpoints[0].counts;
    assert_eq!((counts.reused, counts.stale, view.retries), (1, 2, 1));
    assert_eq!(counts.connect.count, 4);
}

#[tokio::test]
async fn checks_are_seen_with_their_result() {
    let ((listener, a), (_refuses, refusing)) = (server().await, refusing());
    let config = config::Upstream { health: Some(checked()), ..upstream(vec![a, refusing]) };
    let pool = followed(&config);
    assert_eq!(pool.view().endpoints[0].last_check, None);
    pool.start_checks(&Handle::current());
    let counts = |place: usize| pool.view().endpoints.remove(place).counts;
    eventually(|| counts(0).checks_passed > 2 && counts(1).checks_failed > 2).await;
    let view = pool.view();
    let check = view.endpoints[0].last_check.clone().unwrap();
    assert!(check.passed && check.took_s < 5.0 && check.ago_s < 5.0);
    assert!(!view.endpoints[1].last_check.clone().unwrap().passed);
    let reason = view.endpoints[1].last_failure.clone().unwrap().reason;
    assert!(reason.starts_with("cannot connect: "), "{reason}");
    assert_eq!((counts(0).checks_failed, counts(1).checks_passed, counts(1).times_out), (0, 0, 1));
    assert_eq!(counts(0).connect.count, 0, "checks are no requests");
    drop(listener);
}

#[tokio::test]
async fn s2_a_reason_is_bounded() {
    let (_a, a) = server().await;
    let pool = pool(vec![a]);
    pool.inner().server_failed(&pool.endpoint(0), &"é".repeat(1000));
    let reason = pool.view().endpoints[0].last_failure.clone().unwrap().reason;
    assert_eq!(reason, "é".repeat(100));
    pool.inner().server_failed(&pool.endpoint(0), &format!("x{}", "é".repeat(1000)));
    let reason = pool.view().endpoints[0].last_failure.clone().unwrap().reason;
    assert_eq!(reason.len(), 199);
}
