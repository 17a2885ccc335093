//! The boot record: the last block of a slot's hash-tree partition counts the starts that never became a complete boot,
//! and says that a slot is corrupt. The running system resets it; both sides read and write the same bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use crate::gpt::crc32;
use crate::verity::{BLOCK, RootHash};

const MAGIC: &[u8; 8] = b"CAIRNBR1";

/// Flag: a block of the slot does not fit the root hash.
const CORRUPT: u32 = 1;

/// Stands for "no bad block known".
const NONE: u64 = !0;

/// Bytes that the checksum covers, and where it lies.
const CHECKED: usize = 60;

/// What is remembered about a slot with one root hash. A record that is torn, or about another root, says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BootRecord {
    /// Starts since the last boot that was complete.
    pub(crate) starts: u32,
    /// Flags as they lie on disk; those that are not known here are kept.
    flags: u32,
    first_bad: Option<u64>,
}

impl BootRecord {
    /// From the block; nothing is remembered if it is not a whole record about this root.
    pub(crate) fn parse(block: &[u8], root_hash: &RootHash) -> Self {
        let number = |at: usize| {
            let part = block.get(at..at + 4).unwrap_or(&[0; 4]);
            u32::from_le_bytes([part[0], part[1], part[2], part[3]])
        };
        let valid = block.len() == BLOCK
            && block.starts_with(MAGIC)
            && block[8..40] == *root_hash.as_bytes()
            && crc32(&block[..CHECKED]) == number(CHECKED);
        if !valid {
            return Self::default();
        }
        let first_bad = u64::from(number(48)) | u64::from(number(52)) << 32;
        Self { starts: number(40), flags: number(44), first_bad: (first_bad != NONE).then_some(first_bad) }
    }

    /// The block as it lies on disk.
    pub(crate) fn to_block(self, root_hash: &RootHash) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[8..40].copy_from_slice(root_hash.as_bytes());
        block[40..44].copy_from_slice(&self.starts.to_le_bytes());
        block[44..48].copy_from_slice(&self.flags.to_le_bytes());
        block[48..56].copy_from_slice(&self.first_bad.unwrap_or(NONE).to_le_bytes());
        let sum = crc32(&block[..CHECKED]);
        block[CHECKED..CHECKED + 4].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// One more start that is not yet a complete boot.
    pub(crate) fn started(self) -> Self {
        Self { starts: self.starts.saturating_add(1), ..self }
    }

    /// A block was read and did not fit the root hash.
    pub(crate) fn corrupt(self, block: u64) -> Self {
        Self { flags: self.flags | CORRUPT, first_bad: Some(block), ..self }
    }

    /// All blocks were read and fit the root hash.
    pub(crate) fn sound(self) -> Self {
        Self { flags: self.flags & !CORRUPT, first_bad: None, ..self }
    }

    /// Whether a block is known not to fit.
    pub(crate) fn is_corrupt(self) -> bool {
        self.flags & CORRUPT != 0
    }

    /// Whether the whole root must be read before it is booted: the last boot never completed, or a bad block is known.
    /// A flag alone condemns nothing, for the slot may have been written again.
    pub(crate) fn needs_check(self) -> bool {
        self.starts > 0 || self.is_corrupt()
    }
}

/// Reads the record of a slot from its hash-tree partition.
pub(crate) fn read(tree: &str, root_hash: &RootHash) -> io::Result<BootRecord> {
    let mut device = File::open(tree)?;
    let mut block = [0; BLOCK];
    let place = place(&mut device)?;
    device.read_exact_at(&mut block, place)?;
    Ok(BootRecord::parse(&block, root_hash))
}

/// Writes the record of a slot and returns when it is on the disk.
pub(crate) fn write(tree: &str, root_hash: &RootHash, record: BootRecord) -> io::Result<()> {
    let mut device = OpenOptions::new().read(true).write(true).open(tree)?;
    let place = place(&mut device)?;
    device.write_all_at(&record.to_block(root_hash), place)?;
    device.sync_all()
}

