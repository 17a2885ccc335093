//! The default system call filter: what ordinary programs need is allowed; what belongs to a capability is allowed with
//! it and EPERM without; anything else, so also any call that is newer than this list, is ENOSYS, which makes libraries
//! fall back to the older call. In its decisions it follows Docker's default profile: no mounts, namespaces, keyrings,
//! io_uring, userfaultfd or BPF without the capability that governs them.

mod calls;

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// Every `CLONE_NEW…` flag but time's, which no `clone` call takes: a container makes no namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
const AF_VSOCK: u64 = 40;

/// The filter for a container that holds `capabilities`.
pub(crate) fn profile(capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let mut allowed: BTreeSet<&str> = calls::ALWAYS.split_whitespace().collect();
    let mut governed: BTreeSet<&str> = BTreeSet::new();
    for (capability, names) in calls::BY_CAPABILITY {
        let set = if capabilities.contains(capability) { &mut allowed } else { &mut governed };
        set.extend(names.split_whitespace());
    }
    allowed.extend(calls::OF_ARCHITECTURE.split_whitespace());
    let may_make_namespaces = capabilities.contains(&Capability::SysAdmin);
    if may_make_namespaces {
        allowed.extend(["clone", "clone3"]);
    }
    // A call that two capabilities govern is allowed by either.
    let denied: BTreeSet<&str> = governed.difference(&allowed).copied().collect();

    let mut rules = vec![rule(&allowed, LinuxSeccompAction::ScmpActAllow, None, Vec::new())?];
    if !denied.is_empty() {
        rules.push(rule(&denied, LinuxSeccompAction::ScmpActErrno, Some(libc::EPERM), Vec::new())?);
    }
    for persona in calls::PERSONALITIES {
        let only = argument(0, *persona, None, LinuxSeccompOperator::ScmpCmpEq)?;
        rules.push(rule(
            &BTreeSet::from(["personality"]),
            LinuxSeccompAction::ScmpActAllow,
            None,
            vec![only],
        )?);
    }
    // The host's hypervisor is no business of a container's.
    let not_vsock = argument(0, AF_VSOCK, None, LinuxSeccompOperator::ScmpCmpNe)?;
    rules.push(rule(&BTreeSet::from(["socket"]), LinuxSeccompAction::ScmpActAllow, None, vec![not_vsock])?);
    if !may_make_namespaces {
        // clone3 takes its flags by pointer, out of a filter's sight: it stays ENOSYS, and libc uses clone.
        let no_namespace = argument(0, CLONE_NAMESPACES, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
        rules.push(rule(
            &BTreeSet::from(["clone"]),
            LinuxSeccompAction::ScmpActAllow,
            None,
            vec![no_namespace],
        )?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::ENOSYS as u32)
        .architectures(architectures())
        .syscalls(rules)
        .build()
        .context("failed to build the system call filter")
}

/// The machine's own and the 32-bit one that its kernel runs too.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn rule(
    names: &BTreeSet<&str>,
    action: LinuxSeccompAction,
    errno: Option<i32>,
    args: Vec<LinuxSeccompArg>,
) -> Result<LinuxSyscall> {
    let mut builder = LinuxSyscallBuilder::default()
        .names(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno as u32);
    }
    if !args.is_empty() {
        builder = builder.args(args);
    }
    builder.build().context("failed to build a system call rule")
}

fn argument(index: usize, value: u64, two: Option<u64>, op: LinuxSeccompOperator) -> Result<LinuxSeccompArg> {
    let mut builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    if let Some(two) = two {
        builder = builder.value_two(two);
    }
    builder.build().context("failed to build a system call argument rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action_of(profile: &LinuxSeccomp, name: &str) -> Vec<LinuxSeccompAction> {
        let rules = profile.syscalls().as_ref().unwrap();
        rules.iter().filter(|r| r.names().iter().any(|n| n == name)).map(LinuxSyscall::action).collect()
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let bare = profile(&HashSet::new()).unwrap();
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "init_module",
            "kexec_load",
            "ptrace_no_such",
            "keyctl",
            "io_uring_setup",
        ] {
            assert!(!action_of(&bare, name).contains(&LinuxSeccompAction::ScmpActAllow), "{name}");
        }
        let admin = profile(&HashSet::from([Capability::SysAdmin])).unwrap();
        for name in ["mount", "unshare", "setns", "clone", "clone3"] {
            assert_eq!(action_of(&admin, name), [LinuxSeccompAction::ScmpActAllow], "{name}");
        }
    }

    #[test]
    fn no_call_has_two_unconditional_rules() {
        for capabilities in [HashSet::new(), HashSet::from([Capability::SysAdmin, Capability::SysChroot])] {
            let profile = profile(&capabilities).unwrap();
            let mut seen = HashSet::new();
            for rule in profile.syscalls().as_ref().unwrap().iter().filter(|r| r.args().is_none()) {
                for name in rule.names() {
                    assert!(seen.insert(name.clone()), "{name}");
                }
            }
        }
    }
}
