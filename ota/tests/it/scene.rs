//! Two releases made of noise that have much in common, and a machine that is files: what runs, a slot, a scratch folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cairn_model::{
    Digest,
    release::{Chunks, DataLayout, Patch, Payload, Release, Verity},
    report::OsProgress,
};
use cairn_ota::{
    Carrier, FolderCarrier, chunks, patch, verity,
    write::{Target, WriteError, write},
};
use tempfile::TempDir;

use crate::noise::noise;

/// Bytes of the hash tree's file; the last block is the slot's boot record.
const TREE_ROOM: usize = 128 << 10;

/// A folder in memory where there is one: these tests sync often.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

/// An old and a new release, and the new one's artifact.
pub struct Scene {
    folder: TempDir,
    pub old: [Vec<u8>; 2],
    pub new: [Vec<u8>; 2],
    pub release: Release,
}

impl Scene {
    /// Of these payloads, root and kernel image.
    pub fn of(old: [Vec<u8>; 2], new: [Vec<u8>; 2]) -> Self {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("blobs/sha256")).unwrap();
        for (name, bytes) in ["old", "old.uki", "new", "new.uki"].iter().zip(old.iter().chain(&new)) {
            fs::write(at(name), bytes).unwrap();
        }
        let add = |bytes: &[u8]| {
            let payload = Payload { digest: Digest::of(bytes), size: bytes.len() as u64 };
            fs::write(at("blobs/sha256").join(payload.digest.hex()), bytes).unwrap();
            payload
        };
        let (mut pack, mut patched) = (Vec::new(), Vec::new());
        let index = chunks::pack(&at("new"), &at("new.uki"), 3, &mut pack).unwrap();
        let made =
            patch::make(&at("old"), &at("old.uki"), &at("new"), &at("new.uki"), 3, &mut patched).unwrap();
        let payload = |bytes: &[u8]| Payload { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let root_hash = |bytes: &[u8]| verity::hash_tree(bytes).unwrap().root_hash;
        let release = Release {
            schema: 1,
            version: "2".parse().unwrap(),
            compatible: "test".into(),
            arch: "amd64".into(),
            min_version: None,
            changelog: String::new(),
            name: "test".into(),
            built: 0,
            data_layout: DataLayout { min: 1, max: 1 },
            root: payload(&new[0]),
            uki: payload(&new[1]),
            verity: Verity {
                root_hash: root_hash(&new[0]),
                salt: hex::encode(verity::SALT),
                uuid: hex::encode(verity::UUID),
            },
            chunks: Chunks { index: add(&index.to_bytes()), pack: add(&pack) },
            patches: vec![Patch {
                from: "1".parse().unwrap(),
                from_root_hash: root_hash(&old[0]),
                blob: add(&patched),
                from_uki: Digest::of(&old[1]),
                memory: made.memory,
            }],
            health_command: Vec::new(),
        };
        Self { folder, old, new, release }
    }

    /// A release of some megabytes with stretches that repeat, moved, changed, came and went.
    pub fn large() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(|| {
            let part = |seed: u64, kib: usize| noise(seed, kib << 10);
            let old = [part(1, 900), part(2, 500), vec![0; 300 << 10], part(3, 800), part(2, 500)].concat();
            let mut edited = part(1, 900);
            edited[300_000..300_100].fill(7);
            edited[700_001] ^= 1;
            let new =
                [part(3, 800), edited, vec![0; 200 << 10], part(4, 400), part(2, 500), part(2, 500)].concat();
            let old_uki = noise(5, 600_001);
            let mut new_uki = old_uki.clone();
            new_uki.splice(400_000..400_010, noise(6, 5000));
            Self::of([old, old_uki], [new, new_uki])
        })
    }

    /// A release that is so small that it can be written thousands of times.
    pub fn small() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(|| {
            let old = [noise(11, 20_480), vec![b'x'; 8192], noise(12, 20_480)].concat();
            let new = [noise(12, 20_480), noise(13, 12_288), noise(11, 20_480)].concat();
            Self::of([old, noise(14, 9000)], [new, noise(15, 9001)])
        })
    }

    /// The artifact's carrier.
    pub fn carrier(&self) -> FolderCarrier {
        FolderCarrier::new(self.folder.path())
    }

    /// The release without its patch.
    pub fn chunks_only(&self) -> Release {
        Release { patches: Vec::new(), ..self.release.clone() }
    }

    /// A machine that runs the old release, and whose other slot holds what an even older one left there.
    pub fn machine(&self) -> Machine {
        let mut held = self.old[0].clone();
        held.rotate_left(16 << 10);
        held.resize(self.old[0].len().max(self.new[0].len()) + (64 << 10), 0xee);
        Machine::of(&self.old, &held)
    }

    /// A machine on which nothing runs.
    pub fn blank_machine(&self) -> Machine {
        Machine::of(&[Vec::new(), Vec::new()], &vec![0; self.new[0].len()])
    }

    /// Asserts that the slot holds the new release, its tree, and nothing of the rest was touched.
    pub fn assert_written(&self, machine: &Machine) {
        let [root, uki] = &self.new;
        assert!(machine.read("slot")[..root.len()] == root[..], "the slot holds another root");
        assert!(machine.read("slot.uki") == *uki, "the slot has another kernel image");
        let (held, tree) = (machine.read("slot.verity"), verity::hash_tree(root.as_slice()).unwrap());
        assert!(held[..tree.bytes.len()] == tree.bytes, "the slot has another hash tree");
        assert!(held[TREE_ROOM - 4096..] == [0xaa; 4096], "the boot record was touched");
        assert_eq!(fs::read_dir(machine.at("scratch")).map_or(0, Iterator::count), 0, "scratch is not empty");
    }
}

