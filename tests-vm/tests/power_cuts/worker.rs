//! One thread's share of the cuts: goes through the recording once, and checks disks on its way.

use std::{
    fs::{self, File},
    ops::{AddAssign, Range},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context, Result};
use cairn_ota::layout;
use cairn_tests_vm::{
    replay::{BLOCK, Disk},
    vm::run,
    writes::{Entry, Log},
};
use ext4_view::Ext4;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Recording,
    data::{self, Progress},
    esp::{self, Found},
    slots::{Os, Slots},
};

/// What was seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sums {
    /// Disks checked.
    pub states: u64,
    /// Of them, with both releases whole.
    pub with_both: u64,
    /// Of them, with the old release only.
    pub without_new: u64,
    /// Of them, with a data partition that differs from the one before.
    pub data: u64,
    /// Of them, with an ESP that differs from the one before.
    pub esp: u64,
    /// Of them, with a torn superblock of the data partition, which e2fsck repaired.
    pub repaired: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.with_both += other.with_both;
        self.without_new += other.without_new;
        self.data += other.data;
        self.esp += other.esp;
        self.repaired += other.repaired;
    }
}

/// A folder for what a check copies from a disk. In memory where it can be: nine fsyncs for each of 20,000 disks are most of
/// the time otherwise.
fn scratch(dir: &Path) -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { dir };
    tempfile::Builder::new().prefix("cairn-power-cuts-").tempdir_in(place).context("no scratch folder")
}

/// A share of the cuts.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub id: usize,
    /// Where in the recording it cuts.
    pub cuts: Range<usize>,
    /// How many disks it checks.
    pub states: u64,
    /// What chance begins with.
    pub seed: u64,
}

/// The disk under replay, and what is known of it.
struct Check<'a> {
    disk: Disk,
    slots: Slots<'a>,
    known: &'a [Os],
    recording: &'a Recording,
    raw: PathBuf,
    scratch: TempDir,
    runtime: Runtime,
    /// What had certainly been reached at the last flush.
    floor: Progress,
    /// The entries on the flushed ESP.
    entries: Vec<Found>,
    sums: Sums,
}

impl Worker {
    /// Goes through the recording; the first disk that is not as it should be is the error.
    pub fn run(self, dir: &Path, recording: &Recording, known: &[Os]) -> Result<Sums> {
        let log = Rc::new(Log::open(&recording.log)?);
        let raw = dir.join(format!("replay{}.raw", self.id));
        run(Command::new("cp").arg("--sparse=always").arg(&recording.before).arg(&raw))?;
        let base = File::options().read(true).write(true).open(&raw)?;
        let disk = Disk::new(base, log.clone());
        let [_, root_a, tree_a, root_b, tree_b, _] = &recording.parts[..] else {
            anyhow::bail!("another layout")
        };
        let starts = [(root_a.start, tree_a.start), (root_b.start, tree_b.start)];
        let mut check = Check {
            slots: Slots::new(&disk, starts, known)?,
            disk,
            known,
            recording,
            raw: raw.clone(),
            scratch: scratch(dir)?,
            runtime: Builder::new_current_thread().enable_all().build()?,
            floor: Progress::default(),
            entries: Vec::new(),
            sums: Sums::default(),
        };
        check.settle()?;
        let mut rng = Rng::with_seed(self.seed);
        let weights = self.weights(&log.entries, &check.esp());
        let (all, mut passed): (u64, u64) = (weights.iter().sum(), 0);
        for (position, &entry) in log.entries[..self.cuts.end].iter().enumerate() {
            check.apply(entry)?;
            if position < self.cuts.start {
                continue;
            }
            passed += weights[position - self.cuts.start];
            let due = (passed * self.states).div_ceil(all);
            let mut first = true;
            while check.sums.states < due {
                check.cut(&mut rng, first);
                first = false;
                check.verify().with_context(|| {
                    format!("power cut after entry {position} of the recording, seed {}", self.seed)
                })?;
            }
        }
        fs::remove_file(raw)?;
        Ok(check.sums)
    }

