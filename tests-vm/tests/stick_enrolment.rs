//! Who may take a blank node in: a node with a pin refuses every fleet but the one that it names; a stick that is not one
//! of Cairn's is left as it is.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    site::{self, show},
    stick::Form,
    vm::run,
};

/// The credential that pins a fleet's roots.
const PIN: &str = "cairn.roots-sha256";

#[test]
fn stick_enrolment() -> Result<()> {
    let lab = Lab::new("stick-enrolment")?;
    let mut site = Site::blank(&lab, &[(PIN, &"00".repeat(32))])?;

    // Somebody's holiday pictures.
    let pictures = lab.dir().join("pictures");
    fs::create_dir_all(pictures.join("outbox"))?;
    fs::write(pictures.join("beach.jpg"), vec![7; 100_000])?;
    let foreign = Stick::make(lab.dir().join("foreign.img"), Form::Superfloppy, 64)?;
    foreign.fill(&pictures)?;
    let before = run(std::process::Command::new("sha256sum").arg(foreign.image()))?;
    let said = show(&mut site.vm, &foreign)?;
    ensure!(said["state"] == "foreign", "taken for one of ours: {said}");
    let after = run(std::process::Command::new("sha256sum").arg(foreign.image()))?;
    ensure!(before == after, "a byte of a stick that is not ours was changed");

    // Approved by a fleet that the pin does not name.
    site.visit()?;
    site.import()?;
    site.hub.cairn(&["node", "approve", &site.id])?;
    site.export()?;
    let said = site.visit()?;
    let roots = site.hub.cairn(&["trust", "roots"])?;
    let fingerprint = roots_fingerprint(&roots)?;
    let messages = said["messages"].to_string();
    ensure!(said["state"] == "refused" && messages.contains("roots"), "not refused: {said}");
    let status = site::local(&mut site.vm)?;
    ensure!(status["generation"] == 0 && status["link"] != "offline", "it is a member: {status}");

    // The same stick, and the pin that names its fleet.
    let pin: String = fingerprint.chars().filter(char::is_ascii_hexdigit).collect();
    let mut vm = site.vm.power_cycle_with(&[(PIN, &pin)])?;
    vm.wait_booted()?;
    let again = site::local(&mut vm)?;
    ensure!(again["node"] == site.id.as_str(), "another node came back: {again}");
    let said = show(&mut vm, &site.stick)?;
    ensure!(said["state"] == "done", "the right fleet was refused: {said}");
    ensure!(site::local(&mut vm)?["generation"].as_u64() > Some(0), "it is no member");
    // Whoever stands before it can compare the roots that it pinned.
    let shown = vm.check("cairn local status")? + &vm.console();
    ensure!(shown.contains(fingerprint.trim()), "neither status nor console shows {fingerprint}: {shown}");
    Ok(())
}

/// The 64 hex digits in groups that `cairn trust roots` prints.
fn roots_fingerprint(text: &str) -> Result<String> {
    let digits = |line: &str| line.chars().filter(char::is_ascii_hexdigit).count();
    text.lines()
        .filter_map(|line| line.rsplit("  ").find(|part| digits(part) == 64))
        .map(|part| part.trim().to_owned())
        .next()
        .with_context(|| format!("`cairn trust roots` prints no fingerprint: {text}"))
}
