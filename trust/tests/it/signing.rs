//! What the hub and the operators publish, and that nodes can follow it through all that happens to keys and time.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use cairn_model::id::Digest;
use cairn_trust::{
    client::Limits,
    keys::KeyPair,
    node::Update,
    sign::{
        Artifacts, Director, HubKeys, Lifetimes, RoleName, RootChange, SignError, TargetEntry, next_root,
        rotate_root, sign_file,
    },
};
use jiff::Timestamp;

use crate::{
    fleet::{Hub, Member, desired_state, entry},
    repository::{at, day, today},
    stick::version,
};

#[test]
fn timestamps_are_signed_anew_only_when_asked_for_and_due() {
    let hub = Hub::new();
    let node = Member::of(&hub).id;
    hub.deploy(&node, 1, &[]);
    let director =
        |now: Timestamp| version(&hub.director.file(&hub.keys, &node, "timestamp.json", now).unwrap());
    let artifacts = |now: Timestamp| version(&hub.artifacts.file(&hub.keys, "timestamp.json", now).unwrap());
    assert_eq!((director(today()), director(day(3)), director(day(4)), director(day(4))), (1, 1, 2, 2));
    assert_eq!((artifacts(today()), artifacts(day(3)), artifacts(day(4)), artifacts(day(4))), (1, 1, 2, 2));
    // A hub whose clock was set back signs anew, so that nodes do not stay with a time that never was.
    assert_eq!((director(today()), artifacts(today())), (3, 3));
}

#[tokio::test]
async fn a_hub_that_runs_for_years_keeps_every_role_fresh() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, &[app]);
    for days in (0..800).step_by(40) {
        hub.director.file(&hub.keys, &member.id, "timestamp.json", day(days)).unwrap();
        hub.artifacts.file(&hub.keys, "timestamp.json", day(days)).unwrap();
        let (director, artifacts) = hub.serve(&member.id);
        let update = member.verifier.update(&director, &artifacts, at(day(days)), 0).await;
        assert!(matches!(update, Ok(Update::Verified(_))), "day {days}: {update:?}");
    }
}

#[tokio::test]
async fn nodes_follow_when_every_key_of_the_fleet_is_replaced() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, std::slice::from_ref(&app));
    member.update(&hub, 0).await.unwrap();

    let new = HubKeys::generate().unwrap();
    let change = |pairs: [(RoleName, &KeyPair, &KeyPair); 4]| RootChange {
        add: pairs.iter().map(|(role, _, new)| (*role, new.public())).collect(),
        remove: pairs.iter().map(|(role, old, _)| (*role, old.public().tuf_key_id())).collect(),
        thresholds: Vec::new(),
    };
    let (old_root, new_root) = (hub.keys.root.as_ref().unwrap(), new.root.as_ref().unwrap());
    let director = change([
        (RoleName::Root, old_root, new_root),
        (RoleName::Targets, &hub.keys.director_targets, &new.director_targets),
        (RoleName::Snapshot, &hub.keys.director_snapshot, &new.director_snapshot),
        (RoleName::Timestamp, &hub.keys.director_timestamp, &new.director_timestamp),
    ]);
    let (old_targets, new_targets) =
        (hub.keys.artifacts_targets.as_ref().unwrap(), new.artifacts_targets.as_ref().unwrap());
    let artifacts = change([
        (RoleName::Root, old_root, new_root),
        (RoleName::Targets, old_targets, new_targets),
        (RoleName::Snapshot, &hub.keys.artifacts_snapshot, &new.artifacts_snapshot),
        (RoleName::Timestamp, &hub.keys.artifacts_timestamp, &new.artifacts_timestamp),
    ]);
    let signers = [old_root, new_root];
    let root = rotate_root(&hub.director.root_json(), &director, &signers, day(3650)).unwrap();
    hub.director.accept_root(&root).unwrap();
    let root = rotate_root(&hub.artifacts.root_json(), &artifacts, &signers, day(3650)).unwrap();
    hub.artifacts.accept_root(&new, &root, today()).unwrap();
    // The old keys are of no use any more, and say so.
    let old = hub.director.publish(&hub.keys, &member.id, 2, b"{}", &[], today());
    assert!(matches!(old, Err(SignError::KeyNotInRoot { .. })));

    let hub = Hub { keys: new, ..hub };
    // The node's director files are signed anew as it asks, without a new deployment.
    hub.director.file(&hub.keys, &member.id, "timestamp.json", today()).unwrap();
    assert!(matches!(member.update(&hub, 0).await.unwrap(), Update::Verified(_)));
    hub.deploy(&member.id, 2, &[app]);
    assert!(matches!(member.update(&hub, 1).await.unwrap(), Update::Verified(_)));
}

