//! Applies the entries of one layer to its folder, in overlayfs's own terms: a whiteout is a character device 0:0, an
//! opaque folder carries `trusted.overlay.opaque`.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use tar::EntryType;

use super::{
    Limits,
    name::EntryPath,
    tape::{Entry, Tape},
    tree::{self, Tree},
};

const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The device number that overlayfs takes for a whiteout.
const WHITEOUT_DEVICE: u64 = 0;
/// Bytes of folder names that are kept until the end, for their times: a million folders of an honest image.
const MAX_FOLDER_NAMES: usize = 64 << 20;
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Unpacks the tar `input` into the empty folder `root`.
pub(super) fn apply(input: &mut impl Read, root: &impl AsFd, limits: Limits) -> Result<()> {
    let root = root.as_fd();
    rustix::fs::fchmod(root, Mode::from_raw_mode(0o755)).context("failed to set the layer's root mode")?;
    let mut layer = Layer { tree: Tree::new(root), root, folder_times: Vec::new(), folder_names: 0 };
    let mut tape = Tape::new(input);
    let mut entries = 0;
    while let Some(entry) = tape.next()? {
        entries += 1;
        if entries > limits.entries {
            bail!(
                "the layer has more than {} entries; raise --max-entries if it really does",
                limits.entries
            );
        }
        let path = EntryPath::parse(&entry.path)?;
        layer
            .entry(&mut tape, &entry, &path)
            .with_context(|| format!("failed to unpack {:?}", path.show()))?;
    }
    layer.set_folder_times()
}

struct Layer<'a> {
    tree: Tree<'a>,
    root: BorrowedFd<'a>,
    /// Set last, because making a file in a folder changes the folder's time.
    folder_times: Vec<(EntryPath, (i64, u32))>,
    /// Bytes of the names in it.
    folder_names: usize,
}

