//! A WebAssembly component serves HTTP from a port of the node, within its limits; a bad Compose file changes nothing.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{READY_DEADLINE, fetch},
};

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
