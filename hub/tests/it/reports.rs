//! Reports: exactly once, in order, from the one node.

use cairn_model::report::{Event, Record, Severity};
use cairn_trust::keys::KeyPair;
use reqwest::StatusCode;
use serde_json::json;

use crate::{
    harness::{Hub, refused},
    node::{Node, facts},
};

pub fn event(reason: &str) -> Record {
    Record::Event(Event {
        time_ms: 1_700_000_000_000,
        severity: Severity::Warning,
        reason: reason.to_owned(),
        message: "cause; cure".to_owned(),
    })
}

#[tokio::test]
async fn stores_each_report_once_and_acknowledges_what_is_on_disk() {
    let mut hub = Hub::start();
    let node = Node::member(&hub, "edge1").await;
    let reports: Vec<String> = (1..=3).map(|n| node.report(n, vec![event(&format!("r{n}"))])).collect();
    let acknowledged = |n: u64| (StatusCode::OK, json!({"acknowledged": n}));
    assert_eq!(node.send(&hub, reports[..2].to_vec()).await, acknowledged(2));
    assert_eq!(node.send(&hub, reports[..2].to_vec()).await, acknowledged(2), "a replay changes nothing");
    refused(&node.send(&hub, vec![node.report(9, vec![])]).await, 409, "report-gap");
    // What comes before a gap is stored.
    assert_eq!(node.send(&hub, vec![reports[2].clone(), node.report(9, vec![])]).await, acknowledged(3));
    hub.kill();
    hub.restart();
    assert_eq!(node.send(&hub, reports).await, acknowledged(3));
    let events = hub.get("/nodes/edge1/events").await;
    let reasons: Vec<_> = events.as_array().unwrap().iter().map(|e| e["reason"].clone()).collect();
    assert_eq!(reasons, ["r3", "r2", "r1"]);
    assert_eq!(events[0]["time"], "2023-11-14T22:13:20Z");
}

#[tokio::test]
async fn refuses_reports_of_another_key_or_another_node() {
    let hub = Hub::start();
    let (a, b) = (Node::member(&hub, "a").await, Node::member(&hub, "b").await);
    let foreign = b.report(1, vec![event("forged")]);
    refused(&a.send(&hub, vec![foreign]).await, 403, "envelope-refused");
    let mut thief = Node::new();
    thief.id = a.id.clone();
    thief.key = KeyPair::generate().unwrap();
    refused(&a.send(&hub, vec!["nonsense".to_owned()]).await, 403, "envelope-refused");
    refused(&a.send(&hub, vec!["x".to_owned(); 300]).await, 413, "too-large");
    refused(&a.send(&hub, vec!["x".repeat(9 << 20)]).await, 413, "too-large");
    assert_eq!(hub.get("/nodes/a/events").await, json!([]));
}

#[tokio::test]
async fn facts_and_presence_follow_the_node() {
    let hub = Hub::start();
    let node = Node::member(&hub, "edge1").await;
    let mut renamed = facts("edge2");
    renamed.labels = [("zone".to_owned(), "own".to_owned()), ("disk".to_owned(), "ssd".to_owned())].into();
    assert_eq!(node.send(&hub, vec![node.report(1, vec![Record::Facts(renamed)])]).await.0, StatusCode::OK);
    let shown = hub.get("/nodes/edge2").await;
    assert_eq!(shown["labels"], json!({"zone": "a", "disk": "ssd"}), "the hub's labels are over the node's");
    assert_eq!(shown["online"], true);
}
