//! `cairn app`.

use serde_json::{Value, json};

use crate::{
    hub::{Hub, ago, digest, error, node},
    run::User,
};

const COMPOSE: &str = "name: shop\nservices:\n  web:\n    image: demo/web:1\n";

fn summary(ready: u32) -> Value {
    json!({"name": "shop", "digest": digest('a'), "services": {"web": digest('b')}, "deployed_at": ago(190),
        "deployed_by": "eva", "desired": 1, "ready": ready})
}

fn status(state: &str, health: &str) -> Value {
    let mut status = summary(u32::from(health == "healthy"));
    status["replicas"] = json!([{"node": "n-aaaa000000000000", "hostname": "aaa", "service": "web", "replica": 0,
        "status": {"app": "shop", "service": "web", "replica": 0, "image": digest('b'), "state": state,
            "health": health, "restarts": 2, "detail": "exit code 1"}}]);
    status
}

fn nodes(applied: u64) -> Value {
    let mut node = node("n-aaaa000000000000", "aaa");
    node["status"]["generation"] = json!(applied);
    json!([node])
}

#[test]
fn a_deploy_hands_the_file_over_as_it_is() {
    let hub = Hub::new();
    hub.on("PUT /api/v1/apps/shop", 200, summary(0));
    let user = User::of(&hub.url());
    user.file("compose.yaml", COMPOSE);
    let said = user.run(&["app", "deploy", "compose.yaml"]).ok();
    assert_eq!(said, "shop: 0 of 1 ready, deployed 3m ago by eva\n");
    let asked = hub.only("PUT /api/v1/apps/shop").json();
    assert_eq!(asked, json!({"file": "compose.yaml", "compose": COMPOSE}));
}

#[test]
fn the_compose_file_of_the_readme_is_accepted() {
    let readme = include_str!("../../../README.md");
    let compose = readme.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
    let hub = Hub::new();
    hub.on("PUT /api/v1/apps/demo", 200, summary(0));
    let user = User::of(&hub.url());
    user.file("compose.yaml", compose);
    user.run(&["app", "deploy", "compose.yaml"]).ok();
}

#[test]
fn the_name_is_given_or_in_the_file_or_the_folder_s() {
    let hub = Hub::new();
    for name in ["given", "shop", "corner"] {
        hub.on(&format!("PUT /api/v1/apps/{name}"), 200, summary(0));
    }
    let user = User::of(&hub.url());
    user.file("Corner/a.yaml", COMPOSE);
    user.file("Corner/b.yaml", COMPOSE.split_once('\n').unwrap().1);
    user.file("Bad_Name/c.yaml", COMPOSE.split_once('\n').unwrap().1);
    user.run(&["app", "deploy", "Corner/a.yaml", "--name", "given"]).ok();
    user.run(&["app", "deploy", "Corner/a.yaml"]).ok();
    user.run(&["app", "deploy", "Corner/b.yaml"]).ok();
    for name in ["given", "shop", "corner"] {
        hub.only(&format!("PUT /api/v1/apps/{name}"));
    }
    user.run(&["app", "deploy", "Bad_Name/c.yaml"]).fails(2, &["no `name:` in the file", "--name"]);
    user.run(&["app", "deploy", "gone.yaml"]).fails(2, &["there is no file gone.yaml"]);
}

#[test]
fn what_the_hub_finds_in_the_file_is_printed_a_line_each() {
    let hub = Hub::new();
    let mut refusal = error("compose-refused", "compose.yaml is not accepted; mend these lines");
    refusal["error"]["problems"] = json!([
        "compose.yaml:4:5: no image demo/web:1 in the hub; push it",
        "compose.yaml:5:5: second; cure"
    ]);
    hub.on("PUT /api/v1/apps/shop", 422, refusal);
    let user = User::of(&hub.url());
    user.file("compose.yaml", COMPOSE);
    let ran = user.run(&["app", "deploy", "compose.yaml"]);
    assert_eq!(
        ran.err,
        "compose.yaml:4:5: no image demo/web:1 in the hub; push it\ncompose.yaml:5:5: second; cure\n\
         error: compose.yaml is not accepted; mend these lines\n"
    );
    ran.fails(4, &[]);
}

#[test]
fn mistakes_in_the_file_are_found_before_anything_is_sent() {
    let hub = Hub::new();
    let user = User::of(&hub.url());
    user.file(
        "compose.yaml",
        "name: shop\nservices:\n  web:\n    image: demo/web:1\n    priviledged: true\n",
    );
    let ran = user.run(&["app", "deploy", "compose.yaml"]).fails(4, &["compose.yaml:5:5: ", "priviledged"]);
    assert!(ran.err.ends_with("use its version of cairn\n"), "{ran:?}");
    assert!(hub.asked().is_empty());
}

