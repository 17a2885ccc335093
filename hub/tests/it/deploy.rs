//! From a Compose file to what a node verifies.

use std::time::{Duration, Instant};

use cairn_model::{
    Digest, oci,
    report::{CommandOutput, Health, NodeStatus, Record, WorkloadState, WorkloadStatus},
};
use cairn_trust::node::{Bundle, Update};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{Hub, PATIENCE, refused},
    node::Node,
    push::{manifest_of, push_blob, push_image, put_manifest},
};

pub const COMPOSE: &str = "services:\n  web:\n    image: demo/web:1\n    ports: [\"8080:80\"]\n";

pub async fn bundle(hub: &Hub, node: &mut Node) -> Bundle {
    let Update::Verified(bundle) = node.update(hub).await.unwrap() else { panic!("nothing new") };
    node.applied = bundle.generation;
    *bundle
}

#[tokio::test]
async fn a_deploy_reaches_the_node_signed_pinned_and_whole() {
    let hub = Hub::start();
    let image = push_image(&hub, "demo/web", "1", "one").await;
    let mut node = Node::member(&hub, "edge1").await;
    let (status, summary) = hub.deploy("shop", COMPOSE).await;
    assert_eq!(status, StatusCode::OK, "{summary}");
    assert_eq!((&summary["desired"], &summary["ready"]), (&json!(1), &json!(0)));
    assert_eq!(summary["services"]["web"], image.as_str());

    let bundle = bundle(&hub, &mut node).await;
    let app = &bundle.desired_state.apps[&"shop".parse().unwrap()];
    assert_eq!(app.services[&"web".parse().unwrap()], vec![0]);
    assert!(bundle.artifacts.contains_key(&app.app) && bundle.artifacts.contains_key(&image));
    let manifest = node.ask(&hub, Method::GET, &format!("/v2/_/manifests/{}", app.app)).send().await.unwrap();
    let manifest = manifest.bytes().await.unwrap();
    assert_eq!(Digest::of(&manifest), app.app);
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let document = node.ask(&hub, Method::GET, &format!("/v2/_/blobs/{config}")).send().await.unwrap();
    let document = document.bytes().await.unwrap();
    let app = cairn_model::compose::App::from_canonical_json(&document).unwrap();
    assert_eq!(app.services[&"web".parse().unwrap()].image.digest, Some(image.clone()));

    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged));
    assert_eq!(hub.deploy("shop", COMPOSE).await.0, StatusCode::OK);
    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged), "the same again changes nothing");

    let workload = WorkloadStatus {
        app: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        replica: 0,
        image,
        state: WorkloadState::Running,
        health: Health::None,
        restarts: 0,
        detail: None,
    };
    let status =
        NodeStatus { generation: node.applied, workloads: vec![workload], problems: vec![], os: None };
    let sent = node.send(&hub, vec![node.report(1, vec![Record::Status(status)])]).await;
    assert_eq!(sent, (StatusCode::OK, json!({"acknowledged": 1})));
    let app = hub.get("/apps/shop").await;
    assert_eq!((&app["ready"], &app["replicas"][0]["status"]["state"]), (&json!(1), &json!("running")));

    assert_eq!(hub.api(Method::DELETE, "/apps/shop", None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(self::bundle(&hub, &mut node).await.desired_state.apps.len(), 0);
    refused(&hub.api(Method::GET, "/apps/shop", None).await, 404, "not-found");
}

/// An image whose config sets no command.
async fn push_bare_image(hub: &Hub) {
    let (config, layer) =
        (push_blob(hub, "demo/bare", b"{}".to_vec()).await, push_blob(hub, "demo/bare", b"x".to_vec()).await);
    let manifest = manifest_of((&config, 2), (&layer, 1), json!({}));
    let path = "/v2/demo/bare/manifests/1";
    let response = put_manifest(hub, path, oci::MEDIA_TYPE_MANIFEST, &manifest).await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn an_image_index_is_pinned_to_the_manifest_of_the_platform() {
    let hub = Hub::start();
    let mut entries = Vec::new();
    for arch in ["arm64", "amd64"] {
        let digest = push_image(&hub, "demo/web", arch, arch).await;
        let response = hub.ask(Method::HEAD, &format!("/v2/demo/web/manifests/{arch}")).send().await.unwrap();
        let size: u64 = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        entries.push(json!({
            "mediaType": oci::MEDIA_TYPE_MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch},
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": oci::MEDIA_TYPE_INDEX, "manifests": entries});
    let response = put_manifest(&hub, "/v2/demo/web/manifests/1", oci::MEDIA_TYPE_INDEX, &index).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let summary = hub.deploy("shop", COMPOSE).await.1;
    assert_eq!(summary["services"]["web"], entries[1]["digest"]);
    let other = format!("{COMPOSE}    platform: linux/arm64\n");
    assert_eq!(hub.deploy("shop", &other).await.1["services"]["web"], entries[0]["digest"]);
    let in_use = hub
        .ask(Method::DELETE, &format!("/v2/demo/web/manifests/{}", entries[0]["digest"].as_str().unwrap()));
    assert_eq!(in_use.send().await.unwrap().status(), StatusCode::FORBIDDEN, "an app runs it");
}

#[tokio::test]
async fn refuses_bad_compose_files_with_line_cause_and_cure() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let check = async |compose: &str, code: &str, problem: &str| {
        let got = hub.deploy("shop", compose).await;
        refused(&got, 422, code);
        let problems = got.1["error"]["problems"].to_string();
        assert!(problems.contains(problem), "{compose}: {problems}");
    };
    let web = "services:\n  web:\n    image: demo/web:1\n";
    check(&format!("{web}    bogus: 1\n"), "compose-refused", "compose.yaml:4:5").await;
    check(&format!("{web}    ports: 7\n"), "compose-refused", "compose.yaml:4:").await;
    check(&format!("{web}    ports: [\"80:80\", \"80:81\"]\n"), "compose-refused", "80").await;
    let cycle = "services:\n  a: {image: \"demo/web:1\", depends_on: [b]}\n  b: {image: \"demo/web:1\", depends_on: [a]}\n";
    check(cycle, "compose-refused", "depends_on").await;
    check(
        &web.replace("demo/web:1", "demo/none:1"),
        "image-unknown",
        "compose.yaml:3:12: services.web.image",
    )
    .await;
    check(&format!("{web}    platform: wasi/wasm\n"), "image-unknown", "not a wasm artifact").await;
    let bare = "services:\n  web:\n    image: demo/bare:1\n";
    push_bare_image(&hub).await;
    check(
        bare,
        "compose-refused",
        "compose.yaml:3:12: services.web.image: service web has nothing to execute",
    )
    .await;
    assert_eq!(hub.deploy("bare", &format!("{bare}    command: [/run]\n")).await.0, StatusCode::OK);
    assert_eq!(hub.api(Method::DELETE, "/apps/bare", None).await.0, StatusCode::NO_CONTENT);
    check("x: &a [*a, *a]", "compose-refused", "compose.yaml:1").await;
    assert_eq!(hub.get("/apps").await, json!([]));
    refused(&hub.deploy("Not-A-Name", web).await, 400, "malformed");
    refused(&hub.api(Method::PUT, "/apps/shop", Some(json!({"compose": 1}))).await, 400, "malformed");
    refused(&hub.deploy("shop", &"x".repeat(5 << 20)).await, 413, "too-large");
}

#[tokio::test]
async fn explains_what_has_no_place() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    Node::member(&hub, "edge1").await;
    assert_eq!(hub.deploy("shop", COMPOSE).await.1["problems"], Value::Null);
    let problems = hub.deploy("other", COMPOSE).await.1["problems"].to_string();
    assert!(problems.contains("8080/tcp taken by service web of app shop"), "{problems}");
    let labelled = format!("{COMPOSE}    deploy: {{placement: {{constraints: [node.labels.zone==b]}}}}\n");
    let problems = hub.deploy("third", &labelled.replace("8080", "8081")).await.1["problems"].to_string();
    assert!(problems.contains("does not match node.labels.zone==b"), "{problems}");
    // A label that comes later is enough.
    let change = json!({"set": {"zone": "b"}});
    assert_eq!(hub.api(Method::PATCH, "/nodes/edge1/labels", Some(change)).await.0, StatusCode::OK);
    let third = hub.get("/apps/third").await;
    assert_eq!((&third["problems"], &third["replicas"][0]["hostname"]), (&Value::Null, &json!("edge1")));
    assert_eq!(hub.get("/nodes?selector=zone=b").await.as_array().unwrap().len(), 1);
    assert_eq!(hub.get("/nodes?selector=zone!=b").await, json!([]));
}

#[tokio::test]
async fn a_deploy_wakes_a_waiting_node_within_a_second() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let mut node = Node::member(&hub, "edge1").await;
    let generation = bundle(&hub, &mut node).await.generation;
    let wait = node.ask(&hub, Method::GET, &format!("/node/v1/wait?generation={generation}")).send();
    let wait = tokio::spawn(async move { (wait.await.unwrap(), Instant::now()) });
    let deadline = Instant::now() + PATIENCE;
    while hub.metric("cairn_hub_nodes_waiting").await < 1.0 {
        assert!(Instant::now() < deadline, "the node does not wait");
    }
    assert_eq!(hub.deploy("shop", COMPOSE).await.0, StatusCode::OK);
    let deployed = Instant::now();
    let (response, woken) = wait.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(woken.saturating_duration_since(deployed) < Duration::from_secs(1));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({"generation": generation + 1}));
    assert_eq!(bundle(&hub, &mut node).await.generation, generation + 1);
}

/// Without the keys, whoever edits the data folder can break a delivery, and cannot forge one.
#[tokio::test]
async fn rejects_what_is_edited_in_the_data_folder_and_goes_on_serving() {
    let mut hub = Hub::start();
    let image = push_image(&hub, "demo/web", "1", "one").await;
    let mut node = Node::member(&hub, "edge1").await;
    bundle(&hub, &mut node).await;
    hub.deploy("shop", COMPOSE).await;
    let targets = hub.folder.data.join(format!("tuf/director/{}/targets", node.id));
    for entry in std::fs::read_dir(targets).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"web\":[0]", "\"web\":[7]")).unwrap();
    }
    let manifest = hub.folder.data.join("blobs/sha256").join(image.hex());
    std::fs::write(manifest, "{}").unwrap();
    for restarted in [false, true] {
        if restarted {
            hub.kill();
            hub.restart();
        }
        let error = node.update(&hub).await.map(|_| ()).unwrap_err();
        assert!(error.attack().is_some() || error.is_transport(), "{error:?}");
        let served = node.ask(&hub, Method::GET, &format!("/v2/_/manifests/{image}")).send().await.unwrap();
        assert_eq!(served.status(), StatusCode::INTERNAL_SERVER_ERROR, "not served as if it were whole");
    }
    // What is deployed next is whole again.
    push_image(&hub, "demo/web", "1", "two").await;
    assert_eq!(hub.deploy("shop", COMPOSE).await.0, StatusCode::OK);
    assert_eq!(bundle(&hub, &mut node).await.desired_state.apps.len(), 1);
}