    /// How many disks each cut is worth. The ESP is written seldom, and most depends on it: half of all disks are cut
    /// while something for it is on its way.
    fn weights(&self, entries: &[Entry], esp: &Range<u64>) -> Vec<u64> {
        let mut pending = false;
        let on_its_way: Vec<bool> = entries[..self.cuts.end]
            .iter()
            .map(|entry| {
                match entry {
                    Entry::Write { start, .. } => pending |= esp.contains(start),
                    Entry::Flush => pending = false,
                }
                pending
            })
            .skip(self.cuts.start)
            .collect();
        let with = on_its_way.iter().filter(|pending| **pending).count().max(1) as u64;
        let without = on_its_way.len() as u64 - with.min(on_its_way.len() as u64);
        on_its_way.into_iter().map(|pending| if pending { without.max(1) } else { with }).collect()
    }
}

impl Check<'_> {
    fn esp(&self) -> Range<u64> {
        self.recording.parts[0].clone()
    }

    fn data(&self) -> Range<u64> {
        self.recording.parts[5].clone()
    }

    /// Takes a flushed disk as it is.
    fn settle(&mut self) -> Result<()> {
        self.entries = esp::entries(&self.disk, self.esp(), self.known)?;
        self.floor = self.progress()?;
        Ok(())
    }

    fn progress(&mut self) -> Result<Progress> {
        let ext4 = match data::open(&self.disk, self.data())? {
            Some(ext4) => ext4,
            None => self.repaired()?,
        };
        self.runtime.block_on(data::read(&ext4, &self.recording.node, self.scratch.path()))
    }

    /// Does for a torn superblock what the node does.
    fn repaired(&mut self) -> Result<Ext4> {
        self.sums.repaired += 1;
        let (copy, data) = (self.raw.with_extension("fsck"), self.data());
        run(Command::new("dd")
            .args(["bs=1M", "conv=sparse", "status=none"])
            .arg(format!("if={}", self.raw.display()))
            .arg(format!("of={}", copy.display()))
            .arg(format!("skip={}", data.start / layout::MIB))
            .arg(format!("count={}", (data.end - data.start).div_ceil(layout::MIB))))?;
        self.disk.write_reached(&data, &File::options().write(true).open(&copy)?)?;
        let repaired = data::repair(&copy)?;
        fs::remove_file(copy)?;
        Ok(repaired)
    }

    fn apply(&mut self, entry: Entry) -> Result<()> {
        let flushed = self.disk.apply(entry)?;
        if flushed.is_empty() {
            return Ok(());
        }
        self.slots.flushed(&self.disk, &flushed)?;
        let changed =
            |range: Range<u64>| flushed.range(range.start / BLOCK..range.end / BLOCK).next().is_some();
        if changed(self.esp()) {
            self.entries = esp::entries(&self.disk, self.esp(), self.known)?;
        }
        if changed(self.data()) {
            let progress = self.progress()?;
            progress.ensure_after(&self.floor)?;
            self.floor = progress;
        }
        Ok(())
    }

    /// All that is pending reaches the disk, or chance decides; the last write is torn in any case.
    fn cut(&self, rng: &mut Rng, everything: bool) {
        let last = self.disk.pending().saturating_sub(1);
        let kept = if everything { 100 } else { [0, 50, 90][rng.usize(..3)] };
        self.disk.cut(|number, sectors| match number {
            _ if rng.u32(..100) >= kept => 0,
            _ if number == last => rng.u64(..=sectors),
            _ => sectors,
        });
    }

    fn verify(&mut self) -> Result<()> {
        let touched = |range: Range<u64>| !self.disk.touched(&range).is_empty();
        let (esp, data) = (touched(self.esp()), touched(self.data()));
        let entries = match esp {
            true => esp::entries(&self.disk, self.esp(), self.known)?,
            false => self.entries.clone(),
        };
        let whole = self.slots.whole(&self.disk)?;
        esp::check(&entries, &whole)?;
        if data {
            self.progress()?.ensure_after(&self.floor)?;
        }
        self.sums.states += 1;
        self.sums.with_both += u64::from(whole.len() == 2);
        self.sums.without_new += u64::from(whole.len() == 1);
        self.sums.data += u64::from(data);
        self.sums.esp += u64::from(esp);
        Ok(())
    }
}
