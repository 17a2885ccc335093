//! The task on folders: what it asks of whom, in which order, and what becomes of a stick that is pulled at each step.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Mutex,
};

use async_trait::async_trait;
use cairn_model::{
    Digest, Facts,
    media::{MediaState, RECEIPT},
    report::{NodeStatus, OsState},
};
use cairn_trust::{envelope, keys::KeyPair};
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    act::supervisor::SupervisorError, fixtures::os_status, ledger::Ledger, link::MediaOutcome, report,
};

mod os;
mod pulled;

const SOON: Duration = Duration::from_secs(60);

/// How the machine is.
#[derive(Default)]
struct Machine {
    /// Mounted and plugged in.
    there: Vec<String>,
    writable: bool,
    /// Which calls fail.
    fails: Vec<&'static str>,
    /// During which call the stick is pulled.
    pulled_at: Option<&'static str>,
    calls: Vec<String>,
}

/// Folders instead of mounts.
struct Folders {
    folder: PathBuf,
    machine: Mutex<Machine>,
}

impl Folders {
    fn call(&self, call: &'static str, device: &Device) -> Result<(), MountError> {
        let mut machine = self.machine.lock().unwrap();
        machine.calls.push(format!("{call} {device}"));
        if machine.pulled_at == Some(call) {
            machine.there.clear();
        }
        if machine.fails.contains(&call) || (machine.there.is_empty() && call == "writable") {
            return Err(SupervisorError::new("start", call, "no").into());
        }
        match call {
            "writable" => machine.writable = true,
            "read_only" => machine.writable = false,
            _ => machine.there.retain(|there| there != device.as_str()),
        }
        Ok(())
    }

    fn has(&self, device: &Device) -> bool {
        self.machine.lock().unwrap().there.iter().any(|there| there == device.as_str())
    }
}

#[async_trait]
impl Mounts for Folders {
    fn point(&self, device: &Device) -> PathBuf {
        self.folder.join(device.as_str())
    }

    fn mounted(&self) -> Vec<Device> {
        self.machine.lock().unwrap().there.iter().map(|there| there.parse().unwrap()).collect()
    }

    fn is_mounted(&self, device: &Device) -> bool {
        self.has(device)
    }

    fn is_plugged_in(&self, device: &Device) -> bool {
        self.has(device)
    }

    async fn writable(&self, device: &Device) -> Result<(), MountError> {
        self.call("writable", device)
    }

    async fn read_only(&self, device: &Device) -> Result<(), MountError> {
        self.call("read_only", device)
    }

    async fn release(&self, device: &Device) -> Result<(), MountError> {
        self.call("release", device)
    }
}

/// What of it a test need not wait for.
fn patience() -> Patience {
    let ms = Duration::from_millis;
    let (os, settle, stored, look, linger) = (ms(200), ms(200), ms(1), ms(5), ms(1));
    Patience { os, settle, stored, look, linger, ..Patience::default() }
}

/// A node, and the test in the place of its link and of its OS task.
struct Stage {
    dir: tempfile::TempDir,
    folders: Arc<Folders>,
    key: Arc<KeyPair>,
    media: Media,
    visits: mpsc::Receiver<MediaVisit>,
    stick: watch::Receiver<Option<Arc<MediaSource>>>,
    os: watch::Sender<Option<OsStatus>>,
    work: watch::Sender<WorkStatus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    ledger: Ledger,
    _ends: (watch::Sender<NodeStatus>, watch::Sender<u32>),
}

impl Stage {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    /// `there` is mounted already.
    async fn with(there: &[&str]) -> Self {
        Self::made(there, true, patience()).await
    }

