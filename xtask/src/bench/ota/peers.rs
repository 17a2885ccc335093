//! What others would fetch for the same step from one image to the next, root and kernel image as files of their own.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{install::Way, peak_kib};
use crate::process;

/// The baseline.
pub(super) const FULL: &str = "full image, zstd -19";

/// bita's version; it is built once into `target/tools`.
const BITA: &str = "0.15.0";

/// What travels.
const PAYLOADS: [&str; 2] = ["root.erofs", "uki.efi"];

/// The window of xdelta3, in bytes.
const WINDOW: &str = "67108864";

/// One tool.
pub(super) struct Peer {
    /// For people.
    pub(super) name: &'static str,
    /// Bytes that a node would fetch.
    fetched: u64,
    /// Memory that a node would need, in KiB.
    pub(super) peak_kib: f64,
    /// The way of ours that it is compared with in memory.
    pub(super) rival: Option<Way>,
}

impl Peer {
    /// What is fetched, in MB.
    pub(super) fn megabytes(&self) -> f64 {
        self.fetched as f64 / 1e6
    }
}

/// From one folder of an image to another.
struct Step<'a> {
    old: &'a Path,
    new: &'a Path,
    scratch: PathBuf,
}

/// Takes a tool through a step.
type Measure = fn(&Step<'_>) -> Result<Peer>;

/// Every tool; what comes out of each is compared with the image.
pub(super) fn all(old: &Path, new: &Path, scratch: &Path) -> Result<Vec<Peer>> {
    let step = Step { old, new, scratch: scratch.to_owned() };
    let tools: [(&str, Measure); 4] =
        [("zstd -19", full), ("casync", casync), ("bita", bita), ("xdelta3", xdelta3)];
    let mut peers = Vec::new();
    for (name, measure) in tools {
        eprintln!("  measuring {name} …");
        fs::remove_dir_all(scratch).ok();
        fs::create_dir_all(scratch)?;
        peers.push(measure(&step).with_context(|| format!("failed to measure {name}"))?);
    }
    Ok(peers)
}

impl Step<'_> {
    fn run(&self, command: &mut Command) -> Result<f64> {
        peak_kib(&self.scratch, command)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Whether a tool made what it should.
    fn ensure_made(&self, made: &Path, payload: &str) -> Result<()> {
        process::output(Command::new("cmp").arg(made).arg(self.new.join(payload))).map(drop)
    }
}

fn full(step: &Step<'_>) -> Result<Peer> {
    let mut peer = Peer { name: FULL, fetched: 0, peak_kib: 0.0, rival: None };
    for payload in PAYLOADS {
        let (packed, made) = (step.at("packed"), step.at("made"));
        step.run(Command::new("zstd").args(["-19", "-qf", "-o"]).arg(&packed).arg(step.new.join(payload)))?;
        peer.fetched += size(&packed)?;
        let peak = step.run(Command::new("zstd").args(["-dqf", "-o"]).arg(&made).arg(&packed))?;
        step.ensure_made(&made, payload)?;
        peer.peak_kib = peer.peak_kib.max(peak);
    }
    Ok(peer)
}

/// Chunks of the new store that are not in the old one, and the index. Its sizes and its compression are its own.
fn casync(step: &Step<'_>) -> Result<Peer> {
    let mut peer =
        Peer { name: "casync, chunks of its own size", fetched: 0, peak_kib: 0.0, rival: Some(Way::Chunks) };
    let (old_store, new_store) = (step.at("old.castr"), step.at("new.castr"));
    let make = |image: &Path, payload: &str, store: &Path, index: &Path| {
        let mut command = Command::new("casync");
        command.arg("make").arg(option("--store", store)).arg("--compression=zstd");
        step.run(command.arg(index).arg(image.join(payload)))
    };
    for payload in PAYLOADS {
        let (index, made) = (step.at(&format!("{payload}.caibx")), step.at("made"));
        make(step.old, payload, &old_store, &step.at("old.caibx"))?;
        make(step.new, payload, &new_store, &index)?;
        peer.fetched += size(&index)?;
        fs::remove_file(&made).ok();
        let mut extract = Command::new("casync");
        extract.arg("extract").arg(option("--store", &new_store));
        extract.arg(option("--seed", &step.old.join(payload))).arg("--seed-output=no").arg(&index).arg(&made);
        peer.peak_kib = peer.peak_kib.max(step.run(&mut extract)?);
        step.ensure_made(&made, payload)?;
    }
    let had: HashSet<OsString> = chunks(&old_store)?.into_iter().filter_map(name).collect();
    for chunk in chunks(&new_store)? {
        if !chunk.file_name().is_some_and(|name| had.contains(name)) {
            peer.fetched += size(&chunk)?;
        }
    }
    Ok(peer)
}

/// What it says that it took from the archive with the old payload as a seed, and the archive's header.
fn bita(step: &Step<'_>) -> Result<Peer> {
    let program = bita_program()?;
    let mut peer =
        Peer { name: "bita, zstd at level 19", fetched: 0, peak_kib: 0.0, rival: Some(Way::Chunks) };
    for payload in PAYLOADS {
        let (archive, made, seed) = (step.at("archive.cba"), step.at("made"), step.old.join(payload));
        let mut compress = Command::new(&program);
        compress.args(["compress", "-f", "--compression", "zstd", "--compression-level", "19", "-i"]);
        process::output(compress.arg(step.new.join(payload)).arg(&archive))?;
        let clone = |seed: Option<&Path>| {
            let mut command = Command::new(&program);
            command.args(["clone", "-f"]).args(seed.map(|seed| option("--seed", seed)));
            command.arg(&archive).arg(&made);
            command
        };
        let said = |mut command: Command| {
            let output = command.output().context("failed to start bita")?;
            let text = [output.stdout, output.stderr].concat();
            from_archive(&String::from_utf8_lossy(&text))
        };
        let header = size(&archive)?.saturating_sub(said(clone(None))?);
        peer.fetched += header + said(clone(Some(&seed)))?;
        step.ensure_made(&made, payload)?;
        peer.peak_kib = peer.peak_kib.max(step.run(&mut clone(Some(&seed)))?);
    }
    Ok(peer)
}

/// Bytes in `Fetched 22.2 MiB (23284166 bytes) from archive`.
fn from_archive(text: &str) -> Result<u64> {
    let figure = text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("Fetched ")?;
        rest.split_once('(')?.1.split_once(" bytes)")?.0.parse().ok()
    });
    figure.with_context(|| format!("bita does not say what it fetched: {text}"))
}

