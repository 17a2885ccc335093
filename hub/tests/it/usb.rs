//! The way out by stick: what a bundle needs, what is signed for it, and how long that holds.

use std::path::Path;

use cairn_model::{
    Digest,
    media::{MAX_METADATA_NODES, MediaFiles, MediaPlan},
    report::{NodeStatus, OsState, Record},
};
use cairn_trust::{keys::roots_fingerprint, node::Update};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    deploy::COMPOSE,
    harness::{Folder, Hub, answer, refused},
    node::Node,
    os::{os_status, pack, push_release},
    push::push_image,
    reports::event,
};

async fn plan(hub: &Hub, nodes: Value) -> MediaPlan {
    let (status, body) = hub.api(Method::POST, "/usb/plan", Some(nodes)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_value(body).unwrap()
}

async fn metadata(hub: &Hub, nodes: &[&Node]) -> MediaFiles {
    let ids: Vec<_> = nodes.iter().map(|node| &node.id).collect();
    let (status, body) = hub.api(Method::POST, "/usb/metadata", Some(json!({"nodes": ids}))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_value(body).unwrap()
}

/// As `cairn usb export` writes it, without blobs.
fn write(files: &MediaFiles, stick: &Path) {
    for (path, text) in &files.files {
        let path = stick.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

async fn freshness(hub: &Hub, nodes: Value, freshness: Value) -> (StatusCode, Value) {
    let mut body = nodes;
    body["freshness"] = freshness;
    hub.api(Method::POST, "/nodes/freshness", Some(body)).await
}

fn days(files: &MediaFiles) -> i64 {
    let left = files.expires.parse::<Timestamp>().unwrap().duration_since(Timestamp::now());
    (left + SignedDuration::from_mins(10)).as_hours() / 24
}

async fn import(hub: &Hub, reports: Vec<String>) {
    let body = json!({ "reports": reports });
    let (status, body) = hub.api(Method::POST, "/usb/import", Some(body)).await;
    assert_eq!((status, body.get("refused")), (StatusCode::OK, None), "{body}");
}

async fn audited(hub: &Hub, action: &str) -> Vec<Value> {
    let Value::Array(rows) = hub.get("/audit").await else { panic!("no list") };
    rows.into_iter().filter(|row| row["action"] == action).collect()
}

/// Has a node that no network reaches run version 1 of its OS.
async fn appliance(hub: &Hub, hostname: &str) -> Node {
    let node = Node::by_stick(hub, hostname).await;
    let os = Some(os_status("1", OsState::Idle));
    let status = NodeStatus { generation: 0, workloads: vec![], problems: vec![], os };
    import(hub, vec![node.report(1, vec![Record::Status(status)])]).await;
    node
}

fn texts(plan: &MediaPlan) -> String {
    for problem in &plan.problems {
        assert!(problem.contains(';'), "cause and cure: {problem}");
    }
    plan.problems.join("\n")
}

#[tokio::test]
async fn a_plan_is_what_the_nodes_may_read_each_blob_once() {
    let hub = Hub::start();
    let image = push_image(&hub, "demo/web", "1", "one").await;
    let unused = push_image(&hub, "demo/unused", "1", "two").await;
    let release = push_release(&hub, "2", json!({})).await;
    let (node, other) = (appliance(&hub, "edge1").await, Node::member(&hub, "edge2").await);
    let everywhere = format!("{COMPOSE}    deploy: {{mode: global}}\n");
    let app: Digest = hub.deploy("shop", &everywhere).await.1["digest"].as_str().unwrap().parse().unwrap();
    let set = json!({"release": "2", "nodes": ["edge1"], "health": {"deadline_seconds": 90, "hub": false}});
    assert_eq!(hub.api(Method::POST, "/os/set", Some(set)).await.0, StatusCode::OK);

    let plan = plan(&hub, json!({"nodes": [node.id, "edge2", node.id], "selector": "zone=a"})).await;
    assert_eq!(plan.problems, Vec::<String>::new());
    let mut ids = [&node, &other].map(|node| (node.id.clone(), node));
    ids.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        plan.nodes.iter().map(|n| &n.node).collect::<Vec<_>>(),
        ids.iter().map(|n| &n.0).collect::<Vec<_>>()
    );
    let of = |node: &Node| plan.nodes.iter().find(|n| n.node == node.id).unwrap();
    assert_eq!((of(&node).hostname.as_str(), of(&node).acknowledged), ("edge1", 1));
    let shown = hub.get("/nodes/edge1").await;
    assert_eq!(json!(of(&node).generation), shown["desired_generation"]);
    let sorted = |digests: &[&Digest]| {
        let mut digests: Vec<Digest> = digests.iter().map(|digest| (*digest).clone()).collect();
        digests.sort();
        digests
    };
    assert_eq!(of(&node).manifests, sorted(&[&app, &image, &release]));
    assert_eq!(of(&other).manifests, sorted(&[&app, &image]));

    let digests: Vec<&Digest> = plan.blobs.iter().map(|blob| &blob.digest).collect();
    assert!(digests.is_sorted_by(|a, b| a < b), "each once");
    // App: config and the empty layer; image: config and layer; release: config, index and pack.
    assert_eq!(digests.len(), 3 + 2 + 2 + 3);
    assert!(!digests.contains(&&unused) && digests.contains(&&Digest::of(&pack("2"))));
    for blob in &plan.blobs {
        let kind = if blob.media_type.is_some() { "manifests" } else { "blobs" };
        let path = format!("/v2/{}/{kind}/{}", blob.repository, blob.digest);
        let bytes = hub.ask(Method::GET, &path).send().await.unwrap().bytes().await.unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest.clone(), blob.size), "{path}");
        let own =
            node.ask(&hub, Method::HEAD, &format!("/v2/_/{kind}/{}", blob.digest)).send().await.unwrap();
        assert_eq!(own.status(), StatusCode::OK, "nothing that the node may not read");
    }
    let named = plan.blobs.iter().find(|blob| blob.digest == image).unwrap();
    assert_eq!(named.names, ["demo/web:1"]);
    let theirs = self::plan(&hub, json!({"nodes": ["edge2"]})).await;
    assert_eq!(theirs.blobs.len(), 2 + 2 + 2);
}

#[tokio::test]
async fn a_plan_says_what_will_not_work_and_refuses_whom_it_does_not_know() {
    let keys = tempfile::tempdir().unwrap();
    let keys = keys.path().join("operators");
    let hub = Hub::start_in(Folder::init(&["--operator-keys", keys.to_str().unwrap()]));
    push_image(&hub, "demo/web", "1", "one").await;
    push_release(&hub, "2", json!({})).await;
    crate::offline_keys::sign_all(&hub, &keys).await;
    let node = appliance(&hub, "edge1").await;
    let waiting = Node::new();
    let asked = json!({"enrolments": [waiting.request("", "waiting")]});
    assert_eq!(hub.api(Method::POST, "/usb/import", Some(asked)).await.0, StatusCode::OK);
    let ask = async |nodes: Value| hub.api(Method::POST, "/usb/plan", Some(nodes)).await;
    refused(&ask(json!({})).await, 400, "malformed");
    let got = ask(json!({"nodes": ["nobody", "n-0123456789abcdef", "edge1"]})).await;
    refused(&got, 404, "not-found");
    assert_eq!(got.1["error"]["problems"].as_array().unwrap().len(), 2, "{}", got.1);
    refused(&ask(json!({"nodes": ["n-0123456789abcdef"]})).await, 404, "not-found");
    refused(&ask(json!({"selector": "zone=none"})).await, 404, "not-found");
    refused(&ask(json!({"nodes": [], "sites": []})).await, 400, "malformed");

    let only = plan(&hub, json!({"nodes": [waiting.id]})).await;
    assert_eq!((json!(only.nodes[0].state), only.nodes[0].generation), (json!("pending"), 0));
    assert!(only.nodes[0].manifests.is_empty() && only.blobs.is_empty());
    assert!(texts(&only).contains(&format!("cairn node approve {}", waiting.id)), "{}", texts(&only));
    assert_eq!(texts(&plan(&hub, json!({"nodes": ["edge1"]})).await), "");
    assert_eq!(plan(&hub, json!({"selector": ""})).await.nodes.len(), 2);

    // Whatever an operator has not signed stays behind, and is told.
    hub.deploy("shop", COMPOSE).await;
    let unsigned = plan(&hub, json!({"nodes": ["edge1"]})).await;
    assert!(
        texts(&unsigned).contains("version 1 of app shop waits for an operator's signature, no node gets it")
    );
    crate::offline_keys::sign_all(&hub, &keys).await;
    let signed = plan(&hub, json!({"nodes": ["edge1"]})).await;
    assert_eq!((texts(&signed).as_str(), signed.blobs.len()), ("", 3 + 3));
    push_image(&hub, "demo/web", "1", "two").await;
    hub.deploy("shop", COMPOSE).await;
    let older = plan(&hub, json!({"nodes": ["edge1"]})).await;
    assert!(texts(&older).contains("version 2 of app shop waits"), "{}", texts(&older));
    assert!(texts(&older).contains("the stick carries the one before"), "{}", texts(&older));
    let digests = |plan: &MediaPlan| plan.blobs.iter().map(|blob| blob.digest.clone()).collect::<Vec<_>>();
    assert_eq!(digests(&older), digests(&signed));

    // An OS that only a hub can keep alive goes back where there is none.
    let edge = || json!({"nodes": ["edge1"]});
    assert_eq!(freshness(&hub, edge(), json!("connected")).await.0, StatusCode::OK);
    let set = json!({"release": "2", "nodes": ["edge1"]});
    assert_eq!(hub.api(Method::POST, "/os/set", Some(set)).await.0, StatusCode::OK);
    let text = texts(&plan(&hub, json!({"nodes": ["edge1"]})).await);
    assert!(text.contains(&format!("cairn os set 2 --node {} --no-hub-check", node.id)), "{text}");
    // A node that gets its word by stick is not asked for a hub in the first place: that is signed too.
    let generation = plan(&hub, edge()).await.nodes[0].generation;
    assert_eq!(freshness(&hub, edge(), json!({"days": 90})).await.0, StatusCode::OK);
    let air_gapped = plan(&hub, edge()).await;
    assert!(!texts(&air_gapped).contains("--no-hub-check"), "{}", texts(&air_gapped));
    assert_eq!(air_gapped.nodes[0].generation, generation + 1);
    assert_eq!(freshness(&hub, edge(), json!("connected")).await.0, StatusCode::OK);
    assert!(texts(&plan(&hub, edge()).await).contains("--no-hub-check"));
    let os = Some(os_status("2", OsState::Good));
    let status = NodeStatus { generation: 0, workloads: vec![], problems: vec![], os };
    import(&hub, vec![node.report(2, vec![Record::Status(status)])]).await;
    assert!(
        !texts(&plan(&hub, json!({"nodes": ["edge1"]})).await).contains("--no-hub-check"),
        "it runs already"
    );

    // The operators' signature holds a year, and their key is not here.
    let long = json!({"nodes": ["edge1"]});
    assert_eq!(freshness(&hub, long, json!({"days": 1000})).await.0, StatusCode::OK);
    let files = metadata(&hub, &[&node]).await;
    assert!(files.problems[0].contains("cairn artifact sign") && days(&files) <= 365, "{:?}", files.problems);
}

#[tokio::test]
async fn a_node_without_a_network_follows_a_stick_from_its_grant_on() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let mut node = Node::by_stick(&hub, "edge1").await;
    hub.deploy("shop", COMPOSE).await;
    let reports = (1..=3).map(|n| node.report(n, vec![event("r")])).collect();
    import(&hub, reports).await;
    let stick = tempfile::tempdir().unwrap();
    let files = metadata(&hub, &[&node]).await;
    assert_eq!((files.problems.len(), days(&files)), (0, 90));
    write(&files, stick.path());

    let grant: Value = serde_json::from_str(&files.files[&format!("enroll/{}.json", node.id)]).unwrap();
    assert_eq!((&grant["node"], &grant["state"]), (&json!(node.id), &json!("approved")));
    let roots = hub.ask(Method::GET, "/api/v1/trust/roots").send().await.unwrap().text().await.unwrap();
    let roots: cairn_model::api::TrustRoots = serde_json::from_str(&roots).unwrap();
    let root = |repository: &str| {
        std::fs::read(hub.folder.data.join(format!("tuf/{repository}/1.root.json"))).unwrap()
    };
    assert_eq!(roots.director.get().as_bytes(), root("director"), "byte for byte as signed");
    assert_eq!(roots.artifacts.get().as_bytes(), root("artifacts"));
    let pinned: cairn_model::enroll::EnrollGrant = serde_json::from_value(grant.clone()).unwrap();
    assert_eq!(pinned.director_root.unwrap().get().as_bytes(), root("director"));
    assert!(roots_fingerprint(&root("director"), &root("artifacts")).len() > 64);

    node.pin(&grant);
    // A clock within the freshness; one past it refuses, whoever carries the bytes.
    let soon = Timestamp::now() + SignedDuration::from_hours(24 * 80);
    let (update, acknowledged) = node.update_by_stick(stick.path(), soon).await;
    let Update::Verified(bundle) = update.unwrap() else { panic!("nothing new") };
    assert_eq!((bundle.desired_state.apps.len(), acknowledged), (1, Some(3)));
    node.applied = bundle.generation;
    let late = Timestamp::now() + SignedDuration::from_hours(24 * 95);
    assert!(Node::late(&grant, stick.path(), &node, late).await.attack().is_some());

    let rows = audited(&hub, "usb.export").await;
    assert_eq!(
        (rows.len(), &rows[0]["subject"], &rows[0]["after"]["acknowledged"]),
        (1, &json!(node.id), &json!(3))
    );
    assert_eq!(hub.metric("cairn_hub_usb_exports_total").await, 1.0);
    // More reports come, and only the next stick tells.
    import(&hub, vec![node.report(4, vec![])]).await;
    assert_eq!(node.update_by_stick(stick.path(), soon).await.1, Some(3));
    write(&metadata(&hub, &[&node]).await, stick.path());
    let (update, acknowledged) = node.update_by_stick(stick.path(), soon).await;
    assert!(matches!(update.unwrap(), Update::Unchanged));
    assert_eq!(acknowledged, Some(4));
    // Back on a network it goes on from there, and what the hub serves holds no longer than for others.
    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged));
    for path in [format!("director/{}", node.id), "artifacts".to_owned()] {
        let served = node.get(&hub, &format!("/tuf/{path}/timestamp.json")).await.1;
        let expires: Timestamp = served["signed"]["expires"].as_str().unwrap().parse().unwrap();
        assert!(expires < Timestamp::now() + SignedDuration::from_hours(24 * 8), "{path}: {expires}");
    }
}

