//! `cairn local status`, without hub and without context.

use axum::{Router, routing::get};
use serde_json::{Value, json};
use tokio::{net::UnixListener, runtime::Runtime};

use crate::{
    hub::{ago, digest},
    run::User,
};

fn daemon(user: &User, answer: &'static str) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let path = user.path("cairnd.sock");
    let listener = runtime.block_on(async { UnixListener::bind(path) }).unwrap();
    let app = Router::new().route("/v1/status", get(move || async move { answer }));
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    runtime
}

const STATUS: [&str; 5] = ["local", "status", "--socket", "cairnd.sock", "-o"];

#[test]
fn the_node_s_own_view_is_shown() {
    let user = User::new();
    let workload = json!({"app": "shop", "service": "web", "replica": 0, "image": digest('b'), "state": "running",
        "health": "healthy", "restarts": 0});
    let status = json!({"schema": 1, "version": "0.1.0", "node": "n-aaaa000000000000", "fingerprint": "aaaa bbbb",
        "hub": "https://hub:1", "link": "offline", "last_contact": ago(190), "generation": 3,
        "workloads": [workload], "problems": ["no route to the hub; plug the cable in"], "unsent_reports": 2,
        "new_field": true});
    let _daemon = daemon(&user, status.to_string().leak());
    assert_eq!(
        user.run(&STATUS[..4]).ok(),
        "\
Node:             n-aaaa000000000000
State:            offline
Fingerprint:      aaaa bbbb
Hub:              https://hub:1
Last contact:     3m ago
Generation:       3
Unsent reports:   2
Daemon:           0.1.0
Problem: no route to the hub; plug the cable in

APP    SERVICE   REPLICA   STATE     HEALTH    RESTARTS   DETAIL
shop   web       0         running   healthy   0          -
"
    );
    let raw: Value = serde_json::from_str(&user.run(&[&STATUS[..], &["json"]].concat()).ok()).unwrap();
    assert_eq!(raw["new_field"], true);
}

#[test]
fn no_daemon_and_one_that_talks_nonsense() {
    let user = User::new();
    user.run(&STATUS[..4]).fails(5, &["cannot reach the daemon at cairnd.sock", "systemctl status cairnd"]);
    let _daemon = daemon(&user, "hello");
    user.run(&STATUS[..4]).fails(1, &["no JSON"]);
}
