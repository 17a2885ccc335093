//! A release that no operator has signed is written to no slot, neither by the hub's word nor by a stolen hub's; one for
//! other machines, and an older one, are refused before anything is sent.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_model::{DesiredState, Digest, NodeId, OsVersion, desired::DesiredOs};
use cairn_tests_vm::{
    Hub, Lab,
    lab::{READY_DEADLINE, wait_node},
    os, wait,
};
use cairn_trust::sign::{Director, HubKeys, Lifetimes, TargetEntry};
use jiff::Timestamp;

#[test]
fn update_refuses_unsigned() -> Result<()> {
    let lab = Lab::new("update-unsigned")?;
    let hub = lab.hub_with_offline_keys()?;
    let token = hub.token(&["--auto-approve"])?;
    let mut vm = lab.boot(&hub, 1, &token, &[])?;
    let node = wait_node(&hub, |node| node["status"]["os"]["version"] == "0.1.0")?;
    let id: NodeId = node["id"].as_str().context("a node has an id")?.parse()?;

    os::push(&lab, &hub, "good")?;
    let said = hub.cairn_refused(&["os", "set", "0.2.0", "--all"])?;
    ensure!(said.contains("cairn artifact sign"), "no word of the signature: {said}");
    let key = hub.operator_keys().join("artifacts-targets.pem").display().to_string();
    for name in ["old", "foreign"] {
        os::push(&lab, &hub, name)?;
    }
    // The thief has the hub, but not the operators' key: he can name the release, not make it genuine.
    let good = lab_release(&lab, "good")?;
    steal(&hub, &id, &good)?;
    vm.check("systemctl restart cairnd")?;
    wait::until("the node to refuse", READY_DEADLINE, || {
        Ok(vm.run("cairn local status")?.text.contains("is refused").then_some(()))
    })?;
    let entries = vm.check("ls -A /boot/EFI/Linux; cairn local status")?;
    ensure!(!entries.contains("cairn_0.2.0"), "something was written: {entries}");

    hub.cairn(&["artifact", "sign", "--key", &key, "--yes"])?;
    let said = hub.cairn_refused(&["os", "set", "0.0.9", "--all"])?;
    ensure!(said.contains("--allow-downgrade"), "no word of the downgrade: {said}");
    let said = hub.cairn_refused(&["os", "set", "0.5.0", "--all"])?;
    ensure!(said.contains("other-board"), "no word of what it is for: {said}");
    Ok(())
}

/// Digest and size of a release's manifest.
fn lab_release(lab: &Lab, name: &str) -> Result<TargetEntry> {
    let layout = lab.release(name);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(format!("{layout}/index.json"))?)?;
    let manifest = &index["manifests"][0];
    let digest: Digest = manifest["digest"].as_str().context("a manifest has a digest")?.parse()?;
    Ok(TargetEntry::new(digest, manifest["size"].as_u64().context("a manifest has a size")?))
}

/// Tells the node, properly signed by the director's keys, to run a release.
fn steal(hub: &Hub, node: &NodeId, release: &TargetEntry) -> Result<()> {
    let dir = hub.data().join("tuf/director").join(node.as_str()).join("targets");
    let mut states = Vec::new();
    for entry in fs::read_dir(&dir)? {
        states.push(serde_json::from_slice::<DesiredState>(&fs::read(entry?.path())?)?);
    }
    let mut state = states.into_iter().max_by_key(|s| s.generation).context("nothing is published")?;
    state.generation += 1000;
    let version: OsVersion = "0.2.0".parse()?;
    state.os = Some(DesiredOs {
        release: release.digest.clone(),
        version,
        allow_downgrade: false,
        attempt: 0,
        reboot: Default::default(),
        health: Default::default(),
    });
    let keys = HubKeys::load(&hub.data().join("keys"))?;
    let director = Director::open(&hub.data().join("tuf/director"), Lifetimes::default())?;
    let document = serde_json::to_vec(&state)?;
    director.publish(
        &keys,
        node,
        state.generation,
        &document,
        std::slice::from_ref(release),
        Timestamp::now(),
    )?;
    Ok(())
}
