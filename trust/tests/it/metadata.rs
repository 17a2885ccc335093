//! Attacks on the metadata of one repository.

use cairn_trust::{
    client::{Limits, Refreshed},
    clock::Freshness,
};
use jiff::SignedDuration;
use serde_json::json;

use crate::repository::{Node, Repository, at, day, today};

/// A node that has followed a repository up to version 5.
async fn settled() -> (Repository, Node) {
    let mut repository = Repository::new();
    for name in ["targets", "snapshot", "timestamp"] {
        repository.role(name).version = 5;
    }
    repository.publish();
    let mut node = repository.client();
    assert_eq!(node.refresh(&repository).await.unwrap(), Refreshed::Changed);
    assert_eq!(node.refresh(&repository).await.unwrap(), Refreshed::Unchanged);
    node.reopen();
    (repository, node)
}

#[tokio::test]
async fn rejects_rolled_back_timestamp() {
    let (mut repository, mut node) = settled().await;
    repository.role("timestamp").version = 4;
    repository.publish();
    assert_eq!(node.refused(&repository).await, "rollback");
    node.reopen();
    assert_eq!(node.refused(&repository).await, "rollback");
}

#[tokio::test]
async fn rejects_rolled_back_snapshot() {
    let (mut repository, mut node) = settled().await;
    repository.role("timestamp").version = 6;
    repository.role("snapshot").version = 4;
    repository.publish();
    assert_eq!(node.refused(&repository).await, "rollback");
}

#[tokio::test]
async fn rejects_rolled_back_targets() {
    let (mut repository, mut node) = settled().await;
    repository.bump();
    repository.role("targets").version = 4;
    repository.publish();
    assert_eq!(node.refused(&repository).await, "rollback");
}

#[tokio::test]
async fn rejects_rolled_back_targets_after_an_interrupted_update() {
    // Stolen snapshot and timestamp keys, in two steps: a timestamp is taken while its snapshot is withheld; after a
    // reboot the snapshot that comes must still not roll targets back.
    let (mut repository, mut node) = settled().await;
    repository.bump();
    repository.role("targets").version = 4;
    repository.publish();
    let snapshot = repository.source.files.remove("6.snapshot.json").unwrap();
    node.refresh(&repository).await.unwrap_err();
    node.reopen();
    repository.source.put("6.snapshot.json", snapshot);
    assert_eq!(node.refused(&repository).await, "rollback");
}

#[tokio::test]
async fn rejects_a_snapshot_that_drops_a_role() {
    let (mut repository, mut node) = settled().await;
    repository.role("timestamp").version = 6;
    repository.role("snapshot").version = 6;
    repository.role("snapshot").body["meta"] = json!({});
    repository.publish_snapshot();
    assert_eq!(node.refused(&repository).await, "mix-and-match");
}

#[tokio::test]
async fn rejects_a_root_that_skips_or_repeats_a_version() {
    for version in [1, 3] {
        let (mut repository, mut node) = settled().await;
        repository.role("root").version = version;
        let file = repository.file("root");
        repository.source.put("2.root.json", file);
        assert_eq!(node.refused(&repository).await, "rollback");
    }
}

#[tokio::test]
async fn rejects_frozen_metadata_when_it_expires_and_only_by_policy() {
    let (repository, mut node) = settled().await;
    let refresh = |days| at(day(days));
    node.client.refresh(&repository.source, refresh(6)).await.unwrap();
    let error = node.client.refresh(&repository.source, refresh(8)).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "freeze");
    // Nor does the one-request poll take what is unchanged but stale.
    let error = node.client.poll(&repository.source, refresh(8)).await.unwrap_err();
    assert_eq!(error.attack().unwrap().name(), "freeze");
    // An air-gapped group's policy may.
    let patient = Freshness { grace: SignedDuration::from_hours(24 * 83) };
    node.reopen_with(Limits::default(), patient);
    node.client.refresh(&repository.source, refresh(89)).await.unwrap();
    assert!(node.client.refresh(&repository.source, refresh(91)).await.is_err());
}

#[tokio::test]
async fn rejects_each_role_when_it_alone_has_expired() {
    for role in ["root", "timestamp", "snapshot", "targets"] {
        let mut repository = Repository::new();
        repository.role(role).expires = day(-1);
        repository.publish();
        assert_eq!(repository.client().refused(&repository).await, "freeze", "{role}");
    }
}

#[tokio::test]
async fn rejects_mixed_and_matched_files() {
    // Files of two repositories' states, each well signed, put together.
    for (file, name) in [("6.targets.json", "targets"), ("6.snapshot.json", "snapshot")] {
        let (mut repository, mut node) = settled().await;
        repository.bump();
        repository.publish();
        repository.add_target("targets", "other", b"other");
        repository.role(name).expires = day(6);
        let other = repository.file(name);
        repository.source.put(file, other);
        let error = node.refresh(&repository).await.unwrap_err();
        // A file longer than its pin is cut off as endless before it can be compared.
        assert!(["mix-and-match", "endless-data"].contains(&error.attack().unwrap().name()), "{error:?}");
    }
}

#[tokio::test]
async fn rejects_the_wrong_key_for_each_role() {
    for role in ["timestamp", "snapshot", "targets"] {
        for signers in [vec!["stranger"], vec!["root"], vec![]] {
            let mut repository = Repository::new();
            repository.role(role).signers = signers;
            repository.publish();
            assert_eq!(repository.client().refused(&repository).await, "forgery", "{role}");
        }
    }
}

