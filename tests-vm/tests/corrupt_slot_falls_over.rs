//! A slot that turns out corrupt after it was kept: the node starts the other one by itself, and reports it. When that
//! is corrupt too, it says on its console what to do.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    os::{self, FALLBACK_DEADLINE, UPDATE_DEADLINE},
    shop, wait,
};

/// Overwrites the middle of the root on partition `number`, past all caches. The last command answers before the node
/// can miss what is gone.
fn damage(number: u32) -> String {
    format!(
        "dd if=/dev/urandom of=/dev/vda{number} bs=1M count=48 seek=16 oflag=direct conv=notrunc status=none; \
         echo b >/proc/sysrq-trigger"
    )
}

#[test]
fn corrupt_slot_falls_over() -> Result<()> {
    let lab = Lab::new("corrupt-slot")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    os::push(&lab, &hub, "good")?;
    let boot = vm.boot_id()?;
    hub.cairn(&["os", "set", "0.2.0", "--all"])?;
    os::wait_state(&hub, "0.2.0", "good", UPDATE_DEADLINE)?;
    vm.wait_rebooted(&boot)?;
    hub.cairn(&["os", "unset", "--all"])?;

    let boot = vm.boot_id()?;
    vm.send(&damage(4))?;
    let after =
        os::wait_status(&hub, "the other slot to run", FALLBACK_DEADLINE, |os| os["version"] == "0.1.0")?;
    vm.wait_rebooted(&boot)?;
    ensure!(after["slot"] == "a", "not the other slot: {after}");
    os::event(&hub, "os-slot-corrupt")?;
    shop::ensure_open(&mut vm)?;

    vm.send(&damage(2))?;
    wait::until("the console to say what to do", FALLBACK_DEADLINE, || {
        Ok(vm.console().contains("cairn-image flash").then_some(()))
    })
}
