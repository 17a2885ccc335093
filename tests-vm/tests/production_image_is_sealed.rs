//! The image for production, with whoever runs the machine as the attacker: what they pass in by SMBIOS makes it a member
//! of a fleet and nothing else. No unit of theirs runs, nobody logs in, no shell answers.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cairn_tests_vm::{
    Lab,
    lab::{PLANTED, PLANTED_MARKER, wait_node},
    vm::BOOT_DEADLINE,
    wait,
};

/// The test image's shell answers within a second, also under emulation.
const SHELL_PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn production_image_is_sealed() -> Result<()> {
    let lab = Lab::with_image("production-sealed", "image")?;
    let hub = lab.hub()?;
    let token = hub.token(&["--auto-approve"])?;
    // `boots_and_enrols` shows that these very credentials work on the test image.
    let mut vm = lab.power_on_with(&hub, 1, &token, &PLANTED)?;
    wait::until("the node to ask its hub", BOOT_DEADLINE, || Ok((!hub.nodes()?.is_empty()).then_some(())))?;
    let node = wait_node(&hub, |node| node["state"] == "approved" && node["online"] == true)?;
    let id = node["id"].as_str().unwrap_or_default();

    // The console's own unit starts beside the agent, so that what was planted would have been seen before.
    wait::until("the console to show the node", BOOT_DEADLINE, || {
        let console = vm.console();
        if console.contains(&format!("answers; this is node {id}")) {
            return Ok(Some(()));
        }
        bail!("it shows: {console}")
    })?;
    ensure!(!vm.has_shell(SHELL_PATIENCE), "a shell answers on the test port");
    let console = vm.console();
    ensure!(console.contains("This console takes no input"), "the console does not say so: {console}");
    for word in [PLANTED_MARKER, "planted.service", "login:", "Password:", "sh-5", "root@"] {
        ensure!(!console.contains(word), "{word} is on the console: {console}");
    }
    Ok(())
}