impl Layer<'_> {
    fn entry<R: Read>(&mut self, tape: &mut Tape<'_, R>, entry: &Entry, path: &EntryPath) -> Result<()> {
        let Some((parent, name)) = path.split() else {
            return self.root_entry(entry, path);
        };
        if name == OPAQUE_MARK {
            let folder = self.tree.folder(parent)?;
            return set_opaque(folder);
        }
        if name.starts_with(AUFS_PREFIX) {
            // Other bookkeeping of AUFS: not part of the image.
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(parent, hidden);
        }
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => self.file(tape, entry, parent, name),
            EntryType::Directory => self.folder(entry, path, parent, name),
            EntryType::Symlink => self.symlink(entry, parent, name),
            EntryType::Link => self.hardlink(entry, parent, name),
            EntryType::Fifo => self.fifo(entry, parent, name),
            EntryType::Char | EntryType::Block => skip_device(parent),
            other => bail!("an entry of type {other:?} is not supported"),
        }
    }

    fn root_entry(&mut self, entry: &Entry, path: &EntryPath) -> Result<()> {
        if entry.kind != EntryType::Directory {
            bail!("the layer's root is not a folder");
        }
        set_metadata(self.root, entry)?;
        self.set_time_later(path, entry.mtime)
    }

    /// Hides `hidden` of the layers below. What this layer itself has under that name stays.
    fn whiteout(&mut self, parent: &[u8], hidden: &[u8]) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            bail!("a whiteout names no file");
        }
        let folder = self.tree.folder(parent)?;
        match tree::kind(folder, hidden)? {
            None => {
                rustix::fs::mknodat(folder, hidden, FileType::CharacterDevice, Mode::empty(), WHITEOUT_DEVICE)
                    .context("failed to make a whiteout")
            }
            Some((FileType::Directory, _)) => set_opaque(tree::open_folder(folder, hidden)?.as_fd()),
            Some(_) => Ok(()),
        }
    }

    fn file<R: Read>(
        &mut self,
        tape: &mut Tape<'_, R>,
        entry: &Entry,
        parent: &[u8],
        name: &[u8],
    ) -> Result<()> {
        let folder = self.make_way(parent, name)?;
        let mut file = tree::create_file(folder, name).context("failed to make the file")?;
        let written = io::copy(&mut tape.content(), &mut file).context("failed to write the file")?;
        if written != entry.size {
            bail!("the layer ends in the middle of the file");
        }
        set_metadata(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).context("failed to set the time")
    }

    fn folder(&mut self, entry: &Entry, path: &EntryPath, parent: &[u8], name: &[u8]) -> Result<()> {
        let folder = self.tree.folder(parent)?;
        let before = tree::kind(folder, name)?;
        if !matches!(before, Some((FileType::Directory, _))) {
            tree::remove(folder, name, 0)?;
            rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))
                .context("failed to make the folder")?;
        }
        let made = tree::open_folder(folder, name).context("failed to open the folder")?;
        if before == Some((FileType::CharacterDevice, WHITEOUT_DEVICE)) {
            // It was whited out and made anew in one layer: what lies below must stay hidden.
            set_opaque(made.as_fd())?;
        }
        if before.is_some() {
            self.tree.forget();
        }
        set_metadata(made.as_fd(), entry)?;
        self.set_time_later(path, entry.mtime)
    }

    fn symlink(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
            bail!("the symlink's target is not a path");
        }
        let folder = self.make_way(parent, name)?;
        rustix::fs::symlinkat(&*entry.link, folder, name).context("failed to make the symlink")?;
        set_owner_and_time(folder, name, entry)
    }

    fn hardlink(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let target = EntryPath::parse(&entry.link)?;
        let Some((target_parent, target_name)) = target.split() else {
            bail!("a hard link to the layer's root is not possible");
        };
        if (target_parent, target_name) == (parent, name) {
            bail!("a hard link to itself is not possible");
        }
        let flags = tree::open_beneath(
            self.root,
            target_parent,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        );
        let source =
            flags.with_context(|| format!("failed to open the folder of link target {:?}", target.show()))?;
        let folder = self.make_way(parent, name)?;
        // Without following a symlink at the target: a hard link to a symlink is a second name of the symlink.
        rustix::fs::linkat(&source, target_name, folder, name, AtFlags::empty())
            .with_context(|| format!("failed to link to {:?}", target.show()))
    }

    fn fifo(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<()> {
        let folder = self.make_way(parent, name)?;
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::mknodat(folder, name, FileType::Fifo, mode, 0).context("failed to make the fifo")?;
        set_owner_and_time(folder, name, entry)
    }

    /// Removes what is at `name`: a later entry of a tar replaces an earlier one.
    fn make_way(&mut self, parent: &[u8], name: &[u8]) -> Result<BorrowedFd<'_>> {
        let before = tree::kind(self.tree.folder(parent)?, name)?;
        if matches!(before, Some((FileType::Directory | FileType::Symlink, _))) {
            self.tree.forget();
        }
        let folder = self.tree.folder(parent)?;
        if before.is_some() {
            tree::remove(folder, name, 0)?;
        }
        Ok(folder)
    }

    fn set_time_later(&mut self, path: &EntryPath, mtime: (i64, u32)) -> Result<()> {
        self.folder_names += path.as_bytes().len() + size_of::<(EntryPath, (i64, u32))>();
        if self.folder_names > MAX_FOLDER_NAMES {
            bail!("the layer's folder names take more than {MAX_FOLDER_NAMES} bytes");
        }
        self.folder_times.push((path.clone(), mtime));
        Ok(())
    }

    fn set_folder_times(&self) -> Result<()> {
        for (path, mtime) in self.folder_times.iter().rev() {
            // A folder may have been replaced by a later entry; then there is nothing to set.
            let flags =
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
            let Ok(folder) = tree::open_beneath(self.root, path.as_bytes(), flags) else { continue };
            rustix::fs::futimens(&folder, &times(*mtime))
                .with_context(|| format!("failed to set the time of {:?}", path.show()))?;
        }
        Ok(())
    }
}

/// Device nodes below /dev are left out, because a container gets its own /dev over them; elsewhere they would be a way
/// to the node's hardware, and no honest image has them.
fn skip_device(parent: &[u8]) -> Result<()> {
    if parent == b"dev" || parent.starts_with(b"dev/") {
        return Ok(());
    }
    bail!("the layer has a device node outside /dev; build the image without it")
}

fn set_opaque(folder: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
        .context("failed to mark a folder opaque")
}

/// Owner before mode, because changing the owner clears set-user-id; capabilities after both, for the same reason.
fn set_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .context("failed to set the owner")?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).context("failed to set the mode")?;
    for (name, value) in &entry.xattrs {
        // overlayfs's own attributes could redirect a folder elsewhere in the lower layers: never from outside. Labels
        // and ACLs of the machine that built the image mean nothing on this one.
        if name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        {
            rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty())
                .with_context(|| format!("failed to set attribute {:?}", tree::show(name)))?;
        } else if name.starts_with(b"trusted.overlay.") {
            bail!("the layer sets attribute {:?}, which is overlayfs's own", tree::show(name));
        }
    }
    Ok(())
}

fn set_owner_and_time(folder: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .context("failed to set the owner")?;
    rustix::fs::utimensat(folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .context("failed to set the time")
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) },
    }
}
