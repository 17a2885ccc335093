//! A machine of plain files, releases for it, and what its firmware, boot loader and initrd would do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use cairn_model::{
    Digest,
    desired::DesiredOs,
    release::{Chunks, DataLayout, Payload, Release, SCHEMA, Verity},
    report::Slot,
};
use cairn_ota::{
    BootEntry, FolderCarrier, Machine, OsVersion, Startup, UpdateError, Updater, chunks, machine::Identity,
    record::BootRecord, verity,
};

use crate::noise::noise;

/// What all machines here are.
pub(crate) const COMPATIBLE: &str = "cairn-test-amd64";

/// How the name of a version ends that is whole, and never comes up.
pub(crate) const DEAD: &str = "-dead";

/// Starts until there is no hope.
const MAX_STARTS: u32 = 16;

const BLOCK: usize = 4096;

/// Blocks of a root file system; the slots have room for a few more.
const BLOCKS: usize = 40;

/// Enough for any release here.
pub(crate) const MEMORY: u64 = 64 << 20;

/// All fault points that an install passes.
pub(crate) const INSTALL_POINTS: [&str; 14] = [
    "ota::state-write",
    "ota::state-written",
    "ota::entry-remove",
    "ota::entry-removed",
    "ota::record-reset",
    "ota::record-was-reset",
    "ota::entry-rename",
    "ota::entry-renamed",
    "slot-write",
    "slot-sync",
    "tree-write",
    "tree-sync",
    "uki-write",
    "uki-sync",
];

/// A release and its manifest's digest.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) digest: Digest,
    pub(crate) release: Release,
    root: Vec<u8>,
    uki: Vec<u8>,
}

impl Made {
    pub(crate) fn wanted(&self) -> DesiredOs {
        DesiredOs {
            release: self.digest.clone(),
            version: self.release.version.clone(),
            allow_downgrade: false,
            attempt: 0,
            reboot: cairn_model::desired::RebootPolicy::default(),
            health: cairn_model::desired::OsHealth::default(),
        }
    }

    pub(crate) fn root_hash(&self) -> &str {
        &self.release.verity.root_hash
    }
}

/// Where the blobs of all releases lie, for this process.
pub(crate) fn carrier() -> FolderCarrier {
    FolderCarrier::new(layout())
}

fn layout() -> &'static Path {
    static LAYOUT: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = LAYOUT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        folder
    });
    folder.path()
}

/// A release; two of one version differ by `build`.
pub(crate) fn release(version: &str, build: u8) -> Made {
    static MADE: OnceLock<Mutex<BTreeMap<(String, u8), Made>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap();
    made.entry((version.to_owned(), build)).or_insert_with(|| make(version, build)).clone()
}

fn make(version: &str, build: u8) -> Made {
    let seed = version.bytes().fold(u64::from(build) + 1, |sum, byte| sum * 31 + u64::from(byte));
    let root = noise(seed, BLOCKS * BLOCK);
    let root_hash = verity::hash_tree(root.as_slice()).unwrap().root_hash;
    let uki = kernel_image(&format!("ro roothash={root_hash} panic=3"), seed);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("root"), &root).unwrap();
    fs::write(at("uki"), &uki).unwrap();
    let mut pack = Vec::new();
    let index = chunks::pack(&at("root"), &at("uki"), 1, &mut pack).unwrap().to_bytes();
    let release = Release {
        schema: SCHEMA,
        version: version.parse().unwrap(),
        compatible: COMPATIBLE.into(),
        arch: "amd64".into(),
        min_version: None,
        changelog: String::new(),
        name: format!("Cairn {version}"),
        built: 1_700_000_000,
        data_layout: DataLayout { min: 1, max: 1 },
        root: payload(&root),
        uki: payload(&uki),
        verity: Verity { root_hash, salt: hex::encode(verity::SALT), uuid: hex::encode(verity::UUID) },
        chunks: Chunks { index: blob(&index), pack: blob(&pack) },
        patches: Vec::new(),
        health_command: vec!["/usr/bin/true".into()],
    };
    let digest = Digest::of(&serde_json::to_vec(&release).unwrap());
    Made { digest, release, root, uki }
}

