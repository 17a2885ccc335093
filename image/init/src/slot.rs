//! Slots: finds the one whose hash tree is the one that the kernel command line names. UUIDs and labels are those that
//! were flashed, whatever has been written to the slot since; only its content tells.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::time::{Duration, Instant};

use crate::block::{self, Disk};
use crate::verity::{self, RootHash, Superblock};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A root and its hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Name of the disk.
    pub(crate) disk: Disk,
    /// Device file of the root.
    pub(crate) root: String,
    /// Device file of its hash tree.
    pub(crate) tree: String,
    /// What the tree says of itself.
    pub(crate) superblock: Superblock,
}

/// Looks until one disk shows the slot, or until patience is at its end.
pub(crate) fn find(root_hash: &RootHash, patience: Duration) -> Option<Slot> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(slot) = block::disks().into_iter().find_map(|disk| on_disk(disk, root_hash)) {
            return Some(slot);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The slot on one disk.
pub(crate) fn on_disk(disk: Disk, root_hash: &RootHash) -> Option<Slot> {
    let layout = disk.layout()?;
    layout.slots.iter().find_map(|(root, tree)| {
        let (root, tree) = (disk.partition(*root)?, disk.partition(*tree)?);
        let superblock = tree_of(&File::open(&root).ok()?, &File::open(&tree).ok()?, root_hash)?;
        Some(Slot { disk: disk.clone(), root, tree, superblock })
    })
}

/// The tree's superblock, if both are of this root hash and the kernel can take them. One that speaks of more than there
/// is would fail at every start alike: it is as good as no tree, so that the other system gets its turn.
fn tree_of(root: &File, tree: &File, root_hash: &RootHash) -> Option<Superblock> {
    let superblock = verity::tree_of(tree, root_hash)?;
    let (root, tree) = (size(root).ok()?, size(tree).ok()?);
    superblock.fits(root, tree).then_some(superblock)
}

/// Of a partition or a file.
fn size(mut device: &File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::verity::BLOCK;
    use crate::verity::tests::sample;

    #[test]
    fn a_superblock_that_speaks_of_more_than_there_is_is_no_match() {
        let digest = Sha256::new().chain_update([0xab, 0x01]).chain_update([7; BLOCK]).finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = RootHash::parse(&hex).unwrap();
        let (root, tree) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let found = |root_blocks: u64, tree_blocks: u64, claimed: u8| {
            let mut superblock = sample();
            superblock[72] = claimed;
            root.set_len(root_blocks * BLOCK as u64).unwrap();
            tree.set_len(tree_blocks * BLOCK as u64).unwrap();
            tree.write_all_at(&superblock, 0).unwrap();
            tree.write_all_at(&[7; BLOCK], BLOCK as u64).unwrap();
            tree_of(&root, &tree, &hash).map(|superblock| superblock.data_blocks)
        };
        assert_eq!(found(9, 3, 9), Some(9));
        assert_eq!(found(20, 8, 9), Some(9), "partitions are larger than what is in them");
        assert_eq!(found(20, 8, 21), None, "no hash covers the number of blocks");
        assert_eq!(found(8, 8, 9), None, "a root that was cut off");
        assert_eq!(found(200, 4, 200), None, "the boot record lies on the tree");
    }
}
