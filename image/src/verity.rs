//! dm-verity's hash tree (format 1, SHA-256, 4 KiB blocks), as `veritysetup format` would write it.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// Data and hash block size.
pub const BLOCK: usize = 4096;

/// Digests in one hash block.
const PER_BLOCK: usize = BLOCK / 32;

/// Salt of every image: the tree protects against change, not against guessing, and equal roots shall have equal hashes.
const SALT: &[u8; 32] = b"cairn root, dm-verity, version 1";

/// UUID in the superblock; the partition's own one tells slots apart.
const UUID: [u8; 16] = *b"cairn-verity-fs1";

/// A hash tree with its superblock, ready for the partition.
#[derive(Debug)]
pub struct HashTree {
    /// Superblock and tree.
    pub bytes: Vec<u8>,
    /// Root hash in hex.
    pub root_hash: String,
}

/// Hashes `data`, whose length must be a multiple of the block size.
pub fn hash_tree(mut data: impl Read) -> Result<HashTree> {
    let mut salted = Sha256::new();
    salted.update(SALT);
    let digest = |block: &[u8]| -> [u8; 32] {
        let mut hasher = salted.clone();
        hasher.update(block);
        hasher.finalize().into()
    };
    let mut leaves: Vec<[u8; 32]> = Vec::new();
    let mut block = vec![0u8; BLOCK];
    loop {
        let read = read_block(&mut data, &mut block).context("failed to read the root image")?;
        if read == 0 {
            break;
        }
        ensure!(read == BLOCK, "the root image is no multiple of {BLOCK} bytes");
        leaves.push(digest(&block));
    }
    ensure!(leaves.len() > 1, "the root image is smaller than two blocks");
    let data_blocks = leaves.len() as u64;
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut digests = leaves;
    while digests.len() > 1 {
        let mut level = Vec::new();
        for group in digests.chunks(PER_BLOCK) {
            level.extend(group.iter().flatten());
            level.resize(level.len().next_multiple_of(BLOCK), 0);
        }
        digests = level.chunks(BLOCK).map(digest).collect();
        levels.push(level);
    }
    let mut bytes = superblock(data_blocks);
    bytes.extend(levels.into_iter().rev().flatten());
    Ok(HashTree { bytes, root_hash: hex::encode(digests[0]) })
}

/// Fills `block` as far as there is data.
fn read_block(data: &mut impl Read, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match data.read(&mut block[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// The superblock, padded to a block.
fn superblock(data_blocks: u64) -> Vec<u8> {
    let mut bytes = b"verity\0\0".to_vec();
    bytes.extend(1u32.to_le_bytes()); // version
    bytes.extend(1u32.to_le_bytes()); // hash type: normal
    bytes.extend(UUID);
    bytes.extend(b"sha256");
    bytes.resize(64, 0);
    bytes.extend((BLOCK as u32).to_le_bytes());
    bytes.extend((BLOCK as u32).to_le_bytes());
    bytes.extend(data_blocks.to_le_bytes());
    bytes.extend((SALT.len() as u16).to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(SALT);
    bytes.resize(BLOCK, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salted(block: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(SALT).chain_update(block).finalize().into()
    }

    #[test]
    fn one_level_is_the_hash_of_all_leaves() {
        let data = [[1u8; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
        let tree = hash_tree(data.as_slice()).unwrap();
        let mut level: Vec<u8> = data.chunks(BLOCK).flat_map(salted).collect();
        level.resize(BLOCK, 0);
        assert_eq!(tree.root_hash, hex::encode(salted(&level)));
        assert_eq!(tree.bytes[BLOCK..], level);
        assert_eq!(&tree.bytes[..8], b"verity\0\0");
        assert_eq!(tree.bytes[72..80], 3u64.to_le_bytes());
    }

    #[test]
    fn the_highest_level_comes_first() {
        let data = vec![7u8; BLOCK * (PER_BLOCK + 1)];
        let tree = hash_tree(data.as_slice()).unwrap();
        assert_eq!(tree.bytes.len(), BLOCK * 4);
        assert_eq!(tree.root_hash, hex::encode(salted(&tree.bytes[BLOCK..2 * BLOCK])));
        assert_eq!(tree.bytes[BLOCK..BLOCK + 32], salted(&tree.bytes[2 * BLOCK..3 * BLOCK]));
    }

    #[test]
    fn a_changed_bit_changes_the_root_hash_and_odd_sizes_are_refused() {
        let mut data = vec![0u8; BLOCK * 200];
        let before = hash_tree(data.as_slice()).unwrap().root_hash;
        data[123_456] ^= 1;
        assert_ne!(hash_tree(data.as_slice()).unwrap().root_hash, before);
        assert!(hash_tree(&data[..BLOCK * 2 + 1]).is_err());
        assert!(hash_tree(&data[..0]).is_err());
    }
}