    /// Where it is `numbered`, the hub has told the node which reports it has: none.
    async fn made(there: &[&str], numbered: bool, patience: Patience) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("media");
        let there: Vec<String> = there.iter().map(|device| (*device).to_owned()).collect();
        for device in &there {
            fill(&folder.join(device));
        }
        let folders =
            Arc::new(Folders { folder, machine: Mutex::new(Machine { there, ..Machine::default() }) });
        let key = Arc::new(KeyPair::generate().unwrap());
        let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
        if numbered {
            ledger.acknowledge_signed(0).await.unwrap();
        }
        let (reporter, records) = Reporter::channel();
        let stop = CancellationToken::new();
        let (node_status, status) =
            watch::channel(NodeStatus { generation: 1, workloads: vec![], problems: vec![], os: None });
        let (interval, report_seconds) = watch::channel(60);
        let facts = Facts { schema: 1, ..Facts::default() };
        let reports = report::Config {
            key: key.clone(),
            boot: "0".repeat(32).parse().unwrap(),
            facts: facts.clone(),
            records,
            status,
            report_seconds,
            hub: watch::channel(None).1,
        };
        tokio::spawn(report::build(reports, ledger.clone(), stop.clone()).1);
        let (visits_in, visits) = mpsc::channel(1);
        let (stick_in, stick) = watch::channel(None);
        let (os, os_out) = watch::channel(Some(os_status(OsState::Idle)));
        let (work, work_out) = watch::channel(WorkStatus::default());
        let config = Config {
            outgoing: Outgoing::new(key.clone(), ledger.clone(), facts, None),
            fingerprint: "aaaa bbbb".to_owned(),
            visits: visits_in,
            stick: stick_in,
            os: os_out,
            work: work_out,
            reporter,
            mounts: folders.clone(),
            lamp: None,
            patience,
        };
        let (media, task) = build(config, stop.clone());
        let task = tokio::spawn(task);
        let _ends = (node_status, interval);
        Self { dir, folders, key, media, visits, stick, os, work, stop, task, ledger, _ends }
    }

    fn point(&self, device: &str) -> PathBuf {
        self.dir.path().join("media").join(device)
    }

    /// A stick of Cairn's is plugged in.
    fn plug(&self, device: &str) {
        fill(&self.point(device));
        self.mount(device);
    }

    fn mount(&self, device: &str) {
        self.folders.machine.lock().unwrap().there.push(device.to_owned());
        self.media.attach(device.parse().unwrap()).unwrap();
    }

    fn pull(&self) {
        self.folders.machine.lock().unwrap().there.clear();
    }

    /// The link is brought a stick, and answers.
    async fn answer(&mut self, outcome: MediaOutcome) {
        let visit = timeout(SOON, self.visits.recv()).await.expect("a visit").unwrap();
        assert_eq!(*visit.source.node(), self.key.public().node_id());
        visit.progress.send_replace((10, 100));
        self.status(|status| status.state == MediaState::Copying && status.copied == 10).await;
        let MediaVisit { source, reply, .. } = visit;
        drop(source);
        reply.send(outcome).unwrap();
    }

    async fn status(&self, like: impl Fn(&MediaStatus) -> bool) -> MediaStatus {
        let mut status = self.media.status.clone();
        let found = timeout(SOON, status.wait_for(|status| status.as_ref().is_some_and(&like))).await;
        match found {
            Ok(found) => found.unwrap().clone().unwrap(),
            Err(_) => panic!("it stays: {:?}", self.media.status.borrow()),
        }
    }

    /// Until it may be pulled.
    async fn through(&self) -> MediaStatus {
        let status = self.status(|status| status.removable).await;
        assert!(self.stick.borrow().is_none(), "the OS task still has the stick");
        status
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.folders.machine.lock().unwrap().calls)
    }

    fn outbox(&self, device: &str) -> Vec<String> {
        let entries =
            fs::read_dir(self.point(device).join("outbox").join(self.key.public().node_id().as_str()));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

/// What makes a folder a stick of Cairn's: the receipt, whatever is in it.
fn fill(point: &Path) {
    fs::create_dir_all(point).unwrap();
    fs::write(point.join(RECEIPT), "not read").unwrap();
}

fn member() -> MediaOutcome {
    MediaOutcome { member: true, may_write: true, ..MediaOutcome::default() }
}

fn refused(attack: Option<&str>) -> MediaOutcome {
    let refused = Some((attack.map(str::to_owned), "it is refused, because".to_owned()));
    MediaOutcome { refused, ..member() }
}

fn says(status: &MediaStatus, words: &str) -> bool {
    status.messages.iter().any(|message| message.contains(words))
}

#[tokio::test]
async fn a_stick_is_read_written_and_let_go() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.work.send_replace(WorkStatus { generation: 7, ..WorkStatus::default() });
    let notes = vec!["the clock is not set".to_owned()];
    stage.answer(MediaOutcome { generation: Some(7), notes, ..member() }).await;
    let status = stage.through().await;
    assert_eq!((status.state, status.device.as_str()), (MediaState::Done, "sdb1"));
    for words in ["generation 7 is applied", "the clock is not set", "reports of this node are on it"] {
        assert!(says(&status, words), "{words}: {status:?}");
    }
    assert_eq!(stage.calls(), ["writable sdb1", "read_only sdb1", "release sdb1"]);
    // The newest of them tells of this very visit.
    let names = stage.outbox("sdb1");
    let texts: Vec<String> = names
        .iter()
        .map(|name| {
            let path =
                stage.point("sdb1").join("outbox").join(stage.key.public().node_id().as_str()).join(name);
            let report = envelope::verify_report(&fs::read_to_string(path).unwrap(), &stage.key.public());
            format!("{:?}", report.unwrap())
        })
        .collect();
    assert!(
        texts.iter().any(|text| text.contains("stick-visited") && text.contains("generation 7")),
        "{texts:?}"
    );
    // The node drops nothing for having written it.
    assert!(stage.ledger.unsent().await.unwrap() >= names.len() as u64);
    stage.end().await;
}

