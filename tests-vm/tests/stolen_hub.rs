//! Somebody has stolen the hub, its online keys and its data, but not the operators' keys. They can stop what runs or
//! choose among what operators have signed; they can run no image, no command line and no mount of their own.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
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

/// A command line and a mount of the thief's own; the image is one that operators have signed, and is on the node.
const EVIL: &str = "
name: evil
services:
  evil:
    image: demo/web:1
    command: [httpd, -f, -p, '6666', -h, /]
    ports: ['6666:6666']
    volumes: ['loot:/loot']
    user: root
    restart: always
    deploy: { mode: global }
volumes:
  loot:
";

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
    let genuine = Genuine::of(&hub, id)?;

    // All that the node would have to fetch is in the hub.
    let file = lab.dir().join("evil.yaml");
    fs::write(&file, EVIL)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let app = unsigned(&hub, hub.json(&["app", "status", "evil"])?["digest"].as_str())?;
    let command = lab.examples().join("hello-command.wasm").display().to_string();
    let pushed = hub.json(&["artifact", "push", &command, "evil/image:1"])?;
    let image = unsigned(&hub, pushed["digest"].as_str())?;

    let nobody = "signed by no operator";
    genuine.name_app(&hub, 1000, &app)?;
    refused(&mut vm, &before, &["arbitrary-software", app.digest.as_str(), nobody])?;
    genuine.name_image(&hub, 2000, &image)?;
    refused(&mut vm, &before, &["arbitrary-software", image.digest.as_str(), nobody])?;
    // The first attack again, and this time the artifacts repository holds the app.
    forge_artifacts(&hub, &app)?;
    genuine.name_app(&hub, 3000, &app)?;
    refused(&mut vm, &before, &["(forgery)", "targets metadata"])?;
    fetch(vm.forwarded(8081).unwrap_or_default(), "/", READY_DEADLINE)?;

    // Nor does the operators' own tool take the forgery for a beginning to sign on.
    let said = hub.cairn_refused(&["artifact", "sign", "--key", &key, "--yes"])?;
    ensure!(
        said.contains("(forgery)") && said.contains("sign nothing until you know why"),
        "it says: {said}"
    );
    Ok(())
}

/// Waits until the node refuses what it is told in these words; it runs what it ran, and nothing of the thief's.
fn refused(vm: &mut Vm, before: &str, words: &[&str]) -> Result<()> {
    // A node polls by itself; starting the daemon anew only makes it do so now, and with an empty memory of what it has
    // refused.
    vm.check("systemctl restart cairnd")?;
    wait::until("the node to refuse, and to say why to whoever stands before it", READY_DEADLINE, || {
        let said = vm.check("cairn local status -o json")?;
        ensure!(said.contains("is refused (it may be an attack"), "it says: {said}");
        ensure!(words.iter().all(|word| said.contains(word)), "{words:?} are expected of: {said}");
        Ok(Some(()))
    })?;
    ensure!(running(vm)? == before, "the attack changed what runs");
    let traces =
        vm.check("ls -d /run/cairn/workloads/*evil* /var/lib/cairn/volumes/evil 2>/dev/null; true")?;
    ensure!(traces.is_empty(), "something of the thief's is there: {traces}");
    Ok(())
}

/// The units with their processes: unchanged means undisturbed.
fn running(vm: &mut Vm) -> Result<String> {
    vm.check("systemctl show 'cairn-*-*-*.service' -p Id -p MainPID | sort")
}

/// An artifact that the hub holds and no operator has signed.
fn unsigned(hub: &Hub, digest: Option<&str>) -> Result<TargetEntry> {
    let digest: Digest = digest.context("an artifact has a digest")?.parse()?;
    let path = hub.data().join("blobs/sha256").join(digest.hex());
    let size = fs::metadata(&path).with_context(|| format!("the hub has no {}", path.display()))?.len();
    let (_, targets) = newest(hub, "targets")?;
    ensure!(targets["signed"]["targets"][digest.target_name()].is_null(), "{digest} is signed");
    Ok(TargetEntry::new(digest, size))
}

/// What the node was told before the theft, and what operators have signed.
struct Genuine {
    node: NodeId,
    state: DesiredState,
    signed: Vec<TargetEntry>,
}

