//! Somebody has stolen the hub, its online keys and its data, but not the operators' keys. They can stop what runs or
//! choose among what operators have signed; they can run no image, no command line and no mount of their own.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_model::{DesiredState, Digest, NodeId, desired::DesiredApp};
use cairn_tests_vm::{
    Hub, Lab, Vm,
    lab::{READY_DEADLINE, fetch, wait_node},
    wait,
};
use cairn_trust::{
    keys::KeyPair,
    sign::{Director, HubKeys, Lifetimes, TargetEntry, sign_file},
};
use jiff::Timestamp;
use serde_json::{Value, json};

#[test]
fn stolen_hub() -> Result<()> {
    let lab = Lab::new("stolen-hub")?;
    let hub = lab.hub_with_offline_keys()?;
    lab.push_examples(&hub)?;
    let token = hub.token(&["--auto-approve"])?;
    let mut vm = lab.boot(&hub, 1, &token, &[8081])?;
    let node = wait_node(&hub, |node| node["state"] == "approved")?;
    let id: NodeId = node["id"].as_str().context("a node has an id")?.parse()?;

    // The operator signs what shall run; until then it is not even desired.
    hub.cairn(&["app", "deploy", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/compose.yaml")])?;
    let waiting = hub.json(&["app", "status", "demo"])?;
    ensure!(
        waiting["problems"].to_string().contains("cairn artifact sign"),
        "no word of the signature: {waiting}"
    );
    let key = hub.operator_keys().join("artifacts-targets.pem").display().to_string();
    hub.cairn(&["artifact", "sign", "--key", &key, "--yes"])?;
    hub.wait_app_ready("demo", READY_DEADLINE)?;
    let before = running(&mut vm)?;

    for attack in [unsigned_app, forged_artifacts] {
        attack(&hub, &id)?;
        // A node polls by itself; starting the daemon anew only makes it do so now, and with an empty memory of what it
        // has refused.
        vm.check("systemctl restart cairnd")?;
        wait::until("the node to refuse, and to say so to whoever stands before it", READY_DEADLINE, || {
            let said = vm.run("cairn local status")?.text;
            Ok(said.contains("is refused").then_some(()))
        })?;
        ensure!(running(&mut vm)? == before, "the attack changed what runs");
    }
    fetch(vm.forwarded(8081).unwrap_or_default(), "/", READY_DEADLINE)?;
    Ok(())
}

/// The units with their processes: unchanged means undisturbed.
fn running(vm: &mut Vm) -> Result<String> {
    vm.check("systemctl show 'cairn-*-*-*.service' -p Id -p MainPID | sort")
}

/// Tells the node, properly signed by the director's keys, to run an app that no operator has signed.
fn unsigned_app(hub: &Hub, node: &NodeId) -> Result<()> {
    let evil = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let digest = Digest::of(evil);
    let mut state = current(hub, node)?;
    state.generation += 1000;
    state.apps.insert(
        "evil".parse()?,
        DesiredApp { app: digest.clone(), services: [("evil".parse()?, vec![0])].into() },
    );
    let keys = HubKeys::load(&hub.data().join("keys"))?;
    let director = Director::open(&hub.data().join("tuf/director"), Lifetimes::default())?;
    let entry = TargetEntry::new(digest, evil.len() as u64);
    director.publish(
        &keys,
        node,
        state.generation,
        &serde_json::to_vec(&state)?,
        &[entry],
        Timestamp::now(),
    )?;
    Ok(())
}

/// Adds a target to the artifacts repository. The thief has the keys of its snapshot and timestamp and signs those as
/// the hub does; the targets he can only sign with a key that is not the operators' one.
fn forged_artifacts(hub: &Hub, node: &NodeId) -> Result<()> {
    let keys = HubKeys::load(&hub.data().join("keys"))?;
    let thief = HubKeys::generate()?.artifacts_targets.context("a new set of keys is whole")?;
    let evil = br#"{"schemaVersion":2,"config":{}}"#;
    let target = json!({ "length": evil.len(), "hashes": { "sha256": Digest::of(evil).hex() } });
    let version = next_version(hub, "targets", &thief, |signed| {
        signed["targets"][Digest::of(evil).target_name()] = target.clone();
    })?;
    let version = next_version(hub, "snapshot", &keys.artifacts_snapshot, |signed| {
        signed["meta"]["targets.json"] = json!({ "version": version });
    })?;
    next_version(hub, "timestamp", &keys.artifacts_timestamp, |signed| {
        signed["meta"]["snapshot.json"] = json!({ "version": version });
    })?;
    unsigned_app(hub, node)
}

/// Publishes the next version of a role of the artifacts repository, changed and signed by `key`.
fn next_version(hub: &Hub, role: &str, key: &KeyPair, change: impl Fn(&mut Value)) -> Result<u64> {
    let dir = hub.data().join("tuf/artifacts");
    let mut newest = (0, Value::Null);
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(&format!("{role}.json")) {
            let file: Value = serde_json::from_slice(&fs::read(&path)?)?;
            let version = file["signed"]["version"].as_u64().context("a role has a version")?;
            if version > newest.0 {
                newest = (version, file);
            }
        }
    }
    let (version, mut file) = newest;
    file["signed"]["version"] = json!(version + 1);
    change(&mut file["signed"]);
    file["signatures"] = json!([]);
    let name = if role == "timestamp" {
        "timestamp.json".to_owned()
    } else {
        format!("{}.{role}.json", version + 1)
    };
    fs::write(dir.join(name), sign_file(&serde_json::to_vec(&file)?, &[key])?)?;
    Ok(version + 1)
}

/// The desired state that the hub has published for the node.
fn current(hub: &Hub, node: &NodeId) -> Result<DesiredState> {
    let dir = hub.data().join("tuf/director").join(node.as_str()).join("targets");
    let mut states = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("failed to read {}", dir.display()))? {
        states.push(serde_json::from_slice::<DesiredState>(&fs::read(entry?.path())?)?);
    }
    states.into_iter().max_by_key(|s| s.generation).context("the hub has published nothing for the node")
}
