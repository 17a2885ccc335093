//! Sticks as an attacker prepares them: he has every file that the hub ever signed, and no key.

use std::{fs, os::unix::fs::symlink};

use cairn_model::media::{ARTIFACTS, Freshness};
use cairn_trust::{
    clock::Clock,
    node::{Update, Verifier},
    sign::{RoleName, RootChange, rotate_root},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    fleet::{Hub, Member, entry},
    repository::{at, day, today},
    stick::Stick,
};

const QUARTER: Freshness = Freshness::AIR_GAPPED;

/// A hub that has rotated its roots once, a member that was never visited, and its stick.
fn prepared() -> (Hub, Member, Stick) {
    let hub = Hub::new();
    let member = Member::of(&hub);
    rotate(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, &[app]);
    let stick = Stick::empty();
    stick.export(&hub, &member.id, 5, QUARTER, today());
    (hub, member, stick)
}

/// New versions of both roots.
fn rotate(hub: &Hub) {
    let root = hub.keys.root.as_ref().unwrap();
    let change = RootChange { thresholds: vec![(RoleName::Root, 1)], ..RootChange::default() };
    let next = rotate_root(&hub.director.root_json(), &change, &[root], day(3650)).unwrap();
    hub.director.accept_root(&next).unwrap();
    let next = rotate_root(&hub.artifacts.root_json(), &change, &[root], day(3650)).unwrap();
    hub.artifacts.accept_root(&hub.keys, &next, today()).unwrap();
}

/// Every file that the node reads, in the order in which it does.
fn files(stick: &Stick, member: &Member) -> Vec<String> {
    let director = stick.director(&member.id);
    let metadata = |folder: &str| {
        [
            format!("{folder}/2.root.json"),
            format!("{folder}/timestamp.json"),
            stick.newest(folder, "snapshot.json"),
            stick.newest(folder, "targets.json"),
        ]
    };
    let wish = fs::read_dir(stick.path(&format!("{director}/targets"))).unwrap().next().unwrap().unwrap();
    let wish = format!("{director}/targets/{}", wish.file_name().to_str().unwrap());
    metadata(&director).into_iter().chain(metadata(ARTIFACTS)).chain([wish]).collect()
}

/// That `change` to any one file is refused, and that the node takes the stick once it's undone. What comes before the
/// file is genuine and trusted by then; what comes after it was never read.
async fn check_each(change: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let (_hub, mut member, stick) = prepared();
    for file in files(&stick, &member) {
        let genuine = stick.get(&file);
        for bytes in change(&genuine) {
            assert_ne!(bytes, genuine);
            stick.put(&file, &bytes);
            let update = member.visit(&stick, at(today()), 0).await;
            assert!(update.is_err(), "{file}: {update:?}");
        }
        stick.put(&file, &genuine);
    }
    assert_eq!(member.takes(&stick, at(today()), 0).await.generation, 1);
    assert_eq!(member.verifier.acknowledged(), Some(5));
}

