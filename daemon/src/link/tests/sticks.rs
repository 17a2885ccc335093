//! Sticks, read by the real task from real bundles: what is taken, and above all what is not.

use std::{fs, path::PathBuf};

use cairn_model::media::{DIRECTOR, Freshness, RECEIPT, blob_path, grant_path};
use jiff::SignedDuration;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::{pull::tests::Hub, report::Told, source::MediaSource};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(40);
const HOLDS: Freshness = Freshness::AIR_GAPPED;

/// A node with its link, a hub that knows it, and a stick.
struct Node {
    dir: tempfile::TempDir,
    key: Arc<KeyPair>,
    hub: Hub,
    ledger: Ledger,
    link: Link,
    told: mpsc::Receiver<Told>,
    task: JoinHandle<()>,
}

impl Node {
    async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    async fn with(configure: impl FnOnce(&mut Config, &Hub)) -> Self {
        let key = Arc::new(KeyPair::generate().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::of(key.public().node_id());
        let (ledger, link, told, task) =
            Self::start(dir.path(), &key, |config| configure(config, &hub)).await;
        Self { dir, key, hub, ledger, link, told, task }
    }

    async fn start(
        dir: &std::path::Path,
        key: &Arc<KeyPair>,
        configure: impl FnOnce(&mut Config),
    ) -> (Ledger, Link, mpsc::Receiver<Told>, JoinHandle<()>) {
        let mut config = config(dir, key);
        configure(&mut config);
        let ledger = Ledger::open(&dir.join("ledger.sqlite")).await.unwrap();
        let initial = crate::pull::from_ledger(&ledger).await.unwrap();
        let (reporter, told) = Reporter::channel();
        let (link, task) = build(config, ledger.clone(), Blobs::new(dir), reporter, initial);
        (ledger, link, told, tokio::spawn(task))
    }

    /// The daemon ends, and another begins.
    async fn restart(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.ledger.close().await;
        (self.ledger, self.link, self.told, self.task) =
            Self::start(self.dir.path(), &self.key, |_| {}).await;
    }

    fn stick(&self) -> PathBuf {
        self.dir.path().join("stick")
    }

    fn export(&self) {
        self.hub.export(&self.stick(), 0, HOLDS, Timestamp::now());
    }

    /// An app with this component as the generation to run.
    fn publish(&mut self, generation: u64, module: &[u8]) {
        let (app, image) = self.hub.app(module);
        self.hub.publish(generation, &app, &[&app, &image]);
    }

    async fn plug_in(&self) -> MediaOutcome {
        self.plug_in_from(&self.stick()).await
    }

    async fn plug_in_from(&self, stick: &std::path::Path) -> MediaOutcome {
        let source = Arc::new(MediaSource::open(stick, &self.hub.node).unwrap());
        let held = Arc::downgrade(&source);
        let (reply, answer) = oneshot::channel();
        let progress = watch::channel((0, 0)).0;
        self.link.media.send(MediaVisit { source, progress, reply }).await.unwrap();
        let outcome = timeout(DEADLINE, answer).await.expect("an answer in time").unwrap();
        assert_eq!(held.strong_count(), 0, "the stick can be unmounted");
        outcome
    }

    /// A node that runs generation 1, which a stick brought.
    async fn member() -> Self {
        let mut node = Self::new().await;
        node.publish(1, b"first");
        node.export();
        let outcome = node.plug_in().await;
        assert_eq!(outcome.generation, Some(1), "{outcome:?}");
        node
    }

    fn runs(&self) -> u64 {
        self.link.desired.borrow().as_ref().map_or(0, |desired| desired.desired.generation)
    }

    fn has(&self, blob: &[u8]) -> bool {
        Blobs::new(self.dir.path()).contains(&Digest::of(blob))
    }

    fn events(&mut self) -> String {
        let mut events = String::new();
        while let Ok(told) = self.told.try_recv() {
            events += &format!("{told:?}\n");
        }
        events
    }

    /// A refusal with these words, told as an event too, that stops nothing.
    async fn refused(&mut self, attack: Option<&str>, words: &str) -> String {
        let (before, _) = (self.runs(), self.events());
        let outcome = self.plug_in().await;
        let (named, text) = outcome.refused.clone().expect("it is refused");
        assert_eq!(named.as_deref(), attack, "{text}");
        assert!(text.contains(words), "{words}: {text}");
        assert!(!outcome.broken && outcome.generation.is_none(), "{outcome:?}");
        assert_eq!(self.runs(), before, "what runs goes on");
        let reason = if attack.is_some() { "bundle-refused" } else { "stick-not-taken" };
        let events = self.events();
        assert!(events.contains(reason), "{reason}: {events}");
        text
    }
}

#[tokio::test]
async fn a_blank_node_asks_and_joins_and_runs_by_stick_alone() {
    let mut node = Node::new().await;
    fs::create_dir_all(node.stick()).unwrap();
    fs::write(node.stick().join(RECEIPT), "{}").unwrap();
    let outcome = node.plug_in().await;
    assert!(!outcome.member && outcome.refused.is_none(), "{outcome:?}");
    let approve = format!("cairn node approve {}", node.hub.node);
    assert!(
        outcome.notes[0].contains(&approve) && outcome.notes[0].contains("cairn usb import"),
        "{outcome:?}"
    );
    assert_eq!(node.link.status.borrow().state, LinkState::Enrolling);

    node.publish(3, b"module");
    node.export();
    let outcome = node.plug_in().await;
    assert!(outcome.member && outcome.generation == Some(3) && outcome.refused.is_none(), "{outcome:?}");
    assert!(outcome.notes[0].contains(&node.hub.roots_fingerprint()), "{outcome:?}");
    assert_eq!((node.runs(), node.has(b"module")), (3, true));
    let status = node.link.status.borrow().clone();
    assert_eq!((status.state, status.problem, status.hub), (LinkState::Unconfigured, None, None));
    let events = node.events();
    assert!(events.contains("enrolled by stick") && events.contains("from a stick"), "{events}");

    node.restart().await;
    assert_eq!(node.runs(), 3);
    let outcome = node.plug_in().await;
    assert!(outcome.member && outcome.generation.is_none() && outcome.refused.is_none(), "{outcome:?}");
    node.publish(4, b"next");
    node.export();
    assert_eq!(node.plug_in().await.generation, Some(4));
}

#[tokio::test]
async fn rejects_roots_that_are_not_the_expected_ones() {
    let mut node = Node::with(|config, _| config.roots_sha256 = Some("ab".repeat(32))).await;
    node.publish(1, b"module");
    node.export();
    node.refused(Some("wrong-fleet"), "trust.roots_sha256 expects another").await;
    assert!(node.ledger.enrolment().await.unwrap().is_none(), "nothing is pinned");
    assert!(!node.dir.path().join("trust").exists());

    let mut node =
        Node::with(|config, hub| config.roots_sha256 = Some(hub.roots_fingerprint().replace(' ', ""))).await;
    node.publish(1, b"module");
    node.export();
    assert_eq!(node.plug_in().await.generation, Some(1), "the expected ones");
}

#[tokio::test]
async fn rejects_a_grant_for_another_node_and_waits_for_one_that_is_pending() {
    let mut node = Node::new().await;
    node.publish(1, b"module");
    node.export();
    let path = node.stick().join(grant_path(&node.hub.node));
    let mut grant = node.hub.grant();
    grant.node = NodeId::of_public_key(&[9; 32]);
    fs::write(&path, serde_json::to_vec(&grant).unwrap()).unwrap();
    node.refused(None, "it names node").await;
    let pending = serde_json::json!({"schema": 1, "node": node.hub.node, "state": "pending"});
    fs::write(&path, pending.to_string()).unwrap();
    let outcome = node.plug_in().await;
    assert!(!outcome.member && outcome.refused.is_none() && outcome.notes.len() == 1, "{outcome:?}");
}

#[tokio::test]
async fn a_grant_that_is_none_is_told_with_its_cause_and_its_cure() {
    let mut node = Node::new().await;
    node.publish(1, b"module");
    node.export();
    let path = node.stick().join(grant_path(&node.hub.node));
    let grant = fs::read(&path).unwrap();
    let cure = "export to it again";
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let text = node.refused(None, "is a symbolic link").await;
    assert!(text.contains(cure), "{text}");
    fs::remove_file(&path).unwrap();
    for damaged in [&grant[..grant.len() / 2], &vec![b'x'; 4 << 20]] {
        fs::write(&path, damaged).unwrap();
        let text = node.refused(None, "this node's grant is none").await;
        assert!(text.contains(cure), "{text}");
    }
    assert!(node.ledger.enrolment().await.unwrap().is_none());
    fs::write(&path, grant).unwrap();
    assert_eq!(node.plug_in().await.generation, Some(1));
}

#[tokio::test]
async fn rejects_an_older_stick() {
    let mut node = Node::member().await;
    let old = node.dir.path().join("old");
    fs::rename(node.stick(), &old).unwrap();
    node.publish(2, b"second");
    node.export();
    assert_eq!(node.plug_in().await.generation, Some(2));
    fs::remove_dir_all(node.stick()).unwrap();
    fs::rename(&old, node.stick()).unwrap();
    node.refused(Some("rollback"), "older than what this node has taken already (generation 2)").await;
    assert_eq!(node.ledger.generation().await.unwrap().unwrap().generation, 2);
}

#[tokio::test]
async fn rejects_an_older_generation_under_newer_signatures() {
    let mut node = Node::new().await;
    node.publish(5, b"fifth");
    node.export();
    node.plug_in().await;
    node.publish(4, b"fourth");
    node.export();
    node.refused(Some("rollback"), "generation 4 is older than 5").await;
}

#[tokio::test]
async fn rejects_a_stick_of_another_fleet() {
    let mut node = Node::member().await;
    node.hub = Hub::of(node.hub.node.clone());
    node.publish(9, b"foreign");
    fs::remove_dir_all(node.stick()).unwrap();
    node.export();
    node.refused(Some("wrong-fleet"), "of another fleet").await;
    assert!(!node.has(b"foreign"));
}

#[tokio::test]
async fn a_stick_for_other_nodes_says_how_to_have_it_for_this_one() {
    let mut node = Node::member().await;
    let own = node.stick().join(DIRECTOR).join(node.hub.node.as_str());
    fs::rename(&own, own.with_file_name("n-0123456789abcdef")).unwrap();
    let text = node.refused(None, "nothing for this node").await;
    assert!(text.contains(&format!("cairn usb export --node {}", node.hub.node)), "{text}");
}

#[tokio::test]
async fn rejects_another_nodes_bundle_in_the_place_of_its_own() {
    let mut node = Node::member().await;
    let own = node.stick().join(DIRECTOR).join(node.hub.node.as_str());
    let node_id = std::mem::replace(&mut node.hub.node, NodeId::of_public_key(&[9; 32]));
    node.publish(2, b"not for this one");
    node.export();
    let other = node.stick().join(DIRECTOR).join(node.hub.node.as_str());
    node.hub.node = node_id;
    fs::remove_dir_all(&own).unwrap();
    fs::rename(other, own).unwrap();
    node.refused(Some("wrong-node"), "another node's bundle").await;
}

#[tokio::test]
async fn rejects_what_has_expired_and_says_by_which_clock() {
    let mut node = Node::member().await;
    node.publish(2, b"second");
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 100);
    node.hub.export(&node.stick(), 0, HOLDS, long_ago);
    let text = node.refused(Some("freeze"), "has expired").await;
    assert!(text.contains("clock"), "{text}");

