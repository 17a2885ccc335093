//! Which capabilities a container holds.

use std::{collections::HashSet, str::FromStr};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

/// Docker's default set without `CAP_MKNOD`: a container gets the device nodes that it may have from us, and making
/// others is the first step of most escapes.
const DEFAULT: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All, in the order of their bits in the kernel's sets.
const BY_BIT: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The default set, less `drop`, plus `add`. `held` are the capabilities that this process may give away: `ALL` means
/// all of those, and a name beyond them is refused.
pub(crate) fn choose(
    add: &[String],
    drop: &[String],
    held: &HashSet<Capability>,
) -> Result<HashSet<Capability>> {
    let mut chosen: HashSet<Capability> = DEFAULT.into_iter().filter(|c| held.contains(c)).collect();
    for name in drop {
        if is_all(name) {
            chosen.clear();
        } else {
            chosen.remove(&parse(name)?);
        }
    }
    for name in add {
        if is_all(name) {
            chosen.extend(held);
            continue;
        }
        let capability = parse(name)?;
        if !held.contains(&capability) {
            bail!("capability {name} can't be given: the runtime itself doesn't hold it on this machine");
        }
        chosen.insert(capability);
    }
    Ok(chosen)
}

/// What this process may give away.
pub(crate) fn held() -> Result<HashSet<Capability>> {
    let status = std::fs::read_to_string("/proc/self/status").context("failed to read /proc/self/status")?;
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let (Some(permitted), Some(bounding)) = (set("CapPrm:"), set("CapBnd:")) else {
        bail!("/proc/self/status lists no capabilities");
    };
    let bits = permitted & bounding;
    Ok(BY_BIT.into_iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, c)| c).collect())
}

/// As the runtime spec wants it. Inheritable and ambient stay empty: a program gains nothing by being run by another.
pub(crate) fn to_spec(chosen: &HashSet<Capability>) -> Result<LinuxCapabilities> {
    LinuxCapabilitiesBuilder::default()
        .bounding(chosen.clone())
        .effective(chosen.clone())
        .permitted(chosen.clone())
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .context("failed to build the capability sets")
}

fn is_all(name: &str) -> bool {
    matches!(name, "ALL" | "CAP_ALL")
}

fn parse(name: &str) -> Result<Capability> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    Capability::from_str(bare)
        .ok()
        .with_context(|| format!("capability {name:?} is unknown; see capabilities(7)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_come_before_adds_and_all_means_all_held() {
        let held: HashSet<_> = BY_BIT.into_iter().filter(|c| *c != Capability::SysResource).collect();
        let choose = |add: &[&str], drop: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            choose(&own(add), &own(drop), &held)
        };
        assert_eq!(choose(&[], &[]).unwrap(), HashSet::from(DEFAULT));
        assert_eq!(choose(&["CAP_KILL"], &["ALL"]).unwrap(), HashSet::from([Capability::Kill]));
        assert_eq!(choose(&["ALL"], &[]).unwrap(), held);
        assert!(!choose(&[], &["NET_RAW"]).unwrap().contains(&Capability::NetRaw));
        assert!(choose(&["CAP_SYS_RESOURCE"], &[]).is_err());
        assert!(choose(&["CAP_NO_SUCH"], &[]).is_err());
        assert!(choose(&[], &["sys_admin"]).is_err());
    }

    #[test]
    fn every_name_parses() {
        assert_eq!(parse("CAP_SYS_ADMIN").unwrap(), Capability::SysAdmin);
        assert_eq!(parse("WAKE_ALARM").unwrap(), Capability::WakeAlarm);
        assert_eq!(parse("CAP_SYSLOG").unwrap(), Capability::Syslog);
    }
}
