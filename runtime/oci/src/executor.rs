//! The last step inside the container: libcontainer has set everything up, and this becomes the workload.

use std::{
    ffi::CString,
    fs::File,
    io::{stderr, stdout},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use anyhow::Context;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stderr, dup2_stdout, execv},
};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use rustix::fs::{FileType, OFlags};

use crate::{process, shim::exit_code};

/// Shells' exit codes for a command that is not there, and for one that can't be run.
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_EXECUTABLE: i32 = 126;

#[derive(Clone, Default)]
pub(crate) struct Workload {
    /// Stay as PID 1, reap orphans and forward signals (Compose `init: true`).
    pub(crate) init: bool,
    /// The filter for a process that is run inside a container: libcontainer leaves it away there.
    pub(crate) seccomp: Option<LinuxSeccomp>,
}

impl Executor for Workload {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        if program(spec).is_some() {
            return Ok(());
        }
        let (name, path) = name_and_path(spec).unwrap_or_default();
        Err(ExecutorValidationError::ArgValidationError(if name.contains('/') {
            format!("command {name:?} is not an executable file in the image")
        } else {
            format!("command {name:?} is not an executable file in the image's PATH {path:?}")
        }))
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        // What fails from here on fails after the runtime said "started": all that is left is the container's own
        // stderr and exit code.
        let error = match self.become_workload(spec) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        eprintln!("cairn-oci: {error:#}");
        let missing = error.downcast_ref::<Errno>() == Some(&Errno::ENOENT);
        std::process::exit(if missing { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE });
    }
}

enum Never {}

impl Workload {
    fn become_workload(&self, spec: &Spec) -> anyhow::Result<Never> {
        let args =
            spec.process().as_ref().and_then(|p| p.args().as_ref()).context("the spec has no command")?;
        let args: Vec<CString> = args
            .iter()
            .map(|arg| CString::new(arg.as_bytes()).context("an argument has a NUL byte"))
            .collect::<anyhow::Result<_>>()?;
        if let Some(seccomp) = &self.seccomp {
            libcontainer::seccomp::initialize_seccomp(seccomp)
                .context("failed to load the system call filter")?;
        }
        if self.init {
            let signals = SigSet::all();
            signals.thread_block().context("failed to block signals")?;
            if let Some(child) = process::fork_child()? {
                process::close_descriptors();
                let _ = nix::sys::prctl::set_name(c"cairn-init");
                std::process::exit(watch(child, &signals));
            }
        }
        process::reset_signals()?;
        reopen_null_outputs()?;
        let program = program(spec).context("the command is no longer there")?;
        let program =
            CString::new(program.into_os_string().into_vec()).context("the command has a NUL byte")?;
        // Not `execvp`: that hands what the kernel can't run to a shell.
        match execv(&program, &args) {
            Ok(never) => match never {},
            Err(error) => Err(error).with_context(|| format!("failed to run {}", program.to_string_lossy())),
        }
    }
}

/// libcontainer exchanges the node's /dev/null for the container's, but opens that for reading alone: a workload whose
/// output is thrown away would get errors for writing.
fn reopen_null_outputs() -> anyhow::Result<()> {
    let is_read_only_null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
            && rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| !flags.intersects(OFlags::WRONLY | OFlags::RDWR))
    };
    let (stdout, stderr) = (is_read_only_null(stdout().as_fd()), is_read_only_null(stderr().as_fd()));
    if stdout || stderr {
        let null = File::options().write(true).open("/dev/null").context("failed to open /dev/null")?;
        if stdout {
            dup2_stdout(&null).context("failed to reopen stdout")?;
        }
        if stderr {
            dup2_stderr(&null).context("failed to reopen stderr")?;
        }
    }
    Ok(())
}

/// PID 1 of the container: reaps whoever ends, forwards signals to `child`, ends with it.
fn watch(child: Pid, signals: &SigSet) -> i32 {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => {}
            Ok(status) if status.pid() == Some(child) => match exit_code(status) {
                Some(code) => return i32::from(code),
                None => continue,
            },
            Ok(_) => continue,
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            // The child is ours to reap, so its id can't have gone to another process.
            Ok(signal) => drop(kill(child, signal)),
        }
    }
}

fn name_and_path(spec: &Spec) -> Option<(&str, &str)> {
    let process = spec.process().as_ref()?;
    let name = process.args().as_ref()?.first()?;
    let path = process.env().iter().flatten().find_map(|entry| entry.strip_prefix("PATH="));
    Some((name, path.unwrap_or_default()))
}

/// The program's path: a name with a slash as it is, another in PATH.
fn program(spec: &Spec) -> Option<PathBuf> {
    let runs = |candidate: &Path| {
        candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
    };
    let (name, path) = name_and_path(spec)?;
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| runs(p));
    }
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|p| runs(p))
}
