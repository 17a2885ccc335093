//! One blob on its way onto a stick. Until it is whole it lies beside its name, and a later run goes on where this one
//! ended; one that is too large for a file of the stick's file system becomes parts.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
};

use cairn_model::{
    Digest,
    media::{MAX_PARTS, PART_BYTES, blob_path, part_path},
};
use sha2::{Digest as _, Sha256};

use super::{
    blobs::{self, hash_up_to},
    stick::Stick,
};

/// The folder of blobs.
pub(crate) const BLOBS: &str = "blobs/sha256";
/// Most blobs of one stick.
const MAX_LISTED: usize = 1_000_000;
/// Largest file of vfat.
const VFAT_MAX: u64 = u32::MAX as u64;
/// So much may be on its way to the stick unsynced: else all of it is in memory long before it is on a slow stick, and
/// the last step takes minutes in which nothing seems to happen.
const SYNC_EVERY: u64 = 32 << 20;

/// How large files may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A blob that is larger becomes parts.
    pub(crate) file: u64,
    /// Of this size, all but the last.
    pub(crate) part: u64,
}

impl Limits {
    /// Those of the file system that is on the stick.
    pub(crate) fn of(stick: &Stick) -> io::Result<Self> {
        let file = if stick.is_vfat()? { VFAT_MAX } else { u64::MAX };
        Ok(Self { file, part: PART_BYTES })
    }

    fn in_parts(self, size: u64) -> bool {
        size > self.file
    }
}

/// Why a blob did not get onto the stick.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("its bytes are not those of its digest")]
    Digest,
    #[error("it has more than the {0} bytes that were announced")]
    TooLong(u64),
    #[error("it would be more than {MAX_PARTS} parts")]
    TooManyParts,
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    stick: Arc<Stick>,
    digest: Digest,
    size: u64,
    limits: Limits,
    hash: Sha256,
    have: u64,
    /// The file that is open, and how much is in it.
    open: Option<(File, u64)>,
    unsynced: u64,
}

impl Writer {
    /// Goes on with what an earlier run has left.
    pub(crate) fn resume(
        stick: &Arc<Stick>,
        digest: &Digest,
        size: u64,
        limits: Limits,
    ) -> Result<Self, WriteError> {
        if limits.in_parts(size) && size.div_ceil(limits.part.max(1)) > MAX_PARTS {
            return Err(WriteError::TooManyParts);
        }
        let (stick, digest) = (Arc::clone(stick), digest.clone());
        let mut writer =
            Self { stick, digest, size, limits, hash: Sha256::new(), have: 0, open: None, unsynced: 0 };
        writer.stick.make_folder(BLOBS)?;
        writer.take_up()?;
        Ok(writer)
    }

    /// How much of the blob is there.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// How much of the blob an earlier run has left, by what the files claim.
    pub(crate) fn left(stick: &Stick, digest: &Digest, size: u64, limits: Limits) -> io::Result<u64> {
        let folder = stick.reader()?;
        let (mut left, mut piece) = (0, 0);
        while left < size {
            let expected = piece_length(limits, size, piece);
            let whole = limits.in_parts(size) && folder.len(&part_path(digest, piece))? == Some(expected);
            if !whole {
                let begun = folder.len(&beside(limits, size, digest, piece))?.unwrap_or(0);
                return Ok(if begun <= expected { left + begun } else { left });
            }
            (left, piece) = (left + expected, piece + 1);
        }
        Ok(left)
    }

    fn take_up(&mut self) -> io::Result<()> {
        let folder = self.stick.reader()?;
        while self.have < self.size {
            let (expected, beside) = (self.piece_length(), self.beside());
            if self.in_parts() {
                let part = part_path(&self.digest, self.piece());
                if let Some(mut file) = folder.file(&part)?.filter(|f| has_length(f, |n| n == expected)) {
                    self.have += hash_up_to(&mut file, expected, &mut self.hash, |_| ())?;
                    continue;
                }
            }
            match folder.file(&beside)? {
                Some(mut file) if has_length(&file, |n| n <= expected) => {
                    let begun = hash_up_to(&mut file, expected, &mut self.hash, |_| ())?;
                    self.have += begun;
                    self.open = Some((self.stick.append(&beside)?, begun));
                    if begun == expected && self.in_parts() && self.have < self.size {
                        self.end_part()?;
                        continue;
                    }
                }
                Some(_) => drop(self.stick.remove(&beside)?),
                None => {}
            }
            return Ok(());
        }
        Ok(())
    }

