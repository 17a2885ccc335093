//! Anti-rollback state that is torn or missing is refused with a cure, and never reset.

use cairn_model::error::chain;
use cairn_trust::node::Verifier;

use crate::{
    fleet::{Hub, Member},
    repository::today,
};

#[tokio::test]
async fn refuses_torn_or_missing_anti_rollback_state_and_names_the_cure() {
    let hub = Hub::new();
    let app = hub.push(b"app");
    for repository in ["director", "artifacts"] {
        for victim in ["trusted.state", "root.json", "timestamp.json", "snapshot.json", "targets.json"] {
            for damage in ["torn", "missing", "empty"] {
                let mut member = Member::of(&hub);
                hub.deploy(&member.id, 1, std::slice::from_ref(&app));
                member.update(&hub, 0).await.unwrap();
                let path = member.folder.path().join(repository).join(victim);
                let bytes = std::fs::read(&path).unwrap();
                match damage {
                    "torn" => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                    "empty" => std::fs::write(&path, b"").unwrap(),
                    _ => std::fs::remove_file(&path).unwrap(),
                }
                let error = Verifier::open(member.folder.path(), member.id.clone()).unwrap_err();
                let text = chain(&error);
                assert!(text.contains("enrol the node again"), "{repository}/{victim} {damage}: {text}");
                assert!(text.contains(repository), "{text}");
                // Pinning the same roots again does not reset it either.
                let roots = (hub.director.first_root().unwrap(), hub.artifacts.first_root().unwrap());
                assert!(Verifier::init(member.folder.path(), &roots.0, &roots.1).is_err());
            }
        }
    }
}

#[tokio::test]
async fn a_lost_state_folder_is_not_a_fresh_node() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::new();
    let id = Member::of(&hub).id;
    let text = chain(&Verifier::open(folder.path(), id).unwrap_err());
    assert!(text.contains("enrol the node again"), "{text}");
}

#[tokio::test]
async fn pinning_garbage_or_a_second_fleet_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, other) = (Hub::new(), Hub::new());
    let roots = |hub: &Hub| (hub.director.first_root().unwrap(), hub.artifacts.first_root().unwrap());
    let (director, artifacts) = roots(&hub);
    assert!(Verifier::init(folder.path(), &director, b"{}").is_err());
    assert!(!folder.path().join("director").exists());
    Verifier::init(folder.path(), &director, &artifacts).unwrap();
    Verifier::init(folder.path(), &director, &artifacts).unwrap();
    let (director, artifacts) = roots(&other);
    assert!(Verifier::init(folder.path(), &director, &artifacts).is_err());
}

#[tokio::test]
async fn what_was_trusted_survives_a_reboot_without_any_source() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    hub.deploy(&member.id, 5, &[]);
    member.update(&hub, 0).await.unwrap();
    let reopened = Verifier::open(member.folder.path(), member.id.clone()).unwrap();
    let clock = cairn_trust::clock::Clock { system: jiff::Timestamp::UNIX_EPOCH, os_build: None };
    assert_eq!(reopened.believed_time(clock), today());
}
