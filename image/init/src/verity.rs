//! dm-verity: the root hash, the superblock of a hash tree, and which tree a root hash belongs to.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// Bytes in a block, of data and of hashes.
pub(crate) const BLOCK: usize = 4096;

/// Digests of 32 bytes in a block of the tree.
const HASHES_PER_BLOCK: u64 = BLOCK as u64 / 32;

/// Length of the superblock on disk; a whole block is kept free for it.
const SUPERBLOCK: usize = 512;

/// Largest root that is believed, in blocks of 4 KiB: 64 GiB.
const MAX_BLOCKS: u64 = 1 << 24;

/// SHA-256 of a hash tree's top block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RootHash([u8; 32]);

impl RootHash {
    /// From 64 lower-case hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        (digits.len() == 64).then(|| bytes.try_into().ok().map(Self))?
    }

    /// The raw hash.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the kernel must be told of a hash tree. None of it is trusted: a wrong salt gives another root hash, a wrong
/// number of blocks other blocks than those that were hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Blocks of 4 KiB in the root.
    pub(crate) data_blocks: u64,
    /// At most 256 bytes; none is possible.
    pub(crate) salt: Vec<u8>,
}

impl Superblock {
    /// Format 1, SHA-256, blocks of 4 KiB: what our images have, and nothing else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SUPERBLOCK] = bytes.get(..SUPERBLOCK)?.try_into().ok()?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let known = bytes.starts_with(b"verity\0\0")
            && (number(8), number(12), number(64), number(68)) == (1, 1, 4096, 4096)
            && bytes[32..64].starts_with(b"sha256\0");
        let data_blocks = u64::from(number(72)) | u64::from(number(76)) << 32;
        let salt_size = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if !known || !(2..=MAX_BLOCKS).contains(&data_blocks) || salt_size > 256 {
            return None;
        }
        Some(Self { data_blocks, salt: bytes[88..88 + salt_size].to_vec() })
    }

    /// Salt as the kernel takes it: in hex, `-` if there is none.
    pub(crate) fn salt(&self) -> String {
        if self.salt.is_empty() { "-".into() } else { hex(&self.salt) }
    }

    /// Whether a root and a tree partition of these sizes have room for all that it speaks of, the boot record behind the
    /// tree included. No hash covers the number of blocks, and the kernel refuses one that is larger than the device.
    pub(crate) fn fits(&self, root: u64, tree: u64) -> bool {
        const BYTES: u64 = BLOCK as u64;
        // The superblock and the boot record have a block each.
        let (mut level, mut blocks) = (self.data_blocks, 2);
        while level > 1 {
            level = level.div_ceil(HASHES_PER_BLOCK);
            blocks += level;
        }
        self.data_blocks <= root / BYTES && blocks <= tree / BYTES
    }

    /// Whether `top` is the top block of the tree with this root hash.
    fn leads_to(&self, top: &[u8], root_hash: &RootHash) -> bool {
        let digest = Sha256::new().chain_update(&self.salt).chain_update(top).finalize();
        digest[..] == root_hash.0
    }
}

/// The superblock of the tree that begins `device`, if it is the tree of this root hash.
pub(crate) fn tree_of(device: &File, root_hash: &RootHash) -> Option<Superblock> {
    let mut head = vec![0; 2 * BLOCK];
    device.read_exact_at(&mut head, 0).ok()?;
    let (superblock, top) = head.split_at(BLOCK);
    Superblock::parse(superblock).filter(|superblock| superblock.leads_to(top, root_hash))
}