#[tokio::test]
async fn only_members_that_are_asked_for_are_signed_for() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let token = hub.token(json!({"auto_approve": true, "reusable": true})).await;
    let mut nodes = Vec::new();
    for n in 0..60 {
        let node = Node::new();
        assert_eq!(node.enroll(&hub, &token, &format!("edge{n}")).await.0, StatusCode::OK);
        nodes.push(node);
    }
    hub.deploy("shop", &format!("{COMPOSE}    deploy: {{mode: global}}\n")).await;
    let waiting = Node::new();
    let asked = json!({"enrolments": [waiting.request("", "waiting")]});
    assert_eq!(hub.api(Method::POST, "/usb/import", Some(asked)).await.0, StatusCode::OK);
    let timestamp =
        |node: &Node| std::fs::read(hub.folder.data.join(format!("tuf/director/{}/timestamp.json", node.id)));
    let (site, elsewhere) = nodes.split_at(50);
    let before: Vec<_> = elsewhere.iter().map(|node| timestamp(node).unwrap()).collect();

    let ids: Vec<_> = site.iter().map(|node| &node.id).collect();
    let plan = plan(&hub, json!({ "nodes": ids })).await;
    assert_eq!((plan.nodes.len(), plan.blobs.len()), (50, 6), "shared blobs are there once");
    let mut all: Vec<&Node> = site.iter().collect();
    all.push(&waiting);
    let files = metadata(&hub, &all).await;
    let folder = |node: &Node| format!("tuf/director/{}/", node.id);
    let has = |prefix: &str| files.files.keys().any(|path| path.starts_with(prefix));
    assert!(site.iter().all(|node| has(&folder(node)) && has(&format!("enroll/{}.json", node.id))));
    for node in elsewhere.iter().chain([&waiting]) {
        assert!(!has(&folder(node)) && !has(&format!("enroll/{}", node.id)), "neither files nor a grant");
    }
    let after: Vec<_> = elsewhere.iter().map(|node| timestamp(node).unwrap()).collect();
    assert!(before == after, "nobody else's metadata is signed anew");
    assert_eq!(audited(&hub, "usb.export").await.len(), 50);

    // A stick that is only there to bring an approval finds none yet.
    let none = metadata(&hub, &[&waiting]).await;
    assert!(none.files.keys().all(|path| path.starts_with("tuf/artifacts/")), "{:?}", none.files.keys());
    assert!(timestamp(&waiting).is_err());
    let ask = async |body: Value| hub.api(Method::POST, "/usb/metadata", Some(body)).await;
    refused(&ask(json!({"nodes": []})).await, 400, "malformed");
    refused(&ask(json!({"nodes": ["edge1"]})).await, 400, "malformed");
    refused(&ask(json!({"nodes": [site[0].id, "n-0123456789abcdef"]})).await, 404, "not-found");
    let many: Vec<_> = (0..=MAX_METADATA_NODES).map(|n| format!("n-{n:016x}")).collect();
    refused(&ask(json!({ "nodes": many })).await, 413, "too-large");
    let gone = &site[0];
    assert_eq!(hub.api(Method::DELETE, &format!("/nodes/{}", gone.id), None).await.0, StatusCode::NO_CONTENT);
    refused(&ask(json!({"nodes": [gone.id]})).await, 404, "not-found");
    assert_eq!(audited(&hub, "usb.export").await.len(), 50, "what is refused signs nothing");
}

