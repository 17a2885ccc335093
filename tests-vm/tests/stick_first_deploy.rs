//! A node that never had a network becomes a member, runs an app and answers for it, by nothing but a stick that is
//! carried between it and its hub.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    site::{self, node, wait_answer},
    stick::Form,
    vm::usb::Protection,
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
        Ok(site.vm.console().contains("it can be pulled").then_some(()))
    })?;

    // The next round tells the hub.
    site.round()?;
    let app = site.hub.json(&["app", "status", "demo"])?;
    ensure!(app["ready"] == app["desired"] && app["ready"] == 2, "the hub does not know: {app}");
    let shown = node(&site.hub, &site.id)?;
    ensure!(shown["heard_by"]["type"] == "stick", "not heard by stick: {shown}");
    let text = site.hub.cairn(&["node", "show", &site.id])?;
    ensure!(text.contains("by stick"), "`cairn node show` does not say how it was heard of: {text}");

    // Anybody with the public roots can verify what was carried; it cannot be changed unseen.
    let (stick, roots) = (site.folder.display().to_string(), lab.dir().join("roots").display().to_string());
    site.hub.cairn(&["trust", "roots", &roots])?;
    site.hub.cairn(&["usb", "verify", &stick, "--roots", &roots])?;

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

    // A stick with another file system does as well.
    let exfat = Stick::make(lab.dir().join("exfat.img"), Form::Exfat, 512)?;
    copy_on_node(&mut site, &exfat)?;
    let said = site::show(&mut site.vm, &exfat)?;
    ensure!(said["state"] == "done", "exFAT: {said}");
    exfat.check()
}

/// Nothing but a node can write exFAT here: it copies one stick to the other, as a person would.
fn copy_on_node(site: &mut Site, to: &Stick) -> Result<()> {
    site.vm.check("systemctl mask -q --runtime cairn-media@.service")?;
    site.vm.plug("from", site.stick.image(), Protection::WriteProtected)?;
    site.vm.plug("to", to.image(), Protection::Writable)?;
    wait::until("both sticks to be seen", site::VISIT_DEADLINE, || {
        Ok((site.vm.run("test -b /dev/sda1 && test -b /dev/sdb && udevadm settle")?.code == 0).then_some(()))
    })?;
    site.vm.check(
        "mkdir -p /run/from /run/to && mount -o ro /dev/sda1 /run/from && mount /dev/sdb /run/to && \
         cp -r /run/from/. /run/to/ && umount /run/from /run/to",
    )?;
    for name in ["from", "to"] {
        site.vm.unplug(name)?;
    }
    site.vm.check("systemctl unmask -q --runtime cairn-media@.service; systemctl daemon-reload").map(drop)
}
