//! Sticks that nobody has tampered with, and that are no good all the same: full, write-protected, two at once.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    site::{self, ended, local, show, show_as, visits},
    stick::Form,
    vm::usb::Protection,
};

#[test]
fn stick_unlucky() -> Result<()> {
    let lab = Lab::new("stick-unlucky")?;
    let mut site = Site::running(&lab)?;

    // Write-protected: what it brings is taken, and what the node has to tell waits for another one.
    site::redeploy(&lab, &site.hub, 2)?;
    site.export()?;
    let said = show_as(&mut site.vm, &site.stick, Protection::WriteProtected)?;
    let status = local(&mut site.vm)?;
    let desired = site::node(&site.hub, &site.id)?["desired_generation"].clone();
    ensure!(status["generation"] == desired, "what it brings was not taken: {said}");
    ensure!(said["messages"].to_string().contains("write"), "no word of the protection: {said}");
    ensure!(status["unsent_reports"].as_u64() > Some(0), "reports were dropped: {status}");

    // Full: the same, and what was on it is whole.
    site::redeploy(&lab, &site.hub, 3)?;
    site.export()?;
    let full = Stick::make(lab.dir().join("full.img"), Form::Superfloppy, 64)?;
    let filler = site.folder.join("filler");
    let used = du(&site.folder)?;
    // mkfs.vfat's tables, and what is left of the last clusters, take the rest.
    let sizes = (0..64_u64).map(|step| (64 << 20) - used - step * (1 << 17));
    for size in sizes {
        fs::File::create(&filler)?.set_len(size)?;
        if full.fill(&site.folder).is_ok() {
            break;
        }
    }
    let said = show(&mut site.vm, &full)?;
    full.check()?;
    let back = lab.dir().join("back");
    full.read_back(&back)?;
    cairn_tests_vm::vm::run(
        std::process::Command::new("diff")
            .args(["-r", "-q", "--exclude=outbox"])
            .arg(&site.folder)
            .arg(&back),
    )?;
    fs::remove_file(&filler)?;
    ensure!(said["messages"].to_string().contains("the stick is full"), "no word of it: {said}");
    let desired = site::node(&site.hub, &site.id)?["desired_generation"].clone();
    ensure!(local(&mut site.vm)?["generation"] == desired, "what it brings was not taken: {said}");

    // Two at once: one after the other, and both are through in the end.
    site::redeploy(&lab, &site.hub, 4)?;
    site.export()?;
    full.fill(&site.folder)?;
    let before = visits(&mut site.vm)?;
    site.vm.plug("first", site.stick.image(), Protection::Writable)?;
    site.vm.plug("second", full.image(), Protection::Writable)?;
    ended(&mut site.vm, before.ended + 2)?;
    for name in ["first", "second"] {
        site.vm.unplug(name)?;
    }
    for stick in [&site.stick, &full] {
        stick.check()?;
    }
    let desired = site::node(&site.hub, &site.id)?["desired_generation"].clone();
    ensure!(local(&mut site.vm)?["generation"] == desired, "what they bring was not taken");
    full.read_back(&back)?;
    let refused = site::import(&site.hub, &back)?["refused"].clone();
    ensure!(refused.as_array().is_none_or(Vec::is_empty), "the second stick's outbox is no good: {refused}");
    site.stick.read_back(&site.folder)?;
    site.import()?;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")
}

/// Bytes of all files below a folder.
fn du(dir: &std::path::Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { du(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}
