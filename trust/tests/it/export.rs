//! What a hub signs for sticks, and that it harms no node on the network.

use std::thread;

use cairn_model::media::Freshness;
use cairn_trust::{
    keys::KeyPair,
    node::{Update, Verifier},
    sign::{Artifacts, HubKeys, Lifetimes, RoleName, RootChange, SignError, rotate_root},
};
use jiff::Timestamp;

use crate::{
    fleet::{Hub, Member, entry},
    repository::{at, day, today},
    stick::{Stick, expires, signed, version},
};

const QUARTER: Freshness = Freshness::AIR_GAPPED;

fn deployed() -> (Hub, Member) {
    let hub = Hub::new();
    let member = Member::of(&hub);
    let app = hub.push(b"app");
    hub.deploy(&member.id, 1, &[app]);
    (hub, member)
}

impl Hub {
    fn timestamps(&self, member: &Member, now: Timestamp) -> [Vec<u8>; 2] {
        [
            self.director.file(&self.keys, &member.id, "timestamp.json", now).unwrap(),
            self.artifacts.file(&self.keys, "timestamp.json", now).unwrap(),
        ]
    }

    /// As after the operators have taken a key away.
    fn without(self, key: &str) -> Self {
        std::fs::remove_file(self.folder.path().join("keys").join(key)).unwrap();
        Self { keys: HubKeys::load(&self.folder.path().join("keys")).unwrap(), ..self }
    }
}

#[tokio::test]
async fn a_node_without_a_network_takes_its_bundle_from_a_stick() {
    let (hub, mut member) = deployed();
    let stick = Stick::empty();
    let (director, artifacts) = stick.export(&hub, &member.id, 42, QUARTER, today());
    assert_eq!((director.expires, director.ends_first), (day(90), "timestamp"));
    assert_eq!((artifacts.expires, artifacts.ends_first), (day(90), "timestamp"));
    assert_eq!(member.verifier.acknowledged(), None);
    let bundle = member.takes(&stick, at(day(89)), 0).await;
    assert_eq!((bundle.generation, bundle.artifacts.len()), (1, 1));
    assert_eq!(member.verifier.acknowledged(), Some(42));
    // The same stick once more, and after a restart.
    assert!(matches!(member.visit(&stick, at(day(89)), 1).await.unwrap(), Update::Unchanged));
    let mut verifier = Verifier::open(member.folder.path(), member.id.clone()).unwrap();
    assert_eq!(verifier.acknowledged(), Some(42));
    std::mem::swap(&mut verifier, &mut member.verifier);
    assert!(matches!(member.visit(&stick, at(day(89)), 1).await.unwrap(), Update::Unchanged));
}

#[test]
fn nothing_is_exported_for_a_node_that_nothing_was_published_for() {
    let (hub, _) = deployed();
    let stranger = Member::of(&hub).id;
    let nothing = hub.director.export(&hub.keys, &stranger, 0, QUARTER, today());
    assert!(matches!(nothing, Err(SignError::NoSuchFile { .. })), "{nothing:?}");
}

#[tokio::test]
async fn what_has_arrived_is_told_again_with_every_publish() {
    let (hub, mut member) = deployed();
    member.online(&hub, today(), 0).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), None);
    hub.director.export(&hub.keys, &member.id, 7, QUARTER, today()).unwrap();
    member.online(&hub, today(), 0).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), Some(7));
    hub.deploy(&member.id, 2, &[]);
    member.online(&hub, today(), 1).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), Some(7));
    // Signed anew for its age, and under a new root.
    member.online(&hub, day(300), 1).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), Some(7));
    rotate_director(&hub, 1);
    member.online(&hub, day(300), 1).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), Some(7));
    hub.director.export(&hub.keys, &member.id, u64::MAX, QUARTER, day(300)).unwrap();
    member.online(&hub, day(300), 1).await.unwrap();
    assert_eq!(member.verifier.acknowledged(), Some(u64::MAX));
}

