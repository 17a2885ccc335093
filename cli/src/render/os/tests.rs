//! What people read of an OS: tables of status and text.

use serde_json::{Value, json};

use super::*;
use crate::contents::tests::release_json;

fn status(change: Value) -> OsStatus {
    let mut status = json!({"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "a", "other": "1.0.0",
        "state": "idle"});
    for (key, value) in change.as_object().unwrap() {
        status[key] = value.clone();
    }
    serde_json::from_value(status).unwrap()
}

fn on_the_way(state: &str, written: u64, to_fetch: u64, full: u64) -> OsStatus {
    status(
        json!({"state": state, "progress": {"method": "patch", "written": written, "total": 200, "fetched": 9_100_000,
        "to_fetch": to_fetch, "full": full, "rate": 1_234_567}}),
    )
}

#[test]
fn progress_is_percent_rate_and_what_was_saved() {
    for (state, written, to_fetch, full, expected) in [
        ("fetching", 124, 3, 100, "62 % 1.2 MB/s, 97 % saved"),
        ("fetching", 0, 3, 100, "0 % 1.2 MB/s, 97 % saved"),
        // Neither is rounded up to all of it.
        ("fetching", 199, 1, 1000, "99 % 1.2 MB/s, 99 % saved"),
        ("fetching", 200, 0, 100, "100 % 1.2 MB/s, 100 % saved"),
        // What a node says need not make sense.
        ("fetching", 900, 900, 100, "100 % 1.2 MB/s, 0 % saved"),
        ("fetching", 2, 1, 0, "1 % 1.2 MB/s"),
        ("fetching", u64::MAX, u64::MAX, u64::MAX, "100 % 1.2 MB/s, 0 % saved"),
        ("failed", 124, 3, 100, "62 %, 97 % saved"),
        ("written", 200, 3, 100, "9.1 MB fetched, 97 % saved"),
        ("armed", 200, 3, 100, "9.1 MB fetched, 97 % saved"),
        ("good", 200, 3, 100, "9.1 MB fetched, 97 % saved"),
        ("idle", 200, 3, 100, ""),
        ("refused", 0, 3, 100, ""),
    ] {
        let said = progress(&on_the_way(state, written, to_fetch, full));
        assert_eq!(said, expected, "{state} {written} {to_fetch} {full}");
    }
    assert_eq!(progress(&status(json!({"state": "fetching"}))), "");
}

fn node(online: bool, desired: Value, status: Value) -> OsNode {
    serde_json::from_value(json!({"node": "n-aaaa000000000000", "hostname": "aaa", "online": online,
        "desired": desired, "status": status}))
    .unwrap()
}

#[test]
fn a_state_is_that_of_what_is_desired() {
    let digest = |text: &str| cairn_model::Digest::of(text.as_bytes());
    let desired = json!({"release": digest("new"), "version": "1.2.0"});
    let said = |version: &str, release: &str, state: &str| {
        json!({"version": version, "compatible": "x", "slot": "a", "other": null, "state": state,
            "release": digest(release)})
    };
    for (online, desired, status, expected) in [
        (true, Value::Null, Value::Null, "not reported"),
        (false, desired.clone(), Value::Null, "not reported, offline"),
        (true, Value::Null, said("1.1.0", "old", "good"), "good"),
        // The node speaks of the update before: it has not heard of this one.
        (true, desired.clone(), said("1.1.0", "old", "good"), "waiting"),
        (false, desired.clone(), said("1.1.0", "old", "idle"), "waiting, offline"),
        (true, desired.clone(), said("1.1.0", "new", "fetching"), "fetching"),
        (false, desired.clone(), said("1.1.0", "new", "armed"), "armed, offline"),
        (true, desired.clone(), said("1.1.0", "new", "rolled-back"), "rolled back"),
        (true, desired.clone(), said("1.2.0", "new", "good"), "good"),
        (true, desired, said("1.2.0", "old", "idle"), "idle"),
    ] {
        assert_eq!(state(&node(online, desired, status.clone())), expected, "{status}");
    }
}

#[test]
fn a_long_detail_is_cut_in_the_table() {
    let mut said =
        json!({"version": "1.1.0", "compatible": "x", "slot": "b", "other": null, "state": "failed"});
    said["detail"] = json!("é".repeat(150));
    let cells = node(true, Value::Null, said).cells(Timestamp::UNIX_EPOCH);
    assert_eq!(cells.len(), OsNode::COLUMNS.len());
    assert_eq!(cells[10].chars().count(), MAX_DETAIL);
    assert!(cells[10].ends_with('…'));
}

#[test]
fn a_health_command_is_shown_as_it_is_run() {
    let check = |command: &[&str], expected: &str| {
        let command: Vec<String> = command.iter().map(|argument| (*argument).to_owned()).collect();
        assert_eq!(health_command(&command), expected);
    };
    check(&[], "none");
    check(&["/usr/bin/check", "--all"], r#""/usr/bin/check" "--all""#);
    // Where one argument ends and the next begins is plain, and nothing is hidden behind the cursor or by direction.
    check(&["sh", "-c", "a b"], r#""sh" "-c" "a b""#);
    check(&["x\u{1b}[2K\r", "\u{202e}y", "\""], r#""x\u{1b}[2K\r" "\u{202e}y" "\"""#);
}

#[test]
fn a_release_is_shown_with_all_that_an_operator_must_know() {
    let release: OsRelease = serde_json::from_value(json!({"digest": format!("sha256:{}", "c".repeat(64)),
        "release": release_json(), "signed": false, "pushed_at": "2026-06-01T11:57:00Z", "desired": 3, "running": 2}))
    .unwrap();
    let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
    let expected = format!(
        "\
Version:          1.2.0
Name:             Cairn 1.2.0
For:              cairn-generic-amd64 (amd64)
Follows:          1.0.0 or newer
Data:             layout 1
Health command:   \"/usr/bin/check\" \"--all\"
Digest:           sha256:{}
Signed:           no; nodes take it after `cairn artifact sign --key FILE`
Built:            3d ago
Pushed:           3m ago
Nodes:            desired on 3, running on 2
Download:         19 B where a node has nothing of it yet
Writes:           268.4 MB root, 12.0 MB kernel

PATCH FROM   SIZE   MEMORY
1.1.0        5 B    96.0 MB

Changelog:
  Faster.
  Safer.
",
        "c".repeat(64)
    );
    let now_detail = release.detail(false, now);
    let built = now_detail.lines().find(|line| line.starts_with("Built:")).unwrap().to_owned();
    assert_eq!(now_detail.replace(&built, "Built:            3d ago"), expected);
    assert!(release.detail(true, now).contains("Root hash:        abab"));
}

#[test]
fn a_block_says_slot_other_slot_and_update() {
    let text = |status: &OsStatus| {
        let (lines, detail) = block(status);
        lines.into_iter().map(|line| line.join(" ")).chain(detail).collect::<Vec<_>>()
    };
    assert_eq!(
        text(&status(json!({}))),
        ["OS: 1.1.0 in slot a (cairn-generic-amd64)", "Other slot: 1.0.0", "OS update: idle"]
    );
    let mut failed = on_the_way("rolled-back", 200, 3, 100);
    failed.target = Some("1.2.0".parse().unwrap());
    failed.other = None;
    failed.detail = Some("web is unhealthy:\n\x1b[2Jpanicked\n".into());
    assert_eq!(
        text(&failed)[1..],
        [
            "Other slot: nothing that can be booted",
            "OS update: rolled back 1.2.0",
            "Progress: 9.1 MB fetched, 97 % saved",
            "web is unhealthy:",
            " [2Jpanicked",
        ]
    );
}