/// Blocks of 4 KiB that an erofs says it has, from its first block; `None` if it is none of the kind that we write.
pub(crate) fn erofs_blocks(first: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u32::from_le_bytes(first.get(at..at + 4)?.try_into().ok()?));
    let block_bits = *first.get(1024 + 12)?;
    (number(1024)? == 0xe0f5_e1e2 && block_bits == 12).then(|| number(1024 + 36).map(u64::from))?
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// Of nine blocks.
    pub(crate) fn sample() -> [u8; SUPERBLOCK] {
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
    fn root_hashes_are_whole_and_round_trip() {
        let text = "0123456789abcdef".repeat(4);
        let hash = RootHash::parse(&text).unwrap();
        assert_eq!(hash.to_string(), text);
        assert_eq!(hash.as_bytes()[..3], [0x01, 0x23, 0x45]);
        for bad in ["", &text[1..], &text[2..], &format!("{text}00"), &text.to_uppercase(), &"é".repeat(32)]
        {
            assert_eq!(RootHash::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_known_format_is_read_and_others_are_refused() {
        let superblock = Superblock::parse(&sample()).unwrap();
        assert_eq!((superblock.data_blocks, superblock.salt()), (9, "ab01".to_owned()));
        for (at, value) in
            [(0, b'V'), (8, 2), (12, 0), (33, b'x'), (65, 0), (69, 32), (72, 1), (79, 1), (81, 2)]
        {
            let mut bytes = sample();
            bytes[at] = value;
            assert_eq!(Superblock::parse(&bytes), None, "byte {at}");
        }
        assert_eq!(Superblock::parse(&sample()[1..]), None);
        let mut unsalted = sample();
        unsalted[80] = 0;
        assert_eq!(Superblock::parse(&unsalted).unwrap().salt(), "-");
    }

    #[test]
    fn the_tree_has_a_block_for_every_128_hashes_of_the_level_below() {
        const BYTES: u64 = BLOCK as u64;
        // As `veritysetup format` lays them out.
        for (data_blocks, tree) in [(2, 1), (128, 1), (129, 2 + 1), (16384, 128 + 1), (16385, 129 + 2 + 1)] {
            let superblock = Superblock { data_blocks, salt: Vec::new() };
            let (root, whole) = (data_blocks * BYTES, (1 + tree + 1) * BYTES);
            assert!(superblock.fits(root, whole), "{data_blocks}");
            assert!(!superblock.fits(root - 1, whole), "{data_blocks}: a short root");
            assert!(!superblock.fits(root, whole - 1), "{data_blocks}: a tree that the boot record lies on");
        }
    }

    #[test]
    fn a_tree_is_known_by_its_salted_top_block() {
        let mut disk = vec![0u8; 3 * BLOCK];
        disk[..SUPERBLOCK].copy_from_slice(&sample());
        disk[BLOCK..2 * BLOCK].fill(7);
        let salted = Sha256::new().chain_update([0xab, 0x01]).chain_update([7; BLOCK]).finalize();
        let hash = RootHash(salted.into());
        let find = |content: &[u8], hash: &RootHash| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            tree_of(&file, hash).map(|superblock| superblock.data_blocks)
        };
        assert_eq!(find(&disk, &hash), Some(9));
        assert_eq!(find(&disk, &RootHash([0; 32])), None, "another root hash");
        assert_eq!(find(&disk[..2 * BLOCK - 1], &hash), None, "a short device");
        for at in [0, 88, BLOCK, 2 * BLOCK - 1] {
            let mut damaged = disk.clone();
            damaged[at] ^= 1;
            assert_eq!(find(&damaged, &hash), None, "byte {at}");
        }
        disk[2 * BLOCK] = 1;
        assert_eq!(find(&disk, &hash), Some(9), "what lies behind the top block is the kernel's to check");
    }

    #[test]
    fn an_erofs_tells_its_size() {
        let mut block = vec![0u8; BLOCK];
        block[1024..1028].copy_from_slice(&0xe0f5_e1e2u32.to_le_bytes());
        (block[1036], block[1060]) = (12, 77);
        assert_eq!(erofs_blocks(&block), Some(77));
        assert_eq!(erofs_blocks(&block[..1060]), None);
        block[1036] = 9;
        assert_eq!(erofs_blocks(&block), None);
        assert_eq!(erofs_blocks(&[]), None);
    }

    proptest! {
        #[test]
        fn random_superblocks_never_panic(bytes in prop::collection::vec(any::<u8>(), SUPERBLOCK), keep in 0..90usize) {
            let mut mixed = sample();
            mixed[keep..].copy_from_slice(&bytes[keep..]);
            if let Some(superblock) = Superblock::parse(&mixed) {
                let _ = superblock.leads_to(&bytes, &RootHash([0; 32]));
            }
            let _ = erofs_blocks(&bytes);
        }
    }
}
