//! The container's cgroup: `payload` below the unit's own on cgroup v2, a folder of its own in each v1 hierarchy. Limits
//! are the unit's; here it is only made, emptied and removed.
//!
//! No controller is enabled for `payload`: what limits the unit limits all below it, and without controllers below it
//! the unit's own cgroup may hold processes (ours, while we start). The folder is made here, because libcontainer, if
//! it made it, would enable every controller in every cgroup from the root down, which are systemd's.

use std::{
    fs,
    path::{Path, PathBuf},
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

const MOUNT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to go; only one in uninterruptible sleep needs more than milliseconds.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

/// Whether the machine has cgroup v2 alone.
pub(crate) fn is_unified() -> bool {
    statfs(MOUNT).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The absolute cgroup path for the container `id`, started by this process.
pub(crate) fn payload_path(id: &str) -> Result<PathBuf> {
    if !is_unified() {
        return Ok(Path::new("/cairn").join(id));
    }
    let text = fs::read_to_string("/proc/self/cgroup").context("failed to read /proc/self/cgroup")?;
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("/proc/self/cgroup names no cgroup v2; mount cgroup2 on /sys/fs/cgroup")?;
    Ok(Path::new(own).join("payload"))
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

/// Kills what is left in the cgroup and removes it; fine where it is gone.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if path.components().count() < 2
        || path.components().any(|c| matches!(c, std::path::Component::ParentDir))
    {
        bail!("cgroup path {} is not one of ours", path.display());
    }
    for hierarchy in hierarchies()? {
        let folder = below_mount(&hierarchy, path);
        if folder.exists() {
            empty(&folder)?;
            remove_tree(&folder)?;
        }
    }
    Ok(())
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

fn empty(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    loop {
        let pids = processes(folder)?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} in {} did not die within {EMPTY_DEADLINE:?}", folder.display());
        }
        // One write kills the whole subtree, without a race against forks; older kernels and v1 lack the file.
        if fs::write(folder.join("cgroup.kill"), "1").is_err() {
            for pid in &pids {
                match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).with_context(|| format!("failed to kill process {pid}")),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
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

fn remove_tree(folder: &Path) -> Result<()> {
    for child in subfolders(folder) {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + EMPTY_DEADLINE;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            // The last process is gone from the list a moment before the cgroup counts as empty.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("failed to remove cgroup {}", folder.display()));
            }
        }
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.is_dir()).collect()
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}
