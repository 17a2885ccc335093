//! Staying beside the container where nobody else can wait for it: forwards signals, reaps, and gives its exit code.

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Takes signals out of their default handling, until they are waited for or the mask is reset.
pub(crate) fn block_signals() -> Result<SigSet> {
    let mut signals = SigSet::all();
    // Faults of our own must still end us.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
        signals.remove(fault);
    }
    signals.thread_block().context("failed to block signals")?;
    Ok(signals)
}

/// Waits for `init`; the code is its own, or 128 and the signal that ended it.
pub(crate) fn wait(init: Pid, signals: &SigSet) -> Result<u8> {
    loop {
        match waitpid(init, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("failed to wait for the container"),
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => match kill(init, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("failed to forward {signal} to the container: {error}"),
            },
            Err(error) => return Err(error).context("failed to wait for signals"),
        }
    }
}

/// The exit code of an ended process; `None` while it is only stopped or continued.
pub(crate) fn exit_code(status: WaitStatus) -> Option<u8> {
    match status {
        WaitStatus::Exited(_, code) => Some(code as u8),
        WaitStatus::Signaled(_, signal, _) => Some(128u8.saturating_add(signal as u8)),
        _ => None,
    }
}
