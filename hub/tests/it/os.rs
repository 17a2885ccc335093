//! OS releases: pushed, set for nodes, read by those nodes alone.

use cairn_model::{
    Digest, oci,
    report::{NodeStatus, OsState, OsStatus, Record, Slot},
};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    deploy::bundle,
    harness::{Folder, Hub, answer, refused},
    node::Node,
    push::{push_blob, put_manifest},
};

/// What a release's pack is made of: one for each version.
pub fn pack(version: &str) -> Vec<u8> {
    version.bytes().cycle().take(100_000).collect()
}

fn payload(bytes: &[u8]) -> Value {
    json!({"digest": Digest::of(bytes), "size": bytes.len()})
}

/// A release document with `more` over what is usual.
fn document(version: &str, more: &Value) -> Value {
    let mut release = json!({
        "schema": 1, "version": version, "compatible": "board", "arch": "amd64", "name": "Cairn", "built": 0,
        "data_layout": {"min": 1, "max": 1},
        "root": {"digest": Digest::of(b"root"), "size": 4096},
        "uki": {"digest": Digest::of(b"uki"), "size": 4096},
        "verity": {"root_hash": "0".repeat(64), "salt": "", "uuid": "0".repeat(32)},
        "chunks": {"index": payload(b"index"), "pack": payload(&pack(version))},
    });
    for (key, value) in more.as_object().unwrap() {
        release[key] = value.clone();
    }
    release
}

/// The manifest of a release whose blobs are pushed.
fn manifest(document: &[u8], version: &str) -> Value {
    let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": oci::MEDIA_TYPE_MANIFEST,
        "artifactType": oci::ARTIFACT_TYPE_RELEASE,
        "config": descriptor(oci::MEDIA_TYPE_RELEASE_CONFIG, document),
        "layers": [
            descriptor(oci::MEDIA_TYPE_RELEASE_INDEX, b"index"),
            descriptor(oci::MEDIA_TYPE_RELEASE_PACK, &pack(version)),
        ],
    })
}

async fn push_parts(hub: &Hub, document: &[u8], version: &str) {
    for blob in [document.to_vec(), b"index".to_vec(), pack(version)] {
        push_blob(hub, "os/board", blob).await;
    }
}

async fn put(hub: &Hub, manifest: &Value) -> Response {
    let digest = Digest::of(manifest.to_string().as_bytes());
    let path = format!("/v2/os/board/manifests/{digest}");
    put_manifest(hub, &path, oci::MEDIA_TYPE_MANIFEST, manifest).await
}

