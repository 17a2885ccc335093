//! Figures of OS updates on this machine, then on a node: what is fetched, how long the installing takes, its memory, and
//! what an interruption costs; each beside the tools that others use. Needs root, for loop devices.

mod install;
mod node;
mod peers;
mod rauc;
mod workload;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use self::{
    install::{Installed, Slot, Way},
    peers::Peer,
    workload::Later,
};
use super::{Row, median, show};
use crate::process;

/// How often each way of installing is timed, in turns with the others.
const ROUNDS: usize = 5;

/// Where an interruption is tried, in percent of what is to be fetched.
const CUTS: [u64; 3] = [10, 50, 90];

/// RAUC's adaptive updates over HTTP and the full image beside them, in MB, as they were measured once on another image
/// with 3 % of its files changed and 4 MB new: Debian 12's rauc cannot stream.
const RAUC_QUOTED: (f64, f64) = (79.5, 251.8);

/// Measures everything, and prints a table as soon as it is full.
pub(super) fn measure() -> Result<()> {
    let scratch = dir().join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let base = workload::base()?;
    let mut month = None;
    for later in [Later::Point, Later::Month] {
        let (image, release) = (workload::image(later, &base)?, workload::release(later, &base)?);
        let peers = peers::all(&base, &image, &scratch)?;
        let slot = Slot::new(&dir().join("slot"))?;
        let [patch, chunks] = [Way::Patch, Way::Chunks]
            .map(|way| slot.blank().and_then(|()| slot.install(&release, &base, way)));
        let (patch, chunks) = (patch?, chunks?);
        show(&format!("Ota: bytes fetched for {}", later.title()), &fetched(later, &patch, &chunks, &peers));
        month = Some((image, release, peers));
    }
    let (image, release, peers) = month.context("there is no workload")?;
    let slot = Slot::new(&dir().join("slot"))?;
    let timed = Timed::take(&slot, &base, &image, &release)?;
    show("Ota: install of the month's updates", &timed.throughput(&image)?);
    show("Ota: peak memory", &timed.memory(&peers)?);
    show("Ota: what is fetched again after a kill", &resumed(&slot, &base, &release, &timed)?);
    drop(slot);
    show("Ota: on a node under QEMU", &node::measure()?);
    Ok(())
}

/// Where all of it lies.
fn dir() -> PathBuf {
    crate::target().join("bench-ota")
}

fn fetched(later: Later, patch: &Installed, chunks: &Installed, peers: &[Peer]) -> Vec<Row> {
    let full = peers.iter().find(|peer| peer.name == peers::FULL).map_or(0.0, |peer| peer.megabytes());
    let row =
        |what: String, figure: f64| Row { what, figure, baseline: full, unit: "MB", against: peers::FULL };
    let mut rows = vec![
        row("our patch".to_owned(), patch.megabytes()),
        row("our chunks, with their index".to_owned(), chunks.megabytes()),
    ];
    let others = peers.iter().filter(|peer| peer.name != peers::FULL);
    rows.extend(others.map(|peer| row(peer.name.to_owned(), peer.megabytes())));
    if later == Later::Month {
        rows.push(row(
            "what is new and does not compress, alone".to_owned(),
            workload::NEW_BYTES as f64 / 1e6,
        ));
        let (figure, baseline) = RAUC_QUOTED;
        let what = "RAUC adaptive, quoted from another image".to_owned();
        rows.push(Row { what, figure, baseline, unit: "MB", against: "that image with zstd -19" });
    }
    rows
}

/// All rounds of the month's update.
struct Timed {
    dd: Vec<f64>,
    ways: [(Way, Vec<Installed>); 3],
    rauc: Result<Vec<Installed>>,
}