#[tokio::test]
async fn freshness_is_set_with_care_and_decides_how_long_a_stick_holds() {
    let hub = Hub::start();
    let (a, b) = (Node::member(&hub, "a").await, Node::member(&hub, "b").await);
    let (one, all) = (json!({"nodes": ["a"]}), json!({"selector": ""}));
    refused(&freshness(&hub, all.clone(), json!("unlimited")).await, 422, "freshness-refused");
    for bad in [0, 3651] {
        refused(&freshness(&hub, one.clone(), json!({"days": bad})).await, 422, "freshness-refused");
    }
    refused(&freshness(&hub, one.clone(), json!("none")).await, 400, "malformed");
    refused(&freshness(&hub, one.clone(), json!({"days": -1})).await, 400, "malformed");
    refused(&freshness(&hub, json!({}), json!("connected")).await, 400, "malformed");
    refused(&freshness(&hub, json!({"nodes": ["a", "nobody"]}), json!({"days": 30})).await, 404, "not-found");
    refused(
        &freshness(&hub, json!({"nodes": ["a"], "bogus": 1}), json!({"days": 30})).await,
        400,
        "malformed",
    );
    assert!(audited(&hub, "node.freshness").await.is_empty());
    assert_eq!(days(&metadata(&hub, &[&a, &b]).await), 7, "as for every connected node");

    let (status, changed) = freshness(&hub, one.clone(), json!({"days": 30})).await;
    assert_eq!((status, &changed[0]["freshness"]), (StatusCode::OK, &json!({"days": 30})), "{changed}");
    assert_eq!((changed.as_array().unwrap().len(), &changed[0]["facts"]["hostname"]), (1, &json!("a")));
    assert_eq!(freshness(&hub, one.clone(), json!({"days": 30})).await, (StatusCode::OK, json!([])));
    let rows = audited(&hub, "node.freshness").await;
    assert_eq!((rows.len(), &rows[0]["subject"]), (1, &json!(a.id)), "the same again is no news");
    assert_eq!((&rows[0]["before"], &rows[0]["after"]), (&json!("connected"), &json!({"days": 30})));
    assert_eq!(hub.get("/nodes/a").await["freshness"], json!({"days": 30}));
    assert_eq!(hub.get("/nodes/b").await["freshness"], json!("connected"));
    assert_eq!(days(&metadata(&hub, &[&a]).await), 30);
    assert_eq!(days(&metadata(&hub, &[&a, &b]).await), 7, "the first to end");

    let mut accepted = one;
    accepted["accept_no_expiry"] = json!(true);
    assert_eq!(freshness(&hub, accepted, json!("unlimited")).await.0, StatusCode::OK);
    // The shared repository holds for whoever is away longest.
    let files = metadata(&hub, &[&a, &b]).await;
    let shared: Value = serde_json::from_str(&files.files["tuf/artifacts/timestamp.json"]).unwrap();
    assert!(shared["signed"]["expires"].as_str().unwrap() > "2100", "{shared}");
    let own: Value =
        serde_json::from_str(&files.files[&format!("tuf/director/{}/timestamp.json", b.id)]).unwrap();
    assert!(own["signed"]["expires"].as_str().unwrap() < "2100", "{own}");
    assert_eq!(
        plan(&hub, json!({"nodes": ["a"]})).await.nodes[0].freshness,
        cairn_model::media::Freshness::Unlimited
    );
    // It survives the node's own comings and goings.
    assert_eq!(
        answer(hub.ask(Method::GET, "/api/v1/nodes/a").send().await.unwrap()).await.1["freshness"],
        "unlimited"
    );
}
