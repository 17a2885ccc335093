//! Every write of the node's kernel to a stick is recorded while the node writes its outbox, and the stick is rebuilt as
//! a pull at any of them may leave it: in order up to each, with the last one torn at each 512 bytes, and with chance
//! deciding on the last few of them, for a stick that says of writes in its memory that they are done. Each must be a file
//! system with the bundle on it untouched; what the hub takes of it is whole, once; and the node goes on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    fat::Tree,
    replay::Disk,
    vm::run,
    writes::{Entry, Log, SECTOR},
};
use fastrand::Rng;

/// So many of the last writes may be in a stick's own memory only. Half as many are at the least, where there are so many.
const IN_MEMORY: usize = 32;

/// Sticks by chance at each write.
const BY_CHANCE: usize = 4;

/// The reports of one outbox by file name.
pub type Reports = BTreeMap<String, Vec<u8>>;

/// What one visit wrote.
#[derive(Debug)]
pub struct Recording {
    /// The stick before it.
    pub before: PathBuf,
    /// What was written then.
    pub log: PathBuf,
    /// The stick after it.
    pub after: PathBuf,
    /// The node's folder on it.
    pub outbox: String,
}

/// How much of the recording a stick has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// All up to here.
    InOrder,
    /// The last write only in part.
    Torn,
    /// Chance left out some.
    ByChance,
}

/// A stick that the hub has to look at, and perhaps the node.
#[derive(Debug, Clone)]
pub struct Found {
    /// After which entry of the recording.
    pub position: usize,
    /// Whether writes have reached it in their order, all of them.
    pub in_order: bool,
    /// The files that have the names of reports.
    pub reports: Reports,
    /// Names of those that are whole.
    pub whole: BTreeSet<String>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Sums {
    /// Writes in the recording.
    pub writes: usize,
    /// Flushes in it.
    pub flushes: usize,
    /// Sticks checked.
    pub sticks: usize,
    /// Reports on them that were whole.
    pub whole: usize,
    /// Reports of which there was a name, and nothing behind it.
    pub empty: usize,
    /// Reports that were torn: only where chance left out earlier writes.
    pub torn: usize,
    /// Sticks on which two names of the outbox had the same clusters.
    pub crossed: usize,
    /// Sticks that fsck.vfat had to repair.
    pub repaired: usize,
}

/// The stick under replay.
struct Check<'a> {
    recording: &'a Recording,
    disk: Disk,
    before: Tree,
    /// The texts that each report may have.
    texts: BTreeMap<String, BTreeSet<Vec<u8>>>,
    found: Vec<Found>,
    seen: BTreeSet<(bool, Reports)>,
    sums: Sums,
}

impl Recording {
    /// Checks every stick that a pull may leave. Those with different outboxes, in the order in which they came about.
    pub fn check(&self, rng: &mut Rng) -> Result<(Vec<Found>, Sums)> {
        let log = Rc::new(Log::open(&self.log)?);
        let replayed = self.log.with_extension("replay");
        copy(&self.before, &replayed)?;
        let base = File::options().read(true).write(true).open(&replayed)?;
        let mut check = Check::new(self, Disk::new(base, log.clone()))?;
        for entry in &log.entries {
            check.ensure_harmless(*entry)?;
        }
        check.cut(0, Cut::InOrder, |_, all| all)?;
        for (number, &entry) in log.entries.iter().enumerate() {
            // What came long before has reached the stick.
            if check.disk.pending() >= IN_MEMORY {
                check.disk.apply(Entry::Flush)?;
            }
            check.disk.apply(entry)?;
            check
                .at(number + 1, entry, rng)
                .with_context(|| format!("pulled after entry {} of {}", number + 1, self.log.display()))?;
        }
        check.sums.repaired = self.repair(&check, &log)?;
        fs::remove_file(replayed)?;
        Ok((check.found, check.sums))
    }

    /// The stick as it is after so many entries, in a file of its own.
    pub fn stick(&self, entries: usize, into: &Path) -> Result<()> {
        copy(&self.before, into)?;
        let (log, image) = (Log::open(&self.log)?, File::options().write(true).open(into)?);
        for entry in &log.entries[..entries] {
            let Entry::Write { start, length, data } = *entry else { continue };
            let mut bytes = vec![0; usize::try_from(length)?];
            log.read(data, &mut bytes)?;
            image.write_all_at(&bytes, start)?;
        }
        Ok(())
    }

    /// What a person's own computer does with such a stick first: the bundle and each report that was whole outlive it.
    fn repair(&self, check: &Check<'_>, log: &Log) -> Result<usize> {
        let image = self.log.with_extension("repaired");
        let mut repaired = 0;
        for found in check.found.iter().filter(|found| found.in_order) {
            self.stick(found.position, &image)?;
            // 1: there was something to repair.
            let status = Command::new("fsck.vfat").arg("-a").arg(&image).output()?.status;
            ensure!(matches!(status.code(), Some(0 | 1)), "fsck.vfat gives up: {status}");
            run(Command::new("fsck.vfat").arg("-n").arg(&image)).context("it is not repaired")?;
            repaired += usize::from(status.code() == Some(1));
            let file = File::open(&image)?;
            let read = |at: u64, bytes: &mut [u8]| Ok(file.read_exact_at(bytes, at)?);
            let tree = Tree::read(&read, 0)?;
            check.ensure_same_bundle(&tree)?;
            let left = reports(&tree, &read, &self.outbox)?;
            for name in &found.whole {
                ensure!(left.get(name) == found.reports.get(name), "the repair took {name}");
            }
        }
        ensure!(!log.entries.is_empty(), "nothing was recorded");
        fs::remove_file(image)?;
        Ok(repaired)
    }
}

