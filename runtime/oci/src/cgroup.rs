//! The container's cgroup: `payload` below the unit's own on cgroup v2, a folder of its own in each v1 hierarchy. Limits
//! are the unit's; here it is only made, emptied and removed.
//!
//! No controller is enabled for `payload`: what limits the unit limits all below it, and without controllers below it
//! the unit's own cgroup may hold processes (ours, while we start). The folder is made here, because libcontainer, if
//! it made it, would enable every controller in every cgroup from the root down, which are systemd's.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::Pid,
};

use crate::notify;

const MOUNT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to go; only one in uninterruptible sleep needs more than milliseconds.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

/// Whether the machine has cgroup v2 alone.
pub(crate) fn is_unified() -> bool {
    statfs(MOUNT).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The absolute cgroup path for the container `id`, started by this process: `payload` in a unit, which has one
/// container; a name of its own where several may be started from one cgroup (developers' machines, tests).
pub(crate) fn payload_path(id: &str) -> Result<PathBuf> {
    if !is_unified() {
        return Ok(Path::new("/cairn").join(id));
    }
    let text = fs::read_to_string("/proc/self/cgroup").context("failed to read /proc/self/cgroup")?;
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("/proc/self/cgroup names no cgroup v2; mount cgroup2 on /sys/fs/cgroup")?;
    let name = if notify::is_supervised() { "payload".to_owned() } else { format!("cairn-{id}") };
    Ok(Path::new(own).join(name))
}

/// Makes the cgroup.
pub(crate) fn create(path: &Path) -> Result<()> {
    if !is_unified() {
        // libcontainer's v1 manager makes its own.
        return Ok(());
    }
    let folder = below_mount(Path::new(MOUNT), path);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).with_context(|| {
            format!("failed to make cgroup {}; the unit needs Delegate=yes", folder.display())
        }),
        _ => Ok(()),
    }
}

/// Kills all that is in the cgroup, without waiting for it to die; fine where it is gone.
pub(crate) fn kill_all(path: &Path) -> Result<()> {
    folders(path)?.iter().try_for_each(|folder| kill_processes(folder, &processes(folder)?))
}

/// Kills what is left in the cgroup and removes it; fine where it is gone.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    for folder in folders(path)? {
        loop {
            let pids = processes(&folder)?;
            kill_processes(&folder, &pids)?;
            if pids.is_empty() && remove_tree(&folder)? {
                break;
            }
            if Instant::now() > deadline {
                bail!("processes {pids:?} in {} did not die within {EMPTY_DEADLINE:?}", folder.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// The cgroup's folders in all hierarchies.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    if path.components().count() < 2 || path.components().any(|c| matches!(c, Component::ParentDir)) {
        bail!("cgroup path {} is not one of ours", path.display());
    }
    let folders = hierarchies()?.into_iter().map(|hierarchy| below_mount(&hierarchy, path));
    Ok(folders.filter(|folder| folder.exists()).collect())
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    if is_unified() {
        return Ok(vec![PathBuf::from(MOUNT)]);
    }
    let entries = fs::read_dir(MOUNT).with_context(|| format!("failed to list {MOUNT}"))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect())
}

fn below_mount(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

fn kill_processes(folder: &Path, pids: &[i32]) -> Result<()> {
    // One write kills the whole subtree, without a race against forks; older kernels and v1 lack the file.
    if pids.is_empty() || fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for pid in pids {
        match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("failed to kill process {pid}")),
        }
    }
    Ok(())
}

fn processes(folder: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for child in subfolders(folder) {
        pids.extend(processes(&child)?);
    }
    let text = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(pids),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to list processes of {}", folder.display()));
        }
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    Ok(pids)
}

/// Whether it is gone now. The last process leaves the list a moment before the cgroup counts as empty.
fn remove_tree(folder: &Path) -> Result<bool> {
    for child in subfolders(folder) {
        if !remove_tree(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to remove cgroup {}", folder.display())),
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.is_dir()).collect()
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}
