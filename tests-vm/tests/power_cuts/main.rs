//! Invariant 2, proved: every write and flush of a real update is recorded, and the disk is rebuilt as a power cut at any
//! of them may have left it, unflushed writes dropped at random and the last one torn. None may keep the node from
//! starting, and none may lose what it had made sure of.
//!
//! `CAIRN_POWER_CUTS` is the number of disks (20,000 where absent), `CAIRN_SEED` what chance begins with, `CAIRN_RECORDING` a
//! folder with the recording of an earlier run (`target/vm/power-cuts`, moved away): a violation is found again by both.

mod data;
mod esp;
mod slots;
mod worker;

use std::{
    env,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use cairn_model::NodeId;
use cairn_tests_vm::{
    Lab,
    os::{self, UPDATE_DEADLINE},
    shop,
    vm::run,
    writes::{self, Entry, Log},
};
use gpt::GptConfig;

use slots::Os;
use worker::{Sums, Worker};

/// Disks to check.
const STATES: usize = 20_000;

/// Sectors at either end of a disk that hold its partition table.
const TABLE: u64 = 34 * writes::SECTOR;

/// What a recorded update leaves.
#[derive(Debug)]
struct Recording {
    node: NodeId,
    /// The disk before it, raw.
    before: PathBuf,
    /// What happened then.
    log: PathBuf,
    /// Where the six partitions are.
    parts: Vec<Range<u64>>,
}

impl Recording {
    /// What [`record`] left in a folder.
    fn load(folder: &Path) -> Result<Self> {
        let before = folder.join("before.raw");
        let node = fs::read_to_string(folder.join("node")).context("the folder holds no recording")?;
        let parts = partitions(&before)?;
        Ok(Self { node: node.trim().parse()?, log: folder.join("writes.log"), before, parts })
    }
}

#[test]
fn power_cuts() -> Result<()> {
    let lab = Lab::new("power-cuts")?;
    let recording = match env::var_os("CAIRN_RECORDING") {
        Some(folder) => Recording::load(Path::new(&folder))?,
        None => record(&lab)?,
    };
    let known = [
        Os::load("0.1.0", lab.image().parent().context("an image lies in a folder")?)?,
        Os::load("0.2.0", Path::new(&format!("{}.image", lab.release("good"))))?,
    ];
    let states = number("CAIRN_POWER_CUTS", STATES as u64)?;
    let seed = number("CAIRN_SEED", 1)?;
    let total = Log::open(&recording.log)?.entries.len();
    let sums = thread::scope(|scope| -> Result<Sums> {
        let workers: Vec<_> = [0..total / 2, total / 2..total]
            .into_iter()
            .enumerate()
            .map(|(id, cuts)| {
                let worker = Worker { id, cuts, states: states / 2, seed: seed + id as u64 };
                let (lab, recording, known) = (&lab, &recording, &known);
                scope.spawn(move || worker.run(lab.dir(), recording, known))
            })
            .collect();
        let mut sums = Sums::default();
        for worker in workers {
            sums += worker.join().map_err(|_| anyhow!("a worker died"))??;
        }
        Ok(sums)
    })?;
    println!("{total} writes and flushes; {sums:?}; seed {seed}; 0 violations");
    ensure!(sums.states + 2 >= states, "only {} of {states} disks were checked", sums.states);
    // A recording without the update in it would prove nothing.
    ensure!(sums.with_both > 0 && sums.without_new > 0, "the update is not in the recording: {sums:?}");
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is no number")))
}

/// Lets a node with an app update itself, with its disk's writes recorded.
fn record(lab: &Lab) -> Result<Recording> {
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(lab, &hub, &mut vm)?;
    os::push(lab, &hub, "good")?;
    let status = os::status(&hub)?;
    let node = status["node"].as_str().context("a node has an id")?;
    fs::write(lab.dir().join("node"), node)?;
    vm.check("sync")?;
    let vm = vm.quit()?;
    let (before, log) = (lab.dir().join("before.raw"), lab.dir().join("writes.log"));
    run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(vm.disk()).arg(&before))?;
    let mut vm = vm.power_on_recorded(&log)?;
    vm.wait_booted()?;
    let boot = vm.boot_id()?;
    hub.cairn(&["os", "set", "0.2.0", "--all"])?;
    os::wait_state(&hub, "0.2.0", "good", UPDATE_DEADLINE)?;
    vm.wait_rebooted(&boot)?;
    shop::ensure_open(&mut vm)?;
    vm.quit()?;
    let size = fs::metadata(&before)?.len();
    for entry in Log::open(&log)?.entries {
        let Entry::Write { start, length, .. } = entry else { continue };
        let inside = start >= TABLE && start + length <= size - TABLE;
        ensure!(inside, "the partition table was written, {length} bytes at {start}");
    }
    Recording::load(lab.dir())
}

fn partitions(disk: &Path) -> Result<Vec<Range<u64>>> {
    let device = File::open(disk)?;
    let table = GptConfig::new().writable(false).open_from_device(device).context("the disk has no table")?;
    let parts: Vec<_> = table
        .partitions()
        .values()
        .map(|part| part.first_lba * writes::SECTOR..(part.last_lba + 1) * writes::SECTOR)
        .collect();
    ensure!(parts.len() == cairn_ota::layout::partitions().len(), "another layout: {parts:?}");
    Ok(parts)
}
