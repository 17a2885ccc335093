//! A blank node with an address, a CA and a token becomes a member, on a hardened image.

use anyhow::{Result, ensure};
use cairn_tests_vm::{
    Lab, Vm,
    lab::{PLANTED, PLANTED_MARKER, wait_node},
};

/// What keeps the agent within its bounds, as systemd shows it; `dist/node` has it as it is written.
const SANDBOX: [&str; 14] = [
    "DevicePolicy=closed",
    "LockPersonality=yes",
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectClock=yes",
    "ProtectHome=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectSystem=strict",
    "RestrictRealtime=yes",
    "SystemCallArchitectures=native",
    "UMask=0077",
];

#[test]
fn boots_and_enrols() -> Result<()> {
    let lab = Lab::new("boots-and-enrols")?;
    let hub = lab.hub()?;
    let token = hub.token(&["--auto-approve"])?;
    let mut vm = lab.boot_with(&hub, 1, &token, &PLANTED)?;
    wait_node(&hub, |node| node["state"] == "approved" && node["online"] == true)?;
    // The test image leaves SMBIOS to systemd, so that `production_image_is_sealed` is known to test something.
    ensure!(
        vm.console().contains(PLANTED_MARKER),
        "the test image takes no units by SMBIOS: {}",
        vm.console_tail()
    );

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
    let uuid = vm.check("cat /sys/dev/block/$(stat -c '%Hd:%Ld' /)/dm/uuid")?;
    ensure!(uuid.starts_with("CRYPT-VERITY-"), "the root is not on dm-verity: {uuid}");
    ensure!(vm.run("touch /usr/x")?.code != 0, "the root file system can be written to");
    let status = vm.check("cairn local status -o json")?;
    let id = nodes[0]["id"].as_str().unwrap_or_default();
    ensure!(status.contains(id), "`cairn local status` does not name the node {id}: {status}");
    let keys = vm.check("stat -c '%a %U' /var/lib/cairn /var/lib/cairn/keys/*")?;
    ensure!(keys.lines().all(|l| l == "700 root" || l == "600 root"), "keys are readable by others: {keys}");
    is_hardened(&mut vm)?;

    let refused = hub.cairn_refused(&["node", "show", "no-such-node"])?;
    ensure!(refused.contains("no-such-node") && refused.contains("cairn node ls"), "unhelpful: {refused}");
    Ok(())
}

/// Nobody can log in with a password, nothing listens for the network, and the agent has its sandbox.
fn is_hardened(vm: &mut Vm) -> Result<()> {
    let passwords = vm.check("cut -d: -f2 /etc/shadow")?;
    ensure!(
        passwords.lines().count() > 0 && passwords.lines().all(|field| field.starts_with(['!', '*'])),
        "somebody has a password: {passwords}"
    );
    let listening = vm.check("cat /proc/net/tcp /proc/net/tcp6 | tr -s ' '")?;
    let others = listening.lines().filter(|line| !is_loopback(line)).filter(|line| line.contains(" 0A "));
    let others: Vec<_> = others.collect();
    ensure!(others.is_empty(), "something listens for the network: {others:?}");

    let names = SANDBOX.map(|property| property.split('=').next().unwrap_or_default()).join(" -p ");
    let shown = vm.check(&format!("systemctl show cairnd -p {names}"))?;
    for property in SANDBOX {
        ensure!(shown.lines().any(|line| line == property), "{property} is missing: {shown}");
    }
    Ok(())
}

/// Whether a line of /proc/net/tcp or tcp6 is about an address of the node's own.
fn is_loopback(line: &str) -> bool {
    let address = line.split(' ').skip_while(|word| word.is_empty()).nth(1).unwrap_or_default();
    address.split(':').next().is_some_and(|address| {
        // The kernel prints them as it has them in memory: the first byte last.
        address.len() == 8 && address.ends_with("7F") || address == "00000000000000000000000001000000"
    })
}