impl Timed {
    fn take(slot: &Slot, base: &Path, image: &Path, release: &Path) -> Result<Self> {
        let bundle = rauc::Bundle::make(&dir().join("rauc"), image, slot);
        let mut timed = Self {
            dd: Vec::new(),
            ways: [Way::Patch, Way::Chunks, Way::Nothing].map(|way| (way, Vec::new())),
            rauc: Ok(Vec::new()),
        };
        let bundle = bundle.map_err(|error| timed.rauc = Err(error)).ok();
        for _ in 0..ROUNDS {
            slot.blank()?;
            timed.dd.push(slot.dd(image)?);
            for (way, rounds) in &mut timed.ways {
                slot.blank()?;
                rounds.push(slot.install(release, base, *way)?);
            }
            if let (Some(bundle), Ok(rounds)) = (&bundle, &mut timed.rauc) {
                slot.blank()?;
                match bundle.install() {
                    Ok(installed) => rounds.push(installed),
                    Err(error) => timed.rauc = Err(error),
                }
            }
        }
        Ok(timed)
    }

    fn throughput(&self, image: &Path) -> Result<Vec<Row>> {
        let dd = median(self.dd.clone());
        let bytes = megabytes(&image.join("root.erofs"))? + megabytes(&image.join("uki.efi"))?;
        let mut rows = Vec::new();
        let mut row = |what: &str, rounds: &[Installed]| {
            let figure = median(rounds.iter().map(|round| round.millis).collect());
            let what =
                format!("{what}: {bytes:.0} MB, {:.0} MB/s, median of {ROUNDS}", bytes / figure * 1000.0);
            rows.push(Row { what, figure, baseline: dd, unit: "ms", against: "dd with fsync" });
        };
        for (way, rounds) in &self.ways {
            row(way.title(), rounds);
        }
        match &self.rauc {
            Ok(rounds) => row("rauc install, plain bundle with zstd", rounds),
            Err(error) => println!("rauc cannot run here: {error:#}"),
        }
        Ok(rows)
    }

    fn memory(&self, peers: &[Peer]) -> Result<Vec<Row>> {
        let most =
            |rounds: &[Installed]| rounds.iter().map(|round| round.peak_kib / 1024.0).fold(0.0, f64::max);
        let mut rows = Vec::new();
        for (way, rounds) in &self.ways {
            let others: Vec<(&'static str, f64)> = match way {
                Way::Nothing => self.rauc.iter().map(|rounds| ("rauc's service", most(rounds))).collect(),
                way => peers
                    .iter()
                    .filter(|peer| peer.rival == Some(*way))
                    .map(|peer| (peer.name, peer.peak_kib / 1024.0))
                    .collect(),
            };
            for (against, baseline) in others {
                rows.push(Row {
                    what: way.title().to_owned(),
                    figure: most(rounds),
                    baseline,
                    unit: "MiB",
                    against,
                });
            }
        }
        Ok(rows)
    }
}

/// Kills the installing in its middle, lets it end, and counts.
fn resumed(slot: &Slot, base: &Path, release: &Path, timed: &Timed) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (way, rounds) in &timed.ways {
        let needed = rounds.first().context("nothing was installed")?.fetched;
        for cut in CUTS {
            slot.blank()?;
            let first = slot.install_until(release, base, *way, needed * cut / 100)?;
            let second = slot.install(release, base, *way)?.fetched;
            rows.push(Row {
                what: format!("{}: fetched twice after a kill at {cut} %", way.title()),
                figure: (first + second).saturating_sub(needed) as f64 / 1000.0,
                baseline: needed as f64 / 1000.0,
                unit: "kB",
                against: "all that is to be fetched",
            });
        }
    }
    Ok(rows)
}

fn megabytes(path: &Path) -> Result<f64> {
    let metadata = path.metadata().with_context(|| format!("failed to look at {}", path.display()))?;
    Ok(metadata.len() as f64 / 1e6)
}

/// Runs a program under GNU time; peak memory in KiB.
fn peak_kib(scratch: &Path, command: &mut Command) -> Result<f64> {
    let report = scratch.join("time");
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%M", "-o"]).arg(&report).arg(command.get_program()).args(command.get_args());
    process::quiet("bench-ota", &mut timed)?;
    let text = std::fs::read_to_string(&report)?;
    text.trim().parse().with_context(|| format!("GNU time says: {text}"))
}
