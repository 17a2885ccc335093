//! A node that no network reaches, as a program: it asks by stick, joins by stick, runs what a stick brings, and answers on
//! it. What a hub signs is signed by the hub's own code; only the way through `cairn` is left out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use cairn_model::{
    NodeId, Report,
    enroll::{EnrollGrant, EnrollState},
    local::LinkState,
    media::{ARTIFACTS, DIRECTOR, ENROLL_REQUEST, Freshness, MediaState, OUTBOX, RECEIPT, grant_path},
    report::Record,
};
use cairn_trust::{
    envelope,
    keys::PublicKey,
    sign::{Artifacts, Director, HubKeys, Lifetimes},
};
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{DEADLINE, Daemon, root, send, status};

/// What a hub has for one node.
struct Hub {
    keys: HubKeys,
    director: Director,
    artifacts: Artifacts,
    node: NodeId,
}

impl Hub {
    fn new(dir: &Path, node: NodeId) -> Self {
        let (keys, lifetimes, now) = (HubKeys::generate().unwrap(), Lifetimes::default(), Timestamp::now());
        let director = Director::init(&dir.join("director"), &keys, lifetimes, now).unwrap();
        let artifacts = Artifacts::init(&dir.join("artifacts"), &keys, lifetimes, now).unwrap();
        Self { keys, director, artifacts, node }
    }

    fn publish(&self, generation: u64) {
        let desired = serde_json::json!({
            "schema": 1, "node": self.node, "generation": generation, "apps": {},
            "policy": {"poll_seconds": 60, "report_seconds": 300},
        });
        let desired = desired.to_string().into_bytes();
        self.director.publish(&self.keys, &self.node, generation, &desired, &[], Timestamp::now()).unwrap();
    }

    fn export(&self, stick: &Path, acknowledged: u64) {
        let put = |path: String, bytes: &[u8]| {
            let path = stick.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let (now, holds) = (Timestamp::now(), Freshness::AIR_GAPPED);
        let director = self.director.export(&self.keys, &self.node, acknowledged, holds, now).unwrap();
        for (name, bytes) in director.files {
            put(format!("{DIRECTOR}/{}/{name}", self.node), &bytes);
        }
        for (name, bytes) in self.artifacts.export(&self.keys, holds, now).unwrap().files {
            put(format!("{ARTIFACTS}/{name}"), &bytes);
        }
        let raw = |root: Vec<u8>| Some(RawValue::from_string(String::from_utf8(root).unwrap()).unwrap());
        let grant = EnrollGrant {
            schema: 1,
            node: self.node.clone(),
            state: EnrollState::Approved,
            director_root: raw(self.director.first_root().unwrap()),
            artifacts_root: raw(self.artifacts.first_root().unwrap()),
        };
        put(grant_path(&self.node), &serde_json::to_vec(&grant).unwrap());
    }
}

/// Plugs in the stick that lies at `run/media/NAME`, and waits until it may be pulled.
fn plug_in(root: &Path, name: &str) -> cairn_model::media::MediaStatus {
    let answer = send(root, "POST /v1/media", &format!("{{\"device\":\"{name}\"}}"));
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let begun = Instant::now();
    loop {
        if let Some(media) = status(root).media.filter(|media| media.device == name && media.removable) {
            return media;
        }
        assert!(begun.elapsed() < DEADLINE, "the visit does not end: {:?}", status(root).media);
        std::thread::yield_now();
    }
}

/// A stick with its receipt, where the daemon looks for what is mounted.
fn stick(root: &Path, name: &str) -> PathBuf {
    let stick = root.join("run/media").join(name);
    fs::create_dir_all(&stick).unwrap();
    fs::write(stick.join(RECEIPT), "{}").unwrap();
    stick
}

/// The reports on a stick, each verified, by rising number.
fn reports(stick: &Path, node: &NodeId, public: &PublicKey) -> Vec<Report> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(stick.join(OUTBOX).join(node.as_str())).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|name| !name.ends_with(ENROLL_REQUEST));
    names.sort();
    let read =
        |name: &PathBuf| envelope::verify_report(fs::read_to_string(name).unwrap().trim(), public).unwrap();
    names.iter().map(read).collect()
}

/// All that is in a folder, by its path; folders are there without content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, Some(bytes));
        }
    }
    found
}

/// A visit of another fleet's stick, after which that is as it was.
fn refuses(root: &Path, name: &str, hub: &Hub) {
    let stick = stick(root, name);
    hub.publish(9);
    hub.export(&stick, 0);
    let before = content(&stick);
    let visit = plug_in(root, name);
    assert_eq!(visit.state, MediaState::Refused, "{visit:?}");
    assert!(visit.messages.iter().any(|m| m.contains("another fleet")), "{visit:?}");
    assert!(content(&stick) == before, "something was written to another fleet's stick");
}

