//! A hub that was restored from an older backup, and nodes that have dropped what it had acknowledged before.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    real::{RealHub, receipt},
    run::Ran,
};

fn import(hub: &RealHub, stick: &Path, more: &[&str]) -> Ran {
    hub.run(&[&["usb", "import", stick.to_str().unwrap()], more].concat())
}

/// `(stored, known, given up, acknowledged)` of each node, by host name.
fn counts(text: &str) -> Vec<(String, [u64; 4])> {
    let answer: Value = serde_json::from_str(text).unwrap();
    let count = |node: &Value, key: &str| node[key].as_u64().unwrap();
    let mut counts: Vec<_> = answer["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let host = node["hostname"].as_str().unwrap().to_owned();
            (host, ["stored", "known", "given_up", "acknowledged"].map(|key| count(node, key)))
        })
        .collect();
    counts.sort();
    counts
}

#[test]
fn missing_reports_are_given_up_only_when_an_operator_says_so() {
    let hub = RealHub::start();
    let stick = tempfile::tempdir().unwrap();
    let dir = stick.path();
    let (restored, sound) = (hub.member("edge1"), hub.member("edge2"));
    // What the hub had of edge1 up to 10 went with its disk. A second gap is none that a backup explains.
    for sequence in [11, 12, 15] {
        restored.report(dir, sequence);
    }
    for sequence in 1..=3 {
        sound.report(dir, sequence);
    }
    let ran = import(&hub, dir, &["-o", "json"]).fails(
        4,
        &[
            "reports 11 to 15 cannot be taken yet",
            "reports 1 to 10 must come first",
            "cairn usb import --accept-gap",
        ],
    );
    let (edge1, edge2) = ("edge1".to_owned(), "edge2".to_owned());
    assert_eq!(counts(&ran.out), [(edge1.clone(), [0, 0, 0, 0]), (edge2.clone(), [3, 0, 0, 3])]);
    // Given up once, by name and number; the second gap stays one.
    let ran = import(&hub, dir, &["--accept-gap"]).fails(
        4,
        &[
            "10 missing reports of",
            "(edge1) are given up",
            "report 15 cannot be taken yet",
            "reports 13 to 14 must come",
        ],
    );
    assert!(ran.out.contains("GIVEN UP"), "{ran:?}");
    let audit = hub.run(&["audit", "ls", "-o", "json"]).ok();
    assert!(audit.contains("given_up"), "{audit}");
    // All that follows is as ever: exactly once, and the hub's word is for what it has.
    for sequence in 13..=14 {
        restored.report(dir, sequence);
    }
    let answer = import(&hub, dir, &["-o", "json"]).ok();
    assert_eq!(counts(&answer), [(edge1.clone(), [3, 2, 0, 15]), (edge2.clone(), [0, 3, 0, 3])]);
    let answer = import(&hub, dir, &["--accept-gap", "-o", "json"]).ok();
    assert_eq!(counts(&answer), [(edge1, [0, 5, 0, 15]), (edge2, [0, 3, 0, 3])]);
    hub.run(&["usb", "export", dir.to_str().unwrap(), "--node", "edge1", "--yes"]).ok();
    assert_eq!(receipt(dir)["nodes"][0]["acknowledged"], json!(15));
}