#[tokio::test]
async fn one_nodes_damaged_files_keep_no_other_node_waiting() {
    let mut hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let mut nodes = [Node::member(&hub, "edge1").await, Node::member(&hub, "edge2").await];
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    let [damaged, whole] = &mut nodes;
    bundle(&hub, whole).await;
    let timestamp = hub.folder.data.join(format!("tuf/director/{}/timestamp.json", damaged.id));
    std::fs::write(timestamp, b"").unwrap();
    let everywhere = format!("{COMPOSE}    deploy: {{mode: global}}\n");
    let (status, summary) = hub.deploy("shop", &everywhere).await;
    assert_eq!(status, StatusCode::OK, "{summary}");
    let problems = summary["problems"].to_string();
    assert!(problems.contains(damaged.id.as_str()) && problems.contains("the hub's log"), "{problems}");
    assert_eq!(bundle(&hub, whole).await.desired_state.apps.len(), 1);
    hub.kill();
    hub.restart();
    assert_eq!(hub.get("/apps/shop").await["desired"], 2);
    assert_eq!(hub.api(Method::DELETE, "/apps/shop", None).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(bundle(&hub, whole).await.desired_state.apps.len(), 0);
}

#[tokio::test]
async fn logs_go_out_as_a_command_and_come_back_as_reports() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let mut node = Node::member(&hub, "edge1").await;
    hub.deploy("shop", COMPOSE).await;
    refused(&hub.api(Method::POST, "/apps/none/logs", Some(json!({}))).await, 404, "not-found");
    let (status, started) = hub.api(Method::POST, "/apps/shop/logs", Some(json!({"lines": 5}))).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    let path = format!("/logs/{}", started["id"].as_str().unwrap());
    assert_eq!(hub.get(&path).await["complete"], false);

    let first = bundle(&hub, &mut node).await;
    let command = first.desired_state.commands[0].id.clone();
    let piece = |chunk, text: &str, exit_code| {
        Record::CommandOutput(CommandOutput {
            command: command.clone(),
            chunk,
            text: text.to_owned(),
            exit_code,
        })
    };
    let reports = vec![
        node.report(1, vec![piece(0, "hello ", None)]),
        node.report(2, vec![piece(1, "world\n", Some(0))]),
    ];
    assert_eq!(node.send(&hub, reports).await.0, StatusCode::OK);
    let logs = hub.get(&path).await;
    assert_eq!(logs["complete"], true);
    assert_eq!(logs["nodes"][node.id.as_str()]["text"], "hello world\n");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Update::Verified(next) = node.update(&hub).await.unwrap() {
            assert!(next.desired_state.commands.is_empty(), "a command that ended is not asked for again");
            break;
        }
        assert!(Instant::now() < deadline, "the command stays");
    }
}
