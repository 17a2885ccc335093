//! `cairn-oci exec`: a command inside the running container, with its user, environment, capabilities and filter.

use std::{
    fs,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, killpg},
        wait::waitpid,
    },
    unistd::Pid,
};
use oci_spec::runtime::Spec;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::{cli, executor::Workload, layout, layout::Layout, shim::exit_code};

/// What `timeout(1)` exits with.
const EXIT_TIMED_OUT: u8 = 124;

/// Runs the command; gives its exit code.
pub(crate) fn run(args: &cli::Exec) -> Result<u8> {
    let deadline = args.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let workload = layout::load(&args.workload)?;
    let layout = Layout::of(&workload);
    let config = layout.bundle().join("config.json");
    let spec = Spec::load(&config).with_context(|| format!("{} is not running", workload.id))?;
    // As the container's own process, but for the command: the user was looked up when it was made.
    let mut process = spec.process().clone().context("the runtime spec has no process")?;
    process.set_args(Some(args.argv.clone()));
    let file = TemporaryFile(layout.base().join(format!("exec-{}.json", std::process::id())));
    let text = serde_json::to_vec(&process).context("failed to write the process spec")?;
    fs::write(&file.0, text).context("failed to write the process spec")?;

    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let pid = ContainerBuilder::new(workload.id.clone(), SyscallType::default())
        .with_root_path(layout.state())?
        .with_executor(Workload { init: false, seccomp })
        .as_tenant()
        .with_process(Some(&file.0))
        .with_container_args(args.argv.clone())
        .with_detach(true)
        .build()
        .with_context(|| format!("failed to run a command in {}", workload.id))?;
    wait(Pid::from_raw(pid.as_raw()), deadline)
}

fn wait(pid: Pid, deadline: Option<Instant>) -> Result<u8> {
    let timed_out = match deadline {
        Some(deadline) => !ends_before(pid, deadline)?,
        None => false,
    };
    if timed_out {
        // It leads a session of its own: what it started goes with it.
        match killpg(pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("failed to kill the command"),
        }
    }
    loop {
        match waitpid(pid, None) {
            Ok(_) if timed_out => return Ok(EXIT_TIMED_OUT),
            Ok(status) => {
                if let Some(code) = exit_code(status) {
                    return Ok(code);
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("failed to wait for the command"),
        }
    }
}

fn ends_before(pid: Pid, deadline: Instant) -> Result<bool> {
    let process = rustix::process::Pid::from_raw(pid.as_raw()).context("the command has no process")?;
    let handle = pidfd_open(process, PidfdFlags::empty()).context("failed to watch the command")?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if Instant::now() < deadline => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("failed to watch the command"),
        }
    }
}

struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // It lies in the run folder, which a cleanup removes as a whole.
        let _ = fs::remove_file(&self.0);
    }
}
