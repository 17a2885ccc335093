//! This node's folder of the outbox on a stick. What others put there may be links and traps: every name is resolved by the
//! kernel below the stick's root without following any link, and nothing is opened for writing that was there before.
//! It is never listed, so that any number of files there costs nothing.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    time::Instant,
};

use cairn_model::{
    NodeId,
    media::{ENROLL_REQUEST, OUTBOX, report_path},
};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat},
    sys::{
        stat::{Mode, fstatat, mkdirat},
        statvfs::fstatvfs,
    },
    unistd::{UnlinkatFlags, unlinkat},
};

/// What is being written has this name until it is whole.
const TEMPORARY: &str = "writing.tmp";

/// So much of the stick is left free, in bytes: folders grow too, and a file system that is full to the last block is
/// where drivers have their faults.
pub(super) const RESERVE: u64 = 1 << 20;

/// Most files that are looked for, and removed, in one visit.
const MAX_REMOVED: u64 = 100_000;

/// Why nothing more was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShelfError {
    /// Something else has the name of ours.
    #[error("{path} on the stick is in the way: it is a link, or not of the kind that it must be; remove it")]
    InTheWay {
        /// Where.
        path: String,
    },
    /// There is no room.
    #[error("the stick is full; make room on it, or use another one")]
    Full,
    /// It takes too long.
    #[error("the stick is too slow; use another one")]
    TooSlow,
    /// It cannot be written to.
    #[error("failed to write {path} on the stick; plug it in again, or use another one")]
    Io {
        /// What.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn io_error(path: &str, error: impl Into<io::Error>) -> ShelfError {
    let source = error.into();
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ShelfError::Full,
        _ => ShelfError::Io { path: path.to_owned(), source },
    }
}

/// A stick's root, opened before anything of it is read: what is mounted over it later is not written to.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(point: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags.bits()).open(point)?.into()))
    }

    /// The node's folder; made where it is missing.
    pub(super) fn shelf(&self, node: &NodeId) -> Result<Shelf, ShelfError> {
        let path = format!("{OUTBOX}/{node}");
        let outbox = folder(self.0.as_fd(), OUTBOX, OUTBOX)?;
        let folder = folder(outbox.as_fd(), node.as_str(), &path)?;
        Ok(Shelf { node: node.clone(), path, folder })
    }
}

/// Opens a folder, made where it is missing. What was made is on the disk.
fn folder(above: impl AsFd + Copy, name: &str, path: &str) -> Result<OwnedFd, ShelfError> {
    let made = match mkdirat(above, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(e) => return Err(io_error(path, e)),
    };
    let opened = open(above, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
    let opened = opened.map_err(|e| match e {
        Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => ShelfError::InTheWay { path: path.to_owned() },
        e => io_error(path, e),
    })?;
    let file = File::from(opened);
    if made {
        // The daemon's own mask is for its secrets; whoever carries a stick may read what is on it. Not every file system
        // knows such rights.
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o755));
        let above = open(above, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        above.and_then(nix::unistd::fsync).map_err(|e| io_error(path, e))?;
    }
    Ok(file.into())
}

/// Opens one name in a folder, whatever it is, but no link.
fn open(above: impl AsFd, name: &str, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    openat2(above, name, OpenHow::new().flags(flags).mode(mode).resolve(resolve))
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It was written.
    Written,
    /// It lay there already, byte for byte.
    WasThere,
}

/// The node's folder, open.
#[derive(Debug)]
pub(super) struct Shelf {
    node: NodeId,
    path: String,
    folder: OwnedFd,
}

impl Shelf {
    /// How many bytes may be written.
    pub(super) fn room(&self) -> Result<u64, ShelfError> {
        let stat = fstatvfs(&self.folder).map_err(|e| io_error(&self.path, e))?;
        Ok((stat.blocks_available() * stat.fragment_size()).saturating_sub(RESERVE))
    }

