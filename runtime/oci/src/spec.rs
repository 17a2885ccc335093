//! A workload as a runtime spec: what libcontainer reads from `config.json`.

pub(crate) mod capabilities;
mod limits;
pub(crate) mod mounts;

use std::{collections::HashSet, path::Path};

use anyhow::{Context, Result};
use cairn_model::workload::{Network, OciWorkload};
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::{layout::Layout, seccomp, user::Identity};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kernel files that tell about the node or its other workloads: hidden.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Kernel switches that are not per container: not writable.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The whole spec.
pub(crate) fn build(
    workload: &OciWorkload,
    layout: &Layout,
    identity: &Identity,
    cgroup: &Path,
) -> Result<Spec> {
    let held = capabilities::held()?;
    let capabilities = capabilities::choose(&workload.cap_add, &workload.cap_drop, &held)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(workload, layout)?)
        .cgroups_path(cgroup)
        .seccomp(seccomp::profile(&capabilities)?)
        .masked_paths(MASKED_PATHS.map(str::to_owned))
        .readonly_paths(READONLY_PATHS.map(str::to_owned))
        .sysctl(limits::sysctls(workload)?)
        .build()
        .context("failed to build the spec's linux part")?;
    // Limits and device rules are the unit's: an empty set of resources would make libcontainer write its own.
    linux.set_resources(None);
    SpecBuilder::default()
        .version("1.0.2")
        .hostname(workload.hostname.clone())
        .root(
            RootBuilder::default()
                .path(layout.rootfs())
                .readonly(workload.read_only)
                .build()
                .context("failed to build the spec's root")?,
        )
        .mounts(mounts::build(workload, layout)?)
        .process(process(workload, identity, &capabilities, workload.args.clone())?)
        .linux(linux)
        .build()
        .context("failed to build the spec")
}

/// A process of the container: its own, or one that is run inside it later.
pub(crate) fn process(
    workload: &OciWorkload,
    identity: &Identity,
    capabilities: &HashSet<Capability>,
    args: Vec<String>,
) -> Result<Process> {
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .umask(0o022u32)
        .additional_gids(identity.groups.clone())
        .build()
        .context("failed to build the spec's user")?;
    ProcessBuilder::default()
        .args(args)
        .env(environment(workload, identity))
        .cwd(&workload.cwd)
        .user(user)
        // On for every container: a set-user-id program or a file capability in an image gains nothing. Images that
        // start as root and drop to another user are not touched by it.
        .no_new_privileges(true)
        .capabilities(capabilities::to_spec(capabilities)?)
        .rlimits(limits::rlimits(workload)?)
        .build()
        .context("failed to build the spec's process")
}

/// PATH and HOME are always there: programs want them, and looking HOME up itself libcontainer would ask the image's
/// name service.
fn environment(workload: &OciWorkload, identity: &Identity) -> Vec<String> {
    let mut env = workload.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|entry| entry.starts_with(name));
    if !has(&env, "PATH=") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !has(&env, "HOME=") {
        env.push(format!("HOME={}", identity.home));
    }
    if !has(&env, "HOSTNAME=") {
        env.push(format!("HOSTNAME={}", workload.hostname));
    }
    env
}

fn namespaces(workload: &OciWorkload, layout: &Layout) -> Result<Vec<LinuxNamespace>> {
    let own = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    let mut builders: Vec<_> = own.into_iter().map(|typ| LinuxNamespaceBuilder::default().typ(typ)).collect();
    match workload.network {
        Network::Host => {}
        Network::None | Network::Bridge { .. } => {
            builders
                .push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(layout.netns()));
        }
    }
    builders.into_iter().map(|b| b.build().context("failed to build a namespace of the spec")).collect()
}
