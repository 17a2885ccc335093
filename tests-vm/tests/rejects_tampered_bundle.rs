//! Somebody can write to the hub's data folder but has none of its keys: whatever they change, the node keeps running
//! what it last verified, and says what is wrong.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Vm,
    lab::{READY_DEADLINE, fetch},
    wait,
};

const COMPOSE: &str = "
name: hello
services:
  hello:
    image: demo/hello:1
    platform: wasi/wasm
    ports: ['8081:8080']
    deploy: { mode: global }
";

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
    let flipped =
        flip_one_byte(&hub.data().join("blobs"), |path| fs::metadata(path).is_ok_and(|m| m.len() > 100_000))?;
    ensure!(flipped > 0, "there was no large blob to tamper with");
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

    // The signed documents: an older one is put back, which is as genuine as it was.
    let timestamp = director.join("timestamp.json");
    ensure!(fs::read(&timestamp)? != before, "nothing was published for the second app");
    fs::write(&timestamp, &before)?;
    said_after_restart(&mut vm, "rollback")?;

    // Then one byte of it.
    ensure!(flip_one_byte(&director, |path| path.ends_with("timestamp.json"))? == 1, "there is no timestamp");
    said_after_restart(&mut vm, "refused")?;
    ensure!(
        vm.check("systemctl show cairn-hello-hello-0.service -p MainPID --value")? == pid,
        "the app was disturbed"
    );
    fetch(vm.forwarded(8081).unwrap_or_default(), "/", READY_DEADLINE)?;
    ensure!(status["digest"].is_string(), "no digest in {status}");
    Ok(())
}

/// Starts the daemon anew, so that it polls now, and waits until its local status says `word`.
fn said_after_restart(vm: &mut Vm, word: &str) -> Result<()> {
    vm.check("systemctl restart cairnd")?;
    wait::until(&format!("the node to say {word}"), READY_DEADLINE, || {
        let said = vm.check("cairn local status")?;
        ensure!(said.contains(word), "it says: {said}");
        Ok(Some(()))
    })
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
