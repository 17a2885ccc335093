//! A container runs as deployed: confined, limited, reachable, with its volume, logs and life cycle.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Hub, Lab, Vm,
    lab::{READY_DEADLINE, fetch},
    wait,
};
use serde_json::Value;

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

/// Four that go wrong or are stopped, each in its way. The image is the same; what runs is not its web server.
const LIMITS: &str = "
name: limits
x-common: &common
  image: demo/web:1
  deploy: { mode: global, resources: { limits: { memory: 24M, pids: 20 } } }
services:
  hog:
    <<: *common
    command: [busybox, dd, if=/dev/zero, of=/dev/null, bs=64M, count=1]
    restart: on-failure
  forks:
    <<: *common
    command: [sh, -c, 'for a in 1 2 3 4 5 6; do for b in 1 2 3 4 5 6; do sleep 999 & done; done; wait']
    restart: 'no'
  polite:
    <<: *common
    command: [sh, -c, \"trap 'echo was told by USR1; exit 0' USR1; echo is ready; while true; do sleep 1; done\"]
    restart: always
    stop_signal: SIGUSR1
    stop_grace_period: 60s
  deaf:
    <<: *common
    command: [sh, -c, \"trap '' TERM; echo is ready; while true; do sleep 1; done\"]
    restart: always
    stop_grace_period: 3s
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
    let id = hub.nodes()?[0]["id"].as_str().unwrap_or_default().to_owned();
    for scope in [&[][..], &["--service", "web", "--node", &id]] {
        let logs = hub.cairn(&[&["app", "logs", "corner-shop"], scope].concat())?;
        ensure!(logs.contains("response:200"), "no line of httpd's with {scope:?}: {logs}");
    }
    let silent = hub.cairn_refused(&["app", "logs", "corner-shop", "--service", "absent"])?;
    ensure!(
        silent.contains("cairn app status corner-shop"),
        "no cure for a service that is not there: {silent}"
    );

    hub.cairn(&["app", "rm", "corner-shop"])?;
    wait::until("the container to be gone", READY_DEADLINE, || {
        let units = vm.check(
            "systemctl list-units --no-legend --plain 'cairn-corner_shop-*'; ls /run/cairn/workloads",
        )?;
        ensure!(units.trim().is_empty(), "there still is: {units}");
        Ok(Some(()))
    })?;
    // It took its port with it: the next one has it.
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    ensure!(fetch(port, "/", READY_DEADLINE)?.contains("Cairn"), "the page is not the demo's");
    limits_are_kept(&lab, &hub, &mut vm)
}

/// More memory and more tasks than allowed are not had, and it is said; who is to stop is asked by its signal, and killed
/// after its grace.
fn limits_are_kept(lab: &Lab, hub: &Hub, vm: &mut Vm) -> Result<()> {
    let file = lab.dir().join("limits.yaml");
    fs::write(&file, LIMITS)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let logs = |service: &str| hub.cairn(&["app", "logs", "limits", "--service", service]);
    wait::until("the hog to be killed for its memory, and to be started again", READY_DEADLINE, || {
        let hog = replica(hub, "hog")?;
        let said = hog["detail"].as_str().unwrap_or_default();
        ensure!(hog["state"] == "failed" && said.contains("SIGKILL"), "{hog}");
        ensure!(hog["restarts"].as_u64() > Some(0), "{hog}");
        Ok(Some(()))
    })?;
    let said = logs("hog")?;
    ensure!(said.contains("OOM killer"), "the logs do not say why it ended: {said}");
    wait::until("the forks to be refused", READY_DEADLINE, || {
        let forks = replica(hub, "forks")?;
        ensure!(forks["state"] == "failed" && forks["restarts"] == 0, "{forks}");
        Ok(Some(()))
    })?;
    let said = logs("forks")?;
    ensure!(said.contains("can't fork"), "the logs do not say why it ended: {said}");
    for service in ["polite", "deaf"] {
        wait::until(&format!("{service} to be ready"), READY_DEADLINE, || {
            Ok(logs(service)?.contains("is ready").then_some(()))
        })?;
    }

    hub.cairn(&["app", "rm", "limits"])?;
    wait::until("all of them to be gone", READY_DEADLINE, || {
        let units = vm.check("systemctl list-units --no-legend --plain 'cairn-limits-*'")?;
        Ok(units.trim().is_empty().then_some(()))
    })?;
    let journal = |service| format!("journalctl -b --no-pager -o cat -u cairn-limits-{service}-0.service");
    let polite = vm.check(&journal("polite"))?;
    ensure!(polite.contains("was told by USR1"), "its signal did not reach it: {polite}");
    ensure!(!polite.contains("Killing"), "it was killed though it went: {polite}");
    let deaf = vm.check(&journal("deaf"))?;
    ensure!(deaf.contains("timed out. Killing"), "it was not killed after its grace: {deaf}");
    Ok(())
}

/// What the hub knows of the one replica of a service of the app `limits`.
fn replica(hub: &Hub, service: &str) -> Result<Value> {
    let status = hub.json(&["app", "status", "limits"])?;
    let replicas = status["replicas"].as_array().context("an app has replicas")?;
    let found = replicas.iter().find(|replica| replica["service"] == service);
    Ok(found.with_context(|| format!("no replica of {service}: {status}"))?["status"].clone())
}
