//! Without auto-approve a node waits, gets nothing, and starts to work once an operator approves it. A wrong token gets
//! it nowhere, and it says so.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{READY_DEADLINE, wait_node},
    wait,
};

#[test]
fn pending_until_approved() -> Result<()> {
    let lab = Lab::new("pending-until-approved")?;
    let hub = lab.hub()?;
    lab.push_examples(&hub)?;
    let token = hub.token(&["--label", "zone=test"])?;
    let mut vm = lab.boot(&hub, 1, &token, &[])?;

    let node = wait_node(&hub, |node| node["state"] == "pending")?;
    ensure!(node["labels"]["zone"] == "test", "the token's label is missing: {node}");
    let file = lab.dir().join("compose.yaml");
    std::fs::write(
        &file,
        "name: hello\nservices:\n  hello:\n    image: demo/hello:1\n    platform: wasi/wasm\n    ports: ['8081:8080']\n    \
         deploy:\n      mode: global\n",
    )?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    let status = hub.json(&["app", "status", "hello"])?;
    ensure!(status["desired"] == 0, "an app was placed on a node that nobody approved: {status}");
    let said = vm.check("cairn local status")?;
    ensure!(said.contains("approve"), "the node does not say what it waits for: {said}");

    let id = node["id"].as_str().unwrap_or_default();
    hub.cairn(&["node", "approve", id])?;
    hub.wait_app_ready("hello", READY_DEADLINE)?;

    let mut stranger = lab.boot(&hub, 2, "cairn-enroll-wrong-token", &[])?;
    wait::until("the stranger to say that its token is wrong", READY_DEADLINE, || {
        let said = stranger.check("cairn local status")?;
        ensure!(said.contains("token"), "{said}");
        Ok(Some(()))
    })?;
    ensure!(hub.nodes()?.len() == 1, "a node with a wrong token is listed");
    Ok(())
}
