//! The reports' task against a hub that never agrees on the numbers.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::post};

use super::*;
use crate::source::tests::hub;

#[tokio::test]
async fn a_hub_that_refuses_every_number_is_asked_at_a_pace_and_records_are_taken_meanwhile() {
    let (refused, seen) = (Arc::new(AtomicU32::new(0)), watch::channel(0).0);
    let (count, tell) = (refused.clone(), seen.clone());
    let answer = move |Json(request): Json<serde_json::Value>| {
        let (count, tell) = (count.clone(), tell.clone());
        async move {
            if request["envelopes"].as_array().is_some_and(Vec::is_empty) {
                return r#"{"acknowledged":0}"#.into_response();
            }
            tell.send_replace(count.fetch_add(1, Ordering::SeqCst) + 1);
            let body = r#"{"error":{"code":"sequence","message":"other numbers; resume"}}"#;
            (StatusCode::CONFLICT, body).into_response()
        }
    };
    let hub = hub(Router::new().route("/node/v1/reports", post(answer))).await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    let (status_in, status) =
        watch::channel(NodeStatus { generation: 1, workloads: vec![], problems: vec![], os: None });
    let (interval_in, report_seconds) = watch::channel(60);
    let (hub_in, hub_out) = watch::channel(Some(hub.client()));
    let (reporter, records) = Reporter::channel();
    let config = Config {
        key: Arc::new(KeyPair::generate().unwrap()),
        boot: "0".repeat(32).parse().unwrap(),
        facts: Facts::default(),
        records,
        status,
        report_seconds,
        hub: hub_out,
    };
    let stop = CancellationToken::new();
    let (mut unsent, task) = build(config, ledger, stop.clone());
    let task = tokio::spawn(task);
    let deadline = Duration::from_secs(20);
    let mut asked = seen.subscribe();
    timeout(deadline, asked.wait_for(|n| *n >= 1)).await.unwrap().unwrap();
    // More than the channel holds: the task must take them while the hub keeps refusing.
    for n in 0..100 {
        reporter.event(Severity::Info, "x", n.to_string()).await;
    }
    timeout(deadline, unsent.wait_for(|n| *n >= 100)).await.unwrap().unwrap();
    // The second try comes after a pause, so there are few of them by now.
    assert!(refused.load(Ordering::SeqCst) < 10, "{refused:?}");
    stop.cancel();
    timeout(deadline, task).await.unwrap().unwrap();
    drop((status_in, interval_in, hub_in));
}