#[test]
fn waiting_ends_when_the_node_has_applied_it_and_it_is_healthy() {
    let hub = Hub::new();
    hub.on("PUT /api/v1/apps/shop", 200, summary(0));
    // First what ran before is still healthy, on a node that has not applied the new generation.
    hub.on("GET /api/v1/apps/shop", 200, status("running", "healthy"));
    hub.on("GET /api/v1/apps/shop", 200, status("running", "starting"));
    hub.on("GET /api/v1/apps/shop", 200, status("running", "healthy"));
    hub.on("GET /api/v1/nodes", 200, nodes(2));
    hub.on("GET /api/v1/nodes", 200, nodes(3));
    let user = User::of(&hub.url());
    user.file("compose.yaml", COMPOSE);
    let said = user.run(&["app", "deploy", "compose.yaml", "--wait"]).ok();
    assert!(said.starts_with("shop: 1 of 1 ready"), "{said}");
    let polls = hub.asked().iter().filter(|asked| asked.what == "GET /api/v1/apps/shop").count();
    assert_eq!(polls, 3);
}

#[test]
fn waiting_is_not_over_while_the_new_version_waits_for_a_signature() {
    let hub = Hub::new();
    hub.on("PUT /api/v1/apps/shop", 200, summary(1));
    // What runs and is healthy is the version before.
    let mut unsigned = status("running", "healthy");
    unsigned["problems"] = json!(["version 2 waits for a signature; run `cairn artifact sign`"]);
    hub.on("GET /api/v1/apps/shop", 200, unsigned);
    hub.on("GET /api/v1/nodes", 200, nodes(3));
    let user = User::of(&hub.url());
    user.file("compose.yaml", COMPOSE);
    user.run(&["app", "deploy", "compose.yaml", "--wait", "--timeout", "1s"])
        .fails(7, &["version 2 waits for a signature; run `cairn artifact sign`"]);
}

#[test]
fn waiting_in_vain_says_what_for() {
    let hub = Hub::new();
    hub.on("PUT /api/v1/apps/shop", 200, summary(0));
    hub.on("GET /api/v1/apps/shop", 200, status("failed", "none"));
    hub.on("GET /api/v1/nodes", 200, nodes(3));
    let user = User::of(&hub.url());
    user.file("compose.yaml", COMPOSE);
    user.run(&["app", "deploy", "compose.yaml", "--wait", "--timeout", "1s"])
        .fails(7, &["web on aaa: exit code 1", "web on aaa is not ready", "cairn app logs shop"]);
}

#[test]
fn apps_and_replicas_are_shown() {
    let hub = Hub::new();
    hub.on("GET /api/v1/apps", 200, json!([summary(1)]));
    hub.on("GET /api/v1/apps/shop", 200, status("running", "healthy"));
    hub.on("DELETE /api/v1/apps/shop", 204, Value::Null);
    let user = User::of(&hub.url());
    assert_eq!(
        user.run(&["app", "ls"]).ok(),
        "APP    READY   SERVICES   DEPLOYED   BY    PROBLEMS\nshop   1/1     web        3m ago     eva   -\n"
    );
    assert_eq!(
        user.run(&["app", "status", "shop"]).ok(),
        "shop: 1 of 1 ready, deployed 3m ago by eva\n\n\
         SERVICE   REPLICA   NODE   STATE     HEALTH    RESTARTS   DETAIL\n\
         web       0         aaa    running   healthy   2          exit code 1\n"
    );
    assert_eq!(user.run(&["app", "rm", "shop"]).ok(), "shop is removed\n");
    user.run(&["app", "status", "Bad_Name"]).fails(2, &["not a valid app name"]);
    user.run(&["app", "status", "other"]).fails(3, &["no answer for"]);
}

#[test]
fn logs_are_waited_for() {
    let hub = Hub::new();
    let started = json!({"id": "l-1", "nodes": ["n-aaaa000000000000", "n-bbbb000000000000"]});
    hub.on("POST /api/v1/apps/shop/logs", 200, started);
    let one = json!({"n-aaaa000000000000": {"text": "hello\nworld\u{1b}[2J\n", "complete": true}});
    hub.on("GET /api/v1/logs/l-1", 200, json!({"nodes": one, "complete": false}));
    let mut both = one.clone();
    both["n-bbbb000000000000"] = json!({"text": "other\n", "complete": true});
    hub.on("GET /api/v1/logs/l-1", 200, json!({"nodes": both, "complete": true}));
    let user = User::of(&hub.url());
    assert_eq!(
        user.run(&["app", "logs", "shop", "--service", "web", "--lines", "7"]).ok(),
        "n-aaaa000000000000 hello\nn-aaaa000000000000 world [2J\nn-bbbb000000000000 other\n"
    );
    assert_eq!(
        hub.only("POST /api/v1/apps/shop/logs").json(),
        json!({"service": "web", "node": null, "lines": 7})
    );
}

#[test]
fn logs_that_do_not_all_come_are_printed_and_the_silent_nodes_named() {
    let hub = Hub::new();
    let started = json!({"id": "l-1", "nodes": ["n-aaaa000000000000", "n-bbbb000000000000"]});
    hub.on("POST /api/v1/apps/shop/logs", 200, started);
    let nodes = json!({"n-aaaa000000000000": {"text": "hello\n", "complete": true}});
    hub.on("GET /api/v1/logs/l-1", 200, json!({"nodes": nodes, "complete": false}));
    let user = User::of(&hub.url());
    let ran = user.run(&["app", "logs", "shop", "--timeout", "1s"]);
    assert_eq!(ran.out, "hello\n");
    ran.fails(7, &["no full answer yet from n-bbbb000000000000", "cairn node ls"]);
}
