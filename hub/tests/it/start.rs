//! Making, starting, stopping.

use std::os::unix::fs::PermissionsExt;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    harness::{Folder, Hub, PATIENCE, answer, binary, refused},
    node::Node,
};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_keeps_secrets_and_never_overwrites() {
    let folder = Folder::init(&[]);
    assert_eq!(mode(&folder.data), 0o700);
    assert_eq!(mode(&folder.data.join("ca.pem")), 0o644);
    for secret in ["admin.token", "hub.sqlite", "tls/ca.key", "tls/server.key", "keys/root.pem"] {
        assert_eq!(mode(&folder.data.join(secret)), 0o600, "{secret}");
    }
    let again = |data: &std::path::Path| {
        let output = binary().args(["init", "--name", "x", "--data"]).arg(data).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (ok, error) = again(&folder.data);
    assert!(!ok && error.contains("never overwrites"), "{error}");
    // What a power cut leaves of an init is no obstacle to the next.
    let half = folder.temp.path().join(".other.init/keys");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("root.pem"), "torn").unwrap();
    let (ok, error) = again(&folder.temp.path().join("other"));
    assert!(ok, "{error}");
    let output = binary().args(["serve", "--data"]).arg(folder.temp.path().join("none")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cairn-hub init"));
}

#[tokio::test]
async fn stops_when_told_and_lets_long_polls_go() {
    let mut hub = Hub::start();
    let node = Node::member(&hub, "edge1").await;
    let wait = tokio::spawn(node.ask(&hub, Method::GET, "/node/v1/wait?generation=99").send());
    let deadline = std::time::Instant::now() + PATIENCE;
    while hub.metric("cairn_hub_nodes_waiting").await < 1.0 {
        assert!(std::time::Instant::now() < deadline, "the node does not wait");
    }
    let second =
        binary().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&hub.folder.data).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another cairn-hub"));
    kill(Pid::from_raw(hub.pid()), Signal::SIGTERM).unwrap();
    assert_eq!(wait.await.unwrap().unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(hub.wait_for_exit(), Some(0));
    hub.restart();
    let shown = hub.get("/nodes/edge1").await;
    assert!(shown["last_seen"].is_string(), "presence is written down at the end: {shown}");
}

#[tokio::test]
async fn says_how_it_is_and_refuses_what_it_does_not_know() {
    let hub = Hub::start();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(hub.http.get(format!("{}{path}", hub.url)).send().await.unwrap().status(), StatusCode::OK);
    }
    refused(&hub.api(Method::GET, "/nothing", None).await, 404, "not-found");
    refused(&hub.api(Method::PUT, "/nodes", Some(json!({}))).await, 405, "method-not-allowed");
    refused(&hub.api(Method::GET, "/nodes/nobody", None).await, 404, "not-found");
    refused(&hub.api(Method::GET, "/nodes/%ff", None).await, 400, "malformed");
    refused(&hub.api(Method::GET, "/audit?limit=many", None).await, 400, "malformed");
    refused(&hub.api(Method::GET, "/nodes?selector=zone", None).await, 400, "malformed");
    // A lost token is no reason to start over.
    let output =
        binary().args(["admin-token", "--name", "second", "--data"]).arg(&hub.folder.data).output().unwrap();
    let token = String::from_utf8(output.stdout).unwrap();
    let request = hub.as_token(token.trim(), Method::GET, "/api/v1/access-tokens");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let check = binary().args(["check-config", "--data"]).arg(&hub.folder.data).output().unwrap();
    assert!(check.status.success());
}

#[tokio::test]
async fn metrics_are_made_for_one_scrape_at_a_time() {
    let hub = Hub::start();
    let scrape = || tokio::spawn(hub.http.get(format!("{}/metrics", hub.url)).send());
    let scrapes: Vec<_> = (0..40).map(|_| scrape()).collect();
    let mut made = 0;
    for scrape in scrapes {
        let answered = answer(scrape.await.unwrap().unwrap()).await;
        if answered.0 == StatusCode::OK {
            made += 1;
        } else {
            refused(&answered, 429, "busy");
        }
    }
    assert!(made > 0);
    hub.metric("cairn_hub_nodes_waiting").await;
}
