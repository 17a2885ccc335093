//! Sticks that somebody has tampered with: each is refused with its cause, none is followed out of its own bounds, and the
//! node keeps running what it runs. A sound stick does its work afterwards.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    crowd::crowd,
    site::{self, copy, local, show},
    stick::Form,
};

/// A file of this size is larger than any disk of the node, and holds nothing.
const FOUR_TERABYTES: u64 = 4 << 40;

/// As many as a stick can be made of that is still small.
const MANY_FILES: usize = 10_000_000;

/// To go through the folders in which the node looks for a name: the kernel has no other way on FAT, and no hurry under
/// emulation. Of the ten million it sees the tenth part at the most.
const MOST_FOR_FILES: Duration = Duration::from_secs(150);

/// 48 MiB.
const MOST_MEMORY_KIB: u64 = 48 << 10;

/// Where a stick that is followed out of its bounds would lead.
const OUTSIDE: &str = "/var/lib/cairn/keys";

#[test]
fn stick_hostile() -> Result<()> {
    let lab = Lab::new("stick-hostile")?;
    let mut site = Site::running(&lab)?;
    // There is always something new to take, and none of the sticks may make the node take it.
    site.hub.cairn(&["app", "deploy", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/compose.yaml")])?;
    site.export()?;
    let (good, bad) = (site.folder.clone(), lab.dir().join("bad"));
    let stick = Stick::make(lab.dir().join("bad.img"), Form::Ext4, 768)?;
    let generation = local(&mut site.vm)?["generation"].clone();
    let blob = largest(&good.join("blobs/sha256"))?;
    let blob = format!("blobs/sha256/{blob}");
    let director = format!("tuf/director/{}", site.id);

    for (path, word) in [(blob.as_str(), "digest"), (&format!("{director}/timestamp.json"), "")] {
        copy(&good, &bad)?;
        flip(&bad.join(path))?;
        stick.fill(&bad)?;
        site.ensure_refused(&stick, &[word]).with_context(|| format!("a flipped byte in {path}"))?;
    }

    // A link wherever a path can stand: to the same thing, which would be harmless, and out of the stick.
    let places = [
        "cairn-bundle.json",
        "tuf",
        "tuf/artifacts",
        "tuf/director",
        &director,
        &format!("{director}/timestamp.json"),
        "blobs",
        "blobs/sha256",
        &blob,
    ];
    for place in places {
        copy(&good, &bad)?;
        let aside = lab.dir().join("bad/aside");
        fs::rename(bad.join(place), &aside)?;
        let up = "../".repeat(place.matches('/').count());
        symlink(format!("{up}aside"), bad.join(place))?;
        stick.fill(&bad)?;
        let before = site::running(&mut site.vm)?;
        let said = show(&mut site.vm, &stick)?;
        ensure!(
            said["state"] == "refused" || said["state"] == "foreign",
            "{place}: a link was followed: {said}"
        );
        ensure!(site::running(&mut site.vm)? == before, "{place}: it changed what runs: {said}");
    }
    outbox_leads_out(&lab, &mut site, &stick)?;

    // Sizes that are not true, either way.
    for bytes in [FOUR_TERABYTES, 1000] {
        stick.fill(&good)?;
        stick.lie_about_size(&blob, bytes)?;
        site.ensure_refused(&stick, &[]).with_context(|| format!("a blob of {bytes} bytes"))?;
        stick.fill(&good)?;
        stick.lie_about_size(&format!("{director}/timestamp.json"), bytes)?;
        site.ensure_refused(&stick, &[]).with_context(|| format!("a timestamp of {bytes} bytes"))?;
    }
    // The receipt is looked for and not read: what it says, and how long it claims to be, is all the same.
    stick.fill(&good)?;
    stick.lie_about_size("cairn-bundle.json", FOUR_TERABYTES)?;
    let said = show(&mut site.vm, &stick)?;
    ensure!(said["state"] == "done", "a receipt that nobody reads kept it from a good bundle: {said}");
    ensure!(local(&mut site.vm)?["generation"].as_u64() >= generation.as_u64(), "it went back");

    crowded(&lab, &mut site)?;
    site.round()?;
    site::wait_answer(&mut site.vm, 8080, "Cairn")?;
    ensure_small(&mut site)
}

/// An outbox that is a link must not make the node write, or show, what is elsewhere.
fn outbox_leads_out(lab: &Lab, site: &mut Site, stick: &Stick) -> Result<()> {
    let (bad, own) = (lab.dir().join("bad"), format!("outbox/{}", site.id));
    let listing = format!("ls -lAR --time-style=+%s {OUTSIDE}");
    for place in ["outbox", &own] {
        copy(&site.folder, &bad)?;
        fs::remove_dir_all(bad.join(place)).ok();
        fs::create_dir_all(bad.join(place).parent().context("it has a parent")?)?;
        symlink(OUTSIDE, bad.join(place))?;
        // Of this fleet, and nothing for this node: only the way back is tried here.
        fs::remove_dir_all(bad.join("tuf/director"))?;
        stick.fill(&bad)?;
        let before = site.vm.check(&listing)?;
        let said = show(&mut site.vm, stick)?;
        ensure!(site.vm.check(&listing)? == before, "{place}: it wrote outside of the stick: {said}");
        let back = lab.dir().join("back");
        stick.read_back(&back)?;
        ensure!(bad.join(place).is_symlink(), "the link was replaced by the harness");
        ensure!(said["messages"].to_string().contains("outbox"), "{place}: no word of it: {said}");
    }
    Ok(())
}

/// Very many files, wherever the node looks and elsewhere: it takes what is new among them, in a time that has an end.
fn crowded(lab: &Lab, site: &mut Site) -> Result<()> {
    let stick = Stick::make(lab.dir().join("crowded.img"), Form::Superfloppy, 512)?;
    let mut taken = Vec::new();
    for files in [0, MANY_FILES] {
        site::redeploy(lab, &site.hub, u32::try_from(files)? + 2)?;
        site.export()?;
        stick.fill(&site.folder)?;
        if files > 0 {
            crowd(stick.image(), files)?;
        }
        let start = Instant::now();
        let said = show(&mut site.vm, &stick)?;
        taken.push(start.elapsed());
        ensure!(said["state"] == "done", "not taken from among {files} files: {said}");
        let desired = site::node(&site.hub, &site.id)?["desired_generation"].clone();
        ensure!(
            local(&mut site.vm)?["generation"] == desired,
            "not applied from among {files} files: {said}"
        );
    }
    println!("a stick with {MANY_FILES} files more: {:?} instead of {:?}", taken[1], taken[0]);
    ensure!(taken[1] < taken[0] + MOST_FOR_FILES, "the number of files counts: {taken:?}");
    Ok(())
}

/// What cairnd has needed at its most, after all of them.
fn ensure_small(site: &mut Site) -> Result<()> {
    let status = site.vm.check("grep VmHWM /proc/$(systemctl show cairnd -p MainPID --value)/status")?;
    println!("cairnd at its most, after all of them: {}", status.trim());
    let kib = status.split_whitespace().find_map(|word| word.parse::<u64>().ok()).context("no VmHWM")?;
    ensure!(kib <= MOST_MEMORY_KIB, "cairnd needed {kib} KiB");
    Ok(())
}

fn flip(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).with_context(|| format!("failed to change {}", path.display()))
}

/// Name of the largest file of a folder.
fn largest(dir: &Path) -> Result<String> {
    let paths =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<PathBuf>, _>>()?;
    let found = paths.into_iter().max_by_key(|path| fs::metadata(path).map_or(0, |m| m.len()));
    found.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())).context("there is no blob")
}