#[tokio::test]
async fn what_is_acknowledged_is_removed_and_the_rest_is_not_written_twice() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.answer(member()).await;
    stage.through().await;
    let first = stage.outbox("sdb1");
    assert!(!first.is_empty());
    stage.ledger.acknowledge(first.len() as u64).await.unwrap();
    stage.plug("sdb1");
    stage.status(|status| !status.removable).await;
    stage.answer(member()).await;
    stage.through().await;
    let second = stage.outbox("sdb1");
    assert!(second.iter().all(|name| !first.contains(name)), "{first:?} {second:?}");
    assert!(!second.is_empty());
    stage.end().await;
}

#[tokio::test]
async fn reports_wait_until_the_hub_has_said_which_it_has() {
    // A ledger that is new, perhaps because one was lost: its numbers would be those of reports that the hub has.
    let mut stage = Stage::made(&[], false, patience()).await;
    stage.plug("sdb1");
    stage.answer(member()).await;
    let status = stage.through().await;
    assert!(status.state == MediaState::Done && says(&status, "wait for the next export"), "{status:?}");
    assert!(stage.outbox("sdb1").is_empty() && stage.ledger.unsent().await.unwrap() > 0);
    stage.ledger.acknowledge_signed(700).await.unwrap();
    stage.plug("sdb1");
    stage.status(|status| !status.removable).await;
    stage.answer(member()).await;
    stage.through().await;
    assert_eq!(stage.outbox("sdb1")[0], format!("{:020}.jws", 701));
    stage.end().await;
}

#[tokio::test]
async fn a_node_that_is_no_member_asks_and_puts_nothing_else_there() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.answer(MediaOutcome { may_write: true, ..MediaOutcome::default() }).await;
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Done);
    assert!(says(&status, "fingerprint aaaa bbbb") && says(&status, "n-"), "{status:?}");
    assert_eq!(stage.outbox("sdb1"), ["enroll.jws"]);
    let node = stage.key.public().node_id();
    let path = stage.point("sdb1").join("outbox").join(node.as_str()).join("enroll.jws");
    let (request, key) = envelope::verify_enroll(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((request.token.as_str(), key.node_id()), ("", node), "a secret would be for whoever finds it");
    // A member asks no more.
    stage.plug("sdb1");
    stage.status(|status| !status.removable).await;
    stage.answer(member()).await;
    stage.through().await;
    let names = stage.outbox("sdb1");
    assert!(!names.is_empty() && !names.contains(&"enroll.jws".to_owned()), "{names:?}");
    stage.end().await;
}

#[tokio::test]
async fn a_stick_that_is_none_of_ours_is_left_alone() {
    for prepare in [
        (|_: &Path| {}) as fn(&Path),
        |point| symlink("/etc/hostname", point.join(RECEIPT)).unwrap(),
        |point| fs::create_dir(point.join(RECEIPT)).unwrap(),
        |point| symlink("elsewhere", point.join("outbox")).unwrap(),
    ] {
        let mut stage = Stage::start().await;
        let point = stage.point("sdb1");
        fs::create_dir_all(&point).unwrap();
        prepare(&point);
        let before = fs::read_dir(&point).unwrap().count();
        stage.mount("sdb1");
        let status = stage.through().await;
        assert_eq!(status.state, MediaState::Foreign, "{status:?}");
        assert!(says(&status, RECEIPT) && says(&status, "cairn usb export"), "{status:?}");
        assert_eq!(stage.calls(), ["release sdb1"]);
        assert!(stage.visits.try_recv().is_err());
        assert_eq!(fs::read_dir(&point).unwrap().count(), before);
        stage.end().await;
    }
}

