//! dm-verity's hash tree (format 1, SHA-256, 4 KiB blocks), as `veritysetup format` would write it: made by the image
//! builder, and by a node while it writes a slot.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use sha2::{Digest, Sha256};

#[cfg(test)]
mod tests;

/// Data and hash block size.
pub const BLOCK: usize = 4096;

/// Digests in one hash block.
const PER_BLOCK: usize = BLOCK / DIGEST;

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Largest salt that the superblock has room for.
pub const MAX_SALT: usize = 256;

/// Salt of every image: the tree protects against change, not against guessing, and equal roots shall have equal hashes.
pub const SALT: &[u8; 32] = b"cairn root, dm-verity, version 1";

/// UUID in the superblock; the partition's own one tells slots apart.
pub const UUID: [u8; 16] = *b"cairn-verity-fs1";

/// How every superblock begins.
const MAGIC: &[u8; 8] = b"verity\0\0";

/// Why there is no hash tree.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// The data could not be read.
    #[error("failed to read the data of the hash tree")]
    Read(#[source] io::Error),
    /// The data has an odd length.
    #[error("{length} bytes are no multiple of 4096, which the root file system must be")]
    Length {
        /// How many there are.
        length: u64,
    },
    /// One block needs no tree, and no root file system is that small.
    #[error("the root file system has under two blocks of 4096 bytes")]
    Small,
    /// The salt is too long.
    #[error("a salt of {length} bytes does not fit the superblock; at most 256 do")]
    Salt {
        /// How long it is.
        length: usize,
    },
}

/// A hash tree with its superblock, ready for the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// Superblock and tree, the highest level first.
    pub bytes: Vec<u8>,
    /// Root hash in hex.
    pub root_hash: String,
}

/// Hashes `data` with the salt and UUID of every image; its length must be a multiple of the block size.
///
/// # Errors
/// If it cannot be read, has an odd length, or is smaller than two blocks.
pub fn hash_tree(mut data: impl Read) -> Result<HashTree, VerityError> {
    let mut tree = TreeBuilder::new(SALT, UUID);
    let mut buffer = vec![0; 64 * BLOCK];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return tree.finish(),
            Ok(count) => tree.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(VerityError::Read(error)),
        }
    }
}

/// Makes a hash tree of data that comes in pieces. Holds 1/128 of the data, twice that at the end.
#[derive(Debug)]
pub struct TreeBuilder {
    salt: Vec<u8>,
    uuid: [u8; 16],
    salted: Sha256,
    /// The beginning of a block whose rest has not come yet.
    partial: Vec<u8>,
    leaves: Vec<u8>,
}

impl TreeBuilder {
    /// Of no data yet.
    pub fn new(salt: &[u8], uuid: [u8; 16]) -> Self {
        let salted = Sha256::new().chain_update(salt);
        Self { salt: salt.to_vec(), uuid, salted, partial: Vec::new(), leaves: Vec::new() }
    }

    /// Adds what follows; pieces may have any length.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend(head);
            bytes = rest;
            if self.partial.len() == BLOCK {
                let digest = salted_digest(&self.salted, &self.partial);
                self.leaves.extend(digest);
                self.partial.clear();
            }
        }
        let blocks = bytes.chunks_exact(BLOCK);
        self.partial.extend(blocks.remainder());
        for block in blocks {
            self.leaves.extend(salted_digest(&self.salted, block));
        }
    }

    /// Adds what `other`, made with the same salt, was given. What this one was given must have ended with a block.
    pub(crate) fn append(&mut self, other: Self) {
        debug_assert!(self.partial.is_empty(), "leaves are of whole blocks");
        self.leaves.extend(other.leaves);
        self.partial = other.partial;
    }

    /// The tree over all that was pushed.
    ///
    /// # Errors
    /// If that is no multiple of the block size or smaller than two blocks, or if the salt is too long.
    pub fn finish(self) -> Result<HashTree, VerityError> {
        let blocks = (self.leaves.len() / DIGEST) as u64;
        if !self.partial.is_empty() {
            return Err(VerityError::Length { length: blocks * BLOCK as u64 + self.partial.len() as u64 });
        }
        if blocks < 2 {
            return Err(VerityError::Small);
        }
        if self.salt.len() > MAX_SALT {
            return Err(VerityError::Salt { length: self.salt.len() });
        }
        let mut levels: Vec<Vec<u8>> = Vec::new();
        let mut digests = self.leaves;
        while digests.len() > DIGEST {
            let mut level = digests;
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            digests = level.chunks(BLOCK).flat_map(|block| salted_digest(&self.salted, block)).collect();
            levels.push(level);
        }
        let mut bytes = Superblock { data_blocks: blocks, salt: self.salt, uuid: self.uuid }.to_block();
        bytes.extend(levels.into_iter().rev().flatten());
        Ok(HashTree { bytes, root_hash: hex::encode(digests) })
    }
}