fn bita_program() -> Result<PathBuf> {
    let root = crate::target().join("tools");
    let program = root.join("bin/bita");
    if !program.exists() {
        let mut install = Command::new("cargo");
        install.args(["install", "--quiet", "--locked", "--version", BITA, "--features", "zstd-compression"]);
        process::step("building bita", "bita", install.args(["bita", "--root"]).arg(&root))?;
    }
    ensure!(program.exists(), "there is no {}", program.display());
    Ok(program)
}

fn xdelta3(step: &Step<'_>) -> Result<Peer> {
    let mut peer =
        Peer { name: "xdelta3 -9 -S lzma -B 64 MiB", fetched: 0, peak_kib: 0.0, rival: Some(Way::Patch) };
    for payload in PAYLOADS {
        let (old, patch, made) = (step.old.join(payload), step.at("patch"), step.at("made"));
        let mut encode = Command::new("xdelta3");
        encode.args(["-e", "-f", "-9", "-S", "lzma", "-B", WINDOW, "-s"]).arg(&old);
        step.run(encode.arg(step.new.join(payload)).arg(&patch))?;
        peer.fetched += size(&patch)?;
        let mut decode = Command::new("xdelta3");
        decode.args(["-d", "-f", "-B", WINDOW, "-s"]).arg(&old).arg(&patch).arg(&made);
        peer.peak_kib = peer.peak_kib.max(step.run(&mut decode)?);
        step.ensure_made(&made, payload)?;
    }
    Ok(peer)
}

/// `name=path`, as one argument.
fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("{name}="));
    option.push(path);
    option
}

/// Files of a chunk store, which has a folder a prefix.
fn chunks(store: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in fs::read_dir(store).with_context(|| format!("failed to list {}", store.display()))? {
        let folder = folder?.path();
        if folder.is_dir() {
            for entry in fs::read_dir(folder)? {
                files.push(entry?.path());
            }
        }
    }
    Ok(files)
}

fn name(path: PathBuf) -> Option<OsString> {
    path.file_name().map(OsString::from)
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("failed to look at {}", path.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::from_archive;

    #[test]
    fn reads_what_bita_says() {
        let text = "Fetching 514 chunks from x.cba...\nFetched 22.2 MiB (23284166 bytes) from archive and decompressed \
                    to 25.9 MiB (27156691 bytes).\n";
        assert_eq!(from_archive(text).unwrap(), 23_284_166);
        assert!(from_archive("nothing").is_err());
    }
}