    // By a clock that is years ahead all of it has expired.
    let ahead = Timestamp::now() + SignedDuration::from_hours(24 * 365 * 10);
    let mut node = Node::with(|config, _| config.clock = Clocked { floor: Some(ahead) }).await;
    node.publish(1, b"first");
    node.export();
    let text = node.refused(Some("freeze"), "has expired").await;
    assert!(text.contains("clock"), "{text}");
}

#[tokio::test]
async fn rejects_metadata_that_was_touched() {
    let mut node = Node::member().await;
    node.publish(2, b"second");
    node.export();
    let timestamp = node.stick().join(DIRECTOR).join(node.hub.node.as_str()).join("timestamp.json");
    let text = fs::read_to_string(&timestamp).unwrap();
    let touched = text.replacen("\"version\":", "\"version\":1", 1);
    assert_ne!(text, touched);
    fs::write(&timestamp, touched).unwrap();
    node.refused(Some("forgery"), "not signed by this node's fleet, or was changed").await;
    fs::write(&timestamp, vec![b'x'; 1 << 20]).unwrap();
    node.refused(Some("endless-data"), "changed or is damaged").await;
    fs::remove_file(&timestamp).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &timestamp).unwrap();
    node.refused(Some("malformed"), "changed or is damaged").await;
}

