//! `cairn node`, `event` and `audit`.

use serde_json::{Value, json};

use crate::{
    hub::{Hub, ago, error, node},
    run::User,
};

fn fleet() -> (Hub, User) {
    let hub = Hub::new();
    let mut waiting = node("n-bbbb000000000000", "bbb");
    waiting["state"] = json!("pending");
    waiting["last_seen"] = Value::Null;
    waiting["labels"] = json!({});
    waiting["status"] = Value::Null;
    waiting["desired_generation"] = json!(0);
    let mut late = node("n-cccc000000000000", "ccc");
    late["online"] = json!(false);
    late["desired_generation"] = json!(4);
    late["status"]["problems"] = json!(["disk full; make room"]);
    hub.on("GET /api/v1/nodes", 200, json!([node("n-aaaa000000000000", "aaa"), waiting, late]));
    let user = User::of(&hub.url());
    (hub, user)
}

#[test]
fn nodes_are_listed() {
    let (_hub, user) = fleet();
    let expected = "\
NODE                 HOSTNAME   STATE     SEEN     GENERATION   PROBLEMS   LABELS
n-aaaa000000000000   aaa        online    3m ago   3            -          zone=berlin
n-bbbb000000000000   bbb        pending   never    0            -          -
n-cccc000000000000   ccc        offline   3m ago   3 of 4       1          zone=berlin
";
    assert_eq!(user.run(&["node", "ls"]).ok(), expected);
    assert_eq!(
        user.run(&["node", "ls", "-o", "name"]).ok(),
        "n-aaaa000000000000\nn-bbbb000000000000\nn-cccc000000000000\n"
    );
    let wide = user.run(&["node", "ls", "-o", "wide"]).ok();
    assert!(
        wide.lines()
            .nth(1)
            .unwrap()
            .ends_with("amd64   cairn 7   6.12.1   2      512.0 MB   0.1.0    3d ago")
    );
}

#[test]
fn json_and_yaml_are_the_api_s_documents() {
    let (_hub, user) = fleet();
    let listed: Value = serde_json::from_str(&user.run(&["node", "ls", "-o", "json"]).ok()).unwrap();
    assert_eq!(listed[0]["facts"]["memory_bytes"], 512_000_000);
    assert!(listed[0]["last_seen"].as_str().unwrap().ends_with('Z'), "RFC 3339 in UTC");
    let yaml = user.run(&["node", "ls", "-o", "yaml"]).ok();
    assert!(yaml.contains("id: n-aaaa000000000000") && yaml.contains("zone: berlin"), "{yaml}");
}

#[test]
fn a_selector_is_passed_on_whatever_is_in_it() {
    let (hub, user) = fleet();
    hub.on("GET /api/v1/nodes?selector=zone%3Dberlin%2Crack%21%3D2%26x", 200, json!([]));
    let ran = user.run(&["node", "ls", "-l", "zone=berlin,rack!=2&x"]);
    assert!(ran.err.contains("no node has these labels"));
    assert_eq!(ran.ok().lines().count(), 1);
}

#[test]
fn a_node_is_shown_with_what_runs_on_it() {
    let (_hub, user) = fleet();
    let shown = user.run(&["node", "show", "ccc"]).ok();
    assert!(shown.contains("Generation:    3 of 4\n"), "{shown}");
    assert!(shown.contains("Problem: disk full; make room\n"), "{shown}");
    let waiting = user.run(&["node", "show", "bbb"]).ok();
    assert!(waiting.contains("cairn node approve n-bbbb000000000000"), "{waiting}");
}

#[test]
fn a_node_is_shown_with_its_os_and_all_of_its_detail() {
    let hub = Hub::new();
    let mut shown = node("n-aaaa000000000000", "aaa");
    let detail = format!("web is unhealthy, last lines:\n{}", "x".repeat(200));
    shown["status"]["os"] = json!({"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "b", "other": null,
        "state": "rolled-back", "target": "1.2.0", "detail": detail});
    hub.on("GET /api/v1/nodes", 200, json!([shown]));
    let shown = User::of(&hub.url()).run(&["node", "show", "aaa"]).ok();
    for line in [
        "OS:            1.1.0 in slot b (cairn-generic-amd64)\n",
        "OS update:     rolled back 1.2.0\n",
        "  web is unhealthy, last lines:\n",
        &format!("  {}\n", "x".repeat(200)),
    ] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
}