    /// Puts a report there, whole or not at all, if it takes no more than `room`.
    pub(super) fn put_report(&self, sequence: u64, envelope: &str, room: u64) -> Result<Put, ShelfError> {
        self.put(&self.report_name(sequence), envelope.as_bytes(), room)
    }

    /// Puts the request to become a member there.
    pub(super) fn put_request(&self, envelope: &str, room: u64) -> Result<Put, ShelfError> {
        self.put(ENROLL_REQUEST, envelope.as_bytes(), room)
    }

    /// A member asks no more.
    pub(super) fn remove_request(&self) -> Result<(), ShelfError> {
        self.remove(ENROLL_REQUEST)
    }

    /// Removes the reports up to `acknowledged` that an earlier visit left, without a look at what else is there: those
    /// are numbered without gaps. The lowest goes first, so that an end in the middle leaves none behind that the next
    /// visit does not find. How many there were.
    pub(super) fn remove_acknowledged(&self, acknowledged: u64, until: Instant) -> Result<u64, ShelfError> {
        let above = acknowledged.saturating_add(1);
        let mut lowest = above;
        while lowest > 1 && above - lowest < MAX_REMOVED && self.has(&self.report_name(lowest - 1)) {
            in_time(until)?;
            lowest -= 1;
        }
        for sequence in lowest..above {
            in_time(until)?;
            self.remove(&self.report_name(sequence))?;
        }
        Ok(above - lowest)
    }

    /// Has the names on the disk; the files are already.
    pub(super) fn sync(&self) -> Result<(), ShelfError> {
        nix::unistd::fsync(&self.folder).map_err(|e| io_error(&self.path, e))
    }

    fn report_name(&self, sequence: u64) -> String {
        let path = report_path(&self.node, sequence);
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn has(&self, name: &str) -> bool {
        fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes a name: a link itself, never what it leads to. What is a folder is none of ours.
    fn remove(&self, name: &str) -> Result<(), ShelfError> {
        match unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => Err(ShelfError::InTheWay { path: self.at(name) }),
            Err(e) => Err(io_error(&self.at(name), e)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], room: u64) -> Result<Put, ShelfError> {
        if self.holds(name, bytes) {
            return Ok(Put::WasThere);
        }
        if bytes.len() as u64 > room {
            return Err(ShelfError::Full);
        }
        self.remove(TEMPORARY)?;
        let written = self.write_temporary(bytes).map_err(|e| io_error(&self.at(name), e)).and_then(|()| {
            renameat(&self.folder, TEMPORARY, &self.folder, name).map_err(|e| match e {
                Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST => {
                    ShelfError::InTheWay { path: self.at(name) }
                }
                e => io_error(&self.at(name), e),
            })
        });
        if written.is_err() {
            // Half of a file takes room that others need.
            let _ = self.remove(TEMPORARY);
        }
        written.map(|()| Put::Written)
    }

    fn write_temporary(&self, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut file = File::from(open(&self.folder, TEMPORARY, flags, Mode::from_bits_truncate(0o644))?);
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o644));
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Whether a regular file of that name has these bytes. Whatever else it is, it will be replaced.
    fn holds(&self, name: &str, bytes: &[u8]) -> bool {
        let read = || -> io::Result<bool> {
            let file = File::from(open(&self.folder, name, OFlag::O_RDONLY, Mode::empty())?);
            let metadata = file.metadata()?;
            if !metadata.is_file() || metadata.len() != bytes.len() as u64 {
                return Ok(false);
            }
            let mut found = Vec::with_capacity(bytes.len());
            file.take(bytes.len() as u64 + 1).read_to_end(&mut found)?;
            Ok(found == bytes)
        };
        read().unwrap_or(false)
    }
}

/// Whether there is time left.
pub(super) fn in_time(until: Instant) -> Result<(), ShelfError> {
    if Instant::now() < until { Ok(()) } else { Err(ShelfError::TooSlow) }
}

#[cfg(test)]
mod tests;