#[tokio::test]
async fn rejects_blobs_that_are_flipped_cut_or_absent_and_takes_them_once_they_are_right() {
    let mut node = Node::member().await;
    node.publish(2, b"second");
    node.export();
    let blob = node.stick().join(blob_path(&Digest::of(b"second")));
    for (content, attack, words) in [
        (&b"sEcond"[..], Some("arbitrary-software"), "changed or is damaged"),
        (b"secon", None, "changed or is damaged"),
        (b"second and more", None, "changed or is damaged"),
    ] {
        fs::write(&blob, content).unwrap();
        node.refused(attack, words).await;
        assert!(!node.has(b"second"));
    }
    fs::remove_file(&blob).unwrap();
    node.refused(None, "not complete").await;
    assert_eq!(node.ledger.generation().await.unwrap().unwrap().generation, 1, "whole or not at all");
    node.export();
    assert_eq!(node.plug_in().await.generation, Some(2));
}

#[tokio::test]
async fn nothing_is_copied_where_one_blob_is_missing() {
    let mut node = Node::new().await;
    let services = [b"one".as_slice(), b"two"];
    let (app, image) = node.hub.app(services[0]);
    let (_, other) = node.hub.app(services[1]);
    node.hub.publish(1, &app, &[&app, &image, &other]);
    node.export();
    fs::remove_file(node.stick().join(blob_path(&Digest::of(services[0])))).unwrap();
    let outcome = node.plug_in().await;
    assert!(outcome.member && outcome.refused.is_some(), "{outcome:?}");
    assert!(!node.dir.path().join("blobs").exists(), "not a byte");
}