#[test]
fn approval_changes_nothing_when_one_of_the_names_is_wrong() {
    let (hub, user) = fleet();
    hub.on("POST /api/v1/nodes/n-bbbb000000000000/approve", 200, node("n-bbbb000000000000", "bbb"));
    user.run(&["node", "approve", "bbb", "nobody"]).fails(3, &["no node nobody", "cairn node ls"]);
    assert!(hub.asked().iter().all(|asked| asked.what.starts_with("GET")));
    assert_eq!(user.run(&["node", "approve", "bbbb"]).ok(), "n-bbbb000000000000 (bbb) is a member now\n");
}

#[test]
fn labels_are_set_and_removed() {
    let (hub, user) = fleet();
    hub.on("PATCH /api/v1/nodes/n-aaaa000000000000/labels", 200, node("n-aaaa000000000000", "aaa"));
    let said = user.run(&["node", "label", "aaa", "zone=berlin", "old-"]).ok();
    assert_eq!(said, "n-aaaa000000000000 (aaa): zone=berlin\n");
    let asked = hub.only("PATCH /api/v1/nodes/n-aaaa000000000000/labels");
    assert_eq!(asked.json(), json!({"set": {"zone": "berlin"}, "remove": ["old"]}));
    user.run(&["node", "label", "aaa", "zone=berlin", "zone-"]).fails(2, &["set and removed at once"]);
    user.run(&["node", "label", "aaa", "zone"]).fails(2, &["KEY=VALUE"]);
}

#[test]
fn a_removed_node_is_named() {
    let (hub, user) = fleet();
    hub.on("DELETE /api/v1/nodes/n-cccc000000000000", 204, Value::Null);
    assert_eq!(user.run(&["node", "rm", "ccc"]).ok(), "n-cccc000000000000 (ccc) is removed\n");
}

#[test]
fn nothing_that_a_node_says_reaches_the_terminal_as_a_command() {
    let (hub, user) = fleet();
    let event = json!([{"time": ago(61), "severity": "error", "reason": "x", "message": "a\u{1b}[2Jb\nc"}]);
    hub.on("GET /api/v1/nodes/n-aaaa000000000000/events", 200, event);
    let shown = user.run(&["event", "ls", "aaa"]).ok();
    assert_eq!(shown, "WHEN      SEVERITY   REASON   MESSAGE\n61s ago   error      x        a [2Jb c\n");
    hub.on("GET /api/v1/nodes/n-cccc000000000000/events", 404, error("x", "gone\u{1b}[2J; look"));
    let ran = user.run(&["event", "ls", "ccc"]).fails(3, &["gone [2J; look"]);
    assert!(!ran.err.contains('\u{1b}'));
}

#[test]
fn the_audit_is_listed() {
    let (hub, user) = fleet();
    let row = json!({"id": 7, "time": ago(125), "actor": "eva", "from": "10.0.0.9", "action": "node.approve",
        "subject": "n-aaaa000000000000", "before": null, "after": {"state": "approved"}});
    hub.on("GET /api/v1/audit?limit=5", 200, json!([row]));
    let shown = user.run(&["audit", "ls", "--limit", "5"]).ok();
    assert_eq!(
        shown,
        "ID   WHEN     WHO   FROM       ACTION         SUBJECT\n\
         7    2m ago   eva   10.0.0.9   node.approve   n-aaaa000000000000\n"
    );
    let all: Value =
        serde_json::from_str(&user.run(&["audit", "ls", "--limit", "5", "-o", "json"]).ok()).unwrap();
    assert_eq!(all[0]["after"], json!({"state": "approved"}));
}

#[test]
fn a_watch_prints_again_when_something_changes() {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };
    let hub = Hub::new();
    hub.on("GET /api/v1/nodes", 200, json!([]));
    hub.on("GET /api/v1/nodes", 200, json!([]));
    hub.on("GET /api/v1/nodes", 200, json!([node("n-aaaa000000000000", "aaa")]));
    let user = User::of(&hub.url());
    let mut child =
        user.command(&["node", "ls", "--watch", "-o", "name"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The reader waits for the line itself: an empty list prints nothing, the change one blank line and the node.
    assert_eq!(lines.next().unwrap().unwrap(), "");
    assert_eq!(lines.next().unwrap().unwrap(), "n-aaaa000000000000");
    child.kill().unwrap();
    child.wait().unwrap();
}