#[tokio::test]
async fn nodes_on_the_network_never_get_what_was_signed_for_a_stick() {
    for freshness in [QUARTER, Freshness::Days(4000), Freshness::Unlimited] {
        let (hub, mut member) = deployed();
        let before = hub.timestamps(&member, today()).map(|file| version(&file));
        let (director, artifacts) = Stick::empty().export(&hub, &member.id, 1, freshness, today());
        let exported = [director, artifacts].map(|exported| exported.files.last().unwrap().1.clone());
        assert!(exported.iter().all(|file| expires(file) >= day(90)));
        // Also not after a restart of the hub in between.
        let artifacts = Artifacts::open(&hub.folder.path().join("artifacts"), Lifetimes::default()).unwrap();
        let hub = Hub { artifacts, ..hub };
        let served = hub.timestamps(&member, today());
        for (index, file) in served.iter().enumerate() {
            assert!(expires(file) <= day(7), "{freshness:?}");
            assert!(before[index] < version(&exported[index]) && version(&exported[index]) < version(file));
        }
        let snapshot = served.map(|file| signed(&file, "meta")["snapshot.json"]["version"].clone());
        let snapshot = [
            hub.director.file(&hub.keys, &member.id, &format!("{}.snapshot.json", snapshot[0]), today()),
            hub.artifacts.file(&hub.keys, &format!("{}.snapshot.json", snapshot[1]), today()),
        ];
        assert!(snapshot.iter().all(|file| expires(file.as_ref().unwrap()) <= day(90)), "{freshness:?}");
        assert!(matches!(member.online(&hub, today(), 0).await.unwrap(), Update::Verified(_)));
        // And what is served stands until it is due.
        let again = hub.timestamps(&member, today()).map(|file| version(&file));
        assert_eq!(again, hub.timestamps(&member, day(3)).map(|file| version(&file)));
    }
}

#[test]
fn nodes_on_the_network_read_the_usual_timestamp_while_sticks_are_signed() {
    let (hub, member) = deployed();
    thread::scope(|scope| {
        let export = scope.spawn(|| {
            for round in 0..60 {
                hub.director.export(&hub.keys, &member.id, round, QUARTER, today()).unwrap();
                hub.artifacts.export(&hub.keys, QUARTER, today()).unwrap();
            }
        });
        let mut newest = [0, 0];
        while !export.is_finished() {
            let served = hub.timestamps(&member, today());
            assert!(served.iter().all(|file| expires(file) <= day(7)));
            let versions = served.map(|file| version(&file));
            assert!(versions.iter().zip(newest).all(|(now, before)| *now >= before));
            newest = versions;
        }
    });
}

#[test]
fn versions_always_grow() {
    let (hub, member) = deployed();
    let mut last = hub.timestamps(&member, today()).map(|file| version(&file));
    for (round, freshness) in [
        Freshness::Connected,
        QUARTER,
        QUARTER,
        Freshness::Unlimited,
        Freshness::Connected,
        Freshness::Days(1),
    ]
    .into_iter()
    .enumerate()
    {
        let (director, artifacts) = Stick::empty().export(&hub, &member.id, 0, freshness, today());
        let exported = [director, artifacts].map(|exported| version(&exported.files.last().unwrap().1));
        assert!(exported[0] > last[0] && exported[1] > last[1], "{freshness:?}: {last:?}, {exported:?}");
        last = exported;
        if round % 2 == 0 {
            last = hub.timestamps(&member, today()).map(|file| version(&file));
            assert!(last[0] >= exported[0] && last[1] >= exported[1]);
        }
    }
}