#[test]
fn another_fleets_stick_is_left_byte_for_byte_as_it_was() {
    let (member, pinned) = (root(""), root(&format!("[trust]\nroots_sha256 = '{}'\n", "ab".repeat(32))));
    let (member, pinned) = (member.path(), pinned.path());
    let others = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let _daemons = [Daemon::start(member), Daemon::start(pinned)];
    let node = status(member).node;
    let hub = Hub::new(member, node.clone());
    hub.publish(4);
    hub.export(&stick(member, "usb1"), 0);
    assert_eq!(plug_in(member, "usb1").state, MediaState::Done);
    refuses(member, "usb2", &Hub::new(others[0].path(), node));
    assert_eq!(status(member).generation, 4, "what runs goes on");
    refuses(pinned, "usb1", &Hub::new(others[1].path(), status(pinned).node));
}

/// The pin is a hash over two roots, of which a stick shows the second one only with a grant: a stick without any for this node
/// cannot be told to be another fleet's. It gets the request, which makes nobody a member of anything, and nothing else.
#[test]
fn a_pinned_node_asks_on_any_stick_and_joins_its_own_fleet_alone() {
    let fleet = tempfile::tempdir().unwrap();
    let root = root(&format!("[trust]\nroots_sha256 = '{}'\n", "ab".repeat(32)));
    let root = root.path();
    let _daemon = Daemon::start(root);
    let node = status(root).node;
    // Another fleet's stick, for a node of its own.
    let other = Hub::new(fleet.path(), NodeId::of_public_key(&[9; 32]));
    let foreign = stick(root, "usb1");
    other.publish(4);
    other.export(&foreign, 0);
    let before = content(&foreign);
    let visit = plug_in(root, "usb1");
    assert_eq!(visit.state, MediaState::Done, "{visit:?}");
    assert!(visit.messages.iter().any(|m| m.contains("the request of")), "{visit:?}");

    let mut after = content(&foreign);
    let path = foreign.join(OUTBOX).join(node.as_str()).join(ENROLL_REQUEST);
    let request = after.remove(&path).flatten().expect("the request");
    after.retain(|path, content| content.is_some() || before.contains_key(path));
    assert!(after == before, "more than the request was written");
    let (request, public) = envelope::verify_enroll(String::from_utf8(request).unwrap().trim()).unwrap();
    assert_eq!((public.node_id(), request.token.as_str()), (node.clone(), ""));

    // That fleet may take the request as it likes: its grant is refused, and its stick left alone from then on.
    refuses(root, "usb2", &Hub::new(tempfile::tempdir().unwrap().path(), node));
    assert_eq!(status(root).link, LinkState::Enrolling, "a member of nothing");
}

#[test]
fn a_node_without_a_network_lives_by_stick() {
    let root = root("");
    let root = root.path();
    let _daemon = Daemon::start(root);
    let node = status(root).node;

    let first = stick(root, "usb1");
    let visit = plug_in(root, "usb1");
    assert!(visit.messages.iter().any(|m| m.contains("cairn node approve")), "{visit:?}");
    let request = fs::read_to_string(first.join(OUTBOX).join(node.as_str()).join(ENROLL_REQUEST)).unwrap();
    let (request, public) = envelope::verify_enroll(request.trim()).unwrap();
    assert_eq!((public.node_id(), request.token.as_str()), (node.clone(), ""));

    let hub = Hub::new(root, node.clone());
    hub.publish(4);
    let second = stick(root, "usb2");
    hub.export(&second, 0);
    let visit = plug_in(root, "usb2");
    assert_eq!(visit.state, MediaState::Done, "{visit:?}");
    let after = status(root);
    assert_eq!((after.generation, after.link, after.hub), (4, LinkState::Unconfigured, None));
    assert!(after.problems.is_empty(), "nothing is wrong: {:?}", after.problems);
    let told = reports(&second, &node, &public);
    assert!(!told.is_empty() && told.iter().zip(1..).all(|(report, n)| report.sequence == n), "{told:?}");
    let events = told.iter().flat_map(|report| &report.records).filter_map(|record| match record {
        Record::Event(event) => Some(event.reason.as_str()),
        _ => None,
    });
    let events: Vec<_> = events.collect();
    assert!(events.contains(&"enrolled") && events.contains(&"generation-applied"), "{events:?}");

    // The hub has them: by its signed word they need not be carried again.
    let last = told.last().unwrap().sequence;
    hub.publish(5);
    let third = stick(root, "usb3");
    hub.export(&third, last);
    assert_eq!(plug_in(root, "usb3").state, MediaState::Done);
    assert_eq!(status(root).generation, 5);
    let again = reports(&third, &node, &public);
    assert!(again.iter().all(|report| report.sequence > last), "{again:?}");

    // The one before is older now.
    let visit = plug_in(root, "usb2");
    assert_eq!(visit.state, MediaState::Refused, "{visit:?}");
    assert!(visit.messages.iter().any(|m| m.contains("older")), "{visit:?}");
    assert_eq!(status(root).generation, 5, "what runs goes on");
}
