//! `cairn-oci cleanup`: takes away what a run left behind, wherever it ended. Everything it needs to know lies in the
//! run folder, written before the thing that it tells about was made.
//!
//! Mounts need no cleaning but the network namespace's: the others are in a mount namespace that died with its last
//! process.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cgroup,
    cli::{self, NetworkTools},
    layout,
    layout::{Layout, Lock},
    network, notify,
};

/// Longer than any step of a start takes.
const LOCK_DEADLINE: Duration = Duration::from_secs(15);

/// Longer than a whole cleanup takes on the slowest machine.
const TIME: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &cli::Cleanup) -> Result<()> {
    notify::ask_for_time(TIME);
    let workload = layout::load(&args.workload)?;
    sweep(&Layout::of(&workload), &args.network)
        .with_context(|| format!("failed to clean up {}", workload.id))
}

/// Processes first (they hold the rest), then the network, then the files. Fine where there is nothing.
pub(crate) fn sweep(layout: &Layout, tools: &NetworkTools) -> Result<()> {
    if !layout.base().exists() {
        return Ok(());
    }
    let _lock = stop_processes(layout)?;
    if let Some(cgroup) = noted_cgroup(layout)? {
        cgroup::remove(&cgroup)?;
    }
    // A network that can't be torn down must not keep the replica from starting again: the next setup finds what is
    // left and replaces it. It is said, and the rest goes on.
    if let Err(error) = network::tear_down(layout, tools) {
        eprintln!("cairn-oci: warning: {error:#}");
    }
    remove_files(layout.base())
}

/// Kills until nobody holds the lock: neither a shim, nor a process on its way into the container, which would join the
/// cgroup, or make it anew, behind our back.
fn stop_processes(layout: &Layout) -> Result<Lock> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        if let Some(lock) = layout.try_lock()? {
            return Ok(lock);
        }
        if let Some(cgroup) = noted_cgroup(layout)? {
            cgroup::kill_all(&cgroup)?;
        }
        if Instant::now() > deadline {
            bail!("another process is still starting it; stop that first");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn noted_cgroup(layout: &Layout) -> Result<Option<PathBuf>> {
    match fs::read(layout.cgroup_note()) {
        // Killed between making the file and writing it: the cgroup was not made yet.
        Ok(path) if path.is_empty() => Ok(None),
        Ok(path) => Ok(Some(PathBuf::from(OsString::from_vec(path)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("failed to read the cgroup's note"),
    }
}

fn remove_files(base: &Path) -> Result<()> {
    match fs::remove_dir_all(base) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", base.display()))
        }
        _ => Ok(()),
    }
}
