//! Reads the whole root through device-mapper, to prove that it is sound or to name the first block that is not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::mapper::{self, Reaction};
use crate::slot::Slot;
use crate::verity::{self, BLOCK, RootHash};
use crate::{Outcome, log};

/// Blocks in one read: large enough that a disk reads at its own speed.
const BLOCKS_PER_READ: u64 = 256;

/// Name of the device while it is checked.
const MAPPED: &str = "cairn-check";

/// First block of the slot that does not fit the root hash, if any.
pub(crate) fn first_bad_block(slot: &Slot, root_hash: &RootHash) -> Outcome<Option<u64>> {
    let blocks = slot.superblock.data_blocks;
    let mebibytes = (blocks * BLOCK as u64) >> 20;
    log(&format!(
        "the last start from {} did not become a complete boot; reading all {mebibytes} MiB of it",
        slot.root
    ));
    let began = Instant::now();
    let device = mapper::open_verified(MAPPED, slot, root_hash, Reaction::Report)?;
    let found = File::open(&device)
        .map(|file| first_unreadable(blocks, |bytes, at| file.read_exact_at(bytes, at)))
        .map_err(|error| format!("failed to open {device}: {error}"));
    mapper::close(MAPPED)?;
    let found = found?;
    let verdict = match found {
        None => "every block is sound".to_owned(),
        Some(block) => format!("block {block} is damaged"),
    };
    log(&format!("{}: {verdict} ({:.1} s)", slot.root, began.elapsed().as_secs_f32()));
    Ok(found)
}

/// Reads all blocks in order. A block is bad if it cannot be read when asked for alone, too: a cable that was loose for a
/// moment condemns nothing.
fn first_unreadable(blocks: u64, mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> Option<u64> {
    const BYTES: u64 = BLOCK as u64;
    let mut buffer = vec![0; BLOCK * BLOCKS_PER_READ as usize];
    let mut next = 0;
    while next < blocks {
        let count = BLOCKS_PER_READ.min(blocks - next);
        if read(&mut buffer[..BLOCK * count as usize], next * BYTES).is_err() {
            let mut alone = next..next + count;
            if let Some(bad) = alone.find(|block| read(&mut buffer[..BLOCK], block * BYTES).is_err()) {
                return Some(bad);
            }
        }
        // No hash covers the number of blocks in the tree's superblock: a smaller one cuts the root off.
        if next == 0 && verity::erofs_blocks(&buffer[..BLOCK]).is_some_and(|all| all > blocks) {
            return Some(blocks);
        }
        next += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root of `blocks` blocks; `bad` says whether reading a block fails, given how often it was asked for.
    fn check(blocks: u64, bad: impl Fn(u64, u32) -> bool, first: &[u8]) -> (Option<u64>, u64) {
        let mut asked = vec![0u32; blocks as usize];
        let mut highest = 0;
        let result = first_unreadable(blocks, |bytes, at| {
            let range = at / BLOCK as u64..(at + bytes.len() as u64) / BLOCK as u64;
            assert!(at % BLOCK as u64 == 0 && range.end <= blocks && !range.is_empty(), "{range:?}");
            highest = highest.max(range.end);
            bytes.fill(0);
            if at == 0 {
                bytes[..first.len()].copy_from_slice(first);
            }
            let mut failed = false;
            for block in range {
                asked[block as usize] += 1;
                failed |= bad(block, asked[block as usize]);
            }
            if failed { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        (result, highest)
    }

    #[test]
    fn a_sound_root_is_read_to_its_last_block() {
        for blocks in [2, 255, 256, 257, 1000] {
            assert_eq!(check(blocks, |_, _| false, &[]), (None, blocks));
        }
    }

    #[test]
    fn the_first_bad_block_is_named() {
        for bad in [0, 1, 255, 256, 511, 999] {
            assert_eq!(check(1000, |block, _| block >= bad, &[]).0, Some(bad));
        }
    }

    #[test]
    fn an_error_that_goes_away_condemns_nothing() {
        assert_eq!(check(1000, |block, times| block == 300 && times == 1, &[]), (None, 1000));
    }

    #[test]
    fn a_root_that_the_tree_cuts_off_is_bad() {
        let mut first = vec![0u8; 1100];
        first[1024..1028].copy_from_slice(&0xe0f5_e1e2u32.to_le_bytes());
        first[1036] = 12;
        (first[1060], first[1061]) = (0xe8, 3);
        assert_eq!(check(1000, |_, _| false, &first), (None, 1000));
        first[1060] = 0xe9;
        assert_eq!(check(1000, |_, _| false, &first).0, Some(1000));
    }
}