#[tokio::test]
async fn a_stick_that_is_pulled_in_the_middle_goes_on_the_next_time() {
    let mut node = Node::new().await;
    let large: Vec<u8> =
        (0..24_000_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    node.publish(1, &large);
    node.export();
    let source = Arc::new(MediaSource::open(&node.stick(), &node.hub.node).unwrap());
    let (progress, mut copied) = watch::channel((0, 0));
    let (reply, answer) = oneshot::channel();
    let visit = MediaVisit { source: source.clone(), progress, reply };
    node.link.media.send(visit).await.unwrap();
    let first = *timeout(DEADLINE, copied.wait_for(|(copied, _)| *copied > 1 << 20)).await.unwrap().unwrap();
    // Whoever asked sees that it is gone, and waits no longer.
    drop(answer);
    assert_eq!(first.1, large.len() as u64);
    let let_go = async {
        while Arc::strong_count(&source) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, let_go).await.expect("the stick is let go");
    assert_eq!(node.runs(), 0, "not all of it was there");

    // What is pulled by then cannot be read; nothing is said of what is on it.
    let away = node.dir.path().join("away");
    fs::rename(node.stick(), &away).unwrap();
    fs::create_dir(node.stick()).unwrap();
    let outcome = node.plug_in().await;
    assert!(outcome.broken && outcome.refused.unwrap().1.contains("plug it in again"));
    assert!(node.events().contains("stick-broken"));

    let source = Arc::new(MediaSource::open(&away, &node.hub.node).unwrap());
    let (progress, copied) = watch::channel((0, 0));
    let (reply, answer) = oneshot::channel();
    node.link.media.send(MediaVisit { source, progress, reply }).await.unwrap();
    assert_eq!(timeout(DEADLINE, answer).await.unwrap().unwrap().generation, Some(1));
    let (copied, to_copy) = *copied.borrow();
    assert!(copied == to_copy && to_copy < large.len() as u64, "{copied} of {to_copy}: it went on");
    assert!(node.has(&large));
}

#[tokio::test]
async fn only_what_is_acknowledged_leaves_the_outbox() {
    let node = Node::member().await;
    for marker in 1..=3 {
        let report = crate::ledger::tests::report(marker);
        node.ledger.push_report(&report, crate::ledger::RecordClass::Event, u64::MAX).await.unwrap();
    }
    assert_eq!(node.ledger.reports_after(0, usize::MAX).await.unwrap().len(), 3);
    assert_eq!(node.plug_in().await.acknowledged, Some(0), "the stick that it has seen says nothing new");
    assert_eq!(node.ledger.unsent().await.unwrap(), 3);
    node.hub.export(&node.stick(), 2, HOLDS, Timestamp::now());
    assert_eq!(node.plug_in().await.acknowledged, Some(2));
    let left = node.ledger.reports_after(0, usize::MAX).await.unwrap();
    assert_eq!(left.iter().map(|row| row.report.sequence).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn the_hubs_signed_word_counts_where_the_rest_of_the_stick_does_not() {
    let mut node = Node::member().await;
    for marker in 1..=3 {
        let report = crate::ledger::tests::report(marker);
        node.ledger.push_report(&report, crate::ledger::RecordClass::Event, u64::MAX).await.unwrap();
    }
    assert_eq!(node.ledger.reports_after(0, usize::MAX).await.unwrap().len(), 3);
    node.publish(2, b"second");
    node.hub.export(&node.stick(), 2, HOLDS, Timestamp::now());
    fs::remove_file(node.stick().join(blob_path(&Digest::of(b"second")))).unwrap();
    let outcome = node.plug_in().await;
    assert!(outcome.refused.is_some() && outcome.acknowledged == Some(2), "{outcome:?}");
    assert_eq!(node.ledger.unsent().await.unwrap(), 1);

    // Another fleet's word is none.
    node.hub = Hub::of(node.hub.node.clone());
    node.publish(9, b"foreign");
    fs::remove_dir_all(node.stick()).unwrap();
    node.hub.export(&node.stick(), 3, HOLDS, Timestamp::now());
    let outcome = node.plug_in().await;
    assert!(outcome.refused.is_some() && outcome.acknowledged == Some(2), "{outcome:?}");
    assert_eq!(node.ledger.unsent().await.unwrap(), 1);
}

#[tokio::test]
async fn a_hub_that_is_slow_is_left_for_a_stick_and_taken_up_after() {
    use axum::{Router, routing::get};
    let asked = watch::channel(0u32).0;
    let count = asked.clone();
    let hangs = move || {
        let count = count.clone();
        async move {
            count.send_modify(|n| *n += 1);
            std::future::pending::<String>().await
        }
    };
    let http = crate::source::tests::hub(Router::new().fallback(get(hangs))).await;
    let key = Arc::new(KeyPair::generate().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::of(key.public().node_id());
    let settings = HubSettings { url: http.url.clone(), ca_pem: Some(http.ca_pem.clone()), token: None };
    let pin = hub.roots_fingerprint().replace(' ', "");
    let (ledger, link, told, task) = Node::start(dir.path(), &key, |config| {
        (config.hub, config.roots_sha256) = (Some(settings), Some(pin))
    })
    .await;
    let (app, image) = hub.app(b"first");
    hub.publish(1, &app, &[&app, &image]);
    let node = Node { dir, key, hub, ledger, link, told, task };
    node.export();
    assert_eq!(node.plug_in().await.generation, Some(1), "while enrolling");
    let mut seen = asked.subscribe();
    timeout(DEADLINE, seen.wait_for(|n| *n >= 1)).await.expect("the hub is followed").unwrap();
    let (app, image) = (app, image);
    node.hub.publish(2, &app, &[&app, &image]);
    node.export();
    let before = *asked.borrow();
    assert_eq!(node.plug_in().await.generation, Some(2), "while the hub hangs");
    timeout(DEADLINE, seen.wait_for(|n| *n > before)).await.expect("and taken up again").unwrap();
    let status = node.link.status.borrow().clone();
    assert_eq!(status.hub.as_deref(), Some(http.url.as_str()));
    assert_eq!(status.verified, None, "a stick is no word of the hub's");
}
