//! The power goes at random instants of updates, again and again: the node always starts, loses nothing that it had, and
//! ends every update by itself.
//!
//! `CAIRN_KILLS` is how often (3 where absent), `CAIRN_SEED` what chance begins with.

use std::{env, time::Duration};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::wait_node,
    os::{self, UPDATE_DEADLINE},
    shop, wait,
};
use fastrand::Rng;

/// From `cairn os set` until the release is kept takes about as long.
const UPDATE_SECONDS: u64 = 120;

#[test]
fn update_killed_at_random() -> Result<()> {
    let number = |name: &str, default: u64| env::var(name).map_or(Ok(default), |text| text.parse());
    let (kills, seed) = (number("CAIRN_KILLS", 3)?, number("CAIRN_SEED", 1)?);
    println!("{kills} kills, seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let lab = Lab::new("update-killed")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    shop::open(&lab, &hub, &mut vm)?;
    for name in ["base", "good"] {
        os::push(&lab, &hub, name)?;
    }
    let mut targets = ["0.2.0", "0.1.0"].into_iter().cycle();
    let mut target = targets.next().context("there is no end to them")?;
    hub.cairn(&["os", "set", target, "--all", "--allow-downgrade"])?;
    for kill in 1..=kills {
        // A random instant, unless the update is through before: then the next one begins.
        let instant = Duration::from_millis(rng.u64(1000..UPDATE_SECONDS * 1000));
        // Three cuts in a row while it is tried are three failed tries: then the node has gone back, and says so.
        let ended = |os: &serde_json::Value| {
            os["target"] == target && (os["state"] == "good" || os["state"] == "rolled-back")
        };
        if os::wait_status(&hub, "the update to end, or its instant to come", instant, ended).is_ok() {
            target = targets.next().context("there is no end to them")?;
            hub.cairn(&["os", "set", target, "--all", "--allow-downgrade", "--retry"])?;
        }
        let last = os::status(&hub)?;
        vm = vm.power_cycle()?;
        vm.wait_booted().with_context(|| format!("kill {kill} of {kills}, seed {seed}, after {last}"))?;
        shop::ensure_open(&mut vm)?;
    }
    hub.cairn(&["os", "set", target, "--all", "--allow-downgrade", "--retry"])?;
    os::wait_state(&hub, target, "good", UPDATE_DEADLINE)?;
    wait_node(&hub, |node| node["online"] == true)?;
    wait::until("every report to arrive", UPDATE_DEADLINE, || {
        let unsent = vm.run("cairn local status")?.text;
        Ok(unsent
            .lines()
            .any(|line| line.starts_with("Unsent reports:") && line.ends_with(" 0"))
            .then_some(()))
    })?;
    let entries = vm.check("ls /boot/EFI/Linux")?;
    ensure!(entries.contains(&format!("cairn_{target}.efi")), "it is not kept: {entries}");
    shop::ensure_open(&mut vm)
}
