//! The end: the time of a drain, and what is cut after it.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::{
    config,
    lifecycle::{DrainHandle, Tracker},
};

/// How often a drain tells of its progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// The window of a drain's Close frames: within the grace there must be time left for their answers.
pub(super) fn spread(server: &config::Server) -> Duration {
    server.shutdown_grace.map_or(server.drain_spread, |grace| server.drain_spread.min(grace / 2))
}

/// Waits until nothing is open any more and nobody is `waiting` to be, the grace is over, or somebody cuts it short; then cuts.
/// Returns how many it cut.
pub(super) async fn watch_over(
    order: &DrainHandle,
    grace: Option<Duration>,
    mut waiting: JoinSet<()>,
) -> usize {
    let open = order.open();
    let began = order.began_with();
    tracing::info!(open = began, "draining");
    let signal = order.signal();
    let expired = async {
        match grace {
            Some(grace) => tokio::time::sleep(grace).await,
            None => std::future::pending().await,
        }
    };
    let empty = async {
        while waiting.join_next().await.is_some() {}
        open.empty().await;
    };
    tokio::select! {
        () = empty => {}
        () = expired => {}
        () = signal.hurried() => {}
        () = report_progress(open, began) => {}
    }
    let cut = open.count();
    let drained = began.saturating_sub(cut);
    if cut > 0 {
        tracing::warn!(drained, cut, "cutting what is still open");
    } else if began > 0 {
        tracing::info!(drained, cut, "drained");
    }
    order.shutdown();
    cut
}

/// Tells now and then how far the drain has come. Never ends.
async fn report_progress(open: &Tracker, began: usize) {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let open = open.count();
        tracing::info!(open, drained = began.saturating_sub(open), "draining");
    }
}
