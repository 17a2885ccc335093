//! How nodes become members, and how they do not.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    harness::{Hub, answer, refused},
    node::Node,
};

#[tokio::test]
async fn refuses_bad_tokens_each_by_its_name() {
    let hub = Hub::start();
    let node = Node::new();
    refused(&node.enroll(&hub, "nonsense", "a").await, 403, "token-unknown");

    let once = hub.token(json!({"auto_approve": true})).await;
    assert_eq!(node.enroll(&hub, &once, "a").await.0, StatusCode::OK);
    refused(&Node::new().enroll(&hub, &once, "b").await, 403, "token-used");
    // The same key again is the same node, whatever became of its token.
    assert_eq!(node.enroll(&hub, &once, "a").await.0, StatusCode::OK);
    assert_eq!(node.enroll(&hub, "nonsense", "a").await.0, StatusCode::OK);

    let many = hub.token(json!({"reusable": true})).await;
    for name in ["c", "d"] {
        assert_eq!(Node::new().enroll(&hub, &many, name).await.0, StatusCode::ACCEPTED);
    }
    let (_, tokens) = hub.api(Method::GET, "/tokens", None).await;
    assert_eq!(tokens.as_array().unwrap().iter().map(|t| t["used"].as_u64().unwrap()).sum::<u64>(), 3);
    assert!(!tokens.to_string().contains(&many), "secrets are seen once");
    assert_eq!(hub.get("/nodes").await.as_array().unwrap().len(), 3);

    let short = hub.token(json!({"expires_in_seconds": 1})).await;
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        // Until it is over, a fresh node each: the token is good for one.
        let got = Node::new().enroll(&hub, &short, "e").await;
        if got.1["error"]["code"] == "token-expired" {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{got:?}");
    }
}

#[tokio::test]
async fn refuses_envelopes_that_prove_nothing() {
    let hub = Hub::start();
    let token = hub.token(json!({})).await;
    let (node, other) = (Node::new(), Node::new());
    let post = |body: String| async {
        answer(hub.http.post(format!("{}/node/v1/enroll", hub.url)).body(body).send().await.unwrap()).await
    };
    refused(&post("garbage".to_owned()).await, 403, "envelope-refused");
    let (good, foreign) = (node.request(&token, "a"), other.request(&token, "a"));
    let (head, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = foreign.rsplit_once('.').unwrap();
    refused(&post(format!("{head}.{signature}")).await, 403, "envelope-refused");
    refused(&post("x".repeat(1 << 20)).await, 413, "too-large");
    assert_eq!(hub.get("/nodes").await, json!([]));
    assert_eq!(hub.get("/tokens").await[0]["used"], 0);
}

#[tokio::test]
async fn a_pending_node_gets_nothing_until_it_is_approved() {
    let hub = Hub::start();
    let token = hub.token(json!({"labels": {"zone": "a"}})).await;
    let mut node = Node::new();
    let (status, grant) = node.enroll(&hub, &token, "edge1").await;
    assert_eq!((status, &grant["state"]), (StatusCode::ACCEPTED, &json!("pending")));
    assert!(grant.get("director_root").is_none());
    refused(&node.get(&hub, &format!("/tuf/director/{}/timestamp.json", node.id)).await, 403, "node-pending");
    refused(&node.send(&hub, vec![]).await, 403, "node-pending");

    let wait = node.ask(&hub, Method::GET, "/node/v1/wait?generation=0").send();
    let approve = hub.api(Method::POST, "/nodes/edge1/approve", None);
    let (wait, (status, shown)) = tokio::join!(wait, approve);
    assert_eq!((status, &shown["state"]), (StatusCode::OK, &json!("approved")));
    assert_eq!(shown["labels"], json!({"zone": "a"}));
    assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 64 + 15);
    assert_eq!(wait.unwrap().status(), StatusCode::OK, "approval ends the wait");

    let (status, grant) = node.get(&hub, "/node/v1/enrollment").await;
    assert_eq!((status, &grant["state"]), (StatusCode::OK, &json!("approved")));
    node.pin(&grant);
    let cairn_trust::node::Update::Verified(bundle) = node.update(&hub).await.unwrap() else {
        panic!("nothing")
    };
    assert_eq!((bundle.generation, bundle.desired_state.apps.len()), (1, 0));
}

#[tokio::test]
async fn a_node_sees_its_own_and_a_removed_one_nothing() {
    let hub = Hub::start();
    let (a, b) = (Node::member(&hub, "a").await, Node::member(&hub, "b").await);
    refused(&a.get(&hub, &format!("/tuf/director/{}/timestamp.json", b.id)).await, 403, "forbidden");
    assert_eq!(a.get(&hub, &format!("/tuf/director/{}/timestamp.json", a.id)).await.0, StatusCode::OK);
    refused(&a.get(&hub, "/api/v1/nodes").await, 401, "unauthenticated");
    // A token signed by another key than the one that it names.
    let jwt = b.jwt();
    let forged = format!("{}.{}", a.jwt().rsplit_once('.').unwrap().0, jwt.rsplit_once('.').unwrap().1);
    let got = answer(hub.as_token(&forged, Method::GET, "/node/v1/enrollment").send().await.unwrap()).await;
    refused(&got, 401, "unauthenticated");

    let (status, _) = hub.api(Method::DELETE, &format!("/nodes/{}", a.id), None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    refused(&a.get(&hub, "/node/v1/enrollment").await, 403, "node-removed");
    let token = hub.token(json!({"auto_approve": true})).await;
    assert_eq!(a.enroll(&hub, &token, "a").await.0, StatusCode::OK, "a new token takes it in again");
    assert!(
        hub.get("/nodes/a").await["desired_generation"].as_u64().unwrap() >= 1,
        "generations never go back"
    );
}
