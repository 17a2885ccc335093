//! Every refusal of a release, and what is picked where none applies.

use std::collections::BTreeMap;

use cairn_model::{
    Facts, NodeId, Release,
    media::Freshness,
    release::{Chunks, DataLayout, Payload, Verity},
    report::{NodeStatus, Slot},
};

use super::*;
use crate::store::NodeState;

fn payload(text: &str) -> Payload {
    Payload { digest: Digest::of(text.as_bytes()), size: 4096 }
}

fn release(version: &str, compatible: &str, arch: &str) -> ReleaseRow {
    let release = Release {
        schema: 1,
        version: version.parse().unwrap(),
        compatible: compatible.to_owned(),
        arch: arch.to_owned(),
        min_version: None,
        changelog: String::new(),
        name: "Cairn".to_owned(),
        built: 0,
        data_layout: DataLayout { min: 1, max: 1 },
        root: payload("root"),
        uki: payload("uki"),
        verity: Verity { root_hash: "0".repeat(64), salt: String::new(), uuid: "0".repeat(32) },
        chunks: Chunks { index: payload("index"), pack: payload("pack") },
        patches: Vec::new(),
        health_command: Vec::new(),
    };
    let digest = Digest::of(format!("{version} {compatible} {arch}").as_bytes());
    ReleaseRow { digest, release, pushed_at: 0 }
}

fn status(version: &str) -> OsStatus {
    OsStatus {
        version: version.parse().unwrap(),
        compatible: "board".to_owned(),
        slot: Slot::A,
        other: None,
        state: OsState::Idle,
        release: None,
        target: None,
        progress: None,
        detail: None,
    }
}

fn node(os: Option<OsStatus>) -> NodeRow {
    NodeRow {
        id: NodeId::of_public_key(&[1; 32]),
        public_key: String::new(),
        state: NodeState::Approved,
        labels: BTreeMap::new(),
        facts: Facts { arch: "amd64".to_owned(), ..Facts::default() },
        enrolled_at: 0,
        last_seen: None,
        heard_by: None,
        freshness: Freshness::default(),
        acknowledged: 0,
        status: Some(NodeStatus { generation: 0, workloads: vec![], problems: vec![], os }),
        generation: 0,
    }
}

#[test]
fn a_node_gets_what_is_for_it_and_nothing_else() {
    let check = |offers: &[&ReleaseRow], running: &str, downgrade: bool, expected: Result<usize, &str>| {
        let got = choose(offers, &node(Some(status(running))), downgrade, |_| true);
        match (got, expected) {
            (Ok(row), Ok(index)) => assert_eq!(row.digest, offers[index].digest),
            (Err(Misfit::Ambiguous(text) | Misfit::Refused(text)), Err(part)) => {
                assert!(text.contains(part) && text.contains(';'), "{text}");
            }
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    };
    let fitting = release("2", "board", "amd64");
    let (other, arm) = (release("2", "other", "amd64"), release("2", "board", "arm64"));
    check(&[&fitting], "1", false, Ok(0));
    check(&[&fitting], "2", false, Ok(0));
    check(&[&other, &fitting, &arm], "1", false, Ok(1));
    check(&[&other, &arm], "1", false, Err("for \"board\" on arm64, \"other\" on amd64"));
    let mut twin = fitting.clone();
    twin.digest = Digest::of(b"twin");
    check(&[&fitting, &twin], "1", false, Err(twin.digest.as_str()));
    check(&[&fitting], "10", false, Err("older than 10"));
    check(&[&fitting], "2.1", false, Err("--allow-downgrade"));
    check(&[&fitting], "10", true, Ok(0));
    let mut late = fitting.clone();
    late.release.min_version = Some("1.5".parse().unwrap());
    check(&[&late], "1.4", false, Err("reached from 1.5 on"));
    check(&[&late], "1.5", false, Ok(0));
}

#[test]
fn refuses_unsigned_releases_and_nodes_without_slots() {
    let fitting = release("2", "board", "amd64");
    let unsigned = choose(&[&fitting], &node(Some(status("1"))), true, |_| false);
    assert!(matches!(unsigned, Err(Misfit::Refused(text)) if text.contains("cairn artifact sign")));
    for node in [node(None), NodeRow { status: None, ..node(None) }] {
        let got = choose(&[&fitting], &node, true, |_| true);
        assert!(matches!(got, Err(Misfit::Refused(text)) if text.contains("has not said which OS")));
    }
}

#[test]
fn a_release_is_named_by_version_or_digest() {
    let row = release("2.0", "board", "amd64");
    for (text, names) in [("2.0", true), (row.digest.as_str(), true), ("2", false), ("2.00", false)] {
        assert_eq!(Wanted::parse(text).unwrap().names(&row), names, "{text}");
    }
    for bad in ["", "latest", "sha256:12", "2_0", &"2".repeat(10_000)] {
        let error = Wanted::parse(bad).unwrap_err();
        assert!(error.contains(';') && error.len() < 400, "{error}");
    }
}

#[test]
fn what_runs_is_known_by_version_until_the_node_knows_better() {
    let row = release("2", "board", "amd64");
    assert!(runs(&node(Some(status("2"))), &row));
    assert!(!runs(&node(Some(status("1"))), &row));
    assert!(!runs(&node(None), &row));
    let other = Some(Digest::of(b"twin"));
    assert!(!runs(
        &node(Some(OsStatus { state: OsState::Good, release: other.clone(), ..status("2") })),
        &row
    ));
    // What is being fetched says nothing of what runs.
    assert!(runs(&node(Some(OsStatus { state: OsState::Fetching, release: other, ..status("2") })), &row));
}

#[test]
fn refuses_policies_that_no_node_could_follow() {
    let window = |windows: &[&str], zone: &str| RebootPolicy::Window {
        windows: windows.iter().map(|window| (*window).to_owned()).collect(),
        time_zone: zone.to_owned(),
    };
    let check = |reboot: RebootPolicy, deadline_seconds: u32, expected: Option<&str>| {
        let got = check_policies(&reboot, &OsHealth { deadline_seconds, hub: true });
        match (got, expected) {
            (Ok(()), None) => {}
            (Err(text), Some(part)) => assert!(text.contains(part) && text.contains(';'), "{text}"),
            (got, expected) => panic!("{reboot:?}: {got:?}, expected {expected:?}"),
        }
    };
    check(RebootPolicy::AtOnce, 600, None);
    check(RebootPolicy::Manual, 0, Some("0 seconds"));
    check(RebootPolicy::Manual, 86_401, Some("not within"));
    check(window(&["Mon..Fri 22:00-04:00", "Sat,Sun 00:00-24:00"], "Europe/Berlin"), 1, None);
    check(window(&["22:00-04:00"], "UTC"), 1, None);
    check(window(&[], "UTC"), 1, Some("0 maintenance windows"));
    check(window(&["22:00-04:00"; 33], "UTC"), 1, Some("33 maintenance windows"));
    check(window(&["22:00-04:00", "tonight"], "UTC"), 1, Some("tonight"));
    let days = "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday,Monday 22:00-04:00";
    check(window(&[days], "UTC"), 1, Some("over 64 bytes"));
    for zone in ["", "Europe/Nowhere", "../etc/passwd", "Mars", &"x".repeat(10_000)] {
        check(window(&["22:00-04:00"], zone), 1, Some("is no time zone"));
    }
}