#[test]
fn a_rotation_without_enough_signatures_is_not_published() {
    let hub = Hub::new();
    let (root, stranger) = (hub.keys.root.as_ref().unwrap(), KeyPair::generate().unwrap());
    let add = RootChange { add: vec![(RoleName::Root, stranger.public())], ..RootChange::default() };
    let raise = RootChange { thresholds: vec![(RoleName::Root, 2)], ..add.clone() };
    let old = hub.director.root_json();
    assert!(rotate_root(&old, &add, &[&stranger], day(9)).is_err());
    assert!(rotate_root(&old, &raise, &[root], day(9)).is_err());
    let lonely = RootChange { thresholds: vec![(RoleName::Root, 2)], ..RootChange::default() };
    assert!(next_root(&old, &lonely, day(9)).is_err());
    // A ceremony: one operator after the other.
    let half = sign_file(&next_root(&old, &raise, day(9)).unwrap(), &[root]).unwrap();
    assert!(hub.director.accept_root(&half).is_err());
    hub.director.accept_root(&sign_file(&half, &[&stranger]).unwrap()).unwrap();
    assert_eq!(version(&hub.director.root_json()), 2);
    // The other repository's root is not taken for this one's.
    let foreign = rotate_root(&hub.artifacts.root_json(), &add, &[root], day(9)).unwrap();
    assert!(hub.director.accept_root(&foreign).is_err());
}

#[tokio::test]
async fn targets_can_be_signed_where_the_operators_keep_their_key() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    let path = hub.folder.path().join("keys/artifacts-targets.pem");
    let offline = KeyPair::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(hub.folder.path().join("keys/root.pem")).unwrap();
    let hub = Hub { keys: HubKeys::load(&hub.folder.path().join("keys")).unwrap(), ..hub };

    let refused = hub.artifacts.add(&hub.keys, &[entry(b"app")], today()).unwrap_err();
    assert!(matches!(refused, SignError::KeyOffline { .. }));
    assert!(refused.to_string().contains("cairn artifact sign"), "{refused}");
    let unsigned = hub.artifacts.unsigned_targets(&[entry(b"app")], today()).unwrap();
    assert!(hub.artifacts.accept_targets(&hub.keys, &unsigned, today()).is_err());
    let signed = sign_file(&unsigned, &[&offline]).unwrap();
    let tampered = String::from_utf8(signed.clone()).unwrap().replace("\"length\":3", "\"length\":4");
    assert!(hub.artifacts.accept_targets(&hub.keys, tampered.as_bytes(), today()).is_err());
    hub.artifacts.accept_targets(&hub.keys, &signed, today()).unwrap();
    let again = hub.artifacts.accept_targets(&hub.keys, &signed, today());
    assert!(matches!(again, Err(SignError::WrongVersion { .. })));
    hub.deploy(&member.id, 1, &[entry(b"app")]);
    assert!(matches!(member.update(&hub, 0).await.unwrap(), Update::Verified(_)));
}

