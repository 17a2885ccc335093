//! A node without a network gets its OS from a stick, tries it, keeps it, and says so by the next stick.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Site,
    os::{self, UPDATE_DEADLINE},
    site::{self, ended, local},
    vm::usb::Protection,
    wait,
};

#[test]
fn stick_os_update() -> Result<()> {
    let lab = Lab::new("stick-os-update")?;
    let mut site = Site::running(&lab)?;
    // The hub has to know what runs before it says what shall.
    site.round()?;
    os::push(&lab, &site.hub, "good")?;
    site.hub.cairn(&["os", "set", "0.2.0", "--node", &site.id])?;
    site.export()?;

    let boot = site.vm.boot_id()?;
    site.vm.plug("stick", site.stick.image(), Protection::Writable)?;
    // The technician leaves it in: the node restarts with it, and looks at it again.
    site.vm.wait_rebooted(&boot)?;
    let kept = wait::until("the node to keep the release", UPDATE_DEADLINE, || {
        let os = local(&mut site.vm)?["os"].clone();
        Ok((os["version"] == "0.2.0" && os["state"] == "good").then_some(os))
    })?;
    let said = ended(&mut site.vm, 1)?;
    ensure!(said["state"] == "done", "it does not take the stick that it is on: {said}");
    site.vm.unplug("stick")?;
    site.stick.check()?;
    site.stick.read_back(&site.folder)?;
    ensure!(kept["slot"] == "b", "not in the other slot: {kept}");
    site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;

    site.import()?;
    site.round()?;
    let known = os::status(&site.hub)?;
    let status = &known["status"];
    ensure!(status["version"] == "0.2.0" && status["state"] == "good", "the hub does not know: {known}");
    for reason in ["os-update-started", "os-update-written", "os-kept"] {
        os::event(&site.hub, reason)?;
    }
    Ok(())
}
