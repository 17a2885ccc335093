//! The way back: the hub stores each report once, however often and in whatever order sticks come; the node drops what the
//! hub has, and only by the hub's signed word. A stick that is pulled at any write of the outbox harms neither.

mod cuts;
mod pulled;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site,
    site::{self, copy, import, local, node},
};
use serde_json::Value;

#[test]
fn stick_round_trip_outbox() -> Result<()> {
    let lab = Lab::new("stick-round-trip")?;
    let mut site = Site::running(&lab)?;

    // Two sticks, one after the other, neither acknowledged in between.
    site.export()?;
    site.visit()?;
    let first = lab.dir().join("first");
    copy(&site.folder, &first)?;
    site.vm.check("systemctl kill -s KILL cairn-hello-hello-0.service")?;
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;
    site.visit()?;
    let (early, late) = (sequences(&first, &site.id)?, sequences(&site.folder, &site.id)?);
    ensure!(!early.is_empty(), "the first stick has no reports");
    ensure!(late.last() > early.last(), "nothing new on the second stick: {early:?}, {late:?}");

    // The later one comes first, then the earlier one, then both again.
    let new = site.import()?;
    let (stored, acknowledged) = counts(&new)?;
    ensure!(stored.0 > 0 && Some(&acknowledged) == late.last(), "not all is stored: {new}");
    for again in [&first, &site.folder] {
        let known = import(&site.hub, again)?;
        ensure!(counts(&known)?.0.0 == 0, "stored twice: {known}");
    }
    let shown = node(&site.hub, &site.id)?;
    ensure!(shown["heard_by"]["type"] == "stick", "not heard by stick: {shown}");
    let logged = site.hub.cairn(&["audit", "ls"])?;
    ensure!(logged.contains("usb"), "the audit does not know of the import: {logged}");

    // An envelope that somebody changed is refused by name; the others are not held up.
    let forged = lab.dir().join("forged");
    copy(&first, &forged)?;
    let envelope = outbox(&forged, &site.id).join(format!("{:020}.jws", early[0]));
    let text = fs::read_to_string(&envelope)?;
    fs::write(&envelope, text.replacen('.', ".A", 1))?;
    let output = site.hub.command().args(["usb", "import", &forged.display().to_string()]).output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("refused") || said.contains("not signed"), "a forged report passed: {said}");

    // Only the hub's signed word empties the outbox.
    let unsent = |status: &Value| status["unsent_reports"].as_u64().unwrap_or_default();
    let before = unsent(&local(&mut site.vm)?);
    ensure!(before > 0, "the node dropped reports that nobody has acknowledged");
    site.export()?;
    site.visit()?;
    let left = sequences(&site.folder, &site.id)?;
    ensure!(left.iter().all(|sequence| *sequence > acknowledged), "acknowledged, and still there: {left:?}");
    ensure!(unsent(&local(&mut site.vm)?) <= before, "the outbox grew");
    pulled::at_any_write(&lab, &mut site)
}

fn outbox(folder: &Path, node: &str) -> std::path::PathBuf {
    folder.join("outbox").join(node)
}

/// The sequences of the reports of a node that lie in a folder, ascending.
fn sequences(folder: &Path, node: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let dir = outbox(folder, node);
    if !dir.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_suffix(".jws").and_then(|digits| digits.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// New and known reports of the one node, and what is acknowledged.
fn counts(imported: &Value) -> Result<((u64, u64), u64)> {
    let node = &imported["nodes"][0];
    let number = |name: &str| {
        node[name].as_u64().with_context(|| format!("no {name} in what was imported: {imported}"))
    };
    Ok(((number("stored")?, number("known")?), number("acknowledged")?))
}