#[tokio::test]
async fn targets_signed_elsewhere_are_renewed_though_nothing_is_new() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, std::slice::from_ref(&app));
    let path = hub.folder.path().join("keys/artifacts-targets.pem");
    let offline = KeyPair::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let hub = Hub { keys: HubKeys::load(&hub.folder.path().join("keys")).unwrap(), ..hub };

    let due = |days| hub.artifacts.targets_due(day(days));
    assert_eq!((due(0), due(180), due(190), due(400)), (false, false, true, true));
    let unsigned = hub.artifacts.unsigned_targets(&[], day(190)).unwrap();
    let signed = sign_file(&unsigned, &[&offline]).unwrap();
    hub.artifacts.accept_targets(&hub.keys, &signed, day(190)).unwrap();
    assert_eq!((due(190), due(400)), (false, true));
    hub.director.file(&hub.keys, &member.id, "timestamp.json", day(370)).unwrap();
    hub.artifacts.file(&hub.keys, "timestamp.json", day(370)).unwrap();
    let (director, artifacts) = hub.serve(&member.id);
    let update = member.verifier.update(&director, &artifacts, at(day(370)), 0).await;
    assert!(matches!(update, Ok(Update::Verified(_))), "a year later: {update:?}");
}

#[test]
fn targets_that_nodes_would_not_read_are_not_published() {
    let hub = Hub::new();
    let limit = usize::try_from(Limits::default().targets).unwrap() / 16 * 15;
    let mut signed = hub.artifacts.file(&hub.keys, "1.targets.json", today()).unwrap();
    signed.resize(limit + 1, b' ');
    let refused = hub.artifacts.accept_targets(&hub.keys, &signed, today()).unwrap_err();
    assert!(matches!(refused, SignError::Full { .. }), "{refused}");
    let name = "n".repeat(512);
    let entry = |i: usize| TargetEntry::new(Digest::of(&i.to_le_bytes()), 1).name(&name);
    let many: Vec<_> = (0..limit / 512).map(entry).collect();
    let refused = hub.artifacts.add(&hub.keys, &many, today()).unwrap_err();
    assert!(matches!(refused, SignError::Full { .. }), "{refused}");
    hub.push(b"app");
    assert_eq!(hub.artifacts.entries().len(), 1);
}

#[test]
fn pushing_the_same_artifact_again_signs_nothing() {
    let hub = Hub::new();
    let entry = hub.push(b"app");
    let before = hub.artifacts.file(&hub.keys, "timestamp.json", today()).unwrap();
    hub.push(b"app");
    assert_eq!(hub.artifacts.file(&hub.keys, "timestamp.json", today()).unwrap(), before);
    assert!(hub.artifacts.contains(&entry.digest));
    let reopened = Artifacts::open(&hub.folder.path().join("artifacts"), Lifetimes::default()).unwrap();
    assert_eq!(reopened.entries(), hub.artifacts.entries());
    assert_eq!(reopened.entries().len(), 1);
}

#[tokio::test]
async fn a_hub_killed_between_two_files_serves_the_old_state_and_goes_on() {
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    hub.deploy(&member.id, 1, &[]);
    let old = hub.folder.path().join("director").join(member.id.as_str()).join("timestamp.json");
    let before = std::fs::read(&old).unwrap();
    hub.deploy(&member.id, 2, &[]);
    // As if the power had gone before the last rename.
    std::fs::write(&old, &before).unwrap();
    let Update::Verified(bundle) = member.update(&hub, 0).await.unwrap() else { panic!("nothing") };
    assert_eq!(bundle.generation, 1);
    let director = Director::open(&hub.folder.path().join("director"), Lifetimes::default()).unwrap();
    let hub = Hub { director, ..hub };
    hub.deploy(&member.id, 3, &[]);
    let Update::Verified(bundle) = member.update(&hub, 1).await.unwrap() else { panic!("nothing") };
    assert_eq!(bundle.generation, 3);
}