#[tokio::test]
async fn rejects_a_new_root_without_the_old_or_the_new_keys() {
    for signers in [vec!["root"], vec!["second"], vec!["stranger"]] {
        let mut repository = Repository::new();
        let mut node = repository.client();
        let keys = repository.key_map(&["second", "targets", "snapshot", "timestamp"]);
        repository.role("root").body["keys"] = keys;
        repository.role("root").body["roles"]["root"] = repository.role_keys(&["second"], 1);
        repository.role("root").version = 2;
        repository.role("root").signers = signers;
        repository.publish();
        assert_eq!(node.refused(&repository).await, "forgery");
        repository.role("root").signers = vec!["root", "second"];
        repository.publish();
        node.refresh(&repository).await.unwrap();
    }
}

#[tokio::test]
async fn rejects_metadata_below_its_threshold() {
    let mut repository = Repository::new();
    let keys = repository.key_map(&["root", "targets", "second", "snapshot", "timestamp"]);
    repository.role("root").body["keys"] = keys;
    repository.role("root").body["roles"]["targets"] = repository.role_keys(&["targets", "second"], 2);
    for signers in [vec!["targets"], vec!["second"], vec!["targets", "stranger"]] {
        repository.role("targets").signers = signers;
        repository.publish();
        assert_eq!(repository.client().refused(&repository).await, "forgery");
    }
    // The same signature twice is not two.
    repository.role("targets").signers = vec!["targets"];
    repository.publish();
    let mut file: serde_json::Value = serde_json::from_slice(&repository.file("targets")).unwrap();
    let copy = file["signatures"][0].clone();
    file["signatures"].as_array_mut().unwrap().push(copy);
    let file = file.to_string().into_bytes();
    repository.role("snapshot").body["meta"]["targets.json"] = json!({ "version": 1 });
    repository.source.put("1.targets.json", file);
    repository.publish_snapshot();
    assert_eq!(repository.client().refused(&repository).await, "forgery");
    repository.role("targets").signers = vec!["targets", "second"];
    repository.publish();
    repository.client().refresh(&repository).await.unwrap();
}

#[tokio::test]
async fn rejects_tampered_bytes_in_any_file() {
    for file in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
        let mut repository = Repository::new();
        let bytes = repository.source.files.get_mut(file).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace("2026-06-08", "2026-06-09").into_bytes();
        let attack = repository.client().refused(&repository).await;
        assert!(["forgery", "mix-and-match"].contains(&attack), "{file}: {attack}");
    }
}

#[tokio::test]
async fn rejects_a_root_of_another_repository_under_the_same_key() {
    // One root key may sign both of a fleet's roots; were they interchangeable, the director's online keys could say
    // what is genuine.
    let mut repository = Repository::new();
    repository.role("root").body["x-cairn-repository"] = "artifacts".into();
    repository.publish();
    let mut node = repository.client();
    node.refresh(&repository).await.unwrap();
    repository.role("root").version = 2;
    repository.role("root").body["x-cairn-repository"] = "director".into();
    repository.publish();
    assert_eq!(node.refused(&repository).await, "wrong-repository");
    repository.role("root").body.as_object_mut().unwrap().remove("x-cairn-repository");
    repository.publish();
    assert_eq!(node.refused(&repository).await, "wrong-repository");
}

#[tokio::test]
async fn follows_a_hundred_root_rotations() {
    let mut repository = Repository::new();
    let mut node = repository.client();
    for version in 2..=101 {
        // The key changes each time, so that no rotation can be left out.
        let [old, new] = if version % 2 == 0 { ["root", "second"] } else { ["second", "root"] };
        let keys = repository.key_map(&[new, "targets", "snapshot", "timestamp"]);
        repository.role("root").body["keys"] = keys;
        repository.role("root").body["roles"]["root"] = repository.role_keys(&[new], 1);
        repository.role("root").version = version;
        repository.role("root").signers = vec![old, new];
        repository.publish_snapshot();
    }
    node.refresh(&repository).await.unwrap();
    assert_eq!(node.client.root().version, 101);
    node.reopen();
    assert_eq!(node.client.root().version, 101);
}

#[tokio::test]
async fn recovers_from_stolen_keys_that_signed_a_huge_version() {
    let (mut repository, mut node) = settled().await;
    for name in ["snapshot", "timestamp"] {
        repository.role(name).version = u64::from(u32::MAX);
    }
    repository.publish();
    node.refresh(&repository).await.unwrap();
    // The operators rotate both keys and begin again at 6.
    let keys = repository.key_map(&["root", "targets", "second", "stranger"]);
    repository.role("root").body["keys"] = keys;
    repository.role("root").body["roles"]["snapshot"] = repository.role_keys(&["second"], 1);
    repository.role("root").body["roles"]["timestamp"] = repository.role_keys(&["stranger"], 1);
    repository.role("root").version = 2;
    repository.role("snapshot").signers = vec!["second"];
    repository.role("timestamp").signers = vec!["stranger"];
    for name in ["targets", "snapshot", "timestamp"] {
        repository.role(name).version = 6;
    }
    repository.publish();
    node.refresh(&repository).await.unwrap();
}

#[tokio::test]
async fn a_failed_update_leaves_what_was_trusted_in_force() {
    let (mut repository, mut node) = settled().await;
    repository.bump();
    repository.role("targets").signers = vec!["stranger"];
    repository.publish();
    assert_eq!(node.refused(&repository).await, "forgery");
    node.reopen();
    // What was verified before the failure counts, and nothing is handed out on the half-way state.
    assert!(node.client.find(&repository.source, "first", at(today())).await.is_err());
    repository.role("targets").signers = vec!["targets"];
    repository.bump();
    repository.publish();
    node.refresh(&repository).await.unwrap();
    assert!(node.client.find(&repository.source, "first", at(today())).await.unwrap().is_some());
}
