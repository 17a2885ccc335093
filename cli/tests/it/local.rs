//! `cairn local status`, without hub and without context.

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
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
fn the_stick_is_shown_with_whether_it_may_be_pulled() {
    let user = User::new();
    let mut status = json!({"schema": 1, "node": "n-aaaa000000000000", "link": "unconfigured",
        "media": {"device": "sdb1", "state": "copying", "removable": false, "messages": ["generation 4\u{1b}[2J"],
            "copied": 500_000, "to_copy": 1_000_000}});
    let copying = daemon(&user, status.to_string().leak());
    let out = user.run(&STATUS[..4]).ok();
    assert!(out.contains("(50%, 500.0 kB of 1.0 MB); do not pull it yet\n  generation 4 [2J\n"), "{out}");
    drop(copying);
    std::fs::remove_file(user.path("cairnd.sock")).unwrap();
    status["media"]["state"] = json!("done");
    status["media"]["removable"] = json!(true);
    let _done = daemon(&user, status.to_string().leak());
    let out = user.run(&STATUS[..4]).ok();
    assert!(out.contains("Stick sdb1: done; it can be pulled\n"), "{out}");
}

#[test]
fn no_daemon_and_one_that_talks_nonsense() {
    let user = User::new();
    user.run(&STATUS[..4]).fails(5, &["cannot reach the daemon at cairnd.sock", "systemctl status cairnd"]);
    let _daemon = daemon(&user, "hello");
    user.run(&STATUS[..4]).fails(1, &["no JSON"]);
}

#[test]
fn the_os_is_shown_with_slot_and_update() {
    let user = User::new();
    let status = json!({"schema": 1, "node": "n-aaaa000000000000", "link": "online", "problems": [], "workloads": [],
        "os": {"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "a", "other": "1.0.0",
            "state": "fetching", "release": digest('c'), "target": "1.2.0", "detail": "first line\nsecond\u{1b}[2J",
            "progress": {"method": "patch", "written": 62, "total": 100, "fetched": 9, "to_fetch": 3, "full": 100,
                "rate": 1_200_000}}});
    let _daemon = daemon(&user, status.to_string().leak());
    assert_eq!(
        user.run(&STATUS[..4]).ok(),
        "\
Node:         n-aaaa000000000000
State:        online
OS:           1.1.0 in slot a (cairn-generic-amd64)
Other slot:   1.0.0
OS update:    fetching 1.2.0
Progress:     62 % 1.2 MB/s, 97 % saved
  first line
  second [2J
"
    );
}

#[test]
fn an_os_of_a_newer_daemon_is_left_to_json() {
    let user = User::new();
    let status = json!({"node": "n-aaaa000000000000", "os": {"version": "1.1.0", "state": "thinking"}});
    let _daemon = daemon(&user, status.to_string().leak());
    assert_eq!(user.run(&STATUS[..4]).ok(), "Node:   n-aaaa000000000000\n");
}

fn applying(user: &User, status: u16, body: &'static str) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let path = user.path("cairnd.sock");
    let listener = runtime.block_on(async { UnixListener::bind(path) }).unwrap();
    let answer = (StatusCode::from_u16(status).unwrap(), body);
    let app = Router::new().route("/v1/os/apply", post(move || async move { answer }));
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    runtime
}

#[test]
fn a_daemon_that_has_nothing_to_restart_into_says_so() {
    const APPLY: [&str; 5] = ["local", "os", "apply", "--socket", "cairnd.sock"];
    User::new().run(&APPLY).fails(5, &["cannot reach the daemon at cairnd.sock"]);
    for (status, body, code, says) in [
        (
            409,
            "no OS stands written; set one with `cairn os set`\u{1b}[2J",
            4,
            "error: no OS stands written; set one",
        ),
        (
            409,
            r#"{"error": {"code": "x", "message": "no OS stands written"}}"#,
            4,
            "error: no OS stands written\n",
        ),
        (403, "not root", 6, "run it as root"),
        (404, "", 1, "use a cairn of the daemon's version"),
        (500, "boom", 1, "journalctl -u cairnd"),
    ] {
        let user = User::new();
        let _daemon = applying(&user, status, body);
        let ran = user.run(&APPLY).fails(code, &[says]);
        assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
    }
    let user = User::new();
    let _daemon = applying(&user, 204, "");
    assert_eq!(user.run(&APPLY).ok(), "this node restarts into the OS that stands written\n");
}