#[test]
fn only_files_of_the_repository_are_served() {
    let hub = Hub::new();
    let node = Member::of(&hub).id;
    hub.deploy(&node, 1, &[]);
    let director = |name: &str| hub.director.file(&hub.keys, &node, name, today());
    for good in ["1.root.json", "timestamp.json", "1.targets.json", "1.snapshot.json"] {
        director(good).unwrap();
    }
    let long = "9".repeat(4000);
    for bad in [
        "",
        ".",
        "..",
        "../1.root.json",
        "2.root.json",
        "root.json",
        "targets/x",
        "targets/../1.root.json",
        "/etc/passwd",
        "1.targets.json/",
        "-1.targets.json",
        "+1.targets.json",
        "1.timestamp.json",
        &long,
    ] {
        assert!(matches!(director(bad), Err(SignError::NoSuchFile { .. })), "{bad}");
        assert!(
            matches!(hub.artifacts.file(&hub.keys, bad, today()), Err(SignError::NoSuchFile { .. })),
            "{bad}"
        );
    }
    // A node for which nothing was published has no timestamp yet.
    let stranger = Member::of(&hub).id;
    let none = hub.director.file(&hub.keys, &stranger, "timestamp.json", today());
    assert!(matches!(none, Err(SignError::NoSuchFile { .. })));
}

#[test]
fn old_versions_are_cleared_away() {
    let hub = Hub::new();
    let node = Member::of(&hub).id;
    for generation in 1..=30 {
        hub.deploy(&node, generation, &[]);
    }
    let folder = hub.folder.path().join("director").join(node.as_str());
    let metadata =
        std::fs::read_dir(&folder).unwrap().filter(|f| f.as_ref().unwrap().path().is_file()).count();
    assert!(metadata <= 17, "{metadata}");
    let documents = std::fs::read_dir(folder.join("targets")).unwrap().count();
    assert!(documents <= 8, "{documents}");
}

#[test]
fn what_was_just_published_stays_after_the_clock_was_set_back() {
    let hub = Hub::new();
    let node = Member::of(&hub).id;
    for generation in 1..=8 {
        hub.deploy(&node, generation, &[]);
    }
    let folder = hub.folder.path().join("director").join(node.as_str()).join("targets");
    let future = SystemTime::now() + Duration::from_secs(3600);
    for document in std::fs::read_dir(&folder).unwrap() {
        let file = File::options().write(true).open(document.unwrap().path()).unwrap();
        file.set_modified(future).unwrap();
    }
    hub.deploy(&node, 9, &[]);
    let wish = serde_json::to_vec(&desired_state(&node, 9, &[])).unwrap();
    let name = format!("targets/{}.desired-state.json", Digest::of(&wish).hex());
    assert_eq!(hub.director.file(&hub.keys, &node, &name, today()).unwrap(), wish);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 8);
}

#[test]
fn initialising_twice_changes_nothing() {
    let hub = Hub::new();
    hub.push(b"app");
    let (director, artifacts) = (hub.director.root_json(), hub.artifacts.root_json());
    let lifetimes = Lifetimes::default();
    let again = Director::init(&hub.folder.path().join("director"), &hub.keys, lifetimes, today()).unwrap();
    assert_eq!(again.root_json(), director);
    let again = Artifacts::init(&hub.folder.path().join("artifacts"), &hub.keys, lifetimes, today()).unwrap();
    assert_eq!(again.root_json(), artifacts);
    assert_eq!(again.entries().len(), 1);
}

#[test]
fn keys_taken_offline_are_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let made = HubKeys::load_or_generate(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("root.pem")).unwrap();
    let again = HubKeys::load_or_generate(folder.path()).unwrap();
    assert!(again.root.is_none());
    assert_eq!(again.director_targets.public(), made.director_targets.public());
    // An interrupted making goes on.
    std::fs::remove_file(folder.path().join("artifacts-timestamp.pem")).unwrap();
    let again = HubKeys::load_or_generate(folder.path()).unwrap();
    assert!(again.root.is_some());
    assert_eq!(again.director_targets.public(), made.director_targets.public());
    // Online keys must be there.
    std::fs::remove_file(folder.path().join("director-targets.pem")).unwrap();
    assert!(HubKeys::load_or_generate(folder.path()).is_err());
}