#[tokio::test]
async fn a_node_takes_whichever_is_newer_of_hub_and_stick() {
    let (hub, mut member) = deployed();
    let mut expect = 0;
    for round in 0..3 {
        let now = day(10 * round);
        // Over the network, then by stick, each a generation further.
        let (online, by_stick) = (expect + 1, expect + 2);
        hub.deploy(&member.id, online, &[entry(b"app")]);
        let Update::Verified(bundle) = member.online(&hub, now, expect).await.unwrap() else {
            panic!("nothing")
        };
        assert_eq!(bundle.generation, online);
        hub.deploy(&member.id, by_stick, &[entry(b"app")]);
        let stick = Stick::of(&hub, &member.id, QUARTER, now);
        assert_eq!(member.takes(&stick, at(now), online).await.generation, by_stick);
        // Back on the network there is nothing new, and the stick is old by then.
        assert!(matches!(
            member.online(&hub, day(10 * round + 1), by_stick).await.unwrap(),
            Update::Unchanged
        ));
        assert_eq!(member.refuses(&stick, at(day(10 * round + 1))).await.0, "rollback");
        assert!(matches!(
            member.online(&hub, day(10 * round + 2), by_stick).await.unwrap(),
            Update::Unchanged
        ));
        expect = by_stick;
    }
}

#[tokio::test]
async fn refuses_a_stick_older_than_what_is_trusted() {
    let (hub, mut member) = deployed();
    let old = Stick::of(&hub, &member.id, QUARTER, today());
    hub.deploy(&member.id, 2, &[]);
    let new = Stick::of(&hub, &member.id, QUARTER, day(1));
    member.takes(&new, at(day(1)), 0).await;
    for _ in 0..2 {
        let (attack, said) = member.refuses(&old, at(day(1))).await;
        assert_eq!(attack, "rollback", "{said}");
        member.verifier = Verifier::open(member.folder.path(), member.id.clone()).unwrap();
    }
    assert!(matches!(member.visit(&new, at(day(1)), 2).await.unwrap(), Update::Unchanged));
}

