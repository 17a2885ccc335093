//! Reads what QEMU's `blklogwrites` has recorded: each write and each flush of a disk, in the order in which they ended.
//! The format is that of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, ensure};

/// The unit in which a disk is addressed, and the most that a disk writes as a whole.
pub const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// What happened to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Bytes were written.
    Write {
        /// Where, in bytes.
        start: u64,
        /// How many.
        length: u64,
        /// Where they stand in the log.
        data: u64,
    },
    /// Everything before is on the disk.
    Flush,
}

/// The recording.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// Everything, in order.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Opens a recording that QEMU has closed.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0).context("the log has no head")?;
        let long = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes);
        ensure!(long(0)? == MAGIC && long(8)? == 1, "this is no log of writes");
        ensure!(u64::from(u32::from_le_bytes(head[24..28].try_into()?)) == SECTOR, "another sector size");
        let (count, mut at) = (long(16)?, SECTOR);
        let mut entries = Vec::new();
        for _ in 0..count {
            let mut bytes = [0; 32];
            file.read_exact_at(&mut bytes, at).context("the log is cut short")?;
            let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes);
            let (start, length, flags) = (long(0)? * SECTOR, long(8)? * SECTOR, long(16)?);
            ensure!(length > 0 || flags != 0, "the log has a hole at {at}: QEMU failed to record a write");
            at += SECTOR;
            // A discard is a hint: whether the bytes are gone is the disk's choice, and ours keeps them.
            if flags & DISCARD == 0 && length > 0 {
                entries.push(Entry::Write { start, length, data: at });
                at += length;
            }
            if flags & FLUSH != 0 {
                entries.push(Entry::Flush);
            }
        }
        Ok(Self { file, entries })
    }

    /// Reads bytes of the log.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).context("failed to read the log")
    }
}
