//! Resource limits and kernel parameters of one container.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use cairn_model::workload::{Network, OciWorkload};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

/// Parameters of the IPC namespace; those of the network namespace are all that start with `net.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub(super) fn rlimits(workload: &OciWorkload) -> Result<Vec<PosixRlimit>> {
    let one = |(name, soft, hard): &(String, u64, u64)| {
        let typ: PosixRlimitType =
            name.parse().ok().with_context(|| format!("ulimit {name:?} is unknown; see getrlimit(2)"))?;
        if soft > hard {
            bail!("ulimit {name}: the soft limit {soft} is above the hard limit {hard}");
        }
        PosixRlimitBuilder::default()
            .typ(typ)
            .soft(*soft)
            .hard(*hard)
            .build()
            .context("failed to build a ulimit")
    };
    workload.ulimits.iter().map(one).collect()
}

pub(super) fn sysctls(workload: &OciWorkload) -> Result<HashMap<String, String>> {
    let own_network = workload.network != Network::Host;
    let mut sysctls = HashMap::new();
    if own_network {
        // As Docker does: in a network namespace of one's own, low ports and ping are no privilege.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for (name, value) in &workload.sysctls {
        check(name, own_network)?;
        if value.contains(['\0', '\n']) {
            bail!("sysctl {name}: the value has a line break");
        }
        sysctls.insert(name.clone(), value.clone());
    }
    Ok(sysctls)
}

fn check(name: &str, own_network: bool) -> Result<()> {
    let well_formed = name.len() <= 128
        && name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        });
    if !well_formed {
        bail!("sysctl {name:?} is not a dotted name");
    }
    if name.starts_with("net.") {
        if !own_network {
            bail!("sysctl {name} would change the node's own network; it needs a network of the app's own");
        }
        return Ok(());
    }
    if IPC_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.") {
        return Ok(());
    }
    bail!("sysctl {name} is not per container: it would change the whole node; set it in the node's image");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_sysctls_pass() {
        for (name, own_network, ok) in [
            ("net.core.somaxconn", true, true),
            ("net.core.somaxconn", false, false),
            ("kernel.shmmax", false, true),
            ("fs.mqueue.msg_max", true, true),
            ("kernel.panic", true, false),
            ("vm.swappiness", true, false),
            ("net/../kernel/panic", true, false),
            ("net..x", true, false),
            ("", true, false),
        ] {
            assert_eq!(check(name, own_network).is_ok(), ok, "{name}");
        }
    }
}