fn payload(bytes: &[u8]) -> Payload {
    Payload { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

fn blob(bytes: &[u8]) -> Payload {
    let payload = payload(bytes);
    fs::write(carrier().path(&payload.digest), bytes).unwrap();
    payload
}

/// As much of a PE file as its sections need.
pub(crate) fn kernel_image(command_line: &str, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 64];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 64;
    bytes.extend(b"PE\0\0");
    bytes.resize(88, 0);
    bytes[70] = 1;
    let mut section = b".cmdline".to_vec();
    section.resize(40, 0);
    let length = command_line.len() as u32;
    for (at, value) in [(8, length), (16, length), (20, 128)] {
        section[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes.extend(section);
    bytes.extend(command_line.as_bytes());
    bytes.extend(noise(seed, 6000));
    bytes
}

/// A machine that is off.
#[derive(Debug)]
pub(crate) struct Bed {
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Bed {
    /// Freshly flashed: slot A is good, slot B is empty.
    pub(crate) fn flashed(made: &Made) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bed = Self { folder: folder.path().to_owned(), _temporary: Some(folder) };
        fs::create_dir_all(bed.entries_folder()).unwrap();
        fs::create_dir_all(bed.state()).unwrap();
        for slot in [Slot::A, Slot::B] {
            let name = slot.as_str();
            File::create(bed.at(&format!("root-{name}"))).unwrap().set_len(48 * BLOCK as u64).unwrap();
            File::create(bed.at(&format!("tree-{name}"))).unwrap().set_len(8 * BLOCK as u64).unwrap();
        }
        bed.write("root-a", &made.root);
        bed.write("tree-a", &verity::hash_tree(made.root.as_slice()).unwrap().bytes);
        bed.put_entry(&BootEntry::good(made.release.version.clone()).to_string(), &made.uki);
        bed
    }

    /// One that another process made.
    pub(crate) fn at_path(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), _temporary: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.at("data/os")
    }

    pub(crate) fn entries_folder(&self) -> PathBuf {
        self.at("esp/EFI/Linux")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        File::options().write(true).open(self.at(name)).unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn put_entry(&self, name: &str, content: &[u8]) {
        fs::write(self.entries_folder().join(name), content).unwrap();
    }

    /// Names of all files beside the entries, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let found = fs::read_dir(self.entries_folder()).unwrap();
        let mut names: Vec<String> =
            found.map(|found| found.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Spoils a block of a slot's root.
    pub(crate) fn corrupt(&self, slot: Slot, block: u64) {
        let file = File::options().write(true).open(self.at(&format!("root-{}", slot.as_str()))).unwrap();
        file.write_all_at(b"rotten", block * BLOCK as u64).unwrap();
    }

    /// The entries in the boot loader's order, as systemd-boot 257 has it.
    fn order(&self) -> Vec<BootEntry> {
        let mut entries: Vec<BootEntry> = self.names().iter().filter_map(|name| name.parse().ok()).collect();
        entries.sort_by(|a, b| {
            let key = |entry: &BootEntry| entry.tries.unwrap_or((0, 0));
            (!a.is_bootable())
                .cmp(&!b.is_bootable())
                .then_with(|| b.version.cmp(&a.version))
                .then_with(|| key(b).0.cmp(&key(a).0))
                .then_with(|| key(a).1.cmp(&key(b).1))
        });
        entries
    }

    /// The slot that holds the entry's root, if all of it is what the hash says.
    fn whole_slot(&self, entry: &BootEntry) -> Option<Slot> {
        let slot = self.slot_of(entry)?;
        let data = fs::read(self.at(&format!("root-{}", slot.as_str()))).unwrap();
        let tree = fs::read(self.at(&format!("tree-{}", slot.as_str()))).unwrap();
        let superblock = verity::Superblock::parse(&tree[..BLOCK])?;
        let made = verity::hash_tree(data.get(..superblock.data_size() as usize)?).ok()?;
        (tree[..made.bytes.len()] == made.bytes && Some(made.root_hash) == self.root_hash_of(entry))
            .then_some(slot)
    }

    fn slot_of(&self, entry: &BootEntry) -> Option<Slot> {
        let root_hash = self.root_hash_of(entry)?;
        [Slot::A, Slot::B].into_iter().find(|slot| {
            let tree = File::open(self.at(&format!("tree-{}", slot.as_str()))).unwrap();
            verity::identify(&tree).unwrap().is_some_and(|(_, held)| held == root_hash)
        })
    }

    fn root_hash_of(&self, entry: &BootEntry) -> Option<String> {
        let file = File::open(self.entries_folder().join(entry.to_string())).unwrap();
        cairn_ota::boot::uki::root_hash(&file).unwrap()
    }

    /// Versions that can be booted, and whose slot is whole.
    pub(crate) fn bootable(&self) -> Vec<OsVersion> {
        let whole = self.order().into_iter().filter(|e| e.is_bootable() && self.whole_slot(e).is_some());
        whole.map(|entry| entry.version).collect()
    }

    /// Versions whose slot is whole and that have an entry, also one without tries left.
    pub(crate) fn whole(&self) -> Vec<OsVersion> {
        let whole = self.order().into_iter().filter(|entry| self.whole_slot(entry).is_some());
        whole.map(|entry| entry.version).collect()
    }

    /// Whether what the boot loader takes first is whole.
    pub(crate) fn first_is_whole(&self) -> bool {
        self.order().first().is_some_and(|entry| self.whole_slot(entry).is_some())
    }

    /// Firmware, boot loader and initrd: what runs then. `None` if nothing does: a brick.
    pub(crate) fn power_on(&self) -> Option<Machine> {
        for _ in 0..MAX_STARTS {
            let entry = self.count(self.order().into_iter().next()?);
            let Some(slot) = self.whole_slot(&entry) else {
                self.give_up(&entry)?;
                continue;
            };
            let root_hash = self.root_hash_of(&entry).unwrap();
            let tree = File::options()
                .read(true)
                .write(true)
                .open(self.at(&format!("tree-{}", slot.as_str())))
                .unwrap();
            let record = BootRecord::read(&tree, &root_hash);
            BootRecord { starts: record.starts + 1, ..record }.write(&tree).unwrap();
            if entry.version.as_str().ends_with(DEAD) {
                continue;
            }
            let identity = Identity {
                version: entry.version,
                compatible: COMPATIBLE.into(),
                arch: "amd64".into(),
                root_hash,
            };
            return Some(Machine::of_files(&self.folder, slot, identity, &self.next_boot_id()));
        }
        None
    }

    /// The loader lowers the counter of what it starts.
    fn count(&self, entry: BootEntry) -> BootEntry {
        let Some((left, done)) = entry.tries else { return entry };
        let counted =
            BootEntry { tries: Some((left.saturating_sub(1), done + 1)), version: entry.version.clone() };
        self.rename(&entry, &counted);
        counted
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) {
        let at = |entry: &BootEntry| self.entries_folder().join(entry.to_string());
        fs::rename(at(from), at(to)).unwrap();
    }

    /// The initrd condemns what it cannot start, if there is something else.
    fn give_up(&self, entry: &BootEntry) -> Option<()> {
        self.order().iter().find(|other| other.version != entry.version && other.is_bootable())?;
        if let Some(slot) = self.slot_of(entry) {
            let tree = File::options().write(true).open(self.at(&format!("tree-{}", slot.as_str()))).unwrap();
            let root_hash = self.root_hash_of(entry).unwrap();
            let record = BootRecord { root_hash, starts: 1, corrupt: true, bad_block: Some(7) };
            record.write(&tree).unwrap();
        }
        let condemned = BootEntry { tries: Some((0, 1)), version: entry.version.clone() };
        if *entry != condemned {
            self.rename(entry, &condemned);
        }
        Some(())
    }

    fn next_boot_id(&self) -> String {
        let path = self.at("boots");
        let number: u32 = fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        fs::write(path, (number + 1).to_string()).unwrap();
        format!("boot {number}")
    }

    /// Power on, and the daemon opens its updater.
    pub(crate) fn start(&self) -> (Updater, Startup) {
        let machine = self.power_on().unwrap();
        Updater::open(machine, &self.state()).unwrap()
    }
}

/// Installs without anybody looking on.
pub(crate) fn install(updater: &mut Updater, made: &Made, wanted: &DesiredOs) -> Result<(), UpdateError> {
    updater.install(&made.digest, &made.release, wanted, &mut carrier(), MEMORY, &mut |_| {}, &|| false)
}