#[tokio::test]
async fn rejects_a_flipped_byte_in_any_file() {
    check_each(|genuine| {
        let flipped = |at: usize| {
            let mut bytes = genuine.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        (0..genuine.len()).step_by(7).map(flipped).collect()
    })
    .await;
}

#[tokio::test]
async fn rejects_truncated_files() {
    check_each(|genuine| {
        let lengths = [0, 1, genuine.len() / 2, genuine.len() - 1];
        lengths.iter().map(|length| genuine[..*length].to_vec()).collect()
    })
    .await;
}

#[tokio::test]
async fn rejects_files_that_are_zeros_as_after_a_pulled_stick() {
    check_each(|genuine| {
        vec![vec![0; genuine.len()], [&genuine[..genuine.len() / 2], &vec![0; 4096]].concat()]
    })
    .await;
}

#[tokio::test]
async fn rejects_oversized_files_without_reading_them() {
    let (_hub, mut member, stick) = prepared();
    for file in files(&stick, &member) {
        let genuine = stick.get(&file);
        fs::File::options().write(true).open(stick.path(&file)).unwrap().set_len(4 << 40).unwrap();
        let (attack, said) = member.refuses(&stick, at(today())).await;
        assert_eq!(attack, "endless-data", "{file}: {said}");
        stick.put(&file, &genuine);
    }
    member.takes(&stick, at(today()), 0).await;
}

#[tokio::test]
async fn missing_files_are_no_attack_and_are_named() {
    let (_hub, mut member, stick) = prepared();
    for file in files(&stick, &member).into_iter().filter(|file| !file.ends_with("root.json")) {
        let genuine = stick.get(&file);
        fs::remove_file(stick.path(&file)).unwrap();
        let (attack, said) = member.refuses(&stick, at(today())).await;
        assert_eq!(attack, "no attack", "{file}: {said}");
        assert!(said.contains(file.rsplit('/').next().unwrap()), "{said}");
        stick.put(&file, &genuine);
    }
    member.takes(&stick, at(today()), 0).await;
}

#[tokio::test]
async fn rejects_links_in_the_place_of_files() {
    let (_hub, mut member, stick) = prepared();
    // The content would be right: it's the link that is refused.
    for file in files(&stick, &member) {
        let aside = stick.path("aside");
        fs::rename(stick.path(&file), &aside).unwrap();
        symlink(&aside, stick.path(&file)).unwrap();
        let (attack, said) = member.refuses(&stick, at(today())).await;
        assert_eq!(attack, "malformed", "{file}: {said}");
        assert!(said.contains("symbolic link"), "{said}");
        fs::rename(&aside, stick.path(&file)).unwrap();
    }
    let folder = stick.path(ARTIFACTS);
    fs::rename(&folder, stick.path("moved")).unwrap();
    symlink(stick.path("moved"), &folder).unwrap();
    assert_eq!(member.refuses(&stick, at(today())).await.0, "malformed");
}

#[tokio::test]
async fn rejects_another_nodes_files_under_this_nodes_name() {
    let (hub, mut member, stick) = prepared();
    let other = Member::of(&hub);
    for generation in 1..=9 {
        hub.deploy(&other.id, generation, &[entry(b"app")]);
    }
    let foreign = Stick::empty();
    foreign.export(&hub, &other.id, u64::MAX, QUARTER, today());
    foreign.copy(&foreign, &foreign.director(&other.id), &foreign.director(&member.id));
    let (attack, said) = member.refuses(&foreign, at(today())).await;
    assert_eq!(attack, "wrong-node");
    assert!(said.contains(other.id.as_str()), "{said}");
    // Its higher versions and its acknowledgement were not taken for this node's.
    assert_eq!(member.verifier.acknowledged(), None);
    member.takes(&stick, at(today()), 0).await;
    assert_eq!(member.verifier.acknowledged(), Some(5));
    // With this node's timestamp over another's targets it's no better.
    for kind in ["snapshot.json", "targets.json"] {
        stick.export(&hub, &member.id, 5, QUARTER, today());
        let theirs = foreign.get(&foreign.newest(&foreign.director(&other.id), kind));
        stick.put(&stick.newest(&stick.director(&member.id), kind), &theirs);
        // Where theirs is longer than what the timestamp pins, it's not even read to its end.
        let attack = member.refuses(&stick, at(today())).await.0;
        assert!(attack == "mix-and-match" || attack == "endless-data", "{kind}: {attack}");
    }
}

#[tokio::test]
async fn rejects_the_stick_of_another_fleet() {
    let (_hub, mut member, stick) = prepared();
    let strangers = Hub::new();
    strangers.deploy(&member.id, 7, &[]);
    let foreign = Stick::of(&strangers, &member.id, QUARTER, today());
    assert_eq!(member.refuses(&foreign, at(today())).await.0, "forgery");
    // Only one of the repositories is the other fleet's.
    for (mine, theirs) in [
        (stick.director(&member.id), ARTIFACTS.to_owned()),
        (ARTIFACTS.to_owned(), stick.director(&member.id)),
    ] {
        let mixed = Stick::empty();
        mixed.copy(&stick, &mine, &mine);
        mixed.copy(&foreign, &theirs, &theirs);
        let mut fresh = again(&member);
        assert_eq!(fresh.refuses(&mixed, at(today())).await.0, "forgery", "{theirs}");
    }
    member.takes(&stick, at(today()), 0).await;
}

#[tokio::test]
async fn rejects_the_roots_of_another_fleet_and_of_the_other_repository() {
    let (_hub, mut member, stick) = prepared();
    let (strangers, _, foreign) = prepared();
    rotate(&strangers);
    strangers.deploy(&member.id, 1, &[]);
    foreign.export(&strangers, &member.id, 0, QUARTER, today());
    let director = stick.director(&member.id);
    // As the next root, as one further ahead, and after roots that are genuine.
    let (second, third) = (format!("{director}/2.root.json"), format!("{director}/3.root.json"));
    let genuine = stick.get(&second);
    stick.put(&second, &foreign.get(&format!("{ARTIFACTS}/2.root.json")));
    assert_eq!(member.refuses(&stick, at(today())).await.0, "wrong-repository");
    stick.put(&second, &foreign.get(&second));
    assert_eq!(member.refuses(&stick, at(today())).await.0, "forgery");
    stick.put(&second, &foreign.get(&third));
    assert_ne!(member.refuses(&stick, at(today())).await.0, "no attack");
    stick.put(&second, &genuine);
    stick.put(&third, &foreign.get(&third));
    assert_eq!(member.refuses(&stick, at(today())).await.0, "forgery");
    // The fleet's own root key signs both repositories; their roots are still not each other's.
    stick.put(&third, &stick.get(&format!("{ARTIFACTS}/2.root.json")));
    assert_eq!(member.refuses(&stick, at(today())).await.0, "wrong-repository");
    fs::remove_file(stick.path(&third)).unwrap();
    member.takes(&stick, at(today()), 0).await;
}

/// A node that has what `member` had when it was made: the same id, the first roots, nothing else.
fn again(member: &Member) -> Member {
    let folder = tempfile::tempdir().unwrap();
    let first = |name: &str| fs::read(member.folder.path().join(name).join("root.json")).unwrap();
    Verifier::init(folder.path(), &first("director"), &first("artifacts")).unwrap();
    let verifier = Verifier::open(folder.path(), member.id.clone()).unwrap();
    Member { folder, id: member.id.clone(), verifier }
}

#[tokio::test]
async fn rejects_old_files_mixed_with_new_ones() {
    let (hub, member, old) = prepared();
    hub.push(b"second");
    hub.deploy(&member.id, 2, &[entry(b"app"), entry(b"second")]);
    let new = Stick::of(&hub, &member.id, QUARTER, day(1));
    let director = new.director(&member.id);
    let mix = |director_of: &Stick, artifacts_of: &Stick| {
        let mixed = Stick::empty();
        mixed.copy(director_of, &director, &director);
        mixed.copy(artifacts_of, ARTIFACTS, ARTIFACTS);
        mixed
    };
    // A node that has the new ones refuses an older half of either.
    let mut settled = again(&member);
    settled.takes(&new, at(day(1)), 0).await;
    assert_eq!(settled.refuses(&mix(&old, &new), at(day(1))).await.0, "rollback");
    assert_eq!(settled.refuses(&mix(&new, &old), at(day(1))).await.0, "rollback");
    assert!(matches!(settled.visit(&new, at(day(1)), 2).await.unwrap(), Update::Unchanged));
    // A node that has seen neither: what the new director wants is not genuine by the old artifacts.
    assert_eq!(again(&member).refuses(&mix(&new, &old), at(day(1))).await.0, "arbitrary-software");
    // The old director's wish is genuine; that it's old shows as soon as the node sees the new one.
    let mut behind = again(&member);
    assert_eq!(behind.takes(&mix(&old, &new), at(day(1)), 0).await.generation, 1);
    assert_eq!(behind.takes(&new, at(day(1)), 1).await.generation, 2);
    // Within one repository: an old file under a new one's name.
    for folder in [director.as_str(), ARTIFACTS] {
        for kind in ["snapshot.json", "targets.json"] {
            let mixed = mix(&new, &new);
            mixed.put(&new.newest(folder, kind), &old.get(&old.newest(folder, kind)));
            assert_eq!(
                again(&member).refuses(&mixed, at(day(1))).await.0,
                "mix-and-match",
                "{folder} {kind}"
            );
        }
    }
    // An old wish under a new one's name.
    let (wish, older) = (files(&new, &member).pop().unwrap(), files(&old, &member).pop().unwrap());
    let mixed = mix(&new, &new);
    mixed.put(&wish, &old.get(&older));
    let attack = again(&member).refuses(&mixed, at(day(1))).await.0;
    assert!(attack == "tampering" || attack == "endless-data", "{attack}");
}

#[tokio::test]
async fn a_forged_acknowledgement_drops_no_report() {
    let (_hub, mut member, stick) = prepared();
    let targets = stick.newest(&stick.director(&member.id), "targets.json");
    let genuine = String::from_utf8(stick.get(&targets)).unwrap();
    let forged = genuine.replace("\"acknowledged\":5", "\"acknowledged\":6");
    assert_ne!(forged, genuine);
    stick.put(&targets, forged.as_bytes());
    assert_eq!(member.refuses(&stick, at(today())).await.0, "mix-and-match");
    assert_eq!(member.verifier.acknowledged(), None);
    stick.put(&targets, genuine.as_bytes());
    member.takes(&stick, at(today()), 0).await;
    stick.put(&targets, forged.as_bytes());
    let _ = member.visit(&stick, at(today()), 0).await;
    assert_eq!(member.verifier.acknowledged(), Some(5));
}

fn unset(os_build: Option<Timestamp>) -> Clock {
    Clock { system: Timestamp::UNIX_EPOCH + SignedDuration::from_mins(3), os_build }
}

#[tokio::test]
async fn a_clock_at_1970_takes_the_stick_and_says_what_it_could_not_check() {
    let (hub, mut member, stick) = prepared();
    let clock = unset(Some(day(-30)));
    member.takes(&stick, clock, 0).await;
    let [said] = &member.verifier.unchecked(clock)[..] else { panic!("says nothing, or too much") };
    for part in ["shows 1970-01-01T00:03:00Z", "2026-06-01T00:00:00Z", "can't be checked", "set the clock"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(member.verifier.unchecked(at(day(1))), Vec::<String>::new());
    // Time goes on by what was signed, and an older stick is refused though the clock knows nothing.
    hub.deploy(&member.id, 2, &[entry(b"app")]);
    let later = Stick::of(&hub, &member.id, QUARTER, day(200));
    member.takes(&later, clock, 1).await;
    assert_eq!(member.verifier.believed_time(clock), day(200));
    assert_eq!(member.refuses(&stick, clock).await.0, "rollback");
    // A machine that knows of no time at all still takes what it's given.
    let mut fresh = Member::of(&hub);
    hub.deploy(&fresh.id, 1, &[]);
    let stick = Stick::of(&hub, &fresh.id, QUARTER, today());
    fresh.takes(&stick, unset(None), 0).await;
    assert_eq!(fresh.verifier.unchecked(unset(None)).len(), 1);
}

#[tokio::test]
async fn a_clock_ten_years_ahead_is_named_as_a_cause_and_is_taken_back() {
    let (_hub, mut member, stick) = prepared();
    let (attack, said) = member.refuses(&stick, at(day(3640))).await;
    assert_eq!(attack, "freeze");
    for part in
        ["expired at 2026-08-30T00:00:00Z", "by this machine it is 2036-05-19T00:00:00Z", "set the clock"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    member.takes(&stick, at(today()), 0).await;
    assert!(member.verifier.unchecked(at(today())).is_empty());
}

#[tokio::test]
async fn a_stick_that_expired_before_the_os_was_built_is_refused_though_the_clock_is_unset() {
    let (_hub, mut member, stick) = prepared();
    assert_eq!(member.refuses(&stick, unset(Some(day(91)))).await.0, "freeze");
}
