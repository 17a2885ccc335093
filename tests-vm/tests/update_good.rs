//! An update goes into the other slot, is tried, found well and kept; the app, its data and the node's identity survive.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    os::{self, UPDATE_DEADLINE},
    shop,
};

#[test]
fn update_good() -> Result<()> {
    let lab = Lab::new("update-good")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    let before = os::status(&hub)?;
    let (boot, key) = (vm.boot_id()?, vm.check("sha256sum /var/lib/cairn/keys/node.pem /etc/machine-id")?);
    os::push(&lab, &hub, "good")?;
    hub.cairn(&["os", "set", "0.2.0", "--all"])?;
    let after = os::wait_state(&hub, "0.2.0", "good", UPDATE_DEADLINE)?;
    vm.wait_rebooted(&boot)?;

    ensure!(after["slot"] == "b" && after["other"] == "0.1.0", "not in the other slot: {after}");
    let progress = &after["progress"];
    let (fetched, full) = (progress["fetched"].as_u64(), progress["full"].as_u64());
    ensure!(progress["method"] == "patch", "the patch was not taken: {after}");
    ensure!(fetched.zip(full).is_some_and(|(fetched, full)| fetched * 5 < full), "nothing saved: {after}");
    ensure!(before["node"] == os::status(&hub)?["node"], "another node came back");
    ensure!(key == vm.check("sha256sum /var/lib/cairn/keys/node.pem /etc/machine-id")?, "another identity");
    shop::ensure_open(&mut vm)?;

    let entries = vm.check("ls /boot/EFI/Linux")?;
    ensure!(entries.contains("cairn_0.2.0.efi") && entries.contains("cairn_0.1.0.efi"), "entries: {entries}");
    ensure!(vm.check("cat /etc/os-release")?.contains("0.2.0"), "another OS runs");
    for reason in ["os-update-started", "os-update-written", "os-kept"] {
        os::event(&hub, reason)?;
    }
    let said = vm.check("cairn local status")?;
    ensure!(said.contains("0.2.0"), "`cairn local status` does not name the OS: {said}");
    // What is good stays so without a hub.
    drop(hub);
    let mut vm = vm.power_cycle()?;
    vm.wait_booted()?;
    ensure!(vm.check("cat /etc/os-release")?.contains("0.2.0"), "it went back");
    shop::ensure_open(&mut vm)
}