fn salted_digest(salted: &Sha256, block: &[u8]) -> [u8; 32] {
    salted.clone().chain_update(block).finalize().into()
}

/// The first block of a hash tree's partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// How many blocks of 4 KiB the tree is over.
    pub data_blocks: u64,
    /// What every hash begins with.
    pub salt: Vec<u8>,
    /// Its UUID.
    pub uuid: [u8; 16],
}

impl Superblock {
    /// Reads a superblock; `None` for whatever we would not have written.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let data_blocks = u64::from_le_bytes(block.get(72..80)?.try_into().ok()?);
        let salt_length = u16::from_le_bytes(block.get(80..82)?.try_into().ok()?);
        let salt = block.get(88..88 + usize::from(salt_length))?;
        let uuid = block.get(16..32)?.try_into().ok()?;
        let parsed = Self { data_blocks, salt: salt.to_vec(), uuid };
        let sound = salt.len() <= MAX_SALT && (2..1 << 32).contains(&data_blocks);
        (sound && block.get(..BLOCK)? == parsed.to_block()).then_some(parsed)
    }

    /// As it stands on the partition: one block. Of the salt no more than [`MAX_SALT`] bytes are taken.
    pub fn to_block(&self) -> Vec<u8> {
        let salt = &self.salt[..self.salt.len().min(MAX_SALT)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1u32.to_le_bytes()); // version
        bytes.extend(1u32.to_le_bytes()); // hash type: normal
        bytes.extend(self.uuid);
        bytes.extend(b"sha256");
        bytes.resize(64, 0);
        bytes.extend((BLOCK as u32).to_le_bytes());
        bytes.extend((BLOCK as u32).to_le_bytes());
        bytes.extend(self.data_blocks.to_le_bytes());
        bytes.extend((salt.len() as u16).to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(salt);
        bytes.resize(BLOCK, 0);
        bytes
    }

    /// Bytes that the tree is over.
    pub fn data_size(&self) -> u64 {
        self.data_blocks.saturating_mul(BLOCK as u64)
    }

    /// Bytes that superblock and tree take together.
    pub fn tree_size(&self) -> u64 {
        tree_size(self.data_size())
    }
}

/// Bytes that superblock and tree over `data` bytes take together.
pub fn tree_size(data: u64) -> u64 {
    let mut blocks = data.div_ceil(BLOCK as u64);
    let mut total: u64 = 1;
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK as u64);
        total = total.saturating_add(blocks);
    }
    total.saturating_mul(BLOCK as u64)
}

/// Which tree a partition holds: its superblock, and the root hash that its top block has. Whether the rest of the tree
/// and the data fit is not looked at. `None` if there is no superblock of ours.
///
/// # Errors
/// If the partition cannot be read.
pub fn identify(tree: &File) -> io::Result<Option<(Superblock, String)>> {
    let mut blocks = vec![0; 2 * BLOCK];
    match tree.read_exact_at(&mut blocks, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let Some(superblock) = Superblock::parse(&blocks[..BLOCK]) else { return Ok(None) };
    let salted = Sha256::new().chain_update(&superblock.salt);
    let root_hash = hex::encode(salted_digest(&salted, &blocks[BLOCK..]));
    Ok(Some((superblock, root_hash)))
}
