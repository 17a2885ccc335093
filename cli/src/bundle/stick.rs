//! A stick that is written to. Each file appears whole or not at all: it is written beside its name, synced, renamed, and
//! its folder synced. Paths are relative to the stick's root, and the kernel keeps them beneath it (`openat2`), so that a
//! link which somebody put there can't lead a write elsewhere.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    path::{Display, Path, PathBuf},
};

use cairn_trust::fetch::Folder;
use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat},
    sys::{
        stat::{Mode, mkdirat},
        statfs::{MSDOS_SUPER_MAGIC, fstatfs},
        statvfs::fstatvfs,
    },
    unistd::{UnlinkatFlags, unlinkat},
};

use super::place::Place;
use crate::failure::{Failure, Kind};

/// Mode of what is written, where the file system has modes: anybody may read what is on a stick.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// A folder on a stick that is written to.
#[derive(Debug)]
pub(crate) struct Stick {
    path: PathBuf,
    root: File,
    /// The device, where it is mounted for this command alone: the folder says nothing to people then.
    device: Option<PathBuf>,
}

/// What the file system has room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Bytes that may still be written.
    pub(crate) free: u64,
    /// Files take a multiple of this.
    pub(crate) block: u64,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As the folder says; whoever opens it looks again.
    pub(crate) is_folder: bool,
}

impl Stick {
    /// Opens the folder at `path`; links that lead there are the user's own.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let root = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path)?;
        Ok(Self { path: path.to_owned(), root, device: None })
    }

    /// Opens the stick that was found.
    pub(crate) fn at(place: &Place) -> Result<Self, Failure> {
        let device = place.mount.as_ref().map(|mount| mount.device().to_owned());
        let shown = device.as_ref().unwrap_or(&place.folder).display().to_string();
        let stick = Self::open(&place.folder).map_err(|error| failure("open", &shown, &error))?;
        Ok(Self { device, ..stick })
    }

    /// The folder or the device, as people know it.
    pub(crate) fn shown(&self) -> Display<'_> {
        self.device.as_ref().unwrap_or(&self.path).display()
    }

    /// What lies on it, as people find it.
    fn shown_path(&self, path: &str) -> String {
        match &self.device {
            _ if path.is_empty() => self.shown().to_string(),
            Some(device) => format!("{path} on {}", device.display()),
            None => self.path.join(path).display().to_string(),
        }
    }

    /// The same stick, to be read.
    pub(crate) fn reader(&self) -> io::Result<Folder> {
        Folder::open(&self.path)
    }

    pub(crate) fn room(&self) -> io::Result<Room> {
        let found = fstatvfs(&self.root)?;
        let block = found.fragment_size().max(1);
        Ok(Room { free: found.blocks_available().saturating_mul(block), block })
    }

    /// Whether no file may reach 4 GiB here.
    pub(crate) fn is_vfat(&self) -> io::Result<bool> {
        Ok(fstatfs(&self.root)?.filesystem_type() == MSDOS_SUPER_MAGIC)
    }

    /// Makes the folder and what leads to it.
    pub(crate) fn make_folder(&self, path: &str) -> io::Result<()> {
        let mut made = String::new();
        for name in path.split('/') {
            let parent = self.folder(&made)?;
            match mkdirat(&parent, name, Mode::from_bits_truncate(FOLDER_MODE)) {
                Ok(()) => parent.sync_all()?,
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(name);
        }
        self.folder(&made).map(drop)
    }

    /// Replaces `path` by `bytes`: the old content or the new, never a piece.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_unsynced(path, bytes)?;
        self.sync_folder(split(path).0)
    }

    /// As [`Stick::write`], but leaves it to the caller to sync the folder, once after several files.
    pub(crate) fn write_unsynced(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (folder, name) = split(path);
        let beside = join(folder, &format!(".{name}.tmp"));
        self.remove(&beside)?;
        let mut file = self.create(&beside)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| self.rename(&beside, path)) {
            // Half a file is of use to nobody; that it can't go either says nothing new.
            let _ = self.remove(&beside);
            return Err(error);
        }
        Ok(())
    }

    /// A new file, to be renamed to its name when it is whole.
    pub(crate) fn create(&self, path: &str) -> io::Result<File> {
        self.open_file(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)
    }

    /// A file that is there, to be written on at its end.
    pub(crate) fn append(&self, path: &str) -> io::Result<File> {
        self.open_file(path, OFlag::O_WRONLY | OFlag::O_APPEND)
    }

    /// Within one folder: on a stick nothing moves from one to another.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (folder, from) = split(from);
        let folder = self.folder(folder)?;
        Ok(renameat(&folder, from, &folder, split(to).1)?)
    }

    /// Removes a file; true where there was one.
    pub(crate) fn remove(&self, path: &str) -> io::Result<bool> {
        self.unlink(path, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes a folder that is empty; one that is not stays.
    pub(crate) fn remove_folder(&self, path: &str) -> io::Result<()> {
        match self.unlink(path, UnlinkatFlags::RemoveDir) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map(drop),
        }
    }

    fn unlink(&self, path: &str, flag: UnlinkatFlags) -> io::Result<bool> {
        let (folder, name) = split(path);
        let folder = match self.folder(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match unlinkat(&folder, name, flag) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes names in the folder durable.
    pub(crate) fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.folder(path)?.sync_all()
    }

    /// What is in a folder, at most `most` entries; `None` where there is no such folder. Names that are no text are left
    /// out: nobody of ours has given them.
    pub(crate) fn list(&self, path: &str, most: usize) -> io::Result<Option<Vec<Entry>>> {
        let folder = match self.folder(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in Dir::from_fd(folder.into())?.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            if found.len() >= most {
                let what = format!("{path} has more than {most} entries");
                return Err(io::Error::new(ErrorKind::FileTooLarge, what));
            }
            let is_folder = entry.file_type() == Some(Type::Directory);
            found.push(Entry { name: name.to_owned(), is_folder });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(found))
    }

    fn folder(&self, path: &str) -> io::Result<File> {
        let path = if path.is_empty() { "." } else { path };
        beneath(&self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn open_file(&self, path: &str, flags: OFlag) -> io::Result<File> {
        beneath(&self.root, path, flags | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)
    }

    /// Says what went wrong with the stick, and what to do.
    pub(crate) fn failed(&self, action: &str, path: &str) -> impl FnOnce(io::Error) -> Failure + use<> {
        let place = self.shown_path(path);
        let action = action.to_owned();
        move |error| failure(&action, &place, &error)
    }
}

/// The words for an error of a stick.
fn failure(action: &str, place: &str, error: &io::Error) -> Failure {
    let failed = Failure::failed(format!("cannot {action} {place}: {error}"));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            failed.cure("make room on the stick, take a larger one, or fewer nodes; then run this again: it goes on")
        }
        ErrorKind::ReadOnlyFilesystem => failed.cure(
            "the stick is write-protected or mounted read-only: move its switch, or mount it with -o remount,rw",
        ),
        ErrorKind::PermissionDenied => {
            Failure { kind: Kind::Usage, ..failed }.cure("mount the stick so that you may use it, or run this as root")
        }
        ErrorKind::InvalidData | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Failure { kind: Kind::Refused, ..failed }
                .cure("nobody of ours put that there: empty the stick, or take another one")
        }
        ErrorKind::FileTooLarge => Failure { kind: Kind::Refused, ..failed }
            .cure("no export is that large: empty the stick and write it anew"),
        _ => failed.cure(
            "the stick may have been pulled, or fails: plug it in and run this again; if that does not help, take \
             another one",
        ),
    }
}

