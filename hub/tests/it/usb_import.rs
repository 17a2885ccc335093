//! The way back by stick: whatever is brought, in whatever order and how often, only what a node signed is stored, once.

use cairn_model::{
    media::{MAX_IMPORT_BYTES, MAX_IMPORT_ENROLMENTS, MAX_IMPORT_REPORTS},
    report::Record,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Hub, refused},
    node::{Node, facts},
    reports::event,
    roles::{access, ask},
};

async fn post(hub: &Hub, reports: &[String], enrolments: &[String]) -> (StatusCode, Value) {
    let body = json!({"reports": reports, "enrolments": enrolments});
    hub.api(Method::POST, "/usb/import", Some(body)).await
}

async fn import(hub: &Hub, reports: &[String], enrolments: &[String]) -> Value {
    let (status, body) = post(hub, reports, enrolments).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// `(stored, known, acknowledged)` of the only node.
fn counts(imported: &Value) -> (u64, u64, u64) {
    let nodes = imported["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 1, "{imported}");
    let number = |key: &str| nodes[0][key].as_u64().unwrap();
    (number("stored"), number("known"), number("acknowledged"))
}

/// Asserts that one line was refused, with these parts, a cause and a cure.
#[track_caller]
fn told(imported: &Value, parts: &[&str]) {
    let lines = imported["refused"].as_array().unwrap_or_else(|| panic!("nothing refused: {imported}"));
    let fits = |line: &&Value| parts.iter().all(|part| line.as_str().unwrap().contains(part));
    let line = lines.iter().find(fits).unwrap_or_else(|| panic!("{parts:?} not in {imported}"));
    assert!(line.as_str().unwrap().contains(';'), "cause and cure: {line}");
}

fn numbered(node: &Node, sequences: impl Iterator<Item = u64>) -> Vec<String> {
    sequences.map(|n| node.report(n, vec![event(&format!("r{n}"))])).collect()
}

async fn reasons(hub: &Hub, node: &Node) -> Vec<String> {
    let events = hub.get(&format!("/nodes/{}/events", node.id)).await;
    events.as_array().unwrap().iter().map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
}

async fn audited(hub: &Hub, action: &str) -> Vec<Value> {
    let Value::Array(rows) = hub.get("/audit").await else { panic!("no list") };
    rows.into_iter().filter(|row| row["action"] == action).collect()
}

/// `body`'s header and payload under another's signature.
fn spliced(body: &str, signature: &str) -> String {
    format!("{}.{}", body.rsplit_once('.').unwrap().0, signature.rsplit_once('.').unwrap().1)
}

#[tokio::test]
async fn rejects_forged_reports_and_those_of_another_key_and_stores_the_rest() {
    let hub = Hub::start();
    let (a, b) = (Node::member(&hub, "a").await, Node::member(&hub, "b").await);
    let (of_a, of_b) = (a.report(1, vec![event("real")]), b.report(1, vec![event("real")]));
    let tampered = a.report(1, vec![event("forged")]);
    let forged = [
        spliced(&of_a, &of_b),
        spliced(&tampered, &of_a),
        // Who it is from is in the header: the payload of another node under it.
        {
            let (header, _) = of_a.split_once('.').unwrap();
            let (_, rest) = of_b.split_once('.').unwrap();
            format!("{header}.{rest}")
        },
        // Signed by the node, but as something else.
        a.request("", "a"),
        "garbage".to_owned(),
        "x.y.z".to_owned(),
        String::new(),
    ];
    let mut stick = forged.to_vec();
    stick.push(of_b.clone());
    let imported = import(&hub, &stick, &[of_b.clone(), "garbage".to_owned()]).await;
    told(&imported, &["3 times", a.id.as_str(), "not signed by the expected key"]);
    told(&imported, &[a.id.as_str(), "missing field `node`"]);
    told(&imported, &["a report is refused"]);
    told(&imported, &[b.id.as_str(), "enrolment request is refused"]);
    let stored = |id: &Node| {
        let node = imported["nodes"].as_array().unwrap().iter().find(|n| n["node"] == id.id.as_str());
        node.unwrap()["stored"].clone()
    };
    assert_eq!((stored(&a), stored(&b)), (json!(0), json!(1)), "{imported}");
    assert_eq!(imported["enrolled"], json!([]));
    assert_eq!((reasons(&hub, &a).await.len(), reasons(&hub, &b).await), (0, vec!["real".to_owned()]));
    assert_eq!(audited(&hub, "usb.import").await.len(), 1);
    assert_eq!(hub.get("/nodes").await.as_array().unwrap().len(), 2);
    // The sequence is still free for the real one.
    assert_eq!(counts(&import(&hub, &[of_a], &[]).await), (1, 0, 1));
}

#[tokio::test]
async fn stores_each_report_once_in_whatever_order_and_how_often_the_sticks_come() {
    let mut hub = Hub::start();
    let node = Node::by_stick(&hub, "edge1").await;
    let (first, second) = (numbered(&node, 1..4), numbered(&node, 4..7));
    let early = import(&hub, &second, &[]).await;
    assert_eq!(counts(&early), (0, 0, 0));
    told(&early, &["(edge1)", "reports 4 to 6 cannot be taken yet, reports 1 to 3 must come first"]);
    told(
        &early,
        &["the stick that has what is missing", "restored from an older backup", "connect the node"],
    );
    assert!(reasons(&hub, &node).await.is_empty());
    let mut backwards = first.clone();
    backwards.reverse();
    assert_eq!(counts(&import(&hub, &backwards, &[]).await), (3, 0, 3));
    let shown = hub.get("/nodes/edge1").await;
    assert_eq!(counts(&import(&hub, &first, &[]).await), (0, 3, 3), "a replay changes nothing");
    assert_eq!(hub.get("/nodes/edge1").await, shown);
    // Two of each, one missing in between: what comes before the gap is stored.
    let both = [&first[..], &second[..1], &second[..1], &second[2..], &first[..]].concat();
    let imported = import(&hub, &both, &[]).await;
    assert_eq!(counts(&imported), (1, 7, 4));
    told(&imported, &["report 6 cannot be taken yet, report 5 must come first"]);
    hub.kill();
    hub.restart();
    assert_eq!(counts(&import(&hub, &second, &[]).await), (2, 1, 6));
    assert_eq!(reasons(&hub, &node).await, ["r6", "r5", "r4", "r3", "r2", "r1"]);
    let rows = audited(&hub, "usb.import").await;
    assert_eq!(rows.len(), 3, "only what changed is written down");
    assert_eq!((&rows[0]["subject"], &rows[0]["actor"]), (&json!(node.id), &json!("admin")));
    let after = |row: &Value| (row["before"]["acknowledged"].clone(), row["after"]["acknowledged"].clone());
    assert_eq!(rows.iter().map(after).collect::<Vec<_>>()[..2], [(json!(4), json!(6)), (json!(3), json!(4))]);

    // Both ways at once: the network goes on where the stick ended, and the other way round.
    assert_eq!(node.send(&hub, numbered(&node, 6..9)).await, (StatusCode::OK, json!({"acknowledged": 8})));
    assert_eq!(counts(&import(&hub, &numbered(&node, 7..10), &[]).await), (1, 2, 9));
    assert_eq!(reasons(&hub, &node).await.len(), 9);
}

#[tokio::test]
async fn a_gap_is_refused_unless_an_operator_gives_up_what_is_missing() {
    let hub = Hub::start();
    let (node, other) = (Node::by_stick(&hub, "edge1").await, Node::by_stick(&hub, "edge2").await);
    assert_eq!(counts(&import(&hub, &numbered(&node, 1..4), &[]).await), (3, 0, 3));
    // What the hub had up to 10 went with its disk; the node has dropped it.
    let left = [numbered(&node, 1..3), numbered(&node, 11..14), numbered(&node, 15..17)].concat();
    let answer = import(&hub, &left, &[]).await;
    assert_eq!((counts(&answer), &answer["nodes"][0]["given_up"]), ((0, 2, 3), &json!(0)));
    let cures = ["the stick that has what is missing", "restored from an older backup", "--accept-gap"];
    told(
        &answer,
        &[&["(edge1)", "reports 11 to 16 cannot", "reports 4 to 10 must come first"], &cures[..]].concat(),
    );
    let accept = async |reports: &[String]| {
        let body = json!({"reports": reports, "accept_gaps": true});
        let (status, answer) = hub.api(Method::POST, "/usb/import", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    // Without the word in what was asked, nothing is different the second time; and who may only look can't give it.
    assert_eq!(counts(&import(&hub, &left, &[]).await), (0, 2, 3));
    let eve = access(&hub, "eve", "viewer").await;
    let body = json!({"reports": left, "accept_gaps": true});
    refused(&ask(&hub, &eve, Method::POST, "/api/v1/usb/import", body).await, 403, "forbidden");
    assert!(!audited(&hub, "usb.import").await[0].to_string().contains("given_up"));
    let accepted = accept(&left).await;
    assert_eq!((counts(&accepted), &accepted["nodes"][0]["given_up"]), ((3, 2, 13), &json!(7)));
    told(&accepted, &["reports 15 to 16 cannot be taken yet, report 14 must come first"]);
    assert_eq!(reasons(&hub, &node).await, ["r13", "r12", "r11", "r3", "r2", "r1"]);
    let rows = audited(&hub, "usb.import").await;
    let after = json!({"acknowledged": 13, "given_up": {"from": 4, "to": 10}});
    assert_eq!((&rows[0]["subject"], &rows[0]["actor"]), (&json!(node.id), &json!("admin")));
    assert_eq!((&rows[0]["before"], &rows[0]["after"]), (&json!({"acknowledged": 3}), &after));
    // What was given up is known from now on, also by the network; and a gap there is refused as ever.
    assert_eq!(counts(&import(&hub, &numbered(&node, 4..11), &[]).await), (0, 7, 13));
    refused(&node.send(&hub, numbered(&node, 15..16)).await, 409, "report-gap");
    // Where nothing is missing, the word changes nothing; nor does it count for what a node has not signed.
    let whole = accept(&numbered(&node, 14..17)).await;
    assert_eq!((counts(&whole), &whole["nodes"][0]["given_up"]), ((3, 0, 16), &json!(0)));
    let (forged, real) = (&numbered(&other, 900..901)[0], &numbered(&node, 900..901)[0]);
    let answer = accept(&[spliced(forged, real)]).await;
    assert_eq!(counts(&answer), (0, 0, 0));
    assert!(audited(&hub, "usb.import").await.iter().all(|row| row["subject"] != json!(other.id)));
}

#[tokio::test]
async fn refuses_what_is_too_large_whole() {
    let hub = Hub::start();
    let node = Node::member(&hub, "edge1").await;
    let report = node.report(1, vec![event("r1")]);
    let many = vec![report.clone(); MAX_IMPORT_REPORTS + 1];
    refused(&post(&hub, &many, &[]).await, 413, "too-large");
    let many = vec![node.request("", "edge1"); MAX_IMPORT_ENROLMENTS + 1];
    refused(&post(&hub, &[], &many).await, 413, "too-large");
    refused(&post(&hub, &["x".repeat(MAX_IMPORT_BYTES)], &[]).await, 413, "too-large");
    let bogus = json!({"reports": [], "outbox": []});
    refused(&hub.api(Method::POST, "/usb/import", Some(bogus)).await, 400, "malformed");
    assert!(reasons(&hub, &node).await.is_empty());
    // One envelope over its bound keeps no other from being stored.
    let imported = import(&hub, &["x".repeat(2 << 20), report], &[]).await;
    told(&imported, &["over the limit"]);
    assert_eq!(counts(&imported), (1, 0, 1));
    assert_eq!(import(&hub, &[], &[]).await, json!({"nodes": [], "enrolled": []}));
}

#[tokio::test]
async fn ten_thousand_reports_come_in_at_once() {
    let hub = Hub::start();
    let node = Node::by_stick(&hub, "edge1").await;
    let most = MAX_IMPORT_REPORTS as u64;
    let all = numbered(&node, 1..most + 1);
    assert_eq!(counts(&import(&hub, &all, &[]).await), (most, 0, most));
    assert_eq!(counts(&import(&hub, &all, &[]).await), (0, most, most));
    assert_eq!(reasons(&hub, &node).await[0], format!("r{most}"));
    assert_eq!(hub.metric("cairn_hub_usb_reports_total").await, most as f64);
    assert_eq!(hub.metric("cairn_hub_reports_total").await, most as f64);
    // As many that are forged are told in few words.
    let thief = Node::new();
    let forged: Vec<String> = all.iter().map(|jws| spliced(jws, &thief.report(1, vec![]))).collect();
    let imported = import(&hub, &forged, &[]).await;
    assert_eq!(imported["refused"].as_array().unwrap().len(), 1, "{imported}");
    told(&imported, &["10000 times", "(edge1)"]);
    let strangers: Vec<String> = (0..300).map(|_| Node::new().report(1, vec![])).collect();
    let imported = import(&hub, &strangers, &[]).await;
    assert_eq!(imported["refused"].as_array().unwrap().len(), 201, "{imported}");
    told(&imported, &["and 100 more"]);
}

#[tokio::test]
async fn reports_of_strangers_of_the_removed_and_of_the_waiting_are_refused_by_name() {
    let hub = Hub::start();
    let (gone, stranger, waiting) = (Node::member(&hub, "gone").await, Node::new(), Node::new());
    assert_eq!(counts(&import(&hub, &numbered(&gone, 1..2), &[]).await), (1, 0, 1));
    let path = format!("/nodes/{}", gone.id);
    assert_eq!(hub.api(Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    import(&hub, &[], &[waiting.request("", "waiting")]).await;
    let stick = [&gone, &stranger, &waiting]
        .map(|node| numbered(node, 1..4))
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let imported = import(&hub, &stick, &[]).await;
    assert_eq!(imported["nodes"], json!([]));
    told(&imported, &["3 times", gone.id.as_str(), "(gone)", "an operator removed it"]);
    told(&imported, &["3 times", stranger.id.as_str(), "does not know it"]);
    told(&imported, &["3 times", waiting.id.as_str(), "cairn node approve"]);
    assert!(reasons(&hub, &waiting).await.is_empty());
    // Who was removed can ask again, and waits again: that it asked once says nothing.
    let imported = import(&hub, &numbered(&gone, 2..3), &[gone.request("", "gone")]).await;
    assert_eq!((&imported["enrolled"][0]["state"], &imported["nodes"]), (&json!("pending"), &json!([])));
    told(&imported, &[gone.id.as_str(), "cairn node approve"]);
    // Approved, the same stick is as good as before.
    let approve = format!("/nodes/{}/approve", waiting.id);
    assert_eq!(hub.api(Method::POST, &approve, None).await.0, StatusCode::OK);
    assert_eq!(counts(&import(&hub, &stick[6..], &[]).await), (3, 0, 3));
}

#[tokio::test]
async fn enrolment_without_a_token_waits_for_approval_and_is_known_by_its_fingerprint() {
    let hub = Hub::start();
    let node = Node::new();
    let request = node.request("", "edge1");
    refused(&node.enroll(&hub, "", "edge1").await, 403, "token-unknown");
    let other = Node::new().request("", "edge1");
    let imported = import(&hub, &[], &[spliced(&request, &other)]).await;
    told(&imported, &[node.id.as_str(), "the enrolment request is refused"]);
    assert_eq!((&imported["enrolled"], hub.get("/nodes").await), (&json!([]), json!([])));

    let imported = import(&hub, &[], &[request.clone(), request.clone()]).await;
    let shown = &imported["enrolled"][0];
    assert_eq!(imported["enrolled"].as_array().unwrap().len(), 1, "once");
    assert_eq!((&shown["id"], &shown["state"]), (&json!(node.id), &json!("pending")));
    assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 64 + 15);
    assert_eq!((&shown["freshness"], &shown["online"]), (&json!({"days": 90}), &json!(false)));
    assert_eq!((&shown["heard_by"]["type"], &shown["labels"]), (&json!("stick"), &json!({})));
    let rows = audited(&hub, "node.enroll").await;
    assert_eq!((rows.len(), &rows[0]["actor"], &rows[0]["subject"]), (1, &json!("admin"), &json!(node.id)));
    assert_eq!((&rows[0]["after"]["carrier"], &rows[0]["after"]["token"]), (&json!("stick"), &Value::Null));
    // Whatever an operator decided stands when the stick comes again.
    for action in ["approve", "label"] {
        let (method, path, body) = match action {
            "approve" => (Method::POST, format!("/nodes/{}/approve", node.id), None),
            _ => (Method::PATCH, format!("/nodes/{}/labels", node.id), Some(json!({"set": {"zone": "a"}}))),
        };
        assert_eq!(hub.api(method, &path, body).await.0, StatusCode::OK);
    }
    let before = hub.get("/nodes/edge1").await;
    assert_eq!(import(&hub, &[], &[request]).await["enrolled"][0], before);
    assert_eq!((&before["state"], audited(&hub, "node.enroll").await.len()), (&json!("approved"), 1));
}

#[tokio::test]
async fn tokens_count_on_a_stick_as_on_the_network() {
    let hub = Hub::start();
    let once = hub.token(json!({"auto_approve": true, "labels": {"zone": "a"}})).await;
    let (node, late) = (Node::new(), Node::new());
    let requests =
        [node.request(&once, "edge1"), late.request(&once, "edge2"), Node::new().request("nonsense", "x")];
    // A member at once, so that its reports on the same stick count.
    let imported = import(&hub, &numbered(&node, 1..3), &requests).await;
    assert_eq!(counts(&imported), (2, 0, 2));
    let shown = &imported["enrolled"];
    assert_eq!(shown.as_array().unwrap().len(), 1, "{imported}");
    assert_eq!((&shown[0]["state"], &shown[0]["labels"]["zone"]), (&json!("approved"), &json!("a")));
    assert_eq!((&shown[0]["desired_generation"], &shown[0]["freshness"]), (&json!(1), &json!({"days": 90})));
    told(&imported, &[late.id.as_str(), "was used by another node"]);
    told(&imported, &["is not known to this hub"]);
    assert_eq!(hub.get("/tokens").await[0]["used"], 1);
    let again = import(&hub, &[], &requests[..1]).await;
    assert_eq!((&again["enrolled"][0]["state"], again.get("refused")), (&json!("approved"), None));
    assert_eq!(hub.get("/nodes").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn how_a_node_was_last_heard_of_follows_it() {
    let mut hub = Hub::start();
    let node = Node::member(&hub, "edge1").await;
    let heard = async |hub: &Hub| {
        let shown = hub.get("/nodes/edge1").await;
        assert!(shown["last_seen"].is_string(), "{shown}");
        (shown["heard_by"].clone(), shown["online"].clone(), shown["freshness"].clone())
    };
    let network = (json!({"type": "network"}), json!(true), json!("connected"));
    assert_eq!(heard(&hub).await, network);
    // A stick says when the node wrote it, and nothing of how it is now.
    import(&hub, &numbered(&node, 1..3), &[]).await;
    let stick = json!({"type": "stick", "reported_at": "2023-11-14T22:13:20Z"});
    assert_eq!(heard(&hub).await, (stick.clone(), json!(true), json!("connected")), "it was online just now");
    hub.kill();
    hub.restart();
    assert_eq!(heard(&hub).await, (stick, json!(false), json!("connected")));
    assert_eq!(node.get(&hub, "/node/v1/enrollment").await.0, StatusCode::OK);
    assert_eq!(heard(&hub).await, network);
    // What was known changes nothing.
    import(&hub, &numbered(&node, 1..3), &[]).await;
    assert_eq!(heard(&hub).await, network);
}

#[tokio::test]
async fn what_a_stick_reports_is_what_the_fleet_goes_by() {
    let hub = Hub::start();
    let node = Node::by_stick(&hub, "edge1").await;
    let mut renamed = facts("edge2");
    renamed.labels = [("disk".to_owned(), "ssd".to_owned())].into();
    assert_eq!(counts(&import(&hub, &[node.report(1, vec![Record::Facts(renamed)])], &[]).await), (1, 0, 1));
    assert_eq!(hub.get("/nodes/edge2").await["labels"], json!({"disk": "ssd"}));
}
