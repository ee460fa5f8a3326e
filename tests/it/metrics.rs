//! What is counted: exactly, once, and under the names that documents, dashboard and alerts use.

use wsgate::telemetry::Kind;

use crate::harness::{
    AGREED, Backend, Gate, HttpBackend, Metrics, OFFER, Setup, frames, get, offer_with, ok, pki::Pki, soon,
};

/// The metrics as soon as `is_true` of them.
async fn when(gate: &Gate, is_true: impl Fn(&Metrics) -> bool) -> Metrics {
    soon("metrics", async {
        loop {
            let metrics = gate.metrics();
            if is_true(&metrics) {
                return metrics;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await
}

/// The metrics when nothing is open any more.
async fn at_rest(gate: &Gate) -> Metrics {
    gate.at_rest().await;
    when(gate, |metrics| {
        let closed = metrics.sum("wsgate_connections_closed_total", &[]);
        closed == metrics.sum("wsgate_connections_accepted_total", &[])
    })
    .await
}

#[tokio::test]
async fn show() {
    let backend = HttpBackend::start().await;
    let gate = Setup::to(backend.address()).start();
    let mut client = gate.ask(get("/", "")).await;
    client.read_response().await;
    println!("{:#?}", gate.metrics().samples);
}
