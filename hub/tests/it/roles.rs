//! Who may do what, and what is written down of it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    deploy::COMPOSE,
    harness::{Hub, answer, refused},
    node::Node,
    push::push_image,
};

pub async fn access(hub: &Hub, name: &str, role: &str) -> String {
    let (status, body) =
        hub.api(Method::POST, "/access-tokens", Some(json!({"name": name, "role": role}))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["secret"].as_str().unwrap().to_owned()
}

pub async fn ask(hub: &Hub, token: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    answer(hub.as_token(token, method, path).json(&body).send().await.unwrap()).await
}

#[tokio::test]
async fn roles_are_enforced_on_every_route() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let (viewer, operator) = (access(&hub, "eve", "viewer").await, access(&hub, "olga", "operator").await);
    let document: Value =
        hub.http.get(format!("{}/api/v1/openapi.json", hub.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut checked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace(['{', '}'], "");
            let anonymous =
                hub.http.request(method.clone(), format!("{}{path}", hub.url)).send().await.unwrap();
            refused(&answer(anonymous).await, 401, "unauthenticated");
            let role = operation["description"].as_str().unwrap();
            for (token, has) in [(&viewer, 0), (&operator, 1)] {
                let needs = ["viewer", "operator", "admin"].iter().position(|r| role.contains(r)).unwrap();
                if has < needs {
                    refused(&ask(&hub, token, method.clone(), &path, json!({})).await, 403, "forbidden");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 15, "{checked}");
    let deploy = json!({"file": "compose.yaml", "compose": COMPOSE});
    refused(&ask(&hub, &viewer, Method::PUT, "/api/v1/apps/shop", deploy.clone()).await, 403, "forbidden");
    assert_eq!(ask(&hub, &viewer, Method::GET, "/api/v1/apps", json!({})).await.0, StatusCode::OK);
    assert_eq!(ask(&hub, &operator, Method::PUT, "/api/v1/apps/shop", deploy).await.0, StatusCode::OK);
    let push = hub.as_token(&viewer, Method::POST, "/v2/a/blobs/uploads/").send().await.unwrap();
    assert_eq!(push.status(), StatusCode::FORBIDDEN);
    let pull = hub.as_token(&viewer, Method::GET, "/v2/demo/web/manifests/1").send().await.unwrap();
    assert_eq!(pull.status(), StatusCode::OK);
    let basic =
        hub.http.get(format!("{}/v2/", hub.url)).basic_auth("anybody", Some(&viewer)).send().await.unwrap();
    assert_eq!(basic.status(), StatusCode::OK);
}

#[tokio::test]
async fn access_ends_with_its_token_but_never_the_last_admins() {
    let hub = Hub::start();
    let viewer = access(&hub, "eve", "viewer").await;
    refused(
        &hub.api(Method::POST, "/access-tokens", Some(json!({"name": "eve", "role": "admin"}))).await,
        409,
        "conflict",
    );
    let tokens = hub.get("/access-tokens").await;
    let id = |name: &str| {
        let token = tokens.as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
        format!("/access-tokens/{}", token["id"].as_str().unwrap())
    };
    refused(&hub.api(Method::DELETE, &id("admin"), None).await, 409, "conflict");
    assert_eq!(hub.api(Method::DELETE, &id("eve"), None).await.0, StatusCode::NO_CONTENT);
    refused(&ask(&hub, &viewer, Method::GET, "/api/v1/apps", json!({})).await, 401, "unauthenticated");
    assert_eq!(hub.get("/access-tokens").await.as_array().unwrap().len(), 1);
    for bad in [json!({"expires_in_seconds": 0}), json!({"labels": {"a b": "c"}}), json!({"bogus": 1})] {
        refused(&hub.api(Method::POST, "/tokens", Some(bad)).await, 400, "malformed");
    }
}

#[tokio::test]
async fn every_change_is_written_down() {
    let hub = Hub::start();
    push_image(&hub, "demo/web", "1", "one").await;
    let olga = access(&hub, "olga", "operator").await;
    let deploy = json!({"file": "compose.yaml", "compose": COMPOSE});
    assert_eq!(ask(&hub, &olga, Method::PUT, "/api/v1/apps/shop", deploy).await.0, StatusCode::OK);
    assert_eq!(
        ask(&hub, &olga, Method::DELETE, "/api/v1/apps/shop", json!({})).await.0,
        StatusCode::NO_CONTENT
    );
    let rows = hub.get("/audit").await;
    let actions: Vec<_> = rows.as_array().unwrap().iter().map(|r| r["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        ["app.delete", "app.deploy", "access-token.create", "artifact.push", "access-token.create"]
    );
    assert_eq!(
        (&rows[0]["actor"], &rows[0]["from"], &rows[0]["subject"]),
        (&json!("olga"), &json!("127.0.0.1"), &json!("shop"))
    );
    assert_eq!(rows[0]["before"], rows[1]["after"]);
    assert!(!rows.to_string().contains(&olga), "no secret is written down");
    assert_eq!(hub.get("/audit?limit=2").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_reads_only_the_apps_that_it_runs() {
    let hub = Hub::start();
    let image = push_image(&hub, "demo/web", "1", "one").await;
    let nodes = [Node::member(&hub, "edge1").await, Node::member(&hub, "edge2").await];
    let here = format!("{COMPOSE}    deploy: {{placement: {{constraints: [node.hostname==edge1]}}}}\n");
    let (status, summary) = hub.deploy("shop", &here).await;
    assert_eq!(status, StatusCode::OK, "{summary}");
    let app = format!("/v2/_/manifests/{}", summary["digest"].as_str().unwrap());
    let read =
        async |node: &Node, path: &str| answer(node.ask(&hub, Method::GET, path).send().await.unwrap()).await;
    assert_eq!(read(&nodes[0], &app).await.0, StatusCode::OK);
    let (status, body) = read(&nodes[1], &app).await;
    assert_eq!((status, &body["errors"][0]["code"]), (StatusCode::NOT_FOUND, &json!("MANIFEST_UNKNOWN")));
    let manifest = hub.ask(Method::GET, &app).send().await.unwrap();
    assert_eq!(manifest.status(), StatusCode::OK);
    let manifest: Value = manifest.json().await.unwrap();
    // Its document may hold what is nobody else's business.
    let document = format!("/v2/_/blobs/{}", manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(read(&nodes[0], &document).await.0, StatusCode::OK);
    assert_eq!(read(&nodes[1], &document).await.0, StatusCode::NOT_FOUND);
    assert_eq!(read(&nodes[0], &format!("/v2/_/manifests/{image}")).await.0, StatusCode::OK);
    assert_eq!(read(&nodes[1], &format!("/v2/_/manifests/{image}")).await.0, StatusCode::NOT_FOUND);
    hub.api(Method::DELETE, "/apps/shop", None).await;
    assert_eq!(read(&nodes[0], &app).await.0, StatusCode::NOT_FOUND);
}
