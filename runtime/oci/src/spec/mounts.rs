//! What is mounted into a container, and the staging of bind mounts.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cairn_model::workload::{Mount, OciWorkload};
use oci_spec::runtime::{Mount as SpecMount, MountBuilder};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};

use crate::{cgroup, layout::Layout};

/// The generated files below /etc.
pub(crate) const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// All mounts, in order.
pub(super) fn build(workload: &OciWorkload, layout: &Layout) -> Result<Vec<SpecMount>> {
    let mut mounts = vec![
        file_system("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        file_system(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        )?,
        file_system(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        file_system("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        file_system("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"])?,
        file_system("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    if cgroup::is_unified() {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        mounts.push(file_system("cgroup", "cgroup", "/sys/fs/cgroup", &options)?);
    }
    for name in ETC_FILES {
        // Read-only, because they lie on the node's /run: a container must not be able to fill it.
        let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
        mounts.push(bind(&layout.etc(name), &Path::new("/etc").join(name), &options)?);
    }
    for (index, mount) in workload.mounts.iter().enumerate() {
        mounts.push(match mount {
            Mount::Bind { target, read_only, .. } => {
                check_target(target)?;
                let access = if *read_only { "rro" } else { "rw" };
                bind(&staged(layout, index), target, &["rbind", access, "nosuid", "nodev"])?
            }
            Mount::Tmpfs { target, size_bytes, mode } => {
                check_target(target)?;
                let mode = format!("mode={:o}", mode.unwrap_or(0o1777) & 0o7777);
                let size = size_bytes.map(|size| format!("size={size}"));
                let mut options = vec!["nosuid", "nodev", "noexec", &mode];
                options.extend(size.as_deref());
                file_system("tmpfs", "tmpfs", target, &options)?
            }
        });
    }
    Ok(mounts)
}

fn file_system(typ: &str, source: &str, target: impl AsRef<Path>, options: &[&str]) -> Result<SpecMount> {
    MountBuilder::default()
        .typ(typ)
        .source(source)
        .destination(target.as_ref())
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .with_context(|| format!("failed to build mount {}", target.as_ref().display()))
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Result<SpecMount> {
    MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(target)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .with_context(|| format!("failed to build mount {}", target.display()))
}

/// Where nothing may be mounted by a workload: the root, and what the kernel's own file systems say about it. `/dev`
/// and `/sys` themselves neither, but folders below `/dev` (shm) may.
fn check_target(target: &Path) -> Result<()> {
    if !target.is_absolute() || target.components().any(|c| matches!(c, Component::ParentDir)) {
        bail!("mount target {} is not an absolute path without \"..\"", target.display());
    }
    let clean: PathBuf = target.components().collect();
    let forbidden = clean == Path::new("/")
        || clean == Path::new("/dev")
        || ["/proc", "/sys"].iter().any(|top| clean.starts_with(top));
    if forbidden {
        bail!("mount target {} is the container's own; choose another folder", target.display());
    }
    Ok(())
}

fn staged(layout: &Layout, index: usize) -> PathBuf {
    layout.binds().join(index.to_string())
}

/// Puts each bind mount's source at a place of our own, from a descriptor that was opened without following a symlink:
/// another workload that can write near the source can't swap it between the check and the mount. Call it in the mount
/// namespace that the container will be made in.
pub(crate) fn stage_binds(workload: &OciWorkload, layout: &Layout) -> Result<()> {
    for (index, mount) in workload.mounts.iter().enumerate() {
        if let Mount::Bind { source, target, .. } = mount {
            stage(source, &staged(layout, index))
                .with_context(|| format!("failed to mount {} on {}", source.display(), target.display()))?;
        }
    }
    Ok(())
}

fn stage(source: &Path, place: &Path) -> Result<()> {
    if !source.is_absolute() {
        bail!("the source is not absolute");
    }
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::LOOP) => bail!("the source is or goes through a symlink; name the real path"),
        Err(Errno::NOENT) => bail!("the source does not exist; make it first"),
        Err(error) => return Err(error).context("failed to open the source"),
    };
    let stat = rustix::fs::fstat(&fd).context("failed to look at the source")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => fs::create_dir(place).context("failed to make its staging place")?,
        _ => drop(fs::File::create_new(place).context("failed to make its staging place")?),
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(&fd, "", flags).context("failed to clone the source's mounts")?;
    rustix::mount::move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("failed to stage the source")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_targets_that_are_the_containers_own() {
        for (target, ok) in [
            ("/data", true),
            ("/dev/shm", true),
            ("/etc/app.conf", true),
            ("/", false),
            ("//", false),
            ("/proc/self", false),
            ("/sys", false),
            ("/dev", false),
            ("/./proc", false),
            ("data", false),
            ("/data/../proc", false),
        ] {
            assert_eq!(check_target(Path::new(target)).is_ok(), ok, "{target}");
        }
    }

    #[test]
    fn rejects_bind_source_through_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        for source in [dir.path().join("link"), dir.path().join("link/ssl")] {
            let error = stage(&source, &dir.path().join("place")).unwrap_err().to_string();
            assert!(error.contains("symlink"), "{error}");
        }
    }
}
