//! A release that boots but in which the app does not get well is given up at once; the old one runs the app again.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    os::{self, FALLBACK_DEADLINE},
    shop,
};

#[test]
fn update_unhealthy_workload_falls_back() -> Result<()> {
    let lab = Lab::new("update-unhealthy")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    let boot = vm.boot_id()?;
    os::push(&lab, &hub, "unhealthy")?;
    hub.cairn(&["os", "set", "0.4.0", "--all", "--health-deadline", "60s"])?;
    let after = os::wait_state(&hub, "0.1.0", "rolled-back", FALLBACK_DEADLINE)?;
    vm.wait_rebooted(&boot)?;

    let detail = after["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("shop"), "the reason does not name the workload: {after}");
    ensure!(after["progress"]["method"] != "patch", "there is no patch to it: {after}");
    let entries = vm.check("ls /boot/EFI/Linux")?;
    ensure!(entries.contains("cairn_0.4.0+0-"), "it can still be booted: {entries}");
    os::event(&hub, "os-rolled-back")?;
    shop::ensure_open(&mut vm)
}