/// What runs and a slot, as files.
pub struct Machine {
    folder: TempDir,
}

impl Machine {
    fn of(running: &[Vec<u8>; 2], held: &[u8]) -> Self {
        let machine = Self { folder: folder() };
        let tree = verity::hash_tree(running[0].as_slice()).map_or(Vec::new(), |tree| tree.bytes);
        let mut slot_tree = vec![0xaa; TREE_ROOM];
        if let Ok(tree) = verity::hash_tree(&held[..held.len() / 4096 * 4096]) {
            slot_tree[..tree.bytes.len()].copy_from_slice(&tree.bytes);
        }
        let files: [(&str, &[u8]); 6] = [
            ("running", &running[0]),
            ("running.verity", &tree),
            ("running.uki", &running[1]),
            ("slot", held),
            ("slot.verity", &slot_tree),
            ("slot.uki", b""),
        ];
        files.iter().for_each(|(name, bytes)| fs::write(machine.at(name), bytes).unwrap());
        machine
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    pub fn open(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.at(name)).unwrap()
    }

    /// Writes a release, with what is told and asked meanwhile.
    pub fn write_with(
        &self,
        release: &Release,
        carrier: &mut dyn Carrier,
        memory: u64,
        observe: &mut dyn FnMut(OsProgress),
        stop: &dyn Fn() -> bool,
    ) -> Result<OsProgress, WriteError> {
        let [root, tree, mut uki] = ["slot", "slot.verity", "slot.uki"].map(|name| self.open(name));
        let [running_root, running_tree] = ["running", "running.verity"].map(|name| self.open(name));
        let mut target = Target {
            root: &root,
            tree: &tree,
            uki: &mut uki,
            running_root: &running_root,
            running_tree: &running_tree,
            running_uki: Some(&self.at("running.uki")),
            scratch: &self.at("scratch"),
        };
        write(release, &mut target, carrier, memory, observe, stop)
    }

    /// Writes a release without being stopped.
    pub fn write(&self, release: &Release, carrier: &mut dyn Carrier) -> Result<OsProgress, WriteError> {
        self.write_with(release, carrier, u64::MAX, &mut |_| (), &|| false)
    }
}

/// What is done to the bytes of an answer: the blob, the offset in it, and its bytes.
type Tamper = Box<dyn FnMut(&Payload, u64, &mut Vec<u8>) -> io::Result<()> + Send>;

/// A carrier that counts, and does something to what it carries.
pub struct Tampering {
    inner: FolderCarrier,
    tamper: Tamper,
    /// Bytes that were read from it.
    pub carried: u64,
}

impl Tampering {
    pub fn new(
        scene: &Scene,
        tamper: impl FnMut(&Payload, u64, &mut Vec<u8>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self { inner: scene.carrier(), tamper: Box::new(tamper), carried: 0 }
    }

    /// One that only counts.
    pub fn counting(scene: &Scene) -> Self {
        Self::new(scene, |_, _, _| Ok(()))
    }
}

impl Carrier for Tampering {
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut bytes = Vec::new();
        self.inner.read(blob, offset, length)?.read_to_end(&mut bytes)?;
        (self.tamper)(blob, offset, &mut bytes)?;
        Ok(Box::new(Counted { bytes: io::Cursor::new(bytes), carried: &mut self.carried }))
    }
}

struct Counted<'a> {
    bytes: io::Cursor<Vec<u8>>,
    carried: &'a mut u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A network gives less than it is asked for.
        let length = buffer.len().min(10_000);
        let count = self.bytes.read(&mut buffer[..length])?;
        *self.carried += count as u64;
        Ok(count)
    }
}
