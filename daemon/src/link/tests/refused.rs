//! Sticks that are slow or late, which neither keep the node from its hub nor are taken for attacks.

use std::{
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, http::StatusCode, routing::get};
use cairn_model::media::{ARTIFACTS, DIRECTOR, Freshness, PART_BYTES};
use tokio::{sync::oneshot, time::timeout};

use super::*;
use crate::{
    config::TokenFile,
    pull::tests::Hub,
    report::Told,
    source::{Fault, MediaSource},
};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

fn visit(source: MediaSource) -> (MediaVisit, oneshot::Receiver<MediaOutcome>) {
    let (reply, answer) = oneshot::channel();
    (MediaVisit { source: Arc::new(source), progress: watch::channel((0, 0)).0, reply }, answer)
}

fn stick(hub: &Hub, stick: &Path) -> MediaSource {
    MediaSource::open(stick, &hub.node).unwrap()
}

/// The stick makes it a member.
async fn joined(task: &Task, source: MediaSource) -> Enrolment {
    let (media, visits) = mpsc::channel(1);
    media.send(visit(source).0).await.unwrap();
    timeout(DEADLINE, task.membership(&mut Visits(visits))).await.unwrap().0
}

async fn receive(task: &Task, source: MediaSource, enrolment: &Enrolment) -> MediaOutcome {
    let (visit, answer) = visit(source);
    let mut puller = task.puller().await.unwrap();
    timeout(DEADLINE, task.receive(visit, None, &mut puller, enrolment, None)).await.expect("in time");
    answer.await.unwrap()
}

fn export(hub: &mut Hub, generation: u64, module: &[u8], stick: &Path) {
    let (app, image) = hub.app(module);
    hub.publish(generation, &app, &[&app, &image]);
    hub.export(stick, 0, Freshness::AIR_GAPPED, Timestamp::now());
}

#[tokio::test]
async fn a_stick_that_is_too_slow_is_given_up_and_goes_on_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = task(dir.path()).await;
    let (mut hub, folder) = (Hub::of(task.node.clone()), dir.path().join("stick"));
    export(&mut hub, 1, b"first", &folder);
    let enrolment = joined(&task, stick(&hub, &folder)).await;
    task.pace = Pace { least: 1, within: Duration::from_millis(20), ..task.pace };
    let (_held, hangs) = held(false);
    let slow = MediaSource::faulty(&folder, &hub.node, hangs, PART_BYTES).unwrap();
    let outcome = receive(&task, slow, &enrolment).await;
    assert!(outcome.broken && outcome.member && outcome.generation.is_none(), "{outcome:?}");
    let (attack, text) = outcome.refused.unwrap();
    assert!(attack.is_none() && text.contains("too slow") && text.contains("plug it in again"), "{text}");
    task.pace = Pace::default();
    assert_eq!(receive(&task, stick(&hub, &folder), &enrolment).await.generation, Some(1));
}

/// A stick that hangs at every read until it is let go on.
struct Held(Arc<(Mutex<bool>, Condvar)>);

