//! The boot record of a slot: one block at the end of its hash-tree partition, in which the initrd and the daemon tell
//! each other whether starts complete and whether the slot was found corrupt.
//!
//! ```text
//!  0..8   "CAIRNBR1"
//!  8..40  root hash that it is about
//! 40..44  starts since the last boot that was completed, u32, little endian as all of it
//! 44..48  flags; bit 0: corrupt
//! 48..56  first bad block of 4 KiB, all ones for none, u64
//! 56..60  zero
//! 60..64  CRC-32 (IEEE) of bytes 0 to 60
//! 64..    zero, up to 4096
//! ```
//! A record that cannot be read, has a wrong sum or is about another root says the same as none: no starts, no flags.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

#[cfg(test)]
mod tests;

/// Bytes of a record: one block of the smallest size that disks tear in.
pub const SIZE: usize = 4096;

/// How a record begins.
const MAGIC: &[u8; 8] = b"CAIRNBR1";

/// Bytes that the sum covers.
const SUMMED: usize = 60;

/// Bit 0 of the flags.
const CORRUPT: u32 = 1;

/// What stands for "no bad block".
const NO_BLOCK: u64 = u64::MAX;

/// What initrd and daemon know about a slot's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootRecord {
    /// Root hash that it is about, 64 lower-case hex digits.
    pub root_hash: String,
    /// Starts since the last boot that was completed.
    pub starts: u32,
    /// The whole root was read, and a block of it is not what the hash tree says.
    pub corrupt: bool,
    /// The first such block.
    pub bad_block: Option<u64>,
}

impl BootRecord {
    /// Of a slot that nothing is known about.
    pub fn new(root_hash: &str) -> Self {
        Self { root_hash: root_hash.to_owned(), starts: 0, corrupt: false, bad_block: None }
    }

    /// Reads a record; `None` for whatever is no sound one.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let summed = block.get(..SUMMED)?;
        if !summed.starts_with(MAGIC) || number(block, SUMMED)? != crc32fast::hash(summed) {
            return None;
        }
        let bad_block = u64::from_le_bytes(block.get(48..56)?.try_into().ok()?);
        Some(Self {
            root_hash: hex::encode(block.get(8..40)?),
            starts: number(block, 40)?,
            corrupt: number(block, 44)? & CORRUPT != 0,
            bad_block: (bad_block != NO_BLOCK).then_some(bad_block),
        })
    }

    /// As it stands on the partition; `None` if the root hash is none.
    pub fn to_block(&self) -> Option<Vec<u8>> {
        let root_hash = hex::decode(&self.root_hash).ok().filter(|hash| hash.len() == 32)?;
        let mut block = MAGIC.to_vec();
        block.extend(root_hash);
        block.extend(self.starts.to_le_bytes());
        block.extend(u32::from(self.corrupt).to_le_bytes());
        block.extend(self.bad_block.unwrap_or(NO_BLOCK).to_le_bytes());
        block.extend([0; 4]);
        block.extend(crc32fast::hash(&block).to_le_bytes());
        block.resize(SIZE, 0);
        Some(block)
    }

    /// What the hash-tree partition says about itself, whichever root that is about; `None` if nothing.
    pub fn read_any(tree: &File) -> Option<Self> {
        let mut block = vec![0; SIZE];
        tree.read_exact_at(&mut block, place(tree).ok()?).ok()?;
        Self::parse(&block)
    }

    /// What the hash-tree partition says about this root.
    pub fn read(tree: &File, root_hash: &str) -> Self {
        Self::read_any(tree)
            .filter(|record| record.root_hash == root_hash)
            .unwrap_or_else(|| Self::new(root_hash))
    }

    /// Writes it, and waits until it is on the disk.
    ///
    /// # Errors
    /// If the root hash is none, or the partition cannot be written.
    pub fn write(&self, tree: &File) -> io::Result<()> {
        let block = self.to_block().ok_or(io::ErrorKind::InvalidInput)?;
        tree.write_all_at(&block, place(tree)?)?;
        tree.sync_data()
    }
}

/// Where the record of a hash-tree partition lies.
fn place(mut tree: &File) -> io::Result<u64> {
    // A block device has no length in its metadata.
    let size = tree.seek(SeekFrom::End(0))?;
    size.checked_sub(SIZE as u64).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn number(block: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?))
}