fn beneath(root: impl AsFd, path: &str, flags: OFlag) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let mode = if flags.contains(OFlag::O_CREAT) { FILE_MODE } else { 0 };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(resolve);
    loop {
        match openat2(root.as_fd(), path, how) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::EINTR) => {}
            Err(Errno::ELOOP) => {
                return Err(io::Error::new(ErrorKind::InvalidData, "a symbolic link lies there"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A path's folder (empty for the root) and its last name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn stick() -> (tempfile::TempDir, Stick) {
        let folder = tempfile::tempdir().unwrap();
        let stick = Stick::open(folder.path()).unwrap();
        (folder, stick)
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let (folder, stick) = stick();
        stick.make_folder("a/b").unwrap();
        stick.write("a/b/c", b"one").unwrap();
        // What a write that was cut off left is no hindrance.
        fs::write(folder.path().join("a/b/.c.tmp"), "half").unwrap();
        stick.write("a/b/c", b"two").unwrap();
        assert_eq!(fs::read(folder.path().join("a/b/c")).unwrap(), b"two");
        let names: Vec<_> = stick.list("a/b", 9).unwrap().unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["c"]);
        assert!(stick.list("a/x", 9).unwrap().is_none());
        assert_eq!(stick.list("a", 0).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn no_link_leads_a_write_elsewhere() {
        let (folder, stick) = stick();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), "mine").unwrap();
        symlink(outside.path(), folder.path().join("blobs")).unwrap();
        assert!(stick.make_folder("blobs/sha256").is_err());
        assert!(stick.write("blobs/x", b"evil").is_err());
        assert!(stick.remove("blobs/victim").is_err());
        // A link in the place of the file itself is replaced, not followed.
        symlink(outside.path().join("victim"), folder.path().join("index.json")).unwrap();
        symlink(outside.path().join("victim"), folder.path().join(".index.json.tmp")).unwrap();
        stick.write("index.json", b"{}").unwrap();
        assert!(stick.append("../victim").is_err());
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"mine");
        assert!(!outside.path().join("x").exists());
        assert_eq!(fs::read(folder.path().join("index.json")).unwrap(), b"{}");
    }

    #[test]
    fn each_error_has_its_cure() {
        for (errno, kind, says) in [
            (Errno::ENOSPC, Kind::Failed, "make room"),
            (Errno::EROFS, Kind::Failed, "write-protected"),
            (Errno::EACCES, Kind::Usage, "as root"),
            (Errno::ENOTDIR, Kind::Refused, "nobody of ours"),
            (Errno::EIO, Kind::Failed, "pulled"),
        ] {
            let failure = failure("write", "/x", &errno.into());
            assert_eq!(failure.kind, kind, "{errno}");
            assert!(failure.cure.contains(says), "{errno}: {}", failure.cure);
        }
    }
}
