//! The few system calls without a safe wrapper, all made in the container's own first process, which is single-threaded
//! and about to become (or to watch) the workload.
#![expect(unsafe_code, reason = "fork, signal dispositions and close_range have no safe form")]

use anyhow::{Context, Result};
use nix::{
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
    unistd::{ForkResult, Pid, fork},
};

/// Signals as a program expects them at its start: Rust's runtime ignores SIGPIPE, and that would be inherited.
pub(crate) fn reset_signals() -> Result<()> {
    // SAFETY: SIG_DFL installs no handler of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.context("failed to reset SIGPIPE")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .context("failed to reset the signal mask")
}

/// Forks; `None` in the child.
pub(crate) fn fork_child() -> Result<Option<Pid>> {
    // SAFETY: this process has one thread, so that the child may do anything that the parent may.
    match unsafe { fork() }.context("failed to fork")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Closes everything but stdin, stdout and stderr.
pub(crate) fn close_descriptors() {
    // SAFETY: called by a process that owns no descriptor object any more and ends without running destructors.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}
