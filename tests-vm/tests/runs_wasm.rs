//! A WebAssembly component serves HTTP from a port of the node, within its limits; a bad Compose file changes nothing.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Hub, Lab, Vm,
    lab::{READY_DEADLINE, fetch},
    vm::run,
    wait,
};
use serde_json::Value;

const COMPOSE: &str = "
name: hello
services:
  hello:
    image: demo/hello:1
    platform: wasi/wasm
    ports: ['8081:8080']
    deploy:
      mode: global
      resources:
        limits: { memory: 32M }
";

/// A module of WASI 0.1 twice: one takes memory until it is stopped, the other ends with a code of its own.
const COMMAND: &str = "
name: once
services:
  taker:
    image: demo/command:1
    platform: wasi/wasm
    command: [grow]
    restart: 'no'
    deploy: { mode: global, resources: { limits: { memory: 32M } } }
  ender:
    image: demo/command:1
    platform: wasi/wasm
    command: [exit, '3']
    restart: 'no'
    deploy: { mode: global }
";

#[test]
fn runs_wasm() -> Result<()> {
    let lab = Lab::new("runs-wasm")?;
    let (hub, mut vm) = lab.enrolled(&[8081])?;
    lab.push_examples(&hub)?;
    let file = lab.dir().join("compose.yaml");
    fs::write(&file, COMPOSE)?;
    let path = file.display().to_string();
    hub.cairn(&["app", "deploy", &path])?;
    hub.wait_app_ready("hello", READY_DEADLINE)?;
    let port = vm.forwarded(8081).unwrap_or_default();
    ensure!(fetch(port, "/", READY_DEADLINE)?.contains("WebAssembly"), "the page is not the component's");

    let unit = "cairn-hello-hello-0.service";
    let user = vm.check(&format!("grep -E '^(Uid|CapEff|NoNewPrivs):' /proc/$(systemctl show {unit} -p MainPID --value)/status | tr -s '\\t' ' '"))?;
    ensure!(
        user.contains("NoNewPrivs: 1") && user.contains("CapEff: 0000000000000000"),
        "not confined: {user}"
    );

    greedy_request(&hub, &mut vm, port, unit)?;
    command_runs_to_its_end(&lab, &hub)?;

    for (bad, line, word) in [
        (COMPOSE.replace("    deploy:", "    deplyo:"), ":8:", "deploy"),
        (COMPOSE.replace("demo/hello:1", "demo/absent:1"), "demo/absent:1", "artifact"),
        (COMPOSE.replace("32M", "[32]"), ":11:", "memory"),
        (COMPOSE.replace("['8081:8080']", "['8081:8080', '8081:8082']"), ":7:", "8081"),
    ] {
        fs::write(&file, bad)?;
        let refused = hub.cairn_refused(&["app", "deploy", &path])?;
        ensure!(refused.contains(line) && refused.contains(word), "expected {line} and {word} in: {refused}");
    }
    ensure!(
        fetch(port, "/", READY_DEADLINE)?.contains("WebAssembly"),
        "a refused deploy disturbed the running app"
    );
    Ok(())
}

/// A request that takes memory for ever fails, is in the logs, and takes nobody with it.
fn greedy_request(hub: &Hub, vm: &mut Vm, port: u16, unit: &str) -> Result<()> {
    let alive = format!("systemctl show {unit} -p MainPID -p NRestarts");
    let before = vm.check(&alive)?;
    let url = format!("http://127.0.0.1:{port}/grow");
    let code = ["-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let code = run(Command::new("curl").args(code))?;
    ensure!(code == "500", "memory without end is answered with {code}");
    fetch(port, "/healthz", READY_DEADLINE)?;
    ensure!(vm.check(&alive)? == before, "it took the others with it: {before}");
    let id = hub.nodes()?[0]["id"].as_str().unwrap_or_default().to_owned();
    let logs = hub.cairn(&["app", "logs", "hello", "--service", "hello", "--node", &id])?;
    ensure!(logs.contains("a request failed: the guest needs"), "no word of it in the logs: {logs}");
    Ok(())
}

/// A command gets its arguments and no more memory than its limit, and its exit code is seen at the hub. No time limit is
/// set for it: it runs to its end.
fn command_runs_to_its_end(lab: &Lab, hub: &Hub) -> Result<()> {
    let module = lab.examples().join("hello-command.wasm");
    hub.cairn(&["artifact", "push", &module.display().to_string(), "demo/command:1"])?;
    let file = lab.dir().join("once.yaml");
    fs::write(&file, COMMAND)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    // 134 is what a program has that was aborted.
    let ends = [("taker", "exited with code 134"), ("ender", "exited with code 3")];
    wait::until("the commands to end", READY_DEADLINE, || {
        let status = hub.json(&["app", "status", "once"])?;
        for (service, end) in ends {
            let ended = |replica: &Value| {
                replica["service"] == service
                    && replica["status"]["state"] == "failed"
                    && replica["status"]["detail"] == end
            };
            let replicas = status["replicas"].as_array();
            ensure!(replicas.is_some_and(|replicas| replicas.iter().any(ended)), "{service}: {status}");
        }
        Ok(Some(()))
    })?;
    let logs = hub.cairn(&["app", "logs", "once", "--service", "taker"])?;
    for line in ["Hello from a WebAssembly command on Cairn", "arg 1: grow", "over its limit of 33554432"] {
        ensure!(logs.contains(line), "{line:?} is missing: {logs}");
    }
    hub.cairn(&["app", "rm", "once"])?;
    Ok(())
}