impl Held {
    fn let_go(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn held(goes_on: bool) -> (Held, Fault) {
    let gate = Arc::new((Mutex::new(goes_on), Condvar::new()));
    let hangs = {
        let gate = gate.clone();
        move || {
            drop(gate.1.wait_while(gate.0.lock().unwrap(), |goes_on| !*goes_on).unwrap());
            Ok(())
        }
    };
    (Held(gate), Fault::new(hangs))
}

#[tokio::test]
async fn a_stick_that_hangs_does_not_keep_the_node_from_its_hub() {
    let asked = watch::channel(0u32).0;
    let mut looks = asked.subscribe();
    let unwell = move || {
        let asked = asked.clone();
        async move {
            asked.send_modify(|n| *n += 1);
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let http = crate::source::tests::hub(Router::new().fallback(get(unwell))).await;
    let dir = tempfile::tempdir().unwrap();
    let mut task = task(dir.path()).await;
    task.config.hub =
        Some(HubSettings { url: http.url.clone(), ca_pem: Some(http.ca_pem.clone()), token: None });
    let (mut hub, folder) = (Hub::of(task.node.clone()), dir.path().join("stick"));
    task.config.roots_sha256 = Some(hub.roots_fingerprint().replace(' ', ""));
    task.pace.turn = Duration::from_millis(500);
    export(&mut hub, 1, b"first", &folder);
    let enrolment = joined(&task, stick(&hub, &folder)).await;
    let client = task.client(&enrolment).expect("it has a hub");

    let (held, hangs) = held(false);
    let slow = MediaSource::faulty(&folder, &hub.node, hangs, PART_BYTES).unwrap();
    let (visit, answer) = visit(slow);
    let mut puller = task.puller().await.unwrap();
    let reading = task.receive(visit, None, &mut puller, &enrolment, Some(&client));
    let looked_at = async {
        looks.wait_for(|n| *n >= 2).await.unwrap();
        assert_eq!(task.applied(), 0, "nothing has come of the stick yet");
        held.let_go();
    };
    timeout(DEADLINE, async { tokio::join!(reading, looked_at) }).await.expect("the hub is looked at");
    let outcome = answer.await.unwrap();
    assert!(outcome.generation == Some(1) && outcome.refused.is_none(), "it goes on in turns: {outcome:?}");
}

#[tokio::test]
async fn a_hub_that_answers_while_a_blank_node_reads_a_stick_is_not_kept_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = task(dir.path()).await;
    let (mut hub, folder) = (Hub::of(task.node.clone()), dir.path().join("stick"));
    export(&mut hub, 1, b"first", &folder);
    // What the hub answers, with the same roots as the stick's.
    let grant = serde_json::to_string(&hub.grant()).unwrap();
    let http = crate::source::tests::hub(Router::new().fallback(move || async move { grant })).await;
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let (ca_pem, token) = (Some(http.ca_pem.clone()), Some(TokenFile::new(token)));
    task.config.hub = Some(HubSettings { url: http.url.clone(), ca_pem, token });
    task.config.roots_sha256 = Some(hub.roots_fingerprint().replace(' ', ""));
    let (_held, hangs) = held(false);
    let slow = MediaSource::faulty(&folder, &hub.node, hangs, PART_BYTES).unwrap();
    let (media, visits) = mpsc::channel(1);
    let (visit, _answer) = visit(slow);
    media.send(visit).await.unwrap();
    let (enrolment, joined) =
        timeout(DEADLINE, task.membership(&mut Visits(visits))).await.expect("by its hub");
    assert_eq!(enrolment.hub, Some(http.url));
    assert!(joined.is_none_or(|joined| joined.note.contains("hub has just made")), "the stick is read on");
}

#[tokio::test]
async fn a_stick_is_slow_by_what_came_of_late() {
    let came = AtomicU64::new(0);
    let pace = Pace { least: 10, within: Duration::from_millis(5), ..Pace::default() };
    let mut slow = std::pin::pin!(visit::too_slow(&came, pace));
    let begun = Instant::now();
    let comes = async {
        while begun.elapsed() < pace.within * 20 {
            came.fetch_add(10, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = comes => {}
        () = &mut slow => panic!("it is not slow"),
    }
    timeout(DEADLINE, slow).await.expect("it was quick long ago");
}

/// A node with a generation from a stick, and a stick older than that.
struct Late {
    _dir: tempfile::TempDir,
    task: Task,
    told: mpsc::Receiver<Told>,
    hub: Hub,
    enrolment: Enrolment,
    old: PathBuf,
}

impl Late {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (reporter, told) = Reporter::channel();
        let task = Task { reporter, ..task(dir.path()).await };
        let mut hub = Hub::of(task.node.clone());
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        export(&mut hub, 1, b"first", &old);
        export(&mut hub, 2, b"second", &new);
        let enrolment = joined(&task, stick(&hub, &new)).await;
        assert_eq!(receive(&task, stick(&hub, &new), &enrolment).await.generation, Some(2));
        Self { _dir: dir, task, told, hub, enrolment, old }
    }

    async fn plug_in(&mut self, folder: &Path) -> (MediaOutcome, String) {
        while self.told.try_recv().is_ok() {}
        let outcome = receive(&self.task, stick(&self.hub, folder), &self.enrolment).await;
        assert!(outcome.generation.is_none() && !outcome.broken, "{outcome:?}");
        assert_eq!(self.task.ledger.generation().await.unwrap().unwrap().generation, 2, "nothing is taken");
        (outcome, format!("{:?}", self.told.try_recv()))
    }
}

#[tokio::test]
async fn a_stick_that_the_hub_has_overtaken_is_no_attack() {
    let mut late = Late::new().await;
    let old = late.old.clone();
    // By sticks alone, only somebody who kept an older one looks so.
    let (outcome, event) = late.plug_in(&old).await;
    let (attack, text) = outcome.refused.expect("it is refused");
    assert_eq!(attack.as_deref(), Some("rollback"), "{text}");
    assert!(event.contains("bundle-refused") && event.contains("Error"), "{event}");
    // Also where the daemon has begun anew since, and the hub is away.
    late.task.heard_last(true).await;
    let (outcome, event) = late.plug_in(&old).await;
    assert!(outcome.refused.is_none() && outcome.member && outcome.may_write, "{outcome:?}");
    let note = &outcome.notes[0];
    assert!(note.contains("older than what this node has heard from its hub since"), "{note}");
    assert!(note.contains("nothing is taken") && note.contains("write it again"), "{note}");
    assert!(
        event.contains("stick-older") && event.contains("Info") && !event.contains("rollback"),
        "{event}"
    );
    late.task.heard_last(false).await;
    assert!(late.plug_in(&old).await.0.refused.is_some(), "a stick was newer since");
}

#[tokio::test]
async fn that_the_hub_was_heard_excuses_no_attack() {
    let mut late = Late::new().await;
    late.task.heard_last(true).await;
    // An older generation under newer signatures: nobody was overtaken there.
    let forged = late.old.with_file_name("forged");
    export(&mut late.hub, 1, b"first", &forged);
    let (outcome, event) = late.plug_in(&forged).await;
    assert_eq!(outcome.refused.unwrap().0.as_deref(), Some("rollback"));
    assert!(event.contains("bundle-refused") && event.contains("Error"), "{event}");
    // Another fleet's, which is older than this one's too.
    let other = late.old.with_file_name("other");
    let mut foreign = Hub::of(late.hub.node.clone());
    export(&mut foreign, 1, b"foreign", &other);
    let (outcome, _) = late.plug_in(&other).await;
    assert_eq!(outcome.refused.unwrap().0.as_deref(), Some(words::WRONG_FLEET));
}

/// A member's reports leave the node only on what its own fleet has signed, whoever else made the stick look like one.
#[tokio::test]
async fn reports_go_on_a_stick_that_shows_the_fleets_signature_and_on_no_other() {
    use std::fs;
    let mut late = Late::new().await;
    let (old, stick) = (late.old.clone(), late.old.with_file_name("stick"));
    let own = stick.join(DIRECTOR).join(late.hub.node.as_str());
    let mut after = async |tear: &dyn Fn()| {
        let _ = fs::remove_dir_all(&stick);
        export(&mut late.hub, 2, b"second", &stick);
        tear();
        let outcome = receive(&late.task, self::stick(&late.hub, &stick), &late.enrolment).await;
        assert!(outcome.refused.is_some(), "{outcome:?}");
        outcome.may_write
    };
    assert!(after(&|| fs::remove_dir_all(&own).unwrap()).await, "for other nodes of the fleet");
    assert!(!after(&|| fs::remove_dir_all(stick.join("tuf")).unwrap()).await, "a receipt is no signature");
    let forge = |folder: &Path| {
        let timestamp = folder.join("timestamp.json");
        let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&timestamp).unwrap()).unwrap();
        document["signed"]["version"] = 0.into();
        fs::write(timestamp, document.to_string()).unwrap();
    };
    let forged = || {
        forge(&own);
        forge(&stick.join(ARTIFACTS));
    };
    assert!(!after(&forged).await, "an older number is no signature either");
    assert!(
        receive(&late.task, self::stick(&late.hub, &old), &late.enrolment).await.may_write,
        "an older one"
    );
}

#[tokio::test]
async fn a_node_that_was_made_for_a_hub_joins_by_stick_only_with_a_pin() {
    let dir = tempfile::tempdir().unwrap();
    let mut task = task(dir.path()).await;
    task.config.hub =
        Some(HubSettings { url: "https://hub.test".parse().unwrap(), ca_pem: None, token: None });
    let (mut hub, folder) = (Hub::of(task.node.clone()), dir.path().join("stick"));
    export(&mut hub, 1, b"first", &folder);
    let (media, visits) = mpsc::channel(2);
    let (by_stick, answer) = visit(stick(&hub, &folder));
    media.send(by_stick).await.unwrap();
    let mut visits = Visits(visits);
    let outcome = tokio::select! {
        _ = task.membership(&mut visits) => panic!("any fleet may have it"),
        outcome = answer => outcome.unwrap(),
    };
    let (attack, text) = outcome.refused.expect("it is refused");
    assert!(attack.is_none() && !outcome.may_write && text.contains("trust.roots_sha256"), "{text}");
    assert!(task.ledger.enrolment().await.unwrap().is_none() && !dir.path().join("trust").exists());
    task.config.roots_sha256 = Some(hub.roots_fingerprint().replace(' ', ""));
    joined(&task, stick(&hub, &folder)).await;
}
