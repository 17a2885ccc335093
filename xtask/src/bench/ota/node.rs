//! An update on a node under QEMU, as an operator waits for it.

use std::time::Instant;

use anyhow::Result;
use cairn_tests_vm::{
    Lab,
    os::{self, UPDATE_DEADLINE},
    shop,
};

use super::super::Row;
use crate::releases;

/// From `cairn os set` to the hub's knowing that the update is kept, against a restart of the same node alone. The node
/// has an app whose health the update waits for.
pub(super) fn measure() -> Result<Vec<Row>> {
    releases::build()?;
    let lab = Lab::new("bench-ota")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;

    let boot = vm.boot_id()?;
    let start = Instant::now();
    vm.send("systemctl reboot")?;
    vm.wait_rebooted(&boot)?;
    let restart = start.elapsed().as_secs_f64();
    shop::ensure_open(&mut vm)?;

    os::push(&lab, &hub, "good")?;
    let mut rows = Vec::new();
    let mut row = |what: &str, figure: f64| {
        let what = format!("from 'desired' to {what}");
        rows.push(Row { what, figure, baseline: restart, unit: "s", against: "a restart of the same node" });
    };
    let start = Instant::now();
    let passed = || start.elapsed().as_secs_f64();
    hub.cairn(&["os", "set", "0.2.0", "--all"])?;
    os::wait_status(&hub, "the release to be in the slot", UPDATE_DEADLINE, |os| {
        ["written", "armed", "trying", "good"].iter().any(|state| os["state"] == *state)
            && (os["target"] == "0.2.0" || os["version"] == "0.2.0")
    })?;
    row("written", passed());
    os::wait_state(&hub, "0.2.0", "good", UPDATE_DEADLINE)?;
    row("confirmed", passed());
    Ok(rows)
}
