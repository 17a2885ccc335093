//! A container runs as deployed: confined, limited, reachable, with its volume, logs and life cycle.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{READY_DEADLINE, fetch},
    wait,
};

const COMPOSE: &str = "
name: corner-shop
services:
  web:
    image: demo/web:1
    ports: ['8080:8080']
    environment:
      GREETING: \"it's $$HOME; `id`\"
    volumes: ['data:/data']
    read_only: true
    cap_drop: [ALL]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, 'http://127.0.0.1:8080/']
      interval: 2s
    restart: always
    stop_grace_period: 1s
    deploy:
      mode: global
      resources:
        limits: { memory: 64M, pids: 50 }
volumes:
  data:
";

#[test]
fn runs_container() -> Result<()> {
    let lab = Lab::new("runs-container")?;
    let (hub, mut vm) = lab.enrolled(&[8080])?;
    lab.push_examples(&hub)?;
    let file = lab.dir().join("compose.yaml");
    fs::write(&file, COMPOSE)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let status = hub.wait_app_ready("corner-shop", READY_DEADLINE)?;
    ensure!(status["replicas"][0]["status"]["health"] == "healthy", "not healthy: {status}");
    let port = vm.forwarded(8080).unwrap_or_default();
    ensure!(fetch(port, "/", READY_DEADLINE)?.contains("Cairn"), "the page is not the demo's");

    let unit = "cairn-corner_shop-web-0.service";
    let shown = vm.check(&format!(
        "systemctl show {unit} -p ActiveState -p MainPID -p MemoryMax -p TasksMax -p Slice"
    ))?;
    for line in ["ActiveState=active", "MemoryMax=67108864", "TasksMax=50", "Slice=cairn-corner_shop.slice"] {
        ensure!(shown.contains(line), "{line} is missing: {shown}");
    }
    let proc = format!("/proc/$(systemctl show {unit} -p MainPID --value)");
    let confined =
        vm.check(&format!("grep -E '^(CapEff|Seccomp|NoNewPrivs):' {proc}/status | tr -s '\\t' ' '"))?;
    ensure!(confined.contains("CapEff: 0000000000000000"), "capabilities were not dropped: {confined}");
    ensure!(confined.contains("Seccomp: 2"), "no seccomp filter: {confined}");
    let environment = vm.check(&format!("tr '\\0' '\\n' < {proc}/environ"))?;
    ensure!(
        environment.contains("GREETING=it's $HOME; `id`"),
        "a value was changed on its way: {environment}"
    );
    vm.check(&format!("touch {proc}/root/data/kept"))?;
    ensure!(
        vm.run(&format!("nsenter -t $(systemctl show {unit} -p MainPID --value) -m touch /x"))?.code != 0,
        "its root is writable"
    );

    vm.check(&format!("kill -9 $(systemctl show {unit} -p MainPID --value)"))?;
    wait::until("the container to be restarted with its volume", READY_DEADLINE, || {
        let root = vm.check(&format!("ls /proc/$(systemctl show {unit} -p MainPID --value)/root/data"))?;
        Ok(root.contains("kept").then_some(()))
    })?;
    fetch(port, "/", READY_DEADLINE)?;
    hub.cairn(&["app", "logs", "corner-shop"])?;

    hub.cairn(&["app", "rm", "corner-shop"])?;
    wait::until("the container to be gone", READY_DEADLINE, || {
        let units = vm.check(
            "systemctl list-units --no-legend --plain 'cairn-corner_shop-*'; ls /run/cairn/workloads",
        )?;
        Ok(units.trim().is_empty().then_some(()))
    })?;
    // It took its port with it: the next one has it.
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    ensure!(fetch(port, "/", READY_DEADLINE)?.contains("Cairn"), "the page is not the demo's");
    Ok(())
}