#[tokio::test]
async fn refuses_an_expired_stick_and_says_since_when_and_what_to_do() {
    let (hub, mut member) = deployed();
    let stick = Stick::of(&hub, &member.id, QUARTER, today());
    let (attack, said) = member.refuses(&stick, at(day(91))).await;
    assert_eq!(attack, "freeze");
    for part in
        ["expired at 2026-08-30T00:00:00Z", "it is 2026-08-31T00:00:00Z", "export it again", "set the clock"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // What was taken in time stays known, and the next stick is taken.
    stick.export(&hub, &member.id, 0, QUARTER, day(91));
    member.takes(&stick, at(day(91)), 0).await;
    // A node that is meant to be connected is held to a week.
    let stick = Stick::of(&hub, &member.id, Freshness::Connected, day(91));
    assert!(matches!(member.visit(&stick, at(day(97)), 1).await.unwrap(), Update::Unchanged));
    assert_eq!(member.refuses(&stick, at(day(99))).await.0, "freeze");
}

#[tokio::test]
async fn unlimited_holds_as_long_as_the_roots() {
    let (hub, mut member) = deployed();
    let stick = Stick::empty();
    let (director, artifacts) = stick.export(&hub, &member.id, 0, Freshness::Unlimited, today());
    for exported in [director, artifacts] {
        assert_eq!((exported.expires, exported.ends_first), (day(3650), "root"));
        let timestamp = &exported.files.last().unwrap().1;
        assert_eq!(expires(timestamp).to_string(), "9999-01-01T00:00:00Z");
    }
    member.takes(&stick, at(day(3649)), 0).await;
    let (attack, said) = member.refuses(&stick, at(day(3651))).await;
    assert_eq!(attack, "freeze");
    assert!(said.contains("root metadata"), "{said}");
}

#[tokio::test]
async fn without_the_artifacts_key_a_stick_holds_until_the_targets_end_and_says_so() {
    let (hub, mut member) = deployed();
    let hub = hub.without("artifacts-targets.pem");
    let stick = Stick::empty();
    let (director, artifacts) = stick.export(&hub, &member.id, 0, Freshness::Unlimited, day(30));
    assert_eq!((director.expires, director.ends_first), (day(3650), "root"));
    assert_eq!((artifacts.expires, artifacts.ends_first), (day(365), "targets"));
    member.takes(&stick, at(day(364)), 0).await;
    let (attack, said) = member.refuses(&stick, at(day(366))).await;
    assert_eq!(attack, "freeze");
    assert!(said.contains("targets metadata"), "{said}");
}

#[test]
fn large_targets_are_not_signed_anew_for_each_stick() {
    let (hub, _) = deployed();
    let targets = |freshness, now| {
        let exported = hub.artifacts.export(&hub.keys, freshness, now).unwrap();
        let until = exported.expires;
        let find =
            |kind: &str| exported.files.iter().find(|(name, _)| name.ends_with(kind)).unwrap().0.clone();
        (find(".targets.json"), find(".snapshot.json"), until)
    };
    let quarter = targets(QUARTER, today());
    assert_eq!((quarter.0.as_str(), quarter.2), ("2.targets.json", day(90)), "they held long enough");
    let long = targets(Freshness::Days(400), today());
    assert_eq!((long.0.as_str(), long.2), ("3.targets.json", day(400)));
    for weeks in 1..20 {
        let next = targets(Freshness::Days(400), day(7 * weeks));
        assert_eq!((next.0.as_str(), next.2), ("3.targets.json", day(7 * weeks + 400)));
    }
    // The batches of one large export also share the snapshot: clients in the middle of an update find theirs.
    let first = targets(Freshness::Days(400), day(200)).1;
    for minutes in 1..50 {
        let now = day(200) + jiff::SignedDuration::from_mins(minutes);
        let (_, snapshot, until) = targets(Freshness::Days(400), now);
        assert_eq!(snapshot, first);
        assert!(until > day(599) && until <= now + jiff::SignedDuration::from_hours(24 * 400));
    }
}

fn rotate_director(hub: &Hub, times: usize) {
    let root = hub.keys.root.as_ref().unwrap();
    let change = RootChange { thresholds: vec![(RoleName::Root, 1)], ..RootChange::default() };
    for _ in 0..times {
        let next = rotate_root(&hub.director.root_json(), &change, &[root], day(3650)).unwrap();
        hub.director.accept_root(&next).unwrap();
    }
}

#[tokio::test]
async fn a_hundred_root_rotations_on_the_stick_are_followed() {
    let (hub, mut member) = deployed();
    let before = Stick::of(&hub, &member.id, QUARTER, today());
    member.takes(&before, at(today()), 0).await;
    rotate_director(&hub, 99);
    // The hundredth replaces the keys that everything below hangs on.
    let (old, new) = (hub.keys.root.as_ref().unwrap(), KeyPair::generate().unwrap());
    let change = RootChange {
        add: vec![(RoleName::Root, new.public())],
        remove: vec![(RoleName::Root, old.public().tuf_key_id())],
        ..RootChange::default()
    };
    let next = rotate_root(&hub.director.root_json(), &change, &[old, &new], day(3650)).unwrap();
    hub.director.accept_root(&next).unwrap();
    let same = RootChange { thresholds: vec![(RoleName::Root, 1)], ..RootChange::default() };
    for _ in 0..100 {
        let next = rotate_root(&hub.artifacts.root_json(), &same, &[old], day(3650)).unwrap();
        hub.artifacts.accept_root(&hub.keys, &next, today()).unwrap();
    }
    hub.deploy(&member.id, 2, &[entry(b"app")]);
    let stick = Stick::empty();
    let (director, artifacts) = stick.export(&hub, &member.id, 3, QUARTER, day(1));
    for exported in [director, artifacts] {
        assert_eq!(exported.files.iter().filter(|(name, _)| name.ends_with(".root.json")).count(), 101);
    }
    assert_eq!(member.takes(&stick, at(day(1)), 1).await.generation, 2);
    assert_eq!(member.verifier.acknowledged(), Some(3));
    assert_eq!(member.refuses(&before, at(day(1))).await.0, "rollback");
    // Also by a node that has only the first roots.
    let mut fresh = Member::of(&hub);
    hub.deploy(&fresh.id, 1, &[]);
    let stick = Stick::of(&hub, &fresh.id, QUARTER, day(1));
    assert_eq!(fresh.takes(&stick, at(day(1)), 0).await.generation, 1);
}
