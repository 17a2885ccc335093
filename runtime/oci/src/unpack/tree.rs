//! The folder that a layer is unpacked into: every operation names a parent folder, opened beneath the root by the
//! kernel (`RESOLVE_IN_ROOT`: symlinks in the layer, absolute ones too, stay inside), and one name in it.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Depth of folders that are removed when a later entry of the same layer replaces them.
const MAX_REMOVE_DEPTH: u32 = 2048;
/// `openat2` may be told to try again while something is renamed elsewhere on the system.
const OPEN_TRIES: u32 = 64;

pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The folder opened last, with its path: entries come folder by folder.
    cached: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, cached: None }
    }

    /// The folder at `path`, made (0755, root) where it is missing.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if self.cached.as_ref().is_none_or(|(known, _)| known != path) {
            let opened = match open_beneath(self.root, path, folder_flags()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => self.make_folders(path)?,
                Err(error) => {
                    return Err(error).with_context(|| format!("failed to open folder {:?}", show(path)));
                }
            };
            self.cached = Some((path.to_vec(), opened));
        }
        match &self.cached {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => bail!("folder {:?} was not opened", show(path)),
        }
    }

    /// Forgets the folder opened last; needed whenever a folder or symlink was replaced, because the same path may then
    /// lead elsewhere.
    pub(super) fn forget(&mut self) {
        self.cached = None;
    }

    fn make_folders(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut parent =
            open_beneath(self.root, b"", folder_flags()).context("failed to open the layer's root")?;
        let mut end = 0;
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            end += name.len() + usize::from(end > 0);
            let prefix = &path[..end];
            let next = match open_beneath(self.root, prefix, folder_flags()) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) => {
                            bail!("the path goes through {:?}, a symlink that leads nowhere", show(prefix))
                        }
                        made => made.with_context(|| format!("failed to make folder {:?}", show(prefix)))?,
                    }
                    open_beneath(self.root, prefix, folder_flags())
                }
                other => other,
            };
            parent = next.with_context(|| format!("failed to open folder {:?}", show(prefix)))?;
        }
        Ok(parent)
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Opens `path` below `root`; nothing that the layer contains can lead out of it.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < OPEN_TRIES => tries += 1,
            other => return other,
        }
    }
}

/// What is at `name`, without following a symlink.
pub(super) fn kind(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<(FileType, u64)>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat.st_rdev))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to look at {:?}", show(name))),
    }
}

/// Opens the folder `name` in `parent`, not through a symlink.
pub(super) fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, folder_flags() | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes the file `name` in `parent`, which must not exist.
pub(super) fn create_file(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Removes `name` and, where it is a folder, all below it; fine where there is nothing.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &[u8], depth: u32) -> Result<()> {
    let context = || format!("failed to replace {:?}", show(name));
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error).with_context(context),
    }
    if depth > MAX_REMOVE_DEPTH {
        bail!("folders in the layer are nested deeper than {MAX_REMOVE_DEPTH}");
    }
    let folder = open_folder(parent, name).with_context(context)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    for child in names {
        remove(folder.as_fd(), child.to_bytes(), depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).with_context(context)
}

pub(super) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
