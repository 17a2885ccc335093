//! A blank node with an address, a CA and a token becomes a member, on a hardened image.

use anyhow::{Result, ensure};
use cairn_tests_vm::Lab;

#[test]
fn boots_and_enrols() -> Result<()> {
    let lab = Lab::new("boots-and-enrols")?;
    let (hub, mut vm) = lab.enrolled(&[])?;

    let nodes = hub.nodes()?;
    ensure!(nodes[0]["facts"]["os"] == "cairn", "unexpected facts: {}", nodes[0]["facts"]);
    ensure!(
        nodes[0]["facts"]["memory_bytes"].as_u64() > Some(500 << 20),
        "unexpected facts: {}",
        nodes[0]["facts"]
    );

    let failed = vm.check("systemctl --failed --no-legend --plain")?;
    ensure!(failed.trim().is_empty(), "units have failed: {failed}");
    ensure!(
        vm.check("findmnt -no FSTYPE,OPTIONS /")?.starts_with("erofs ro"),
        "the root is not a read-only erofs"
    );
    vm.check("dmsetup table 2>/dev/null | grep -q verity || ls -l /sys/block/dm-0/dm/uuid")?;
    ensure!(vm.run("touch /usr/x")?.code != 0, "the root file system can be written to");
    let status = vm.check("cairn local status -o json")?;
    let id = nodes[0]["id"].as_str().unwrap_or_default();
    ensure!(status.contains(id), "`cairn local status` does not name the node {id}: {status}");
    let keys = vm.check("stat -c '%a %U' /var/lib/cairn /var/lib/cairn/keys/*")?;
    ensure!(keys.lines().all(|l| l == "700 root" || l == "600 root"), "keys are readable by others: {keys}");

    let refused = hub.cairn_refused(&["node", "show", "no-such-node"])?;
    ensure!(refused.contains("no-such-node") && refused.contains("cairn node ls"), "unhelpful: {refused}");
    Ok(())
}