    /// Throws away what is there of the blob, and begins anew.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.open = None;
        for piece in 0..=self.piece() {
            self.stick.remove(&beside(self.limits, self.size, &self.digest, piece))?;
            if self.in_parts() {
                self.stick.remove(&part_path(&self.digest, piece))?;
            }
        }
        (self.hash, self.have, self.unsynced) = (Sha256::new(), 0, 0);
        Ok(())
    }

    /// Writes what comes next.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        if bytes.len() as u64 > self.size - self.have {
            return Err(WriteError::TooLong(self.size));
        }
        while !bytes.is_empty() {
            let expected = self.piece_length();
            let (file, length) = self.opened()?;
            let room = usize::try_from(expected - *length).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            file.write_all(now)?;
            *length += now.len() as u64;
            let full = *length == expected;
            self.hash.update(now);
            (self.have, self.unsynced) = (self.have + now.len() as u64, self.unsynced + now.len() as u64);
            if self.unsynced >= SYNC_EVERY {
                self.sync()?;
            }
            // The last piece gets its name only when the whole is known to be right.
            if full && self.have < self.size {
                self.end_part()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Gives the blob its name, once all of it is there, right, and on the stick.
    pub(crate) fn finish(mut self) -> Result<(), WriteError> {
        let hash = std::mem::take(&mut self.hash);
        if self.have != self.size || Digest::from_sha256(&hash.finalize().into()) != self.digest {
            self.restart()?;
            return Err(WriteError::Digest);
        }
        if self.size == 0 {
            self.opened()?;
        }
        self.sync()?;
        if self.open.take().is_some() {
            let name = self.last_name();
            let beside = beside(self.limits, self.size, &self.digest, self.last_piece());
            self.stick.rename(&beside, &name)?;
        }
        self.remove_other_form()?;
        self.stick.sync_folder(BLOBS)?;
        Ok(())
    }

    /// What lies there in the other form is no use any more: a damaged file, or parts from before.
    fn remove_other_form(&self) -> io::Result<()> {
        if self.in_parts() {
            return self.stick.remove(&blob_path(&self.digest)).map(drop);
        }
        for part in 0..MAX_PARTS {
            if !self.stick.remove(&part_path(&self.digest, part))? {
                break;
            }
        }
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut (File, u64)> {
        if self.open.is_none() {
            let path = self.beside();
            self.stick.remove(&path)?;
            self.open = Some((self.stick.create(&path)?, 0));
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("no file is open"))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.open.as_ref().map_or(Ok(()), |(file, _)| file.sync_all())
    }

    /// A part is full: it gets its name. It is the piece before the one that comes next.
    fn end_part(&mut self) -> io::Result<()> {
        self.sync()?;
        self.open = None;
        let done = self.piece() - 1;
        let from = beside(self.limits, self.size, &self.digest, done);
        self.stick.rename(&from, &part_path(&self.digest, done))
    }

    fn in_parts(&self) -> bool {
        self.limits.in_parts(self.size)
    }

    /// Number of the piece that comes next.
    fn piece(&self) -> u64 {
        if self.in_parts() { self.have / self.limits.part } else { 0 }
    }

    fn last_piece(&self) -> u64 {
        if self.in_parts() { (self.size - 1) / self.limits.part } else { 0 }
    }

    fn last_name(&self) -> String {
        if self.in_parts() { part_path(&self.digest, self.last_piece()) } else { blob_path(&self.digest) }
    }

    fn piece_length(&self) -> u64 {
        piece_length(self.limits, self.size, self.piece())
    }

    fn beside(&self) -> String {
        beside(self.limits, self.size, &self.digest, self.piece())
    }
}

/// Removes a blob in every form, also one that was begun; how many bytes that gives back.
pub(crate) fn remove(stick: &Stick, digest: &Digest) -> io::Result<u64> {
    let freed = blobs::find(&stick.reader()?, digest)?.map_or(0, |found| found.size());
    stick.remove(&format!("{BLOBS}/.{}.partial", digest.hex()))?;
    stick.remove(&blob_path(digest))?;
    for part in 0..MAX_PARTS {
        let begun = stick.remove(&format!("{BLOBS}/.{}.{part:03}.partial", digest.hex()))?;
        if !stick.remove(&part_path(digest, part))? && !begun {
            break;
        }
    }
    Ok(freed)
}

/// Removes what lies there unfinished: once an export is done, nobody goes on with it.
pub(crate) fn remove_unfinished(stick: &Stick) -> io::Result<()> {
    for entry in stick.list(BLOBS, MAX_LISTED)?.unwrap_or_default() {
        if is_unfinished(&entry.name) {
            stick.remove(&format!("{BLOBS}/{}", entry.name))?;
        }
    }
    Ok(())
}

/// `.<64 hex digits>[.<part>].partial`
fn is_unfinished(name: &str) -> bool {
    let Some(name) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")) else {
        return false;
    };
    let (hex, part) = name.split_once('.').unwrap_or((name, "000"));
    hex.len() == 64
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && part.len() == 3
        && part.bytes().all(|b| b.is_ascii_digit())
}

fn piece_length(limits: Limits, size: u64, piece: u64) -> u64 {
    if limits.in_parts(size) {
        size.saturating_sub(piece.saturating_mul(limits.part)).min(limits.part)
    } else {
        size
    }
}

/// Where a piece lies until it is whole.
fn beside(limits: Limits, size: u64, digest: &Digest, piece: u64) -> String {
    if limits.in_parts(size) {
        format!("{BLOBS}/.{}.{piece:03}.partial", digest.hex())
    } else {
        format!("{BLOBS}/.{}.partial", digest.hex())
    }
}

fn has_length(file: &File, is_it: impl Fn(u64) -> bool) -> bool {
    file.metadata().is_ok_and(|metadata| is_it(metadata.len()))
}

#[cfg(test)]
mod tests;