#[tokio::test]
async fn a_refused_stick_of_the_fleet_takes_reports_back_and_no_other_does() {
    for (attack, written) in [(None, true), (None, false), (Some("rollback"), true), (Some("forgery"), false)]
    {
        let mut stage = Stage::start().await;
        stage.plug("sdb1");
        stage.answer(MediaOutcome { may_write: written, ..refused(attack) }).await;
        let status = stage.through().await;
        assert_eq!(status.state, MediaState::Refused);
        assert!(says(&status, "it is refused, because"));
        assert_eq!(!says(&status, "the reports wait for a stick"), written, "{status:?}");
        assert_eq!(!stage.outbox("sdb1").is_empty(), written, "{attack:?}");
        stage.end().await;
    }
}

#[tokio::test]
async fn another_fleets_stick_gets_no_request_of_a_node_that_expects_its_own() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.answer(MediaOutcome { member: false, may_write: false, ..refused(Some("wrong-fleet")) }).await;
    assert_eq!(stage.through().await.state, MediaState::Refused);
    assert!(!stage.point("sdb1").join("outbox").exists());
    assert_eq!(stage.calls(), ["release sdb1"], "it is never made writable");
    stage.end().await;
}

#[tokio::test]
async fn a_write_protected_stick_is_taken_and_said() {
    let mut stage = Stage::start().await;
    stage.folders.machine.lock().unwrap().fails = vec!["writable"];
    stage.plug("sdb1");
    stage.answer(member()).await;
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Done);
    assert!(says(&status, "write-protected"), "{status:?}");
    assert!(stage.outbox("sdb1").is_empty());
    assert!(stage.ledger.unsent().await.unwrap() > 0);
    stage.end().await;
}

#[tokio::test]
async fn a_trap_in_the_outbox_is_named_and_nothing_is_written_elsewhere() {
    let mut stage = Stage::start().await;
    let elsewhere = stage.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fill(&stage.point("sdb1"));
    symlink(&elsewhere, stage.point("sdb1").join("outbox")).unwrap();
    stage.mount("sdb1");
    stage.answer(member()).await;
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Done);
    assert!(says(&status, "outbox on the stick is in the way"), "{status:?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(stage.calls(), ["writable sdb1", "read_only sdb1", "release sdb1"]);
    stage.end().await;
}

#[tokio::test]
async fn two_sticks_at_once_are_visited_one_after_the_other() {
    let mut stage = Stage::with(&["sda1", "sdb1"]).await;
    // Told of what it found by itself, it does not visit it twice.
    stage.media.attach("sda1".parse().unwrap()).unwrap();
    stage.plug("sdc1");
    for device in ["sda1", "sdb1", "sdc1"] {
        stage.status(|status| status.device == device && !status.removable).await;
        stage.answer(member()).await;
        stage.status(|status| status.device == device && status.removable).await;
        assert!(!stage.outbox(device).is_empty());
    }
    let releases: Vec<String> =
        stage.calls().into_iter().filter(|call| call.starts_with("release")).collect();
    assert_eq!(releases, ["release sda1", "release sdb1", "release sdc1"]);
    assert!(stage.visits.try_recv().is_err());
    stage.end().await;
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["", "../sdb1", "sdb1/x", "sd b", ".", "sdb1\n", &"x".repeat(33), "é"] {
        assert!(name.parse::<Device>().is_err(), "{name:?}");
    }
    assert_eq!("mmcblk0p1".parse::<Device>().unwrap().to_string(), "mmcblk0p1");
    for name in ["", ".", "..", "../../etc", "a/b"] {
        assert!(Settings::new(Some(name.to_owned())).is_err(), "{name:?}");
    }
    assert!(Settings::new(Some("platform:green:status".to_owned())).is_ok());
}

#[test]
fn the_mount_units_have_no_namespace_of_their_own() {
    let units = [
        include_str!("../../../dist/node/usr/lib/systemd/system/cairn-media@.service"),
        include_str!("../../../dist/node/usr/lib/systemd/system/cairn-media-write@.service"),
    ];
    // systemd.exec(5): each of these makes one, and the agent would never see the mount.
    let walls = [
        "BindPaths",
        "InaccessiblePaths",
        "MountAPIVFS",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateTmp",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "TemporaryFileSystem",
    ];
    for line in units.iter().flat_map(|unit| unit.lines()) {
        let key = line.split('=').next().unwrap();
        assert!(!walls.contains(&key), "{line}");
    }
    let lines = |unit: &str, key: &str| unit.lines().any(|line| line == key);
    assert!(lines(units[0], "BindsTo=dev-%i.device") && lines(units[1], "BindsTo=cairn-media@%i.service"));
}