/// The last 4 KiB of the partition.
fn place(device: &mut File) -> io::Result<u64> {
    let size = device.seek(SeekFrom::End(0))?;
    size.checked_sub(BLOCK as u64).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash() -> RootHash {
        RootHash::parse(&"0123456789abcdef".repeat(4)).unwrap()
    }

    /// `starts` 3, corrupt, first bad block 0x0102. Whoever else reads or writes records has the same bytes in a test.
    const GOLDEN: [u8; 64] = [
        b'C', b'A', b'I', b'R', b'N', b'B', b'R', b'1', // magic
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd,
        0xef, //
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd,
        0xef, // hash
        3, 0, 0, 0, // starts
        1, 0, 0, 0, // flags
        0x02, 0x01, 0, 0, 0, 0, 0, 0, // first bad block
        0, 0, 0, 0, // reserved
        0xa3, 0xf5, 0x3d, 0x72, // CRC-32
    ];

    fn sample() -> BootRecord {
        BootRecord { starts: 3, ..BootRecord::default() }.corrupt(0x0102)
    }

    #[test]
    fn the_layout_is_the_agreed_one() {
        let block = sample().to_block(&hash());
        assert_eq!(block[..64], GOLDEN);
        assert!(block[64..].iter().all(|byte| *byte == 0));
        assert_eq!(BootRecord::parse(&block, &hash()), sample());
        assert_eq!(BootRecord::default().to_block(&hash())[48..56], [0xff; 8], "no bad block");
    }

    #[test]
    fn torn_or_foreign_records_say_nothing() {
        let block = sample().to_block(&hash());
        let other = RootHash::parse(&"00".repeat(32)).unwrap();
        assert_eq!(BootRecord::parse(&block, &other), BootRecord::default(), "another root");
        for at in 0..64 {
            let mut torn = block;
            torn[at] ^= 0x40;
            assert_eq!(BootRecord::parse(&torn, &hash()), BootRecord::default(), "byte {at}");
        }
        for length in [0, 63, BLOCK - 1] {
            assert_eq!(BootRecord::parse(&block[..length], &hash()), BootRecord::default());
        }
        assert_eq!(BootRecord::parse(&[0; BLOCK], &hash()), BootRecord::default());
    }

    #[test]
    fn a_check_is_due_after_a_boot_that_never_completed_and_where_corruption_was_seen() {
        assert!(!BootRecord::default().needs_check());
        assert!(BootRecord::default().started().needs_check());
        let corrupt = BootRecord::default().corrupt(5);
        assert!(corrupt.is_corrupt() && corrupt.needs_check());
        assert_eq!(corrupt.sound(), BootRecord::default());
        let full = BootRecord { starts: u32::MAX, ..BootRecord::default() };
        assert_eq!(full.started().starts, u32::MAX);
    }

    #[test]
    fn records_are_kept_in_the_last_block_of_the_partition() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let tree = path.to_str().unwrap();
        std::fs::write(tree, vec![7u8; 3 * BLOCK]).unwrap();
        assert_eq!(read(tree, &hash()).unwrap(), BootRecord::default());
        write(tree, &hash(), sample()).unwrap();
        assert_eq!(read(tree, &hash()).unwrap(), sample());
        let bytes = std::fs::read(tree).unwrap();
        assert_eq!(bytes.len(), 3 * BLOCK);
        assert!(bytes[..2 * BLOCK].iter().all(|byte| *byte == 7), "the tree is left alone");
        std::fs::write(tree, b"short").unwrap();
        assert!(read(tree, &hash()).is_err());
        assert!(write(tree, &hash(), sample()).is_err());
    }

    proptest! {
        #[test]
        fn records_round_trip(starts: u32, flags: u32, bad in prop::option::of(0..NONE)) {
            let record = BootRecord { starts, flags, first_bad: bad };
            prop_assert_eq!(BootRecord::parse(&record.to_block(&hash()), &hash()), record);
        }

        #[test]
        fn random_blocks_never_panic_and_say_nothing(bytes in prop::collection::vec(any::<u8>(), 0..BLOCK + 1)) {
            prop_assert_eq!(BootRecord::parse(&bytes, &hash()), BootRecord::default());
        }
    }
}
