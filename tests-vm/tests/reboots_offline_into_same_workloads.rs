//! Invariant 5: a node that loses its hub and then its power comes back with what it ran.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{READY_DEADLINE, fetch},
    wait,
};

#[test]
fn reboots_offline_into_same_workloads() -> Result<()> {
    let lab = Lab::new("reboots-offline")?;
    let (mut hub, vm) = lab.enrolled(&[8080, 8081])?;
    lab.push_examples(&hub)?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/compose.yaml");
    hub.cairn(&["app", "deploy", file])?;
    let status = hub.wait_app_ready("demo", READY_DEADLINE)?;
    hub.kill();

    let mut vm = vm.power_cycle()?;
    vm.wait_booted()?;
    for (port, word) in [(8080, "Cairn"), (8081, "WebAssembly")] {
        let page = fetch(vm.forwarded(port).unwrap_or_default(), "/", READY_DEADLINE)?;
        ensure!(page.contains(word), "port {port} shows {page}");
    }
    let said = wait::until("the node to say that its hub is away", READY_DEADLINE, || {
        let said = vm.check("cairn local status")?;
        Ok(said.contains("hub").then_some(said))
    })?;
    ensure!(said.contains("running"), "`cairn local status` does not show what runs: {said}");

    hub.resume()?;
    let after = hub.wait_app_ready("demo", READY_DEADLINE)?;
    ensure!(status["digest"] == after["digest"], "another app came back");
    Ok(())
}
