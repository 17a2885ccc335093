//! A machine of plain files, a hub with releases, and a boot loader of three lines: what the OS task is tested on. The
//! updater, the ledger, the outbox and HTTPS are the real ones; only the restart is the test's own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use cairn_model::{
    DesiredState, Facts, Release,
    desired::{DesiredOs, Policy},
    local::LinkState,
    media::blob_path,
    report::{Event, NodeStatus, Record, Slot},
};
use cairn_ota::{
    chunks,
    machine::Identity,
    verity::{self, HashTree},
};
use cairn_trust::keys::KeyPair;
use futures_util::{StreamExt, stream};
use tokio::{task::JoinHandle, time::timeout};

use super::super::*;
use crate::{
    act::supervisor::SupervisorError,
    assemble::{WantedOs, node_arch},
    ledger::Ledger,
    report,
    source::{MediaSource, tests::hub},
};

/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(40);
const ROOT_BYTES: usize = 768 << 10;
const SLOT_BYTES: u64 = 1 << 20;
const TREE_BYTES: u64 = 128 << 10;

/// One build of an OS.
pub(super) struct Build {
    pub(super) version: OsVersion,
    root: Vec<u8>,
    uki: Vec<u8>,
    tree: HashTree,
}

impl Build {
    /// Builds share their first third, as releases do.
    pub(super) fn new(version: &str, seed: u64) -> Self {
        let mut root = noise(1, ROOT_BYTES);
        root[ROOT_BYTES / 3..].copy_from_slice(&noise(seed, ROOT_BYTES - ROOT_BYTES / 3));
        let tree = verity::hash_tree(root.as_slice()).unwrap();
        let uki = uki(&format!("ro roothash={}", tree.root_hash), seed);
        Self { version: version.parse().unwrap(), root, uki, tree }
    }

    fn identity(&self) -> Identity {
        Identity {
            version: self.version.clone(),
            compatible: "test-box".to_owned(),
            arch: node_arch().to_owned(),
            root_hash: self.tree.root_hash.clone(),
        }
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// The least of a PE file that has a `.cmdline`.
fn uki(command_line: &str, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 104];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 64;
    bytes[64..68].copy_from_slice(b"PE\0\0");
    bytes[70] = 1;
    bytes[84] = 16;
    let length = u32::try_from(command_line.len()).unwrap();
    let mut section = b".cmdline".to_vec();
    section.resize(40, 0);
    section[8..12].copy_from_slice(&length.to_le_bytes());
    section[16..20].copy_from_slice(&length.to_le_bytes());
    section[20..24].copy_from_slice(&144u32.to_le_bytes());
    bytes.extend(section);
    bytes.extend(command_line.as_bytes());
    bytes.extend(noise(seed + 1, 20 << 10));
    bytes
}

/// What the hub of the tests has, and how it behaves.
#[derive(Default)]
pub(super) struct Shop {
    blobs: Mutex<BTreeMap<String, Bytes>>,
    /// Bytes that went out.
    pub(super) sent: AtomicU64,
    /// Each answer breaks off after so many bytes; 0 for never.
    pub(super) breaks_after: AtomicU64,
    /// Answers begin and never end.
    pub(super) hangs: AtomicBool,
}

async fn serve(
    State(shop): State<Arc<Shop>>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = shop.blobs.lock().unwrap().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
    let (begin, end) = range.split_once('-').unwrap();
    let mut body = bytes.slice(begin.parse::<usize>().unwrap()..=end.parse::<usize>().unwrap());
    let breaks = usize::try_from(shop.breaks_after.load(Ordering::SeqCst)).unwrap();
    let broken = breaks > 0 && body.len() > breaks;
    if broken {
        body.truncate(breaks);
    }
    if shop.hangs.load(Ordering::SeqCst) {
        body.truncate(body.len() / 2);
    }
    shop.sent.fetch_add(body.len() as u64, Ordering::SeqCst);
    let first = stream::iter([Ok::<_, std::io::Error>(body)]);
    let stream = if shop.hangs.load(Ordering::SeqCst) {
        first.chain(stream::pending()).boxed()
    } else if broken {
        // The break comes a moment later: else the server throws away what it has not sent.
        let cut = async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cable pulled"))
        };
        first.chain(stream::once(cut)).boxed()
    } else {
        first.boxed()
    };
    (StatusCode::PARTIAL_CONTENT, Body::from_stream(stream)).into_response()
}

