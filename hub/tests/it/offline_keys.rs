//! A hub without the operators' keys: what is pushed waits for their signature.

use std::path::Path;

use cairn_model::{AppName, ServiceName};
use cairn_trust::{keys::KeyPair, node::Update, sign::sign_file};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    deploy::{COMPOSE, bundle},
    harness::{Folder, Hub, answer, refused},
    node::Node,
    push::push_image,
};

/// Signs what waits, as `cairn artifact sign` does.
async fn sign(hub: &Hub, key: &KeyPair) -> (StatusCode, serde_json::Value) {
    let unsigned = hub.ask(Method::GET, "/api/v1/artifacts/unsigned-targets").send().await.unwrap();
    let signed = sign_file(&unsigned.bytes().await.unwrap(), &[key]).unwrap();
    answer(hub.ask(Method::POST, "/api/v1/artifacts/signed-targets").body(signed).send().await.unwrap()).await
}

/// Signs what waits with the operator's key in `keys`.
pub async fn sign_all(hub: &Hub, keys: &Path) {
    let key = KeyPair::load(&keys.join("artifacts-targets.pem")).unwrap();
    let (status, artifacts) = sign(hub, &key).await;
    assert_eq!(status, StatusCode::OK, "{artifacts}");
}

#[tokio::test]
async fn apps_wait_for_an_operators_signature_and_nodes_keep_the_last_signed_version() {
    let keys = tempfile::tempdir().unwrap();
    let keys = keys.path().join("operators");
    let folder = Folder::init(&["--operator-keys", keys.to_str().unwrap()]);
    assert!(!folder.data.join("keys/artifacts-targets.pem").exists());
    assert!(!folder.data.join("keys/root.pem").exists());
    let hub = Hub::start_in(folder);
    let mut node = Node::member(&hub, "edge1").await;
    assert_eq!(bundle(&hub, &mut node).await.desired_state.apps.len(), 0);

    let image = push_image(&hub, "demo/web", "1", "one").await;
    assert_eq!(hub.get("/artifacts").await[0]["signed"], false);
    let pull = node.ask(&hub, Method::GET, &format!("/v2/_/manifests/{image}")).send().await.unwrap();
    assert_eq!(pull.status(), StatusCode::NOT_FOUND, "unsigned manifests are not for nodes");
    let (status, summary) = hub.deploy("shop", COMPOSE).await;
    assert_eq!(status, StatusCode::OK, "{summary}");
    assert!(summary["problems"].to_string().contains("cairn artifact sign"), "{summary}");
    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged));

    refused(&sign(&hub, &KeyPair::generate().unwrap()).await, 422, "metadata-refused");
    let garbage = hub.ask(Method::POST, "/api/v1/artifacts/signed-targets").body("{}").send().await.unwrap();
    refused(&answer(garbage).await, 422, "metadata-refused");
    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged));

    let key = KeyPair::load(&keys.join("artifacts-targets.pem")).unwrap();
    let (status, artifacts) = sign(&hub, &key).await;
    assert_eq!(status, StatusCode::OK, "{artifacts}");
    assert!(artifacts.as_array().unwrap().iter().all(|a| a["signed"] == true), "{artifacts}");
    let (app, web): (AppName, ServiceName) = ("shop".parse().unwrap(), "web".parse().unwrap());
    let first = bundle(&hub, &mut node).await.desired_state.apps[&app].clone();
    assert_eq!(first.services[&web], vec![0]);
    assert_eq!(hub.get("/apps/shop").await.get("problems"), None);
    refused(&hub.api(Method::GET, "/artifacts/unsigned-targets", None).await, 404, "not-found");

    push_image(&hub, "demo/web", "1", "two").await;
    let summary = hub.deploy("shop", COMPOSE).await.1;
    assert!(summary["problems"].to_string().contains("nodes keep version 1"), "{summary}");
    assert!(matches!(node.update(&hub).await.unwrap(), Update::Unchanged));
    assert_eq!(sign(&hub, &key).await.0, StatusCode::OK);
    let second = bundle(&hub, &mut node).await.desired_state.apps[&app].clone();
    assert_eq!(second.app.as_str(), summary["digest"]);
    assert_ne!(first.app, second.app);
    assert_eq!(json!(hub.get("/audit").await[0]["action"]), "artifact.sign");
}
