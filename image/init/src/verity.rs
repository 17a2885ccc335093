//! dm-verity: the root hash and the superblock of a hash tree.

use std::fs::File;
use std::io::Read;

use crate::Outcome;

/// Length of the superblock on disk.
pub(crate) const SUPERBLOCK: usize = 512;

/// Largest root that is believed, in blocks of 4 KiB: 64 GiB.
const MAX_BLOCKS: u64 = 1 << 24;

/// SHA-256 of a hash tree's top block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootHash(String);

impl RootHash {
    /// From 64 lower-case hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        (text.len() == 64 && text.chars().all(hex)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// UUIDs of the root's and of the hash tree's partition, in the order of bytes on disk.
    pub(crate) fn partition_uuids(&self) -> ([u8; 16], [u8; 16]) {
        (self.uuid(0), self.uuid(32))
    }

    /// GPT stores a UUID's first three fields with the lowest byte first.
    fn uuid(&self, start: usize) -> [u8; 16] {
        let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        order.map(|index| {
            let at = start + index * 2;
            u8::from_str_radix(&self.0[at..at + 2], 16).unwrap_or(0)
        })
    }
}

/// What the kernel must be told of a hash tree. None of it is trusted: a wrong value gives another root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Blocks of 4 KiB in the root.
    pub(crate) data_blocks: u64,
    /// Salt in hex, `-` if there is none.
    pub(crate) salt: String,
}

impl Superblock {
    /// From the beginning of a device.
    pub(crate) fn read(device: &str) -> Outcome<Self> {
        let mut bytes = [0u8; SUPERBLOCK];
        File::open(device)
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|error| format!("failed to read the hash tree on {device}: {error}"))?;
        Self::parse(&bytes).ok_or_else(|| format!("{device} holds no hash tree of the known kind"))
    }

    /// Format 1, SHA-256, blocks of 4 KiB: what our images have, and nothing else.
    pub(crate) fn parse(bytes: &[u8; SUPERBLOCK]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let known = bytes.starts_with(b"verity\0\0")
            && (number(8), number(12), number(64), number(68)) == (1, 1, 4096, 4096)
            && bytes[32..64].starts_with(b"sha256\0");
        let data_blocks = u64::from(number(72)) | u64::from(number(76)) << 32;
        let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if !known || !(2..=MAX_BLOCKS).contains(&data_blocks) || salt_size > 256 {
            return None;
        }
        let salt: String = bytes[88..88 + salt_size].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { data_blocks, salt: if salt.is_empty() { "-".into() } else { salt } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> [u8; SUPERBLOCK] {
        let mut bytes = [0u8; SUPERBLOCK];
        bytes[..8].copy_from_slice(b"verity\0\0");
        (bytes[8], bytes[12]) = (1, 1);
        bytes[32..38].copy_from_slice(b"sha256");
        (bytes[65], bytes[69]) = (16, 16);
        bytes[72] = 9;
        bytes[80] = 2;
        (bytes[88], bytes[89]) = (0xab, 0x01);
        bytes
    }

    #[test]
    fn the_known_format_is_read_and_others_are_refused() {
        let expected = Superblock { data_blocks: 9, salt: "ab01".into() };
        assert_eq!(Superblock::parse(&sample()), Some(expected));
        for (at, value) in
            [(0, b'V'), (8, 2), (12, 0), (33, b'x'), (65, 0), (69, 32), (72, 1), (79, 1), (81, 2)]
        {
            let mut bytes = sample();
            bytes[at] = value;
            assert_eq!(Superblock::parse(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn partition_uuids_are_in_disk_order() {
        let hash =
            RootHash::parse("00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef").unwrap();
        let (root, tree) = hash.partition_uuids();
        assert_eq!(
            root,
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert_eq!(tree[..4], [0x67, 0x45, 0x23, 0x01]);
    }

    proptest! {
        #[test]
        fn random_superblocks_never_panic(bytes in prop::collection::vec(any::<u8>(), SUPERBLOCK), keep in 0..90usize) {
            let mut mixed = sample();
            mixed[keep..].copy_from_slice(&bytes[keep..]);
            let _ = Superblock::parse(&mixed);
        }
    }
}
