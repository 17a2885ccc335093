//! The root file system: the image's layers below, a writable layer above, by overlayfs. Mounted in a mount namespace
//! of this process's own, which the container takes over: when both are gone the kernel unmounts everything, however
//! they died.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cairn_model::{id::Digest, workload::OciWorkload};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use crate::{layout::Layout, spec::mounts::ETC_FILES};

/// Size of the writable layer of containers that have no folder for it: it lives in memory, so it is for lock files
/// and the like.
const SCRATCH_BYTES: u64 = 64 << 20;
/// overlayfs's own limit of lower layers.
const MAX_LAYERS: usize = 500;

/// This process in a mount namespace of its own, until this is dropped.
pub(crate) struct OwnMounts {
    home: File,
}

impl OwnMounts {
    /// Leaves the node's mount namespace. Unmounts on the node still reach us (a stick that is pulled out must not
    /// stay busy here), ours don't reach the node.
    pub(crate) fn enter() -> Result<Self> {
        let home = File::open("/proc/self/ns/mnt").context("failed to open the node's mount namespace")?;
        unshare(CloneFlags::CLONE_NEWNS).context("failed to make a mount namespace; run as root")?;
        let own = Self { home };
        rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .context("failed to detach from the node's mounts")?;
        Ok(own)
    }
}

impl Drop for OwnMounts {
    fn drop(&mut self) {
        // Where it fails, this process keeps the mounts alive until it ends, which is soon; nothing depends on it.
        let _ = setns(self.home.as_fd(), CloneFlags::CLONE_NEWNS);
    }
}

/// Mounts the root file system and gives its descriptor.
pub(crate) fn mount(workload: &OciWorkload, layout: &Layout) -> Result<OwnedFd> {
    if workload.layers.len() > MAX_LAYERS {
        bail!("the image has {} layers, more than {MAX_LAYERS}; squash it", workload.layers.len());
    }
    for layer in &workload.layers {
        check_path(layer)?;
    }
    let (upper, work) = writable_layer(workload, layout)?;
    overlay(&workload.layers, &upper, &work, &layout.rootfs())
        .context("failed to mount the root file system")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(layout.rootfs(), flags, Mode::empty())
        .context("failed to open the root file system")?;
    make_place_for_etc_files(&root)?;
    Ok(root)
}

/// Characters that mean something in overlayfs's mount options.
fn check_path(path: &Path) -> Result<()> {
    let text = path.to_str().with_context(|| format!("path {} is not UTF-8", path.display()))?;
    if !path.is_absolute() || text.contains([':', ',', '\\']) || text.len() > 255 {
        bail!("layer path {text:?} is not absolute, too long, or has a colon, comma or backslash");
    }
    Ok(())
}

/// The upper and work folders: on disk where the workload has a place for them and may write, else in memory.
fn writable_layer(workload: &OciWorkload, layout: &Layout) -> Result<(PathBuf, PathBuf)> {
    let base = match &workload.writable_dir {
        Some(dir) if !workload.read_only => {
            check_path(dir)?;
            fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
            start_afresh_for_other_image(dir, &workload.layers)?;
            dir.clone()
        }
        // A read-only root needs one all the same: for the mount points that the image lacks.
        _ => {
            mount_scratch(&layout.scratch()).context("failed to mount the in-memory writable layer")?;
            layout.scratch()
        }
    };
    let (upper, work) = (base.join("upper"), base.join("work"));
    for dir in [&upper, &work] {
        match fs::DirBuilder::new().mode(0o755).create(dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("failed to make {}", dir.display()));
            }
            _ => {}
        }
    }
    Ok((upper, work))
}

/// What a container wrote belongs to the image that it wrote over: under other layers it would be a mixture that nobody
/// ever tested. A new image starts with an empty writable layer, as a recreated container does elsewhere; data that is
/// to outlive it belongs in a volume.
fn start_afresh_for_other_image(dir: &Path, layers: &[PathBuf]) -> Result<()> {
    let mut names = Vec::new();
    for layer in layers {
        names.extend_from_slice(layer.as_os_str().as_encoded_bytes());
        names.push(b'\n');
    }
    let image = Digest::of(&names).to_string();
    let note = dir.join("image");
    if fs::read_to_string(&note).is_ok_and(|known| known == image) {
        return Ok(());
    }
    for old in ["upper", "work"] {
        match fs::remove_dir_all(dir.join(old)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("failed to empty the writable layer {}", dir.display()));
            }
            _ => {}
        }
    }
    fs::write(&note, image).with_context(|| format!("failed to write {}", note.display()))
}

fn mount_scratch(place: &Path) -> Result<()> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "size", SCRATCH_BYTES.to_string())?;
    fsconfig_set_string(&fs, "mode", "0755")?;
    fsconfig_create(&fs)?;
    attach(&fs, place)
}

fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, place: &Path) -> Result<()> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("overlayfs is missing in this kernel")?;
    for layer in layers {
        match fsconfig_set_string(&fs, "lowerdir+", layer) {
            Ok(()) => {}
            // Before Linux 6.5 there was one option for all layers.
            Err(Errno::INVAL) => return overlay_in_one_option(layers, upper, work, place),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to add layer {}", layer.display()));
            }
        }
    }
    fsconfig_set_string(&fs, "upperdir", upper).context("failed to add the writable layer")?;
    fsconfig_set_string(&fs, "workdir", work).context("failed to add the writable layer's work folder")?;
    fsconfig_create(&fs).context("overlayfs refused the layers")?;
    attach(&fs, place)
}

/// The mount options of the old call must fit in one page.
fn overlay_in_one_option(layers: &[PathBuf], upper: &Path, work: &Path, place: &Path) -> Result<()> {
    let lower = layers.iter().map(|l| l.to_string_lossy()).collect::<Vec<_>>().join(":");
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    if options.len() >= 4096 {
        bail!(
            "the image has more layers than this kernel can mount; use Linux 6.5 or later, or squash the image"
        );
    }
    let options = std::ffi::CString::new(options).context("a layer path has a NUL byte")?;
    rustix::mount::mount("overlay", place, "overlay", MountFlags::NODEV, options.as_c_str())
        .context("overlayfs refused the layers")
}

/// Without device nodes: those of a container are in its own /dev.
fn attach(fs: &OwnedFd, place: &Path) -> Result<()> {
    let mount = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    rustix::mount::move_mount(&mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .with_context(|| format!("failed to mount on {}", place.display()))
}

/// Images have symlinks in place of these files (resolv.conf above all), often dangling: a file must be there to be
/// mounted over.
fn make_place_for_etc_files(root: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let etc = match rustix::fs::openat2(root, "etc", flags, Mode::empty(), resolve) {
        Ok(etc) => etc,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error).context("failed to open the image's /etc"),
    };
    for name in ETC_FILES {
        let Ok(stat) = rustix::fs::statat(&etc, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            rustix::fs::unlinkat(&etc, name, AtFlags::empty())
                .and_then(|()| {
                    let flags =
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&etc, name, flags, Mode::from_raw_mode(0o644))
                })
                .with_context(|| format!("failed to replace the image's symlink /etc/{name}"))?;
        }
    }
    Ok(())
}
