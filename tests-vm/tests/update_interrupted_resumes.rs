//! The power goes in the middle of a transfer: the node boots what it ran, and goes on where it was.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    os::{self, UPDATE_DEADLINE},
    shop, wait,
};
use serde_json::Value;

fn written(os: &Value) -> u64 {
    os["progress"]["written"].as_u64().unwrap_or_default()
}

#[test]
fn update_interrupted_resumes() -> Result<()> {
    let lab = Lab::new("update-interrupted")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    // There is no patch to this one, so it comes by chunks.
    os::push(&lab, &hub, "old")?;
    hub.cairn(&["os", "set", "0.0.9", "--all", "--allow-downgrade"])?;
    // Asked on the node itself: what it tells its hub comes seconds later.
    let cut = wait::until("the transfer to be under way", UPDATE_DEADLINE, || {
        let status: Value = serde_json::from_str(&vm.check("cairn local status -o json")?)?;
        let under_way = status["os"]["state"] == "fetching" && written(&status["os"]) > 0;
        Ok(under_way.then(|| status["os"].clone()))
    })?;
    let mut vm = vm.power_cycle()?;
    vm.wait_booted()?;
    ensure!(vm.check("cat /etc/os-release")?.contains("0.1.0"), "it booted what was not whole");
    let boot = vm.boot_id()?;
    let after = os::wait_state(&hub, "0.0.9", "good", UPDATE_DEADLINE)?;
    vm.wait_rebooted(&boot)?;
    let (fetched, full) = (&after["progress"]["fetched"], &after["progress"]["full"]);
    ensure!(fetched.as_u64() < full.as_u64(), "all of it was fetched again: {after}, cut at {cut}");
    shop::ensure_open(&mut vm)
}