impl<'a> Check<'a> {
    fn new(recording: &'a Recording, disk: Disk) -> Result<Self> {
        let mut texts: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let mut trees = Vec::new();
        for path in [&recording.before, &recording.after] {
            let file = File::open(path)?;
            let read = |at: u64, bytes: &mut [u8]| Ok(file.read_exact_at(bytes, at)?);
            let tree = Tree::read(&read, 0)?;
            for (name, text) in reports(&tree, &read, &recording.outbox)? {
                texts.entry(name).or_default().insert(text);
            }
            trees.push(tree);
        }
        let before = trees.swap_remove(0);
        Ok(Self {
            recording,
            disk,
            before,
            texts,
            found: Vec::new(),
            seen: BTreeSet::new(),
            sums: Sums::default(),
        })
    }

    fn is_bundle(&self, path: &str) -> bool {
        path != "outbox" && !path.starts_with("outbox/")
    }

    /// No write reaches what a file of the bundle has, or a folder of it but the topmost.
    fn ensure_harmless(&mut self, entry: Entry) -> Result<()> {
        let Entry::Write { start, length, .. } = entry else {
            self.sums.flushes += 1;
            return Ok(());
        };
        self.sums.writes += 1;
        for (path, item) in &self.before.items {
            if path.is_empty() || !self.is_bundle(path) {
                continue;
            }
            for &cluster in &item.clusters {
                let place = self.before.shape.place(cluster);
                let apart = place.end <= start || start + length <= place.start;
                ensure!(apart, "{length} bytes were written at {start}, which is {path}");
            }
        }
        Ok(())
    }

    /// All sticks of one position.
    fn at(&mut self, position: usize, entry: Entry, rng: &mut Rng) -> Result<()> {
        self.cut(position, Cut::InOrder, |_, all| all)?;
        let Entry::Write { length, .. } = entry else { return Ok(()) };
        let last = self.disk.pending().saturating_sub(1);
        for sectors in 1..length / SECTOR {
            self.cut(position, Cut::Torn, |number, all| if number == last { sectors } else { all })?;
        }
        for _ in 0..BY_CHANCE {
            let kept = [30, 60, 90][rng.usize(..3)];
            self.cut(position, Cut::ByChance, |number, all| match number {
                _ if rng.u32(..100) >= kept => 0,
                _ if number == last => rng.u64(..=all),
                _ => all,
            })?;
        }
        Ok(())
    }

    /// Looks at one stick.
    fn cut(&mut self, position: usize, cut: Cut, keep: impl FnMut(usize, u64) -> u64) -> Result<()> {
        self.disk.cut(keep);
        let disk = self.disk.clone();
        let read = move |at: u64, bytes: &mut [u8]| disk.read(at, bytes);
        let tree = Tree::read(&read, 0).with_context(|| format!("{cut:?}: no file system"))?;
        self.ensure_same_bundle(&tree).with_context(|| format!("{cut:?}"))?;
        self.sums.sticks += 1;
        self.sums.crossed += usize::from(!tree.crossed().is_empty());
        let reports = reports(&tree, &read, &self.recording.outbox)?;
        let mut whole = BTreeSet::new();
        for (name, text) in &reports {
            if self.texts.get(name).is_some_and(|texts| texts.contains(text)) {
                whole.insert(name.clone());
            } else if text.is_empty() {
                self.sums.empty += 1;
            } else {
                self.sums.torn += 1;
                ensure!(
                    cut == Cut::ByChance,
                    "{cut:?}: {name} is torn, {} bytes of it are there",
                    text.len()
                );
            }
        }
        self.sums.whole += whole.len();
        let in_order = cut == Cut::InOrder;
        if self.seen.insert((in_order, reports.clone())) {
            self.found.push(Found { position, in_order, reports, whole });
        }
        Ok(())
    }

    /// Everything but the outbox has its entry, its size and its clusters; and no cluster of it is in the outbox too.
    fn ensure_same_bundle(&self, tree: &Tree) -> Result<()> {
        for (path, item) in self.before.items.iter().filter(|(path, _)| self.is_bundle(path)) {
            let now = tree.items.get(path).with_context(|| format!("{path} is gone"))?;
            // The topmost folder may grow.
            let same = if path.is_empty() { now.clusters.starts_with(&item.clusters) } else { now == item };
            ensure!(same, "{path} was {item:?} and is {now:?}");
        }
        let new =
            tree.items.keys().find(|path| self.is_bundle(path) && !self.before.items.contains_key(*path));
        // fsck.vfat puts what belongs to no name there.
        ensure!(new.is_none_or(|path| path.starts_with("FSCK")), "{new:?} was not there");
        let crossed = tree.crossed().into_iter().find(|(_, a, b)| self.is_bundle(a) || self.is_bundle(b));
        ensure!(crossed.is_none(), "two have the same cluster: {crossed:?}");
        Ok(())
    }
}

/// Whatever in the node's folder has the name of a report.
fn reports(tree: &Tree, read: &dyn Fn(u64, &mut [u8]) -> Result<()>, outbox: &str) -> Result<Reports> {
    let mut found = Reports::new();
    for path in tree.items.keys() {
        let name = path.strip_prefix(outbox).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = name.filter(|name| name.ends_with(".jws")) {
            found.insert(name.to_owned(), tree.content(read, path)?);
        }
    }
    Ok(found)
}

/// Copies a stick.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}
