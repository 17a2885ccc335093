//! Telling systemd which process is the service now.

use anyhow::{Context, Result};
use nix::unistd::Pid;
use sd_notify::NotifyState;

/// Whether a service manager wants to hear from us.
pub(crate) fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Makes `init` the unit's main process and the unit active. systemd accepts a main process that is not its child as
/// long as it is in the unit's cgroup; once we exit it becomes PID 1's child, so that systemd reaps it and sees its exit
/// code. One datagram: the order of the two facts can't be lost. systemd handles it before it handles our exit.
pub(crate) fn hand_over(init: Pid) -> Result<()> {
    let pid = u32::try_from(init.as_raw()).context("the container's process id is negative")?;
    sd_notify::notify(&[NotifyState::MainPid(pid), NotifyState::Ready]).context(
        "failed to tell systemd about the container; the unit needs Type=notify and NotifyAccess=all",
    )
}

/// Tells the service manager, if there is one, that the workload runs below us.
pub(crate) fn ready() -> Result<()> {
    sd_notify::notify(&[NotifyState::Ready]).context("failed to tell systemd that the container runs")
}
