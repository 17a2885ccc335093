//! A node that never had a network becomes a member, runs an app and answers for it, by nothing but a stick that is
//! carried between it and its hub.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Site,
    site::{self, node, wait_answer},
    wait,
};

#[test]
fn stick_first_deploy() -> Result<()> {
    let lab = Lab::new("stick-first-deploy")?;
    let mut site = Site::blank(&lab, &[])?;
    let cards = site.vm.check("ls /sys/class/net")?;
    ensure!(cards.trim() == "lo", "the node has a network: {cards}");

    // The stick brings the request; the technician reads the same fingerprint from the console as the operator.
    site.visit()?;
    let imported = site.import()?;
    let asked = &imported["enrolled"][0];
    ensure!(asked["id"] == site.id.as_str() && asked["state"] == "pending", "no request: {imported}");
    let fingerprint = asked["fingerprint"].as_str().unwrap_or_default();
    ensure!(site::local(&mut site.vm)?["fingerprint"] == fingerprint, "another fingerprint than {asked}");
    wait::until("the console to show the fingerprint", site::VISIT_DEADLINE, || {
        Ok(site.vm.console().contains(fingerprint).then_some(()))
    })?;

    // Nothing for it before it is approved.
    lab.push_examples(&site.hub)?;
    site.hub.cairn(&["app", "deploy", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/compose.yaml")])?;
    site.export()?;
    site.visit()?;
    let status = site::local(&mut site.vm)?;
    ensure!(status["generation"] == 0 && status["workloads"] == serde_json::json!([]), "too early: {status}");

    site.hub.cairn(&["node", "approve", &site.id])?;
    site.round()?;
    for (port, word) in [(8080, "Cairn"), (8081, "WebAssembly")] {
        wait_answer(&mut site.vm, port, word)?;
    }
    wait::until("the console to say that the stick can be pulled", site::VISIT_DEADLINE, || {
        Ok(site.vm.console().contains("pull").then_some(()))
    })?;

    // The next round tells the hub.
    site.round()?;
    let app = site.hub.json(&["app", "status", "demo"])?;
    ensure!(app["ready"] == app["desired"] && app["ready"] == 2, "the hub does not know: {app}");
    let shown = node(&site.hub, &site.id)?;
    ensure!(shown["heard_by"]["type"] == "stick", "not heard by stick: {shown}");
    let text = site.hub.cairn(&["node", "show", &site.id])?;
    ensure!(text.contains("by stick"), "`cairn node show` does not say how it was heard of: {text}");

    // What was carried is read by others' tools too: it is an OCI image layout.
    let reference = format!("oci:{}", site.folder.display());
    let index = fs::read_to_string(site.folder.join("index.json"))?;
    ensure!(index.contains("demo/web"), "the index names no image: {index}");
    let listed = cairn_tests_vm::vm::run(
        std::process::Command::new("skopeo")
            .args(["inspect", "--raw"])
            .arg(format!("{reference}:demo/web:1")),
    )?;
    ensure!(listed.contains("layers"), "no manifest: {listed}");
    Ok(())
}
