//! The slot's files, and the only functions that write to them.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use cairn_model::release::Release;

use super::WriteError;
use crate::{
    chunks::Part,
    verity::{self, BLOCK},
};

/// What is written. Each has fault points of its own: `<name>-write` and `<name>-sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Uki,
    Tree,
    Patch,
}

impl Place {
    pub(super) const fn of(part: Part) -> Self {
        match part {
            Part::Root => Self::Root,
            Part::Uki => Self::Uki,
        }
    }

    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "the slot's root file system",
            Self::Uki => "the kernel image on the ESP",
            Self::Tree => "the slot's hash tree",
            Self::Patch => "the fetched patch",
        }
    }

    const fn fault_points(self) -> (&'static str, &'static str) {
        match self {
            Self::Root => ("slot-write", "slot-sync"),
            Self::Uki => ("uki-write", "uki-sync"),
            Self::Tree => ("tree-write", "tree-sync"),
            Self::Patch => ("patch-write", "patch-sync"),
        }
    }
}

/// The one way by which bytes get anywhere.
pub(super) fn put(place: Place, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let (_point, _) = place.fault_points();
    fail::fail_point!(_point, |code: Option<String>| {
        let code = code.and_then(|code| code.parse().ok()).unwrap_or(nix::libc::EIO);
        Err(io::Error::from_raw_os_error(code))
    });
    file.write_all_at(bytes, offset)
}

/// Makes durable what was put.
pub(super) fn sync(place: Place, file: &File) -> io::Result<()> {
    let (_, _point) = place.fault_points();
    fail::fail_point!(_point, |code: Option<String>| {
        let code = code.and_then(|code| code.parse().ok()).unwrap_or(nix::libc::EIO);
        Err(io::Error::from_raw_os_error(code))
    });
    file.sync_all()
}

/// Bytes of a file or a block device.
pub(super) fn size_of(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// The slot that is written.
pub(super) struct Slot<'a> {
    pub(super) root: &'a File,
    pub(super) tree: &'a File,
    pub(super) uki: &'a File,
    /// Bytes of the root partition that may hold something to keep.
    pub(super) used: u64,
    pub(super) salt: Vec<u8>,
    pub(super) uuid: [u8; 16],
}

impl<'a> Slot<'a> {
    /// Refuses a release that does not fit, before anything is written.
    pub(super) fn new(
        release: &Release,
        root: &'a File,
        tree: &'a File,
        uki: &'a File,
    ) -> Result<Self, WriteError> {
        let unsound = || WriteError::Release("its verity parameters are not hexadecimal");
        let salt = hex::decode(&release.verity.salt).map_err(|_| unsound())?;
        let uuid = hex::decode(&release.verity.uuid).ok().and_then(|uuid| uuid.try_into().ok());
        let read = |place: Place| move |source| WriteError::Read { what: place.as_str(), source };
        let room = size_of(root).map_err(read(Place::Root))?;
        let size = release.root.size;
        if size > room {
            return Err(WriteError::TooLarge { what: "root file system", size, room });
        }
        // The last block of the partition is the slot's boot record.
        let tree_room = size_of(tree).map_err(read(Place::Tree))?.saturating_sub(BLOCK as u64);
        let tree_size = verity::tree_size(size);
        if tree_size > tree_room {
            return Err(WriteError::TooLarge { what: "hash tree", size: tree_size, room: tree_room });
        }
        // What cannot be read is nothing to keep; to write it anew may be the cure.
        let held = verity::identify(tree).ok().flatten();
        let used = held.map_or(0, |(superblock, _)| superblock.data_size()).clamp(size, room);
        Ok(Self { root, tree, uki, used, salt, uuid: uuid.ok_or_else(unsound)? })
    }

    pub(super) fn file(&self, part: Part) -> &'a File {
        match part {
            Part::Root => self.root,
            Part::Uki => self.uki,
        }
    }
}

/// Reads a stretch of a file or device by position.
pub(super) struct Span<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
    pub(super) end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