impl Genuine {
    fn of(hub: &Hub, node: NodeId) -> Result<Self> {
        let (_, targets) = newest(hub, "targets")?;
        let targets = targets["signed"]["targets"].as_object().context("there are targets")?;
        let entry = |(name, target): (&String, &Value)| {
            let digest = Digest::from_target_name(name).context("a target is named by its digest")?;
            Ok(TargetEntry::new(digest, target["length"].as_u64().context("a target has a length")?))
        };
        let signed = targets.iter().map(entry).collect::<Result<Vec<_>>>()?;
        Ok(Self { state: current(hub, &node)?, node, signed })
    }

    /// Tells the node, properly signed by the director's keys, to run an app that no operator has signed beside those
    /// that it runs.
    fn name_app(&self, hub: &Hub, ahead: u64, app: &TargetEntry) -> Result<()> {
        let mut state = self.state.clone();
        let evil = DesiredApp { app: app.digest.clone(), services: [("evil".parse()?, vec![0])].into() };
        state.apps.insert("evil".parse()?, evil);
        self.publish(hub, state, ahead, app)
    }

    /// Tells the node to hold an image that no operator has signed.
    fn name_image(&self, hub: &Hub, ahead: u64, image: &TargetEntry) -> Result<()> {
        self.publish(hub, self.state.clone(), ahead, image)
    }

    fn publish(&self, hub: &Hub, mut state: DesiredState, ahead: u64, evil: &TargetEntry) -> Result<()> {
        state.generation += ahead;
        let keys = HubKeys::load(&hub.data().join("keys"))?;
        ensure!(keys.artifacts_targets.is_none(), "the thief has the operators' key");
        let director = Director::open(&hub.data().join("tuf/director"), Lifetimes::default())?;
        let entries = [&self.signed[..], std::slice::from_ref(evil)].concat();
        let document = serde_json::to_vec(&state)?;
        director.publish(&keys, &self.node, state.generation, &document, &entries, Timestamp::now())?;
        Ok(())
    }
}

/// Adds the app to the artifacts repository as an operator would. The thief has the keys of its snapshot and timestamp
/// and signs those as the hub does; the targets he can only sign with a key that is not the operators' one.
fn forge_artifacts(hub: &Hub, app: &TargetEntry) -> Result<()> {
    let keys = HubKeys::load(&hub.data().join("keys"))?;
    let thief = HubKeys::generate()?.artifacts_targets.context("a new set of keys is whole")?;
    let target = json!({
        "custom": { "mediaType": "application/vnd.oci.image.manifest.v1+json", "name": "apps/evil:1" },
        "hashes": { "sha256": app.digest.hex() },
        "length": app.length,
    });
    let version = next_version(hub, "targets", &thief, |signed| {
        signed["targets"][app.digest.target_name()] = target.clone();
    })?;
    let version = next_version(hub, "snapshot", &keys.artifacts_snapshot, |signed| {
        signed["meta"]["targets.json"] = json!({ "version": version });
    })?;
    next_version(hub, "timestamp", &keys.artifacts_timestamp, |signed| {
        signed["meta"]["snapshot.json"] = json!({ "version": version });
    })?;
    Ok(())
}

/// The newest version of a role of the artifacts repository.
fn newest(hub: &Hub, role: &str) -> Result<(u64, Value)> {
    let dir = hub.data().join("tuf/artifacts");
    let mut newest = None;
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(&format!("{role}.json")) {
            let file: Value = serde_json::from_slice(&fs::read(&path)?)?;
            let version = file["signed"]["version"].as_u64().context("a role has a version")?;
            if newest.as_ref().is_none_or(|(known, _)| version > *known) {
                newest = Some((version, file));
            }
        }
    }
    let Some(newest) = newest else { bail!("there is no {role} in {}", dir.display()) };
    Ok(newest)
}

/// Publishes the next version of a role of the artifacts repository, changed and signed by `key`.
fn next_version(hub: &Hub, role: &str, key: &KeyPair, change: impl Fn(&mut Value)) -> Result<u64> {
    let (version, mut file) = newest(hub, role)?;
    file["signed"]["version"] = json!(version + 1);
    change(&mut file["signed"]);
    file["signatures"] = json!([]);
    let name = if role == "timestamp" {
        "timestamp.json".to_owned()
    } else {
        format!("{}.{role}.json", version + 1)
    };
    let path = hub.data().join("tuf/artifacts").join(name);
    fs::write(path, sign_file(&serde_json::to_vec(&file)?, &[key])?)?;
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
