//! Invariant 4: neither a crash, a restart nor a hang of the daemon, nor a crash of the hub, disturbs a workload.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{READY_DEADLINE, fetch},
    wait,
};

/// Restarts the daemon in good order, with a watchdog that is not as patient as the one in `dist/`.
const SHORT_WATCHDOG: &str = "mkdir -p /run/systemd/system/cairnd.service.d &&
    printf '[Service]\\nWatchdogSec=10\\n' >/run/systemd/system/cairnd.service.d/watchdog.conf &&
    systemctl daemon-reload && systemctl restart cairnd";

#[test]
fn survives_daemon_kill() -> Result<()> {
    let lab = Lab::new("survives-daemon-kill")?;
    let (mut hub, mut vm) = lab.enrolled(&[8080, 8081])?;
    lab.push_examples(&hub)?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/compose.yaml");
    hub.cairn(&["app", "deploy", file])?;
    hub.wait_app_ready("demo", READY_DEADLINE)?;
    let pids = "systemctl show 'cairn-demo-*.service' -p Id -p MainPID -p NRestarts";
    let before = vm.check(pids)?;
    ensure!(before.matches("MainPID=").count() == 2, "expected two units: {before}");

    for kill in [
        "systemctl kill -s KILL --kill-whom=main cairnd",
        SHORT_WATCHDOG,
        // It hangs: nothing but systemd's watchdog is left to see it.
        "systemctl kill -s STOP --kill-whom=main cairnd",
    ] {
        let old = vm.check("systemctl show cairnd -p MainPID --value")?;
        vm.check(kill)?;
        wait::until("the daemon to be back", READY_DEADLINE, || {
            let new = vm
                .check("systemctl is-active cairnd >/dev/null && systemctl show cairnd -p MainPID --value")?;
            Ok((new != old).then_some(()))
        })?;
        wait::until("the daemon to know its workloads", READY_DEADLINE, || {
            Ok(vm.check("cairn local status -o json")?.contains("running").then_some(()))
        })?;
        let after = vm.check(pids)?;
        ensure!(before == after, "`{kill}` disturbed a workload:\n{before}\n{after}");
    }
    let journal = vm.check("journalctl -b -u cairnd --no-pager -o cat")?;
    ensure!(journal.contains("Watchdog timeout (limit 10s)"), "it was not the watchdog: {journal}");

    hub.kill();
    fetch(vm.forwarded(8080).unwrap_or_default(), "/", READY_DEADLINE)?;
    hub.resume()?;
    hub.wait_app_ready("demo", READY_DEADLINE)?;
    ensure!(before == vm.check(pids)?, "a crash of the hub disturbed a workload");
    Ok(())
}