/// Pushes a release and returns its digest.
pub async fn push_release(hub: &Hub, version: &str, more: Value) -> Digest {
    let document = document(version, &more).to_string().into_bytes();
    push_parts(hub, &document, version).await;
    let response = put(hub, &manifest(&document, version)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    response.headers()["docker-content-digest"].to_str().unwrap().parse().unwrap()
}

pub fn os_status(version: &str, state: OsState) -> OsStatus {
    OsStatus {
        version: version.parse().unwrap(),
        compatible: "board".to_owned(),
        slot: Slot::A,
        other: None,
        state,
        release: None,
        target: None,
        progress: None,
        detail: None,
    }
}

/// Has `node` say which OS it runs.
pub async fn report_os(hub: &Hub, node: &Node, sequence: u64, os: OsStatus) {
    let status = NodeStatus { generation: 0, workloads: vec![], problems: vec![], os: Some(os) };
    let sent = node.send(hub, vec![node.report(sequence, vec![Record::Status(status)])]).await;
    assert_eq!(sent.0, StatusCode::OK, "{}", sent.1);
}

/// A member that runs `version`.
async fn appliance(hub: &Hub, hostname: &str, version: &str) -> Node {
    let node = Node::member(hub, hostname).await;
    report_os(hub, &node, 1, os_status(version, OsState::Idle)).await;
    node
}

async fn set(hub: &Hub, body: Value) -> (StatusCode, Value) {
    hub.api(Method::POST, "/os/set", Some(body)).await
}

/// Sets what must go, for these nodes.
async fn set_for(hub: &Hub, nodes: &[&str], release: &str) -> Value {
    let (status, body) = set(hub, json!({"release": release, "nodes": nodes})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

#[tokio::test]
async fn a_release_reaches_the_nodes_that_it_is_set_for() {
    let hub = Hub::start();
    let digest = push_release(&hub, "2.0", json!({"changelog": "new"})).await;
    push_release(&hub, "10.0", json!({})).await;
    let mut node = appliance(&hub, "edge1", "1.0").await;
    let mut other = appliance(&hub, "edge2", "2.0").await;
    let label = json!({"set": {"zone": "b"}});
    assert_eq!(hub.api(Method::PATCH, "/nodes/edge2/labels", Some(label)).await.0, StatusCode::OK);
    assert_eq!(bundle(&hub, &mut node).await.desired_state.os, None);
    bundle(&hub, &mut other).await;

    let reboot = json!({"type": "window", "windows": ["Mon..Fri 22:00-04:00"], "time_zone": "Europe/Berlin"});
    let health = json!({"deadline_seconds": 90, "hub": false});
    let asked = json!({"release": "2.0", "selector": "zone=a", "reboot": reboot, "health": health});
    let (status, changed) = set(&hub, asked.clone()).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!((changed.as_array().unwrap().len(), &changed[0]["hostname"]), (1, &json!("edge1")));
    let first = bundle(&hub, &mut node).await;
    let os = first.desired_state.os.unwrap();
    assert_eq!((&os.release, os.version.as_str(), os.attempt), (&digest, "2.0", 0));
    assert_eq!((json!(os.reboot), json!(os.health)), (reboot, health));
    assert!(first.artifacts.contains_key(&digest));
    assert_eq!(other.update(&hub).await.map(|update| format!("{update:?}")).unwrap(), "Unchanged");

    let releases = hub.get("/os/releases").await;
    let counts = |row: &Value| {
        let signed = row["signed"].as_bool().unwrap();
        (row["release"]["version"].clone(), signed, row["desired"].clone(), row["running"].clone())
    };
    assert_eq!(counts(&releases[0]), (json!("10.0"), true, json!(0), json!(0)));
    assert_eq!(counts(&releases[1]), (json!("2.0"), true, json!(1), json!(1)));
    let nodes = hub.get("/os/nodes?selector=zone=a").await;
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    assert_eq!((&nodes[0]["desired"], &nodes[0]["status"]["version"]), (&json!(os), &json!("1.0")));
    assert_eq!(hub.get("/os/nodes").await.as_array().unwrap().len(), 2);
    assert_eq!(hub.metric("cairn_hub_nodes_os{version=\"1.0\",state=\"idle\"}").await, 1.0);

    // The same again is no news, and nothing to write down.
    let audit = hub.get("/audit").await;
    assert_eq!((&audit[0]["action"], &audit[0]["subject"]), (&json!("os.set"), &json!(node.id)));
    assert_eq!((&audit[0]["before"], &audit[0]["after"]), (&Value::Null, &json!(os)));
    assert_eq!(set(&hub, asked).await, (StatusCode::OK, json!([])));
    assert_eq!(hub.get("/audit").await, audit);
    assert_eq!(node.update(&hub).await.map(|update| format!("{update:?}")).unwrap(), "Unchanged");
}

#[tokio::test]
async fn a_node_reads_its_own_release_in_parts_and_no_other() {
    let hub = Hub::start();
    let (own, foreign) = (push_release(&hub, "2", json!({})).await, push_release(&hub, "3", json!({})).await);
    let (node, other) = (appliance(&hub, "edge1", "1").await, appliance(&hub, "edge2", "1").await);
    set_for(&hub, &["edge1"], "2").await;
    set_for(&hub, &["edge2"], "3").await;
    let manifest = async |node: &Node, digest: &Digest| {
        let path = format!("/v2/_/manifests/{digest}");
        node.ask(&hub, Method::GET, &path).send().await.unwrap().status()
    };
    assert_eq!(manifest(&node, &own).await, StatusCode::OK);
    assert_eq!(manifest(&node, &foreign).await, StatusCode::NOT_FOUND);
    let (bytes, theirs) = (pack("2"), Digest::of(&pack("3")));
    let range = async |node: &Node, digest: &Digest, range: &str| {
        let request = node.ask(&hub, Method::GET, &format!("/v2/_/blobs/{digest}"));
        request.header(header::RANGE, range).send().await.unwrap()
    };
    let digest = Digest::of(&bytes);
    for (asked, got, from, to) in [
        ("bytes=0-0", "bytes 0-0/100000", 0, 1),
        ("bytes=70000-70999", "bytes 70000-70999/100000", 70_000, 71_000),
        ("bytes=99990-", "bytes 99990-99999/100000", 99_990, 100_000),
        ("bytes=-5", "bytes 99995-99999/100000", 99_995, 100_000),
        ("bytes=99999-200000", "bytes 99999-99999/100000", 99_999, 100_000),
    ] {
        let part = range(&node, &digest, asked).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{asked}");
        assert_eq!(part.headers()[header::CONTENT_RANGE], got);
        assert_eq!(part.headers()[header::CONTENT_LENGTH], (to - from).to_string().as_str());
        assert_eq!(part.bytes().await.unwrap(), bytes[from..to]);
    }
    let outside = range(&node, &digest, "bytes=100000-").await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.headers()[header::CONTENT_RANGE], "bytes */100000");
    for config in [Digest::of(b"index"), Digest::of(document("2", &json!({})).to_string().as_bytes())] {
        assert_eq!(range(&node, &config, "bytes=0-2").await.status(), StatusCode::PARTIAL_CONTENT);
    }

    let denied = range(&node, &theirs, "bytes=0-9").await;
    let (status, body) = answer(denied).await;
    assert_eq!((status, &body["errors"][0]["code"]), (StatusCode::NOT_FOUND, &json!("BLOB_UNKNOWN")));
    assert_eq!(range(&other, &theirs, "bytes=0-9").await.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(range(&other, &digest, "bytes=0-9").await.status(), StatusCode::NOT_FOUND);
    // With the wish goes the right.
    let unset = hub.api(Method::POST, "/os/unset", Some(json!({"nodes": ["edge1"]}))).await;
    assert_eq!(unset.0, StatusCode::OK);
    assert_eq!(range(&node, &digest, "bytes=0-9").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn refuses_what_is_no_sound_release_when_it_is_pushed() {
    let hub = Hub::start();
    let refuse = async |document: &Value, change: &dyn Fn(&mut Value), part: &str| {
        let bytes = document.to_string().into_bytes();
        push_parts(&hub, &bytes, "2").await;
        let mut manifest = manifest(&bytes, "2");
        change(&mut manifest);
        let (status, body) = answer(put(&hub, &manifest).await).await;
        assert_eq!(
            (status, &body["errors"][0]["code"]),
            (StatusCode::BAD_REQUEST, &json!("MANIFEST_INVALID")),
            "{body}"
        );
        let message = body["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(part) && message.contains(';'), "{message}");
    };
    let good = document("2", &json!({}));
    refuse(&json!({}), &|_| {}, "malformed").await;
    refuse(&document("2", &json!({"schema": 9})), &|_| {}, "schema 9").await;
    refuse(&document("2", &json!({"bogus": 1})), &|_| {}, "bogus").await;
    refuse(&document("2_0", &json!({})), &|_| {}, "no OS version").await;
    refuse(&document("2", &json!({"compatible": "A B"})), &|_| {}, "compatible").await;
    let elsewhere = json!({"chunks": {"index": payload(b"index"), "pack": payload(b"elsewhere")}});
    refuse(&document("2", &elsewhere), &|_| {}, "pack sha256:").await;
    let patch = json!({
        "from": "1", "from_root_hash": "0".repeat(64), "from_uki": Digest::of(b"uki"), "memory": 1,
        "blob": payload(b"patch"),
    });
    refuse(&document("2", &json!({"patches": [patch]})), &|_| {}, "patch sha256:").await;
    let longer = json!({"index": {"digest": Digest::of(b"index"), "size": 6}, "pack": payload(&pack("2"))});
    refuse(&document("2", &json!({"chunks": longer})), &|_| {}, "has 6 bytes, its layer 5").await;
    refuse(&good, &|m| m["layers"][1]["mediaType"] = json!("text/plain"), "is a text/plain").await;
    refuse(&good, &|m| m["artifactType"] = json!("application/x"), "cairn-image release").await;
    refuse(&good, &|m| m["config"]["mediaType"] = json!("application/x"), "cairn-image release").await;
    let huge = document("2", &json!({"name": "x".repeat(300 << 10)})).to_string().into_bytes();
    push_parts(&hub, &huge, "2").await;
    let (status, body) = answer(put(&hub, &manifest(&huge, "2")).await).await;
    assert_eq!((status.as_u16(), &body["errors"][0]["code"]), (413, &json!("SIZE_INVALID")), "{body}");
    let index = json!({
        "schemaVersion": 2, "mediaType": oci::MEDIA_TYPE_INDEX, "artifactType": oci::ARTIFACT_TYPE_RELEASE,
        "manifests": [],
    });
    let response = put_manifest(&hub, "/v2/os/board/manifests/2", oci::MEDIA_TYPE_INDEX, &index).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(hub.get("/os/releases").await, json!([]));
    assert_eq!(hub.get("/artifacts").await, json!([]));
}

#[tokio::test]
async fn refuses_before_anything_changes_and_names_every_node() {
    let hub = Hub::start();
    let two = push_release(&hub, "2", json!({"min_version": "1.5"})).await;
    let arm = push_release(&hub, "2", json!({"arch": "arm64"})).await;
    let twins = [
        push_release(&hub, "3", json!({"changelog": "a"})).await,
        push_release(&hub, "3", json!({"changelog": "b"})).await,
    ];
    for (hostname, version) in [("good", "1.5"), ("old", "1.4"), ("new", "2.1")] {
        appliance(&hub, hostname, version).await;
    }
    let foreign = Node::member(&hub, "foreign").await;
    let board = OsStatus { compatible: "x".repeat(9000), ..os_status("1.5", OsState::Idle) };
    report_os(&hub, &foreign, 1, board).await;
    let silent = Node::member(&hub, "silent").await;
    let token = hub.token(json!({})).await;
    assert_eq!(Node::new().enroll(&hub, &token, "pending").await.0, StatusCode::ACCEPTED);

    let check = async |body: Value, status: u16, code: &str, parts: &[&str]| {
        let got = set(&hub, body.clone()).await;
        refused(&got, status, code);
        let text = got.1["error"].to_string();
        for part in parts {
            assert!(text.contains(part), "{body}: {part}: {text}");
        }
        text
    };
    let on = |nodes: &[&str]| json!({"release": "2", "nodes": nodes});
    check(on(&["nobody", "pending", "good"]), 404, "not-found", &["nobody", "cairn node approve"]).await;
    check(on(&["pending"]), 422, "os-refused", &["waits for approval"]).await;
    check(on(&["good", "old"]), 422, "os-refused", &["(old)", "reached from 1.5 on"]).await;
    check(on(&["new"]), 422, "os-refused", &["older than 2.1", "--allow-downgrade"]).await;
    check(on(&["silent"]), 422, "os-refused", &["has not said which OS"]).await;
    let text = check(on(&["foreign"]), 422, "os-refused", &["xxx", r#"for \"board\" on amd64"#]).await;
    assert!(text.len() < 2000, "what a node says is cut: {text}");
    let all = json!({"release": "2", "selector": "zone=a"});
    let text = check(all, 422, "os-refused", &["(old)", "(new)", "(foreign)", silent.id.as_str()]).await;
    assert!(text.contains("4 nodes") && !text.contains("(good)"), "{text}");
    let of_digest = json!({"release": arm, "nodes": ["good"]});
    check(of_digest, 422, "os-refused", &["on amd64", "on arm64"]).await;
    let ambiguous = json!({"release": "3", "nodes": ["good"]});
    check(ambiguous, 409, "conflict", &[twins[0].as_str(), twins[1].as_str()]).await;
    check(json!({"release": "2", "selector": "zone=none"}), 404, "not-found", &["no member"]).await;
    check(json!({"release": "2"}), 422, "os-refused", &["neither"]).await;
    check(json!({"release": "2", "nodes": []}), 422, "os-refused", &["neither"]).await;
    check(json!({"release": "9", "nodes": ["good"]}), 404, "not-found", &["cairn os push"]).await;
    check(json!({"release": "newest", "nodes": ["good"]}), 400, "malformed", &["no OS version"]).await;
    for (key, bad, part) in [
        ("bogus", json!(1), "bogus"),
        ("health", json!({"deadline_seconds": 0, "hub": true}), "deadline"),
        ("reboot", json!({"type": "window", "windows": [], "time_zone": "UTC"}), "0 maintenance"),
        ("reboot", json!({"type": "window", "windows": ["soon"], "time_zone": "UTC"}), "soon"),
        ("reboot", json!({"type": "window", "windows": ["01:00-02:00"], "time_zone": "Mars"}), "Mars"),
    ] {
        let mut body = on(&["good"]);
        body[key] = bad;
        check(body, 400, "malformed", &[part]).await;
    }
    assert!(hub.get("/os/nodes").await.as_array().unwrap().iter().all(|node| node["desired"].is_null()));
    let audit = hub.get("/audit").await.to_string();
    assert!(!audit.contains("os.set"), "{audit}");

    // Of several with that version a node gets the one that is for it; what is meant may be older.
    assert_eq!(set_for(&hub, &["good"], "2").await[0]["desired"]["release"], two.as_str());
    let (status, changed) =
        set(&hub, json!({"release": two, "nodes": ["new"], "allow_downgrade": true})).await;
    assert_eq!((status, &changed[0]["desired"]["allow_downgrade"]), (StatusCode::OK, &json!(true)));
    let path = format!("/v2/os/board/manifests/{two}");
    let (status, body) = answer(hub.ask(Method::DELETE, &path).send().await.unwrap()).await;
    assert!(status == StatusCode::FORBIDDEN && body.to_string().contains("cairn os unset"), "{body}");
}

#[tokio::test]
async fn each_retry_is_a_new_attempt_whatever_was_set_between() {
    let hub = Hub::start();
    push_release(&hub, "2", json!({})).await;
    push_release(&hub, "3", json!({})).await;
    let mut node = appliance(&hub, "edge1", "1").await;
    let attempt = async |release: &str, retry: bool| {
        let (status, changed) =
            set(&hub, json!({"release": release, "nodes": ["edge1"], "retry": retry})).await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        hub.get("/os/nodes").await[0]["desired"]["attempt"].as_u64().unwrap()
    };
    assert_eq!(attempt("2", false).await, 0);
    assert_eq!(attempt("2", true).await, 1);
    assert_eq!(attempt("2", false).await, 1, "nothing is withdrawn");
    assert_eq!(bundle(&hub, &mut node).await.desired_state.os.unwrap().attempt, 1);
    assert_eq!(attempt("3", false).await, 0);
    assert_eq!(attempt("2", true).await, 2);
    let body = json!({"selector": ""});
    let (status, changed) = hub.api(Method::POST, "/os/unset", Some(body.clone())).await;
    assert_eq!((status, &changed[0]["hostname"]), (StatusCode::OK, &json!("edge1")));
    assert_eq!(changed[0]["desired"], Value::Null);
    assert_eq!(bundle(&hub, &mut node).await.desired_state.os, None);
    let audit = hub.get("/audit").await;
    assert_eq!((&audit[0]["action"], &audit[0]["after"]), (&json!("os.unset"), &Value::Null));
    assert_eq!(audit[0]["before"]["attempt"], 2);
    assert_eq!(hub.api(Method::POST, "/os/unset", Some(body)).await, (StatusCode::OK, json!([])));
    assert_eq!(hub.get("/audit").await, audit, "nothing to write down");
    assert_eq!(attempt("2", true).await, 3, "what the node remembers is older");

    // With the node goes what it should run, and comes back with nobody.
    assert_eq!(hub.api(Method::DELETE, "/nodes/edge1", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(hub.get("/audit").await[0]["before"]["os"]["attempt"], 3);
    assert_eq!(hub.get("/os/releases").await[1]["desired"], 0);
    let token = hub.token(json!({"auto_approve": true})).await;
    assert_eq!(node.enroll(&hub, &token, "edge1").await.0, StatusCode::OK);
    assert_eq!(hub.get("/os/nodes").await[0]["desired"], Value::Null);
    report_os(&hub, &node, 2, os_status("1", OsState::RolledBack)).await;
    assert_eq!(attempt("2", true).await, 4);
}

#[tokio::test]
async fn apply_is_a_command_to_the_nodes_that_have_an_os_to_run() {
    let hub = Hub::start();
    push_release(&hub, "2", json!({})).await;
    let mut node = appliance(&hub, "edge1", "1").await;
    appliance(&hub, "edge2", "1").await;
    let apply = async |body: Value| hub.api(Method::POST, "/os/apply", Some(body)).await;
    refused(&apply(json!({"selector": ""})).await, 422, "os-refused");
    set_for(&hub, &["edge1"], "2").await;
    let got = apply(json!({"nodes": ["edge1", "edge2"]})).await;
    refused(&got, 422, "os-refused");
    assert!(got.1["error"]["message"].as_str().unwrap().contains("(edge2)"), "{}", got.1);
    refused(&apply(json!({"nodes": ["nobody"]})).await, 404, "not-found");
    refused(&apply(json!({})).await, 422, "os-refused");
    bundle(&hub, &mut node).await;
    let (status, told) = apply(json!({"selector": "zone=a"})).await;
    assert_eq!((status, told.as_array().unwrap().len()), (StatusCode::OK, 1), "{told}");
    let commands = bundle(&hub, &mut node).await.desired_state.commands;
    assert_eq!((commands.len(), json!(commands[0].kind)), (1, json!({"type": "os-apply"})));
    let left = commands[0].not_after - jiff::Timestamp::now().as_second();
    assert!((3500..=3600).contains(&left), "{left}");
    let audit = hub.get("/audit").await;
    assert_eq!((&audit[0]["action"], &audit[0]["subject"]), (&json!("os.apply"), &json!(node.id)));
    assert_eq!(audit[0]["after"]["command"], commands[0].id);
    for _ in 1..32 {
        assert_eq!(apply(json!({"nodes": ["edge1"]})).await.0, StatusCode::OK);
    }
    refused(&apply(json!({"nodes": ["edge1"]})).await, 429, "busy");
}

#[tokio::test]
async fn unsigned_releases_are_for_no_node() {
    let keys = tempfile::tempdir().unwrap();
    let keys = keys.path().join("operators");
    let mut hub = Hub::start_in(Folder::init(&["--operator-keys", keys.to_str().unwrap()]));
    let digest = push_release(&hub, "2", json!({})).await;
    let mut node = appliance(&hub, "edge1", "1").await;
    assert_eq!(bundle(&hub, &mut node).await.desired_state.os, None);
    assert_eq!(hub.get("/os/releases").await[0]["signed"], false);
    let got = set(&hub, json!({"release": "2", "nodes": ["edge1"]})).await;
    refused(&got, 422, "os-refused");
    assert!(got.1["error"]["message"].as_str().unwrap().contains("cairn artifact sign"), "{}", got.1);
    // Operators read what they are to sign, nodes don't.
    let path = format!("/v2/_/manifests/{digest}");
    assert_eq!(hub.ask(Method::GET, &path).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(node.ask(&hub, Method::GET, &path).send().await.unwrap().status(), StatusCode::NOT_FOUND);

    let artifacts = hub.folder.data.join("tuf/artifacts");
    let before = hub.folder.temp.path().join("before");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(done.success());
    };
    copy(&artifacts, &before);
    crate::offline_keys::sign_all(&hub, &keys).await;
    set_for(&hub, &["edge1"], "2").await;
    let first = bundle(&hub, &mut node).await;
    assert_eq!(first.desired_state.os.map(|os| os.release), Some(digest));

    // Where the signature is lost, the nodes are told nothing that they would refuse, and operators why.
    hub.kill();
    std::fs::remove_dir_all(&artifacts).unwrap();
    copy(&before, &artifacts);
    hub.restart();
    let shown = hub.get("/os/nodes").await;
    assert_eq!(shown[0]["desired"]["version"], "2");
    assert!(shown[0]["problems"][0].as_str().unwrap().contains("cairn artifact sign"), "{shown}");
    assert_eq!(hub.get("/nodes/edge1").await["desired_generation"], first.generation + 1);
    assert_eq!(hub.get("/os/releases").await[0]["signed"], false);
}