/// Asked to restart: counts.
struct Bell(watch::Sender<u32>);

#[async_trait]
impl RestartMachine for Bell {
    async fn restart_machine(&self) -> Result<(), SupervisorError> {
        self.0.send_modify(|rung| *rung += 1);
        Ok(())
    }
}

/// The machine and all around it.
pub(super) struct Stage {
    pub(super) dir: tempfile::TempDir,
    pub(super) shop: Arc<Shop>,
    pub(super) patience: Patience,
    /// Only sticks come to it.
    pub(super) hubless: bool,
    client: HubClient,
    boots: u32,
}

impl Stage {
    /// A disk whose slot A holds `build`, blessed.
    pub(super) async fn new(build: &Build) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shop = Arc::new(Shop::default());
        let router = Router::new().route("/v2/_/blobs/{digest}", get(serve)).with_state(shop.clone());
        let client = hub(router).await.client();
        for name in ["root-a", "root-b"] {
            fs::write(dir.path().join(name), vec![0; usize::try_from(SLOT_BYTES).unwrap()]).unwrap();
        }
        for name in ["tree-a", "tree-b"] {
            fs::write(dir.path().join(name), vec![0; usize::try_from(TREE_BYTES).unwrap()]).unwrap();
        }
        overwrite(&dir.path().join("root-a"), &build.root);
        overwrite(&dir.path().join("tree-a"), &build.tree.bytes);
        let stage = Self { dir, shop, patience: Patience::default(), hubless: false, client, boots: 0 };
        fs::create_dir_all(stage.entries_dir()).unwrap();
        fs::write(stage.entries_dir().join(format!("cairn_{}.efi", build.version)), &build.uki).unwrap();
        stage
    }

    pub(super) fn entries_dir(&self) -> PathBuf {
        self.dir.path().join("esp/EFI/Linux")
    }

    /// The names of the boot entries, without what the loader does not see.
    pub(super) fn entries(&self) -> Vec<String> {
        let names = fs::read_dir(self.entries_dir()).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// What systemd-boot does with an entry that it starts: one try less, one more done.
    pub(super) fn count_a_try(&self, from: &str, to: &str) {
        fs::rename(self.entries_dir().join(from), self.entries_dir().join(to)).unwrap();
    }

    /// Pushes a release of `build` to the hub.
    pub(super) fn release(&self, build: &Build, change: impl FnOnce(&mut Release)) -> Release {
        let file = |name: &str, bytes: &[u8]| {
            let path = self.dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let (root, uki) = (file("new-root", &build.root), file("new-uki", &build.uki));
        let mut pack = Vec::new();
        let index = chunks::pack(&root, &uki, 1, &mut pack).unwrap().to_bytes();
        let put = |bytes: Vec<u8>| {
            let payload = payload(&bytes);
            self.shop.blobs.lock().unwrap().insert(payload.digest.to_string(), bytes.into());
            payload
        };
        let mut release: Release = serde_json::from_value(serde_json::json!({
            "schema": 1, "version": build.version, "compatible": "test-box", "arch": node_arch(),
            "name": "Test", "built": 0, "data_layout": {"min": 1, "max": 1},
            "root": payload(&build.root), "uki": payload(&build.uki),
            "verity": {
                "root_hash": build.tree.root_hash, "salt": hex::encode(verity::SALT), "uuid": hex::encode(verity::UUID),
            },
            "chunks": {"index": put(index), "pack": put(pack)},
        }))
        .unwrap();
        change(&mut release);
        release
    }

    /// A stick with all that the hub has.
    pub(super) fn stick(&self) -> Arc<MediaSource> {
        let root = self.dir.path().join("stick");
        for (digest, bytes) in self.shop.blobs.lock().unwrap().iter() {
            let path = root.join(blob_path(&digest.parse().unwrap()));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let node = KeyPair::generate().unwrap().public().node_id();
        Arc::new(MediaSource::open(&root, &node).unwrap())
    }

    /// Boots `build` from `slot`, and starts the daemon's task on it.
    pub(super) async fn boot(&mut self, build: &Build, slot: Slot) -> Daemon {
        self.boots += 1;
        self.start(build, slot).await
    }

    /// Starts the daemon's task, in the same boot as before.
    pub(super) async fn start(&self, build: &Build, slot: Slot) -> Daemon {
        let boot_id = format!("boot-{}", self.boots);
        let machine = Machine::of_files(self.dir.path(), slot, build.identity(), &boot_id);
        self.start_on(Find::Made(Box::new(machine))).await
    }

    /// Starts it on a machine that is none of ours.
    pub(super) async fn start_without_slots(&self) -> Daemon {
        self.start_on(Find::Below(self.dir.path().join("nowhere"))).await
    }

    async fn start_on(&self, find: Find) -> Daemon {
        let boot_id = format!("boot-{}", self.boots);
        let run_dir = self.dir.path().join(&boot_id);
        fs::create_dir_all(&run_dir).unwrap();
        let ledger = Ledger::open(&self.dir.path().join("ledger.sqlite")).await.unwrap();
        let stop = CancellationToken::new();
        let (reporter, records) = Reporter::channel();
        let (desired, desired_out) = watch::channel(None);
        let (work, work_out) = watch::channel(WorkStatus::default());
        let (link, link_out) = watch::channel(LinkStatus {
            hub: Some("https://hub".to_owned()),
            ..LinkStatus::new(LinkState::Offline)
        });
        let (hub, hub_out) = watch::channel((!self.hubless).then(|| self.client.clone()));
        let (stick, stick_out) = watch::channel(None);
        let (bell, restarts) = watch::channel(0);
        let config = Config {
            root: self.dir.path().to_owned(),
            state_dir: self.dir.path().join("os"),
            run_dir,
            health_command: vec![],
            has_hub: !self.hubless,
            desired: desired_out,
            work: work_out,
            link: link_out,
            hub: hub_out,
            stick: stick_out,
            restart: Arc::new(Bell(bell)),
            reporter,
        };
        let (os, mut task) = build(config);
        task.patience = self.patience;
        let (bus, asked) = mpsc::channel(1);
        let task = tokio::spawn(task.run_on(find, asked, stop.clone()));
        let (status, status_out) =
            watch::channel(NodeStatus { generation: 0, workloads: vec![], problems: vec![], os: None });
        let (seconds, seconds_out) = watch::channel(60);
        let (no_hub, no_hub_out) = watch::channel(None);
        let report = report::Config {
            key: Arc::new(KeyPair::generate().unwrap()),
            boot: "0".repeat(32).parse().unwrap(),
            facts: Facts::default(),
            records,
            status: status_out,
            report_seconds: seconds_out,
            hub: no_hub_out,
        };
        let (_, reporting) = report::build(report, ledger.clone(), stop.clone());
        let reporting = tokio::spawn(reporting);
        let held: Vec<Box<dyn std::any::Any + Send>> =
            vec![Box::new(status), Box::new(seconds), Box::new(no_hub), Box::new(hub)];
        Daemon {
            os,
            desired,
            work,
            link,
            stick,
            bus,
            restarts,
            ledger,
            stop,
            tasks: vec![task, reporting],
            _held: held,
        }
    }
}

fn payload(bytes: &[u8]) -> cairn_model::release::Payload {
    cairn_model::release::Payload { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, 0).unwrap();
}

/// The daemon's task with everything that it hears and says.
pub(super) struct Daemon {
    pub(super) os: Os,
    pub(super) desired: watch::Sender<Option<Arc<Assembled>>>,
    pub(super) work: watch::Sender<WorkStatus>,
    pub(super) link: watch::Sender<LinkStatus>,
    pub(super) stick: watch::Sender<Option<Arc<MediaSource>>>,
    pub(super) bus: mpsc::Sender<OsRequest>,
    restarts: watch::Receiver<u32>,
    ledger: Ledger,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _held: Vec<Box<dyn std::any::Any + Send>>,
}

impl Daemon {
    /// The hub desires this release.
    pub(super) fn desire(&self, release: &Release, change: impl FnOnce(&mut DesiredOs)) {
        let digest = Digest::of(&serde_json::to_vec(release).unwrap());
        let mut wanted: DesiredOs = serde_json::from_value(serde_json::json!({
            "release": digest, "version": release.version, "health": {"deadline_seconds": 60, "hub": true},
        }))
        .unwrap();
        change(&mut wanted);
        let desired = DesiredState {
            schema: 1,
            node: KeyPair::generate().unwrap().public().node_id(),
            generation: 1,
            apps: BTreeMap::new(),
            os: Some(wanted.clone()),
            commands: vec![],
            policy: Policy::default(),
        };
        let os = Some(Arc::new(WantedOs { digest, wanted, release: release.clone() }));
        self.apply_generation(desired, os);
    }

    /// The hub desires no OS any more.
    pub(super) fn desire_nothing(&self) {
        let desired = self.desired.borrow().as_ref().unwrap().desired.clone();
        self.apply_generation(DesiredState { os: None, ..desired }, None);
    }

    fn apply_generation(&self, desired: DesiredState, os: Option<Arc<WantedOs>>) {
        let assembled = Assembled { desired, replicas: BTreeMap::new(), images: BTreeMap::new(), os };
        self.desired.send_replace(Some(Arc::new(assembled)));
        // The reconciler has looked, and finds all as it should be.
        self.work.send_modify(|work| work.generation = 1);
    }

    /// The hub has answered.
    pub(super) fn hear_hub(&self) {
        self.link.send_modify(|link| link.last_contact = Some(jiff::Timestamp::now()));
    }

    /// What the hub says is verified; its clock is so far ahead.
    pub(super) fn believe_hub(&self, skew_seconds: i64) {
        self.hear_hub();
        self.link.send_modify(|link| {
            (link.verified, link.skew_seconds) = (Some(Instant::now()), skew_seconds);
        });
    }

    /// Waits until the status is so.
    pub(super) async fn until(&self, what: &str, is: impl Fn(&OsStatus) -> bool) -> OsStatus {
        let mut status = self.os.status.clone();
        let found = timeout(DEADLINE, status.wait_for(|status| status.as_ref().is_some_and(&is))).await;
        match found {
            Ok(status) => status.unwrap().clone().unwrap(),
            Err(_) => panic!("{what} does not come; it is {:?}", self.os.status.borrow()),
        }
    }

    /// Waits until a restart was asked for.
    pub(super) async fn until_restart(&mut self) {
        let rung = timeout(DEADLINE, self.restarts.wait_for(|rung| *rung > 0)).await;
        assert!(rung.is_ok(), "no restart; it is {:?}", self.os.status.borrow());
    }

    pub(super) fn restarts(&self) -> u32 {
        *self.restarts.borrow()
    }

    /// What stands in the outbox, durably.
    pub(super) async fn events(&self) -> Vec<Event> {
        let rows = self.ledger.next_reports(usize::MAX).await.unwrap();
        let records = rows.into_iter().flat_map(|row| row.report.records);
        records
            .filter_map(|record| if let Record::Event(event) = record { Some(event) } else { None })
            .collect()
    }

    /// Ends the daemon, and says what it told in all.
    pub(super) async fn end(self) -> Vec<Event> {
        self.stop.cancel();
        for task in self.tasks {
            timeout(DEADLINE, task).await.unwrap().unwrap();
        }
        let rows = self.ledger.next_reports(usize::MAX).await.unwrap();
        let records: Vec<Record> = rows.into_iter().flat_map(|row| row.report.records).collect();
        self.ledger.close().await;
        records.into_iter().filter_map(|r| if let Record::Event(e) = r { Some(e) } else { None }).collect()
    }
}

/// The names of events, in order.
pub(super) fn reasons(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.reason.as_str()).collect()
}
