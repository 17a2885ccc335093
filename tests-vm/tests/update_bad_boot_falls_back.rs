//! A release whose boot never completes is tried three times; then the old one runs again and says why.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    os::{self, FALLBACK_DEADLINE},
    shop,
};

#[test]
fn update_bad_boot_falls_back() -> Result<()> {
    let lab = Lab::new("update-bad-boot")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    let boot = vm.boot_id()?;
    os::push(&lab, &hub, "bad-boot")?;
    hub.cairn(&["os", "set", "0.3.0", "--all"])?;
    let after = os::wait_state(&hub, "0.1.0", "rolled-back", FALLBACK_DEADLINE)?;
    vm.wait_rebooted(&boot)?;

    ensure!(after["slot"] == "a" && after["target"] == "0.3.0", "not back in its slot: {after}");
    let detail = after["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("3 tries"), "no reason: {after}");
    let entries = vm.check("ls /boot/EFI/Linux")?;
    ensure!(entries.contains("cairn_0.3.0+0-3.efi"), "it was not tried three times: {entries}");
    let rolled_back = os::event(&hub, "os-rolled-back")?;
    ensure!(rolled_back.contains("0.3.0") && rolled_back.contains("--retry"), "no cure: {rolled_back}");
    shop::ensure_open(&mut vm)
}
