//! A stick that goes away, or shows something else, at any of its reads: in the place of each read of a whole visit in turn.
//! Whatever the read, nothing is half-taken, nothing goes back to what is older, and the whole stick is gone on with.
//!
//! All of a stick is read by its own thread, one read a piece of work: a metadata file, a document, the look whether all blobs
//! are there, a piece of a blob. A file that ends early is truncated on the disk, also where it is open already.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use cairn_model::media::{Freshness, blob_path, part_path};
use tokio::{sync::oneshot, time::timeout};

use super::*;
use crate::{
    assemble::Blob,
    pull::tests::Hub,
    source::{Fault, MediaSource},
};

/// How long one visit may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// So long a part of a blob is here that lies in parts.
const PART_BYTES: u64 = 300_000;

/// What a stick does from some read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    /// It is gone: nothing can be read any more.
    Gone,
    /// One read fails.
    Once,
    /// Every file ends in its middle.
    Short,
    /// Every file is empty.
    Empty,
    /// Every file has its length and other bytes.
    Other,
}

/// A fleet, its stick, and a node that has not seen it yet.
struct Bench {
    dir: tempfile::TempDir,
    key: Arc<KeyPair>,
    hub: Hub,
    blobs: Vec<Blob>,
}

/// Bytes that no compression and no other offset looks like.
fn noise(bytes: u32, seed: u32) -> Vec<u8> {
    (0..bytes / 4).flat_map(|i| (i ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn tear(stick: &Path, torn: Torn) {
    for file in files(stick) {
        let open = fs::OpenOptions::new().write(true).open(&file).unwrap();
        let length = open.metadata().unwrap().len();
        match torn {
            Torn::Short => open.set_len(length / 2).unwrap(),
            Torn::Empty => open.set_len(0).unwrap(),
            Torn::Other => fs::write(&file, vec![b'#'; usize::try_from(length).unwrap()]).unwrap(),
            Torn::Gone | Torn::Once => {}
        }
    }
}

/// Version and generation of all that a node believes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Believed {
    versions: BTreeMap<PathBuf, u64>,
    generation: u64,
}

impl Believed {
    fn is_not_older_than(&self, before: &Self) -> bool {
        let newer = |(path, version): (&PathBuf, &u64)| self.versions.get(path).is_some_and(|v| v >= version);
        self.generation >= before.generation && before.versions.iter().all(newer)
    }
}

impl Bench {
    fn new() -> Self {
        let key = Arc::new(KeyPair::generate().unwrap());
        let hub = Hub::of(key.public().node_id());
        Self { dir: tempfile::tempdir().unwrap(), key, hub, blobs: Vec::new() }
    }

    /// Generation 1: one small component.
    fn export_first(&mut self) {
        let (app, image) = self.hub.app(b"first");
        self.hub.publish(1, &app, &[&app, &image]);
        self.hub.export(&self.stick(), 0, Freshness::AIR_GAPPED, Timestamp::now());
    }

    /// Generation 2: a component in one file, and one in three parts.
    fn export_second(&mut self) {
        let (whole, parted) = (noise(600_000, 1), noise(700_000, 2));
        let (app, images) = self.hub.app_of(&[("api", &whole), ("web", &parted)]);
        self.hub.publish_services(2, &app, &["api", "web"], &[&app, &images[0], &images[1]]);
        self.hub.export(&self.stick(), 0, Freshness::AIR_GAPPED, Timestamp::now());
        let digest = Digest::of(&parted);
        fs::remove_file(self.stick().join(blob_path(&digest))).unwrap();
        for (part, bytes) in (0..).zip(parted.chunks(usize::try_from(PART_BYTES).unwrap())) {
            let path = self.stick().join(part_path(&digest, part));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let blob = |bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        self.blobs = vec![blob(&whole), blob(&parted)];
    }

    fn stick(&self) -> PathBuf {
        self.dir.path().join("stick")
    }

    /// One visit of one daemon: how far it came, and what it said was missing.
    async fn visit(&self, node: &Path, stick: &Path, fault: Fault) -> (MediaOutcome, u64) {
        let ledger = Ledger::open(&node.join("ledger.sqlite")).await.unwrap();
        let initial = crate::pull::from_ledger(&ledger).await.unwrap();
        let (reporter, _told) = Reporter::channel();
        let (link, task) =
            build(config(node, &self.key), ledger.clone(), Blobs::new(node), reporter, initial);
        let task = tokio::spawn(task);
        let source = Arc::new(MediaSource::faulty(stick, &self.hub.node, fault, PART_BYTES).unwrap());
        let (progress, copied) = watch::channel((0, 0));
        let (reply, answer) = oneshot::channel();
        link.media.send(MediaVisit { source, progress, reply }).await.unwrap();
        let outcome = timeout(DEADLINE, answer).await.expect("an answer in time").unwrap();
        let runs = link.desired.borrow().as_ref().map_or(0, |desired| desired.desired.generation);
        let stored = ledger.generation().await.unwrap().map_or(0, |stored| stored.generation);
        assert_eq!(runs, stored, "what is to run is what is stored");
        task.abort();
        let _ = task.await;
        ledger.close().await;
        (outcome, copied.borrow().1)
    }

    /// What the node believes; all of it can be read, and what has a blob's name is that blob.
    async fn believed(&self, node: &Path) -> Believed {
        let ledger = Ledger::open(&node.join("ledger.sqlite")).await.unwrap();
        let generation = ledger.generation().await.unwrap().map_or(0, |stored| stored.generation);
        let is_member = ledger.enrolment().await.unwrap().is_some();
        ledger.close().await;
        if is_member {
            Verifier::open(&node.join("trust"), self.hub.node.clone()).expect("the trusted state is sound");
        }
        let blobs = Blobs::new(node);
        for blob in &self.blobs {
            let whole = fs::read(blobs.path(&blob.digest)).ok();
            assert!(whole.is_none_or(|bytes| Digest::of(&bytes) == blob.digest), "a blob in part");
            assert!(generation < 2 || blobs.contains(&blob.digest), "a generation without its blobs");
        }
        let version = |path: PathBuf| {
            let document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let version = document["signed"]["version"].as_u64().expect("a version");
            (path.strip_prefix(node).unwrap().to_owned(), version)
        };
        let metadata = files(&node.join("trust"))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        Believed { versions: metadata.map(version).collect(), generation }
    }

    /// How many bytes the node still lacks, once writes that were under way have ended.
    async fn lacks(&self, node: &Path) -> u64 {
        let mut lacks = 0;
        for blob in &self.blobs {
            let part = node.join("blobs/sha256").join(format!("{}.part", blob.digest.hex()));
            if let Ok(file) = fs::File::open(&part) {
                tokio::task::spawn_blocking(move || file.lock()).await.unwrap().unwrap();
            }
            lacks += Blobs::new(node).have(blob).await.map_or(0, |have| blob.size - have);
        }
        lacks
    }

    /// A stick that is torn at one read after the other, each time for a node as `start` is.
    async fn torn_everywhere(&self, start: &Path, torn: Torn) {
        let before = self.believed(start).await;
        for at in 1.. {
            let (node, stick) = (self.dir.path().join("node"), self.dir.path().join("torn"));
            copy(start, &node);
            copy(&self.stick(), &stick);
            let reads = Arc::new(AtomicU64::new(0));
            let fault = {
                let (reads, stick, done) = (reads.clone(), stick.clone(), Mutex::new(()));
                Fault::new(move || {
                    let _one_after_the_other = done.lock().unwrap();
                    let read = reads.fetch_add(1, Ordering::Relaxed) + 1;
                    if read == at {
                        tear(&stick, torn);
                    }
                    let fails = (torn == Torn::Gone && read >= at) || (torn == Torn::Once && read == at);
                    if fails { Err(std::io::Error::from_raw_os_error(nix::libc::EIO)) } else { Ok(()) }
                })
            };
            let (outcome, _) = self.visit(&node, &stick, fault).await;
            let after = self.believed(&node).await;
            assert!(after.is_not_older_than(&before), "{torn:?} at {at}: {after:?} after {before:?}");
            if reads.load(Ordering::Relaxed) < at {
                assert_eq!(outcome.generation, Some(2), "{torn:?} at {at}: {outcome:?}");
                assert!(at > 20, "a whole visit has more reads than {at}");
                return;
            }
            if outcome.generation.is_none() {
                let (attack, text) =
                    outcome.refused.clone().unwrap_or_else(|| (None, outcome.notes.join(" ")));
                assert!(attack.as_deref() != Some(words::WRONG_FLEET), "{torn:?} at {at}: {text}");
                let cures = ["plug it in again", "write it again", "export to it again", "export it again"];
                assert!(cures.iter().any(|cure| text.contains(cure)), "{torn:?} at {at}: no cure in {text}");
                let is_read_error = matches!(torn, Torn::Gone | Torn::Once);
                assert!(outcome.broken || !is_read_error, "{torn:?} at {at}: {outcome:?}");
                assert!(attack.is_none() || !is_read_error, "{torn:?} at {at}: {text}");
            }
            self.goes_on(&node, &format!("{torn:?} at {at}")).await;
            fs::remove_dir_all(&node).unwrap();
            fs::remove_dir_all(&stick).unwrap();
        }
    }

    /// The whole stick brings what is missing, and no more.
    async fn goes_on(&self, node: &Path, when: &str) {
        let lacks = self.lacks(node).await;
        let (outcome, to_copy) = self.visit(node, &self.stick(), Fault::default()).await;
        assert!(outcome.member && outcome.refused.is_none(), "{when}: {outcome:?}");
        assert_eq!(to_copy, lacks, "{when}: only what is missing");
        assert_eq!(self.believed(node).await.generation, 2, "{when}");
        assert_eq!(self.lacks(node).await, 0, "{when}");
    }
}

/// Joins by this very visit: the grant and the roots are on the stick too.
async fn blank(torn: Torn) {
    let mut bench = Bench::new();
    bench.export_second();
    let start = bench.dir.path().join("start");
    fs::create_dir(&start).unwrap();
    bench.torn_everywhere(&start, torn).await;
}

/// Has a generation, and gets the next one.
async fn member(torn: Torn) {
    let mut bench = Bench::new();
    bench.export_first();
    let start = bench.dir.path().join("start");
    fs::create_dir(&start).unwrap();
    let (outcome, _) = bench.visit(&start, &bench.stick(), Fault::default()).await;
    assert_eq!(outcome.generation, Some(1), "{outcome:?}");
    bench.export_second();
    bench.torn_everywhere(&start, torn).await;
}

#[tokio::test]
async fn a_blank_node_and_a_stick_that_is_pulled_at_any_read() {
    blank(Torn::Gone).await;
}

#[tokio::test]
async fn a_blank_node_and_a_stick_that_ends_short_at_any_read() {
    blank(Torn::Short).await;
}

#[tokio::test]
async fn a_member_and_a_stick_that_is_pulled_at_any_read() {
    member(Torn::Gone).await;
}

#[tokio::test]
async fn a_member_and_a_stick_of_which_any_read_fails() {
    member(Torn::Once).await;
}

#[tokio::test]
async fn a_member_and_a_stick_that_ends_short_at_any_read() {
    member(Torn::Short).await;
}

#[tokio::test]
async fn a_member_and_a_stick_that_is_emptied_at_any_read() {
    member(Torn::Empty).await;
}

#[tokio::test]
async fn a_member_and_a_stick_that_is_overwritten_at_any_read() {
    member(Torn::Other).await;
}
