//! Somebody can write to the hub's data folder but has none of its keys: whatever they change, the node keeps running
//! what it last verified, and says what is wrong.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Vm,
    lab::{READY_DEADLINE, fetch},
    wait,
};
use serde_json::Value;

const COMPOSE: &str = "
name: hello
services:
  hello:
    image: demo/hello:1
    platform: wasi/wasm
    ports: ['8081:8080']
    deploy: { mode: global }
";

/// How the status begins to speak of a bundle that is not believed.
const REFUSED: &str = "the hub's bundle is refused";

#[test]
fn rejects_tampered_bundle() -> Result<()> {
    let lab = Lab::new("rejects-tampered-bundle")?;
    let (mut hub, mut vm) = lab.enrolled(&[8081])?;
    lab.push_examples(&hub)?;
    let file = lab.dir().join("compose.yaml");
    fs::write(&file, COMPOSE)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let status = hub.wait_app_ready("hello", READY_DEADLINE)?;
    let pid = vm.check("systemctl show cairn-hello-hello-0.service -p MainPID --value")?;

    let id = hub.nodes()?[0]["id"].as_str().unwrap_or_default().to_owned();
    let director = hub.data().join("tuf/director").join(id);
    let before = fs::read(director.join("timestamp.json"))?;

    // The container image's blobs are changed before any node has them; then an app asks for them.
    hub.kill();
    let blobs = hub.data().join("blobs");
    ensure!(flip_one_byte(&blobs, is_large)? > 0, "there was no large blob to tamper with");
    hub.resume()?;
    fs::write(
        &file,
        COMPOSE
            .replace("name: hello", "name: shop")
            .replace("demo/hello:1", "demo/web:1")
            .replace("    platform: wasi/wasm\n", "")
            .replace("8081", "8080"),
    )?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    wait::until("the node to refuse the changed blob", READY_DEADLINE, || {
        let said = vm.check("cairn local status")?;
        Ok(said.contains("digest").then_some(()))
    })?;
    ensure!(vm.run("systemctl is-active cairn-shop-hello-0.service")?.code != 0, "a tampered image runs");
    // The same bit once more: they are as they were. A node tries again by itself, ever more rarely; a start of the daemon
    // only makes it do so now.
    flip_one_byte(&blobs, is_large)?;
    vm.check("systemctl restart cairnd")?;
    hub.wait_app_ready("shop", READY_DEADLINE)?;

    // The signed documents: an older one is put back, which is as genuine as it was.
    let timestamp = director.join("timestamp.json");
    let good = fs::read(&timestamp)?;
    ensure!(good != before, "nothing was published for the second app");
    fs::write(&timestamp, &before)?;
    said_after_restart(&mut vm, &[REFUSED, "timestamp metadata (rollback)"])?;
    fs::write(&timestamp, &good)?;
    taken_after_restart(&mut vm)?;

    // Then one byte of the newest.
    fs::write(&timestamp, with_another_signature(&good)?)?;
    said_after_restart(&mut vm, &[REFUSED, "timestamp metadata (forgery)"])?;
    fs::write(&timestamp, &good)?;
    taken_after_restart(&mut vm)?;
    ensure!(
        vm.check("systemctl show cairn-hello-hello-0.service -p MainPID --value")? == pid,
        "the app was disturbed"
    );
    fetch(vm.forwarded(8081).unwrap_or_default(), "/", READY_DEADLINE)?;

    // It follows its hub as before.
    fs::write(&file, COMPOSE.replace("    deploy:", "    environment: { AFTER: attack }\n    deploy:"))?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let again = hub.wait_app_ready("hello", READY_DEADLINE)?;
    ensure!(status["digest"] != again["digest"], "nothing new was deployed: {again}");
    ensure!(
        vm.check("systemctl show cairn-hello-hello-0.service -p MainPID --value")? != pid,
        "what was deployed after the attacks does not run"
    );
    Ok(())
}

/// Starts the daemon anew, so that it polls now, and waits until its local status says these words.
fn said_after_restart(vm: &mut Vm, words: &[&str]) -> Result<()> {
    vm.check("systemctl restart cairnd")?;
    wait::until(&format!("the node to say {words:?}"), READY_DEADLINE, || {
        let said = vm.check("cairn local status -o json")?;
        ensure!(words.iter().all(|word| said.contains(word)), "it says: {said}");
        Ok(Some(()))
    })
}

/// Starts the daemon anew, and waits until it has nothing against what its hub serves.
fn taken_after_restart(vm: &mut Vm) -> Result<()> {
    vm.check("systemctl restart cairnd")?;
    wait::until("the node to take the hub's bundle again", READY_DEADLINE, || {
        let said = vm.check("cairn local status -o json")?;
        let status: Value = serde_json::from_str(&said)?;
        ensure!(status["link"] == "online" && !said.contains(REFUSED), "it says: {said}");
        Ok(Some(()))
    })
}

/// The timestamp with one digit of its signature changed. All else is as it was, so that the hub has no cause to sign it
/// anew.
fn with_another_signature(timestamp: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = timestamp.to_vec();
    let key = b"\"sig\":\"";
    let at = bytes.windows(key.len()).position(|window| window == key).context("a timestamp is signed")?;
    let digit = &mut bytes[at + key.len()];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
    Ok(bytes)
}

fn is_large(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 100_000)
}

/// Changes one byte of every file below `dir` that `wanted` picks; returns how many.
fn flip_one_byte(dir: &Path, wanted: fn(&Path) -> bool) -> Result<usize> {
    let mut flipped = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            flipped += flip_one_byte(&path, wanted)?;
        } else if wanted(&path) {
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes)?;
            flipped += 1;
        }
    }
    Ok(flipped)
}
