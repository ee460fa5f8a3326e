//! Active checks, where reloads come more often than they do.

use super::*;

fn failed_checks(pool: &Pool) -> u64 {
    pool.view().endpoints[0].counts.checks_failed
}

/// Puts the same in force again, but for a key that checks have nothing to do with.
fn again(pool: &Pool, config: &config::Upstream) -> Pool {
    let next = reload(pool, &changed(config, |_| {}));
    next.start_checks(&Handle::current());
    next
}

#[tokio::test]
async fn failed_checks_count_over_reloads() {
    let (_refuses, refusing) = refusing();
    let (_b, b) = server().await;
    let health = config::Health { interval: Duration::from_millis(100), ..checked() };
    let config = config::Upstream { health: Some(health), ..upstream(vec![refusing, b]) };
    let mut pool = followed(&config);
    pool.start_checks(&Handle::current());
    for _ in 0..20 {
        let failed = failed_checks(&pool);
        eventually(|| failed_checks(&pool) > failed).await;
        if !pool.endpoint(0).status.is_in() {
            return;
        }
        pool = again(&pool, &config);
    }
    panic!("{} checks failed, and it is in", failed_checks(&pool));
}

#[tokio::test]
async fn a_check_that_a_reload_finds_under_way_counts() {
    // Connections wait in its queue, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_b, b) = server().await;
    let timeout = Duration::from_millis(100);
    let health = config::Health { check: config::Check::Http, timeout, ..checked() };
    let address = ServerAddress::Inet(silent.local_addr().unwrap());
    let config = config::Upstream { health: Some(health), ..upstream(vec![address, b]) };
    let pool = std::cell::RefCell::new(followed(&config));
    pool.borrow().start_checks(&Handle::current());
    eventually(|| {
        let next = again(&pool.borrow(), &config);
        pool.replace(next).endpoint(0).status.has_failed_checks()
    })
    .await;
    let failed = failed_checks(&pool.borrow());
    assert!(failed >= 3, "{failed}");
}

#[tokio::test]
async fn other_checks_begin_at_once_and_count_anew() {
    let (_refuses, refusing) = refusing();
    let (_b, b) = server().await;
    let health = config::Health { interval: Duration::from_secs(3600), fall: 2, ..checked() };
    let config = config::Upstream { health: Some(health), ..upstream(vec![refusing, b]) };
    let pool = followed(&config);
    pool.start_checks(&Handle::current());
    eventually(|| failed_checks(&pool) == 1).await;
    let other = changed(&config, |config| config.health.as_mut().unwrap().path = "/alive".into());
    // As a reload does: the next ones begin before the last ones end.
    let next = pool.succeed(&other, &place()).unwrap();
    next.start_checks(&Handle::current());
    pool.retire(Some(&next));
    eventually(|| failed_checks(&next) == 2).await;
    assert!(next.endpoint(0).status.is_in());
}
